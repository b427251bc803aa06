"""What became of a group, and why: read off its rows and its fit, never off the text of a message."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np


class Status(IntEnum):
    """What became of a group; its `title` is what users see."""

    converged = 0
    stopped = 1  # max_iter, or a callback, came first
    too_few_rows = 2
    values_missing = 3
    constant = 4
    singular = 5
    refused = 6  # values that the model cannot take

    @property
    def title(self) -> str:
        """The status in words, as in `fastem.ManyFits.status`."""
        return self.name.replace("_", " ")


GOOD = (Status.converged, Status.stopped)
TITLES = np.array([status.title for status in Status])
Verdict = tuple[Status, str]


def of_rows(X: np.ndarray, weights: np.ndarray, n_components: int, takes_missing: bool) -> Verdict | None:
    """Tell what is wrong with the rows of a group; None: nothing.

    Parameters
    ----------
    X : ndarray (n, d)
        The rows.
    weights : ndarray (n,), or empty
        Their weights.
    n_components : int
        How many rows there must be.
    takes_missing : bool
        Whether NaN is a missing value to the model.
    """
    if not len(X):
        return Status.too_few_rows, "It has no rows."
    with np.errstate(over="ignore", invalid="ignore"):
        ordinary = bool(np.isfinite(X.sum(dtype=np.float64)))
    if not ordinary and (verdict := _not_finite(X, takes_missing)):
        return verdict
    counted = X[weights > 0] if weights.size else X
    if not len(counted):
        return Status.too_few_rows, f"None of its {len(X)} rows has a weight above 0."
    if takes_missing and not ordinary and (empty := np.isnan(counted).all(axis=0)).any():
        return Status.values_missing, f"Column {int(np.argmax(empty))} has no value."
    if len(counted) < n_components:
        rows = f"{len(counted)} row{'s' * (len(counted) > 1)}{' of weight above 0' * (len(counted) < len(X))}"
        return Status.too_few_rows, f"It has {rows} for {n_components} components."
    if (counted == counted[0]).all():
        return Status.constant, f"All of its {len(counted)} rows are equal."
    return None


def _not_finite(X: np.ndarray, takes_missing: bool) -> Verdict | None:
    missing = np.isnan(X)
    if missing.any() and not takes_missing:
        rows = missing.any(axis=1)
        first = int(np.argmax(missing[int(np.argmax(rows))]))
        return (
            Status.values_missing,
            f"A value is missing in {int(rows.sum())} of {len(X)} rows, first in column {first}.",
        )
    infinite = np.isinf(X)
    if infinite.any():
        return Status.refused, f"Column {int(np.argmax(infinite.any(axis=0)))} holds infinity."
    return None


def of_model(model: Any, n_rows: float, labels: np.ndarray | None) -> Verdict | None:
    """Tell what is wrong with a fitted model; None: it converged and every component has rows and variance."""
    if hasattr(model, "n_clusters"):
        distinct = np.count_nonzero(np.bincount(labels)) if labels is not None else 0
        if distinct < model.n_clusters:
            return Status.too_few_rows, f"It has {distinct} distinct rows for {model.n_clusters} clusters."
    return of_run(model._n_collapsed(n_rows), bool(model.converged_), int(model.n_iter_))


def of_run(collapsed: int, converged: bool, n_iter: int) -> Verdict | None:
    """Tell what is wrong with a run after which so many components have no variance of their own; None: nothing."""
    if collapsed:
        has, own = ("has", "its") if collapsed == 1 else ("have", "their")
        return Status.singular, f"{collapsed} of its components {has} no variance of {own} own."
    if not converged:
        return Status.stopped, f"It stopped after {n_iter} iterations, before it had converged."
    return None
