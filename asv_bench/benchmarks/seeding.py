"""Starts of k-means and of mixtures: greedy k-means++, k-means||, and what k-means adds for a mixture."""

import fastem

from .data import Shape, kmeans_data
from .profiles import DTYPES, FEW, THREADS, Benchmark, by_profile, n_threads, quietly

SHAPES = {
    str(shape): shape
    for shape in by_profile(
        (Shape(200_000, 16, 50),), (Shape(1_000_000, 2, 8), Shape(100_000, 128, 300)), (Shape(5_000_000, 32, 300),)
    )
}


class Seeding(Benchmark):
    """Seeds alone: one iteration that is sure to be the last."""

    params = (list(SHAPES), ["k-means++", "k-means||", "random"], DTYPES, THREADS)
    param_names = ("shape", "init", "dtype", "n_threads")

    def setup(self, shape, init, dtype, threads):
        self.X, centers = kmeans_data(SHAPES[shape].shrunk(), dtype)
        options = {"n_init": 1, "max_iter": 1, "tol": 1e9, "random_state": 0, "n_threads": n_threads(threads)}
        self.model = fastem.KMeans(len(centers), init=init, **options)
        self.model.fit(self.X[:FEW])

    def time_seed(self, shape, init, dtype, threads):
        self.model.fit(self.X)


class Functions(Benchmark):
    """The functions of the names that scikit-learn has, from rows to seeds and from rows to clusters."""

    def setup(self):
        self.X = kmeans_data(Shape(100_000, 8, 20).shrunk())[0]
        self.time_kmeans_plusplus()
        self.time_k_means()

    def time_kmeans_plusplus(self):
        fastem.kmeans_plusplus(self.X, 20, random_state=0)

    def time_k_means(self):
        fastem.k_means(self.X, 20, n_init=1, init="random", random_state=0)


class MixtureStart(Benchmark):
    """What a mixture does before its first iteration: seeds, k-means and one M-step."""

    params = (by_profile(["full", "diag"], ["tied", "spherical"]), by_profile(["float64"], ["float32"]))
    param_names = ("covariance", "dtype")

    def setup(self, covariance, dtype):
        self.X = kmeans_data(Shape(50_000, 16, 8).shrunk(), dtype)[0]
        self.model = fastem.GaussianMixture(8, covariance_type=covariance, max_iter=1, tol=1e9, random_state=0)
        quietly(self.model.fit, self.X[:FEW])

    def time_start(self, covariance, dtype):
        quietly(self.model.fit, self.X)
