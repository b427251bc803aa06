"""Rows of more than memory holds: mapped from a file, or decoded anew at every pass.

A fit to either has the bits of a fit to the same rows in memory.  What must be known of each row (labels, weights,
distances while centres are chosen) lies in temporary files whose pages the system writes out and fetches as it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import numpy as np

from fastem import grid, threads
from fastem.sources import passes
from fastem.sources.base import Source
from fastem.sources.memory import MemorySource
from fastem.sources.reading import BLOCK_ROWS, Tree, ahead
from fastem.sources.spool import Spool

Function = Callable[[np.ndarray], np.ndarray]


class FileSource(MemorySource):
    """Rows of a file that is mapped into memory; its pages are private to nobody.

    Parameters
    ----------
    X : ndarray (n, d)
        The mapped rows.
    sample_weight, labels, n_threads
        As of `MemorySource`.
    spool : Spool
        Where arrays with an entry for each row lie.
    """

    keeps_labels = False

    def __init__(
        self,
        X: np.ndarray,
        sample_weight: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        n_threads: int = 1,
        *,
        spool: Spool,
    ) -> None:
        super().__init__(X, sample_weight, labels, n_threads)
        self._spool = spool

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return self._spool.empty(shape, dtype)

    def each_block(self, function: Callable[[np.ndarray, slice, int], None]) -> None:
        """Call ``function(X_block, rows, n_threads)`` for one block after another: what it makes is in memory."""
        for first in range(0, self.n_rows, BLOCK_ROWS):
            rows = slice(first, min(first + BLOCK_ROWS, self.n_rows))
            function(self.X[rows], rows, self.n_threads)

    def having(self, sample_weight: np.ndarray, labels: np.ndarray, n_threads: int) -> FileSource:
        return FileSource(self.X, sample_weight, labels, n_threads, spool=self._spool)

    def subset(self, rows: np.ndarray, weights: np.ndarray) -> FileSource:
        X = self.empty((len(rows), self.n_features), self.dtype)
        for first in range(0, len(rows), BLOCK_ROWS):
            X[first : first + BLOCK_ROWS] = self.X[rows[first : first + BLOCK_ROWS]]
        return FileSource(X, weights, None, self.n_threads, spool=self._spool)

    def image(self, function: Function) -> FileSource:
        column = None
        for first in range(0, self.n_rows, BLOCK_ROWS):
            part = function(self.X[first : first + BLOCK_ROWS])
            column = column or self._spool.column(part.dtype, part.shape[1])
            column.append(part)
        assert column is not None
        return FileSource(column.mapped(), self.sample_weight, self.labels, self.n_threads, spool=self._spool)


class StreamSource(Source):
    """Rows that are decoded anew at every pass, block by block, ahead of the kernels; a block is a subtree of the grid.

    Parameters
    ----------
    blocks : callable
        ``blocks()`` returns a fresh iterator over all rows, in blocks of `BLOCK_ROWS`, the last one shorter.
    shape : tuple of int
        Rows and features.
    dtype : dtype
        Of the rows.
    sample_weight, labels, n_threads
        As of `MemorySource`.
    spool : Spool
        Where arrays with an entry for each row lie.
    """

    keeps_labels = False

    def __init__(
        self,
        blocks: Callable[[], Iterator[np.ndarray]],
        shape: tuple[int, int],
        dtype: np.dtype,
        sample_weight: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        n_threads: int = 1,
        *,
        spool: Spool,
    ) -> None:
        self._blocks = blocks
        self.n_rows, self.n_features = shape
        self.dtype = np.dtype(dtype)
        self.sample_weight = np.empty(0, dtype) if sample_weight is None else sample_weight
        self.labels = np.empty(0, np.int32) if labels is None else labels
        self.n_threads = n_threads
        self._spool = spool

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return self._spool.empty(shape, dtype)

    def having(self, sample_weight: np.ndarray, labels: np.ndarray, n_threads: int) -> StreamSource:
        return self._like(self._blocks, self.shape, self.dtype, sample_weight, labels, n_threads)

    def _like(self, blocks, shape, dtype, sample_weight, labels, n_threads: int) -> StreamSource:
        return StreamSource(blocks, shape, dtype, sample_weight, labels, n_threads, spool=self._spool)

    def _numbered(self) -> Generator[tuple[slice, np.ndarray], None, None]:
        first = 0
        with closing(ahead(self._blocks())) as blocks:
            for X in blocks:
                yield slice(first, first + len(X)), X
                first += len(X)
        if first != self.n_rows:
            raise ValueError(f"The rows are {first} at this pass, and were {self.n_rows} at the first.")

    def each_block(self, function: Callable[[np.ndarray, slice, int], None]) -> None:
        with closing(self._numbered()) as blocks:
            for rows, X in blocks:
                function(X, rows, self.n_threads)

    def in_order(self, n_rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        with closing(self._numbered()) as blocks:
            for rows, X in blocks:
                for first in range(0, len(X), n_rows):
                    part = X[first : first + n_rows]
                    start = rows.start + first
                    yield slice(start, start + len(part)), part

    def fold(self, function: Callable[[np.ndarray, slice], np.ndarray], size: int) -> np.ndarray:
        tree = Tree()

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            records = np.empty((grid.n_cells(len(X)), size))

            def cell(number: int) -> None:
                part = X[number * grid.CELL : (number + 1) * grid.CELL]
                start = rows.start + number * grid.CELL
                records[number] = function(part, slice(start, start + len(part)))

            threads.map_tasks(cell, len(records), n_threads)
            tree.add(grid.merge_tree(records))

        self.each_block(block)
        return tree.total()

    def _total(self, family, prepared, memo) -> np.ndarray:
        tree = Tree()

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            here = None if memo is None else memo.rows(rows)
            w, labels = self.sample_weight[rows], self.labels[rows]
            tree.add(passes.total(family, X, w, labels, prepared, n_threads, here))

        self.each_block(block)
        return tree.total()

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, dense (m, d): a pass that ends with the last of them."""
        indices = np.asarray(indices)
        taken = np.empty((len(indices), self.n_features), self.dtype)
        order = np.argsort(indices, kind="stable")
        done = 0
        with closing(self._numbered()) as blocks:
            while done < len(order):
                rows, X = next(blocks)
                here = order[done : done + int(np.searchsorted(indices[order[done:]], rows.stop))]
                taken[here] = X[indices[here] - rows.start]
                done += len(here)
        return taken

    def subset(self, rows: np.ndarray, weights: np.ndarray) -> Source:
        X = self.empty((len(rows), self.n_features), self.dtype)
        X[:] = self.take(rows)
        return FileSource(X, weights, None, self.n_threads, spool=self._spool)

    def mapped(self, function: Function) -> StreamSource:
        blocks = self._blocks
        sample = function(self.take(np.zeros(1, np.int64)))
        return self._like(
            lambda: (np.ascontiguousarray(function(X), sample.dtype) for X in blocks()),
            (self.n_rows, sample.shape[1]), sample.dtype, self.sample_weight, self.labels, self.n_threads,
        )  # fmt: skip

    def image(self, function: Function) -> StreamSource:
        return self.mapped(function)
