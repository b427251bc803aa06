"""Many small problems in one call, and what is done with their models afterwards."""

import os
import tempfile

import numpy as np

import fastem

from .data import Shape, mixture_data
from .profiles import A_DTYPE, Benchmark, by_profile, quietly

ROWS, FEATURES, COMPONENTS = 200, 4, 3


def groups(n_groups, dtype):
    """Return the rows of so many groups, one group after another."""
    shape = Shape(n_groups * ROWS, FEATURES, COMPONENTS, "diag").shrunk()
    n_groups = max(shape.n // ROWS, 2)
    X = mixture_data(shape._replace(n=n_groups * ROWS))[0]
    return np.ascontiguousarray(X, dtype), np.arange(n_groups + 1) * ROWS


class FitMany(Benchmark):
    """Problems of 200 x 4, k = 3: with offsets, and with unsorted keys."""

    params = (["kmeans", *by_profile(["full"], ["diag"])], A_DTYPE, by_profile([500], [5000], [100_000]))
    param_names = ("model", "dtype", "groups")

    def setup(self, model, dtype, n_groups):
        self.X, self.offsets = groups(n_groups, dtype)
        self.keys = np.random.default_rng(0).permutation(np.repeat(np.arange(len(self.offsets) - 1), ROWS))
        kmeans = {"model": "kmeans", "max_iter": 10, "tol": 0.0}
        mixture = {"model": "gmm", "covariance_type": model, "max_iter": 10, "tol": 0.0}
        self.options = {"n_components": COMPONENTS, "random_state": 0, **(kmeans if model == "kmeans" else mixture)}
        few = self.offsets[:3]
        quietly(fastem.fit_many, self.X[: few[-1]], offsets=few, **self.options)

    def time_offsets(self, model, dtype, n_groups):
        fastem.fit_many(self.X, offsets=self.offsets, **self.options)

    def time_unsorted_keys(self, model, dtype, n_groups):
        fastem.fit_many(self.X, self.keys, **self.options)

    def peakmem_offsets(self, model, dtype, n_groups):
        fastem.fit_many(self.X, offsets=self.offsets, **self.options)


class Quantiser(Benchmark):
    """Product quantisation of 32 features into 4 slices of 64 codes."""

    params = (by_profile([5000], [50_000], [1_000_000]),)
    param_names = ("n",)

    def setup(self, n):
        shape = Shape(n, 32, 20, "diag").shrunk()
        self.X = mixture_data(shape)[0].astype(np.float32)
        self.columns = [slice(first, first + 8) for first in range(0, 32, 8)]
        self.k = min(64, len(self.X) // 2)
        self.books = self.time_fit(n)

    def time_fit(self, n):
        options = {"n_components": self.k, "max_iter": 5, "tol": 0.0, "random_state": 0}
        return quietly(fastem.fit_many, self.X, columns=self.columns, **options)

    def time_codes(self, n):
        self.books.predict(self.X)


class Models(Benchmark):
    """The models of 500 groups: as estimators, asked, as a table, saved and loaded."""

    def setup(self):
        self.X, self.offsets = groups(500, "float64")
        self.many = fastem.fit_many(self.X, offsets=self.offsets, n_components=COMPONENTS, random_state=0)
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "many.npz")
        self.many.save(self.path)

    def teardown(self):
        self.folder.cleanup()

    def time_estimators(self):
        for key in self.many:
            self.many[key]

    def time_predict(self):
        self.many.predict(self.X, offsets=self.offsets)

    def time_to_pandas(self):
        self.many.to_pandas()

    def time_save(self):
        self.many.save(self.path)

    def time_load(self):
        fastem.ManyFits.load(self.path)
