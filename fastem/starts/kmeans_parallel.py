"""k-means||: many candidate centres in a few passes, for many clusters and for rows that are costly to pass over.

k-means++ passes over the rows once for each centre.  k-means|| draws as many rows as there are clusters in each of a
few rounds, each row in proportion to its weighted squared distance to the candidates of the rounds before; in the end
greedy k-means++ chooses among the candidates, each weighted by the rows that are nearest to it.

Measured (float32, k-means++ beside it): the start takes 0.75 and 2.7 s at 100k x 128, k = 1000, 0.18 and 0.44 s at
1M x 16, k = 100; the distortion after the fit is 0.4 % lower and 1 % higher.

References
----------
Bahmani, Moseley, Vattani, Kumar and Vassilvitskii, "Scalable k-means++", VLDB 2012.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import grid
from fastem.draws import Draws
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.sources.memory import MemorySource
from fastem.starts.kmeans_plus_plus import draw_in_cells, kmeans_plus_plus

# Rounds after the first candidate, and candidates of a round for each cluster.
ROUNDS = 5
OVERSAMPLING = 1.0


def kmeans_parallel(source: Any, n_clusters: int, draws: Draws) -> np.ndarray:
    """Choose centres among the rows by k-means||.

    Parameters
    ----------
    source : source
        Rows and weights.
    n_clusters : int
        Number of centres k, at most the number of rows.
    draws : Draws
        Random numbers.

    Returns
    -------
    ndarray (k, d) float64
        The centres.
    """
    first = source.sample_rows(1, draws)
    closest, owner = source.empty(source.n_rows, source.dtype), source.empty(source.n_rows, np.int32)
    closest[:], owner[:] = np.inf, 0
    candidates = [first]
    _bring_near(source, first, 0, closest, owner)
    wanted = max(1, int(OVERSAMPLING * n_clusters))
    for _ in range(ROUNDS):
        potential = _potential(source, closest)
        if not potential.sum() > 0:  # every row coincides with a candidate
            break
        rows = np.unique(draw_in_cells(closest, source.sample_weight, potential, draws.uniform(wanted)))
        candidates.append(source.take(rows))
        _bring_near(source, candidates[-1], sum(map(len, candidates[:-1])), closest, owner)
    found = np.ascontiguousarray(np.concatenate(candidates))
    mass = _mass(source, owner, len(found)).astype(source.dtype)
    seen = np.flatnonzero(mass)
    if len(seen) < n_clusters:
        return kmeans_plus_plus(source, n_clusters, draws)
    return kmeans_plus_plus(MemorySource(found[seen], mass[seen], n_threads=source.n_threads), n_clusters, draws)


def _bring_near(source: Any, fresh: np.ndarray, number: int, closest: np.ndarray, owner: np.ndarray) -> None:
    """Let each row find out whether one of the `fresh` candidates (m, d), numbered from `number`, is its nearest."""
    family = source.served_by(KMeansFamily(len(fresh)))
    prepared = family.prepare(KMeansParams(fresh.astype(np.float64)), source.dtype)

    def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
        labels, sqdist = family.assign(X, prepared, n_threads)
        nearer = sqdist < closest[rows]
        np.copyto(closest[rows], sqdist, where=nearer)
        np.copyto(owner[rows], labels + np.int32(number), where=nearer)

    source.each_block_for(family, block)


def _mass(source: Any, owner: np.ndarray, n_candidates: int) -> np.ndarray:
    """Return the weight of the rows of each candidate, float64."""

    def cell(rows: slice) -> np.ndarray:
        w = source.weights_of(rows)
        return np.bincount(owner[rows], w.astype(np.float64) if w.size else None, n_candidates).astype(np.float64)

    return source.fold_entries(cell, n_candidates)


def _potential(source: Any, closest: np.ndarray) -> np.ndarray:
    """Return the sum of w closest over each grid cell, float64."""

    def run(rows: slice) -> np.ndarray:
        w = source.weights_of(rows)
        mass = closest[rows] * w if w.size else closest[rows]
        return np.add.reduceat(mass, np.arange(0, len(mass), grid.CELL), dtype=np.float64)

    return np.concatenate(source.of_entries(run))
