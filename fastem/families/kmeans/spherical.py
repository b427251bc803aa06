"""Spherical k-means: rows and centres of length 1, so that the nearest centre is the one of the largest cosine."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import grid, threads
from fastem._native import nearest
from fastem.families.base import MStep
from fastem.families.kmeans.family import KMeansFamily
from fastem.families.kmeans.records import KMeansParams, KMeansPrepared, KMeansStats


class SphericalKMeansFamily(KMeansFamily):
    """K-means on the unit sphere: the nearest of the unit centres is the one of largest cosine.

    For unit vectors abs(x - c)^2 = 2 (1 - cos(x, c)), so that rows and their `unit_rows` go through the same E-step and
    bounds.  The M-step over unit centres is the mean divided by its norm (Dhillon and Modha, "Concept decompositions
    for large sparse text data using clustering", Machine Learning 42, 2001).
    """

    name = "spherical_kmeans"
    on_sphere = True

    def m_step(self, stats: KMeansStats, constants: None, prepared: KMeansPrepared, params: KMeansParams) -> MStep:
        centers = super().m_step(stats, constants, prepared, params).params.centers
        nearest.project_centers(params.centers, centers)
        return MStep(KMeansParams(centers))


def unit_rows(X: np.ndarray, n_threads: int = 1) -> np.ndarray:
    """Return the rows (n, d) divided by their norms, in X's dtype; rows of zeros stay zero.

    A row's result depends on that row alone, so that predict sees what fit saw.
    """
    X = np.ascontiguousarray(X)
    out = np.empty_like(X)

    def cell(number: int) -> None:
        rows = slice(number * grid.CELL, (number + 1) * grid.CELL)
        nearest.unit_rows(X[rows], out[rows])

    threads.map_tasks(cell, grid.n_cells(len(X)), n_threads)
    return out


def unit_csr_rows(X: Any) -> Any:
    """Return `unit_rows` of a CSR matrix."""
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    largest = np.zeros(X.shape[0])
    np.maximum.at(largest, row, np.abs(X.data))
    data = X.data / np.where(largest > 0, largest, 1.0)[row]
    norms = np.sqrt(np.bincount(row, np.square(data), minlength=X.shape[0]))
    data /= np.where(norms > 0, norms, 1.0)[row]
    return type(X)((data.astype(X.dtype), X.indices, X.indptr), shape=X.shape)
