"""Two builds measured in pairs: at the same time on two processors, or in turns.

A *duet* (Bulej et al., arXiv:2001.05811) runs a benchmark of one thread in both processes at the same time, each on a
processor of its own, and then again with the processors swapped: what disturbs the machine disturbs both.  Benchmarks
that use all processors run in turns A B B A, so that a drift cancels.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from asv_bench.gate import decide
from asv_bench.gate.builds import Build

WORKER = Path(__file__).with_name("worker.py")
SLICE = 0.02  # seconds of a measurement, in so many batches, of which the median counts
BATCHES = 9
LEAD = 0.002  # seconds between the order to begin and the beginning
PAUSE = 0.02  # OpenMP's threads spin for some milliseconds after their work is done; the other's turn waits for that


class BenchmarkError(Exception):
    """A benchmark that raises in one of the builds."""


class Process:
    """A worker of one build."""

    def __init__(self, build: Build, suite: Path, prefix: tuple[str, ...] = (), **environment: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the process has ended
        # -P: the folder of the program, which has modules of the gate, is not searched for modules.
        self._process = subprocess.Popen(
            [*prefix, str(build.python), "-P", str(WORKER), str(suite)],
            env=build.environment(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if kind is not None:
            self._process.kill()
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def ask(self, action: str, *arguments: Any) -> None:
        """Send a request; `answer` waits for what it gives."""
        assert self._process.stdin is not None
        print(json.dumps([action, *arguments]), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """Wait for the answer to the oldest request that has none.

        Raises
        ------
        BenchmarkError
            If it is an error, or the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            tail = "".join(self._errors.readlines()[-5:])
            raise BenchmarkError(f"A benchmark's process ended with status {status}. {tail}")
        good, value = json.loads(line)
        if not good:
            raise BenchmarkError(value)
        return value

    def call(self, action: str, *arguments: Any) -> Any:
        """Send a request and wait for its answer."""
        self.ask(action, *arguments)
        return self.answer()


def amount(seconds: float) -> tuple[int, int]:
    """Return how many batches of how many calls make a measurement, if a call takes so long."""
    number = max(1, round(SLICE / BATCHES / seconds))
    return max(3, min(BATCHES, round(SLICE / (number * seconds)))), number


def duet(base: Process, head: Process, work: tuple[int, int], processors: tuple[int, int]) -> float:
    """Return the log-ratio of head's time to base's, the mean of both ways to share two processors."""
    total = 0.0
    for one, other in (processors, processors[::-1]):
        at = time.monotonic() + LEAD
        base.ask("run", *work, one, at)
        head.ask("run", *work, other, at)
        seconds = base.answer()
        total += math.log(head.answer() / seconds)
    return total / 2


def in_turns(base: Process, head: Process, work: tuple[int, int]) -> float:
    """Return the log-ratio of head's time to base's in the order A B B A."""
    seconds = {base: 0.0, head: 0.0}
    for process in (base, head, head, base):
        time.sleep(PAUSE)
        seconds[process] += process.call("run", *work)
    return math.log(seconds[head] / seconds[base])


class Row(NamedTuple):
    """What is known of a benchmark."""

    name: str
    log_ratios: list[float]  # one a launch
    seconds: float  # of one call of BASE
    verdict: decide.Verdict


class Gate:
    """The benchmarks of two builds, and what was measured of them.

    Parameters
    ----------
    base, head : Build
        The commits.
    suite : Path
        Folder of the benchmarks.
    chosen : function from a benchmark's name to bool
        Which to measure.
    size : float
        The slowdown that matters.
    """

    def __init__(self, base: Build, head: Build, suite: Path, chosen: Callable[[str], bool], size: float) -> None:
        self.base, self.head, self.suite, self.size = base, head, suite, size
        with Process(base, suite) as process:
            listed = process.call("list")
        self.alone = {name: alone for name, alone in listed if chosen(name)}
        self.seconds: dict[str, float] = {}
        self.log_ratios: dict[str, list[float]] = {name: [] for name in self.alone}
        self.broken: dict[str, str] = {}  # runs in BASE and not in HEAD
        self.new: set[str] = set()  # does not run in BASE
        processors = sorted(os.sched_getaffinity(0))
        self.processors = (processors[0], processors[-1]) if len(processors) > 1 else None

    @property
    def measured(self) -> list[str]:
        """Names of the benchmarks that run in both builds."""
        return [name for name in self.alone if name not in self.broken and name not in self.new]

    def compile(self) -> None:
        """Run every benchmark once in both builds, which compiles their kernels, and find out which run at all."""
        failures: list[dict[str, str]] = [{}, {}]
        with Process(self.base, self.suite) as base, Process(self.head, self.suite) as head:
            for name in self.alone:
                for process in (base, head):
                    process.ask("setup", name)
                for process, failed in zip((base, head), failures, strict=True):
                    try:
                        process.answer()
                    except BenchmarkError as error:
                        failed[name] = str(error)
        self.new = set(failures[0])
        self.broken = {name: why for name, why in failures[1].items() if name not in self.new}

    def launch(self, names: Iterable[str]) -> None:
        """Measure benchmarks in two new processes."""
        with Process(self.base, self.suite) as base, Process(self.head, self.suite) as head:
            for name in names:
                for process in (base, head):
                    process.ask("setup", name)
                seconds, _ = base.answer(), head.answer()
                self.seconds[name] = min(seconds, self.seconds.get(name, math.inf))
                work = amount(self.seconds[name])
                if self.alone[name] and self.processors:
                    ratio = duet(base, head, work, self.processors)
                else:
                    ratio = in_turns(base, head, work)
                self.log_ratios[name].append(ratio)

    def run(self, told: Callable[[int, int], None] = lambda launches, open: None) -> None:
        """Launch until every verdict is clear, or for as often as there are looks."""
        self.compile()
        waiting = self.measured
        for launches in range(1, decide.LOOKS[-1] + 1):
            if launches - 1 in decide.LOOKS:
                waiting = self.unclear()
            if not waiting:
                break
            told(launches, len(waiting))
            self.launch(waiting)

    def unclear(self) -> list[str]:
        """Return the benchmarks whose verdict is not clear."""
        return [row.name for row in self.rows() if row.verdict is decide.Verdict.UNCLEAR]

    def rows(self) -> list[Row]:
        """Return what is known of each benchmark, in the order of the suite."""
        n = len(self.measured)
        return [
            Row(name, ratios, self.seconds[name], decide.verdict(ratios, self.size, n))
            for name, ratios in self.log_ratios.items()
            if ratios
        ]

    def regressions(self) -> list[str]:
        """Return the benchmarks for which HEAD must not be taken as it is: slower ones, and those that fail."""
        return [row.name for row in self.rows() if row.verdict is decide.Verdict.SLOWER] + sorted(self.broken)
