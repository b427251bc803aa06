"""Rows of which a tenth of the values is missing: the kernels on one thread, and whole fits.

The expectation runs over patterns of what is observed, so their number decides: few (a sensor that fails for a while)
or as many as rows (values missing at random).
"""

import numpy as np

import fastem

from .data import Shape, factor_data, mixture_data
from .models import GAUSSIANS, MIXTURES, fitted, shape_of
from .profiles import A_DTYPE, DTYPES, FEW, Benchmark, by_profile, quietly

ROWS = {"bernoulli": 6_000, "poisson": 6_000, "factor-mixture": 300}


class GaussianPassMissing(Benchmark):
    """One EM iteration over rows with missing values, at random or in few patterns."""

    params = (list(GAUSSIANS), ["random", "patterns"], A_DTYPE)
    param_names = ("model", "missing", "dtype")
    one_thread = True

    def setup(self, model, missing, dtype):
        kind = model.partition("-")[2]
        n = {"full": 2_000, "tied": 2_000}.get(kind, 8_000)
        self.X, start = mixture_data(Shape(n, 16, 8, kind).shrunk(), dtype)
        rng = np.random.default_rng(1)
        if missing == "random":
            self.X[rng.random(self.X.shape) < 0.1] = np.nan
        else:
            self.X[(rng.random((8, 16)) < 0.1)[rng.integers(0, 8, len(self.X))]] = np.nan
        self.start = (start.weights, start.means, start.precisions_cholesky(kind), kind)
        self.time_em_step(model, missing, dtype)

    def time_em_step(self, model, missing, dtype):
        fastem.backend.em_step(self.X, *self.start, n_threads=1)


class MixturePassMissing(Benchmark):
    """A dozen iterations, and the E-step alone, of every mixture that takes missing values."""

    version = "2"
    params = (list(MIXTURES), A_DTYPE)
    param_names = ("model", "dtype")
    one_thread = True

    def setup(self, model, dtype):
        n_iter = 48 if model == "factor-mixture" else 12  # so many that the kernel is most of a fit
        self.model, self.X = fitted(model, shape_of(model, ROWS.get(model, 3_000)), dtype, n_iter, missing=0.1)
        self.model.predict_proba(self.X)

    def time_predict_proba(self, model, dtype):
        self.model.predict_proba(self.X)

    def time_iterations(self, model, dtype):
        quietly(self.model.fit, self.X)


class ConditionalMean(Benchmark):
    """Missing values filled in by their expectation."""

    params = (list(GAUSSIANS), A_DTYPE)
    param_names = ("model", "dtype")
    one_thread = True

    def setup(self, model, dtype):
        self.model, self.X = fitted(model, shape_of(model, 3_000), dtype, 1, missing=0.1)
        self.model.conditional_mean(self.X)

    def time_conditional_mean(self, model, dtype):
        self.model.conditional_mean(self.X)


class FactorAnalysisMissing(Benchmark):
    """Two dozen iterations of factor analysis on rows of which a tenth is missing, on one thread."""

    version = "2"
    params = (A_DTYPE,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = factor_data(Shape(1_000, 32, 5).shrunk().n, 32, 5, dtype)
        self.X[np.random.default_rng(1).random(self.X.shape) < 0.1] = np.nan
        self.model = fastem.FactorAnalysis(5, max_iter=24, tol=0, n_threads=1)
        quietly(self.model.fit, self.X)

    def time_iterations(self, dtype):
        quietly(self.model.fit, self.X)


class MissingFit(Benchmark):
    """Ten iterations on all threads."""

    params = (
        by_profile(["gaussian-full"], ["gaussian-diag", "student-full", "factor-mixture"]),
        by_profile(DTYPES[1:], DTYPES[:1]),
    )
    param_names = ("model", "dtype")

    def setup(self, model, dtype):
        self.model, self.X = fitted(model, shape_of(model, 20_000, k=4), dtype, 10, missing=0.1, n_threads=None)
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, model, dtype):
        quietly(self.model.fit, self.X)
