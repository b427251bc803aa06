"""What is watched while EM runs: the objective's history, convergence, and the certificate that it never falls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastem.engine.result import Run

if TYPE_CHECKING:
    from fastem.engine.checkpoint import Checkpoint


class IterationInfo(NamedTuple):
    """What a callback is told after each iteration."""

    restart: int
    iteration: int  # counted from 1
    objective: float  # of the parameters that this iteration started from
    change: float  # compared with tol
    params: Any  # the parameters that this iteration arrived at


Callback = Callable[[IterationInfo], Any]


class MonotonicityError(ArithmeticError):
    """The objective fell although EM guarantees that it cannot: a kernel or an M-step is wrong."""


@dataclass(frozen=True)
class Settings:
    """When to stop, and what to keep.

    Parameters
    ----------
    max_iter : int
        Most iterations of one restart.
    tol : float
        Stop when the family's progress is at most this.
    certify : bool
        Raise `MonotonicityError` when the objective falls by more than rounding and the family's own shortfall
        (variance floors) explain; otherwise a fall is only noted.
    keep_history : bool
        Keep the parameters of every iteration, the start included (lecture row L12).
    callback : callable or None
        Called with an `IterationInfo` after each iteration, from the thread that runs the restart.  Returning True
        ends that restart.
    accelerate : {None, "squarem"}
        How to extrapolate the path of EM (`fastem.engine.accelerate`); None is plain EM.
    drop_restarts : bool
        Drop restarts that will hardly reach the best one (`fastem.engine.restarts`).
    escape : {None, "split-merge"}
        How the best run tries to leave its local maximum (`fastem.engine.restarts`).
    convergence : {"change", "remaining"}
        What is compared with tol: the family's progress, or `remaining`.
    checkpoint : Checkpoint or None
        Where runs are saved, and go on from (`fastem.engine.checkpoint`).
    n_blocks : int
        Most blocks of rows with an M-step after each (`fastem.engine.incremental`); 1 is EM.
    """

    max_iter: int = 100
    tol: float = 1e-3
    certify: bool = False
    keep_history: bool = False
    callback: Callback | None = None
    accelerate: str | None = None
    drop_restarts: bool = False
    escape: str | None = None
    convergence: str = "change"
    checkpoint: Checkpoint | None = None
    n_blocks: int = 1

    def after(self, run: Run | None) -> Settings:
        """Return the settings of a run that goes on after another, whose iterations it does not count again."""
        if run is None:
            return self
        n_iter, callback = run.n_iter, self.callback
        if callback is None:
            return dataclasses.replace(self, max_iter=self.max_iter - n_iter)

        def counted(info: IterationInfo) -> Any:
            return callback(info._replace(iteration=info.iteration + n_iter))

        return dataclasses.replace(self, max_iter=self.max_iter - n_iter, callback=counted)


CONVERGENCES = ("change", "remaining")
# Rounding error of an objective, a mean or sum over rows, in units of the rows' machine epsilon.
ROUNDING = 64
# What a run that is to be compared may leave of the log-likelihood of all rows: a hundredth of the unit of -2 L.
LEFT = 0.005
# So many iterations it may take.
MOST_ITERATIONS = 10_000


# Iterations over which gains are measured, at least, and the part of all: one gain alone may be float32's rounding.
LEAST_WINDOW, WINDOWS = 3, 4
# So many pairs of EM steps between extrapolations tell how fast EM alone converges there.
PAIRS = 6


def remaining(objectives: list[float], plain: list[bool], slack: float) -> float:
    """Return how much an objective that rises to a limit has yet to gain, by Aitken's estimate.

    Gains that shrink by the factor a = last / before from one window of iterations to the next leave
    last (a + a^2 + ...) = last a / (1 - a).  Where some gains are an extrapolation's, which shrink unevenly, the
    slowest of the last pairs of EM steps counts, too.

    Parameters
    ----------
    objectives : list of float
        Of each iteration.
    plain : list of bool
        Which of them an EM step led to, and not an extrapolation.
    slack : float
        Rounding error of the objective, relative to its magnitude.  Where it falls by no more over a window, nothing
        is left that could be seen.

    Returns
    -------
    float
        At least 0; inf where the gains do not shrink, or are too few.

    References
    ----------
    Boehning et al., "The distribution of the likelihood ratio for mixtures of densities from the one-parameter
    exponential family", Annals of the Institute of Statistical Mathematics 46, 1994.

    Examples
    --------
    >>> remaining([0.0, 32.0, 48.0, 56.0, 60.0, 62.0, 63.0], [True] * 7, 1e-12)
    1.0
    """
    if len(objectives) > 1 and objectives[-1] == objectives[-2]:
        return 0.0
    window = max(LEAST_WINDOW, len(objectives) // WINDOWS)
    if len(objectives) <= 2 * window:
        return np.inf
    first, middle, last = objectives[-1 - 2 * window], objectives[-1 - window], objectives[-1]
    before, now = middle - first, last - middle
    if now <= 0:
        return 0.0 if -now <= slack * (1.0 + abs(last)) else np.inf
    left = now * now / (before - now) if before > now else np.inf
    return left if all(plain) else max(left, _slowest(objectives, plain))


def _slowest(objectives: list[float], plain: list[bool]) -> float:
    """Return what the slowest of the last pairs of EM steps says is left."""
    gains = np.diff(objectives)
    pairs = [i for i in range(1, len(gains)) if plain[i] and plain[i + 1]][-PAIRS:]
    if len(pairs) < PAIRS or np.any(gains[pairs] <= 0):
        return np.inf if len(pairs) < PAIRS else 0.0
    rate = float(np.max(gains[pairs] / np.maximum(gains[np.array(pairs) - 1], 1e-300)))
    return float(gains[pairs[-1]]) * rate / (1.0 - rate) if rate < 1 else np.inf


class Monitor:
    """Watches one EM run.

    Attributes
    ----------
    objectives : list of float
        The objective at the start of each iteration.
    history : list
        The parameters before the first and after each iteration, if they are kept.
    notes : list of str
        What happened that a user should know: rescued components, falls of the objective.
    refills : int
        How often components were moved.
    converged : bool
        Whether the last change was at most tol.
    """

    def __init__(self, settings: Settings, restart: int, start: Any) -> None:
        self.settings = settings
        self.restart = restart
        self.objectives: list[float] = []
        self.history: list[Any] = [start] if settings.keep_history else []
        self.notes: list[str] = []
        self.converged = False
        self.change = np.inf
        self.refills = 0
        self._may_fall = False
        self._slack = 0.0
        self._plain: list[bool] = []
        self._known: set[str] = set()

    @property
    def iteration(self) -> int:
        """Number of the current iteration, counted from 1."""
        return len(self.objectives)

    def observe(self, objective: float, slack: float, shortfall: Callable[[], float], *, plain: bool = True) -> None:
        """Take note of an iteration's objective and certify that it did not fall.

        Parameters
        ----------
        objective : float
            Objective of the parameters that the iteration starts from.
        slack : float
            Rounding error of the objective, relative to its magnitude.
        shortfall : callable
            By how much the last M-step may have lowered the objective knowingly; asked only after a fall.
        plain : bool
            Whether an M-step led to the parameters; False for an extrapolation.
        """
        if self.objectives and not self._may_fall:
            self.hold(self.objectives[-1], objective, slack, shortfall)
        self._may_fall = False
        self.take(objective, slack, plain=plain)

    def take(self, objective: float, slack: float, *, plain: bool = True) -> None:
        """Take note of an iteration's objective, which was held to the last one."""
        self._slack = slack
        self._plain.append(plain)
        self.objectives.append(objective)

    def hold(self, before: float, objective: float, slack: float, shortfall: Callable[[], float]) -> None:
        """Certify that an objective did not fall, from `before`; the others are those of `observe`."""
        fall = before - objective
        if fall > slack * (1.0 + abs(objective)):
            allowed = shortfall()
            if fall > allowed + slack * (1.0 + abs(objective)):
                self._fell(fall, allowed)

    def _fell(self, fall: float, allowed: float) -> None:
        message = (
            f"the objective fell by {fall:.6g} at iteration {self.iteration + 1} of restart {self.restart}, "
            f"more than the {allowed:.6g} that regularisation explains"
        )
        if self.settings.certify:
            raise MonotonicityError(message[0].upper() + message[1:] + ".")
        self.notes.append(message)

    def note(self, message: str) -> None:
        """Keep a message with the first iteration it belongs to."""
        if message not in self._known:
            self._known.add(message)
            self.notes.append(f"iteration {self.iteration}: {message}")

    def refilled(self, may_fall: bool) -> None:
        """Take note of moved components, and whether the next objective may be lower for it."""
        self.refills += 1
        self._may_fall = may_fall
        self.notes.append(f"iteration {self.iteration}: moved empty components to the worst explained rows")

    def advance(self, change: float, params: Any, settled: bool) -> bool:
        """Close an iteration that arrived at `params`; return whether to stop.

        `settled` is False when parameters were moved by other means than EM (a relocated cluster), after which the
        run has not converged whatever the change.
        """
        self.change = (
            change if self.settings.convergence == "change" else remaining(self.objectives, self._plain, self._slack)
        )
        self.converged = settled and self.change <= self.settings.tol
        if self.settings.keep_history:
            self.history.append(params)
        told_to_stop = False
        if self.settings.callback is not None:
            info = IterationInfo(self.restart, self.iteration, self.objectives[-1], self.change, params)
            told_to_stop = _is_true(self.settings.callback(info))
        return self.converged or told_to_stop or self.iteration >= self.settings.max_iter

    def state(self, arrays_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Return what a saved run needs of its monitor: arrays, numbers and text by name."""
        return {
            "objectives": np.array(self.objectives),
            "plain": np.array(self._plain, bool),
            "history": [arrays_of(params) for params in self.history],
            "notes": list(self.notes),
            "known": sorted(self._known),
            "converged": self.converged,
            "change": float(self.change),
            "refills": self.refills,
            "may_fall": self._may_fall,
            "slack": self._slack,
        }

    def recall(self, state: dict[str, Any], params_of: Callable[[dict[str, Any]], Any]) -> None:
        """Go on from what `state` returned."""
        self.objectives, self._plain = state["objectives"].tolist(), state["plain"].tolist()
        self.history = [params_of(arrays) for arrays in state["history"]]
        self.notes, self._known = list(state["notes"]), set(state["known"])
        self.converged, self.change, self.refills = state["converged"], state["change"], state["refills"]
        self._may_fall, self._slack = state["may_fall"], state["slack"]

    def run(self, params: Any, objective: float, memo: Any) -> Run:
        """Return what was watched so far as a run that stands at `params`."""
        return Run(
            restart=self.restart,
            params=params,
            objective=objective,
            objectives=np.array(self.objectives),
            n_iter=self.iteration,
            converged=self.converged,
            history=self.history,
            notes=tuple(self.notes),
            memo=memo,
        )


def _is_true(answer: Any) -> bool:
    """Whether a callback returned True, Python's or NumPy's; anything else goes on, as many return what they like."""
    return isinstance(answer, bool | np.bool_) and bool(answer)
