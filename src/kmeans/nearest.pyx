# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=False
"""Nearest centroid of every row, fused with what an iteration of k-means needs; see tile.h for the kernels.

Every function takes C-contiguous arrays that `fastem.validate` has checked, never writes to its inputs and releases
the interpreter lock.  `n_threads == 1` opens no parallel region.  Results do not depend on `n_threads`.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY, fabs, frexp, ldexp, sqrt, trunc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

import os

import numpy as np

cdef extern from *:
    """
    #ifdef _OPENMP
    #define HAS_OPENMP 1
    #else
    #define HAS_OPENMP 0
    #endif
    """
    const int HAS_OPENMP

cdef extern from "kmeans/dispatch.h" nogil:
    ctypedef struct nearest_rotation:
        const void *rows
        const uint16_t *order
        const void *centers
        const int32_t *names
        const void *packed
        const void *deep
        const void *allowance
        double row_error
        int32_t blind
        const nearest_rotation *movers
        ptrdiff_t n_movers, size
        const void *mean
        const void *directions
        const void *strips

    ctypedef struct nearest_job:
        ptrdiff_t n, d, k
        const void *x
        const void *w
        const void *origin
        const void *centers
        const void *half_norms
        const void *packed
        int32_t *labels
        int32_t settled
        double look
        void *sqdist
        int32_t *tied
        int32_t *n_tied
        const nearest_rotation *rotation

    ctypedef struct nearest_memo:
        void *upper
        void *lower
        uint32_t *changes
        const void *moved
        const void *drop
        const void *gap
        double largest_norm
        void *near
        const nearest_job *active
        const int32_t *active_index
        const int32_t *is_active
        const void *near_drop
        const void *joined

    ctypedef struct nearest_seeding:
        const void *quarter
        void *closest
        int32_t *seeds
        int32_t commit

    ctypedef struct nearest_screen:
        ptrdiff_t n, d
        const void *x
        const void *w
        const void *rows
        double row_error
        void *blocks
        void *closest
        int32_t *owner
        void *threshold
        ptrdiff_t m
        const void *candidates
        const void *of_rows
        const void *half
        const void *allowance
        uint16_t *gainers
        void *sqdist
        int32_t *ends

    ctypedef struct csr_job:
        ptrdiff_t n, k
        const int64_t *indptr
        const int32_t *indices
        const void *data
        const double *squares
        const void *panel
        const void *half
        const void *scale
        const double *norms
        double farthest
        ptrdiff_t panel_bytes
        int32_t fetch
        int32_t *labels
        double *sqdist
        double *second
        uint8_t *tied
        double reach
        void *distances

    ctypedef struct csr_table:
        ptrdiff_t k, n_kept
        const int64_t *indptr
        const int32_t *indices
        const void *data
        const void *w
        const int32_t *labels
        const int32_t *kept

    ctypedef struct csr_partition:
        ptrdiff_t d, k
        const int64_t *indptr
        const int32_t *indices
        const void *data
        double *counts
        double *sums
        double *norms
        double reach, gain

    ctypedef struct nearest_kernels:
        size_t (*panel_bytes)(ptrdiff_t, ptrdiff_t) noexcept nogil
        size_t (*scratch_bytes)(ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*pack)(const nearest_job *, void *) noexcept nogil
        double (*doubt)(const nearest_job *) noexcept nogil
        void (*distances)(const nearest_job *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        void (*cell)(const nearest_job *, const nearest_memo *, ptrdiff_t, ptrdiff_t, double *, void *) noexcept nogil
        void (*add)(double *, const double *, ptrdiff_t) noexcept nogil
        int (*by_rows)(ptrdiff_t, ptrdiff_t) noexcept nogil
        double (*spread)(const nearest_job *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*gather)(const nearest_job *, const int64_t *, ptrdiff_t, ptrdiff_t, ptrdiff_t, double *, double *) noexcept nogil
        ptrdiff_t (*bounded_cell)(const nearest_job *, const nearest_memo *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        void (*apply_changes)(const nearest_job *, const nearest_memo *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                              double *) noexcept nogil
        void (*turn)(const void *const *, int, const double *, const double *, ptrdiff_t, double *, double *,
                     double *) noexcept nogil
        ptrdiff_t (*added_up)(ptrdiff_t) noexcept nogil
        size_t (*rotate_bytes)(ptrdiff_t) noexcept nogil
        double (*rotate)(const nearest_job *, ptrdiff_t, ptrdiff_t, void *, void *) noexcept nogil
        size_t (*rotated_bytes)(ptrdiff_t, ptrdiff_t) noexcept nogil
        ptrdiff_t (*rotated_cell)(const nearest_job *, const nearest_memo *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        size_t (*blind_bytes)(ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*blind_cell)(const nearest_job *, const nearest_memo *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        size_t (*seed_bytes)(ptrdiff_t) noexcept nogil
        void (*seed_gaps)(const void *, ptrdiff_t, const void *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        void (*seed_cell)(const nearest_job *, const nearest_seeding *, ptrdiff_t, ptrdiff_t, double *, void *) noexcept nogil
        size_t (*screen_bytes)(ptrdiff_t) noexcept nogil
        void (*screen_aim)(const nearest_screen *, ptrdiff_t) noexcept nogil
        double (*screen_score)(const nearest_screen *, ptrdiff_t, double *, void *) noexcept nogil
        double (*screen_commit)(const nearest_screen *, ptrdiff_t, ptrdiff_t, int32_t, void *) noexcept nogil
        void (*csr_rows)(const csr_job *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        void (*csr_distances)(const csr_job *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        void (*csr_norms)(const void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, double *, double *) noexcept nogil
        double (*csr_means)(const csr_table *, const double *, const void *, ptrdiff_t, ptrdiff_t, void *, double *) noexcept nogil
        ptrdiff_t (*csr_better)(const csr_partition *, ptrdiff_t, double, ptrdiff_t, double *) noexcept nogil
        void (*csr_shift)(const csr_partition *, ptrdiff_t, double, ptrdiff_t) noexcept nogil

    int ISA_COUNT
    const char *const *isa_names
    int isa_available(int)
    const nearest_kernels *kernels_for(int, int)
    const char *compiler_name()
    void run_task(const nearest_job *, const nearest_memo *, const nearest_kernels *, ptrdiff_t, int, ptrdiff_t, double *,
                  double *, void *)
    ptrdiff_t tree_levels(ptrdiff_t)
    void run_weights(const nearest_job *, const nearest_kernels *, double *, double *)
    const ptrdiff_t CELL_ROWS, MAX_CANDIDATES, FIRST_SIZE, ROTATED_SIZE, BLIND_SIZE, FLAT_CENTROIDS, SCREEN_PLACES, SUM_FEATURES, STRIP
    const ptrdiff_t MEASURED_REST "MEASURED"
    const int TURNED_AT_ONCE
    const double EPSILON_32, EPSILON_64

ctypedef fused real:
    float
    double

CELL = CELL_ROWS  # `fastem.stats.CELL`; a test compares the two

cdef int isa = 0


def force_isa(name):
    """Use one instruction set for all further calls of this process; None: that of FASTEM_ISA, or else the best."""
    global isa
    asked = os.environ.get("FASTEM_ISA") if name is None else name
    usable = {isa_names[i].decode(): i for i in range(ISA_COUNT) if isa_available(i)}
    if asked and asked not in usable:
        source = "FASTEM_ISA: " if name is None else ""
        raise ValueError(f"{source}instruction set {asked!r} is not one of {list(usable)}")
    isa = usable[asked] if asked else max(usable.values())


force_isa(None)


def build_info():
    """Compiler, OpenMP and instruction sets of this build on this machine."""
    return {
        "compiler": compiler_name().decode(),
        "openmp": bool(HAS_OPENMP),
        "isa": isa_names[isa].decode(),
        "available": [isa_names[i].decode() for i in range(ISA_COUNT) if isa_available(i)],
    }


cdef const void *start_of(const real[::1] array) noexcept nogil:
    return <const void *>&array[0] if array.shape[0] else NULL


def _aligned(size_t n_bytes):
    """Uninitialised memory that starts on a cache line, as an array (n_bytes,) of uint8."""
    memory = np.empty(n_bytes + 64, dtype=np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + n_bytes]


cdef nearest_job job_of(const real[:, ::1] X, const real[::1] w, const real[::1] origin, const real[:, ::1] centers,
                        const real[::1] half_norms) noexcept:
    cdef nearest_job job
    job.n, job.d, job.k = X.shape[0], X.shape[1], centers.shape[0]
    job.x, job.w, job.origin = <const void *>&X[0, 0], start_of[real](w), <const void *>&origin[0]
    job.centers, job.half_norms = <const void *>&centers[0, 0], start_of[real](half_norms)
    job.packed, job.labels, job.settled, job.look, job.sqdist = NULL, NULL, 0, 0, NULL
    job.tied, job.n_tied, job.rotation = NULL, NULL, NULL
    return job


cdef ptrdiff_t in_lines(size_t n_bytes) noexcept nogil:
    """Room for `n_bytes` and a cache line between it and the next thread's."""
    return <ptrdiff_t>((n_bytes + 127) // 64 * 64)


def assign(
    const real[:, ::1] X,
    const real[::1] origin,
    const real[:, ::1] centers,
    const real[::1] half_norms,
    int32_t[::1] labels,
    real[::1] sqdist,
    int n_threads,
):
    """Nearest centroid of every row, the lowest index in a tie, and its squared distance.

    Parameters
    ----------
    X : array (n, d)
        Rows.
    origin : array (d,)
        Subtracted from every row.
    centers : array (k, d)
        Centroids minus the origin.
    half_norms : array (k,)
        Half the squared norm of every row of `centers`.
    labels : int32 array (n,)
        OUT. Index of the nearest centroid.
    sqdist : array (n,) or (0,)
        OUT. Squared distance to it, computed from x - c; not computed when empty.
    n_threads : int
        Threads to use.
    """
    if X.shape[0] == 0:
        return
    cdef nearest_job job = job_of[real](X, sqdist[:0], origin, centers, half_norms)
    job.labels = &labels[0]
    job.sqdist = <void *>start_of[real](sqdist)
    sweep_cells(&job, kernels_for(isa, real is double), n_threads)


def distances(const real[:, ::1] X, const real[:, ::1] centers, real[:, ::1] out, int n_threads):
    """Squared distance of every row to every centroid, computed from x - c.

    Parameters
    ----------
    X : array (n, d)
        Rows.
    centers : array (k, d)
        Centroids.
    out : array (n, k)
        OUT. Squared distances.
    n_threads : int
        Threads to use.
    """
    if X.shape[0] == 0:
        return
    if out.shape[0] != X.shape[0] or out.shape[1] != centers.shape[0] or X.shape[1] != centers.shape[1]:
        raise ValueError(f"out has shape {(out.shape[0], out.shape[1])}, not {(X.shape[0], centers.shape[0])}")
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef const real[::1] zeros = np.zeros(X.shape[1], np.float64 if real is double else np.float32)
    cdef nearest_job job = job_of[real](X, zeros[:0], zeros, centers, zeros[:0])
    cdef ptrdiff_t n_tasks = (job.n + CELL_ROWS - 1) // CELL_ROWS, t
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t each = in_lines(kernels.seed_bytes(job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    job.sqdist = <void *>&out[0, 0]
    with nogil:
        if threads == 1:
            kernels.distances(&job, 0, job.n, &scratch[0])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                kernels.distances(&job, t * CELL_ROWS, min((t + 1) * CELL_ROWS, job.n), &scratch[threadid() * each])


def accumulate(
    const real[:, ::1] X,
    const real[::1] w,
    const real[::1] origin,
    const real[:, ::1] centers,
    const real[::1] half_norms,
    int level,
    double[:, ::1] out,
    int32_t[::1] labels,
    int n_threads,
    real[::1] upper=None,
    real[::1] lower=None,
    int32_t[::1] tied=None,
    int32_t[::1] n_tied=None,
):
    """Assign every row and write the record of each task: counts (k,), sums (k, d) of w (x - origin), inertia ().

    Parameters
    ----------
    X, origin, centers, half_norms
        As in `assign`.
    w : array (n,) or (0,)
        Weights; empty for unit weights.
    level : int
        A task owns 2**level cells of the row grid; they are merged by the fixed binary tree.
    out : float64 array (n_tasks, k + k d + 1)
        OUT. One record a task.
    labels : int32 array (n,) or (0,)
        OUT. Index of the nearest centroid; not stored when empty.
    n_threads : int
        Threads to use.
    upper, lower : array (n,), optional
        OUT. Bounds of the distance to the nearest and to every other centroid, for `accumulate_bounded`.
    tied, n_tied : int32 arrays (n,) and (n_cells,), optional
        OUT. From the place where a cell begins on, the rows of the cell that are as near to two centroids, to a few
        roundings of their coordinates; and how many there are.
    """
    if X.shape[0] == 0:
        return
    cdef nearest_job job = job_of[real](X, w, origin, centers, half_norms)
    cdef nearest_memo memo
    cdef nearest_memo *kept = NULL
    job.labels = &labels[0] if labels.shape[0] else NULL
    if tied is not None:
        job.tied, job.n_tied = &tied[0], &n_tied[0]
    if upper is not None:
        memo.upper, memo.lower, memo.active = &upper[0], &lower[0], NULL
        memo.largest_norm = largest_norm_of[real](half_norms)
        kept = &memo
    sweep_tasks(&job, kept, kernels_for(isa, real is double), level, out, n_threads)


def settle(
    const real[:, ::1] X,
    const real[::1] w,
    const real[::1] origin,
    const real[:, ::1] centers,
    int level,
    double[:, ::1] out,
    int32_t[::1] labels,
    int n_threads,
):
    """Write the records of rows whose labels (n,) are given: `accumulate` without the search."""
    if X.shape[0] == 0:
        return
    cdef nearest_job job = job_of[real](X, w, origin, centers, origin)
    job.labels, job.settled = &labels[0], 1
    sweep_tasks(&job, NULL, kernels_for(isa, real is double), level, out, n_threads)


def own_distances(
    const real[:, ::1] X,
    const real[::1] origin,
    const real[:, ::1] centers,
    int32_t[::1] labels,
    real[::1] sqdist,
    int n_threads,
):
    """Write the squared distance of every row to the centroid that is given (n,), as `assign` computes it."""
    if X.shape[0] == 0:
        return
    cdef nearest_job job = job_of[real](X, origin[:0], origin, centers, origin)
    job.labels, job.settled, job.sqdist = &labels[0], 1, &sqdist[0]
    sweep_cells(&job, kernels_for(isa, real is double), n_threads)


cdef int sweep_cells(nearest_job *job, const nearest_kernels *kernels, int n_threads) except -1:
    """Fill labels and distances of all rows; there is no record."""
    cdef ptrdiff_t n_tasks = (job.n + CELL_ROWS - 1) // CELL_ROWS, t
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t each = in_lines(kernels.scratch_bytes(job.k, job.d))
    cdef unsigned char[::1] packed = _aligned(0 if job.settled else kernels.panel_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    with nogil:
        if not job.settled:
            kernels.pack(job, &packed[0])
            job.packed, job.look = &packed[0], kernels.doubt(job)
        if threads == 1:
            kernels.cell(job, NULL, 0, job.n, NULL, &scratch[0])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                kernels.cell(job, NULL, t * CELL_ROWS, min((t + 1) * CELL_ROWS, job.n), NULL,
                             &scratch[threadid() * each])
    return 0


cdef int sweep_tasks(nearest_job *job, const nearest_memo *memo, const nearest_kernels *kernels, int level,
                     double[:, ::1] out, int n_threads) except -1:
    """Write the record of each task."""
    cdef ptrdiff_t n_tasks = out.shape[0], size = out.shape[1], t
    if size != job.k + job.k * job.d + 1 or n_tasks != (job.n + (CELL_ROWS << level) - 1) // (CELL_ROWS << level):
        raise ValueError(f"out has shape {(n_tasks, size)}, which does not fit {job.n} rows at level {level}")
    if n_tasks == 1 and job.n > CELL_ROWS and kernels.by_rows(job.k, job.d):
        sweep_by_centroid(job, memo, kernels, out[0], n_threads)
        return 0
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t stack = in_lines(level * size * 8)
    cdef ptrdiff_t each = in_lines(kernels.scratch_bytes(job.k, job.d)) + stack
    cdef unsigned char[::1] packed = _aligned(kernels.panel_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    with nogil:
        if not job.settled:
            kernels.pack(job, &packed[0])
            job.look = kernels.doubt(job)
        job.packed = &packed[0]
        if threads == 1:
            for t in range(n_tasks):
                run_task(job, memo, kernels, t, level, size, &out[t, 0], <double *>&scratch[0], &scratch[stack])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                run_task(job, memo, kernels, t, level, size, &out[t, 0],
                         <double *>&scratch[threadid() * each], &scratch[threadid() * each + stack])
    return 0


cdef double largest_norm_of(const real[::1] half_norms) noexcept:
    cdef double largest = 0
    cdef ptrdiff_t c
    for c in range(half_norms.shape[0]):
        largest = max(largest, 2.0 * half_norms[c])
    return largest


include "by_centroid.pxi"
include "rotated.pxi"
include "blind.pxi"
include "seeding.pxi"
include "bounded.pxi"
include "sphere.pxi"
include "centers.pxi"
include "small.pxi"
include "../moments/squares.pxi"
include "../moments/variances.pxi"
include "groups.pxi"
include "csr.pxi"
include "csr_moves.pxi"
include "moves.pxi"
