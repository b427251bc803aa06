"""Models by name, and rows for each: what benchmarks of all families have in common.

A start is rows drawn by seed 0, the same for every commit, so that a fit of a fixed number of iterations is the same
work.  Only public classes are used: the rooms behind them may move between the commits that are compared.
"""

import numpy as np

import fastem

from .data import Shape, mixture_data
from .profiles import quietly

GAUSSIANS = ("gaussian-full", "gaussian-tied", "gaussian-diag", "gaussian-spherical")
STUDENTS = ("student-full", "student-diag", "student-spherical")
COUNTS = ("bernoulli", "poisson", "categorical")
MIXTURES = (*GAUSSIANS, *STUDENTS, *COUNTS, "factor-mixture")


def rows_for(name, shape, dtype="float64", missing=0.0):
    """Return rows (n, d) that suit a model, a share of whose values is missing at random."""
    rng = np.random.default_rng(0)
    if name in COUNTS:
        y = rng.integers(0, shape.k, shape.n)
        if name == "bernoulli":
            X = rng.random((shape.n, shape.d)) < rng.uniform(0.05, 0.95, (shape.k, shape.d))[y]
        elif name == "poisson":
            X = rng.poisson(rng.uniform(0.5, 8.0, (shape.k, shape.d))[y])
        else:
            # The larger of a row's code and its cluster's is a code of 0 to 3 that depends on the cluster.
            X = np.maximum(rng.integers(0, 4, (shape.n, shape.d)), rng.integers(0, 3, (shape.k, shape.d))[y])
        X = X.astype(dtype)
    else:
        X = mixture_data(shape, dtype)[0]
    if missing:
        X[np.random.default_rng(1).random(X.shape) < missing] = np.nan
    return X


def unfitted(name, k, n_iter, n_threads=1, **options):
    """Return a mixture that will run so many iterations from k drawn rows."""
    family, _, kind = name.partition("-")
    options = {"max_iter": n_iter, "tol": 0, "random_state": 0, "n_threads": n_threads, **options}
    options.setdefault("init_params", "random_from_data")
    if family == "gaussian":
        return fastem.GaussianMixture(k, covariance_type=kind, **options)
    if family == "student":
        return fastem.StudentTMixture(k, covariance_type=kind, **options)
    if family == "factor":
        return fastem.FactorAnalyserMixture(k, n_factors=3, **options)
    if family == "categorical":
        return fastem.CategoricalMixture(k, n_categories=4, **options)
    return {"bernoulli": fastem.BernoulliMixture, "poisson": fastem.PoissonMixture}[family](k, **options)


def fitted(name, shape, dtype, n_iter, missing=0.0, n_threads=1):
    """Return a model that has run so many iterations, and its rows: all its kernels are warm."""
    X = rows_for(name, shape, dtype, missing)
    return quietly(unfitted(name, shape.k, n_iter, n_threads).fit, X), X


def shape_of(name, n, d=16, k=8):
    """Return the shape of a kernel's benchmark."""
    return Shape(n, d, k).shrunk()
