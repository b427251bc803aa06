"""The process of one commit: sets benchmarks up and times calls when it is told to, on the processor it is told.

It is run as a file by the commit's own Python, with the folder of the benchmarks as argument, and answers one line of
JSON for each line of JSON.  Whatever benchmarks print goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import itertools
import json
import os
import pkgutil
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Name and features of the processor to compile for, as JSON, if it is not this one.
PROCESSOR = "FASTEM_GATE_PROCESSOR"


def discover(folder: Path) -> Iterator[tuple[str, bool, Any, tuple, str]]:
    """Yield name, whether one thread does it all, class, parameters and method of every timed benchmark."""
    for found in sorted(pkgutil.iter_modules([str(folder / "benchmarks")]), key=lambda found: found.name):
        module = importlib.import_module(f"benchmarks.{found.name}")
        suites: list[Any] = [value for value in vars(module).values() if inspect.isclass(value)]
        for suite in suites:
            if suite.__module__ != module.__name__ or not getattr(suite, "in_process", False):
                continue
            names = getattr(suite, "param_names", ())
            for values in itertools.product(*getattr(suite, "params", ())):
                alone = suite.one_thread or dict(zip(names, values, strict=True)).get("n_threads") == 1
                shown = f"({', '.join(map(str, values))})" if values else ""
                for method in sorted(name for name in dir(suite) if name.startswith("time_")):
                    yield f"{found.name}.{suite.__name__}.{method}{shown}", alone, suite, values, method


class Worker:
    """The benchmarks, of which at most one class is set up at a time."""

    def __init__(self, folder: Path) -> None:
        self.known = {name: rest for name, *rest in discover(folder)}
        self.instance: Any = None
        self.made: Any = None
        self.call: Any = None
        self.everywhere = os.sched_getaffinity(0)

    def list(self) -> list[tuple[str, bool]]:
        """Return the name of every benchmark, and whether one thread does it all."""
        return [(name, alone) for name, (alone, *_) in self.known.items()]

    def setup(self, name: str) -> float:
        """Make a benchmark ready, and return the seconds of one call."""
        _, suite, values, method = self.known[name]
        if self.made != (suite, values):
            self.teardown()
            self.instance = suite()
            if hasattr(suite, "setup"):
                self.instance.setup(*values)
            self.made = (suite, values)
        self.call = lambda: getattr(self.instance, method)(*values)
        self.call()
        return self.run(1, 1)

    def teardown(self) -> None:
        """Drop what is set up."""
        if self.instance is not None and hasattr(self.instance, "teardown"):
            self.instance.teardown(*self.made[1])
        self.instance = self.made = self.call = None

    def run(self, batches: int, number: int, processor: int | None = None, at: float = 0.0) -> float:
        """Return the median seconds of batches of so many calls, on one processor or on all.

        They begin at a time of the monotonic clock.  The median leaves out what stops a process for some milliseconds.
        """
        os.sched_setaffinity(0, self.everywhere if processor is None else {processor})
        while time.monotonic() < at:
            pass
        seconds = []
        for _ in range(batches):
            start = time.perf_counter()
            for _ in range(number):
                self.call()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def mark(self) -> None:
        """Call a function of the C library that nothing else calls: where a counter of instructions is read."""
        os.getppid()


def compile_for(name: str, features: dict[str, bool]) -> None:
    """Let LLVM, and who asks it, believe that this is another processor."""
    import llvmlite.binding as llvm

    llvm.get_host_cpu_name = lambda: name
    llvm.get_host_cpu_features = lambda: llvm.targets.FeatureMap(features)


def serve(folder: Path) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(folder))
    if PROCESSOR in os.environ:
        compile_for(*json.loads(os.environ[PROCESSOR]))
    worker = Worker(folder)
    gc.disable()  # a collection looks through the 200,000 objects of what is imported, for 0.1 s, at any time
    for line in sys.stdin:
        action, *arguments = json.loads(line)
        try:
            answer = [True, getattr(worker, action)(*arguments)]
        except Exception:
            answer = [False, traceback.format_exc(limit=-3)]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
