# Rows and centres of length 1, for spherical k-means; included by nearest.pyx.

cdef double LOST = (16 * EPSILON_64) ** 2  # squared length of a mean of unit rows that is nothing but rounding


cdef double squares_of(const real *x, ptrdiff_t n, double unit) noexcept nogil:
    """Sum of (x / unit)^2, in pairs, as NumPy sums: halves of up to 128 numbers, eight sums in each."""
    cdef double sums[8]
    cdef ptrdiff_t j, t, half = n // 2 - n // 2 % 8
    cdef double total = 0
    if n > 128:
        return squares_of[real](x, half, unit) + squares_of[real](x + half, n - half, unit)
    if n >= 8:
        for t in range(8):
            sums[t] = 0
        for j in range(0, n - n % 8, 8):
            for t in range(8):
                sums[t] += (<double>x[j + t] / unit) * (<double>x[j + t] / unit)
        total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
    for j in range(n - n % 8, n):
        total += (<double>x[j] / unit) * (<double>x[j] / unit)
    return total


cdef void to_length_one(const real *x, ptrdiff_t n, real *out) noexcept nogil:
    """Divide a vector by its length; one of zeros stays so.  `out` may be the vector itself."""
    cdef double largest = 0, length
    cdef ptrdiff_t j
    for j in range(n):
        largest = max(largest, fabs(<double>x[j]))
    if not largest > 0:
        memset(out, 0, n * sizeof(real))
        return
    length = sqrt(squares_of[real](x, n, largest))  # of x / largest: squares of very large or small numbers exist
    for j in range(n):
        out[j] = <real>((<double>x[j] / largest) / length)


cdef void project(const double *before, double *means, ptrdiff_t k, ptrdiff_t d) noexcept nogil:
    """See `project_centers`."""
    cdef ptrdiff_t c
    for c in range(k):
        if squares_of[double](means + c * d, d, 1.0) < LOST:
            memcpy(means + c * d, before + c * d, d * sizeof(double))
        to_length_one[double](means + c * d, d, means + c * d)


def project_centers(const double[:, ::1] before, double[:, ::1] means):
    """Divide the means (k, d) of unit rows by their lengths, in place.

    Rows that cancel out have no mean direction: every unit centre is equally good, so the one `before` (k, d) stays.
    """
    project(&before[0, 0], &means[0, 0], means.shape[0], means.shape[1])


def unit_rows(const real[:, ::1] X, real[:, ::1] out):
    """Write rows (n, d), divided by their lengths, to `out` (n, d); rows of zeros stay zero."""
    cdef ptrdiff_t i
    with nogil:
        for i in range(X.shape[0]):
            to_length_one[real](&X[i, 0], X.shape[1], &out[i, 0])
