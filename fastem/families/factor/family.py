"""What the two families of factor analysers share beside their kernels (`loadings`): the M-step and its bookkeeping."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

import numpy as np

from fastem.draws import Draws
from fastem.families.base import Family
from fastem.families.coordinates import FARTHEST, log_ratio, measured, pack_weights, present, unpack_weights
from fastem.families.factor import kernels
from fastem.families.factor.kernels import LOG_2PI, AnalyserPrepared, AnalyserStats
from fastem.records import Layout

# Less weight than this is none, as for Gaussians.
TINY = 10 * np.finfo(np.float64).eps


class AnalyserFamily(Family):
    """Factor analysers: rows in a subspace of few dimensions, each feature with its own noise.

    Parameters
    ----------
    n_components : int
        Number of components k.
    n_factors : int
        Number of factors q of each.
    min_noise : float
        Least noise variance of a feature, as a share of its variance in the data.
    """

    allow_nan = True
    hides_more = True
    has_room_for_missing = False  # in the record, for rows with missing values

    def __init__(self, n_components: int, n_factors: int, min_noise: float) -> None:
        self.n_components = n_components
        self.n_factors = n_factors
        self.min_noise = min_noise

    @abstractmethod
    def weights_of(self, params: Any) -> np.ndarray:
        """Return the mixing proportions (k,)."""

    def for_missing(self) -> Self:
        family = copy.copy(self)
        family.has_room_for_missing = True
        return family

    def layout(self, n_features: int) -> Layout[AnalyserStats]:
        lacking = n_features if self.has_room_for_missing else 0
        return kernels.layout(self.n_components, n_features, self.n_factors, lacking)

    def prepare(self, params: Any, dtype: np.dtype, previous: Any = None) -> AnalyserPrepared:
        weights = self.weights_of(params)
        origin = (weights @ params.means / weights.sum()).astype(dtype)
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)
        return AnalyserPrepared(
            origin,
            np.ascontiguousarray((params.means - origin.astype(np.float64)).astype(dtype)),
            log_weights,
            np.ascontiguousarray(params.loadings),
            np.ascontiguousarray(params.noise_variances),
        )

    def accumulator(self, n_features: int) -> Any:
        return kernels.accumulate

    def expectation(self, n_features: int) -> Any:
        return kernels.expect

    def no_outputs(self) -> Any:
        return kernels.Expected(*super().no_outputs(), np.empty((0, self.n_components * self.n_factors)))

    def factors(self, X: np.ndarray, prepared: AnalyserPrepared, n_threads: int) -> np.ndarray:
        """Return E[1(z = k) factors given x] (n, k q): posterior means times responsibilities."""
        out: np.ndarray = np.empty((len(X), self.n_components * self.n_factors))
        self.expect(X, prepared, n_threads, factors=out)
        return out

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: AnalyserPrepared, stats: np.ndarray) -> None:
        """Add one cell's statistics for given responsibilities (m, k), in plain NumPy; the log-likelihood stays."""
        record, weighted = self.layout(X.shape[1]).view(stats), resp * w[:, None] if w.size else resp
        record.counts[:] += weighted.sum(axis=0)
        patterns, number = np.unique(np.isnan(X), axis=0, return_inverse=True)
        for p, missing in enumerate(patterns):
            here = np.flatnonzero(number.ravel() == p)
            seen = np.flatnonzero(~missing)
            rows = X[here][:, seen].astype(np.float64) - prepared.origin[seen]
            for c in range(self.n_components):
                self._add_given(record, rows - prepared.means[c, seen], weighted[here, c], prepared, c, missing)

    def _add_given(self, record, U, a, prepared, c: int, missing: np.ndarray) -> None:
        """Add rows U (m, n) of one pattern, of weights a (m,), to component c of the record."""
        seen, q = ~missing, self.n_factors
        scaled = prepared.loadings[c, seen] / prepared.noise[c, seen, None]
        covariance = np.linalg.inv(np.eye(q) + scaled.T @ prepared.loadings[c, seen])
        zz = np.column_stack([U @ scaled @ covariance, np.ones(len(U))])
        seconds = zz.T @ (a[:, None] * zz)
        seconds[:q, :q] += a.sum() * covariance
        record.seconds[c] += seconds
        if missing.any():
            record.lacking[c, missing] += seconds
        record.cross[c, seen] += U.T @ (a[:, None] * zz)
        record.squares[c, seen] += a @ np.square(U)

    # The M-step.

    def floors(self, variances: np.ndarray) -> np.ndarray:
        """Return the least noise variances (d,); a feature without variance gets what the widest one would."""
        widest = variances.max(initial=0.0)
        return self.min_noise * np.where(variances > 0, variances, widest if widest > 0 else 1.0)

    def regression(
        self, stats: AnalyserStats, prepared: AnalyserPrepared, params: Any, floors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the M-step's means (k, d), loadings (k, d, q) and noise variances (k, d).

        What has no weight (a dead component, a feature that none of its rows has) keeps its parameters.
        """
        q = self.n_factors
        centres = centres_of(prepared)
        means, slopes, noise = (a.copy() for a in (params.means, params.loadings, params.noise_variances))
        for c in range(self.n_components):
            lacking = stats.lacking[c]
            n = observed_weights(stats, c)
            alive = n > TINY * max(1.0, stats.seconds[c, q, q])
            if not alive.any() or stats.counts[c] <= TINY:
                continue
            if lacking.any():
                seconds, cross = stats.seconds[c] - lacking[alive], stats.cross[c, alive]
                solved = solve_each(seconds, cross)
            else:
                cross = stats.cross[c, alive]
                solved = solve_each(stats.seconds[c], cross)
            residual = stats.squares[c, alive] - np.sum(solved * cross, axis=1)
            means[c, alive] = centres[c, alive] + solved[:, q]
            slopes[c, alive] = solved[:, :q]
            noise[c, alive] = np.maximum(residual / n[alive], floors[alive])
        return means, slopes, noise

    def record_for_missing(self, stats: AnalyserStats) -> AnalyserStats:
        k, d, p = stats.cross.shape
        return stats if stats.lacking.size else stats._replace(lacking=np.zeros((k, d, p, p)))

    def recentre(self, stats: AnalyserStats, prepared: AnalyserPrepared, onto: AnalyserPrepared) -> AnalyserStats:
        """Move the rows' part; factors are about 0 whatever the means."""
        origins = prepared.origin.astype(np.float64) - onto.origin.astype(np.float64)
        moved = origins + (prepared.means.astype(np.float64) - onto.means.astype(np.float64))
        zz = np.broadcast_to(stats.seconds[:, None, -1], stats.cross.shape)  # sums of E[zz], of rows with each feature
        zz = zz - stats.lacking[:, :, -1] if stats.lacking.size else zz
        squares = stats.squares + 2.0 * moved * stats.cross[:, :, -1] + zz[:, :, -1] * np.square(moved)
        return stats._replace(cross=stats.cross + moved[:, :, None] * zz, squares=squares)

    def best_loadings(self, covariance: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return the loadings (d, q) that maximise the likelihood of rows with this covariance, given the noise.

        Factors come in the order of what they explain, measured by the noise, and the largest loading of each, so
        measured, is positive.  Factors that the covariance has no room for are 0.
        """
        from scipy.linalg import eigh

        d, q = len(noise), min(self.n_factors, len(noise))
        if not q:
            return np.zeros((d, self.n_factors))
        root = np.sqrt(noise)
        some = {"subset_by_index": [d - q, d - 1]} if d > 32 and 4 * q < d else {}
        values, vectors = eigh(covariance / root / root[:, None], check_finite=False, **some)
        return self._scaled(values[::-1], vectors[:, ::-1], root)

    def best_loadings_of_rows(self, rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return the same for rows (n, d) whose covariance is rows' rows."""
        from scipy.linalg import svd

        root = np.sqrt(noise)
        _, values, vectors = svd(rows / root, full_matrices=False, check_finite=False)
        return self._scaled(np.square(values), vectors.T, root)

    def _scaled(self, values: np.ndarray, vectors: np.ndarray, root: np.ndarray) -> np.ndarray:
        """Make loadings (d, q) of the eigenvalues and eigenvectors of the covariance, measured by the noise."""
        q = min(self.n_factors, len(values))
        values, vectors = values[:q], vectors[:, :q]
        slopes = np.zeros((len(root), self.n_factors))
        signs = np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(q)] < 0, -1.0, 1.0)
        slopes[:, :q] = root[:, None] * vectors * (signs * np.sqrt(np.maximum(values - 1.0, 0.0)))
        return slopes

    def expected_log_likelihood(
        self, stats: AnalyserStats, constants: Any, prepared: AnalyserPrepared, params: Any
    ) -> float:
        """Return Q of `params`, but for what no parameter changes."""
        shift = params.means - centres_of(prepared)
        total = 0.0
        for c in range(self.n_components):
            zz = np.column_stack([params.loadings[c], shift[c]])
            n = observed_weights(stats, c)
            # A record of rows without missing values is not subtracted from, feature by feature.
            quadratic = np.sum((zz @ stats.seconds[c]) * zz, axis=1)
            if stats.lacking[c].any():
                quadratic = quadratic - np.einsum("jf,jfg,jg->j", zz, stats.lacking[c], zz)
            residual = stats.squares[c] - 2.0 * np.sum(zz * stats.cross[c], axis=1) + quadratic
            noise = params.noise_variances[c]
            total -= 0.5 * float(n @ (LOG_2PI + np.log(noise)) + np.sum(residual / noise))
        some = stats.counts > 0
        with np.errstate(divide="ignore"):
            return total + float(stats.counts[some] @ np.log(self.weights_of(params)[some]))

    def shortfall(self, stats: Any, constants: Any, prepared: Any, old: Any, new: Any) -> float:
        """Q(old) - Q of what the M-step makes of it with the floors: 0 if `old` obeys them."""

        def q(params: Any) -> float:
            return self.expected_log_likelihood(stats, constants, prepared, params)

        return max(0.0, (q(old) - q(self.em_step(stats, constants, prepared, old))) / float(stats.counts.sum()))

    def expected_rounding(self, stats: AnalyserStats, prepared: AnalyserPrepared, params: Any) -> float:
        """What a residual is a difference of may be large beside the noise."""
        total = float(np.sum(stats.squares / params.noise_variances))
        return 8 * np.finfo(np.float64).eps * total / float(stats.counts.sum())

    @abstractmethod
    def em_step(self, stats: AnalyserStats, constants: Any, prepared: AnalyserPrepared, params: Any) -> Any:
        """Return the parameters that maximise Q."""

    # Acceleration: of what is observed with its factors known, the information is w / noise for means and loadings, and
    # w / 2 for the logarithm of the noise.

    def pack(self, params: Any, like: Any) -> np.ndarray:
        weights, old_weights = self.weights_of(params), self.weights_of(like)
        size = present(old_weights)[:, None] / like.noise_variances
        half = np.broadcast_to(0.5 * present(old_weights)[:, None], size.shape)
        slopes = _aligned(params.loadings, like.loadings, like.noise_variances)
        return np.concatenate(
            [
                pack_weights(weights, old_weights),
                measured(params.means - like.means, size),
                measured(log_ratio(params.noise_variances, like.noise_variances), half),
                measured(slopes - like.loadings, size[:, :, None]),
            ]
        )

    def unpack(self, vector: np.ndarray, like: Any) -> Any:
        k, d = like.means.shape
        old_weights = self.weights_of(like)
        weights = unpack_weights(vector[:k], old_weights)
        means, noise, slopes = np.split(vector[k:], [k * d, 2 * k * d])
        root = np.sqrt(present(old_weights))[:, None]
        logs = np.sqrt(2.0) * noise.reshape(k, d) / root
        if weights is None or not np.all(np.isfinite(vector)) or np.abs(logs).max() > FARTHEST:
            return None
        unit = np.sqrt(like.noise_variances) / root
        moved = {
            "means": like.means + unit * means.reshape(k, d),
            "loadings": like.loadings + unit[:, :, None] * slopes.reshape(like.loadings.shape),
            "noise_variances": like.noise_variances * np.exp(logs),
        }
        return like._replace(**moved, **({"weights": weights} if hasattr(like, "weights") else {}))

    def admissible(self, params: Any, constants: Any) -> Any:
        return params._replace(noise_variances=np.maximum(params.noise_variances, self.floors(constants.variances)))

    # Starts and simulation.

    def generic(self, means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return loadings (k, d, q) and noise variances (k, d) to begin with, half of the variance each.

        The loadings are cosines: loadings of 0 or equal factors are saddle points that EM does not leave.
        """
        (k, d), q = means.shape, self.n_factors
        widest = variances.max(initial=0.0)
        variances = np.where(variances > 1e-12 * widest, variances, widest if widest > 0 else 1.0)
        angles = np.pi * np.arange(q) * (np.arange(d)[:, None] + 0.5) / d
        shapes = np.cos(angles) * np.sqrt(0.5 * variances / max(q, 1))[:, None]
        return np.repeat(shapes[None], k, axis=0), np.repeat(0.5 * variances[None], k, axis=0)

    def draw(self, params: Any, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Draw a row (n, d) for each component number in y (n,)."""
        d, q = params.means.shape[1], self.n_factors
        z = draws.normal(len(y) * q).reshape(len(y), q)
        X = draws.normal(len(y) * d).reshape(len(y), d)
        for c in np.unique(y):
            here = y == c
            X[here] *= np.sqrt(params.noise_variances[c])
            X[here] += params.means[c] + z[here] @ params.loadings[c].T
        return X

    def n_free_loadings(self, n_features: int) -> int:
        """Free parameters in the covariance of a component: loadings up to rotation, noise variances."""
        q = min(self.n_factors, n_features)
        return n_features * q - q * (q - 1) // 2 + n_features


def _aligned(loadings: np.ndarray, like: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the loadings (k, d, q) with their factors turned to lie as near to those of `like` as can be."""
    left, _, right = np.linalg.svd(np.swapaxes(loadings, 1, 2) @ (like / noise[:, :, None]))
    return np.asarray(loadings @ (left @ right))


def centres_of(prepared: AnalyserPrepared) -> np.ndarray:
    """Return the means of the E-step as rounded, float64 (k, d)."""
    return prepared.origin.astype(np.float64) + prepared.means.astype(np.float64)


def observed_weights(stats: AnalyserStats, c: int) -> np.ndarray:
    """Return the weight (d,) of the rows of component c in which each feature is observed."""
    lacking = stats.lacking[c, :, -1, -1]
    return stats.seconds[c, -1, -1] - (lacking if lacking.size else np.zeros(stats.cross.shape[1]))


def solve_each(seconds: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Return inverse(seconds) cross: one matrix (m, m) for all rows of `cross` (n, m), or one for each (n, m, m).

    Of a singular matrix (rows that are all the same to rounding) the shortest of the least-squares solutions.
    """
    try:
        if seconds.ndim == 2:
            return np.linalg.solve(seconds, cross.T).T
        return np.linalg.solve(seconds, cross[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        inverse = np.linalg.pinv(seconds, hermitian=True)
        return cross @ inverse if seconds.ndim == 2 else (inverse @ cross[:, :, None])[:, :, 0]
