/* Exact search by few coordinates of a rotated basis, for one number type and one instruction set.

   Let z_x be the coordinates of a row in some orthonormal directions and r_x the norm of the rest.  By Cauchy and Schwarz

       |x - c|^2 >= |z_x - z_c|^2 + (r_x - r_c)^2,

   the squared distance of y_x = (z_x, r_x) and y_c = (z_c, r_c).  Where the directions are the leading principal ones, few
   centroids of many are left that this allows to be nearer than the row's own: some in a hundred after FIRST_SIZE
   numbers, some in a thousand after ROTATED_SIZE, and only these are compared in full.  A row of ROTATED_SIZE numbers
   holds FIRST_SIZE - 1 coordinates, the norm of the rest, further coordinates, and the norm of what they leave.

   Rows of a cell and centroids are taken in an order in which those that follow each other lie near each other in the
   first two coordinates (rotated.py).  So a block of rows and a panel of centroids have boxes there, and a panel is left out
   whose box lies farther from the rows' than any of their limits.  Where the first step leaves much, it takes all the
   numbers of y at once instead.

   Floor of the three steps, n rows, k centroids, a share b of panels in reach, p of pairs left by the first step, q by
   the second, f multiply-adds a second: n k b FIRST_SIZE / f, n k p ROTATED_SIZE / f, n (k q + 1) d / f, and to read X and y
   once.

   Rounding.  What is known of y_x is off by at most e_x in length, of y_c by e_c (fastem/families/kmeans/basis.py says why), so
   that |y_x - y_c| is at most D + e_x + e_c, D the true distance, and its square, for any a, at most
   (1 + a) (D + e_x)^2 + (1 + 1 / a) e_c^2.  Hence

       v = (|y_x - y_c|^2 - (1 + 1 / a) e_c^2) / (1 + a)  <=  (D + e_x)^2,

   and a centroid is left out where v, lowered by the rounding of its own sum, exceeds (u + e_x)^2.  The limit u is the
   distance to the best centroid so far, widened by the rounding of direct distances, and by enough that all centroids
   are compared which are as near to rounding; rows that have such are decided among them as `search` decides.  NaN is
   never left out. */

#define A_SHARE (1.0 / 1024)  /* a */
#define LIST 8192             /* pairs that wait for the second step */
#define CLOSE(d) ((REAL)(1 + SLOPPY(d) / 2)) /* squared distances by `between` that are no farther apart may be equal */

#define MANY_LEFT 16 /* centroids a row that are left, from which they are taken one after the other */
#define UNREAD (1.0 / 8)  /* of its distance: a centroid that moved farther leaves more to compare than a row costs */
#define FETCHED 2           /* rows of which the beginning is fetched while another is compared */
#define FETCHED_BYTES 1024 /* the processor sees the rest coming */
#define DEEP 8 /* of so many pairs one must be left by the first numbers for all numbers to be taken at once */

typedef struct {
    ptrdiff_t m, n_pairs, n_left, n_found;
    ptrdiff_t size;      /* numbers of the first step */
    int deep;            /* it takes all */
    REAL *xt;            /* the numbers of y that it takes: [block][number][row] */
    REAL *threshold;     /* of first scores: below, a centroid is left out */
    REAL *limit;         /* (u + e_x)^2 */
    REAL *best, *second; /* squared distances: to the best centroid so far, to the next of those compared in full */
    REAL *pruned;        /* least v of those left out */
    REAL *error;         /* e_x */
    REAL *rows;          /* x - o, */
    uint8_t *unread;     /* but of rows whose `best` is only an upper bound until something is left to compare them with */
    REAL *extra;         /* by which a tied row's squared distances may differ */
    INT *nearest, *guess;
    INT *compared;       /* the centroid that a row was compared with first, of those left */
    INT *close;          /* centroids as near as the best so far, to rounding: VL for each row */
    uint16_t *n_close;   /* how many, also where they are more than VL */
    uint16_t *number;    /* of the rows in their cell */
    uint32_t *pairs;     /* centroid << 8 | row of the group, after the first step */
    uint32_t *left;      /* after the second, */
    REAL *bound;         /* and their v */
    uint32_t *order;     /* of `left` by rows */
    REAL *boxes;         /* of panels: least and largest first coordinate, second coordinate, largest allowance */
    uint32_t *reach;     /* panels that a block may need */
} NAME(group);

/* Rows of a group: whole blocks of the tile, whose rows stay in the second-level cache. */
static ptrdiff_t NAME(group_rows)(ptrdiff_t d) {
    const ptrdiff_t fit = ROTATED_BYTES / (d * REAL_BYTES) / BLOCK, most = 240 / BLOCK;
    return BLOCK * (fit < 1 ? 1 : fit > most ? most : fit);
}

/* Room for a group of `rows` rows, of which the first step takes at most `size` numbers and leaves at most `left` pairs, and
   for the panels of k centroids. */
static size_t NAME(carve_group)(NAME(group) * s, char *memory, ptrdiff_t k, ptrdiff_t d, ptrdiff_t group, size_t size,
                                size_t left) {
    const size_t rows = (size_t)group, each = rows * REAL_BYTES, panels = (size_t)(k + NK - 1) / NK;
    const size_t bytes[] = {each * size, each, each, each, each, each, each, each * (size_t)d, each, each, each,
                            each * VL, rows * 2, rows * 2, LIST * 4, left * 4, left * REAL_BYTES, left * 4,
                            5 * panels * REAL_BYTES, panels * 4, each, rows};
    void **const field[] = {(void **)&s->xt, (void **)&s->threshold, (void **)&s->limit, (void **)&s->best,
                            (void **)&s->second, (void **)&s->pruned, (void **)&s->error, (void **)&s->rows,
                            (void **)&s->extra, (void **)&s->nearest, (void **)&s->guess, (void **)&s->close,
                            (void **)&s->n_close, (void **)&s->number, (void **)&s->pairs, (void **)&s->left,
                            (void **)&s->bound, (void **)&s->order, (void **)&s->boxes, (void **)&s->reach,
                            (void **)&s->compared, (void **)&s->unread};
    size_t at = 0;
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        *field[i] = (void *)(memory + at);
        at += (bytes[i] + 127) / 64 * 64;
    }
    s->m = s->n_pairs = s->n_left = s->n_found = s->deep = 0;
    return at;
}

static size_t NAME(carve_rotated)(NAME(group) * s, char *memory, ptrdiff_t k, ptrdiff_t d) {
    return NAME(carve_group)(s, memory, k, d, NAME(group_rows)(d), ROTATED_SIZE, 2 * LIST);
}

static size_t NAME(rotated_bytes)(ptrdiff_t k, ptrdiff_t d) {
    NAME(group) s;
    return NAME(carve_rotated)(&s, NULL, k, d) + NAME(scratch_bytes)(k, d);
}

/* (u + e_x)^2, u the distance that a centroid must not exceed to be compared in full. */
INLINE REAL NAME(limit_of)(const NAME(group) * s, ptrdiff_t r, ptrdiff_t d) {
    const double u = sqrt((double)s->best[r] * (1 + SLOPPY(d)) + (double)s->extra[r]) + (double)s->error[r];
    return (REAL)(u * u * (1 + 4 * (double)EPSILON));
}

/* e_x of a row of squared norm `square`, of which coordinates are off by the share `row_error`, and of rest `rest`, if that
   comes of a difference of squares: see basis.py. */
INLINE double NAME(error_of)(double square, double rest, double row_error) {
    const double off = OFF_BY * row_error * square;
    return (row_error + 2 * (double)EPSILON) * sqrt(square) + (rest * rest > 2 * off ? off / rest : sqrt(3 * off));
}

/* The same of a row that `rotate` made: a rest that is so small was measured. */
INLINE double NAME(error_of_kept)(double square, double rest, double row_error) {
    if (rest * rest > 0.875 * MEASURED * OFF_BY * row_error * square) return NAME(error_of)(square, rest, row_error);
    return ((1 + OFF_BY) * row_error + 2 * (double)EPSILON) * sqrt(square);
}

/* The first `size` numbers of y, and e_x, of the rows of a group; lanes beyond the last row repeat it. */
INLINE void NAME(fetch_rotated)(const nearest_rotation *rotation, ptrdiff_t start, ptrdiff_t size, NAME(group) * s) {
    s->size = size;
    for (ptrdiff_t r = 0; r < (s->m + BLOCK - 1) / BLOCK * BLOCK; r++) {
        const ptrdiff_t i = start + s->number[r < s->m ? r : s->m - 1];
        const REAL *y = (const REAL *)rotation->rows + i * ROTATED_SIZE;
        REAL *to = s->xt + r / BLOCK * BLOCK * size + r % BLOCK;
        double square = 0;
        for (ptrdiff_t j = 0; j < size; j++) to[j * BLOCK] = y[j];
        for (int j = 0; j < FIRST_SIZE; j++) square += (double)y[j] * y[j];
        s->error[r] = (REAL)NAME(error_of_kept)(square, (double)y[ROTATED_SIZE - 1], rotation->row_error);
        s->threshold[r] = (REAL)square; /* until `aim` */
    }
}

/* The centroid of least |y_x - y_c| by the first numbers, for rows of which no good guess is known. */
TARGET NOINLINE void NAME(guess_first)(const nearest_rotation *rotation, ptrdiff_t k, const NAME(group) * s) {
    const REAL *packed = (const REAL *)rotation->packed;
    const ptrdiff_t panels = (k + NK - 1) / NK;
    REAL best[BLOCK];
    NAME(tile_args) a;
    memset(&a, 0, sizeof a);
    a.dc = FIRST_SIZE;
    a.first = a.last = 1;
    a.ahead = (const char *)packed;
    for (ptrdiff_t row = 0; row < s->m; row += BLOCK) {
        for (ptrdiff_t lane = 0; lane < BLOCK; lane++) {
            best[lane] = -INFINITY;
            s->nearest[row + lane] = 0;
        }
        a.xt = s->xt + row * FIRST_SIZE;
        a.best = best;
        a.nearest = s->nearest + row;
        for (ptrdiff_t p = 0; p < panels; p++) {
            const ptrdiff_t k0 = p * k / panels, nk = (p + 1) * k / panels - k0;
            a.panel = packed + k0 * FIRST_SIZE;
            a.half = packed + k * FIRST_SIZE + k0;
            a.first_index = (INT)k0;
            NAME(tiles)[1][nk - 1](&a);
        }
        for (ptrdiff_t r = row; r < row + BLOCK && r < s->m; r++) s->nearest[r] = rotation->names[s->nearest[r]];
    }
}

/* Limit and threshold of row r, whose best centroid so far is known, for scores of `size` numbers. */
INLINE void NAME(aim_row)(ptrdiff_t d, ptrdiff_t size, ptrdiff_t r, const NAME(group) * s) {
    const double rounding = (double)(size + 8) * (double)EPSILON; /* of a score: half norms are lowered by as much */
    const double square = s->threshold[r];
    s->limit[r] = NAME(limit_of)(s, r, d);
    const double most = (1 + A_SHARE) * (double)s->limit[r];
    s->pruned[r] = s->limit[r];
    s->second[r] = INFINITY;
    s->threshold[r] = (REAL)((square * (1 - rounding) - most) / 2 - 4 * (double)EPSILON * (square + most));
}

/* Those of the rows of a group. */
INLINE void NAME(aim)(ptrdiff_t d, const NAME(group) * s) {
    for (ptrdiff_t r = 0; r < s->m; r++) NAME(aim_row)(d, s->size, r, s);
    for (ptrdiff_t r = s->m; r < (s->m + BLOCK - 1) / BLOCK * BLOCK; r++) s->threshold[r] = INFINITY;
}

/* First step: a block of rows against nk centroids; pairs that are not left out go on the list. */
INLINE TARGET ptrdiff_t NAME(prune)(const int nk, ptrdiff_t size, const REAL *RESTRICT xt, const REAL *RESTRICT panel,
                                    const REAL *RESTRICT half, const REAL *RESTRICT threshold, uint32_t pair,
                                    uint32_t *RESTRICT list) {
    NAME(vec) acc[NK][NV];
    ptrdiff_t n = 0;
    UNROLL for (int c = 0; c < nk; c++) UNROLL for (int v = 0; v < NV; v++) acc[c][v] = SPLAT(half[c]);
    for (ptrdiff_t j = 0; j < size; j++) {
        NAME(vec) x[NV];
        UNROLL for (int v = 0; v < NV; v++) x[v] = LOAD(xt + (j * NV + v) * VL);
        UNROLL for (int c = 0; c < nk; c++) {
            const NAME(vec) b = SPLAT(panel[j * nk + c]);
            UNROLL for (int v = 0; v < NV; v++) acc[c][v] = FMA(x[v], b, acc[c][v]);
        }
    }
    UNROLL for (int c = 0; c < nk; c++) UNROLL for (int v = 0; v < NV; v++) {
            const uint32_t first = pair + ((uint32_t)c << 8) + (uint32_t)(v * VL);
#if HAS_GATHER
            unsigned open = BITS(GREATER(LOAD(threshold + v * VL), acc[c][v])) ^ ALL_BITS;
            for (; open; open &= open - 1) list[n++] = first + (uint32_t)__builtin_ctz(open);
#else
            REAL lane[VL];
            STORE(lane, acc[c][v]);
            for (int i = 0; i < VL; i++) {
                list[n] = first + (uint32_t)i;
                n += !(lane[i] < threshold[v * VL + i]);
            }
#endif
        }
    return n;
}

#define PRUNES(nk)                                                                                                     \
    TARGET static ptrdiff_t NAME(prune_##nk)(ptrdiff_t size, const REAL *xt, const REAL *panel, const REAL *half,       \
                                             const REAL *threshold, uint32_t pair, uint32_t *list) {                   \
        return size == FIRST_SIZE ? NAME(prune)(nk, FIRST_SIZE, xt, panel, half, threshold, pair, list)                \
                                  : NAME(prune)(nk, ROTATED_SIZE, xt, panel, half, threshold, pair, list);             \
    }
PRUNES(1) PRUNES(2) PRUNES(3) PRUNES(4)
#if NK == 8
PRUNES(5) PRUNES(6) PRUNES(7) PRUNES(8)
#endif
#undef PRUNES

typedef ptrdiff_t (*NAME(prune_function))(ptrdiff_t, const REAL *, const REAL *, const REAL *, const REAL *, uint32_t,
                                          uint32_t *);
static const NAME(prune_function) NAME(prunes)[NK] = {NAME(prune_1), NAME(prune_2), NAME(prune_3), NAME(prune_4),
#if NK == 8
                                                      NAME(prune_5), NAME(prune_6), NAME(prune_7), NAME(prune_8)
#endif
};

/* Second step: the listed pairs by all numbers of y. */
TARGET NOINLINE void NAME(prune_more)(const nearest_rotation *rotation, ptrdiff_t start, NAME(group) * s) {
    const REAL *rows = (const REAL *)rotation->rows + start * ROTATED_SIZE, *centers = (const REAL *)rotation->centers;
    const REAL *allowance = (const REAL *)rotation->allowance;
    const REAL share = (REAL)((1 - 4 * (ROTATED_SIZE + 16) * (double)EPSILON) / (1 + A_SHARE));
    for (ptrdiff_t f = 0; f < s->n_pairs; f++) {
        const ptrdiff_t r = s->pairs[f] & 255, c = s->pairs[f] >> 8;
        const REAL *y = rows + s->number[r] * ROTATED_SIZE, *of_c = centers + c * ROTATED_SIZE;
        const REAL first_rest = y[FIRST_SIZE - 1] - of_c[FIRST_SIZE - 1]; /* whose coordinates are all there now */
        const REAL v = (NAME(between)(y, of_c, ROTATED_SIZE) - first_rest * first_rest) * share - allowance[c];
        const int32_t name = rotation->names[c];
        const int out = v > s->limit[r];
        s->left[s->n_left] = (uint32_t)name << 8 | (uint32_t)r;
        s->bound[s->n_left] = v;
        s->n_left += !out && name != s->guess[r];
        if (out && v < s->pruned[r]) s->pruned[r] = v;
    }
    s->n_found += s->n_pairs;
    s->n_pairs = 0;
}

/* Whether row r need not be compared with centroid c: it was, or v leaves it out. */
INLINE int NAME(left_out)(NAME(group) * s, ptrdiff_t r, ptrdiff_t c, REAL v) {
    if (c == s->guess[r]) return 1;
    if (!(v > s->limit[r])) return 0;
    s->pruned[r] = v < s->pruned[r] ? v : s->pruned[r];
    return 1;
}

/* Takes in the squared distance of row r to centroid c. */
INLINE void NAME(admit)(ptrdiff_t d, NAME(group) * s, ptrdiff_t r, ptrdiff_t c, REAL sqdist) {
    const REAL before = s->best[r];
    s->second[r] = sqdist < before ? before : sqdist < s->second[r] ? sqdist : s->second[r];
    if (sqdist * CLOSE(d) < before) s->n_close[r] = 0;
    if (!(sqdist > before * CLOSE(d))) {
        if (s->n_close[r] < VL) s->close[r * VL + s->n_close[r]] = (INT)c;
        s->n_close[r] += s->n_close[r] <= VL;
    }
    if (!(sqdist < before)) return;
    s->best[r] = sqdist;
    s->nearest[r] = (INT)c;
    s->limit[r] = NAME(limit_of)(s, r, d);
}

/* Compares row r with centroid c in full unless v leaves it out. */
INLINE TARGET void NAME(compare)(const nearest_job *job, NAME(group) * s, ptrdiff_t r, ptrdiff_t c, REAL v) {
    const ptrdiff_t d = job->d;
    if (!NAME(left_out)(s, r, c, v))
        NAME(admit)(d, s, r, c, NAME(between)(s->rows + r * d, (const REAL *)job->centers + c * d, d));
}

/* Third step where much is left: the list as it stands, centroid by centroid, two rows at a time.  Row by row, a centroid
   would come from memory for each row: 900 cycles a pair at d = 960, k = 4000. */
TARGET NOINLINE void NAME(compare_many)(const nearest_job *job, NAME(group) * s) {
    const ptrdiff_t d = job->d;
    const REAL *centers = (const REAL *)job->centers;
    ptrdiff_t waits = -1, of = -1; /* a row that waits for another to be compared with this centroid */
    for (ptrdiff_t f = 0; f < s->n_left; f++) {
        const ptrdiff_t r = s->left[f] & 255, c = s->left[f] >> 8;
        if (c == s->compared[r] || NAME(left_out)(s, r, c, s->bound[f])) continue;
        if (waits >= 0 && c == of) {
            REAL sqdist[2];
            NAME(between_two)(s->rows + waits * d, s->rows + r * d, centers + c * d, d, sqdist);
            NAME(admit)(d, s, waits, c, sqdist[0]);
            NAME(admit)(d, s, r, c, sqdist[1]);
            waits = -1;
            continue;
        }
        if (waits >= 0) NAME(admit)(d, s, waits, of, NAME(between)(s->rows + waits * d, centers + of * d, d));
        waits = r;
        of = c;
    }
    if (waits >= 0) NAME(admit)(d, s, waits, of, NAME(between)(s->rows + waits * d, centers + of * d, d));
}

INLINE TARGET void NAME(copy_row)(const nearest_job *job, ptrdiff_t start, NAME(group) * s, ptrdiff_t r) {
    const ptrdiff_t d = job->d;
    const REAL *RESTRICT x = (const REAL *)job->x + (start + s->number[r]) * d, *RESTRICT o = (const REAL *)job->origin;
    REAL *RESTRICT row = s->rows + r * d;
    for (ptrdiff_t j = 0; j < d; j++) row[j] = x[j] - o[j];
}

/* Row r, and its distance to its own centroid. */
INLINE TARGET void NAME(read_row)(const nearest_job *job, ptrdiff_t start, NAME(group) * s, ptrdiff_t r) {
    NAME(copy_row)(job, start, s, r);
    s->best[r] = NAME(between)(s->rows + r * job->d, (const REAL *)job->centers + s->nearest[r] * job->d, job->d);
    s->unread[r] = 0;
}

INLINE void NAME(fetch_row)(const nearest_job *job, ptrdiff_t i) {
    const char *row = (const char *)((const REAL *)job->x + i * job->d);
    for (ptrdiff_t at = 0; at < job->d * REAL_BYTES && at < FETCHED_BYTES; at += 64) PREFETCH(row + at);
}

/* Third step: what is left, row by row, in full; the centroid of least v first. */
TARGET NOINLINE void NAME(compare_left)(const nearest_job *job, ptrdiff_t start, NAME(group) * s) {
    const int many = s->n_left > MANY_LEFT * s->m;
    uint32_t end[257] = {0};
    ptrdiff_t next = 0; /* row to be fetched */
    for (ptrdiff_t f = 0; f < s->n_left; f++) end[(s->left[f] & 255) + 1]++;
    for (int r = 0; r < 256; r++) end[r + 1] += end[r];
    for (ptrdiff_t f = 0; f < s->n_left; f++) s->order[end[s->left[f] & 255]++] = (uint32_t)f;
    for (ptrdiff_t r = 0; r < s->m; r++) {
        const uint32_t *from = s->order + (r ? end[r - 1] : 0), *to = s->order + end[r], *least = from;
        if (from == to) continue;
        if (s->unread[r]) {
            for (int ahead = 0; next < s->m && ahead < (next > r ? 1 : FETCHED + 1); next++)
                if (s->unread[next] && end[next] > (next ? end[next - 1] : 0)) {
                    NAME(fetch_row)(job, start + s->number[next]);
                    ahead++;
                }
            NAME(read_row)(job, start, s, r);
            s->limit[r] = NAME(limit_of)(s, r, job->d);
        }
        for (const uint32_t *f = from; f < to; f++) {
            if (!many) PREFETCH((const REAL *)job->centers + (s->left[*f] >> 8) * job->d);
            if (s->bound[*f] < s->bound[*least]) least = f;
        }
        NAME(compare)(job, s, r, s->left[*least] >> 8, s->bound[*least]);
        s->compared[r] = (INT)(s->left[*least] >> 8);
        if (many) continue;
        for (const uint32_t *f = from; f < to; f++)
            if (f != least) NAME(compare)(job, s, r, s->left[*f] >> 8, s->bound[*f]);
    }
    if (many) NAME(compare_many)(job, s);
    s->n_left = 0;
}

/* Boxes of the panels of k centroids. */
static void NAME(box)(const nearest_rotation *rotation, ptrdiff_t k, NAME(group) * s) {
    const ptrdiff_t panels = (k + NK - 1) / NK;
    const REAL *allowance = (const REAL *)rotation->allowance;
    for (ptrdiff_t p = 0; p < panels; p++) {
        const ptrdiff_t k0 = p * k / panels, k1 = (p + 1) * k / panels;
        REAL *of_p = s->boxes + p;
        for (int t = 0; t < 5; t++) of_p[t * panels] = t < 4 && t % 2 == 0 ? INFINITY : -INFINITY;
        for (ptrdiff_t c = k0; c < k1; c++) {
            const REAL *y = (const REAL *)rotation->centers + c * ROTATED_SIZE;
            for (int j = 0; j < 2; j++) {
                REAL *low = of_p + 2 * j * panels, *high = low + panels;
                *low = y[j] < *low ? y[j] : *low;
                *high = y[j] > *high ? y[j] : *high;
            }
            of_p[4 * panels] = allowance[c] > of_p[4 * panels] ? allowance[c] : of_p[4 * panels];
        }
    }
}

/* Panels that a row of the block from `row` on may need; returns how many. */
TARGET NOINLINE ptrdiff_t NAME(in_reach)(const NAME(group) * s, ptrdiff_t row, ptrdiff_t panels) {
    const REAL *RESTRICT boxes = s->boxes, *xt = s->xt + row * s->size;
    const REAL share = (REAL)((1 - 16 * (double)EPSILON) / (1 + A_SHARE));
    REAL low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY}, limit = 0;
    ptrdiff_t n = 0;
    for (int j = 0; j < 2; j++)
        for (ptrdiff_t r = 0; r < BLOCK; r++) {
            const REAL z = xt[j * BLOCK + r];
            low[j] = z < low[j] ? z : low[j];
            high[j] = z > high[j] ? z : high[j];
        }
    for (ptrdiff_t r = row; r < row + BLOCK && r < s->m; r++) /* NaN reaches everything */
        limit = s->limit[r] <= limit ? limit : s->limit[r] == s->limit[r] ? s->limit[r] : INFINITY;
    for (ptrdiff_t p = 0; p < panels; p++) {
        REAL square = 0;
        for (int j = 0; j < 2; j++) {
            const REAL above = boxes[2 * j * panels + p] - high[j], below = low[j] - boxes[(2 * j + 1) * panels + p];
            const REAL gap = above > below ? above : below;
            square += gap > 0 ? gap * gap : 0;
        }
        s->reach[n] = (uint32_t)p;
        n += !(square * share - boxes[4 * panels + p] > limit);
    }
    return n;
}

/* Pairs that the first step left.  What the second leaves is compared in full, or, where there is `open` (CELL_ROWS,), its
   rows are marked there. */
TARGET static void NAME(settle_pairs)(const nearest_rotation *rotation, ptrdiff_t start, NAME(group) * s,
                                      const nearest_job *job, uint8_t *open) {
    NAME(prune_more)(rotation, start, s);
    if (open) {
        for (ptrdiff_t f = 0; f < s->n_left; f++) open[s->number[s->left[f] & 255]] = 1;
        s->n_left = 0;
    } else if (s->n_left > LIST)
        NAME(compare_left)(job, start, s);
}

/* All rows of a group against the k centroids of a rotation. */
TARGET static void NAME(hold_against)(const nearest_rotation *rotation, ptrdiff_t k, ptrdiff_t start, NAME(group) * s,
                                      const nearest_job *job, uint8_t *open) {
    const ptrdiff_t panels = (k + NK - 1) / NK, size = s->size;
    const REAL *packed = (const REAL *)(size == FIRST_SIZE ? rotation->packed : rotation->deep);
    s->n_found = 0;
    for (ptrdiff_t row = 0; row < s->m; row += BLOCK) {
        const ptrdiff_t n = NAME(in_reach)(s, row, panels);
        for (ptrdiff_t t = 0; t < n; t++) {
            const ptrdiff_t p = s->reach[t], k0 = p * k / panels, nk = (p + 1) * k / panels - k0;
            s->n_pairs += NAME(prunes)[nk - 1](size, s->xt + row * size, packed + k0 * size, packed + k * size + k0,
                                               s->threshold + row, (uint32_t)k0 << 8 | (uint32_t)row, s->pairs + s->n_pairs);
            if (s->n_pairs > LIST - NK * BLOCK) NAME(settle_pairs)(rotation, start, s, job, open);
        }
    }
    NAME(settle_pairs)(rotation, start, s, job, open);
    if (!open) NAME(compare_left)(job, start, s);
}
