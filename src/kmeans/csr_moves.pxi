# Single rows of a CSR matrix that change their cluster, as `move_rows` for dense rows; included by nearest.pyx.


def csr_sums(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const real[::1] w,
    const int32_t[::1] labels,
    double[:, ::1] sums,
    int n_threads,
):
    """Sum w x over the rows with each label.

    Parameters
    ----------
    indptr, indices, data : arrays (d + 1,), (nnz,), (nnz,)
        The rows by feature, as in `csr_means`.
    w : array (n,) or (0,)
        Weights; empty for unit weights.
    labels : int32 array (n,)
        Labels of the rows.
    sums : float64 array (d, k)
        OUT. The sums, features first.
    n_threads : int
        Threads to use.
    """
    cdef ptrdiff_t d = sums.shape[0], k = sums.shape[1], b, n_blocks = (d + FEATURES - 1) // FEATURES
    cdef int threads = <int>max(1, min(n_threads, n_blocks)) if d * k + indptr[d] * 4 > ALONE else 1
    with nogil:
        if threads == 1:
            sum_features[real](indptr, indices, data, w, labels, sums, 0, d)
        else:
            for b in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=threads):
                sum_features[real](indptr, indices, data, w, labels, sums, b * FEATURES, min((b + 1) * FEATURES, d))


cdef void sum_features(const int64_t[::1] indptr, const int32_t[::1] indices, const real[::1] data, const real[::1] w,
                       const int32_t[::1] labels, double[:, ::1] sums, ptrdiff_t start, ptrdiff_t stop) noexcept nogil:
    cdef ptrdiff_t j, p
    cdef int32_t i
    for j in range(start, stop):
        memset(&sums[j, 0], 0, sums.shape[1] * sizeof(double))
        for p in range(indptr[j], indptr[j + 1]):
            i = indices[p]
            sums[j, labels[i]] += (<double>w[i] if w.shape[0] else 1.0) * data[p]


def csr_move_rows(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const double[::1] w,
    int32_t[::1] labels,
    double[::1] counts,
    double[:, ::1] sums,
    double[:, ::1] norms,
    double reach,
):
    """Move single rows of a CSR matrix to other clusters: `move_rows`, in time of order values x clusters of a sweep.

    Parameters
    ----------
    indptr, indices, data : arrays (m + 1,), (nnz,), (nnz,)
        The rows that may move, as CSR, in the order in which they are asked.
    w, labels, counts, reach
        As in `move_rows`.
    sums : float64 array (d, k)
        IN / OUT. Sums of the rows of each cluster, all rows counted; of a cluster without weight, its centroid.
    norms : float64 array (2, k)
        IN / OUT. Their squared norms, as `csr_norms` gives them.

    Returns
    -------
    int
        Moves made.
    """
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef ptrdiff_t m = w.shape[0], k = counts.shape[0], i, j, sweep, a, b, moved = 0, before = -1
    cdef csr_partition of
    cdef double[::1] least = LAST_ROW * np.asarray(counts), scratch = np.empty(2 * k)
    of.d, of.k, of.indptr, of.data = sums.shape[0], k, &indptr[0], start_of[real](data)
    of.indices = &indices[0] if indices.shape[0] else NULL
    of.counts, of.sums, of.norms, of.reach, of.gain = &counts[0], &sums[0, 0], &norms[0, 0], reach, GAIN
    with nogil:
        for sweep in range(MOST_SWEEPS):
            if moved == before:
                break
            before = moved
            for i in range(m):
                a = labels[i]
                if not w[i] > 0 or counts[a] - w[i] <= least[a]:  # as in `move_rows`
                    continue
                b = kernels.csr_better(&of, i, w[i], a, &scratch[0])
                if b < 0:
                    continue
                if not counts[b] > 0:
                    for j in range(of.d):
                        sums[j, b] = 0
                    norms[0, b] = norms[1, b] = 0
                kernels.csr_shift(&of, i, -w[i], a)
                kernels.csr_shift(&of, i, w[i], b)
                counts[a] -= w[i]
                counts[b] += w[i]
                labels[i] = <int32_t>b
                moved += 1
    return moved
