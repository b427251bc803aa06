"""What fits arrive at: the objective, the iterations, the error of float32, the agreement between runs.

A change that is faster because it stops earlier, or rounds more, shows here.
"""

import numpy as np

import fastem

from .data import Shape, digits, kmeans_data, mixture_data
from .profiles import Benchmark, quietly

SETS = ["digits", "clusters"]


def rows_of(data, dtype="float64"):
    """Return the rows of a data set: ten handwritten digits on 16 axes, or eight clusters that overlap."""
    return digits(16, dtype) if data == "digits" else mixture_data(Shape(20_000, 8, 8, "full").shrunk(), dtype)[0]


class KMeansQuality(Benchmark):
    """Ten clusters, by default settings and one start a seed."""

    params = (SETS,)
    param_names = ("data",)

    def setup(self, data):
        self.X = rows_of(data)

    def fit(self, seed, **options):
        return quietly(fastem.KMeans(10, n_init=1, random_state=seed, **options).fit, self.X)

    def track_inertia(self, data):
        """Mean over ten seeds."""
        return float(np.mean([self.fit(seed).inertia_ for seed in range(10)]) / len(self.X))

    track_inertia.unit = "squared distance"

    def track_iterations(self, data):
        return float(np.mean([self.fit(seed).n_iter_ for seed in range(10)]))

    track_iterations.unit = "iterations"

    def track_agreement(self, data):
        """Share of pairs of five runs that agree on a pair of rows, adjusted for chance; ten starts each."""
        from sklearn.metrics import adjusted_rand_score

        labels = [quietly(fastem.KMeans(10, n_init=10, random_state=seed).fit, self.X).labels_ for seed in range(5)]
        pairs = [adjusted_rand_score(labels[a], labels[b]) for a in range(5) for b in range(a)]
        return float(np.mean(pairs))

    track_agreement.unit = "adjusted Rand index"

    def track_mini_batch_inertia(self, data):
        models = [fastem.MiniBatchKMeans(10, n_init=1, random_state=seed) for seed in range(5)]
        return float(np.mean([quietly(model.fit, self.X).inertia_ for model in models]) / len(self.X))

    track_mini_batch_inertia.unit = "squared distance"


class MixtureQuality(Benchmark):
    """Gaussian mixtures of full covariance by default settings."""

    params = (SETS,)
    param_names = ("data",)

    def setup(self, data):
        self.X = rows_of(data)

    def fit(self, seed=0, **options):
        return quietly(fastem.GaussianMixture(8, random_state=seed, reg_covar=1e-3, **options).fit, self.X)

    def track_log_likelihood(self, data):
        """Mean over five seeds, a row."""
        return float(np.mean([self.fit(seed).score(self.X) for seed in range(5)]))

    track_log_likelihood.unit = "nats"

    def track_iterations(self, data):
        return float(np.mean([self.fit(seed).n_iter_ for seed in range(5)]))

    track_iterations.unit = "iterations"

    def track_accelerated_iterations(self, data):
        return float(
            np.mean([self.fit(seed, accelerate="squarem", tol=1e-6, max_iter=500).n_iter_ for seed in range(5)])
        )

    track_accelerated_iterations.unit = "iterations"


class Float32Error(Benchmark):
    """How far one pass over float32 rows is from the same in float64, as a share of the largest value."""

    unit = "relative error"
    params = (["kmeans", "gaussian-full", "gaussian-diag"],)
    param_names = ("model",)

    def track_error(self, model):
        shape = Shape(20_000, 16, 8, model.partition("-")[2] or "diag").shrunk()
        narrow, wide = (self.means(model, shape, dtype) for dtype in ("float32", "float64"))
        return float(np.abs(narrow - wide).max() / np.abs(wide).max())

    def means(self, model, shape, dtype):
        """Return what one iteration makes of the means, the rows being those of float32 in both."""
        if model == "kmeans":
            X, centers = kmeans_data(shape, "float32")
            step = fastem.backend.kmeans_step(X.astype(dtype), centers)
            return step.sums / np.maximum(step.counts[:, None], 1)
        X, start = mixture_data(shape, "float32")
        factors = start.precisions_cholesky(shape.covariance)
        return fastem.backend.em_step(X.astype(dtype), start.weights, start.means, factors, shape.covariance).means
