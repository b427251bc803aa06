# Records too large for a cache, of all rows at once: labels first, then sums by strips of features.
#
# A record of k d numbers for each cell would be zeroed, filled in no order, and merged in memory: 0.15 GB for each 2048
# rows at k = 4000, d = 960, with room for ten of them on every thread.  A strip of it stays in the second-level cache, and
# threads take different ones.  Each number is added up in the order of the tree over cells: the same bits.


cdef int sweep_strips(nearest_job *job, const nearest_memo *memo, const nearest_kernels *kernels, double[::1] out,
                      int n_threads) except -1:
    """Write the record of all rows; see `sweep_tasks`."""
    cdef ptrdiff_t cells = (job.n + CELL_ROWS - 1) // CELL_ROWS, width = strip_width(job.k), t
    cdef ptrdiff_t strips = 1 + (job.d + width - 1) // width
    cdef int threads = <int>max(1, min(n_threads, max(cells, strips)))
    cdef ptrdiff_t each = in_lines(max(<ptrdiff_t>kernels.scratch_bytes(job.k, job.d), 8 * strip_stack(job.n, job.k)))
    cdef unsigned char[::1] packed = _aligned(0 if job.settled else kernels.panel_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    cdef int32_t[::1] labels
    cdef double[:, ::1] inertia = np.empty((cells, 1))
    if job.labels == NULL:
        labels = np.empty(job.n, np.int32)
        job.labels = &labels[0]
    with nogil:
        if not job.settled:
            kernels.pack(job, &packed[0])
            job.packed, job.look = &packed[0], kernels.doubt(job)
        if threads == 1:
            for t in range(cells):
                search_and_spread(job, memo, kernels, t, &inertia[t, 0], &scratch[0])
            for t in range(strips):
                run_strip(job, kernels, t, &out[0], <double *>&scratch[0])
        else:
            for t in prange(cells, schedule="dynamic", chunksize=1, num_threads=threads):
                search_and_spread(job, memo, kernels, t, &inertia[t, 0], &scratch[threadid() * each])
            for t in prange(strips, schedule="dynamic", chunksize=1, num_threads=threads):
                run_strip(job, kernels, t, &out[0], <double *>&scratch[threadid() * each])
        merge_columns(&inertia[0, 0], cells, 1, 0, 1)
    out[out.shape[0] - 1] = inertia[0, 0]
    return 0


cdef void search_and_spread(const nearest_job *job, const nearest_memo *memo, const nearest_kernels *kernels, ptrdiff_t cell,
                            double *inertia, void *scratch) noexcept nogil:
    cdef ptrdiff_t start = cell * CELL_ROWS, stop = min((cell + 1) * CELL_ROWS, job.n)
    if not job.settled:
        kernels.cell(job, memo, start, stop, NULL, scratch)
    inertia[0] = kernels.spread(job, start, stop)


def merge_tree(double[:, ::1] records, int n_threads):
    """`fastem.stats.merge_tree` on several threads, each on its own columns: the same bits.  The sum ends in row 0."""
    cdef ptrdiff_t m = records.shape[0], size = records.shape[1], t, parts
    if m == 0 or size == 0:
        return
    parts = max(1, min(n_threads, m * size // 65536))
    with nogil:
        if parts == 1:
            merge_columns(&records[0, 0], m, size, 0, size)
        else:
            for t in prange(parts, schedule="static", num_threads=parts):
                merge_columns(&records[0, 0], m, size, t * size // parts, (t + 1) * size // parts)


cdef void merge_columns(double *records, ptrdiff_t m, ptrdiff_t size, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t span = 1, i, j
    cdef double *left
    cdef const double *right
    while span < m:
        i = 0
        while i + span < m:
            left, right = records + i * size, records + (i + span) * size
            for j in range(first, last):
                left[j] += right[j]
            i += 2 * span
        span *= 2
