"""Rows grouped by which features they miss (NaN): kernels factorise once for a group what a row alone would need.

Usable by any family whose kernels see one grid cell at a time:

    groups = group_rows(X, start, stop)
    for g in range(groups.n_observed.shape[0]):
        n = groups.n_observed[g]
        observed, missing = groups.features[g, :n], groups.features[g, n:]
        for i in groups.order[groups.starts[g] : groups.starts[g + 1]]:  # rows X[i] of that pattern, ascending
            ...

Group 0 holds the complete rows, even where there are none; the others follow by how many features they miss, and those
that miss as many in the order in which their patterns first appear, so that the result depends on nothing but the rows.
A complete cell costs one pass over its values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastem.jit import kernel

# Patterns are looked up in a table with at least twice as many slots as a cell has rows.
_LEAST_SLOTS = 64


class Groups(NamedTuple):
    """The rows of a cell by pattern: m rows, g groups, d features."""

    order: np.ndarray  # (m,) intp: numbers of the rows, those of a group in a run
    starts: np.ndarray  # (g + 1,) intp: group g is order[starts[g] : starts[g + 1]]
    features: np.ndarray  # (g, d) intp: the observed features, ascending, then the missing ones, ascending
    n_observed: np.ndarray  # (g,) intp: how many are observed


@kernel
def _pattern(
    X,  # (n, d)
    i,
    g,
    known,  # (> g, ceil(d / 64)) int64 OUT: patterns; bit j is set where feature j is missing
):
    """Write the pattern of row i as that of group g; return a hash of it."""
    key = 0
    for t in range(known.shape[1]):
        bits = 0
        for j in range(64 * t, min(64 * t + 64, X.shape[1])):
            bits |= (1 if np.isnan(X[i, j]) else 0) << (j - 64 * t)
        known[g, t] = bits
        key = (key ^ bits) * -7046029254386353131
        key ^= key >> 29
    return key ^ (key >> 32)


@kernel
def _find(
    g,
    key,
    known,  # (> g, t) int64: the patterns so far, and that of g
    slots,  # (2^s,) intp: group of each slot, or -1
):
    """Return the slot of the group that has the pattern of g, or the free one where it belongs."""
    at = key & (slots.shape[0] - 1)
    while slots[at] >= 0:
        same = True
        for t in range(known.shape[1]):
            same &= known[slots[at], t] == known[g, t]
        if same:
            break
        at = (at + 1) & (slots.shape[0] - 1)
    return at


@kernel
def _number_patterns(
    X,  # (n, d)
    rows,  # (m,) intp: the incomplete rows
    group,  # (m,) intp OUT: number of each row's group, from 1
    known,  # (m + 1, ceil(d / 64)) int64 OUT: the pattern of each group; that of group 0 is 0
):
    """Number the patterns in the order in which they appear; return how many groups there are, with group 0."""
    size = _LEAST_SLOTS
    while size < 2 * rows.shape[0]:
        size *= 2
    slots = np.full(size, -1, np.intp)
    n_groups = 1
    for r in range(rows.shape[0]):
        at = _find(n_groups, _pattern(X, rows[r], n_groups, known), known, slots)
        if slots[at] < 0:
            slots[at] = n_groups
            n_groups += 1
        group[r] = slots[at]
    return n_groups


@kernel
def _by_how_much(
    group,  # (m,) intp INOUT: number of each row's group
    n_groups,
    d,
    known,  # (>= n_groups, t) int64: the pattern of each group
):
    """Number the groups anew, by how many features they miss; return their patterns (n_groups, t) in that order."""
    missing, starts = np.zeros(n_groups, np.intp), np.zeros(d + 2, np.intp)
    for g in range(n_groups):
        for j in range(d):
            missing[g] += (known[g, j >> 6] >> (j & 63)) & 1
        starts[missing[g] + 1] += 1
    for j in range(d + 1):
        starts[j + 1] += starts[j]
    rank, ordered = np.empty(n_groups, np.intp), np.empty((n_groups, known.shape[1]), np.int64)
    for g in range(n_groups):  # group 0 misses nothing and stays the first
        rank[g] = starts[missing[g]]
        starts[missing[g]] += 1
        for t in range(known.shape[1]):
            ordered[rank[g], t] = known[g, t]
    for r in range(group.shape[0]):
        group[r] = rank[group[r]]
    return ordered


@kernel
def _sort(
    group,  # (m,) intp: the groups of the incomplete rows, from 1
    rows,  # (m,) intp INOUT: their numbers; sorted by group, ascending within each
    starts,  # (g + 1,) intp INOUT: the size of each group; becomes where each starts, among all rows
):
    """Sort the incomplete rows by group."""
    before = 0
    for g in range(starts.shape[0]):
        size = starts[g]
        starts[g] = before
        before += size
    unsorted, first = rows.copy(), starts[1]
    place = starts.copy()
    for r in range(group.shape[0]):
        rows[place[group[r]] - first] = unsorted[r]
        place[group[r]] += 1


@kernel
def _features(
    words,  # (t,) int64: a pattern
    features,  # (d,) intp OUT: the observed features, then the missing ones
):
    """List what a pattern observes and what it misses; return how many are observed."""
    d = features.shape[0]
    n = 0
    for j in range(d):
        features[n] = j
        n += 1 - ((words[j >> 6] >> (j & 63)) & 1)
    last = n
    for j in range(d - 1, -1, -1):  # downwards, so that nothing is written beyond what is missing
        if (words[j >> 6] >> (j & 63)) & 1:
            features[d - 1 - (last - n)] = j
            last += 1
    return n


@kernel
def _split(
    X,  # (n, d)
    start,
    order,  # (m,) intp OUT: numbers of the complete rows, then those of the others, each ascending
):
    """Put complete rows first; return how many there are."""
    m = order.shape[0]
    rest = np.empty(m, np.intp)
    n_complete = n_rest = 0
    for r in range(m):  # without a branch, which would be guessed wrong often
        missing = 0
        for j in range(X.shape[1]):
            missing += 1 if np.isnan(X[start + r, j]) else 0
        order[n_complete] = start + r
        rest[n_rest] = start + r
        n_complete += 0 if missing else 1
        n_rest += 1 if missing else 0
    for r in range(n_rest):
        order[n_complete + r] = rest[r]
    return n_complete


@kernel
def group_rows(
    X,  # (n, d)
    start,
    stop,
):
    """Group rows start..stop by the features that they miss; return `Groups`.

    Complete rows are group 0, which may be empty.
    """
    m, d = stop - start, X.shape[1]
    order = np.empty(m, np.intp)
    n_complete = _split(X, start, order)
    rest = order[n_complete:]
    group = np.empty(m - n_complete, np.intp)
    known = np.zeros((m - n_complete + 1, (d + 63) // 64), np.int64)
    n_groups = 1
    if rest.shape[0]:
        n_groups = _number_patterns(X, rest, group, known)
        known = _by_how_much(group, n_groups, d, known)
    starts = np.zeros(n_groups + 1, np.intp)
    starts[0] = n_complete
    for r in range(rest.shape[0]):
        starts[group[r]] += 1
    _sort(group, rest, starts)
    features = np.empty((n_groups, d), np.intp)
    n_observed = np.empty(n_groups, np.intp)
    for g in range(n_groups):
        n_observed[g] = _features(known[g], features[g])
    return Groups(order, starts, features, n_observed)
