"""The command line of the gate."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from asv_bench.gate import builds, instructions, report
from asv_bench.gate.pairs import BenchmarkError, Gate

app = typer.Typer(add_completion=False)
REGRESSION, BAD_INPUT, INTERRUPTED = 1, 2, 130


@app.command()
def main(
    base: Annotated[str, typer.Argument(help="The commit to compare with.")],
    head: Annotated[str, typer.Argument(help="The commit to judge.")] = "HEAD",
    bench: Annotated[str, typer.Option(help="Only benchmarks whose name this regular expression is found in.")] = "",
    size: Annotated[float, typer.Option(min=0.0, max=10.0, help="The slowdown that fails: 0.05 is 5 %.")] = 0.05,
    count: Annotated[bool, typer.Option("--instructions", help="Count instructions of one-thread benchmarks.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show the benchmarks in which nothing changed, too.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write every measurement to this file.")] = None,
) -> None:
    """Compare two commits of fastem in pairs; exit status 1 if HEAD is slower than BASE by more than SIZE."""
    console, progress = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)
    try:
        pattern = re.compile(bench)
        found = []
        for revision in (base, head):
            commit = builds.resolve(revision)
            progress.print(f"Building {revision} ({commit[:8]}) ...", highlight=False)
            found.append(builds.build(commit))
        gate = Gate(found[0], found[1], builds.suite(), lambda name: bool(pattern.search(name)), size)
        if not gate.alone:
            raise builds.BuildError(f"no benchmark's name has {bench!r} in it.")
        if count:
            sys.exit(REGRESSION if instructions.compare(gate, console, progress) else 0)
        progress.print(f"Compiling the kernels of {len(gate.alone)} benchmarks ...", highlight=False)
        whole = _run(gate, progress)
    except re.error as error:
        progress.print(f"--bench {bench!r} is no regular expression: {error}.", markup=False, highlight=False)
        sys.exit(BAD_INPUT)
    except (builds.BuildError, BenchmarkError) as error:
        progress.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(BAD_INPUT)
    report.show(gate, console, every)
    if output:
        output.write_text(json.dumps(report.as_json(gate), indent=1) + "\n")
    sys.exit(REGRESSION if gate.regressions() else 0 if whole else INTERRUPTED)


def _run(gate: Gate, progress: Console) -> bool:
    """Measure until all verdicts are clear or the user has seen enough; return whether it was the first."""
    try:
        gate.run(lambda launch, left: progress.print(f"Launch {launch}: {left} benchmarks", highlight=False))
    except KeyboardInterrupt:
        progress.print("Interrupted: what follows is what the launches until now say.", highlight=False)
        return False
    return True


if __name__ == "__main__":
    app()
