"""Fits through the estimators on all threads: a fixed number of iterations, and the time to an answer."""

import numpy as np

import fastem

from .data import KMEANS_SHAPES, MIXTURE_SHAPES, MORE_MIXTURE_SHAPES, Shape, factor_data, kmeans_data, mixture_data
from .models import COUNTS, STUDENTS, fitted, shape_of
from .profiles import A_DTYPE, DTYPES, FEW, Benchmark, by_profile, quietly

KMEANS = {
    str(shape): shape for shape in by_profile((Shape(100_000, 16, 16),), KMEANS_SHAPES, (Shape(10_000_000, 32, 64),))
}
MIXTURES = {
    str(shape): shape
    for shape in by_profile(
        (Shape(50_000, 8, 8, "full"),), MIXTURE_SHAPES + MORE_MIXTURE_SHAPES, (Shape(5_000_000, 16, 16, "full"),)
    )
}


class KMeansFit(Benchmark):
    """Ten iterations of k-means from given rows."""

    params = (list(KMEANS), DTYPES)
    param_names = ("shape", "dtype")

    def setup(self, shape, dtype):
        self.X, centers = kmeans_data(KMEANS[shape].shrunk(), dtype)
        self.model = fastem.KMeans(len(centers), init=centers, n_init=1, max_iter=10, tol=0)
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, shape, dtype):
        quietly(self.model.fit, self.X)


class GaussianMixtureFit(Benchmark):
    """Three iterations of EM from given parameters."""

    params = (list(MIXTURES), A_DTYPE)
    param_names = ("shape", "dtype")

    def setup(self, shape, dtype):
        self.X, self.model = given_start(MIXTURES[shape], dtype)
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, shape, dtype):
        quietly(self.model.fit, self.X)


class MixtureFit(Benchmark):
    """Ten iterations of the other mixtures from drawn rows."""

    params = (by_profile(["student-full"], [*STUDENTS[1:], *COUNTS, "factor-mixture"]), A_DTYPE)
    param_names = ("model", "dtype")

    def setup(self, model, dtype):
        self.model, self.X = fitted(model, shape_of(model, 20_000), dtype, 10, n_threads=None)

    def time_fit(self, model, dtype):
        quietly(self.model.fit, self.X)


class PartialFit(Benchmark):
    """A pass over the rows in fifty batches: stepwise EM, and steps of k-means."""

    params = (by_profile(["GaussianMixture", "KMeans"], ["PoissonMixture", "StudentTMixture", "FactorAnalysis"]),)
    param_names = ("model",)

    def setup(self, model):
        X = mixture_data(Shape(50_000, 8, 8, "full").shrunk())[0]
        X = np.round(np.exp(0.3 * X)) if model == "PoissonMixture" else X
        self.batches = np.array_split(X, max(1, min(50, len(X) // 100)))
        self.model = getattr(fastem, model)(1 if model == "FactorAnalysis" else 8, random_state=0)
        quietly(self.model.partial_fit, self.batches[0])

    def time_partial_fit(self, model):
        for batch in self.batches:
            quietly(self.model.partial_fit, batch)


class FactorAnalysisFit(Benchmark):
    """Twenty iterations of factor analysis on the covariance of the rows."""

    params = (A_DTYPE,)
    param_names = ("dtype",)

    def setup(self, dtype):
        self.X = factor_data(Shape(50_000, 32, 5).shrunk().n, 32, 5, dtype)
        self.model = fastem.FactorAnalysis(5, max_iter=20, tol=0)
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, dtype):
        quietly(self.model.fit, self.X)


class ManyClusters(Benchmark):
    """Very many clusters: in two levels, and one level of a sample of the rows."""

    params = (["HierarchicalKMeans", "sample_per_cluster"], A_DTYPE)
    param_names = ("model", "dtype")

    def setup(self, model, dtype):
        self.X = kmeans_data(Shape(100_000, 32, 100).shrunk(), dtype)[0]
        self.model = {
            "HierarchicalKMeans": fastem.HierarchicalKMeans(len(self.X) // 50, random_state=0),
            "sample_per_cluster": fastem.KMeans(100, max_iter=10, sample_per_cluster=64, random_state=0),
        }[model]
        quietly(fastem.HierarchicalKMeans(20, random_state=0).fit, self.X[:FEW])

    def time_fit(self, model, dtype):
        quietly(self.model.fit, self.X)


class ToAnswer(Benchmark):
    """Time to an answer: fits with every class's own start and stopping rule, whatever iterations they take."""

    params = (by_profile(["KMeans", "MiniBatchKMeans", "GaussianMixture"], ["BisectingKMeans", "StudentTMixture"]),)
    param_names = ("model",)

    def setup(self, model):
        self.X = mixture_data(Shape(50_000, 8, 8, "full").shrunk())[0]
        self.model = {
            "KMeans": fastem.KMeans(8, n_init=1, random_state=0),
            "MiniBatchKMeans": fastem.MiniBatchKMeans(8, n_init=1, random_state=0),
            "BisectingKMeans": fastem.BisectingKMeans(8, n_init=1, random_state=0),
            "GaussianMixture": fastem.GaussianMixture(8, random_state=0, max_iter=500),
            "StudentTMixture": fastem.StudentTMixture(8, random_state=0, max_iter=500),
        }[model]
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, model):
        quietly(self.model.fit, self.X)


class Accelerated(Benchmark):
    """EM on overlapping clusters until 0.005 nats are left: plain, and extrapolated."""

    params = (["plain", "squarem"],)
    param_names = ("steps",)

    def setup(self, steps):
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((Shape(5_000, 2, 2).shrunk().n, 2))
        self.X[: len(self.X) // 2] += 1.7
        accelerate = None if steps == "plain" else steps
        options = {"random_state": 0, "max_iter": 2000, "tol": 1e-8, "accelerate": accelerate}
        self.model = fastem.GaussianMixture(2, **options)
        quietly(self.model.fit, self.X)

    def time_fit(self, steps):
        quietly(self.model.fit, self.X)


def given_start(shape, dtype):
    """Return rows and a Gaussian mixture that runs three iterations from given parameters."""
    X, start = mixture_data(shape.shrunk(), dtype)
    model = fastem.GaussianMixture(
        len(start.means),
        covariance_type=shape.covariance,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.precisions(shape.covariance),
        max_iter=3,
        tol=0,
    )
    return X, model
