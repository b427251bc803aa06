# Search of rows of which nothing is known, by many coordinates of a rotated basis: see blind_body.h.

BLIND = BLIND_SIZE  # numbers of such a row at most


def search_blind(
    const real[:, ::1] X,
    const real[::1] origin,
    const real[:, ::1] centers,
    const real[::1] half_norms,
    const real[::1] mean,
    const real[:, ::1] directions,
    const real[:, ::1] numbers,
    const real[::1] halves,
    double row_error,
    int32_t[::1] labels,
    int n_threads,
    real[::1] upper,
    real[::1] lower,
):
    """Nearest centroid of every row, by many coordinates of a rotated basis: the labels of `assign`.

    Parameters
    ----------
    X, origin, centers, half_norms
        As in `assign`.
    mean : array (d,)
        The point from which coordinates are taken.
    directions : array (size - 1, d)
        Orthonormal directions.
    numbers : array (k, size)
        The centroids in that basis: coordinates, then the norm of the rest.
    halves : array (k,)
        Half the squared norm of each of these, lowered by what is not known of it.
    row_error : float
        By how much of its norm a rotated row is off.
    labels : int32 array (n,)
        OUT. Index of the nearest centroid.
    n_threads : int
        Threads to use.
    upper, lower : arrays (n,)
        OUT. As in `accumulate`.
    """
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef nearest_job job = job_of[real](X, half_norms[:0], origin, centers, half_norms)
    cdef nearest_rotation rotation
    cdef nearest_memo memo
    cdef ptrdiff_t n_tasks = (job.n + CELL_ROWS - 1) // CELL_ROWS, t, size = numbers.shape[1]
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t each = in_lines(kernels.blind_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    shapes = (len(mean), *np.shape(directions), len(numbers), len(halves), len(labels), len(upper), len(lower))
    if shapes != (job.d, size - 1, job.d, job.k, job.k, job.n, job.n, job.n):
        raise ValueError(f"arrays of {job.n} rows and {job.k} centroids do not fit each other: {shapes}")
    if not FLAT_CENTROIDS + 1 < size <= BLIND_SIZE or job.k < LEAST_ROTATED:
        raise ValueError(f"{job.k} centroids cannot be searched by {size} numbers")
    packed = pack_numbers(kernels, (np.asarray(numbers), np.asarray(halves)))
    turns = pack_numbers(kernels, (np.asarray(directions), np.zeros(size - 1, np.asarray(directions).dtype)))
    memset(&rotation, 0, sizeof(rotation))
    memset(&memo, 0, sizeof(memo))
    rotation.packed, rotation.directions, rotation.mean = address(packed), address(turns), &mean[0]
    rotation.size, rotation.row_error = size, row_error
    memo.upper, memo.lower = &upper[0], &lower[0]
    job.labels, job.rotation = &labels[0], &rotation
    with nogil:
        if threads == 1:
            for t in range(n_tasks):
                kernels.blind_cell(&job, &memo, t * CELL_ROWS, min((t + 1) * CELL_ROWS, job.n), &scratch[0])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                kernels.blind_cell(&job, &memo, t * CELL_ROWS, min((t + 1) * CELL_ROWS, job.n),
                                   &scratch[threadid() * each])
