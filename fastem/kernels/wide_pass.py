"""The E-step's pass over rows of very many features, taken apart into tasks.

With d features a distance costs d^2 / 2 multiply-adds a row, and so may a scatter; everything else is next to nothing.
Both are done by tasks on packed panels (`panels`), which keep all threads busy also where the rows fill one cell of the
grid: log-densities (`wide_distances`, `wide_shared`), then the records of the cells, part by part (`wide_moments`,
`wide_shared`).  Neither depends on threads, tasks or batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from fastem import grid, pool, threads
from fastem.jit import Sweep, kernel
from fastem.kernels.blocks import BLOCK, STRIDE, padded
from fastem.kernels.elementary import log
from fastem.kernels.responsibilities import finish_rows, most_responsible
from fastem.kernels.wide_shares import Batches, Shares
from fastem.records import Fields, Layout

# Bytes of the records of cells that are made together.
RECORD_BYTES = 2**25

# --- kernels


@kernel
def finish(
    start,
    stop,
    w,  # (n,) or empty
    first,
    best,  # (rows,)
    total,  # (rows,) INOUT: becomes weight / total
):
    """Return the log-likelihood of a cell and leave the factors of its rows' shares."""
    space = np.zeros((3, STRIDE), best.dtype)
    wb, highest, sums = space[0], space[1], space[2]
    loglik = 0.0
    for at in range(start, stop, BLOCK):
        m = min(BLOCK, stop - at)
        rows = padded(m)
        for r in range(rows):
            inside = r < m
            wb[r] = 0
            highest[r] = best[at + r] if inside else 0
            sums[r] = total[at + r] if inside else 1
        for r in range(m):
            wb[r] = w[first + at + r] if w.size else 1
        loglik += finish_rows(rows, wb, highest, sums)
        for r in range(m):
            total[at + r] = sums[r]
    return loglik


@kernel
def add_rows_above(
    start,
    stop,
    scatter,  # (d, d) INOUT
    other,  # (d, d)
):
    """Add some rows of the upper triangle of a matrix."""
    d = scatter.shape[0]
    for i in range(start, stop):
        for j in range(i, d):
            scatter[i, j] += other[i, j]


@kernel
def tell(
    share,  # (k, rows)
    start,
    stop,
    first,
    best,  # (rows,)
    total,  # (rows,)
    out,  # `Expected` OUT
):
    """Fill what is asked for of a cell's log-likelihoods, labels and responsibilities."""
    k = share.shape[0]
    if out.loglik.shape[0]:
        for r in range(start, stop):
            out.loglik[first + r] = np.float64(best[r]) + np.float64(log(total[r]))
    if out.labels.shape[0]:
        picked = np.zeros((2, STRIDE), share.dtype)
        own = np.zeros((k, STRIDE), share.dtype)
        for at in range(start, stop, BLOCK):
            m = min(BLOCK, stop - at)
            for c in range(k):
                for r in range(m):
                    own[c, r] = share[c, at + r]
            most_responsible(m, own, picked[0], picked[1])
            for r in range(m):
                out.labels[first + at + r] = np.int32(picked[1, r])
    if out.resp.shape[0]:
        for r in range(start, stop):
            factor = 1.0 / np.float64(total[r])
            for c in range(k):
                out.resp[first + r, c] = share[c, r] * factor


# --- the pass


class _FromWidth:
    """A pass that is another one for rows of so many features or more; where cells need care, the narrow one serves.

    Parameters
    ----------
    least : int
        Features from which on it is.
    narrow : Sweep
        The pass of fewer features.
    """

    def __init__(self, least: int, narrow: Sweep) -> None:
        self.least, self.narrow = least, narrow
        self.serial, self.parallel, self.bind = narrow.serial, narrow.parallel, narrow.bind


class WideAccumulation(_FromWidth, ABC):
    """Adds up the statistics.

    Parameters
    ----------
    fields : Fields
        The record.
    batches : type
        How log-densities are found.
    """

    def __init__(self, least: int, narrow: Sweep, fields: Fields, batches: type[Batches]) -> None:
        super().__init__(least, narrow)
        self.fields, self.batches = fields, batches

    @abstractmethod
    def parts(self, k: int, d: int) -> int:
        """Return how many parts a record has that are written by a task each."""

    @abstractmethod
    def write(self, part: int, found: Shares, cell: int, X: np.ndarray, prepared: Any, record: Any) -> None:
        """Write a part of the record of a cell of a batch; below the diagonal a scatter may be anything."""

    def plan(self, n_rows: int, n_features: int, size: int) -> grid.Plan:
        """Cut the grid into tasks: one, whose records are merged here, by all threads and triangles alone."""
        if n_features < self.least:
            return self.narrow.plan(n_rows, n_features, size)
        return grid.whole(n_rows)

    def run(self, args: tuple, level: int, out: np.ndarray, n_threads: int) -> None:
        """Fill row t of `out` with the record of task t; see `fastem.threads.run_sweep`."""
        X, w, labels, prepared = args
        size = out.shape[1]
        if X.shape[1] < self.least:
            self.narrow.run(args, level, out, n_threads)
            return
        layout = self.fields.layout(*prepared.means.shape)
        batch = self.batches(X, labels, prepared, n_threads)
        trees = [_Tree(layout, record, n_threads) for record in out]
        most = max(1, RECORD_BYTES // (8 * size))
        for cells in batch.cells():
            found = batch.shares(cells, prune=not labels.size)
            for first in range(0, len(cells), most):
                some = range(first, min(first + most, len(cells)))
                own = [trees[cells[number] >> level] for number in some]
                records = [tree.empty() for tree in own]
                self._moments(found, some, X, w, labels, prepared, records, n_threads)
                for tree, record in zip(own, records, strict=True):
                    tree.add(record)
        for tree in trees:
            tree.end()

    def _moments(
        self, found: Shares, some: range, X: Any, w: Any, labels: Any, prepared: Any, records: list, n_threads: int
    ) -> None:
        """Write the records of some cells of a batch."""
        n_parts = self.parts(*prepared.means.shape)
        layout = self.fields.layout(*prepared.means.shape)
        views = [layout.view(record) for record in records]

        def task(number: int) -> None:
            place, part = divmod(number, n_parts)
            cell = some[place]
            if not found.far[cell]:
                self.write(part, found, cell, X, prepared, views[place])
            elif part == 0:
                self.narrow.serial(X, w, labels, prepared, 0, found.cells[cell], records[place][None])

        for view, cell in zip(views, some, strict=True):
            if not found.far[cell]:
                view.loglik[...] = finish(*found.bounds[cell], w, found.first, found.best, found.factor)
        threads.map_tasks(task, n_parts * len(records), n_threads)


class WideExpectation(_FromWidth):
    """The E-step alone.

    Parameters
    ----------
    batches : type
        How log-densities are found.
    """

    def __init__(self, least: int, narrow: Sweep, batches: type[Batches]) -> None:
        super().__init__(least, narrow)
        self.batches = batches

    def run_each(self, X: np.ndarray, prepared: Any, out: Any, n_threads: int) -> None:
        """Fill an `Expected`; see `fastem.threads.run_each`."""
        if X.shape[1] < self.least:
            self.narrow.run_each(X, prepared, out, n_threads)
            return
        batch = self.batches(X, np.empty(0, np.int32), prepared, n_threads)
        exact = bool(out.log_joint.shape[0] or out.resp.shape[0])
        for cells in batch.cells():
            found = batch.shares(cells, prune=not exact, log_joint=out.log_joint)

            def task(cell: int, found: Shares = found) -> None:
                if found.far[cell]:
                    number = found.cells[cell]
                    self.narrow.serial(X, prepared, number, number + 1, out)
                else:
                    tell(found.share, *found.bounds[cell], found.first, found.best, found.factor, out)

            threads.map_tasks(task, len(cells), n_threads)


class _Tree:
    """Records that are added as the grid's tree has them, of which a new one is made only where none has become free.

    Parameters
    ----------
    layout : Layout
        Of a record.
    out : ndarray (size,)
        The record where the sum is left.
    n_threads : int
        Threads that add.
    """

    def __init__(self, layout: Layout, out: np.ndarray, n_threads: int) -> None:
        self.layout, self.n_threads, self.n_added = layout, n_threads, 0
        self.free = [out]  # of which the first is taken first: it stays the leftmost
        self.stack: list[np.ndarray] = []

    def empty(self) -> np.ndarray:
        """Return a record to write to."""
        return self.free.pop() if self.free else pool.empty(self.layout.size)

    def add(self, record: np.ndarray) -> None:
        self.stack.append(record)
        done = self.n_added
        while done & 1:  # one merge for each pair of siblings that this cell completes
            self._merge()
            done >>= 1
        self.n_added += 1

    def end(self) -> None:
        """Leave the sum."""
        while len(self.stack) > 1:  # the ragged end of the grid: right to left, as the full tree would
            self._merge()

    def _merge(self) -> None:
        right = self.stack.pop()
        pairs = list(zip(self.layout.view(self.stack[-1]), self.layout.view(right), strict=True))
        for own, its in pairs:
            if own.ndim < 3:
                own += its
        matrices = [pair for own, its in pairs if own.ndim == 3 for pair in zip(own, its, strict=True)]

        def part(number: int) -> None:
            own, its = matrices[number // 4]
            d = len(own)
            bounds = [0, d // 8, d // 4, d // 2, d]
            add_rows_above(bounds[number % 4], bounds[number % 4 + 1], own, its)

        threads.map_tasks(part, 4 * len(matrices), self.n_threads)
        self.free.append(right)
