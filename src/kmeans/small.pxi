# A whole run of Lloyd's algorithm on one grid cell, without Python between iterations; included by nearest.pyx.
#
# It makes the numbers of the engine (fastem/engine/em.py with KMeansFamily) to the bit: the same kernel, and the same
# functions for what surrounds it, which the family calls through `prepare_centers` and `squared_movement`.


def run_small(const real[:, ::1] X, const real[::1] w, bint on_sphere, double[:, ::1] params, int max_iter, double tol,
              double slack, int32_t[::1] labels, double[::1] objectives, int32_t[::1] tied, int32_t[::1] n_tied):
    """Run Lloyd's algorithm on at most one grid cell of rows.

    Parameters
    ----------
    X, w
        As in `accumulate`.
    on_sphere : bool
        Means are divided by their lengths: `project_centers`.
    params : float64 array (k, d)
        IN / OUT. Centres.
    max_iter, tol : int, float
        Stop after so many iterations, or when the squared movement is at most tol.
    slack : float
        Relative fall of the objective that is rounding.
    labels : int32 array (n,)
        OUT. Nearest final centre.
    objectives : float64 array (max_iter + 1,)
        OUT. The objective at the start of each iteration, and that of the final centres.
    tied, n_tied : int32 arrays (n,) and (1,)
        OUT. As those of `accumulate`, for the final centres.

    Returns
    -------
    tuple of int and bool
        Number of iterations and whether the run converged; 0 iterations if a cluster became empty or the objective
        fell, which is for the engine to deal with.
    """
    cdef ptrdiff_t k = params.shape[0], d = params.shape[1]
    if X.shape[0] > CELL_ROWS or X.shape[0] == 0 or objectives.shape[0] <= max_iter:
        raise ValueError("run_small takes one grid cell of rows and room for the objectives")
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef unsigned char[::1] memory = _aligned(small_bytes(kernels, k, d, 0, 0, sizeof(real)))
    cdef small_room room = rooms_in(&memory[0], kernels, k, d, 0, 0, sizeof(real))
    cdef real[::1] nothing = np.empty(0, np.float64 if real is double else np.float32)
    cdef nearest_job job = job_in[real](&room, &X[0, 0], <const real *>start_of[real](w), X.shape[0], d, k)
    cdef int n_iter
    cdef bint converged = False
    job.labels, job.tied, job.n_tied = &labels[0], &tied[0], &n_tied[0]
    with nogil:
        n_iter = lloyd[real](&job, kernels, &room, on_sphere, &params[0, 0], max_iter, tol, slack, &objectives[0],
                              &converged, <real *>NULL)
    return n_iter, converged


cdef struct small_room:  # what a run over one grid cell works in
    void *origin       # (d,)
    void *centers      # (k, d)
    void *half_norms   # (k,)
    double *record     # (k + k d + 1,)
    double *moved      # (k, d)
    void *packed
    void *scratch
    # and what seeding works in, for n rows and m candidates
    void *closest      # (n,)
    void *quarter      # (k,)
    void *candidates   # (m, d)
    int32_t *owner     # (n,)
    ptrdiff_t *rows    # (m,)
    double *scores     # (m + 1,)


cdef size_t small_bytes(const nearest_kernels *kernels, ptrdiff_t k, ptrdiff_t d, ptrdiff_t n, ptrdiff_t m, size_t real_bytes) noexcept:
    cdef small_room room = rooms_in(NULL, kernels, k, d, n, m, real_bytes)
    return <size_t>(<unsigned char *>room.scores - <unsigned char *>NULL) + in_lines((m + 1) * 8)


cdef small_room rooms_in(unsigned char *memory, const nearest_kernels *kernels, ptrdiff_t k, ptrdiff_t d, ptrdiff_t n,
                         ptrdiff_t m, size_t real_bytes) noexcept nogil:
    """Cut memory that begins on a cache line into rooms that do."""
    cdef small_room room
    room.origin = memory
    room.centers = <unsigned char *>room.origin + in_lines(d * real_bytes)
    room.half_norms = <unsigned char *>room.centers + in_lines(k * d * real_bytes)
    room.record = <double *>(<unsigned char *>room.half_norms + in_lines(k * real_bytes))
    room.moved = <double *>(<unsigned char *>room.record + in_lines((k + k * d + 1) * 8))
    room.packed = <unsigned char *>room.moved + in_lines(k * d * 8)
    room.scratch = <unsigned char *>room.packed + in_lines(kernels.panel_bytes(k, d))
    room.closest = <unsigned char *>room.scratch + in_lines(max(kernels.scratch_bytes(k, d), kernels.seed_bytes(d) if m else 0))
    room.quarter = <unsigned char *>room.closest + in_lines(n * real_bytes)
    room.candidates = <unsigned char *>room.quarter + in_lines(k * real_bytes)
    room.owner = <int32_t *>(<unsigned char *>room.candidates + in_lines(m * d * real_bytes))
    room.rows = <ptrdiff_t *>(<unsigned char *>room.owner + in_lines(n * 4))
    room.scores = <double *>(<unsigned char *>room.rows + in_lines(m * sizeof(ptrdiff_t)))
    return room


cdef nearest_job job_in(const small_room *room, const real *x, const real *w, ptrdiff_t n, ptrdiff_t d, ptrdiff_t k) noexcept nogil:
    """A pass over rows x (n, d) of weights w, or NULL, in these rooms."""
    cdef nearest_job job
    job.n, job.d, job.k = n, d, k
    job.x, job.w, job.origin = <const void *>x, <const void *>w, room.origin
    job.centers, job.half_norms, job.packed = room.centers, room.half_norms, room.packed
    job.labels, job.settled, job.look, job.sqdist = NULL, 0, 0, NULL
    job.tied, job.n_tied, job.rotation = NULL, NULL, NULL
    return job


cdef void assign_small(nearest_job *job, const nearest_kernels *kernels, const small_room *room, const double *params,
                       bint keep_origin, real *as_type) noexcept nogil:
    """Write labels and record for centres."""
    prepare_into[real](params, job.k, job.d, keep_origin, <real *>room.origin, <real *>room.centers, <real *>room.half_norms)
    kernels.pack(job, room.packed)
    job.look = kernels.doubt(job)
    run_task(job, NULL, kernels, 0, 0, job.k + job.k * job.d + 1, room.record, NULL, room.scratch)


cdef int lloyd(nearest_job *job, const nearest_kernels *kernels, const small_room *room, bint on_sphere, double *params,
               int max_iter, double tol, double slack, double *objectives, bint *converged, real *as_type) noexcept nogil:
    """Iterate from centres `params`, and leave the last there; see `run_small`.  `objectives` may be NULL.

    Ties are noted in the last pass, where the job has room for them.
    """
    cdef ptrdiff_t k = job.k, d = job.d, c, j, size = k + k * d + 1
    cdef double *record = room.record
    cdef double *moved = room.moved
    cdef const real *origin = <const real *>room.origin
    cdef double last = 0
    cdef int n_iter = 0
    cdef int32_t *tied = job.tied
    converged[0] = False
    job.tied = NULL
    while n_iter < max_iter and not converged[0]:
        assign_small[real](job, kernels, room, params, n_iter > 0, as_type)
        if n_iter and last + record[size - 1] > slack * (1.0 + record[size - 1]):
            return 0
        last = -record[size - 1]
        if objectives != NULL:
            objectives[n_iter] = last
        for c in range(k):
            if not record[c] > 0:
                return 0
            for j in range(d):
                moved[c * d + j] = <double>origin[j] + record[k + c * d + j] / record[c]
        if on_sphere:
            project(params, moved, k, d)
        n_iter += 1
        converged[0] = movement_of(moved, params, k, d) <= tol
        memcpy(params, moved, k * d * sizeof(double))
    job.tied = tied
    assign_small[real](job, kernels, room, params, False, as_type)
    if objectives != NULL:
        objectives[n_iter] = -record[size - 1]
    return n_iter


def seed_small(
    const real[:, ::1] X,
    const real[::1] w,
    const double[::1] uniforms,
    ptrdiff_t first,
    double[:, ::1] seeds,
):
    """Greedy k-means++ among the rows of one grid cell: `fastem.seeding` without Python between the seeds.

    Parameters
    ----------
    X : array (n, d)
        Rows, at most `CELL`.
    w : array (n,) or (0,)
        Weights.
    uniforms : float64 array ((k - 1) m,)
        What draws the m candidates of each seed after the first.
    first : int
        Number of the first seed.
    seeds : float64 array (k, d)
        OUT. The seeds, in the order of choice.

    Returns
    -------
    int
        How many seeds were found: fewer than k when every row coincides with one.
    """
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef ptrdiff_t n = X.shape[0], d = X.shape[1], k = seeds.shape[0]
    cdef ptrdiff_t m = uniforms.shape[0] // (k - 1) if k > 1 else 1, found
    cdef unsigned char[::1] memory = _aligned(small_bytes(kernels, k, d, n, m, sizeof(real)))
    cdef small_room room = rooms_in(&memory[0], kernels, k, d, n, m, sizeof(real))
    cdef const double *draws = &uniforms[0] if uniforms.shape[0] else NULL
    with nogil:
        found = plant[real](kernels, &room, &X[0, 0], <const real *>start_of[real](w), n, d, draws, m, first, k, &seeds[0, 0])
    return found


cdef ptrdiff_t plant(const nearest_kernels *kernels, const small_room *room, const real *x, const real *w, ptrdiff_t n,
                     ptrdiff_t d, const double *uniforms, ptrdiff_t m, ptrdiff_t row, ptrdiff_t k,
                     double *seeds) noexcept nogil:
    """Choose k seeds, the first of them a row, the others among m candidates each; see `seed_small`."""
    cdef ptrdiff_t c = 0, i, j, best
    cdef real *chosen = <real *>room.centers
    cdef real *candidates = <real *>room.candidates
    cdef real *closest = <real *>room.closest
    cdef double *out = room.scores
    cdef nearest_job job = job_in[real](room, x, w, n, d, 1)
    cdef nearest_seeding seeding
    seeding.quarter, seeding.closest, seeding.seeds = room.quarter, room.closest, room.owner
    memset(room.origin, 0, d * sizeof(real))
    memset(room.quarter, 0, k * sizeof(real))
    memset(room.owner, 0, n * sizeof(int32_t))
    for i in range(n):
        closest[i] = <real>INFINITY
    for c in range(k):
        for j in range(d):
            chosen[c * d + j] = x[row * d + j]
            seeds[c * d + j] = x[row * d + j]
        if c == k - 1:
            break
        # The row becomes a seed, and then the candidates for the next one are scored.
        job.centers, job.k, seeding.commit = <const void *>(chosen + c * d), 1, <int32_t>c
        kernels.seed_gaps(job.centers, 1, chosen, c + 1, d, room.quarter)
        kernels.seed_cell(&job, &seeding, 0, n, out, room.scratch)
        if not out[1] > 0:
            break
        for i in range(m):
            room.rows[i] = drawn[real](closest, w, n, uniforms[c * m + i] * out[1])
            for j in range(d):
                candidates[i * d + j] = x[room.rows[i] * d + j]
        job.centers, job.k, seeding.commit = <const void *>candidates, m, -1
        kernels.seed_gaps(job.centers, m, chosen, c + 1, d, room.quarter)
        kernels.seed_cell(&job, &seeding, 0, n, out, room.scratch)
        best = 0
        for i in range(1, m):
            if out[i] > out[best]:
                best = i
        row = room.rows[best]
    return c + 1


cdef ptrdiff_t drawn(const real *closest, const real *w, ptrdiff_t n, double target) noexcept nogil:
    """The row at which the running sum of w closest exceeds `target`; in rounding's way, the last that adds to it."""
    cdef ptrdiff_t i, last = 0
    cdef double total = 0, mass
    for i in range(n):
        mass = <double>closest[i] * <double>w[i] if w != NULL else <double>closest[i]
        if mass != 0:
            last = i
        total += mass
        if total > target:
            return i
    return last


def draw_row(const real[::1] closest, const real[::1] w, double target):
    """Number of the row at which the running sum of w closest exceeds `target`; w may be empty."""
    if closest.shape[0] == 0:
        return 0
    return drawn[real](&closest[0], <const real *>start_of[real](w), closest.shape[0], target)
