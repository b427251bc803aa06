# K-means of many groups of rows, each at most one grid cell, in one call; included by nearest.pyx.

cdef uint64_t mix64(uint64_t z) noexcept nogil:
    """`fastem.draws.mix64`."""
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef void draw(uint64_t key, uint64_t first, ptrdiff_t n, double *uniforms) noexcept nogil:
    """`Draws.uniform`: n numbers in [0, 1), the first of which is number `first` of all, counted from 0."""
    cdef ptrdiff_t i
    for i in range(n):
        uniforms[i] = <double>(mix64(key + (first + i + 1) * <uint64_t>0x9E3779B97F4A7C15) >> 11) * 2.0**-53


cdef ptrdiff_t first_row(const real *w, ptrdiff_t n, double uniform) noexcept nogil:
    """A row drawn in proportion to its weight: `Draws.weighted`."""
    cdef double total = 0, target, sum = 0
    cdef ptrdiff_t i, last = 0
    if w == NULL:
        return <ptrdiff_t>(uniform * n)
    for i in range(n):
        total += <double>w[i]
        if w[i] > 0:
            last = i
    target = uniform * total
    for i in range(n):
        sum += <double>w[i]
        if sum > target:
            return min(i, last)
    return last


cdef double variance_of(const real *x, const real *w, ptrdiff_t n, ptrdiff_t d, double *room) noexcept nogil:
    """Weighted variance of a feature, on average over the features; `room` has d numbers."""
    cdef double total = 0
    cdef ptrdiff_t j
    variances_of[real](x, w, n, d, room)
    for j in range(d):
        total += room[j]
    return total / d


def mean_variance(const real[:, ::1] X, const real[::1] w):
    """Return the weighted variance of a feature of rows (n, d), on average over the features; w may be empty."""
    cdef double[::1] room = np.empty(X.shape[1])
    return variance_of[real](&X[0, 0], <const real *>start_of[real](w), X.shape[0], X.shape[1], &room[0])


cdef bint ordinary(const real *x, ptrdiff_t n) noexcept nogil:
    """Whether all values are finite and so small that no sum of squares comes near the range of their type."""
    cdef double squares = 0, most = 1e250 if sizeof(real) == 8 else 1e25
    cdef ptrdiff_t i
    for i in range(n):
        squares += <double>x[i] * <double>x[i]
    return squares < most


cdef struct many_clusterings:  # the arguments of `fit_groups`
    const nearest_kernels *kernels
    const void *x
    const void *w
    const int64_t *offsets
    ptrdiff_t d, k, trials
    bint on_sphere
    uint64_t key
    int max_iter
    double tol, slack
    double *centers
    int32_t *labels
    double *objective
    int32_t *n_iter


cdef bint ties_help(const nearest_job *job, const small_room *room, int32_t n_tied, real *as_type) noexcept nogil:
    """Whether the move of a tied row may lower the distortion, after the last pass of `lloyd`."""
    cdef ptrdiff_t k = job.k, d = job.d, c, j, t, i
    cdef const double *record = room.record
    cdef const real *origin = <const real *>room.origin
    cdef const real *w = <const real *>job.w
    cdef double weight, reach = TIED * (EPSILON_64 if sizeof(real) == 8 else EPSILON_32)
    for c in range(k):
        if not record[c] > 0:
            return True
        for j in range(d):
            room.moved[c * d + j] = <double>origin[j] + record[k + c * d + j] / record[c]
    for t in range(n_tied):
        i = job.tied[t]
        weight = <double>w[i] if w != NULL else 1.0
        if not weight > 0 or record[job.labels[i]] - weight <= LAST_ROW * record[job.labels[i]]:
            continue
        if better_cluster[real](<const real *>job.x + i * d, weight, job.labels[i], record, room.moved, k, d, reach) >= 0:
            return True
    return False


cdef int fit_group(const many_clusterings *all, ptrdiff_t g, const small_room *room, double *uniforms,
                   real *as_type) noexcept nogil:
    """Cluster group g; see `fit_groups` for what is returned."""
    cdef ptrdiff_t start = all.offsets[g], n = all.offsets[g + 1] - all.offsets[g], k = all.k, d = all.d, row
    cdef const real *x = <const real *>all.x + start * d
    cdef const real *w = <const real *>all.w + start if all.w != NULL else NULL
    cdef double *centers = all.centers + g * k * d
    cdef double tol
    cdef nearest_job job
    cdef int n_iter = 1
    cdef int32_t n_tied = 0
    cdef bint converged = True
    if n < k or n > CELL_ROWS or not ordinary[real](x, n * d):
        return 0
    tol = all.tol * variance_of[real](x, w, n, d, uniforms) if all.tol > 0 else 0.0
    if not tol >= 0:  # no row has weight
        return 0
    draw(all.key, 0, 1 + (k - 1) * all.trials, uniforms)
    row = first_row[real](w, n, uniforms[0])
    if plant[real](all.kernels, room, x, w, n, d, uniforms + 1, all.trials, row, k, centers) < k:
        return 0
    if all.on_sphere:
        for row in range(k):
            to_length_one[double](centers + row * d, d, centers + row * d)
    job = job_in[real](room, x, w, n, d, k)
    job.labels = all.labels + start
    if all.max_iter:
        if not all.on_sphere:
            job.tied, job.n_tied = room.owner, &n_tied
        n_iter = lloyd[real](&job, all.kernels, room, all.on_sphere, centers, all.max_iter, tol, all.slack, NULL,
                              &converged, as_type)
        if n_tied and converged and ties_help[real](&job, room, n_tied, as_type):
            return 0
    else:
        assign_small[real](&job, all.kernels, room, centers, False, as_type)
    for row in range(k):
        if not room.record[row] > 0:
            return 0
    all.objective[g] = -room.record[k + k * d]
    return n_iter if converged else -n_iter


def fit_groups(
    const real[:, ::1] X,
    const real[::1] w,
    const int64_t[::1] offsets,
    bint on_sphere,
    uint64_t key,
    ptrdiff_t trials,
    int max_iter,
    double tol,
    double slack,
    double[:, :, ::1] centers,
    int32_t[::1] labels,
    double[::1] objective,
    int32_t[::1] n_iter,
):
    """Cluster each group of rows by Lloyd's algorithm from greedy k-means++.

    Parameters
    ----------
    X : array (n, d)
        Rows, group after group.
    w : array (n,) or (0,)
        Weights.
    offsets : int64 array (G + 1,)
        Rows offsets[g] .. offsets[g + 1] are those of group g.
    on_sphere : bool
        Rows have length 1, and so have the centres: `project_centers`.
    key : int
        What tells the random numbers from all others: `Draws.key`; every group has the same.
    trials : int
        Candidates for each seed.
    max_iter, tol : int, float
        Stop after so many iterations, or when the squared movement is at most tol times the mean variance.  With 0
        iterations the seeds are the centres.
    slack : float
        Relative fall of the objective that is rounding.
    centers : float64 array (G, k, d)
        OUT. Final centres.
    labels : int32 array (n,)
        OUT. The nearest of them.
    objective : float64 array (G,)
        OUT. Minus the distortion.
    n_iter : int32 array (G,)
        IN. 0 for groups that are to be left out.  OUT. Number of iterations, negative if the run has not converged; 0
        where the group is left to the engine: an empty cluster, fewer distinct rows than clusters, more rows than a
        grid cell, values that are not finite or very large, no weight, or tied rows whose move may lower the distortion.
    """
    cdef ptrdiff_t n_groups = offsets.shape[0] - 1, k = centers.shape[1], d = X.shape[1], g, most = 1
    if n_groups == 0 or X.shape[0] == 0:
        n_iter[:] = 0
        return
    if centers.shape[2] != d or centers.shape[0] != n_groups or labels.shape[0] != X.shape[0]:
        raise ValueError("centers and labels do not fit the rows")
    for g in range(n_groups):
        most = max(most, min(<ptrdiff_t>(offsets[g + 1] - offsets[g]), CELL_ROWS))
    cdef many_clusterings all
    all.kernels = kernels_for(isa, real is double)
    all.x, all.w, all.offsets = <const void *>&X[0, 0], start_of[real](w), &offsets[0]
    all.d, all.k, all.trials, all.on_sphere, all.key = d, k, trials, on_sphere, key
    all.max_iter, all.tol, all.slack = max_iter, tol, slack
    all.centers, all.labels, all.objective, all.n_iter = &centers[0, 0, 0], &labels[0], &objective[0], &n_iter[0]
    # The random numbers, in whose place features are averaged before, and the rooms.
    cdef ptrdiff_t draws = in_lines(8 * max(1 + (k - 1) * trials, d))
    cdef unsigned char[::1] memory = _aligned(draws + in_lines(small_bytes(all.kernels, k, d, most, trials, sizeof(real))))
    cdef small_room room = rooms_in(&memory[draws], all.kernels, k, d, most, trials, sizeof(real))
    with nogil:
        for g in range(n_groups):
            if n_iter[g]:
                n_iter[g] = fit_group[real](&all, g, &room, <double *>&memory[0], <real *>NULL)
