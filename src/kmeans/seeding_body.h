/* For each seed, a quarter of the squared distance to the nearest of `k` candidates, rounded down. */
TARGET static void NAME(seed_gaps)(const void *candidates, ptrdiff_t k, const void *seeds, ptrdiff_t n_seeds, ptrdiff_t d,
                                   void *quarter) {
    for (ptrdiff_t q = 0; q < n_seeds; q++) {
        double least = INFINITY;
        for (ptrdiff_t l = 0; l < k; l++) {
            const REAL *a = (const REAL *)candidates + l * d, *b = (const REAL *)seeds + q * d;
            NAME(hvec) total = {0};
            REAL tail = 0;
            ptrdiff_t j = 0;
            for (; j + HL <= d; j += HL) {
                const NAME(hvec) e = HLOAD(a + j) - HLOAD(b + j);
                total += e * e;
            }
            for (; j < d; j++) tail += (a[j] - b[j]) * (a[j] - b[j]);
            const double sqdist = NAME(sum_lanes)(WIDEN(total)) + tail;
            if (sqdist < least) least = sqdist;
        }
        ((REAL *)quarter)[q] = (REAL)(0.25 * (1 - 4 * (double)(d + 8) * EPSILON) * least);
    }
}

static ptrdiff_t NAME(seed_rows)(ptrdiff_t d) {
    const ptrdiff_t rows = SEED_BYTES / (d * REAL_BYTES) / VL * VL;
    return rows < VL ? VL : rows > 240 / VL * VL ? 240 / VL * VL : rows;
}

static size_t NAME(seed_bytes)(ptrdiff_t d) { return (size_t)((NAME(seed_rows)(d) + 2 * VL) * d) * REAL_BYTES; }

/* Sum of w closest over m rows. */
INLINE TARGET double NAME(potential)(const REAL *closest, const REAL *w, ptrdiff_t m) {
    NAME(dvec) sum[2] = {{0}, {0}};
    double total = 0;
    ptrdiff_t i = 0;
    for (; i + 2 * HL <= m; i += 2 * HL) UNROLL for (int t = 0; t < 2; t++) {
            NAME(dvec) each = WIDEN(HLOAD(closest + i + t * HL));
            if (w) each *= WIDEN(HLOAD(w + i + t * HL));
            sum[t] += each;
        }
    for (; i < m; i++) total += (double)(w ? w[i] : 1) * (double)closest[i];
    return NAME(sum_lanes)(sum[0] + sum[1]) + total;
}

/* A step of greedy k-means++ over one grid cell, with exact pruning (Raff 2021): by the triangle inequality a candidate
   can't be nearer to a row than the row's seed s if |candidate - s| >= 2 |row - s|.  Rows that no candidate can serve are
   not read.  Distances come from (x - c) on transposed rows.

   With a commit, the first candidate becomes a seed before the others are scored.
   out: for each candidate, by how much it lowers sum w closest; then sum w closest itself. */

TARGET static void NAME(seed_cell)(const nearest_job *job, const nearest_seeding *seeding, ptrdiff_t start,
                                   ptrdiff_t stop, double *out, void *memory) {
    const ptrdiff_t d = job->d, k = job->k, m = stop - start;
    const ptrdiff_t rows = NAME(seed_rows)(d), first_scored = seeding->commit >= 0 ? 1 : 0;
    const REAL *X = (const REAL *)job->x + start * d, *o = (const REAL *)job->origin;
    const REAL *w = job->w ? (const REAL *)job->w + start : NULL, *least = (const REAL *)seeding->quarter;
    REAL *RESTRICT closest = (REAL *)seeding->closest + start, *packed = (REAL *)memory, *xt = packed + rows * d;
    int32_t *RESTRICT seeds = seeding->seeds + start;
    REAL sqdist[MAX_CANDIDATES * 2 * VL], fall[MAX_CANDIDATES * VL];
    uint16_t open[CELL_ROWS];
    ptrdiff_t n_open = 0;
    int32_t n_worth = 0;

    for (ptrdiff_t i = 0; i < m; i++) n_worth += closest[i] > least[seeds[i]];
    const int all = 2 * n_worth > m; /* neighbouring rows are cheaper to read than to pick */
    for (ptrdiff_t i = 0; i < m; i++) {
        open[n_open] = (uint16_t)i;
        n_open += all || closest[i] > least[seeds[i]];
    }
    for (ptrdiff_t l = 0; l < k; l++) out[l] = 0;
    for (ptrdiff_t g = 0; g < n_open; g += rows) {
        const ptrdiff_t group = n_open - g < rows ? n_open - g : rows;
        const REAL *x = X + open[g] * d;
        if (open[g + group - 1] - open[g] + 1 != group) {
            for (ptrdiff_t i = 0; i < group; i++) {
                PREFETCH(X + open[g + i + 8 < n_open ? g + i + 8 : g + i] * d);
                memcpy(packed + i * d, X + open[g + i] * d, (size_t)d * REAL_BYTES);
            }
            x = packed;
        }
        memset(fall, 0, (size_t)(k * VL) * REAL_BYTES);
        for (ptrdiff_t row = 0; row < group; row += 2 * VL) {
            const int nv = group - row > VL ? 2 : 1;
            NAME(transpose)(x + row * d, d, group - row < nv * VL ? group - row : nv * VL, nv, o, d, xt);
            NAME(seed_distances)(nv, k, xt, (const REAL *)job->centers, d, (const char *)(x + (row + 2 * VL) * d), sqdist);
            for (int v = 0; v < nv; v++) {
                const uint16_t *RESTRICT index = open + g + row + v * VL;
                const ptrdiff_t left = group - row - v * VL, lanes = left < VL ? left : VL;
                if (all && lanes == VL && seeding->commit != 0) { /* whole vectors; before the first seed all is infinite */
                    REAL *RESTRICT here = closest + index[0];
                    NAME(vec) mass = SPLAT(1);
                    if (w) mass = LOAD(w + index[0]);
                    NAME(vec) before = LOAD(here);
                    if (seeding->commit > 0) {
                        const REAL *RESTRICT q = sqdist + v * VL;
                        int32_t *RESTRICT seed = seeds + index[0];
                        const NAME(vec) after = MIN(before, LOAD(q));
                        for (ptrdiff_t lane = 0; lane < VL; lane++)
                            seed[lane] = q[lane] < here[lane] ? seeding->commit : seed[lane];
                        STORE(fall, FMA(before - after, mass, LOAD(fall)));
                        STORE(here, after);
                        before = after;
                    }
                    for (ptrdiff_t l = first_scored; l < k; l++) {
                        const NAME(vec) gain = MAX(before - LOAD(sqdist + (l * 2 + v) * VL), SPLAT(0));
                        STORE(fall + l * VL, FMA(gain, mass, LOAD(fall + l * VL)));
                    }
                    continue;
                }
                REAL old[VL], weight[VL]; /* lanes beyond the last have nothing to lose */
                for (ptrdiff_t lane = 0; lane < VL; lane++) {
                    old[lane] = lane < lanes ? closest[index[lane]] : 0;
                    weight[lane] = lane < lanes ? (w ? w[index[lane]] : 1) : 0;
                }
                if (seeding->commit >= 0) {
                    const REAL *q = sqdist + v * VL;
                    int any = 0;
                    for (ptrdiff_t lane = 0; lane < VL; lane++) any |= q[lane] < old[lane];
                    for (ptrdiff_t lane = 0; lane < lanes && any; lane++) {
                        const ptrdiff_t i = index[lane];
                        const int nearer = q[lane] < old[lane];
                        /* the fall from infinity, at the first seed, is no number to sum */
                        out[0] += nearer && old[lane] < INFINITY ? (double)weight[lane] * (old[lane] - q[lane]) : 0;
                        old[lane] = nearer ? q[lane] : old[lane];
                        closest[i] = old[lane];
                        seeds[i] = nearer ? seeding->commit : seeds[i];
                    }
                }
                const NAME(vec) before = LOAD(old), mass = LOAD(weight);
                for (ptrdiff_t l = first_scored; l < k; l++) {
                    const NAME(vec) gain = MAX(before - LOAD(sqdist + (l * 2 + v) * VL), SPLAT(0));
                    STORE(fall + l * VL, FMA(gain, mass, LOAD(fall + l * VL)));
                }
            }
        }
        for (ptrdiff_t l = 0; l < k; l++)
            for (ptrdiff_t lane = 0; lane < VL; lane++) out[l] += (double)fall[l * VL + lane];
    }
    out[k] = NAME(potential)(closest, w, m);
}
