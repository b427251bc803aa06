"""Many starts of one fit: how well they share the processors and the passes over the rows."""

import fastem

from .data import Shape, kmeans_data, mixture_data
from .profiles import Benchmark, by_profile, quietly

ROWS = by_profile([2_000, 50_000], [300_000])


class Restarts(Benchmark):
    """Ten starts of twenty iterations at most."""

    params = (["KMeans", "GaussianMixture"], ROWS)
    param_names = ("model", "n")

    def setup(self, model, n):
        options = {"n_init": 10, "max_iter": 20, "random_state": 0}
        if model == "KMeans":
            self.X = kmeans_data(Shape(n, 8, 12).shrunk())[0]
            self.model = fastem.KMeans(12, **options)
        else:
            self.X = mixture_data(Shape(n // 5, 8, 6, "full").shrunk())[0]
            self.model = fastem.GaussianMixture(6, init_params="random_from_data", **options)
        quietly(self.model.fit, self.X[:1000])

    def time_fit(self, model, n):
        quietly(self.model.fit, self.X)


class DroppedRestarts(Benchmark):
    """Twenty starts of a mixture of which those that fall behind are given up."""

    def setup(self):
        self.X = mixture_data(Shape(5_000, 4, 6, "full").shrunk())[0]
        options = {"n_init": 20, "max_iter": 100, "random_state": 0, "init_params": "random_from_data"}
        self.model = fastem.GaussianMixture(6, drop_restarts=True, **options)
        quietly(self.model.fit, self.X)

    def time_fit(self):
        quietly(self.model.fit, self.X)
