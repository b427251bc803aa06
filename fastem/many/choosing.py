"""How many components a group has: as given, or the candidate with the lowest BIC."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from fastem.many.batches import fit_batch
from fastem.many.grouping import Batch
from fastem.many.loop import with_components
from fastem.many.record import BatchFit, chosen
from fastem.many.statuses import Status


def fit(estimator: Any, batch: Batch, numbers: np.ndarray) -> tuple[BatchFit, np.ndarray, np.ndarray]:
    """Fit the groups of a batch.

    Parameters
    ----------
    estimator : estimator
        Not fitted.
    batch : Batch
        The groups.
    numbers : ndarray (candidates, groups)
        The numbers of components to try; one candidate is taken as it is.

    Returns
    -------
    fit : BatchFit
        Of each group that with the lowest BIC.
    which : ndarray (groups,)
        The candidate.
    bic : ndarray (groups,), or empty if there was nothing to choose
        Its BIC.
    """
    fits = [fit_batch(estimator, batch.X, batch.sample_weight, batch.offsets, tried) for tried in numbers]
    if len(fits) == 1:
        return fits[0], np.zeros(numbers.shape[1], np.int64), np.empty(0)
    bics = np.array([_bics(estimator, batch, one, tried) for one, tried in zip(fits, numbers, strict=True)])
    statuses = np.array([one.statuses for one in fits])
    ranks = np.where(np.isnan(bics), 2, np.where(statuses <= Status.stopped, 0, 1))
    best = np.lexsort((np.nan_to_num(bics, nan=np.inf, neginf=-np.inf, posinf=np.inf), ranks), axis=0)[0]
    return chosen(fits, best, batch.offsets), best, bics[best, np.arange(len(best))]


def _bics(estimator: Any, batch: Batch, fit: BatchFit, numbers: np.ndarray) -> np.ndarray:
    """Return the BIC of each group's fit; NaN where there is no model."""
    sizes = np.diff(batch.offsets)
    w, d = batch.sample_weight, batch.X.shape[1]
    totals = (
        np.add.reduceat(np.append(w, 0.0), batch.offsets[:-1]) * (sizes > 0) if w.size else sizes.astype(np.float64)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        if hasattr(estimator, "n_clusters"):
            per_value = -fit.objectives / (totals * d)
            deviance = totals * d * (np.log(2 * np.pi * per_value) + 1) + 2 * totals * np.log(numbers)
            n_parameters = numbers * d + 1
        else:
            deviance = -2 * fit.objectives * (totals if hasattr(estimator, "predict") else 1.0)
            n_parameters = _numbers_of_parameters(estimator, fit, numbers, d)
        bics = deviance + n_parameters * np.log(totals)
    return np.where(np.isnan(fit.objectives), np.nan, bics)


def _numbers_of_parameters(estimator: Any, fit: BatchFit, numbers: np.ndarray, n_features: int) -> np.ndarray:
    """Return how many parameters the model of each group has (G,): models of arrays of the same shapes as many."""
    shapes = np.hstack([numbers[:, None], *(fit.parameters[name].shapes for name in sorted(fit.parameters))])
    shapes[np.isnan(fit.objectives)] = -1
    _, first, which = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    each = [_n_parameters(estimator, fit, g, int(numbers[g]), n_features) for g in first.tolist()]
    return np.array(each)[which]


def _n_parameters(estimator: Any, fit: BatchFit, group: int, n_components: int, n_features: int) -> float:
    if np.isnan(fit.objectives[group]):
        return np.nan
    model = with_components(copy.copy(estimator), n_components, 1)
    model.n_features_in_ = n_features
    for name, stacked in fit.parameters.items():
        setattr(model, name, stacked.of(group))
    return model._n_parameters()
