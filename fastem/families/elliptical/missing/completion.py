r"""Rows with missing values (NaN), completed for one component of a mixture.

Let m be the missing features of a row and o the others, L the precision of a component.  The missing part's conditional
distribution is normal with

    mean  mu_m - inverse(L_mm) L_mo (x_o - mu_o),      covariance  inverse(L_mm),

and, with the row completed by that mean, the density of what is observed is (Little and Rubin, section 11.2)

    log N(x_o) = log N(completed row) + |m|/2 log 2 pi - log det(L_mm) / 2.

So a block of rows is completed in place for one component after the other, and the ordinary kernels of `full` and
`diag` do the rest (`passes`).  L_mm is as small as what is missing.  It is factorised once for a long run of
rows that miss the same; other rows, which come ordered by how much they miss, are taken together, each with a factor of
its own, and all steps are vectors' work.  The scatter gets inverse(L_mm) besides, times the responsibilities.
Nothing is special about a row of which nothing is known: its density is 1, its posterior pi, and it counts with the
expectations of either component, so that it does not move the estimates but slows EM down.

References
----------
Little and Rubin, "Statistical Analysis with Missing Data", 2nd edition, 2002.  Ghahramani and Jordan, "Supervised
learning from incomplete data via an EM approach", NIPS 6, 1994.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastem.families.elliptical import diag, full
from fastem.families.elliptical.records import LOG_2PI, Prepared
from fastem.jit import kernel
from fastem.kernels.blocks import BLOCK, STRIDE
from fastem.kernels.elementary import log

# Rows that miss as many features are completed together: a multiple of _LANES, as many as keep the numbers of their
# factors within _ROOM.  So many rows that miss the very same are worth a factor of their own.
_LANES = 8
_ROOM = 16384
_LONG_RUN = 24
_HALF_LOG_2PI = 0.5 * LOG_2PI


class MissingPrepared(NamedTuple):
    """Parameters of an E-step for rows with missing values: those of `full` or `diag`, and the precisions."""

    origin: np.ndarray  # (d,)
    means: np.ndarray  # (k, d)
    log_weights: np.ndarray  # (k,) float64
    precisions_cholesky: np.ndarray  # (k, dp, dp), or (k, d)
    offsets: np.ndarray  # (k,) float64
    negligible: np.ndarray  # (k,) float64
    precisions: np.ndarray  # (k, d, d), or (k, d): float64
    gains: np.ndarray  # (k, d) float64: log(2 pi / precision) / 2 of each feature by itself


class Block(NamedTuple):
    """What the rows of a block miss, and room to complete them: STRIDE rows side by side."""

    missing: np.ndarray  # (d, STRIDE) intp: the missing features of each row
    n_missing: np.ndarray  # (STRIDE,) intp, ascending
    group: np.ndarray  # (STRIDE,) intp: rows of equal number miss the same
    gain: np.ndarray  # (STRIDE,) float64: what completing a row adds to its log-density
    v: np.ndarray  # (d, STRIDE) float64: L_mo (x_o - mu_o), then how far the completed values lie below the mean
    lower: np.ndarray  # (d, d) float64
    lanes: np.ndarray  # (STRIDE,) intp: the rows that are taken together
    lost: np.ndarray  # (d, STRIDE) intp: what these miss
    rows: np.ndarray  # (STRIDE, d) float64: the rows themselves, relative to the origin
    shifted: np.ndarray  # (STRIDE, d) float64: x - mu of the rows that are taken together, 0 where missing
    scratch: np.ndarray  # (2, STRIDE) float64
    factors: np.ndarray  # float64 room for (s (s + 1) / 2, width): L_mm = F D F', F and inverse(D) on its diagonal
    inverse: np.ndarray  # the same room for inverse(F)


@kernel
def new_block(d):
    """Return room for the blocks of one cell."""
    room = max(_ROOM, d * (d + 1) // 2 * _LANES)
    return Block(
        np.empty((d, STRIDE), np.intp),
        np.zeros(STRIDE, np.intp),
        np.empty(STRIDE, np.intp),
        np.zeros(STRIDE),
        np.empty((d, STRIDE)),
        np.empty((d, d)),
        np.empty(STRIDE, np.intp),
        np.empty((d, STRIDE), np.intp),
        np.empty((STRIDE, d)),
        np.empty((STRIDE, d)),
        np.empty((2, STRIDE)),
        np.empty(room),
        np.empty(room),
    )


@kernel
def describe(groups, first, m, block):
    """Write down what rows first..first + m of the order miss; return whether they miss anything."""
    d = groups.features.shape[1]
    g = 0
    for r in range(m):
        while groups.starts[g + 1] <= first + r:
            g += 1
        n = groups.n_observed[g]
        for a in range(d - n):
            block.missing[a, r] = groups.features[g, n + a]
        block.n_missing[r] = d - n
        block.group[r] = g
    for r in range(m, STRIDE):
        block.n_missing[r] = 0
        block.gain[r] = 0.0
    return block.n_missing[m - 1] > 0


@kernel
def keep_rows(
    XT,  # (>= d, STRIDE)
    m,
    block,
):
    """Write the m rows of a block to its `rows`."""
    for j in range(block.rows.shape[1]):
        for r in range(m):
            block.rows[r, j] = XT[j, r]


class Kind(NamedTuple):
    """What the passes over rows need of full, or of diagonal, matrices."""

    some: Any  # (prepared, c, end) -> what the ordinary kernels are given for components c..end
    log_joint_block: Any
    moments_block: Any
    room: Any
    view: Any
    complete: Any  # completes the rows of a block for a component
    complete_heavy: Any  # does so where they matter to it, and adds the conditional covariances


@kernel
def _some(p, c, end):
    own = slice(c, end)
    return Prepared(
        p.origin, p.means[own], p.log_weights[own], p.precisions_cholesky[own], p.offsets[own], p.negligible[own]
    )


# --- full matrices: a long run of rows that miss the same


@kernel
def _factorise(
    precision,  # (d, d)
    block,
    r,
    lower,  # (d, d) OUT: Cholesky factor of the block of the missing features, its diagonal inverted
):
    """Factorise a component's precision of the features that row r misses; return half its log-determinant."""
    half_log_det = 0.0
    for a in range(block.n_missing[r]):
        row = block.missing[a, r]
        for b in range(a):
            value = precision[row, block.missing[b, r]]
            for t in range(b):
                value -= lower[a, t] * lower[b, t]
            lower[a, b] = value * lower[b, b]
        pivot = precision[row, row]
        least = 1e-15 * pivot  # what rounding leaves of a singular matrix
        for t in range(a):
            pivot -= lower[a, t] * lower[a, t]
        pivot = max(pivot, least)
        lower[a, a] = 1.0 / math.sqrt(pivot)
        half_log_det += 0.5 * log(pivot)
    return half_log_det


@kernel
def _solve(
    lower,  # (d, d): see `_factorise`
    size,
    r0,
    r1,
    v,  # (d, STRIDE) float64 INOUT
):
    """Replace v[:size, r] by inverse(L L') v[:size, r]."""
    for a in range(size):
        for b in range(a):
            for r in range(r0, r1):
                v[a, r] -= lower[a, b] * v[b, r]
        for r in range(r0, r1):
            v[a, r] *= lower[a, a]
    for a in range(size - 1, -1, -1):
        for b in range(a + 1, size):
            for r in range(r0, r1):
                v[a, r] -= lower[b, a] * v[b, r]
        for r in range(r0, r1):
            v[a, r] *= lower[a, a]


@kernel
def _pull(
    block,
    r0,
    r1,
    mean,  # (d,)
    precision,  # (d, d)
    XT,  # (dp, STRIDE)
):
    """Write L_mo (x_o - mu_o) of rows r0..r1, which miss the same, to the block's v."""
    v, size = block.v, block.n_missing[r0]
    for a in range(size):
        for r in range(r0, r1):
            v[a, r] = 0.0
    for j in range(mean.shape[0]):
        seen = True
        for a in range(size):
            seen &= block.missing[a, r0] != j
        if seen:
            middle = np.float64(mean[j])
            for a in range(size):
                slope = precision[block.missing[a, r0], j]
                for r in range(r0, r1):
                    v[a, r] += slope * (np.float64(XT[j, r]) - middle)


@kernel
def _farthest(XT):
    """Return what no completed value may exceed: where one would overflow so does the distance, whatever it is."""
    return 1e300 if XT.itemsize == 8 else 1e37


@kernel
def _complete_run(block, r0, r1, prepared, c, XT):
    """Complete rows r0..r1, which miss the same, for component c."""
    mean, precision, size = prepared.means[c], prepared.precisions[c], block.n_missing[r0]
    r0, r1 = np.uint64(r0), np.uint64(r1)  # no index can be negative, and loops become vectors' work
    gain = size * _HALF_LOG_2PI - _factorise(precision, block, r0, block.lower)
    _pull(block, r0, r1, mean, precision, XT)
    _solve(block.lower, size, r0, r1, block.v)
    far = _farthest(XT)
    for r in range(r0, r1):
        block.gain[r] = gain
    for a in range(size):
        j = block.missing[a, r0]
        for r in range(r0, r1):
            below = block.v[a, r] if abs(block.v[a, r]) < far else 0.0
            XT[j, r] = XT.dtype.type(np.float64(mean[j]) - below)


# --- full matrices: lanes of rows that miss as many features


@kernel
def _widest(size):
    """Return how many rows that miss `size` features are taken together at most."""
    return max(_LANES, min(BLOCK, _ROOM // (size * (size + 1) // 2) // _LANES * _LANES))


@kernel
def _fill_lanes(block, n, size):
    """Let the lanes after the first n repeat the last row, which does no harm; list what all miss; return the width."""
    width = (n + _LANES - 1) // _LANES * _LANES
    for t in range(n, width):
        block.lanes[t] = block.lanes[n - 1]
    for a in range(size):
        for t in range(width):
            block.lost[a, t] = block.missing[a, block.lanes[t]]
    return width


@kernel
def _pull_lanes(
    block,
    width,
    size,
    mean,  # (d,)
    precision,  # (d, d)
):
    """Write L_mo (x_o - mu_o) of the rows in the lanes to the block's v."""
    shifted, rows, d = block.shifted, block.rows, mean.shape[0]
    for t in range(width):
        r = block.lanes[t]
        for j in range(d):
            shifted[t, j] = rows[r, j] - np.float64(mean[j])
        for a in range(size):
            shifted[t, block.lost[a, t]] = 0.0
    for t in range(width):
        for a in range(size):
            row, total = block.lost[a, t], 0.0
            for j in range(d):
                total += precision[row, j] * shifted[t, j]
            block.v[a, t] = total


@kernel
def _by_lanes(flat, size, width):
    """Show room as a triangle's rows of lanes, (size (size + 1) / 2, width)."""
    return flat[: size * (size + 1) // 2 * width].reshape(size * (size + 1) // 2, width)


@kernel
def _factorise_lanes(
    block,
    width,
    size,
    precision,  # (d, d)
    log_det,  # (STRIDE,) float64 OUT
    least,  # (STRIDE,) float64 room
):
    """Factorise the precision of what each row in the lanes misses: F D F', see `Block`."""
    lost, factors = block.lost, _by_lanes(block.factors, size, width)
    for t in range(width):
        log_det[t] = 0.0
    for a in range(size):
        row = a * (a + 1) // 2
        own = row + a
        for b in range(a + 1):
            for t in range(width):
                factors[row + b, t] = precision[lost[a, t], lost[b, t]]
        for b in range(a):  # F_ab D_b
            for e in range(b):
                other = b * (b + 1) // 2 + e
                for t in range(width):
                    factors[row + b, t] -= factors[row + e, t] * factors[other, t]
        for t in range(width):
            least[t] = 1e-15 * factors[own, t]  # what rounding leaves of a singular matrix
        for b in range(a):
            other = b * (b + 1) // 2 + b
            for t in range(width):
                scaled = factors[row + b, t] * factors[other, t]
                factors[own, t] -= scaled * factors[row + b, t]
                factors[row + b, t] = scaled
        for t in range(width):
            pivot = max(factors[own, t], least[t])
            log_det[t] += log(pivot)
            factors[own, t] = 1.0 / pivot


@kernel
def _solve_lanes(block, width, size):
    """Replace the block's v by inverse(F D F') times it."""
    v, factors = block.v, _by_lanes(block.factors, size, width)
    for a in range(size):
        for b in range(a):
            at = a * (a + 1) // 2 + b
            for t in range(width):
                v[a, t] -= factors[at, t] * v[b, t]
    for a in range(size):
        at = a * (a + 1) // 2 + a
        for t in range(width):
            v[a, t] *= factors[at, t]
    for a in range(size - 1, -1, -1):
        for b in range(a + 1, size):
            at = b * (b + 1) // 2 + a
            for t in range(width):
                v[a, t] -= factors[at, t] * v[b, t]


@kernel
def _complete_lanes(block, width, size, prepared, c, XT):
    """Complete the rows in the lanes for component c."""
    mean, precision, lanes = prepared.means[c], prepared.precisions[c], block.lanes
    log_det, least = block.scratch[0], block.scratch[1]
    _factorise_lanes(block, width, size, precision, log_det, least)
    for t in range(width):
        block.gain[lanes[t]] = size * _HALF_LOG_2PI - 0.5 * log_det[t]
    _pull_lanes(block, width, size, mean, precision)
    _solve_lanes(block, width, size)
    far = _farthest(XT)
    for a in range(size):
        for t in range(width):
            j = block.lost[a, t]
            below = block.v[a, t] if abs(block.v[a, t]) < far else 0.0
            XT[j, lanes[t]] = XT.dtype.type(np.float64(mean[j]) - below)


@kernel
def _complete_full(block, m, prepared, c, XT):
    """Complete the m rows of a block for component c, and write what that adds to their log-density to its gain."""
    r = 0
    while r < m:
        end = r + 1
        while end < m and block.group[end] == block.group[r]:
            end += 1
        if end - r >= _LONG_RUN:
            _complete_run(block, r, end, prepared, c, XT)
            r = end
            continue
        size, n = block.n_missing[r], 0
        widest = _widest(size)
        while r < m and n < widest and block.n_missing[r] == size:
            block.lanes[n] = r
            n += 1
            r += 1
        _complete_lanes(block, _fill_lanes(block, n, size), size, prepared, c, XT)


@kernel
def _invert_lanes(factors, inverse, size):
    """Write inverse(F), which is lower triangular with ones on its diagonal; see `Block`."""
    width = factors.shape[1]
    for a in range(size):
        row = a * (a + 1) // 2
        for t in range(width):
            inverse[row + a, t] = 1.0
        for b in range(a):
            own = row + b
            for t in range(width):
                inverse[own, t] = 0.0
            for e in range(b, a):
                left, right = row + e, e * (e + 1) // 2 + b
                for t in range(width):
                    inverse[own, t] -= factors[left, t] * inverse[right, t]


@kernel
def _add_spread_lanes(block, n, width, size, share, total, scatter):
    """Add the conditional covariances of the rows in the lanes, times their responsibilities, below the diagonal."""
    factors, inverse = _by_lanes(block.factors, size, width), _by_lanes(block.inverse, size, width)
    _invert_lanes(factors, inverse, size)
    lanes, value, mass = block.lanes, block.scratch[0], block.scratch[1]
    for t in range(n):
        mass[t] = np.float64(share[lanes[t]]) * np.float64(total[lanes[t]])
    for a in range(size):
        for b in range(a + 1):
            for t in range(width):
                value[t] = 0.0
            for e in range(a, size):
                row = e * (e + 1) // 2
                left, right, own = row + a, row + b, row + e
                for t in range(width):
                    value[t] += inverse[left, t] * inverse[right, t] * factors[own, t]
            part = 0.0
            for t in range(n):
                part += mass[t] * value[t]
                if t == n - 1 or block.group[lanes[t]] != block.group[lanes[t + 1]]:
                    scatter[block.lost[a, t], block.lost[b, t]] += part
                    part = 0.0


@kernel
def _complete_heavy_full(block, m, prepared, c, XT, share, total, scatter):
    """Complete the rows that matter to component c, and add their conditional covariances to its scatter."""
    d = prepared.means.shape[1]
    r = 0
    while r < m:
        size, n = block.n_missing[r], 0
        widest = _widest(size)
        while r < m and n < widest and block.n_missing[r] == size:
            block.lanes[n] = r
            n += 1 if share[r] > prepared.negligible[c] else 0
            r += 1
        if n:
            width = _fill_lanes(block, n, size)
            _complete_lanes(block, width, size, prepared, c, XT)
            _add_spread_lanes(block, n, width, size, share, total, scatter)
    for i in range(d):
        for j in range(i):
            scatter[j, i] = scatter[i, j]


# --- variances


@kernel
def _complete_diag(block, m, prepared, c, XT):
    """Complete the m rows of a block for component c, and write what that adds to their log-density to its gain."""
    for r in range(m):
        gain = 0.0
        for a in range(block.n_missing[r]):
            j = block.missing[a, r]
            gain += prepared.gains[c, j]
            XT[j, r] = prepared.means[c, j]
        block.gain[r] = gain


@kernel
def _complete_heavy_diag(block, m, prepared, c, XT, share, total, scatter):
    """Complete the rows that matter to component c, and add their conditional variances to its scatter."""
    for r in range(m):
        if share[r] > prepared.negligible[c]:
            mass = np.float64(share[r]) * np.float64(total[r])
            for a in range(block.n_missing[r]):
                j = block.missing[a, r]
                XT[j, r] = prepared.means[c, j]
                scatter[j] += mass / prepared.precisions[c, j]


FULL = Kind(_some, *full.SHAPE.blocks, _complete_full, _complete_heavy_full)
DIAG = Kind(_some, *diag.SHAPE.blocks, _complete_diag, _complete_heavy_diag)
