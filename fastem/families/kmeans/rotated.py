"""Rows and centres in a rotated basis, by which most centres are left out (`src/kmeans/rotated_body.h`).

A rotated row holds its coordinates in leading principal directions of a sample of the rows, relative to the sample's
mean, and the norm of the rest, after the first few directions and after all.  Any directions are right; these leave out
the most.

Rounding is told of in `basis`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem._native import nearest
from fastem.families.kmeans.basis import (
    LARGEST,
    SHARE,
    Basis,
    find_basis,
    gram_of,
    norms_of_centers,
    row_error,
    shares_left,
)
from fastem.grid import CELL, n_cells

# Centres from which the number of a pair of a row and a centre has no room in 32 bits.
MOST_CENTERS = 2**24

# Multiply-adds of a full pass from which a sample is asked, and the share of a full pass that a
# search by rotation must not exceed.  A multiply-add of the first step, of the second and of the third costs so many of
# it.
WORK = 2_000_000_000
PAYS = 0.7
TILED, PICKED, COMPARED = 2.5, 6.0, 2.0
# The same of the rotation of the rows.
TURNED = 8.0
# Share of the centres that may have moved for rows to be held against these first.
MOVERS = 0.5

# Rows, and centres, that have about one box: those of a block and a panel of the kernel.
BOX_ROWS, BOX_CENTERS = 24, 4

DIRECTIONS = nearest.ROTATED - 2
FIRST = nearest.ROTATED_FIRST - 1


class RotatedRows(NamedTuple):
    """Rows in a rotated basis, and the basis."""

    basis: Basis
    wide: np.ndarray  # (d, ROTATED) float64, the directions, then columns of zeros
    gram: np.ndarray  # (P, P) float64, inner products of the directions
    rows: np.ndarray  # (n, ROTATED)
    order: np.ndarray  # (n,) uint16, rows of each cell by their numbers there, neighbours near each other
    row_error: float  # coordinates of a row are off by so much of its norm


def rotate(
    X: np.ndarray, basis: Basis, n_threads: int, empty: Callable[..., np.ndarray] = np.empty
) -> RotatedRows | None:
    """Return rows (n, d) in a basis, or None where their squares overflow."""
    directions = basis.directions.astype(np.float64)
    gram = gram_of(directions)
    off = row_error(X.shape[1], gram, X.dtype)
    rotated, order = empty((len(X), nearest.ROTATED), X.dtype), empty(len(X), np.uint16)
    across = np.ascontiguousarray(basis.directions.T)
    if not nearest.rotate(X, basis.mean, across, off, rotated, threads.native_threads(n_threads)) < LARGEST[X.dtype]:
        return None

    def cell(number: int) -> None:
        rows = slice(number * CELL, (number + 1) * CELL)
        order[rows] = in_boxes(rotated[rows], BOX_ROWS)

    threads.map_tasks(cell, n_cells(len(X)), n_threads)
    wide = np.zeros((X.shape[1], nearest.ROTATED))
    wide[:, :DIRECTIONS] = directions
    return RotatedRows(basis, wide, gram, rotated, order, off)


class Rotations:
    """Rows in a rotated basis, kept for the restarts of a fit."""

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, RotatedRows | None] | None = None
        self._basis: tuple[np.ndarray, Basis | None] | None = None

    def of(
        self, X: np.ndarray, prepared: Any, asked: bool, n_threads: int, empty: Callable[..., np.ndarray],
        share: float | None = None,
    ) -> RotatedRows | None:  # fmt: skip
        """Return the rotated rows, made once for the same array, if they are asked for, or pay by a sample.

        Where they don't pay, other centres may be asked for later.  The share of work may be known.
        """
        if self._last is not None and self._last[0] is X:
            return self._last[1]
        if not asked and X.size * len(prepared.centers) < WORK:
            return None
        basis = self._basis_of(X, len(prepared.centers))
        if share is None and basis is not None and not asked:
            share = share_of_work(X, basis, prepared)
        if share is not None and share > PAYS:
            return None
        self._last = X, None if basis is None else rotate(X, basis, n_threads, empty)
        return self._last[1]

    def share_of_work(self, X: np.ndarray, prepared: Any) -> float | None:
        """Return about what a search costs beside one that compares all, or None where squares overflow."""
        basis = self._basis_of(X, len(prepared.centers))
        return None if basis is None else share_of_work(X, basis, prepared)

    def _basis_of(self, X: np.ndarray, k: int) -> Basis | None:
        if self._basis is None or self._basis[0] is not X:
            self._basis = X, find_basis(X, k, DIRECTIONS)
        return self._basis[1]

    def for_one_pass(self, X: np.ndarray, prepared: Any, blind: bool, n_threads: int) -> RotatedRows | None:
        """Return the rotated rows if they are known, or pay by a sample for a single pass; these are not kept.

        Such a pass pays for the rotation itself, and, if it is `blind`, twice for the first step.
        """
        known = self.known(X)
        if known is not None or X.size * len(prepared.centers) < WORK:
            return known
        k, d = prepared.centers.shape
        basis = find_basis(X, k, DIRECTIONS)
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
    left = shares_left(X, basis, prepared, (FIRST, DIRECTIONS))
    k, d = prepared.centers.shape
    compared = COMPARED * (left[1] * d + d / k)
    second = min(PICKED * left[0], TILED) * nearest.ROTATED
    return (TILED * nearest.ROTATED_FIRST + second + compared) / d


def in_boxes(points: np.ndarray, size: int) -> np.ndarray:
    """Return an order (m,) in which so many points in a row lie near each other in the first two coordinates.

    Strips of the first are ordered by the second, of such a width that what a box holds is about as wide as high.
    """
    boxes = len(points) / size
    across, along = points[:, :2].std(axis=0, dtype=np.float64)
    n_strips = int(np.clip(np.sqrt(boxes * across / along), 1, max(boxes, 1))) if along > 0 else max(int(boxes), 1)
    strips = np.array_split(np.argsort(points[:, 0], kind="stable"), n_strips)
    return np.concatenate([strip[np.argsort(points[strip, 1], kind="stable")] for strip in strips])


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
    coordinates = coordinates[:, :DIRECTIONS]
    rests, missed = norms_of_centers(coordinates, norms, shift, rotated.gram, dtype)
    numbers = _arranged(coordinates, rests, dtype)
    half_norms, allowance = _lowered(numbers, missed)
    if before is None:
        return TurnedCenters(numbers, half_norms, allowance, in_boxes(numbers, BOX_CENTERS))
    tables = []
    for old, new in zip(before, (numbers, half_norms, allowance), strict=False):
        table = old.copy()
        table[which] = new
        tables.append(table)
    order = in_boxes(tables[0], BOX_CENTERS) if len(which) > MOVERS * k else before.order
    return TurnedCenters(*tables, order)


def _arranged(coordinates: np.ndarray, rests: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return coordinates (m, DIRECTIONS) and norms of what they leave (m,) as rotated rows (m, ROTATED)."""
    out = np.empty((len(rests), nearest.ROTATED), dtype)
    further = coordinates[:, FIRST:]
    out[:, :FIRST], out[:, FIRST + 1 : -1], out[:, -1] = coordinates[:, :FIRST], further, rests
    out[:, FIRST] = np.sqrt(np.square(rests) + np.einsum("ij,ij->i", further, further))
    return out


def _lowered(numbers: np.ndarray, allowance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return half the squared norms (m,) of rotated centres and the allowances (m,), both for what is not known."""
    dtype, first = numbers.dtype, numbers[:, : FIRST + 1]
    eps = float(np.finfo(dtype).eps)
    norms = np.einsum("ij,ij->i", first, first, dtype=np.float64)
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
