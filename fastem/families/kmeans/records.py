"""The records of k-means: parameters, prepared centres, statistics, and what is remembered of each row."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem._native import nearest
from fastem.grid import CELL, n_cells
from fastem.records import Empty, Layout

TOGETHER = 64  # centres that a cache holds


class KMeansParams(NamedTuple):
    """Centres (k, d) float64."""

    centers: np.ndarray


class KMeansPrepared(NamedTuple):
    """Centres as the kernel wants them, in the rows' dtype, and how they moved since the last iteration."""

    origin: np.ndarray  # (d,)
    centers: np.ndarray  # (k, d), relative to the origin
    half_norms: np.ndarray  # (k,), abs(center)^2 / 2
    moved: np.ndarray  # (k,) float64, distance moved since the last iteration; empty in the first, or of a new origin


class KMeansStats(NamedTuple):
    """The additive record."""

    counts: np.ndarray  # (k,) sum of weights
    sums: np.ndarray  # (k, d) sum of w (x - origin)
    inertia: np.ndarray  # () sum of w abs(x - c)^2


@functools.lru_cache
def _layout(k: int, d: int) -> Layout[KMeansStats]:
    return Layout(KMeansStats, counts=(k,), sums=(k, d), inertia=())


class Bounds(NamedTuple):
    """What the bounded algorithm keeps across iterations."""

    upper: np.ndarray  # (n,) at least the distance to the own centre
    lower: np.ndarray  # (n,) at most the distance to every other centre
    changes: np.ndarray  # (n,) uint32, work space
    near: np.ndarray  # (n,) `lower` for the active centres, or empty
    active: np.ndarray  # (k,) bool
    total: np.ndarray  # (size,) the current record
    square: float  # sum of w abs(x - o)^2

    def carry(self, labels: np.ndarray, before: KMeansPrepared, after: KMeansPrepared) -> None:
        """Make bounds by some centres (k, d) hold for others, so that rows that are tied between two fail them.

        Relative to another origin a row is another by the rounding of what is left, eps / 2 of |x - o|.  Tied are
        distances that differ by t eps (D + |x|) / 2, t the roundings of two of them (`is_tied`, differences_body.h).
        No centre is farther than `size` from either origin or from 0, so that |x| and |x - o| are at most upper + size.
        """
        moved, size = _apart(before, after)
        eps = float(np.finfo(self.upper.dtype).eps)
        self.upper[:] = (self.upper + moved[labels]) * (1 + 4 * eps)
        allowed = (2 * nearest.ROUNDINGS_OF_TIES + 4) * eps * (self.upper + size)
        self.lower[:] = self.lower * (1 - 4 * eps) - moved.max() - allowed


def _apart(before: KMeansPrepared, after: KMeansPrepared) -> tuple[np.ndarray, float]:
    """Return how far centres relative to two origins are apart (k,), and the largest norm of any from either or 0."""
    k = len(before.centers)
    moved, farthest = np.empty(k), np.empty(k)

    def some(number: int) -> None:
        rows = slice(number * TOGETHER, (number + 1) * TOGETHER)
        relative = [kept.centers[rows].astype(np.float64) for kept in (before, after)]
        there, here = (own + kept.origin for own, kept in zip(relative, (before, after), strict=True))
        norms = [np.einsum("kj,kj->k", each, each) for each in (there, here, *relative)]
        farthest[rows], here[:] = np.sqrt(np.max(norms, axis=0)), here - there
        moved[rows] = np.sqrt(np.einsum("kj,kj->k", here, here))

    threads.map_tasks(some, -(-k // TOGETHER), threads.allowed())
    return moved, float(farthest.max())


class KMeansMemo:
    """What is kept of a run for each row: the labels, and bounds once the bounded algorithm has made them."""

    def __init__(self, labels: np.ndarray, empty: Empty = np.empty) -> None:
        self.labels = labels  # (n,) int32, nearest centre at the last pass
        self.empty = empty  # makes arrays with an entry for each row
        self.bounds: Bounds | None = None
        self.half_gaps = np.empty(0)  # (k,) half the distance of a centre to the nearest other
        self.passes = 0  # since the last count from zero
        self.begun = False  # a pass was made
        self.last: KMeansPrepared | None = None  # by what
        self.rotated: Any = None  # the rows in a rotated basis (`rotated.RotatedRows`), if that pays
        self.turned: Any = None  # the centres of the last pass in that basis (`rotated.TurnedCenters`)
        self.rotates = False  # of a saved run: rows were rotated, and have not been yet
        self.asks_again = False  # in the next pass, whether a rotation pays
        self.is_part = False  # of another memo, for one pass
        # Ties of the final pass (n,) and (n_cells,), as `nearest.accumulate` writes them.
        # Where there are none, the first is left alone.
        self.tied = empty(len(labels), np.int32), np.zeros(n_cells(len(labels)), np.int32)
        self.noted: tuple[np.ndarray, ...] = ()  # the same in a final pass

    def note_ties(self, final: bool) -> None:
        """Let a pass note the ties that it finds, if it is the final one."""
        self.noted = self.tied if final else ()
        self.tied[1][:] = 0

    def tied_rows(self) -> np.ndarray:
        """Return the numbers of rows that the final pass found as near to two centres, in order."""
        rows, counts = self.tied
        found = [np.empty(0, np.int64)]
        for cell in np.flatnonzero(counts).tolist():
            here = rows[cell * CELL : cell * CELL + counts[cell]]  # numbers from where the pass began, on the grid
            found.append(cell * CELL + here.astype(np.int64) % CELL)
        return np.concatenate(found)

    def state(self) -> dict[str, Any]:
        """Return what a saved run needs: without bounds, every pass writes all labels anew."""
        state: dict[str, Any] = {
            "passes": self.passes,
            "begun": self.begun,
            "half_gaps": self.half_gaps,
            "bounds": None,
            "rotates": self.rotates or self.rotated is not None,
            "asks_again": self.asks_again,
        }
        if self.bounds is not None:
            bounds = self.bounds._asdict()
            del bounds["changes"]  # work space
            state |= {"labels": self.labels, "bounds": bounds}
        return state

    def recall(self, state: dict[str, Any], n_components: int) -> None:
        """Go on from what `state` returned.

        Raises
        ------
        ValueError
            If it is not of so many rows and centres.
        """
        self.passes, self.begun, self.half_gaps = state["passes"], state["begun"], state["half_gaps"]
        self.rotates, self.asks_again = state["rotates"], state["asks_again"]
        bounds, n = state["bounds"], len(self.labels)
        if bounds is None:
            return
        labels = state["labels"]
        of_each = [bounds["upper"], bounds["lower"], *([bounds["near"]] if bounds["near"].size else [])]
        fit = all(array.shape == (n,) for array in (labels, *of_each)) and bounds["active"].shape == (n_components,)
        if not fit or labels.min(initial=0) < 0 or labels.max(initial=0) >= n_components:
            raise ValueError("labels and bounds are not those of these rows")
        self.labels[:] = labels
        for name in ("upper", "lower", "near"):
            array = self.empty(len(bounds[name]), bounds[name].dtype)
            array[:] = bounds[name]
            bounds = {**bounds, name: array}
        self.bounds = Bounds(**bounds, changes=self.empty(n, np.uint32))

    def rows(self, rows: slice) -> KMeansMemo:
        """Return the memo of a run of rows, without bounds."""
        part = KMeansMemo(self.labels[rows])
        part.is_part = part.begun = True
        part.tied = self.tied[0][rows], self.tied[1][rows.start // CELL : n_cells(rows.stop)]
        return part
