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

/* Squared distances of nv vectors of rows to nc candidates, by differences; meanwhile the rows at `ahead` are fetched. */
INLINE TARGET void NAME(seed_tile)(const int nv, const int nc, const REAL *RESTRICT xt, const REAL *RESTRICT c,
                                   ptrdiff_t d, const char *ahead, REAL *RESTRICT sqdist) {
    NAME(vec) q[SEED_TILE][2];
    UNROLL for (int l = 0; l < nc; l++) UNROLL for (int v = 0; v < nv; v++) q[l][v] = SPLAT(0);
    for (ptrdiff_t j = 0; j < d; j++, xt += nv * VL) {
        NAME(vec) x[2];
        PREFETCH(ahead + j * 2 * VL * REAL_BYTES);
        PREFETCH(ahead + j * 2 * VL * REAL_BYTES + 64);
        UNROLL for (int v = 0; v < nv; v++) x[v] = LOAD(xt + v * VL);
        UNROLL for (int l = 0; l < nc; l++) {
            const NAME(vec) b = SPLAT(c[l * d + j]);
            UNROLL for (int v = 0; v < nv; v++) {
                const NAME(vec) e = x[v] - b;
                q[l][v] = FMA(e, e, q[l][v]);
            }
        }
    }
    UNROLL for (int l = 0; l < nc; l++) UNROLL for (int v = 0; v < nv; v++)
        STORE(sqdist + (l * 2 + v) * VL, q[l][v]);
}

TARGET static void NAME(seed_distances)(int nv, ptrdiff_t k, const REAL *xt, const REAL *c, ptrdiff_t d,
                                        const char *ahead, REAL *sqdist) {
    ptrdiff_t l = 0;
    for (; l + SEED_TILE <= k; l += SEED_TILE) {
        if (nv == 2)
            NAME(seed_tile)(2, SEED_TILE, xt, c + l * d, d, ahead, sqdist + l * 2 * VL);
        else
            NAME(seed_tile)(1, SEED_TILE, xt, c + l * d, d, ahead, sqdist + l * 2 * VL);
    }
    for (; l < k; l++) {
        if (nv == 2)
            NAME(seed_tile)(2, 1, xt, c + l * d, d, ahead, sqdist + l * 2 * VL);
        else
            NAME(seed_tile)(1, 1, xt, c + l * d, d, ahead, sqdist + l * 2 * VL);
    }
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
    double total = 0;

    for (ptrdiff_t i = 0; i < m; i++) {
        open[n_open] = (uint16_t)i;
        n_open += closest[i] > least[seeds[i]];
    }
    if (2 * n_open > m) /* neighbouring rows are cheaper to read than to pick */
        for (n_open = 0; n_open < m; n_open++) open[n_open] = (uint16_t)n_open;
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
        for (ptrdiff_t l = first_scored; l < k; l++)
            for (ptrdiff_t lane = 0; lane < VL; lane++) out[l] += (double)fall[l * VL + lane];
    }
    for (ptrdiff_t i = 0; i < m; i++) total += (double)(w ? w[i] : 1) * (double)closest[i];
    out[k] = total;
}
