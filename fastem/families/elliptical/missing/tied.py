r"""Rows with missing values where all components share one covariance.

With P upper triangular, precision = P P', rows are whitened, y = x P, and a missing feature m moves y along row m of P.
So what is observed decides the part of y that is orthogonal to those rows, whatever stands for the missing values: with
Q an orthonormal basis of them, made once for a row and all components, and w_k = mu_k P,

    |x_o - mu_o|^2 in the metric of Sigma_oo = |z_k|^2,   z_k = (I - Q'Q)(y - w_k),   det L_mm = the lengths squared,

z_k is the whitened residual of the completed row, and Q'Q the whitened conditional covariance of what is missing.  The
scatter of the complete rows is a constant, as it is without missing values.  That of the others is one outer product
for a row, of its mean completion, and for each missing feature another, of what the completions vary by:
Q' (V + I) Q, V = sum_k r_k d_k d_k', d_k = Q (w_k - sum_l r_l w_l).  A row and component need 4 |m| d operations.
All of it is float64, for rows that miss as many features side by side.

An iteration beside one over complete rows, 200,000 x 16, 8 components: 1.2 times the time for complete rows among
others that are not; random patterns 3 times (1 % of the values missing) and 11 to 15 times (10 %, 82 % of the rows
incomplete); through the kernels of `full` it was 4, 7 and 23 times.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastem.families.elliptical import tied
from fastem.families.elliptical.missing.completion import Kind
from fastem.families.elliptical.missing.passes import Density, assemble
from fastem.families.elliptical.records import LOG_2PI, MissingTiedStats
from fastem.jit import kernel
from fastem.kernels.blocks import STRIDE, padded
from fastem.kernels.elementary import log
from fastem.kernels.products import highest
from fastem.kernels.scatter import add_scatter
from fastem.kernels.views import view_of
from fastem.records import Fields

_LANES = 8  # of a vector of float64, at most
_RUN = 64  # rows that are taken together: their bases stay in the first cache


class MissingTiedPrepared(NamedTuple):
    """Parameters of an E-step: those of `tied`, and float64 ones."""

    origin: np.ndarray  # (d,)
    means: np.ndarray  # (k, d)
    log_weights: np.ndarray  # (k,) float64
    precisions_cholesky: np.ndarray  # (dp, dp)
    whitened: np.ndarray  # (k, d)
    offsets: np.ndarray  # (k,) float64
    negligible: np.ndarray  # (k,) float64
    factor: np.ndarray  # (d, d) float64: P
    inverse: np.ndarray  # (d, d) float64: inverse of P
    centres: np.ndarray  # (k, d) float64: means @ P


FIELDS = Fields(
    MissingTiedStats, loglik="", counts="k", sums="kd", incomplete="dd", incomplete_sums="d", incomplete_weight=""
)


@kernel
def _run_end(block, first, m, d):
    """Return where the run of rows ends that begins at `first` and is taken together: they miss as many features."""
    size = block.n_missing[first]
    width = min(_RUN, block.factors.shape[0] // (size * d), block.inverse.shape[0] // (size * (size + 5) // 2))
    end = first + 1
    while end < m and end < first + width and block.n_missing[end] == size:
        end += 1
    return end


@kernel
def _bases(block, first, end, factor, gain):
    """Return bases (size * d, rows) of what rows first..end miss, made of rows of P by Gram and Schmidt.

    Their gain becomes what the missing features add to the log-density.
    """
    d, size, width = factor.shape[0], block.n_missing[first], end - first
    Q = block.factors[: size * d * width].reshape(size * d, width)
    dot, least = block.scratch[0], block.scratch[1]
    for t in range(width):
        gain[t] = 0.5 * LOG_2PI * size
    for a in range(size):
        own = Q[a * d : (a + 1) * d]
        for t in range(width):
            row = block.missing[a, first + t]
            square = 0.0
            for j in range(d):
                own[j, t] = factor[row, j]
                square += factor[row, j] * factor[row, j]
            least[t] = 1e-30 * square  # what rounding leaves of a singular matrix
        for b in range(a):
            _take_out(Q[b * d : (b + 1) * d], own, dot)
        for t in range(width):
            dot[t] = 0.0
        for j in range(d):
            for t in range(width):
                dot[t] += own[j, t] * own[j, t]
        for t in range(width):
            square = max(dot[t], least[t])
            gain[t] -= 0.5 * log(square)
            dot[t] = 1.0 / math.sqrt(square)
        for j in range(d):
            for t in range(width):
                own[j, t] *= dot[t]
    return Q


@kernel
def _take_out(
    q,  # (d, width)
    z,  # (d, >= width) INOUT
    dot,  # (>= width,) OUT
):
    """Write q'z of each row, and take that part out of z."""
    d, width = q.shape
    for t in range(width):
        dot[t] = 0.0
    for j in range(d):
        for t in range(width):
            dot[t] += q[j, t] * z[j, t]
    for j in range(d):
        for t in range(width):
            z[j, t] -= dot[t] * q[j, t]


@kernel
def _whiten(
    XT,  # (dp, STRIDE)
    first,
    end,
    factor,  # (d, d)
    y,  # (d, STRIDE) float64 OUT
):
    """Whiten rows first..end of a block."""
    d = factor.shape[0]
    for j in range(d):
        for t in range(end - first):
            y[j, t] = 0.0
        for i in range(j + 1):
            slope = factor[i, j]
            for t in range(end - first):
                y[j, t] += slope * np.float64(XT[i, first + t])


@kernel
def _log_joint(m, rows, incomplete, prepared, s):
    """Write log p(x, z = k) of a block, and the largest of each row."""
    if not incomplete:
        tied.log_joint_block(rows, s.XT, prepared, s.work, s.share, s.best)
        return
    k, d = prepared.means.shape
    block, share, best = s.block, s.share, s.best
    y, z = block.rows.reshape(d, STRIDE), block.v
    square, dot = np.empty(STRIDE), block.scratch[0]
    first = 0
    while first < m:
        end = _run_end(block, first, m, d)
        width, size = end - first, block.n_missing[first]
        Q = _bases(block, first, end, prepared.factor, block.gain)
        _whiten(s.XT, first, end, prepared.factor, y)
        for c in range(k):
            for t in range(width):
                square[t] = 0.0
            for j in range(d):
                centre = prepared.centres[c, j]
                for t in range(width):
                    z[j, t] = y[j, t] - centre
            for a in range(size):
                _take_out(Q[a * d : (a + 1) * d], z, dot)
            for j in range(d):
                for t in range(width):
                    square[t] += z[j, t] * z[j, t]
            for t in range(width):
                share[c, first + t] = share.dtype.type(prepared.offsets[c] + block.gain[t] - 0.5 * square[t])
        first = end
    for c in range(k):
        for r in range(m, rows):
            share[c, r] = 0
    highest(rows, share, best)


@kernel
def _mean_centres(s, first, width, prepared, u, mass):
    """Write the whitened means (d, STRIDE) of the components, weighted by a row's responsibilities, and their sum."""
    k, d = prepared.means.shape
    for t in range(width):
        mass[t] = 0.0
    for j in range(d):
        for t in range(width):
            u[j, t] = 0.0
    for c in range(k):
        if s.heavy[c] > 0:
            resp = s.block.scratch[0]
            for t in range(width):
                resp[t] = np.float64(s.share[c, first + t]) * np.float64(s.total[first + t])
                mass[t] += resp[t]
            for j in range(d):
                centre = prepared.centres[c, j]
                for t in range(width):
                    u[j, t] += resp[t] * centre
    for j in range(d):
        for t in range(width):
            u[j, t] = u[j, t] / mass[t] if mass[t] > 0 else 0.0


@kernel
def _add_components(s, first, width, size, prepared, Q, y, u, V, E, sums, counts):
    """Add counts and whitened sums of the rows, and to V (triangle, width) what their completions vary by."""
    k, d = prepared.means.shape
    z, resp = s.block.v, s.block.scratch[1]
    for c in range(k):
        if s.heavy[c] == 0:
            continue
        n = 0.0
        for t in range(width):
            resp[t] = np.float64(s.share[c, first + t]) * np.float64(s.total[first + t])
            n += resp[t]
        counts[c] += n
        for j in range(d):
            centre = prepared.centres[c, j]
            for t in range(width):
                z[j, t] = centre - u[j, t]
        for a in range(size):
            _take_out(Q[a * d : (a + 1) * d], z, E[a])
            for b in range(a + 1):
                at = a * (a + 1) // 2 + b
                for t in range(width):
                    V[at, t] += resp[t] * E[a, t] * E[b, t]
        for j in range(d):
            total = 0.0
            for t in range(width):
                total += resp[t] * (y[j, t] - z[j, t])
            sums[c, j] += total


@kernel
def _add_spread(width, size, Q, V, Z, T, scatter):
    """Add Q' V Q to the scatter, V (triangle, width) positive definite; V becomes its Cholesky factor."""
    d = Q.shape[0] // size
    for a in range(size):
        row = a * (a + 1) // 2
        for b in range(a + 1):
            other = b * (b + 1) // 2
            for e in range(b):
                for t in range(width):
                    V[row + b, t] -= V[row + e, t] * V[other + e, t]
            for t in range(width):
                if a == b:
                    V[row + a, t] = math.sqrt(max(V[row + a, t], 0.0))
                else:
                    V[row + b, t] = V[row + b, t] / V[other + b, t] if V[other + b, t] > 0 else 0.0
    for a in range(size):
        for j in range(d):
            for t in range(width):
                Z[j, t] = 0.0
            for b in range(a, size):
                at = b * (b + 1) // 2 + a
                for t in range(width):
                    Z[j, t] += V[at, t] * Q[b * d + j, t]
        add_scatter((width + _LANES - 1) // _LANES * _LANES, d, Z, T, scatter)


@kernel
def _moments(m, incomplete, prepared, s, record):
    """Add the moments of a block, given its shares."""
    if not incomplete:
        tied.moments_block(padded(m), s.XT, prepared, s.work, s.share, s.total, s.heavy, record)
        return
    k, d = prepared.means.shape
    block = s.block
    y, u = block.rows.reshape(d, STRIDE), block.shifted.reshape(d, STRIDE)
    Z, sums = np.zeros(((d + 3) // 4 * 4, STRIDE)), np.zeros((k, d))
    T, mass = np.empty(16), np.empty(STRIDE)
    scatter = record.incomplete
    first = 0
    while first < m:
        end = _run_end(block, first, m, d)
        width, size = end - first, block.n_missing[first]
        Q = _bases(block, first, end, prepared.factor, block.gain)
        _whiten(s.XT, first, end, prepared.factor, y)
        _mean_centres(s, first, width, prepared, u, mass)
        triangle = size * (size + 1) // 2
        room = block.inverse[: (triangle + size) * width].reshape(triangle + size, width)
        V, E = room[:triangle], room[triangle:]
        for at in range(triangle):
            for t in range(width):
                V[at, t] = 0.0
        for a in range(size):
            for t in range(width):
                V[a * (a + 1) // 2 + a, t] = mass[t]
        for j in range(d):
            for t in range(width):
                y[j, t] -= u[j, t]
        for a in range(size):
            _take_out(Q[a * d : (a + 1) * d], y, E[a])
        _add_components(s, first, width, size, prepared, Q, y, u, V, E, sums, record.counts)
        rows = (width + _LANES - 1) // _LANES * _LANES
        for t in range(width):
            record.incomplete_weight[0] += mass[t]
        for j in range(d):
            total = 0.0
            for t in range(width):
                Z[j, t] = math.sqrt(mass[t]) * (y[j, t] + u[j, t])
                total += mass[t] * (y[j, t] + u[j, t])
            record.incomplete_sums[j] += total
            for t in range(width, rows):
                Z[j, t] = 0.0
        add_scatter(rows, d, Z, T, scatter)
        _add_spread(width, size, Q, V, Z, T, scatter)
        first = end
    for c in range(k):
        for j in range(d):
            total = 0.0
            for i in range(j + 1):
                total += sums[c, i] * prepared.inverse[i, j]
            record.sums[c, j] += total


KERNELS = assemble(
    Kind(None, None, None, tied.room, None, None, None), Density(), view_of(FIELDS), _log_joint, _moments
)
