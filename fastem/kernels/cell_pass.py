"""The cell kernels of a mixture family, made from two functions over blocks: log-densities and moments.

A family writes

    log_joint_block(rows, XT, prepared, work, log_joint, best)        log p(x, z = k) (k, STRIDE) of a block, and the
                                                                      largest of each row
    moments_block(rows, XT, prepared, work, share, factor, heavy, record)   adds counts and moments to the fields of
                                                                      the record, as `view` names them; the
                                                                      responsibility is share[k, r] * factor[r], and
                                                                      heavy[k] rows matter to component k

and gets the fused E- and M-step of one grid cell and the E-step alone, with the same numbers.  Responsibilities exist
for one block at a time.  `prepared` has the fields origin (d,), log_weights (k,) and whatever the family adds.
A row matters to a component if its share is not lost in rounding, next to what the component weighs now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem.jit import Sweep, each_cell, kernel, sweep
from fastem.kernels.blocks import STRIDE, block_rows, load_weights, padded
from fastem.kernels.elementary import log
from fastem.kernels.responsibilities import finish_rows, fix_labels, most_responsible, settle, shares
from fastem.kernels.transpose import transpose_block


class Passes(NamedTuple):
    """The compiled passes of a family."""

    accumulate: Sweep  # adds up its statistics
    expect: Sweep  # the E-step alone, which fills an `Expected`


def passes(log_joint_block: Any, moments_block: Any, room: Any, view: Any) -> Passes:
    """Make both passes; see `cell` for the parameters.  Who needs one does not wait for the other to be compiled."""
    return Passes(accumulator(log_joint_block, moments_block, room, view), expectation(log_joint_block, room))


def accumulator(log_joint_block: Any, moments_block: Any, room: Any, view: Any) -> Sweep:
    """Make the sweep that adds up a family's statistics; see `cell` for the parameters."""
    return sweep(cell(log_joint_block, moments_block, room, view))


def cell(log_joint_block: Any, moments_block: Any, room: Any, view: Any) -> Any:
    """Make the kernel that adds up a family's statistics over the rows of a cell.

    Parameters
    ----------
    log_joint_block, moments_block : kernel
        See above.
    room : kernel ``room(prepared) -> (padded_features, work_rows)``
        How many rows XT and the work array need.
    view : kernel ``view(prepared, stats) -> record``
        Shows the flat record by name (see `kernels.views`).  It has a field loglik.
    """

    @kernel
    def accumulate(X, w, labels, prepared, start, stop, stats):
        record = view(prepared, stats)
        k = prepared.log_weights.shape[0]
        features, work_rows = room(prepared)
        space = np.zeros((features + work_rows + k + 4, STRIDE), X.dtype)  # one allocation compiles faster than eight
        XT, work, share = space[:features], space[features : features + work_rows], space[features + work_rows : -4]
        best, total, wb, state = space[-4], space[-3], space[-2], space[-1]
        heavy = np.zeros(k)
        negligible = np.exp(prepared.log_weights) * (1e-18 if X.itemsize == 8 else 1e-11)
        size = block_rows(space.shape[0], X.itemsize)
        for first in range(start, stop, size):
            m = min(size, stop - first)
            rows = padded(m)
            transpose_block(X, first, m, rows, prepared.origin, XT)
            load_weights(w, first, m, rows, wb)
            for again in range(2):
                log_joint_block(rows, XT, prepared, work, share, best)
                fix_labels(labels, first, m, share, best)
                if shares(rows, negligible, share, best, total, heavy) == 0 and again == 0:
                    break
                if not settle(again, m, labels, first, prepared.log_weights, XT, share, best, total, heavy, state):
                    if again:
                        transpose_block(X, first, m, rows, prepared.origin, XT)
                    break
            record.loglik[0] += finish_rows(rows, wb, best, total)
            moments_block(rows, XT, prepared, work, share, total, heavy, record)

    return accumulate


def expectation(log_joint_block: Any, room: Any) -> Sweep:
    """Make the driver of the E-step alone, which fills an `Expected`; see `cell` for the parameters."""

    @kernel
    def expect(X, prepared, start, stop, out):
        k = prepared.log_weights.shape[0]
        features, work_rows = room(prepared)
        space = np.zeros((features + work_rows + k + 3, STRIDE), X.dtype)
        XT, work, share = space[:features], space[features : features + work_rows], space[features + work_rows : -3]
        best, total, state = space[-3], space[-2], space[-1]
        heavy = np.zeros(k)
        negligible = np.exp(prepared.log_weights) * (1e-18 if X.itemsize == 8 else 1e-11)
        nothing = np.empty(0, np.int32)
        picked = np.empty((2, STRIDE), X.dtype)  # by itself: in `space` its loops would not become vectors
        size = block_rows(space.shape[0], X.itemsize)
        for first in range(start, stop, size):
            m = min(size, stop - first)
            rows = padded(m)
            transpose_block(X, first, m, rows, prepared.origin, XT)
            for again in range(2):
                log_joint_block(rows, XT, prepared, work, share, best)
                if again == 0 and out.log_joint.shape[0]:
                    for r in range(m):
                        for c in range(k):
                            out.log_joint[first + r, c] = share[c, r]
                if shares(rows, negligible, share, best, total, heavy) == 0 and again == 0:
                    break
                if not settle(again, m, nothing, first, prepared.log_weights, XT, share, best, total, heavy, state):
                    break
            if out.loglik.shape[0]:
                for r in range(m):
                    out.loglik[first + r] = np.float64(best[r]) + np.float64(log(total[r]))
            if out.labels.shape[0]:
                most_responsible(rows, share, picked[0], picked[1])
                labels = out.labels[first : first + m]
                for r in range(m):
                    labels[r] = np.int32(picked[1, r])
            if out.resp.shape[0]:
                for r in range(m):
                    factor = 1.0 / np.float64(total[r])
                    for c in range(k):
                        out.resp[first + r, c] = share[c, r] * factor

    return each_cell(expect)


def by_features(most: int, few: Sweep, many: Sweep) -> Sweep:
    """Make one driver of two: the first for rows of at most so many features."""

    def either(few: Callable[..., None], many: Callable[..., None]) -> Callable[..., None]:
        return lambda X, *args: (few if X.shape[1] <= most else many)(X, *args)

    def bound(arguments: tuple) -> Any:
        chosen = few if arguments[0].shape[1] <= most else many
        return chosen.bind(arguments) if chosen.bind else None

    parallel = either(few.parallel, many.parallel) if few.parallel and many.parallel else None
    return Sweep(either(few.serial, many.serial), parallel, bound if few.bind and many.bind else None)
