"""Half the distance of each centre to the nearest other: a row nearer to its own needs no look (Hamerly, 2010)."""

from __future__ import annotations

import numpy as np

from fastem import threads
from fastem._native import nearest
from fastem.families.kmeans.records import KMeansMemo, KMeansPrepared

# Rows for each centre from which the distances between centres pay.
GAPS_PAY = 32
# Distances between centres that are held at a time.
GAPS = 2**22


def half_gaps(prepared: KMeansPrepared, memo: KMeansMemo, n_threads: int) -> np.ndarray:
    """Return half the distance (k,) of each centre to the nearest other, or less.

    Only distances to centres that moved are new: the others' gaps are at least what they were or the nearest of
    these.  They cost k^2 d, and are left at 0 where that is much beside a pass, or a search by rotation.
    """
    centers, k = prepared.centers, len(prepared.centers)
    if memo.rotated is not None or GAPS_PAY * k > len(memo.labels):
        return np.zeros(k)
    moved = np.flatnonzero(prepared.moved) if memo.half_gaps.size else np.arange(k)
    to_moved, of_moved = np.full(k, np.inf), np.empty(len(moved))
    step = max(1, GAPS // k)
    for first in range(0, len(moved), step):
        some = moved[first : first + step]
        sqdist = np.empty((len(some), k), centers.dtype)
        nearest.distances(centers[some], centers, sqdist, threads.native_threads(n_threads))
        sqdist[np.arange(len(some)), some] = np.inf
        of_moved[first : first + step] = sqdist.min(axis=1)
        np.minimum(to_moved, sqdist.min(axis=0), out=to_moved)
    gaps = _half_distances(to_moved, centers)
    if memo.half_gaps.size:
        gaps = np.minimum(gaps, memo.half_gaps)
    gaps[moved] = _half_distances(of_moved, centers)
    memo.half_gaps = gaps
    return gaps


def _half_distances(sqdist: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return half of each distance, or less by the rounding of its square: d + 8 times relative, or of an underflow."""
    kind, d = np.finfo(centers.dtype), centers.shape[1]
    certain = sqdist * (1.0 - (d + 8) * float(kind.eps)) - d * float(kind.tiny)
    return np.asarray(0.5 * np.sqrt(np.maximum(certain, 0.0)))
