r"""Marginals and conditionals of Gaussian mixtures: mixtures of Gaussians again, of the same shape.

With the features split into a and b, component k conditioned on x_a = v has (Bishop, PRML, section 2.3)

    weight proportional to pi_k N(v; mu_a, Sigma_aa),   mean mu_b + Sigma_ba inverse(Sigma_aa) (v - mu_a),
    covariance Sigma_bb - Sigma_ba inverse(Sigma_aa) Sigma_ab.
"""

from __future__ import annotations

import numpy as np

from fastem.families.elliptical.records import GaussianParams
from fastem.families.gaussian.family import GaussianFamily


def upper_triangular(factors: np.ndarray) -> np.ndarray:
    """Return factors P (..., d, d) of precisions P P' as upper triangular ones, whichever triangle they came in.

    scikit-learn multiplies by the whole factor, so that its users also set lower ones, by `numpy.linalg.cholesky`.
    """
    if factors.ndim < 2 or factors.shape[-1] != factors.shape[-2] or not np.tril(factors, -1).any():
        return factors
    from scipy.linalg import rq

    out = np.empty_like(factors)
    for place in np.ndindex(factors.shape[:-2]):
        upper = rq(factors[place], mode="r", check_finite=False)
        out[place] = upper * np.where(np.diagonal(upper) < 0, -1.0, 1.0)
    return out


def of_some_features(family: GaussianFamily) -> GaussianFamily:
    """Return the family of some features of a mixture, or given others: what components had in common is lost."""
    return GaussianFamily(family.n_components, family.shape.name) if family.covariance.constraint else family


def marginal(family: GaussianFamily, params: GaussianParams, columns: np.ndarray) -> GaussianParams:
    """Return the mixture of some features, in the order of `columns` (m,) int."""
    covariances = family.shape.block(params.covariances, columns, columns)
    return _complete(family, params.weights, params.means[:, columns], covariances)


def condition(
    family: GaussianFamily, params: GaussianParams, columns: np.ndarray, values: np.ndarray
) -> GaussianParams:
    """Return the mixture of the other features given that those in `columns` (m,) have `values` (m,)."""
    rest = np.setdiff1d(np.arange(params.means.shape[1]), columns)
    given = marginal(family, params, columns)
    _, weights = family.posterior(values[None], family.prepare(given, values.dtype), 1)
    means = params.means[:, rest]
    covariances = family.shape.block(params.covariances, rest, rest)
    if family.shape.matrices:
        known = family.shape.block(params.covariances, columns, columns)
        cross = family.shape.block(params.covariances, columns, rest)
        slopes = np.linalg.solve(known, cross)  # (k, m, d - m) or (m, d - m)
        shift = values - given.means
        means = means + ((shift[:, None] @ slopes)[:, 0] if slopes.ndim == 3 else shift @ slopes)
        covariances = covariances - np.swapaxes(cross, -1, -2) @ slopes
        covariances = 0.5 * (covariances + np.swapaxes(covariances, -1, -2))
    return _complete(family, weights[0], means, covariances)


def _complete(
    family: GaussianFamily, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> GaussianParams:
    means, covariances = np.ascontiguousarray(means), np.ascontiguousarray(covariances)
    return of_some_features(family).with_covariances(weights.copy(), means, covariances).params
