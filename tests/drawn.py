"""Rows that tests of several families share: drawn from known parameters, and with values missing at random."""

import numpy as np


def rows(family, params, n, draws):
    """Draw n rows from the parameters of a family, in random order: float64, C-contiguous."""
    X, _ = family.sample(params, n, draws)
    return np.ascontiguousarray(X[np.argsort(draws.uniform(n))], np.float64)


def holes(X, share=0.2, seed=0):
    """The same rows with values missing at random."""
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X).astype(X.dtype)
