r"""Factor analysis: x = mu + Lambda z + e, z ~ N(0, I), e ~ N(0, Psi), Psi diagonal (lecture row L9).

With complete rows the log-likelihood depends on the data through their mean and covariance S alone, which are computed
once (`scatter`): an iteration costs O(d^3) and reads no rows.  Given Psi the best loadings are known in closed form:
with the eigenvalues l_1 >= l_2 >= ... and eigenvectors v_f of Psi^-1/2 S Psi^-1/2,

    Lambda_f = Psi^1/2 v_f sqrt(max(l_f - 1, 0)),       f = 1 .. q.

So an iteration is the M-step of EM over Psi, and then the maximum over mu and Lambda of the log-likelihood itself
(ECME, Liu and Rubin 1994): both only raise it.  At loadings that are the best for Psi, EM's new Psi is diag(S - Lambda
Lambda'), and the iteration is that of Barber and of scikit-learn.

Of fewer rows than features the centred rows themselves are kept in place of S, and an iteration costs O(n^2 d).

With missing values (NaN, missing at random) the loadings have no closed form: EM then reads the rows, grouped by which
values they miss (`loadings`).

References
----------
Barber, "Bayesian Reasoning and Machine Learning", algorithm 21.1.
Rubin and Thayer, "EM algorithms for ML factor analysis", Psychometrika 47, 1982.
Liu and Rubin, "The ECME algorithm", Biometrika 81, 1994.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem.draws import Draws
from fastem.families.base import MStep
from fastem.families.data_moments import (
    ObservedMoments,
    TotalScatter,
    observed_moments,
    total_scatter,
    without_rounding,
)
from fastem.families.factor.family import AnalyserFamily, centres_of
from fastem.families.factor.kernels import LOG_2PI, AnalyserPrepared, AnalyserStats


class FactorParams(NamedTuple):
    """Parameters of a factor analyser, float64; the first axis counts components, of which there is one."""

    means: np.ndarray  # (1, d)
    loadings: np.ndarray  # (1, d, q)
    noise_variances: np.ndarray  # (1, d)


class FactorConstants(NamedTuple):
    """What the loop knows of the data, float64."""

    weight: np.ndarray  # (): sum of the weights
    centre: np.ndarray  # (d,): mean of each feature, over the observed values
    variances: np.ndarray  # (d,): the same of the variance, 0 for a constant feature
    scatter: np.ndarray  # (d, d): about the mean; (0, 0) where values are missing or the next is there
    rows: np.ndarray  # (n, d): less the mean, times the roots of their weights, if n < d; or (0, 0)
    observed: np.ndarray  # (d,): weight of the rows that each mean and variance is of

    @property
    def complete(self) -> bool:
        """Whether no value is missing, so that the rows need not be read again."""
        return bool(self.scatter.size or self.rows.size)

    def times(self, A: np.ndarray) -> np.ndarray:
        """Return the scatter times a matrix (d, m)."""
        return self.rows.T @ (self.rows @ A) if self.rows.size else self.scatter @ A

    @property
    def moments(self) -> ObservedMoments:
        """What is known of each feature by itself."""
        return ObservedMoments(self.centre, self.variances, self.observed)

    @property
    def total(self) -> TotalScatter:
        """Weight, mean and scatter of complete rows."""
        scatter = self.rows.T @ self.rows if self.rows.size else self.scatter
        return TotalScatter(self.weight, self.centre, scatter)

    @property
    def squares(self) -> np.ndarray:
        """The diagonal of the scatter (d,)."""
        return np.square(self.rows).sum(axis=0) if self.rows.size else np.diagonal(self.scatter).copy()


class FactorFamily(AnalyserFamily):
    """One factor analyser.

    Parameters
    ----------
    n_components : int
        1.
    n_factors : int
        Number of factors q.
    min_noise : float
        Least noise variance of a feature, as a share of its variance in the data.
    """

    name = "factor"
    params = FactorParams
    constants_record = FactorConstants
    mixes = False
    final_pass = True  # of complete rows it costs next to nothing

    def __init__(self, n_components: int = 1, n_factors: int = 1, min_noise: float = 1e-9) -> None:
        if n_components != 1:
            raise ValueError(f"Factor analysis has one component, got n_components={n_components}.")
        super().__init__(n_components, n_factors, min_noise)

    def weights_of(self, params: FactorParams) -> np.ndarray:
        return np.ones(1)

    def constants(self, source: Any) -> FactorConstants:
        nothing, weight = np.empty((0, 0)), np.asarray(source.total_weight)
        if source.has_nan:
            seen = observed_moments(source)
            return FactorConstants(weight, seen.means, seen.variances, nothing, nothing, seen.weights)
        if source.n_rows < source.n_features:
            known = _few_rows(source, weight)
        else:
            total = total_scatter(source, np.float64)
            known = FactorConstants(weight, total.centre, nothing, total.scatter, nothing, nothing)
        return _with_variances(known)

    def pooled_constants(
        self, first: FactorConstants, second: FactorConstants, keep: float, share: float
    ) -> FactorConstants:
        """Pool the scatters, or, if values are missing on either side, what is known of each feature by itself."""
        nothing = np.empty((0, 0))
        if first.complete and second.complete:
            weight, centre, scatter = first.total.pooled(second.total, keep, share)
            return _with_variances(FactorConstants(weight, centre, nothing, scatter, nothing, nothing))
        seen = first.moments.pooled(second.moments, keep, share)
        weight = np.asarray(keep * first.weight + share * second.weight)
        return FactorConstants(weight, seen.means, seen.variances, nothing, nothing, seen.weights)

    def start(self, constants: FactorConstants, noise_variances: np.ndarray) -> FactorParams:
        """Return the best parameters of complete rows for these noise variances (d,)."""
        noise = np.maximum(noise_variances, self.floors(constants.variances))
        if constants.rows.size:
            best = self.best_loadings_of_rows(constants.rows / np.sqrt(constants.weight), noise)
        else:
            best = self.best_loadings(constants.scatter / constants.weight, noise)
        return FactorParams(constants.centre[None].copy(), best[None], noise[None])

    def stats_of_constants(self, constants: FactorConstants, prepared: AnalyserPrepared) -> AnalyserStats | None:
        """Return the record that all rows together would give, made of their scatter alone."""
        if not constants.complete:
            return None
        n, d, q = float(constants.weight), len(constants.centre), self.n_factors
        slopes, noise = prepared.loadings[0], prepared.noise[0]
        shift = constants.centre - centres_of(prepared)[0]
        scaled = slopes / noise[:, None]
        M = np.eye(q) + scaled.T @ slopes
        covariance = np.linalg.inv(M)
        to_factors = covariance @ scaled.T  # (q, d)
        moved = n * np.outer(shift, to_factors @ shift)
        cross = np.column_stack([constants.times(to_factors.T) + moved, n * shift])
        seconds = np.empty((q + 1, q + 1))
        seconds[:q, :q] = to_factors @ cross[:, :q] + n * covariance
        seconds[:q, q] = seconds[q, :q] = n * (to_factors @ shift)
        seconds[q, q] = n
        squares = constants.squares + n * np.square(shift)
        outer = seconds[:q, :q] - n * covariance  # sum of z_bar z_bar'
        residual = squares - np.sum(slopes * (2.0 * cross[:, :q] - slopes @ outer), axis=1)
        quadratic = float(np.sum(residual / noise) + np.trace(outer))
        log_det = float(np.log(noise).sum() + np.linalg.slogdet(M)[1])
        loglik = -0.5 * (n * (d * LOG_2PI + log_det) + quadratic)
        nothing = np.empty((1, 0, q + 1, q + 1))
        return AnalyserStats(np.asarray(loglik), np.array([n]), seconds[None], cross[None], squares[None], nothing)

    def em_step(self, stats: AnalyserStats, constants: Any, prepared: AnalyserPrepared, params: Any) -> FactorParams:
        return FactorParams(*self.regression(stats, prepared, params, self.floors(constants.variances)))

    def m_step(self, stats: AnalyserStats, constants: Any, prepared: AnalyserPrepared, params: Any) -> MStep:
        new = self.em_step(stats, constants, prepared, params)
        if not constants.complete:
            return MStep(new)
        return MStep(self.start(constants, new.noise_variances[0]))

    def admissible(self, params: FactorParams, constants: FactorConstants) -> FactorParams:
        """Return the best parameters for the noise variances, as the M-step does."""
        if not constants.complete:
            return super().admissible(params, constants)
        return self.start(constants, params.noise_variances[0])

    def shortfall(self, stats: Any, constants: Any, prepared: Any, old: Any, new: Any) -> float:
        """What the floors explain, and the rounding of eigenvalues: large beside 1 where a noise variance is small."""
        floors = super().shortfall(stats, constants, prepared, old, new)
        return floors + 8 * np.finfo(np.float64).eps * float(np.sum(constants.variances / new.noise_variances[0]))

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> FactorParams:
        return FactorParams(np.asarray(means, np.float64), *self.generic(means, variances))

    def example_params(self, n_features: int, draws: Draws) -> FactorParams:
        d, q = n_features, self.n_factors
        slopes = 1.0 + draws.normal(d * q).reshape(1, d, q)
        return FactorParams(6.0 * draws.normal(d).reshape(1, d), slopes, 0.5 + draws.uniform(d).reshape(1, d))

    def sample(self, params: FactorParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Draw n rows (n, d), and their component (n,), 0."""
        y = np.zeros(n, np.int64)
        return self.draw(params, y, draws), y

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        d, q = n_features, self.n_factors
        return {"means": (1, d), "loadings": (1, d, q), "noise_variances": (1, d)}

    def n_free_params(self, n_features: int) -> int:
        return n_features + self.n_free_loadings(n_features)


def _few_rows(source: Any, weight: np.ndarray) -> FactorConstants:
    """Return the constants of complete rows that are fewer than the features, but for the variances."""
    rows = source.take(np.arange(source.n_rows)).astype(np.float64)
    w = source.sample_weight.astype(np.float64) if source.sample_weight.size else np.ones(len(rows))
    centre = rows[0] + w @ (rows - rows[0]) / weight
    centre += w @ (rows - centre) / weight
    rows = np.sqrt(w)[:, None] * (rows - centre)
    return FactorConstants(weight, centre, np.empty(0), np.empty((0, 0)), rows, np.empty(0))


def _with_variances(known: FactorConstants) -> FactorConstants:
    """Complete the constants of complete rows by the features' variances."""
    variances = without_rounding(np.maximum(known.squares / known.weight, 0.0), known.centre)
    return known._replace(variances=variances, observed=np.full(len(variances), float(known.weight)))
