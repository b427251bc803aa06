# What is done with centroids between two passes: a common origin, their norms, how far they moved.


cdef void origin_of(const double *values, ptrdiff_t k, ptrdiff_t d, real *origin) noexcept nogil:
    """Where one feature (k values, d numbers apart) is measured from, so that x - o and c - o lose next to nothing.

    The value nearest to zero, or zero unless all values lie beyond half the largest, cut to a multiple of the spacing of
    numbers at the largest: the difference of a row beyond it is then a number of the rows' type, and one before it, which lies far
    from every centre, is rounded beside its distance to them.  A mean would be drawn away by one far centre, and every
    row would lose the digits that its own differences have.
    """
    cdef double low = INFINITY, high = -INFINITY, nearest, spacing, value
    cdef ptrdiff_t c
    cdef int exponent, digits = 24 if sizeof(real) == 4 else 53
    for c in range(k):
        value = <double><real>values[c * d]
        low, high = min(low, value), max(high, value)
    nearest = low if low > 0 else high
    origin[0] = 0
    if (low <= 0 and high >= 0) or fabs(nearest) < 0.5 * max(-low, high):
        return
    frexp(max(-low, high), &exponent)
    spacing = ldexp(1.0, exponent - digits)
    origin[0] = <real>(trunc(nearest / spacing) * spacing) if spacing > 0 else 0


cdef bint origin_holds(const double *params, ptrdiff_t k, ptrdiff_t d, const real *origin) noexcept nogil:
    """Whether centres still lie beyond half the origin, seen from zero: then rows between are exact all the same."""
    cdef ptrdiff_t c, j
    cdef double half, value
    for c in range(k):
        for j in range(d):
            half, value = 0.5 * origin[j], <double><real>params[c * d + j]
            if (half > 0 and value < half) or (half < 0 and value > half):
                return False
    return True


cdef bint prepare_into(const double *params, ptrdiff_t k, ptrdiff_t d, bint keep_origin, real *origin, real *centers,
                       real *half_norms) noexcept nogil:
    cdef ptrdiff_t j
    cdef bint kept = keep_origin and origin_holds[real](params, k, d, origin)
    if not kept:
        for j in range(d):
            origin_of[real](params + j, k, d, origin + j)
    shift_all[real](params, k, d, origin, centers, half_norms)
    return kept


cdef void shift_all(const double *params, ptrdiff_t k, ptrdiff_t d, const real *origin, real *centers,
                    real *half_norms) noexcept nogil:
    cdef ptrdiff_t c, first = 0
    while first + 4 <= k:
        shift_four[real](params + first * d, d, origin, centers + first * d, half_norms + first)
        first += 4
    for c in range(first, k):
        shift_one[real](params + c * d, d, origin, centers + c * d, half_norms + c)


cdef inline double shifted(double value, real origin, real *center) noexcept nogil:
    """Round a number, so that the centres that a user sees in the rows' type are the ones that rows are assigned to."""
    cdef double relative = <double><real>value - <double>origin
    center[0] = <real>relative
    return relative


cdef void shift_one(const double *params, ptrdiff_t d, const real *origin, real *center, real *half_norm) noexcept nogil:
    cdef double total = 0, relative
    cdef ptrdiff_t j
    for j in range(d):
        relative = shifted[real](params[j], origin[j], center + j)
        total += relative * relative
    half_norm[0] = <real>(0.5 * total)


cdef void shift_four(const double *params, ptrdiff_t d, const real *origin, real *center, real *half_norm) noexcept nogil:
    """`shift_one` of four centres: no sum has to wait for its last addition."""
    cdef double total0 = 0, total1 = 0, total2 = 0, total3 = 0, relative0, relative1, relative2, relative3
    cdef ptrdiff_t j
    for j in range(d):
        relative0 = shifted[real](params[j], origin[j], center + j)
        relative1 = shifted[real](params[d + j], origin[j], center + d + j)
        relative2 = shifted[real](params[2 * d + j], origin[j], center + 2 * d + j)
        relative3 = shifted[real](params[3 * d + j], origin[j], center + 3 * d + j)
        total0 += relative0 * relative0
        total1 += relative1 * relative1
        total2 += relative2 * relative2
        total3 += relative3 * relative3
    half_norm[0], half_norm[1] = <real>(0.5 * total0), <real>(0.5 * total1)
    half_norm[2], half_norm[3] = <real>(0.5 * total2), <real>(0.5 * total3)


cdef enum:
    TOGETHER_CENTERS = 64  # centres of a task, a multiple of four
    MANY_NUMBERS = 65536   # of centres, from which threads are worth their wages: one takes about a nanosecond


cdef double movement_of(const double *a, const double *b, ptrdiff_t k, ptrdiff_t d) noexcept nogil:
    """Summed squared difference of two arrays of centres: in one sum, or, of many numbers, one for each centre."""
    cdef ptrdiff_t c, i
    cdef double total = 0
    if k * d < MANY_NUMBERS:
        for i in range(k * d):
            total += (a[i] - b[i]) * (a[i] - b[i])
    else:
        for c in range(k):
            total += square_between[double](a + c * d, b + c * d, d)
    return total


cdef int threads_for_centers(ptrdiff_t k, ptrdiff_t d, int n_threads) noexcept nogil:
    if k * d < MANY_NUMBERS:
        return 1
    return <int>max(1, min(n_threads, (k + TOGETHER_CENTERS - 1) // TOGETHER_CENTERS))


def prepare_centers(const double[:, ::1] params, bint keep_origin, real[::1] origin, real[:, ::1] centers,
                    real[::1] half_norms, const real[:, ::1] before, double[::1] moved, int n_threads):
    """Round centres and shift them by an origin: `origin_of` each feature, or the one that is kept.

    Parameters
    ----------
    params : float64 array (k, d)
        Centres.
    keep_origin : bool
        Use the origin that is given if it is still a good one.
    origin : array (d,)
        IN or OUT.
    centers : array (k, d)
        OUT. Centres minus the origin.
    half_norms : array (k,)
        OUT. Half their squared norms.
    before : array (k, d) or (0, d)
        Centres relative to the origin that is given.
    moved : float64 array (k,) or (0,)
        OUT. How far each is from that, if the origin is kept.
    n_threads : int
        Threads to use.

    Returns
    -------
    bool
        Whether the origin is the one that was given.
    """
    cdef ptrdiff_t k = params.shape[0], d = params.shape[1], parts = (k + TOGETHER_CENTERS - 1) // TOGETHER_CENTERS, t, c
    cdef int threads = threads_for_centers(k, d, n_threads)
    cdef bint kept = keep_origin, holds
    cdef uint8_t[::1] held = np.zeros(parts, np.uint8)
    if (before.shape[0], before.shape[1], moved.shape[0]) not in ((0, d, 0), (k, d, k)):
        raise ValueError(f"arrays of {k} centres of {d} features do not fit each other")
    if keep_origin:  # all that is done with some centres while a cache holds them
        if threads == 1:
            for t in range(parts):
                held[t] = prepare_some[real](params, True, &origin[0], centers, half_norms, before, moved, t)
        else:
            for t in prange(parts, schedule="static", num_threads=threads, nogil=True):
                held[t] = prepare_some[real](params, True, &origin[0], centers, half_norms, before, moved, t)
        kept = bool(np.all(held))
    if kept:
        return True
    with nogil:
        if threads == 1:
            for t in range(d):
                origin_of[real](&params[0, t], k, d, &origin[t])
            for t in range(parts):
                prepare_some[real](params, False, &origin[0], centers, half_norms, before, moved, t)
        else:
            for t in prange(d, schedule="static", num_threads=threads):
                origin_of[real](&params[0, t], k, d, &origin[t])
            for t in prange(parts, schedule="static", num_threads=threads):
                prepare_some[real](params, False, &origin[0], centers, half_norms, before, moved, t)
    return False


cdef bint prepare_some(const double[:, ::1] params, bint keep_origin, const real *origin, real[:, ::1] centers,
                       real[::1] half_norms, const real[:, ::1] before, double[::1] moved, ptrdiff_t part) noexcept nogil:
    """Shift some centres by the origin, and tell how far they moved, unless it is to be kept and does not hold."""
    cdef ptrdiff_t first = part * TOGETHER_CENTERS, d = params.shape[1], c
    cdef ptrdiff_t count = min(params.shape[0] - first, <ptrdiff_t>TOGETHER_CENTERS)
    if keep_origin and not origin_holds[real](&params[first, 0], count, d, origin):
        return False
    shift_all[real](&params[first, 0], count, d, origin, &centers[first, 0], &half_norms[first])
    if keep_origin and moved.shape[0]:
        for c in range(first, first + count):
            moved[c] = sqrt(square_between[real](&centers[c, 0], &before[c, 0], d))
    return True


def squared_movement(const double[:, ::1] after, const double[:, ::1] before, int n_threads):
    """Return the summed squared difference of two arrays of centres.

    Parameters
    ----------
    after, before : float64 arrays (k, d)
        The centres.
    n_threads : int
        Threads to use.
    """
    cdef ptrdiff_t c, k = after.shape[0], d = after.shape[1]
    cdef int threads = threads_for_centers(k, d, n_threads)
    cdef double total = 0
    if threads == 1:
        return movement_of(&after[0, 0], &before[0, 0], k, d)
    cdef double[::1] squares = np.empty(k)
    with nogil:
        for c in prange(k, schedule="static", num_threads=threads):
            squares[c] = square_between[double](&after[c, 0], &before[c, 0], d)
        for c in range(k):
            total += squares[c]
    return total


cdef double square_between(const real *a, const real *b, ptrdiff_t d) noexcept nogil:
    """The squared distance of two centroids: two sums, so that neither waits for its last addition."""
    cdef double even = 0, odd = 0, step
    cdef ptrdiff_t j
    for j in range(0, d - 1, 2):
        step = <double>a[j] - <double>b[j]
        even += step * step
        step = <double>a[j + 1] - <double>b[j + 1]
        odd += step * step
    if d % 2:
        step = <double>a[d - 1] - <double>b[d - 1]
        even += step * step
    return even + odd


def gain_of_means(const real[:, ::1] centers, const double[::1] counts, const double[:, ::1] sums, int n_threads):
    """Return 2 sum c.S - sum N abs(c)^2: by how much centroids lower sum w abs(x - o)^2 to the distortion.

    Parameters
    ----------
    centers : array (k, d)
        Centroids relative to the origin.
    counts : float64 array (k,)
        Weight N of each cluster.
    sums : float64 array (k, d)
        Sum S of w (x - o) of each.
    n_threads : int
        Threads to use.
    """
    cdef ptrdiff_t c, k = centers.shape[0], d = centers.shape[1]
    cdef int threads = threads_for_centers(k, d, n_threads)
    cdef double total = 0
    if threads == 1:
        for c in range(k):
            total += gain_of[real](&centers[c, 0], counts[c], &sums[c, 0], d)
        return total
    cdef double[::1] gains = np.empty(k)
    with nogil:
        for c in prange(k, schedule="static", num_threads=threads):
            gains[c] = gain_of[real](&centers[c, 0], counts[c], &sums[c, 0], d)
        for c in range(k):
            total += gains[c]
    return total


cdef double gain_of(const real *center, double count, const double *sum, ptrdiff_t d) noexcept nogil:
    cdef double product = 0, norm = 0, product1 = 0, norm1 = 0, value
    cdef ptrdiff_t j
    for j in range(0, d - 1, 2):
        value = center[j]
        product += value * sum[j]
        norm += value * value
        value = center[j + 1]
        product1 += value * sum[j + 1]
        norm1 += value * value
    if d % 2:
        value = center[d - 1]
        product += value * sum[d - 1]
        norm += value * value
    return 2.0 * (product + product1) - count * (norm + norm1)


def means_of_sums(const double[:, ::1] sums, const double[::1] counts, const real[::1] origin, double[:, ::1] means,
                  int n_threads):
    """Write the means of clusters, none of which is empty.

    Parameters
    ----------
    sums : float64 array (k, d)
        Sum of w (x - o) of each.
    counts : float64 array (k,)
        Their weights.
    origin : array (d,)
        o.
    means : float64 array (k, d)
        OUT.
    n_threads : int
        Threads to use.
    """
    cdef ptrdiff_t c, j, k = sums.shape[0], d = sums.shape[1]
    cdef int threads = threads_for_centers(k, d, n_threads)
    if (counts.shape[0], origin.shape[0], means.shape[0], means.shape[1]) != (k, d, k, d):
        raise ValueError(f"arrays of {k} sums of {d} features do not fit each other")
    with nogil:
        if threads == 1:
            for c in range(k):
                for j in range(d):
                    means[c, j] = sums[c, j] / counts[c] + origin[j]
        else:
            for c in prange(k, schedule="static", num_threads=threads):
                for j in range(d):
                    means[c, j] = sums[c, j] / counts[c] + origin[j]
