# The sum of squares of all values, which is a number only if all values are; included by nearest.pyx.

cdef enum:
    SIDE_BY_SIDE = 32  # sums that wait for each other's additions no more
    TOGETHER = 4096  # values that are added up in their own type
    PART = 1 << 16  # values of a task, a multiple of both


cdef double add_squares(const real *x, ptrdiff_t n) noexcept nogil:
    """The sum of the squares of one part."""
    cdef real sum[SIDE_BY_SIDE]
    cdef real some
    cdef double total = 0
    cdef ptrdiff_t i, first, stop
    cdef int j
    for first from 0 <= first < n by TOGETHER:
        stop = min(n, first + TOGETHER)
        for j in range(SIDE_BY_SIDE):
            sum[j] = 0
        for i from first <= i <= stop - SIDE_BY_SIDE by SIDE_BY_SIDE:
            for j in range(SIDE_BY_SIDE):
                sum[j] += x[i + j] * x[i + j]
        some = 0
        for i in range(stop - stop % SIDE_BY_SIDE, stop):
            some += x[i] * x[i]
        for j in range(SIDE_BY_SIDE):
            some += sum[j]
        total += some
    return total


def sum_of_squares(const real[::1] values, int n_threads):
    """Return the sum of the squares of values (n,): infinite if one overflows its type, NaN if one is NaN."""
    cdef ptrdiff_t n = values.shape[0], n_parts = (n + PART - 1) // PART, part
    cdef double total = 0
    if not n:
        return total
    if n_parts == 1:
        return add_squares(&values[0], n)
    cdef double[::1] sums = np.empty(n_parts)
    cdef int threads = <int>max(1, min(n_threads, n_parts))
    with nogil:
        if threads == 1:
            for part in range(n_parts):
                sums[part] = add_squares(&values[part * PART], min(n - part * PART, <ptrdiff_t>PART))
        else:
            for part in prange(n_parts, schedule="static", num_threads=threads):
                sums[part] = add_squares(&values[part * PART], min(n - part * PART, <ptrdiff_t>PART))
        for part in range(n_parts):  # in order, whoever made them
            total += sums[part]
    return total
