"""One pass over the rows by each kernel, through `fastem.backend`."""

import fastem

from .data import KMEANS_SHAPES, MIXTURE_SHAPES, MORE_MIXTURE_SHAPES, kmeans_data, mixture_data

DTYPES = ["float32", "float64"]
KMEANS = {str(shape): shape for shape in KMEANS_SHAPES}
MIXTURES = {str(shape): shape for shape in MIXTURE_SHAPES + MORE_MIXTURE_SHAPES}
FEW = 20_000  # rows that warm a kernel: more than one grid cell for every thread


class NearestCenter:
    """Assignment alone, and assignment with sums and counts."""

    params = (list(KMEANS), DTYPES)
    param_names = ("shape", "dtype")
    timeout = 120

    def setup(self, shape, dtype):
        self.X, self.centers = kmeans_data(KMEANS[shape].shrunk(), dtype)
        fastem.backend.assign(self.X[:FEW], self.centers)
        fastem.backend.kmeans_step(self.X[:FEW], self.centers)

    def time_assign(self, shape, dtype):
        fastem.backend.assign(self.X, self.centers)

    def time_kmeans_step(self, shape, dtype):
        fastem.backend.kmeans_step(self.X, self.centers)


class GaussianStep:
    """One fused E-step and M-step of a Gaussian mixture, and the log-densities alone."""

    params = (list(MIXTURES), DTYPES)
    param_names = ("shape", "dtype")
    timeout = 300  # the first process of an environment compiles

    def setup(self, shape, dtype):
        self.X, start = mixture_data(MIXTURES[shape].shrunk(), dtype)
        kind = MIXTURES[shape].covariance
        self.start = (start.weights, start.means, start.precisions_cholesky(kind), kind)
        fastem.backend.em_step(self.X[:FEW], *self.start)
        fastem.backend.gaussian_log_density(self.X[:FEW], *self.start[1:])

    def time_em_step(self, shape, dtype):
        fastem.backend.em_step(self.X, *self.start)

    def time_gaussian_log_density(self, shape, dtype):
        fastem.backend.gaussian_log_density(self.X, *self.start[1:])
