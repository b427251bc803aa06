/* Exact search of rows of which nothing is known, by many coordinates of a rotated basis, for one number type and one
   instruction set.

   The bound is that of rotated_body.h.  Where centroids are single rows, which they are when a fit begins, what they lie
   off the leading directions is as much as what rows do, and a few coordinates leave a fifth of all pairs (embeddings,
   d = 960, k = 4000: 0.49 by 15, 0.23 by 62, 0.063 by 190).  Here all centroids are scored by `size` numbers at once, the
   best score makes the guess, and what the bound leaves is compared centroid by centroid with the rows of a group, so
   that a centroid comes from memory once for these.

   Rows are rotated block by block, and nothing is kept of it.

   Floor, n rows, k centroids, a share q of pairs left, f multiply-adds a second: n k size / f + n d size / f + n k q d / f,
   and k d numbers from memory for each group of rows. */

#define BLIND_LEFT 32768 /* pairs that wait to be compared */

typedef struct {
    NAME(group) of;
    REAL *scores;          /* of a block of rows: [centroid][row] */
    uint32_t *ends, *pair; /* where each centroid's pairs end, and the pairs and their v in the order of centroids */
    REAL *bound;
} NAME(blind_group);

/* Rows of a group: whole blocks of the tile, which the second-level cache holds beside a centroid. */
static ptrdiff_t NAME(blind_rows)(ptrdiff_t d) {
    const ptrdiff_t fit = BLIND_BYTES / (d * REAL_BYTES) / BLOCK, most = 240 / BLOCK;
    return BLOCK * (fit < 1 ? 1 : fit > most ? most : fit);
}

static size_t NAME(carve_blind)(NAME(blind_group) * s, char *memory, ptrdiff_t k, ptrdiff_t d) {
    size_t at = NAME(carve_group)(&s->of, memory, 0, d, NAME(blind_rows)(d), BLIND_SIZE, BLIND_LEFT);
    const size_t bytes[] = {(size_t)k * BLOCK * REAL_BYTES, (size_t)(k + 1) * 4, BLIND_LEFT * 4, BLIND_LEFT * REAL_BYTES};
    void **const field[] = {(void **)&s->scores, (void **)&s->ends, (void **)&s->pair, (void **)&s->bound};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        *field[i] = (void *)(memory + at);
        at += (bytes[i] + 127) / 64 * 64;
    }
    return at;
}

static size_t NAME(blind_bytes)(ptrdiff_t k, ptrdiff_t d) {
    NAME(blind_group) s;
    return NAME(carve_blind)(&s, NULL, k, d) + NAME(scratch_bytes)(k, d);
}

/* A block of rows from `row` on, `x` the first: their numbers, side by side, and |y_x|^2 and e_x; lanes beyond the last
   row repeat it. */
TARGET NOINLINE void NAME(rotate_block)(const nearest_job *job, const REAL *x, ptrdiff_t row, NAME(group) * s,
                                        const NAME(scratch) * more) {
    const nearest_rotation *rotation = job->rotation;
    const ptrdiff_t n = rotation->size - 1, m = s->m - row < BLOCK ? s->m - row : BLOCK;
    double left[BLOCK], square[BLOCK] = {0};
    NAME(coordinates)(rotation, x, job->d, m, s->xt, left, more->xt);
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t lane = 0; lane < BLOCK; lane++) square[lane] += (double)s->xt[j * BLOCK + lane] * s->xt[j * BLOCK + lane];
    for (ptrdiff_t lane = 0; lane < BLOCK; lane++) {
        const double rest = left[lane] - square[lane];
        const REAL r = s->xt[n * BLOCK + lane] = (REAL)sqrt(rest > 0 ? rest : rest < 0 ? 0 : rest); /* NaN stays */
        square[lane] += (double)r * r;
        if (row + lane >= s->m) continue;
        s->error[row + lane] = (REAL)NAME(error_of)(square[lane], (double)r, rotation->row_error);
        s->threshold[row + lane] = (REAL)square[lane]; /* until `aim_row` */
    }
}

/* Scores of a block of rows, and which centroid has the best of each. */
TARGET NOINLINE void NAME(score_block)(const nearest_rotation *rotation, ptrdiff_t k, ptrdiff_t row, NAME(blind_group) * s) {
    const ptrdiff_t panels = (k + NK - 1) / NK, size = rotation->size;
    const REAL *packed = (const REAL *)rotation->packed;
    NAME(vec) best[NV];
    NAME(ivec) nearest[NV];
    NAME(tile_args) a;
    memset(&a, 0, sizeof a);
    a.dc = size;
    a.first = 1;
    a.xt = s->of.xt;
    a.ahead = (const char *)packed;
    for (ptrdiff_t p = 0; p < panels; p++) {
        const ptrdiff_t k0 = p * k / panels, nk = (p + 1) * k / panels - k0;
        a.panel = packed + k0 * size;
        a.half = packed + k * size + k0;
        a.partial = s->scores + k0 * BLOCK;
        NAME(tiles)[1][nk - 1](&a);
    }
    UNROLL for (int v = 0; v < NV; v++) {
        best[v] = SPLAT(-INFINITY);
        nearest[v] = ISPLAT(0);
    }
    for (ptrdiff_t c = 0; c < k; c++) UNROLL for (int v = 0; v < NV; v++) {
            const NAME(vec) score = LOAD(s->scores + c * BLOCK + v * VL);
            const MASK better = GREATER(score, best[v]);
            best[v] = MAX(score, best[v]);
            nearest[v] = IPICK(better, ISPLAT(c), nearest[v]);
        }
    UNROLL for (int v = 0; v < NV; v++) ISTORE(s->of.nearest + row + v * VL, nearest[v]);
}

/* Compares the listed pairs, centroid by centroid. */
TARGET NOINLINE void NAME(compare_listed)(const nearest_job *job, NAME(blind_group) * s) {
    const ptrdiff_t k = job->k;
    NAME(group) listed = s->of;
    memset(s->ends, 0, (size_t)(k + 1) * sizeof *s->ends);
    for (ptrdiff_t f = 0; f < s->of.n_left; f++) s->ends[(s->of.left[f] >> 8) + 1]++;
    for (ptrdiff_t c = 0; c < k; c++) s->ends[c + 1] += s->ends[c];
    for (ptrdiff_t f = 0; f < s->of.n_left; f++) {
        const uint32_t at = s->ends[s->of.left[f] >> 8]++;
        s->pair[at] = s->of.left[f];
        s->bound[at] = s->of.bound[f];
    }
    listed.left = s->pair;
    listed.bound = s->bound;
    NAME(compare_many)(job, &listed);
    s->of.n_left = 0;
}

/* Pairs of a block that its scores do not leave out go on the list. */
TARGET NOINLINE void NAME(list_left)(const nearest_job *job, ptrdiff_t row, const REAL *square, NAME(blind_group) * s) {
    const double keep = 1 - (double)(job->rotation->size + 8) * (double)EPSILON; /* as in `aim_row` */
    const REAL *threshold = s->of.threshold + row;
    for (ptrdiff_t c = 0; c < job->k; c++) {
        const REAL *score = s->scores + c * BLOCK;
        if (s->of.n_left > BLIND_LEFT - BLOCK) NAME(compare_listed)(job, s);
        UNROLL for (int v = 0; v < NV; v++) {
#if HAS_GATHER
            unsigned open = BITS(GREATER(LOAD(threshold + v * VL), LOAD(score + v * VL))) ^ ALL_BITS;
            for (; open; open &= open - 1) {
                const int lane = v * VL + __builtin_ctz(open);
#else
            for (int lane = v * VL; lane < (v + 1) * VL; lane++) {
                if (score[lane] < threshold[lane]) continue;
#endif
                const double twice = ((double)square[lane] * keep - 2 * (double)score[lane]) / (1 + A_SHARE);
                s->of.left[s->of.n_left] = (uint32_t)c << 8 | (uint32_t)(row + lane);
                s->of.bound[s->of.n_left++] = (REAL)(twice - 2 * (double)EPSILON * fabs(twice));
            }
        }
    }
}

/* All rows of a group, which lie in `s->of.rows`. */
TARGET static void NAME(search_blind)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                      NAME(blind_group) * s, const NAME(scratch) * more) {
    const ptrdiff_t d = job->d;
    ptrdiff_t n_changed = 0;
    REAL square[BLOCK] = {0};
    for (ptrdiff_t row = 0; row < s->of.m; row += BLOCK) {
        NAME(rotate_block)(job, (const REAL *)job->x + (start + s->of.number[row]) * d, row, &s->of, more);
        NAME(score_block)(job->rotation, job->k, row, s);
        for (ptrdiff_t lane = 0; lane < BLOCK; lane++) {
            const ptrdiff_t r = row + lane;
            if (r >= s->of.m) {
                s->of.threshold[r] = INFINITY;
                continue;
            }
            square[lane] = s->of.threshold[r];
            s->of.guess[r] = s->of.compared[r] = s->of.close[r * VL] = s->of.nearest[r];
            s->of.n_close[r] = 1;
            s->of.extra[r] = 0;
            s->of.best[r] = NAME(between)(s->of.rows + r * d, (const REAL *)job->centers + s->of.nearest[r] * d, d);
            NAME(aim_row)(d, job->rotation->size, r, &s->of);
        }
        NAME(list_left)(job, row, square, s);
    }
    NAME(compare_listed)(job, s);
    NAME(decide_ties)(job, start, &s->of, more);
    NAME(keep_found)(job, memo, start, &s->of, &n_changed);
}

/* Labels, and bounds where there is a memo, of the rows of one grid cell. */
TARGET static void NAME(blind_cell)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start, ptrdiff_t stop,
                                    void *memory) {
    const ptrdiff_t d = job->d, rows = NAME(blind_rows)(d);
    const REAL *RESTRICT o = (const REAL *)job->origin;
    NAME(blind_group) s;
    NAME(scratch) more;
    NAME(carve)(&more, (char *)memory + NAME(carve_blind)(&s, (char *)memory, job->k, d), job->k, d);
    for (ptrdiff_t first = start; first < stop; first += rows) {
        s.of.m = stop - first < rows ? stop - first : rows;
        for (ptrdiff_t r = 0; r < s.of.m; r++) {
            const REAL *RESTRICT x = (const REAL *)job->x + (first + r) * d;
            REAL *RESTRICT row = s.of.rows + r * d;
            for (ptrdiff_t j = 0; j < d; j++) row[j] = x[j] - o[j];
            s.of.number[r] = (uint16_t)(first + r - start);
            s.of.unread[r] = 0;
        }
        NAME(search_blind)(job, memo, start, &s, &more);
    }
}
