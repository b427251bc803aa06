"""What is done with models beside fitting them: choosing, bounds, anomalies, draws, files, pictures."""

import os
import tempfile

import numpy as np

import fastem

from .data import Shape, mixture_data
from .profiles import Benchmark, quietly


class Toolbox(Benchmark):
    """One call each, on 5,000 rows of 4 features; every call is made once in `setup`."""

    def setup(self):
        self.X = mixture_data(Shape(5_000, 4, 4, "full").shrunk())[0]
        self.model = quietly(fastem.GaussianMixture(4, random_state=0, max_iter=20).fit, self.X)
        self.factors = quietly(fastem.FactorAnalysis(1, max_iter=20).fit, self.X)
        self.folder = tempfile.TemporaryDirectory()
        for name in dir(self):
            if name.startswith("time_"):
                getattr(self, name)()

    def teardown(self):
        self.folder.cleanup()

    def time_select(self):
        quietly(fastem.select, self.X, range(1, 5), covariance_types="diag", random_state=0)

    def time_mixture_by_name(self):
        quietly(fastem.Mixture(4, family="gaussian-diag", max_iter=10, tol=0, random_state=0).fit, self.X)

    def time_anomaly_detector(self):
        fastem.AnomalyDetector(self.model, contamination=0.02).fit(self.X).predict(self.X)

    def time_sample(self):
        self.model.sample(20_000)

    def time_save_and_load(self):
        file = os.path.join(self.folder.name, "model.npz")
        fastem.save(self.model, file)
        fastem.load(file)

    def time_lower_bound(self):
        at = fastem.LowerBound(self.model, self.X)
        at.bound(at.e_step())

    def time_lower_bound_of_factors(self):
        at = fastem.LowerBound(self.factors, self.X)
        at.bound(fastem.GaussianQ(np.zeros((len(self.X), 1)), np.eye(1)))

    def time_plot_clusters(self):
        fastem.plot.clusters(self.model, self.X)

    def time_build_info(self):
        fastem.build_info()

    def time_warmup_again(self):
        fastem.warmup(["diag"])
