"""Passes over rows with missing values (NaN): the cells' kernels of Gaussian mixtures, as `families/cells.py` has them.

The rows of a cell are taken pattern by pattern (`families/patterns.py`), complete ones first, so that what depends on
the pattern alone is computed once for all rows of a block that share it.  Each block of rows is completed for one
component after the other (`missing_kernels`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem.families.cells import only_log_joint
from fastem.families.gaussian.missing_kernels import DIAG, FULL, Kind
from fastem.families.math import STRIDE, block_rows, finish_rows, fix_labels, log, padded, settle, shares
from fastem.families.patterns import group_rows
from fastem.jit import Sweep, each_cell, kernel, sweep


@kernel
def _load(
    X,  # (n, d)
    w,  # (n,) or empty
    labels,  # (n,) or empty
    order,  # (m,): numbers of rows
    first,
    m,
    rows,
    origin,  # (d,)
    XT,  # (>= d, STRIDE) OUT: missing values at the origin
    wb,  # (STRIDE,) OUT
    known,  # (STRIDE,) int32 OUT, or empty
):
    """Gather rows order[first : first + m], relative to the origin, as columns; and their weights and labels."""
    zero = XT.dtype.type(0)
    for j in range(X.shape[1]):
        centre = origin[j]
        for r in range(m):
            x = X[order[first + r], j]
            XT[j, r] = zero if np.isnan(x) else x - centre
        for r in range(m, rows):
            XT[j, r] = zero
    for r in range(rows):
        wb[r] = 0
    for r in range(m):
        wb[r] = w[order[first + r]] if w.size else 1
    if labels.size:
        for r in range(m):
            known[r] = labels[order[first + r]]


@kernel
def _first_group(groups, first):
    """Return the group that row order[first] is of."""
    g = 0
    while groups.starts[g + 1] <= first:
        g += 1
    return g


def _log_joint_of(kind: Kind) -> Any:
    """Make the function that evaluates log p(x, z = k) of a block for all components."""
    one, log_joint_block, complete = kind.one, kind.log_joint_block, kind.complete

    @kernel
    def log_joint(groups, first, m, rows, prepared, s):
        XT, share, best, top = s.XT, s.share, s.best, s.top
        gain = s.v[s.v.shape[0] - 1]
        for r in range(rows):
            best[r] = -np.inf
        begin = _first_group(groups, first)
        for c in range(share.shape[0]):
            for r in range(rows):
                gain[r] = 0.0
            g = begin
            while g < groups.n_observed.shape[0] and groups.starts[g] < first + m:
                if groups.n_observed[g] < groups.features.shape[1]:
                    r0, r1 = max(groups.starts[g] - first, 0), min(groups.starts[g + 1] - first, m)
                    value = complete(groups, g, r0, r1, prepared, c, XT, s.v, s.lower)
                    for r in range(r0, r1):
                        gain[r] = value
                g += 1
            log_joint_block(rows, XT, one(prepared, c), s.work, share[c : c + 1], top)
            for r in range(rows):
                share[c, r] += XT.dtype.type(gain[r])
                best[r] = share[c, r] if share[c, r] > best[r] else best[r]

    return log_joint


def _moments_of(kind: Kind) -> Any:
    """Make the function that adds the moments of a block, given its shares."""
    one, moments_block, complete, add_spread = kind.one, kind.moments_block, kind.complete, kind.add_spread

    @kernel
    def moments(groups, first, m, prepared, s, stats):
        rows, share, total, heavy = padded(m), s.share, s.total, s.heavy
        k, d = prepared.means.shape
        size = (stats.shape[0] - 1 - k - k * d) // k
        begin = _first_group(groups, first)
        record = np.empty(2 + d + size)
        for c in range(k):
            if heavy[c] == 0:
                continue
            for j in range(record.shape[0]):
                record[j] = 0.0
            g = begin
            while g < groups.n_observed.shape[0] and groups.starts[g] < first + m:
                if groups.n_observed[g] < d:
                    r0, r1 = max(groups.starts[g] - first, 0), min(groups.starts[g + 1] - first, m)
                    mass, most = 0.0, 0.0
                    for r in range(r0, r1):
                        mass += share[c, r] * total[r]
                        most = max(most, np.float64(share[c, r]))
                    if most > prepared.negligible[c]:
                        complete(groups, g, r0, r1, prepared, c, s.XT, s.v, s.lower)
                        add_spread(groups, g, mass, prepared, c, s.lower, s.inverse, record)
                g += 1
            moments_block(rows, s.XT, one(prepared, c), s.work, share[c : c + 1], total, heavy[c : c + 1], record)
            stats[1 + c] += record[1]
            for j in range(d):
                stats[1 + k + c * d + j] += record[2 + j]
            for j in range(size):
                stats[1 + k + k * d + c * size + j] += record[2 + d + j]

    return moments


class Space(NamedTuple):
    """Arrays of one block: STRIDE rows side by side, of the rows' dtype unless float64 is said."""

    XT: np.ndarray  # (features, STRIDE)
    work: np.ndarray  # (work_rows, STRIDE) for the ordinary kernels
    share: np.ndarray  # (k, STRIDE)
    best: np.ndarray  # (STRIDE,)
    total: np.ndarray  # (STRIDE,)
    wb: np.ndarray  # (STRIDE,) weights
    state: np.ndarray  # (STRIDE,)
    top: np.ndarray  # (STRIDE,)
    known: np.ndarray  # (STRIDE,) int32 known labels, or empty
    heavy: np.ndarray  # (k,) float64
    v: np.ndarray  # (d + 1, STRIDE) float64
    lower: np.ndarray  # (d, d) float64
    inverse: np.ndarray  # (d, d) float64


@kernel
def _space(X, n_labels, k, features, work_rows):
    d = X.shape[1]
    all_of = np.zeros((features + work_rows + k + 5, STRIDE), X.dtype)
    rest = all_of[features + work_rows + k :]
    return Space(
        all_of[:features],
        all_of[features : features + work_rows],
        all_of[features + work_rows : features + work_rows + k],
        rest[0],
        rest[1],
        rest[2],
        rest[3],
        rest[4],
        np.empty(STRIDE if n_labels else 0, np.int32),
        np.zeros(k),
        np.empty((d + 1, STRIDE)),
        np.empty((d, d)),
        np.empty((d, d)),
    )


def _e_step_of(kind: Kind) -> Any:
    """Make the function that leaves a block's shares, their totals and the best log-densities in the space."""
    log_joint_of = _log_joint_of(kind)

    @kernel
    def e_step(X, w, labels, groups, first, m, prepared, s, log_joint):
        rows = padded(m)
        negligible = np.exp(prepared.log_weights) * (1e-18 if X.itemsize == 8 else 1e-11)
        _load(X, w, labels, groups.order, first, m, rows, prepared.origin, s.XT, s.wb, s.known)
        for again in range(2):
            log_joint_of(groups, first, m, rows, prepared, s)
            if again == 0 and log_joint.shape[0]:
                for r in range(m):
                    for c in range(s.share.shape[0]):
                        log_joint[groups.order[first + r], c] = s.share[c, r]
            fix_labels(s.known, 0, m, s.share, s.best)
            if shares(rows, negligible, s.share, s.best, s.total, s.heavy) == 0 and again == 0:
                break
            if not settle(again, m, s.known, 0, prepared.log_weights, s.XT, s.share, s.best, s.total, s.heavy, s.state):
                if again:
                    _load(X, w, labels, groups.order, first, m, rows, prepared.origin, s.XT, s.wb, s.known)
                break

    return e_step


def _accumulator(kind: Kind, e_step: Any, moments: Any) -> Sweep:
    """Make the sweep that adds up the statistics."""
    room = kind.room

    @kernel
    def accumulate(X, w, labels, prepared, start, stop, stats):
        groups = group_rows(X, start, stop)
        features, work_rows = room(prepared)
        k = prepared.means.shape[0]
        s = _space(X, labels.shape[0], k, features, work_rows)
        nothing = np.empty((0, k))
        size = block_rows(features + work_rows + k + 4, X.itemsize)
        for first in range(0, stop - start, size):
            m = min(size, stop - start - first)
            e_step(X, w, labels, groups, first, m, prepared, s, nothing)
            stats[0] += finish_rows(padded(m), s.wb, s.best, s.total)
            moments(groups, first, m, prepared, s, stats)

    return sweep(accumulate)


def _given(kind: Kind, moments: Any) -> Any:
    """Make the kernel that adds the statistics of one cell for given responsibilities."""
    room = kind.room

    @kernel
    def given(X, w, resp, prepared, stats):
        groups = group_rows(X, 0, X.shape[0])
        features, work_rows = room(prepared)
        k = prepared.means.shape[0]
        s = _space(X, 0, k, features, work_rows)
        size = block_rows(features + work_rows + k + 4, X.itemsize)
        for first in range(0, X.shape[0], size):
            m = min(size, X.shape[0] - first)
            rows = padded(m)
            _load(X, w, s.known, groups.order, first, m, rows, prepared.origin, s.XT, s.total, s.known)
            for c in range(k):
                for r in range(rows):
                    s.share[c, r] = 0
                for r in range(m):
                    s.share[c, r] = resp[groups.order[first + r], c]
                s.heavy[c] = rows
            moments(groups, first, m, prepared, s, stats)

    return given


def _expectation(kind: Kind, e_step: Any) -> Sweep:
    """Make the driver of the E-step alone, which fills an `Expected`."""
    room = kind.room

    @kernel
    def expect(X, prepared, start, stop, out):
        groups = group_rows(X, start, stop)
        features, work_rows = room(prepared)
        k = prepared.means.shape[0]
        s = _space(X, 0, k, features, work_rows)
        unit = np.empty(0, X.dtype)
        size = block_rows(features + work_rows + k + 4, X.itemsize)
        for first in range(0, stop - start, size):
            m = min(size, stop - start - first)
            e_step(X, unit, s.known, groups, first, m, prepared, s, out.log_joint)
            _write(groups.order, first, m, s.share, s.best, s.total, out)

    return each_cell(expect)


def _conditional_mean(kind: Kind, e_step: Any) -> Sweep:
    """Make the driver that completes rows by the mean of what is missing given what is observed."""
    room, complete = kind.room, kind.complete

    @kernel
    def conditional_mean(X, prepared, start, stop, out):  # out (n, d): X, with 0 where a value is missing
        groups = group_rows(X, start, stop)
        features, work_rows = room(prepared)
        k, d = prepared.means.shape
        s = _space(X, 0, k, features, work_rows)
        unit, nothing = np.empty(0, X.dtype), np.empty((0, k))
        size = block_rows(features + work_rows + k + 4, X.itemsize)
        for first in range(0, stop - start, size):
            m = min(size, stop - start - first)
            e_step(X, unit, s.known, groups, first, m, prepared, s, nothing)
            _load(X, unit, s.known, groups.order, first, m, padded(m), prepared.origin, s.XT, s.wb, s.known)
            g = _first_group(groups, first)
            while g < groups.n_observed.shape[0] and groups.starts[g] < first + m:
                r0, r1 = max(groups.starts[g] - first, 0), min(groups.starts[g + 1] - first, m)
                for c in range(k if groups.n_observed[g] < d else 0):
                    complete(groups, g, r0, r1, prepared, c, s.XT, s.v, s.lower)
                    for a in range(groups.n_observed[g], d):
                        j = groups.features[g, a]
                        for r in range(r0, r1):
                            value = np.float64(s.XT[j, r]) + np.float64(prepared.origin[j])
                            out[groups.order[first + r], j] += s.share[c, r] / s.total[r] * value
                g += 1

    return each_cell(conditional_mean)


@kernel
def _write(order, first, m, share, best, total, out):
    """Write what is asked for of a block's E-step to the rows' places."""
    k = share.shape[0]
    for r in range(m):
        i = order[first + r]
        if out.loglik.shape[0]:
            out.loglik[i] = np.float64(best[r]) + np.float64(log(total[r]))
        if out.labels.shape[0]:
            label = 0
            for c in range(1, k):
                if share[c, r] > share[label, r]:
                    label = c
            out.labels[i] = label
        if out.resp.shape[0]:
            factor = 1.0 / np.float64(total[r])
            for c in range(k):
                out.resp[i, c] = share[c, r] * factor


class Kernels(NamedTuple):
    """The compiled passes for one kind of matrices."""

    accumulate: Sweep
    expect: Sweep
    log_joint: Sweep
    given: Callable[..., None]  # (X, w, resp, prepared, stats)
    conditional_mean: Sweep


def _compiled(kind: Kind) -> Kernels:
    e_step, moments = _e_step_of(kind), _moments_of(kind)
    expect = _expectation(kind, e_step)
    return Kernels(
        _accumulator(kind, e_step, moments),
        expect,
        only_log_joint(expect),
        _given(kind, moments),
        _conditional_mean(kind, e_step),
    )


MATRICES = _compiled(FULL)
VARIANCES = _compiled(DIAG)
