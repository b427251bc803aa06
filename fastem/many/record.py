"""The record of a batch: the fits of groups whose rows lie one after another, as stacked arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem.many.stacked import Stacked, joined, stack
from fastem.persist import TRACES

# Fitted attributes that a `BatchFit` has columns for, or that belong to rows.
COLUMNS = frozenset({"labels_", "inertia_", "lower_bound_", "n_iter_", "converged_", "n_features_in_"})


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


ARRAYS = slice(1, 6)  # the fields of a `BatchFit` that are plain arrays, labels first
TEXTS = slice(6, 8)


def parameters_of(model: Any) -> dict[str, Any]:
    """Return the fitted attributes that make a model, by name: those that a file keeps, but for traces and columns."""
    names = {*model._saved, *model._saved_if_set} - TRACES - COLUMNS
    return {name: getattr(model, name) for name in sorted(names) if hasattr(model, name)}


def _nothing(n_groups: int) -> Stacked:
    return Stacked(np.empty(0), np.full(n_groups, -1, np.int64), np.zeros((n_groups, 0), np.int64))


def blank(n_groups: int, n_rows: int) -> BatchFit:
    """Return the record of groups without models."""
    none = np.zeros(n_groups, np.int32)
    nan = np.full(n_groups, np.nan)
    return BatchFit({}, np.full(n_rows, -1, np.int32), nan, none, none > 0, none.astype(np.int8), {}, {})


def replaced(whole: BatchFit, groups: np.ndarray, part: BatchFit, offsets: np.ndarray) -> BatchFit:
    """Return a record in which some groups are those of another record, of these groups alone and in this order.

    The arrays of `whole` are written to.  # INOUT
    """
    own = np.arange(len(whole.n_iter))
    own[groups] = len(own) + np.arange(len(groups))
    for name in {*whole.parameters, *part.parameters}:
        pair = [fit.parameters.get(name) or _nothing(len(fit.n_iter)) for fit in (whole, part)]
        both = joined(pair)
        whole.parameters[name] = Stacked(both.values, both.starts[own], both.shapes[own])
    old: list[Any] = list(whole)
    new: list[Any] = list(part)
    for column, values in zip(old[ARRAYS][1:], new[ARRAYS][1:], strict=True):
        column[groups] = values
    labels = whole.labels if part.labels.size else part.labels
    if labels.size:
        labels[rows_of(offsets, groups)] = part.labels
    for ours, theirs in zip(old[TEXTS], new[TEXTS], strict=True):
        for at, group in enumerate(groups.tolist()):
            ours.pop(group, None)
            if at in theirs:
                ours[group] = theirs[at]
    return whole._replace(labels=labels)


def concatenated(parts: list[BatchFit]) -> BatchFit:
    """Return the fits of several batches as one record, in their order."""
    if len(parts) == 1:
        return parts[0]
    firsts = np.cumsum([0, *(len(part.n_iter) for part in parts)]).tolist()
    names = sorted({name for part in parts for name in part.parameters})
    parameters = {
        name: joined([part.parameters.get(name) or _nothing(len(part.n_iter)) for part in parts]) for name in names
    }
    arrays: list[Any] = [np.concatenate(columns) for columns in zip(*(part[ARRAYS] for part in parts), strict=True)]
    shifted = list(zip(firsts, parts, strict=False))
    reasons = {first + group: text for first, part in shifted for group, text in part.reasons.items()}
    notes = {first + group: texts for first, part in shifted for group, texts in part.notes.items()}
    return BatchFit._make([parameters, *arrays, reasons, notes])


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


def rows_of(offsets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the numbers of the rows of some groups, group after group."""
    sizes = np.diff(offsets)[groups]
    firsts = np.repeat(offsets[:-1][groups] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
    return np.asarray(firsts + np.arange(int(sizes.sum())))


def taken(
    X: np.ndarray, sample_weight: np.ndarray, offsets: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, weights and offsets of some of the groups alone."""
    rows = rows_of(offsets, groups)
    sizes = np.diff(offsets)[groups]
    weights = sample_weight[rows] if sample_weight.size else sample_weight
    return X[rows], weights, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
