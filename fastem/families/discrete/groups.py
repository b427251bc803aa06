"""Runs of many mixtures of discrete distributions at once, an iteration of all of them after the other.

The E-step is the family's compiled kernel, called group by group in one compiled loop (`src/mixtures/groups.pxi`).  The
M-step and what an E-step is prepared with are elementwise, so that the family's own NumPy does them for all groups at
once: its arrays get a leading axis, and each group the numbers that it would get alone, to the bit.  An iteration of
1000 groups then costs as many calls of NumPy as that of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem._native import mixtures
from fastem.families.base import Groups, Labelled, Limits, Runs
from fastem.jit import Sweep


class Passes:
    """A family's compiled pass, over the groups of some numbers, with the prepared parameters of each.

    Parameters
    ----------
    sweep : Sweep
        The pass.
    prepared : NamedTuple of ndarray
        Prepared parameters of the groups, each field stacked (G, ...); of the first the pass gets its own copy.
    before, after : tuple
        What the kernel takes before and after prepared parameters.
    """

    def __init__(self, sweep: Sweep, prepared: Any, before: tuple, after: tuple = ()) -> None:
        assert sweep.bind is not None
        self._place = [np.ascontiguousarray(field[0]).copy() for field in prepared]
        address, self._context = sweep.bind((*before, type(prepared)(*self._place), *after))
        self._call = np.array([address, self._context.ctypes.data], np.intp)

    def run(self, offsets: np.ndarray, numbers: np.ndarray, prepared: Any, records: np.ndarray) -> None:
        """Call the pass for the groups of these numbers (A,), and fill `records` (A, size).  # OUT."""
        fields = [np.ascontiguousarray(field) for field in prepared]
        mixtures.pass_over_groups(offsets, numbers, self._call, fields, self._place, records)
        if self._context[0]:
            raise RuntimeError("a compiled E-step failed, most likely for want of memory")


def run(family: Any, groups: Groups, start: Labelled, constants: np.ndarray, limits: Limits, keep: bool) -> Any:
    """Return the parameters (G, ...) at which runs arrive that begin with labels, and `Runs`; see `Family.run_groups`.

    What falls, or is not finite, is left to the engine.
    """
    n_groups, d = groups.n_groups, groups.X.shape[1]
    layout, dtype = family.layout(d), groups.X.dtype
    n_iter, objective = np.zeros(n_groups, np.int32), np.full(n_groups, np.nan)
    objectives, converged = np.empty((n_groups, limits.max_iter) if keep else (0, 0)), np.zeros(n_groups, bool)
    active = np.flatnonzero(start.found)
    arrived = family.blank_of_groups(groups, start.centers)
    if not len(active):
        return arrived, Runs(objective, n_iter, converged, objectives)

    def expected(passes: Passes, prepared: Any) -> Any:
        records = np.empty((len(active), layout.size))
        passes.run(groups.offsets, active, prepared, records)
        return layout.view_all(records)

    params = taken(arrived, active)
    prepared = family.prepare(params, dtype)
    first, later = (
        Passes(family.accumulator(d), prepared, (groups.X, groups.w, labels))
        for labels in (start.labels, np.empty(0, np.int32))
    )
    params = family.first_step(expected(first, prepared), constants[active], prepared, params)
    last = np.full(len(active), -np.inf)
    for iteration in range(limits.max_iter):
        prepared = family.prepare(params, dtype)
        stats = expected(later, prepared)
        value = family.objectives(stats, constants[active], params)
        with np.errstate(invalid="ignore"):
            sound = np.isfinite(value) & ~(last - value > limits.slack * (1.0 + np.abs(value)))
        params = family.m_step(stats, constants[active], prepared, params).params
        done = (np.abs(value - last) <= limits.tol) & sound
        ended = done if iteration + 1 < limits.max_iter else sound
        if keep:
            objectives[active, iteration] = value
        over = active[ended]
        n_iter[over], objective[over], converged[over] = iteration + 1, value[ended], done[ended]
        for ours, theirs in zip(arrived, params, strict=True):
            ours[over] = theirs[ended]
        going = sound & ~ended
        active, last, params = active[going], value[going], taken(params, going)
        if not len(active):
            break
    return arrived, Runs(objective, n_iter, converged, objectives)


def expect(family: Any, groups: Groups, params: Any, found: np.ndarray, out: Any) -> None:
    """Fill the outputs of an E-step alone for the rows of all groups with `found` parameters (G,)."""
    numbers = np.flatnonzero(found)
    if len(numbers):
        prepared = family.prepare(taken(params, numbers), groups.X.dtype)
        passes = Passes(family.expectation(groups.X.shape[1]), prepared, (groups.X,), (out,))
        passes.run(groups.offsets, numbers, prepared, np.empty((len(numbers), 0)))


def taken(params: Any, which: np.ndarray) -> Any:
    """Return the parameters of some groups."""
    return type(params)(*[field[which] for field in params])
