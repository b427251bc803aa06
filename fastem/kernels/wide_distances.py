"""Log-densities and responsibilities of rows of very many features; what cannot matter is left out.

A distance is a sum of squares of the columns of a triangular product, y = (x - mu) P: after some columns a row's
log-density is at most the offset less half of what has been added up, in exact and in rounded arithmetic.  The
component that seems the most likely after a few columns is evaluated completely; for the others there are two bounds
of what they can still reach, and the sum over components and all that rounding keeps of it stay what they are.

The first is that of Cauchy and Schwarz: of the columns that are left, |y|^2 >= (y w)^2 for every w of length 1, and
y w = (x - mu) (P w) is one inner product of a row.  With w along what y is on average for rows of the likely component,
(mu_likely - mu) P, it is nearly all where means lie apart: a component costs such a row 2 d operations instead of d^2.
What passes goes on in steps, half as many columns more each time, as long as it may still matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastem import grid, threads
from fastem.jit import kernel
from fastem.kernels.blocks import BLOCK, STRIDE, padded
from fastem.kernels.panels import COLUMNS, PANEL_BYTES, add_squares, pack_factor, pack_rows
from fastem.kernels.responsibilities import fix_labels, shares

# Columns after which a component is guessed for each row; at least this many are added each time.
FIRST_COLUMNS = 64
# Rows whose panels are packed at a time: they stay in the second cache.
CHUNK_ROWS = 256
# Multiply-adds of a task: a call of a kernel costs as much as some 10^5 of them, and one thread waits for another to
# let go of Python; and rows of it, at least.
TASK_WORK = 2**24
TASK_ROWS = 128
# Cells that are taken together, at most, and bytes of their records.
MOST_CELLS = 8
RECORD_BYTES = 2**25

# --- kernels


@kernel
def add_columns(
    X,  # (n, d)
    index,  # (m,) int64 rows
    first,  # the row that `squares` begins with
    origin,  # (d,)
    mean,  # (d,)
    packed,  # the component's factor, packed
    start,
    stop,  # columns, multiples of 4
    squares,  # (rows,) INOUT
):
    """Add the squares of some columns of the product of some rows with a factor."""
    width = PANEL_BYTES // X.itemsize
    most = (min(index.shape[0], CHUNK_ROWS) + width - 1) // width * width
    panel = np.empty(most * stop, X.dtype)
    own = np.zeros(most, X.dtype)
    room = np.empty(COLUMNS * width, X.dtype)
    for at in range(0, index.shape[0], CHUNK_ROWS):
        here = index[at : at + CHUNK_ROWS]
        count = here.shape[0]
        for t in range(count):
            own[t] = squares[here[t] - first]
        pack_rows(X, here, count, stop, origin, mean, panel)
        add_squares(count, stop, start, stop, panel, packed, room, own)
        for t in range(count):
            squares[here[t] - first] = own[t]


@kernel
def project(
    X,  # (n, d)
    index,  # (m,) int64 rows
    first,  # the row that `least` begins with
    origin,  # (d,)
    directions,  # (k, d) float64
    at_means,  # (k,) float64: directions times the means
    lengths,  # (k,) float64: of the means
    rounding,  # (k,) float64: of such a product, relative to the length of the row
    least,  # (k, rows) OUT
):
    """Write the squares of rows along directions, relative to the means, less what may be rounding."""
    k, d = directions.shape
    centred = np.empty(d)
    for r in index:
        norm = 0.0
        for j in range(d):
            x = np.float64(X[r, j] - origin[j])
            centred[j] = x
            norm += x * x
        norm = math.sqrt(norm)
        for c in range(k):
            along = 0.0
            for j in range(d):
                along += directions[c, j] * centred[j]
            along = abs(along - at_means[c]) - rounding[c] * (norm + lengths[c])
            least[c, r - first] = along * along if along > 0 else 0.0  # 0 for NaN


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


# --- the distances


class Shares(NamedTuple):
    """Responsibilities of the rows of some cells, not normalised."""

    cells: range
    first: int  # the row that the arrays begin with
    bounds: list[tuple[int, int]]  # of each cell, from there
    share: np.ndarray  # (k, rows)
    best: np.ndarray  # (rows,)
    factor: np.ndarray  # (rows,): the sum of a row's shares
    far: np.ndarray  # (cells,): how many rows are so far that the cell needs care


class Distances:
    """Log-densities and responsibilities of rows, some cells at a time."""

    def __init__(self, X: np.ndarray, labels: np.ndarray, prepared: Any, n_threads: int) -> None:
        self.X, self.labels, self.prepared, self.n_threads = X, labels, prepared, n_threads
        factors = prepared.precisions_cholesky
        k, dp = factors.shape[:2]
        self.packed = np.empty((k, dp * (dp + 4) // 2), X.dtype)
        threads.map_tasks(lambda c: pack_factor(factors[c], self.packed[c]), k, n_threads)
        self.offsets = prepared.offsets.astype(X.dtype)
        diagonals = np.diagonal(factors, axis1=1, axis2=2)[:, :FIRST_COLUMNS].astype(np.float64)
        self.guesses = prepared.log_weights + np.log(np.where(diagonals > 0, diagonals, 1.0)).sum(axis=1)
        # exp of what lies lower is no more than the share that does not matter, with room for the rounding of both.
        with np.errstate(divide="ignore"):
            self.lower = (np.log(prepared.negligible) - 1.0).astype(X.dtype)

    def may_leave_out(self) -> bool:
        """Tell whether components may be left out where they do not matter: there is more than one."""
        return len(self.offsets) > 1

    def cells(self, size: int) -> Iterator[range]:
        """Cut the grid into runs of cells, whose records have `size` numbers."""
        most = max(1, min(MOST_CELLS, RECORD_BYTES // (8 * size)))
        n_cells = grid.n_cells(len(self.X))
        for first in range(0, n_cells, most):
            yield range(first, min(first + most, n_cells))

    def shares(self, cells: range, prune: bool, log_joint: np.ndarray | None = None) -> Shares:
        """Evaluate the rows of some cells; write complete log-densities to `log_joint`, if it has any rows."""
        first, stop = cells.start * grid.CELL, min(cells.stop * grid.CELL, len(self.X))
        found = self._log_joint(first, stop - first, prune)
        if log_joint is not None and log_joint.shape[0]:
            log_joint[first:stop] = found.T
        bounds = [(cell * grid.CELL - first, min((cell + 1) * grid.CELL, stop) - first) for cell in cells]
        best, total = np.empty((2, stop - first), self.X.dtype)
        far = np.zeros(len(cells), np.int64)

        def task(cell: int) -> None:
            far[cell] = weigh(found, *bounds[cell], self.labels, first, best, total)

        threads.map_tasks(task, len(cells), self.n_threads)
        return Shares(cells, first, bounds, found, best, total, far)

    def _log_joint(self, first: int, m: int, prune: bool) -> np.ndarray:
        """Return the log-densities (k, m) of rows from `first` on; -inf where one does not matter, if they may be."""
        k, dp = self.prepared.precisions_cholesky.shape[:2]
        squares = np.zeros((k, m), self.X.dtype)
        rows = np.arange(m)
        if not (prune and self.may_leave_out()):
            self.add_columns(first, [rows] * k, 0, dp, squares)
            return self._densities(squares)
        done = FIRST_COLUMNS
        self.add_columns(first, [rows] * k, 0, done, squares)
        guess = (self.guesses[:, None] - 0.5 * squares).argmax(axis=0)
        likely = [np.flatnonzero(guess == c) for c in range(k)]
        self.add_columns(first, likely, done, dp, squares)
        half = self.X.dtype.type(0.5)
        reached = self.offsets[guess] - half * squares[guess, rows]
        waiting = [np.flatnonzero(guess != c) for c in range(k)]
        least = self._least(first, likely, done, squares)
        with np.errstate(invalid="ignore", over="ignore"):  # rows so far off that squares overflow
            while True:
                for c, own in enumerate(waiting):
                    highest = self.offsets[c] - half * least[c, own]
                    keep = ~(highest - reached[own] < self.lower[c])
                    squares[c, own[~keep]] = np.inf
                    waiting[c] = own[keep]
                if done == dp:
                    return self._densities(squares)
                following = min(done + max(FIRST_COLUMNS, done // 2 // COLUMNS * COLUMNS), dp)
                self.add_columns(first, waiting, done, following, squares)
                done, least = following, squares

    def _least(self, first: int, likely: list[np.ndarray], done: int, squares: np.ndarray) -> np.ndarray:
        """Return what squares (k, m) are at least when all columns are added, by the bound of Cauchy and Schwarz.

        `likely` are the rows of each component that is guessed, `done` the columns that are in `squares`.
        """
        k, d = self.prepared.means.shape
        directions, at_means, rounding = self._directions(done)
        lengths = np.sqrt(np.square(self.prepared.means.astype(np.float64)).sum(axis=1))
        least = np.empty_like(squares)
        size = max(TASK_ROWS, TASK_WORK // (k * d))
        parts = [(g, first + own[at : at + size]) for g, own in enumerate(likely) for at in range(0, len(own), size)]

        def task(number: int) -> None:
            g, index = parts[number]
            project(
                self.X, index, first, self.prepared.origin, directions[g], at_means[g], lengths, rounding[g], least
            )  # fmt: skip

        threads.map_tasks(task, len(parts), self.n_threads)
        with np.errstate(over="ignore"):
            least += squares
        return least

    def _directions(self, done: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for rows of each component g and each component c a direction u, its products and its rounding.

        With w of length 1 along the columns from `done` on of (mu_g - mu_c) P_c, it is P_c w: (k, k, d), g first.
        Times mu_c, (k, k).  The product of a direction with a row is off by the rounding of the row's numbers, and by
        d epsilons of float64 of the factor's length; both relative to the row's (k, k).
        """
        factors, means = self.prepared.precisions_cholesky, self.prepared.means.astype(np.float64)
        k, d = means.shape
        directions = np.empty((k, k, d))
        at_means, rounding = np.empty((2, k, k))

        def component(c: int) -> None:
            factor = factors[c, :d, :d].astype(np.float64, copy=False)
            w = (means - means[c]) @ factor
            w[:, :done] = 0
            length = np.sqrt(np.square(w).sum(axis=1, keepdims=True))
            w /= np.where(length > 0, length, 1)
            own = w @ factor.T
            directions[:, c] = own
            at_means[:, c] = own @ means[c]
            given, made = np.finfo(self.X.dtype).eps, d * np.finfo(np.float64).eps
            rounding[:, c] = 4 * (given * np.sqrt(np.square(own).sum(axis=1)) + made * np.sqrt(np.square(factor).sum()))

        with threads.single_threaded_blas(), np.errstate(invalid="ignore", over="ignore"):
            threads.map_tasks(component, k, self.n_threads)
        return directions, at_means, rounding

    def _densities(self, squares: np.ndarray) -> np.ndarray:
        squares *= -0.5
        squares += self.offsets[:, None]
        return squares

    def add_columns(self, first: int, rows: list[np.ndarray], start: int, stop: int, squares: np.ndarray) -> None:
        """Add the squares of some columns to those of each component's rows."""
        size = max(TASK_ROWS, 2 * TASK_WORK // (stop * stop - start * start))
        parts = [(c, first + own[at : at + size]) for c, own in enumerate(rows) for at in range(0, len(own), size)]
        prepared = self.prepared

        def task(number: int) -> None:
            c, index = parts[number]
            add_columns(
                self.X, index, first, prepared.origin, prepared.means[c], self.packed[c], start, stop, squares[c]
            )  # fmt: skip

        threads.map_tasks(task, len(parts), self.n_threads)
