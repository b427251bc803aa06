r"""Mixtures of Bernoulli distributions: rows of zeros and ones (lecture row L9; Bishop, PRML, section 9.3.3).

Given component k the features are independent, feature j is 1 with probability mu_kj:

    log p(x given z = k) = sum_j x_j log mu_kj + (1 - x_j) log(1 - mu_kj),

which is linear in x, with slope log(mu / (1 - mu)) and level log(1 - mu) (see `linear`).  The E-step collects

    counts_k = sum_i w_i r_ik,      sums_kj = sum w_i r_ik x_ij,      observed_kj = sum w_i r_ik,

the last two over the rows where x_ij is observed, and the M-step sets pi_k = counts_k / sum(counts) and
mu_kj = sums_kj / observed_kj.

A probability of exactly 0 or 1 forbids a value for ever.  With a floor the probabilities are kept within
[floor, 1 - floor]; because the expected log-likelihood is concave in mu, clipping is the exact maximum under that
constraint, and the log-likelihood still never falls once the parameters obey it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem import values
from fastem.draws import Draws
from fastem.families.base import MStep
from fastem.families.coordinates import log_ratio, measured, pack_weights, present, steps_of, unpack_weights
from fastem.families.discrete.linear import NEVER, LinearFamily, LinearPrepared, LinearStats


class BernoulliParams(NamedTuple):
    """Parameters of a Bernoulli mixture, float64."""

    weights: np.ndarray  # (k,) mixing proportions
    means: np.ndarray  # (k, d) probabilities of 1


class BernoulliFamily(LinearFamily):
    """A mixture of `n_components` products of Bernoulli distributions.

    Parameters
    ----------
    n_components : int
        Number of components k.
    floor : float
        Least probability of either value; 0 for plain maximum likelihood.
    """

    name = "bernoulli"
    params = BernoulliParams

    def check(self, X: np.ndarray) -> None:
        values.zeros_and_ones(X, "A Bernoulli mixture")

    def origin(self, params: BernoulliParams) -> np.ndarray:
        return np.zeros((*params.means.shape[:-2], params.means.shape[-1]))

    def natural(self, params: BernoulliParams, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_one = np.log(np.maximum(params.means, NEVER))
        log_zero = np.log(np.maximum(1.0 - params.means, NEVER))
        return log_one - log_zero, log_zero

    def m_step(self, stats: LinearStats, constants: Any, prepared: LinearPrepared, params: BernoulliParams) -> MStep:
        means = np.clip(self.means(stats, prepared, params.means), self.floor, 1.0 - self.floor)
        return MStep(BernoulliParams(self.weights_of(stats), means))

    def pack(self, params: BernoulliParams, like: BernoulliParams) -> np.ndarray:
        logits = log_ratio(params.means, like.means) - log_ratio(1.0 - params.means, 1.0 - like.means)
        return np.append(pack_weights(params.weights, like.weights), measured(logits, _information(like)))

    def unpack(self, vector: np.ndarray, like: BernoulliParams) -> BernoulliParams | None:
        weights = unpack_weights(vector[: self.n_components], like.weights)
        if weights is None:
            return None
        ones = like.means * np.exp(steps_of(vector[self.n_components :], _information(like)))
        means = ones / (ones + (1.0 - like.means))
        return BernoulliParams(weights, np.clip(means, self.floor, 1.0 - self.floor))

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> BernoulliParams:
        return BernoulliParams(np.full(means.shape[:-1], 1.0 / means.shape[-2]), np.clip(means, 0.05, 0.95))

    def example_params(self, n_features: int, draws: Draws) -> BernoulliParams:
        """Component k has mostly ones in every k-th feature, so that a few features tell components apart."""
        k, d = self.n_components, n_features
        mostly = np.arange(d) % k == np.arange(k)[:, None]
        weights = 1.0 + draws.uniform(k)
        means = np.where(mostly, 0.85, 0.05) + 0.1 * draws.uniform(k * d).reshape(k, d)
        return BernoulliParams(weights / weights.sum(), means)

    def sample(self, params: BernoulliParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Draw n rows (n, d) of zeros and ones, ordered by component, and their components (n,)."""
        y = np.sort(draws.weighted(params.weights, n))
        d = params.means.shape[1]
        return (draws.uniform(n * d).reshape(n, d) < params.means[y]).astype(np.float64), y


def _information(like: BernoulliParams) -> np.ndarray:
    """Return what complete rows tell of the logits (k, d)."""
    return present(like.weights)[:, None] * like.means * (1.0 - like.means)
