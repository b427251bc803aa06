# Bounded iterations: see bounds_body.h.

LEAST_ACTIVE = 48  # more than FLAT_CENTROIDS


def accumulate_bounded(
    const real[:, ::1] X,
    const real[::1] w,
    const real[::1] origin,
    const real[:, ::1] centers,
    const real[::1] half_norms,
    const double[::1] moved,
    const double[::1] half_gaps,
    int32_t[::1] labels,
    real[::1] upper,
    real[::1] lower,
    uint32_t[::1] changes,
    double[::1] delta,
    real[::1] near,
    const int32_t[::1] group,
    int n_threads,
    Rotation rotation=None,
):
    """Bring labels and bounds up to date with moved centroids, reading only the rows whose bounds cross.

    The labels are those of `assign`, but for rows tied within rounding.  The memo (labels, upper, lower) comes from
    `accumulate` with bounds, or from the last call; the origin must not have changed since.

    Parameters
    ----------
    X, w, origin, centers, half_norms
        As in `accumulate`.
    moved : float64 array (k,)
        How far each centroid moved since the memo was made.
    half_gaps : float64 array (k,)
        Half the distance of each centroid to the nearest other, or less.
    labels, upper, lower : arrays (n,)
        IN / OUT. The memo.
    changes : uint32 array (n,)
        Work space; one array may serve all calls.
    delta : float64 array (k + k d + 1,)
        OUT. What to add to the last total of counts and sums; the last number is 0.
    near : array (n,) or (0,)
        IN / OUT. With active centroids, a bound of the distance to every other of them, infinite at first; `lower` is
        then the bound for those that are not.
    group : int32 array (k,)
        0 for a centroid that is not active, 1 for one that is, 2 for one that becomes so now.  All 0 without `near`;
        else there are at least `LEAST_ACTIVE` active ones, so that they take the same path through the tile as all.
    n_threads : int
        Threads to use.
    rotation : Rotation, optional
        Rows and centroids in a rotated basis, by which rows whose bounds cross are searched; without active centroids.

    Returns
    -------
    int
        How many rows changed their label.
    """
    delta[:] = 0
    if X.shape[0] == 0:
        return 0
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef nearest_job job = job_of[real](X, w, origin, centers, half_norms)
    job.look = sqrt(largest_norm_of[real](half_norms))  # the second best is taken anyway
    cdef nearest_job few = job
    cdef nearest_memo memo
    cdef ptrdiff_t n_tasks = (job.n + CELL_ROWS - 1) // CELL_ROWS, t, c, total = 0, strips, j0, j1
    if job.k > 1 << 20:
        raise ValueError(f"bounded iterations take at most {1 << 20} centroids, not {job.k}")
    if delta.shape[0] != job.k + job.k * job.d + 1:
        raise ValueError(f"delta has length {delta.shape[0]}, not k + k d + 1 = {job.k + job.k * job.d + 1}")
    cdef const int32_t[::1] active = np.flatnonzero(group).astype(np.int32)
    few.k = active.shape[0]
    if few.k and (few.k < LEAST_ACTIVE or near.shape[0] != job.n):
        raise ValueError(f"{few.k} active centroids are fewer than {LEAST_ACTIVE}, or there are no bounds for them")
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t each = in_lines(max(kernels.scratch_bytes(job.k, job.d), kernels.scratch_bytes(few.k, job.d)))
    if rotation is not None:
        rotation.serve(&job, kernels, real is double)
        each = in_lines(kernels.rotated_bytes(job.k, job.d))
    cdef unsigned char[::1] packed = _aligned(kernels.panel_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    cdef double eps = EPSILON_64 if real is double else EPSILON_32
    cdef double shrink = max(0.0, 1 - 2 * (job.d + 8) * eps)
    # By centroid: movement, largest movement of the others in each group, half gap; widened by more than their rounding
    # to the rows' type, the gaps also by that of the distances compared with them.
    cdef real[:, ::1] tables = np.zeros((5, max(16, job.k)), dtype=np.float64 if real is double else np.float32)
    cdef double[:, ::1] most = np.zeros((3, 2))
    for c in range(job.k):
        if moved[c] > most[group[c], 0]:
            most[group[c], 0], most[group[c], 1] = moved[c], most[group[c], 0]
        else:
            most[group[c], 1] = max(most[group[c], 1], moved[c])
    for c in range(job.k):
        tables[3, c] = <real>(moved[c] * (1 + 2 * eps))
        tables[4, c] = <real>(half_gaps[c] * shrink)
        for t in range(3):
            tables[t, c] = <real>(most[t, 1 if group[c] == t and moved[c] == most[t, 0] else 0] * (1 + 2 * eps))
    cdef int32_t[::1] changed = np.empty(n_tasks, dtype=np.int32)
    cdef real[:, ::1] few_centers = np.asarray(centers)[np.asarray(active)]
    cdef real[::1] few_norms = np.asarray(half_norms)[np.asarray(active)]
    cdef unsigned char[::1] few_packed = _aligned(kernels.panel_bytes(few.k, job.d))
    memo.active, memo.near = NULL, NULL
    if few.k:
        few.centers, few.half_norms = &few_centers[0, 0], &few_norms[0]
        few.packed, few.labels = &few_packed[0], NULL
        memo.active, memo.active_index, memo.is_active, memo.near = &few, &active[0], &group[0], &near[0]
    memo.upper, memo.lower, memo.changes = &upper[0], &lower[0], &changes[0]
    memo.drop, memo.near_drop, memo.joined = &tables[0, 0], &tables[1, 0], &tables[2, 0]
    memo.moved, memo.gap = &tables[3, 0], &tables[4, 0]
    memo.largest_norm = largest_norm_of[real](half_norms)
    job.labels = &labels[0]
    with nogil:
        if not job.rotation:
            kernels.pack(&job, &packed[0])
        job.packed = &packed[0]
        if few.k:
            kernels.pack(&few, &few_packed[0])
        if threads == 1:
            for t in range(n_tasks):
                changed[t] = search_cell(kernels, &job, &memo, t, &scratch[0])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                changed[t] = search_cell(kernels, &job, &memo, t, &scratch[threadid() * each])
        for t in range(n_tasks):
            total += changed[t]
        # Changes are applied in the order of the rows, each thread to its own features: the same bits for any number
        # of threads, and no record per task where a few rows changed.
        strips = min(threads, job.d // 16) if total * job.d > 20000 else 1
        if strips <= 1:
            apply_strip(&job, &memo, kernels, &changed[0], n_tasks, 0, job.d, &delta[0])
        else:
            for t in prange(strips, schedule="static", num_threads=strips):
                apply_strip(&job, &memo, kernels, &changed[0], n_tasks, t * job.d // strips, (t + 1) * job.d // strips,
                            &delta[0])
    return total


cdef int32_t search_cell(const nearest_kernels *kernels, const nearest_job *job, const nearest_memo *memo, ptrdiff_t cell,
                         void *scratch) noexcept nogil:
    cdef ptrdiff_t start = cell * CELL_ROWS, stop = min((cell + 1) * CELL_ROWS, job.n)
    if job.rotation:
        return <int32_t>kernels.rotated_cell(job, memo, start, stop, scratch)
    return <int32_t>kernels.bounded_cell(job, memo, start, stop, scratch)


cdef void apply_strip(const nearest_job *job, const nearest_memo *memo, const nearest_kernels *kernels,
                      const int32_t *changed, ptrdiff_t n_cells, ptrdiff_t j0, ptrdiff_t j1, double *delta) noexcept nogil:
    cdef ptrdiff_t t
    for t in range(n_cells):
        if changed[t]:
            kernels.apply_changes(job, memo, t * CELL_ROWS, changed[t], j0, j1, delta)
