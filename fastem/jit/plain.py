"""Kernels and their drivers by Numba's public interface alone: right with any Numba, but slower to compile.

They serve where `numba_internals.probe` finds a Numba that it does not know.  Kernels that are no closures are kept on
disk by Numba's own cache, in the folder that is named after all kernel sources: what is there is never stale.  There
are no drivers with prange: they would hold other copies of the kernels, whose last bits may differ.

With NUMBA_DISABLE_JIT=1 nothing is compiled at all: kernels and drivers are the functions of Python that they are.
"""

# Numba's annotations do not know njit's inference.
# mypy: disable-error-code="attr-defined, call-overload, no-untyped-call"

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import config

from fastem.grid import CELL
from fastem.jit.cache import cache_directory
from fastem.jit.sweeps import FASTMATH, Sweep


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a serial kernel: no GIL, fast-math without NaN assumptions."""
    if config.DISABLE_JIT:
        return function
    compiled = _compile(function, fastmath=FASTMATH)
    folder = cache_directory()
    if function.__closure__ is None and folder is not None:  # of a closure Numba would never find its files again
        before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
        try:
            with contextlib.suppress(RuntimeError):  # no place for a cache
                compiled.enable_caching()
        finally:
            config.CACHE_DIR = before
    return compiled


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    return numba.njit(nogil=True, error_model="numpy", **options)(function)


def sweep(cell: Any) -> Sweep:
    """Drivers that add up a cell kernel over the fixed row grid; see `fastem.jit.drivers.sweep`."""

    def task(X, w, labels, prepared, level, number, out, row):
        size = out.shape[1]
        first = number << level
        last = min((number + 1) << level, (len(X) + CELL - 1) // CELL)
        stack = np.zeros((level + 2, size))
        top = 0
        for c in range(first, last):
            stack[top] = 0.0
            cell(X, w, labels, prepared, c * CELL, min((c + 1) * CELL, len(X)), stack[top])
            done = c - first
            while done & 1:  # one merge for each pair of siblings that this cell completes
                stack[top - 1] += stack[top]
                top -= 1
                done >>= 1
            top += 1
        while top > 1:  # the ragged end of the grid: right to left, as the full tree would
            top -= 1
            stack[top - 1] += stack[top]
        out[row] = stack[0]

    task = _compile(task)

    def serial(X, w, labels, prepared, level, first, out):
        for t in range(out.shape[0]):
            task(X, w, labels, prepared, level, first + t, out, t)

    return Sweep(_compile(serial), None)


def each_cell(cell: Any) -> Sweep:
    """Drivers that run a cell kernel on every grid cell; see `fastem.jit.drivers.each_cell`."""

    def serial(X, prepared, first, last, out):
        for c in range(first, last):
            cell(X, prepared, c * CELL, min((c + 1) * CELL, len(X)), out)

    return Sweep(_compile(serial), None)
