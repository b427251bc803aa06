"""Rows and centres in a rotated basis, by which most centres are left out (`src/kmeans/rotated_body.h`).

A rotated row holds its coordinates in leading principal directions of a sample of the rows, relative to the sample's
mean, and the norm of the rest, after the first few directions and after all.  Any directions are right; these leave out
the most.

Rounding.  With eps of the rows' type, T = `STRIP` features that are summed in it before float64 takes over, and P
directions V that are orthonormal but for |V'V - I| = f: each coordinate of a row x is off by at most
(T + 4) eps / 2 |x - m| |V_j|, all of them by ((T + 4) sqrt(P) / 2 + 2) eps + f of |x - m|.  Those of a centre are
summed in float64, and off by (2 eps + f) |c - m| and by what the origin loses.  The squared norm of the rest is that of
all minus that of the coordinates, off by 2.5 times as much of |x - m|^2; its root, r, by that divided by r, or by its
own root where r is small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem._native import nearest
from fastem.draws import Draws
from fastem.grid import CELL, n_cells

# Rows from which the directions are found, at most and at least, further directions that make the leading ones
# converge, and how often these are multiplied by the covariance.  4096 rows and a third time took twice the time and
# left out 1 % more (patches of photographs, 60,000 x 768, k = 1000).
SAMPLE, LEAST_SAMPLE = 2048, 512
SPARE, TIMES = 8, 2
# Features that are summed in the rows' type.
STRIP = 128
# a of rotated_body.h: the share by which squared limits grow, so that errors of centres need not be known by pair.
SHARE = 1.0 / 1024
# Squared norms, by type, up to which nothing overflows.
LARGEST = {np.dtype(np.float32): 1e30, np.dtype(np.float64): 1e250}

# Centres from which the number of a pair of a row and a centre has no room in 32 bits.
MOST_CENTERS = 2**24

# Multiply-adds of a full pass from which a sample is asked, of how many rows, and the share of a full pass that a
# search by rotation must not exceed.  A multiply-add of the first step, of the second and of the third costs so many of
# it.
WORK = 2_000_000_000
ASKED = 128
PAYS = 0.7
TILED, PICKED, COMPARED = 2.5, 6.0, 2.0
# The same of the rotation of the rows.
TURNED = 8.0
# A sample in which the directions are found costs 5 multiply-adds for each of its numbers and directions; it may be so
# large that these are a tenth of a full pass.
FOUND = 50

# Share of the centres that may have moved for rows to be held against these first.
MOVERS = 0.5

# Rows, and centres, that have about one box: those of a block and a panel of the kernel.
BOX_ROWS, BOX_CENTERS = 24, 4

DIRECTIONS = nearest.ROTATED - 2
FIRST = nearest.ROTATED_FIRST - 1


class Basis(NamedTuple):
    """Leading directions, the first the widest, both in the rows' dtype."""

    mean: np.ndarray  # (d,)
    directions: np.ndarray  # (d, DIRECTIONS)


class RotatedRows(NamedTuple):
    """Rows in a rotated basis, and the basis."""

    basis: Basis
    wide: np.ndarray  # (d, ROTATED) float64, the directions, then columns of zeros
    skew: float  # by how much the directions are not orthonormal
    rows: np.ndarray  # (n, ROTATED)
    order: np.ndarray  # (n,) uint16, rows of each cell by their numbers there, neighbours near each other
    row_error: float  # a rotated row is off by so much of its norm

    def same_of(self, X: np.ndarray) -> np.ndarray:
        """Return other rows (m, d), none of a larger norm, in the same basis."""
        out = np.empty((len(X), nearest.ROTATED), X.dtype)
        _rotate_cell(X, *self.basis, out)
        return out


def rotate(
    X: np.ndarray, basis: Basis, n_threads: int, empty: Callable[..., np.ndarray] = np.empty
) -> RotatedRows | None:
    """Return rows (n, d) in a basis, or None where their squares overflow."""
    directions = basis.directions.astype(np.float64)
    skew = float(np.linalg.norm(directions.T @ directions - np.eye(DIRECTIONS)))
    eps = float(np.finfo(X.dtype).eps)
    row_error = ((STRIP + 4) * DIRECTIONS**0.5 / 2 + 2) * eps + skew
    rotated, order = empty((len(X), nearest.ROTATED), X.dtype), empty(len(X), np.uint16)
    largest = np.empty(n_cells(len(X)))

    def cell(number: int) -> None:
        rows = slice(number * CELL, (number + 1) * CELL)
        largest[number] = _rotate_cell(X[rows], *basis, rotated[rows])
        order[rows] = in_boxes(rotated[rows], BOX_ROWS)

    with threads.single_threaded_blas():
        threads.map_tasks(cell, len(largest), n_threads)
    if not largest.max() < LARGEST[X.dtype]:
        return None
    wide = np.zeros((X.shape[1], nearest.ROTATED))
    wide[:, :DIRECTIONS] = directions
    return RotatedRows(basis, wide, skew, rotated, order, row_error)


class Rotations:
    """Rows in a rotated basis, kept for the restarts of a fit."""

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, RotatedRows | None] | None = None
        self._basis: tuple[np.ndarray, Basis | None] | None = None

    def of(
        self, X: np.ndarray, prepared: Any, asked: bool, n_threads: int, empty: Callable[..., np.ndarray]
    ) -> RotatedRows | None:
        """Return the rotated rows, made once for the same array, if they are asked for, or pay by a sample.

        Where they don't pay, other centres may be asked for later.
        """
        if self._last is not None and self._last[0] is X:
            return self._last[1]
        if not asked and X.size * len(prepared.centers) < WORK:
            return None
        if self._basis is None or self._basis[0] is not X:
            self._basis = X, find_basis(X, len(prepared.centers))
        basis = self._basis[1]
        if basis is not None and not asked and share_of_work(X, basis, prepared) > PAYS:
            return None
        self._last = X, None if basis is None else rotate(X, basis, n_threads, empty)
        return self._last[1]

    def for_one_pass(self, X: np.ndarray, prepared: Any, blind: bool, n_threads: int) -> RotatedRows | None:
        """Return the rotated rows if they are known, or pay by a sample for a single pass; these are not kept.

        Such a pass pays for the rotation itself, and, if it is `blind`, twice for the first step.
        """
        known = self.known(X)
        if known is not None or X.size * len(prepared.centers) < WORK:
            return known
        k, d = prepared.centers.shape
        basis = find_basis(X, k)
        if basis is None:
            return None
        share = share_of_work(X, basis, prepared) + TURNED * DIRECTIONS / k
        if blind:
            share += TILED * nearest.ROTATED_FIRST / d
        return rotate(X, basis, n_threads) if share <= PAYS else None

    def known(self, X: np.ndarray) -> RotatedRows | None:
        """Return the rotated rows if they have been made."""
        return self._last[1] if self._last is not None and self._last[0] is X else None


def possible(n_features: int, k: int) -> bool:
    """Tell whether rows can be searched by a rotation at all."""
    return n_features >= nearest.ROTATED and nearest.LEAST_ROTATED <= k < MOST_CENTERS


def share_of_work(X: np.ndarray, basis: Basis, prepared: Any) -> float:
    """Return about what a search by rotation costs beside one that compares every row with every centre.

    A sample of the rows tells which share of all pairs each step leaves.  Steps that pick pairs pay more for each
    number than a tile does; where the first leaves many, a tile takes the second's numbers.
    """
    rows = X[:: max(1, len(X) // ASKED)][:ASKED].astype(np.float64)
    centers = prepared.centers + prepared.origin.astype(np.float64)
    k, d = centers.shape
    sqdist = _between(rows, centers)
    nearest_of_all = np.maximum(sqdist.min(axis=1, keepdims=True), 0.0)
    left = []
    for size in (FIRST, DIRECTIONS):
        directions = basis.directions[:, :size].astype(np.float64)
        inside = [(table - basis.mean) @ directions for table in (rows, centers)]
        norms = [np.square(table - basis.mean).sum(axis=1) for table in (rows, centers)]
        rest = [np.sqrt(np.maximum(a - np.square(b).sum(axis=1), 0.0)) for a, b in zip(norms, inside, strict=True)]
        bound = _between(*inside) + np.square(rest[0][:, None] - rest[1])
        left.append(float(np.mean(bound <= nearest_of_all)))
    compared = COMPARED * (left[1] * d + d / k)
    second = min(PICKED * left[0], TILED) * nearest.ROTATED
    return (TILED * nearest.ROTATED_FIRST + second + compared) / d


def _between(rows: np.ndarray, centers: np.ndarray) -> np.ndarray:
    norms = [np.square(table).sum(axis=1) for table in (rows, centers)]
    return norms[0][:, None] + norms[1] - 2.0 * (rows @ centers.T)


def find_basis(X: np.ndarray, k: int) -> Basis | None:
    """Return the mean of a sample of rows and their leading directions, or None where squares overflow.

    The sample is of so many rows that it costs little beside a pass over all rows and k centres.
    """
    wanted = int(np.clip(len(X) * k / (FOUND * DIRECTIONS), LEAST_SAMPLE, SAMPLE))
    sample = X[:: max(1, len(X) // wanted)]
    mean = sample.mean(axis=0, dtype=np.float64).astype(sample.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = sample - mean
        square = np.einsum("ij,ij->", rows, rows, dtype=np.float64)
    if not square < LARGEST[sample.dtype]:
        return None
    d, found = rows.shape[1], min(rows.shape[1], DIRECTIONS + SPARE)
    directions = Draws(0, 0).normal(d * found).reshape(d, found).astype(sample.dtype)
    rows /= np.sqrt(square) or 1.0
    for _ in range(TIMES):
        directions = np.linalg.qr(rows.T @ (rows @ directions))[0]
    inside = rows @ directions
    _, turn = np.linalg.eigh(inside.T.astype(np.float64) @ inside)
    leading = directions.astype(np.float64) @ turn[:, ::-1][:, :DIRECTIONS]
    return Basis(mean, np.ascontiguousarray(np.linalg.qr(leading)[0].astype(sample.dtype)))


def _rotate_cell(X: np.ndarray, mean: np.ndarray, basis: np.ndarray, out: np.ndarray) -> float:
    """Write rotated rows and return the largest squared norm."""
    with np.errstate(over="ignore", invalid="ignore"):
        rows = X - mean
        norms = np.zeros(len(X))
        coordinates = np.zeros((len(X), DIRECTIONS))
        for first in range(0, X.shape[1], STRIP):
            part = rows[:, first : first + STRIP]
            coordinates += part @ basis[first : first + STRIP]
            norms += np.einsum("ij,ij->i", part, part)
        arrange(coordinates, norms, out)
        return float(norms.max())


def in_boxes(points: np.ndarray, size: int) -> np.ndarray:
    """Return an order (m,) in which so many points in a row lie near each other in the first two coordinates.

    Strips of the first are ordered by the second, of such a width that what a box holds is about as wide as high.
    """
    boxes = len(points) / size
    across, along = points[:, :2].std(axis=0, dtype=np.float64)
    n_strips = int(np.clip(np.sqrt(boxes * across / along), 1, max(boxes, 1))) if along > 0 else max(int(boxes), 1)
    strips = np.array_split(np.argsort(points[:, 0], kind="stable"), n_strips)
    return np.concatenate([strip[np.argsort(points[strip, 1], kind="stable")] for strip in strips])


def arrange(coordinates: np.ndarray, norms: np.ndarray, out: np.ndarray) -> None:
    """Write coordinates (m, DIRECTIONS), and the norms of what they leave of rows of squared `norms` (m,)."""
    out[:, :FIRST], out[:, FIRST + 1 : -1] = coordinates[:, :FIRST], coordinates[:, FIRST:]
    for place, part in ((FIRST, out[:, :FIRST]), (nearest.ROTATED - 1, out[:, FIRST + 1 : -1])):
        norms = np.maximum(norms - np.einsum("ij,ij->i", part, part, dtype=np.float64), 0.0)
        out[:, place] = np.sqrt(norms)


class TurnedCenters(NamedTuple):
    """Centres in a rotated basis, and in which order a search takes them."""

    numbers: np.ndarray  # (k, ROTATED)
    half_norms: np.ndarray  # (k,) lowered by what is not known of them
    allowance: np.ndarray  # (k,) by which v is lowered for that
    order: np.ndarray  # (k,) neighbours near each other


def turn(
    rotated: RotatedRows, prepared: Any, n_threads: int, before: TurnedCenters | None = None
) -> TurnedCenters | None:
    """Return centres in the basis of rows, or None where their squares overflow.

    Parameters
    ----------
    rotated : RotatedRows
        The rows.
    prepared : KMeansPrepared
        Centres.
    n_threads : int
        Threads to use.
    before : TurnedCenters, optional
        What those were before some moved: only these are turned, to the same numbers.
    """
    k, dtype = len(prepared.centers), rotated.rows.dtype
    which = np.arange(k) if before is None else np.flatnonzero(prepared.moved)
    shift = prepared.origin.astype(np.float64) - rotated.basis.mean
    coordinates, norms = np.empty((len(which), nearest.ROTATED)), np.empty(len(which))
    nearest.turn_centers(
        prepared.centers, shift, rotated.wide, which, coordinates, norms, threads.native_threads(n_threads)
    )
    if not norms.max(initial=0.0) < LARGEST[dtype]:
        return None
    numbers = np.empty((len(which), nearest.ROTATED), dtype)
    arrange(coordinates[:, :DIRECTIONS], norms, numbers)
    half_norms, allowance = unknown(numbers, norms, shift, rotated.skew)
    if before is None:
        return TurnedCenters(numbers, half_norms, allowance, in_boxes(numbers, BOX_CENTERS))
    tables = []
    for old, new in zip(before, (numbers, half_norms, allowance), strict=False):
        table = old.copy()
        table[which] = new
        tables.append(table)
    order = in_boxes(tables[0], BOX_CENTERS) if len(which) > MOVERS * k else before.order
    return TurnedCenters(*tables, order)


def unknown(numbers: np.ndarray, norms: np.ndarray, shift: np.ndarray, skew: float) -> tuple[np.ndarray, np.ndarray]:
    """Return half the squared norms (m,) of rotated centres and the allowances (m,), both for what is not known."""
    dtype = numbers.dtype
    eps, eps64 = float(np.finfo(dtype).eps), float(np.finfo(np.float64).eps)
    lost = 2 * eps64 * (np.linalg.norm(shift) + np.sqrt(norms))  # by adding the shift
    summed = 2 * len(shift) * eps64 * DIRECTIONS**0.5  # by summing features
    relative = 2 * eps + skew + summed
    off = (relative * np.sqrt(norms) + lost) * np.sqrt(norms) * 2.5
    rest = numbers[:, -1].astype(np.float64)
    small = np.sqrt(2 * off)
    of_rest = np.where(rest > small, off / np.maximum(rest, small + np.finfo(dtype).tiny), np.sqrt(3 * off))
    allowance = (1 + 1 / SHARE) * np.square(relative * np.sqrt(norms) + lost + of_rest)
    half_norms = 0.5 * (norms * (1 - 24 * eps) - allowance)
    return half_norms.astype(dtype), (allowance * (1 + 2 * eps) / (1 + SHARE)).astype(dtype)


def search_by(rotated: RotatedRows, turned: TurnedCenters, moved: np.ndarray, blind: bool = False) -> nearest.Rotation:
    """Return what the kernel searches by.

    Parameters
    ----------
    rotated : RotatedRows
        The rows.
    turned : TurnedCenters
        Centres.
    moved : ndarray (k,) or (0,)
        How far these moved since labels were found, if that is known.
    blind : bool
        Whether labels are no guesses yet.
    """
    order = turned.order
    movers = np.flatnonzero(moved[order]) if len(moved) else None
    if movers is not None and len(movers) > MOVERS * len(order):
        movers = None
    half_norms, allowance = turned.half_norms[order], turned.allowance[order]
    of_centers = turned.numbers[order], order.astype(np.int32), half_norms, allowance
    return nearest.Rotation(rotated.rows, rotated.order, *of_centers, rotated.row_error, blind, movers)
