"""Rows of which nothing is known yet, searched by many coordinates of a rotated basis (`src/kmeans/blind_body.h`).

The first pass of a fit knows no labels, and its centres are single rows, whose distances few coordinates bound badly:
by what a sample says, up to `nearest.BLIND` coordinates are taken.  So many are not kept: rows are rotated on the way.

Rounding is told of in `basis`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem._native import nearest
from fastem.families.kmeans import basis as bases
from fastem.families.kmeans import rotated

# Numbers of a row that are tried.
SIZES = (128, nearest.BLIND)

# Multiply-adds of a full pass from which a sample is asked, if a search by rotated rows costs more than a share of it,
# and the share that such a search must not exceed.  What a multiply-add of the tile, of the comparison and of the
# rotation costs beside one of a full pass; measured at d = 960, k = 4000.
WORK = 40_000_000_000
WANTED, PAYS = 0.4, 0.8
SCORED, COMPARED, TURNED = 1.1, 4.0, 1.1


class Search(NamedTuple):
    """What rows are searched by."""

    basis: bases.Basis
    row_error: float
    numbers: np.ndarray  # (k, size), centres in the basis
    halves: np.ndarray  # (k,) half their squared norms, lowered by what is not known of them


def possible(X: np.ndarray, k: int) -> bool:
    """Tell whether rows (n, d) can be searched so among k centres, and are worth asking."""
    d = X.shape[1]
    return d >= 2 * nearest.BLIND and rotated.possible(d, k) and X.size * k >= WORK


def search_that_pays(X: np.ndarray, prepared: Any, otherwise: float) -> Search | None:
    """Return what rows (n, d) are to be searched by where a sample says that this pays, or None.

    Parameters
    ----------
    X : ndarray (n, d)
        Rows.
    prepared : KMeansPrepared
        Centres.
    otherwise : float
        What another search costs beside one that compares all.
    """
    k, d = prepared.centers.shape
    basis = bases.find_basis(X, k, max(SIZES) - 1)
    if basis is None:
        return None
    left = bases.shares_left(X, basis, prepared, [size - 1 for size in SIZES])
    costs = [SCORED * size / d + COMPARED * share + TURNED * size / k for size, share in zip(SIZES, left, strict=True)]
    best = int(np.argmin(costs))
    if costs[best] > min(PAYS, otherwise):
        return None
    return search_by(bases.Basis(basis.mean, basis.directions[:, : SIZES[best] - 1].copy()), prepared)


def search_by(basis: bases.Basis, prepared: Any) -> Search | None:
    """Return a search by all directions of a basis, or None where squares overflow."""
    dtype, directions = prepared.centers.dtype, basis.directions.astype(np.float64)
    eps, size = float(np.finfo(dtype).eps), directions.shape[1] + 1
    gram = bases.gram_of(directions)
    shift = prepared.origin.astype(np.float64) - basis.mean
    centers = prepared.centers + shift
    norms = np.einsum("kj,kj->k", centers, centers)
    if not norms.max() < bases.LARGEST[dtype]:
        return None
    coordinates = centers @ directions
    rests, allowance = bases.norms_of_centers(coordinates, norms, shift, gram, dtype)
    numbers = np.column_stack([coordinates, rests]).astype(dtype)
    squares = np.einsum("ij,ij->i", numbers, numbers, dtype=np.float64)
    halves = 0.5 * (squares * (1 - (size + 8) * eps) - allowance)
    return Search(basis, bases.row_error(len(directions), gram, dtype), numbers, halves.astype(dtype))


def search(
    X: np.ndarray, prepared: Any, by: Search, labels: np.ndarray, upper: np.ndarray, lower: np.ndarray, n_threads: int
) -> bool:
    """Write the nearest centre (n,) int32 of each row, and bounds (n,); return False where squares overflow.

    Parameters
    ----------
    X : ndarray (n, d)
        Rows.
    prepared : KMeansPrepared
        Centres.
    by : Search
        What they are searched by.
    labels : ndarray (n,) int32
        OUT. The nearest centre of each row.
    upper, lower : ndarray (n,)
        OUT. At least the distance to it, and at most the distance to every other centre.
    n_threads : int
        Threads to use.
    """
    mean, directions = by.basis
    nearest.search_blind(
        X, *prepared[:3], mean, np.ascontiguousarray(directions.T), by.numbers, by.halves, by.row_error, labels,
        threads.native_threads(n_threads), upper, lower,
    )  # fmt: skip
    return bool(np.isfinite(upper).all())
