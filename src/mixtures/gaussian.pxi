# Gaussian mixtures of few features: factors, prepared parameters and the M-step; included by mixtures.pyx.

MOST_FEATURES = 32  # from about here on LAPACK's blocks are quicker

cdef enum:
    FULL = 0
    TIED = 1
    DIAG = 2
    SPHERICAL = 3

# As in fastem/families/elliptical: records.TINY, family.LOST and STEEPEST, full.RESOLVED.
cdef double TINY = 10 * 2.220446049250313e-16
cdef double LOST = 1e-12
cdef double STEEPEST = 1e37
cdef double RESOLVED = 1.0 / (8.0 * 2.220446049250313e-16)


cdef struct mixture:
    ptrdiff_t kind, k, d
    ptrdiff_t n_matrix    # numbers of the covariances
    ptrdiff_t padded      # features of a factor as the kernel has it
    ptrdiff_t size        # of the record
    double reg_covar


cdef struct gaussians:  # parameters
    double *weights     # (k,)
    double *means       # (k, d)
    double *covariances # as fastem.families.elliptical has them for the shape
    double *factors     # the same


cdef struct ready:      # parameters of an E-step; in the rows' type where nothing else is said
    void *origin        # (d,)
    void *means         # (k, d)
    void *factors       # padded
    void *whitened      # (k, d), of a tied covariance
    double *log_weights
    double *offsets
    double *negligible


cdef bint factor_of(const double *covariance, ptrdiff_t d, double *lower, double *factor) noexcept nogil:
    """The precision's factor P (d, d), upper triangular with inverse covariance P P'; whether there is one.

    Cholesky's lower factor row by row, and its inverse row by row; `lower` (d, d) is room.
    """
    cdef ptrdiff_t i, j, t
    cdef double total
    for i in range(d):
        for j in range(i + 1):
            total = covariance[i * d + j]
            for t in range(j):
                total -= lower[i * d + t] * lower[j * d + t]
            if i > j:
                lower[i * d + j] = total / lower[j * d + j]
            elif total > 0:
                lower[i * d + i] = sqrt(total)
            else:
                return False
    for i in range(d):
        factor[i * d + i] = 1.0 / lower[i * d + i]
        for j in range(i):
            total = 0
            for t in range(j, i):
                total += lower[i * d + t] * factor[j * d + t]  # factor[j, t] is the inverse's [t, j]
            factor[j * d + i] = -total / lower[i * d + i]
            factor[i * d + j] = 0
    return True


def precision_factors(const double[:, :, ::1] covariances, double[:, :, ::1] factors):
    """Write the precisions' factors (k, d, d) of covariances of few features; return whether all exist."""
    cdef ptrdiff_t k = covariances.shape[0], d = covariances.shape[1], c
    cdef double[::1] lower = np.empty(d * d)
    for c in range(k):
        if not factor_of(&covariances[c, 0, 0], d, &lower[0], &factors[c, 0, 0]):
            return False
    return True


cdef void prepare(const mixture *m, const gaussians *p, const ready *out, real *as_type, double *room) noexcept nogil:
    """Round parameters to the rows' type, relative to the mean of the means: `prepare` of the four shapes."""
    cdef ptrdiff_t c, j, i, k = m.k, d = m.d, dp = m.padded
    cdef real *origin = <real *>out.origin
    cdef real *means = <real *>out.means
    cdef real *factors = <real *>out.factors
    cdef real *whitened = <real *>out.whitened
    cdef double share = 1e-18 if sizeof(real) == 8 else 1e-11
    cdef double log_det = 0, total
    mean_of(p.weights, p.means, k, d, room)
    for j in range(d):
        origin[j] = <real>room[j]
    if m.kind == TIED:
        for j in range(d):
            log_det += log(p.factors[j * d + j])
            for i in range(d):
                factors[j * dp + i] = <real>p.factors[j * d + i]
    for c in range(k):
        for j in range(d):
            means[c * d + j] = <real>(p.means[c * d + j] - <double>origin[j])
        if m.kind == FULL:
            log_det = 0
            for j in range(d):
                log_det += log(p.factors[(c * d + j) * d + j])
                for i in range(d):
                    factors[(c * dp + j) * dp + i] = <real>p.factors[(c * d + j) * d + i]
        elif m.kind == DIAG:
            log_det = 0
            for j in range(d):
                log_det += log(p.factors[c * d + j])
                factors[c * d + j] = <real>p.factors[c * d + j]
        elif m.kind == SPHERICAL:
            log_det = d * log(p.factors[c])
            factors[c] = <real>p.factors[c]
        out.log_weights[c] = log(p.weights[c])
        out.offsets[c] = out.log_weights[c] + log_det - 0.5 * d * LOG_2PI
        out.negligible[c] = share * p.weights[c]
        if m.kind == TIED:
            whiten[real](means + c * d, factors, d, dp, whitened + c * d)


cdef void whiten(const real *mean, const real *factor, ptrdiff_t d, ptrdiff_t dp, real *out) noexcept nogil:
    """A mean times the factor, in the rows' type as both are."""
    cdef ptrdiff_t i, j
    cdef double total
    for i in range(d):
        total = 0
        for j in range(i + 1):
            total += <double>mean[j] * <double>factor[j * dp + i]
        out[i] = <real>total


def whitened_means(const real[:, ::1] means, const real[:, ::1] factor):
    """Return means (k, d) times the upper triangular factor (dp, dp), padded or not, in their type."""
    out = np.empty((means.shape[0], means.shape[1]), np.float64 if real is double else np.float32)
    cdef real[:, ::1] view = out
    cdef ptrdiff_t c
    for c in range(means.shape[0]):
        whiten[real](&means[c, 0], &factor[0, 0], means.shape[1], factor.shape[0], &view[c, 0])
    return out


cdef void tied_scatter(const double *counts, const double *sums, const double *centred, const double *about,
                       const double *scatter, ptrdiff_t k, ptrdiff_t d, double *out) noexcept nogil:
    """Scatter (d, d) about means `about` of rows of a component whose sums are relative to means `centred`.

    All means are relative to the centre of the rows, about which their total scatter is.
    """
    cdef ptrdiff_t c, i, j
    cdef double cross, other, own
    for i in range(d):
        for j in range(i + 1):
            cross, other, own = 0, 0, 0
            for c in range(k):
                cross += (sums[c * d + i] + counts[c] * centred[c * d + i]) * about[c * d + j]
                other += (sums[c * d + j] + counts[c] * centred[c * d + j]) * about[c * d + i]
                own += about[c * d + i] * counts[c] * about[c * d + j]
            out[i * d + j] = scatter[i * d + j] - cross - other + own
            out[j * d + i] = out[i * d + j]


def scatter_about(const double[::1] counts, const double[:, ::1] sums, const double[:, ::1] centred,
                  const double[:, ::1] about, const double[:, ::1] scatter):
    """Return the scatter (d, d) of rows about means, each weighted by its responsibilities; see `tied_scatter`."""
    out = np.empty((sums.shape[1], sums.shape[1]))
    cdef double[:, ::1] view = out
    tied_scatter(&counts[0], &sums[0, 0], &centred[0, 0], &about[0, 0], &scatter[0, 0], sums.shape[0], sums.shape[1],
                 &view[0, 0])
    return out


cdef bint well_resolved(const double *covariance, const double *factor, ptrdiff_t d) noexcept nogil:
    """Whether the variance of a feature given those before is more than the rounding of its own."""
    cdef ptrdiff_t j
    cdef double given
    for j in range(d):
        given = factor[j * d + j]
        if given * given * covariance[j * d + j] * d > RESOLVED:
            return False
    return True


cdef bint collapsed(const double *weights, const double *scales, ptrdiff_t k, ptrdiff_t n, ptrdiff_t step,
                    double floor) noexcept nogil:
    """Whether a component has no variance of its own in some direction: `EllipticalFamily.collapsed`.

    The n scales of a component are `step` numbers apart.
    """
    cdef double steepest = 0, total = sum_of(weights, k), usual, variance
    cdef ptrdiff_t c, j
    if floor == 0:
        return False
    for c in range(k):
        for j in range(n):
            steepest = max(steepest, scales[(c * n + j) * step] if step == 1 else scales[c * n * n + j * step])
    if 2 * floor * steepest * steepest < 1:
        return False
    for j in range(n):
        usual = 0
        for c in range(k):
            variance = scales[c * n + j] if step == 1 else scales[c * n * n + j * step]
            usual += weights[c] / (variance * variance)
        if usual / total <= 100 * floor:
            continue
        for c in range(k):
            variance = scales[c * n + j] if step == 1 else scales[c * n * n + j * step]
            if 1.0 / (variance * variance) <= 2 * floor:
                return True
    return False


cdef bint m_step(const mixture *m, const double *record, const double *constants, const ready *given, const gaussians *new,
                 real *as_type, double *room) noexcept nogil:
    """The parameters that a record leads to; whether all is regular: no component is empty, no covariance singular.

    `constants` are centre (d,) and scatter (d, d) of all rows, for a tied covariance; `room` has 2 k d + d d numbers.
    """
    cdef ptrdiff_t c, i, j, k = m.k, d = m.d
    cdef const double *counts = record + 1
    cdef const double *sums = record + 1 + k
    cdef const double *scatter = record + 1 + k + k * d
    cdef const real *origin = <const real *>given.origin
    cdef const real *means = <const real *>given.means
    cdef double total = sum_of(counts, k), squares, scale, most
    cdef double *shift = room
    cdef double *centred = room + k * d
    for c in range(k):
        if not counts[c] > TINY:
            return False
        new.weights[c] = counts[c] / total
        if not new.weights[c] >= LOST:
            return False
        for j in range(d):
            shift[c * d + j] = sums[c * d + j] / counts[c]
            centred[c * d + j] = <double>origin[j] + <double>means[c * d + j]
            new.means[c * d + j] = centred[c * d + j] + shift[c * d + j]
    if m.kind == FULL:
        for c in range(k):
            for i in range(d):
                for j in range(d):
                    squares = scatter[(c * d + i) * d + j] / counts[c] - shift[c * d + i] * shift[c * d + j]
                    new.covariances[(c * d + i) * d + j] = squares + (m.reg_covar if i == j else 0.0)
            if not regular_factor(new.covariances + c * d * d, d, room + 2 * k * d, new.factors + c * d * d):
                return False
        return not collapsed(new.weights, new.factors, k, d, d + 1, m.reg_covar)
    if m.kind == TIED:
        for c in range(k):
            for j in range(d):
                centred[c * d + j] -= constants[j]
                shift[c * d + j] = new.means[c * d + j] - constants[j]
        tied_scatter(counts, sums, centred, shift, constants + d, k, d, new.covariances)
        for i in range(d):
            for j in range(d):
                new.covariances[i * d + j] = new.covariances[i * d + j] / total + (m.reg_covar if i == j else 0.0)
        return regular_factor(new.covariances, d, room + 2 * k * d, new.factors)
    for c in range(k):
        if m.kind == SPHERICAL:
            for j in range(d):
                centred[j] = shift[c * d + j] * shift[c * d + j]
            squares = (scatter[c] / counts[c] - sum_of(centred, d)) / d
            new.covariances[c] = max(squares, 0.0) + m.reg_covar
        else:
            for j in range(d):
                squares = scatter[c * d + j] / counts[c] - shift[c * d + j] * shift[c * d + j]
                new.covariances[c * d + j] = max(squares, 0.0) + m.reg_covar
    for i in range(m.n_matrix):
        scale = 1.0 / sqrt(new.covariances[i])
        if not (scale > 0 and scale < STEEPEST):
            return False
        new.factors[i] = scale
    return not collapsed(new.weights, new.factors, k, m.n_matrix // k, 1, m.reg_covar)


cdef double taken(const mixture *m, const gaussians *p) noexcept nogil:
    """At least so much of the objective may `reg_covar` have taken in the M-step that led to these parameters.

    That maximises Q for covariances S, and S + r I are taken.  With M = r inv(S + r I) a component of weight w loses
    w / 2 (-log det(I - M) - tr M), and no less than w tr(M M) / 4; `GaussianFamily.shortfall` has it exactly.
    """
    cdef ptrdiff_t c, i, j, t, d = m.d, n = m.n_matrix // m.k if m.kind != TIED else m.n_matrix
    cdef double total = 0, squares, entry
    cdef const double *factor
    for c in range(1 if m.kind == TIED else m.k):
        factor = p.factors + c * n
        squares = 0
        if m.kind == DIAG or m.kind == SPHERICAL:
            for j in range(n):
                squares += factor[j] * factor[j] * factor[j] * factor[j]
            squares *= d // n
        else:
            for i in range(d):
                for j in range(i + 1):
                    entry = 0
                    for t in range(i, d):
                        entry += factor[i * d + t] * factor[j * d + t]
                    squares += entry * entry * (1 if i == j else 2)
        total += squares if m.kind == TIED else p.weights[c] * squares
    return 0.25 * m.reg_covar * m.reg_covar * total


cdef bint regular_factor(const double *covariance, ptrdiff_t d, double *room, double *factor) noexcept nogil:
    """Write a precision's factor; whether there is one that means something."""
    cdef double total = 0
    cdef ptrdiff_t i
    if not factor_of(covariance, d, room, factor):
        return False
    for i in range(d * d):
        total += factor[i]
        if not fabs(factor[i]) < STEEPEST:
            return False
    return isfinite(total) and well_resolved(covariance, factor, d)
