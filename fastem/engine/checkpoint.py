"""Fits that go on where they were killed: a file of the runs that ended and of the state of those under way.

A fit is a row of stages, the calls of `em.run` that it makes one after another (restarts; runs that a search begins
after them), and a stage a row of numbered restarts.  All that happens between runs is a function of the rows, the
parameters and the seed.  A fit that is begun again therefore comes to the same stages: runs that had ended are taken
from the file, one that was under way goes on from its state, and the bits are those of a fit that nothing stopped.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastem.engine import restarts
from fastem.engine.result import Run
from fastem.families.base import Family
from fastem.files import FileError, first_line, replacing

FORMAT = 1
HEADER = "fastem-checkpoint.json"
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
# The version and the class first: of other differences between two fits the first is said.
FIRST = ("version", "class")


def interval(every: Any) -> int | float | None:
    """Return how often a state is saved: an int of iterations, or a float of seconds; None if `every` is neither.

    Examples
    --------
    >>> interval(10), interval("90s"), interval("1.5h"), interval("soon")
    (10, 90.0, 5400.0, None)
    """
    if isinstance(every, datetime.timedelta):
        return every.total_seconds() if every.total_seconds() >= 0 else None
    if isinstance(every, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h)", every.strip())
        return float(found[1]) * UNITS[found[2]] if found else None
    whole = isinstance(every, int | np.integer) and not isinstance(every, bool)
    return int(every) if whole and every >= 1 else None


class Clock:
    """Tells when it is time to save.

    Parameters
    ----------
    every : int or float
        Iterations, or seconds.
    """

    def __init__(self, every: int | float) -> None:
        self.every = every
        self.iterations, self.since = 0, time.monotonic()

    def due(self, iterations: int) -> bool:
        """Count iterations; return whether it is time, and begin anew if so."""
        self.iterations += iterations
        now = time.monotonic()
        due = self.iterations >= self.every if isinstance(self.every, int) else now - self.since >= self.every
        if due:
            self.iterations, self.since = 0, now
        return due


class Checkpoint:
    """The file of one fit.

    Parameters
    ----------
    path : path-like
        The file.  Where it is, the fit goes on from it.
    every : int or float
        What `interval` returned.
    identity : dict of text and numbers
        What makes it this fit and no other: version, class, parameters, rows.
    seed : int
        Seed of the fit.

    Attributes
    ----------
    seed : int
        Seed of the fit that began the file.

    Raises
    ------
    FileError
        If the file is no checkpoint, is one of another fit, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], every: int | float, identity: dict[str, Any], seed: int) -> None:
        self.path, self.every, self.seed = Path(path), every, seed
        self.clock = Clock(every)
        self.lock = threading.RLock()  # restarts may run side by side
        self._identity = identity
        self._stages: list[Stage] = []
        self._saved: list[dict[str, Any]] = []
        if self.path.exists():
            header = read(self.path)
            self._refuse_other(header["identity"])
            self.seed, self._saved = header["seed"], header["stages"]
        else:
            self._write()  # what cannot be written is said before the fit

    def _refuse_other(self, theirs: dict[str, Any]) -> None:
        ours = self._identity
        names = [*FIRST, *(name for name in ours if name not in FIRST), *(name for name in theirs if name not in ours)]
        for name in names:
            if ours.get(name) != theirs.get(name):
                raise FileError(
                    f"{self.path} is a checkpoint of another fit, whose {name} was {theirs.get(name)!r} and not "
                    f"{ours.get(name)!r}: remove it to begin anew."
                )

    def stage(self, family: Family) -> Stage:
        """Begin the next stage."""
        number = len(self._stages)
        saved = self._saved[number] if number < len(self._saved) else {"runs": {}, "states": {}, "race": None}
        with self.trusted():
            stage = Stage(self, family, saved)
        self._stages.append(stage)
        return stage

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Turn what goes wrong with saved values into the sentence that says so."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise damaged(self.path, error) from error

    def save(self) -> None:
        """Write all that is known; a fit goes on without, should the disk be full, and says so."""
        try:
            self._write()
        except FileError as error:
            warnings.warn(f"The fit goes on without a checkpoint: {error}", RuntimeWarning, stacklevel=2)

    def _write(self) -> None:
        with self.lock:
            stages = [stage.tree() for stage in self._stages]
            header = {"format": FORMAT, "identity": self._identity, "seed": self.seed, "stages": stages}
            arrays: dict[str, np.ndarray] = {}
            text = json.dumps(taken_apart(header, arrays)).encode()
            arrays[HEADER] = np.frombuffer(text, dtype=np.uint8)
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)

    def remove(self) -> None:
        """Remove the file of a fit that has ended."""
        self.path.unlink(missing_ok=True)


class Stage:
    """Restarts of one problem.

    Parameters
    ----------
    checkpoint : Checkpoint
        Whose stage it is.
    family : Family
        The family that they fit.
    saved : dict
        What `tree` returned.

    Attributes
    ----------
    runs : dict of int to Run
        The restarts that have ended, parameters of the best alone.
    states : dict of int to dict
        States of those under way.
    alone : bool
        Whether states need no copy: no other restart goes on or is saved before a state is replaced.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, saved: dict[str, Any]) -> None:
        self.checkpoint, self.family = checkpoint, family
        self.alone = True
        self.runs: dict[int, Run] = {int(number): self.run_of(tree) for number, tree in saved["runs"].items()}
        self.states: dict[int, dict[str, Any]] = {int(number): tree for number, tree in saved["states"].items()}
        self._race: dict[str, Any] | None = saved["race"]

    def slot(self, number: int) -> Slot:
        """Return the place of one restart."""
        return Slot(self, number)

    def tree(self) -> dict[str, Any]:
        """Return all of it as arrays, numbers and text."""
        runs = {str(number): self.tree_of(run) for number, run in self.runs.items()}
        states = {str(number): state for number, state in self.states.items()}
        return {"runs": runs, "states": states, "race": self._race}

    def race(self) -> tuple[list[Run], list[int], int] | None:
        """Return where a race of the restarts stood (`restarts.race`)."""
        race = self._race
        return None if race is None else ([self.run_of(tree) for tree in race["runs"]], race["running"], race["stop"])

    def raced(self, runs: list[Run], running: list[int], stop: int) -> None:
        """Take down where a race of the restarts stands, to be saved with the next state."""
        self._race = {"runs": [self.tree_of(run) for run in runs], "running": running, "stop": stop}
        self.states = {number: state for number, state in self.states.items() if number in running}

    def tree_of(self, run: Run) -> dict[str, Any]:
        """Return a run as arrays, numbers and text, without what is kept of rows."""
        arrays_of = self.family.arrays_of
        history = [arrays_of(params) for params in run.history]
        params = None if run.params is None else arrays_of(run.params)
        return run._replace(params=params, history=history, notes=list(run.notes), memo=None)._asdict()  # type: ignore[arg-type]

    def run_of(self, tree: dict[str, Any]) -> Run:
        """Return the run of which `tree_of` was taken."""
        params_of = self.family.params_of
        history = [params_of(arrays) for arrays in tree["history"]]
        params = None if tree["params"] is None else params_of(tree["params"])
        return Run(**tree)._replace(params=params, history=history, notes=tuple(tree["notes"]))

    def ended(self, number: int, run: Run) -> None:
        """Take down a restart that has ended."""
        checkpoint = self.checkpoint
        with checkpoint.lock:
            best = max([*self.runs.values(), run], key=restarts.rank)
            self.runs[number] = run._replace(memo=None)
            for other, known in self.runs.items():
                if known.restart != best.restart:
                    self.runs[other] = known._replace(params=None, history=[])
            self.states.pop(number, None)
            if checkpoint.clock.due(run.n_iter):
                checkpoint.save()


class Slot:
    """The place of one restart in a stage.

    Attributes
    ----------
    run : Run or None
        The restart, if it has ended.
    state : dict or None
        The saved state that it goes on from, until it is taken.
    before : Run or None
        What it did before the run under way, to which that will be joined.
    """

    def __init__(self, stage: Stage, number: int) -> None:
        self.stage, self.number = stage, number
        self.clock = Clock(stage.checkpoint.every)
        self.run = stage.runs.get(number)
        saved = stage.states.get(number)
        self.state: dict[str, Any] | None = None if saved is None else saved["run"]
        self.before = None if saved is None or saved["before"] is None else stage.run_of(saved["before"])
        if stage.alone:
            stage.states.pop(number, None)  # nothing is written before the next state

    def due(self, iterations: int) -> bool:
        """Count iterations; return whether it is time to save."""
        return self.clock.due(iterations)

    def keep(self, state: dict[str, Any]) -> None:
        """Save the state of the run under way."""
        stage, checkpoint = self.stage, self.stage.checkpoint
        with checkpoint.lock:
            before = None if self.before is None else stage.tree_of(self.before)
            stage.states[self.number] = {"run": state if stage.alone else copied(state), "before": before}
            checkpoint.save()
            if stage.alone:
                del stage.states[self.number]

    def take(self) -> dict[str, Any]:
        """Return the saved state, once."""
        state, self.state = self.state, None
        assert state is not None
        return state


class Restart(NamedTuple):
    """What a run is told of the fit that it is part of."""

    number: int = 0
    reached: float = -np.inf  # objective of the iteration that led to the start, of a run that goes on from another
    slot: Slot | None = None  # where its state is saved, and the one from which it goes on, if there is any

    @property
    def resumes(self) -> bool:
        """Whether the run goes on from a saved state."""
        return self.slot is not None and self.slot.state is not None


ALONE = Restart()


def copied(tree: Any) -> Any:
    """Return a tree of dicts, lists and values with arrays of its own."""
    if isinstance(tree, dict):
        return {name: copied(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [copied(value) for value in tree]
    return np.array(tree, copy=True, order="K") if isinstance(tree, np.ndarray) else tree


def taken_apart(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Move the arrays out of a tree; return what JSON can hold."""
    if isinstance(tree, dict):
        return {name: taken_apart(value, arrays) for name, value in tree.items()}
    if isinstance(tree, list):
        return [taken_apart(value, arrays) for value in tree]
    if isinstance(tree, np.ndarray):
        name = f"array-{len(arrays)}"
        arrays[name] = tree
        return {"": name}
    return tree.item() if isinstance(tree, np.generic) else tree


def put_together(tree: Any, arrays: Any) -> Any:
    """Return the tree that `taken_apart` was given."""
    if isinstance(tree, dict):
        if set(tree) == {""}:
            return arrays[tree[""]]
        return {name: put_together(value, arrays) for name, value in tree.items()}
    return [put_together(value, arrays) for value in tree] if isinstance(tree, list) else tree


def read(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds; nothing in it is run.

    Raises
    ------
    FileError
        If the file is none.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(archive[HEADER].tobytes())
            if header["format"] != FORMAT:
                raise FileError(f"{path} is a checkpoint of another version of fastem: remove it to begin anew.")
            found: dict[str, Any] = put_together(header, archive)
            parts = (found["identity"], dict), (found["seed"], int), (found["stages"], list)
            if not all(isinstance(part, kind) for part, kind in parts):
                raise TypeError("its header is not that of a checkpoint")
            return found
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or first_line(error)}.") from error
    except Exception as error:  # a damaged archive raises anything from AttributeError to zlib.error
        if isinstance(error, KeyError) or not zipfile.is_zipfile(path):
            raise FileError(f"{path} is not a checkpoint of fastem: name a file that is not there yet.") from error
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> FileError:
    """Return the sentence about a checkpoint that cannot be gone on from."""
    return FileError(f"{path} is a damaged checkpoint, or none: {first_line(error)}; remove it to begin anew.")
