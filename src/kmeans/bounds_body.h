/* Exact bounded iterations (Hamerly 2010) on top of the tile, for one number type and one instruction set.

   Each row keeps an upper bound u of the distance to its centroid and a lower bound l of the distance to every other.
   When centroids move, u grows by the movement of its own and l shrinks by the largest movement among the others; while
   u < l, or u < half the distance from its centroid to the next one, the row can't change and X is not even read.
   Rows that fail are tightened by their true distance, and those that still fail are packed into dense groups for the
   tile (best and second best).  Where nearly all rows of a cell fail, it is searched as it stands.

   Few centroids move at all late in a run, and one bound for all would be lost to the few that move far.  So the
   caller may name active centroids, and each row then has two bounds: `near` for the active ones, l for the others.  A
   row that only `near` fails is compared with the active ones alone (groups as in Ding and others, "Yinyang k-means",
   ICML 2015, but two, and chosen while the run goes on).  A centroid that becomes active takes the rows' l with it.

   Rounding.  With e = machine epsilon of REAL, direct distances are off by less than (d + 8) e relative, squared
   distances from scores by less than E = (d + 8) e (|r|^2 + max |c|^2) absolute.  u is widened by the first, l by
   2 E: once for its own error, once more so that rows whose scores the tile itself can't tell apart are left to it.
   Bounds that are taken from scores and from norms in REAL alike are widened by twice as much. */

INLINE TARGET REAL NAME(direct)(const REAL *RESTRICT x, const REAL *RESTRICT o, const REAL *RESTRICT mu, ptrdiff_t d,
                                double *norm) {
    NAME(hvec) q = {0}, r = {0};
    REAL q_tail = 0, r_tail = 0;
    ptrdiff_t j = 0;
    for (; j + HL <= d; j += HL) {
        const NAME(hvec) row = HLOAD(x + j) - HLOAD(o + j), e = row - HLOAD(mu + j);
        q += e * e;
        r += row * row;
    }
    for (; j < d; j++) {
        const REAL row = x[j] - o[j], e = row - mu[j];
        q_tail += e * e;
        r_tail += row * row;
    }
    *norm = NAME(sum_lanes)(WIDEN(r)) + r_tail;
    return (REAL)(NAME(sum_lanes)(WIDEN(q)) + q_tail);
}

INLINE TARGET REAL NAME(upper_bound)(REAL sqdist, ptrdiff_t d) {
    return (REAL)(sqrt((double)sqdist) * (1 + (double)(d + 8) * EPSILON));
}

INLINE TARGET REAL NAME(lower_bound)(REAL second, double norm, const nearest_memo *memo, ptrdiff_t d) {
    const double error = 2 * (double)(d + 8) * EPSILON * (norm + memo->largest_norm);
    const double square = norm - 2 * (double)second - error;
    return (REAL)(square > 0 ? sqrt(square) * (1 - 2 * (double)EPSILON) : 0);
}

/* Bounds of every row of a group right after `search` with second best, from the scores. */
TARGET static void NAME(start_bounds)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t m,
                                      const NAME(scratch) * s, REAL *upper, REAL *lower) {
    REAL u[VL], l[VL];
    const REAL share = (REAL)(2 * (job->d + 8) * EPSILON), largest = (REAL)(memo->largest_norm * (1 + EPSILON));
    for (ptrdiff_t i = 0; i < m; i += VL) {
        const NAME(vec) norm = LOAD(s->norms + i), error = (norm + SPLAT(largest)) * SPLAT(share);
        const NAME(vec) near = norm - SPLAT(2) * LOAD(s->best + i) + error;
        const NAME(vec) far = norm - SPLAT(2) * LOAD(s->second + i) - SPLAT(2) * error;
        STORE(u, SQRT(MAX(near, SPLAT(0))) * SPLAT(1 + 2 * EPSILON));
        STORE(l, SQRT(MAX(far, SPLAT(0))) * SPLAT(1 - 2 * EPSILON));
        for (ptrdiff_t lane = 0; lane < VL && i + lane < m; lane++) {
            upper[i + lane] = u[lane];
            lower[i + lane] = l[lane];
        }
    }
}

/* Bounds after the centroids moved, and which rows they no longer protect; returns how many. */
INLINE TARGET ptrdiff_t NAME(move_bounds)(const nearest_memo *memo, ptrdiff_t m, ptrdiff_t k, const int32_t *RESTRICT labels,
                                          REAL *RESTRICT upper, REAL *RESTRICT lower, REAL *RESTRICT near,
                                          uint16_t *RESTRICT failed, const int grouped) {
    const REAL *RESTRICT moved = (const REAL *)memo->moved, *RESTRICT drop = (const REAL *)memo->drop;
    const REAL *RESTRICT near_drop = (const REAL *)memo->near_drop, *RESTRICT joined = (const REAL *)memo->joined;
    const REAL *RESTRICT gap = (const REAL *)memo->gap;
    const REAL up = 1 + EPSILON, down = 1 - EPSILON;
    ptrdiff_t n_failed = 0, i = 0;
#if HAS_GATHER
#if HAS_LOOKUP
    if (k <= VL && !grouped) { /* the tables fit a register each; the caller padded them */
        const NAME(vec) moves = LOAD(moved), drops = LOAD(drop), gaps = LOAD(gap);
        for (; i + VL <= m; i += VL) {
            const NAME(ivec) c = LABELS(labels + i);
            const NAME(vec) u = (LOAD(upper + i) + LOOKUP(moves, c)) * SPLAT(up);
            const NAME(vec) l = (LOAD(lower + i) - LOOKUP(drops, c)) * SPLAT(down);
            unsigned open = BITS(GREATER(MAX(l, LOOKUP(gaps, c)), u)) ^ ALL_BITS;
            STORE(upper + i, u);
            STORE(lower + i, l);
            for (; open; open &= open - 1) failed[n_failed++] = (uint16_t)(i + __builtin_ctz(open));
        }
    }
#endif
    for (; i + VL <= m; i += VL) {
        const NAME(ivec) c = LABELS(labels + i);
        const NAME(vec) before = LOAD(lower + i), u = (LOAD(upper + i) + GATHER(moved, c)) * SPLAT(up);
        NAME(vec) l = (before - GATHER(drop, c)) * SPLAT(down);
        STORE(upper + i, u);
        STORE(lower + i, l);
        if (grouped) {
            const NAME(vec) left = LOAD(near + i) - GATHER(near_drop, c), taken = before - GATHER(joined, c);
            const NAME(vec) a = MIN(left, taken) * SPLAT(down);
            STORE(near + i, a);
            l = MIN(l, a);
        }
        unsigned open = BITS(GREATER(MAX(l, GATHER(gap, c)), u)) ^ ALL_BITS;
        for (; open; open &= open - 1) failed[n_failed++] = (uint16_t)(i + __builtin_ctz(open));
    }
#endif
    (void)k;
    for (; i < m; i++) {
        const int32_t c = labels[i];
        const REAL before = lower[i], u = (upper[i] + moved[c]) * up;
        REAL l = (before - drop[c]) * down;
        upper[i] = u;
        lower[i] = l;
        if (grouped) {
            const REAL left = near[i] - near_drop[c], taken = before - joined[c], a = (left < taken ? left : taken) * down;
            near[i] = a;
            l = l < a ? l : a;
        }
        failed[n_failed] = (uint16_t)i;
        n_failed += !((u < l) | (u < gap[c]));
    }
    return n_failed;
}

/* Every row of a grid cell against every centroid: labels, bounds, and the list of rows that changed. */
TARGET static ptrdiff_t NAME(search_cell)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                          ptrdiff_t stop, const NAME(scratch) * s) {
    const ptrdiff_t d = job->d, rows = NAME(rows)(job->k, d);
    ptrdiff_t n_changed = 0;
    for (ptrdiff_t g = start; g < stop; g += rows) {
        const ptrdiff_t m = stop - g < rows ? stop - g : rows;
        const REAL *x = (const REAL *)job->x + g * d;
        NAME(search)(job, x, m, s, 1);
        NAME(start_bounds)(job, memo, m, s, (REAL *)memo->upper + g, (REAL *)memo->lower + g);
        for (ptrdiff_t i = 0; i < m; i++) {
            const int32_t before = job->labels[g + i], now = (int32_t)s->nearest[i];
            memo->changes[start + n_changed] = (uint32_t)before << CELL_BITS | (uint32_t)(g - start + i);
            n_changed += before != now;
            job->labels[g + i] = now;
            if (memo->active) ((REAL *)memo->near)[g + i] = ((REAL *)memo->lower)[g + i];
        }
    }
    return n_changed;
}

/* Rows of a cell that wait for a search: numbers in the cell, and squared norms. */
typedef struct {
    ptrdiff_t n;
    uint16_t row[CELL_ROWS];
    double norm[CELL_ROWS];
} NAME(queue);

INLINE void NAME(enqueue)(NAME(queue) * queue, ptrdiff_t i, double norm) {
    queue->row[queue->n] = (uint16_t)i;
    queue->norm[queue->n++] = norm;
}

/* The rows of a queue from number g on, `m` of them, one after the other. */
INLINE const REAL *NAME(packed_rows)(const REAL *X, ptrdiff_t d, const NAME(queue) * queue, ptrdiff_t g, ptrdiff_t m,
                                     REAL *room) {
    const uint16_t *row = queue->row + g;
    if (row[m - 1] - row[0] + 1 == m && row[0] <= row[m - 1]) return X + row[0] * d; /* neighbours */
    for (ptrdiff_t i = 0; i < m; i++) memcpy(room + i * d, X + row[i] * d, (size_t)d * REAL_BYTES);
    return room;
}

/* Notes that row i of the cell at `start` left its centroid for `now`. */
INLINE TARGET void NAME(change)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start, ptrdiff_t i,
                                int32_t now, ptrdiff_t *n_changed) {
    const ptrdiff_t d = job->d;
    double norm;
    const REAL sqdist = NAME(direct)((const REAL *)job->x + (start + i) * d, (const REAL *)job->origin,
                                     (const REAL *)job->centers + now * d, d, &norm);
    memo->changes[start + (*n_changed)++] = (uint32_t)job->labels[start + i] << CELL_BITS | (uint32_t)i;
    ((REAL *)memo->upper)[start + i] = NAME(upper_bound)(sqdist, d);
    job->labels[start + i] = now;
}

/* Compares the rows of `queue` with the active centroids; those that a passive one may have kept go to `open`. */
TARGET NOINLINE void NAME(search_active)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                         const NAME(queue) * queue, NAME(queue) * open, void *memory,
                                         ptrdiff_t *n_changed) {
    const nearest_job *active = memo->active;
    const ptrdiff_t d = job->d, rows = NAME(rows)(active->k, d);
    const REAL *X = (const REAL *)job->x + start * d;
    const REAL *upper = (const REAL *)memo->upper + start;
    REAL *near = (REAL *)memo->near + start;
    NAME(scratch) s;
    NAME(carve)(&s, (char *)memory, active->k, d);
    for (ptrdiff_t g = 0; g < queue->n; g += rows) {
        const ptrdiff_t m = queue->n - g < rows ? queue->n - g : rows;
        NAME(search)(active, NAME(packed_rows)(X, d, queue, g, m, s.packed), m, &s, 1);
        for (ptrdiff_t f = 0; f < m; f++) {
            const ptrdiff_t i = queue->row[g + f];
            const double norm = queue->norm[g + f];
            const int32_t c = job->labels[start + i], best = memo->active_index[s.nearest[f]];
            const REAL others = NAME(lower_bound)(memo->is_active[c] ? s.second[f] : s.best[f], norm, memo, d);
            if (!memo->is_active[c] && upper[i] >= others) {
                NAME(enqueue)(open, i, norm);
                continue;
            }
            near[i] = others;
            if (memo->is_active[c] && best != c) NAME(change)(job, memo, start, i, best, n_changed);
        }
    }
}

/* Compares the rows of `queue` with all centroids. */
TARGET NOINLINE void NAME(search_open)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                       const NAME(queue) * queue, void *memory, ptrdiff_t *n_changed) {
    const ptrdiff_t d = job->d, rows = NAME(rows)(job->k, d);
    const REAL *X = (const REAL *)job->x + start * d;
    REAL *lower = (REAL *)memo->lower + start;
    NAME(scratch) s;
    NAME(carve)(&s, (char *)memory, job->k, d);
    for (ptrdiff_t g = 0; g < queue->n; g += rows) {
        const ptrdiff_t m = queue->n - g < rows ? queue->n - g : rows;
        NAME(search)(job, NAME(packed_rows)(X, d, queue, g, m, s.packed), m, &s, 1);
        for (ptrdiff_t f = 0; f < m; f++) {
            const ptrdiff_t i = queue->row[g + f];
            const int32_t now = (int32_t)s.nearest[f];
            lower[i] = NAME(lower_bound)(s.second[f], queue->norm[g + f], memo, d);
            if (memo->active) ((REAL *)memo->near)[start + i] = lower[i];
            if (now != job->labels[start + i]) NAME(change)(job, memo, start, i, now, n_changed);
        }
    }
}

/* Rows of one grid cell: bounds, labels, and the list of rows that changed, as (old label << 11 | row in the cell) from
   memo->changes[start] on.  Returns their number. */
TARGET static ptrdiff_t NAME(bounded_cell)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                           ptrdiff_t stop, void *memory) {
    const ptrdiff_t d = job->d, k = job->k, m = stop - start;
    const REAL *X = (const REAL *)job->x + start * d, *o = (const REAL *)job->origin;
    const REAL *centers = (const REAL *)job->centers;
    const REAL *RESTRICT gap = (const REAL *)memo->gap;
    REAL *upper = (REAL *)memo->upper + start, *lower = (REAL *)memo->lower + start;
    REAL *near = memo->active ? (REAL *)memo->near + start : NULL;
    const int32_t *labels = job->labels + start;
    uint16_t failed[CELL_ROWS];
    NAME(queue) open, nearly; /* to be compared with all centroids, with the active ones */
    ptrdiff_t n_changed = 0;
    const ptrdiff_t n_failed = near ? NAME(move_bounds)(memo, m, k, labels, upper, lower, near, failed, 1)
                                    : NAME(move_bounds)(memo, m, k, labels, upper, lower, near, failed, 0);
    open.n = nearly.n = 0;
    if (!memo->active && n_failed * (k + SINGLE_ROW) >= m * k) {
        NAME(scratch) s;
        NAME(carve)(&s, (char *)memory, k, d);
        return NAME(search_cell)(job, memo, start, stop, &s);
    }
    for (ptrdiff_t f = 0; f < n_failed; f++) {
        const ptrdiff_t i = failed[f];
        const int32_t c = labels[i];
        double norm;
        PREFETCH(X + failed[f + 12 < n_failed ? f + 12 : f] * d); /* failed rows lie too far apart for the hardware */
        const REAL u = NAME(upper_bound)(NAME(direct)(X + i * d, o, centers + c * d, d, &norm), d);
        upper[i] = u;
        if ((u < lower[i] && (!near || u < near[i])) || u < gap[c]) continue;
        NAME(enqueue)(u < lower[i] ? &nearly : &open, i, norm);
    }
    if (nearly.n) NAME(search_active)(job, memo, start, &nearly, &open, memory, &n_changed);
    NAME(search_open)(job, memo, start, &open, memory, &n_changed);
    return n_changed;
}

/* What the changed rows of one cell do to counts and to the sums of features j0 .. j1. */
TARGET static void NAME(apply_changes)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                       ptrdiff_t n_changed, ptrdiff_t j0, ptrdiff_t j1, double *delta) {
    const ptrdiff_t d = job->d, k = job->k;
    const REAL *RESTRICT o = (const REAL *)job->origin;
    for (ptrdiff_t f = 0; f < n_changed; f++) {
        const uint32_t change = memo->changes[start + f];
        const ptrdiff_t i = start + (ptrdiff_t)(change & (CELL_ROWS - 1)), before = (ptrdiff_t)(change >> CELL_BITS);
        const ptrdiff_t now = job->labels[i];
        const double w = job->w ? ((const REAL *)job->w)[i] : 1.0;
        const REAL *RESTRICT x = (const REAL *)job->x + i * d;
        double *RESTRICT from = delta + k + before * d, *RESTRICT to = delta + k + now * d;
        if (j0 == 0) {
            delta[before] -= w;
            delta[now] += w;
        }
        for (ptrdiff_t j = j0; j < j1; j++) {
            const double r = w * (double)(REAL)(x[j] - o[j]);
            from[j] -= r;
            to[j] += r;
        }
    }
}
