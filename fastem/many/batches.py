"""The seam: a run of groups whose rows lie one after another goes in, one record of stacked arrays comes out."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastem import threads
from fastem.many.compiled import fit_compiled
from fastem.many.loop import LARGE, fit_each, with_components
from fastem.many.record import BatchFit, blank, concatenated, replaced, taken

# A thread takes three quarters of its part of the groups at once, and what is left is shared out in quarters, so that
# none waits long for another: a share costs some 0.4 ms of Python, which others wait for.  Groups in one, at least.
LEAST_SHARE = 64


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
    with warnings.catch_warnings():  # for all threads: statuses say it
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = _compiled(estimator, X, sample_weight, offsets, int(numbers[0])) if len(numbers) else None
        if found is None:
            return fit_each(estimator, X, sample_weight, offsets, n_components)
        return _with_rest(estimator, X, sample_weight, offsets, n_components, *found)


def _compiled(
    estimator: Any, X: np.ndarray, sample_weight: np.ndarray, offsets: np.ndarray, n_components: int
) -> tuple[BatchFit, np.ndarray] | None:
    """Do the work of `fit_compiled` in threads, each with a share of the groups; large groups are left, if any."""
    n_groups, n_threads = len(offsets) - 1, threads.resolve(estimator.n_threads)
    shares = _shares(offsets, n_threads)
    model = with_components(estimator, n_components, 1)
    numbers = np.full(n_groups, n_components, np.int64)
    found: list[Any] = [None] * len(shares)

    def fit(number: int) -> None:
        first, last = shares[number]
        start, stop = int(offsets[first]), int(offsets[last])
        weights = sample_weight[start:stop] if sample_weight.size else sample_weight
        share = X[start:stop], weights, offsets[first : last + 1] - start
        compiled = fit_compiled(model, *share, n_components)
        if compiled is not None:
            record, left = compiled
            large = left & (np.diff(share[2]) * X.shape[1] >= LARGE)
            found[number] = _with_rest(model, *share, numbers[first:last], record, left & ~large), large

    threads.map_tasks(fit, len(shares), n_threads)
    if any(share is None for share in found):
        return None
    return concatenated([record for record, _ in found]), np.concatenate([left for _, left in found])


def _shares(offsets: np.ndarray, n_threads: int) -> list[tuple[int, int]]:
    """Return the first and last (exclusive) group of shares, of about equal rows for each thread, large ones first."""
    n_groups = len(offsets) - 1
    if n_threads == 1 or n_groups < 2 * LEAST_SHARE:
        return [(0, n_groups)]
    parts = np.append(np.full(n_threads, 0.75 / n_threads), np.full(n_threads, 0.25 / n_threads))
    bounds = np.searchsorted(offsets, (np.cumsum(parts)[:-1] * offsets[-1]).astype(np.int64))
    return list(itertools.pairwise(np.unique([0, *bounds.tolist(), n_groups]).tolist()))


def _with_rest(
    estimator: Any,
    X: np.ndarray,
    sample_weight: np.ndarray,
    offsets: np.ndarray,
    n_components: np.ndarray,
    record: BatchFit,
    left: np.ndarray,
) -> BatchFit:
    """Return a record in which the groups that are `left` (G,) have been fitted by the loop."""
    groups = np.flatnonzero(left)
    if not len(groups):
        return record
    rest = fit_each(estimator, *taken(X, sample_weight, offsets, groups), n_components[groups])
    return replaced(record, groups, rest, offsets)
