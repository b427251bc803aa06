r"""Spherical covariances: each component one variance for all features.

With p = 1 / sigma and q = |x - mu|^2, the log-density is offset - p^2 q / 2.  The scatter is sum_i r_i q_i: the
distances of the E-step are kept for the block and used again, so that a row and component need 2 d operations for the
density and 2 d for the sums.

Nanoseconds a row, component and iteration on a core (float64 / float32), d = 16, k = 16: 2.2 / 1.2; floor 0.8 / 0.4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem.families.elliptical.diag import add_to_diagonal, mean_variance, precisions_cholesky
from fastem.families.elliptical.records import (
    GaussianParams,
    SphericalPrepared,
    SphericalStats,
    alive,
    common,
    complete_data,
    prepared_means,
    shifts,
)
from fastem.jit import kernel
from fastem.kernels.cell_pass import accumulator, expectation
from fastem.kernels.moments import add_sums
from fastem.kernels.tiles import round_density
from fastem.records import Layout

__all__ = ["add_to_diagonal", "mean_variance", "precisions_cholesky"]

# --- kernels


@kernel
def log_joint_block(rows, XT, prepared, work, log_joint, best):
    """Write log-densities, and the largest of each row (see `cells`); keep the distances."""
    k, d = prepared.means.shape
    scales = prepared.precisions_cholesky
    round_density(rows, d, k, XT, prepared.means, scales, prepared.offsets, work, log_joint, best)


@kernel
def moments_block(rows, XT, prepared, work, share, factor, heavy, stats):
    """Add counts, sums and the weighted distances of a block."""
    k, d = prepared.means.shape
    zero = XT.dtype.type(0)
    for c in range(k):
        s = zero
        for r in range(rows if heavy[c] > 0 else 0):
            resp = share[c, r] * factor[r]
            s += resp * work[c, r] if resp > zero else zero
        stats[1 + k + k * d + c] += s
    add_sums(rows, XT, prepared.means, share, factor, prepared.negligible, heavy, work[k:], stats)


@kernel
def room(prepared):
    """Rows of XT, and of the work array: distances to each component, responsibilities, gathered rows."""
    k, d = prepared.means.shape
    return d, k + 1 + d


accumulate = accumulator(log_joint_block, moments_block, room)
expect = expectation(log_joint_block, room)

# --- algebra


def layout(n_components: int, n_features: int) -> Layout:
    """Shape of the additive record."""
    k, d = n_components, n_features
    return Layout(SphericalStats, loglik=(), counts=(k,), sums=(k, d), scatter=(k,))


def constants(source: Any) -> None:
    """Nothing about the data is constant for this covariance type."""


def log_det(precisions_cholesky: np.ndarray, n_features: int) -> np.ndarray:
    """Return the log-determinants (k,) of the precisions' Cholesky factors."""
    return n_features * np.log(precisions_cholesky)


def prepare(params: GaussianParams, dtype: np.dtype) -> SphericalPrepared:
    """Round the parameters to the rows' dtype, relative to the mean of the means."""
    factors = params.precisions_cholesky
    return SphericalPrepared(
        precisions_cholesky=np.ascontiguousarray(factors, dtype),
        **common(params, log_det(factors, params.means.shape[1]), dtype),
    )


def covariances_from_stats(
    stats: SphericalStats, constants: None, prepared: SphericalPrepared, previous: np.ndarray
) -> np.ndarray:
    """Return the M-step's variances (k,) without regularisation; a dead component keeps its previous one."""
    shift = shifts(stats)
    counts = np.where(alive(stats), stats.counts, np.inf)
    variances = (stats.scatter / counts - np.sum(shift**2, axis=1)) / shift.shape[1]
    return np.where(alive(stats), np.maximum(variances, 0.0), previous)


def add_q_stats(X: np.ndarray, w: np.ndarray, resp: np.ndarray, prepared: SphericalPrepared, stats: np.ndarray) -> None:
    """Add the statistics of one cell for given responsibilities (n, k) to the record; its log-likelihood stays."""
    record = layout(*prepared.means.shape).view(stats)
    weighted = resp * w[:, None] if w.size else resp
    rows = X.astype(np.float64) - prepared.origin
    record.counts[:] += weighted.sum(axis=0)
    for c, mean in enumerate(prepared.means):
        centred = rows - mean
        record.sums[c] += weighted[:, c] @ centred
        record.scatter[c] += weighted[:, c] @ np.sum(centred**2, axis=1)


def expected_log_likelihood(
    stats: SphericalStats, constants: None, prepared: SphericalPrepared, params: GaussianParams
) -> float:
    """Return Q, the expected complete-data log-likelihood of `params` under the responsibilities of the record."""
    deviation = prepared_means(prepared) - params.means  # the record is centred on prepared's means
    moved = 2 * np.sum(stats.sums * deviation, axis=1) + stats.counts * np.sum(deviation**2, axis=1)
    quadratic = float(np.sum((stats.scatter + moved) * params.precisions_cholesky**2))
    return complete_data(stats.counts, params, log_det(params.precisions_cholesky, params.means.shape[1]), quadratic)


def n_covariance_params(n_components: int, n_features: int) -> int:
    """Return the number of free parameters in the covariances."""
    return n_components


def sample(params: GaussianParams, component: int, normals: np.ndarray) -> np.ndarray:
    """Turn standard normals (m, d) into draws from a component."""
    return params.means[component] + normals / params.precisions_cholesky[component]
