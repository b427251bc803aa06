/* Which kernels the processor can run, and the tasks of a pass, which call them. */
#ifndef FASTEM_DISPATCH_H
#define FASTEM_DISPATCH_H

#include "tile.h"

/* ---- choice at run time ---- */
enum { ISA_GENERIC, ISA_AVX2, ISA_AVX512, ISA_COUNT };

static const char *const isa_names[ISA_COUNT] = {"generic", "avx2", "avx512"};

static int isa_available(int isa) {
#if ON_X86
    __builtin_cpu_init();
    if (isa == ISA_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && isa_available(ISA_AVX2);
    if (isa == ISA_AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == ISA_GENERIC;
}

static const nearest_kernels *kernels_for(int isa, int is_double) {
#if ON_X86
    if (isa == ISA_AVX512) return is_double ? &kernels_avx512_f64 : &kernels_avx512_f32;
    if (isa == ISA_AVX2) return is_double ? &kernels_avx2_f64 : &kernels_avx2_f32;
#else
    (void)isa;
#endif
    return is_double ? &kernels_generic_f64 : &kernels_generic_f32;
}

static const char *compiler_name(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#elif defined(_MSC_VER)
    return "msvc";
#else
    return "unknown";
#endif
}

/* ---- tasks ---- */

/* The record of task t: its 2**level cells merged by the fixed binary tree.  Cell records wait on a stack of
   `level + 1`; after cell number c (counted from one) as many pairs are merged as c has factors of two.  The bottom of
   the stack is the task's own row of the output. */
static void run_task(const nearest_job *job, const nearest_memo *memo, const nearest_kernels *kernels, ptrdiff_t t,
                     int level, ptrdiff_t size, double *record, double *stack, void *scratch) {
    const ptrdiff_t cells = (job->n + CELL_ROWS - 1) / CELL_ROWS, first = t << level;
    const ptrdiff_t last = first + ((ptrdiff_t)1 << level) < cells ? first + ((ptrdiff_t)1 << level) : cells;
    int top = 0; /* records on the stack */
    for (ptrdiff_t cell = first; cell < last; cell++) {
        const ptrdiff_t start = cell * CELL_ROWS, stop = start + CELL_ROWS < job->n ? start + CELL_ROWS : job->n;
        kernels->cell(job, memo, start, stop, top ? stack + (top - 1) * size : record, scratch);
        top++;
        for (ptrdiff_t done = cell - first + 1; top > 1 && (done % 2 == 0 || cell + 1 == last); done /= 2) {
            top--;
            kernels->add(top > 1 ? stack + (top - 2) * size : record, stack + (top - 1) * size, size);
        }
    }
}
#endif
