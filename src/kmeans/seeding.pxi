# Greedy k-means++: see seeding_body.h and screened_body.h.

MOST_CANDIDATES = MAX_CANDIDATES  # that one pass scores


def score_seeds(
    const real[:, ::1] X,
    const real[::1] w,
    const real[:, ::1] candidates,
    const real[:, ::1] chosen,
    real[::1] closest,
    int32_t[::1] owner,
    int commit,
    double[:, ::1] out,
    int n_threads,
):
    """A step of greedy k-means++: by how much each candidate seed would lower the potential sum w closest.

    Rows that the triangle inequality excludes are not read; the answer is that of all rows.

    Parameters
    ----------
    X, w
        As in `accumulate`.
    candidates : array (m, d)
        Candidate seeds.
    chosen : array (s, d)
        Seeds chosen so far.
    closest : array (n,)
        IN, and OUT after a commit. Squared distance of each row to its nearest seed; infinite before the first seed.
    owner : int32 array (n,)
        IN, and OUT after a commit. Index in `chosen` of that seed; 0 before the first seed.
    commit : int
        -1 to score only; else the index that ``candidates[0]`` takes among the seeds: `closest` and `owner` are
        brought up to date, and the other candidates are scored after that.
    out : float64 array (n_cells, m + 1)
        OUT. For each cell of the row grid: the reduction by each candidate, then sum w closest (after a commit).
    n_threads : int
        Threads to use.
    """
    if X.shape[0] == 0:
        return
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef const real[::1] zeros = np.zeros(X.shape[1], np.float64 if real is double else np.float32)
    cdef nearest_job job = job_of[real](X, w, zeros, candidates, closest[:0])
    cdef nearest_seeding seeding
    cdef ptrdiff_t n_tasks = (job.n + CELL_ROWS - 1) // CELL_ROWS, t
    if out.shape[0] != n_tasks or out.shape[1] != job.k + 1:
        raise ValueError(f"out has shape {(out.shape[0], out.shape[1])}, not {(n_tasks, job.k + 1)}")
    if job.k > MAX_CANDIDATES:
        raise ValueError(f"{job.k} candidates are more than the {MAX_CANDIDATES} that one pass scores")
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t each = in_lines(kernels.seed_bytes(job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    cdef real[::1] quarter = np.zeros(max(1, chosen.shape[0]), np.float64 if real is double else np.float32)
    seeding.quarter, seeding.closest, seeding.seeds, seeding.commit = &quarter[0], &closest[0], &owner[0], commit
    with nogil:
        if chosen.shape[0]:
            kernels.seed_gaps(job.centers, job.k, &chosen[0, 0], chosen.shape[0], job.d, &quarter[0])
        if threads == 1:
            for t in range(n_tasks):
                kernels.seed_cell(&job, &seeding, t * CELL_ROWS, min((t + 1) * CELL_ROWS, job.n), &out[t, 0],
                                  &scratch[0])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                kernels.seed_cell(&job, &seeding, t * CELL_ROWS, min((t + 1) * CELL_ROWS, job.n), &out[t, 0],
                                  &scratch[threadid() * each])


cdef class Screen:
    """Rows by the numbers of a rotated basis, against which candidates to become seeds are held.

    Parameters
    ----------
    X, w
        As in `accumulate`.
    rows : array (n, ROTATED)
        The rotated rows.
    row_error : float
        By how much of its norm a rotated row is off.
    closest, owner
        As in `score_seeds`; `commit` writes to them.
    n_threads : int
        Threads to use.
    """

    cdef nearest_screen view
    cdef const nearest_kernels *kernels
    cdef list kept  # arrays
    cdef tuple scored  # arrays of the candidates
    cdef ptrdiff_t n_cells, each
    cdef unsigned char[::1] scratch
    cdef int threads
    cdef object dtype

    def __init__(self, X, w, rows, double row_error, closest, owner, int n_threads):
        cdef ptrdiff_t n = X.shape[0], d = X.shape[1], t
        if not n:
            raise ValueError("there are no rows to screen")
        self.dtype, self.kept = X.dtype, []
        self.kernels = kernels_for(isa, X.dtype == np.float64)
        self.n_cells = (n + CELL_ROWS - 1) // CELL_ROWS
        self.view.n, self.view.d = n, d
        self.view.x = self._kept(X, self.dtype, (n, d))
        self.view.w = self._kept(w, self.dtype, (n,)) if len(w) else NULL
        self.view.rows = self._kept(rows, self.dtype, (n, ROTATED_SIZE))
        self.view.row_error = row_error
        self.view.closest = self._kept(closest, self.dtype, (n,))
        self.view.owner = <int32_t *>self._kept(owner, np.int32, (n,))
        self.view.blocks = self._room(self.n_cells * SCREEN_PLACES * FIRST_SIZE, self.dtype)
        self.view.threshold = self._room(self.n_cells * SCREEN_PLACES, self.dtype)
        self.view.gainers = <uint16_t *>self._room(n, np.uint16)
        self.view.sqdist = self._room(n, self.dtype)
        self.view.ends = <int32_t *>self._room(self.n_cells * MAX_CANDIDATES, np.int32)
        self.view.m = 0
        self.threads = <int>max(1, min(n_threads, self.n_cells))
        self.each = in_lines(self.kernels.screen_bytes(d))
        self.scratch = _aligned(self.threads * self.each)
        with nogil:
            if self.threads == 1:
                for t in range(self.n_cells):
                    self.kernels.screen_aim(&self.view, t)
            else:
                for t in prange(self.n_cells, schedule="static", num_threads=self.threads):
                    self.kernels.screen_aim(&self.view, t)

    cdef void *_kept(self, array, dtype, shape) except NULL:
        self.kept.append(array)
        return located(array, dtype, shape)

    cdef void *_room(self, ptrdiff_t n, dtype) except NULL:
        return self._kept(np.empty(n, dtype), dtype, (n,))

    def score(self, candidates, of_rows, half, double[::1] allowance, double[::1] out):
        """Find by how much each candidate would lower the potential.

        Parameters
        ----------
        candidates : array (m, d)
            Candidate seeds.
        of_rows : array (m, ROTATED)
            Their numbers in the rotated basis.
        half : array (m,)
            Minus half the squared norms of these, raised by what is not known of them.
        allowance : float64 array (m,)
            By which squared distances are lowered for what is not known of them.
        out : float64 array (m,)
            OUT. The reduction by each candidate, a sum in float64.

        Returns
        -------
        float
            How many pairs of a row and a candidate were compared in full, with what picking them cost.
        """
        cdef ptrdiff_t m = candidates.shape[0], n_cells = self.n_cells, t, l
        cdef double pairs = 0
        if not 0 < m <= MAX_CANDIDATES or out.shape[0] != m or allowance.shape[0] != m:
            raise ValueError(f"{m} candidates, of which at most {MAX_CANDIDATES} are scored at once")
        self.view.m = m
        self.view.candidates = located(candidates, self.dtype, (m, self.view.d))
        self.view.of_rows = located(of_rows, self.dtype, (m, ROTATED_SIZE))
        self.view.half = located(half, self.dtype, (m,))
        self.view.allowance = &allowance[0]
        self.scored = candidates, of_rows, half, allowance
        cdef double[:, ::1] parts = np.empty((n_cells, m + 1))
        with nogil:
            if self.threads == 1:
                for t in range(n_cells):
                    parts[t, m] = self.kernels.screen_score(&self.view, t, &parts[t, 0], &self.scratch[0])
            else:
                for t in prange(n_cells, schedule="dynamic", chunksize=1, num_threads=self.threads):
                    parts[t, m] = self.kernels.screen_score(&self.view, t, &parts[t, 0],
                                                            &self.scratch[threadid() * self.each])
            for l in range(m):
                out[l] = 0
            for t in range(n_cells):
                for l in range(m):
                    out[l] += parts[t, l]
                pairs += parts[t, m]
        return pairs

    def commit(self, ptrdiff_t candidate, int seed, double[::1] potential):
        """Make a candidate that was scored last a seed, and note the potential of each grid cell.

        Parameters
        ----------
        candidate : int
            Which one.
        seed : int
            The index that it takes among the seeds.
        potential : float64 array (n_cells,)
            OUT. Sum of w closest over each cell of the row grid.
        """
        cdef ptrdiff_t t
        if not 0 <= candidate < self.view.m or potential.shape[0] != self.n_cells:
            raise ValueError(f"candidate {candidate} was not scored, or {len(potential)} cells are not those of the rows")
        with nogil:
            if self.threads == 1:
                for t in range(self.n_cells):
                    potential[t] = self.kernels.screen_commit(&self.view, t, candidate, seed, &self.scratch[0])
            else:
                for t in prange(self.n_cells, schedule="dynamic", chunksize=1, num_threads=self.threads):
                    potential[t] = self.kernels.screen_commit(&self.view, t, candidate, seed,
                                                              &self.scratch[threadid() * self.each])


cdef void *located(array, dtype, shape) except NULL:
    """Address of an array that has to be as the kernel expects it."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"an array {array.shape} of {array.dtype} where {shape} of {dtype} belongs")
    return <void *><size_t>array.ctypes.data
