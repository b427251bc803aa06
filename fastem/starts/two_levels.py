r"""K-means in two levels, for very many clusters: coarse cells, and fine clusters within each.

A pass of Lloyd's algorithm over n rows and k clusters compares n k pairs.  With g coarse cells, sqrt(k) of them, it is
n g pairs for the cells and about n k / g for the clusters within them: n sqrt(k) each.  What is lost is that a row near
the border of its cell may lie nearer to a cluster of the next; `refine` gives most of it back.  On 60,000 descriptors
of 96 features (`asv_bench/peers/wide.py`), k = 3000, the distortion is 14 % above that of
ten iterations of one level before any refinement, 5.6 % after one pass, 3.2 % after two and 2.3 % after three.

**How many clusters a cell gets.**  Where clusters are many, those of a cell of inertia J_h (about its coarse centre)
leave about J_h k_h^(-2 / d) of it (Zador, "Asymptotic quantization error of continuous signals", IEEE Transactions on
Information Theory 28, 1982).  The sum over cells, with sum k_h = k, is least for

    k_h proportional to J_h^(d / (d + 2)),

rounded by largest remainders, at least one and at most as many as there are rows.

**Refinement.**  Each pass compares the rows of a cell with the clusters of the `NEIGHBOURS` cells whose coarse centres
are nearest to its own, and then moves each cluster to the mean of its rows; one that has none takes the farthest row of
its cell.  A row's own cluster is among them, so that the distortion never rises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.starts.assignment import assign
from fastem.starts.kmeans import kmeans_start, kmeans_tol
from fastem.starts.samples import few

# Cells whose clusters a row is compared with in a pass of the refinement, its own included.
NEIGHBOURS = 16

# Of the share of the cell that pays most, the least that any cell has.
LEAST = 1e-12

# Draws of the samples: of the coarse level, and from the next number on of each cell.
SAMPLES = 2**42


class How(NamedTuple):
    """How the k-means of a level is made."""

    init: str  # a key of `CENTERS`
    max_iter: int
    tol: float  # relative to the mean variance of the features
    rows_per_cluster: int | None  # that are looked at; None: all rows
    seed: int


class Levels(NamedTuple):
    """Clusters of two levels: those of cell h are numbers first[h] to first[h + 1]."""

    coarse: np.ndarray  # (g, d) float64
    centers: np.ndarray  # (k, d) float64
    first: np.ndarray  # (g + 1,) int64
    labels: np.ndarray  # (n,) int32: a row's cluster, the nearest of those that it was compared with
    n_iter: int  # most iterations of a k-means of the second level
    converged: bool  # whether all of them did

    @property
    def cells(self) -> np.ndarray:
        """Cell of each cluster (k,) int32."""
        return np.repeat(np.arange(len(self.coarse), dtype=np.int32), np.diff(self.first))


def fit(source: Any, n_clusters: int, n_coarse: int, how: How) -> Levels:
    """Find coarse cells, and clusters within each.

    Parameters
    ----------
    source : source
        Rows in memory and weights.
    n_clusters, n_coarse : int
        Clusters k, and coarse cells g, at most k.
    how : How
        How each k-means is made.

    Returns
    -------
    Levels
        With at most g cells: those that no row is nearest to are left out.
    """
    coarse, owner, sqdist = _cells(source, n_coarse, how)
    order, bounds = _by_number(owner, len(coarse))
    sizes = _shares(source, owner, sqdist, len(coarse), n_clusters)
    first = np.concatenate([[0], np.cumsum(sizes)])
    centers, labels = np.empty((n_clusters, source.n_features)), np.empty(source.n_rows, np.int32)
    ended: list[Any] = [None] * len(coarse)
    serial = source.with_threads(1)

    def cell(h: int) -> None:
        rows = order[bounds[h] : bounds[h + 1]]
        part = _part(serial, rows)
        found, part_labels, ended[h] = _clusters(part, int(sizes[h]), how, h)
        centers[first[h] : first[h + 1]] = found
        labels[rows] = part_labels + np.int32(first[h])

    _each(cell, bounds, source.n_threads)
    return Levels(coarse, centers, first, labels, max(run[0] for run in ended), all(run[1] for run in ended))


def refine(source: Any, levels: Levels, n_passes: int) -> Levels:
    """Make passes over all rows, each compared with the clusters of neighbouring cells.

    Parameters
    ----------
    source : source
        Rows in memory and weights.
    levels : Levels
        What `fit` found.
    n_passes : int
        Passes.

    Returns
    -------
    Levels
        Clusters that are the means of their rows, and the rows' nearest clusters at the last comparison.
    """
    near = _neighbours(levels.coarse)
    labels, centers, cells = levels.labels.copy(), levels.centers.copy(), levels.cells
    sqdist = np.empty(source.n_rows, source.dtype)
    members = [np.arange(a, b, dtype=np.int32) for a, b in zip(levels.first[:-1], levels.first[1:], strict=True)]
    serial = source.with_threads(1)
    order, bounds = _by_number(cells[labels], len(near))

    def search(h: int) -> None:
        rows = order[bounds[h] : bounds[h + 1]]
        among = np.concatenate([members[other] for other in near[h]])
        found, sqdist[rows] = assign(_part(serial, rows), centers[among])
        labels[rows] = among[found]

    def move(h: int) -> None:
        rows, own = order[bounds[h] : bounds[h + 1]], members[h]
        part, family = _part(serial, rows), KMeansFamily(len(own))
        here = _none_empty(labels[rows] - own[0], len(own), sqdist[rows], part.sample_weight)
        labels[rows] = here + own[0]
        centers[own] = part.partition(family, KMeansParams(centers[own]), here).centers

    for _ in range(n_passes):
        _each(search, bounds, source.n_threads)
        order, bounds = _by_number(cells[labels], len(near))
        _each(move, bounds, source.n_threads)
    return levels._replace(centers=centers, labels=labels)


def shares(pays: np.ndarray, most: np.ndarray, total: int) -> np.ndarray:
    """Share out a number of clusters among cells.

    Parameters
    ----------
    pays : ndarray (g,)
        What the shares are to be in proportion to, at least 0.
    most : ndarray (g,) int
        The largest share of each cell, at least 1.
    total : int
        Their sum: at least g, at most that of `most`.

    Returns
    -------
    ndarray (g,) int64
        At least 1 and at most `most` each; rounded by largest remainders, the first of equals.

    Examples
    --------
    >>> shares(np.array([1.0, 3.0, 0.0]), np.array([9, 9, 9]), 9).tolist()
    [2, 6, 1]
    >>> shares(np.array([1.0, 3.0, 0.0]), np.array([9, 4, 9]), 9).tolist()
    [4, 4, 1]
    """
    weight = np.maximum(pays / pays.max(), LEAST) if pays.max() > 0 else np.ones(len(pays))
    low, high = 1.0, most.max() / LEAST
    for _ in range(100):
        scale = np.sqrt(low * high)
        fits = np.clip(scale * weight, 1, most).sum() <= total
        low, high = (scale, high) if fits else (low, scale)
    exact = np.clip(low * weight, 1, most)
    found = exact.astype(np.int64)
    order = np.argsort(found - exact, kind="stable")
    while found.sum() < total:
        room = order[found[order] < most[order]]
        found[room[: total - int(found.sum())]] += 1
    return found


def _cells(source: Any, n_coarse: int, how: How) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coarse centres (g, d) that have rows, the cell of each row (n,), and its squared distance (n,)."""
    some = few(source, _size(n_coarse, how), Draws(how.seed, SAMPLES))
    centers = _run(some, n_coarse, how, how.seed).params.centers
    labels, sqdist = assign(source, centers)
    seen = np.flatnonzero(np.bincount(labels, minlength=n_coarse))
    number = np.zeros(n_coarse, np.int32)
    number[seen] = np.arange(len(seen))
    return centers[seen], number[labels], sqdist


def _shares(source: Any, owner: np.ndarray, sqdist: np.ndarray, n_cells: int, n_clusters: int) -> np.ndarray:
    """Return the number of clusters of each cell (g,)."""
    w = source.sample_weight
    mass = sqdist.astype(np.float64) * (w if w.size else 1.0)
    inertia = np.bincount(owner, mass, n_cells)
    rows = np.bincount(owner[w > 0] if w.size else owner, minlength=n_cells)
    if rows.sum() < n_clusters:  # rows without weight are as good as none, but there are no others
        rows = np.bincount(owner, minlength=n_cells)
    d = source.n_features
    return shares(inertia ** (d / (d + 2.0)), np.maximum(rows, 1), n_clusters)


def _clusters(part: Any, k: int, how: How, number: int) -> tuple[np.ndarray, np.ndarray, tuple[int, bool]]:
    """Return the centres (k, d) of one cell, the labels of its rows (m,), and iterations and convergence."""
    some = few(part, _size(k, how), Draws(how.seed, SAMPLES + 1 + number))
    run = _run(some, k, how, int(Draws(how.seed, SAMPLES + 1 + number).bits(1)[0]))
    labels = run.memo.labels if some is part else assign(part, run.params.centers)[0]
    return run.params.centers, labels, (run.n_iter, run.converged)


def _run(source: Any, k: int, how: How, seed: int) -> Any:
    settings = Settings(max_iter=how.max_iter, tol=kmeans_tol(source, how.tol))
    return em.run(Problem(source, KMeansFamily(k)), kmeans_start(k, how.init), settings=settings, seed=seed).best


def _none_empty(labels: np.ndarray, k: int, sqdist: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return labels (m,) of k clusters of which those without rows got one each that is far from its centre."""
    sizes = np.bincount(labels if not w.size else labels[w > 0], minlength=k)
    empty = np.flatnonzero(sizes == 0)
    if not empty.size:
        return labels
    labels, far = labels.copy(), np.argsort(-sqdist, kind="stable")
    candidates = iter(far[sqdist[far] > 0] if not w.size else far[(sqdist[far] > 0) & (w[far] > 0)])
    for cluster in empty:
        row = next((row for row in candidates if sizes[labels[row]] > 1), None)
        if row is None:
            break
        sizes[labels[row]] -= 1
        labels[row] = cluster
    return labels


def _size(k: int, how: How) -> int:
    return 2**62 if how.rows_per_cluster is None else how.rows_per_cluster * k


def _part(source: Any, rows: np.ndarray) -> Any:
    """Return some rows with their weights; of rows that weigh nothing, each counts."""
    w = source.sample_weight[rows] if source.sample_weight.size else source.sample_weight
    return source.subset(rows, w if w.any() else w[:0])


def _by_number(numbers: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (n,) in the order of their numbers, and where each number begins (count + 1,)."""
    order = np.argsort(numbers, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=count))])


def _each(task: Callable[[int], None], bounds: np.ndarray, n_threads: int) -> None:
    """Call ``task(cell)`` for all cells that have rows, those of most rows first, in several threads."""
    sizes = np.diff(bounds)
    cells = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    with threads.single_threaded_blas():
        threads.map_tasks(lambda place: task(int(cells[place])), len(cells), n_threads)


def _neighbours(coarse: np.ndarray) -> list[np.ndarray]:
    """Return the numbers of the nearest cells of each cell, itself first."""
    norms = np.square(coarse).sum(axis=1)
    sqdist = norms[:, None] + norms - 2.0 * (coarse @ coarse.T)
    np.fill_diagonal(sqdist, -np.inf)
    return list(np.argsort(sqdist, axis=1, kind="stable")[:, :NEIGHBOURS])
