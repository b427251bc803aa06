/* What is done with the winner, for one number type and one instruction set: distances, counts, sums and inertia. */

/* Distances from (x - c) of rows start .. start + m, and their counts, sums and inertia; row-wise. */
INLINE TARGET void NAME(settle)(const nearest_job *job, ptrdiff_t start, ptrdiff_t m, const NAME(scratch) * s,
                                double *stats, NAME(dvec) * inertia, double *inertia_tail, const int sums,
                                const int weighted, const int each) {
    const ptrdiff_t d = job->d, k = job->k;
    const REAL *RESTRICT o = (const REAL *)job->origin;
    for (ptrdiff_t i = 0; i < m; i++) {
        const ptrdiff_t c = (ptrdiff_t)s->nearest[i];
        const REAL *RESTRICT x = (const REAL *)job->x + (start + i) * d;
        const REAL *RESTRICT mu = (const REAL *)job->centers + c * d;
        double *RESTRICT sum = stats + k + c * d;
        const double w = weighted ? ((const REAL *)job->w)[start + i] : 1.0;
        NAME(hvec) q0 = {0}, q1 = {0};
        REAL tail = 0;
        ptrdiff_t j = 0;
        for (; j + 2 * HL <= d; j += 2 * HL) {
            const NAME(hvec) r0 = HLOAD(x + j) - HLOAD(o + j), r1 = HLOAD(x + j + HL) - HLOAD(o + j + HL);
            const NAME(hvec) e0 = r0 - HLOAD(mu + j), e1 = r1 - HLOAD(mu + j + HL);
            q0 += e0 * e0;
            q1 += e1 * e1;
            if (sums) {
                DVEC(sum + j) += WIDEN(r0) * w;
                DVEC(sum + j + HL) += WIDEN(r1) * w;
            }
        }
        q0 += q1;
        for (; j + HL <= d; j += HL) {
            const NAME(hvec) r0 = HLOAD(x + j) - HLOAD(o + j), e0 = r0 - HLOAD(mu + j);
            q0 += e0 * e0;
            if (sums) DVEC(sum + j) += WIDEN(r0) * w;
        }
        for (; j < d; j++) {
            const REAL r = x[j] - o[j], e = r - mu[j];
            tail += e * e;
            if (sums) sum[j] += r * w;
        }
        if (sums) {
            stats[c] += w;
            *inertia += WIDEN(q0) * w;
            *inertia_tail += tail * w;
        }
        if (each) ((REAL *)job->sqdist)[start + i] = (REAL)(NAME(sum_lanes)(WIDEN(q0)) + tail);
    }
}

/* ---- records too large for a cache (by_centroid.pxi): inertia cell by cell, sums centroid by centroid; the bits of `settle` ---- */

/* Whether cells are settled row by row. */
static int NAME(by_rows)(ptrdiff_t k, ptrdiff_t d) { return !NAME(few)(k, d) && !NAME(sorted)(k, d); }

/* The inertia of rows start .. stop whose labels are known. */
TARGET static double NAME(spread)(const nearest_job *job, ptrdiff_t start, ptrdiff_t stop) {
    const ptrdiff_t d = job->d;
    const REAL *RESTRICT o = (const REAL *)job->origin;
    NAME(dvec) inertia = {0};
    double inertia_tail = 0;
    for (ptrdiff_t i = start; i < stop; i++) {
        const REAL *RESTRICT x = (const REAL *)job->x + i * d;
        const REAL *RESTRICT mu = (const REAL *)job->centers + job->labels[i] * d;
        const double w = job->w ? ((const REAL *)job->w)[i] : 1.0;
        NAME(hvec) q0 = {0}, q1 = {0};
        REAL tail = 0;
        ptrdiff_t j = 0;
        for (; j + 2 * HL <= d; j += 2 * HL) {
            const NAME(hvec) e0 = HLOAD(x + j) - HLOAD(o + j) - HLOAD(mu + j);
            const NAME(hvec) e1 = HLOAD(x + j + HL) - HLOAD(o + j + HL) - HLOAD(mu + j + HL);
            q0 += e0 * e0;
            q1 += e1 * e1;
        }
        q0 += q1;
        for (; j + HL <= d; j += HL) {
            const NAME(hvec) e0 = HLOAD(x + j) - HLOAD(o + j) - HLOAD(mu + j);
            q0 += e0 * e0;
        }
        for (; j < d; j++) {
            const REAL e = x[j] - o[j] - mu[j];
            tail += e * e;
        }
        inertia += WIDEN(q0) * w;
        inertia_tail += tail * w;
    }
    return NAME(sum_lanes)(inertia) + inertia_tail;
}

TARGET static void NAME(add)(double *RESTRICT to, const double *RESTRICT from, ptrdiff_t size) {
    for (ptrdiff_t i = 0; i < size; i++) to[i] += from[i];
}

/* Adds features j0 .. j1 of a row to `sum`, or to zeros. */
INLINE TARGET void NAME(add_row)(const nearest_job *job, ptrdiff_t i, ptrdiff_t j0, ptrdiff_t width, double *RESTRICT sum,
                                 const int fresh) {
    const REAL *RESTRICT x = (const REAL *)job->x + i * job->d + j0, *RESTRICT o = (const REAL *)job->origin + j0;
    const double w = job->w ? ((const REAL *)job->w)[i] : 1.0;
    const NAME(dvec) zero = {0};
    ptrdiff_t j = 0;
    for (; j + HL <= width; j += HL) DVEC(sum + j) = (fresh ? zero : DVEC(sum + j)) + WIDEN(HLOAD(x + j) - HLOAD(o + j)) * w;
    for (; j < width; j++) {
        const REAL r = x[j] - o[j];
        sum[j] = (fresh ? 0 : sum[j]) + r * w;
    }
}

/* Sums of features j0 .. j1 of one centroid's rows, `count` numbers in order, to `sum`: cell by cell, merged by the tree
   over cells.  Cells without such a row would add zeros, and are left out: two neighbours among the others meet where the
   numbers of their cells begin to differ.  `stack` has room for so many sums as the tree has levels. */
TARGET static void NAME(gather)(const nearest_job *job, const int64_t *rows, ptrdiff_t count, ptrdiff_t j0, ptrdiff_t j1,
                                double *sum, double *stack) {
    const ptrdiff_t width = j1 - j0;
    int64_t cells[64];
    int top = 0;
    if (count == 0) memset(sum, 0, (size_t)width * sizeof(double));
    for (ptrdiff_t i = 0; i < count;) {
        const int64_t cell = rows[i] / CELL_ROWS;
        double *own = top ? stack + (top - 1) * width : sum;
        for (int fresh = 1; i < count && rows[i] / CELL_ROWS == cell; i++, fresh = 0) {
            if (i + GATHER_AHEAD < count) {
                const REAL *next = (const REAL *)job->x + rows[i + GATHER_AHEAD] * job->d + j0;
                for (ptrdiff_t line = 0; line < width; line += 64 / REAL_BYTES) PREFETCH(next + line);
            }
            if (fresh)
                NAME(add_row)(job, rows[i], j0, width, own, 1);
            else
                NAME(add_row)(job, rows[i], j0, width, own, 0);
        }
        cells[top++] = cell;
        while (top > 1 && (i == count || (cells[top - 2] ^ cells[top - 1]) < (cells[top - 1] ^ (rows[i] / CELL_ROWS)))) {
            top--;
            NAME(add)(top > 1 ? stack + (top - 2) * width : sum, stack + (top - 1) * width, width);
        }
    }
}

/* Weights (k,) of rows start .. stop whose labels are known. */
static void NAME(weigh)(const nearest_job *job, ptrdiff_t start, ptrdiff_t stop, double *counts) {
    memset(counts, 0, (size_t)job->k * sizeof(double));
    for (ptrdiff_t i = start; i < stop; i++) counts[job->labels[i]] += job->w ? ((const REAL *)job->w)[i] : 1.0;
}

/* ---- the same for a batch of groups in which each centroid has several rows: rows are taken centroid by centroid, so
   that a sum is loaded, and widened to float64, once for all of them ---- */

/* Row numbers of a batch centroid by centroid; end[c] becomes where those of centroid c end. */
TARGET NOINLINE void NAME(sort_rows)(const int32_t *RESTRICT labels, ptrdiff_t m, ptrdiff_t k,
                                     uint16_t *RESTRICT order, int32_t *RESTRICT end) {
    for (ptrdiff_t c = 0; c <= k; c++) end[c] = 0;
    for (ptrdiff_t i = 0; i < m; i++) end[labels[i] + 1]++;
    for (ptrdiff_t c = 0; c < k; c++) end[c + 1] += end[c];
    for (ptrdiff_t i = 0; i < m; i++) order[end[labels[i]]++] = (uint16_t)i;
}

typedef struct {
    const REAL *x, *w, *o, *mu; /* w: NULL for unit weights */
    ptrdiff_t d;
    const uint16_t *row;        /* numbers of the rows of one centroid */
    ptrdiff_t count;
    double *sum;
    NAME(dvec) inertia;
    REAL fresh[VL]; /* 1 in the lanes of the last vector of features that no whole vector holds */
} NAME(run);

/* Adds the lanes of v to the numbers at `to` in turn, or half upon half with step 0. */
INLINE TARGET void NAME(widen_into)(double *to, const int step, NAME(vec) v) {
    REAL buffer[VL];
    STORE(buffer, v);
    for (int h = 0; h < VL; h += HL) DVEC(to + h * step) += WIDEN(HLOAD(buffer + h));
}

/* nv vectors of features from j on, nr rows at a time, sums in registers. */
INLINE TARGET void NAME(sum_rows)(NAME(run) * a, ptrdiff_t j, ptrdiff_t first, ptrdiff_t last, const int nv,
                                   const int nr, const int weighted, const int partly) {
    NAME(vec) total[GV], q[GV], shift[GV], center[GV];
    const NAME(vec) fresh = LOAD(a->fresh);
    const REAL *RESTRICT x = a->x + j;
    UNROLL for (int v = 0; v < nv; v++) {
        shift[v] = LOAD(a->o + j + v * VL);
        center[v] = LOAD(a->mu + j + v * VL);
    }
    UNROLL for (int v = 0; v < nv * nr; v++) total[v] = q[v] = SPLAT(0);
    for (ptrdiff_t i = first; i < last; i += nr) {
        UNROLL for (int t = 0; t < nr; t++) {
            const ptrdiff_t number = a->row[i + t];
            const NAME(vec) weight = SPLAT(weighted ? a->w[number] : 1);
            UNROLL for (int v = 0; v < nv; v++) {
                NAME(vec) r = LOAD(x + number * a->d + v * VL) - shift[v], e = r - center[v];
                if (partly) {
                    r = r * fresh;
                    e = e * fresh;
                }
                if (weighted) {
                    total[t * nv + v] = FMA(r, weight, total[t * nv + v]);
                    q[t * nv + v] = FMA(e * weight, e, q[t * nv + v]);
                } else {
                    total[t * nv + v] += r;
                    q[t * nv + v] = FMA(e, e, q[t * nv + v]);
                }
            }
        }
    }
    UNROLL for (int t = 1; t < nr; t++) UNROLL for (int v = 0; v < nv; v++) total[v] += total[t * nv + v];
    UNROLL for (int v = 0; v < nv; v++) NAME(widen_into)(a->sum + j + v * VL, 1, total[v]);
    UNROLL for (int v = 1; v < nv * nr; v++) q[0] += q[v];
    NAME(widen_into)((double *)&a->inertia, 0, q[0]);
}

INLINE TARGET void NAME(settle_centroid)(NAME(run) * a, const int weighted) {
    const ptrdiff_t d = a->d, whole = d / VL, n = a->count;
    ptrdiff_t v = 0;
    for (; v + GV <= whole; v += GV) NAME(sum_rows)(a, v * VL, 0, n, GV, 1, weighted, 0);
    for (; v + GV / 2 <= whole; v += GV / 2) {
        NAME(sum_rows)(a, v * VL, 0, n / 2 * 2, GV / 2, 2, weighted, 0);
        if (n % 2) NAME(sum_rows)(a, v * VL, n - 1, n, GV / 2, 1, weighted, 0);
    }
    for (; v < whole; v++) {
        NAME(sum_rows)(a, v * VL, 0, n / GV * GV, 1, GV, weighted, 0);
        NAME(sum_rows)(a, v * VL, n / GV * GV, n, 1, 1, weighted, 0);
    }
    if (d % VL) NAME(sum_rows)(a, d - VL, 0, n, 1, 1, weighted, 1);
}

TARGET NOINLINE void NAME(settle_sorted)(const nearest_job *job, const int32_t *labels, ptrdiff_t start, ptrdiff_t m,
                                         double *stats, NAME(dvec) * inertia) {
    const ptrdiff_t d = job->d, k = job->k;
    int32_t end[SORTED_CENTROIDS + 1];
    uint16_t order[CELL_ROWS];
    NAME(run) a;
    a.x = (const REAL *)job->x + start * d;
    a.w = job->w ? (const REAL *)job->w + start : NULL;
    a.o = (const REAL *)job->origin;
    a.d = d;
    a.inertia = *inertia;
    for (int lane = 0; lane < VL; lane++) a.fresh[lane] = lane >= VL - d % VL;
    NAME(sort_rows)(labels, m, k, order, end);
    for (ptrdiff_t c = 0; c < k; c++) {
        const ptrdiff_t first = c ? end[c - 1] : 0;
        a.mu = (const REAL *)job->centers + c * d;
        a.sum = stats + k + c * d;
        if (a.w)
            for (ptrdiff_t i = first; i < end[c]; i++) stats[c] += a.w[order[i]];
        else
            stats[c] += (double)(end[c] - first);
        for (ptrdiff_t i = first; i < end[c]; i += a.count) { /* REAL adds up a limited number of rows */
            a.row = order + i;
            a.count = end[c] - i < FLOAT_ROWS ? end[c] - i : FLOAT_ROWS;
            if (a.w)
                NAME(settle_centroid)(&a, 1);
            else
                NAME(settle_centroid)(&a, 0);
        }
    }
    *inertia = a.inertia;
}

#if HAS_LOOKUP
/* Few centroids: counts, sums and inertia of a block straight from its transposed copy, by masks. */
INLINE TARGET void NAME(few_block)(const int nv, const ptrdiff_t d, ptrdiff_t k, const REAL *RESTRICT xt,
                                   const INT *nearest, const REAL *weight, const REAL *table, REAL *RESTRICT masked) {
    NAME(ivec) c[NV];
    NAME(vec) w[NV], q[NV], inertia = LOAD(masked + k * (d + 1) * VL);
    UNROLL for (int v = 0; v < nv; v++) {
        c[v] = ILOAD(nearest + v * VL);
        w[v] = LOAD(weight + v * VL);
        q[v] = SPLAT(0);
    }
    for (ptrdiff_t j = 0; j < d; j++) {
        const NAME(vec) mu = LOAD(table + j * VL);
        UNROLL for (int v = 0; v < nv; v++) {
            const NAME(vec) e = LOAD(xt + (j * nv + v) * VL) - LOOKUP(mu, c[v]);
            q[v] = FMA(e, e, q[v]);
        }
    }
    UNROLL for (int v = 0; v < nv; v++) inertia = FMA(q[v], w[v], inertia);
    STORE(masked + k * (d + 1) * VL, inertia);
    for (ptrdiff_t i = 0; i < k; i++) {
        REAL *RESTRICT sum = masked + i * (d + 1) * VL;
        NAME(vec) count = LOAD(sum), mine[NV];
        UNROLL for (int v = 0; v < nv; v++) {
            mine[v] = KEEP(EQUAL(c[v], ISPLAT(i)), w[v]);
            count += mine[v];
        }
        STORE(sum, count);
        for (ptrdiff_t j = 0; j < d; j++) {
            NAME(vec) total = LOAD(sum + (1 + j) * VL);
            UNROLL for (int v = 0; v < nv; v++) total = FMA(mine[v], LOAD(xt + (j * nv + v) * VL), total);
            STORE(sum + (1 + j) * VL, total);
        }
    }
}

TARGET static void NAME(few_group)(const nearest_job *job, ptrdiff_t start, ptrdiff_t m, const NAME(scratch) * s) {
    const ptrdiff_t d = job->d, k = job->k, vectors = (m + VL - 1) / VL, full = vectors / NV;
    const REAL *table = (const REAL *)job->packed + k * d + k, *given = (const REAL *)job->w;
    REAL *w = s->second; /* the second best is not wanted here */
    for (ptrdiff_t i = 0; i < vectors * VL; i++) w[i] = i < m ? (given ? given[start + i] : 1) : 0;
    for (ptrdiff_t vector = 0; vector < vectors; vector += vector < full * NV ? NV : 1) {
        const REAL *xt = s->xt + vector * VL * d;
        const INT *nearest = s->nearest + vector * VL;
        const REAL *weight = w + vector * VL;
        if (vector >= full * NV)
            NAME(few_block)(1, d, k, xt, nearest, weight, table, s->masked);
        else if (d == 1)
            NAME(few_block)(NV, 1, k, xt, nearest, weight, table, s->masked);
        else if (d == 2)
            NAME(few_block)(NV, 2, k, xt, nearest, weight, table, s->masked);
        else if (d == 3)
            NAME(few_block)(NV, 3, k, xt, nearest, weight, table, s->masked);
        else
            NAME(few_block)(NV, d, k, xt, nearest, weight, table, s->masked);
    }
    for (ptrdiff_t i = 0; i < (k * (d + 1) + 1) * VL; i++) {
        s->wide[i] += s->masked[i];
        s->masked[i] = 0;
    }
}

static void NAME(few_finish)(const nearest_job *job, const NAME(scratch) * s, double *stats) {
    const ptrdiff_t d = job->d, k = job->k;
    for (ptrdiff_t i = 0; i < k * (d + 1) + 1; i++) {
        const ptrdiff_t c = i / (d + 1), j = i % (d + 1);
        double total = 0;
        for (int lane = 0; lane < VL; lane++) total += s->wide[i * VL + lane];
        stats[c == k ? k + k * d : j == 0 ? c : k + c * d + j - 1] = total;
    }
}
#endif
