r"""Full covariances: each component its own matrix.

With P upper triangular, precision = P P', and y = (x - mu) P, the log-density is offset - |y|^2 / 2.  An iteration
needs d (d + 1) / 2 multiply-adds a row and component for y and as many for the scatter, both of which work on 4 x 4
tiles of features (16 multiply-adds for 8 loads); up to two features fit in registers altogether.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem.families.cells import accumulator, expectation, only_log_joint
from fastem.families.gaussian.records import (
    FullPrepared,
    FullStats,
    GaussianParams,
    alive,
    common,
    complete_data,
    prepared_means,
    shifts,
)
from fastem.jit import kernel
from fastem.stats import Layout

# --- kernels


@kernel
def _log_joint_block(rows, XT, prepared, work, log_joint, best):
    k, d = prepared.means.shape
    dp = XT.shape[0]
    half = XT.dtype.type(0.5)
    zero = XT.dtype.type(0)
    factors = prepared.precisions_cholesky
    D, Y, q = work[:dp], work[2 * dp : 2 * dp + 4], work[2 * dp + 4]
    for r in range(rows):
        best[r] = -np.inf
    for c in range(k):
        P = factors[c]
        offset = XT.dtype.type(prepared.offsets[c])
        if dp == 2:  # no intermediate array at all
            p00, p01, p11 = P[0, 0], P[0, 1], P[1, 1]
            m0 = prepared.means[c, 0]
            m1 = zero if d == 1 else prepared.means[c, 1]
            for r in range(rows):
                x0 = XT[0, r] - m0
                x1 = XT[1, r] - m1
                y0 = p00 * x0
                y1 = p01 * x0 + p11 * x1
                value = offset - half * (y0 * y0 + y1 * y1)
                log_joint[c, r] = value
                best[r] = value if value > best[r] else best[r]
            continue
        for j in range(d):
            mean = prepared.means[c, j]
            for r in range(rows):
                D[j, r] = XT[j, r] - mean
        for r in range(rows):
            q[r] = zero
        for i in range(0, dp, 4):
            for r in range(rows):
                Y[0, r] = zero
                Y[1, r] = zero
                Y[2, r] = zero
                Y[3, r] = zero
            for j in range(0, i, 4):
                p00, p01, p02, p03 = P[j, i], P[j, i + 1], P[j, i + 2], P[j, i + 3]
                p10, p11, p12, p13 = P[j + 1, i], P[j + 1, i + 1], P[j + 1, i + 2], P[j + 1, i + 3]
                p20, p21, p22, p23 = P[j + 2, i], P[j + 2, i + 1], P[j + 2, i + 2], P[j + 2, i + 3]
                p30, p31, p32, p33 = P[j + 3, i], P[j + 3, i + 1], P[j + 3, i + 2], P[j + 3, i + 3]
                for r in range(rows):
                    x0, x1, x2, x3 = D[j, r], D[j + 1, r], D[j + 2, r], D[j + 3, r]
                    Y[0, r] += p00 * x0 + p10 * x1 + p20 * x2 + p30 * x3
                    Y[1, r] += p01 * x0 + p11 * x1 + p21 * x2 + p31 * x3
                    Y[2, r] += p02 * x0 + p12 * x1 + p22 * x2 + p32 * x3
                    Y[3, r] += p03 * x0 + p13 * x1 + p23 * x2 + p33 * x3
            p00, p01, p02, p03 = P[i, i], P[i, i + 1], P[i, i + 2], P[i, i + 3]
            p11, p12, p13 = P[i + 1, i + 1], P[i + 1, i + 2], P[i + 1, i + 3]
            p22, p23, p33 = P[i + 2, i + 2], P[i + 2, i + 3], P[i + 3, i + 3]
            for r in range(rows):
                x0, x1, x2, x3 = D[i, r], D[i + 1, r], D[i + 2, r], D[i + 3, r]
                y0 = Y[0, r] + p00 * x0
                y1 = Y[1, r] + p01 * x0 + p11 * x1
                y2 = Y[2, r] + p02 * x0 + p12 * x1 + p22 * x2
                y3 = Y[3, r] + p03 * x0 + p13 * x1 + p23 * x2 + p33 * x3
                q[r] += y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3
        for r in range(rows):
            value = offset - half * q[r]
            log_joint[c, r] = value
            best[r] = value if value > best[r] else best[r]


@kernel
def scatter_tiles(
    rows,
    d,
    D,  # (dp, STRIDE), dp >= d whole tiles
    W,  # (dp, STRIDE)
    T,  # (16,) room to work in
    scatter,  # (d * d,) float64 OUT: the symmetric W D' is added
):
    """Add a sum of outer products over the rows of a block."""
    zero = D.dtype.type(0)
    for i in range(0, D.shape[0], 4):
        for j in range(0, i + 4, 4):
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
            for r in range(rows):
                x0, x1, x2, x3 = D[j, r], D[j + 1, r], D[j + 2, r], D[j + 3, r]
                w0, w1, w2, w3 = W[i, r], W[i + 1, r], W[i + 2, r], W[i + 3, r]
                s00 += w0 * x0
                s01 += w0 * x1
                s02 += w0 * x2
                s03 += w0 * x3
                s10 += w1 * x0
                s11 += w1 * x1
                s12 += w1 * x2
                s13 += w1 * x3
                s20 += w2 * x0
                s21 += w2 * x1
                s22 += w2 * x2
                s23 += w2 * x3
                s30 += w3 * x0
                s31 += w3 * x1
                s32 += w3 * x2
                s33 += w3 * x3
            T[0], T[1], T[2], T[3] = s00, s01, s02, s03
            T[4], T[5], T[6], T[7] = s10, s11, s12, s13
            T[8], T[9], T[10], T[11] = s20, s21, s22, s23
            T[12], T[13], T[14], T[15] = s30, s31, s32, s33
            for a in range(min(4, d - i)):
                for b in range(min(4, d - j)):
                    if j < i:
                        scatter[(i + a) * d + j + b] += T[4 * a + b]
                        scatter[(j + b) * d + i + a] += T[4 * a + b]
                    else:  # w x' is symmetric only to rounding
                        scatter[(i + a) * d + j + b] += T[4 * max(a, b) + min(a, b)]


@kernel
def _moments_block(rows, XT, prepared, work, share, factor, masses, stats):
    k, d = prepared.means.shape
    dp = XT.shape[0]
    zero = XT.dtype.type(0)
    D, W, q, T = work[:dp], work[dp : 2 * dp], work[2 * dp + 4], work[2 * dp]
    for c in range(k):
        if masses[c] <= prepared.negligible[c]:
            continue
        sums = 1 + k + c * d
        scatter = 1 + k + k * d + c * d * d
        if dp == 2:
            m0 = prepared.means[c, 0]
            m1 = zero if d == 1 else prepared.means[c, 1]
            n = s0 = s1 = s00 = s01 = s11 = zero
            for r in range(rows):
                resp = share[c, r] * factor[r]
                x0 = XT[0, r] - m0
                x1 = XT[1, r] - m1
                w0 = resp * x0
                w1 = resp * x1
                n += resp
                s0 += w0
                s1 += w1
                s00 += w0 * x0
                s01 += w0 * x1
                s11 += w1 * x1
            stats[1 + c] += n
            stats[sums] += s0
            stats[scatter] += s00
            if d == 2:
                stats[sums + 1] += s1
                stats[scatter + 1] += s01
                stats[scatter + 2] += s01
                stats[scatter + 3] += s11
            continue
        n = zero
        for r in range(rows):
            resp = share[c, r] * factor[r]
            q[r] = resp
            n += resp
        stats[1 + c] += n
        for j in range(d):
            mean = prepared.means[c, j]
            s = zero
            for r in range(rows):
                x = XT[j, r] - mean
                v = q[r] * x
                D[j, r] = x
                W[j, r] = v
                s += v
            stats[sums + j] += s
        scatter_tiles(rows, d, D, W, T, stats[scatter : scatter + d * d])


@kernel
def _room(prepared):
    """Rows of XT, and of the work array: rows minus the mean, the same weighted, one tile, distances."""
    dp = prepared.precisions_cholesky.shape[1]
    return dp, 2 * dp + 5


accumulate = accumulator(_log_joint_block, _moments_block, _room)
expect = expectation(_log_joint_block, _room)
log_joint = only_log_joint(expect)

# --- algebra


def padded_features(d: int) -> int:
    """Features after padding to whole tiles: 2, or a multiple of 4."""
    return 2 if d <= 2 else -(-d // 4) * 4


def layout(n_components: int, n_features: int) -> Layout:
    """Shape of the additive record."""
    k, d = n_components, n_features
    return Layout(FullStats, loglik=(), counts=(k,), sums=(k, d), scatter=(k, d, d))


def constants(source: Any) -> None:
    """Nothing about the data is constant for this covariance type."""


def precisions_cholesky(covariances: np.ndarray) -> np.ndarray:
    """Return upper triangular P with inverse covariance P P', of each matrix (k, d, d).

    Raises
    ------
    numpy.linalg.LinAlgError
        When a matrix is not positive definite.
    """
    return np.array([precision_cholesky(covariance) for covariance in covariances])


def precision_cholesky(covariance: np.ndarray) -> np.ndarray:
    """Return upper triangular P (d, d) with inverse covariance P P'."""
    from scipy.linalg import lapack

    lower, info = lapack.dpotrf(covariance, lower=1, clean=1)
    if info == 0:
        inverse, info = lapack.dtrtri(lower, lower=1)
    if info != 0 or not np.all(np.isfinite(inverse)):
        raise np.linalg.LinAlgError("a covariance is not positive definite")
    return np.ascontiguousarray(inverse.T)


def log_det(precisions_cholesky: np.ndarray, n_features: int) -> np.ndarray:
    """Return the log-determinants (k,) of the precisions' Cholesky factors."""
    return np.log(np.diagonal(precisions_cholesky, axis1=1, axis2=2)).sum(axis=1)


def prepare(params: GaussianParams, dtype: np.dtype) -> FullPrepared:
    """Round the parameters to the rows' dtype, relative to the mean of the means."""
    k, d = params.means.shape
    dp = padded_features(d)
    factors = np.zeros((k, dp, dp), dtype)
    factors[:, :d, :d] = params.precisions_cholesky
    return FullPrepared(precisions_cholesky=factors, **common(params, log_det(params.precisions_cholesky, d), dtype))


def covariances_from_stats(
    stats: FullStats, constants: None, prepared: FullPrepared, previous: np.ndarray
) -> np.ndarray:
    """Return the M-step's covariances (k, d, d) without regularisation; a dead component keeps its previous one."""
    shift = shifts(stats)
    counts = np.where(alive(stats), stats.counts, np.inf)
    covariances = stats.scatter / counts[:, None, None] - shift[:, :, None] * shift[:, None, :]
    return np.where(alive(stats)[:, None, None], covariances, previous)


def add_to_diagonal(covariances: np.ndarray, value: float) -> np.ndarray:
    """Return the covariances with `value` added to every variance."""
    return covariances + value * np.eye(covariances.shape[-1])


def mean_variance(covariances: np.ndarray) -> float:
    """Return the mean of all variances."""
    return float(np.diagonal(covariances, axis1=1, axis2=2).mean())


def add_q_stats(X: np.ndarray, w: np.ndarray, resp: np.ndarray, prepared: FullPrepared, stats: np.ndarray) -> None:
    """Add the statistics of one cell for given responsibilities (n, k) to the record; its log-likelihood stays."""
    record = layout(*prepared.means.shape).view(stats)
    weighted = resp * w[:, None] if w.size else resp
    record.counts[:] += weighted.sum(axis=0)
    for c in range(len(record.counts)):
        centred = np.float64(1) * (X - prepared.origin) - prepared.means[c]
        products = centred * weighted[:, c, None]
        record.sums[c] += products.sum(axis=0)
        record.scatter[c] += products.T @ centred


def expected_log_likelihood(stats: FullStats, constants: None, prepared: FullPrepared, params: GaussianParams) -> float:
    """Return Q, the expected complete-data log-likelihood of `params` under the responsibilities of the record."""
    deviation = prepared_means(prepared) - params.means  # the record is centred on prepared's means
    quadratic = 0.0
    for c, factor in enumerate(params.precisions_cholesky):
        cross = np.outer(stats.sums[c], deviation[c])
        scatter = stats.scatter[c] + cross + cross.T + stats.counts[c] * np.outer(deviation[c], deviation[c])
        quadratic += float(np.sum((scatter @ factor) * factor))
    return complete_data(stats.counts, params, log_det(params.precisions_cholesky, params.means.shape[1]), quadratic)


def n_covariance_params(n_components: int, n_features: int) -> int:
    """Return the number of free parameters in the covariances."""
    return n_components * n_features * (n_features + 1) // 2


def sample(params: GaussianParams, component: int, normals: np.ndarray) -> np.ndarray:
    """Turn standard normals (m, d) into draws from a component: the precision's factor is solved for."""
    from scipy.linalg import solve_triangular

    factor = params.precisions_cholesky[component]
    return params.means[component] + solve_triangular(factor, normals.T, trans="T").T
