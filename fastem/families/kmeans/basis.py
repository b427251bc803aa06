"""Leading principal directions of a sample of rows, and what is known of rows and centres by them.

A row or a centre is its coordinates in these directions, relative to the sample's mean, and the norm of the rest
(`src/kmeans/rotated_body.h`).  Any directions are right; these leave out the most.

Rounding.  With eps of the rows' type, T numbers that are added up in a row in it (`nearest.added_up`), and P
directions V that are orthonormal but for |V'V - I| = f: each coordinate of a row x is off by at most
(T + 4) eps / 2 |x - m| |V_j|, all of them by ((T + 4) sqrt(P) / 2 + 2) eps + f of |x - m|.  Those of a centre are
summed in float64, and off by (2 eps + f) |c - m| and by what the origin loses.  The squared norm of a row's rest is
that of all minus that of the coordinates, off by 2.5 times as much of |x - m|^2; its root, r, by that divided by r, or
by its own root where r is small.  A rest so small is measured (`src/kmeans/basis_body.h`): with coordinates z, rounded
and all, |x - m - V z| is off by what z is and what the sum of P + 1 numbers loses in every feature,
((P + 1) / 2) (1 + sqrt(P)) eps |x - m|, less than 1.1 times that.

Of a centre the rest is |c - m - V z|, z in float64, whose square is |c - m|^2 - 2 |z|^2 + |V z|^2.  Then
|x - c|^2 is |z_x - z_c|^2 and the squared difference of what is left, but for f |z_x - z_c|^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastem._native import nearest
from fastem.draws import Draws

# Rows from which the directions are found, at most and at least, further directions that make the leading ones
# converge, and how often these are multiplied by the covariance.  4096 rows and a third time took twice the time and
# left out 1 % more (patches of photographs, 60,000 x 768, k = 1000).
SAMPLE, LEAST_SAMPLE = 2048, 512
SPARE, TIMES = 8, 2
# a of rotated_body.h: the share by which squared limits grow, so that errors of centres need not be known by pair.
SHARE = 1.0 / 1024
# A squared norm less those of coordinates is off by so many times what these are.
OFF_BY = 2.5
# Squared norms, by type, up to which nothing overflows.
LARGEST = {np.dtype(np.float32): 1e30, np.dtype(np.float64): 1e250}

# Rows by which a sample tells what bounds leave.
ASKED = 128
# A sample in which the directions are found costs 5 multiply-adds for each of its numbers and directions; it may be so
# large that these are a tenth of a full pass.
FOUND = 50


class Basis(NamedTuple):
    """Leading directions, the first the widest, both in the rows' dtype."""

    mean: np.ndarray  # (d,)
    directions: np.ndarray  # (d, P)


def find_basis(X: np.ndarray, k: int, n_directions: int) -> Basis | None:
    """Return the mean of a sample of rows and so many leading directions, or None where squares overflow.

    The sample is of so many rows that it costs little beside a pass over all rows and k centres.
    """
    wanted = int(np.clip(len(X) * k / (FOUND * n_directions), LEAST_SAMPLE, SAMPLE))
    sample = X[:: max(1, len(X) // wanted)]
    mean = sample.mean(axis=0, dtype=np.float64).astype(sample.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = sample - mean
        square = np.einsum("ij,ij->", rows, rows, dtype=np.float64)
    if not square < LARGEST[sample.dtype]:
        return None
    d, found = rows.shape[1], min(rows.shape[1], n_directions + SPARE)
    directions = Draws(0, 0).normal(d * found).reshape(d, found).astype(sample.dtype)
    rows /= np.sqrt(square) or 1.0
    for _ in range(TIMES):
        directions = np.linalg.qr(rows.T @ (rows @ directions))[0]
    inside = rows @ directions
    _, turn = np.linalg.eigh(inside.T.astype(np.float64) @ inside)
    leading = directions.astype(np.float64) @ turn[:, ::-1][:, :n_directions]
    return Basis(mean, np.ascontiguousarray(np.linalg.qr(leading)[0].astype(sample.dtype)))


def gram_of(directions: np.ndarray) -> np.ndarray:
    """Return the inner products (P, P) of directions (d, P), given in float64."""
    return np.asarray(directions.T @ directions)


def row_error(n_features: int, gram: np.ndarray, dtype: np.dtype) -> float:
    """Return by how much of its norm coordinates of a row are off, in directions of these inner products (P, P)."""
    n_directions, skew = len(gram), float(np.linalg.norm(gram - np.eye(len(gram))))
    return ((nearest.added_up(dtype, n_features) + 4) * n_directions**0.5 / 2 + 2) * float(np.finfo(dtype).eps) + skew


class CenterNorms(NamedTuple):
    """What is left of centres besides their coordinates, and how well all of it is known."""

    rests: np.ndarray  # (m,) norms of what all coordinates leave
    allowance: np.ndarray  # (m,) by how much squared bounds are lowered for what is not known


def norms_of_centers(
    coordinates: np.ndarray, norms: np.ndarray, shift: np.ndarray, gram: np.ndarray, dtype: np.dtype
) -> CenterNorms:
    """Return the rests of centres and what is not known of these and their coordinates, which are rounded to a dtype.

    Parameters
    ----------
    coordinates : ndarray (m, P) float64
        Their coordinates in the directions.
    norms : ndarray (m,) float64
        Their squared norms, relative to the basis' mean.
    shift : ndarray (d,) float64
        The origin of the centres minus that mean.
    gram : ndarray (P, P) float64
        Inner products of the directions.
    dtype : dtype
        The rows' type.
    """
    eps, eps64 = float(np.finfo(dtype).eps), float(np.finfo(np.float64).eps)
    lost = 2 * eps64 * (np.linalg.norm(shift) + np.sqrt(norms))  # by adding the shift
    summed = 2 * len(shift) * eps64 * len(gram) ** 0.5  # by summing features
    skew = np.linalg.norm(gram - np.eye(len(gram)))
    rest = norms + np.einsum("mp,mp->m", coordinates @ gram - 2 * coordinates, coordinates)
    rest = np.sqrt(np.maximum(rest, 0.0))
    off = OFF_BY * (2 * summed * np.sqrt(norms) + lost) * np.sqrt(norms)
    small = np.sqrt(2 * off)
    of_rest = np.where(rest > small, off / np.maximum(rest, small + np.finfo(dtype).tiny), np.sqrt(3 * off))
    relative = 2 * eps + skew + summed
    return CenterNorms(rest, (1 + 1 / SHARE) * np.square(relative * np.sqrt(norms) + lost + of_rest))


def error_of_rows(squares: np.ndarray, rests: np.ndarray, row_error: float, eps: float) -> np.ndarray:
    """Return by how much rows that `nearest.rotate` made are off (m,): `error_of_kept` of rotated_body.h.

    Parameters
    ----------
    squares, rests : ndarray (m,) float64
        Their squared norms, and norms of what their coordinates leave.
    row_error : float
        By how much of its norm the coordinates of a row are off.
    eps : float
        Of the rows' type.
    """
    off = OFF_BY * row_error * squares
    measured = np.square(rests) <= 0.875 * nearest.MEASURED * off
    of_rest = np.where(measured, OFF_BY * row_error * np.sqrt(squares), off / np.where(measured, 1.0, rests))
    return np.asarray((row_error + 2 * eps) * np.sqrt(squares) + of_rest)


def shares_left(X: np.ndarray, basis: Basis, prepared: Any, sizes: Sequence[int]) -> list[float]:
    """Return which share of all pairs of a row and a centre so many leading coordinates leave, by a sample of rows."""
    rows = X[:: max(1, len(X) // ASKED)][:ASKED].astype(np.float64)
    centers = prepared.centers + prepared.origin.astype(np.float64)
    sqdist = _between(rows, centers)
    nearest_of_all = np.maximum(sqdist.min(axis=1, keepdims=True), 0.0)
    left = []
    for size in sizes:
        directions = basis.directions[:, :size].astype(np.float64)
        inside = [(table - basis.mean) @ directions for table in (rows, centers)]
        norms = [np.square(table - basis.mean).sum(axis=1) for table in (rows, centers)]
        rest = [np.sqrt(np.maximum(a - np.square(b).sum(axis=1), 0.0)) for a, b in zip(norms, inside, strict=True)]
        bound = _between(*inside) + np.square(rest[0][:, None] - rest[1])
        left.append(float(np.mean(bound <= nearest_of_all)))
    return left


def _between(rows: np.ndarray, centers: np.ndarray) -> np.ndarray:
    norms = [np.square(table).sum(axis=1) for table in (rows, centers)]
    return norms[0][:, None] + norms[1] - 2.0 * (rows @ centers.T)
