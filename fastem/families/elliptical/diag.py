r"""Diagonal covariances: each component its own variances.

With p = 1 / sigma, the log-density is offset - sum_j ((x_j - mu_j) p_j)^2 / 2.  A row, component and feature take two
operations of a multiplier for that and two for the moments; subtractions run beside them where a processor has adders
of their own.  Both are tiles in registers (`tiles`, `moments`).

Nanoseconds a row, component and iteration on a core (float64 / float32), floor by the multipliers (64 bytes, two a
cycle) alone: d = 16, k = 16: 2.6 / 1.4, floor 1.2 / 0.6 with the exponential; d = 128, k = 64, where few rows matter to
a component: 7.2 / 3.9, floor 4.3 / 2.2.  Rows from memory instead of a cache are 0.4 of the 2.6.  What did not help:
scaling by one multiply-add instead of subtracting first; blocks of 128 rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem.families.elliptical.records import (
    DiagPrepared,
    DiagStats,
    GaussianParams,
    alive,
    common,
    complete_data,
    prepared_means,
    shifts,
)
from fastem.jit import kernel
from fastem.kernels.cell_pass import accumulator, expectation
from fastem.kernels.moments import add_moments
from fastem.kernels.tiles import diagonal_density
from fastem.records import Layout

# --- kernels


@kernel
def log_joint_block(rows, XT, prepared, work, log_joint, best):
    """Write log-densities, and the largest of each row (see `cells`)."""
    k, d = prepared.means.shape
    scales = prepared.precisions_cholesky
    diagonal_density(rows, d, k, XT, prepared.means, scales, prepared.offsets, log_joint, best)


@kernel
def moments_block(rows, XT, prepared, work, share, factor, heavy, stats):
    """Add counts, sums and sums of squares of a block."""
    add_moments(rows, XT, prepared.means, share, factor, prepared.negligible, heavy, work[1:], stats)


@kernel
def room(prepared):
    """Rows of XT, and of the work array: responsibilities, gathered rows."""
    d = prepared.means.shape[1]
    return d, 1 + d


accumulate = accumulator(log_joint_block, moments_block, room)
expect = expectation(log_joint_block, room)

# --- algebra


def layout(n_components: int, n_features: int) -> Layout:
    """Shape of the additive record."""
    k, d = n_components, n_features
    return Layout(DiagStats, loglik=(), counts=(k,), sums=(k, d), scatter=(k, d))


def constants(source: Any) -> None:
    """Nothing about the data is constant for this covariance type."""


def precisions_cholesky(covariances: np.ndarray) -> np.ndarray:
    """Return 1 / sigma of variances of any shape.

    Raises
    ------
    numpy.linalg.LinAlgError
        When a variance is not positive.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1.0 / np.sqrt(covariances)
    if not np.all(np.isfinite(inverse) & (inverse > 0)):
        raise np.linalg.LinAlgError("a variance is not positive")
    return np.asarray(inverse)


def log_det(precisions_cholesky: np.ndarray, n_features: int) -> np.ndarray:
    """Return the log-determinants (k,) of the precisions' Cholesky factors."""
    return np.log(precisions_cholesky).sum(axis=1)


def prepare(params: GaussianParams, dtype: np.dtype) -> DiagPrepared:
    """Round the parameters to the rows' dtype, relative to the mean of the means."""
    factors = params.precisions_cholesky
    return DiagPrepared(
        precisions_cholesky=np.ascontiguousarray(factors, dtype),
        **common(params, log_det(factors, params.means.shape[1]), dtype),
    )


def covariances_from_stats(
    stats: DiagStats, constants: None, prepared: DiagPrepared, previous: np.ndarray
) -> np.ndarray:
    """Return the M-step's variances (k, d) without regularisation; a dead component keeps its previous ones."""
    counts = np.where(alive(stats), stats.counts, np.inf)
    variances = stats.scatter / counts[:, None] - shifts(stats) ** 2
    return np.where(alive(stats)[:, None], np.maximum(variances, 0.0), previous)


def add_to_diagonal(covariances: np.ndarray, value: float) -> np.ndarray:
    """Return the covariances with `value` added to every variance."""
    return covariances + value


def mean_variance(covariances: np.ndarray) -> float:
    """Return the mean of all variances."""
    return float(covariances.mean())


def add_q_stats(X: np.ndarray, w: np.ndarray, resp: np.ndarray, prepared: DiagPrepared, stats: np.ndarray) -> None:
    """Add the statistics of one cell for given responsibilities (n, k) to the record; its log-likelihood stays."""
    record = layout(*prepared.means.shape).view(stats)
    weighted = resp * w[:, None] if w.size else resp
    rows = X.astype(np.float64) - prepared.origin
    record.counts[:] += weighted.sum(axis=0)
    for c, mean in enumerate(prepared.means):
        centred = rows - mean
        record.sums[c] += weighted[:, c] @ centred
        record.scatter[c] += weighted[:, c] @ centred**2


def expected_log_likelihood(stats: DiagStats, constants: None, prepared: DiagPrepared, params: GaussianParams) -> float:
    """Return Q, the expected complete-data log-likelihood of `params` under the responsibilities of the record."""
    deviation = prepared_means(prepared) - params.means  # the record is centred on prepared's means
    scatter = stats.scatter + 2 * stats.sums * deviation + stats.counts[:, None] * deviation**2
    quadratic = float(np.sum(scatter * params.precisions_cholesky**2))
    return complete_data(stats.counts, params, log_det(params.precisions_cholesky, params.means.shape[1]), quadratic)


def n_covariance_params(n_components: int, n_features: int) -> int:
    """Return the number of free parameters in the covariances."""
    return n_components * n_features


def sample(params: GaussianParams, component: int, normals: np.ndarray) -> np.ndarray:
    """Turn standard normals (m, d) into draws from a component."""
    return params.means[component] + normals / params.precisions_cholesky[component]
