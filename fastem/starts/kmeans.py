"""Starts of k-means: rows chosen by k-means++, k-means|| or at random, or given centres (lecture row L1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastem import grid
from fastem._native import nearest
from fastem.draws import Draws
from fastem.engine.em import Start
from fastem.engine.problem import Problem, variances
from fastem.families.kmeans import KMeansParams
from fastem.sources.csr import CSRSource
from fastem.starts.kmeans_parallel import kmeans_parallel
from fastem.starts.kmeans_plus_plus import kmeans_plus_plus, random_rows

CenterStart = Callable[[Any, Draws], np.ndarray]  # (source, draws) -> centres (k, d) float64


CENTERS: dict[str, Callable[[Any, int, Draws], np.ndarray]] = {
    "k-means++": kmeans_plus_plus,
    "k-means||": kmeans_parallel,
    "random": random_rows,
}


def kmeans_start(n_clusters: int, init: str | np.ndarray | CenterStart) -> Start:
    """Return the start of k-means: a key of `CENTERS`, given centres (k, d), or ``init(source, draws)``."""

    def start(problem: Problem, draws: Draws) -> KMeansParams:
        source = problem.source
        if isinstance(init, np.ndarray):
            return KMeansParams(init)
        return KMeansParams(CENTERS[init](source, n_clusters, draws) if isinstance(init, str) else init(source, draws))

    return start


def kmeans_tol(source: Any, tol: float) -> float:
    """Return scikit-learn's tolerance on the centres' squared movement: `tol` times the mean variance."""
    if not tol:
        return 0.0
    if isinstance(source, CSRSource):
        return tol * source.mean_variance
    if source.array is not None and source.n_rows <= grid.CELL:
        return tol * nearest.mean_variance(source.array, source.sample_weight)
    return tol * float(variances(source).mean())
