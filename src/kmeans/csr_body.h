/* Rows of a CSR matrix against dense centroids.

   The centroids lie features first (d, k), so that one value of a row meets k numbers that lie together: time goes with
   values x centroids, whatever the number of features.  A score is x.c - |c|^2 / 2 from zero; where the best two are no
   farther apart than rounding allows, and where a squared distance is small beside the norms that it is the difference of,
   they are computed in twice the precision (Ogita, Rump and Oishi, "Accurate sum and dot product", SIAM Journal on
   Scientific Computing 26, 2005): duplicates of a centroid lie at distance 0, and of equally near centroids the first wins. */

#define CSR_VECTORS 8  /* accumulators of one pass over a row's values */
#define CSR_AHEAD 16   /* values whose centroids are fetched meanwhile */
#define CSR_SMALL 0.05 /* squared distance, beside |x|^2 + |c|^2, below which it is computed in twice the precision */
#define CSR_LARGE 0.25 /* and from which a float32 score tells it to a few of its roundings */

/* `fetch`: the panel is too large for the second-level cache. */
INLINE TARGET void NAME(csr_tile)(const int nv, const int fetch, const csr_job *job, ptrdiff_t first, ptrdiff_t last,
                                  ptrdiff_t c0, REAL *RESTRICT scores) {
    const ptrdiff_t k = job->k, end = (ptrdiff_t)job->indptr[job->n] - 1;
    const REAL *panel = (const REAL *)job->panel + c0, *half = (const REAL *)job->half + c0;
    const REAL *data = (const REAL *)job->data;
    const int32_t *indices = job->indices;
    NAME(vec) even[CSR_VECTORS], odd[CSR_VECTORS]; /* few sums would wait for themselves */
    ptrdiff_t p = first;
    UNROLL for (int v = 0; v < nv; v++) {
        even[v] = odd[v] = SPLAT(0);
        if (!job->scale) even[v] = even[v] - LOAD(half + v * VL); /* else the last step of csr_scores */
    }
    for (; p + 1 < last; p += 2) {
        const REAL *c = panel + (ptrdiff_t)indices[p] * k, *next = panel + (ptrdiff_t)indices[p + 1] * k;
        const NAME(vec) x = SPLAT(data[p]), y = SPLAT(data[p + 1]);
        if (fetch) {
            const REAL *ahead = panel + (ptrdiff_t)indices[p + CSR_AHEAD < end ? p + CSR_AHEAD : end] * k;
            const REAL *after = panel + (ptrdiff_t)indices[p + CSR_AHEAD < end ? p + CSR_AHEAD + 1 : end] * k;
            UNROLL for (int v = 0; v < nv; v++) {
                PREFETCH(ahead + v * VL);
                PREFETCH(after + v * VL);
            }
        }
        UNROLL for (int v = 0; v < nv; v++) {
            even[v] = FMA(x, LOAD(c + v * VL), even[v]);
            odd[v] = FMA(y, LOAD(next + v * VL), odd[v]);
        }
    }
    if (p < last) {
        const REAL *c = panel + (ptrdiff_t)indices[p] * k;
        UNROLL for (int v = 0; v < nv; v++) even[v] = FMA(SPLAT(data[p]), LOAD(c + v * VL), even[v]);
    }
    UNROLL for (int v = 0; v < nv; v++) STORE(scores + c0 + v * VL, even[v] + odd[v]);
}

#define CSR_TILES(nv)                                                                                       \
    case nv:                                                                                                \
        if (job->fetch)                                                                                     \
            NAME(csr_tile)(nv, 1, job, first, last, v * VL, scores);                                        \
        else                                                                                                \
            NAME(csr_tile)(nv, 0, job, first, last, v * VL, scores);                                        \
        break;

/* Scores (k,) of the row whose values are `first` to `last`; in the vectors' lanes beyond k they are -infinity. */
TARGET static void NAME(csr_scores)(const csr_job *job, ptrdiff_t first, ptrdiff_t last, REAL *scores) {
    const ptrdiff_t k = job->k, wide = (k + VL - 1) / VL;
    for (ptrdiff_t v = 0; v < wide; v += CSR_VECTORS) switch (wide - v < CSR_VECTORS ? wide - v : CSR_VECTORS) {
            CSR_TILES(1)
            CSR_TILES(2)
            CSR_TILES(3)
            CSR_TILES(4)
            CSR_TILES(5)
            CSR_TILES(6)
            CSR_TILES(7)
            CSR_TILES(8)
        }
    if (job->scale) {
        const REAL *scale = (const REAL *)job->scale, *half = (const REAL *)job->half;
        for (ptrdiff_t c = 0; c < k; c += VL) STORE(scores + c, FMA(LOAD(scores + c), LOAD(scale + c), SPLAT(0) - LOAD(half + c)));
    }
    for (ptrdiff_t c = k; c < wide * VL; c++) scores[c] = -INFINITY;
}

INLINE double NAME(csr_scale_of)(const csr_job *job, ptrdiff_t c) {
    return job->scale ? (double)((const REAL *)job->scale)[c] : 1.0;
}

/* The first of the largest scores, and the largest but one of `two`. */
TARGET static ptrdiff_t NAME(csr_best)(const REAL *scores, ptrdiff_t k, REAL *two) {
    NAME(vec) best = SPLAT(-INFINITY), second = best;
    NAME(ivec) nearest = ISPLAT(0);
    REAL bests[VL], seconds[VL];
    INT at[VL];
    for (ptrdiff_t c = 0; c < k; c += VL) {
        const NAME(vec) score = LOAD(scores + c);
        const MASK better = GREATER(score, best);
        second = MAX(second, MIN(score, best));
        best = MAX(score, best);
        nearest = IPICK(better, ISPLAT(c), nearest);
    }
    STORE(bests, best);
    STORE(seconds, second);
    ISTORE(at, nearest);
    UNROLL for (int span = VL / 2; span > 0; span /= 2) UNROLL for (int lane = 0; lane < span; lane++) {
        const int other = lane + span, later = at[other] + other > at[lane] + lane;
        const int takes = bests[other] > bests[lane] || (bests[other] == bests[lane] && !later);
        const REAL lower = takes ? bests[lane] : bests[other];
        const REAL of_both = seconds[lane] > seconds[other] ? seconds[lane] : seconds[other];
        seconds[lane] = of_both > lower ? of_both : lower;
        bests[lane] = takes ? bests[other] : bests[lane];
        at[lane] = takes ? at[other] + span : at[lane];
    }
    two[0] = bests[0], two[1] = seconds[0];
    return at[0];
}

/* Adds a product to a sum in twice the precision: sum[0] + sum[1] += x y. */
#define ADD_PRODUCT(sum, x, y)                                                                              \
    do {                                                                                                    \
        const double product = (x) * (y), lost = __builtin_fma(x, y, -product);                             \
        const double total = (sum)[0] + product, part = total - (sum)[0];                                   \
        (sum)[1] += ((sum)[0] - (total - part)) + (product - part) + lost;                                  \
        (sum)[0] = total;                                                                                   \
    } while (0)

/* Squared distance of a row to centroid `c` in twice the precision: out[0] + out[1]. */
TARGET UNFUSED static void NAME(csr_exact)(const csr_job *job, ptrdiff_t first, ptrdiff_t last, ptrdiff_t c, double *out) {
    const REAL *panel = (const REAL *)job->panel + c, *data = (const REAL *)job->data;
    const double minus_two = -2.0 * NAME(csr_scale_of)(job, c);
    double sum[2] = {job->norms[c], job->norms[job->k + c]};
    for (ptrdiff_t p = first; p < last; p++) {
        const double x = data[p], y = minus_two * (double)panel[(ptrdiff_t)job->indices[p] * job->k];
        ADD_PRODUCT(sum, x, x);
        if (y != 0) ADD_PRODUCT(sum, x, y);
    }
    out[0] = sum[0] + sum[1];
    out[1] = sum[1] - (out[0] - sum[0]);
}

/* Squared distance of a row to centroid `c`, given its score. */
TARGET static double NAME(csr_sqdist)(const csr_job *job, ptrdiff_t i, ptrdiff_t c, REAL score) {
    const ptrdiff_t first = job->indptr[i], last = job->indptr[i + 1];
    const double norms = job->squares[i] + job->norms[c];
    double sqdist = job->squares[i] - 2.0 * (double)score, exact[2];
    if (sizeof(REAL) == 4 && !(sqdist > CSR_LARGE * norms)) { /* the score has half the digits of what follows */
        const float *panel = (const float *)job->panel + c, *data = (const float *)job->data;
        const double two = 2.0 * NAME(csr_scale_of)(job, c);
        double even = job->norms[c], odd = 0;
        ptrdiff_t p = first;
        for (; p + 1 < last; p += 2) {
            even += data[p] * ((double)data[p] - two * panel[(ptrdiff_t)job->indices[p] * job->k]);
            odd += data[p + 1] * ((double)data[p + 1] - two * panel[(ptrdiff_t)job->indices[p + 1] * job->k]);
        }
        if (p < last) even += data[p] * ((double)data[p] - two * panel[(ptrdiff_t)job->indices[p] * job->k]);
        sqdist = even + odd;
    }
    if (sqdist > CSR_SMALL * norms) return sqdist;
    NAME(csr_exact)(job, first, last, c, exact);
    return exact[0] > (double)(last - first + 8) * EPSILON_64 * EPSILON_64 * norms ? exact[0] : 0;
}

/* The nearest centroid of a row among those whose score is at least `least`, decided in twice the precision; and whether
   another is as near. */
TARGET NOINLINE ptrdiff_t NAME(csr_look_again)(const csr_job *job, ptrdiff_t i, const REAL *scores, REAL least) {
    ptrdiff_t found = -1;
    double best[2] = {INFINITY, 0}, exact[2], second = INFINITY;
    for (ptrdiff_t c = 0; c < job->k; c++) {
        if (!(scores[c] >= least)) continue;
        NAME(csr_exact)(job, job->indptr[i], job->indptr[i + 1], c, exact);
        if (found < 0 || exact[0] < best[0] || (exact[0] == best[0] && exact[1] < best[1])) {
            found = c;
            second = best[0];
            best[0] = exact[0], best[1] = exact[1];
        } else if (exact[0] < second)
            second = exact[0];
    }
    if (job->tied && best[0] > 0) {
        const double away = sqrt(best[0]);
        job->tied[i] = second <= best[0] + job->reach * away * (away + sqrt(job->squares[i]));
    }
    return found;
}

/* Nearest centroid, and squared distance to it, of rows start .. stop; to the second nearest, if it is asked for. */
TARGET static void NAME(csr_rows)(const csr_job *job, ptrdiff_t start, ptrdiff_t stop, void *memory) {
    REAL *scores = (REAL *)memory;
    for (ptrdiff_t i = start; i < stop; i++) {
        const ptrdiff_t first = job->indptr[i], last = job->indptr[i + 1];
        REAL two[2];
        NAME(csr_scores)(job, first, last, scores);
        ptrdiff_t c = NAME(csr_best)(scores, job->k, two);
        const double farthest = job->farthest, norm = sqrt(job->squares[i]);
        const REAL doubt = (REAL)((last - first + 4) * (double)EPSILON * (norm * farthest + farthest * farthest));
        if (job->tied) job->tied[i] = 0;
        if (job->k > 1 && !(two[0] - two[1] > doubt)) c = NAME(csr_look_again)(job, i, scores, two[0] - doubt);
        job->labels[i] = (int32_t)c;
        job->sqdist[i] = NAME(csr_sqdist)(job, i, c, scores[c]);
        if (job->second) {
            const double other = job->squares[i] - 2.0 * (double)(scores[c] == two[0] ? two[1] : two[0]);
            job->second[i] = other > job->sqdist[i] ? other : job->sqdist[i];
        }
    }
}

/* Squared distances (n, k) of rows start .. stop to all centroids. */
TARGET static void NAME(csr_distances)(const csr_job *job, ptrdiff_t start, ptrdiff_t stop, void *memory) {
    REAL *scores = (REAL *)memory;
    for (ptrdiff_t i = start; i < stop; i++) {
        REAL *out = (REAL *)job->distances + i * job->k;
        NAME(csr_scores)(job, job->indptr[i], job->indptr[i + 1], scores);
        for (ptrdiff_t c = 0; c < job->k; c++) out[c] = (REAL)NAME(csr_sqdist)(job, i, c, scores[c]);
    }
}

/* Squared norms (k,) over features j0 .. j1, in twice the precision. */
TARGET UNFUSED static void NAME(csr_norms)(const void *centers, ptrdiff_t k, ptrdiff_t j0, ptrdiff_t j1, double *RESTRICT high,
                                           double *RESTRICT low) {
    for (ptrdiff_t c = 0; c < k; c++) high[c] = low[c] = 0;
    for (ptrdiff_t j = j0; j < j1; j++) {
        const REAL *RESTRICT panel = (const REAL *)centers + j * k;
        for (ptrdiff_t c = 0; c < k; c++) {
            const double x = panel[c], product = x * x, lost = __builtin_fma(x, x, -product);
            const double total = high[c] + product, part = total - high[c];
            low[c] += ((high[c] - (total - part)) + (product - part)) + lost;
            high[c] = total;
        }
    }
}

/* Means of the rows with each label, features j0 .. j1, from the values by feature; labels without weight keep the old
   centroid.  Returns the squared movement. */
TARGET static double NAME(csr_means)(const csr_table *by, const double *counts, const void *before, ptrdiff_t j0, ptrdiff_t j1,
                                     void *after, double *RESTRICT sums) {
    const ptrdiff_t k = by->k;
    const REAL *data = (const REAL *)by->data, *w = (const REAL *)by->w;
    double moved[8] = {0};
    for (ptrdiff_t c = 0; c < k; c++) sums[c] = 0;
    for (ptrdiff_t j = j0; j < j1; j++) {
        const ptrdiff_t first = by->indptr[j], last = by->indptr[j + 1];
        const REAL *RESTRICT old = (const REAL *)before + j * k;
        REAL *RESTRICT fresh = (REAL *)after + j * k;
        for (ptrdiff_t p = first; p < last; p++) {
            const int32_t i = by->indices[p];
            sums[by->labels[i]] += w ? (double)w[i] * data[p] : (double)data[p];
        }
        if (last - first < k / 2) {
            memset(fresh, 0, (size_t)k * sizeof(REAL));
            for (ptrdiff_t p = first; p < last; p++) {
                const int32_t c = by->labels[by->indices[p]];
                if (counts[c] > 0) fresh[c] = (REAL)(sums[c] / counts[c]);
            }
            for (ptrdiff_t p = first; p < last; p++) sums[by->labels[by->indices[p]]] = 0;
        } else
            for (ptrdiff_t c = 0; c < k; c++) {
                fresh[c] = (REAL)(sums[c] / (counts[c] > 0 ? counts[c] : 1)); /* a vector at a time */
                sums[c] = 0;
            }
        for (ptrdiff_t q = 0; q < by->n_kept; q++) fresh[by->kept[q]] = old[by->kept[q]];
        ptrdiff_t c = 0;
        for (; c + 8 <= k; c += 8) UNROLL for (int t = 0; t < 8; t++) {
                const double step = (double)fresh[c + t] - (double)old[c + t];
                moved[t] += step * step;
            }
        for (; c < k; c++) {
            const double step = (double)fresh[c] - (double)old[c];
            moved[0] += step * step;
        }
    }
    return ((moved[0] + moved[4]) + (moved[1] + moved[5])) + ((moved[2] + moved[6]) + (moved[3] + moved[7]));
}

/* The cluster that row `i` of weight `w` and cluster `a` gains most by moving to, the first of equals, or -1: as
   `better_cluster` of moves.pxi, distances in twice the precision.  `scratch` (2, k). */
TARGET UNFUSED static ptrdiff_t NAME(csr_better)(const csr_partition *of, ptrdiff_t i, double w, ptrdiff_t a, double *scratch) {
    const ptrdiff_t k = of->k, first = of->indptr[i], last = of->indptr[i + 1];
    const REAL *data = (const REAL *)of->data;
    double *RESTRICT high = scratch, *RESTRICT low = scratch + k; /* products with the sums, then distances */
    double square[2] = {0, 0};
    for (ptrdiff_t c = 0; c < k; c++) high[c] = low[c] = 0;
    for (ptrdiff_t p = first; p < last; p++) {
        const double x = data[p], *RESTRICT sums = of->sums + (ptrdiff_t)of->indices[p] * k;
        ADD_PRODUCT(square, x, x);
        for (ptrdiff_t c = 0; c < k; c++) {
            const double product = x * sums[c], lost = __builtin_fma(x, sums[c], -product);
            const double total = high[c] + product, part = total - high[c];
            low[c] += ((high[c] - (total - part)) + (product - part)) + lost;
            high[c] = total;
        }
    }
    for (ptrdiff_t c = 0; c < k; c++) { /* x.x + (n.n s - 2 x.n) s, for a mean n s */
        const double s = of->counts[c] > 0 ? 1 / of->counts[c] : 1, norm = of->norms[c] * s;
        const double norm_lost = __builtin_fma(of->norms[c], s, -norm) + of->norms[k + c] * s;
        const double y = -2 * high[c], cross = norm + y, part = cross - norm;
        const double cross_lost = ((norm - (cross - part)) + (y - part)) + norm_lost - 2 * low[c];
        const double z = cross * s, z_lost = __builtin_fma(cross, s, -z) + cross_lost * s;
        const double total = square[0] + z, rest = total - square[0];
        const double sqdist = total + (((square[0] - (total - rest)) + (z - rest)) + square[1] + z_lost);
        high[c] = sqdist > 0 ? sqdist : 0;
    }
    ptrdiff_t found = -1;
    double least = high[a] * of->counts[a] / (of->counts[a] - w) * (1 - of->gain), most = INFINITY;
    if (of->reach < INFINITY) {
        const double own = sqrt(high[a]);
        most = high[a] + of->reach * own * (own + sqrt(square[0]));
    }
    for (ptrdiff_t c = 0; c < k; c++) {
        const double cost = high[c] * of->counts[c] / (of->counts[c] + w);
        if (c == a || high[c] > most || !(cost < least)) continue;
        least = cost;
        found = c;
    }
    return found;
}

/* Adds row `i`, times `w`, to the sum of cluster `c`. */
TARGET UNFUSED static void NAME(csr_shift)(const csr_partition *of, ptrdiff_t i, double w, ptrdiff_t c) {
    const REAL *data = (const REAL *)of->data;
    double norm[2] = {of->norms[c], of->norms[of->k + c]};
    for (ptrdiff_t p = of->indptr[i]; p < of->indptr[i + 1]; p++) {
        double *sum = of->sums + (ptrdiff_t)of->indices[p] * of->k + c;
        const double before = *sum, after = before + w * (double)data[p];
        *sum = after;
        ADD_PRODUCT(norm, after, after);
        ADD_PRODUCT(norm, -before, before);
    }
    of->norms[c] = norm[0] + norm[1];
    of->norms[of->k + c] = norm[1] - (of->norms[c] - norm[0]);
}

#undef ADD_PRODUCT
#undef CSR_TILES
#undef CSR_VECTORS
#undef CSR_AHEAD
#undef CSR_SMALL
#undef CSR_LARGE
