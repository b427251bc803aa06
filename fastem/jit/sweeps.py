"""What a compiled pass over rows is to those who run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem import grid, threads

# `nnan` and `ninf` are left out: they delete the guards against NaN and -inf.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def read_only(value: Any) -> Any:
    """Show input arrays as read-only: kernels do not write to them, and writable ones would be compiled apart."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable:
            value = value.view()
            value.flags.writeable = False
        return value
    if isinstance(value, tuple):
        parts = map(read_only, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


class Sweep(NamedTuple):
    """The serial and the parallel driver of one cell kernel; `fastem.threads` picks one.

    Both take the same arguments (see `sweep` and `each_cell`) and never hold the GIL while kernels run.
    """

    serial: Callable[..., None]
    parallel: Callable[..., None] | None  # None: threads of Python run the serial one over parts of the grid
    # What C calls: from the kernel's arguments the address of an `entry` of fastem.jit.drivers, and the context that it
    # takes, which must be kept, and whose first word says after a call whether one failed.  None: there is none.
    bind: Callable[[tuple], tuple[int, np.ndarray]] | None = None

    def plan(self, n_rows: int, n_features: int, size: int) -> grid.Plan:
        """Cut the grid into tasks for `run`."""
        return grid.plan(n_rows, size)

    def run(self, args: tuple, level: int, out: np.ndarray, n_threads: int) -> None:
        """Run a `sweep` over all tasks; see `fastem.threads.run_sweep`."""
        threads.run_sweep(self, args, level, out, n_threads)

    def run_each(self, X: np.ndarray, prepared: Any, out: Any, n_threads: int) -> None:
        """Run an `each_cell` over all rows; see `fastem.threads.run_each`."""
        threads.run_each(self, X, prepared, out, n_threads)
