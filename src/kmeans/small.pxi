# A whole run of Lloyd's algorithm on one grid cell, without Python between iterations; included by nearest.pyx.
#
# It makes the numbers of the engine (fastem/engine/em.py with KMeansFamily) to the bit: the same kernel, and the same
# functions for what surrounds it, which the family calls through `prepare_centers` and `squared_movement`.


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
    cdef double o
    for c in range(k):
        for j in range(d):
            o = origin[j]
            if o != 0 and <double><real>params[c * d + j] / o < 0.5:
                return False
    return True


cdef bint prepare_into(const double *params, ptrdiff_t k, ptrdiff_t d, bint keep_origin, real *origin, real *centers,
                       real *half_norms) noexcept nogil:
    cdef ptrdiff_t c, j
    cdef double total, relative
    cdef bint kept = keep_origin and origin_holds[real](params, k, d, origin)
    if not kept:
        for j in range(d):
            origin_of[real](params + j, k, d, origin + j)
    for c in range(k):
        total = 0
        for j in range(d):
            # Rounded first: the centres that a user sees in the rows' type are the ones that the kernel assigns to.
            relative = <double><real>params[c * d + j] - <double>origin[j]
            centers[c * d + j] = <real>relative
            total += relative * relative
        half_norms[c] = <real>(0.5 * total)
    return kept


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


def run_small(const real[:, ::1] X, const real[::1] w, double[:, ::1] params, int max_iter, double tol, double slack,
              int32_t[::1] labels, double[::1] objectives):
    """Run Lloyd's algorithm on at most one grid cell of rows.

    Parameters
    ----------
    X, w
        As in `accumulate`.
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

    Returns
    -------
    tuple of int and bool
        Number of iterations and whether the run converged; 0 iterations if a cluster became empty or the objective
        fell, which is for the engine to deal with.
    """
    cdef ptrdiff_t k = params.shape[0], d = params.shape[1], c, j, size = k + k * d + 1
    if X.shape[0] > CELL_ROWS or X.shape[0] == 0 or objectives.shape[0] <= max_iter:
        raise ValueError("run_small takes one grid cell of rows and room for the objectives")
    real_type = np.float64 if real is double else np.float32
    cdef real[::1] origin = np.empty(d, real_type), half_norms = np.empty(k, real_type)
    cdef real[:, ::1] centers = np.empty((k, d), real_type)
    cdef double[::1] record = np.empty(size)
    cdef double[:, ::1] moved = np.empty((k, d))
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef nearest_job job = job_of[real](X, w, origin, centers, half_norms)
    cdef unsigned char[::1] packed = _aligned(kernels.panel_bytes(k, d))
    cdef unsigned char[::1] scratch = _aligned(in_lines(kernels.scratch_bytes(k, d)))
    cdef int n_iter = 0
    cdef bint converged = False
    job.labels = &labels[0]
    job.packed = &packed[0]
    with nogil:
        while n_iter < max_iter and not converged:
            prepare_into[real](&params[0, 0], k, d, n_iter > 0, &origin[0], &centers[0, 0], &half_norms[0])
            kernels.pack(&job, &packed[0])
            job.look = kernels.doubt(&job)
            run_task(&job, NULL, kernels, 0, 0, size, &record[0], NULL, &scratch[0])
            objectives[n_iter] = -record[size - 1]
            if n_iter and objectives[n_iter - 1] - objectives[n_iter] > slack * (1.0 + record[size - 1]):
                n_iter = 0
                break
            for c in range(k):
                if not record[c] > 0:
                    break
                for j in range(d):
                    moved[c, j] = <double>origin[j] + record[k + c * d + j] / record[c]
            else:
                n_iter += 1
                converged = movement_of(&moved[0, 0], &params[0, 0], k * d) <= tol
                params[:, :] = moved
                continue
            n_iter = 0
            break
        if n_iter:
            prepare_into[real](&params[0, 0], k, d, False, &origin[0], &centers[0, 0], &half_norms[0])
            kernels.pack(&job, &packed[0])
            job.look = kernels.doubt(&job)
            run_task(&job, NULL, kernels, 0, 0, size, &record[0], NULL, &scratch[0])
            objectives[n_iter] = -record[size - 1]
    return n_iter, converged


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
    cdef ptrdiff_t n = X.shape[0], d = X.shape[1], k = seeds.shape[0], m, c = 0, i, j, row = first, best
    m = uniforms.shape[0] // (k - 1) if k > 1 else 0
    dtype = np.float64 if real is double else np.float32
    cdef real[::1] origin = np.zeros(d, dtype), closest = np.full(n, np.inf, dtype), quarter = np.zeros(k, dtype)
    cdef real[:, ::1] chosen = np.empty((k, d), dtype), candidates = np.empty((max(1, m), d), dtype)
    cdef int32_t[::1] owner = np.zeros(n, np.int32)
    cdef ptrdiff_t[::1] rows = np.empty(max(1, m), np.intp)
    cdef double[::1] out = np.empty(max(1, m) + 1)
    cdef unsigned char[::1] scratch = _aligned(kernels.seed_bytes(d))
    cdef nearest_job job = job_of[real](X, w, origin, candidates, closest[:0])
    cdef nearest_seeding seeding
    seeding.quarter, seeding.closest, seeding.seeds = &quarter[0], &closest[0], &owner[0]
    with nogil:
        for c in range(k):
            for j in range(d):
                seeds[c, j] = X[row, j]
                chosen[c, j] = X[row, j]
            if c == k - 1:
                break
            # The row becomes a seed, and then the candidates for the next one are scored.
            job.centers, job.k, seeding.commit = <const void *>&chosen[c, 0], 1, <int32_t>c
            kernels.seed_gaps(job.centers, 1, &chosen[0, 0], c + 1, d, &quarter[0])
            kernels.seed_cell(&job, &seeding, 0, n, &out[0], &scratch[0])
            if not out[1] > 0:
                break
            for i in range(m):
                rows[i] = drawn[real](closest, w, uniforms[c * m + i] * out[1])
                for j in range(d):
                    candidates[i, j] = X[rows[i], j]
            job.centers, job.k, seeding.commit = <const void *>&candidates[0, 0], m, -1
            kernels.seed_gaps(job.centers, m, &chosen[0, 0], c + 1, d, &quarter[0])
            kernels.seed_cell(&job, &seeding, 0, n, &out[0], &scratch[0])
            best = 0
            for i in range(1, m):
                if out[i] > out[best]:
                    best = i
            row = rows[best]
    return c + 1


cdef ptrdiff_t drawn(const real[::1] closest, const real[::1] w, double target) noexcept nogil:
    """The row at which the running sum of w closest exceeds `target`; in rounding's way, the last that adds to it."""
    cdef ptrdiff_t i, last = 0
    cdef double total = 0, mass
    for i in range(closest.shape[0]):
        mass = <double>closest[i] * <double>w[i] if w.shape[0] else <double>closest[i]
        if mass != 0:
            last = i
        total += mass
        if total > target:
            return i
    return last


def draw_row(const real[::1] closest, const real[::1] w, double target):
    """Number of the row at which the running sum of w closest exceeds `target`; w may be empty."""
    return drawn[real](closest, w, target)
