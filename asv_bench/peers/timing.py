"""Interleaved runs, and what the machine can do."""

from __future__ import annotations

import gc
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

# OpenMP threads of one library spin for some milliseconds after its work is done; the next one's turn waits for that.
PAUSE = 0.02


class Outcome(NamedTuple):
    """What one run of one candidate gave."""

    seconds: float
    n_iter: int
    result: Any


class Timing(NamedTuple):
    """Seconds of the runs of one candidate, and its last outcome."""

    best: float
    median: float
    runs: int
    last: Outcome | None


Run = Callable[[], Outcome]


def refuse_coretype(module: str, arguments: list[str]) -> None:
    """Start this program again without OPENBLAS_CORETYPE, if it is set: BLAS reads it when it is loaded."""
    coretype = os.environ.pop("OPENBLAS_CORETYPE", None)
    if coretype is not None:
        print(f"OPENBLAS_CORETYPE={coretype} would slow the peers' BLAS down: starting again without it.", flush=True)
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def clocked(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and what it returned."""
    gc.collect()
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def interleave(runs: Mapping[Any, Run], repeats: int, budget: float) -> dict[Any, Timing]:
    """Run all candidates in turns, `repeats` times or until `budget` seconds are spent, but at least once."""
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    last: dict[Any, Outcome] = {}
    begun = time.perf_counter()
    for turn in range(repeats):
        if turn and time.perf_counter() - begun > budget:
            break
        for name, run in runs.items():
            last[name] = run()
            seconds[name].append(last[name].seconds)
    return {
        name: Timing(min(taken), float(np.median(taken)), len(taken), last[name]) for name, taken in seconds.items()
    }


def per_iteration(
    fits: Mapping[str, Callable[[int], Outcome]], short: int, long: int, repeats: int, budget: float
) -> dict[str, Timing]:
    """Return seconds per iteration of each candidate: the difference of a short and a long fit.

    `fits` maps a name to a function of max_iter.  Should a long fit converge before `long`, the iterations that it
    reports count.
    """
    runs = {}
    for name, fit in fits.items():
        runs[name, "short"] = lambda fit=fit: fit(short)
        runs[name, "long"] = lambda fit=fit: fit(long)
    timings = interleave(runs, repeats, budget)
    result = {}
    for name in fits:
        a, b = timings[name, "short"], timings[name, "long"]
        assert a.last is not None
        assert b.last is not None
        iterations = b.last.n_iter - a.last.n_iter
        if iterations < 1:
            raise RuntimeError(f"{name} converged after {b.last.n_iter} iteration(s): no difference to measure")
        # A difference that noise made negative is no figure at all.
        best, median = ((x if x > 0 else float("nan")) / iterations for x in (b.best - a.best, b.median - a.median))
        result[name] = Timing(best, median, b.runs, b.last)
    return result


def gemm_gflops(dtype: str, size: int = 3000) -> float:
    """Return the speed of NumPy's matrix product: a yardstick for the multiply-adds of a kernel."""
    A = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
    return 2 * size**3 / min(clocked(lambda: A @ A)[0] for _ in range(10)) / 1e9


def describe_machine(modules: Iterable[str] = ()) -> list[str]:
    """Return lines that say where and with what the figures were measured; `modules` are loaded for their BLAS."""
    for module in modules:
        if importlib.util.find_spec(module):
            importlib.import_module(module)
    from importlib.metadata import PackageNotFoundError, version

    from threadpoolctl import threadpool_info

    import fastem

    packages = ("numpy", "numba", "scikit-learn", "scikit-learn-intelex", "faiss-cpu", "superkmeans")
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    info = fastem.build_info()
    lines = [
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"fastem {fastem.__version__} ({info['isa']}, {info['compiler']})",
        "; ".join(found),
    ]
    for library in threadpool_info():
        if library["internal_api"] == "openblas":
            owner = next((part for part in library["filepath"].split(os.sep) if part.endswith(".libs")), "system")
            core = f"OpenBLAS {library['version']} as {library['architecture']}"
            lines.append(f"BLAS of {owner.removesuffix('.libs')}: {core}")
    limits = [f"{name}={os.environ[name]}" for name in os.environ if name.endswith(("_NUM_THREADS", "_MAX_CPU_COUNT"))]
    if limits:
        lines.append("WARNING, threads are limited by the environment: " + ", ".join(sorted(limits)))
    return lines


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean; NaN of nothing."""
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")
