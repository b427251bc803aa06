r"""Full covariances: each component its own matrix.

With P upper triangular, precision = P P', and y = (x - mu) P, the log-density is offset - |y|^2 / 2.  An iteration
needs d (d + 1) / 2 multiply-adds a row and component for y and as many for the scatter, both on tiles that stay in
registers (`kernels/tiles.py`); up to two features need no tiles at all.

Nanoseconds a row, component and iteration on a core of 125 / 250 GFLOP/s (float64 / float32), the floor being the
multiply-adds alone; the scatter costs less than its floor once most rows of a block do not matter to a component,
and next to nothing where only a few do (`kernels/few_rows.py`); from `WIDE` features on the pass is that of
`kernels/wide_pass.py`:

    d, k        floor        first iteration    converged
    2, 8        0.1 / 0.05   1.2 / 0.7          1.1 / 0.65
    16, 16      4.4 / 2.2    12 / 5.7           7.8 / 5.4
    64, 16      67 / 33      105 / 56           64 / 40
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from fastem import pool
from fastem._native import mixtures
from fastem.families.elliptical import cholesky
from fastem.families.elliptical.records import (
    GaussianParams,
    Prepared,
    Stats,
    alive,
    common,
    complete_data,
    prepared_means,
    shifts,
    sums_of_logarithms,
)
from fastem.families.elliptical.shape import Blocks, Matrices
from fastem.jit import kernel
from fastem.kernels.blocks import STRIDE
from fastem.kernels.cell_pass import by_features, passes
from fastem.kernels.few_rows import TOGETHER, add_rows, find_rows
from fastem.kernels.responsibilities import heavy_rows
from fastem.kernels.scatter import add_scatter
from fastem.kernels.tiles import mahalanobis
from fastem.kernels.triangles import covariance
from fastem.kernels.views import view_of
from fastem.kernels.wide_distances import Distances
from fastem.kernels.wide_moments import WideScatter
from fastem.kernels.wide_pass import WideExpectation
from fastem.records import Fields

# Up to so many rows of a block are added one by one: from 32 on tiles over rows are quicker (d = 4 ... 64).
FEW = 16
# Features from which on panels are packed (`kernels/wide_pass.py`).
WIDE = 128

# --- kernels


@kernel
def plane_log_joint(rows, XT, prepared, work, log_joint, best):
    """Do the work of `log_joint_block` for at most two features, without any intermediate array."""
    k, d = prepared.means.shape
    half = XT.dtype.type(0.5)
    for r in range(rows):
        best[r] = -np.inf
    for c in range(k):
        P = prepared.precisions_cholesky[c]
        p00, p01, p11 = P[0, 0], P[0, 1], P[1, 1]
        offset = XT.dtype.type(prepared.offsets[c])
        m0 = prepared.means[c, 0]
        m1 = XT.dtype.type(0) if d == 1 else prepared.means[c, 1]
        for r in range(rows):
            x0 = XT[0, r] - m0
            x1 = XT[1, r] - m1
            y0 = p00 * x0
            y1 = p01 * x0 + p11 * x1
            value = offset - half * (y0 * y0 + y1 * y1)
            log_joint[c, r] = value
            best[r] = value if value > best[r] else best[r]


@kernel
def space_log_joint(rows, XT, prepared, work, log_joint, best):
    """Do the work of `log_joint_block` for more features, by triangular products."""
    k, d = prepared.means.shape
    panel = work[XT.shape[0] :]
    for r in range(rows):
        best[r] = -np.inf
    for c in range(k):
        P = prepared.precisions_cholesky[c]
        offset = XT.dtype.type(prepared.offsets[c])
        mahalanobis(rows, d, XT, prepared.means[c], P, offset, panel, log_joint[c], best)


@kernel
def log_joint_block(rows, XT, prepared, work, log_joint, best):
    """Write log-densities, and the largest of each row (see `cells`)."""
    if XT.shape[0] == 2:
        plane_log_joint(rows, XT, prepared, work, log_joint, best)
    else:
        space_log_joint(rows, XT, prepared, work, log_joint, best)


@kernel
def plane_moments(rows, XT, prepared, work, share, factor, heavy, record):
    """Do the work of `moments_block` for at most two features, without any intermediate array."""
    k, d = prepared.means.shape
    zero = XT.dtype.type(0)
    for c in range(k):
        if heavy[c] == 0:
            continue
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
        sums, scatter = record.sums[c], record.scatter[c]
        record.counts[c] += n
        sums[0] += s0
        scatter[0, 0] += s00
        if d == 2:
            sums[1] += s1
            scatter[0, 1] += s01
            scatter[1, 0] += s01
            scatter[1, 1] += s11


@kernel
def add_few(found, d, XT, mean, share, factor, index, few, root, sums, scatter):
    """Add sums and scatter of the rows at the places `index[:found]` of a block; return their weight."""
    whole = (found + TOGETHER - 1) // TOGETHER * TOGETHER
    n = 0.0
    for t in range(found):
        root[t] = share[index[t]] * factor[index[t]]
        n += root[t]
    for t in range(found, whole):
        index[t] = 0
        root[t] = 0.0
    for t in range(whole):
        r = index[t]
        root[t] = math.sqrt(root[t])
        for j in range(d):
            few[t, j] = root[t] * np.float64(XT[j, r] - mean[j])
    add_rows(whole, d, few, root, sums, scatter)
    return n


@kernel
def space_moments(rows, XT, prepared, work, share, factor, heavy, record):
    """Do the work of `moments_block` for more features, in tiles over rows or, where few matter, row by row."""
    k, d = prepared.means.shape
    Z, root = work[: XT.shape[0]], work[work.shape[0] - 1]
    space = np.empty((FEW + 2, d + 16), prepared.log_weights.dtype)  # one allocation compiles faster than three
    few, few_roots, T = space[:FEW], space[FEW], space[FEW + 1]
    index = np.empty(STRIDE, np.int64)
    cycles = 1.2 * (d + 0.25 * d * d) / (64 // XT.itemsize)
    for c in range(k):
        if heavy[c] == 0:
            continue
        mean, negligible = prepared.means[c], prepared.negligible[c]
        sums, scatter = record.sums[c], record.scatter[c]
        if heavy[c] <= FEW:
            found = find_rows(rows, share[c], share.dtype.type(negligible), index)
            if found <= FEW:
                mass = add_few(found, d, XT, mean, share[c], factor, index, few, few_roots, sums, scatter)
                record.counts[c] += mass
                continue
        used = heavy_rows(rows, XT, share[c], factor, negligible, heavy[c], cycles, Z, root, index)
        source = Z if used < rows else XT  # a gathered feature is replaced in place
        n = XT.dtype.type(0)
        for r in range(used):
            n += root[r]
            root[r] = math.sqrt(root[r])
        record.counts[c] += n
        for j in range(d):
            s = XT.dtype.type(0)
            for r in range(used):
                z = root[r] * (source[j, r] - mean[j])
                Z[j, r] = z
                s += root[r] * z
            sums[j] += s
        add_scatter(used, d, Z, T, scatter)


@kernel
def moments_block(rows, XT, prepared, work, share, factor, heavy, record):
    """Add counts, sums and scatter of a block."""
    if XT.shape[0] == 2:
        plane_moments(rows, XT, prepared, work, share, factor, heavy, record)
    else:
        space_moments(rows, XT, prepared, work, share, factor, heavy, record)


@kernel
def room(prepared):
    """Rows of XT, and of the work array: weighted rows, the panel of `mahalanobis`, roots of responsibilities."""
    dp = prepared.precisions_cholesky.shape[1]
    return dp, dp + (dp + 3) // 4 + 1


FIELDS = Fields(Stats, loglik="", counts="k", sums="kd", scatter="kdd")
view = view_of(FIELDS)

# --- algebra


def padded_features(d: int) -> int:
    """Features after padding to whole tiles: 2, or a multiple of 4."""
    return 2 if d <= 2 else -(-d // 4) * 4


def precisions_cholesky(covariances: np.ndarray) -> np.ndarray:
    """Return upper triangular P with inverse covariance P P', of each matrix (k, d, d)."""
    covariances, d = np.ascontiguousarray(covariances, np.float64), covariances.shape[1]
    if d > mixtures.MOST_FEATURES:
        return cholesky.precision_factors(covariances)
    factors = np.empty(covariances.shape)
    if not mixtures.precision_factors(covariances, factors):
        raise np.linalg.LinAlgError("a covariance is not positive definite")
    steepest, widest = float(factors.max()), float(covariances.max())
    if not (math.isfinite(factors.sum()) and steepest * steepest * widest * d <= cholesky.RESOLVED):
        if not np.isfinite(factors).all():
            raise np.linalg.LinAlgError("a covariance is not positive definite")
        given, own = (np.diagonal(matrices, axis1=1, axis2=2) for matrices in (factors, covariances))
        cholesky.refuse_lost_digits(given, own)
    return factors


def of_precisions(precisions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the covariances of precisions (k, d, d), and upper triangular P with precision P P'."""
    if precisions.shape[1] > mixtures.MOST_FEATURES:
        return cholesky.of_precisions(precisions)
    np.linalg.cholesky(precisions)  # which raises
    covariances = SHAPE.inverted(precisions)
    return covariances, precisions_cholesky(covariances)


class Full(Matrices):
    """Each component its own matrix (k, d, d)."""

    name = "full"
    fields = FIELDS
    blocks = Blocks(log_joint_block, moments_block, room, view)
    _accumulate, _expect = map(
        partial(by_features, 2),
        passes(plane_log_joint, plane_moments, room, view),
        passes(space_log_joint, space_moments, room, view),
    )
    accumulate, expect = WideScatter(WIDE, _accumulate, FIELDS), WideExpectation(WIDE, _expect, Distances)

    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features, n_features

    def prepare(self, params: GaussianParams, dtype: np.dtype) -> Prepared:
        k, d = params.means.shape
        dp = padded_features(d)
        factors = pool.empty((k, dp, dp), dtype) if d == dp else np.zeros((k, dp, dp), dtype)

        def round_factors(some: slice) -> None:
            factors[some, :d, :d] = params.precisions_cholesky[some]

        cholesky.runs_of_matrices(round_factors, k, d)
        return Prepared(
            precisions_cholesky=factors, **common(params, self.log_det(params.precisions_cholesky, d), dtype)
        )

    def add_q_stats(
        self, X: np.ndarray, w: np.ndarray, resp: np.ndarray, prepared: Prepared, stats: np.ndarray
    ) -> None:
        record = self.layout(*prepared.means.shape).view(stats)
        weighted = resp * w[:, None] if w.size else resp
        record.counts[:] += weighted.sum(axis=0)
        for c in range(len(record.counts)):
            self._add_given(record, c, weighted[:, c], np.float64(1) * (X - prepared.origin) - prepared.means[c])

    def _add_given(self, record: Stats, c: int, weights: np.ndarray, centred: np.ndarray) -> None:
        products = centred * weights[:, None]
        record.sums[c] += products.sum(axis=0)
        record.scatter[c] += products.T @ centred

    def scatter_about(self, stats: Stats, deviation: np.ndarray) -> np.ndarray:
        cross = stats.sums[:, :, None] * deviation[:, None, :]
        own = stats.counts[:, None, None] * (deviation[:, :, None] * deviation[:, None, :])
        return np.asarray(stats.scatter + (cross + np.swapaxes(cross, 1, 2)) + own)

    def covariances_from_stats(
        self, stats: Stats, constants: None, prepared: Prepared, previous: np.ndarray
    ) -> np.ndarray:
        shift, some = shifts(stats), alive(stats)
        counts, covariances = np.where(some, stats.counts, np.inf), pool.empty(stats.scatter.shape)

        def component(c: int) -> None:
            covariance(stats.scatter[c], counts[c], shift[c], covariances[c])

        if shift.shape[1] <= mixtures.MOST_FEATURES:  # as compiled runs do it, to the bit
            moved = np.multiply(shift[:, :, None], shift[:, None, :], out=pool.empty(covariances.shape))
            np.divide(stats.scatter, counts[:, None, None], out=covariances)
            covariances -= moved
        else:
            cholesky.each_matrix(component, *shift.shape)
        if not some.all():
            covariances[~some] = previous[~some]
        return covariances

    def expected_log_likelihood(
        self, stats: Stats, constants: None, prepared: Prepared, params: GaussianParams
    ) -> float:
        deviation = prepared_means(prepared) - params.means  # the record is centred on prepared's means
        factors = params.precisions_cholesky
        quadratic = float(np.sum((self.scatter_about(stats, deviation) @ factors) * factors))
        log_det = self.log_det(params.precisions_cholesky, params.means.shape[1])
        return complete_data(stats.counts, params, log_det, quadratic)

    def spread(self, counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
        return shift[:, :, None] * shift[:, None, :]

    def precisions_cholesky(self, covariances: np.ndarray) -> np.ndarray:
        return precisions_cholesky(covariances)

    def of_precisions(self, precisions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return of_precisions(precisions)

    def precisions(self, precisions_cholesky: np.ndarray) -> np.ndarray:
        if precisions_cholesky.shape[1] <= mixtures.MOST_FEATURES:
            return super().precisions(precisions_cholesky)
        return cholesky.products(precisions_cholesky)

    def below(self, precisions_cholesky: np.ndarray, limit: float) -> bool:
        if precisions_cholesky.shape[1] <= mixtures.MOST_FEATURES:
            return super().below(precisions_cholesky, limit)
        return cholesky.below(precisions_cholesky, limit)

    def log_det(self, precisions_cholesky: np.ndarray, n_features: int) -> np.ndarray:
        return sums_of_logarithms(np.diagonal(precisions_cholesky, axis1=1, axis2=2))

    def as_matrices(self, stored: np.ndarray, n_components: int, n_features: int) -> np.ndarray:
        return stored

    def of_matrices(self, matrices: np.ndarray) -> np.ndarray:
        return matrices

    def of_variances(self, n_components: int, variances: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.diag(variances), self.array_shape(n_components, len(variances))).copy()


SHAPE = Full()
