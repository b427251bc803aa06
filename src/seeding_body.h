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

static size_t NAME(seed_bytes)(ptrdiff_t d) { return (size_t)((NAME(seed_rows)(d) + VL) * d) * REAL_BYTES; }

/* A step of greedy k-means++ over one grid cell, with exact pruning (Raff 2021): by the triangle inequality a candidate
   can't be nearer to a row than the row's seed s if |candidate - s| >= 2 |row - s|.  Rows that no candidate can serve are
   not read.  Distances come from (x - c) on transposed rows.

   out: for each candidate, by how much it would lower sum w closest; then sum w closest itself, after a commit. */

TARGET static void NAME(seed_cell)(const nearest_job *job, const nearest_seeding *seeding, ptrdiff_t start,
                                   ptrdiff_t stop, double *out, void *memory) {
    const ptrdiff_t d = job->d, k = job->k, m = stop - start;
    const ptrdiff_t rows = NAME(seed_rows)(d);
    const REAL *X = (const REAL *)job->x + start * d, *o = (const REAL *)job->origin;
    const REAL *w = job->w ? (const REAL *)job->w + start : NULL, *least = (const REAL *)seeding->quarter;
    const REAL *centers = (const REAL *)job->centers;
    REAL *RESTRICT closest = (REAL *)seeding->closest + start, *packed = (REAL *)memory, *xt = packed + rows * d;
    int32_t *RESTRICT seeds = seeding->seeds + start;
    uint16_t open[CELL_ROWS];
    ptrdiff_t n_open = 0;
    double total = 0;

    for (ptrdiff_t i = 0; i < m; i++) {
        open[n_open] = (uint16_t)i;
        n_open += closest[i] > least[seeds[i]];
    }
    for (ptrdiff_t l = 0; l < k; l++) out[l] = 0;
    for (ptrdiff_t g = 0; g < n_open; g += rows) {
        const ptrdiff_t group = n_open - g < rows ? n_open - g : rows, vectors = (group + VL - 1) / VL;
        const REAL *x = X + open[g] * d;
        if (open[g + group - 1] - open[g] + 1 != group) {
            for (ptrdiff_t i = 0; i < group; i++)
                memcpy(packed + i * d, X + open[g + i] * d, (size_t)d * REAL_BYTES);
            x = packed;
        }
        for (ptrdiff_t v = 0; v < vectors; v++) {
            const ptrdiff_t row = v * VL, lanes = group - row < VL ? group - row : VL;
            NAME(transpose)(x + row * d, d, lanes, 1, o, d, xt);
            for (ptrdiff_t l = 0; l < k; l++) {
                const REAL *RESTRICT c = centers + l * d;
                NAME(vec) q0 = SPLAT(0), q1 = q0;
                REAL sqdist[VL];
                double gain = 0;
                ptrdiff_t j = 0;
                for (; j + 2 <= d; j += 2) {
                    const NAME(vec) e0 = LOAD(xt + j * VL) - SPLAT(c[j]), e1 = LOAD(xt + (j + 1) * VL) - SPLAT(c[j + 1]);
                    q0 = FMA(e0, e0, q0);
                    q1 = FMA(e1, e1, q1);
                }
                if (j < d) {
                    const NAME(vec) e0 = LOAD(xt + j * VL) - SPLAT(c[j]);
                    q0 = FMA(e0, e0, q0);
                }
                STORE(sqdist, q0 + q1);
                for (ptrdiff_t lane = 0; lane < lanes; lane++) { /* no branch: half of them would be mispredicted */
                    const ptrdiff_t i = open[g + row + lane];
                    const double fall = (double)closest[i] - (double)sqdist[lane];
                    gain += (w ? (double)w[i] : 1) * (fall > 0 ? fall : 0);
                }
                for (ptrdiff_t lane = 0; lane < lanes && seeding->commit >= 0; lane++) {
                    const ptrdiff_t i = open[g + row + lane];
                    const int nearer = sqdist[lane] < closest[i];
                    closest[i] = nearer ? sqdist[lane] : closest[i];
                    seeds[i] = nearer ? seeding->commit : seeds[i];
                }
                out[l] += gain;
            }
        }
    }
    for (ptrdiff_t i = 0; i < m; i++) total += (double)(w ? w[i] : 1) * (double)closest[i];
    out[k] = total;
}
