"""Whole iterations over many rows on all threads, and on one: the pass, the merge of its records and the M-step."""

import fastem

from .data import KMEANS_SHAPES, MIXTURE_SHAPES, MORE_MIXTURE_SHAPES, Shape, kmeans_data, mixture_data
from .profiles import A_DTYPE, DTYPES, FEW, THREADS, Benchmark, by_profile, n_threads, quietly

KMEANS = {
    str(shape): shape
    for shape in by_profile(
        (Shape(200_000, 16, 16), Shape(20_000, 128, 200)), KMEANS_SHAPES, (Shape(10_000_000, 32, 64),)
    )
}
MIXTURES = {
    str(shape): shape
    for shape in by_profile(
        (Shape(50_000, 16, 16, "full"), Shape(100_000, 16, 16, "diag")),
        MIXTURE_SHAPES + MORE_MIXTURE_SHAPES,
        (Shape(5_000_000, 16, 16, "full"),),
    )
}


class KMeansStep(Benchmark):
    """Assignment with sums and counts, through `fastem.backend`."""

    params = (list(KMEANS), DTYPES, THREADS)
    param_names = ("shape", "dtype", "n_threads")

    def setup(self, shape, dtype, threads):
        self.X, self.centers = kmeans_data(KMEANS[shape].shrunk(), dtype)
        fastem.backend.kmeans_step(self.X[:FEW], self.centers, n_threads=n_threads(threads))

    def time_kmeans_step(self, shape, dtype, threads):
        fastem.backend.kmeans_step(self.X, self.centers, n_threads=n_threads(threads))


class EMStep(Benchmark):
    """One iteration of a Gaussian mixture, through `fastem.backend`."""

    params = (list(MIXTURES), A_DTYPE, THREADS)
    param_names = ("shape", "dtype", "n_threads")

    def setup(self, shape, dtype, threads):
        self.X, start = mixture_data(MIXTURES[shape].shrunk(), dtype)
        kind = MIXTURES[shape].covariance
        self.start = (start.weights, start.means, start.precisions_cholesky(kind), kind)
        fastem.backend.em_step(self.X[:FEW], *self.start, n_threads=n_threads(threads))

    def time_em_step(self, shape, dtype, threads):
        fastem.backend.em_step(self.X, *self.start, n_threads=n_threads(threads))


class CovarianceModels(Benchmark):
    """Ten iterations of Gaussian mixtures whose components have something in common: what that adds to an M-step."""

    params = (
        by_profile(["full", "VEE", "EVE", "VVE"], ["diag", "VEI", "EVI", "EEV", "VEV", "EVV"]),
        A_DTYPE,
        THREADS,
    )
    param_names = ("covariance", "dtype", "n_threads")

    def setup(self, covariance, dtype, threads):
        self.X = mixture_data(Shape(50_000, 16, 16, "full").shrunk(), dtype)[0]
        options = {"max_iter": 10, "tol": 0, "init_params": "random_from_data", "random_state": 0}
        self.model = fastem.GaussianMixture(16, covariance_type=covariance, n_threads=n_threads(threads), **options)
        quietly(self.model.fit, self.X[:FEW])

    def time_iterations(self, covariance, dtype, threads):
        quietly(self.model.fit, self.X)
