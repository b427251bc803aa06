"""Sums and scatter of rows of very many features, of each component by itself, on packed panels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastem import threads
from fastem.jit import Sweep, kernel
from fastem.kernels.panels import (
    BLOCK_ROWS,
    FEATURE_BYTES,
    FEATURES,
    add_upper,
    add_weighted,
    pack_weighted,
)
from fastem.kernels.triangles import mirror
from fastem.kernels.wide_distances import Distances
from fastem.kernels.wide_pass import WideAccumulation
from fastem.kernels.wide_shares import Shares
from fastem.records import Fields


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
    scatter,  # (d, d) float64 OUT: its upper triangle, and something in tiles on the diagonal
):
    """Write count, sums and scatter of one component, of blocks of rows that matter."""
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
    if found == 0:
        for i in range(d):
            for j in range(i, d):
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
        add_upper(rows, d, Z, panel, T, block, scatter)
    counts[c] = count
    for j in range(d):
        sums[j] = padded_sums[j]


class WideScatter(WideAccumulation):
    """Adds up counts, sums and scatter of components that each have a matrix."""

    def __init__(self, least: int, narrow: Sweep, fields: Fields) -> None:
        super().__init__(least, narrow, fields, Distances)

    def parts(self, k: int, d: int) -> int:
        return k

    def write(self, part: int, found: Shares, cell: int, X: np.ndarray, prepared: Any, record: Any) -> None:
        """Write what one component has of a cell, of blocks of rows that matter to it."""
        start, stop = found.bounds[cell]
        add_cell(
            X, found.first, start, stop, part, prepared.origin, prepared.means[part], found.share, found.factor,
            float(prepared.negligible[part]), record.counts, record.sums[part], record.scatter[part],
        )  # fmt: skip

    def run(self, args: tuple, level: int, out: np.ndarray, n_threads: int) -> None:
        super().run(args, level, out, n_threads)
        X, prepared = args[0], args[3]
        if X.shape[1] >= self.least:
            k, d = prepared.means.shape
            views = [self.fields.layout(k, d).view(record) for record in out]
            threads.map_tasks(lambda i: mirror(d, views[i // k].scatter[i % k]), k * len(out), n_threads)
