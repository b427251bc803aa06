"""Rows in clusters, and single rows that change their cluster where that lowers the distortion."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem._native import nearest

ROUNDINGS_OF_TIES = nearest.ROUNDINGS_OF_TIES


class Partition:
    """Clusters of dense rows, by their means.

    Parameters
    ----------
    centers : ndarray (k, d) float64
        The means; of a cluster without rows, any point.
    counts : ndarray (k,) float64
        Weights.
    """

    def __init__(self, centers: np.ndarray, counts: np.ndarray) -> None:
        self.centers = centers
        self.counts = counts

    def move(self, rows: np.ndarray, w: np.ndarray, labels: np.ndarray, roundings: float) -> int:
        """Move single rows, one after the other, until no move lowers the distortion; return how many moved.

        Parameters
        ----------
        rows : ndarray (m, d)
            Rows of the partition, in the order in which they are asked.
        w : ndarray (m,) float64
            Their weights.
        labels : ndarray (m,) int32
            Their clusters; they follow.
        roundings : float
            By how many roundings of a coordinate a mean may be farther than the own to be considered.
        """
        reach = roundings * float(np.finfo(rows.dtype).eps)
        return nearest.move_rows(rows, w, labels, self.counts, self.centers, reach)


class CSRPartition:
    """Clusters of CSR rows, by the sums of their rows, features first: a move costs order values.

    Parameters
    ----------
    sums : ndarray (d, k) float64
        Sums of w x; of a cluster without weight, its centre.
    counts : ndarray (k,) float64
        Weights.
    n_threads : int
        Threads that compute the norms of the sums.
    """

    def __init__(self, sums: np.ndarray, counts: np.ndarray, n_threads: int) -> None:
        self.counts = counts
        self._sums = sums
        self._norms = np.empty((2, len(counts)))
        nearest.csr_norms(sums, self._norms, n_threads)

    @property
    def centers(self) -> np.ndarray:
        """The means (k, d) float64."""
        return np.divide(self._sums.T, np.where(self.counts > 0, self.counts, 1.0)[:, None], order="C")

    def move(self, rows: Any, w: np.ndarray, labels: np.ndarray, roundings: float) -> int:
        """Move single rows (`CSRRows`), as `Partition.move` does."""
        reach = roundings * float(np.finfo(rows.by_row[2].dtype).eps)
        return nearest.csr_move_rows(*rows.by_row, w, labels, self.counts, self._sums, self._norms, reach)
