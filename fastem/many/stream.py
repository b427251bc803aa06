"""Groups that come one after another, complete and in the order of their keys: fitted as they come, rows not kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastem.many.batches import fit_batch
from fastem.many.grouping import Layout
from fastem.many.keys import grouped
from fastem.many.record import BatchFit, concatenated
from fastem.many.result import Facts, ManyFits


class GroupStream:
    """Fits runs of groups, and becomes a `ManyFits` without labels.

    Parameters
    ----------
    estimator : estimator
        As `fastem.many.fit.template` makes it.
    n_components : int
        Of every group.
    by : list of str
        What the parts of the keys are called.
    names : list of str
        What the features are called; empty for none.
    """

    def __init__(self, estimator: Any, n_components: int, by: list[str], names: list[str]) -> None:
        self.estimator, self.n_components, self.by, self.names = estimator, n_components, by, names
        self._keys: list[list[np.ndarray]] = []
        self._sizes: list[np.ndarray] = []
        self._parts: list[BatchFit] = []
        self._n_features = 1

    def fit(self, X: np.ndarray, keys: Sequence[np.ndarray]) -> BatchFit:
        """Fit complete groups.

        Parameters
        ----------
        X : ndarray (n, d)
            Their rows, group after group.
        keys : sequence of ndarray (n,)
            The parts of each row's key, none missing; they rise, and begin above those that came before.

        Returns
        -------
        BatchFit
            With the labels of the rows.
        """
        starts = np.flatnonzero(changes(keys))
        offsets = np.append(starts, len(X)).astype(np.int64)
        fit = fit_batch(self.estimator, X, np.empty(0), offsets, np.full(len(starts), self.n_components, np.int64))
        self._keys.append([column[starts] for column in keys])
        self._sizes.append(np.diff(offsets))
        self._parts.append(fit._replace(labels=np.empty(0, np.int32)))
        self._n_features = X.shape[1]
        return fit

    def result(self) -> ManyFits:
        """Return the models of all groups."""
        columns = [np.concatenate(parts) for parts in zip(*self._keys, strict=True)]
        sizes = np.concatenate(self._sizes)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        n_groups = len(sizes)
        layout = Layout(grouped(columns, self.by)[0], offsets, None, "rows", [])
        facts = Facts(
            np.full(n_groups, self.n_components, np.int64),
            np.full(n_groups, self._n_features, np.int64),
            sizes.astype(np.float64),
            np.zeros(n_groups, bool),
            np.empty(0),
        )
        return ManyFits(self.estimator, layout, concatenated(self._parts), facts, self.names)


def changes(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Return whether each row's key differs from the one before (n,); the first row's does."""
    new = np.zeros(len(keys[0]), bool)
    new[:1] = True
    for column in keys:
        new[1:] |= column[1:] != column[:-1]
    return new


def rise(keys: Sequence[np.ndarray]) -> bool:
    """Tell whether keys, none of them missing, never fall from one row to the next."""
    before, equal = np.zeros(max(len(keys[0]) - 1, 0), bool), np.ones(max(len(keys[0]) - 1, 0), bool)
    for column in keys:
        if column.dtype == object or bool((column != column).any()):
            return False
        before |= equal & (column[:-1] < column[1:])
        equal &= column[:-1] == column[1:]
    return bool((before | equal).all())
