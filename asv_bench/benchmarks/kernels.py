"""Each kernel by itself, on one thread, some ten milliseconds a call.

They are called through `fastem.backend` and the estimators, in calls so large that the kernel is nearly all of them.
A test fails if a kernel exists that none of these runs.  Those of rows with missing values are in `missing.py`.
"""

import numpy as np

import fastem

from .data import Shape, TextShape, kmeans_data, latent_rows, mixture_data, tfidf
from .models import GAUSSIANS, MIXTURES, fitted, shape_of
from .profiles import A_DTYPE, DTYPES, FEW, Benchmark, by_profile, quietly

NEAREST = {
    str(shape): shape
    for shape in by_profile(
        (Shape(200_000, 2, 8), Shape(80_000, 16, 16), Shape(3_000, 784, 10), Shape(4_000, 128, 200)),
        (Shape(20_000, 64, 100), Shape(40_000, 3, 64), Shape(60_000, 4, 100), Shape(3_000, 32, 1000)),
    )
}
BOUNDED = {
    str(shape): shape
    for shape in by_profile(
        (Shape(20_000, 16, 32), Shape(10_000, 8, 300)), (Shape(40_000, 2, 64), Shape(5_000, 128, 200))
    )
}
DIMENSIONS = by_profile((16,), (2, 64))
# Rows with which a pass takes some milliseconds, at 16 features.
ROWS = {
    "gaussian-full": 15_000,
    "student-full": 15_000,
    "gaussian-tied": 15_000,
    "categorical": 10_000,
    "factor-mixture": 6_000,
}
# So many that the kernel is more than half of a fit: with three iterations it was a sixth for factor analysers,
# whose start is a Gaussian mixture, and a kernel that took 15 % more went unnoticed.
ITERATIONS = {"categorical": 36, "poisson": 24, "factor-mixture": 48}


class NearestCenter(Benchmark):
    """The tiles of k-means: assignment alone, and with sums and counts."""

    params = (list(NEAREST), DTYPES)
    param_names = ("shape", "dtype")
    one_thread = True

    def setup(self, shape, dtype):
        self.X, self.centers = kmeans_data(NEAREST[shape].shrunk(), dtype)
        fastem.backend.assign(self.X, self.centers, n_threads=1)
        fastem.backend.kmeans_step(self.X, self.centers, n_threads=1)

    def time_assign(self, shape, dtype):
        fastem.backend.assign(self.X, self.centers, n_threads=1)

    def time_kmeans_step(self, shape, dtype):
        fastem.backend.kmeans_step(self.X, self.centers, n_threads=1)


class BoundedPasses(Benchmark):
    """Thirty passes of k-means that keep bounds and look at few rows."""

    params = (list(BOUNDED), DTYPES)
    param_names = ("shape", "dtype")
    one_thread = True

    def setup(self, shape, dtype):
        self.X, centers = kmeans_data(BOUNDED[shape].shrunk(), dtype)
        options = {"n_init": 1, "max_iter": 30, "tol": 0, "algorithm": "elkan", "n_threads": 1}
        self.model = fastem.KMeans(len(centers), init=centers, **options)
        quietly(self.model.fit, self.X)

    def time_fit(self, shape, dtype):
        quietly(self.model.fit, self.X)


class RotatedPasses(Benchmark):
    """Ten passes of k-means that search by a few coordinates of a rotated basis."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        shape = Shape(20_000, 128, 200).shrunk()
        self.X, centers = kmeans_data(shape, dtype)
        options = {"n_init": 1, "max_iter": 10, "tol": 0, "algorithm": "rotated", "n_threads": 1}
        self.model = fastem.KMeans(200, init=centers, **options)
        quietly(self.model.fit, self.X)

    def time_fit(self, dtype):
        quietly(self.model.fit, self.X)


class FirstSearch(Benchmark):
    """One pass from centres that are single rows, by many coordinates of a rotated basis, and the farthest rows.

    It is chosen for so much work only, so that this is not shrunk.
    """

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = latent_rows(20_000, 512, dtype)
        centers = self.X[::5].copy()
        centers[7] += 100.0  # an empty cluster
        self.model = fastem.KMeans(len(centers), init=centers, n_init=1, max_iter=1, n_threads=1)

    def time_fit(self, dtype):
        quietly(self.model.fit, self.X)


class Distances(Benchmark):
    """Squared distances to all centres."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X, centers = kmeans_data(Shape(20_000, 16, 50).shrunk(), dtype)
        self.model = quietly(fastem.KMeans(50, init=centers, n_init=1, max_iter=1, n_threads=1).fit, self.X)
        self.model.transform(self.X)

    def time_transform(self, dtype):
        self.model.transform(self.X)


class Seeds(Benchmark):
    """Greedy k-means++: rows are scored with what the triangle inequality excludes left out."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = kmeans_data(Shape(20_000, 16, 20).shrunk(), dtype)[0]
        self.time_kmeans_plusplus(dtype)

    def time_kmeans_plusplus(self, dtype):
        fastem.KMeans(20, n_init=1, max_iter=1, tol=1e9, random_state=0, n_threads=1).fit(self.X)


class ScreenedSeeds(Benchmark):
    """The same of many seeds and features: candidates are held against rotated rows, then against what these leave."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        rng = np.random.default_rng(0)  # as many rows as are screened, even where other benchmarks shrink
        self.X = (rng.normal(size=(8_192, 8)) @ rng.normal(size=(8, 128)) + rng.normal(size=128)).astype(dtype)
        self.time_kmeans_plusplus(dtype)

    def time_kmeans_plusplus(self, dtype):
        fastem.KMeans(128, n_init=1, max_iter=1, tol=1e9, random_state=0, n_threads=1).fit(self.X)


class OneCell(Benchmark):
    """Seeding and all iterations of rows that fit one cell of the grid: no Python between them."""

    params = (A_DTYPE,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = kmeans_data(Shape(1_000, 8, 8), dtype)[0]
        self.time_fits(dtype)

    def time_fits(self, dtype):
        for seed in range(10):
            quietly(fastem.KMeans(8, n_init=1, random_state=seed, n_threads=1).fit, self.X)


class SparseRows(Benchmark):
    """K-means on text as a CSR matrix: seeds and iterations, mini-batches, distances to all centres."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = tfidf(TextShape(4_000, 20_000, 20, 50).shrunk(), dtype)
        self.model = quietly(fastem.KMeans(20, n_init=1, random_state=0, max_iter=5, tol=0, n_threads=1).fit, self.X)
        self.time_mini_batches(dtype)

    def time_fit(self, dtype):
        quietly(fastem.KMeans(20, n_init=1, random_state=0, max_iter=5, tol=0, n_threads=1).fit, self.X)

    def time_mini_batches(self, dtype):
        quietly(fastem.MiniBatchKMeans(20, n_init=1, random_state=0, max_iter=3, n_threads=1).fit, self.X)

    def time_transform(self, dtype):
        self.model.transform(self.X)


class SingleMoves(Benchmark):
    """Hartigan's moves of single rows, after Lloyd's iterations."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        n = Shape(4_000, 16, 30).shrunk().n
        self.X = np.random.default_rng(0).normal(size=(n, 16)).astype(dtype)
        self.time_fit(dtype)

    def time_fit(self, dtype):
        quietly(fastem.KMeans(30, n_init=1, random_state=0, refine="hartigan", n_threads=1).fit, self.X)


class SingleMovesOfText(Benchmark):
    """The same of CSR rows, by their values alone."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = tfidf(TextShape(1_000, 4_000, 10, 40).shrunk(), dtype)
        self.time_fit(dtype)

    def time_fit(self, dtype):
        quietly(fastem.KMeans(10, n_init=1, random_state=0, refine="hartigan", n_threads=1).fit, self.X)


class GaussianPass(Benchmark):
    """One fused E-step and M-step of a Gaussian mixture, and the log-densities alone."""

    params = (list(GAUSSIANS), DIMENSIONS, DTYPES)
    param_names = ("model", "d", "dtype")
    one_thread = True

    def setup(self, model, d, dtype):
        kind = model.partition("-")[2]
        self.X, start = mixture_data(Shape(max(ROWS.get(model, 30_000) * 16 // d, 2_000), d, 8, kind).shrunk(), dtype)
        self.start = (start.weights, start.means, start.precisions_cholesky(kind), kind)
        self.time_em_step(model, d, dtype)
        self.time_log_density(model, d, dtype)

    def time_em_step(self, model, d, dtype):
        fastem.backend.em_step(self.X, *self.start, n_threads=1)

    def time_log_density(self, model, d, dtype):
        fastem.backend.gaussian_log_density(self.X, *self.start[1:], n_threads=1)


class MixturePass(Benchmark):
    """A dozen iterations of every mixture from the same start, and the E-step alone."""

    version = "2"
    params = (list(MIXTURES), A_DTYPE)
    param_names = ("model", "dtype")
    one_thread = True

    def setup(self, model, dtype):
        shape = shape_of(model, ROWS.get(model, 30_000))
        self.model, self.X = fitted(model, shape, dtype, ITERATIONS.get(model, 12))
        self.model.predict_proba(self.X)

    def time_predict_proba(self, model, dtype):
        self.model.predict_proba(self.X)

    def time_iterations(self, model, dtype):
        quietly(self.model.fit, self.X)


class WideBits(Benchmark):
    """Bernoulli and Poisson mixtures of many features, which come in panels."""

    version = "2"
    params = (["bernoulli", "poisson"], A_DTYPE)
    param_names = ("model", "dtype")
    one_thread = True

    def setup(self, model, dtype):
        self.model, self.X = fitted(model, shape_of(model, 3_000, d=784, k=10), dtype, 16)

    def time_iterations(self, model, dtype):
        quietly(self.model.fit, self.X)


class WidePass(Benchmark):
    """Three iterations of full Gaussians of 256 features: packed panels, and factors by LAPACK."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = mixture_data(Shape(2_000, 256, 3, "full").shrunk(), dtype)[0]
        self.time_fit(dtype)

    def time_fit(self, dtype):
        options = {"max_iter": 3, "tol": 0, "init_params": "random_from_data", "random_state": 0, "n_threads": 1}
        self.model = quietly(fastem.GaussianMixture(3, **options).fit, self.X)

    def time_predict(self, dtype):
        self.model.predict(self.X)


class WideShared(Benchmark):
    """Three iterations of tied Gaussians of 512 features: rows whitened on packed panels, and their total scatter."""

    params = (DTYPES,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = mixture_data(Shape(2_000, 512, 3, "tied").shrunk(), dtype)[0]
        self.time_fit(dtype)

    def time_fit(self, dtype):
        options = {"max_iter": 3, "tol": 0, "init_params": "random_from_data", "random_state": 0, "n_threads": 1}
        self.model = quietly(fastem.GaussianMixture(3, covariance_type="tied", **options).fit, self.X)

    def time_predict(self, dtype):
        self.model.predict(self.X)


class FactorRows(Benchmark):
    """The scatter matrix that factor analysis of complete rows is fitted to, and a full Gaussian of 128 features."""

    params = (A_DTYPE,)
    param_names = ("dtype",)
    one_thread = True

    def setup(self, dtype):
        self.X = np.random.default_rng(0).standard_normal((Shape(4_000, 128, 3).shrunk().n, 128)).astype(dtype)
        self.time_scatter(dtype)
        self.time_wide_gaussian(dtype)

    def time_scatter(self, dtype):
        quietly(fastem.FactorAnalysis(3, max_iter=1, n_threads=1).fit, self.X)

    def time_wide_gaussian(self, dtype):
        options = {"max_iter": 1, "init_params": "random_from_data", "random_state": 0, "n_threads": 1}
        quietly(fastem.GaussianMixture(2, **options).fit, self.X)


class SphericalKMeans(Benchmark):
    """Ten iterations of k-means on the unit sphere, by bounds or by every distance."""

    one_thread = True
    params = (by_profile(["elkan"], ["lloyd"]), by_profile(["float64"], ["float32"]))
    param_names = ("algorithm", "dtype")

    def setup(self, algorithm, dtype):
        self.X, centers = kmeans_data(Shape(100_000, 16, 16).shrunk(), dtype)
        options = {"init": centers, "n_init": 1, "max_iter": 10, "tol": 0, "algorithm": algorithm, "n_threads": 1}
        self.model = fastem.KMeans(len(centers), spherical=True, **options)
        quietly(self.model.fit, self.X[:FEW])

    def time_fit(self, algorithm, dtype):
        quietly(self.model.fit, self.X)
