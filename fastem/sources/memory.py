"""Rows held in memory: a C-contiguous array, or a CSR matrix of which one grid cell at a time is made dense."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastem import grid, threads
from fastem.draws import Draws
from fastem.sources import passes


class Rows(NamedTuple):
    """A few rows taken out of a source."""

    indices: np.ndarray  # (m,) int64
    X: np.ndarray  # (m, d)
    weights: np.ndarray  # (m,) float64


class MemorySource:
    """Rows of a C-contiguous float32 or float64 array; validated, never written to.

    Parameters
    ----------
    X : ndarray (n, d)
        The rows.
    sample_weight : ndarray (n,) of X's dtype, or empty
        Weights; empty means one each.
    labels : ndarray (n,) int32, or empty
        Known components, -1 for unknown; empty means all unknown.
    n_threads : int
        Threads of one pass.
    """

    def __init__(
        self, X: Any, sample_weight: np.ndarray | None = None, labels: np.ndarray | None = None, n_threads: int = 1
    ):
        self.X = X
        self.sample_weight = np.empty(0, X.dtype) if sample_weight is None else sample_weight
        self.labels = np.empty(0, np.int32) if labels is None else labels
        self.n_threads = n_threads

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return self.X.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return self.X.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the rows, float32 or float64."""
        return self.X.dtype

    @property
    def array(self) -> np.ndarray | None:
        """All rows as one array (n, d), or None where they are made cell by cell."""
        return self.X

    @property
    def total_weight(self) -> float:
        """Sum of the weights."""
        return float(self.sample_weight.sum(dtype=np.float64)) if self.sample_weight.size else float(self.n_rows)

    @cached_property
    def has_nan(self) -> bool:
        """Whether a value is missing (NaN); one pass over the rows, the first time."""
        found = []

        def part(X: np.ndarray) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                suspicious = np.isnan(X.sum())  # without a mask first; an overflowing sum is no proof
            if suspicious and np.isnan(X).any():
                found.append(True)

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            n_parts = 1 if X.size < threads.PARALLEL_SEARCH else 2 * n_threads
            parts = np.array_split(X, n_parts)
            threads.map_tasks(lambda number: part(parts[number]), n_parts, n_threads)

        self.each_block(block)
        return bool(found)

    def served_by(self, family: Any) -> Any:
        """Return the family that serves these rows: its like for rows with missing values, if a value is missing."""
        return family.for_missing() if family.allow_nan and self.has_nan else family

    def _but(self, labels: np.ndarray, n_threads: int) -> MemorySource:
        other = type(self)(self.X, self.sample_weight, labels, n_threads)
        if "has_nan" in self.__dict__:
            other.has_nan = self.has_nan
        return other

    def with_threads(self, n_threads: int) -> MemorySource:
        """Return the same rows, read by another number of threads."""
        return self._but(self.labels, n_threads)

    def with_labels(self, labels: np.ndarray) -> MemorySource:
        """Return the same rows with other known labels (n,) int32, -1 for unknown."""
        return self._but(labels, self.n_threads)

    def accumulate(self, family: Any, prepared: Any, memo: Any = None) -> Any:
        """Return the family's statistics over all rows: the E-step of one iteration."""
        return family.layout(self.n_features).view(self._total(family, prepared, memo))

    def _total(self, family: Any, prepared: Any, memo: Any) -> np.ndarray:
        return passes.total(family, self.X, self.sample_weight, self.labels, prepared, self.n_threads, memo)

    def each_block(self, function: Callable[[np.ndarray, slice, int], None]) -> None:
        """Call ``function(X_block, rows, n_threads)`` so that the blocks cover all rows; blocks begin on the grid."""
        function(self.X, slice(0, self.n_rows), self.n_threads)

    def fold(self, function: Callable[[np.ndarray, slice], np.ndarray], size: int) -> np.ndarray:
        """Add up ``function(X_cell, rows)`` (size,) over the grid cells, by the fixed tree.

        For the passes around a fit (starts, given responsibilities), whose kernels are NumPy's.
        """
        level, n_tasks = grid.plan(self.n_rows, size)
        records = np.empty((n_tasks, size))

        def task(number: int) -> None:
            cells = range(number << level, min((number + 1) << level, grid.n_cells(self.n_rows)))
            parts = np.array([function(self._cell(cell), self._rows_of(cell)) for cell in cells])
            records[number] = grid.merge_tree(parts)

        threads.map_tasks(task, n_tasks, self.n_threads)
        return grid.merge_tree(records)

    def _rows_of(self, cell: int) -> slice:
        return slice(cell * grid.CELL, min((cell + 1) * grid.CELL, self.n_rows))

    def _cell(self, cell: int) -> np.ndarray:
        return self.X[self._rows_of(cell)]

    def weights_of(self, rows: slice) -> np.ndarray:
        """Weights of a run of rows, or empty."""
        return self.sample_weight[rows]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, dense (m, d)."""
        return self.X[indices]

    def sample_rows(self, m: int, draws: Draws) -> np.ndarray:
        """Return m distinct rows (m, d), drawn in proportion to their weights."""
        if self.sample_weight.size:
            return self.take(draws.weighted_distinct(self.sample_weight.astype(np.float64), m))
        return self.take(draws.distinct(self.n_rows, m))

    def extreme_rows(self, family: Any, prepared: Any, m: int) -> Rows:
        """Return the m rows that the family explains worst, worst first; missing values (NaN) count neither way."""
        badness = np.empty(self.n_rows)

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            badness[rows] = family.badness(X, self.weights_of(rows), prepared, n_threads)

        self.each_block(block)
        if family.allow_nan and self.has_nan:
            badness = self._beside_the_observed(badness)
        worst = np.argsort(-badness, kind="stable")[:m] if m > 1 else np.array([np.argmax(badness)])
        weights = self.sample_weight[worst].astype(np.float64) if self.sample_weight.size else np.ones(len(worst))
        return Rows(worst, self.take(worst), weights)

    def _beside_the_observed(self, badness: np.ndarray) -> np.ndarray:
        """Return by how much badness (n,) exceeds what is usual for the features observed in each row, standardised.

        A log-density is the lower the more features it is of.  What is usual is a sum over a row's observed features,
        fitted to all rows by least squares; the scatter about it grows with the square root of their number.
        """
        d = self.n_features

        def normal_equations(X: np.ndarray, rows: slice) -> np.ndarray:
            finite = np.isfinite(badness[rows])
            seen, w = (~np.isnan(X[finite])).astype(np.float64), self.weights_of(rows)
            weighted = seen * w[finite, None] if w.size else seen
            return np.concatenate([(weighted.T @ seen).ravel(), badness[rows][finite] @ weighted])

        total = self.fold(normal_equations, d * d + d)
        usual = np.linalg.lstsq(total[: d * d].reshape(d, d), total[d * d :], rcond=None)[0]
        standardised = np.full(self.n_rows, -np.inf)  # a row without any value stays there

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            seen = ~np.isnan(X)
            m = seen.sum(axis=1)
            some = m > 0
            standardised[rows][some] = (badness[rows][some] - seen[some] @ usual) / np.sqrt(m[some])

        self.each_block(block)
        return standardised


class SparseSource(MemorySource):
    """Rows of a CSR matrix; at most one grid cell per thread is dense at any time."""

    @property
    def array(self) -> None:
        """None: the rows are made cell by cell."""
        return None

    def _cell(self, cell: int) -> np.ndarray:
        return self.X[self._rows_of(cell)].toarray()

    def _total(self, family: Any, prepared: Any, memo: Any) -> np.ndarray:
        size = family.layout(self.n_features).size

        def cell(X: np.ndarray, rows: slice) -> np.ndarray:
            here = None if memo is None else memo.rows(rows)
            return passes.total(family, X, self.sample_weight[rows], self.labels[rows], prepared, 1, here)

        return self.fold(cell, size)

    def each_block(self, function: Callable[[np.ndarray, slice, int], None]) -> None:
        """Call ``function(X_cell, rows, 1)`` for every grid cell, made dense."""
        threads.map_tasks(
            lambda cell: function(self._cell(cell), self._rows_of(cell), 1), grid.n_cells(self.n_rows), self.n_threads
        )

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, dense (m, d)."""
        return self.X[indices].toarray()
