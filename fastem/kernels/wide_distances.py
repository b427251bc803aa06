"""Log-densities of rows of very many features, of components that each have a matrix; what cannot matter is left out.

A distance is a sum of squares of the columns of a triangular product, y = (x - mu) P: after some columns a row's
log-density is at most the offset less half of what has been added up, in exact and in rounded arithmetic.  The
component that seems the most likely after a few columns is evaluated completely; for the others there are two bounds
of what they can still reach, and the sum over components and all that rounding keeps of it stay what they are.

The first is that of Cauchy and Schwarz: of the columns that are left, |y|^2 >= (y w)^2 for every w of length 1, and
y w = (x - mu) (P w) is one inner product of a row.  With w along what y is on average for rows of the likely component,
(mu_likely - mu) P, it is nearly all where means lie apart: a component costs such a row 2 d operations instead of d^2.
It is asked only of means that lie far enough apart.

The second is what some columns add up to: what passes goes on from column to column as long as it may still matter.
After how many columns it pays to see to that, a sample of the rows says.

Which component is likely, the first columns tell where means lie apart.  Of components that have few more rows than
there are features, the last columns tell: what is left of a feature given all those before it is small for the rows
that a component was fitted to, and large for others.  Where a sample says that they save more than they cost, they come
first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastem import pool, threads
from fastem.jit import kernel
from fastem.kernels.panels import COLUMNS, PANEL_BYTES, add_squares, pack_factor, pack_rows
from fastem.kernels.wide_shares import CHUNK_ROWS, TASK_ROWS, TASK_WORK, Batches

# Columns after which a component is guessed for each row; at least this many are added each time.
FIRST_COLUMNS = 64
# Rows of a sample, which is made where there are so many times more to be decided, columns that it holds apart, and how
# often at most what it says is used to leave out rows.
SAMPLE, SAMPLED = 16, 16
APART, LOOKS = FIRST_COLUMNS, 6
# Rows of a sample of whole rows, and how many times APART of the last columns may come first.
WHOLE, LAST = 32, (1, 2, 4)
# Work that is left where looks are worth what they cost themselves, of the work of all columns: looks take 8 ms of an
# iteration at 20k x 256 in eight components, which at once take 40.
WORTHWHILE = 0.85
# Bytes of the directions from each component to each other, at most: of more components none are made.
DIRECTION_BYTES = 2**26

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
def columns_apart(
    X,  # (n, d)
    index,  # (m,) int64 rows, at most CHUNK_ROWS
    origin,  # (d,)
    mean,  # (d,)
    packed,  # the component's factor, packed
    dp,  # its columns
    out,  # (m, -(-dp // APART)) OUT
):
    """Write the squares of every APART columns of the product of some rows with a factor."""
    width = PANEL_BYTES // X.itemsize
    count = index.shape[0]
    whole = (count + width - 1) // width * width
    panel = np.empty(whole * dp, X.dtype)
    own = np.empty(whole, X.dtype)
    room = np.empty(COLUMNS * width, X.dtype)
    pack_rows(X, index, count, dp, origin, mean, panel)
    for start in range(0, dp, APART):
        own[:] = 0
        add_squares(count, dp, start, min(start + APART, dp), panel, packed, room, own)
        for t in range(count):
            out[t, start // APART] = own[t]


@kernel
def project(
    X,  # (n, d)
    index,  # (m,) int64 rows
    first,  # the row that `least` begins with
    origin,  # (d,)
    which,  # int64 components that are asked for
    directions,  # (k, d) float64
    at_means,  # (k,) float64: directions times the means
    lengths,  # (k,) float64: of the means
    rounding,  # (k,) float64: of such a product, relative to the length of the row
    least,  # (k, rows) INOUT
):
    """Add the squares of rows along directions, relative to the means, less what may be rounding."""
    d = X.shape[1]
    centred = np.empty(d)
    for r in index:
        norm = 0.0
        for j in range(d):
            x = np.float64(X[r, j] - origin[j])
            centred[j] = x
            norm += x * x
        norm = math.sqrt(norm)
        for c in which:
            along = 0.0
            for j in range(d):
                along += directions[c, j] * centred[j]
            along = abs(along - at_means[c]) - rounding[c] * (norm + lengths[c])
            least[c, r - first] += along * along if along > 0 else 0.0  # 0 for NaN


# --- the distances


class Distances(Batches):
    """Log-densities of rows, of components that each have a matrix."""

    def __init__(self, X: np.ndarray, labels: np.ndarray, prepared: Any, n_threads: int) -> None:
        super().__init__(X, labels, prepared, n_threads)
        factors = prepared.precisions_cholesky
        k, dp = factors.shape[:2]
        self.packed = pool.empty((k, dp * (dp + 4) // 2), X.dtype)
        threads.map_tasks(lambda c: pack_factor(factors[c], self.packed[c]), k, n_threads)
        self._known: Any = None
        self.offsets = prepared.offsets.astype(X.dtype)
        diagonals = np.diagonal(factors, axis1=1, axis2=2).astype(np.float64)
        logs = np.log(np.where(diagonals > 0, diagonals, 1.0))
        parts = np.add.reduceat(logs, np.arange(0, dp, APART), axis=1)
        self.logs = np.concatenate([prepared.log_weights[:, None] + parts[:, :1], parts[:, 1:]], axis=1)
        # exp of what lies lower is no more than the share that does not matter, with room for the rounding of both.
        with np.errstate(divide="ignore"):
            self.lower = (np.log(prepared.negligible) - 1.0).astype(X.dtype)

    def may_leave_out(self) -> bool:
        """Tell whether components may be left out where they do not matter: there is more than one."""
        return len(self.offsets) > 1

    def log_joint(self, first: int, m: int, prune: bool) -> np.ndarray:
        k, dp = self.prepared.precisions_cholesky.shape[:2]
        squares = np.zeros((k, m), self.X.dtype)
        rows = np.arange(m)
        tail = self._tail(first, m) if prune and self.may_leave_out() else None
        if tail is None:
            self.add_columns(first, [rows] * k, 0, dp, squares)
            return self._densities(squares)
        done = FIRST_COLUMNS
        self.add_columns(first, [rows] * k, 0, done, squares)
        some = self._with_last(first, squares, tail) if tail else squares
        guess = (self.logs[:, _chosen(self.logs, tail)].sum(axis=1)[:, None] - 0.5 * some).argmax(axis=0)
        likely = [np.flatnonzero(guess == c) for c in range(k)]
        self.add_columns(first, likely, done, dp, squares)
        with np.errstate(invalid="ignore", over="ignore"):  # rows so far off that squares overflow
            # A component matters to a row only if its squares add up to no more than this.
            reached = self.offsets[guess] - self.X.dtype.type(0.5) * squares[guess, rows]
            most = 2 * ((self.offsets - self.lower)[:, None] - reached)
            waiting = [np.flatnonzero(guess != c) for c in range(k)]
            if tail:
                self._leave_out(waiting, some, most, squares)
            self._leave_out(waiting, self._least(first, likely, squares), most, squares)
            for stop in self._stops(first, waiting, most):
                self.add_columns(first, waiting, done, stop, squares)
                self._leave_out(waiting, squares, most, squares)
                done = stop
        return self._densities(squares)

    def _with_last(self, first: int, squares: np.ndarray, tail: int) -> np.ndarray:
        """Return what squares (k, m) of the first columns are at least when all are added: with the last ones."""
        dp = self.prepared.precisions_cholesky.shape[1]
        found = squares.copy()
        self.add_columns(first, [np.arange(squares.shape[1])] * len(squares), dp - tail, dp, found)
        found *= 1 - 2 * dp * np.finfo(found.dtype).eps  # the rounding of two sums of up to dp squares
        return found

    def _tail(self, first: int, m: int) -> int | None:
        """Return what a sample of the rows says of the last columns; see `last_columns`."""
        k, dp = self.prepared.precisions_cholesky.shape[:2]
        size = min(WHOLE, m // (SAMPLED * k))
        if size == 0 or dp <= FIRST_COLUMNS + APART:
            return 0
        index = first + np.linspace(0, m - 1, size).astype(np.int64)
        apart = np.empty((k, size, -(-dp // APART)), self.X.dtype)

        def task(c: int) -> None:
            prepared = self.prepared
            columns_apart(self.X, index, prepared.origin, prepared.means[c], self.packed[c], dp, apart[c])

        threads.map_tasks(task, k, self.n_threads)
        with np.errstate(invalid="ignore", over="ignore"):
            far = self._directions()[0]
            return last_columns(apart.astype(np.float64), self.logs, self.offsets, self.lower, far, dp)

    def _leave_out(self, waiting: list[np.ndarray], least: np.ndarray, most: np.ndarray, squares: np.ndarray) -> None:
        """Keep of the waiting rows of each component those to which it may matter; the others' squares are infinite."""
        for c, own in enumerate(waiting):
            keep = ~(least[c, own] > most[c, own])
            squares[c, own[~keep]] = np.inf
            waiting[c] = own[keep]

    def _stops(self, first: int, waiting: list[np.ndarray], most: np.ndarray) -> list[int]:
        """Return after which columns to see what can be left out, up to the last: where a sample of rows says so."""
        dp = self.prepared.precisions_cholesky.shape[1]
        which = [c for c, own in enumerate(waiting) if len(own) >= SAMPLED * SAMPLE]
        if not which:
            return _growing(dp)
        enough = np.empty((len(which), SAMPLE))

        def task(number: int) -> None:
            c = which[number]
            own = waiting[c][np.linspace(0, len(waiting[c]) - 1, SAMPLE).astype(np.int64)]
            squares = np.empty((SAMPLE, -(-dp // APART)), self.X.dtype)
            prepared = self.prepared
            columns_apart(self.X, first + own, prepared.origin, prepared.means[c], self.packed[c], dp, squares)
            decided = np.cumsum(squares, axis=1) > most[c, own, None]
            enough[number] = np.where(decided.any(axis=1), APART * (1 + decided.argmax(axis=1)), dp)

        threads.map_tasks(task, len(which), self.n_threads)
        stops = np.quantile(enough, np.arange(1, LOOKS) / LOOKS, method="higher").astype(int)
        return sorted({int(stop) for stop in stops if FIRST_COLUMNS < stop < dp} | {dp})

    def _least(self, first: int, likely: list[np.ndarray], squares: np.ndarray) -> np.ndarray:
        """Return what squares (k, m) are at least when all columns are added, by the bound of Cauchy and Schwarz.

        `likely` are the rows of each component that is guessed; in `squares` are the first columns.
        """
        k, d = self.prepared.means.shape
        far, directions, at_means, rounding = self._directions()
        if not far.any():
            return squares
        lengths = np.sqrt(np.square(self.prepared.means.astype(np.float64)).sum(axis=1))
        least = squares.copy()
        size = max(TASK_ROWS, TASK_WORK // (k * d))
        parts = [
            (g, first + own[at : at + size])
            for g, own in enumerate(likely)
            for at in range(0, len(own) if far[g].any() else 0, size)
        ]

        def task(number: int) -> None:
            g, index = parts[number]
            which = np.flatnonzero(far[g])
            project(
                self.X, index, first, self.prepared.origin, which, directions[g], at_means[g], lengths, rounding[g],
                least,
            )  # fmt: skip

        threads.map_tasks(task, len(parts), self.n_threads)
        return least

    def _directions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return for rows of each component g and each component c a direction u, its products and its rounding.

        All (k, k, ...), g first.  With w of length 1 along the columns after the first ones of (mu_g - mu_c) P_c, the
        direction is P_c w (d,), where (mu_g - mu_c) P_c is so long that it may decide anything: that is told first.
        Then its product with mu_c.  The product of a direction with a row is off by the rounding of the row's numbers,
        and by d epsilons of the factor's length; both relative to the row's.
        """
        if self._known is None:
            self._known = self._make_directions()
        return self._known

    def _make_directions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        factors, means = self.prepared.precisions_cholesky, self.prepared.means.astype(np.float64)
        k, d = means.shape
        far = np.zeros((k, k), bool)
        directions, at_means, rounding = np.empty((0, 0, d)), np.zeros((k, k)), np.zeros((k, k))
        if k * k * d * directions.itemsize > DIRECTION_BYTES:
            return far, directions, at_means, rounding
        directions = np.zeros((k, k, d))
        eps = np.finfo(self.X.dtype).eps

        def component(c: int) -> None:
            factor = factors[c, :d, :d]
            w = (self.prepared.means - self.prepared.means[c]) @ factor
            w[:, :FIRST_COLUMNS] = 0
            length = np.square(w).sum(axis=1, dtype=np.float64)
            own = far[:, c] = length > d / 2
            if own.any():
                u = ((w[own] / np.sqrt(length[own, None])).astype(w.dtype) @ factor.T).astype(np.float64)
                directions[own, c] = u
                at_means[own, c] = u @ means[c]
                size = math.sqrt(np.vdot(factors[c], factors[c]))
                rounding[own, c] = 4 * eps * (np.sqrt(np.square(u).sum(axis=1)) + d * size)

        with threads.single_threaded_blas(), np.errstate(invalid="ignore", over="ignore"):
            threads.map_tasks(component, k, self.n_threads)
        return far, directions, at_means, rounding

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

        work = sum(map(len, rows)) * (stop * stop - start * start) // 2
        threads.map_tasks(task, len(parts), self.n_threads if work > TASK_WORK else 1)


def _chosen(logs: np.ndarray, tail: int) -> np.ndarray:
    """Return which parts of APART columns are the first and the last that a guess is made from."""
    n_parts = logs.shape[1]
    return np.r_[0, n_parts - -(-tail // APART) : n_parts]


def last_columns(
    apart: np.ndarray,  # (k, m, parts) squares of every APART columns of some rows
    logs: np.ndarray,  # (k, parts) logarithms of the factors' diagonals, with those of the weights
    offsets: np.ndarray,  # (k,)
    lower: np.ndarray,  # (k,) logarithms of shares that do not matter
    far: np.ndarray,  # (k, k): of rows of one component, what the other costs is next to nothing
    dp: int,
) -> int | None:
    """Return how many of the last columns shall come first, of all components; None if no order of columns saves much.

    A column costs as many multiply-adds as there are features up to it.  The likely component is evaluated completely;
    of the others, what is left.
    """
    k, m, n_parts = apart.shape
    rows = np.arange(m)
    reached, sums = offsets[:, None] - 0.5 * apart.sum(axis=2), np.cumsum(apart, axis=2)
    costs = {}
    for tail in (0, *(dp - APART * (n_parts - last) for last in LAST if last < n_parts)):
        chosen = _chosen(logs, tail)
        some = apart[:, :, chosen].sum(axis=2)
        guess = (logs[:, chosen].sum(axis=1)[:, None] - 0.5 * some).argmax(axis=0)
        most = 2 * ((offsets - lower)[:, None] - reached[guess, rows])
        left = ~(some > most) & ~far[guess].T & (guess != np.arange(k)[:, None])
        decided = sums > most[:, :, None]
        columns = np.where(decided.any(axis=2), np.minimum(APART * (1 + decided.argmax(axis=2)), dp), dp)
        costs[tail] = m * (k * dp**2 - (k - 1) * (dp - tail) ** 2) + np.square(columns)[left].sum()
    least = min(costs, key=costs.__getitem__)
    return least if costs[least] < WORTHWHILE * m * k * dp**2 else None


def _growing(dp: int) -> list[int]:
    """Return numbers of columns that grow by a half each time, up to all of them."""
    stops, done = [], FIRST_COLUMNS
    while done < dp:
        done = min(done + max(FIRST_COLUMNS, done // 2 // COLUMNS * COLUMNS), dp)
        stops.append(done)
    return stops
