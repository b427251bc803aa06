"""Scatter matrices: sums of outer products of rows, and those of a whole source, which no parameter changes."""

from __future__ import annotations

import math

import numpy as np

from fastem.jit import kernel
from fastem.kernels.blocks import BLOCK, STRIDE, load_weights, padded
from fastem.kernels.panels import BLOCK_ROWS, FEATURE_BYTES, FEATURES, add_upper, pack_weighted
from fastem.kernels.tiles import add_outer_tile
from fastem.kernels.transpose import transpose_block
from fastem.kernels.triangles import mirror


@kernel
def add_scatter(
    rows,
    d,
    Z,  # (dp, STRIDE), dp >= d whole tiles
    T,  # (16,) float64 room to work in
    scatter,  # (d, d) float64 OUT: Z Z' is added
):
    """Add the sum of outer products of the rows of a block with themselves."""
    for i in range(0, Z.shape[0], 4):
        for j in range(0, i + 4, 4):
            if i + 4 <= d:
                add_outer_tile(rows, Z, i, j, scatter, d, i * d + j, j * d + i if j < i else -1)
            else:  # the last tile is not whole
                for t in range(16):
                    T[t] = 0.0
                add_outer_tile(rows, Z, i, j, T, 4, 0, -1)
                for a in range(d - i):
                    for b in range(min(4, d - j)):
                        scatter[i + a, j + b] += T[4 * a + b]
                        if j < i:
                            scatter[j + b, i + a] += T[4 * a + b]


@kernel
def add_cell(
    X,  # (n, d) one cell
    w,  # (n,), or empty
    origin,  # (d,)
    scatter,  # (d * d,) float64 OUT: w (x - origin)(x - origin)' is added
):
    """Scatter of the rows of one cell about the origin."""
    n, d = X.shape
    dp = (d + 3) // 4 * 4
    XT = np.zeros((dp, STRIDE), X.dtype)
    T = np.empty(16)
    wb = np.empty(STRIDE, X.dtype)
    for first in range(0, n, BLOCK):
        m = min(BLOCK, n - first)
        rows = padded(m)
        transpose_block(X, first, m, rows, origin, XT)
        load_weights(w, first, m, rows, wb)
        for j in range(d):
            for r in range(rows):
                XT[j, r] *= math.sqrt(wb[r])
        add_scatter(rows, d, XT, T, scatter.reshape(d, d))


@kernel
def add_wide_cell(
    X,  # (n, d) one cell
    w,  # (n,), or empty
    origin,  # (d,)
    scatter,  # (d * d,) float64 OUT: w (x - origin)(x - origin)', which may be anything before
):
    """Write the scatter of the rows of one cell about the origin, by packed panels of features."""
    n, d = X.shape
    panel = FEATURE_BYTES // X.itemsize
    most = min(n, BLOCK_ROWS)
    Z = np.empty(most * ((d + panel - 1) // panel * panel), X.dtype)
    T = np.empty(FEATURES * panel)
    root = np.ones(most, X.dtype)
    index = np.empty(most, np.int64)
    nothing = np.zeros(d, X.dtype)
    matrix = scatter.reshape(d, d)
    for first in range(0, n, most):
        rows = min(most, n - first)
        for t in range(rows):
            index[t] = first + t
            if w.size:
                root[t] = math.sqrt(w[first + t])
        pack_weighted(X, index, root, rows, origin, nothing, Z)
        add_upper(rows, d, Z, panel, T, first, matrix)
    mirror(d, matrix)
