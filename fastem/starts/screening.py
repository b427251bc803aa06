"""Candidates of k-means++ are held against rotated rows, then in full (`src/kmeans/screened_body.h`)."""

from __future__ import annotations

import numpy as np

from fastem import threads
from fastem._native import nearest
from fastem.families.kmeans.basis import SHARE, error_of_rows
from fastem.families.kmeans.rotated import RotatedRows


class Screening:
    """Rows in a rotated basis, ready for candidates.

    Parameters
    ----------
    X, sample_weight : ndarray (n, d), (n,) or (0,)
        Rows and weights.
    known : RotatedRows
        The rows in the rotated basis.
    closest, owner : ndarray (n,)
        Squared distance of each row to its nearest seed, and which that is; brought up to date by `commit`.
    n_threads : int
        Threads to use.
    """

    def __init__(
        self, X: np.ndarray, sample_weight: np.ndarray, known: RotatedRows, closest: np.ndarray, owner: np.ndarray,
        n_threads: int,
    ) -> None:  # fmt: skip
        self.X, self.known = X, known
        self._screen = nearest.Screen(
            X, sample_weight, known.rows, known.row_error, closest, owner,
            threads.native_threads(n_threads),
        )  # fmt: skip

    def score(self, numbers: np.ndarray) -> tuple[np.ndarray, float]:
        """Return by how much rows, by their numbers (m,), lower the potential as seeds (m,), and about what that cost.

        The cost is a share of what comparing every pair by itself would be.
        """
        candidates, rows = self.X[numbers], self.known.rows[numbers]
        eps = float(np.finfo(candidates.dtype).eps)
        square = np.square(rows[:, : nearest.ROTATED_FIRST], dtype=np.float64).sum(axis=1)
        error = error_of_rows(square, rows[:, -1].astype(np.float64), self.known.row_error, eps)
        allowance = (1 + 1 / SHARE) * np.square(error)
        half = (-0.5 * (square * (1 - 24 * eps) - allowance)).astype(candidates.dtype)
        out = np.empty(len(candidates))
        pairs = self._screen.score(candidates, rows, half, allowance / (1 + SHARE) * (1 + 2 * eps), out)
        return out, pairs / (len(self.known.rows) * len(candidates))

    def commit(self, candidate: int, seed: int, potential: np.ndarray) -> None:
        """Make a candidate that was scored last the seed of that index, and note the potential of each grid cell."""
        self._screen.commit(candidate, seed, potential)
