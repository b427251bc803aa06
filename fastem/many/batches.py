"""The seam: a run of groups whose rows lie one after another goes in, one record of stacked arrays comes out.

Whatever fits many groups at a time stands in front of the loop here, and owes what `fit_batch` says.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastem import threads
from fastem.many import statuses
from fastem.many.stacked import Stacked, joined, stack
from fastem.many.statuses import Status
from fastem.persist import TRACES

# Fitted attributes that a `BatchFit` has columns for, or that belong to rows.
COLUMNS = frozenset({"labels_", "inertia_", "lower_bound_", "n_iter_", "converged_", "n_features_in_"})
# Values of a group from which on all threads work on it; smaller groups are given to one thread each.
LARGE = 1 << 20


class BatchFit(NamedTuple):
    """The fits of G groups that have n rows together."""

    parameters: dict[str, Stacked]  # fitted attribute -> that of each group, as the estimator's own fit sets it
    labels: np.ndarray  # (n,) int32, the component of each row; -1 without a model; empty if the model knows none
    objectives: np.ndarray  # (G,) float64: lower_bound_, the last of loglike_, or -inertia_; NaN without a model
    n_iter: np.ndarray  # (G,) int32
    converged: np.ndarray  # (G,) bool
    statuses: np.ndarray  # (G,) int8, of `Status`
    reasons: dict[int, str]  # a sentence for each group that is neither converged nor stopped
    notes: dict[int, list[str]]  # notes_ of the groups that have any


ARRAYS = slice(1, 6)  # the fields of a `BatchFit` that are plain arrays


class GroupFit(NamedTuple):
    """The fit of one group."""

    parameters: dict[str, Any]
    labels: np.ndarray | None
    objective: float
    n_iter: int
    converged: bool
    status: Status
    reason: str
    notes: list[str]


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
    found: list[GroupFit] = [None] * len(n_components)  # type: ignore[list-item]
    sizes = np.diff(offsets) * X.shape[1]

    def fit(group: int, n_threads: int) -> None:
        rows = slice(offsets[group], offsets[group + 1])
        weights = sample_weight[rows] if sample_weight.size else sample_weight
        found[group] = fit_group(with_components(estimator, int(n_components[group]), n_threads), X[rows], weights)

    n_threads = threads.resolve(estimator.n_threads)
    small = np.flatnonzero(sizes < LARGE)
    with warnings.catch_warnings():  # for all threads: statuses say it
        warnings.simplefilter("ignore", ConvergenceWarning)
        threads.map_tasks(lambda task: fit(int(small[task]), 1), len(small), n_threads)
        for group in np.flatnonzero(sizes >= LARGE):
            fit(int(group), n_threads)
    return gathered(found, np.diff(offsets), mixes=hasattr(estimator, "predict"))


def with_components(estimator: Any, n_components: int, n_threads: int | None) -> Any:
    """Return an unfitted estimator of so many components; None of factor analysis stays one factor a feature."""
    model = copy.copy(estimator)
    setattr(model, "n_clusters" if hasattr(model, "n_clusters") else "n_components", n_components)
    model.n_threads = n_threads
    return model


def fit_group(model: Any, X: np.ndarray, weights: np.ndarray) -> GroupFit:
    """Fit the rows of one group; whatever is wrong with them becomes a status."""
    takes_missing = bool(model.__sklearn_tags__().input_tags.allow_nan)
    mixes = hasattr(model, "predict")
    k = int(getattr(model, "n_clusters", 0) or model.n_components)
    verdict = statuses.of_rows(X, weights, k if mixes else 1, takes_missing)
    if verdict is not None and verdict[0] in (Status.values_missing, Status.refused):
        return _unfitted(*verdict)
    try:
        model.fit(X, sample_weight=weights if weights.size else None)
        labels = _labels(model, X) if mixes else None
    except np.linalg.LinAlgError as error:
        return _unfitted(*(verdict or (Status.singular, _sentence(error))))
    except (ValueError, OverflowError) as error:
        return _unfitted(*(verdict or (Status.refused, _sentence(error))))
    total = float(weights.sum()) if weights.size else float(len(X))
    status, reason = verdict or statuses.of_model(model, total, labels) or (Status.converged, "")
    return GroupFit(
        parameters_of(model), labels, objective_of(model), int(model.n_iter_), bool(model.converged_), status, reason,
        model.notes_,
    )  # fmt: skip


def _unfitted(status: Status, reason: str) -> GroupFit:
    return GroupFit({}, None, np.nan, 0, False, status, reason, [])


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _labels(model: Any, X: np.ndarray) -> np.ndarray:
    return model.labels_ if hasattr(model, "labels_") else model.predict(X)


def parameters_of(model: Any) -> dict[str, Any]:
    """Return the fitted attributes that make a model, by name: those that a file keeps, but for traces and columns."""
    names = {*model._saved, *model._saved_if_set} - TRACES - COLUMNS
    return {name: getattr(model, name) for name in sorted(names) if hasattr(model, name)}


def objective_of(model: Any) -> float:
    """Return what a fit has maximised, where it ended."""
    if hasattr(model, "inertia_"):
        return -float(model.inertia_)
    return float(model.lower_bound_ if hasattr(model, "lower_bound_") else model.loglike_[-1])


def gathered(found: list[GroupFit], sizes: np.ndarray, mixes: bool) -> BatchFit:
    """Return the fits of groups of so many rows as one record."""
    names = sorted({name for fit in found for name in fit.parameters})
    parts = [
        np.full(size, -1, np.int32) if fit.labels is None else fit.labels.astype(np.int32, copy=False)
        for fit, size in zip(found, sizes, strict=True)
    ]
    return BatchFit(
        {name: stack([fit.parameters.get(name) for fit in found]) for name in names},
        np.concatenate(parts) if mixes and parts else np.empty(0, np.int32),
        np.array([fit.objective for fit in found], np.float64),
        np.array([fit.n_iter for fit in found], np.int32),
        np.array([fit.converged for fit in found], bool),
        np.array([fit.status for fit in found], np.int8),
        {group: fit.reason for group, fit in enumerate(found) if fit.reason},
        {group: list(fit.notes) for group, fit in enumerate(found) if fit.notes},
    )


def concatenated(parts: list[BatchFit]) -> BatchFit:
    """Return the fits of several batches as one record, in their order."""
    if len(parts) == 1:
        return parts[0]
    firsts = np.cumsum([0, *(len(part.n_iter) for part in parts)]).tolist()
    names = sorted({name for part in parts for name in part.parameters})
    parameters = {
        name: joined([part.parameters.get(name, _nothing(len(part.n_iter))) for part in parts]) for name in names
    }
    arrays: list[Any] = [np.concatenate(columns) for columns in zip(*(part[ARRAYS] for part in parts), strict=True)]
    shifted = list(zip(firsts, parts, strict=False))
    reasons = {first + group: text for first, part in shifted for group, text in part.reasons.items()}
    notes = {first + group: texts for first, part in shifted for group, texts in part.notes.items()}
    return BatchFit._make([parameters, *arrays, reasons, notes])


def _nothing(n_groups: int) -> Stacked:
    return stack([None] * n_groups)


def chosen(parts: list[BatchFit], which: np.ndarray, offsets: np.ndarray) -> BatchFit:
    """Return of each group the fit of one record: that of ``parts[which[g]]``, all of the same groups."""
    rows, own = np.repeat(which, np.diff(offsets)), [parts[at] for at in which]
    names = sorted({name for part in parts for name in part.parameters})
    nothing = _nothing(len(which))

    def picked(field: int) -> np.ndarray:
        columns: list[Any] = [part[field] for part in parts]
        at = which if len(columns[0]) == len(which) else rows
        return np.array(columns)[at, np.arange(len(at))] if columns[0].size else columns[0]

    arrays: list[Any] = [picked(field) for field in range(len(BatchFit._fields))[ARRAYS]]
    parameters = {
        name: stack([part.parameters.get(name, nothing).of(group) for group, part in enumerate(own)]) for name in names
    }
    reasons = {group: part.reasons[group] for group, part in enumerate(own) if group in part.reasons}
    notes = {group: part.notes[group] for group, part in enumerate(own) if group in part.notes}
    return BatchFit._make([parameters, *arrays, reasons, notes])
