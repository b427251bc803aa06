r"""One covariance for all components.

With P upper triangular and precision = P P', rows are whitened once for all components, y = x P, and the log-density is
offset - |y - mu P|^2 / 2: d (d + 1) / 2 multiply-adds a row, and 2 d operations a row and component.  The M-step needs
no scatter of the components, because sum_ik r_ik (x_i - mu_k)(x_i - mu_k)' is the scatter of the data, which is a
constant, less that of the means; only the sums cost another 2 d operations a row and component.

Nanoseconds a row, component and iteration on a core (float64 / float32), d = 16, k = 16: 2.4 / 1.3; floor 0.9 / 0.5.
From `WIDE` features on the pass is that of `kernels/wide_shared.py`.  Milliseconds of an iteration on a core of 16 / 32
GFLOP/s, and the floor: whitening, distances and sums, and in float64 the factor and its inverse, 2 d^3 / 3:

    rows, d, k       float64    floor    float32    floor
    20k, 256, 8      118        96       65         48
    10k, 512, 4      180        176      98         91
    1k, 784, 10      76         61       56         41
    5k, 1024, 4      380        379      226        212
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import grid
from fastem._native import mixtures
from fastem.families.data_moments import TotalScatter, total_scatter
from fastem.families.elliptical.full import SHAPE as FULL
from fastem.families.elliptical.full import of_precisions, padded_features, precisions_cholesky
from fastem.families.elliptical.records import (
    GaussianParams,
    MissingTiedStats,
    TiedPrepared,
    TiedStats,
    alive,
    common,
    complete_data,
    deviations,
    prepared_means,
    sums_of_logarithms,
    updated_means,
)
from fastem.families.elliptical.shape import Blocks, Matrices
from fastem.jit import kernel
from fastem.kernels.cell_pass import passes
from fastem.kernels.moments import add_sums
from fastem.kernels.tiles import plain_density
from fastem.kernels.triangles import about_means
from fastem.kernels.views import view_of
from fastem.kernels.wide_pass import WideExpectation
from fastem.kernels.wide_shared import SharedDistances, WideSums
from fastem.records import Fields

# Features from which on panels are packed (`kernels/wide_shared.py`).
WIDE = 192

# --- kernels


@kernel
def log_joint_block(rows, XT, prepared, work, log_joint, best):
    """Write log-densities of whitened rows, and the largest of each row (see `cells`)."""
    dp = XT.shape[0]
    zero = XT.dtype.type(0)
    P, whitened = prepared.precisions_cholesky, prepared.whitened
    Y = work[:dp]
    for i in range(0, dp, 2):
        for r in range(rows):
            Y[i, r] = zero
            Y[i + 1, r] = zero
        for j in range(0, i + 2, 2):
            p00, p01, p10, p11 = P[j, i], P[j, i + 1], P[j + 1, i], P[j + 1, i + 1]
            for r in range(rows):
                x0, x1 = XT[j, r], XT[j + 1, r]
                Y[i, r] += p00 * x0 + p10 * x1
                Y[i + 1, r] += p01 * x0 + p11 * x1
    k, d = prepared.means.shape
    plain_density(rows, d, k, Y, whitened, prepared.offsets, log_joint, best)


@kernel
def moments_block(rows, XT, prepared, work, share, factor, heavy, record):
    """Add counts and sums of a block."""
    means, negligible = prepared.means, prepared.negligible
    add_sums(rows, XT, means, share, factor, negligible, heavy, work, record.counts, record.sums)


@kernel
def room(prepared):
    """Rows of XT, and of the work array: whitened rows, distances."""
    dp = prepared.precisions_cholesky.shape[0]
    return dp, dp + 1


FIELDS = Fields(TiedStats, loglik="", counts="k", sums="kd")

# --- algebra


def scatter_about(stats: TiedStats, constants: TotalScatter, prepared: TiedPrepared, means: np.ndarray) -> np.ndarray:
    """Scatter (d, d) of the rows about any means, each weighted by its responsibility.

    All relative to the centre of the data: sum r (x - mu)(x - mu)' = sum w x x' - sum_k (a mu' + mu a' - n mu mu') with
    n the counts and a = sum r x.
    """
    centred, means = prepared_means(prepared) - constants.centre, means - constants.centre
    if centred.shape[1] <= mixtures.MOST_FEATURES:
        return mixtures.scatter_about(stats.counts, stats.sums, centred, means, constants.scatter)
    moments = stats.sums + stats.counts[:, None] * centred
    scatter = np.empty(constants.scatter.shape)
    about_means(constants.scatter, moments, stats.counts, means, scatter)
    return scatter


class Tied(Matrices):
    """One matrix (d, d) for all components."""

    name = "tied"
    shared = True
    fields = FIELDS
    blocks = Blocks(log_joint_block, moments_block, room, view_of(FIELDS))
    _accumulate, _expect = passes(*blocks)
    accumulate, expect = WideSums(WIDE, _accumulate, FIELDS), WideExpectation(WIDE, _expect, SharedDistances)

    wide = FULL

    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_features, n_features

    def constants(self, source: Any) -> TotalScatter:
        """Return weight, mean and scatter of all rows of a source."""
        d, X = source.n_features, source.array
        if X is None or len(X) > grid.CELL or d > mixtures.MOST_FEATURES:
            return total_scatter(source)
        moments = mixtures.total_scatters(X, source.sample_weight, np.array([0, len(X)]))[0]
        return TotalScatter(np.asarray(source.total_weight), moments[:d], moments[d:].reshape(d, d))

    def constants_of_part(self, source: Any) -> TotalScatter:
        """Return weight, mean and scatter of some of the rows."""
        return self.constants(source)

    def record_for_missing(self, stats: TiedStats) -> Any:
        """Add what incomplete rows would have brought: nothing."""
        d = stats.sums.shape[1]
        return MissingTiedStats(*stats, np.zeros((d, d)), np.zeros(d), np.zeros(()))

    def constants_of_groups(self, groups: Any) -> np.ndarray:
        """Return mean and scatter of the rows of each group (G, d + d d)."""
        return mixtures.total_scatters(groups.X, groups.w, groups.offsets)

    def prepare(self, params: GaussianParams, dtype: np.dtype) -> TiedPrepared:
        """Round the parameters to the rows' dtype, relative to the mean of the means; whiten the means."""
        d = params.means.shape[1]
        dp = padded_features(d)
        factor = np.zeros((dp, dp), dtype)
        factor[:d, :d] = params.precisions_cholesky
        fields = common(params, self.log_det(params.precisions_cholesky, d), dtype)
        if d <= mixtures.MOST_FEATURES:
            whitened = mixtures.whitened_means(fields["means"], factor)
        else:
            product = fields["means"].astype(np.float64) @ factor[:d, :d].astype(np.float64)
            whitened = np.ascontiguousarray(product, dtype)
        return TiedPrepared(precisions_cholesky=factor, whitened=whitened, **fields)

    def _add_given(self, record: TiedStats, c: int, weights: np.ndarray, centred: np.ndarray) -> None:
        record.sums[c] += weights @ centred

    def recentred(self, stats: TiedStats, prepared: TiedPrepared, onto: TiedPrepared) -> TiedStats:
        return stats._replace(sums=stats.sums + stats.counts[:, None] * deviations(prepared, onto))

    def scatter_about(self, stats: TiedStats, deviation: np.ndarray) -> np.ndarray:
        raise NotImplementedError("A record of one shared covariance has no scatter: see the function of this name.")

    def covariances_from_stats(
        self, stats: TiedStats, constants: TotalScatter, prepared: TiedPrepared, previous: np.ndarray
    ) -> np.ndarray:
        if not alive(stats).any():
            return previous.copy()
        means = updated_means(stats, prepared, prepared_means(prepared))
        scatter = scatter_about(stats, constants, prepared, means)
        scatter /= stats.counts.sum()
        return scatter

    def expected_log_likelihood(
        self, stats: TiedStats, constants: TotalScatter, prepared: TiedPrepared, params: GaussianParams
    ) -> float:
        factor = params.precisions_cholesky
        scatter = scatter_about(stats, constants, prepared, params.means)
        quadratic = float(np.sum((scatter @ factor) * factor))
        return complete_data(stats.counts, params, self.log_det(factor, params.means.shape[1]), quadratic)

    def spread(self, counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
        return np.asarray((shift.T * (counts / counts.sum())) @ shift)

    def precisions_cholesky(self, covariances: np.ndarray) -> np.ndarray:
        factor: np.ndarray = precisions_cholesky(covariances[None])[0]
        return factor

    def of_precisions(self, precisions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        covariances, factors = of_precisions(precisions[None])
        return covariances[0], factors[0]

    def precisions(self, precisions_cholesky: np.ndarray) -> np.ndarray:
        return FULL.precisions(precisions_cholesky[None])[0]

    def below(self, precisions_cholesky: np.ndarray, limit: float) -> bool:
        return FULL.below(precisions_cholesky[None], limit)

    def log_det(self, precisions_cholesky: np.ndarray, n_features: int) -> np.ndarray:
        return sums_of_logarithms(np.diagonal(precisions_cholesky)[None])[0]

    def widened(self, matrices: np.ndarray, n_components: int, n_features: int) -> np.ndarray:
        return np.broadcast_to(matrices, FULL.array_shape(n_components, n_features))

    def narrowed(self, counts: np.ndarray, matrices: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return np.tensordot(counts / counts.sum(), matrices, 1) if counts.sum() > 0 else previous.copy()

    def as_matrices(self, stored: np.ndarray, n_components: int, n_features: int) -> np.ndarray:
        return self.widened(stored, n_components, n_features)

    def of_matrices(self, matrices: np.ndarray) -> np.ndarray:
        return matrices[0]

    def of_variances(self, n_components: int, variances: np.ndarray) -> np.ndarray:
        return np.diag(variances)

    def stacked(self, factors: np.ndarray) -> np.ndarray:
        return factors[None]

    def information(self, weights: np.ndarray, present: np.ndarray, n_features: int) -> np.ndarray:
        return np.asarray(present[weights > 0].sum(keepdims=True))


SHAPE = Tied()
