/* Nearest centroid of every row, fused with counts, sums and inertia: the SIMD kernels of fastem._native.nearest.

   What bounds them (n rows, d features, k centroids; figures of one 2-core Zen 5 at 3.7 GHz with full AVX-512,
   measured: 425 GFLOP/s float32 FMA and 41 GB/s from memory, 100-170 GB/s from the third-level cache):
       2 n d k flops / 425e9    and    n d 4 bytes / 41e9    whichever is longer, half / double for float64.

   Measured on that machine (milliseconds of `accumulate`, one thread, float32 / float64; limit of one thread beside it):
       1M x 2, k = 8       1.2 / 2.0    0.2 / 0.5  (memory)
       1M x 16, k = 16     7.2 / 12.4   2.2 / 4.4  (products; then the transposition and the sums cost as much)
       200k x 64, k = 100  15.5 / 31    11 / 22
       60k x 784, k = 10   14.3 / 32    5.4 / 10.8 (memory)
       100k x 128, k = 1000  126 / 247  109 / 218; the assignment alone 120 / 236
   Two threads take half, but for the shapes that memory bounds.

   The kernels are compiled once per instruction set and number type (kernels_*.c: so many sources, side by side) and chosen
   at run time (dispatch.h), so that a wheel built on any machine runs everywhere; no -march flag is needed, and none must
   be given. */
#ifndef FASTEM_TILE_H
#define FASTEM_TILE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__)
#define ON_X86 1
#include <immintrin.h>
#include "simd/totals.h"
#else
#define ON_X86 0
#endif

#ifdef __GNUC__
#define RESTRICT __restrict__
#define PREFETCH(p) __builtin_prefetch(p)
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#ifdef __clang__
#define UNFUSED __attribute__((noinline)) /* which fuses within an expression only */
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#define UNFUSED __attribute__((noinline, optimize("fp-contract=off"))) /* a product that is rounded before it is added */
#endif
#else
#define RESTRICT __restrict
#define PREFETCH(p) ((void)0)
#define INLINE static inline
#define NOINLINE static
#define UNROLL
#define UNFUSED
#define __builtin_fma fma
#endif

#define EPSILON_32 1.1920929e-7f
#define EPSILON_64 2.220446049250313e-16

#define CELL_BITS 11 /* rows of a cell of the fixed grid: fastem.stats.CELL */
#define CELL_ROWS (1 << CELL_BITS)

#define TIES 8 /* roundings of a coordinate by which distances of a tied row differ at most: moves.pxi, and those of two centroids */

#define GROUP_BYTES 131072 /* the blocks that share a panel stay in the second-level cache */
#define FEW_SUMS 64
#define SINGLE_ROW 8          /* a row that is tightened and packed costs as much more as so many centroids */
#define SEED_BYTES 32768
#define SEED_TILE 4        /* candidates whose distances are computed together */
#define MAX_CANDIDATES 32
#define SCREEN_BLOCK 48     /* places of a block (screened_body.h): whole blocks of every tile */
#define SCREEN_PLACES ((CELL_ROWS + SCREEN_BLOCK - 1) / SCREEN_BLOCK * SCREEN_BLOCK) /* of a grid cell */
#define AHEAD (VL * d) /* rows fetched while earlier ones are multiplied */
#define FEW_PAIRS 128  /* centroids whose gaps are measured */

#define FLAT_FEATURES 96
#define FLAT_CENTROIDS 32
#define FLAT_BYTES 262144
#define FLOAT_ROWS 240       /* that float32 may add up */
#define FIRST_SIZE 16        /* numbers of a rotated row that all centroids are compared by: rotated_body.h */
#define ROTATED_SIZE 64      /* and of all of it */
#define OFF_BY 2.5           /* a squared norm less those of coordinates is off by so many times what these are: basis.py */
#define MEASURED 64          /* rests whose squares are so many times what they are off by, or less, are measured: basis_body.h */
#define STRIP 64             /* features of such a strip, whole vectors: all directions of one stay in the first cache */
#define TURNED_AT_ONCE 3     /* centroids that are brought into that basis together */
#define ROTATED_BYTES 262144
#define BLIND_SIZE 192       /* the same, at most, of rows of which nothing is known: blind_body.h; one chunk of the tile */
#define BLIND_BYTES 524288
#define BATCH_BYTES 524288
#define SORTED_CENTROIDS 512
#define SORTED_ROWS 128
#define SORTED_LEAST 4
#define SUM_FEATURES 2048    /* features of a sum that are added up at once: with those that wait for it in the second cache */
#define GATHER_AHEAD 2       /* rows fetched ahead: the next lies anywhere */

/* Rows and centroids in a rotated basis (rotated_body.h), all of the rows' type. */
typedef struct nearest_rotation {
    const void *rows;      /* (n, ROTATED_SIZE) */
    const uint16_t *order; /* (n,): the rows of each cell, by their numbers there, in the order in which they are taken */
    const void *centers;   /* (k, ROTATED_SIZE) in an order of their own */
    const int32_t *names;  /* (k,): which centroids these are */
    const void *packed;    /* first numbers of the centroids in the order of the tile, and what stands for half their norms */
    const void *deep;      /* the same of all their numbers, but that the first norm of a rest is 0 */
    const void *allowance; /* (k,): by which v is lowered for what is not known of a centroid */
    double row_error;      /* a rotated row is off by so much of its norm */
    int32_t blind;         /* the labels are no guesses yet */
    const struct nearest_rotation *movers; /* with those centroids alone that moved, or NULL */
    ptrdiff_t n_movers;
    /* By what rows are rotated: before, or on the way (blind_body.h), where names, order and allowances are not known. */
    ptrdiff_t size;         /* numbers of a row: one coordinate for each of size - 1 directions, then the norm of the rest */
    const void *mean;       /* (d,) */
    const void *directions; /* (size - 1, d) in the order of the tile */
    const void *strips;     /* (.., size - 1, STRIP), by strips of features, where rests are measured (basis_body.h) */
} nearest_rotation;

/* What a pass over the rows works on.  All arrays are C-contiguous; X, w, origin, centers, half_norms and sqdist are of
   one type, float or double. */
typedef struct {
    ptrdiff_t n, d, k;
    const void *x;          /* (n, d) */
    const void *w;          /* (n,) or NULL: unit weights */
    const void *origin;     /* (d,) */
    const void *centers;    /* (k, d) relative to the origin */
    const void *half_norms; /* (k,) */
    const void *packed;     /* the centroids in the order of the tile */
    int32_t *labels;        /* OUT (n,) or NULL */
    int32_t settled;        /* the labels are given: only settle them */
    double look;            /* norm of the farthest centroid if rows are looked at twice (differences_body.h), else 0 */
    void *sqdist;           /* OUT (n,) or NULL */
    int32_t *tied;          /* OUT (n,) or NULL: from where a cell begins, those of its rows that are tied: `is_tied` */
    int32_t *n_tied;        /* OUT (n_cells,): how many these are */
    const nearest_rotation *rotation; /* or NULL */
} nearest_job;

/* What bounded iterations keep for each row, and how the centroids moved since.  moved and gap are in the rows' type,
   rounded so that bounds stay bounds. */
typedef struct {
    void *upper, *lower;  /* (n,) IN / OUT */
    uint32_t *changes;    /* (n,) OUT: see bounds_body.h */
    /* Tables by centroid, padded to at least 16 numbers: how far it moved, the farthest that any other moved, and half
       the distance to the nearest other. */
    const void *moved, *drop, *gap;
    double largest_norm;  /* largest |c|^2 */
    /* With active centroids, for which `near` bounds the distance as `lower` does for the others; see bounds_body.h. */
    void *near;                  /* (n,) IN / OUT */
    const nearest_job *active;   /* with these as its centroids, or NULL */
    const int32_t *active_index; /* which centroids they are */
    const int32_t *is_active;    /* (k,) */
    /* Tables by centroid: the farthest that another active one moved, and another that became active just now. */
    const void *near_drop, *joined;
} nearest_memo;

/* A step of greedy k-means++: candidates (job->centers, k of them) against the seeds chosen so far. */
typedef struct {
    const void *quarter;  /* (seeds,): a quarter of the squared distance to the nearest candidate, rounded down */
    void *closest;        /* (n,) IN / OUT: squared distance of each row to its nearest seed */
    int32_t *seeds;       /* (n,) IN / OUT: which seed that is */
    int32_t commit;       /* index that the first candidate gets as a seed, or -1: only score the candidates */
} nearest_seeding;

/* Rows in blocks of places, and candidates to become seeds (screened_body.h).  Void arrays are of the rows' type but for
   `allowance`, which is float64. */
typedef struct {
    ptrdiff_t n, d;          /* rows, features */
    const void *x, *w;       /* as of a job */
    const void *rows;        /* (n, ROTATED_SIZE) rotated rows */
    double row_error;        /* one is off by so much of its norm */
    void *blocks;            /* first numbers of the rotated rows: (cells, SCREEN_PLACES / SCREEN_BLOCK) [number][place] */
    void *closest;           /* (n,) IN / OUT: squared distance to the nearest seed */
    int32_t *owner;          /* (n,) IN / OUT: which seed that is */
    void *threshold;         /* (cells, SCREEN_PLACES) of first scores: below, a candidate is left out */
    ptrdiff_t m;             /* candidates */
    const void *candidates;  /* (m, d) */
    const void *of_rows;     /* (m, ROTATED_SIZE) their numbers */
    const void *half;        /* (m,) what stands for minus half their squared norms */
    const void *allowance;   /* (m,) by which v is lowered for what is not known of a candidate */
    uint16_t *gainers;       /* OUT (n,) by cell and candidate, the rows of the cell that come nearer, */
    void *sqdist;            /* OUT (n,) and their squared distances */
    int32_t *ends;           /* OUT (cells, MAX_CANDIDATES) where they end, or -1: there was no room for them */
} nearest_screen;

/* Rows of a CSR matrix and centroids (csr_body.h).  Values, panel, half and distances are of one type. */
typedef struct {
    ptrdiff_t n, k;
    const int64_t *indptr;  /* (n + 1,) */
    const int32_t *indices; /* the feature of each value */
    const void *data;       /* values */
    const double *squares;  /* (n,) squared norms of the rows */
    const void *panel;      /* (d, k) centroids, features first, and a vector more */
    const void *half;       /* (k,) half their squared norms, and a vector more */
    const void *scale;      /* (k,) by which the panel's columns are multiplied, and a vector more; or NULL */
    const double *norms;    /* (2, k) their squared norms, each as a sum of two numbers */
    double farthest;        /* the largest norm */
    ptrdiff_t panel_bytes;  /* size of the panel */
    int32_t fetch;          /* whether the panel is too large for the second-level cache */
    int32_t *labels;        /* OUT (n,) */
    double *sqdist;         /* OUT (n,) */
    double *second;         /* OUT (n,) or NULL */
    uint8_t *tied;          /* OUT (n,) or NULL: whether a row is as near to two centroids, as `csr_partition` has it */
    double reach;
    void *distances;        /* OUT (n, k) */
} csr_job;

/* The values by feature (CSC), and what is summed of them. */
typedef struct {
    ptrdiff_t k, n_kept;
    const int64_t *indptr;  /* (d + 1,) */
    const int32_t *indices; /* the row of each value */
    const void *data;
    const void *w;          /* (n,) or NULL: unit weights */
    const int32_t *labels;  /* (n,) */
    const int32_t *kept;    /* (n_kept,) labels without weight */
} csr_table;

/* Clusters of CSR rows as sums, from which a mean is a sum over a weight; a cluster without weight has one row, its
   centroid, for a sum. */
typedef struct {
    ptrdiff_t d, k;
    const int64_t *indptr;  /* rows that may move, as CSR */
    const int32_t *indices;
    const void *data;
    double *counts;         /* IN / OUT (k,) weights */
    double *sums;           /* IN / OUT (d, k), features first */
    double *norms;          /* IN / OUT (2, k) squared norms of the sums, each as a sum of two numbers */
    double reach;           /* by how many roundings of a coordinate another mean may be farther; INFINITY: by any */
    double gain;            /* share of a row's part of the distortion that a move must gain */
} csr_partition;

typedef struct {
    size_t (*panel_bytes)(ptrdiff_t k, ptrdiff_t d);
    size_t (*scratch_bytes)(ptrdiff_t k, ptrdiff_t d);
    void (*pack)(const nearest_job *, void *);
    double (*doubt)(const nearest_job *);
    void (*distances)(const nearest_job *, ptrdiff_t start, ptrdiff_t stop, void *scratch);
    void (*cell)(const nearest_job *, const nearest_memo *, ptrdiff_t start, ptrdiff_t stop, double *stats, void *scratch);
    void (*add)(double *to, const double *from, ptrdiff_t size);
    int (*by_rows)(ptrdiff_t k, ptrdiff_t d);
    double (*spread)(const nearest_job *, ptrdiff_t start, ptrdiff_t stop);
    void (*gather)(const nearest_job *, const int64_t *rows, ptrdiff_t count, ptrdiff_t j0, ptrdiff_t j1, double *sum,
                   double *stack);
    void (*weigh)(const nearest_job *, ptrdiff_t start, ptrdiff_t stop, double *counts);
    ptrdiff_t (*bounded_cell)(const nearest_job *, const nearest_memo *, ptrdiff_t start, ptrdiff_t stop, void *scratch);
    void (*apply_changes)(const nearest_job *, const nearest_memo *, ptrdiff_t start, ptrdiff_t n_changed, ptrdiff_t j0,
                          ptrdiff_t j1, double *delta);
    void (*turn)(const void *const *centers, int count, const double *shift, const double *directions, ptrdiff_t d,
                 double *rows, double *coordinates, double *squares);
    ptrdiff_t (*added_up)(ptrdiff_t d);
    size_t (*rotate_bytes)(ptrdiff_t d);
    double (*rotate)(const nearest_job *, ptrdiff_t start, ptrdiff_t stop, void *out, void *scratch);
    size_t (*rotated_bytes)(ptrdiff_t k, ptrdiff_t d);
    ptrdiff_t (*rotated_cell)(const nearest_job *, const nearest_memo *, ptrdiff_t start, ptrdiff_t stop, void *scratch);
    size_t (*blind_bytes)(ptrdiff_t k, ptrdiff_t d);
    void (*blind_cell)(const nearest_job *, const nearest_memo *, ptrdiff_t start, ptrdiff_t stop, void *scratch);
    size_t (*seed_bytes)(ptrdiff_t d);
    void (*seed_gaps)(const void *candidates, ptrdiff_t k, const void *seeds, ptrdiff_t n_seeds, ptrdiff_t d, void *quarter);
    void (*seed_cell)(const nearest_job *, const nearest_seeding *, ptrdiff_t start, ptrdiff_t stop, double *out,
                      void *scratch);
    size_t (*screen_bytes)(ptrdiff_t d);
    void (*screen_aim)(const nearest_screen *, ptrdiff_t cell);
    double (*screen_score)(const nearest_screen *, ptrdiff_t cell, double *out, void *scratch);
    double (*screen_commit)(const nearest_screen *, ptrdiff_t cell, ptrdiff_t candidate, int32_t seed, void *scratch);
    void (*csr_rows)(const csr_job *, ptrdiff_t start, ptrdiff_t stop, void *scratch);
    void (*csr_distances)(const csr_job *, ptrdiff_t start, ptrdiff_t stop, void *scratch);
    void (*csr_norms)(const void *centers, ptrdiff_t k, ptrdiff_t j0, ptrdiff_t j1, double *high, double *low);
    double (*csr_means)(const csr_table *, const double *counts, const void *before, ptrdiff_t j0, ptrdiff_t j1, void *after,
                        double *scratch);
    ptrdiff_t (*csr_better)(const csr_partition *, ptrdiff_t i, double w, ptrdiff_t a, double *scratch);
    void (*csr_shift)(const csr_partition *, ptrdiff_t i, double w, ptrdiff_t c);
} nearest_kernels;

/* One table for each pair of kernels_*.c. */
extern const nearest_kernels kernels_generic_f32, kernels_generic_f64;
#if ON_X86
extern const nearest_kernels kernels_avx2_f32, kernels_avx2_f64, kernels_avx512_f32, kernels_avx512_f64;
#endif

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#endif
