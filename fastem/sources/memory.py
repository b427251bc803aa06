"""Rows held in memory: a C-contiguous array, a CSR matrix, or rows seen through a function, made cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from fastem import grid, threads
from fastem.sources import passes
from fastem.sources.base import Source


class RowsInMemory(Source):
    """Rows of an array, or of a matrix that is made dense cell by cell; validated, never written to.

    Parameters
    ----------
    X : ndarray or CSR matrix (n, d)
        The rows, float32 or float64.
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
    def n_rows(self) -> int:  # type: ignore[override]
        """Number of rows n."""
        return self.X.shape[0]

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Number of features d."""
        return self.X.shape[1]

    @property
    def dtype(self) -> np.dtype:  # type: ignore[override]
        """Dtype of the rows, float32 or float64."""
        return self.X.dtype

    def having(self, sample_weight: np.ndarray, labels: np.ndarray, n_threads: int) -> Self:
        return type(self)(self.X, sample_weight, labels, n_threads)

    def subset(self, rows: np.ndarray, weights: np.ndarray) -> Self:
        return type(self)(self.X[rows], weights, n_threads=self.n_threads)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Source:
        return MappedSource(self, function)

    def image(self, function: Callable[[np.ndarray], np.ndarray]) -> Source:
        return MemorySource(function(self.X), self.sample_weight, self.labels, self.n_threads)

    def fold(self, function: Callable[[np.ndarray, slice], np.ndarray], size: int) -> np.ndarray:
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
        raise NotImplementedError


class MemorySource(RowsInMemory):
    """Rows of a C-contiguous float32 or float64 array."""

    @property
    def array(self) -> np.ndarray | None:
        return self.X

    def _total(self, family: Any, prepared: Any, memo: Any) -> np.ndarray:
        return passes.total(family, self.X, self.sample_weight, self.labels, prepared, self.n_threads, memo)

    def _record_of(self, family: Any, prepared: Any, labels: np.ndarray) -> np.ndarray:
        return np.asarray(family.record_of(self.X, self.sample_weight, prepared, labels, self.n_threads))

    def each_block(self, function: Callable[[np.ndarray, slice, int], None]) -> None:
        function(self.X, slice(0, self.n_rows), self.n_threads)

    def in_order(self, n_rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        for first in range(0, self.n_rows, n_rows):
            rows = slice(first, min(first + n_rows, self.n_rows))
            yield rows, self.X[rows]

    def _cell(self, cell: int) -> np.ndarray:
        return self.X[self._rows_of(cell)]

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self.X[indices]


class SparseSource(RowsInMemory):
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

    def in_order(self, n_rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, X_block) of runs of so many rows, put together of cells."""
        for first in range(0, self.n_rows, n_rows):
            rows = slice(first, min(first + n_rows, self.n_rows))
            cells = range(first // grid.CELL, grid.n_cells(rows.stop))
            yield rows, np.concatenate([self._cell(cell) for cell in cells])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, dense (m, d)."""
        return self.X[indices].toarray()


class MappedSource(SparseSource):
    """The rows of another source in memory, mapped by a function; weights and known labels are the same.

    Parameters
    ----------
    source : RowsInMemory
        Where the rows are.
    function : callable
        Maps rows (m, d) to rows (m, e) of the same dtype.
    """

    def __init__(self, source: RowsInMemory, function: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(source.X, source.sample_weight, source.labels, source.n_threads)
        self._base = source
        self.function = function
        self._n_features = function(source.take(np.zeros(1, np.int64))).shape[1]

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Number of features e of the mapped rows."""
        return self._n_features

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return a new array with an entry for each row, where those of the mapped source lie."""
        return self._base.empty(shape, dtype)

    def having(self, sample_weight: np.ndarray, labels: np.ndarray, n_threads: int) -> MappedSource:
        """Return the same rows with other weights, known labels and threads."""
        return MappedSource(self._base.having(sample_weight, labels, n_threads), self.function)

    def _cell(self, cell: int) -> np.ndarray:
        return np.ascontiguousarray(self.function(self._base._cell(cell)), self.dtype)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the mapped rows with these numbers (m, e)."""
        return np.ascontiguousarray(self.function(self._base.take(indices)), self.dtype)
