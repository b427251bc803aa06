"""The pass over rows of very many features, of components that share one matrix.

Rows are whitened once for all components, y = (x - origin) P, d^2 / 2 multiply-adds a row: some columns at a time,
whose squared distances to the whitened means are added up while they are in the cache.  The record has sums alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import threads
from fastem.jit import Sweep, kernel
from fastem.kernels.blocks import STRIDE, padded
from fastem.kernels.panels import COLUMNS, PANEL_BYTES, pack_factor, pack_rows, whiten
from fastem.kernels.wide_pass import WideAccumulation
from fastem.kernels.wide_shares import CHUNK_ROWS, TASK_ROWS, TASK_WORK, Batches, Shares
from fastem.records import Fields

# Features of a part of the sums, and rows that are taken relative to the origin at a time.
SUM_FEATURES, SUM_ROWS = 128, 32

# --- kernels


@kernel
def add_distances(
    rows,  # a multiple of `blocks.LANES`
    start,
    stop,  # columns, multiples of 4
    Y,  # (>= stop - start, STRIDE) these columns of whitened rows
    whitened,  # (k, >= stop) whitened means
    squares,  # (k, STRIDE) INOUT
):
    """Add the squares of some columns of the differences between whitened rows and means."""
    for c in range(squares.shape[0]):
        own = squares[c]
        for j in range(start, stop, 4):
            at = j - start
            m0, m1, m2, m3 = whitened[c, j], whitened[c, j + 1], whitened[c, j + 2], whitened[c, j + 3]
            for r in range(rows):
                y0, y1, y2, y3 = Y[at, r] - m0, Y[at + 1, r] - m1, Y[at + 2, r] - m2, Y[at + 3, r] - m3
                own[r] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)


@kernel
def whitened_densities(
    X,  # (n, d)
    first,
    stop,  # rows
    origin,  # (d,)
    packed,  # the factor, packed
    whitened,  # (k, dp) whitened means
    offsets,  # (k,)
    at,  # where the first row is in `log_joint`
    log_joint,  # (k, rows) OUT
):
    """Write the log-densities of some rows."""
    k, dp = whitened.shape
    width = PANEL_BYTES // X.itemsize
    most = (min(stop - first, CHUNK_ROWS) + width - 1) // width * width
    panel = np.empty(most * dp, X.dtype)
    room = np.empty(COLUMNS * width, X.dtype)
    Y = np.zeros((COLUMNS, STRIDE), X.dtype)
    squares = np.empty((k, STRIDE), X.dtype)
    nothing = np.zeros(X.shape[1], X.dtype)
    index = np.empty(CHUNK_ROWS, np.int64)
    half = X.dtype.type(0.5)
    for chunk in range(first, stop, CHUNK_ROWS):
        count = min(CHUNK_ROWS, stop - chunk)
        for t in range(count):
            index[t] = chunk + t
        pack_rows(X, index, count, dp, origin, nothing, panel)
        squares[:] = 0
        for start in range(0, dp, COLUMNS):
            end = min(start + COLUMNS, dp)
            whiten(count, dp, start, end, panel, packed, room, Y)
            add_distances(padded(count), start, end, Y, whitened, squares)
        place = at + chunk - first
        for c in range(k):
            for t in range(count):
                log_joint[c, place + t] = offsets[c] - half * squares[c, t]


@kernel
def add_four(
    n,
    centred,  # (rows, n)
    mean,  # (n,)
    index,  # (4,) rows
    resp,  # (4,) float64
    total,  # (n,) float64 INOUT
):
    """Add four weighted rows, relative to a mean."""
    x0, x1, x2, x3 = centred[index[0]], centred[index[1]], centred[index[2]], centred[index[3]]
    r0, r1, r2, r3 = resp[0], resp[1], resp[2], resp[3]
    for j in range(n):
        m = mean[j]
        first = r0 * np.float64(x0[j] - m) + r1 * np.float64(x1[j] - m)
        total[j] += first + (r2 * np.float64(x2[j] - m) + r3 * np.float64(x3[j] - m))


@kernel
def add_sums(
    X,  # (n, d)
    first,  # the row that shares begin with
    start,
    stop,  # rows of a cell, from there
    begin,
    end,  # features
    origin,  # (d,)
    means,  # (k, d)
    share,  # (k, rows)
    factor,  # (rows,)
    negligible,  # (k,) a smaller share does not matter
    counts,  # (k,) float64 OUT
    sums,  # (k, d) float64 OUT
):
    """Write counts, and sums of some features, of the rows of a cell."""
    k, n = means.shape[0], end - begin
    centred = np.empty((SUM_ROWS, n), X.dtype)
    mean = np.empty(n, X.dtype)
    skipped = np.uint64(begin)  # without a sign there is no place from the end, and loops become vectors
    found = np.zeros((k, n))
    index, resp = np.empty(SUM_ROWS, np.int64), np.empty(SUM_ROWS)
    for c in range(k):
        counts[c] = 0.0
    for block in range(start, stop, SUM_ROWS):
        rows = min(SUM_ROWS, stop - block)
        for t in range(rows):
            row, own = X[first + block + t], centred[t]
            for j in range(n):
                own[j] = row[skipped + np.uint64(j)] - origin[skipped + np.uint64(j)]
        for c in range(k):
            used, limit = 0, share.dtype.type(negligible[c])
            for t in range(rows):
                if share[c, block + t] > limit:
                    index[used], resp[used] = t, np.float64(share[c, block + t] * factor[block + t])
                    counts[c] += resp[used]
                    used += 1
            if used:
                for j in range(n):
                    mean[j] = means[c, skipped + np.uint64(j)]
            for t in range(used, (used + 3) // 4 * 4):
                index[t], resp[t] = index[0], 0.0
            for t in range(0, used, 4):
                add_four(n, centred, mean, index[t : t + 4], resp[t : t + 4], found[c])
    for c in range(k):
        for j in range(n):
            sums[c, begin + j] = found[c, j]


# --- the pass


class SharedDistances(Batches):
    """Log-densities of rows, of components that share one matrix."""

    def __init__(self, X: np.ndarray, labels: np.ndarray, prepared: Any, n_threads: int) -> None:
        super().__init__(X, labels, prepared, n_threads)
        factor = prepared.precisions_cholesky
        dp = len(factor)
        self.packed = np.empty(dp * (dp + 4) // 2, X.dtype)
        pack_factor(factor, self.packed)
        k, d = prepared.whitened.shape
        self.whitened = np.zeros((k, dp), X.dtype)
        self.whitened[:, :d] = prepared.whitened
        self.offsets = prepared.offsets.astype(X.dtype)

    def log_joint(self, first: int, m: int, prune: bool) -> np.ndarray:
        """Return the log-densities (k, m) of rows from `first` on, of all components: none costs much."""
        found = np.empty((len(self.offsets), m), self.X.dtype)
        size = max(TASK_ROWS, 2 * TASK_WORK // self.whitened.shape[1] ** 2)

        def task(number: int) -> None:
            at = number * size
            stop = first + min(at + size, m)
            whitened_densities(
                self.X, first + at, stop, self.prepared.origin, self.packed, self.whitened, self.offsets, at, found
            )

        threads.map_tasks(task, -(-m // size), self.n_threads)
        return found


class WideSums(WideAccumulation):
    """Adds up counts and sums of components that share one matrix."""

    def __init__(self, least: int, narrow: Sweep, fields: Fields) -> None:
        super().__init__(least, narrow, fields, SharedDistances)

    def parts(self, k: int, d: int) -> int:
        return -(-d // SUM_FEATURES)

    def write(self, part: int, found: Shares, cell: int, X: np.ndarray, prepared: Any, record: Any) -> None:
        """Write the sums of some features of a cell, and with the first of them the counts."""
        start, stop = found.bounds[cell]
        begin = part * SUM_FEATURES
        counts = record.counts if part == 0 else np.empty(len(record.counts))
        add_sums(
            X, found.first, start, stop, begin, min(begin + SUM_FEATURES, X.shape[1]), prepared.origin, prepared.means,
            found.share, found.factor, prepared.negligible, counts, record.sums,
        )  # fmt: skip
