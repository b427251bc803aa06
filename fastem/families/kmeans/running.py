"""Means that move with every batch of rows: each is that of all the rows that its centre has met."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem._native import nearest
from fastem.families.kmeans.csr import CSRCenters, CSRKMeansFamily, empty_panel
from fastem.families.kmeans.family import KMeansFamily
from fastem.families.kmeans.records import KMeansParams


class Moves(NamedTuple):
    """Means that are put elsewhere, whatever they have met."""

    which: np.ndarray  # (m,)
    rows: Any  # (m, d) where to, as the family reads rows
    weight: float  # as if each had met its row with this weight


class RunningMeans:
    """Running means of dense rows.

    Parameters
    ----------
    family : KMeansFamily
        What finds the nearest centre.
    centers : ndarray (k, d)
        Where they begin: kept until a row is met, if nothing has been met yet.
    counts : ndarray (k,) float64
        Weight of the rows that each has met.
    """

    def __init__(self, family: KMeansFamily, centers: np.ndarray, counts: np.ndarray) -> None:
        self.family = family
        self.counts = counts.copy()
        self._means = np.array(centers, np.float64)

    @property
    def centers(self) -> np.ndarray:
        """The means (k, d), to be looked at."""
        return self._means

    def prepare(self, dtype: np.dtype) -> Any:
        """Return what an E-step needs of them."""
        return self.family.prepare(KMeansParams(self._means), dtype)

    def meet(self, stats: Any, prepared: Any, moves: Moves | None) -> float:
        """Take in the rows of an E-step's statistics, then move some; return the squared movement, summed."""
        self.counts += stats.counts
        met = stats.counts > 0
        deviations = stats.sums[met] - stats.counts[met, None] * (self._means[met] - prepared.origin)
        moved = self._means.copy()
        moved[met] += deviations / self.counts[met, None]
        if moves is not None:
            moved[moves.which], self.counts[moves.which] = moves.rows, moves.weight
        change = float(np.square(moved - self._means).sum())
        self._means = moved
        return change

    def settled(self) -> np.ndarray:
        """Return the means (k, d); nothing may be asked of the object any more."""
        return self._means

    def state(self) -> dict[str, np.ndarray]:
        """Return what they are, as arrays that `recall` takes; nothing is copied."""
        return {"counts": self.counts, "means": self._means}

    def recall(self, state: dict[str, np.ndarray]) -> None:
        """Become what `state` was taken of."""
        self.counts[:], self._means[:] = state["counts"], state["means"]


class CSRRunningMeans(RunningMeans):
    """Running means of CSR rows, in time of order values of a batch: sums (d, k), each column with a scale.

    A mean is its sum over its weight, so that a batch changes the sums at its own values alone, and the norms by what
    these changed.  A centre that has met nothing is a sum of weight 1, and is cleared when it meets its first row.
    """

    def __init__(self, family: CSRKMeansFamily, centers: np.ndarray, counts: np.ndarray, dtype: np.dtype) -> None:
        self.family = family
        self.counts = counts.copy()
        self._sums = empty_panel(*centers.shape[::-1], dtype)
        np.multiply(centers.T, self._mass, out=self._sums, casting="same_kind")
        self._norms = np.empty((2, len(counts)))
        nearest.csr_norms(self._sums, self._norms, 1)

    @property
    def _mass(self) -> np.ndarray:
        return np.where(self.counts > 0, self.counts, 1.0)

    @property
    def centers(self) -> np.ndarray:
        return np.asarray((self._sums / self._mass).T)

    def prepare(self, dtype: np.dtype) -> CSRCenters:
        scale = np.zeros(len(self.counts) + nearest.CSR_BEYOND, dtype)
        scale[: len(self.counts)] = 1.0 / self._mass
        return CSRCenters(self._sums, self._norms * np.square(scale[: len(self.counts)], dtype=np.float64), scale)

    def meet(self, stats: Any, prepared: CSRCenters, moves: Moves | None) -> float:
        before, w, rows = prepared.norms(1)[0], stats.w, stats.rows
        met = stats.counts > 0
        # Inner products of the rows with the centres that they belong to, by their distances.
        products = 0.5 * (rows.squares + before[stats.labels] - stats.sqdist)
        across = np.bincount(stats.labels, products * w if w.size else products, len(before)) + self.counts * before
        away = np.empty(0) if moves is None else self._distances(moves, prepared)
        self._clear(np.flatnonzero(met & ~(self.counts > 0)))
        self.counts += stats.counts
        nearest.csr_add(*rows.by_row, w, stats.labels, self._sums, self._norms)
        change = self._norms[0] / np.square(self._mass) + before - 2.0 * across / self._mass
        change[~met] = 0.0
        if moves is not None:
            change[moves.which] = away
            self._move(moves)
        return float(np.maximum(change, 0.0).sum())

    def _distances(self, moves: Moves, prepared: CSRCenters) -> np.ndarray:
        """Return the squared distances (m,) over which centres are moved."""
        out = np.empty((len(moves.which), len(self.counts)), self._sums.dtype)
        nearest.csr_distances(*moves.rows.by_row, moves.rows.squares, *prepared.arguments(1), out, 1)
        return out[np.arange(len(out)), moves.which]

    def _move(self, moves: Moves) -> None:
        self._clear(moves.which)
        self.counts[moves.which] = moves.weight
        mass = self._mass[moves.which].astype(self._sums.dtype)
        nearest.csr_add(*moves.rows.by_row, mass, moves.which.astype(np.int32), self._sums, self._norms)

    def _clear(self, which: np.ndarray) -> None:
        if len(which) == self._sums.shape[1]:
            self._sums[:] = 0
        else:
            nearest.csr_clear(self._sums, which.astype(np.int32))
        self._norms[:, which] = 0.0

    def state(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts, "sums": self._sums, "norms": self._norms}

    def recall(self, state: dict[str, np.ndarray]) -> None:
        self.counts[:], self._sums[:], self._norms[:] = state["counts"], state["sums"], state["norms"]

    def settled(self) -> np.ndarray:
        nearest.csr_scale(self._sums, 1.0 / self._mass, 1)
        return self._sums.T


def running_means(family: KMeansFamily, centers: np.ndarray, counts: np.ndarray, dtype: np.dtype) -> RunningMeans:
    """Return running means that begin at `centers` (k, d), which have met these weights (k,)."""
    if isinstance(family, CSRKMeansFamily):
        return CSRRunningMeans(family, centers, counts, dtype)
    return RunningMeans(family, centers, counts)
