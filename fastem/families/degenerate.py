"""Components without variance of their own: their likelihood is unbounded and says nothing of how well they fit."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

# A variance of no more than this many times what was added to it is what was added ...
FLOORS = 2.0
# ... where the variance of all rows in that direction is so much larger.
FLAT = 1e-2
# Without anything added, a variance that is this part of all rows' is rounding.
ROUNDED = 1e-9


def flat(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, floor: float) -> np.ndarray:
    """Tell which components are flat where the mixture is not.

    Parameters
    ----------
    weights : ndarray (k,)
        Mixing proportions.
    means : ndarray (k, d)
        Means.
    covariances : ndarray (k, d, d), or of independent features (k, d)
        Covariances.
    floor : float
        What was added to the variances.

    Returns
    -------
    ndarray (k,) of bool
        Whether, in the direction in which a component varies least beside the whole mixture, its variance is the floor
        or rounding.

    Examples
    --------
    >>> flat(np.array([0.5, 0.5]), np.zeros((2, 1)), np.array([[1.0], [1e-6]]), 1e-6)
    array([False,  True])
    """
    weights = weights / weights.sum()
    centred = means - weights @ means
    if covariances.ndim == 2:
        whole = weights @ covariances + weights @ centred**2
        ratios = covariances / np.where(whole > 0, whole, np.inf)
        small = (covariances <= FLOORS * floor) & (ratios < FLAT) & (whole > 0)
        return np.any(small | ((ratios < ROUNDED) & (whole > 0)), axis=1)
    whole = np.tensordot(weights, covariances, 1) + (weights[:, None] * centred).T @ centred
    values, vectors = np.linalg.eigh(whole)
    there = values > np.finfo(np.float64).eps * len(values) * max(values[-1], 0.0)
    if not there.any():
        return np.zeros(len(means), bool)
    basis = vectors[:, there] / np.sqrt(values[there])  # in which the mixture has the variance 1 in all directions
    return np.array([_is_flat(basis.T @ one @ basis, basis, one, floor) for one in covariances])


def _is_flat(whitened: np.ndarray, basis: np.ndarray, covariance: np.ndarray, floor: float) -> bool:
    ratio, direction = eigh(whitened, subset_by_index=[0, 0])
    axis = basis @ direction[:, 0]
    variance = float(axis @ covariance @ axis) / float(axis @ axis)
    return bool(ratio[0] < ROUNDED or (ratio[0] < FLAT and variance <= FLOORS * floor))
