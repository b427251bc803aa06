"""Rows, starts and views of fitted models that the tests of Gaussian mixtures share."""

import numpy as np
from sklearn.datasets import make_blobs


def data(n=3000, d=4, k=3, seed=0, std=2.5):
    """Rows (n, d) in k blobs, and their blobs (n,)."""
    return make_blobs(n, d, centers=k, cluster_std=std, random_state=seed)


def identity_like(covariance_type, k, d, variance=1.0):
    """Precisions of k components of one variance."""
    identity = np.eye(d) / variance
    return {
        "full": np.repeat(identity[None], k, axis=0),
        "tied": identity,
        "diag": np.full((k, d), 1 / variance),
        "spherical": np.full(k, 1 / variance),
    }[covariance_type]


def dense(model, c):
    """The covariance of a component as a matrix."""
    d = model.means_.shape[1]
    return {
        "full": lambda: model.covariances_[c],
        "tied": lambda: model.covariances_,
        "diag": lambda: np.diag(model.covariances_[c]),
        "spherical": lambda: model.covariances_[c] * np.eye(d),
    }[model.covariance_type]()
