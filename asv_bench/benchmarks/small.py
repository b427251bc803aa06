"""What a call costs when there is next to nothing to compute."""

import numpy as np

import fastem

from .profiles import Benchmark, quietly


class Small(Benchmark):
    """150 rows of 4 features in 3 clusters."""

    def setup(self):
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((150, 4)) + 6 * rng.integers(0, 3, (150, 1))
        self.start = fastem.GaussianMixture(3, random_state=0, max_iter=1, n_threads=1)
        self.kmeans = fastem.KMeans(3, random_state=0).fit(self.X)
        self.mixture = fastem.GaussianMixture(3, random_state=0).fit(self.X)
        for name in dir(self):
            if name.startswith("time_"):
                getattr(self, name)()

    def time_kmeans_fit(self):
        fastem.KMeans(3, random_state=0).fit(self.X)

    def time_kmeans_fit_ten_restarts(self):
        fastem.KMeans(3, n_init=10, random_state=0).fit(self.X)

    def time_mixture_fit(self):
        fastem.GaussianMixture(3, random_state=0).fit(self.X)

    def time_mixture_one_iteration(self):
        quietly(self.start.fit, self.X)

    def time_kmeans_predict_one_row(self):
        self.kmeans.predict(self.X[:1])

    def time_mixture_predict_one_row(self):
        self.mixture.predict(self.X[:1])

    def time_assign_one_row(self):
        fastem.backend.assign(self.X[:1], self.kmeans.cluster_centers_)


class ManyFits(Benchmark):
    """A hundred fits of a hundred rows, one after the other, as a loop over groups makes them."""

    params = (["KMeans", "GaussianMixture"],)
    param_names = ("model",)

    def setup(self, model):
        rng = np.random.default_rng(0)
        self.groups = rng.standard_normal((100, 100, 3)) + 5 * rng.integers(0, 2, (100, 100, 1))
        self.model = getattr(fastem, model)(2, n_init=1, random_state=0)
        quietly(self.model.fit, self.groups[0])

    def time_fits(self, model):
        for X in self.groups:
            quietly(self.model.fit, X)
