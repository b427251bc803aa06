"""Peak memory of a fit beyond its rows, each measured in a process of its own."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def beyond_rows(program: str, X: np.ndarray, **arrays: np.ndarray) -> float:
    """Return by how many bytes the peak of a process rises during a fit, with `X` in memory beforehand.

    Parameters
    ----------
    program : str
        Python statements that define ``fit(X, **arrays)``, called with a few rows to load and compile everything,
        and then with all of them under observation.
    X : array (n, d)
        Rows.
    **arrays : arrays
        Further arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "X.npy"), X)
        np.savez(Path(folder, "arrays.npz"), **arrays)
        done = subprocess.run(
            [sys.executable, "-m", __name__, folder],
            input=program,
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
    if done.returncode:
        raise RuntimeError(f"the process under observation failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def _observe(folder: Path) -> None:
    namespace: dict = {}
    exec(sys.stdin.read(), namespace)
    with np.load(folder / "arrays.npz") as archive:
        arrays = dict(archive)
    few = max(20_000, 4 * max(len(array) for array in arrays.values()))
    namespace["fit"](np.load(folder / "X.npy", mmap_mode="r")[:few].copy(), **arrays)
    X = np.load(folder / "X.npy")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the small fit
    before = _resident("VmRSS")
    namespace["fit"](X, **arrays)
    print(json.dumps(_resident("VmHWM") - before))


def _resident(key: str) -> int:
    """Return the resident size now ("VmRSS") or at its highest ("VmHWM"), in bytes."""
    try:
        # getrusage would not do: there a process inherits the peak of the one that started it.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split(f"{key}:")[1].split()[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    _observe(Path(sys.argv[1]))
