"""Rows and their nearest centres, all of them compared."""

from __future__ import annotations

import numpy as np

from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.sources.base import Source


def assign(source: Source, centers: np.ndarray, guess: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest of `centers` (k, d) for each row of a source (n,) int32, and the squared distance (n,).

    Parameters
    ----------
    source : source
        The rows.
    centers : ndarray (k, d)
        Centres.
    guess : ndarray (n,) int32 or None
        A near centre of each row, which may make it faster.
    """
    family = source.served_by(KMeansFamily(len(centers), "auto"))
    prepared = family.prepare(KMeansParams(centers), source.dtype)
    labels, sqdist = source.empty(source.n_rows, np.int32), source.empty(source.n_rows, source.dtype)

    def block(part: np.ndarray, rows: slice, n_threads: int) -> None:
        family.assign_into(
            part, prepared, labels[rows], sqdist[rows], n_threads, None if guess is None else guess[rows]
        )

    source.each_block_for(family, block)
    return labels, sqdist


def inertia_of(source: Source, centers: np.ndarray, guess: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Return the nearest centre of each row (n,) int32, and the distortion; see `assign`."""
    labels, sqdist = assign(source, centers, guess)
    w, distances = source.sample_weight.astype(np.float64), sqdist.astype(np.float64)
    return labels, float(distances @ w if w.size else distances.sum())
