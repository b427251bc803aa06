"""Groups one by one, each by the ordinary estimator: right for every model and for every group."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem.many import statuses
from fastem.many.record import BatchFit, parameters_of
from fastem.many.stacked import stack
from fastem.many.statuses import Status

# Values of a group from which on all threads work on it; smaller groups are given to one thread each.
LARGE = 1 << 20


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


def fit_each(
    estimator: Any, X: np.ndarray, sample_weight: np.ndarray, offsets: np.ndarray, n_components: np.ndarray
) -> BatchFit:
    """Do the work of `fit_batch` by a loop over the groups."""
    found: list[GroupFit] = [None] * len(n_components)  # type: ignore[list-item]
    sizes = np.diff(offsets) * X.shape[1]

    def fit(group: int, n_threads: int) -> None:
        rows = slice(offsets[group], offsets[group + 1])
        weights = sample_weight[rows] if sample_weight.size else sample_weight
        found[group] = fit_group(with_components(estimator, int(n_components[group]), n_threads), X[rows], weights)

    n_threads = threads.resolve(estimator.n_threads)
    small = np.flatnonzero(sizes < LARGE)
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
