"""Passes over rows with missing values (NaN): the kernels of a cell, as `kernels/cell_pass.py` has them.

The rows of a cell are taken pattern by pattern (`kernels/patterns.py`), complete ones first, so that what depends on
the pattern alone is computed once for all rows of a block that share it.  Each block of rows is completed for one
component after the other (`completion`).

An iteration beside one over complete rows, 500,000 x 16, 8 full components: 1.2 times the time for complete rows among
others that are not; with four patterns 1.7 times (1 % of the values missing, 4 % of the rows incomplete) and 3.7 times
(10 %, 40 %); with random patterns 2.2 times (1 %, 15 %) and 6.6 times (10 %, 82 %).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem.families.elliptical.missing.completion import DIAG, FULL, Block, Kind, describe, keep_rows, new_block
from fastem.families.elliptical.records import Stats
from fastem.jit import Sweep, each_cell, kernel, read_only, sweep
from fastem.kernels.blocks import STRIDE, block_rows, padded
from fastem.kernels.elementary import log
from fastem.kernels.patterns import group_rows
from fastem.kernels.responsibilities import finish_rows, fix_labels, settle, shares
from fastem.kernels.transpose import transpose_block


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
    s,  # INOUT: XT with missing values at the origin, weights, known labels
):
    """Gather rows order[first : first + m], relative to the origin, as columns; and their weights and labels."""
    zero = X.dtype.type(0)
    for r in range(m):
        i = order[first + r]
        for j in range(X.shape[1]):
            s.gathered[r, j] = X[i, j]
    transpose_block(s.gathered, 0, m, rows, origin, s.XT)
    for r in range(m):
        for a in range(s.block.n_missing[r]):
            s.XT[s.block.missing[a, r], r] = zero
    for r in range(rows):
        s.wb[r] = 0
    for r in range(m):
        s.wb[r] = w[order[first + r]] if w.size else 1
    if labels.size:
        for r in range(m):
            s.known[r] = labels[order[first + r]]


@kernel
def _add_gains(rows, c, end, incomplete, prepared, s):
    """Add to the log-densities of a component what completing the rows adds, and raise the best."""
    share, best, top, gain = s.share, s.best, s.top, s.block.gain
    if incomplete:
        for r in range(rows):
            share[c, r] += share.dtype.type(gain[r])
            top[r] = share[c, r]
    for r in range(rows):
        best[r] = top[r] if top[r] > best[r] else best[r]


@kernel
def _as_they_are(rows, c, end, prepared, s, record):
    """Leave the shares of components c..end, which weigh the moments, as they are."""


@kernel
def _all_of_it(record):
    """Return the record of the normal density, which is the whole one."""
    return record


class Density(NamedTuple):
    """What a family makes of the normal density; here the normal density itself."""

    finish: Any = _add_gains  # makes log-densities of components c..end in `share`, and raises `best`
    weigh: Any = _as_they_are  # weighs the shares of components c..end for their moments, and adds what else is summed
    normal: Any = _all_of_it  # what of the record is that of the normal density
    keeps_distances: bool = False  # whether `weigh` needs what `finish` wrote to `distances`


def _log_joint_of(kind: Kind, density: Density) -> Any:
    """Make the function that evaluates log p(x, z = k) of a block for all components."""
    some, log_joint_block, complete, finish = kind.some, kind.log_joint_block, kind.complete, density.finish

    @kernel
    def log_joint(m, rows, incomplete, prepared, s):
        XT, share, best, top = s.XT, s.share, s.best, s.top
        for r in range(rows):
            best[r] = -np.inf
        k = share.shape[0]
        if incomplete:
            keep_rows(XT, m, s.block)
        step = 1 if incomplete else k  # the rows are completed for one component after the other
        for c in range(0, k, step):
            if incomplete:
                complete(s.block, m, prepared, c, XT)
            log_joint_block(rows, XT, some(prepared, c, c + step), s.work, share[c : c + step], top)
            finish(rows, c, c + step, incomplete, prepared, s)

    return log_joint


def _moments_of(kind: Kind, density: Density) -> Any:
    """Make the function that adds the moments of a block, given its shares."""
    some, moments_block, complete_heavy = kind.some, kind.moments_block, kind.complete_heavy
    weigh, normal = density.weigh, density.normal

    @kernel
    def moments(m, incomplete, prepared, s, record):
        rows, share, total, heavy = padded(m), s.share, s.total, s.heavy
        k, d = prepared.means.shape
        whole = normal(record)
        own = Stats(np.zeros(1), np.zeros(1), np.zeros_like(whole.sums[:1]), np.zeros_like(whole.scatter[:1]))
        own_scatter = own.scatter[0].flat
        step = 1 if incomplete else k
        for c in range(0, k, step):
            if incomplete and heavy[c] == 0:
                continue
            if incomplete:
                own.counts[0] = 0.0
                for j in range(d):
                    own.sums[0, j] = 0.0
                for j in range(own.scatter.size):
                    own_scatter[j] = 0.0
                complete_heavy(s.block, m, prepared, c, s.XT, share[c], total, own.scatter[0])
            end = c + step
            weigh(rows, c, end, prepared, s, record)
            target = own if incomplete else whole
            moments_block(rows, s.XT, some(prepared, c, end), s.work, share[c:end], total, heavy[c:end], target)
            if incomplete:
                whole.counts[c] += own.counts[0]
                for j in range(d):
                    whole.sums[c, j] += own.sums[0, j]
                scatter = whole.scatter[c].flat
                for j in range(own.scatter.size):
                    scatter[j] += own_scatter[j]

    return moments


@kernel
def _block_end(groups, first, size):
    """Return where the block ends that begins at row `first` of the order: complete rows are not mixed with others."""
    n = groups.starts[1] if first < groups.starts[1] else groups.order.shape[0]
    return min(first + size, n)


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
    gathered: np.ndarray  # (STRIDE, d) the rows as they are
    block: Block
    distances: np.ndarray  # (k, STRIDE), or empty


@kernel
def _space(X, n_labels, k, features, work_rows, n_distances):
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
        np.empty((STRIDE, X.shape[1]), X.dtype),
        new_block(X.shape[1]),
        np.zeros((n_distances, STRIDE), X.dtype),
    )


def _e_step_of(log_joint_of: Any) -> Any:
    """Make the function that leaves a block's shares, their totals and the best log-densities in the space."""

    @kernel
    def e_step(X, w, labels, groups, first, m, prepared, s, log_joint):
        rows = padded(m)
        incomplete = describe(groups, first, m, s.block)
        negligible = np.exp(prepared.log_weights) * (1e-18 if X.itemsize == 8 else 1e-11)
        _load(X, w, labels, groups.order, first, m, rows, prepared.origin, s)
        for again in range(2):
            log_joint_of(m, rows, incomplete, prepared, s)
            if again == 0 and log_joint.shape[0]:
                for r in range(m):
                    for c in range(s.share.shape[0]):
                        log_joint[groups.order[first + r], c] = s.share[c, r]
            fix_labels(s.known, 0, m, s.share, s.best)
            if shares(rows, negligible, s.share, s.best, s.total, s.heavy) == 0 and again == 0:
                break
            if not settle(again, m, s.known, 0, prepared.log_weights, s.XT, s.share, s.best, s.total, s.heavy, s.state):
                if again:
                    _load(X, w, labels, groups.order, first, m, rows, prepared.origin, s)
                break
        return incomplete

    return e_step


def _accumulator(kind: Kind, density: Density, view: Any, e_step: Any, moments: Any) -> Sweep:
    """Make the sweep that adds up the statistics."""
    room, keeps = kind.room, int(density.keeps_distances)

    @kernel
    def accumulate(X, w, labels, prepared, start, stop, stats):
        record = view(prepared, stats)
        groups = group_rows(X, start, stop)
        features, work_rows = room(prepared)
        k = prepared.means.shape[0]
        s = _space(X, labels.shape[0], k, features, work_rows, keeps * k)
        nothing = np.empty((0, k))
        size = block_rows(features + work_rows + k + 4, X.itemsize)
        first = 0
        while first < stop - start:
            m = _block_end(groups, first, size) - first
            incomplete = e_step(X, w, labels, groups, first, m, prepared, s, nothing)
            record.loglik[0] += finish_rows(padded(m), s.wb, s.best, s.total)
            moments(m, incomplete, prepared, s, record)
            first += m

    return sweep(accumulate)


def _given(kind: Kind, density: Density, view: Any, log_joint_of: Any, moments: Any) -> Callable[..., None]:
    """Make the function that adds the statistics of one cell for given responsibilities."""
    room, keeps = kind.room, int(density.keeps_distances)

    @kernel
    def given(X, w, resp, prepared, stats):
        record = view(prepared, stats)
        groups = group_rows(X, 0, X.shape[0])
        features, work_rows = room(prepared)
        k = prepared.means.shape[0]
        s = _space(X, 0, k, features, work_rows, keeps * k)
        size = block_rows(features + work_rows + k + 4, X.itemsize)
        first = 0
        while first < X.shape[0]:
            m = _block_end(groups, first, size) - first
            rows = padded(m)
            incomplete = describe(groups, first, m, s.block)
            _load(X, w, s.known, groups.order, first, m, rows, prepared.origin, s)
            if keeps:
                log_joint_of(m, rows, incomplete, prepared, s)
            else:
                keep_rows(s.XT, m, s.block)
            for c in range(k):
                for r in range(rows):
                    s.share[c, r] = 0
                for r in range(m):
                    s.share[c, r] = resp[groups.order[first + r], c]
                s.heavy[c] = rows
            for r in range(rows):
                s.total[r] = s.wb[r]
            moments(m, incomplete, prepared, s, record)
            first += m

    # As the sweeps take them: what this kernel calls is compiled for those already.
    return lambda X, w, resp, prepared, stats: given(*read_only((X, w, resp, prepared)), stats)


def _expectation(kind: Kind, density: Density, e_step: Any) -> Sweep:
    """Make the driver of the E-step alone, which fills an `Expected`."""
    room, keeps = kind.room, int(density.keeps_distances)

    @kernel
    def expect(X, prepared, start, stop, out):
        groups = group_rows(X, start, stop)
        features, work_rows = room(prepared)
        k = prepared.means.shape[0]
        s = _space(X, 0, k, features, work_rows, keeps * k)
        unit = np.empty(0, X.dtype)
        size = block_rows(features + work_rows + k + 4, X.itemsize)
        first = 0
        while first < stop - start:
            m = _block_end(groups, first, size) - first
            e_step(X, unit, s.known, groups, first, m, prepared, s, out.log_joint)
            _write(groups.order, first, m, s.share, s.best, s.total, out)
            first += m

    return each_cell(expect)


def _conditional_mean(kind: Kind, density: Density, e_step: Any) -> Sweep:
    """Make the driver that completes rows by the mean of what is missing given what is observed."""
    room, complete, keeps = kind.room, kind.complete, int(density.keeps_distances)

    @kernel
    def conditional_mean(X, prepared, start, stop, out):  # out (n, d): X, with 0 where a value is missing
        groups = group_rows(X, start, stop)
        features, work_rows = room(prepared)
        k = prepared.means.shape[0]
        s = _space(X, 0, k, features, work_rows, keeps * k)
        unit, nothing = np.empty(0, X.dtype), np.empty((0, k))
        size = block_rows(features + work_rows + k + 4, X.itemsize)
        first = 0
        while first < stop - start:
            m = _block_end(groups, first, size) - first
            incomplete = e_step(X, unit, s.known, groups, first, m, prepared, s, nothing)
            _load(X, unit, s.known, groups.order, first, m, padded(m), prepared.origin, s)
            keep_rows(s.XT, m, s.block)
            for c in range(k if incomplete else 0):
                complete(s.block, m, prepared, c, s.XT)
                for r in range(m):
                    share = np.float64(s.share[c, r]) / np.float64(s.total[r])
                    for a in range(s.block.n_missing[r]):
                        j = s.block.missing[a, r]
                        value = np.float64(s.XT[j, r]) + np.float64(prepared.origin[j])
                        out[groups.order[first + r], j] += share * value
            first += m

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
    given: Callable[..., None]  # (X, w, resp, prepared, stats)
    conditional_mean: Sweep


def assemble(kind: Kind, density: Density, view: Any, log_joint_of: Any = None, moments: Any = None) -> Kernels:
    """Make the passes for one kind of matrices and a density, or of two functions of a block that know better.

    `view` shows the flat record by name (`kernels.views`).
    """
    log_joint_of = log_joint_of or _log_joint_of(kind, density)
    moments = moments or _moments_of(kind, density)
    e_step = _e_step_of(log_joint_of)
    return Kernels(
        _accumulator(kind, density, view, e_step, moments),
        _expectation(kind, density, e_step),
        _given(kind, density, view, log_joint_of, moments),
        _conditional_mean(kind, density, e_step),
    )


MATRICES = assemble(FULL, Density(), FULL.view)
VARIANCES = assemble(DIAG, Density(), DIAG.view)
