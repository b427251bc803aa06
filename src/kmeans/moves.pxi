# Single rows that change their cluster where that lowers the distortion; included by nearest.pyx.


def move_rows(
    const real[:, ::1] X,
    const double[::1] w,
    int32_t[::1] labels,
    double[::1] counts,
    double[:, ::1] means,
    double reach,
):
    """Move single rows to other clusters, one after the other, until no move lowers the distortion (Hartigan and Wong).

    A row of weight w that leaves cluster a, of weight n_a and mean m_a, for b changes J by
    w (n_b / (n_b + w) abs(x - m_b)^2 - n_a / (n_a - w) abs(x - m_a)^2); means follow each move.

    Parameters
    ----------
    X : array (m, d)
        The rows that may move, in the order in which they are asked.
    w : float64 array (m,)
        Their weights.
    labels : int32 array (m,)
        IN / OUT. Their clusters.
    counts, means : float64 arrays (k,) and (k, d)
        IN / OUT. Weights and means of the clusters, all rows counted.
    reach : float
        Only clusters are considered whose mean is no farther than that of the own, to this rounding error of coordinates;
        infinite: all.

    Returns
    -------
    int
        Moves made.
    """
    cdef ptrdiff_t m = X.shape[0], d = X.shape[1], k = counts.shape[0], i, j, sweep
    cdef ptrdiff_t a, b, moved = 0, before = -1
    cdef double out, into
    # What a mean loses in digits as rows leave multiplies over the moves: what is left is compared with what was there.
    cdef double[::1] least = LAST_ROW * np.asarray(counts)
    with nogil:
        for sweep in range(MOST_SWEEPS):
            if moved == before:
                break
            before = moved
            for i in range(m):
                a = labels[i]
                # The last row of a cluster costs nothing where it is; weights that rounding leaves are no other rows.
                if not w[i] > 0 or counts[a] - w[i] <= least[a]:
                    continue
                b = better_cluster[real](&X[i, 0], w[i], a, &counts[0], &means[0, 0], k, d, reach)
                if b < 0:
                    continue
                out, into = w[i] / (counts[a] - w[i]), w[i] / (counts[b] + w[i])
                for j in range(d):
                    means[a, j] -= out * (X[i, j] - means[a, j])
                    means[b, j] += into * (X[i, j] - means[b, j])
                counts[a] -= w[i]
                counts[b] += w[i]
                labels[i] = <int32_t>b
                moved += 1
    return moved


cdef ptrdiff_t MOST_SWEEPS = 100  # each lowers the distortion; none has been seen to need a tenth of them
cdef double GAIN = 1e-9  # share of a row's part of the distortion that a move must gain, beyond rounding
cdef double LAST_ROW = 1e-8  # share of its weight that a cluster has beside its last row, by rounding
cdef double TIED = 4.0  # roundings of a coordinate by which two distances of a tied row may differ
ROUNDINGS_OF_TIES = TIED


cdef ptrdiff_t better_cluster(const real *x, double w, ptrdiff_t a, const double *counts, const double *means,
                              ptrdiff_t k, ptrdiff_t d, double reach) noexcept nogil:
    """The cluster that a row of cluster a gains most by moving to, the first of equals, or -1."""
    cdef ptrdiff_t b, found = -1
    cdef double own = sqdist_below[real](x, means + a * d, d, INFINITY), norm = 0, limit, cost, most = INFINITY, sqdist
    cdef double least = own * counts[a] / (counts[a] - w) * (1 - GAIN)
    if reach < INFINITY:
        for b in range(d):
            norm += <double>x[b] * x[b]
        most = own + reach * sqrt(own) * (sqrt(own) + sqrt(norm))
    for b in range(k):
        if b == a:
            continue
        limit = least * (counts[b] + w) / counts[b] if counts[b] > 0 else INFINITY
        sqdist = sqdist_below[real](x, means + b * d, d, min(limit, most))
        cost = sqdist * counts[b] / (counts[b] + w)
        if sqdist <= most and cost < least:
            least, found = cost, b
    return found


cdef double sqdist_below(const real *x, const double *c, ptrdiff_t d, double limit) noexcept nogil:
    """Squared distance, or some number above the limit once it is that large."""
    cdef double even = 0, odd = 0, total = 0, step, other
    cdef ptrdiff_t j = 0, stop
    while j < d and total <= limit:
        stop = min(d, j + 32)
        even = odd = 0
        while j + 1 < stop:
            step, other = x[j] - c[j], x[j + 1] - c[j + 1]
            even += step * step
            odd += other * other
            j += 2
        if j < stop:
            step = x[j] - c[j]
            even += step * step
            j += 1
        total += even + odd
    return total
