/* The register tile and what is fused with it, for one number type and one instruction set.

   Each kernels_*.c includes this file and the other bodies (by kernels.h) for one pair, after the operations of one
   lanes_*.h.  A score is x.c - |c|^2 / 2: its largest value marks the nearest
   centroid, and the centroid with the lowest index wins a tie because only a strictly larger score replaces the best.

   All numbers are relative to an origin inside the data: rows are shifted while they are transposed. */

#define BLOCK (NV * VL)             /* rows of a full register tile */
#define MAX_BLOCKS (240 / BLOCK)    /* a group is at most 240 rows: float32 may sum that many by itself */
#define GV (NK / 2)
#define HL (REAL_BYTES == 4 && VL > 1 ? VL / 2 : VL)

#ifdef __GNUC__
typedef REAL NAME(hvec) __attribute__((vector_size(HL * REAL_BYTES), may_alias, aligned(REAL_BYTES)));
typedef double NAME(dvec) __attribute__((vector_size(HL * 8), may_alias, aligned(8)));
#define WIDEN(h) __builtin_convertvector(h, NAME(dvec))
#define LANE(v, i) ((v)[i])
#else
typedef REAL NAME(hvec);
typedef double NAME(dvec);
#define WIDEN(h) ((double)(h))
#define LANE(v, i) (v)
#endif
#define HLOAD(p) (*(const NAME(hvec) *)(p))
#define DVEC(p) (*(NAME(dvec) *)(p))

typedef struct {
    REAL *xt;       /* the rows of a group, transposed block by block: [block][feature][row] */
    REAL *best;     /* best score of each row */
    REAL *second;   /* second best score */
    REAL *norms;    /* squared norm of each row, relative to the origin; with the second best score only */
    INT *nearest;   /* index of the best */
    REAL *partial;  /* scores of a group, summed over the features so far; only when features come in several chunks */
    REAL *masked;   /* few centroids: [centroid][1 + feature][lane] and the inertia, sums of one group */
    double *wide;   /* the same summed over the cell */
    REAL *packed;   /* room for the rows of a group */
    REAL *again;    /* transposed rows of a second look */
} NAME(scratch);

/* Features per chunk: all of them when they fit, else equal parts, in whole transposition steps. */
static ptrdiff_t NAME(chunk)(ptrdiff_t d) {
    const ptrdiff_t most = CHUNK_BYTES / BLOCK / REAL_BYTES, chunks = (d + most - 1) / most;
    return chunks <= 1 ? (d < 1 ? 1 : d) : ((d + chunks - 1) / chunks + 3) / 4 * 4;
}

static int NAME(blocks)(ptrdiff_t d) {
    const ptrdiff_t fit = GROUP_BYTES / (BLOCK * REAL_BYTES * (d < NAME(chunk)(d) ? d : NAME(chunk)(d)));
    return fit < 1 ? 1 : fit > MAX_BLOCKS ? MAX_BLOCKS : (int)fit;
}

/* Masked sums beat scattered ones while a row's share of them, k (d + 1) / VL vector additions, stays below the
   latency of a read-modify-write. */
static int NAME(few)(ptrdiff_t k, ptrdiff_t d) { return HAS_LOOKUP && k <= VL && k * (d + 1) <= FEW_SUMS; }

/* Long rows and few centroids: transposing would cost as much as the products, so vectors run over features. */
static int NAME(flat)(ptrdiff_t k, ptrdiff_t d) {
    return VL > 1 && d >= FLAT_FEATURES && k <= FLAT_CENTROIDS && k * d * REAL_BYTES <= FLAT_BYTES;
}

/* Rows of a group. */
static ptrdiff_t NAME(rows)(ptrdiff_t k, ptrdiff_t d) {
    ptrdiff_t rows = 2 * GROUP_BYTES / (d * REAL_BYTES) / VL * VL;
    if (!NAME(flat)(k, d)) return (ptrdiff_t)NAME(blocks)(d) * BLOCK;
    return rows < VL ? VL : rows > 240 / VL * VL ? 240 / VL * VL : rows;
}

/* Rows whose sums are settled together: whole groups, enough for SORTED_ROWS of each centroid if the second-level cache
   holds them. */
static ptrdiff_t NAME(batch)(ptrdiff_t k, ptrdiff_t d) {
    const ptrdiff_t group = NAME(rows)(k, d), wanted = SORTED_ROWS * k < CELL_ROWS ? SORTED_ROWS * k : CELL_ROWS;
    const ptrdiff_t fit = BATCH_BYTES / (d * REAL_BYTES), rows = fit < wanted ? fit : wanted;
    return rows <= group ? group : rows / group * group;
}

static int NAME(sorted)(ptrdiff_t k, ptrdiff_t d) {
    return VL > 1 && d >= VL && k <= SORTED_CENTROIDS && NAME(batch)(k, d) >= SORTED_LEAST * k;
}

static size_t NAME(carve)(NAME(scratch) * s, char *memory, ptrdiff_t k, ptrdiff_t d) {
    const int flat = NAME(flat)(k, d);
    const size_t rows = (size_t)NAME(rows)(k, d), dc = (size_t)NAME(chunk)(d);
    const size_t few = NAME(few)(k, d) ? (size_t)((k * (d + 1) + 1) * VL) : 0;
    const size_t split = dc < (size_t)d && !flat ? rows * (size_t)k : 0;
    const size_t bytes[10] = {(flat ? (FC + 2) * VL * VL : rows * dc) * REAL_BYTES, rows * REAL_BYTES, rows * REAL_BYTES, rows * REAL_BYTES,
                             split * REAL_BYTES, few * REAL_BYTES, few * 8, rows * (size_t)d * REAL_BYTES,
                              2 * VL * (size_t)d * REAL_BYTES, rows * REAL_BYTES};
    void **const field[10] = {(void **)&s->xt, (void **)&s->best, (void **)&s->second, (void **)&s->nearest,
                             (void **)&s->partial, (void **)&s->masked, (void **)&s->wide,
                             (void **)&s->packed, (void **)&s->again, (void **)&s->norms};
    size_t at = 0;
    for (int i = 0; i < 10; i++) {
        *field[i] = (void *)(memory + at);
        at += (bytes[i] + 127) / 64 * 64; /* never two arrays in one cache line */
    }
    return at;
}

static size_t NAME(scratch_bytes)(ptrdiff_t k, ptrdiff_t d) {
    NAME(scratch) s;
    return NAME(carve)(&s, NULL, k, d);
}

static size_t NAME(panel_bytes)(ptrdiff_t k, ptrdiff_t d) {
    return (size_t)(k * (NAME(flat)(k, d) ? d + VL : d) + k + (NAME(few)(k, d) ? d * VL : 0)) * REAL_BYTES;
}

/* Centroids in the order in which the tile reads them: [chunk][panel][feature][centroid of the panel], then -|c|^2/2,
   then, for few centroids, [feature][lane] for register look-ups.  Panels share k evenly: 10 centroids are 5 + 5. */
static void NAME(pack)(const nearest_job *job, void *memory) {
    const ptrdiff_t k = job->k, d = job->d, panels = (k + NK - 1) / NK, dc = NAME(chunk)(d);
    const REAL *c = (const REAL *)job->centers;
    REAL *out = (REAL *)memory;
    if (NAME(flat)(k, d)) { /* as they are, padded to whole vectors */
        const ptrdiff_t wide = (d + VL - 1) / VL * VL;
        for (ptrdiff_t q = 0; q < k; q++)
            for (ptrdiff_t j = 0; j < wide; j++) *out++ = j < d ? c[q * d + j] : 0;
        for (ptrdiff_t q = 0; q < k; q++) *out++ = -((const REAL *)job->half_norms)[q];
        return;
    }
    for (ptrdiff_t j0 = 0; j0 < d; j0 += dc)
        for (ptrdiff_t p = 0; p < panels; p++)
            for (ptrdiff_t j = j0; j < j0 + dc && j < d; j++)
                for (ptrdiff_t q = p * k / panels; q < (p + 1) * k / panels; q++) *out++ = c[q * d + j];
    for (ptrdiff_t q = 0; q < k; q++) *out++ = -((const REAL *)job->half_norms)[q];
    if (NAME(few)(k, d))
        for (ptrdiff_t j = 0; j < d; j++)
            for (ptrdiff_t q = 0; q < VL; q++) *out++ = q < k ? c[q * d + j] : 0;
}

/* ---- transposition: `m` rows from `x0` (d numbers each), features j0 .. j0 + dc, minus the origin ---- */

INLINE TARGET void NAME(transpose)(const REAL *x0, ptrdiff_t d, ptrdiff_t m, int nv, const REAL *o, ptrdiff_t dc,
                                   REAL *to0) {
    const ptrdiff_t ld = (ptrdiff_t)nv * VL;
    for (int v = 0; v < nv; v++, x0 += VL * d, to0 += VL, m -= VL) {
        if (m < VL || (dc < TQ && !(PAIRS && d == 2))) {
            for (ptrdiff_t j = 0; j < dc; j++) /* rows beyond the last repeat it; nobody looks at their result */
                for (ptrdiff_t lane = 0; lane < VL; lane++)
                    to0[j * ld + lane] = x0[(lane < m ? lane : m - 1) * d + j] - o[j];
            continue;
        }
#if PAIRS
        if (d == 2) {
            TRANSPOSE_PAIRS(x0, o, to0, ld);
            continue;
        }
#endif
        for (ptrdiff_t j = 0; j + TQ <= dc; j += TQ) TRANSPOSE_STEP(x0 + j, d, o + j, to0 + j * ld, ld);
        if (dc % TQ) { /* the last features once more, shifted so that they fill a step */
            const ptrdiff_t j = dc - TQ;
            TRANSPOSE_STEP(x0 + j, d, o + j, to0 + j * ld, ld);
        }
    }
}

/* Sums of lanes, half upon half. */
INLINE TARGET double NAME(sum_lanes)(NAME(dvec) v) {
#ifdef TOTAL_WIDE
    return TOTAL_WIDE(v);
#else
    double lane[HL];
    for (int i = 0; i < HL; i++) lane[i] = LANE(v, i);
    UNROLL for (int half = HL / 2; half > 0; half /= 2) UNROLL for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
#endif
}

INLINE TARGET REAL NAME(sum_of)(NAME(vec) v) {
#ifdef TOTAL
    return TOTAL(v);
#else
    REAL lane[VL];
    STORE(lane, v);
    UNROLL for (int half = VL / 2; half > 0; half /= 2) UNROLL for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
#endif
}

/* ---- squared norms, relative to the origin ---- */

/* Those of nv vectors of rows, from `dc` features of their transposed copy; `first` tells whether these are the first. */
INLINE TARGET void NAME(block_norms)(const REAL *RESTRICT xt, const int nv, ptrdiff_t dc, int first, REAL *norms) {
    for (int v = 0; v < nv; v++) {
        NAME(vec) q[4] = {SPLAT(0), SPLAT(0), SPLAT(0), SPLAT(0)}; /* one sum would wait for itself */
        ptrdiff_t j = 0;
        for (; j + 4 <= dc; j += 4) UNROLL for (int t = 0; t < 4; t++) {
                const NAME(vec) r = LOAD(xt + ((j + t) * nv + v) * VL);
                q[t] = FMA(r, r, q[t]);
            }
        for (; j < dc; j++) q[0] = FMA(LOAD(xt + (j * nv + v) * VL), LOAD(xt + (j * nv + v) * VL), q[0]);
        q[0] = (q[0] + q[1]) + (q[2] + q[3]);
        if (!first) q[0] += LOAD(norms + v * VL);
        STORE(norms + v * VL, q[0]);
    }
}

/* Those of `m` rows as they lie. */
INLINE TARGET void NAME(row_norms)(const REAL *x, ptrdiff_t m, ptrdiff_t d, const REAL *RESTRICT o, REAL *norms) {
    for (ptrdiff_t i = 0; i < m; i++, x += d) {
        NAME(hvec) q[4] = {{0}, {0}, {0}, {0}};
        REAL tail = 0;
        ptrdiff_t j = 0;
        for (; j + 4 * HL <= d; j += 4 * HL) UNROLL for (int t = 0; t < 4; t++) {
                const NAME(hvec) r = HLOAD(x + j + t * HL) - HLOAD(o + j + t * HL);
                q[t] += r * r;
            }
        for (; j < d; j++) tail += (x[j] - o[j]) * (x[j] - o[j]);
        norms[i] = (REAL)(NAME(sum_lanes)(WIDEN(q[0] + q[1] + q[2] + q[3])) + tail);
    }
}

/* ---- the tile: nv vectors of rows against nk centroids ---- */

typedef struct {
    const REAL *xt, *panel, *half; /* half: -|c|^2/2 */
    REAL *partial;                 /* nk x nv vectors: scores summed so far */
    REAL *best, *second;           /* second: NULL when not wanted */
    INT *nearest;
    const char *ahead;             /* rows to fetch meanwhile, */
    ptrdiff_t ahead_step;          /* this many bytes a feature */
    ptrdiff_t dc;
    INT first_index;
    int first, last;               /* first / last chunk of features */
    int kept;                      /* whether scores are left in `partial` after the last */
} NAME(tile_args);

INLINE TARGET void NAME(tile)(const int nv, const int nk, const NAME(tile_args) * a) {
    NAME(vec) acc[NK][NV];
    const REAL *RESTRICT xt = a->xt;
    const REAL *RESTRICT panel = a->panel;
    UNROLL for (int c = 0; c < nk; c++) UNROLL for (int v = 0; v < nv; v++) acc[c][v] = a->first ? SPLAT(a->half[c]) : SPLAT(0);
    const char *ahead = a->ahead;
    const ptrdiff_t ahead_step = a->ahead_step;
    for (ptrdiff_t j = 0; j < a->dc; j++) {
        NAME(vec) x[NV];
        PREFETCH(ahead);
        PREFETCH(ahead + 64);
        PREFETCH(ahead + 128);
        ahead += ahead_step;
        UNROLL for (int v = 0; v < nv; v++) x[v] = LOAD(xt + v * VL);
        UNROLL for (int c = 0; c < nk; c++) {
            const NAME(vec) b = SPLAT(panel[c]);
            UNROLL for (int v = 0; v < nv; v++) acc[c][v] = FMA(x[v], b, acc[c][v]);
        }
        xt += nv * VL;
        panel += nk;
    }
    /* A chunk's sum begins at 0, so that no error is that of all features: see `rounding`. */
    if (!a->first) UNROLL for (int c = 0; c < nk; c++) UNROLL for (int v = 0; v < nv; v++)
        acc[c][v] += LOAD(a->partial + (c * nv + v) * VL);
    if (!a->last || a->kept) {
        UNROLL for (int c = 0; c < nk; c++) UNROLL for (int v = 0; v < nv; v++)
            STORE(a->partial + (c * nv + v) * VL, acc[c][v]);
        if (!a->last) return;
    }
    UNROLL for (int v = 0; v < nv; v++) {
        NAME(vec) best = LOAD(a->best + v * VL);
        NAME(ivec) nearest = ILOAD(a->nearest + v * VL);
        if (a->second) {
            NAME(vec) second = LOAD(a->second + v * VL);
            UNROLL for (int c = 0; c < nk; c++) {
                const MASK better = GREATER(acc[c][v], best);
                second = MAX(second, MIN(acc[c][v], best));
                best = MAX(acc[c][v], best);
                nearest = IPICK(better, ISPLAT(a->first_index + c), nearest);
            }
            STORE(a->second + v * VL, second);
        } else {
            UNROLL for (int c = 0; c < nk; c++) {
                const MASK better = GREATER(acc[c][v], best);
                best = MAX(acc[c][v], best);
                nearest = IPICK(better, ISPLAT(a->first_index + c), nearest);
            }
        }
        STORE(a->best + v * VL, best);
        ISTORE(a->nearest + v * VL, nearest);
    }
}

/* Every width of a panel is compiled by itself; vectors that do not fill a block go through one at a time. */
#define TILES(nk)                                                                                           \
    TARGET static void NAME(tile_wide_##nk)(const NAME(tile_args) * a) { NAME(tile)(NV, nk, a); }           \
    TARGET static void NAME(tile_one_##nk)(const NAME(tile_args) * a) { NAME(tile)(1, nk, a); }
TILES(1) TILES(2) TILES(3) TILES(4)
#if NK == 8
TILES(5) TILES(6) TILES(7) TILES(8)
#endif
#undef TILES

typedef void (*NAME(tile_function))(const NAME(tile_args) *);
static const NAME(tile_function) NAME(tiles)[2][NK] = {
    {NAME(tile_one_1), NAME(tile_one_2), NAME(tile_one_3), NAME(tile_one_4),
#if NK == 8
     NAME(tile_one_5), NAME(tile_one_6), NAME(tile_one_7), NAME(tile_one_8)
#endif
    },
    {NAME(tile_wide_1), NAME(tile_wide_2), NAME(tile_wide_3), NAME(tile_wide_4),
#if NK == 8
     NAME(tile_wide_5), NAME(tile_wide_6), NAME(tile_wide_7), NAME(tile_wide_8)
#endif
    }};

/* ---- the flat tile: nr rows against nk centroids, vectors over features; acc: [centroid][row][lane] ---- */

INLINE TARGET void NAME(flat_tile)(const int nk, const REAL *const *row, const REAL *RESTRICT o,
                                   const REAL *RESTRICT centroids, ptrdiff_t wide, ptrdiff_t d,
                                   const REAL *RESTRICT tail, ptrdiff_t ahead, REAL *RESTRICT out) {
    NAME(vec) acc[FC][FR];
    UNROLL for (int c = 0; c < nk; c++) UNROLL for (int r = 0; r < FR; r++) acc[c][r] = SPLAT(0);
    for (ptrdiff_t j = 0; j + VL <= d; j += VL) {
        const NAME(vec) shift = LOAD(o + j);
        NAME(vec) x[FR];
        UNROLL for (int r = 0; r < FR; r++) {
            PREFETCH(row[r] + j + ahead);
            x[r] = LOAD(row[r] + j) - shift;
        }
        UNROLL for (int c = 0; c < nk; c++) {
            const NAME(vec) b = LOAD(centroids + c * wide + j);
            UNROLL for (int r = 0; r < FR; r++) acc[c][r] = FMA(x[r], b, acc[c][r]);
        }
    }
    if (wide > d) {
        UNROLL for (int c = 0; c < nk; c++) {
            const NAME(vec) b = LOAD(centroids + c * wide + wide - VL);
            UNROLL for (int r = 0; r < FR; r++) acc[c][r] = FMA(LOAD(tail + r * VL), b, acc[c][r]);
        }
    }
    UNROLL for (int c = 0; c < nk; c++) UNROLL for (int r = 0; r < FR; r++)
        STORE(out + (c * VL + r) * VL, acc[c][r]);
}

TARGET static void NAME(scan_flat)(const nearest_job *job, const REAL *x, ptrdiff_t m, const NAME(scratch) * s,
                                     int want_second) {
    const ptrdiff_t d = job->d, k = job->k, panels = (k + FC - 1) / FC, wide = (d + VL - 1) / VL * VL;
    const REAL *o = (const REAL *)job->origin, *packed = (const REAL *)job->packed, *half = packed + k * wide;
    REAL *acc = s->xt, *tail = acc + FC * VL * VL, *turned = tail + VL * VL;
    const REAL zeros[TQ] = {0};
    for (ptrdiff_t i = 0; i < m; i += VL) {
        const REAL *row[VL]; /* rows beyond the last repeat it */
        NAME(vec) best = SPLAT(-INFINITY), second = best;
        NAME(ivec) nearest = ISPLAT(0);
        for (int r = 0; r < VL; r++) row[r] = x + (i + r < m ? i + r : m - 1) * d;
        if (wide > d)
            for (int r = 0; r < VL; r++)
                for (ptrdiff_t j = wide - VL; j < wide; j++)
                    tail[r * VL + j - (wide - VL)] = j < d ? row[r][j] - o[j] : 0;
        for (ptrdiff_t p = 0; p < panels; p++) {
            const ptrdiff_t k0 = p * k / panels, nk = (p + 1) * k / panels - k0;
            const REAL *c = packed + k0 * wide;
            const ptrdiff_t ahead = p == 0 ? AHEAD : 0;
            for (int r = 0; r < VL; r += FR) {
                const REAL *t = tail + r * VL;
                REAL *to = acc + r * VL;
                switch (nk) {
                case 1: NAME(flat_tile)(1, row + r, o, c, wide, d, t, ahead, to); break;
                case 2: NAME(flat_tile)(2, row + r, o, c, wide, d, t, ahead, to); break;
                case 3: NAME(flat_tile)(3, row + r, o, c, wide, d, t, ahead, to); break;
#if FC == 6
                case 4: NAME(flat_tile)(4, row + r, o, c, wide, d, t, ahead, to); break;
                case 5: NAME(flat_tile)(5, row + r, o, c, wide, d, t, ahead, to); break;
#endif
                default: NAME(flat_tile)(FC, row + r, o, c, wide, d, t, ahead, to);
                }
            }
            for (ptrdiff_t q = 0; q < nk; q++) {
                NAME(vec) score = SPLAT(0);
                for (ptrdiff_t j = 0; j < VL; j += TQ) {
                    TRANSPOSE_STEP(acc + q * VL * VL + j, VL, zeros, turned, VL);
                    UNROLL for (int t = 0; t < TQ; t++) score += LOAD(turned + t * VL);
                }
                score += SPLAT(half[k0 + q]);
                const MASK better = GREATER(score, best);
                second = MAX(second, MIN(score, best));
                best = MAX(score, best);
                nearest = IPICK(better, ISPLAT(k0 + q), nearest);
            }
        }
        STORE(s->best + i, best);
        if (want_second) STORE(s->second + i, second);
        ISTORE(s->nearest + i, nearest);
    }
}

/* Nearest centroid by score of each of the `m` rows at `x`, at most one group; the result is in s->nearest and s->best,
   and, if asked for, s->second and s->norms.  A panel is used for every block of the group before the next one is fetched. */
TARGET static void NAME(scan)(const nearest_job *job, const REAL *x, ptrdiff_t m, const NAME(scratch) * s,
                              int want_second) {
    const ptrdiff_t d = job->d, k = job->k, panels = (k + NK - 1) / NK, most = NAME(chunk)(d);
    const int vectors = (int)((m + VL - 1) / VL), full = vectors / NV, blocks = full + vectors % NV;
    const ptrdiff_t ahead = NAME(rows)(k, d);
    if (NAME(flat)(k, d)) {
        NAME(scan_flat)(job, x, m, s, want_second);
        if (want_second) NAME(row_norms)(x, m, d, (const REAL *)job->origin, s->norms);
        return;
    }
    const REAL *packed = (const REAL *)job->packed;
    for (int v = 0; v < vectors; v++) {
        STORE(s->best + v * VL, SPLAT(-INFINITY));
        STORE(s->second + v * VL, SPLAT(-INFINITY));
        ISTORE(s->nearest + v * VL, ISPLAT(0));
    }
    for (ptrdiff_t j0 = 0; j0 < d; j0 += most) {
        const ptrdiff_t dc = d - j0 < most ? d - j0 : most;
        for (int b = 0; b < blocks; b++) {
            const int vector = b < full ? b * NV : full * NV + b - full;
            const ptrdiff_t row = (ptrdiff_t)vector * VL;
            NAME(transpose)(x + row * d + j0, d, m - row < VL * NV ? m - row : VL * NV, b < full ? NV : 1, (const REAL *)job->origin + j0, dc,
                            s->xt + row * dc);
            if (want_second && b < full) NAME(block_norms)(s->xt + row * dc, NV, dc, j0 == 0, s->norms + row);
            if (want_second && b >= full) NAME(block_norms)(s->xt + row * dc, 1, dc, j0 == 0, s->norms + row);
        }
        for (ptrdiff_t p = 0; p < panels; p++) {
            const ptrdiff_t k0 = p * k / panels, nk = (p + 1) * k / panels - k0;
            NAME(tile_args) a;
            a.panel = packed + j0 * k + k0 * dc;
            a.half = packed + k * d + k0;
            a.dc = dc;
            a.first_index = (INT)k0;
            a.first = j0 == 0;
            a.last = j0 + dc == d;
            a.kept = job->look > 0 && dc < d; /* for a second look */
            for (int b = 0; b < blocks; b++) {
                const int vector = b < full ? b * NV : full * NV + b - full;
                const ptrdiff_t row = (ptrdiff_t)vector * VL;
                a.xt = s->xt + row * dc;
                a.partial = s->partial + k0 * vectors * VL + row * nk; /* in the order in which they are come upon */
                a.best = s->best + row;
                a.second = want_second ? s->second + row : NULL;
                a.nearest = s->nearest + row;
                /* The first panel's tile fetches the block that lies one group ahead; scores summed so far, which the
                   second-level cache has no room for, are fetched a tile ahead. */
                a.ahead_step = dc < d ? 2 : p == 0 ? 192 : 0;
                a.ahead = dc < d ? (const char *)(a.partial + NK * BLOCK) : (const char *)(x + (p == 0 ? row + ahead : row) * d);
                NAME(tiles)[b < full][nk - 1](&a);
            }
        }
    }
}
