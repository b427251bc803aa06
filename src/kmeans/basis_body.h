/* Rows and centroids in a rotated basis (fastem/families/kmeans/basis.py), for one number type and one instruction set: of
   centroids in float64, of rows in their own type, by the tile. */

#define ADDED_UP 64 /* features that are summed before their sum is added: what rows are off by grows as this does */
#define TURNED 4    /* vectors of coordinates that are summed at once */

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

/* Numbers (ROTATED_SIZE,) of rows start .. stop, to `out`; returns the largest squared norm from the mean, or NaN. */
TARGET static double NAME(rotate)(const nearest_job *job, ptrdiff_t start, ptrdiff_t stop, void *out, void *memory) {
    const ptrdiff_t d = job->d;
    REAL *of_block = (REAL *)memory, *xt = of_block + BLOCK * ROTATED_SIZE;
    double squares[BLOCK], largest = 0;
    for (ptrdiff_t i = start; i < stop; i += BLOCK) {
        const ptrdiff_t m = stop - i < BLOCK ? stop - i : BLOCK;
        NAME(coordinates)(job->rotation, (const REAL *)job->x + i * d, d, m, of_block, squares, xt);
        for (ptrdiff_t lane = 0; lane < m; lane++) {
            REAL *RESTRICT y = (REAL *)out + (i + lane) * ROTATED_SIZE;
            double left = squares[lane];
            if (!(left <= largest)) largest = left;
            for (ptrdiff_t j = 0; j < ROTATED_SIZE; j++) {
                if (j == FIRST_SIZE - 1 || j == ROTATED_SIZE - 1) { /* the norm of what is left */
                    left = left < 0 ? 0 : left;
                    y[j] = (REAL)sqrt(left);
                    continue;
                }
                y[j] = of_block[(j < FIRST_SIZE ? j : j - 1) * BLOCK + lane];
                left -= (double)y[j] * y[j];
            }
        }
    }
    return largest;
}
