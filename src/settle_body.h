/* What is done with the winner, for one number type and one instruction set: distances, counts, sums and inertia. */

INLINE TARGET double NAME(sum_lanes)(NAME(dvec) v) {
    double lane[HL];
    for (int i = 0; i < HL; i++) lane[i] = LANE(v, i);
    UNROLL for (int half = HL / 2; half > 0; half /= 2) UNROLL for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

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

/* The same for a group in which each centroid has several rows: rows are taken centroid by centroid, so that a sum is
   loaded and widened to float64 once for all of them. */
INLINE TARGET void NAME(sum_rows)(const int nv, const REAL *x, ptrdiff_t d, const unsigned char *row, ptrdiff_t count,
                                  const REAL *w, const REAL *o, const REAL *mu, NAME(vec) fresh, double *sum,
                                  NAME(dvec) * inertia, const int weighted, const int partly) {
    NAME(vec) total[GV], q[GV], shift[GV], center[GV];
    REAL buffer[VL];
    UNROLL for (int v = 0; v < nv; v++) {
        total[v] = q[v] = SPLAT(0);
        shift[v] = LOAD(o + v * VL);
        center[v] = LOAD(mu + v * VL);
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        const REAL *RESTRICT from = x + row[i] * d;
        UNROLL for (int v = 0; v < nv; v++) {
            NAME(vec) r = LOAD(from + v * VL) - shift[v], e = r - center[v];
            if (partly) {
                r = r * fresh;
                e = e * fresh;
            }
            if (weighted) {
                const NAME(vec) weight = SPLAT(w[row[i]]);
                total[v] = FMA(r, weight, total[v]);
                q[v] = FMA(e * weight, e, q[v]);
            } else {
                total[v] += r;
                q[v] = FMA(e, e, q[v]);
            }
        }
    }
    UNROLL for (int v = 0; v < nv; v++) {
        STORE(buffer, total[v]);
        for (int h = 0; h < VL; h += HL) DVEC(sum + v * VL + h) += WIDEN(HLOAD(buffer + h));
        STORE(buffer, q[v]);
        for (int h = 0; h < VL; h += HL) *inertia += WIDEN(HLOAD(buffer + h));
    }
}

INLINE TARGET void NAME(settle_sorted)(const nearest_job *job, ptrdiff_t start, ptrdiff_t m, const NAME(scratch) * s,
                                       double *stats, NAME(dvec) * inertia, const int weighted) {
    const ptrdiff_t d = job->d, k = job->k, rest = d % VL;
    const REAL *x = (const REAL *)job->x + start * d, *o = (const REAL *)job->origin;
    const REAL *w = weighted ? (const REAL *)job->w + start : NULL;
    int end[SORTED_CENTROIDS + 1];
    unsigned char order[256];
    REAL fresh[VL];
    for (ptrdiff_t c = 0; c <= k; c++) end[c] = 0;
    for (int lane = 0; lane < VL; lane++) fresh[lane] = lane >= VL - rest;
    for (ptrdiff_t i = 0; i < m; i++) end[s->nearest[i] + 1]++;
    for (ptrdiff_t c = 0; c < k; c++) end[c + 1] += end[c];
    for (ptrdiff_t i = 0; i < m; i++) order[end[s->nearest[i]]++] = (unsigned char)i;
    for (ptrdiff_t c = 0; c < k; c++) {
        const unsigned char *row = order + (c ? end[c - 1] : 0);
        const ptrdiff_t count = order + end[c] - row;
        const REAL *mu = (const REAL *)job->centers + c * d;
        double *sum = stats + k + c * d;
        ptrdiff_t j = 0;
        if (count == 0) continue;
        if (weighted)
            for (ptrdiff_t i = 0; i < count; i++) stats[c] += w[row[i]];
        else
            stats[c] += (double)count;
        for (; j + GV * VL <= d; j += GV * VL)
            NAME(sum_rows)(GV, x + j, d, row, count, w, o + j, mu + j, SPLAT(1), sum + j, inertia, weighted, 0);
        for (; j + VL <= d; j += VL)
            NAME(sum_rows)(1, x + j, d, row, count, w, o + j, mu + j, SPLAT(1), sum + j, inertia, weighted, 0);
        if (rest) /* the last whole vector of features, of which only the last `rest` are new */
            NAME(sum_rows)(1, x + d - VL, d, row, count, w, o + d - VL, mu + d - VL, LOAD(fresh), sum + d - VL, inertia,
                           weighted, 1);
    }
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
