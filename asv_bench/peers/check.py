"""Objectives in plain NumPy, in float64, whoever found the parameters."""

from __future__ import annotations

import numpy as np

from asv_bench.benchmarks.data import blocks


def inertia(X: np.ndarray, centers: np.ndarray) -> float:
    """Return the sum of squared distances of rows to their nearest centre."""
    centers = np.asarray(centers, np.float64)
    half_norms = 0.5 * np.square(centers).sum(axis=1)
    total = 0.0
    for rows in blocks(len(X)):
        block = X[rows].astype(np.float64)
        nearest = (block @ centers.T - half_norms).argmax(axis=1)
        total += float(np.square(block - centers[nearest]).sum())
    return total


def log_likelihood(X: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> float:
    """Return the mean log-likelihood of a row, or NaN where a covariance is singular: there is none.

    Covariances are (k, d, d), (k, d) or (k,), a tied one once per component.
    """
    means = np.asarray(means, np.float64)
    k, d = means.shape
    covariances = np.asarray(covariances, np.float64)
    if covariances.ndim == 1:
        covariances = np.repeat(covariances[:, None], d, axis=1)
    diagonal = covariances.ndim == 2
    try:
        factors = 1 / np.sqrt(covariances) if diagonal else np.linalg.inv(np.linalg.cholesky(covariances))
    except np.linalg.LinAlgError:
        return np.nan
    log_det = np.log(factors if diagonal else np.einsum("kjj->kj", factors)).sum(axis=1)
    constant = np.log(np.asarray(weights, np.float64)) + log_det - 0.5 * d * np.log(2 * np.pi)
    total = 0.0
    for rows in blocks(len(X)):
        block = X[rows].astype(np.float64)
        log_joint = np.empty((len(block), k))
        for c in range(k):
            z = (block - means[c]) * factors[c] if diagonal else (block - means[c]) @ factors[c].T
            log_joint[:, c] = constant[c] - 0.5 * np.square(z).sum(axis=1)
        total += float(np.logaddexp.reduce(log_joint, axis=1).sum())
    return total / len(X)
