r"""Mixtures of factor analysers: clusters that each lie near a subspace of its own (lecture row L9).

Given z_i = k a row is mu_k + Lambda_k f + e with q factors f ~ N(0, I) and noise e ~ N(0, Psi_k), Psi_k diagonal: a
Gaussian mixture whose covariances Lambda_k Lambda_k' + Psi_k take d (q + 1) numbers in place of d (d + 1) / 2, so that
it can be fitted where there are many features and not so many rows.

The E-step and the regression of the M-step are in `loadings`: over component and factors at once, as in Ghahramani and
Hinton.  The mixing proportions are pi_k = counts_k / sum(counts).

The likelihood is unbounded: a component may shrink onto a feature that is constant in its rows.  Noise variances are
kept above a floor; because Q has one maximum over each of them, clipping is the exact maximum under that constraint,
and the log-likelihood never falls once the parameters obey it.

References
----------
Ghahramani and Hinton, "The EM algorithm for mixtures of factor analyzers", CRG-TR-96-1, Toronto, 1996.
McLachlan and Peel, "Finite mixture models", chapter 8, 2000.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem.draws import Draws
from fastem.families.base import MStep
from fastem.families.data_moments import ObservedMoments, observed_moments
from fastem.families.degenerate import flat
from fastem.families.factor.family import AnalyserFamily
from fastem.families.factor.kernels import AnalyserPrepared, AnalyserStats

# A component with a smaller share of the rows than this has lost them.
LOST = 1e-12
# Steps of alternating least squares by which a covariance is split into loadings and noise for a start.
SPLIT_STEPS = 10


class FactorMixtureParams(NamedTuple):
    """Parameters of a mixture of factor analysers, float64."""

    weights: np.ndarray  # (k,) mixing proportions
    means: np.ndarray  # (k, d)
    loadings: np.ndarray  # (k, d, q)
    noise_variances: np.ndarray  # (k, d)


class FactorMixtureFamily(AnalyserFamily):
    """A mixture of `n_components` factor analysers.

    Parameters
    ----------
    n_components : int
        Number of components k.
    n_factors : int
        Number of factors q of each.
    min_noise : float
        Least noise variance of a feature, as a share of its variance in the data.
    """

    name = "factor-mixture"
    params = FactorMixtureParams
    constants_record = ObservedMoments

    def __init__(self, n_components: int, n_factors: int = 1, min_noise: float = 1e-6) -> None:
        super().__init__(n_components, n_factors, min_noise)

    def weights_of(self, params: FactorMixtureParams) -> np.ndarray:
        return params.weights

    def constants(self, source: Any) -> ObservedMoments:
        """Return moments of the features, whose variances say how small the noise may be."""
        return observed_moments(source)

    def pooled_constants(
        self, first: ObservedMoments, second: ObservedMoments, keep: float, share: float
    ) -> ObservedMoments:
        return first.pooled(second, keep, share)

    def em_step(
        self, stats: AnalyserStats, constants: Any, prepared: AnalyserPrepared, params: Any
    ) -> FactorMixtureParams:
        regression = self.regression(stats, prepared, params, self.floors(constants.variances))
        return FactorMixtureParams(stats.counts / stats.counts.sum(), *regression)

    def m_step(self, stats: AnalyserStats, constants: Any, prepared: AnalyserPrepared, params: Any) -> MStep:
        new = self.em_step(stats, constants, prepared, params)
        lost = np.flatnonzero(new.weights < LOST)
        return MStep(new, tuple(f"component {c} lost all its rows" for c in lost))

    def from_covariances(
        self, constants: Any, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
    ) -> FactorMixtureParams:
        """Return parameters close to a Gaussian mixture's, with covariances (k, d, d), to begin with.

        Each covariance is split in turns: the loadings by its leading eigenvectors beside the noise, the noise by what
        they leave of the variances.
        """
        floors = self.floors(constants.variances)
        loadings, noise = self.generic(means, constants.variances)
        for c, covariance in enumerate(covariances):
            variances = np.maximum(np.diagonal(covariance), floors)
            noise[c] = 0.5 * variances
            for _ in range(SPLIT_STEPS):
                found = self.best_loadings(covariance, noise[c])
                noise[c] = np.maximum(variances - np.square(found).sum(axis=1), 0.01 * variances + floors)
            unused = ~found.any(axis=0)  # EM leaves loadings of 0 as they are
            loadings[c] = np.where(unused, 0.1 * loadings[c], found)
        return FactorMixtureParams(weights.copy(), means.copy(), loadings, noise)

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> FactorMixtureParams:
        means = np.asarray(means, np.float64)
        return FactorMixtureParams(np.full(len(means), 1.0 / len(means)), means, *self.generic(means, variances))

    def example_params(self, n_features: int, draws: Draws) -> FactorMixtureParams:
        k, d, q = self.n_components, n_features, self.n_factors
        weights = 1.0 + draws.uniform(k)
        means = 6.0 * draws.normal(k * d).reshape(k, d)
        slopes = 1.0 + draws.normal(k * d * q).reshape(k, d, q)
        return FactorMixtureParams(weights / weights.sum(), means, slopes, 0.5 + draws.uniform(k * d).reshape(k, d))

    def sample(self, params: FactorMixtureParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Draw n rows (n, d), ordered by component, and their components (n,)."""
        y = np.sort(draws.weighted(params.weights, n))
        return self.draw(params, y, draws), y

    def degenerate(self, params: FactorMixtureParams, n_rows: float) -> np.ndarray:
        covariances = params.loadings @ np.swapaxes(params.loadings, 1, 2)
        covariances += params.noise_variances[:, :, None] * np.eye(params.means.shape[1])
        centred = params.means - params.weights @ params.means
        spread = np.einsum("kjj->kj", covariances) + centred**2
        scale = np.sqrt(params.weights @ spread)  # the floors are shares of the features' variances
        scale[scale == 0] = 1.0
        few = params.weights * n_rows < self.n_factors + 2
        return few | flat(params.weights, centred / scale, covariances / np.outer(scale, scale), self.min_noise)

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        k, d, q = self.n_components, n_features, self.n_factors
        return {"weights": (k,), "means": (k, d), "loadings": (k, d, q), "noise_variances": (k, d)}

    def n_free_params(self, n_features: int) -> int:
        return self.n_components * (n_features + self.n_free_loadings(n_features) + 1) - 1
