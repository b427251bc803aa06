"""The data sets and starting points on which fastem is measured, by asv and beside its peers.

Points with labels y uniform on the k clusters, all from seed 0; starts are k rows drawn by seed 1:

* k-means: centres uniform in (-10, 10), X = c[y] + 0.8 sqrt(d) N(0, 1);
* mixtures: means uniform in (-4, 4), A_j = N(0, 1) / sqrt(d) + I, X = c[y] + A_y N(0, 1); the start has equal weights
  and the data's covariance for every component.

float32 data are the float64 data rounded.
"""

import os
from typing import NamedTuple

import numpy as np

# Divides the number of rows everywhere: for a quick look and for checks that only ask whether all this still runs.
SHRINK = "FASTEM_BENCH_SHRINK"


class Shape(NamedTuple):
    """Rows, features, clusters; for mixtures the covariance type."""

    n: int
    d: int
    k: int
    covariance: str = ""

    def __str__(self) -> str:
        rows = f"{self.n / 1e6:g}M" if self.n >= 10**6 else f"{self.n / 1e3:g}k" if self.n >= 10**3 else self.n
        return f"{rows} x {self.d}, k={self.k}" + (f", {self.covariance}" if self.covariance else "")

    def shrunk(self, factor: float | None = None) -> "Shape":
        """Return the shape with fewer rows, by `factor` or as the environment says; at least 4 k."""
        factor = float(os.environ.get(SHRINK, 1)) if factor is None else factor
        return self if factor <= 1 else self._replace(n=max(int(self.n / factor), 4 * self.k))


KMEANS_SHAPES = (
    Shape(1_000_000, 2, 8),
    Shape(1_000_000, 16, 16),
    Shape(200_000, 64, 100),
    Shape(60_000, 784, 10),
    Shape(100_000, 128, 1000),
)

MIXTURE_SHAPES = (
    Shape(1_000_000, 2, 8, "full"),
    Shape(500_000, 16, 16, "full"),
    Shape(100_000, 64, 16, "full"),
    Shape(500_000, 16, 16, "diag"),
    Shape(100_000, 128, 64, "diag"),
)

# Of many features (`python -m asv_bench.peers gmm-wide`).
WIDE_MIXTURE_SHAPES = (
    Shape(20_000, 256, 8, "full"),
    Shape(10_000, 512, 4, "full"),
    Shape(1_000, 784, 10, "full"),
    Shape(5_000, 1024, 4, "full"),
    Shape(20_000, 256, 8, "tied"),
    Shape(10_000, 512, 4, "tied"),
    Shape(1_000, 784, 10, "tied"),
    Shape(5_000, 1024, 4, "tied"),
)

# What scikit-learn has and oneDAL has not.
MORE_MIXTURE_SHAPES = (
    Shape(500_000, 16, 16, "tied"),
    Shape(500_000, 16, 16, "spherical"),
)


class MixtureStart(NamedTuple):
    """Starting point of a mixture: equal weights, k rows, one covariance (d, d) for all components."""

    weights: np.ndarray
    means: np.ndarray
    covariance: np.ndarray

    def covariances(self, covariance_type: str) -> np.ndarray:
        """Return the covariances in scikit-learn's shape for a covariance type."""
        k = len(self.means)
        variances = np.diag(self.covariance)
        if covariance_type == "full":
            return np.repeat(self.covariance[None], k, axis=0)
        if covariance_type == "tied":
            return self.covariance.copy()
        if covariance_type == "diag":
            return np.tile(variances, (k, 1))
        return np.full(k, variances.mean())

    def precisions(self, covariance_type: str) -> np.ndarray:
        """Return the inverses of `covariances`."""
        covariances = self.covariances(covariance_type)
        return 1 / covariances if covariance_type in ("diag", "spherical") else np.linalg.inv(covariances)

    def precisions_cholesky(self, covariance_type: str) -> np.ndarray:
        """Return upper triangular factors U with precision = U U', as scikit-learn has them."""
        if covariance_type in ("diag", "spherical"):
            return np.sqrt(self.precisions(covariance_type))
        # The inverse of the covariance's lower factor L is lower triangular, and precision = inv(L)' inv(L).
        return np.swapaxes(np.linalg.inv(np.linalg.cholesky(self.covariances(covariance_type))), -1, -2).copy()


def kmeans_data(shape: Shape, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (n, d) and the first centres (k, d) of a k-means shape."""
    rng = np.random.default_rng(0)
    centers = rng.uniform(-10, 10, (shape.k, shape.d))
    y = rng.integers(0, shape.k, shape.n, dtype=np.int16)
    X = np.empty((shape.n, shape.d), dtype)
    for rows in blocks(shape.n):
        block = rng.standard_normal((len(X[rows]), shape.d))
        X[rows] = block * (0.8 * np.sqrt(shape.d)) + centers[y[rows]]
    return X, chosen_rows(X, shape.k)


def mixture_data(shape: Shape, dtype: str = "float64") -> tuple[np.ndarray, MixtureStart]:
    """Return the rows (n, d) and the starting point of a mixture shape."""
    rng = np.random.default_rng(0)
    means = rng.uniform(-4, 4, (shape.k, shape.d))
    mixing = rng.standard_normal((shape.k, shape.d, shape.d)) / np.sqrt(shape.d) + np.eye(shape.d)
    y = rng.integers(0, shape.k, shape.n, dtype=np.int16)
    X = np.empty((shape.n, shape.d), dtype)
    for rows in blocks(shape.n):
        block = rng.standard_normal((len(X[rows]), shape.d))
        for j in range(shape.k):
            mine = y[rows] == j
            block[mine] = block[mine] @ mixing[j].T + means[j]
        X[rows] = block
    return X, mixture_start(X, shape.k)


def factor_data(n: int, d: int, q: int, dtype: str = "float64") -> np.ndarray:
    """Return rows (n, d) of a factor analyser: loadings N(0, 1), noise of standard deviation 0.5 to 1.5."""
    rng = np.random.default_rng(0)
    loadings, noise, mean = rng.standard_normal((q, d)), rng.uniform(0.5, 1.5, d), rng.uniform(-4, 4, d)
    X = np.empty((n, d), dtype)
    for rows in blocks(n):
        m = len(X[rows])
        X[rows] = mean + rng.standard_normal((m, q)) @ loadings + noise * rng.standard_normal((m, d))
    return X


def mixture_start(X: np.ndarray, k: int) -> MixtureStart:
    """Return the starting point for any rows."""
    n, d = X.shape
    center = X[: 2**14].mean(axis=0, dtype=np.float64)
    total, scatter = np.zeros(d), np.zeros((d, d))
    for rows in blocks(n):
        block = X[rows] - center
        total += block.sum(axis=0)
        scatter += block.T @ block
    covariance = scatter / n - np.outer(total, total) / n**2
    return MixtureStart(np.full(k, 1 / k), chosen_rows(X, k).astype(np.float64), covariance)


def blocks(n: int, size: int = 2**14) -> list[slice]:
    """Cut n rows into slices: the peak of memory shall be the fit's, not that of making the data."""
    return [slice(start, start + size) for start in range(0, n, size)]


def chosen_rows(X: np.ndarray, k: int) -> np.ndarray:
    """Return k different rows drawn by seed 1."""
    return X[np.random.default_rng(1).choice(len(X), k, replace=False)].copy()


def photograph(dtype: str = "float64") -> np.ndarray:
    """Return the pixels (273280, 3) of scikit-learn's photograph china.jpg, in [0, 1]."""
    from sklearn.datasets import load_sample_image

    return (load_sample_image("china.jpg").reshape(-1, 3) / 255.0).astype(dtype)


def digits(n_axes: int = 16, dtype: str = "float64") -> np.ndarray:
    """Return scikit-learn's digits (1797, n_axes) on their first principal axes."""
    from sklearn.datasets import load_digits

    X = load_digits().data
    X = X - X.mean(axis=0)
    return (X @ np.linalg.svd(X, full_matrices=False)[2][:n_axes].T).astype(dtype)


class TextShape(NamedTuple):
    """Documents, words of the dictionary, clusters, different words of a document."""

    n: int
    d: int
    k: int
    words: int

    def __str__(self) -> str:
        return f"{self.n} x {self.d}, {self.words} a row, k={self.k}"

    def shrunk(self, factor: float | None = None) -> "TextShape":
        """Return the shape with fewer rows, by `factor` or as the environment says; at least 4 k."""
        factor = float(os.environ.get(SHRINK, 1)) if factor is None else factor
        return self if factor <= 1 else self._replace(n=max(int(self.n / factor), 4 * self.k))


TEXTS = (
    TextShape(4_000, 8_000, 10, 50),
    TextShape(20_000, 8_000, 50, 60),
    TextShape(11_314, 130_107, 20, 60),
    TextShape(20_000, 131_072, 50, 60),
    TextShape(4_000, 2**20, 10, 50),
    TextShape(20_000, 2**20, 50, 60),
)


def tfidf(shape, dtype="float64", topics=30):
    """Return TF-IDF of documents, unit rows as CSR: a third of a document's words are its topic's.

    The frequency of the r-th word of a language is 1 / (r + 3), of a topic 1 / (r + 30); each topic has an order of
    words of its own.
    """
    from scipy import sparse

    rng = np.random.default_rng(0)
    n, d, m = shape.n, shape.d, shape.words
    ranks = {shift: np.cumsum(1.0 / (np.arange(d) + shift)) for shift in (3, 30)}
    drawn = {shift: np.searchsorted(c, rng.random((n, 3 * m)) * c[-1]) for shift, c in ranks.items()}
    topic = rng.integers(0, topics, n)
    # An order for each topic without a permutation of d words: multiply by an odd number, modulo a power of two.
    size = 1 << (d - 1).bit_length()
    odd = 2 * rng.integers(0, size // 2, topics) + 1
    own = (drawn[30] * odd[topic][:, None] % size) % d
    words = np.where(rng.random((n, 3 * m)) < 1 / 3, own, drawn[3])
    tokens = sparse.csr_matrix((np.ones(words.size), words.ravel(), np.arange(n + 1) * 3 * m), shape=(n, d))
    tokens.sum_duplicates()
    kept = np.concatenate(  # the first m different words of each
        [
            np.sort(rng.permutation(stop - start)[:m]) + start
            for start, stop in zip(tokens.indptr, tokens.indptr[1:], strict=False)
        ]
    )
    row = np.repeat(np.arange(n), np.diff(tokens.indptr))[kept]
    X = sparse.csr_matrix((1 + np.log(tokens.data[kept]), (row, tokens.indices[kept])), shape=(n, d))
    X.data *= 1 + np.log((1 + n) / (1 + np.bincount(X.indices, minlength=d)))[X.indices]
    norms = np.sqrt(np.bincount(np.repeat(np.arange(n), np.diff(X.indptr)), X.data**2, minlength=n))
    X.data /= np.repeat(norms, np.diff(X.indptr))
    return X.astype(dtype)


def latent_rows(n, d, dtype):
    """Return rows of length 1 about centres in latent directions of falling weight, as embeddings of text have them."""
    rng = np.random.default_rng(0)
    weights = np.arange(1, 201) ** -0.6
    centers = rng.standard_normal((n // 40, 200)) * weights
    latent = centers[rng.integers(len(centers), size=n)]
    X = latent @ rng.standard_normal((200, d)) / d**0.5 + 0.068 * rng.standard_normal((n, d))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(dtype)
