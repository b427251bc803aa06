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
    cdef ptrdiff_t c, j, first = 0
    cdef bint kept = keep_origin and origin_holds[real](params, k, d, origin)
    if not kept:
        for j in range(d):
            origin_of[real](params + j, k, d, origin + j)
    while first + 4 <= k:
        shift_four[real](params + first * d, d, origin, centers + first * d, half_norms + first)
        first += 4
    for c in range(first, k):
        shift_one[real](params + c * d, d, origin, centers + c * d, half_norms + c)
    return kept


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


cdef double movement_of(const double *a, const double *b, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t i
    cdef double total = 0
    for i in range(n):
        total += (a[i] - b[i]) * (a[i] - b[i])
    return total


def prepare_centers(const double[:, ::1] params, bint keep_origin, real[::1] origin, real[:, ::1] centers,
                    real[::1] half_norms):
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

    Returns
    -------
    bool
        Whether the origin is the one that was given.
    """
    return bool(prepare_into[real](&params[0, 0], params.shape[0], params.shape[1], keep_origin, &origin[0],
                                   &centers[0, 0], &half_norms[0]))


def squared_movement(const double[:, ::1] a, const double[:, ::1] b):
    """Return the summed squared difference of two arrays of centres."""
    return movement_of(&a[0, 0], &b[0, 0], a.shape[0] * a.shape[1])


def movements(const real[:, ::1] after, const real[:, ::1] before, double[::1] moved):
    """Write how far each centroid moved.

    Parameters
    ----------
    after, before : arrays (k, d)
        Centroids relative to one origin.
    moved : float64 array (k,)
        OUT. Distances, summed in float64.
    """
    cdef ptrdiff_t c, j, d = after.shape[1]
    cdef double even, odd, step
    with nogil:
        for c in range(after.shape[0]):
            even, odd = 0, 0
            for j in range(0, d - 1, 2):
                step = <double>after[c, j] - <double>before[c, j]
                even += step * step
                step = <double>after[c, j + 1] - <double>before[c, j + 1]
                odd += step * step
            if d % 2:
                step = <double>after[c, d - 1] - <double>before[c, d - 1]
                even += step * step
            moved[c] = sqrt(even + odd)


def gain_of_means(const real[:, ::1] centers, const double[::1] counts, const double[:, ::1] sums):
    """Return 2 sum c.S - sum N abs(c)^2: by how much centroids lower sum w abs(x - o)^2 to the distortion.

    Parameters
    ----------
    centers : array (k, d)
        Centroids relative to the origin.
    counts : float64 array (k,)
        Weight N of each cluster.
    sums : float64 array (k, d)
        Sum S of w (x - o) of each.
    """
    cdef ptrdiff_t c, j, d = centers.shape[1]
    cdef double total = 0, product, norm, product1, norm1, value
    with nogil:
        for c in range(centers.shape[0]):
            product, norm, product1, norm1 = 0, 0, 0, 0
            for j in range(0, d - 1, 2):
                value = centers[c, j]
                product += value * sums[c, j]
                norm += value * value
                value = centers[c, j + 1]
                product1 += value * sums[c, j + 1]
                norm1 += value * value
            if d % 2:
                value = centers[c, d - 1]
                product += value * sums[c, d - 1]
                norm += value * value
            total += 2.0 * (product + product1) - counts[c] * (norm + norm1)
    return total
