# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=False
"""EM for rows so few that an iteration costs less than Python: whole runs, of one mixture or of very many.

The E-step is the family's own compiled kernel (`fastem.jit.drivers`), called by its address.  What surrounds it is here:
parameters as an iteration needs them, M-step, convergence.  The numbers are those of the engine to the bit: it calls the
functions of this file where NumPy would leave the order of a sum, or the digits of a logarithm, to the machine; what is
elementwise is done in NumPy's order.  No product is fused with a sum (setup.py says so to the compiler).

A run that meets what only the engine can deal with (an empty component, a singular covariance, an objective that falls)
is given up, and left to the engine from its start.
"""

from libc.math cimport INFINITY, fabs, isfinite, log, sqrt
from libc.stdint cimport int32_t, int64_t, intptr_t
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

import numpy as np

ctypedef fused real:
    float
    double

# An E-step of rows start .. stop, added to a record: `entry` of fastem.jit.drivers.
ctypedef void (*e_step)(intptr_t context, intptr_t start, intptr_t stop, double *record, intptr_t size) noexcept nogil

cdef double LOG_2PI = 1.8378770664093453


cdef double sum_of(const double *values, ptrdiff_t n) noexcept nogil:
    """The sum in the order of `numpy.sum` of so few contiguous numbers: eight by eight from eight on."""
    cdef double r[8]
    cdef double total
    cdef ptrdiff_t i, j
    if n < 8:
        total = 0.0
        for i in range(n):
            total += values[i]
        return total
    for j in range(8):
        r[j] = values[j]
    i = 8
    while i < n - n % 8:
        for j in range(8):
            r[j] += values[i + j]
        i += 8
    total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
    while i < n:
        total += values[i]
        i += 1
    return total


def sum_in_order(const double[::1] values):
    """Return what `numpy.sum` does of at most 128 numbers: a test compares the two."""
    return sum_of(&values[0], values.shape[0])


cdef void mean_of(const double *weights, const double *means, ptrdiff_t k, ptrdiff_t d, double *out) noexcept nogil:
    """Weighted mean (d,) of points (k, d)."""
    cdef double total = 0
    cdef ptrdiff_t c, j
    for j in range(d):
        out[j] = 0
    for c in range(k):
        total += weights[c]
        for j in range(d):
            out[j] += weights[c] * means[c * d + j]
    for j in range(d):
        out[j] /= total


def weighted_mean(const double[::1] weights, const double[:, ::1] points):
    """Return the weighted mean (d,) of points (k, d), summed in their order."""
    out = np.empty(points.shape[1])
    cdef double[::1] view = out
    mean_of(&weights[0], &points[0, 0], points.shape[0], points.shape[1], &view[0])
    return out


def logarithms(const double[::1] values):
    """Return the natural logarithms (n,) as the C library has them; -inf of 0."""
    out = np.empty(values.shape[0])
    cdef double[::1] view = out
    cdef ptrdiff_t i
    for i in range(values.shape[0]):
        view[i] = log(values[i])
    return out


def sums_of_logarithms(const double[:, ::1] values):
    """Return the sum of the logarithms of each row (k,), in order."""
    out = np.zeros(values.shape[0])
    cdef double[::1] view = out
    cdef ptrdiff_t c, j
    for c in range(values.shape[0]):
        for j in range(values.shape[1]):
            view[c] += log(values[c, j])
    return out


include "../moments/variances.pxi"
include "gaussian.pxi"
include "runs.pxi"
include "groups.pxi"
