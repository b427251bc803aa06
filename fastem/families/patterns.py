"""Rows grouped by which features they miss (NaN): kernels factorise once for a group what a row alone would need.

Usable by any family whose kernels see one grid cell at a time:

    groups = group_rows(X, start, stop)
    for g in range(groups.n_observed.shape[0]):
        n = groups.n_observed[g]
        observed, missing = groups.features[g, :n], groups.features[g, n:]
        for i in groups.order[groups.starts[g] : groups.starts[g + 1]]:  # rows X[i] of that pattern, ascending
            ...

Group 0 holds the complete rows, even where there are none; the others follow in the order in which their patterns first
appear, so that the result depends on nothing but the rows.  A complete cell costs one pass over its values.
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
    words,  # (ceil(d / 64),) int64 OUT: bit j is set where feature j is missing
):
    """Write the pattern of a row as bits; return a hash of them."""
    for t in range(words.shape[0]):
        words[t] = 0
    for j in range(X.shape[1]):
        if np.isnan(X[i, j]):
            words[j >> 6] |= 1 << (j & 63)
    key = 0
    for t in range(words.shape[0]):
        key = (key ^ words[t]) * -7046029254386353131
        key ^= key >> 29
    return key ^ (key >> 32)


@kernel
def _find(
    words,  # (t,) int64: a pattern
    key,
    known,  # (g, t) int64: the patterns so far
    slots,  # (2^s,) intp: group of each slot, or -1
):
    """Return the slot of the pattern, or the free one where it belongs."""
    at = key & (slots.shape[0] - 1)
    while slots[at] >= 0:
        same = True
        for t in range(words.shape[0]):
            same &= known[slots[at], t] == words[t]
        if same:
            break
        at = (at + 1) & (slots.shape[0] - 1)
    return at


@kernel
def _number_patterns(
    X,  # (n, d)
    start,
    group,  # (m,) intp INOUT: 0 for complete rows, not 0 for others; becomes the number of the row's group
    n_incomplete,
    known,  # (n_incomplete + 1, ceil(d / 64)) int64 OUT: the pattern of each group; that of group 0 is 0
):
    """Number the patterns in the order in which they appear; return how many groups there are."""
    size = _LEAST_SLOTS
    while size < 2 * n_incomplete:
        size *= 2
    slots = np.full(size, -1, np.intp)
    n_groups = 1
    for t in range(known.shape[1]):
        known[0, t] = 0
    for r in range(group.shape[0]):
        if group[r]:
            words = known[n_groups]
            at = _find(words, _pattern(X, start + r, words), known, slots)
            if slots[at] < 0:
                slots[at] = n_groups
                n_groups += 1
            group[r] = slots[at]
    return n_groups


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
    group = np.empty(m, np.intp)
    n_incomplete = 0
    for r in range(m):
        missing = 0
        for j in range(d):
            missing += 1 if np.isnan(X[start + r, j]) else 0
        group[r] = 1 if missing else 0
        n_incomplete += group[r]
    known = np.zeros((n_incomplete + 1, (d + 63) // 64), np.int64)
    n_groups = _number_patterns(X, start, group, n_incomplete, known) if n_incomplete else 1
    order = np.empty(m, np.intp)
    starts = np.zeros(n_groups + 1, np.intp)
    for r in range(m):
        starts[group[r] + 1] += 1
    for g in range(n_groups):
        starts[g + 1] += starts[g]
    for r in range(m):  # counting sort: each start moves to the next one's place
        order[starts[group[r]]] = start + r
        starts[group[r]] += 1
    for g in range(n_groups, 0, -1):
        starts[g] = starts[g - 1]
    starts[0] = 0
    features = np.empty((n_groups, d), np.intp)
    n_observed = np.empty(n_groups, np.intp)
    for g in range(n_groups):
        n = 0
        for j in range(d):
            if not (known[g, j >> 6] >> (j & 63)) & 1:
                features[g, n] = j
                n += 1
        n_observed[g] = n
        for j in range(d):
            if (known[g, j >> 6] >> (j & 63)) & 1:
                features[g, n] = j
                n += 1
    return Groups(order, starts, features, n_observed)
