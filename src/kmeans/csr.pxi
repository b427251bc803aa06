# Rows of a CSR matrix against dense centroids; included by nearest.pyx.  See csr_body.h.
#
# Centroids lie features first, as a `panel` (d, k) that is followed by memory of `CSR_BEYOND` numbers that may be read.
# Sums over rows are made by feature, from the values in the order of CSC: every number of the next panel has one thread
# and one order, whatever the number of threads.

CSR_BEYOND = 16  # numbers of the widest vector
cdef ptrdiff_t FEATURES = 256  # of a block of features, whose norms are summed together
cdef ptrdiff_t TEXTS = 256  # rows of a block
cdef ptrdiff_t ALONE = 2_000_000  # multiply-adds that one thread does in half a millisecond or less
cdef ptrdiff_t PER_VALUE = 24  # what it takes to come by a value, in multiply-adds
cdef ptrdiff_t PER_BYTE = 2  # and by a byte of a panel that lies in another processor's cache
cdef size_t CACHED = 1_000_000  # bytes of a panel that stays in the second-level cache


cdef csr_job csr_job_of(const int64_t[::1] indptr, const int32_t[::1] indices, const real[::1] data,
                        const double[::1] squares, const real[:, ::1] panel, const real[::1] half,
                        const real[::1] scale, const double[:, ::1] norms) noexcept:
    cdef csr_job job
    cdef ptrdiff_t c
    job.n, job.k = indptr.shape[0] - 1, panel.shape[1]
    job.indptr, job.indices, job.data = &indptr[0], &indices[0] if indices.shape[0] else NULL, start_of[real](data)
    job.squares, job.panel = &squares[0], <const void *>&panel[0, 0]
    job.half, job.norms, job.farthest = <const void *>&half[0], &norms[0, 0], 0
    job.scale = start_of[real](scale)
    for c in range(job.k):
        job.farthest = max(job.farthest, sqrt(norms[0, c]))
    job.panel_bytes = panel.shape[0] * panel.shape[1] * sizeof(real)
    job.fetch = job.panel_bytes > <ptrdiff_t>CACHED
    job.labels, job.sqdist, job.second, job.distances, job.tied, job.reach = NULL, NULL, NULL, NULL, NULL, 0
    return job


cdef int csr_sweep(csr_job *job, void (*rows)(const csr_job *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil,
                   int n_threads) except -1:
    cdef ptrdiff_t n_tasks = (job.n + TEXTS - 1) // TEXTS, t, work = job.indptr[job.n] * (job.k + PER_VALUE)
    cdef ptrdiff_t panel = job.panel_bytes if job.panel_bytes < <ptrdiff_t>CACHED else <ptrdiff_t>CACHED
    cdef int threads = <int>max(1, min(n_threads, n_tasks)) if work > ALONE + PER_BYTE * panel else 1
    cdef ptrdiff_t each = in_lines((job.k + CSR_BEYOND) * 8)
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    with nogil:
        if threads == 1:
            rows(job, 0, job.n, &scratch[0])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                rows(job, t * TEXTS, min((t + 1) * TEXTS, job.n), &scratch[threadid() * each])
    return 0


def csr_assign(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const double[::1] squares,
    const real[:, ::1] panel,
    const real[::1] half,
    const real[::1] scale,
    const double[:, ::1] norms,
    int32_t[::1] labels,
    double[::1] sqdist,
    double[::1] second,
    uint8_t[::1] tied,
    int n_threads,
):
    """Nearest centroid of every row of a CSR matrix, the lowest index in a tie, and its squared distance.

    Parameters
    ----------
    indptr, indices, data : arrays (n + 1,), (nnz,), (nnz,)
        Rows as CSR.
    squares : float64 array (n,)
        Their squared norms.
    panel : array (d, k)
        Centroids, features first.
    half : array (k + CSR_BEYOND,)
        Half their squared norms.
    scale : array (k + CSR_BEYOND,) or (0,)
        By which the columns of the panel are multiplied to be the centroids; empty: they are.
    norms : float64 array (2, k)
        Their squared norms, each as a sum of two numbers.
    labels : int32 array (n,)
        OUT. Index of the nearest centroid.
    sqdist : float64 array (n,)
        OUT. Squared distance to it.
    second : float64 array (n,) or (0,)
        OUT. Squared distance to the second nearest, to rounding.
    tied : uint8 array (n,) or (0,)
        OUT. Whether another centroid is as near, to `ROUNDINGS_OF_TIES`, and not at distance 0.
    n_threads : int
        Threads to use.
    """
    if labels.shape[0] == 0:
        return
    cdef csr_job job = csr_job_of[real](indptr, indices, data, squares, panel, half, scale, norms)
    job.labels, job.sqdist = &labels[0], &sqdist[0]
    job.second = &second[0] if second.shape[0] else NULL
    if tied.shape[0]:
        job.tied, job.reach = &tied[0], TIED * (EPSILON_64 if real is double else EPSILON_32)
    csr_sweep(&job, kernels_for(isa, real is double).csr_rows, n_threads)


def csr_distances(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const double[::1] squares,
    const real[:, ::1] panel,
    const real[::1] half,
    const real[::1] scale,
    const double[:, ::1] norms,
    real[:, ::1] out,
    int n_threads,
):
    """Squared distance of every row of a CSR matrix to every centroid: `out` (n, k); the rest as in `csr_assign`."""
    if out.shape[0] == 0:
        return
    cdef csr_job job = csr_job_of[real](indptr, indices, data, squares, panel, half, scale, norms)
    job.distances = <void *>&out[0, 0]
    csr_sweep(&job, kernels_for(isa, real is double).csr_distances, n_threads)


cdef void add_norms(const double[:, :, ::1] parts, double[:, ::1] norms) noexcept nogil:
    """Sum norms of blocks of features, each a sum of two numbers, in the order of the blocks."""
    cdef ptrdiff_t b, c
    cdef double high, low, total, part
    for c in range(norms.shape[1]):
        high = low = 0
        for b in range(parts.shape[0]):
            total = high + parts[b, 0, c]
            part = total - high
            low += (high - (total - part)) + (parts[b, 0, c] - part) + parts[b, 1, c]
            high = total
        norms[0, c] = high + low
        norms[1, c] = low - (norms[0, c] - high)


def csr_norms(const real[:, ::1] panel, double[:, ::1] norms, int n_threads):
    """Squared norms of centroids: `norms` (2, k) of `panel` (d, k), each as a sum of two numbers."""
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef ptrdiff_t d = panel.shape[0], k = panel.shape[1], b, n_blocks = (d + FEATURES - 1) // FEATURES
    cdef double[:, :, ::1] parts = np.empty((n_blocks, 2, k))
    cdef int threads = <int>max(1, min(n_threads, n_blocks)) if d * k > ALONE else 1
    with nogil:
        if threads == 1:
            for b in range(n_blocks):
                kernels.csr_norms(&panel[0, 0], k, b * FEATURES, min((b + 1) * FEATURES, d), &parts[b, 0, 0], &parts[b, 1, 0])
        else:
            for b in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=threads):
                kernels.csr_norms(&panel[0, 0], k, b * FEATURES, min((b + 1) * FEATURES, d), &parts[b, 0, 0], &parts[b, 1, 0])
        add_norms(parts, norms)


def csr_means(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const real[::1] w,
    const int32_t[::1] labels,
    const double[::1] counts,
    const int32_t[::1] kept,
    const real[:, ::1] before,
    real[:, ::1] panel,
    double[:, ::1] norms,
    int n_threads,
):
    """Means of the rows with each label, their norms, and how far they moved.

    Parameters
    ----------
    indptr, indices, data : arrays (d + 1,), (nnz,), (nnz,)
        The rows by feature, as CSC: `indices` are rows.
    w : array (n,) or (0,)
        Weights; empty for unit weights.
    labels : int32 array (n,)
        Labels of the rows.
    counts : float64 array (k,)
        Sum of the weights of each label.
    kept : int32 array
        Labels without weight, which keep the centroid of before.
    before : array (d, k)
        Centroids before.
    panel : array (d, k)
        OUT. The means.
    norms : float64 array (2, k)
        OUT. As `csr_norms`.
    n_threads : int
        Threads to use.

    Returns
    -------
    float
        Squared movement, summed.
    """
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef ptrdiff_t d = panel.shape[0], k = panel.shape[1], b, n_blocks = (d + FEATURES - 1) // FEATURES
    cdef double[:, :, ::1] parts = np.empty((n_blocks, 2, k))
    cdef double[::1] moved = np.empty(n_blocks)
    # A value costs some twelve multiply-adds here: its label, a sum that waits for the last, a division.
    cdef int threads = <int>max(1, min(n_threads, n_blocks)) if d * k + indptr[d] * 12 > ALONE else 1
    cdef ptrdiff_t each = in_lines(k * 8) // 8
    cdef double[::1] scratch = np.empty(threads * each)
    cdef csr_table by
    cdef double total = 0
    by.k, by.n_kept, by.kept = k, kept.shape[0], &kept[0] if kept.shape[0] else NULL
    by.indptr, by.indices, by.data = &indptr[0], &indices[0] if indices.shape[0] else NULL, start_of[real](data)
    by.w, by.labels = start_of[real](w), &labels[0]
    with nogil:
        if threads == 1:
            for b in range(n_blocks):
                moved[b] = csr_block[real](kernels, &by, counts, before, b, panel, parts, &scratch[0])
        else:
            for b in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=threads):
                moved[b] = csr_block[real](kernels, &by, counts, before, b, panel, parts, &scratch[threadid() * each])
        add_norms(parts, norms)
        for b in range(n_blocks):
            total += moved[b]
    return total


cdef double csr_block(const nearest_kernels *kernels, const csr_table *by, const double[::1] counts,
                      const real[:, ::1] before, ptrdiff_t b, real[:, ::1] panel, double[:, :, ::1] parts,
                      double *scratch) noexcept nogil:
    """The means and norms of one block of features, which is still in the cache; returns its squared movement."""
    cdef ptrdiff_t start = b * FEATURES, stop = min((b + 1) * FEATURES, panel.shape[0])
    cdef double moved = kernels.csr_means(by, &counts[0], &before[0, 0], start, stop, &panel[0, 0], scratch)
    kernels.csr_norms(&panel[0, 0], by.k, start, stop, &parts[b, 0, 0], &parts[b, 1, 0])
    return moved


def csr_scale(real[:, ::1] panel, const double[::1] factors, int n_threads):
    """Multiply each centroid, a column of `panel` (d, k), by its factor (k,), in place."""
    cdef ptrdiff_t d = panel.shape[0], k = panel.shape[1], b, n_blocks = (d + FEATURES - 1) // FEATURES
    cdef int threads = <int>max(1, min(n_threads, n_blocks)) if d * k > ALONE else 1
    with nogil:
        if threads == 1:
            for b in range(n_blocks):
                scale_block[real](panel, factors, b)
        else:
            for b in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=threads):
                scale_block[real](panel, factors, b)


cdef void scale_block(real[:, ::1] panel, const double[::1] factors, ptrdiff_t b) noexcept nogil:
    cdef ptrdiff_t j, c, k = panel.shape[1]
    cdef real *row
    for j in range(b * FEATURES, min((b + 1) * FEATURES, panel.shape[0])):
        row = &panel[j, 0]
        for c in range(k):
            row[c] = <real>(row[c] * factors[c])


def csr_add(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const real[::1] w,
    const int32_t[::1] labels,
    real[:, ::1] panel,
    double[:, ::1] norms,
):
    """Add each row, times its weight, to the column of its label, in the order of the rows.

    Parameters
    ----------
    indptr, indices, data
        As in `csr_assign`.
    w : array (n,) or (0,)
        Weights; empty for unit weights.
    labels : int32 array (n,)
        Columns.
    panel : array (d, k)
        IN / OUT. Sums.
    norms : float64 array (2, k)
        IN / OUT. Their squared norms, each as a sum of two numbers, kept up to date by what the numbers changed.
    """
    cdef ptrdiff_t i, p, ahead, c, last = indptr[indptr.shape[0] - 1] - 1
    cdef double mass, change, total, part
    cdef real before
    cdef real *at
    with nogil:
        for i in range(indptr.shape[0] - 1):
            mass, change, c = <double>w[i] if w.shape[0] else 1.0, 0, labels[i]
            for p in range(indptr[i], indptr[i + 1]):
                at = &panel[indices[p], c]
                before = at[0]
                at[0] = <real>(before + mass * data[p])
                change += (<double>at[0] - before) * (<double>at[0] + before)
            total = norms[0, c] + change
            part = total - norms[0, c]
            norms[1, c] += (norms[0, c] - (total - part)) + (change - part)
            norms[0, c] = total


def csr_clear(real[:, ::1] panel, const int32_t[::1] columns):
    """Set columns of `panel` (d, k) to zero."""
    cdef ptrdiff_t j, q
    with nogil:
        for j in range(panel.shape[0]):
            for q in range(columns.shape[0]):
                panel[j, columns[q]] = 0


def csr_score_seeds(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const int64_t[::1] by_indptr,
    const int32_t[::1] by_indices,
    const real[::1] by_data,
    const double[::1] squares,
    const real[::1] w,
    const int64_t[::1] candidates,
    int commit,
    real[::1] closest,
    double[:, ::1] products,
    double[:, ::1] out,
    int n_threads,
):
    """A step of greedy k-means++ on a CSR matrix, as `score_seeds`, by the values that candidates share with rows.

    Parameters
    ----------
    indptr, indices, data, squares
        As in `csr_assign`.
    by_indptr, by_indices, by_data
        The rows by feature, as in `csr_means`.
    w : array (n,) or (0,)
        Weights.
    candidates : int64 array (m,)
        Candidate rows.
    commit : int
        Whether the first becomes a seed, before the others are scored.
    closest : array (n,)
        IN / OUT. Squared distance of each row to its nearest seed; infinite before the first.
    products : float64 array (m, n)
        Work space.
    out : float64 array (n_cells, m + 1)
        OUT. For each cell of the row grid: the reduction by each candidate, then sum w closest.
    n_threads : int
        Threads to use.
    """
    cdef ptrdiff_t n = squares.shape[0], m = candidates.shape[0], cells = (n + CELL_ROWS - 1) // CELL_ROWS, c, t
    cdef int threads = <int>max(1, min(n_threads, max(m, cells))) if indptr[n] > ALONE else 1
    with nogil:
        if threads == 1:
            for c in range(m):
                multiply[real](indptr, indices, data, by_indptr, by_indices, by_data, candidates[c], &products[c, 0], n)
            for t in range(cells):
                score_cell[real](squares, w, indptr, candidates, commit, closest, products, t, &out[t, 0])
        else:
            for c in prange(m, schedule="dynamic", chunksize=1, num_threads=threads):
                multiply[real](indptr, indices, data, by_indptr, by_indices, by_data, candidates[c], &products[c, 0], n)
            for t in prange(cells, schedule="dynamic", chunksize=1, num_threads=threads):
                score_cell[real](squares, w, indptr, candidates, commit, closest, products, t, &out[t, 0])


def csr_products(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const int64_t[::1] by_indptr,
    const int32_t[::1] by_indices,
    const real[::1] by_data,
    ptrdiff_t row,
    double[::1] products,
):
    """Write the inner products (n,) of all rows of a CSR matrix with one of them; the rest as in `csr_score_seeds`."""
    with nogil:
        multiply[real](indptr, indices, data, by_indptr, by_indices, by_data, row, &products[0], products.shape[0])


cdef void multiply(const int64_t[::1] indptr, const int32_t[::1] indices, const real[::1] data,
                   const int64_t[::1] by_indptr, const int32_t[::1] by_indices, const real[::1] by_data,
                   ptrdiff_t row, double *products, ptrdiff_t n) noexcept nogil:
    """Inner products (n,) of all rows with one of them."""
    cdef ptrdiff_t i, p, q, j
    cdef double x
    for i in range(n):
        products[i] = 0
    for p in range(indptr[row], indptr[row + 1]):
        j, x = indices[p], data[p]
        for q in range(by_indptr[j], by_indptr[j + 1]):
            products[by_indices[q]] += x * by_data[q]


cdef void score_cell(const double[::1] squares, const real[::1] w, const int64_t[::1] indptr,
                     const int64_t[::1] candidates, int commit, real[::1] closest, const double[:, ::1] products,
                     ptrdiff_t cell, double *out) noexcept nogil:
    cdef ptrdiff_t m = candidates.shape[0], c, i, start = cell * CELL_ROWS
    cdef ptrdiff_t stop = min(start + CELL_ROWS, squares.shape[0])
    cdef double gain, norms, rounding
    cdef real sqdist
    for c in range(m):
        gain = 0
        rounding = (indptr[candidates[c] + 1] - indptr[candidates[c]] + 4) * EPSILON_64
        for i in range(start, stop):
            norms = squares[i] + squares[candidates[c]]
            sqdist = <real>(norms - 2.0 * products[c, i])
            if sqdist <= rounding * norms:  # a duplicate
                sqdist = 0
            if sqdist < closest[i]:
                gain += (<double>closest[i] - sqdist) * (<double>w[i] if w.shape[0] else 1.0)
                if commit and c == 0:
                    closest[i] = sqdist
        out[c] = gain
    gain = 0
    for i in range(start, stop):
        gain += <double>closest[i] * (<double>w[i] if w.shape[0] else 1.0)
    out[m] = gain


def csr_take(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    const int64_t[::1] rows,
    int64_t[::1] to_indptr,
):
    """Take rows of a CSR matrix by number: `to_indptr` (m + 1,) is written; their indices and values are returned."""
    cdef ptrdiff_t i, p, q = 0, m = rows.shape[0]
    to_indptr[0] = 0
    for i in range(m):
        to_indptr[i + 1] = to_indptr[i] + indptr[rows[i] + 1] - indptr[rows[i]]
    to_indices, to_data = np.empty(to_indptr[m], np.int32), np.empty(to_indptr[m], np.float64 if real is double else np.float32)
    cdef int32_t[::1] index_of = to_indices
    cdef real[::1] value_of = to_data
    with nogil:
        for i in range(m):
            for p in range(indptr[rows[i]], indptr[rows[i] + 1]):
                index_of[q], value_of[q] = indices[p], data[p]
                q += 1
    return to_indices, to_data


def csr_by_feature(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const real[::1] data,
    int64_t[::1] starts,
    int32_t[::1] rows,
    real[::1] values,
):
    """Order the values of a CSR matrix by feature: `starts` (d + 1,), and for each value its row and itself (nnz,)."""
    cdef ptrdiff_t i, j, p, d = starts.shape[0] - 1
    with nogil:
        starts[:] = 0
        for p in range(indptr[indptr.shape[0] - 1]):
            starts[indices[p] + 1] += 1
        for j in range(d):
            starts[j + 1] += starts[j]
        for i in range(indptr.shape[0] - 1):
            for p in range(indptr[i], indptr[i + 1]):
                j = starts[indices[p]]
                rows[j], values[j] = <int32_t>i, data[p]
                starts[indices[p]] = j + 1
        for j in range(d, 0, -1):
            starts[j] = starts[j - 1]
        starts[0] = 0
