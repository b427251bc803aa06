"""A family of one's own, from outside the package: counts with more zeros than a Poisson distribution has.

Visits to a shop in four weeks, by occasional and by regular customers; in some weeks a customer is away and cannot
come at all.  The model is explained in docs/own_family.md: in plain NumPy first, then with a Numba kernel.
"""

import math
import time
from collections import namedtuple

import numpy as np
from scipy.special import gammaln

from fastem import Mixture
from fastem.families import Family, Layout, MStep, kernel, sweep

Params = namedtuple("Params", "weights rates closed")
Prepared = namedtuple("Prepared", "log_weights log_zero log_rates level")
Stats = namedtuple("Stats", "loglik counts sums zeros")


class ZeroInflatedPoisson(Family):
    """With probability `closed` a count is 0, otherwise it is Poisson."""

    name, params, positive_only = "zero-inflated-poisson", Params, True

    def layout(self, d):  # the record and its shapes; it must be additive over rows
        k = self.n_components
        return Layout(Stats, loglik=(), counts=(k,), sums=(k, d), zeros=(k, d))

    def blank_params(self, means, variances):  # what a start makes of centres (k, d)
        return Params(np.full(len(means), 1 / len(means)), means + 0.1, np.full(means.shape, 0.2))

    def prepare(self, params, dtype, previous=None):  # what an iteration needs once
        log_weights = np.log(np.maximum(params.weights, 1e-300))
        log_zero = np.log(params.closed + (1 - params.closed) * np.exp(-params.rates))
        return Prepared(log_weights, log_zero, np.log(params.rates), np.log1p(-params.closed) - params.rates)

    def log_joint(self, X, p, n_threads):  # log p(x, z = k) of every row, (n, k)
        x = X[:, None, :]
        log_p = np.where(x == 0, p.log_zero, x * p.log_rates + p.level - gammaln(x + 1))
        return p.log_weights + log_p.sum(axis=2)

    def accumulate_given(self, X, w, resp, p, stats):  # add the statistics of rows with responsibilities (n, k)
        record, resp = self.layout(X.shape[1]).view(stats), resp * w[:, None] if w.size else resp
        record.counts[:] += resp.sum(axis=0)
        record.sums[:] += resp.T @ X
        record.zeros[:] += resp.T @ (X == 0)

    def m_step(self, stats, constants, p, params):
        total = np.maximum(stats.counts[:, None], 1e-300)
        closed = stats.zeros * params.closed / np.exp(p.log_zero)  # the zeros that are not Poisson's
        rates = np.maximum(stats.sums / np.maximum(total - closed, 1e-300), 1e-10)
        return MStep(Params(stats.counts / stats.counts.sum(), rates, np.clip(closed / total, 1e-10, 1 - 1e-10)))


@sweep
@kernel
def add_rows(X, w, labels, p, start, stop, stats):
    k, d = p.level.shape
    resp = np.empty(k)
    for i in range(start, stop):
        for c in range(k):
            resp[c] = p.log_weights[c] if not labels.size or labels[i] in (-1, c) else -np.inf
            for j in range(d):
                x = X[i, j]
                resp[c] += p.log_zero[c, j] if x == 0 else x * p.log_rates[c, j] + p.level[c, j] - math.lgamma(x + 1)
        best, weight = resp.max(), w[i] if w.size else 1.0
        resp[:] = np.exp(resp - best)
        stats[0] += weight * (best + math.log(resp.sum()))
        resp *= weight / resp.sum()
        for c in range(k):
            stats[1 + c] += resp[c]
            for j in range(d):
                stats[1 + k + c * d + j] += resp[c] * X[i, j]
                stats[1 + k + k * d + c * d + j] += resp[c] * (X[i, j] == 0)


class Compiled(ZeroInflatedPoisson):
    """The same, with the E-step and the sums in one kernel."""

    def accumulator(self, n_features):
        return add_rows


def simulate(n, seed=0):
    """Counts (n, 4), the group of each customer, and the parameters that made them."""
    truth = Params(
        np.array([0.7, 0.3]),
        np.array([[1.5, 1.0, 2.0, 1.5], [6.0, 5.0, 7.0, 9.0]]),
        np.array([[0.5, 0.4, 0.3, 0.2], [0.1, 0.1, 0.4, 0.3]]),
    )
    generator = np.random.default_rng(seed)
    group = generator.choice(2, n, p=truth.weights)
    away = generator.random((n, 4)) < truth.closed[group]
    return np.where(away, 0, generator.poisson(truth.rates[group])).astype(float), group, truth


def main():
    """Fit both ways, compare with a plain Poisson mixture, and return the compiled model."""
    X, group, truth = simulate(20_000)
    options = {"n_init": 5, "random_state": 0, "certify": True, "keep_history": True}
    models = {}
    for family in (ZeroInflatedPoisson, Compiled, "poisson"):
        Mixture(2, family=family).fit(X[:9])  # compiles, so that the time below is the fit's
        start = time.perf_counter()
        model = Mixture(2, family=family, **options).fit(X)
        name = family if isinstance(family, str) else family.__name__
        print(
            f"{name:20s} log-likelihood {model.lower_bound_ * len(X):12.1f}  {model.n_iter_:3d} iterations"
            f"  {time.perf_counter() - start:6.2f} s"
        )
        models[name] = model
    model = models["Compiled"]
    order = np.argsort(model.weights_)[::-1]
    print("rates\n", model.rates_[order].round(2), "\ntrue\n", truth.rates)
    print("probability of being away\n", model.closed_[order].round(2), "\ntrue\n", truth.closed)
    found = np.argsort(order)[model.predict(X)]
    print(f"customers in their own group: {np.mean(found == group):.1%}")
    return models


if __name__ == "__main__":
    main()
