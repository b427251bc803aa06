r"""Factor analysers on rows that hardly share their patterns of missing values: every row has its own matrix M.

`loadings` inverts M = I + sum_j seen_j lambda_j lambda_j' / psi_j once for the rows of a pattern.  Where a pattern has
few rows, that costs more than the rows.  Here a block of rows with any patterns is taken at once, and all inner loops
run over rows: with seen (d, rows) the elements of all M are one product of matrices, and so are their sums over the
rows where a feature is missing; the Cholesky factors are made for all rows side by side.  Lower triangles are packed by
rows, element (f, g) in row f (f + 1) / 2 + g.  All of this is float64.  For a row and component that is O(d q^2).

Nanoseconds a row and component on a core (float64), a tenth of the values missing, statistics / density alone:
d = 16, q = 2: 47 / 34; d = 64, q = 8: 500 / 200, where a pattern for each row takes 3400 / 3300.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastem.jit import kernel
from fastem.kernels.blocks import STRIDE
from fastem.kernels.elementary import log
from fastem.kernels.products import add_product, highest, sum_rows

LOG_2PI = math.log(2 * math.pi)


class Room(NamedTuple):
    """Room to work in: rows of a block as columns; t = q (q + 1) / 2, s = t + q + 1."""

    seen: np.ndarray  # (dp, STRIDE) 1 where a value is observed
    missing: np.ndarray  # (dp, STRIDE) 1 where it is not
    factor: np.ndarray  # (t + 1, STRIDE) Cholesky factors of M with inverse diagonals; constants of the densities
    inverse: np.ndarray  # (t, STRIDE) their inverses
    moments: np.ndarray  # (s, STRIDE) weighted E[zz zz'], its last q + 1 rows E[zz]
    solution: np.ndarray  # (q, STRIDE)
    products: np.ndarray  # (t + 1, dp) what each feature adds to M and to the constant
    scaled: np.ndarray  # (q, dp) loadings over noise variances, in the rows' dtype
    sums: np.ndarray  # (s, dp)


@kernel
def new_room(
    X,
    n_features,  # in fours
    n_factors,
    wanted,  # 0 for none
):
    """Allocate."""
    q = n_factors
    t = q * (q + 1) // 2
    s, stride, dp = t + q + 1, STRIDE if wanted else 0, n_features if wanted else 0
    return Room(
        np.zeros((dp, stride)), np.zeros((dp, stride)), np.zeros((t + 1, stride)), np.zeros((t, stride)),
        np.zeros((s, stride)), np.zeros((q, stride)), np.zeros((t + 1, dp)), np.zeros((q, dp), X.dtype),
        np.zeros((s, dp)),
    )  # fmt: skip


@kernel
def gather_scattered(
    X,  # (n, d)
    order,  # (m,) intp numbers of the rows
    rows,  # m or more
    origin,  # (d,)
    room,  # INOUT
    XT,  # (>= d, STRIDE) OUT: 0 where a value is missing
):
    """Write rows, relative to the origin, as columns, and which of their values are observed."""
    zero = XT.dtype.type(0)
    for j in range(X.shape[1]):
        centre = origin[j]
        for r in range(order.shape[0]):
            value = X[order[r], j] - centre
            seen = value == value
            XT[j, r] = value if seen else zero
            room.seen[j, r] = 1.0 if seen else 0.0
            room.missing[j, r] = 0.0 if seen else 1.0
        for r in range(order.shape[0], rows):
            XT[j, r] = zero
            room.seen[j, r] = 1.0
            room.missing[j, r] = 0.0


@kernel
def _centre_seen(rows, XT, mean, seen, U):
    """Write the rows less a mean (d,), 0 where a value is missing."""
    for j in range(mean.shape[0]):
        centre = mean[j]
        for r in range(rows):
            U[j, r] = (XT[j, r] - centre) * seen[j, r]


@kernel
def _factorise(
    rows,
    loadings,  # (d, q)
    noise,  # (d,)
    room,  # INOUT
):
    """Write the Cholesky factor of each row's M, and n log 2 pi + log det Psi + log det M below it."""
    d, q = loadings.shape
    t = q * (q + 1) // 2
    products, factor = room.products, room.factor
    for j in range(d):
        inverse = 1.0 / noise[j]
        at = 0
        for f in range(q):
            room.scaled[f, j] = loadings[j, f] * inverse
            for g in range(f + 1):
                products[at, j] = loadings[j, f] * loadings[j, g] * inverse
                at += 1
        products[t, j] = math.log(noise[j]) + LOG_2PI
    for at in range(t + 1):
        for r in range(rows):
            factor[at, r] = 0.0
    add_product(rows, room.seen.shape[0], room.seen, 0, products, factor)
    constant = factor[t]
    for f in range(q):
        row = f * (f + 1) // 2
        for g in range(f + 1):
            other = g * (g + 1) // 2
            target = factor[row + g]
            for u in range(g):
                left, right = factor[row + u], factor[other + u]
                for r in range(rows):
                    target[r] -= left[r] * right[r]
            if f == g:
                for r in range(rows):
                    value = target[r] + 1.0
                    constant[r] += log(value)
                    target[r] = 1.0 / math.sqrt(value)
            else:
                diagonal = factor[other + g]
                for r in range(rows):
                    target[r] *= diagonal[r]


@kernel
def log_joint_scattered(
    rows,
    XT,  # (dp, STRIDE)
    prepared,
    minus_loadings,  # (k, d, qp)
    room,  # INOUT
    U,  # (dp, STRIDE) room to work in, 0 beyond the features
    Z,  # (k, qp, STRIDE) OUT: posterior means of the factors, 0 beyond them
    log_joint,  # (k, STRIDE) OUT
    best,  # (STRIDE,) OUT
):
    """Write log p(x, z = k) of a block."""
    k, d, q = prepared.loadings.shape
    y = room.solution
    for c in range(k):
        _centre_seen(rows, XT, prepared.means[c], room.seen, U)
        _factorise(rows, prepared.loadings[c], prepared.noise[c], room)
        for f in range(q):
            for r in range(rows):
                Z[c, f, r] = 0
        add_product(rows, XT.shape[0], U, 0, room.scaled, Z[c, :q])
        for f in range(q):
            for r in range(rows):
                y[f, r] = Z[c, f, r]
            for g in range(f):
                slope = room.factor[f * (f + 1) // 2 + g]
                for r in range(rows):
                    y[f, r] -= slope[r] * y[g, r]
            diagonal = room.factor[f * (f + 1) // 2 + f]
            for r in range(rows):
                y[f, r] *= diagonal[r]
        for f in range(q - 1, -1, -1):
            for g in range(f + 1, q):
                slope = room.factor[g * (g + 1) // 2 + f]
                for r in range(rows):
                    y[f, r] -= slope[r] * y[g, r]
            diagonal = room.factor[f * (f + 1) // 2 + f]
            for r in range(rows):
                y[f, r] *= diagonal[r]
                Z[c, f, r] = y[f, r]
        add_product(rows, Z.shape[1], Z[c], 0, minus_loadings[c], U[:d])
        constant, out = room.factor[q * (q + 1) // 2], log_joint[c]
        for r in range(rows):
            out[r] = constant[r]
        for j in range(d):
            inverse = 1.0 / prepared.noise[c, j]
            for r in range(rows):
                out[r] += U[j, r] * U[j, r] * (inverse * room.seen[j, r])
        for f in range(q):
            for r in range(rows):
                out[r] += Z[c, f, r] * Z[c, f, r]
        for r in range(rows):
            out[r] = prepared.log_weights[c] - 0.5 * out[r]
    highest(rows, log_joint, best)


@kernel
def _invert_factor(rows, q, room):
    """Write the inverse of each row's Cholesky factor."""
    for f in range(q):
        row = f * (f + 1) // 2
        diagonal = room.factor[row + f]
        for g in range(f):
            target = room.inverse[row + g]
            for r in range(rows):
                target[r] = 0.0
            for u in range(g, f):
                slope, known = room.factor[row + u], room.inverse[u * (u + 1) // 2 + g]
                for r in range(rows):
                    target[r] -= slope[r] * known[r]
            for r in range(rows):
                target[r] *= diagonal[r]
        target = room.inverse[row + f]
        for r in range(rows):
            target[r] = diagonal[r]


@kernel
def _weigh_moments(
    rows,
    q,
    Z,  # (qp, STRIDE)
    share,  # (STRIDE,)
    factor,  # (STRIDE,)
    room,  # INOUT
):
    """Write responsibilities times E[zz zz']."""
    weight = room.moments[q * (q + 1) // 2 + q]
    for r in range(rows):
        weight[r] = share[r] * factor[r]
    for f in range(q):
        for g in range(f + 1):
            target = room.moments[f * (f + 1) // 2 + g]
            for r in range(rows):
                target[r] = Z[f, r] * Z[g, r]
            for u in range(f, q):
                left, right = room.inverse[u * (u + 1) // 2 + f], room.inverse[u * (u + 1) // 2 + g]
                for r in range(rows):
                    target[r] += left[r] * right[r]
            for r in range(rows):
                target[r] *= weight[r]
        target = room.moments[q * (q + 1) // 2 + f]
        for r in range(rows):
            target[r] = weight[r] * Z[f, r]


@kernel
def moments_scattered(
    rows,
    XT,  # (dp, STRIDE)
    prepared,
    room,  # INOUT
    U,  # (dp, STRIDE) room to work in
    Z,  # (k, qp, STRIDE)
    share,  # (k, STRIDE)
    factor,  # (STRIDE,)
    heavy,  # (k,)
    record,  # OUT
):
    """Add the statistics of a block."""
    k, d, q = prepared.loadings.shape
    p, t = q + 1, q * (q + 1) // 2
    for c in range(k):
        if heavy[c] == 0:
            continue
        _centre_seen(rows, XT, prepared.means[c], room.seen, U)
        _factorise(rows, prepared.loadings[c], prepared.noise[c], room)
        _invert_factor(rows, q, room)
        _weigh_moments(rows, q, Z[c], share[c], factor, room)
        sum_rows(rows, XT.shape[0], room.missing, room.moments, room.sums)
        for f in range(p):
            for g in range(f + 1):
                at = f * (f + 1) // 2 + g
                total = 0.0
                for r in range(rows):
                    total += room.moments[at, r]
                record.seconds[c, f, g] += total
                if f > g:
                    record.seconds[c, g, f] += total
                for j in range(record.lacking.shape[1]):
                    record.lacking[c, j, f, g] += room.sums[at, j]
                    if f > g:
                        record.lacking[c, j, g, f] += room.sums[at, j]
        weight = room.moments[t + q]
        n = 0.0
        for r in range(rows):
            n += weight[r]
        record.counts[c] += n
        sum_rows(rows, XT.shape[0], U, room.moments[t:], room.sums)
        for j in range(d):
            square = 0.0
            for r in range(rows):
                square += weight[r] * U[j, r] * U[j, r]
            record.squares[c, j] += square
            for f in range(p):
                record.cross[c, j, f] += room.sums[f, j]
