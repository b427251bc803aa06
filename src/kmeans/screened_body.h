/* Greedy k-means++ of many seeds and features: candidates are held against rows by a few numbers, then in full.

   The rows of a grid cell are in blocks of SCREEN_BLOCK places, the first numbers of a rotated basis (rotated_body.h) of a
   block together.  Rows are held against candidates by these, with the bound and the rounding of a search by rotation;
   then by all their numbers; then by the distance as a vector sums it, with a margin for its rounding.  What is left gets the distance that
   `seed_cell` computes, to the bit: a sum over the features in their order.

   So distances and seeds of the rows are those of `seed_cell`, to the bit.  What a candidate lowers the potential by is
   summed in float64; who asks for the bits of `seed_cell` there has to ask it.

   Floor, n rows, m candidates, a share p of pairs left by the first numbers, f multiply-adds a second:
   n m FIRST_SIZE / f + n m p d / f a round. */

#define SQUARES_LOST ((double)(REAL_BYTES == 4 ? 1.2e-38f : 2.3e-308)) /* for each term, by squares that underflow */

/* Squared distance beyond which a row is not nearer than the squared distance q, however both are rounded. */
INLINE double NAME(beyond)(double q, ptrdiff_t d) { return q * (1 + SLOPPY(d)) + (double)(d + 16) * SQUARES_LOST; }

typedef struct {
    uint16_t *list;    /* (MAX_CANDIDATES, SCREEN_PLACES) rows of a cell by candidate, then those that come nearer */
    REAL *sqdist;      /* (CELL_ROWS,) of these */
    REAL *packed, *xt; /* rows, and the same transposed */
    REAL *zeros;       /* (d,) */
} NAME(screening);

static size_t NAME(carve_screening)(NAME(screening) * s, char *memory, ptrdiff_t d) {
    const size_t bytes[5] = {MAX_CANDIDATES * SCREEN_PLACES * 2, CELL_ROWS * REAL_BYTES, (size_t)(2 * VL * d) * REAL_BYTES,
                             (size_t)(2 * VL * d) * REAL_BYTES, (size_t)d * REAL_BYTES};
    void **const field[5] = {(void **)&s->list, (void **)&s->sqdist, (void **)&s->packed, (void **)&s->xt,
                             (void **)&s->zeros};
    size_t at = 0;
    for (int i = 0; i < 5; i++) {
        *field[i] = (void *)(memory + at);
        at += (bytes[i] + 127) / 64 * 64;
    }
    return at;
}

static size_t NAME(screen_bytes)(ptrdiff_t d) {
    NAME(screening) s;
    return NAME(carve_screening)(&s, NULL, d);
}

/* (u + e_x)^2 for a row with squared distance q to its seed; the squared norm of its first numbers to `square`. */
INLINE double NAME(limit_at)(const nearest_screen *s, ptrdiff_t i, double q, double *square) {
    const REAL *y = (const REAL *)s->rows + i * ROTATED_SIZE;
    double total = 0;
    for (ptrdiff_t j = 0; j < FIRST_SIZE; j++) total += (double)y[j] * y[j];
    const double error = NAME(error_of_kept)(total, (double)y[ROTATED_SIZE - 1], s->row_error);
    const double u = sqrt(NAME(beyond)(q, s->d)) + error;
    *square = total;
    return u * u * (1 + 4 * (double)EPSILON);
}

/* The first score below which a candidate is left out: as in `aim`. */
INLINE REAL NAME(threshold_at)(const nearest_screen *s, ptrdiff_t i, double q) {
    double square;
    const double most = (1 + A_SHARE) * NAME(limit_at)(s, i, q, &square);
    return (REAL)((square * (1 - 24 * (double)EPSILON) - most) / 2 - 4 * (double)EPSILON * (square + most) - SQUARES_LOST);
}

/* Makes the blocks of a cell ready for candidates. */
TARGET static void NAME(screen_aim)(const nearest_screen *s, ptrdiff_t cell) {
    const ptrdiff_t start = cell * CELL_ROWS, m = s->n - start < CELL_ROWS ? s->n - start : CELL_ROWS;
    REAL *blocks = (REAL *)s->blocks + cell * SCREEN_PLACES * FIRST_SIZE;
    REAL *threshold = (REAL *)s->threshold + cell * SCREEN_PLACES;
    for (ptrdiff_t p = 0; p < SCREEN_PLACES; p++) {
        const ptrdiff_t i = start + (p < m ? p : 0);
        REAL *to = blocks + p / SCREEN_BLOCK * SCREEN_BLOCK * FIRST_SIZE + p % SCREEN_BLOCK;
        for (ptrdiff_t j = 0; j < FIRST_SIZE; j++)
            to[j * SCREEN_BLOCK] = ((const REAL *)s->rows)[i * ROTATED_SIZE + j];
        threshold[p] = p < m ? NAME(threshold_at)(s, i, (double)((const REAL *)s->closest)[i]) : INFINITY;
    }
}

/* A block of the tile against nk candidates by their first numbers; rows that are not left out go on their lists. */
INLINE TARGET void NAME(screen_tile)(const int nk, const REAL *RESTRICT y, const REAL *const *c,
                                     const REAL *half, const REAL *threshold, unsigned place, uint16_t *const *list,
                                     ptrdiff_t *const *count) {
    NAME(vec) acc[NK][NV];
    UNROLL for (int l = 0; l < nk; l++) UNROLL for (int v = 0; v < NV; v++) acc[l][v] = SPLAT(half[l]);
    for (ptrdiff_t j = 0; j < FIRST_SIZE; j++) {
        NAME(vec) x[NV];
        UNROLL for (int v = 0; v < NV; v++) x[v] = LOAD(y + j * SCREEN_BLOCK + v * VL);
        UNROLL for (int l = 0; l < nk; l++) {
            const NAME(vec) b = SPLAT(c[l][j]);
            UNROLL for (int v = 0; v < NV; v++) acc[l][v] = FMA(x[v], b, acc[l][v]);
        }
    }
    UNROLL for (int l = 0; l < nk; l++) UNROLL for (int v = 0; v < NV; v++) {
            const unsigned at = place + (unsigned)(v * VL);
#if HAS_GATHER
            unsigned open = BITS(GREATER(LOAD(threshold + v * VL), acc[l][v])) ^ ALL_BITS;
            for (; open; open &= open - 1) list[l][(*count[l])++] = (uint16_t)(at + (unsigned)__builtin_ctz(open));
#else
            REAL lane[VL];
            STORE(lane, acc[l][v]);
            for (int i = 0; i < VL; i++) {
                list[l][*count[l]] = (uint16_t)(at + (unsigned)i);
                *count[l] += !(lane[i] < threshold[v * VL + i]);
            }
#endif
        }
}

#define SCREENS(nk)                                                                                                        \
    TARGET static void NAME(screen_##nk)(const REAL *y, const REAL *const *c, const REAL *half,           \
                                         const REAL *threshold, unsigned place, uint16_t *const *list,                     \
                                         ptrdiff_t *const *count) {                                                        \
        NAME(screen_tile)(nk, y, c, half, threshold, place, list, count);                                           \
    }
SCREENS(1) SCREENS(2) SCREENS(3) SCREENS(4)
#if NK == 8
SCREENS(5) SCREENS(6) SCREENS(7) SCREENS(8)
#endif
#undef SCREENS

typedef void (*NAME(screen_function))(const REAL *, const REAL *const *, const REAL *, const REAL *, unsigned,
                                      uint16_t *const *, ptrdiff_t *const *);
static const NAME(screen_function) NAME(screens)[NK] = {NAME(screen_1), NAME(screen_2), NAME(screen_3), NAME(screen_4),
#if NK == 8
                                                        NAME(screen_5), NAME(screen_6), NAME(screen_7), NAME(screen_8)
#endif
};

/* Lists the rows of a cell that candidates l0 .. l1 may serve by the first numbers. */
TARGET NOINLINE void NAME(list_rows)(const nearest_screen *s, ptrdiff_t cell, ptrdiff_t l0, ptrdiff_t l1, uint16_t *lists,
                                     ptrdiff_t *count) {
    const ptrdiff_t left = s->n - cell * CELL_ROWS, rows = left < CELL_ROWS ? left : CELL_ROWS;
    const REAL *blocks = (const REAL *)s->blocks + cell * SCREEN_PLACES * FIRST_SIZE;
    const REAL *threshold = (const REAL *)s->threshold + cell * SCREEN_PLACES;
    const REAL *c[MAX_CANDIDATES], *half = (const REAL *)s->half + l0;
    const ptrdiff_t m = l1 - l0, panels = (m + NK - 1) / NK;
    uint16_t *list[MAX_CANDIDATES];
    ptrdiff_t *counts[MAX_CANDIDATES];
    for (ptrdiff_t l = 0; l < m; l++) {
        c[l] = (const REAL *)s->of_rows + (l0 + l) * ROTATED_SIZE;
        list[l] = lists + (l0 + l) * SCREEN_PLACES;
        counts[l] = count + l0 + l;
    }
    for (ptrdiff_t p = 0; p < rows; p += NV * VL) {
        const REAL *y = blocks + p / SCREEN_BLOCK * SCREEN_BLOCK * FIRST_SIZE + p % SCREEN_BLOCK;
        for (ptrdiff_t q = 0; q < panels; q++) {
            const ptrdiff_t f = q * m / panels, nk = (q + 1) * m / panels - f;
            NAME(screens)[nk - 1](y, c + f, half + f, threshold + p, (unsigned)p, list + f, counts + f);
        }
    }
}

/* Takes from a list of rows what all numbers of the rotated rows leave out. */
TARGET NOINLINE ptrdiff_t NAME(shorten_by_rows)(const nearest_screen *s, ptrdiff_t start, ptrdiff_t l, uint16_t *list,
                                                ptrdiff_t n) {
    const REAL *rows = (const REAL *)s->rows, *of_c = (const REAL *)s->of_rows + l * ROTATED_SIZE;
    const REAL *near = (const REAL *)s->closest;
    const double share = (1 - 4 * (ROTATED_SIZE + 16) * (double)EPSILON) / (1 + A_SHARE), off = ((const double *)s->allowance)[l];
    ptrdiff_t left = 0;
    for (ptrdiff_t f = 0; f < n; f++) {
        const ptrdiff_t i = start + list[f];
        const REAL *y = rows + i * ROTATED_SIZE;
        const char *next = (const char *)(rows + (start + list[f + 6 < n ? f + 6 : f]) * ROTATED_SIZE);
        for (int j = 0; j < ROTATED_SIZE * REAL_BYTES; j += 64) PREFETCH(next + j);
        const double first_rest = (double)y[FIRST_SIZE - 1] - of_c[FIRST_SIZE - 1]; /* as in `prune_more` */
        double square;
        const double v = ((double)NAME(between)(y, of_c, ROTATED_SIZE) - first_rest * first_rest) * share - off;
        list[left] = list[f];
        left += !(v > NAME(limit_at)(s, i, (double)near[i], &square));
    }
    return left;
}

/* And what the distance leaves out, however it is rounded. */
TARGET NOINLINE ptrdiff_t NAME(shorten_by_distance)(const nearest_screen *s, ptrdiff_t start, ptrdiff_t l, uint16_t *list,
                                                    ptrdiff_t n) {
    const REAL *near = (const REAL *)s->closest, *X = (const REAL *)s->x, *c = (const REAL *)s->candidates + l * s->d;
    ptrdiff_t left = 0;
    for (ptrdiff_t f = 0; f < n; f++) {
        const ptrdiff_t i = start + list[f];
        PREFETCH(X + (start + list[f + 1 < n ? f + 1 : f]) * s->d);
        list[left] = list[f];
        left += !((double)NAME(between)(X + i * s->d, c, s->d) > NAME(beyond)((double)near[i], s->d));
    }
    return left;
}

/* Leaves on the list of a candidate's rows those that it is nearer to than their seeds, their distances in the room, and
   returns by how much it lowers the potential there.  `pairs`: how many were held against it in full, and what the step
   before cost beside that. */
TARGET NOINLINE double NAME(gain_of)(const nearest_screen *s, ptrdiff_t start, ptrdiff_t l, uint16_t *list, ptrdiff_t *n_listed,
                                     const NAME(screening) * room, double *pairs) {
    *pairs += (double)*n_listed * ROTATED_SIZE / (double)s->d;
    *n_listed = NAME(shorten_by_rows)(s, start, l, list, *n_listed);
    *pairs += (double)*n_listed;
    *n_listed = NAME(shorten_by_distance)(s, start, l, list, *n_listed);
    const ptrdiff_t d = s->d, n = *n_listed;
    const REAL *X = (const REAL *)s->x, *near = (const REAL *)s->closest, *w = (const REAL *)s->w;
    ptrdiff_t kept = 0;
    double total = 0;
    REAL sqdist[2 * 2 * VL];
    for (ptrdiff_t f = 0; f < n; f += 2 * VL) {
        const ptrdiff_t lanes = n - f < 2 * VL ? n - f : 2 * VL;
        const int nv = lanes > VL ? 2 : 1;
        for (ptrdiff_t t = 0; t < lanes; t++) {
            PREFETCH(X + (start + list[f + t + 2 * VL < n ? f + t + 2 * VL : f]) * d);
            memcpy(room->packed + t * d, X + (start + list[f + t]) * d, (size_t)d * REAL_BYTES);
        }
        NAME(transpose)(room->packed, d, lanes, nv, room->zeros, d, room->xt);
        NAME(seed_distances)(nv, 1, room->xt, (const REAL *)s->candidates + l * d, d, (const char *)room->packed, sqdist);
        for (ptrdiff_t t = 0; t < lanes; t++) {
            const uint16_t place = list[f + t];
            const REAL q = sqdist[t], before = near[start + place];
            if (!(q < before)) continue;
            total += ((double)before - q) * (w ? (double)w[start + place] : 1);
            list[kept] = place;
            room->sqdist[kept++] = q;
        }
    }
    *n_listed = kept;
    return total;
}

/* Scores all candidates on a cell: out (m,) by how much each lowers the potential, and which rows come nearer, as far as
   there is room for them.  Returns `pairs`. */
TARGET static double NAME(screen_score)(const nearest_screen *s, ptrdiff_t cell, double *out, void *memory) {
    const ptrdiff_t start = cell * CELL_ROWS, rows = s->n - start < CELL_ROWS ? s->n - start : CELL_ROWS;
    NAME(screening) room;
    ptrdiff_t count[MAX_CANDIDATES] = {0}, used = 0;
    double pairs = 0;
    NAME(carve_screening)(&room, (char *)memory, s->d);
    memset(room.zeros, 0, (size_t)s->d * REAL_BYTES);
    NAME(list_rows)(s, cell, 0, s->m, room.list, count);
    for (ptrdiff_t l = 0; l < s->m; l++) {
        uint16_t *list = room.list + l * SCREEN_PLACES;
        out[l] = count[l] ? NAME(gain_of)(s, start, l, list, &count[l], &room, &pairs) : 0;
        const int fits = used + count[l] <= rows;
        s->ends[cell * MAX_CANDIDATES + l] = fits ? (int32_t)(used + count[l]) : -1;
        if (!fits || !count[l]) continue;
        memcpy(s->gainers + start + used, list, (size_t)count[l] * 2);
        memcpy((REAL *)s->sqdist + start + used, room.sqdist, (size_t)count[l] * REAL_BYTES);
        used += count[l];
    }
    return pairs;
}

/* Makes candidate l, scored last, the seed of the rows of a cell that it is nearer to.  Returns the sum of w closest over
   the cell: the bits of `seed_cell`. */
TARGET static double NAME(screen_commit)(const nearest_screen *s, ptrdiff_t cell, ptrdiff_t l, int32_t seed, void *memory) {
    const ptrdiff_t start = cell * CELL_ROWS, rows = s->n - start < CELL_ROWS ? s->n - start : CELL_ROWS;
    const int32_t *ends = s->ends + cell * MAX_CANDIDATES;
    const uint16_t *list = s->gainers + start;
    const REAL *sqdist = (const REAL *)s->sqdist + start;
    REAL *closest = (REAL *)s->closest + start, *threshold = (REAL *)s->threshold + cell * SCREEN_PLACES;
    ptrdiff_t n = ends[l];
    NAME(screening) room;
    if (n >= 0) {
        ptrdiff_t begin = 0;
        for (ptrdiff_t q = 0; q < l; q++) begin = ends[q] >= 0 ? ends[q] : begin;
        list += begin;
        sqdist += begin;
        n -= begin;
    } else { /* there was no room for it */
        ptrdiff_t count[MAX_CANDIDATES] = {0};
        double pairs = 0;
        NAME(carve_screening)(&room, (char *)memory, s->d);
        memset(room.zeros, 0, (size_t)s->d * REAL_BYTES);
        NAME(list_rows)(s, cell, l, l + 1, room.list, count);
        NAME(gain_of)(s, start, l, room.list + l * SCREEN_PLACES, &count[l], &room, &pairs);
        list = room.list + l * SCREEN_PLACES;
        sqdist = room.sqdist;
        n = count[l];
    }
    for (ptrdiff_t f = 0; f < n; f++) {
        closest[list[f]] = sqdist[f];
        threshold[list[f]] = NAME(threshold_at)(s, start + list[f], (double)sqdist[f]);
        s->owner[start + list[f]] = seed;
    }
    return NAME(potential)(closest, s->w ? (const REAL *)s->w + start : NULL, rows);
}
