"""The seam: a run of groups whose rows lie one after another goes in, one record of stacked arrays comes out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fastem import threads
from fastem.many.compiled import fit_compiled
from fastem.many.loop import fit_each, with_components
from fastem.many.record import BatchFit, blank, concatenated, replaced, rows_of

# Shares of the groups a thread takes in turn, so that none waits long for another; and groups in one, at least.
SHARES, LEAST_SHARE = 4, 64


def fit_batch(
    estimator: Any, X: np.ndarray, sample_weight: np.ndarray, offsets: np.ndarray, n_components: np.ndarray
) -> BatchFit:
    """Fit every group of a batch.

    A group's part of the record is what ``estimator``, with that group's number of components, finds when it is fitted
    to that group alone, to the bit: parameters, labels (those of ``predict`` on its rows), objective, iterations.  It
    does not depend on the other groups, on their order, or on `n_threads`.  A group that cannot be fitted gets a status
    and a sentence, no parameters, and spoils no other; nothing is raised.

    Something that fits many groups at once may do those that it can, and leave to the loop all others: models and
    options that it does not know, and every group that is in any way odd - a value that is not finite, fewer rows of
    positive weight than components, rows that are all equal, fewer distinct labels than clusters, a component that may
    have collapsed, a note.  It then need not know any status but ``converged`` and ``stopped``, nor any sentence.

    Parameters
    ----------
    estimator : estimator
        Not fitted, its parameters checked; `random_state` is an int and `n_threads` as the user gave it.  It is not
        written to.
    X : ndarray (n, d)
        Rows, C-contiguous float32 or float64, not checked for NaN and infinity.
    sample_weight : ndarray (n,) float64, or empty
        Weights, finite and at least 0.
    offsets : ndarray (G + 1,) int64
        Group g has the rows ``offsets[g]`` to ``offsets[g + 1]``, perhaps none.
    n_components : ndarray (G,) int64
        The number of components of each group, at least 1.

    Returns
    -------
    BatchFit
        In the order of the groups; X is not kept.
    """
    numbers = np.unique(n_components)
    if len(numbers) > 1:
        whole = blank(len(n_components), len(X))
        for number in numbers:
            groups = np.flatnonzero(n_components == number)
            part = fit_batch(estimator, *taken(X, sample_weight, offsets, groups), n_components[groups])
            whole = replaced(whole, groups, part, offsets)
        return whole
    found = _compiled(estimator, X, sample_weight, offsets, int(numbers[0])) if len(numbers) else None
    if found is None:
        return fit_each(estimator, X, sample_weight, offsets, n_components)
    record, left = found[0], np.flatnonzero(found[1])
    if not len(left):
        return record
    rest = fit_each(estimator, *taken(X, sample_weight, offsets, left), n_components[left])
    return replaced(record, left, rest, offsets)


def _compiled(
    estimator: Any, X: np.ndarray, sample_weight: np.ndarray, offsets: np.ndarray, n_components: int
) -> tuple[BatchFit, np.ndarray] | None:
    """Do the work of `fit_compiled` in threads, each with a share of the groups."""
    n_groups, n_threads = len(offsets) - 1, threads.resolve(estimator.n_threads)
    n_shares = max(1, min(SHARES * n_threads, n_groups // LEAST_SHARE)) if n_threads > 1 else 1
    bounds = np.searchsorted(offsets, np.linspace(0, len(X), n_shares + 1).astype(np.int64)[1:-1])
    bounds = np.unique([0, *bounds.tolist(), n_groups])
    shares = list(itertools.pairwise(bounds.tolist()))
    model = with_components(estimator, n_components, 1)
    found: list[Any] = [None] * len(shares)

    def fit(number: int) -> None:
        first, last = shares[number]
        rows = slice(int(offsets[first]), int(offsets[last]))
        weights = sample_weight[rows] if sample_weight.size else sample_weight
        found[number] = fit_compiled(model, X[rows], weights, offsets[first : last + 1] - offsets[first], n_components)

    threads.map_tasks(fit, len(shares), n_threads)
    if any(share is None for share in found):
        return None
    return concatenated([record for record, _ in found]), np.concatenate([left for _, left in found])


def taken(
    X: np.ndarray, sample_weight: np.ndarray, offsets: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, weights and offsets of some of the groups alone."""
    rows = rows_of(offsets, groups)
    sizes = np.diff(offsets)[groups]
    weights = sample_weight[rows] if sample_weight.size else sample_weight
    return X[rows], weights, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
