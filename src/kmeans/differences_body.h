/* Distances from differences, and the second look at rows that the tile's scores can't decide.

   A score x.c - |c|^2 / 2 is off by at most g (|x| |c| + |c|^2 / 2), norms taken from the origin, g the roundings of one
   sum times half the machine epsilon of REAL.  Neither the centroid found nor the nearest one lies farther from the origin
   than C = |x| + |x - c|, c the one found, or than the farthest of all; so the tile has decided where the best and the
   second score are farther apart than 2 g (|x| C + C^2 / 2), at most 2 g (2.5 |x|^2 + 1.5 |x - c|^2).  All other rows are
   compared by their differences: on ordinary data a few in a thousand.  Where scores were kept, because features come in
   several chunks, only with the centroids whose scores are that close, two as a rule; else with all, at three times the
   cost of the tile and for as many rows as two vectors hold, however few there are (a quarter of an assignment at 768 x 1000).

   Where the centroids lie far apart beside their distances from the origin, no row needs that, and the second best score
   is not taken: see `doubt`. */

/* Machine epsilons by which a score may be off, relative to the sum of its terms' magnitudes. */
static double NAME(rounding)(ptrdiff_t k, ptrdiff_t d) {
    const ptrdiff_t chunk = NAME(chunk)(d), added = chunk + (d - 1) / chunk; /* chunks are added up then */
    return 0.5 * EPSILON * (double)(NAME(flat)(k, d) ? d / VL + VL + 8 : added + 8); /* the flat tile sums VL by VL */
}

/* Squared distances of nv vectors of rows to nc centroids, by differences; meanwhile the rows at `ahead` are fetched. */
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
    for (ptrdiff_t l = 0; l < k; l += SEED_TILE) {
        const REAL *from = c + l * d;
        REAL *to = sqdist + l * 2 * VL;
        switch (k - l) {
        case 1: nv == 2 ? NAME(seed_tile)(2, 1, xt, from, d, ahead, to) : NAME(seed_tile)(1, 1, xt, from, d, ahead, to); break;
        case 2: nv == 2 ? NAME(seed_tile)(2, 2, xt, from, d, ahead, to) : NAME(seed_tile)(1, 2, xt, from, d, ahead, to); break;
        case 3: nv == 2 ? NAME(seed_tile)(2, 3, xt, from, d, ahead, to) : NAME(seed_tile)(1, 3, xt, from, d, ahead, to); break;
        default:
            nv == 2 ? NAME(seed_tile)(2, SEED_TILE, xt, from, d, ahead, to)
                    : NAME(seed_tile)(1, SEED_TILE, xt, from, d, ahead, to);
        }
    }
}

/* The norm of the farthest centroid if scores may call one nearest whose squared distance exceeds the least by a share of
   half the digits of REAL; else 0.  Rows between two centroids are at least half their gap h away; with t = |c| / h the
   share is at most 2 g ((t + 1) (t + 2) + (t + 2)^2 / 2).  Gaps are looked at where that costs less than taking the second
   best score.  The answer does not depend on the rows, so that a row's label does not depend on the others. */
TARGET NOINLINE double NAME(doubt)(const nearest_job *job) {
    const ptrdiff_t d = job->d, k = job->k;
    const REAL *centers = (const REAL *)job->centers, *half = (const REAL *)job->half_norms;
    const double share = 2 * NAME(rounding)(k, d), most = 4 * sqrt((double)EPSILON);
    double farthest = 0, gap[FEW_PAIRS];
    int doubtful = k > FEW_PAIRS;
    if (k == 1) return 0;
    for (ptrdiff_t a = 0; a < k; a++) farthest = half[a] > farthest ? half[a] : farthest;
    for (ptrdiff_t a = 0; a < k && !doubtful; a++) gap[a] = INFINITY;
    for (ptrdiff_t a = 0; a < k && !doubtful; a++) {
        for (ptrdiff_t b = a + 1; b < k; b++) {
            const REAL *p = centers + a * d, *q = centers + b * d;
            NAME(hvec) total = {0};
            REAL tail = 0;
            ptrdiff_t j = 0;
            for (; j + HL <= d; j += HL) {
                const NAME(hvec) e = HLOAD(p + j) - HLOAD(q + j);
                total += e * e;
            }
            for (; j < d; j++) tail += (p[j] - q[j]) * (p[j] - q[j]);
            const double sqdist = NAME(sum_lanes)(WIDEN(total)) + tail;
            if (!(sqdist > 0)) continue; /* of equal centroids the first is taken, whatever their score */
            if (sqdist < gap[a]) gap[a] = sqdist;
            if (sqdist < gap[b]) gap[b] = sqdist;
        }
        const double t = sqrt(8 * (double)half[a] / gap[a]);
        doubtful = !(share * ((t + 1) * (t + 2) + (t + 2) * (t + 2) / 2) <= most);
    }
    return doubtful ? sqrt(2 * farthest) * (1 + 2 * (double)EPSILON) : 0;
}

/* Which of at most VL centroids is the nearest to `row`, x - o, and how far it and the next are, by the sums of
   `look_again`; `nearest` is one of them. */
INLINE TARGET void NAME(decide_among)(const nearest_job *job, const REAL *RESTRICT row, const INT *among, ptrdiff_t n,
                                      REAL *RESTRICT turned, INT *nearest, REAL *first, REAL *second) {
    const ptrdiff_t d = job->d;
    REAL lane[VL];
    NAME(vec) q = SPLAT(0);
    for (ptrdiff_t l = 0; l < n; l++) { /* what the other lanes hold is not looked at */
        const REAL *center = (const REAL *)job->centers + among[l] * d;
        for (ptrdiff_t j = 0; j < d; j++) turned[j * VL + l] = center[j];
    }
    for (ptrdiff_t j = 0; j < d; j++) {
        const NAME(vec) e = SPLAT(row[j]) - LOAD(turned + j * VL);
        q = FMA(e, e, q);
    }
    STORE(lane, q);
    *first = *second = INFINITY;
    for (ptrdiff_t l = 0; l < n; l++) {
        const int better = lane[l] < *first || (lane[l] == *first && among[l] < *nearest);
        *second = better ? *first : lane[l] < *second ? lane[l] : *second;
        *nearest = better ? among[l] : *nearest;
        *first = better ? lane[l] : *first;
    }
}

/* Compares rows of a group with all centroids by differences, 2 VL at a time. */
TARGET NOINLINE void NAME(look_again)(const nearest_job *job, const REAL *x, const uint16_t *open, ptrdiff_t n_open,
                                      const NAME(scratch) * s) {
    const ptrdiff_t d = job->d, k = job->k;
    const REAL *o = (const REAL *)job->origin, *centers = (const REAL *)job->centers;
    REAL sqdist[SEED_TILE * 2 * VL], first[2 * VL], second[2 * VL];
    INT nearest[2 * VL];
    for (ptrdiff_t g = 0; g < n_open; g += 2 * VL) {
        const ptrdiff_t m = n_open - g < 2 * VL ? n_open - g : 2 * VL;
        for (ptrdiff_t lane = 0; lane < 2 * VL; lane++) {
            const REAL *row = x + open[g + (lane < m ? lane : m - 1)] * d;
            for (ptrdiff_t j = 0; j < d; j++) s->again[j * 2 * VL + lane] = row[j] - o[j];
            first[lane] = second[lane] = INFINITY;
            nearest[lane] = 0;
        }
        for (ptrdiff_t c = 0; c < k; c += SEED_TILE) {
            const ptrdiff_t some = k - c < SEED_TILE ? k - c : SEED_TILE;
            NAME(seed_distances)(2, some, s->again, centers + c * d, d, (const char *)s->again, sqdist);
            for (ptrdiff_t l = 0; l < some; l++)
                for (ptrdiff_t lane = 0; lane < 2 * VL; lane++) {
                    const REAL q = sqdist[l * 2 * VL + lane], before = first[lane];
                    second[lane] = q < before ? before : q < second[lane] ? q : second[lane];
                    nearest[lane] = q < before ? (INT)(c + l) : nearest[lane];
                    first[lane] = q < before ? q : before;
                }
        }
        for (ptrdiff_t lane = 0; lane < m; lane++) {
            const ptrdiff_t i = open[g + lane];
            s->nearest[i] = nearest[lane];
            s->best[i] = (s->norms[i] - first[lane]) / 2;
            s->second[i] = (s->norms[i] - second[lane]) / 2;
        }
    }
}

/* Centroids whose scores, left by `scan`, are not below the best of row i by more than `doubt`: no other can be the
   nearest.  Returns how many, of which VL are noted. */
TARGET static ptrdiff_t NAME(in_doubt)(const nearest_job *job, ptrdiff_t m, ptrdiff_t i, REAL doubt, const NAME(scratch) * s,
                                       INT *among) {
    const ptrdiff_t k = job->k, panels = (k + NK - 1) / NK, vectors = (m + VL - 1) / VL, full = vectors / NV * NV;
    const ptrdiff_t of = i / VL, first = of < full ? of / NV * NV : of, step = of < full ? BLOCK : VL;
    ptrdiff_t n = 0;
    for (ptrdiff_t p = 0; p < panels; p++) {
        const ptrdiff_t k0 = p * k / panels, nk = (p + 1) * k / panels - k0;
        const REAL *score = s->partial + k0 * vectors * VL + first * VL * nk + (i - first * VL);
        for (ptrdiff_t c = 0; c < nk; c++) {
            if (s->best[i] - score[c * step] > doubt) continue;
            if (n < VL) among[n] = (INT)(k0 + c);
            n++;
        }
    }
    return n;
}

/* Rows of a group that scores can't decide: of `n_open` numbers, those that are left because too many centroids are
   close, and how many these are.  No other centroid's score is above the best less the doubt, which stands for the
   second's where no other is known to be nearer. */
TARGET NOINLINE ptrdiff_t NAME(decide)(const nearest_job *job, const REAL *x, ptrdiff_t m, uint16_t *open,
                                       const REAL *doubts, ptrdiff_t n_open, const NAME(scratch) * s) {
    const ptrdiff_t d = job->d;
    const REAL *o = (const REAL *)job->origin;
    REAL *row = s->again + VL * d, first, second;
    INT among[VL];
    ptrdiff_t n_left = 0;
    for (ptrdiff_t t = 0; t < n_open; t++) {
        const ptrdiff_t i = open[t], n = NAME(in_doubt)(job, m, i, doubts[t], s, among);
        if (n < 1 || n > VL) {
            open[n_left++] = (uint16_t)i;
            continue;
        }
        for (ptrdiff_t j = 0; j < d; j++) row[j] = x[i * d + j] - o[j];
        s->nearest[i] = among[0];
        NAME(decide_among)(job, row, among, n, s->again, s->nearest + i, &first, &second);
        const REAL others = s->best[i] - doubts[t], next = (s->norms[i] - second) / 2;
        s->best[i] = (s->norms[i] - first) / 2;
        s->second[i] = next > others ? next : others;
    }
    return n_left;
}

/* Nearest centroid of each of the `m` rows at `x`, at most one group, as `scan` leaves it. */
TARGET static void NAME(search)(const nearest_job *job, const REAL *x, ptrdiff_t m, const NAME(scratch) * s,
                                int want_second) {
    NAME(scan)(job, x, m, s, want_second || job->look > 0);
    if (!(job->look > 0)) return;
    uint16_t open[MAX_BLOCKS * BLOCK + VL];
    REAL doubts[MAX_BLOCKS * BLOCK + VL], doubt[VL], lane[VL];
    const REAL share = (REAL)(2.1 * NAME(rounding)(job->k, job->d)), far = (REAL)job->look;
    const int kept = NAME(chunk)(job->d) < job->d && !NAME(flat)(job->k, job->d);
    ptrdiff_t n_open = 0;
    for (ptrdiff_t i = 0; i < m; i += VL) {
        const NAME(vec) norm = LOAD(s->norms + i), best = LOAD(s->best + i);
        const NAME(vec) sqdist = MAX(norm - SPLAT(2) * best, SPLAT(0)) + SPLAT(8 * share) * norm;
        const NAME(vec) near = SPLAT((REAL)2.5) * norm + SPLAT((REAL)1.5) * sqdist;
        const NAME(vec) any = SPLAT((REAL)0.5) * norm + SPLAT(far * far); /* |x| far <= (|x|^2 + far^2) / 2 */
        const NAME(vec) off = SPLAT(share) * MIN(near, any), left = (best - LOAD(s->second + i)) - off;
#if HAS_GATHER
        if (BITS(GREATER(left, SPLAT(0))) == ALL_BITS) continue; /* NaN, too, is looked at */
#endif
        STORE(doubt, off);
        STORE(lane, left);
        for (ptrdiff_t t = 0; t < VL; t++) {
            open[n_open] = (uint16_t)(i + t);
            doubts[n_open] = doubt[t];
            n_open += !(lane[t] > 0);
        }
    }
    while (n_open && open[n_open - 1] >= m) n_open--; /* lanes beyond the last row */
    if (kept && n_open) n_open = NAME(decide)(job, x, m, open, doubts, n_open, s);
    if (n_open) NAME(look_again)(job, x, open, n_open, s);
}

#define SLOPPY(d) (4 * (double)((d) + 16) * EPSILON) /* by which squared distances may differ that are equal to rounding */

/* Squared distance of x - o to a centroid by differences of the rows' type: off by SLOPPY of itself, and by what the
   rounding of x - o does, (|x - o| + D) EPSILON / 2 in D. */
INLINE TARGET REAL NAME(roughly)(const REAL *RESTRICT x, const REAL *RESTRICT o, const REAL *RESTRICT c, ptrdiff_t d) {
    NAME(vec) q[4] = {SPLAT(0), SPLAT(0), SPLAT(0), SPLAT(0)};
    REAL total = 0;
    ptrdiff_t j = 0;
    for (; j + 4 * VL <= d; j += 4 * VL) UNROLL for (int t = 0; t < 4; t++) {
            const NAME(vec) e = (LOAD(x + j + t * VL) - LOAD(o + j + t * VL)) - LOAD(c + j + t * VL);
            q[t] = FMA(e, e, q[t]);
        }
    for (; j < d; j++) total += ((x[j] - o[j]) - c[j]) * ((x[j] - o[j]) - c[j]);
    return NAME(sum_of)((q[0] + q[1]) + (q[2] + q[3])) + total;
}

/* What a squared distance must not exceed to tie a row, and what it must not by `roughly`. */
typedef struct {
    double most, roughly;
} NAME(tie);

/* That of row `i` and its own centroid; returns whether there is anything to gain. */
INLINE int NAME(aim_tie)(const nearest_job *job, ptrdiff_t i, ptrdiff_t own, NAME(tie) * tie) {
    const ptrdiff_t d = job->d;
    const REAL *x = (const REAL *)job->x + i * d, *o = (const REAL *)job->origin, *c = (const REAL *)job->centers + own * d;
    double norm = 0, centred = 0, sqdist = 0;
    for (ptrdiff_t j = 0; j < d; j++) {
        const double e = (double)x[j] - (double)o[j] - (double)c[j];
        norm += (double)x[j] * x[j];
        centred += ((double)x[j] - (double)o[j]) * ((double)x[j] - (double)o[j]);
        sqdist += e * e;
    }
    tie->most = sqdist + TIES * EPSILON * sqrt(sqdist) * (sqrt(sqdist) + sqrt(norm));
    tie->roughly = tie->most * (1 + SLOPPY(d)) + 4 * EPSILON * sqrt(tie->most) * (sqrt(centred) + sqrt(tie->most));
    tie->roughly += 4 * (double)EPSILON * EPSILON * centred;
    return sqdist > 0;
}

/* Whether row `i` is as near to another centroid, by differences in float64. */
INLINE TARGET int NAME(ties_with)(const nearest_job *job, ptrdiff_t i, ptrdiff_t other, const NAME(tie) * tie) {
    const ptrdiff_t d = job->d;
    const REAL *x = (const REAL *)job->x + i * d, *o = (const REAL *)job->origin, *c = (const REAL *)job->centers + other * d;
    double sqdist = 0;
    if (NAME(roughly)(x, o, c, d) > tie->roughly) return 0;
    for (ptrdiff_t j = 0; j < d; j++) {
        const double e = (double)x[j] - (double)o[j] - (double)c[j];
        sqdist += e * e;
    }
    return sqdist <= tie->most;
}

/* Whether row `i` is as near to another centroid as to its own.  What is left of the rows that a score can't decide is
   worth to be looked at outside: of rows in general position none. */
TARGET NOINLINE int NAME(is_tied)(const nearest_job *job, ptrdiff_t i, ptrdiff_t own) {
    NAME(tie) tie;
    if (!NAME(aim_tie)(job, i, own, &tie)) return 0;
    for (ptrdiff_t c = 0; c < job->k; c++)
        if (c != own && NAME(ties_with)(job, i, c, &tie)) return 1;
    return 0;
}

/* Notes which of the `m` rows from row `g` on, just searched, are as near to two centroids. */
TARGET static void NAME(note_ties)(const nearest_job *job, ptrdiff_t g, ptrdiff_t m, const NAME(scratch) * s) {
    const REAL share = (REAL)(2.1 * NAME(rounding)(job->k, job->d));
    int32_t *tied = job->tied + g / CELL_ROWS * CELL_ROWS, *n_tied = job->n_tied + g / CELL_ROWS;
    REAL lane[VL];
    for (ptrdiff_t i = 0; i < m; i += VL) {
        const NAME(vec) norm = LOAD(s->norms + i), best = LOAD(s->best + i);
        const NAME(vec) sqdist = MAX(norm - SPLAT(2) * best, SPLAT(0)) + SPLAT(8 * share) * norm;
        const NAME(vec) near = SPLAT((REAL)2.5) * norm + SPLAT((REAL)1.5) * sqdist;
        const NAME(vec) left = (best - LOAD(s->second + i)) - SPLAT(share) * near;
#if HAS_GATHER
        if (BITS(GREATER(left, SPLAT(0))) == ALL_BITS) continue;
#endif
        STORE(lane, left);
        for (ptrdiff_t t = 0; t < VL && i + t < m; t++)
            if (!(lane[t] > 0) && NAME(is_tied)(job, g + i + t, (ptrdiff_t)s->nearest[i + t]))
                tied[(*n_tied)++] = (int32_t)(g + i + t);
    }
}

/* Squared distances (n, k) of rows start .. stop to all centroids, by differences. */
TARGET static void NAME(distances)(const nearest_job *job, ptrdiff_t start, ptrdiff_t stop, void *memory) {
    const ptrdiff_t d = job->d, k = job->k;
    const REAL *centers = (const REAL *)job->centers;
    REAL *xt = (REAL *)memory, sqdist[SEED_TILE * 2 * VL];
    for (ptrdiff_t i = start; i < stop; i += 2 * VL) {
        const ptrdiff_t m = stop - i < 2 * VL ? stop - i : 2 * VL;
        NAME(transpose)((const REAL *)job->x + i * d, d, m, 2, (const REAL *)job->origin, d, xt);
        for (ptrdiff_t c = 0; c < k; c += SEED_TILE) {
            const ptrdiff_t some = k - c < SEED_TILE ? k - c : SEED_TILE;
            NAME(seed_distances)(2, some, xt, centers + c * d, d, (const char *)xt, sqdist);
            for (ptrdiff_t lane = 0; lane < m; lane++)
                for (ptrdiff_t l = 0; l < some; l++)
                    ((REAL *)job->sqdist)[(i + lane) * k + c + l] = sqdist[l * 2 * VL + lane];
        }
    }
}

/* ---- vectors as they lie ---- */

/* Squared distance of two vectors of `d` numbers, d at least VL. */
INLINE TARGET REAL NAME(between)(const REAL *RESTRICT a, const REAL *RESTRICT b, ptrdiff_t d) {
    NAME(vec) q[4] = {SPLAT(0), SPLAT(0), SPLAT(0), SPLAT(0)};
    REAL tail = 0;
    ptrdiff_t j = 0;
    for (; j + 4 * VL <= d; j += 4 * VL) UNROLL for (int t = 0; t < 4; t++) {
            const NAME(vec) e = LOAD(a + j + t * VL) - LOAD(b + j + t * VL);
            q[t] = FMA(e, e, q[t]);
        }
    for (; j + VL <= d; j += VL) {
        const NAME(vec) e = LOAD(a + j) - LOAD(b + j);
        q[0] = FMA(e, e, q[0]);
    }
    for (; j < d; j++) tail += (a[j] - b[j]) * (a[j] - b[j]);
    return NAME(sum_of)((q[0] + q[1]) + (q[2] + q[3])) + tail;
}

/* Squared norm of a vector, at least. */
INLINE TARGET double NAME(square_of)(const REAL *RESTRICT a, ptrdiff_t d) {
    NAME(vec) q[4] = {SPLAT(0), SPLAT(0), SPLAT(0), SPLAT(0)};
    REAL tail = 0;
    ptrdiff_t j = 0;
    for (; j + 4 * VL <= d; j += 4 * VL) UNROLL for (int t = 0; t < 4; t++) {
            const NAME(vec) e = LOAD(a + j + t * VL);
            q[t] = FMA(e, e, q[t]);
        }
    for (; j < d; j++) tail += a[j] * a[j];
    return (double)(NAME(sum_of)((q[0] + q[1]) + (q[2] + q[3])) + tail) * (1 + (double)(d + 8) * EPSILON);
}

/* `between` of two vectors and a third, to the same bits. */
INLINE TARGET void NAME(between_two)(const REAL *RESTRICT a, const REAL *RESTRICT b, const REAL *RESTRICT c, ptrdiff_t d,
                                     REAL *RESTRICT out) {
    NAME(vec) q[4] = {SPLAT(0), SPLAT(0), SPLAT(0), SPLAT(0)}, p[4] = {SPLAT(0), SPLAT(0), SPLAT(0), SPLAT(0)};
    REAL tail[2] = {0, 0};
    ptrdiff_t j = 0;
    for (; j + 4 * VL <= d; j += 4 * VL) UNROLL for (int t = 0; t < 4; t++) {
            const NAME(vec) center = LOAD(c + j + t * VL);
            const NAME(vec) e = LOAD(a + j + t * VL) - center, g = LOAD(b + j + t * VL) - center;
            q[t] = FMA(e, e, q[t]);
            p[t] = FMA(g, g, p[t]);
        }
    for (; j + VL <= d; j += VL) {
        const NAME(vec) e = LOAD(a + j) - LOAD(c + j), g = LOAD(b + j) - LOAD(c + j);
        q[0] = FMA(e, e, q[0]);
        p[0] = FMA(g, g, p[0]);
    }
    for (; j < d; j++) {
        tail[0] += (a[j] - c[j]) * (a[j] - c[j]);
        tail[1] += (b[j] - c[j]) * (b[j] - c[j]);
    }
    out[0] = NAME(sum_of)((q[0] + q[1]) + (q[2] + q[3])) + tail[0];
    out[1] = NAME(sum_of)((p[0] + p[1]) + (p[2] + p[3])) + tail[1];
}
