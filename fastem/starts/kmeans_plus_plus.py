"""Choosing k rows to begin k-means with: greedy k-means++ and plain random rows.

The passes over the data, one for each seed, are compiled (`score_seeds` in src/kmeans/nearest.pyx) and skip the rows
that the triangle inequality proves unchanged (Raff, "Exact acceleration of k-means++ and k-means||", IJCAI 2021): the
seeds are those of the full computation.  Potentials are summed on the fixed row grid, so that the seeds do not depend
on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastem import grid, threads
from fastem._native import nearest
from fastem.draws import Draws
from fastem.families.kmeans import rotated
from fastem.families.kmeans.basis import Basis, find_basis
from fastem.families.kmeans.csr import CSRRows
from fastem.sources.base import runs
from fastem.sources.csr import CSRSource
from fastem.starts.screening import Screening

# Rows drawn at once for one that is needed, when the next candidates are drawn before the last seed has had its pass,
# which saves every second pass; and the numbers in X from which a pass costs more than that (0.3 milliseconds).
TRIES = 4
REJECTION_PAYS_OFF = 1_000_000
# Candidates that one pass scores.
MOST_TRIALS = nearest.MOST_CANDIDATES
# Seeds so far and rows from which candidates are screened, if there are several times as many seeds to choose; at how
# many times as many seeds that is tried again, on how many rows, at most a part of all, and the cost beside comparing
# each pair by itself up to which it pays: passes compare pairs six times as fast.  It may be twice that for a round.
SCREENED_FROM, SCREENED_ROWS, SCREENED_LEFT = 32, 4 * grid.CELL, 4
AGAIN, TRIED, PART = 2, 4096, 16
SCREENING_PAYS = 0.12
# Reductions between which no sum overflows, and no square that underflows matters.
LEAST, MOST = 1e-25, 1e30


def kmeans_plus_plus(source: Any, n_clusters: int, draws: Draws, n_local_trials: int | None = None) -> np.ndarray:
    """Choose centres among the rows by greedy k-means++.

    Each centre is drawn with probability proportional to weight times squared distance to the nearest centre so far;
    of `n_local_trials` candidates the one that lowers the potential most is taken.

    Parameters
    ----------
    source : source
        Rows and weights.
    n_clusters : int
        Number of centres k, at most the number of rows.
    draws : Draws
        Random numbers.
    n_local_trials : int or None
        Candidates per centre; None means 2 + log(k), as in scikit-learn.

    Returns
    -------
    ndarray (k, d) float64
        The centres, in the order of choice.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    """
    trials = n_local_trials or trials_for(n_clusters)
    if source.array is not None and source.n_rows <= grid.CELL and trials <= MOST_TRIALS:
        return _in_one_call(source, n_clusters, draws, trials)
    return _in_passes(source, n_clusters, draws, trials)


def trials_for(n_clusters: int) -> int:
    """Return how many candidates each of so many centres has: as in scikit-learn."""
    return 2 + int(np.log(n_clusters))


def random_rows(source: Any, n_clusters: int, draws: Draws) -> np.ndarray:
    """Choose k distinct rows at random, in proportion to their weights; float64 (k, d)."""
    return source.sample_rows(n_clusters, draws).astype(np.float64)


def _in_one_call(source: Any, n_clusters: int, draws: Draws, trials: int) -> np.ndarray:
    """Few rows, for which `_in_passes` would spend its time between the passes: the same seeds from one call."""
    seeds = np.empty((n_clusters, source.n_features))
    first = _first(source, draws)
    uniforms = draws.uniform((n_clusters - 1) * trials)
    found = nearest.seed_small(source.array, source.sample_weight, uniforms, first, seeds)
    for number in range(found, n_clusters):  # every row coincides with a seed: any row is as good as another
        seeds[number] = source.array[_first(source, draws)]
    return seeds


def _in_passes(source: Any, n_clusters: int, draws: Draws, trials: int) -> np.ndarray:
    search = _search_of(source, n_clusters)
    search.add(_first(source, draws))
    for number in range(1, n_clusters):
        if not search.pending.size:
            search.score(search.draw(draws, trials))
        best = search.best()
        if number == n_clusters - 1:
            search.record(best)
        else:
            search.add_and_score(best, search.draw_after(best, draws, trials))
    return search.centers()


def _search_of(source: Any, n_clusters: int) -> _Search:
    if isinstance(source, CSRSource):
        return _CSRSearch(source, n_clusters)
    in_memory = source.array is not None and not isinstance(source.array, np.memmap)
    many = n_clusters >= SCREENED_LEFT * SCREENED_FROM and source.n_rows >= SCREENED_ROWS
    if in_memory and many and source.n_features >= nearest.ROTATED:
        return _ScreenedSearch(source, n_clusters)
    return _Search(source, n_clusters)


def _first(source: Any, draws: Draws) -> int:
    """Return the number of a row drawn in proportion to its weight."""
    if source.sample_weight.size:
        return int(draws.weighted(source.sample_weight, 1)[0])
    return int(draws.uniform(1)[0] * source.n_rows)


def draw_in_cells(closest: np.ndarray, weights: np.ndarray, potential: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draw rows in proportion to weight times `closest`: first the grid cell, then the row in it.

    Parameters
    ----------
    closest : ndarray (n,)
        Squared distance of each row to its nearest centre so far.
    weights : ndarray (n,) or (0,)
        Weights; empty for unit weights.
    potential : ndarray (n_cells,) float64
        Sum of w closest over each cell of the row grid, not all 0.
    uniforms : ndarray (m,)
        Uniform numbers in [0, 1), one for each row to draw.

    Returns
    -------
    ndarray (m,) int64
    """
    cells = np.cumsum(potential)
    targets = uniforms * cells[-1]
    chosen = np.minimum(np.searchsorted(cells, targets, side="right"), np.flatnonzero(potential)[-1])
    rows = np.empty(len(uniforms), np.int64)
    spans = [slice(cell * grid.CELL, (cell + 1) * grid.CELL) for cell in chosen.tolist()]
    parts = zip(spans, runs(closest, spans), runs(weights, spans), strict=True)
    for i, (cell, target, (span, near, w)) in enumerate(zip(chosen.tolist(), targets.tolist(), parts, strict=True)):
        before = cells[cell - 1] if cell else 0.0
        rows[i] = span.start + nearest.draw_row(near, w, target - before)
    return rows


class _Search:
    """The state of k-means++: the seeds so far, and each row's squared distance to its nearest one."""

    def __init__(self, source: Any, n_clusters: int) -> None:
        n, d, dtype = source.n_rows, source.n_features, source.dtype
        self.source = source
        self.seeds = np.empty((n_clusters, d))
        self.chosen = np.empty((n_clusters, d), dtype)  # the seeds, in the rows' dtype
        self.n_seeds = 0
        self.closest, self.owner = source.empty(n, dtype), source.empty(n, np.int32)
        self.closest[:], self.owner[:] = np.inf, 0
        self.potential = np.zeros(grid.n_cells(n))  # sum of w closest over each cell
        self.pending = np.empty(0, np.int64)  # candidates, rows of the source
        self.reductions = np.empty(0)  # of the potential, by each of them

    def centers(self) -> np.ndarray:
        """Return the seeds (k, d) float64."""
        return self.seeds

    def record(self, row: int) -> None:
        """Take down a row as the next seed, without a pass over the data."""
        seed = self.source.take(np.array([row]))
        self.seeds[self.n_seeds] = seed[0]
        self.chosen[self.n_seeds] = seed[0]
        self.n_seeds += 1

    def add(self, row: int) -> None:
        """Make a row the next seed."""
        self.add_and_score(row, self.pending[:0])

    def score(self, candidates: np.ndarray) -> None:
        """Find by how much each candidate row would lower the potential."""
        self.pending = candidates
        self.reductions = self._pass(self.source.take(candidates), commit=-1)

    def add_and_score(self, row: int, candidates: np.ndarray) -> None:
        """Make a row the next seed and score the candidates for the one after it, in one pass."""
        self.record(row)
        self.pending = candidates
        rows = np.concatenate([self.chosen[self.n_seeds - 1 : self.n_seeds], self.source.take(candidates)])
        self.reductions = self._pass(rows, commit=self.n_seeds - 1)[1:]

    def best(self) -> int:
        """Return the candidate row that lowers the potential most."""
        return int(self.pending[np.argmax(self.reductions)])

    def draw(self, draws: Draws, m: int) -> np.ndarray:
        """Draw m rows in proportion to w closest: first the grid cell, then the row in it."""
        if not self.potential.sum() > 0:  # every row coincides with a seed: any row is as good as another
            return np.array([_first(self.source, draws) for _ in range(m)])
        return draw_in_cells(self.closest, self.source.sample_weight, self.potential, draws.uniform(m))

    def draw_after(self, row: int, draws: Draws, m: int) -> np.ndarray:
        """Draw m rows as if `row` were a seed already, by rejection; none if too many are refused.

        A row drawn by the present distances D is kept with probability min(D, its distance to the new seed) / D.
        """
        if self.source.n_rows * self._width < REJECTION_PAYS_OFF:
            return self.pending[:0]
        rows = self.draw(draws, TRIES * m)
        distance = self._distances(rows, row)
        kept = rows[draws.uniform(len(rows)) * self.closest[rows] < distance]
        return kept[:m] if len(kept) >= m else self.pending[:0]

    @property
    def _width(self) -> int:
        """Features of a row, by which it is decided how to draw."""
        return self.source.n_features

    def _distances(self, rows: np.ndarray, row: int) -> np.ndarray:
        """Return the squared distances (m,) of rows to one."""
        seed = self.source.take(np.array([row])).astype(np.float64)
        return np.square(self.source.take(rows) - seed).sum(axis=1)

    def _pass(self, candidates: np.ndarray, commit: int) -> np.ndarray:
        """Return by how much each candidate (m, d) lowers the potential (m,), and note the potential of each cell."""
        source, closest, owner = self.source, self.closest, self.owner
        chosen = self.chosen[: max(1, self.n_seeds)]

        def block(X: np.ndarray, rows: slice, n_threads: int) -> np.ndarray:
            out = np.empty((grid.n_cells(len(X)), len(candidates) + 1))
            nearest.score_seeds(
                X,
                source.weights_of(rows),
                candidates,
                chosen,
                closest[rows],
                owner[rows],
                commit,
                out,
                threads.native_threads(n_threads),
            )
            return out

        out = np.concatenate(source.collect(block))
        self.potential = out[:, -1].copy()
        return grid.merge_tree(np.ascontiguousarray(out[:, :-1]))


class _ScreenedSearch(_Search):
    """The same where candidates are screened (`screening`): the same seeds, to the bit.

    Distances are those of `_Search`, but reductions are summed in another order.  So where another candidate's is as
    large as the best one's, as far as the rounding of either sum goes, `_Search` is asked.
    """

    def __init__(self, source: Any, n_clusters: int) -> None:
        super().__init__(source, n_clusters)
        self.screening: Screening | None = None
        self.basis: Basis | None = None
        self.next_try = SCREENED_FROM  # seeds
        eps = float(np.finfo(source.dtype).eps)
        # `seed_cell` sums at most 240 falls in the rows' type; all else is float64.
        self.doubt = 256 * eps + 8192 * (1 + len(self.potential)) * float(np.finfo(np.float64).eps)

    def score(self, candidates: np.ndarray) -> None:
        """Find by how much each candidate row would lower the potential."""
        self._score(candidates, lambda: super(_ScreenedSearch, self).score(candidates))

    def add_and_score(self, row: int, candidates: np.ndarray) -> None:
        """Make a row the next seed and score the candidates for the one after it."""
        if self.screening is None:
            super().add_and_score(row, candidates)
            if self.next_try <= self.n_seeds <= len(self.seeds) // AGAIN:
                self.next_try = AGAIN * self.n_seeds
                self.screening = self._tried()
                if self.screening is not None and candidates.size:  # one of them may be the next seed
                    self.screening.score(candidates)
            return
        self.screening.commit(int(np.flatnonzero(self.pending == row)[0]), self.n_seeds, self.potential)
        self.record(row)
        if candidates.size:
            self._score(candidates, lambda: self._undone(row, candidates))
        else:
            self.pending = candidates

    def _tried(self) -> Screening | None:
        """Return the rows ready to be screened, if that pays for some of them."""
        source, w = self.source, self.source.sample_weight
        self.basis = self.basis or find_basis(source.array, len(self.seeds), rotated.DIRECTIONS)
        if self.basis is None or not self.closest.max() > LEAST:  # squares overflow, or underflow
            self.next_try = len(self.seeds)
            return None
        candidates = self.pending if self.pending.size else np.arange(TRIES) * source.n_rows // TRIES
        some = np.union1d(np.arange(0, source.n_rows, max(PART, source.n_rows // TRIED)), candidates)
        tried = self._screening_of(source.take(some), w[some] if w.size else w, self.closest[some], self.owner[some])
        if tried is None or tried.score(np.searchsorted(some, candidates))[1] > SCREENING_PAYS:
            return None
        return self._screening_of(source.array, w, self.closest, self.owner)

    def _screening_of(self, X: np.ndarray, w: np.ndarray, closest: np.ndarray, owner: np.ndarray) -> Screening | None:
        n_threads = self.source.n_threads
        assert self.basis is not None
        known = rotated.rotate(X, self.basis, n_threads, self.source.empty)
        return None if known is None else Screening(X, w, known, closest, owner, n_threads)

    def _score(self, candidates: np.ndarray, ask: Callable[[], None]) -> None:
        """Score candidates; `ask` for the bits of `_Search` where rounding may decide."""
        self.pending = candidates
        if self.screening is None:
            ask()
            return
        self.reductions, cost = self.screening.score(candidates)
        best = self.reductions.max()
        rivals = candidates[self.reductions >= best - self.doubt * best]
        if not LEAST < best < MOST or np.any(rivals != rivals[0]):
            ask()
        if cost > 2 * SCREENING_PAYS:
            self.screening = None

    def _undone(self, row: int, candidates: np.ndarray) -> None:
        """Let `_Search` make a row the last seed once more, and score candidates in the same pass."""
        self.n_seeds -= 1
        last = self.n_seeds
        rows = np.flatnonzero(self.owner == last)
        for span in range(0, len(rows), grid.CELL):
            some = rows[span : span + grid.CELL]
            out = np.empty((len(some), last), self.source.dtype)
            nearest.distances(
                self.source.take(some), self.chosen[:last], out, threads.native_threads(self.source.n_threads)
            )
            self.owner[some] = out.argmin(axis=1)
            self.closest[some] = out.min(axis=1)
        super().add_and_score(row, candidates)


class _CSRSearch(_Search):
    """The same for rows of a CSR matrix: seeds are row numbers, compared with rows by the values that they share."""

    def __init__(self, source: Any, n_clusters: int) -> None:
        n = source.n_rows
        self.source = source
        self.rows = np.empty(n_clusters, np.int64)  # the seeds
        self.n_seeds = 0
        self.closest = np.full(n, np.inf, source.dtype)
        self.potential = np.zeros(grid.n_cells(n))
        self.pending = np.empty(0, np.int64)
        self.reductions = np.empty(0)
        self.products = np.empty((0, n))  # work space

    def centers(self) -> np.ndarray:
        """Return the seeds (k, d), features first in memory."""
        return self.source.X[self.rows].toarray(order="F")

    def record(self, row: int) -> None:
        """Take down a row as the next seed, without a pass over the data."""
        self.rows[self.n_seeds] = row
        self.n_seeds += 1

    def score(self, candidates: np.ndarray) -> None:
        """Find by how much each candidate row would lower the potential."""
        self.pending = candidates
        self.reductions = self._pass(candidates, commit=0)

    def add_and_score(self, row: int, candidates: np.ndarray) -> None:
        """Make a row the next seed and score the candidates for the one after it, in one pass."""
        self.record(row)
        self.pending = candidates
        self.reductions = self._pass(np.concatenate([[row], candidates]), commit=1)[1:]

    @property
    def _width(self) -> int:
        return self.source.width

    def _distances(self, rows: np.ndarray, row: int) -> np.ndarray:
        values: CSRRows = self.source.rows
        products = np.empty(self.source.n_rows)
        nearest.csr_products(*values.by_row, *values.by_feature, row, products)
        return np.maximum(values.squares[rows] + values.squares[row] - 2.0 * products[rows], 0.0)

    def _pass(self, candidates: np.ndarray, commit: int) -> np.ndarray:
        source, candidates = self.source, candidates.astype(np.int64)
        rows: CSRRows = source.rows
        if len(self.products) < len(candidates):
            self.products = np.empty((len(candidates), source.n_rows))
        out = np.empty((len(self.potential), len(candidates) + 1))
        nearest.csr_score_seeds(
            *rows.by_row, *rows.by_feature, rows.squares, source.sample_weight, candidates,
            commit, self.closest, self.products, out, threads.native_threads(source.n_threads),
        )  # fmt: skip
        self.potential = out[:, -1].copy()
        return grid.merge_tree(np.ascontiguousarray(out[:, :-1]))
