# Search by few coordinates of a rotated basis: see rotated_body.h.

ROTATED = ROTATED_SIZE  # numbers of a rotated row
MEASURED = MEASURED_REST  # rests whose squares are so many times what they are off by, or less, are measured
ROTATED_FIRST = FIRST_SIZE  # of these, numbers that a row is compared by with all centroids
LEAST_ROTATED = FLAT_CENTROIDS + 1  # centroids from which rows can be searched so


cdef class Rotation:
    """Rows and centroids in a rotated basis.

    Parameters
    ----------
    rows : array (n, ROTATED)
        Rotated rows: coordinates, the norm of the rest, further coordinates, the norm of what they leave.
    order : uint16 array (n,)
        The rows of each cell of the grid, by their numbers there, in an order in which neighbours lie near each other.
    centers : array (k, ROTATED)
        The centroids, rotated as the rows are, in such an order.
    names : int32 array (k,)
        Which centroids they are.
    half_norms : array (k,)
        Half the squared norm of the first numbers of each, lowered by what is not known of it.
    allowance : array (k,)
        By which v is lowered for what is not known of a centroid.
    row_error : float
        By how much of its norm a rotated row is off.
    blind : bool
        Whether labels are no guesses yet.
    movers : int array (m,), or None
        Places in `centers` of those that moved since labels were found, if the others did not; None: any may have.
    """

    cdef nearest_rotation view, of_movers
    cdef tuple kept, kept_of_movers  # arrays
    cdef bint single

    def __init__(self, rows, order, centers, names, half_norms, allowance, double row_error, bint blind, movers):
        if len(centers) < LEAST_ROTATED or not len(rows):
            raise ValueError(f"{len(rows)} rows and {len(centers)} centroids are too few to be searched by a rotation")
        k = len(centers)
        shapes = (rows.shape[1:], order.shape, centers.shape[1:], names.shape, half_norms.shape, allowance.shape)
        if shapes != ((ROTATED,), (len(rows),), (ROTATED,), (k,), (k,), (k,)):
            raise ValueError(f"arrays of a rotation do not fit each other: {shapes}")
        self.single = rows.dtype == np.float32
        self.view.row_error, self.view.blind = row_error, blind
        self.of_movers = self.view
        self.kept = self.fill(&self.view, rows, order, centers, names, half_norms, allowance)
        self.kept_of_movers = ()
        if movers is None:
            return
        self.view.movers, self.view.n_movers = &self.of_movers, len(movers)
        if len(movers):
            self.kept_of_movers = self.fill(
                &self.of_movers, rows, order, centers[movers], names[movers], half_norms[movers], allowance[movers]
            )

    cdef tuple fill(self, nearest_rotation *view, rows, order, centers, names, half_norms, allowance):
        """Make a view of arrays, which are returned to be kept: of rows, then of centroids, as one step takes them."""
        if self.single:
            fill_rotation[float](view, rows, order, centers, names, allowance)
        else:
            fill_rotation[double](view, rows, order, centers, names, allowance)
        # A score of more numbers rounds more: see `aim`.
        deep = centers.copy()
        deep[:, ROTATED_FIRST - 1] = 0
        more = (ROTATED - ROTATED_FIRST) * np.finfo(rows.dtype).eps
        squares = np.einsum("kj,kj->k", deep, deep, dtype=np.float64)
        return (
            (rows, order, centers, names, allowance),
            (np.ascontiguousarray(centers[:, :ROTATED_FIRST]), half_norms),
            (deep, (half_norms - 0.51 * more * squares).astype(rows.dtype)),
        )

    cdef int serve(self, nearest_job *job, const nearest_kernels *kernels, bint wide) except -1:
        """Make a job be searched by this rotation."""
        shape = self.kept[0][0].shape[0], self.kept[0][2].shape[0]
        if wide == self.single or shape != (job.n, job.k) or job.d < ROTATED:
            raise ValueError(f"a rotation of other rows or centroids than {job.n} and {job.k}, or of {job.d} features")
        self.kept += pack_steps(&self.view, kernels, self.kept)
        if self.view.n_movers:
            self.kept_of_movers += pack_steps(&self.of_movers, kernels, self.kept_of_movers)
        job.rotation = &self.view
        return 0


cdef tuple pack_steps(nearest_rotation *view, const nearest_kernels *kernels, tuple kept):
    """Return the centroids' numbers of either step in the order of the tile, which the view shows."""
    first, deep = pack_numbers(kernels, kept[1]), pack_numbers(kernels, kept[2])
    view.packed, view.deep = address(first), address(deep)
    return first, deep


cdef pack_numbers(const nearest_kernels *kernels, tuple numbers):
    cdef nearest_job job
    centers, half_norms = numbers
    memset(&job, 0, sizeof(job))
    job.k, job.d = centers.shape
    job.centers, job.half_norms = address(centers), address(half_norms)
    packed = np.asarray(_aligned(kernels.panel_bytes(job.k, job.d)))
    kernels.pack(&job, <void *>address(packed))
    return packed


cdef const void *address(array) except NULL:
    return <const void *><size_t>array.ctypes.data


cdef void fill_rotation(nearest_rotation *view, const real[:, ::1] rows, const uint16_t[::1] order,
                        const real[:, ::1] centers, const int32_t[::1] names, const real[::1] allowance):
    view.rows, view.order = &rows[0, 0], &order[0]
    view.centers, view.names, view.allowance = &centers[0, 0], &names[0], &allowance[0]


def turn_centers(
    const real[:, ::1] centers,
    const double[::1] shift,
    const double[:, ::1] directions,
    const int64_t[::1] which,
    double[:, ::1] coordinates,
    double[::1] squares,
    int n_threads,
):
    """Coordinates and squared norms of some centroids, each to the same bits whichever others are asked for.

    Parameters
    ----------
    centers : array (k, d)
        Centroids minus an origin.
    shift : float64 array (d,)
        The origin minus that of the directions.
    directions : float64 array (d, ROTATED)
        Directions, one a column.
    which : int64 array (m,)
        The centroids that are asked for.
    coordinates : float64 array (m, ROTATED)
        OUT. Their coordinates.
    squares : float64 array (m,)
        OUT. Their squared norms.
    n_threads : int
        Threads to use.
    """
    cdef ptrdiff_t m = which.shape[0], d = centers.shape[1], parts, t
    shapes = (len(shift), directions.shape[0], directions.shape[1], *np.shape(coordinates), len(squares))
    if shapes != (d, d, ROTATED, m, ROTATED, m):
        raise ValueError(f"arrays of {m} of {len(centers)} centroids do not fit each other: {shapes}")
    if m == 0:
        return
    if np.min(which) < 0 or np.max(which) >= len(centers):
        raise IndexError(f"there are no more than {len(centers)} centroids")
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    parts = max(1, min(n_threads, m // 8))
    cdef ptrdiff_t each = in_lines(TURNED_AT_ONCE * 8 * d)
    cdef unsigned char[::1] scratch = _aligned(parts * each)
    with nogil:
        if parts == 1:
            turn_some(kernels, centers, &shift[0], &directions[0, 0], which, coordinates, squares, 0, m, &scratch[0])
        else:
            for t in prange(parts, schedule="static", num_threads=parts):
                turn_some(kernels, centers, &shift[0], &directions[0, 0], which, coordinates, squares, t * m // parts,
                          (t + 1) * m // parts, &scratch[t * each])


cdef void turn_some(const nearest_kernels *kernels, const real[:, ::1] centers, const double *shift,
                    const double *directions, const int64_t[::1] which, double[:, ::1] coordinates, double[::1] squares,
                    ptrdiff_t first, ptrdiff_t last, void *rows) noexcept nogil:
    cdef ptrdiff_t i = first, each
    cdef const void *some[3]  # TURNED_AT_ONCE
    cdef int count
    while i < last:
        count = <int>min(last - i, TURNED_AT_ONCE)
        for each in range(count):
            some[each] = &centers[which[i + each], 0]
        kernels.turn(some, count, shift, directions, centers.shape[1], <double *>rows, &coordinates[i, 0], &squares[i])
        i += count


def added_up(dtype, ptrdiff_t d):
    """How many of d features are added up in the rows' type where rows are rotated."""
    return kernels_for(isa, dtype == np.float64).added_up(d)


cdef in_strips(directions):
    """Return directions (P, d) by strips of features (.., P, STRIP), the last filled up with zeros."""
    n_directions, d = directions.shape
    wide = np.zeros((n_directions, -(-d // STRIP) * STRIP), directions.dtype)
    wide[:, :d] = directions
    return np.ascontiguousarray(wide.reshape(n_directions, -1, STRIP).transpose(1, 0, 2))


def rotate(
    const real[:, ::1] X,
    const real[::1] mean,
    const real[:, ::1] directions,
    double row_error,
    real[:, ::1] rows,
    int n_threads,
):
    """Rotated rows, as `Rotation` takes them.

    Parameters
    ----------
    X : array (n, d)
        Rows.
    mean : array (d,)
        The point from which coordinates are taken.
    directions : array (ROTATED - 2, d)
        Orthonormal directions.
    row_error : float
        By how much of its norm the coordinates of a row are off.
    rows : array (n, ROTATED)
        OUT. Coordinates, and norms of what they leave.
    n_threads : int
        Threads to use.

    Returns
    -------
    float
        The largest squared norm of a row from that point, infinite where squares overflow.
    """
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef nearest_job job
    cdef nearest_rotation rotation
    cdef ptrdiff_t n = X.shape[0], d = X.shape[1], n_tasks = (n + CELL_ROWS - 1) // CELL_ROWS, t
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t each = in_lines(kernels.rotate_bytes(d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    cdef double[::1] largest = np.zeros(max(n_tasks, 1))
    shapes = (len(mean), *np.shape(directions), *np.shape(rows))
    if shapes != (d, ROTATED - 2, d, n, ROTATED):
        raise ValueError(f"arrays of {n} rows do not fit each other: {shapes}")
    turns = pack_numbers(kernels, (np.asarray(directions), np.zeros(ROTATED - 2, np.asarray(directions).dtype)))
    memset(&job, 0, sizeof(job))
    memset(&rotation, 0, sizeof(rotation))
    rotation.directions, rotation.mean, rotation.size = address(turns), &mean[0], ROTATED - 1
    strips = in_strips(np.asarray(directions))
    rotation.strips, rotation.row_error = address(strips), row_error
    job.n, job.d, job.rotation = n, d, &rotation
    if n:
        job.x = &X[0, 0]
        with nogil:
            if threads == 1:
                for t in range(n_tasks):
                    largest[t] = kernels.rotate(&job, t * CELL_ROWS, min((t + 1) * CELL_ROWS, n), &rows[0, 0], &scratch[0])
            else:
                for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                    largest[t] = kernels.rotate(&job, t * CELL_ROWS, min((t + 1) * CELL_ROWS, n), &rows[0, 0],
                                                &scratch[threadid() * each])
    most = np.max(largest)
    return float(most) if most < np.inf else np.inf


def search_rotated(
    const real[:, ::1] X,
    const real[::1] origin,
    const real[:, ::1] centers,
    const real[::1] half_norms,
    Rotation rotation,
    int32_t[::1] labels,
    int n_threads,
    real[::1] sqdist=None,
    real[::1] upper=None,
    real[::1] lower=None,
    int32_t[::1] tied=None,
    int32_t[::1] n_tied=None,
    bint carried=False,
):
    """Nearest centroid of every row, by a rotation: the labels of `assign`.

    Parameters
    ----------
    X, origin, centers, half_norms
        As in `assign`.
    rotation : Rotation
        Rows and centroids in a rotated basis.
    labels : int32 array (n,)
        OUT. Index of the nearest centroid; IN a guess, unless the rotation is blind.
    n_threads : int
        Threads to use.
    sqdist : array (n,), optional
        OUT. As in `assign`.
    upper, lower, tied, n_tied : arrays, optional
        OUT. As in `accumulate`.
    carried : bool
        Whether the bounds are known: rows of which `upper` is less than `lower` are left alone.
    """
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef nearest_job job = job_of[real](X, half_norms[:0], origin, centers, half_norms)
    cdef nearest_memo memo
    cdef nearest_memo *kept = NULL
    cdef ptrdiff_t n_tasks = (job.n + CELL_ROWS - 1) // CELL_ROWS, t
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t each = in_lines(kernels.rotated_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    rotation.serve(&job, kernels, real is double)
    job.labels = &labels[0]
    if sqdist is not None:
        job.sqdist = &sqdist[0]
    if tied is not None:
        job.tied, job.n_tied = &tied[0], &n_tied[0]
    if upper is not None:
        memset(&memo, 0, sizeof(memo))
        memo.upper, memo.lower = &upper[0], &lower[0]
        kept = &memo
    still = np.zeros(max(16, job.k), np.float64 if real is double else np.float32)
    if carried:
        memo.moved = memo.drop = memo.gap = address(still)
    with nogil:
        if threads == 1:
            for t in range(n_tasks):
                search_cell(kernels, &job, kept, t, &scratch[0])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                search_cell(kernels, &job, kept, t, &scratch[threadid() * each])
