/* A cell of the grid in a rotated basis (rotated_body.h): rows that are tied, what is kept of each row, which rows are
   searched at all, for one number type and one instruction set. */

/* Which of the centroids close to a row is the nearest, by sums as `look_again` makes them. */
TARGET NOINLINE void NAME(choose_close)(const nearest_job *job, NAME(group) * s, ptrdiff_t r, REAL *RESTRICT turned) {
    REAL first, second;
    NAME(decide_among)(job, s->rows + r * job->d, s->close + r * VL, s->n_close[r], turned, s->nearest + r, &first, &second);
    s->best[r] = first;
    s->second[r] = second;
}

/* Rows that are close to more centroids than are noted, at most 2 VL: all centroids are looked at. */
TARGET NOINLINE void NAME(choose_any)(const nearest_job *job, ptrdiff_t start, NAME(group) * s, const uint16_t *which,
                                      ptrdiff_t n, const NAME(scratch) * more) {
    const ptrdiff_t d = job->d;
    uint16_t open[2 * VL] = {0};
    for (ptrdiff_t t = 0; t < n; t++) {
        open[t] = (uint16_t)t;
        more->norms[t] = 0;
        memcpy(more->packed + t * d, (const REAL *)job->x + (start + s->number[which[t]]) * d, (size_t)d * REAL_BYTES);
    }
    NAME(look_again)(job, more->packed, open, n, more);
    for (ptrdiff_t t = 0; t < n; t++) {
        s->nearest[which[t]] = more->nearest[t];
        s->best[which[t]] = -2 * more->best[t];
        s->second[which[t]] = -2 * more->second[t];
    }
}

/* Rows with centroids that are equally near, to the rounding of `between`: as `search` decides them. */
TARGET NOINLINE void NAME(decide_ties)(const nearest_job *job, ptrdiff_t start, NAME(group) * s, const NAME(scratch) * more) {
    uint16_t many[2 * VL];
    ptrdiff_t n = 0;
    for (ptrdiff_t r = 0; r < s->m; r++) {
        if (s->second[r] > s->best[r] * CLOSE(job->d)) continue;
        if (s->n_close[r] <= VL)
            NAME(choose_close)(job, s, r, more->again);
        else
            many[n++] = (uint16_t)r;
        if (n < 2 * VL) continue;
        NAME(choose_any)(job, start, s, many, n, more);
        n = 0;
    }
    if (n) NAME(choose_any)(job, start, s, many, n, more);
}

/* `is_tied` of row r of a group, whose limit holds what may tie it: the first numbers leave out most centroids. */
TARGET NOINLINE int NAME(is_tied_rotated)(const nearest_job *job, ptrdiff_t start, ptrdiff_t r, const NAME(group) * s) {
    const nearest_rotation *rotation = job->rotation;
    const ptrdiff_t i = start + s->number[r], own = s->nearest[r];
    const REAL *y = (const REAL *)rotation->rows + i * ROTATED_SIZE, *allowance = (const REAL *)rotation->allowance;
    const REAL share = (REAL)((1 - 4 * (ROTATED_SIZE + 16) * (double)EPSILON) / (1 + A_SHARE));
    NAME(tie) tie;
    if (!NAME(aim_tie)(job, i, own, &tie)) return 0;
    for (ptrdiff_t c = 0; c < job->k; c++) {
        const REAL *of_c = (const REAL *)rotation->centers + c * ROTATED_SIZE;
        if (NAME(between)(y, of_c, FIRST_SIZE) * share - allowance[c] > s->limit[r]) continue;
        if (rotation->names[c] != own && NAME(ties_with)(job, i, rotation->names[c], &tie)) return 1;
    }
    return 0;
}

/* Labels, bounds and changes of the rows of a group that was searched. */
INLINE TARGET void NAME(keep_found)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                    const NAME(group) * s, ptrdiff_t *n_changed) {
    const ptrdiff_t d = job->d;
    for (ptrdiff_t r = 0; r < s->m; r++) {
        const ptrdiff_t i = start + s->number[r];
        const int32_t now = (int32_t)s->nearest[r];
        if (memo) {
            const double near = sqrt((double)s->second[r]) * (1 - (double)(d + 8) * EPSILON);
            const double out = (sqrt((double)s->pruned[r]) - (double)s->error[r]) * (1 - 4 * (double)EPSILON);
            const double other = near < out ? near : out;
            if (!s->unread[r]) ((REAL *)memo->upper)[i] = NAME(upper_bound)(s->best[r], d);
            ((REAL *)memo->lower)[i] = (REAL)(other > 0 ? other : 0);
            if (memo->changes && now != job->labels[i])
                memo->changes[start + (*n_changed)++] = (uint32_t)job->labels[i] << CELL_BITS | (uint32_t)s->number[r];
        }
        if (job->tied && !(s->second[r] - s->best[r] > s->extra[r]) && NAME(is_tied_rotated)(job, start, r, s))
            job->tied[start + job->n_tied[start / CELL_ROWS]++] = (int32_t)i;
        job->labels[i] = now;
    }
}

TARGET static void NAME(search_group)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start, NAME(group) * s,
                                      const NAME(scratch) * more, ptrdiff_t *n_changed) {
    const nearest_rotation *rotation = job->rotation;
    const ptrdiff_t d = job->d, k = job->k;
    const double from_zero = job->tied ? NAME(square_of)((const REAL *)job->origin, d) : 0;
    if (!s->m) return;
    NAME(fetch_rotated)(rotation, start, FIRST_SIZE, s);
    if (rotation->blind) {
        NAME(guess_first)(rotation, k, s);
        for (ptrdiff_t r = 0; r < s->m; r++)
            s->best[r] = NAME(between)(s->rows + r * d, (const REAL *)job->centers + s->nearest[r] * d, d);
    }
    for (ptrdiff_t r = 0; r < s->m; r++) {
        s->guess[r] = s->close[r * VL] = s->nearest[r];
        s->n_close[r] = 1;
        s->extra[r] = 0;
        if (job->tied) { /* what `is_tied` allows, and the rounding of rows and of `between` */
            const double best = s->best[r], centred = NAME(square_of)(s->rows + r * d, d);
            const double near = sqrt(best) * (sqrt(best) + 2 * sqrt(centred) + sqrt(from_zero)); /* |x| <= |x - o| + |o| */
            s->extra[r] = (REAL)(SLOPPY(d) * best + 2 * TIES * EPSILON * near + 4 * (double)EPSILON * EPSILON * centred);
        }
    }
    if (s->deep) NAME(fetch_rotated)(rotation, start, ROTATED_SIZE, s);
    NAME(aim)(d, s);
    NAME(hold_against)(rotation, k, start, s, job, NULL);
    s->deep |= s->n_found * DEEP > s->m * k;
    NAME(decide_ties)(job, start, s, more);
    NAME(keep_found)(job, memo, start, s, n_changed);
    s->m = 0;
}

/* Failed rows without those that keep their centroid: one that stood still is lost to a centroid that moved, or to none.
   Here `lower` bounds the distance to every other centroid before any moved.  Returns how many rows are left. */
TARGET static ptrdiff_t NAME(spare)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                    const REAL *RESTRICT lower, uint16_t *failed, ptrdiff_t n_failed, NAME(group) * s) {
    const ptrdiff_t rows = NAME(group_rows)(job->d);
    const nearest_rotation *movers = job->rotation->movers;
    uint8_t open[CELL_ROWS];
    REAL beyond[CELL_ROWS]; /* which no centroid that moved is nearer than */
    ptrdiff_t n_left = 0;
    memset(open, 0, sizeof open);
    NAME(box)(movers, job->rotation->n_movers, s);
    for (ptrdiff_t f = 0; f < n_failed;) {
        for (s->m = 0; f < n_failed && s->m < rows; f++) {
            const ptrdiff_t i = failed[f];
            open[i] = ((const REAL *)memo->moved)[job->labels[start + i]] > 0;
            if (open[i]) continue;
            const REAL u = ((const REAL *)memo->upper)[start + i];
            s->best[s->m] = u * u;
            s->extra[s->m] = 0;
            s->guess[s->m] = job->labels[start + i];
            s->number[s->m++] = (uint16_t)i;
            beyond[i] = INFINITY;
        }
        if (!s->m || !job->rotation->n_movers) continue;
        NAME(fetch_rotated)(movers, start, FIRST_SIZE, s);
        NAME(aim)(job->d, s);
        NAME(hold_against)(movers, job->rotation->n_movers, start, s, job, open);
        for (ptrdiff_t r = 0; r < s->m; r++)
            beyond[s->number[r]] = (REAL)((sqrt((double)s->limit[r]) - (double)s->error[r]) * (1 - 4 * (double)EPSILON));
    }
    s->m = 0;
    for (ptrdiff_t f = 0; f < n_failed; f++) {
        const ptrdiff_t i = failed[f];
        if (open[i])
            failed[n_left++] = (uint16_t)i;
        else
            ((REAL *)memo->lower)[start + i] = lower[i] < beyond[i] ? lower[i] : beyond[i];
    }
    return n_left;
}

/* Puts some rows of a cell of m into the order (m,) of all. */
static void NAME(line_up)(const uint16_t *order, ptrdiff_t m, uint16_t *failed, ptrdiff_t n_failed) {
    uint8_t among[CELL_ROWS] = {0};
    ptrdiff_t n = 0;
    for (ptrdiff_t f = 0; f < n_failed; f++) among[failed[f]] = 1;
    for (ptrdiff_t i = 0; i < m; i++)
        if (among[order[i]]) failed[n++] = order[i];
}

/* Whether it is enough to read row i of a cell if something is left to compare it with. */
INLINE int NAME(can_wait)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start, ptrdiff_t i) {
    if (job->rotation->blind || job->tied || !memo || !memo->moved) return 0;
    return ((const REAL *)memo->moved)[job->labels[start + i]] <= ((const REAL *)memo->upper)[start + i] * (REAL)UNREAD;
}

/* Puts row i of a cell into the group, or not, where its own distance shows that it need not be searched; meanwhile
   fetches row `next`. */
INLINE TARGET ptrdiff_t NAME(take_row)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start, ptrdiff_t i,
                                       ptrdiff_t next, NAME(group) * s) {
    const int32_t c = job->labels[start + i];
    s->number[s->m] = (uint16_t)i;
    s->unread[s->m] = (uint8_t)NAME(can_wait)(job, memo, start, i);
    if (!NAME(can_wait)(job, memo, start, next)) NAME(fetch_row)(job, start + next);
    if (job->rotation->blind) {
        NAME(copy_row)(job, start, s, s->m);
        return 1;
    }
    s->nearest[s->m] = c;
    if (s->unread[s->m]) {
        const REAL u = ((const REAL *)memo->upper)[start + i];
        s->best[s->m] = u * u;
        return 1;
    }
    NAME(read_row)(job, start, s, s->m);
    if (!memo || !memo->moved) return 1;
    const REAL u = NAME(upper_bound)(s->best[s->m], job->d);
    ((REAL *)memo->upper)[start + i] = u;
    return !(u < ((REAL *)memo->lower)[start + i] || u < ((const REAL *)memo->gap)[c]);
}

/* Rows of one grid cell as `bounded_cell`, or, where no bounds are known, all of them.  Returns how many changed. */
TARGET static ptrdiff_t NAME(rotated_cell)(const nearest_job *job, const nearest_memo *memo, ptrdiff_t start,
                                           ptrdiff_t stop, void *memory) {
    const ptrdiff_t d = job->d, k = job->k, m = stop - start, rows = NAME(group_rows)(d);
    const int bounded = memo && memo->moved;
    uint16_t failed[CELL_ROWS];
    ptrdiff_t n_failed = 0, n_changed = 0;
    NAME(group) s;
    NAME(scratch) more;
    NAME(carve)(&more, (char *)memory + NAME(carve_rotated)(&s, (char *)memory, k, d), k, d);
    if (job->tied) job->n_tied[start / CELL_ROWS] = 0;
    if (bounded) {
        REAL lower[CELL_ROWS];
        memcpy(lower, (const REAL *)memo->lower + start, (size_t)m * REAL_BYTES);
        n_failed = NAME(move_bounds)(memo, m, k, job->labels + start, (REAL *)memo->upper + start,
                                     (REAL *)memo->lower + start, NULL, failed, 0);
        NAME(line_up)(job->rotation->order + start, m, failed, n_failed);
        if (job->rotation->movers) n_failed = NAME(spare)(job, memo, start, lower, failed, n_failed, &s);
    } else {
        memcpy(failed, job->rotation->order + start, (size_t)m * sizeof *failed);
        n_failed = m;
    }
    NAME(box)(job->rotation, k, &s);
    for (ptrdiff_t f = 0; f < n_failed; f++) {
        s.m += NAME(take_row)(job, memo, start, failed[f], failed[f + FETCHED < n_failed ? f + FETCHED : f], &s);
        if (s.m == rows) NAME(search_group)(job, memo, start, &s, &more, &n_changed);
    }
    NAME(search_group)(job, memo, start, &s, &more, &n_changed);
    if (job->sqdist) { /* as `assign` without rotation gives them */
        NAME(dvec) inertia = {0};
        double tail = 0;
        const ptrdiff_t group = NAME(rows)(k, d);
        for (ptrdiff_t g = start; g < stop; g += group) {
            const ptrdiff_t some = stop - g < group ? stop - g : group;
            for (ptrdiff_t i = 0; i < some; i++) more.nearest[i] = job->labels[g + i];
            NAME(settle)(job, g, some, &more, NULL, &inertia, &tail, 0, 0, 1);
        }
    }
    return n_changed;
}
