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

/* What the record of a cell is made of. */
typedef struct {
    const nearest_job *job;
    const nearest_memo *memo;
    const nearest_kernels *kernels;
    void *scratch;
} nearest_part;

typedef void (*fill_record)(const nearest_part *, ptrdiff_t start, ptrdiff_t stop, double *record);

static void fill_cell(const nearest_part *part, ptrdiff_t start, ptrdiff_t stop, double *record) {
    part->kernels->cell(part->job, part->memo, start, stop, record, part->scratch);
}

static void fill_weights(const nearest_part *part, ptrdiff_t start, ptrdiff_t stop, double *record) {
    part->kernels->weigh(part->job, start, stop, record);
}

/* The record of cells first .. last, merged by the fixed binary tree.  Cell records wait on a stack; after cell number c
   (counted from one) as many pairs are merged as c has factors of two.  The bottom of the stack is `record`. */
static void run_tree(const nearest_part *part, fill_record fill, ptrdiff_t first, ptrdiff_t last, ptrdiff_t size,
                     double *record, double *stack) {
    const ptrdiff_t n = part->job->n;
    int top = 0; /* records on the stack */
    for (ptrdiff_t cell = first; cell < last; cell++) {
        const ptrdiff_t start = cell * CELL_ROWS, stop = start + CELL_ROWS < n ? start + CELL_ROWS : n;
        fill(part, start, stop, top ? stack + (top - 1) * size : record);
        top++;
        for (ptrdiff_t done = cell - first + 1; top > 1 && (done % 2 == 0 || cell + 1 == last); done /= 2) {
            top--;
            part->kernels->add(top > 1 ? stack + (top - 2) * size : record, stack + (top - 1) * size, size);
        }
    }
}

/* The record of task t, which owns 2**level cells; `stack` has room for `level` records. */
static void run_task(const nearest_job *job, const nearest_memo *memo, const nearest_kernels *kernels, ptrdiff_t t,
                     int level, ptrdiff_t size, double *record, double *stack, void *scratch) {
    const ptrdiff_t cells = (job->n + CELL_ROWS - 1) / CELL_ROWS, first = t << level;
    const ptrdiff_t last = first + ((ptrdiff_t)1 << level) < cells ? first + ((ptrdiff_t)1 << level) : cells;
    const nearest_part part = {job, memo, kernels, scratch};
    run_tree(&part, fill_cell, first, last, size, record, stack);
}

/* Levels of the tree over all cells. */
static ptrdiff_t tree_levels(ptrdiff_t n) {
    ptrdiff_t level = 0;
    while (((ptrdiff_t)CELL_ROWS << level) < n) level++;
    return level + 1;
}

/* The weights (k,) of all rows, whose labels are known; `stack` has room for `tree_levels` times k numbers. */
static void run_weights(const nearest_job *job, const nearest_kernels *kernels, double *record, double *stack) {
    const nearest_part part = {job, NULL, kernels, NULL};
    run_tree(&part, fill_weights, 0, (job->n + CELL_ROWS - 1) / CELL_ROWS, job->k, record, stack);
}
#endif
