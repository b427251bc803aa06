"""Rows, parameters and records that the tests of Gaussian kernels share."""

from __future__ import annotations

import numpy as np

from fastem.families.elliptical.covariance import COVARIANCES
from fastem.families.elliptical.records import GaussianParams
from fastem.grid import merge_tree, plan

DTYPES = (np.float64, np.float32)


RTOL = {np.float64: 1e-11, np.float32: 2e-5}


def shape_of(covariance_type):
    return COVARIANCES[covariance_type].shape


def problem(n, d, k, covariance_type, dtype=np.float64, seed=0, spread=4.0):
    """Clustered rows and parameters that fit them badly."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-spread, spread, (k, d))
    X = (centres[rng.integers(0, k, n)] + rng.standard_normal((n, d))).astype(dtype)
    A = rng.standard_normal((k, d, d)) / np.sqrt(d) + np.eye(d)
    covariances = A @ A.transpose(0, 2, 1) + 0.5 * np.eye(d)
    covariances = {
        "full": covariances,
        "tied": covariances[0],
        "diag": np.diagonal(covariances, axis1=1, axis2=2).copy(),
        "spherical": covariances[:, 0, 0].copy(),
    }[covariance_type]
    weights = rng.dirichlet(np.full(k, 5.0))
    means = centres + rng.standard_normal((k, d))
    return X, GaussianParams(weights, means, covariances, shape_of(covariance_type).precisions_cholesky(covariances))


def record(X, w, labels, params, covariance_type, driver="serial"):
    """The statistics of all rows, and the prepared parameters they are centred on."""
    gaussian = shape_of(covariance_type)
    prepared = gaussian.prepare(params, X.dtype)
    layout = gaussian.layout(*params.means.shape)
    level, n_tasks = plan(len(X), layout.size)
    out = np.empty((n_tasks, layout.size))
    w = np.empty(0, X.dtype) if w is None else w.astype(X.dtype)
    labels = np.empty(0, np.int32) if labels is None else labels
    getattr(gaussian.accumulate, driver)(X, w, labels, prepared, level, 0, out)
    return layout.view(merge_tree(out)), prepared


def close(actual, desired, rtol, scale=None):
    scale = np.abs(desired).max() if scale is None else scale
    np.testing.assert_allclose(actual, desired, rtol=0, atol=rtol * max(scale, 1.0))
