r"""Unconstrained coordinates of elliptical families, for acceleration (see `coordinates`).

Coordinates are relative to reference parameters and measured by the complete data's information there, so that they
depend neither on the units of the features nor on where the data lie.  With w, m, P those of the reference (precision
P P', P upper triangular) the coordinates of component k are

    sqrt(w) log(weight / w),   sqrt(w) (mu - m) P,   sqrt(2 w) log T_jj,   sqrt(w) T_ij (i < j),   T = inverse(P) P_k,

in which the information of a complete observation is the identity, and the matrix of EM's linear convergence symmetric.
A component without weight in the reference stays where it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem.families.coordinates import FARTHEST, pack_weights, present, unpack_weights
from fastem.families.elliptical.shape import Shape


class Ellipsoids(NamedTuple):
    """Weights, centres and matrices, the parameters that all elliptical families have."""

    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    matrices: np.ndarray  # covariances or scales, in the shape of their type
    precisions_cholesky: np.ndarray


def pack(params: Any, like: Any, shape: Shape) -> np.ndarray:
    """Return the coordinates (m,) of `params` relative to `like`: 0 for `like` itself.

    Not finite if a component has weight in one and none in the other.
    """
    weights = present(like.weights)
    factors = shape.stacked(like.precisions_cholesky)
    means = params.means - like.means
    means = (means[:, None] @ factors)[:, 0] if factors.ndim == 3 else means * factors
    size = np.sqrt(_information(weights, like, shape))
    if factors.ndim == 3:
        ratio = np.linalg.solve(factors, shape.stacked(params.precisions_cholesky))
        row, column = np.triu_indices(ratio.shape[1])
        spread = ratio[:, row, column]
        diagonal = row == column
        spread[:, diagonal] = np.sqrt(2) * np.log(spread[:, diagonal])
    else:
        spread = np.sqrt(2) * np.log(shape.stacked(params.precisions_cholesky) / factors)
    return np.concatenate(
        [
            pack_weights(params.weights, like.weights),
            (np.sqrt(weights)[:, None] * means).ravel(),
            (size[:, None] * spread).ravel(),
        ]
    )


def unpack(vector: np.ndarray, like: Any, shape: Shape) -> Ellipsoids | None:
    """Return the parameters that have these coordinates (m,) relative to `like`, or None if they lie too far off."""
    k, d = like.means.shape
    factors = shape.stacked(like.precisions_cholesky)
    size = np.sqrt(_information(present(like.weights), like, shape))
    weights = unpack_weights(vector[:k], like.weights)
    means = vector[k : k + k * d].reshape(k, d) / np.sqrt(present(like.weights))[:, None]
    spread = vector[k + k * d :].reshape(len(factors), -1) / size[:, None]
    row, column = np.triu_indices(d) if factors.ndim == 3 else (np.arange(spread.shape[1]),) * 2
    spread[:, row == column] /= np.sqrt(2)
    if weights is None or not np.all(np.isfinite(vector)) or np.abs(spread).max() > FARTHEST:
        return None
    if factors.ndim == 3:
        ratio = np.zeros_like(factors)
        ratio[:, row, column] = np.where(row == column, np.exp(spread), spread)
        means = np.linalg.solve(np.swapaxes(factors, 1, 2), means[:, :, None])[:, :, 0]
        factors = np.triu(factors @ ratio)
        inverse = np.linalg.inv(factors)
        matrices = np.swapaxes(inverse, 1, 2) @ inverse
    else:
        means /= factors
        factors = factors * np.exp(spread)
        matrices = factors**-2.0
    stored = like.precisions_cholesky.shape
    return Ellipsoids(weights, like.means + means, matrices.reshape(stored), factors.reshape(stored))


def _information(weights: np.ndarray, like: Any, shape: Shape) -> np.ndarray:
    """Return how many rows' worth of information each covariance has, (k,) or (1,)."""
    return shape.information(like.weights, weights, like.means.shape[1])
