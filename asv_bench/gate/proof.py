"""`python -m asv_bench.gate.proof`: does the gate catch what it is for, and is it quiet otherwise?

In each kernel in turn a slowdown is planted: the kernel waits, at the end of every grid cell, for 15 % of the time that
the cell has taken.  The gate compares it with a commit in which the kernel waits for 0 %: both are built as any other,
and their machine code differs by a number, for code that moves is slower or faster by itself.  It passes if it names a
benchmark that runs the kernel, and none that does not.  Then the gate compares the commit with others in which nothing
was changed, and must be silent.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from asv_bench.gate import builds, decide, pairs
from asv_bench.gate.builds import Build

SLOWDOWN = 15  # percent
ROOMS = r"^(kernels|missing\.(?!MissingFit))"  # on one thread each
# Kernels of src/kmeans/, by their names in the table of tile.h.
NATIVE = ("cell", "bounded_cell", "distances", "seed_cell", "screen_score")

# Appended to fastem/jit/drivers.py, where every compiled pass is made; what stands before it keeps its place.
PLANT_COMPILED = '''

@intrinsic
def _cycles(typing):
    """Read the processor's counter."""

    def generate(target, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(64), [])
        found = builder.module.globals.get("llvm.readcyclecounter")
        return builder.call(found or ir.Function(builder.module, kind, name="llvm.readcyclecounter"), [])

    return types.int64(), generate


def _slowed(cell):
    code = cell.py_func.__code__
    names = ", ".join(code.co_varnames[: code.co_argcount])
    scope = {"cell": cell, "_cycles": _cycles, "__name__": __name__}
    program = f"""
def slowed({names}):
    _begun = _cycles()
    cell({names})
    _done = _cycles()
    _until = _done + (_done - _begun) * {percent} // 100
    while _cycles() < _until:
        pass
"""
    exec(program, scope)
    return kernel(scope["slowed"])


_unslowed_binder = _binder


def _binder(cell, *args, **options):
    from fastem.planted_names import name_of

    return _unslowed_binder(_slowed(cell) if name_of(cell) == "{kernel}" else cell, *args, **options)
'''

# Put into the planted package: names a compiled pass by the module that makes it.
NAMES = """
import inspect


def name_of(cell):
    frames = [frame for frame in inspect.stack() if "families" in frame.filename]
    home = next((frame for frame in frames if frame.function == "<module>"), frames[-1])
    return f"{inspect.getmodulename(home.filename)}.{cell.__qualname__.rpartition('.')[2]}"
"""

# Run by BASE's Python: which kernels each benchmark runs.
TRACE = """
import importlib.util, json, pkgutil, re, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
sys.path[:0] = [sys.argv[2]]
from fastem import families
from fastem.jit import drivers
from fastem._native import nearest
exec(sys.argv[4])
ran, make = set(), drivers._binder

def binder(cell, *args, **options):
    bind, name = make(cell, *args, **options), name_of(cell)
    def noted(arguments):
        ran.add(name)
        return bind(arguments)
    return noted

drivers._binder = binder
for module in pkgutil.walk_packages(families.__path__, "fastem.families."):
    importlib.import_module(module.name)
HOMES = {"assign": "cell", "accumulate": "cell", "settle": "cell", "run_small": "cell", "distances": "distances",
         "accumulate_bounded": "bounded_cell", "score_seeds": "seed_cell", "seed_small": "seed_cell",
         "Screen": "screen_score"}
for name, kernel in HOMES.items():
    def noted(*args, _function=getattr(nearest, name), _kernel=kernel, **options):
        ran.add("native." + _kernel)
        return _function(*args, **options)
    setattr(nearest, name, noted)
bench, found = worker.Worker(Path(sys.argv[2])), {}
for name in bench.known:
    if re.search(sys.argv[3], name):
        bench.setup(name)
        ran.clear()
        bench.run(1, 1)
        found[name] = sorted(ran)
print(json.dumps(found))
"""


def kernels_of(build: Build, suite: Path, bench: str) -> dict[str, list[str]]:
    """Return the kernels that each benchmark runs."""
    command = [str(build.python), "-P", "-c", TRACE, str(pairs.WORKER), str(suite), bench, NAMES]
    done = subprocess.run(command, env=build.environment(), stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


@contextlib.contextmanager
def clone_of(commit: str) -> Iterator[Path]:
    """Give a clone of the project at a commit, in which commits can be made."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", str(builds.ROOT), str(clone)], check=True)
        subprocess.run(["git", "-C", str(clone), "checkout", "-q", "--detach", commit], check=True)
        yield clone


def commit_all(clone: Path, message: str) -> str:
    """Commit what was changed, or nothing, and return the commit: the same for the same change, so built once."""
    dates = {f"GIT_{who}_DATE": "2000-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")}
    identity = ["-c", "user.name=gate", "-c", "user.email=gate@example.org"]
    subprocess.run(["git", "-C", str(clone), "add", "-A"], check=True)
    command = ["git", "-C", str(clone), *identity, "commit", "-q", "--allow-empty", "-m", message]
    subprocess.run(command, env={**os.environ, **dates}, check=True)
    return builds.resolve("HEAD", clone)


def plant(clone: Path, kernel: str, percent: int) -> None:
    """Let one kernel of a checkout wait for a share of its time."""
    room, _, name = kernel.partition(".")
    if room == "native":
        _plant_native(clone / "src" / "kmeans", name, percent)
        return
    with (clone / "fastem" / "jit" / "drivers.py").open("a") as file:
        file.write(PLANT_COMPILED.replace("{percent}", str(percent)).replace("{kernel}", kernel))
    (clone / "fastem" / "planted_names.py").write_text(NAMES)


def _plant_native(folder: Path, name: str, percent: int) -> None:
    """Let an entry of the table of kernels be a function that calls the kernel and waits."""
    header, body = folder / "tile.h", folder / "cell_body.h"
    declared = re.search(rf"^    (\w+) \(\*{name}\)\(([^;]*)\);", header.read_text(), re.M)
    assert declared, f"tile.h has no kernel {name}"
    kind, types = declared[1], [re.sub(r"\s*\b\w+$", "", part.strip()) for part in _parameters(declared[2])]
    parameters = ", ".join(f"{part} a{i}" for i, part in enumerate(types))
    call = f"NAME({name})({', '.join(f'a{i}' for i in range(len(types)))})"
    keep, give = ("", "") if kind == "void" else (f"{kind} result = ", "return result;")
    wrapper = (
        f"static {kind} NAME(planted)({parameters}) {{\n    const double start = plant_now();\n    {keep}{call};\n"
        f"    plant_wait(start);\n    {give}\n}}\n\n"
    )
    text = body.read_text()
    start = text.index("const nearest_kernels NAME(kernels)")
    table = re.sub(rf"NAME\({name}\)", "NAME(planted)", text[start:], count=1)
    body.write_text(text[:start] + wrapper + table)
    clock = (
        f"#include <time.h>\nstatic volatile double plant_share = {percent / 100};\n"
        "static double plant_now(void) {\n    struct timespec t;\n"
        "    clock_gettime(CLOCK_MONOTONIC, &t);\n    return t.tv_sec * 1e9 + t.tv_nsec;\n}\n"
        "static void plant_wait(double start) {\n    double until = plant_now();\n"
        "    until += plant_share * (until - start);\n    while (plant_now() < until) {\n    }\n}\n\n"
    )
    text = header.read_text()
    first = text.index("#define JOIN_(")
    header.write_text(text[:first] + clock + text[first:])


def _parameters(text: str) -> list[str]:
    """Split the parameters of a C function; a type alone gets a name, so that the last word is always one."""
    parts = [" ".join(part.split()) for part in text.split(",")]
    return [part if re.search(r"[ *](start|stop|scratch|stats|out)$", part) else f"{part} x" for part in parts]


def seed_cache(base: Build, planted: Build) -> None:
    """Give a planted build the kernels that its parent has compiled.

    Their files are named by all that the machine code depends on, so that only the planted kernel is compiled again.
    """
    program = "from fastem.jit.cache import cache_directory; print(cache_directory())"

    def folder(build: Build) -> Path:
        command = [str(build.python), "-P", "-c", program]
        return Path(subprocess.check_output(command, env=build.environment(), text=True).strip())

    if not folder(planted).exists():
        shutil.copytree(folder(base), folder(planted))


app = typer.Typer(add_completion=False)


@app.command()
def main(
    commit: Annotated[str, typer.Argument(help="The commit to plant slowdowns in.")] = "HEAD",
    kernels: Annotated[str, typer.Option(help="Only kernels whose name this regular expression is found in.")] = "",
    bench: Annotated[str, typer.Option(help="Only benchmarks whose name this regular expression is found in.")] = ROOMS,
    unchanged: Annotated[int, typer.Option(min=0, help="Comparisons of commits in which nothing was changed.")] = 10,
    size: Annotated[float, typer.Option(help="The slowdown that the gate is told to look for.")] = 0.05,
    output: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file.")] = None,
    build_only: Annotated[bool, typer.Option("--build-only", help="Build what will be compared, and stop.")] = False,
) -> None:
    """Plant slowdowns and compare unchanged commits; exit status 1 if the gate misses one or raises a false alarm."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    commit = builds.resolve(commit)
    base, suite = builds.build(commit), builds.suite()
    runs = kernels_of(base, suite, bench)
    names = sorted({name for found in runs.values() for name in found if re.search(kernels, name)})
    console.print(f"{len(names)} kernels, {len(runs)} benchmarks, commit {commit[:8]}.", highlight=False)
    found = []
    for number, name in enumerate([*names, *[""] * unchanged]):
        begun = time.monotonic()
        if name:
            pair = built(base, commit, f"{name} 0 %", name), built(base, commit, f"{name} {SLOWDOWN} %", name, SLOWDOWN)
        else:
            pair = base, built(base, commit, f"nothing, {number - len(names)}")
        if build_only:
            console.print(f"{name or 'nothing changed'}: built in {time.monotonic() - begun:.0f} s", highlight=False)
            continue
        gate = pairs.Gate(*pair, suite, lambda bench: bench in runs, size)
        gate.run()
        found.append(outcome(gate, name, runs, time.monotonic() - begun))
        console.print(sentence(found[-1]), highlight=False, soft_wrap=True)
        if output:
            output.write_text(json.dumps({"commit": commit, "size": size, "runs": found}, indent=1) + "\n")
    good = [bool(run["good"]) for run in found]
    console.print(f"{sum(good)} of {len(good)} as they should be.", highlight=False)
    sys.exit(0 if all(good) else 1)


def built(base: Build, commit: str, message: str, kernel: str = "", percent: int = 0) -> Build:
    """Return a build of a commit on top of another, in which one kernel, if named, waits for a share of its time."""
    with clone_of(commit) as clone:
        if kernel:
            plant(clone, kernel, percent)
        build = builds.build(commit_all(clone, message), clone)
    seed_cache(base, build)
    return build


def outcome(gate: pairs.Gate, kernel: str, runs: Mapping[str, list[str]], seconds: float) -> dict[str, object]:
    """Return what a run of the gate found, and whether it should."""
    named = gate.regressions()
    right = [name for name in named if kernel in runs[name]]
    effects = {row.name: decide.effect(row.log_ratios) for row in gate.rows()}
    return {
        "kernel": kernel,
        "named": {name: effects[name].estimate if name in effects else None for name in named},
        "wrong": [name for name in named if name not in right],
        "unclear": gate.unclear(),
        "largest": max(effect.estimate for effect in effects.values()),
        "seconds": seconds,
        "good": bool(right) == bool(kernel) and len(right) == len(named),
    }


def sentence(run: Mapping[str, object]) -> str:
    """Say what a run found."""
    named = run["named"]
    assert isinstance(named, dict)
    shown = ", ".join(
        f"{name} {'broken' if effect is None else f'{effect:+.1%}'}"
        for name, effect in sorted(named.items(), key=lambda item: -(item[1] or 0))[:3]
    )
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    mark = "ok   " if run["good"] else "WRONG"
    return f"{mark} {run['kernel'] or 'nothing changed'} ({run['seconds']:.0f} s): {shown + more or 'silent'}"


if __name__ == "__main__":
    app()
