/* A grid cell from search to record, and the table of kernels of one number type and one instruction set. */

/* One grid cell (or, without `stats`, any run of rows): labels, distances, the record of the cell in `stats`, and, with
   a memo, every row's bounds. */
TARGET static void NAME(cell)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start, ptrdiff_t stop,
                              double *stats, void *memory) {
    const ptrdiff_t d = job->d, k = job->k, rows = NAME(rows)(k, d);
    const int few = stats && !job->settled && NAME(few)(k, d);
    const int sorted = stats && !few && NAME(sorted)(k, d);
    const ptrdiff_t batch = NAME(batch)(k, d);
    ptrdiff_t settled = start;
    int32_t labels[CELL_ROWS];
    NAME(scratch) s;
    NAME(dvec) inertia = {0};
    double inertia_tail = 0;
    NAME(carve)(&s, (char *)memory, k, d);
    if (job->tied) job->n_tied[start / CELL_ROWS] = 0;
    if (stats && !few) memset(stats, 0, (size_t)(k + k * d) * sizeof(double));
    if (few) {
        memset(s.masked, 0, (size_t)((k * (d + 1) + 1) * VL) * REAL_BYTES);
        memset(s.wide, 0, (size_t)((k * (d + 1) + 1) * VL) * sizeof(double));
    }
    for (ptrdiff_t g = start; g < stop; g += rows) {
        const ptrdiff_t m = stop - g < rows ? stop - g : rows;
        if (job->settled)
            for (ptrdiff_t i = 0; i < m; i++) s.nearest[i] = job->labels[g + i];
        else
            NAME(search)(job, (const REAL *)job->x + g * d, m, &s, memo != NULL || job->tied != NULL);
        if (job->tied) NAME(note_ties)(job, g, m, &s);
        if (memo)
            NAME(start_bounds)(job, memo, m, &s, (REAL *)memo->upper + g, (REAL *)memo->lower + g);
        if (job->labels && !job->settled)
            for (ptrdiff_t i = 0; i < m; i++) job->labels[g + i] = (int32_t)s.nearest[i];
#if HAS_LOOKUP
        if (few) {
            NAME(few_group)(job, g, m, &s);
            continue;
        }
#endif
        if (sorted) {
            for (ptrdiff_t i = 0; i < m; i++) labels[g + i - settled] = (int32_t)s.nearest[i];
            if (g + m - settled >= batch || g + m == stop) {
                NAME(settle_sorted)(job, labels, settled, g + m - settled, stats, &inertia);
                settled = g + m;
            }
        } else if (stats && job->w)
            NAME(settle)(job, g, m, &s, stats, &inertia, &inertia_tail, 1, 1, 0);
        else if (stats)
            NAME(settle)(job, g, m, &s, stats, &inertia, &inertia_tail, 1, 0, 0);
        else if (job->sqdist)
            NAME(settle)(job, g, m, &s, NULL, &inertia, &inertia_tail, 0, 0, 1);
    }
#if HAS_LOOKUP
    if (few) {
        NAME(few_finish)(job, &s, stats);
        return;
    }
#endif
    if (stats) stats[k + k * d] = NAME(sum_lanes)(inertia) + inertia_tail;
}

const nearest_kernels NAME(kernels) = {NAME(panel_bytes), NAME(scratch_bytes), NAME(pack), NAME(doubt), NAME(distances),
                                       NAME(cell), NAME(add), NAME(by_rows), NAME(spread), NAME(gather), NAME(weigh),
                                       NAME(bounded_cell), NAME(apply_changes),
                                       NAME(turn), NAME(added_up), NAME(rotate_bytes), NAME(rotate), NAME(rotated_bytes), NAME(rotated_cell), NAME(blind_bytes), NAME(blind_cell), NAME(seed_bytes),
                                       NAME(seed_gaps), NAME(seed_cell), NAME(screen_bytes), NAME(screen_aim), NAME(screen_score),
                                       NAME(screen_commit), NAME(csr_rows),
                                       NAME(csr_distances), NAME(csr_norms), NAME(csr_means), NAME(csr_better),
                                       NAME(csr_shift)};
