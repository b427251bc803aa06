"""The one policy by which fastem compiles Numba kernels: flags, cache, drivers.

A kernel author writes one serial function over the rows of one grid cell and decorates it with `kernel`;
`sweep` (a sum over cells) and `each_cell` (an output row per data row) turn it into the two thin drivers, serial and
parallel, that `fastem.threads` chooses between.  Importing this module imports Numba, so only modules that hold
kernels import it, and those are imported when the first kernel is needed.

The cache: Numba keys its disk cache by the source file of the function alone.  A helper edited in another file, or a
driver built around another cell kernel, would load stale machine code.  Here the cache lives in a folder named after
a hash of *all* kernel sources of the package and of the Numba version, so that any edit starts an empty cache; and a
cache that cannot be read or written falls back to compiling in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import prange

from fastem.stats import CELL

# `nnan` and `ninf` are left out: they delete the guards against NaN and -inf.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a serial kernel: no GIL, fast-math without NaN assumptions, cached on disk."""
    return numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", cache=True)(function)


def exact(function: Callable[..., Any]) -> Any:
    """Compile a helper whose rounding must not be reassociated (polynomials, compensated sums)."""
    return numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy", cache=True)(function)


class Sweep(NamedTuple):
    """The serial and the parallel driver of one cell kernel; `fastem.threads.sweep` picks one."""

    serial: Any
    parallel: Any


def _tree_push(stack: np.ndarray, cell: int, top: int) -> int:
    """Merge the record on top of the stack with its finished siblings; return the next free slot.

    Cells arrive in order, counted from 0 within an aligned task: after cell c, one merge per trailing 1 bit of c.
    """
    while cell & 1:
        stack[top - 1] += stack[top]
        top -= 1
        cell >>= 1
    return top + 1


_push = numba.njit(nogil=True, error_model="numpy")(_tree_push)


def sweep(cell: Any) -> Sweep:
    """Drivers that add up a cell kernel over the fixed row grid.

    Parameters
    ----------
    cell : kernel ``cell(X, w, labels, prepared, start, stop, stats)``
        Adds the statistics of rows start..stop to the zeroed float64 vector `stats`.

    Returns
    -------
    Sweep
        ``serial(X, w, labels, prepared, level, first, out)`` and ``parallel(...)`` of the same arguments: row t of
        `out` (tasks, size) becomes the record of task ``first + t``, that is of cells
        ``(first + t) << level`` up to ``(first + t + 1) << level``, merged by the fixed binary tree.
    """

    def task(X, w, labels, prepared, level, number, out):
        n_rows = X.shape[0]
        first = number << level
        last = min((number + 1) << level, (n_rows + CELL - 1) // CELL)
        stack = np.empty((level + 2, out.size))
        top = 0
        for c in range(first, last):
            stack[top] = 0.0
            cell(X, w, labels, prepared, c * CELL, min((c + 1) * CELL, n_rows), stack[top])
            top = _push(stack, c - first, top)
        while top > 1:  # the ragged end of the grid: right to left, as the full tree would
            top -= 1
            stack[top - 1] += stack[top]
        out[:] = stack[0]

    run_task = _compile(task, cell)

    def serial(X, w, labels, prepared, level, first, out):
        for t in range(out.shape[0]):
            run_task(X, w, labels, prepared, level, first + t, out[t])

    def parallel(X, w, labels, prepared, level, first, out):
        for t in prange(out.shape[0]):
            run_task(X, w, labels, prepared, level, first + t, out[t])

    return Sweep(_compile(serial, cell), _compile(parallel, cell, parallel=True))
