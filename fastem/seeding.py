"""Choosing k rows to begin k-means with: greedy k-means++ and plain random rows.

The passes over the data are compiled (`score_seeds` in src/nearest.pyx) and skip every row that the triangle
inequality proves unchanged (Raff, "Exact acceleration of k-means++ and k-means||", IJCAI 2021): the seeds are those of
the full computation.  Potentials are summed on the fixed row grid, so the seeds do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import stats as grid
from fastem import threads
from fastem._native import nearest
from fastem.draws import Draws


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
    trials = n_local_trials or 2 + int(np.log(n_clusters))
    search = _Search(source, n_clusters)
    search.take_seed(_first(source, draws))
    for _ in range(1, n_clusters):
        candidates = search.draw(draws, trials)
        search.take_seed(candidates[search.best(candidates)])
    return search.seeds


def random_rows(source: Any, n_clusters: int, draws: Draws) -> np.ndarray:
    """Choose k distinct rows at random, in proportion to their weights; float64 (k, d)."""
    return source.sample_rows(n_clusters, draws).astype(np.float64)


def _first(source: Any, draws: Draws) -> int:
    """Return the number of a row drawn in proportion to its weight."""
    if source.sample_weight.size:
        return int(draws.weighted(source.sample_weight, 1)[0])
    return int(draws.uniform(1)[0] * source.n_rows)


class _Search:
    """The state of k-means++: the seeds so far, and each row's squared distance to its nearest one."""

    def __init__(self, source: Any, n_clusters: int) -> None:
        n, d, dtype = source.n_rows, source.n_features, source.dtype
        self.source = source
        some = np.linspace(0, n - 1, min(n, 256)).astype(np.int64)
        self.origin = source.take(some).mean(axis=0, dtype=np.float64).astype(dtype)
        self.seeds = np.empty((n_clusters, d))
        self.relative = np.empty((n_clusters, d), dtype)  # seeds minus the origin
        self.n_seeds = 0
        self.closest = np.full(n, np.inf, dtype)
        self.owner = np.zeros(n, np.int32)
        self.potential = np.zeros(grid.n_cells(n))  # sum of w closest over each cell

    def take_seed(self, row: int) -> None:
        """Make a row the next seed."""
        seed = self.source.take(np.array([row]))
        self.seeds[self.n_seeds] = seed[0]
        self.relative[self.n_seeds] = (seed[0].astype(np.float64) - self.origin).astype(self.origin.dtype)
        self.n_seeds += 1
        self.potential = self._pass(self.relative[self.n_seeds - 1 : self.n_seeds], commit=self.n_seeds - 1)[:, -1]

    def best(self, candidates: np.ndarray) -> int:
        """Return the place of the candidate row that lowers the potential most."""
        rows = self.source.take(candidates).astype(np.float64) - self.origin
        reductions = self._pass(np.ascontiguousarray(rows, self.origin.dtype), commit=-1)[:, :-1]
        return int(np.argmax(grid.merge_tree(np.ascontiguousarray(reductions))))

    def draw(self, draws: Draws, m: int) -> np.ndarray:
        """Draw m rows in proportion to w closest: first the grid cell, then the row in it."""
        cells = np.cumsum(self.potential)
        if not cells[-1] > 0:  # every row coincides with a seed: any row is as good as another
            return np.array([_first(self.source, draws) for _ in range(m)])
        targets = draws.uniform(m) * cells[-1]
        chosen = np.minimum(np.searchsorted(cells, targets, side="right"), np.flatnonzero(self.potential)[-1])
        rows = np.empty(m, np.int64)
        for i, (cell, target) in enumerate(zip(chosen.tolist(), targets.tolist(), strict=True)):
            span = slice(cell * grid.CELL, (cell + 1) * grid.CELL)
            mass = self.closest[span].astype(np.float64)
            if self.source.sample_weight.size:
                mass *= self.source.sample_weight[span]
            within = np.searchsorted(np.cumsum(mass), target - (cells[cell - 1] if cell else 0.0), side="right")
            rows[i] = span.start + min(int(within), int(np.flatnonzero(mass)[-1]))
        return rows

    def _pass(self, candidates: np.ndarray, commit: int) -> np.ndarray:
        """Return each cell's reductions by the candidates, and its potential (n_cells, m + 1)."""
        out = np.empty((len(self.potential), len(candidates) + 1))
        chosen = self.relative[: max(1, self.n_seeds)]

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            first = rows.start // grid.CELL
            nearest.score_seeds(
                X,
                self.source.weights_of(rows),
                self.origin,
                candidates,
                chosen,
                self.closest[rows],
                self.owner[rows],
                commit,
                out[first : first + grid.n_cells(len(X))],
                threads.native_threads(n_threads),
            )

        self.source.each_block(block)
        return out
