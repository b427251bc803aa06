r"""Mixtures of Poisson distributions: rows of counts (lecture row L9).

Given component k the features are independent, feature j is Poisson with rate lambda_kj:

    log p(x given z = k) = sum_j x_j log lambda_kj - lambda_kj - log x_j!,

linear in x but for the factorials, which no parameter changes: their sum is a constant of the data, collected once.
The E-step collects

    counts_k = sum_i w_i r_ik,   sums_kj = sum w_i r_ik (x_ij - o_j),   observed_kj = sum w_i r_ik

over the rows where x_ij is observed, and the M-step sets pi_k = counts_k / sum(counts) and
lambda_kj = o_j + sums_kj / observed_kj, at least `floor`.  That is the exact maximum under the constraint, so the
log-likelihood never falls once the parameters obey it.

The origin o_j is 0 for small counts.  For large ones it is near the mean rate, and all terms are taken relative to it,

    x log lambda - lambda = [(x - o) s + o s - (lambda - o)] + [x log o - o],     s = log(lambda / o),

so that float32 rows keep their digits; the second bracket joins the factorials.

Real x >= 0 are accepted (as by scikit-learn's PoissonRegressor and MultinomialNB), with x! = Gamma(x + 1).
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln

from fastem import values
from fastem._native import mixtures
from fastem.draws import Draws
from fastem.families.base import Groups, MStep
from fastem.families.coordinates import log_ratio, measured, pack_weights, present, steps_of, unpack_weights
from fastem.families.discrete.linear import NEVER, ROUNDING, LinearFamily, LinearPrepared, LinearStats
from fastem.families.numpy_pass import each_chunk

# Mean counts above this are taken relative to an origin; below, zero counts must give a rate of exactly 0.
LARGE = 64.0
# Larger counts are refused: origins are rounded to float32, whose range ends at 3e38.
MOST = 1e30
# log x! of small counts, which most are.
_LOG_FACTORIALS = gammaln(np.arange(4096.0) + 1.0)


class PoissonParams(NamedTuple):
    """Parameters of a Poisson mixture, float64."""

    weights: np.ndarray  # (k,) mixing proportions
    rates: np.ndarray  # (k, d)


class PoissonConstants(NamedTuple):
    """What no parameter changes, over the observed values."""

    totals: np.ndarray  # (d,) sum of w x
    observed: np.ndarray  # (d,) sum of w
    log_factorials: float  # sum of w log x!


def log_factorials(X: np.ndarray) -> np.ndarray:
    """Return log x! of complete values X, float64 of the same shape."""
    codes = X.astype(np.intp) if X.max(initial=0.0) < len(_LOG_FACTORIALS) else None
    if codes is not None and np.array_equal(codes, X):
        return _LOG_FACTORIALS[codes]
    return gammaln(X.astype(np.float64) + 1.0)


class PoissonFamily(LinearFamily):
    """A mixture of `n_components` products of Poisson distributions.

    Parameters
    ----------
    n_components : int
        Number of components k.
    floor : float
        Least rate; 0 for plain maximum likelihood.
    """

    name = "poisson"
    params = PoissonParams
    constants_record = PoissonConstants
    positive_only = True

    def check(self, X: np.ndarray) -> None:
        values.nonnegative(X, "PoissonMixture")
        values.at_most(X, MOST, "PoissonMixture")

    def constants(self, source: Any) -> PoissonConstants:
        d = source.n_features

        total = source.fold(lambda X, rows: _constants(X, source.weights_of(rows)), 2 * d + 1)
        return PoissonConstants(total[:d], total[d : 2 * d], float(total[2 * d]))

    def origin(self, params: PoissonParams) -> np.ndarray:
        middle = (params.weights[..., None] * params.rates).sum(axis=-2)
        return np.where(middle > LARGE, np.round(middle), 0.0).astype(np.float32).astype(np.float64)

    def natural(self, params: PoissonParams, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rates = np.maximum(params.rates, NEVER)
        origin = origin[..., None, :]
        # log(rate / origin): a difference of logarithms would be off by their rounding, which counts multiply.
        near = origin > 0
        slope = np.log(rates) if not near.any() else np.where(near, _log_ratio(rates, origin), np.log(rates))
        return slope, origin * slope - (params.rates - origin)

    def magnitude(self, stats: LinearStats, prepared: LinearPrepared, params: PoissonParams) -> float:
        """Return the sum of magnitudes, of which what the rows vary about the rates by is a part."""
        slope, _ = self.natural(params, prepared.origin.astype(np.float64))
        spread = float(np.sum(stats.observed * np.sqrt(params.rates) * np.abs(slope)))
        return super().magnitude(stats, prepared, params) + spread

    def rounding(
        self, stats: LinearStats, constants: PoissonConstants, prepared: LinearPrepared, params: PoissonParams
    ) -> float:
        origin = prepared.origin.astype(np.float64)
        rest = constants.totals @ _log_origin(origin) + constants.observed @ origin + abs(constants.log_factorials)
        own = ROUNDING * float(np.finfo(np.float64).eps) * float(rest)
        return own + super().rounding(stats, constants, prepared, params)

    def constants_of_groups(self, groups: Groups) -> np.ndarray:
        """Return `constants` of each group: totals, observed, and the logarithm of factorials."""
        parts = itertools.pairwise(groups.offsets.tolist())
        weights = groups.w if groups.w.size else np.empty(0)
        return np.array([_constants(groups.X[a:b], weights[a:b]) for a, b in parts]).reshape(groups.n_groups, -1)

    def objectives(
        self, stats: LinearStats, constants: PoissonConstants | np.ndarray, params: PoissonParams
    ) -> np.ndarray:
        origin = self.origin(params)
        if isinstance(constants, PoissonConstants):
            return np.asarray((stats.loglik + _rest(constants, origin)) / stats.counts.sum())
        d, rest = origin.shape[-1], -constants[:, -1]
        for group in np.flatnonzero(origin.any(axis=1)):
            own = constants[group]
            rest[group] = _rest(PoissonConstants(own[:d], own[d : 2 * d], own[-1]), origin[group])
        return np.asarray((stats.loglik + rest) / stats.counts.sum(axis=-1))

    def recentre(self, stats: LinearStats, prepared: LinearPrepared, onto: LinearPrepared) -> LinearStats:
        """Move the sums, and to the log-likelihood of the record what its origin leaves to `_rest`."""
        before, after = prepared.origin.astype(np.float64), onto.origin.astype(np.float64)
        observed, relative = stats.observed.sum(axis=0), stats.sums.sum(axis=0)
        logs = _log_origin(before) - _log_origin(after)
        rest = (relative + observed * before) @ logs - observed @ (before - after)
        return super().recentre(stats, prepared, onto)._replace(loglik=stats.loglik + rest)

    def m_step(
        self, stats: LinearStats, constants: PoissonConstants, prepared: LinearPrepared, params: PoissonParams
    ) -> MStep:
        rates = np.maximum(self.means(stats, prepared, params.rates), self.floor)
        return MStep(PoissonParams(self.weights_of(stats), rates))

    def expect(self, X: np.ndarray, prepared: LinearPrepared, n_threads: int, **outputs: np.ndarray) -> Any:
        out = super().expect(X, prepared, n_threads, **outputs)
        if len(out.log_joint) or len(out.loglik):
            origin = prepared.origin.astype(np.float64)

            def add(rows: slice) -> None:
                base = _base(X[rows], origin)
                if len(out.log_joint):
                    out.log_joint[rows] += base[:, None]
                if len(out.loglik):
                    out.loglik[rows] += base

            each_chunk(add, len(X), n_threads)
        return out

    def pack(self, params: PoissonParams, like: PoissonParams) -> np.ndarray:
        logs = log_ratio(params.rates, like.rates)
        return np.append(pack_weights(params.weights, like.weights), measured(logs, _information(like)))

    def unpack(self, vector: np.ndarray, like: PoissonParams) -> PoissonParams | None:
        weights = unpack_weights(vector[: self.n_components], like.weights)
        if weights is None:
            return None
        rates = like.rates * np.exp(steps_of(vector[self.n_components :], _information(like)))
        return PoissonParams(weights, np.maximum(rates, self.floor))

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> PoissonParams:
        least = 1e-3 + 0.1 * np.sqrt(variances)  # a rate of 0 could never grow
        return PoissonParams(np.full(means.shape[:-1], 1.0 / means.shape[-2]), np.maximum(means, least))

    def blank_of_groups(self, groups: Groups, centers: np.ndarray) -> PoissonParams:
        variances = np.zeros((groups.n_groups, 1, centers.shape[2]))
        for group, (a, b) in enumerate(itertools.pairwise(groups.offsets.tolist())):
            if b > a:
                variances[group] = mixtures.variances(groups.X[a:b], groups.w[a:b] if groups.w.size else groups.w)
        return self.blank_params(centers, variances)

    def example_params(self, n_features: int, draws: Draws) -> PoissonParams:
        k, d = self.n_components, n_features
        weights = 1.0 + draws.uniform(k)
        return PoissonParams(weights / weights.sum(), 0.5 + 20.0 * draws.uniform(k * d).reshape(k, d))

    def sample(self, params: PoissonParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Draw n rows (n, d) of counts, ordered by component, and their components (n,)."""
        y = np.sort(draws.weighted(params.weights, n))
        generator = np.random.default_rng(draws.bits(4))
        return generator.poisson(params.rates[y]).astype(np.float64), y


def _constants(X: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return sums over the observed values of some rows: w x (d,), w (d,), and w log x! of all."""
    w = w.astype(np.float64) if w.size else np.ones(len(X))
    seen = ~np.isnan(X)
    counts = np.where(seen, X, X.dtype.type(0))
    return np.concatenate([w @ counts, w @ seen, [w @ log_factorials(counts).sum(axis=1)]])


def _rest(constants: PoissonConstants, origin: np.ndarray) -> float:
    """Return the log-likelihood of all rows beside what a record holds, relative to an origin (d,)."""
    levels = constants.totals @ _log_origin(origin) - constants.observed @ origin
    return float(levels - constants.log_factorials)


def _base(X: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return what of the log-density of each row (n,) is the same for all components."""
    seen = ~np.isnan(X)
    counts = np.where(seen, X, X.dtype.type(0))
    base: np.ndarray = counts @ _log_origin(origin) - seen @ origin - log_factorials(counts).sum(axis=1)
    return base


def _information(like: PoissonParams) -> np.ndarray:
    """Return what complete rows tell of the logarithms of the rates (k, d)."""
    return present(like.weights)[:, None] * like.rates


def _log_ratio(rates: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return log(rates / origin) where the origin is not 0."""
    some = np.where(origin > 0, origin, 1.0)
    ratio = rates / some
    # Far below the origin the difference is rounded to -1, whose logarithm would be infinite.
    near = np.log1p(np.maximum((rates - some) / some, -0.5))
    return np.where(ratio < 0.5, np.log(rates) - np.log(some), near)


def _log_origin(origin: np.ndarray) -> np.ndarray:
    """Logarithm of the reference rate: of the origin, or of 1 where that is 0."""
    return np.log(np.where(origin > 0, origin, 1.0))
