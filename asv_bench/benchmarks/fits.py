"""Fits through the estimators: time and memory of a fixed number of iterations, and the objective that they reach."""

import warnings

import numpy as np

import fastem

from .data import KMEANS_SHAPES, MIXTURE_SHAPES, MORE_MIXTURE_SHAPES, Shape, factor_data, kmeans_data, mixture_data

DTYPES = ["float32", "float64"]
KMEANS = {str(shape): shape for shape in KMEANS_SHAPES}
MIXTURES = {str(shape): shape for shape in MIXTURE_SHAPES + MORE_MIXTURE_SHAPES}
FEW = 20_000  # rows that warm a kernel: more than one grid cell for every thread


class KMeansFit:
    """Ten iterations of k-means from given rows."""

    params = (list(KMEANS), DTYPES)
    param_names = ("shape", "dtype")
    timeout = 120

    def setup(self, shape, dtype):
        self.X, centers = kmeans_data(KMEANS[shape].shrunk(), dtype)
        self.model = fastem.KMeans(len(centers), init=centers, n_init=1, max_iter=10, tol=0)
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, shape, dtype):
        quietly(self.model.fit, self.X)

    def peakmem_fit(self, shape, dtype):
        quietly(self.model.fit, self.X)

    def track_inertia_per_row(self, shape, dtype):
        return float(quietly(self.model.fit, self.X).inertia_ / len(self.X))

    track_inertia_per_row.unit = "squared distance"


class GaussianMixtureFit:
    """Three iterations of EM from given parameters."""

    params = (list(MIXTURES), DTYPES)
    param_names = ("shape", "dtype")
    timeout = 300  # the first process of an environment compiles

    def setup(self, shape, dtype):
        kind = MIXTURES[shape].covariance
        self.X, start = mixture_data(MIXTURES[shape].shrunk(), dtype)
        self.model = fastem.GaussianMixture(
            len(start.means),
            covariance_type=kind,
            weights_init=start.weights,
            means_init=start.means,
            precisions_init=start.precisions(kind),
            max_iter=3,
            tol=0,
        )
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, shape, dtype):
        quietly(self.model.fit, self.X)

    def peakmem_fit(self, shape, dtype):
        quietly(self.model.fit, self.X)

    def track_log_likelihood_per_row(self, shape, dtype):
        return float(quietly(self.model.fit, self.X).lower_bound_)

    track_log_likelihood_per_row.unit = "nats"


class FactorAnalysisFit:
    """Twenty iterations of factor analysis: on the covariance, and on rows of which a tenth is missing."""

    params = (["complete", "missing"], DTYPES)
    param_names = ("rows", "dtype")
    timeout = 300

    def setup(self, rows, dtype):
        n = Shape(100_000, 32, 5).shrunk().n
        self.X = factor_data(n, 32, 5, dtype)
        if rows == "missing":
            self.X[np.random.default_rng(1).random(self.X.shape) < 0.1] = np.nan
        self.model = fastem.FactorAnalysis(5, max_iter=20, tol=0)
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, rows, dtype):
        quietly(self.model.fit, self.X)

    def track_log_likelihood_per_row(self, rows, dtype):
        return float(quietly(self.model.fit, self.X).loglike_[-1] / len(self.X))

    track_log_likelihood_per_row.unit = "nats"


class FactorAnalyserMixtureFit:
    """Five iterations of a mixture of factor analysers, of complete rows and of rows of which a tenth is missing."""

    params = (["complete", "missing"], DTYPES)
    param_names = ("rows", "dtype")
    timeout = 300

    def setup(self, rows, dtype):
        self.X, start = mixture_data(Shape(20_000, 64, 8, "diag").shrunk(), dtype)
        if rows == "missing":
            self.X[np.random.default_rng(1).random(self.X.shape) < 0.1] = np.nan
        self.model = fastem.FactorAnalyserMixture(
            8,
            n_factors=4,
            weights_init=start.weights,
            means_init=start.means,
            noise_variances_init=start.covariances("diag"),
            loadings_init=np.random.default_rng(2).standard_normal((8, 64, 4)),
            max_iter=5,
            tol=0,
        )
        quietly(self.model.fit, self.X)

    def time_fit(self, rows, dtype):
        quietly(self.model.fit, self.X)

    def track_log_likelihood_per_row(self, rows, dtype):
        return float(quietly(self.model.fit, self.X).lower_bound_)

    track_log_likelihood_per_row.unit = "nats"


class Small:
    """What a call costs when there is next to nothing to compute."""

    def setup(self):
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((150, 4)) + 6 * rng.integers(0, 3, (150, 1))
        self.kmeans = fastem.KMeans(3, random_state=0).fit(self.X)
        self.mixture = fastem.GaussianMixture(3, random_state=0).fit(self.X)
        self.kmeans.predict(self.X[:1])

    def time_kmeans_fit(self):
        fastem.KMeans(3, random_state=0).fit(self.X)

    def time_kmeans_fit_ten_restarts(self):
        fastem.KMeans(3, n_init=10, random_state=0).fit(self.X)

    def time_mixture_fit(self):
        fastem.GaussianMixture(3, random_state=0).fit(self.X)

    def time_kmeans_predict_one_row(self):
        self.kmeans.predict(self.X[:1])

    def time_assign_one_row(self):
        fastem.backend.assign(self.X[:1], self.kmeans.cluster_centers_)


def quietly(function, *args):
    """Call without the warning that so few iterations do not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)
