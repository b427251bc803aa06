/* Rows and centroids in a rotated basis (fastem/families/kmeans/basis.py), for one number type and one instruction set: of
   centroids in float64, of rows in their own type, by the tile. */

#define ADDED_UP 64 /* features that are summed before their sum is added: what rows are off by grows as this does */
#define TURNED 4    /* vectors of coordinates that are summed at once */
#define RESTED 4    /* vectors of what is left of a row that are made at once, */
#define RESTED_ROWS 3 /* and of so many rows */

/* Coordinates of some rows (count, d) in `directions` (d, ROTATED_SIZE), all in float64. */
INLINE TARGET void NAME(project)(const int count, const double *RESTRICT rows, const double *RESTRICT directions,
                                 ptrdiff_t d, double *RESTRICT coordinates) {
    for (int first = 0; first < ROTATED_SIZE; first += TURNED * HL) {
        NAME(dvec) sum[TURNED * TURNED_AT_ONCE] = {{0}};
        for (ptrdiff_t j = 0; j < d; j++) {
            const double *to = directions + j * ROTATED_SIZE + first;
            UNROLL for (int i = 0; i < count; i++) UNROLL for (int t = 0; t < TURNED; t++) {
                sum[i * TURNED + t] += DVEC(to + t * HL) * rows[i * d + j];
            }
        }
        UNROLL for (int i = 0; i < count; i++) UNROLL for (int t = 0; t < TURNED; t++) {
            DVEC(coordinates + i * ROTATED_SIZE + first + t * HL) = sum[i * TURNED + t];
        }
    }
}

/* Some centroids plus `shift` (d,), at most TURNED_AT_ONCE: their coordinates (count, ROTATED_SIZE) and squared norms (count,), the
   same bits whichever others are turned. */
TARGET static void NAME(turn)(const void *const *centers, int count, const double *RESTRICT shift, const double *directions,
                              ptrdiff_t d, double *RESTRICT rows, double *coordinates, double *squares) {
    for (int i = 0; i < count; i++) {
        const REAL *RESTRICT center = centers[i];
        double *RESTRICT row = rows + i * d, tail = 0;
        NAME(dvec) square[2] = {{0}, {0}};
        ptrdiff_t j = 0;
        for (; j + 2 * HL <= d; j += 2 * HL) UNROLL for (int t = 0; t < 2; t++) {
                const NAME(dvec) e = WIDEN(HLOAD(center + j + t * HL)) + DVEC(shift + j + t * HL);
                DVEC(row + j + t * HL) = e;
                square[t] += e * e;
            }
        for (; j < d; j++) {
            row[j] = center[j] + shift[j];
            tail += row[j] * row[j];
        }
        squares[i] = NAME(sum_lanes)(square[0] + square[1]) + tail;
    }
    if (count == TURNED_AT_ONCE)
        NAME(project)(TURNED_AT_ONCE, rows, directions, d, coordinates);
    else
        for (int i = 0; i < count; i++) NAME(project)(1, rows + i * d, directions, d, coordinates + i * ROTATED_SIZE);
}

/* Coordinates of the `m` rows at `x`, at most a block, in all `size` - 1 directions of a rotation, side by side in `out`,
   and their squared norms, both from the mean; lanes beyond the last row repeat it.  The tile multiplies with directions as
   with centroids. */
TARGET NOINLINE void NAME(coordinates)(const nearest_rotation *rotation, const REAL *x, ptrdiff_t d, ptrdiff_t m, REAL *out,
                                       double *squares, REAL *xt) {
    const ptrdiff_t n = rotation->size - 1, panels = (n + NK - 1) / NK, most = NAME(chunk)(d);
    const REAL *mean = (const REAL *)rotation->mean, *packed = (const REAL *)rotation->directions;
    NAME(tile_args) a;
    memset(&a, 0, sizeof a);
    a.ahead = (const char *)packed;
    for (ptrdiff_t lane = 0; lane < BLOCK; lane++) squares[lane] = 0;
    for (ptrdiff_t j0 = 0; j0 < d; j0 += most) {
        const ptrdiff_t dc = d - j0 < most ? d - j0 : most;
        NAME(transpose)(x + j0, d, m, NV, mean + j0, dc, xt);
        for (ptrdiff_t p = 0; p < panels; p++) {
            const ptrdiff_t k0 = p * n / panels, nk = (p + 1) * n / panels - k0;
            a.half = packed + n * d + k0;
            a.partial = out + k0 * BLOCK;
            for (ptrdiff_t j = 0; j < dc; j += ADDED_UP) {
                a.dc = dc - j < ADDED_UP ? dc - j : ADDED_UP;
                a.first = j0 + j == 0;
                a.xt = xt + j * BLOCK;
                a.panel = packed + j0 * n + k0 * dc + j * nk;
                NAME(tiles)[1][nk - 1](&a);
            }
        }
        for (ptrdiff_t j = 0; j < dc; j++)
            for (ptrdiff_t lane = 0; lane < BLOCK; lane++)
                squares[lane] += (double)xt[j * BLOCK + lane] * xt[j * BLOCK + lane];
    }
}

/* Features that `coordinates` adds up in the rows' type, and then sums of so many. */
static ptrdiff_t NAME(added_up)(ptrdiff_t d) {
    const ptrdiff_t chunk = NAME(chunk)(d), chunks = (d + chunk - 1) / chunk;
    return ADDED_UP + chunks * ((chunk + ADDED_UP - 1) / ADDED_UP);
}

static size_t NAME(rotate_bytes)(ptrdiff_t d) { return (size_t)(BLOCK * (NAME(chunk)(d) + ROTATED_SIZE)) * REAL_BYTES; }

/* The numbers of all directions from feature j on, to the end of its strip. */
INLINE const REAL *NAME(strip_of)(const nearest_rotation *rotation, ptrdiff_t j) {
    return (const REAL *)rotation->strips + j / STRIP * STRIP * (ROTATED_SIZE - 2) + j % STRIP;
}

/* What the coordinates of `count` rotated rows y leave of nv vectors of features from j on of rows x: their squares, added
   to q, four vectors of each row. */
INLINE TARGET void NAME(rest_part)(const nearest_rotation *rotation, const REAL *const *x, const REAL *const *y,
                                   ptrdiff_t j, const int count, const int nv, NAME(vec) * q) {
    const REAL *RESTRICT mean = (const REAL *)rotation->mean, *RESTRICT strip = NAME(strip_of)(rotation, j);
    NAME(vec) left[RESTED * RESTED_ROWS];
    UNROLL for (int i = 0; i < count; i++) UNROLL for (int t = 0; t < nv; t++) {
            left[i * nv + t] = LOAD(x[i] + j + t * VL) - LOAD(mean + j + t * VL);
        }
    for (ptrdiff_t c = 0; c < ROTATED_SIZE - 1; c++) {
        if (c == FIRST_SIZE - 1) continue;
        UNROLL for (int t = 0; t < nv; t++) {
            const NAME(vec) direction = LOAD(strip + (c - (c >= FIRST_SIZE)) * STRIP + t * VL);
            UNROLL for (int i = 0; i < count; i++) left[i * nv + t] = FMA(direction, SPLAT(-y[i][c]), left[i * nv + t]);
        }
    }
    UNROLL for (int i = 0; i < count; i++) UNROLL for (int t = 0; t < nv; t++) {
            q[i * RESTED + t] = FMA(left[i * nv + t], left[i * nv + t], q[i * RESTED + t]);
        }
}

/* The squared norms of what the coordinates of some rotated rows y leave of rows x, by that itself. */
INLINE TARGET void NAME(measure)(const nearest_rotation *rotation, const REAL *const *x, const REAL *const *y, ptrdiff_t d,
                                 const int count, double *squares) {
    const REAL *mean = (const REAL *)rotation->mean;
    NAME(vec) q[RESTED * RESTED_ROWS];
    ptrdiff_t j = 0;
    UNROLL for (int v = 0; v < count * RESTED; v++) q[v] = SPLAT(0);
    for (; j + RESTED * VL <= d; j += RESTED * VL) NAME(rest_part)(rotation, x, y, j, count, RESTED, q);
    for (; j + VL <= d; j += VL) NAME(rest_part)(rotation, x, y, j, count, 1, q);
    for (int i = 0; i < count; i++) {
        NAME(vec) *own = q + i * RESTED;
        squares[i] = (double)NAME(sum_of)((own[0] + own[1]) + (own[2] + own[3]));
        for (ptrdiff_t f = j; f < d; f++) {
            REAL left = x[i][f] - mean[f];
            for (ptrdiff_t c = 0; c < ROTATED_SIZE - 1; c++)
                if (c != FIRST_SIZE - 1) left -= NAME(strip_of)(rotation, f)[(c - (c >= FIRST_SIZE)) * STRIP] * y[i][c];
            squares[i] += (double)left * left;
        }
    }
}

/* The same of `n` rows from x on, of which `which` (m,) are asked for, to `squares` (n,). */
TARGET NOINLINE void NAME(measure_rests)(const nearest_rotation *rotation, const REAL *x, const REAL *y, ptrdiff_t d,
                                         const int *which, int m, double *squares) {
    const REAL *rows[RESTED_ROWS], *turned[RESTED_ROWS];
    double found[RESTED_ROWS];
    for (int f = 0; f < m; f += RESTED_ROWS) {
        const int count = m - f < RESTED_ROWS ? m - f : RESTED_ROWS;
        for (int i = 0; i < RESTED_ROWS; i++) { /* those beyond the last repeat it */
            const int number = which[i < count ? f + i : m - 1];
            rows[i] = x + number * d;
            turned[i] = y + number * ROTATED_SIZE;
        }
        NAME(measure)(rotation, rows, turned, d, RESTED_ROWS, found);
        for (int i = 0; i < count; i++) squares[which[f + i]] = found[i];
    }
}

/* Numbers (ROTATED_SIZE,) of rows start .. stop, to `out`; returns the largest squared norm from the mean, or NaN.

   The squared norm of what coordinates leave is that of the row minus theirs, or, where that is lost in rounding (flat
   patches of photographs: all of brightness, distances of a hundredth of it), that of the row minus what they make up. */
TARGET static double NAME(rotate)(const nearest_job *job, ptrdiff_t start, ptrdiff_t stop, void *out, void *memory) {
    const ptrdiff_t d = job->d, first = FIRST_SIZE - 1;
    const double share = OFF_BY * job->rotation->row_error * MEASURED;
    REAL *of_block = (REAL *)memory, *xt = of_block + BLOCK * ROTATED_SIZE;
    double squares[BLOCK], largest = 0;
    for (ptrdiff_t i = start; i < stop; i += BLOCK) {
        const ptrdiff_t m = stop - i < BLOCK ? stop - i : BLOCK;
        NAME(coordinates)(job->rotation, (const REAL *)job->x + i * d, d, m, of_block, squares, xt);
        REAL *y = (REAL *)out + i * ROTATED_SIZE;
        double left[BLOCK], further[BLOCK] = {0};
        int lost[BLOCK], n_lost = 0;
        for (ptrdiff_t lane = 0; lane < m; lane++) {
            REAL *RESTRICT of_row = y + lane * ROTATED_SIZE;
            left[lane] = squares[lane];
            if (!(left[lane] <= largest)) largest = left[lane];
            for (ptrdiff_t c = 0; c < ROTATED_SIZE - 2; c++) {
                const REAL z = of_block[c * BLOCK + lane];
                of_row[c < first ? c : c + 1] = z;
                left[lane] -= (double)z * z;
                if (c >= first) further[lane] += (double)z * z;
            }
            if (left[lane] < share * squares[lane]) lost[n_lost++] = (int)lane;
        }
        NAME(measure_rests)(job->rotation, (const REAL *)job->x + i * d, y, d, lost, n_lost, left);
        for (ptrdiff_t lane = 0; lane < m; lane++) {
            y[lane * ROTATED_SIZE + first] = (REAL)sqrt(left[lane] + further[lane]);
            y[lane * ROTATED_SIZE + ROTATED_SIZE - 1] = (REAL)sqrt(left[lane]);
        }
    }
    return largest;
}
