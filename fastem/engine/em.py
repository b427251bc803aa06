"""The engine: expectation-maximization for any family over any source of rows.

EM alternates two steps (lecture rows L7, L8).  The E-step collects, at the current parameters, the expected sufficient
statistics; the M-step maximises the expected complete-data log-likelihood given them.  The objective never falls, and
each restart stops when a step changes too little.  No family and no source is named here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem import grid, pool, threads, validate
from fastem.draws import Draws
from fastem.engine import accelerate, restarts
from fastem.engine.checkpoint import ALONE, Restart, Slot, Stage
from fastem.engine.incremental import IncrementalRun, block_rows
from fastem.engine.monitor import ROUNDING, Monitor, Settings
from fastem.engine.problem import Problem
from fastem.engine.result import FitResult, Run
from fastem.families.base import Family, Groups, Limits, State

# start(problem, draws) -> parameters of the family
Start = Callable[[Problem, Draws], Any]

# Restarts run side by side, one thread each, when a restart has too few cells to keep all threads busy but enough
# work (rows times numbers in the record, about one multiply-add each) to outweigh Python's share of an iteration,
# which holds the GIL for some 50 microseconds.
CELLS_PER_THREAD = 4
WORK_FOR_A_THREAD = 2_000_000

# A run in one call has room for so many objectives.
MOST_OBJECTIVES = 10**6


def run(
    problem: Problem, start: Start, *, settings: Settings, n_init: int = 1, seed: int = 0, reached: float = -np.inf
) -> FitResult:
    """Fit a family to rows from `n_init` starts and keep the best run.

    Parameters
    ----------
    problem : Problem
        The rows, the family, and all that no restart changes.
    start : callable
        ``start(problem, draws)`` returns the parameters that a restart begins with.
    settings : Settings
        When to stop and what to keep.
    n_init : int
        Number of restarts (lecture rows L2, L10).
    seed : int
        Restart r draws its numbers from ``Draws(seed, r)``, whichever thread runs it.
    reached : float
        Objective of the iteration that led to the start, when a run goes on with the parameters of an earlier one.

    Returns
    -------
    FitResult
        The run with the highest objective, and every restart's objective.

    Raises
    ------
    MonotonicityError
        If `settings.certify` is set and the objective falls.
    ValueError
        If the best run's parameters hold NaN.
    """
    side_by_side = n_init > 1 and _small_but_work(problem)
    racing = settings.drop_restarts and n_init > 1
    stage = None if settings.checkpoint is None else settings.checkpoint.stage(problem.family)
    if stage is not None:
        stage.alone = not (side_by_side or racing)
    threads_of_all = problem.source.n_threads
    problem = problem.with_threads(1) if side_by_side else problem
    runs: list[Run | None] = [None] * n_init
    best = _Best()
    from_start = _limits_with_start(problem, start, settings) if reached == -np.inf else None

    def anew(number: int, slot: Slot | None) -> Run:
        run = _run_with_start(problem, start, Draws(seed, number), from_start, number) if from_start else None
        if run is None:
            place = Restart(number, reached, slot)
            params = None if place.resumes else start(problem, Draws(seed, number))
            run = run_once(problem, params, settings, place)
        return run

    def restart(number: int) -> None:
        runs[number] = best.offer(anew(number, None) if stage is None else _recorded(stage, number, anew))

    def begin(number: int) -> EMRun | IncrementalRun:
        place = Restart(number, reached, None if stage is None else stage.slot(number))
        params = None if place.resumes else start(problem, Draws(seed, number))
        return _begun(problem, params, settings, place)

    def spread(task: Callable[[int], None], n_tasks: int) -> None:
        threads.map_tasks(task, n_tasks, threads_of_all if side_by_side else 1)

    with threads.single_threaded_blas(), threads.allowing(problem.source.n_threads), pool.kept():
        if racing:
            runs[:] = [best.offer(run) for run in restarts.race(begin, n_init, settings.max_iter, spread, stage)]
        else:
            spread(restart, n_init)
        if settings.escape is not None:
            best.run = _escape(problem, best.run, settings)
        if stage is not None and best.run.memo is None:
            best.run = best.run._replace(memo=_memo_of(problem, best.run.params))
    _refuse_nan(best.run)
    finished = [run for run in runs if run is not None]
    return FitResult(
        best=best.run,
        restarts=np.array([run.objective for run in finished]),
        histories=[run.objectives for run in finished],
    )


def _recorded(stage: Stage, number: int, make: Callable[[int, Slot], Run]) -> Run:
    """Return a restart that ended before the fit was stopped, or make it and take it down."""
    slot = stage.slot(number)
    if slot.run is not None:
        return slot.run
    run = make(number, slot)
    stage.ended(number, run)
    return run


def _memo_of(problem: Problem, params: Any) -> Any:
    """Return what is kept of each row at the end of a run, which no checkpoint holds; a pass over the rows."""
    source, family = problem.source, problem.family
    memo = family.new_memo(source.n_rows, source.empty)
    if memo is not None:
        source.accumulate(family, family.prepare(params, source.dtype), memo)
    return memo


def _small_but_work(problem: Problem) -> bool:
    """Tell whether restarts pay side by side, one thread each."""
    source, family = problem.source, problem.family
    few_cells = grid.n_cells(source.n_rows) < CELLS_PER_THREAD * source.n_threads
    return few_cells and source.n_rows * family.layout(source.n_features).size > WORK_FOR_A_THREAD


def _refuse_nan(run: Run) -> None:
    """Refuse to return a model with NaN, which nobody could use; no rows are known that lead to one."""
    fields = run.params._asdict() if hasattr(run.params, "_asdict") else {}
    for name, value in [*fields.items(), ("objective", run.objective)]:
        values = np.asarray(value)
        if values.dtype.kind == "f" and np.isnan(values.sum()) and np.isnan(values).any():  # no mask if not needed
            raise ValueError(
                f"The fit arrived at {name} with NaN after {run.n_iter} iterations: the rows span more than their "
                "dtype can tell apart; scale them, or fit them as float64."
            )


def _escape(problem: Problem, run: Run, settings: Settings) -> Run:
    """Return the run, or one that went on from it to a better maximum."""

    def go_on(params: Any) -> Run:
        def further(number: int, slot: Slot | None) -> Run:
            return run_once(problem, params, settings, Restart(number, slot=slot))

        if settings.checkpoint is None:
            return further(run.restart, None)
        stage = settings.checkpoint.stage(problem.family)
        return _recorded(stage, run.restart, further)

    return restarts.split_and_merge(problem, run, go_on)


class _Best:
    """The best run so far; the per-row memory of the others is let go."""

    run: Run

    def offer(self, run: Run) -> Run:
        """Keep `run` if it is better; return it without its memo."""
        with threads.LOCK:
            if not hasattr(self, "run") or restarts.rank(run) > restarts.rank(self.run):
                self.run = run
        return run._replace(memo=None, history=[])


class _EStep(NamedTuple):
    """One pass over the rows, and what it was made with."""

    params: Any
    prepared: Any
    stats: Any
    objective: float


def run_once(problem: Problem, params: Any, settings: Settings, restart: Restart = ALONE) -> Run:
    """Run EM once, from `params` until it converges or is stopped, and on from what the family finds beyond.

    A run that resumes goes on from its saved state, and needs no parameters.
    """
    slot = restart.slot
    run = None if slot is None else slot.before
    while True:
        restart = restart._replace(reached=-np.inf) if run else restart
        further, last = _run_to_convergence(problem, params, settings.after(run), restart)
        if run is not None and not further.objective > run.objective:
            return run
        run = restarts.joined(run, further)
        params = _beyond(problem, run, last, settings)
        if params is None:
            return run
        if slot is not None:
            slot.before = run


def _beyond(problem: Problem, run: Run, last: _EStep | None, settings: Settings) -> Any:
    """Return the parameters that a converged run goes on with, if the family finds some that are better.

    `last` is the E-step at the parameters of the run, if it is known: a pass over all rows for the sake of a few would
    cost more than to find these.
    """
    source, family = problem.source, problem.family
    if run.memo is None or not run.converged or run.n_iter >= settings.max_iter:
        return None
    numbers, labels = source.undecided(family, run.params, run.memo)
    if not numbers.size:
        return None
    if last is None:
        prepared = family.prepare(run.params, source.dtype)
        last = _EStep(run.params, prepared, source.accumulate(family, prepared), run.objective)
    partition = family.partition(last.stats, last.prepared, last.params)
    return family.beyond(partition, source.loose(family, numbers, labels), settings.tol)


def _run_to_convergence(
    problem: Problem, params: Any, settings: Settings, restart: Restart
) -> tuple[Run, _EStep | None]:
    """Return a run, and its last E-step if that is known and of the parameters at which it ended."""
    if restart.reached == -np.inf and not restart.resumes:
        small = _run_small(problem, params, settings, restart.number)
        if small is not None:
            return small, None
    begun = _begun(problem, params, settings, restart)
    run = begun.until(settings.max_iter)
    return run, begun.final


def _begun(problem: Problem, params: Any, settings: Settings, restart: Restart) -> EMRun | IncrementalRun:
    """Return a run where it was saved, or at its start.

    It goes in blocks, if they are asked for, there is more than one and the rows are read.
    """
    if restart.resumes:
        return EMRun.resumed(problem, settings, restart)
    n_rows = problem.source.n_rows
    if settings.n_blocks == 1 or block_rows(n_rows, settings.n_blocks) >= n_rows or problem.needs_no_rows(params):
        return EMRun(problem, params, settings, restart)
    return IncrementalRun(problem, params, settings, restart)


def _run_small(problem: Problem, params: Any, settings: Settings, restart: int) -> Run | None:
    """Return a run that the family makes in one call, or None: many rows, or somebody watches the iterations."""
    limits = _limits_of_small(problem, settings)
    if limits is None:
        return None
    source = problem.source
    small = problem.family.run_small(source.array, source.sample_weight, problem.constants, params, limits)
    if small is None:
        return None
    params, objective, objectives, n_iter, converged, memo = small
    return Run(restart, params, objective, objectives, n_iter, converged, [], (), memo)


def _limits_with_start(problem: Problem, start: Start, settings: Settings) -> Limits | None:
    """Return when a run in one call stops that begins with its seeds; None where there is no such call."""
    labels_groups = getattr(start, "labels_groups", False) and not problem.shares_centers
    family = problem.family
    if not labels_groups or not family.runs_are_compiled or not family.runs_groups(problem.source.n_features):
        return None
    return _limits_of_small(problem, settings)


def _run_with_start(problem: Problem, start: Start, draws: Draws, limits: Limits, restart: int) -> Run | None:
    """Return a run that compiled code makes of few rows from seeds to end, or None."""
    source, family = problem.source, problem.family
    groups = Groups(source.array, source.sample_weight, np.array([0, source.n_rows]))
    begun = start.labels_of(family, groups, draws, limits.slack)  # type: ignore[attr-defined]
    constants = problem.once("constants_of_groups", lambda: family.constants_of_groups(groups))
    params, runs = family.run_groups(groups, begun, constants, limits, keep=True)
    if not runs.n_iter[0]:
        return None
    n_iter = int(runs.n_iter[0])
    arrived = type(params)(*[field[0].copy() for field in params])
    objectives = runs.objectives[0, :n_iter].copy()
    return Run(restart, arrived, float(runs.objective[0]), objectives, n_iter, bool(runs.converged[0]), [], (), None)


def _limits_of_small(problem: Problem, settings: Settings) -> Limits | None:
    """Return when a run in one call stops; None if there are many rows, or the engine has work between iterations."""
    source = problem.source
    X = getattr(source, "array", None)
    watched = settings.callback is not None or settings.keep_history or settings.certify
    plain = settings.accelerate is None and settings.convergence == "change" and not source.labels.size
    if X is None or len(X) > grid.CELL or watched or not plain or not 0 < settings.max_iter < MOST_OBJECTIVES:
        return None
    return Limits(settings.max_iter, settings.tol, ROUNDING / 2 * float(np.finfo(X.dtype).eps))


class EMRun:
    """One run of EM, which may pause after any iteration and goes on as if it had not.

    The parameters are those of `run_once`.  `state` is all that the run is, as arrays, to be saved; another run of the
    same problem that is given it by `recall` goes on from there, to the same bits.

    Attributes
    ----------
    over : bool
        Whether the run has ended: it converged, was told to stop or has done all its iterations.
    final : E-step or None
        The last E-step, if it is of the parameters that `until` returned.
    """

    def __init__(self, problem: Problem, params: Any, settings: Settings, restart: Restart = ALONE) -> None:
        self.problem = problem
        self.source, self.family, self.constants = problem.source, problem.family, problem.constants
        self.reached, self.slot = restart.reached, restart.slot
        self.monitor = Monitor(settings, restart.number, params)
        self.path = accelerate.METHODS[settings.accelerate](problem.family)
        self.params = params
        self.plain: Any = None  # where EM arrived, while an extrapolation from there is to be tried
        self.last: _EStep | None = None
        self.final: _EStep | None = None
        self.memo = self.family.new_memo(self.source.n_rows, self.source.empty)
        self.previous: Any = None  # what the last E-step was given
        self.over = settings.max_iter == 0

    def until(self, iteration: int) -> Run:
        """Go on to the end of this iteration, counted from the start, or of the run; return where it stands then."""
        while not self.over and self.monitor.iteration < iteration:
            now = self._expect(self.params, self.previous, self.memo)
            self.previous = now.prepared
            base = None if self.plain is None else self.last  # what an extrapolation must not fall below
            if base is not None and not self.path.judge(now.objective >= base.objective):
                self.params, self.plain, self.previous = self.plain, None, base.prepared
            else:
                self._advance(now)
                if self.slot is not None and self.slot.due(1):
                    self.slot.keep(self.state())
        params, memo = self.params if self.plain is None else self.plain, self.memo if self.over else None
        if self.family.final_pass or self.last is None:
            self.final = self._expect(params, None, memo)
            objective = self.final.objective
        else:
            objective = self.last.objective
        return self.monitor.run(params, objective, memo)

    def state(self) -> dict[str, Any]:
        """Return the state between two iterations: arrays, numbers and text by name.

        What is kept of rows is not copied.  The statistics of the last E-step are left out: they are asked for after a
        fall alone, and a pass over the rows gives the same bits again.
        """
        arrays_of, last = self.family.arrays_of, self.last
        return {
            "params": arrays_of(self.params),
            "plain": None if self.plain is None else arrays_of(self.plain),
            "last": None if last is None else {"params": arrays_of(last.params), "objective": last.objective},
            "over": self.over,
            "monitor": self.monitor.state(arrays_of),
            "path": self.path.state(),
            "memo": {} if self.previous is None else self.family.remembered(self.memo, self.previous),
        }

    @classmethod
    def resumed(cls, problem: Problem, settings: Settings, restart: Restart) -> EMRun:
        """Return the run whose state was saved."""
        slot = restart.slot
        assert slot is not None
        with slot.stage.checkpoint.trusted():
            state = slot.take()
            run = cls(problem, problem.family.params_of(state["params"]), settings, restart)
            run.recall(state)
        return run

    def recall(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        params_of, last = self.family.params_of, state["last"]
        self.params = params_of(state["params"])
        self.plain = None if state["plain"] is None else params_of(state["plain"])
        for params in (self.params, self.params if self.plain is None else self.plain):
            validate.fitting(params, self.family.shapes(self.source.n_features), {})
        self.last = None if last is None else _EStep(params_of(last["params"]), None, None, last["objective"])
        self.over = state["over"]
        self.monitor.recall(state["monitor"], params_of)
        self.path.recall(state["path"])
        self.previous = self.family.recall(state["memo"], self.memo) if state["memo"] else None

    def _expect(self, params: Any, previous: Any, memo: Any) -> _EStep:
        prepared = self.family.prepare(params, self.source.dtype, previous)
        stats = self.family.stats_of_constants(self.constants, prepared)
        if stats is None:
            stats = self.source.accumulate(self.family, prepared, memo)
        return _EStep(params, prepared, stats, self.family.objective(stats, self.constants, params))

    def _advance(self, now: _EStep) -> None:
        """Certify an E-step, make the M-step that follows it and choose the parameters of the next."""
        family, monitor = self.family, self.monitor
        self._certify(now)
        reached = self.last.objective if self.last else self.reached
        self.last = now  # the M-step's matrices may take the memory of the E-step before
        stats = _refill(monitor, family, self.source, now, self.memo)
        settled = stats is now.stats
        step = family.m_step(stats, self.constants, now.prepared, now.params)
        for message in step.notes:
            monitor.note(message)
        before = State(now.params, reached)
        self.over = monitor.advance(family.progress(before, State(step.params, now.objective)), step.params, settled)
        leap = None
        if not settled:
            self.path.forget()
        elif not self.over:
            leap = self.path.propose(now.params, step.params)
            leap = None if leap is None else family.admissible(leap, self.constants)
        self.params, self.plain = (step.params, None) if leap is None else (leap, step.params)

    def _certify(self, now: _EStep) -> None:
        """Let the monitor see the objective, and what explains a fall since the last E-step."""

        def shortfall() -> float:
            last = self.last
            assert last is not None  # asked only after a fall
            if last.stats is None:  # that of a resumed run
                last = self._expect(last.params, None, None)
            return self.family.shortfall(last.stats, self.constants, last.prepared, last.params, now.params)

        slack = ROUNDING * float(np.finfo(self.source.dtype).eps)
        self.monitor.observe(now.objective, slack, shortfall, plain=self.plain is None)


def _refill(monitor: Monitor, family: Family, source: Any, now: _EStep, memo: Any) -> Any:
    """Return the statistics with vacant components moved to the worst explained rows, or the very same ones.

    The memo is that of this E-step.
    """
    vacant = family.vacant(now.stats, now.prepared)
    if not vacant.size or monitor.refills >= family.max_refills:
        return now.stats
    worst = source.extreme_rows(family, now.prepared, vacant.size, memo)
    stats = family.refill(now.stats, now.prepared, vacant, worst)
    if stats is not now.stats:
        monitor.refilled(family.may_fall)
    return stats
