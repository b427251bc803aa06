"""A commit of the project, built and installed in an environment of its own.

What fastem stands on is installed once, in the versions that asv's configuration pins, and shared by the environments
of all commits: they differ by fastem alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "asv_bench" / "env" / "gate"
# Settings of the caller's shell that would change what is measured, or whose fastem is imported.
DROPPED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NUMBA_CACHE_DIR")


class BuildError(Exception):
    """A commit that is none, or that cannot be built."""


class Build(NamedTuple):
    """An installed commit."""

    commit: str
    python: Path
    cache: Path  # where its compiled kernels are kept

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment variables of its processes.

        NumPy's BLAS gets one thread: a second one that waits for work, spinning, takes the other build's processor.
        """
        kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
        own = {"NUMBA_CACHE_DIR": str(self.cache), "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        return {**kept, **own, "MPLBACKEND": "Agg", "PYTHONHASHSEED": "0", **more}


def requirements(configuration: Path = ROOT / "asv_bench" / "asv.conf.json") -> list[str]:
    """Return the pinned requirements of asv's configuration."""
    lines = [line for line in configuration.read_text().splitlines() if not line.lstrip().startswith("//")]
    required = json.loads("\n".join(lines))["matrix"]["req"]
    return [f"{name}=={versions[0]}" if versions else name for name, versions in required.items()]


def resolve(revision: str, repository: Path = ROOT) -> str:
    """Return the hash of a revision.

    Raises
    ------
    BuildError
        If there is no such revision.
    """
    command = ["git", "-C", str(repository), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{revision!r} is no commit of {repository}; fetch it, or name another one.")
    return done.stdout.strip()


def build(commit: str, repository: Path = ROOT, folder: Path = FOLDER) -> Build:
    """Build and install a commit, unless that was done before; return where it is.

    Raises
    ------
    BuildError
        If the build fails; the message has the last lines of its output.
    """
    home = folder / commit[:12]
    shared = _dependencies(folder)
    python = home / "bin" / "python"
    cache = folder / "kernels" / commit[:12]
    if (home / "complete").exists():
        return Build(commit, python, cache)
    shutil.rmtree(home, ignore_errors=True)
    source = home / "source"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(repository), "archive", commit], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(home)])
    (_packages(python) / "dependencies.pth").write_text(f"{_packages(shared)}\n")
    wheels = home / "wheels"
    pip = [str(shared), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)])
    _run([*pip, "--python", str(python), "install", "-q", "--no-deps", *map(str, wheels.glob("*.whl"))])
    shutil.rmtree(source)
    (home / "complete").touch()
    return Build(commit, python, cache)


def suite(folder: Path = FOLDER) -> Path:
    """Return a folder with a copy of the checkout's benchmarks, which measure both commits.

    It is a copy because beside the checkout's own ``asv_bench`` lies its own ``fastem``.
    """
    target = folder / "suite"
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "asv_bench" / "benchmarks", target / "benchmarks", ignore=ignored)
    return target


def _dependencies(folder: Path) -> Path:
    """Return the interpreter of the environment that has what fastem stands on."""
    wanted = requirements()
    key = hashlib.sha256(repr((sys.version, wanted)).encode()).hexdigest()[:12]
    home = folder / f"dependencies-{key}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted])
        (home / "complete").touch()
    return python


def _packages(python: Path) -> Path:
    """Return the site-packages folder of an environment."""
    return next((python.parents[1] / "lib").glob("python*/site-packages"))


def _run(command: Sequence[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in DROPPED}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise BuildError(f"{' '.join(command)} failed:\n{tail}")
