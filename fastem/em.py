"""The engine: expectation-maximization for any family over any source of rows.

EM alternates two steps (lecture rows L7, L8).  The E-step collects, at the current parameters, the expected sufficient
statistics; the M-step maximises the expected complete-data log-likelihood given them.  The objective never falls, and
each restart stops when a step changes too little.  No family and no source is named here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastem import accelerate, threads
from fastem import stats as grid
from fastem.draws import Draws
from fastem.families.base import Family, State
from fastem.monitor import Monitor, Settings
from fastem.result import FitResult, Run

# start(source, draws) -> parameters of the family
Start = Callable[[Any, Draws], Any]

# Restarts run side by side, one thread each, when a restart has too few cells to keep all threads busy but enough
# work (rows times numbers in the record, about one multiply-add each) to outweigh Python's share of an iteration,
# which holds the GIL for some 50 microseconds.
CELLS_PER_THREAD = 4
WORK_FOR_A_THREAD = 2_000_000


def run(source: Any, family: Family, start: Start, *, settings: Settings, n_init: int = 1, seed: int = 0) -> FitResult:
    """Fit `family` to `source` from `n_init` starts and keep the best run.

    Parameters
    ----------
    source : a source of `fastem.sources`
        Rows, weights and known labels.
    family : Family
        The model.
    start : callable
        ``start(source, draws)`` returns the parameters that a restart begins with.
    settings : Settings
        When to stop and what to keep.
    n_init : int
        Number of restarts (lecture rows L2, L10).
    seed : int
        Restart r draws its numbers from ``Draws(seed, r)``, whichever thread runs it.

    Returns
    -------
    FitResult
        The run with the highest objective, and every restart's objective.

    Raises
    ------
    MonotonicityError
        If `settings.certify` is set and the objective falls.
    """
    side_by_side = n_init > 1 and grid.n_cells(source.n_rows) < CELLS_PER_THREAD * source.n_threads
    runner = source.with_threads(1) if side_by_side else source
    constants = family.constants(source)
    runs: list[Run | None] = [None] * n_init
    best = _Best()

    def restart(number: int) -> None:
        params = start(runner, Draws(seed, number))
        runs[number] = best.offer(run_once(runner, family, params, constants, settings, number))

    with threads.single_threaded_blas():
        threads.map_tasks(restart, n_init, source.n_threads if side_by_side else 1)
    finished = [run for run in runs if run is not None]
    return FitResult(
        best=best.run,
        restarts=np.array([run.objective for run in finished]),
        histories=[run.objectives for run in finished],
    )


class _Best:
    """The best run so far; the per-row memory of the others is let go."""

    run: Run

    def offer(self, run: Run) -> Run:
        """Keep `run` if it is better; return it without its memo."""
        with threads.LOCK:
            if not hasattr(self, "run") or self._rank(run) > self._rank(self.run):
                self.run = run
        return run._replace(memo=None, history=[])

    @staticmethod
    def _rank(run: Run) -> tuple[float, int]:
        """Higher objectives first, then lower restart numbers; NaN comes last."""
        return (run.objective if run.objective == run.objective else -np.inf, -run.restart)


def run_once(source: Any, family: Family, params: Any, constants: Any, settings: Settings, restart: int = 0) -> Run:
    """Run EM once, from `params` until it converges or is stopped."""
    monitor = Monitor(settings, restart, params)
    memo = family.new_memo(source.n_rows)
    slack = 64 * float(np.finfo(source.dtype).eps)  # rounding of a mean of log-densities
    before = State(params, -np.inf)
    prepared: Any = None
    stats: Any = None
    plain: Any = None  # where EM arrived, while an extrapolation from there is tried
    stop = False
    path = accelerate.METHODS[settings.accelerate](family)
    while not stop:
        last_prepared, last_stats = prepared, stats
        prepared = family.prepare(params, source.dtype, prepared)
        stats = source.accumulate(family, prepared, memo)
        objective = family.objective(stats, constants, params)
        if plain is not None and not path.judge(objective >= before.objective):
            params, plain, prepared, stats = plain, None, last_prepared, last_stats
            continue
        plain = None
        monitor.observe(
            objective,
            slack,
            # bound now: the shortfall of the M-step that led from `before` to here
            lambda at=before, p=last_prepared, s=last_stats, new=params: family.shortfall(
                s, constants, p, at.params, new
            ),  # type: ignore[misc]
        )
        vacant, expected = family.vacant(stats), stats
        if vacant.size:
            stats = family.refill(stats, prepared, vacant, source.extreme_rows(family, prepared, vacant.size))
        if stats is not expected:
            monitor.note("moved empty components to the worst explained rows")
        step = family.m_step(stats, constants, prepared, params)
        for message in step.notes:
            monitor.note(message)
        after = State(step.params, objective)
        change = family.progress(before._replace(params=params), after)
        before, params = State(params, objective), step.params
        stop = monitor.advance(change, params, settled=stats is expected)
        if stats is not expected:
            path.forget()
        elif not stop:
            leap = path.propose(before.params, params)
            if leap is not None:
                params, plain = leap, params
    if family.final_pass:
        stats = source.accumulate(family, family.prepare(params, source.dtype), memo)
        objective = family.objective(stats, constants, params)
    return Run(
        restart=restart,
        params=params,
        objective=objective,
        objectives=np.array(monitor.objectives),
        n_iter=monitor.iteration,
        converged=monitor.converged,
        history=monitor.history,
        notes=tuple(monitor.notes),
        memo=memo,
    )
