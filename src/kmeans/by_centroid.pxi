# Records too large for a cache, of all rows at once: labels first, then sums centroid by centroid.
#
# A record of k d numbers for each cell would be zeroed, filled in no order, and merged in memory: 0.15 GB for each 2048
# rows at k = 4000, d = 960, with room for ten of them on every thread.  A sum of d numbers stays in the first cache, and
# with those that wait to be added to it in the second; a row is read whole, once for its
# sums and once for inertia, and threads take different centroids.
# Each number is added up in the order of the tree over cells: the same bits.


cdef int sweep_by_centroid(nearest_job *job, const nearest_memo *memo, const nearest_kernels *kernels, double[::1] out,
                           int n_threads) except -1:
    """Write the record of all rows; see `sweep_tasks`."""
    cdef ptrdiff_t cells = (job.n + CELL_ROWS - 1) // CELL_ROWS, levels = tree_levels(job.n), t
    cdef ptrdiff_t blocks = (job.d + SUM_FEATURES - 1) // SUM_FEATURES, n_tasks = 1 + job.k * blocks
    cdef int threads = <int>max(1, min(n_threads, max(cells, n_tasks)))
    cdef ptrdiff_t stack = levels * max(job.k, min(job.d, <ptrdiff_t>SUM_FEATURES))
    cdef ptrdiff_t each = in_lines(max(<ptrdiff_t>kernels.scratch_bytes(job.k, job.d), 8 * stack))
    cdef unsigned char[::1] packed = _aligned(0 if job.settled else kernels.panel_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    cdef int64_t[::1] rows = np.empty(job.n, np.int64), starts = np.empty(job.k + 1, np.int64)
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
            rows_of_centroids(job, &rows[0], &starts[0])
            for t in range(n_tasks):
                gather_part(job, kernels, t, blocks, &rows[0], &starts[0], &out[0], <double *>&scratch[0])
        else:
            for t in prange(cells, schedule="dynamic", chunksize=1, num_threads=threads):
                search_and_spread(job, memo, kernels, t, &inertia[t, 0], &scratch[threadid() * each])
            rows_of_centroids(job, &rows[0], &starts[0])
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                gather_part(job, kernels, t, blocks, &rows[0], &starts[0], &out[0], <double *>&scratch[threadid() * each])
        merge_columns(&inertia[0, 0], cells, 1, 0, 1)
    out[out.shape[0] - 1] = inertia[0, 0]
    return 0


cdef void search_and_spread(const nearest_job *job, const nearest_memo *memo, const nearest_kernels *kernels, ptrdiff_t cell,
                            double *inertia, void *scratch) noexcept nogil:
    cdef ptrdiff_t start = cell * CELL_ROWS, stop = min((cell + 1) * CELL_ROWS, job.n)
    if not job.settled:
        kernels.cell(job, memo, start, stop, NULL, scratch)
    inertia[0] = kernels.spread(job, start, stop)


cdef void rows_of_centroids(const nearest_job *job, int64_t *rows, int64_t *starts) noexcept nogil:
    """Numbers of the rows (n,), centroid by centroid, and where those of each begin (k + 1,)."""
    cdef ptrdiff_t i, c
    memset(starts, 0, (job.k + 1) * sizeof(int64_t))
    for i in range(job.n):
        starts[job.labels[i]] += 1
    for c in range(job.k):
        starts[c + 1] += starts[c]
    for i in range(job.n - 1, -1, -1):  # from the end, which each centroid's rows are counted down from
        starts[job.labels[i]] -= 1
        rows[starts[job.labels[i]]] = i
    starts[job.k] = job.n


cdef void gather_part(const nearest_job *job, const nearest_kernels *kernels, ptrdiff_t t, ptrdiff_t blocks,
                      const int64_t *rows, const int64_t *starts, double *out, double *stack) noexcept nogil:
    """Part t of the record: the weights, or sums of a block of features of one centroid."""
    cdef ptrdiff_t c = (t - 1) // blocks, j0 = (t - 1) % blocks * SUM_FEATURES
    if t == 0:
        run_weights(job, kernels, out, stack)
    else:
        kernels.gather(job, rows + starts[c], starts[c + 1] - starts[c], j0, min(j0 + SUM_FEATURES, job.d),
                       out + job.k + c * job.d + j0, stack)


def merge_tree(double[:, ::1] records, int n_threads):
    """`fastem.stats.merge_tree` on several threads, each on its own columns: the same bits.  The sum starts in row 0."""
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
