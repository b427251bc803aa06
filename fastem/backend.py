"""Kernels on plain arrays, for other libraries.

Every function takes NumPy arrays, releases the GIL while it computes, writes into a caller's buffers if they are given,
and gives the same bits for any number of threads.  Importing this module imports NumPy and fastem's own compiled code;
scikit-learn never, Numba when a Gaussian function is first called.

Arrays that are C-contiguous float32 or float64 are used as they are; others are copied.  Integers become float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastem import threads, validate
from fastem.families.kmeans import KMeansFamily, KMeansMemo, KMeansParams
from fastem.sources.memory import MemorySource

if TYPE_CHECKING:
    from fastem.families.elliptical.records import GaussianParams
    from fastem.families.gaussian import GaussianFamily

__all__ = ["EMStep", "KMeansStep", "assign", "em_step", "gaussian_log_density", "kmeans_step"]


class KMeansStep(NamedTuple):
    """Statistics of one k-means iteration."""

    counts: np.ndarray  # (k,) float64, sum of weights per cluster
    sums: np.ndarray  # (k, d) float64, weighted sum of rows per cluster
    inertia: float  # weighted sum of squared distances to the nearest centre


class EMStep(NamedTuple):
    """Parameters that one EM iteration arrives at, and the log-likelihood it started from."""

    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    covariances: np.ndarray  # by covariance type
    precisions_cholesky: np.ndarray  # by covariance type
    log_likelihood: float  # weighted sum over rows, at the given parameters


def assign(
    X: Any,
    centers: Any,
    *,
    n_threads: int | None = None,
    out_labels: np.ndarray | None = None,
    out_sqdist: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest centre of each row, exactly.

    Parameters
    ----------
    X : array (n, d)
        Rows, float32 or float64.
    centers : array (k, d)
        Centres; rounded to X's dtype.
    n_threads : int or None
        Threads; None means all.
    out_labels : int32 array (n,) or None
        Where to write the labels.
    out_sqdist : array (n,) of X's dtype, or None
        Where to write the squared distances.

    Returns
    -------
    labels : ndarray (n,) int32
        Number of the nearest centre; of equally near ones the lowest.
    sqdist : ndarray (n,)
        Squared Euclidean distance to it, in X's dtype, computed from the difference x - c.

    Raises
    ------
    ValueError
        If shapes do not match, a value is not finite, or a buffer is unfit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem.backend import assign
    >>> assign(np.array([[0.0], [4.0]]), np.array([[1.0], [5.0]]))
    (array([0, 1], dtype=int32), array([1., 1.]))
    """
    X = validate.rows(X)
    labels = validate.output(out_labels, (len(X),), np.int32, "out_labels")
    sqdist = validate.output(out_sqdist, (len(X),), X.dtype, "out_sqdist")
    X, centers = _in_range(X, centers, "centers")
    family = KMeansFamily(len(centers))
    own = sqdist if X.dtype == sqdist.dtype else np.empty(len(X), X.dtype)
    family.assign_into(X, family.prepare(KMeansParams(centers), X.dtype), labels, own, threads.resolve(n_threads))
    if own is not sqdist:
        with np.errstate(over="ignore"):
            sqdist[...] = own
    return labels, sqdist


def kmeans_step(
    X: Any,
    centers: Any,
    sample_weight: Any = None,
    *,
    n_threads: int | None = None,
    out_labels: np.ndarray | None = None,
) -> KMeansStep:
    """Assign rows to their nearest centre and sum them per cluster, in one pass over X.

    The next centres of Lloyd's algorithm are ``sums / counts[:, None]`` where counts are positive.

    Parameters
    ----------
    X : array (n, d)
        Rows, float32 or float64.
    centers : array (k, d)
        Centres; rounded to X's dtype.
    sample_weight : array (n,) or None
        Weights, at least 0.
    n_threads : int or None
        Threads; None means all.
    out_labels : int32 array (n,) or None
        Where to write the labels, if they are wanted.

    Returns
    -------
    KMeansStep
        ``counts`` (k,), ``sums`` (k, d) and ``inertia``, float64.

    Raises
    ------
    ValueError
        If shapes do not match, a value is not finite, or a weight is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem.backend import kmeans_step
    >>> step = kmeans_step(np.array([[0.0], [2.0], [9.0]]), np.array([[1.0], [8.0]]))
    >>> step.counts, step.sums.ravel(), step.inertia
    (array([2., 1.]), array([2., 9.]), 3.0)
    """
    X, centers = _in_range(validate.rows(X), centers, "centers")
    source = MemorySource(X, validate.weights(sample_weight, len(X), X.dtype), n_threads=threads.resolve(n_threads))
    family = KMeansFamily(len(centers))
    prepared = family.prepare(KMeansParams(centers), X.dtype)
    memo = None
    if out_labels is not None:
        memo = KMeansMemo(validate.output(out_labels, (len(X),), np.int32, "out_labels"))
    stats = source.accumulate(family, prepared, memo)
    sums = stats.sums + stats.counts[:, None] * prepared.origin
    return KMeansStep(stats.counts.copy(), sums, float(stats.inertia))


def gaussian_log_density(
    X: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str = "full",
    *,
    n_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Evaluate the log-density of each component at each row.

    Parameters
    ----------
    X : array (n, d)
        Rows, float32 or float64.
    means : array (k, d)
        Means.
    precisions_cholesky : array
        Upper triangular U with precision = U U', as scikit-learn's ``precisions_cholesky_``: (k, d, d) for "full",
        (d, d) for "tied"; the square roots of the precisions (k, d) for "diag", (k,) for "spherical".
    covariance_type : {"full", "tied", "diag", "spherical"}
        Meaning of `precisions_cholesky`.
    n_threads : int or None
        Threads; None means all.
    out : float64 array (n, k) or None
        Where to write.

    Returns
    -------
    ndarray (n, k) float64
        log N(x_i; mu_k, Sigma_k).

    Raises
    ------
    ValueError
        If shapes do not match, a value is not finite, or the type is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem.backend import gaussian_log_density
    >>> gaussian_log_density(np.zeros((1, 2)), np.zeros((1, 2)), np.ones((1, 2)), "diag").round(6)
    array([[-1.837877]])
    """
    X, means = _in_range(validate.rows(X), means, "means")
    family = _gaussian(len(means), covariance_type)
    ones = np.ones(len(means))  # log-weights of 0 leave the densities alone
    params = _params(family, ones, means, precisions_cholesky)
    out = validate.output(out, (len(X), len(means)), np.float64, "out")
    family.expect(X, family.prepare(params, X.dtype), threads.resolve(n_threads), log_joint=out)
    return out


def em_step(
    X: Any,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str = "full",
    sample_weight: Any = None,
    *,
    reg_covar: float = 1e-6,
    n_threads: int | None = None,
) -> EMStep:
    """Run one EM iteration of a Gaussian mixture, in one pass over X.

    Parameters
    ----------
    X : array (n, d)
        Rows, float32 or float64; NaN is a missing value.
    weights : array (k,)
        Mixing proportions.
    means, precisions_cholesky, covariance_type
        As for `gaussian_log_density`.
    sample_weight : array (n,) or None
        Weights, at least 0.
    reg_covar : float
        Added to the variances.
    n_threads : int or None
        Threads; None means all.

    Returns
    -------
    EMStep
        The next parameters, and the log-likelihood of the given ones.

    Raises
    ------
    ValueError
        If shapes do not match, a value is infinite (beside X also NaN), or the type is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem.backend import em_step
    >>> step = em_step(np.array([[0.0], [2.0]]), [1.0], [[0.5]], [[1.0]], "diag", reg_covar=0.0)
    >>> step.means, step.covariances, round(step.log_likelihood, 6)
    (array([[1.]]), array([[1.]]), -3.087877)
    """
    X, means = _in_range(validate.rows(X, allow_nan=True), means, "means")
    weights = validate.proportions(weights, (len(means),), "weights")
    family = _gaussian(len(means), covariance_type, reg_covar)
    params = _params(family, weights, means, precisions_cholesky)
    source = MemorySource(X, validate.weights(sample_weight, len(X), X.dtype), n_threads=threads.resolve(n_threads))
    family = source.served_by(family)
    prepared = family.prepare(params, X.dtype)
    stats = source.accumulate(family, prepared)
    after = family.m_step(stats, family.constants(source), prepared, params).params
    return EMStep(after.weights, after.means, after.covariances, after.precisions_cholesky, float(stats.loglik))


def _in_range(X: np.ndarray, points: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (n, d) and float64 points (k, d) whose squared distances are numbers: the rows, or float64 of them.

    Raises
    ------
    ValueError
        If the points are no such table, or a value's square is beyond the range of float64.
    """
    points = validate.with_room_for_squares(validate.rows(points, name, np.float64, X.shape[1]), name)
    X = validate.with_room_for_squares(X)
    with np.errstate(over="ignore"):
        narrow = points.astype(X.dtype)
    if X.dtype == np.float32 and not (np.isfinite(narrow).all() and validate.with_room_for_squares(narrow) is narrow):
        X = X.astype(np.float64)
    return X, points


def _gaussian(n_components: int, covariance_type: str, reg_covar: float = 0.0) -> GaussianFamily:
    from fastem.families.gaussian import SHAPES, GaussianFamily

    if covariance_type not in SHAPES:
        raise ValueError(f"covariance_type must be one of {', '.join(SHAPES)}, got {covariance_type!r}.")
    return GaussianFamily(n_components, covariance_type, reg_covar)


def _params(family: GaussianFamily, weights: np.ndarray, means: np.ndarray, precisions_cholesky: Any) -> GaussianParams:
    from fastem.families.elliptical.records import GaussianParams

    factors = validate.shaped(precisions_cholesky, family.covariance_shape(means.shape[1]), "precisions_cholesky")
    return GaussianParams(weights, means, family.shape.inverted(family.shape.precisions(factors)), factors)
