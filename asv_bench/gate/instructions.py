"""A second opinion: how many instructions a benchmark takes, whatever else the machine is doing.

Where the processor's counters can be read, ``perf stat`` counts whole processes that call a benchmark seldom and often;
the difference is the calls'.  Elsewhere valgrind counts, in one process for all benchmarks, from one call of a marker
to the next.  Valgrind knows no AVX-512: it shows programs a processor without, so that fastem and Numba choose AVX2,
and what it says of a change that touches AVX-512 alone is nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from asv_bench.gate.builds import Build, BuildError
from asv_bench.gate.pairs import BenchmarkError, Gate, Process
from asv_bench.gate.worker import PROCESSOR

MARKER = "getppid"  # what `Worker.mark` calls
SMALLEST = 0.01  # a change of less is no regression: addresses and dictionaries differ between processes by less
EVENT = "instructions:u"
SELDOM, OFTEN = 2, 12
PROBE = """
import json
import llvmlite.binding as llvm
print(json.dumps([llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features())]))
"""


def compare(gate: Gate, console: Console, progress: Console) -> list[str]:
    """Print the instructions of each benchmark of one thread, and return those that need more by the gate's size."""
    names = [name for name, alone in gate.alone.items() if alone]
    if not names:
        raise BuildError(
            "no benchmark of one thread is among those chosen: instructions of several are not comparable."
        )
    counter, what = (_by_perf, "perf stat") if counts_events() else (_by_valgrind, "valgrind, with AVX2 at most")
    progress.print(f"Counting instructions of {len(names)} benchmarks by {what} ...", highlight=False)
    before, after = (counter(build, gate.suite, names) for build in (gate.base, gate.head))
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("benchmark", overflow="fold")
    for title in ("BASE", "HEAD", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    limit = max(gate.size, SMALLEST)
    more = []
    for name in names:
        if name not in before or name not in after:
            continue
        change = after[name] / before[name] - 1
        if change > limit:
            more.append(name)
        if abs(change) > SMALLEST:
            style = "bold red" if change > limit else ""
            table.add_row(name, f"{before[name]:.4g}", f"{after[name]:.4g}", f"{change:+.1%}", style=style)
    if table.rows:
        console.print(table)
    both = len(before.keys() & after.keys())
    sentence = f"{both} benchmarks, instructions by {what}: {len(more)} need more by more than {limit:.0%}."
    console.print(sentence, highlight=False, soft_wrap=True)
    return more


def counts_events(event: str = EVENT) -> bool:
    """Tell whether perf is there and the processor's counters can be read."""
    if shutil.which("perf") is None:
        return False
    done = subprocess.run(["perf", "stat", "-x,", "-e", event, "true"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and read_perf(done.stderr) is not None


def read_perf(output: str) -> float | None:
    """Return the count in what ``perf stat -x,`` prints; None if it could not count."""
    first = next((line.split(",")[0] for line in output.splitlines() if line.count(",") > 2), "")
    return float(first) if re.fullmatch(r"[0-9.]+", first) else None


def _by_perf(build: Build, suite: Path, names: Iterable[str], event: str = EVENT) -> dict[str, float]:
    """Return the instructions of a call of each benchmark."""
    found = {}
    for name in names:
        counts = []
        for number in (SELDOM, OFTEN):
            with tempfile.NamedTemporaryFile("r") as file:
                command = ("perf", "stat", "-x,", "-e", event, "-o", file.name)
                try:
                    with Process(build, suite, command) as process:
                        process.call("setup", name)
                        process.call("run", 1, number)
                except BenchmarkError:
                    break
                counts.append(read_perf(file.read()) or 0.0)
        if len(counts) == 2:
            found[name] = (counts[1] - counts[0]) / (OFTEN - SELDOM)
    return found


def _by_valgrind(build: Build, suite: Path, names: Iterable[str]) -> dict[str, float]:
    """Return the instructions of a call of each benchmark."""
    if shutil.which("valgrind") is None:
        raise BuildError("instructions need perf with readable counters, or valgrind: install one of them.")
    probe = subprocess.run(
        ["valgrind", "-q", str(build.python), "-c", PROBE], capture_output=True, text=True, check=True
    )
    # Compiled outside valgrind, where it takes seconds, for the processor that valgrind shows.
    with Process(build, suite, (), **{PROCESSOR: probe.stdout}) as process:
        good = []
        for name in names:
            try:
                process.call("setup", name)
                good.append(name)
            except BenchmarkError:
                pass
    with tempfile.TemporaryDirectory() as folder:
        command = (
            "valgrind",
            "-q",
            "--tool=callgrind",
            f"--dump-before={MARKER}",
            f"--callgrind-out-file={folder}/counts",
        )
        with Process(build, suite, command) as process:
            for name in good:
                process.call("setup", name)
                process.call("mark")
                process.call("run", 1, 1)
                process.call("mark")
        parts = sorted(Path(folder).glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        totals = [float(re.search(r"^(?:totals|summary): (\d+)", part.read_text(), re.M)[1]) for part in parts]  # type: ignore[index]
    # A part ends where the marker is called: setup and what was before it, then the calls.
    return dict(zip(good, totals[1::2], strict=True))
