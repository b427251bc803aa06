"""Responsibilities of rows of very many features, some cells of the grid at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastem import grid, threads
from fastem.jit import kernel
from fastem.kernels.blocks import BLOCK, STRIDE, padded
from fastem.kernels.responsibilities import fix_labels, shares

# Rows whose panels are packed at a time: they stay in the second cache.
CHUNK_ROWS = 256
# Multiply-adds of a task: a call of a kernel costs as much as some 10^5 of them, and one thread waits for another to
# let go of Python; and rows of it, at least.
TASK_WORK = 2**25
TASK_ROWS = 128
# Cells that are taken together, about: what a batch is asked costs 2 ms at 256 features in eight components.
CELLS_TOGETHER = 8


@kernel
def weigh(
    log_joint,  # (k, rows) INOUT: becomes exp(log_joint - best)
    start,
    stop,  # which of the rows
    labels,  # (n,) int32 or empty
    first,  # the row that log_joint begins with
    best,  # (rows,) OUT
    total,  # (rows,) OUT
):
    """Turn log-densities into unnormalised responsibilities; return the number of far rows (see `shares`)."""
    k = log_joint.shape[0]
    space = np.zeros((k + 2, STRIDE), log_joint.dtype)
    share, highest, sums = space[:k], space[k], space[k + 1]
    heavy, nothing = np.zeros(k), np.zeros(k)
    far = 0
    for at in range(start, stop, BLOCK):
        m = min(BLOCK, stop - at)
        rows = padded(m)
        for r in range(rows):
            highest[r] = -np.inf if r < m else 0
        for c in range(k):
            for r in range(m):
                value = log_joint[c, at + r]
                share[c, r] = value
                highest[r] = value if value > highest[r] else highest[r]
            for r in range(m, rows):
                share[c, r] = 0
        fix_labels(labels, first + at, m, share, highest)
        far += shares(rows, nothing, share, highest, sums, heavy)
        for c in range(k):
            for r in range(m):
                log_joint[c, at + r] = share[c, r]
        for r in range(m):
            best[at + r] = highest[r]
            total[at + r] = sums[r]
    return far


class Shares(NamedTuple):
    """Responsibilities of the rows of some cells, not normalised."""

    cells: range
    first: int  # the row that the arrays begin with
    bounds: list[tuple[int, int]]  # of each cell, from there
    share: np.ndarray  # (k, rows)
    best: np.ndarray  # (rows,)
    factor: np.ndarray  # (rows,): the sum of a row's shares
    far: np.ndarray  # (cells,): how many rows are so far that the cell needs care


class Batches(ABC):
    """Rows whose log-densities are found in tasks of any size: what a row gives does not depend on them.

    Parameters
    ----------
    X : ndarray (n, d)
        Rows.
    labels : ndarray (n,) int32 or empty
        Known components, -1 for unknown.
    prepared : NamedTuple
        Parameters of the E-step.
    n_threads : int
        Threads that share the tasks.
    """

    def __init__(self, X: np.ndarray, labels: np.ndarray, prepared: Any, n_threads: int) -> None:
        self.X, self.labels, self.prepared, self.n_threads = X, labels, prepared, n_threads

    @abstractmethod
    def log_joint(self, first: int, m: int, prune: bool) -> np.ndarray:
        """Return the log-densities (k, m) of rows from `first` on; -inf where one does not matter, if they may be."""

    def cells(self) -> Iterator[range]:
        """Cut the grid into runs of cells."""
        n_cells = grid.n_cells(len(self.X))
        n_runs = max(1, round(n_cells / CELLS_TOGETHER))
        for run in range(n_runs):
            yield range(n_cells * run // n_runs, n_cells * (run + 1) // n_runs)

    def shares(self, cells: range, prune: bool, log_joint: np.ndarray | None = None) -> Shares:
        """Evaluate the rows of some cells; write complete log-densities to `log_joint`, if it has any rows."""
        first, stop = cells.start * grid.CELL, min(cells.stop * grid.CELL, len(self.X))
        found = self.log_joint(first, stop - first, prune)
        if log_joint is not None and log_joint.shape[0]:
            log_joint[first:stop] = found.T
        bounds = [(cell * grid.CELL - first, min((cell + 1) * grid.CELL, stop) - first) for cell in cells]
        best, total = np.empty((2, stop - first), self.X.dtype)
        far = np.zeros(len(cells), np.int64)

        def task(cell: int) -> None:
            far[cell] = weigh(found, *bounds[cell], self.labels, first, best, total)

        threads.map_tasks(task, len(cells), self.n_threads)
        return Shares(cells, first, bounds, found, best, total, far)
