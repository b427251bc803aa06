# Variances of few rows, which are in the cache; included by nearest.pyx and mixtures.pyx.

cdef enum:
    ABREAST = 4  # features whose sums wait for each other's additions no more


cdef void variances_of(const real *x, const real *w, ptrdiff_t n, ptrdiff_t d, double *out) noexcept nogil:
    """Weighted variances (d,) of rows, about their mean; each feature's sums are in the order of the rows."""
    cdef double total, mass
    cdef double sum[ABREAST]
    cdef double squares[ABREAST]
    cdef double mean[ABREAST]
    cdef ptrdiff_t at[ABREAST]
    cdef ptrdiff_t i, j, t
    for j from 0 <= j < d by ABREAST:
        total = 0
        for t in range(ABREAST):  # the last feature stands in for those beyond it
            at[t], sum[t], squares[t] = min(j + t, d - 1), 0, 0
        for i in range(n):
            mass = <double>w[i] if w != NULL else 1.0
            total += mass
            for t in range(ABREAST):
                sum[t] += mass * (<double>x[i * d + at[t]] - <double>x[at[t]])
        for t in range(ABREAST):
            mean[t] = <double>x[at[t]] + sum[t] / total
        for i in range(n):
            mass = <double>w[i] if w != NULL else 1.0
            for t in range(ABREAST):
                squares[t] += mass * (<double>x[i * d + at[t]] - mean[t]) * (<double>x[i * d + at[t]] - mean[t])
        for t in range(min(d - j, ABREAST)):
            out[j + t] = squares[t] / total
