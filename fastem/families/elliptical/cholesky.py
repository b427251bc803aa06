"""Cholesky factors and inverses of large matrices, those of the components side by side.

LAPACK does a matrix in one thread, so that its bits do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastem import pool, threads
from fastem.families.elliptical import lapack
from fastem.kernels.triangles import clear_lower, mirror, upper_below

# Rounding of a Cholesky pivot, in units of d eps times the variance (Higham, "Accuracy and stability of numerical
# algorithms", theorem 10.3), with a factor of safety.
RESOLVED = 1.0 / (8.0 * np.finfo(np.float64).eps)
# Numbers of a matrix from which a thread of its own pays.
WORTH_A_THREAD = 2**14


def each_matrix(function: Callable[[int], Any], k: int, d: int) -> None:
    """Call a function for each of k matrices (d, d), side by side where they are large."""

    def run(components: slice) -> None:
        for c in range(components.start, components.stop):
            function(c)

    runs_of_matrices(run, k, d)


def runs_of_matrices(function: Callable[[slice], Any], k: int, d: int) -> None:
    """Call a function for runs of k matrices (d, d): all, or, side by side, each by itself where they are large."""
    if d * d < WORTH_A_THREAD:
        function(slice(0, k))
    else:
        threads.side_by_side(lambda c: function(slice(c, c + 1)), k)


def each_different(functions: list[Callable[[int], Any]], matrices: np.ndarray, *found: np.ndarray) -> None:
    """Call functions for each of matrices (k, d, d); if these are all one, for the first, and copy what they found."""
    k, d = matrices.shape[:2]
    first = matrices[0]
    alike = all(np.array_equal(own[0], first[0]) and np.array_equal(own, first) for own in matrices[1:])
    for function in functions:
        each_matrix(function, 1 if alike else k, d)
    if alike:
        for array in found:
            array[1:] = array[0]


def precision_factors(covariances: np.ndarray) -> np.ndarray:
    """Return upper triangular P with inverse covariance P P' of each matrix (k, d, d).

    Raises
    ------
    numpy.linalg.LinAlgError
        When a covariance is not positive definite, or not to rounding.
    """
    factors = pool.empty(covariances.shape)

    def factorise(c: int) -> None:
        factor = factors[c]
        factor[:] = covariances[c]
        if not lapack.in_place("dpotrf", "L", factor):
            raise np.linalg.LinAlgError("a covariance is not positive definite")
        refuse_lost_digits(1.0 / factor.diagonal(), covariances[c].diagonal())

    def invert(c: int) -> None:
        if not (lapack.invert_upper(factors[c]) and clear_lower(factors[c])):
            raise np.linalg.LinAlgError("a covariance is not positive definite")

    # Nothing is inverted, which takes twice as long, before all are known to be positive definite.
    each_different([factorise, invert], covariances, factors)
    return factors


def refuse_lost_digits(given: np.ndarray, own: np.ndarray) -> None:
    """Refuse factors that are noise.

    Where the variance of a feature given those before is the rounding of its own, it is up to the BLAS whether a factor
    of a singular matrix is found, and the density that it gives means nothing.

    Parameters
    ----------
    given : ndarray (..., d)
        Diagonals of the precisions' factors: 1 over the standard deviation of a feature given those before.
    own : ndarray (..., d)
        The features' variances.
    """
    if np.any(np.square(given) * own * own.shape[-1] > RESOLVED):
        raise np.linalg.LinAlgError("a covariance is singular to rounding")


def of_precisions(precisions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the covariances of precisions (k, d, d), and upper triangular P with precision P P'.

    Backwards, from the last feature to the first, P is the Cholesky factor of the precision, and the covariance is the
    product of its inverse.

    Raises
    ------
    numpy.linalg.LinAlgError
        When a precision is not positive definite.
    """
    d = precisions.shape[1]
    covariances, factors = pool.empty(precisions.shape), pool.empty(precisions.shape)

    def component(c: int) -> None:
        backwards, covariance, factor = precisions[c, ::-1, ::-1].copy(), covariances[c], factors[c]
        if not lapack.in_place("dpotrf", "U", backwards):
            raise np.linalg.LinAlgError("a precision is not positive definite")
        factor[:] = backwards[::-1, ::-1]
        clear_lower(factor)
        if not lapack.in_place("dpotri", "U", backwards):
            raise np.linalg.LinAlgError("a precision is singular")
        covariance[:] = backwards[::-1, ::-1]
        mirror(d, covariance)
        refuse_lost_digits(factor.diagonal(), covariance.diagonal())

    each_different([component], precisions, covariances, factors)
    return covariances, factors


def products(factors: np.ndarray) -> np.ndarray:
    """Return P P' of each upper triangular matrix P (k, d, d)."""
    found = pool.empty(factors.shape)
    k, d = factors.shape[:2]

    def component(c: int) -> None:
        found[c] = factors[c]
        lapack.in_place("dlauum", "L", found[c])
        mirror(d, found[c])

    each_matrix(component, k, d)
    return found


def below(factors: np.ndarray, limit: float) -> bool:
    """Tell whether all numbers of upper triangular matrices (k, d, d) are smaller than a limit."""
    k, d = factors.shape[:2]
    found = np.empty(k, bool)

    def component(c: int) -> None:
        found[c] = upper_below(factors[c], limit)

    each_matrix(component, k, d)
    return bool(found.all())
