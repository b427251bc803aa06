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

import numpy as np

from fastem.families.elliptical.records import Stats, sums_of_logarithms
from fastem.families.elliptical.shape import Blocks, Variances
from fastem.jit import kernel
from fastem.kernels.cell_pass import passes
from fastem.kernels.moments import add_moments
from fastem.kernels.tiles import diagonal_density
from fastem.kernels.views import view_of
from fastem.records import Fields

# --- kernels


@kernel
def log_joint_block(rows, XT, prepared, work, log_joint, best):
    """Write log-densities, and the largest of each row (see `cells`)."""
    k, d = prepared.means.shape
    scales = prepared.precisions_cholesky
    diagonal_density(rows, d, k, XT, prepared.means, scales, prepared.offsets, log_joint, best)


@kernel
def moments_block(rows, XT, prepared, work, share, factor, heavy, record):
    """Add counts, sums and sums of squares of a block."""
    means, negligible, Y = prepared.means, prepared.negligible, work[1:]
    add_moments(rows, XT, means, share, factor, negligible, heavy, Y, record.counts, record.sums, record.scatter)


@kernel
def room(prepared):
    """Rows of XT, and of the work array: responsibilities, gathered rows."""
    d = prepared.means.shape[1]
    return d, 1 + d


FIELDS = Fields(Stats, loglik="", counts="k", sums="kd", scatter="kd")

# --- algebra


class Diag(Variances):
    """Each component its own variances (k, d)."""

    name = "diag"
    fields = FIELDS
    blocks = Blocks(log_joint_block, moments_block, room, view_of(FIELDS))
    accumulate, expect = passes(*blocks)

    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features

    def _add_given(self, record: Stats, c: int, weights: np.ndarray, centred: np.ndarray) -> None:
        record.sums[c] += weights @ centred
        record.scatter[c] += weights @ centred**2

    def _variances(self, scatter: np.ndarray, counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
        return scatter / counts[:, None] - shift**2

    def scatter_about(self, stats: Stats, deviation: np.ndarray) -> np.ndarray:
        return stats.scatter + 2 * stats.sums * deviation + stats.counts[:, None] * deviation**2

    def spread(self, counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
        return np.square(shift)

    def outer(self, shift: np.ndarray) -> np.ndarray:
        return np.square(shift)

    def log_det(self, precisions_cholesky: np.ndarray, n_features: int) -> np.ndarray:
        return sums_of_logarithms(precisions_cholesky)

    def block(self, covariances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return covariances[:, rows]

    def as_matrices(self, stored: np.ndarray, n_components: int, n_features: int) -> np.ndarray:
        return stored[:, :, None] * np.eye(n_features)

    def of_matrices(self, matrices: np.ndarray) -> np.ndarray:
        return np.einsum("kjj->kj", matrices)

    def of_variances(self, n_components: int, variances: np.ndarray) -> np.ndarray:
        return np.broadcast_to(variances, self.array_shape(n_components, len(variances))).copy()


SHAPE = Diag()
