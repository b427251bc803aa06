"""A family from outside the package, in plain NumPy: mixtures of exponential distributions on one feature."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastem.families.base import Family, MStep
from fastem.records import Layout


class Parameters(NamedTuple):
    weights: np.ndarray
    rates: np.ndarray


class Sums(NamedTuple):
    loglik: np.ndarray
    counts: np.ndarray
    sums: np.ndarray


class Exponential(Family):
    """Rows are waiting times; each component has a rate."""

    name = "exponential"

    params = Parameters

    def __init__(self, n_components):
        self.n_components = n_components

    def layout(self, n_features):
        return Layout(Sums, loglik=(), counts=(self.n_components,), sums=(self.n_components,))

    def prepare(self, params, dtype, previous=None):
        return params

    def log_joint(self, X, prepared, n_threads):
        return np.log(prepared.weights) + np.log(prepared.rates) - X[:, :1] * prepared.rates

    def accumulate(self, X, w, labels, prepared, stats):
        log_joint = self.log_joint(X, prepared, 1)
        log_prob = np.logaddexp.reduce(log_joint, axis=1)
        resp = np.exp(log_joint - log_prob[:, None])
        stats += np.concatenate([[log_prob.sum()], resp.sum(axis=0), resp.T @ X[:, 0]])

    def objective(self, stats, constants, params):
        return float(stats.loglik / stats.counts.sum())

    def m_step(self, stats, constants, prepared, params):
        return MStep(Parameters(stats.counts / stats.counts.sum(), stats.counts / stats.sums))

    def progress(self, before, after):
        return abs(after.objective - before.objective)

    def blank_params(self, means, variances):
        return Parameters(np.full(len(means), 1 / len(means)), 1 / np.maximum(means[:, 0], 1e-9))

    def example_params(self, n_features, draws):
        return Parameters(np.array([0.4, 0.6]), np.array([0.2, 5.0]))

    def sample(self, params, n, draws):
        y = draws.weighted(params.weights, n)
        return -np.log1p(-draws.uniform(n))[:, None] / params.rates[y, None], y

    def n_free_params(self, n_features):
        return 2 * self.n_components - 1
