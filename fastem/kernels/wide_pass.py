"""The E-step's pass over rows of very many features, of components that each have a matrix.

With d features a row costs a component d^2 / 2 multiply-adds for its distance and as many for its scatter, everything
else next to nothing.  So the pass is taken apart into tasks of one component and many rows, on packed panels
(`panels`), which keep all threads busy also where the rows fill one cell of the grid.

What cannot matter is left out (`wide_distances`).  Rows are taken together cell by cell (`grid`), and the moments of a
cell in blocks of rows that matter to the component, so that no sum depends on threads, tasks or batches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastem import threads
from fastem.jit import Sweep, kernel
from fastem.kernels.blocks import BLOCK, STRIDE, padded
from fastem.kernels.elementary import log
from fastem.kernels.panels import (
    BLOCK_ROWS,
    FEATURE_BYTES,
    FEATURES,
    add_upper,
    add_weighted,
    mirror,
    pack_weighted,
)
from fastem.kernels.responsibilities import finish_rows, most_responsible
from fastem.kernels.wide_distances import Distances, Shares
from fastem.records import Fields

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
def add_cell(
    X,  # (n, d)
    first,  # the row that shares begin with
    start,
    stop,  # rows of the cell, from there
    c,
    origin,  # (d,)
    mean,  # (d,)
    share,  # (k, rows)
    factor,  # (rows,)
    threshold,  # a smaller share does not matter
    counts,  # (k,) float64 of the cell OUT
    sums,  # (d,) float64 OUT
    scatter,  # (d, d) float64 OUT
):
    """Add count, sums and scatter of one component, in blocks of rows that matter."""
    d = X.shape[1]
    panel = FEATURE_BYTES // X.itemsize
    features = (d + panel - 1) // panel * panel
    index = np.empty(stop - start, np.int64)
    limit = share.dtype.type(threshold)
    found = 0
    for r in range(start, stop):
        if share[c, r] > limit:
            index[found] = r
            found += 1
    for i in range(d):
        for j in range(d):
            scatter[i, j] = 0.0
    most = min(found, BLOCK_ROWS)
    Z = np.empty(most * features, X.dtype)
    root = np.empty(max(most, 1), X.dtype)
    padded_sums = np.zeros(features)
    T = np.empty(FEATURES * panel)
    count = 0.0
    for block in range(0, found, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, found - block)
        here = index[block : block + rows]
        for t in range(rows):
            resp = share[c, here[t]] * factor[here[t]]
            count += np.float64(resp)
            root[t] = math.sqrt(resp)
            here[t] += first
        pack_weighted(X, here, root, rows, origin, mean, Z)
        add_weighted(rows, features, root, Z, padded_sums)
        add_upper(rows, d, Z, panel, T, scatter)
    counts[c] = count
    for j in range(d):
        sums[j] = padded_sums[j]
    mirror(d, scatter)


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


class WideAccumulation(_FromWidth):
    """Adds up the statistics.

    Parameters
    ----------
    fields : Fields
        The record.
    """

    def __init__(self, least: int, narrow: Sweep, fields: Fields) -> None:
        super().__init__(least, narrow)
        self.fields = fields

    def run(self, args: tuple, level: int, out: np.ndarray, n_threads: int) -> None:
        """Fill row t of `out` with the record of task t; see `fastem.threads.run_sweep`."""
        X, w, labels, prepared = args
        size = out.shape[1]
        if X.shape[1] < self.least:
            self.narrow.run(args, level, out, n_threads)
            return
        batch = Distances(X, labels, prepared, n_threads)
        trees = [_Tree(n_threads) for _ in out]
        for cells in batch.cells(size):
            records = out[cells.start : cells.stop] if level == 0 else np.empty((len(cells), size))
            found = batch.shares(cells, prune=not labels.size)
            self._moments(found, X, w, labels, prepared, records, n_threads)
            if level:
                for cell, record in zip(cells, records, strict=True):
                    trees[cell >> level].add(record)
        if level:
            for record, tree in zip(out, trees, strict=True):
                record[:] = tree.total()

    def _moments(
        self, found: Shares, X: Any, w: Any, labels: Any, prepared: Any, records: np.ndarray, n_threads: int
    ) -> None:
        """Write the records of a batch of cells."""
        k, d = prepared.means.shape
        views = [self.fields.layout(k, d).view(record) for record in records]

        def task(number: int) -> None:
            cell, c = divmod(number, k)
            if found.far[cell]:
                if c == 0:
                    self.narrow.serial(X, w, labels, prepared, 0, found.cells[cell], records[cell : cell + 1])
                return
            (start, stop), record = found.bounds[cell], views[cell]
            add_cell(
                X, found.first, start, stop, c, prepared.origin, prepared.means[c], found.share, found.factor,
                float(prepared.negligible[c]), record.counts, record.sums[c], record.scatter[c],
            )  # fmt: skip

        for cell, (start, stop) in enumerate(found.bounds):
            if not found.far[cell]:
                views[cell].loglik[...] = finish(start, stop, w, found.first, found.best, found.factor)
        threads.map_tasks(task, k * len(records), n_threads)


class WideExpectation(_FromWidth):
    """The E-step alone."""

    def run_each(self, X: np.ndarray, prepared: Any, out: Any, n_threads: int) -> None:
        """Fill an `Expected`; see `fastem.threads.run_each`."""
        if X.shape[1] < self.least:
            self.narrow.run_each(X, prepared, out, n_threads)
            return
        batch = Distances(X, np.empty(0, np.int32), prepared, n_threads)
        exact = bool(out.log_joint.shape[0] or out.resp.shape[0])
        for cells in batch.cells(1):
            found = batch.shares(cells, prune=not exact, log_joint=out.log_joint)

            def task(cell: int, found: Shares = found) -> None:
                if found.far[cell]:
                    number = found.cells[cell]
                    self.narrow.serial(X, prepared, number, number + 1, out)
                else:
                    tell(found.share, *found.bounds[cell], found.first, found.best, found.factor, out)

            threads.map_tasks(task, len(cells), n_threads)


class _Tree:
    """Records that are added as the grid's tree has them."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads, self.n_added = n_threads, 0
        self.stack: list[np.ndarray] = []

    def add(self, record: np.ndarray) -> None:
        self.stack.append(record)
        done = self.n_added
        while done & 1:  # one merge for each pair of siblings that this cell completes
            self._merge()
            done >>= 1
        self.n_added += 1

    def total(self) -> np.ndarray:
        while len(self.stack) > 1:  # the ragged end of the grid: right to left, as the full tree would
            self._merge()
        return self.stack[0]

    def _merge(self) -> None:
        right, left = self.stack.pop(), self.stack[-1]
        bounds = [len(left) * i // self.n_threads for i in range(self.n_threads + 1)]

        def part(i: int) -> None:
            left[bounds[i] : bounds[i + 1]] += right[bounds[i] : bounds[i + 1]]

        threads.map_tasks(part, self.n_threads, self.n_threads)
