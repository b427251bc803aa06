# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=False
"""Nearest centroid of every row, fused with what an iteration of k-means needs; see tile.h for the kernels.

Every function takes C-contiguous arrays that `fastem.validate` has checked, never writes to its inputs and releases
the interpreter lock.  `n_threads == 1` opens no parallel region.  Results do not depend on `n_threads`.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport int32_t
from libc.stddef cimport ptrdiff_t

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

cdef extern from "tile.h" nogil:
    ctypedef struct nearest_job:
        ptrdiff_t n, d, k
        const void *x
        const void *w
        const void *origin
        const void *centers
        const void *half_norms
        const void *packed
        int32_t *labels
        void *sqdist

    ctypedef struct nearest_kernels:
        size_t (*panel_bytes)(ptrdiff_t, ptrdiff_t) noexcept nogil
        size_t (*scratch_bytes)(ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*pack)(const nearest_job *, void *) noexcept nogil
        void (*cell)(const nearest_job *, ptrdiff_t, ptrdiff_t, double *, void *) noexcept nogil
        void (*add)(double *, const double *, ptrdiff_t) noexcept nogil

    int ISA_COUNT
    const char *const *isa_names
    int isa_available(int)
    const nearest_kernels *kernels_for(int, int)
    const char *compiler_name()
    void run_task(const nearest_job *, const nearest_kernels *, ptrdiff_t, ptrdiff_t, int, ptrdiff_t, double *,
                  double *, void *)

ctypedef fused real:
    float
    double

# Rows of a cell of the fixed grid: `fastem.stats.CELL`.  A test compares the two.
cdef ptrdiff_t CELL_ROWS = 2048
CELL = CELL_ROWS

cdef int isa = max(i for i in range(ISA_COUNT) if isa_available(i))


def force_isa(name):
    """Use one instruction set for all further calls of this process; None returns to the best. For tests."""
    global isa
    usable = [i for i in range(ISA_COUNT) if isa_available(i)]
    if name is None:
        isa = max(usable)
        return
    for i in usable:
        if isa_names[i].decode() == name:
            isa = i
            return
    raise ValueError(f"instruction set {name!r} is not one of {build_info()['available']}")


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
    cdef nearest_job job
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef ptrdiff_t n_tasks = (X.shape[0] + CELL_ROWS - 1) // CELL_ROWS, t, start, stop
    if X.shape[0] == 0:
        return
    job.n, job.d, job.k = X.shape[0], X.shape[1], centers.shape[0]
    job.x, job.w, job.origin = <const void *>&X[0, 0], NULL, <const void *>&origin[0]
    job.centers, job.half_norms = <const void *>&centers[0, 0], <const void *>&half_norms[0]
    job.labels = &labels[0]
    job.sqdist = <void *>start_of[real](sqdist)
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t each = (kernels.scratch_bytes(job.k, job.d) + 127) // 64 * 64
    cdef unsigned char[::1] packed = _aligned(kernels.panel_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    with nogil:
        kernels.pack(&job, &packed[0])
        job.packed = &packed[0]
        if threads == 1:
            kernels.cell(&job, 0, job.n, NULL, &scratch[0])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                kernels.cell(&job, t * CELL_ROWS, min((t + 1) * CELL_ROWS, job.n), NULL,
                             &scratch[threadid() * each])


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
    """
    cdef nearest_job job
    cdef const nearest_kernels *kernels = kernels_for(isa, real is double)
    cdef ptrdiff_t n_tasks = out.shape[0], size = out.shape[1], t
    if X.shape[0] == 0:
        return
    job.n, job.d, job.k = X.shape[0], X.shape[1], centers.shape[0]
    job.x, job.w, job.origin = <const void *>&X[0, 0], start_of[real](w), <const void *>&origin[0]
    job.centers, job.half_norms = <const void *>&centers[0, 0], <const void *>&half_norms[0]
    job.labels = &labels[0] if labels.shape[0] else NULL
    job.sqdist = NULL
    if size != job.k + job.k * job.d + 1 or n_tasks != (job.n + (CELL_ROWS << level) - 1) // (CELL_ROWS << level):
        raise ValueError(f"out has shape {(n_tasks, size)}, which does not fit {job.n} rows at level {level}")
    cdef int threads = <int>max(1, min(n_threads, n_tasks))
    cdef ptrdiff_t stack = (level * size * 8 + 127) // 64 * 64
    cdef ptrdiff_t each = (kernels.scratch_bytes(job.k, job.d) + 127) // 64 * 64 + stack
    cdef unsigned char[::1] packed = _aligned(kernels.panel_bytes(job.k, job.d))
    cdef unsigned char[::1] scratch = _aligned(threads * each)
    with nogil:
        kernels.pack(&job, &packed[0])
        job.packed = &packed[0]
        if threads == 1:
            for t in range(n_tasks):
                run_task(&job, kernels, CELL_ROWS, t, level, size, &out[t, 0], <double *>&scratch[0],
                         &scratch[stack])
        else:
            for t in prange(n_tasks, schedule="dynamic", chunksize=1, num_threads=threads):
                run_task(&job, kernels, CELL_ROWS, t, level, size, &out[t, 0],
                         <double *>&scratch[threadid() * each], &scratch[threadid() * each + stack])
