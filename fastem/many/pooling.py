"""The model of all rows, for groups that have none of their own to be trusted."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from fastem.many import choosing
from fastem.many.grouping import Batch, Grouped
from fastem.many.record import BatchFit
from fastem.many.stacked import Stacked, stack
from fastem.many.statuses import GOOD, TITLES


def pooled(
    estimator: Any, rows: Grouped, fit: BatchFit, numbers: np.ndarray, chosen: np.ndarray
) -> tuple[BatchFit, np.ndarray, np.ndarray]:
    """Give the groups that neither converged nor were stopped the model of all rows.

    Parameters
    ----------
    estimator : estimator
        Not fitted.
    rows : Grouped
        All rows; those with values that the model cannot take are left out.
    fit : BatchFit
        The fits of all groups, labels in the order of the groups.
    numbers : ndarray (candidates, groups)
        The numbers of components that were tried.
    chosen : ndarray (groups,)
        Those that were taken.

    Returns
    -------
    fit : BatchFit
        With the new models, and the labels that they give.
    is_pooled : ndarray (groups,) of bool
        Which groups have them.
    chosen : ndarray (groups,)
        The numbers of components.
    """
    bad = np.flatnonzero(~np.isin(fit.statuses, GOOD))
    is_pooled, chosen = np.zeros(len(chosen), bool), chosen.copy()
    if not len(bad):
        return fit, is_pooled, chosen
    batch, good = _all_rows(estimator, rows)
    tried = [numbers[:, :1]] if len(numbers) > 1 else [np.array([[k]]) for k in np.unique(chosen[bad])]
    for candidates in tried:
        one, which, _ = choosing.fit(estimator, batch, candidates)
        k = candidates[which[0], 0]
        takers = bad if len(numbers) > 1 else bad[chosen[bad] == k]
        if np.isnan(one.objectives[0]):
            title = TITLES[one.statuses[0]]
            warnings.warn(
                f"There is no model of all rows with {k} components: {title}. {one.reasons[0]}",
                UserWarning,
                stacklevel=4,
            )
            continue
        fit = _given(fit, takers, one, good, rows)
        is_pooled[takers], chosen[takers] = True, k
    return fit, is_pooled, chosen


def _all_rows(estimator: Any, rows: Grouped) -> tuple[Batch, np.ndarray]:
    """Return the rows that the model can take as one group, and which these are (n,)."""
    X, w = rows.whole()
    takes_missing = estimator.__sklearn_tags__().input_tags.allow_nan
    good = ~(np.isinf(X) if takes_missing else ~np.isfinite(X)).any(axis=1)
    if not good.all():
        X, w = X[good], w[good] if w.size else w
    return Batch(0, X, w, np.array([0, len(X)])), good


def _given(fit: BatchFit, groups: np.ndarray, one: BatchFit, good: np.ndarray, rows: Grouped) -> BatchFit:
    """Return the fits with one model in the place of those of some groups."""
    empty = stack([None] * len(fit.n_iter))
    parameters = {
        name: _shared(fit.parameters.get(name, empty), groups, stacked.of(0))
        for name, stacked in one.parameters.items()
    }
    labels = fit.labels
    if labels.size:
        everywhere = np.full(len(good), -1, np.int32)
        everywhere[good] = one.labels
        labels = labels.copy()
        for group in groups:
            run = slice(rows.layout.offsets[group], rows.layout.offsets[group + 1])
            labels[run] = everywhere[rows.layout.rows_of(group)]
    columns = [column.copy() for column in fit[2:5]]
    for column, value in zip(columns, one[2:5], strict=True):
        column[groups] = value[0]
    notes = {group: texts for group, texts in fit.notes.items() if group not in set(groups.tolist())}
    notes |= dict.fromkeys(groups.tolist(), one.notes[0]) if one.notes else {}
    return fit._replace(
        parameters=parameters,
        labels=labels,
        objectives=columns[0],
        n_iter=columns[1],
        converged=columns[2],
        notes=notes,
    )


def _shared(stacked: Stacked, groups: np.ndarray, array: Any) -> Stacked:
    """Return stacked arrays in which some groups have one array in common."""
    known = (
        stacked.shapes if stacked.shapes.shape[1] == array.ndim else np.zeros((len(stacked.starts), array.ndim), int)
    )
    starts, shapes = stacked.starts.copy(), known.copy()
    starts[groups], shapes[groups] = len(stacked.values), array.shape
    values = np.concatenate([stacked.values, array.ravel()]) if stacked.values.size else array.ravel()
    return Stacked(values, starts, shapes)
