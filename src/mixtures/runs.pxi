# Whole runs of EM, of one mixture or of many; included by mixtures.pyx.

cdef struct run_rules:
    int max_iter
    double tol, slack


cdef struct steps:  # what a run calls and writes to
    e_step first, next    # of rows with known labels, and without
    intptr_t first_context, next_context
    ready prepared
    double *record
    double *room
    double *other         # parameters


cdef gaussians parameters_in(const mixture *m, double *vector) noexcept nogil:
    """The parameters in a vector: weights, means, covariances, factors."""
    cdef gaussians p
    p.weights = vector
    p.means = vector + m.k
    p.covariances = p.means + m.k * m.d
    p.factors = p.covariances + m.n_matrix
    return p


cdef ptrdiff_t n_parameters(const mixture *m) noexcept nogil:
    return m.k + m.k * m.d + 2 * m.n_matrix


cdef bint first_step(const mixture *m, const steps *s, const real *x, const real *w, ptrdiff_t start, ptrdiff_t stop,
                     const double *centers, const double *constants, double *vector) noexcept nogil:
    """Write the parameters that an M-step makes of labels; whether it is regular.

    The record is centred on the centres of the labels, whose covariances are those of `common_covariances`: with labels
    they change nothing but which rows of padding a kernel counts, and by that the order of its sums.
    """
    cdef gaussians blank = parameters_in(m, s.other), p = parameters_in(m, vector)
    cdef ptrdiff_t c, j, per = m.n_matrix if m.kind == TIED else m.n_matrix // m.k
    cdef double most = 0, least = m.reg_covar if m.reg_covar > 0 else 2.2250738585072014e-308
    cdef double *scales = s.room + m.d
    variances_of[real](x + start * m.d, w + start if w != NULL else NULL, stop - start, m.d, scales)
    for j in range(m.d):
        scales[j] = max(scales[j], least)
        most = max(most, scales[j])
    for j in range(m.d):
        if scales[j] < 1e-12 * most:
            scales[j] = most
    if m.kind == SPHERICAL:
        scales[0] = sum_of(scales, m.d) / m.d
    for j in range(1 if m.kind == SPHERICAL else m.d):
        scales[j] = 1.0 / sqrt(scales[j])
        if not scales[j] < STEEPEST:
            return False
    memset(blank.factors, 0, m.n_matrix * sizeof(double))
    for c in range(m.k):
        blank.weights[c] = 1.0 / m.k
        for j in range(m.d):
            blank.means[c * m.d + j] = centers[c * m.d + j]
    for c in range(1 if m.kind == TIED else m.k):
        for j in range(1 if m.kind == SPHERICAL else m.d):
            blank.factors[c * per + (j * (m.d + 1) if m.kind == FULL or m.kind == TIED else j)] = scales[j]
    prepare[real](m, &blank, &s.prepared, <real *>NULL, s.room)
    memset(s.record, 0, m.size * sizeof(double))
    s.first(s.first_context, start, stop, s.record, m.size)
    return m_step[real](m, s.record, constants, &s.prepared, &p, <real *>NULL, s.room)


cdef int run_one(const mixture *m, const steps *s, const run_rules *rules, ptrdiff_t start, ptrdiff_t stop,
                 const double *constants, double *vector, double *objectives, double *objective,
                 real *as_type) noexcept nogil:
    """Run EM on rows start .. stop from the parameters in `vector`, and leave the last there.

    Returns the number of iterations, negative if they were all that are allowed; 0 if the run is left to the engine.
    `objectives` may be NULL.
    """
    cdef gaussians now, new
    cdef double *ours = vector
    cdef double *theirs = s.other
    cdef double last = -INFINITY, change = INFINITY, value, fall, rounding
    cdef int iteration = 0
    for iteration in range(rules.max_iter):
        now, new = parameters_in(m, ours), parameters_in(m, theirs)
        prepare[real](m, &now, &s.prepared, as_type, s.room)
        memset(s.record, 0, m.size * sizeof(double))
        s.next(s.next_context, start, stop, s.record, m.size)
        value = s.record[0] / sum_of(s.record + 1, m.k)
        if not isfinite(value):
            return 0
        fall, rounding = last - value, rules.slack * (1.0 + fabs(value))
        # float32 moves the terms of Q, of which the engine computes what was taken, by more than the bound leaves room.
        if iteration and fall > rounding and (sizeof(real) == 4 or fall > rounding + taken(m, &now)):
            return 0
        if not m_step[real](m, s.record, constants, &s.prepared, &new, as_type, s.room):
            return 0
        if objectives != NULL:
            objectives[iteration] = value
        change, last = fabs(value - last), value
        ours, theirs = theirs, ours
        if change <= rules.tol:
            break
    if ours != vector:
        memcpy(vector, ours, n_parameters(m) * sizeof(double))
    objective[0] = last
    return iteration + 1 if change <= rules.tol else -rules.max_iter


cdef struct many_runs:  # the arguments of `run`
    const mixture *m
    const run_rules *rules
    const void *x
    const void *w
    const int64_t *offsets
    ptrdiff_t n_constants
    const double *constants
    const double *centers
    double *parameters
    double *objectives
    double *objective
    int32_t *n_iter


cdef void run_group(const many_runs *all, const steps *s, ptrdiff_t g, real *as_type) noexcept nogil:
    """Run EM on group g, if it is not left to the engine already (`n_iter` 0)."""
    cdef const mixture *m = all.m
    cdef ptrdiff_t start = all.offsets[g], stop = all.offsets[g + 1]
    cdef double *vector = all.parameters + g * n_parameters(m)
    cdef const double *constants = all.constants + g * all.n_constants if all.n_constants else NULL
    cdef double *objectives = all.objectives + g * all.rules.max_iter if all.objectives != NULL else NULL
    if all.n_iter[g] == 0:
        return
    all.n_iter[g] = 0
    if all.centers != NULL:
        if not first_step[real](m, s, <const real *>all.x, <const real *>all.w, start, stop,
                                all.centers + g * m.k * m.d, constants, vector):
            return
    all.n_iter[g] = run_one[real](m, s, all.rules, start, stop, constants, vector, objectives, all.objective + g, as_type)


cdef mixture mixture_of(int kind, ptrdiff_t k, ptrdiff_t d, double reg_covar) noexcept nogil:
    cdef mixture m
    m.kind, m.k, m.d, m.reg_covar = kind, k, d, reg_covar
    m.n_matrix = k * d * d if kind == FULL else d * d if kind == TIED else k * d if kind == DIAG else k
    m.padded = 2 if d <= 2 else (d + 3) // 4 * 4
    m.size = 1 + k + k * d + (0 if kind == TIED else m.n_matrix)
    return m


cdef ready ready_of(real[::1] origin, real[:, ::1] means, real[::1] factors, real[:, ::1] whitened,
                    double[:, ::1] vectors) noexcept nogil:
    """The prepared parameters."""
    cdef ready r
    r.origin, r.means, r.factors = &origin[0], &means[0, 0], &factors[0]
    r.whitened = &whitened[0, 0] if whitened.shape[0] else NULL
    r.log_weights, r.offsets, r.negligible = &vectors[0, 0], &vectors[1, 0], &vectors[2, 0]
    return r


def run(
    int kind,
    double reg_covar,
    const real[:, ::1] X,
    const real[::1] w,
    const int64_t[::1] offsets,
    const double[:, ::1] constants,
    const double[:, :, ::1] centers,
    const intptr_t[::1] calls,
    real[::1] origin,
    real[:, ::1] means,
    real[::1] factors,
    real[:, ::1] whitened,
    double[:, ::1] vectors,
    int max_iter,
    double tol,
    double slack,
    double[:, ::1] parameters,
    double[:, ::1] objectives,
    double[::1] objective,
    int32_t[::1] n_iter,
):
    """Run EM on groups of rows, each a mixture of its own.

    Parameters
    ----------
    kind : int
        Shape of the covariances: 0 full, 1 tied, 2 diagonal, 3 spherical.
    reg_covar : float
        Added to the variances.
    X, w : array (n, d), array (n,) or (0,)
        Rows, group after group, and their weights.
    offsets : int64 array (G + 1,)
        Rows offsets[g] .. offsets[g + 1] are those of group g.
    constants : float64 array (G, d + d d) or (G, 0)
        Centre and scatter of the rows of each group, for a tied covariance: `total_scatters`.
    centers : float64 array (G, k, d) or (0, 0, 0)
        Points that first labels are about; without them, runs begin with `parameters`.
    calls : intp array (4,)
        Address and context of the E-step of labelled rows, and those of the E-step.
    origin, means, factors, whitened, vectors
        The prepared parameters that these contexts hold: in the rows' type, `whitened` of a tied covariance only; and
        log-weights, offsets, negligible shares (3, k) float64.
    max_iter, tol, slack
        Stop after so many iterations or at a change of at most tol; leave a fall by more than slack, relative.
    parameters : float64 array (G, P)
        IN / OUT. Weights, means, covariances and factors of each group.
    objectives : float64 array (G, max_iter) or (0, 0)
        OUT. The objective at the start of each iteration.
    objective : float64 array (G,)
        OUT. The last of them.
    n_iter : int32 array (G,)
        IN. 0 for groups that are to be left out.  OUT. Number of iterations, negative if the run has not converged; 0
        where it is left to the engine.
    """
    cdef ptrdiff_t n_groups = offsets.shape[0] - 1, g
    cdef mixture m = mixture_of(kind, means.shape[0], means.shape[1], reg_covar)
    cdef ptrdiff_t P = n_parameters(&m)
    if parameters.shape[1] != P or max_iter < 1:
        raise ValueError(f"parameters have {parameters.shape[1]} numbers a group, not {P}, or max_iter is {max_iter}")
    cdef run_rules rules
    rules.max_iter, rules.tol, rules.slack = max_iter, tol, slack
    cdef many_runs all
    all.m, all.rules, all.offsets = &m, &rules, &offsets[0]
    all.x = <const void *>&X[0, 0] if X.shape[0] else NULL
    all.w = <const void *>&w[0] if w.shape[0] else NULL
    all.n_constants, all.constants = constants.shape[1], &constants[0, 0] if constants.shape[1] else NULL
    all.centers = &centers[0, 0, 0] if centers.shape[0] else NULL
    all.parameters, all.objective, all.n_iter = &parameters[0, 0], &objective[0], &n_iter[0]
    all.objectives = &objectives[0, 0] if objectives.shape[0] else NULL
    # Record, parameters, and what an M-step works in.
    cdef double[::1] room = np.empty(m.size + P + 2 * m.k * m.d + m.d * m.d)
    cdef steps own
    own.first, own.first_context = <e_step><void *>calls[0], calls[1]
    own.next, own.next_context = <e_step><void *>calls[2], calls[3]
    own.prepared = ready_of[real](origin, means, factors, whitened, vectors)
    own.record, own.other, own.room = &room[0], &room[m.size], &room[m.size + P]
    with nogil:
        for g in range(n_groups):
            run_group[real](&all, &own, g, <real *>NULL)


def expect(
    int kind,
    const int64_t[::1] offsets,
    const intptr_t[::1] calls,
    real[::1] origin,
    real[:, ::1] means,
    real[::1] factors,
    real[:, ::1] whitened,
    double[:, ::1] vectors,
    double[:, ::1] parameters,
    const int32_t[::1] n_iter,
):
    """Call the E-step alone on each group of rows, with that group's parameters; the arguments are those of `run`.

    `calls` (2,) holds address and context; groups whose `n_iter` is 0 are left out.
    """
    cdef ptrdiff_t n_groups = offsets.shape[0] - 1, g
    cdef mixture m = mixture_of(kind, means.shape[0], means.shape[1], 0.0)
    if parameters.shape[1] != n_parameters(&m):
        raise ValueError(f"parameters have {parameters.shape[1]} numbers a group, not {n_parameters(&m)}")
    cdef double[::1] room = np.empty(m.d)
    cdef ready prepared = ready_of[real](origin, means, factors, whitened, vectors)
    cdef gaussians p
    with nogil:
        for g in range(n_groups):
            if n_iter[g]:
                p = parameters_in(&m, &parameters[g, 0])
                prepare[real](&m, &p, &prepared, <real *>NULL, &room[0])
                (<e_step><void *>calls[0])(calls[1], offsets[g], offsets[g + 1], NULL, 0)


def variances(const real[:, ::1] X, const real[::1] w):
    """Return the weighted variances (d,) of rows (n, d); w may be empty."""
    found = np.empty(X.shape[1])
    cdef double[::1] out = found
    variances_of[real](&X[0, 0], &w[0] if w.shape[0] else NULL, X.shape[0], X.shape[1], &out[0])
    return found


cdef void total_scatter(const real *x, const real *w, ptrdiff_t n, ptrdiff_t d, double *out, double *room) noexcept nogil:
    """Mean (d,) and scatter about it (d, d) of weighted rows; `room` has d numbers."""
    cdef double total = 0, mass
    cdef double *scatter = out + d
    cdef ptrdiff_t i, j, t
    memset(out, 0, (d + d * d) * sizeof(double))
    for i in range(n):
        mass = <double>w[i] if w != NULL else 1.0
        total += mass
        for j in range(d):
            out[j] += mass * (<double>x[i * d + j] - <double>x[j])
    for j in range(d):
        out[j] = <double>x[j] + out[j] / total
    for i in range(n):
        mass = <double>w[i] if w != NULL else 1.0
        for j in range(d):
            room[j] = <double>x[i * d + j] - out[j]
        for j in range(d):
            for t in range(j + 1):
                scatter[j * d + t] += mass * room[j] * room[t]
    for j in range(d):
        for t in range(j):
            scatter[t * d + j] = scatter[j * d + t]


def total_scatters(const real[:, ::1] X, const real[::1] w, const int64_t[::1] offsets):
    """Return the mean and the scatter about it of each group's rows (G, d + d d); w may be empty."""
    cdef ptrdiff_t n_groups = offsets.shape[0] - 1, d = X.shape[1], g
    found = np.empty((n_groups, d + d * d))
    cdef double[:, ::1] out = found
    cdef double[::1] room = np.empty(d)
    with nogil:
        for g in range(n_groups):
            if offsets[g + 1] > offsets[g]:
                total_scatter[real](&X[offsets[g], 0], &w[offsets[g]] if w.shape[0] else NULL,
                                    offsets[g + 1] - offsets[g], d, &out[g, 0], &room[0])
    return found
