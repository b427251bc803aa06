"""LAPACK and BLAS on matrices in place, called by address, as compiled code calls them.

SciPy's wrappers hold the GIL.  Memory of rows is LAPACK's of columns: the lower triangle that it works on is the upper
one here, and nothing is transposed.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from numba.extending import get_cython_function_address

# Features up to which LAPACK inverts a triangle in one call; of more, two products leave it the halves.  Of 784
# features that takes 3.3 to 4 ms on one thread instead of 7.1 (AVX-512): LAPACK's solves are slower than products.  Up
# to 64 it would be a tenth less, but twice as many calls, at each of which two threads wait for one another.
WHOLE = 128


@functools.cache
def _routine(home: str, name: str, n_arguments: int) -> Any:
    """Return a routine; a call of it holds no GIL."""
    form = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)
    return form(get_cython_function_address(f"scipy.linalg.cython_{home}", name))


def _call(home: str, name: str, letters: str, *values: Any) -> None:
    """Call a routine with letters and values, all by reference; of a matrix, its memory and its stride."""
    held: list[Any] = [ctypes.c_char(letter.encode()) for letter in letters]
    places = [ctypes.addressof(letter) for letter in held]
    for value in values:
        if isinstance(value, np.ndarray):
            places.append(value.ctypes.data)
            value = ctypes.c_int(value.strides[0] // value.itemsize)
        held.append(value)
        places.append(ctypes.addressof(value))
    _routine(home, name, len(places))(*places)


def in_place(name: str, letters: str, matrix: np.ndarray) -> bool:
    """Call a routine of LAPACK on a matrix (d, d) float64; return whether it could do its work.

    Parameters
    ----------
    name : {"dpotrf", "dpotri", "dtrtri", "dlauum"}
        Cholesky factor, inverse from a factor, inverse of a triangle, product of a triangle with its transpose.
    letters : str
        Its options, a letter each: "L" for the upper triangle of rows, "U" for the lower.
    matrix : ndarray (d, d) float64
        Read and written, a row after the other at any distance.
    """
    failed = ctypes.c_int(0)
    _call("lapack", name, letters, ctypes.c_int(len(matrix)), matrix, failed)
    return failed.value == 0


def invert_upper(matrix: np.ndarray) -> bool:
    """Replace an upper triangular matrix (d, d) float64 by its inverse; return whether it has one.

    With halves A, B and C, the inverse has those of A and C, and -(1 / A) B (1 / C).  Its error is bounded like that of
    LAPACK's, which divides by A where this multiplies with its inverse (Du Croz and Higham, "Stability of methods for
    matrix inversion", IMA Journal of Numerical Analysis 12, 1992, methods 2B and 2C).
    """
    d = len(matrix)
    if d <= WHOLE:
        return in_place("dtrtri", "LN", matrix)
    half = -(-d // (2 * WHOLE)) * WHOLE
    upper, corner, lower = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    if not (invert_upper(upper) and invert_upper(lower)):
        return False
    # In order of columns the corner is its transpose: so many rows as the lower half has, and columns as the upper.
    extents = ctypes.c_int(d - half), ctypes.c_int(half)
    _call("blas", "dtrmm", "LLNN", *extents, ctypes.c_double(-1.0), lower, corner)
    _call("blas", "dtrmm", "RLNN", *extents, ctypes.c_double(1.0), upper, corner)
    return True
