"""Peak memory of a process that makes its rows and fits them: what a fit adds beside the rows must stay small."""

import numpy as np

import fastem

from .data import Shape, mixture_data
from .fits import given_start
from .profiles import A_DTYPE, Benchmark, by_profile, quietly

SHAPES = {
    str(shape): shape
    for shape in by_profile((Shape(300_000, 16, 16),), (Shape(1_000_000, 32, 64),), (Shape(10_000_000, 32, 64),))
}


class PeakMemory(Benchmark):
    """Bytes at the peak, rows included."""

    params = (list(SHAPES), A_DTYPE)
    param_names = ("shape", "dtype")

    def setup(self, shape, dtype):
        self.shape = SHAPES[shape]._replace(covariance="diag")

    def peakmem_rows_alone(self, shape, dtype):
        mixture_data(self.shape.shrunk(), dtype)

    def peakmem_kmeans_fit(self, shape, dtype):
        X, start = mixture_data(self.shape.shrunk(), dtype)
        quietly(fastem.KMeans(len(start.means), init=start.means, n_init=1, max_iter=5, tol=0).fit, X)

    def peakmem_mixture_fit(self, shape, dtype):
        X, model = given_start(self.shape, dtype)
        quietly(model.fit, X)

    def peakmem_mixture_predict(self, shape, dtype):
        X, model = given_start(self.shape, dtype)
        quietly(model.fit, X[: self.shape.k * 4])
        np.asarray(model.predict(X))
