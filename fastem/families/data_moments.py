"""Moments of all rows of a source that no parameter changes: computed once for a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem.kernels.scatter import add_cell, add_wide_cell

# Features from which on the scatter of a cell is added up on packed panels.
WIDE = 128


class TotalScatter(NamedTuple):
    """Moments of the data that no parameter changes, float64."""

    weight: np.ndarray  # (): sum of the weights
    centre: np.ndarray  # (d,): the mean of the data
    scatter: np.ndarray  # (d, d): scatter about the mean

    def pooled(self, other: TotalScatter, keep: float, share: float) -> TotalScatter:
        """Return the moments of two sets of rows together, which count `keep` and `share` times."""
        first, second = keep * self.weight, share * other.weight
        weight = first + second
        part = second / weight if weight > 0 else 0.0
        shift = other.centre - self.centre
        scatter = keep * self.scatter + share * other.scatter + first * part * np.outer(shift, shift)
        return TotalScatter(np.asarray(weight), self.centre + part * shift, scatter)


def total_scatter(source: Any, dtype: Any = None) -> TotalScatter:
    """Return weight, mean and scatter of all rows of a source: two passes, the second centred on the mean.

    Parameters
    ----------
    source : a source of `fastem.sources`
        Complete rows; NaN in any of them makes `centre` NaN.
    dtype : dtype or None
        What the products of a block of rows are summed in; None for the rows' own dtype.
    """
    start = source.take(np.array([0]))[0].astype(np.float64)
    return _scatter_of(source, lambda X: slice(None), start, dtype)


def complete_scatter(source: Any) -> TotalScatter:
    """Do the same for the complete rows of a source in which NaN is a missing value; all zeros if there are none."""
    start = source.take(np.array([0]))[0].astype(np.float64)
    start = np.where(np.isnan(start), 0.0, start)
    return _scatter_of(source, lambda X: ~np.isnan(X).any(axis=1), start, None)


def _scatter_of(source: Any, kept: Callable[[np.ndarray], Any], start: np.ndarray, dtype: Any) -> TotalScatter:
    """Return weight, mean and scatter of the rows that `kept` tells of each cell; `start` (d,) is near them."""
    d = source.n_features
    dtype = np.dtype(source.dtype if dtype is None else dtype)

    def rows_of(X: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        which, w = kept(X), source.weights_of(rows)
        return X[which], w[which] if w.size else w

    def moments(X: np.ndarray, rows: slice) -> np.ndarray:
        X, w = rows_of(X, rows)
        centred = X - start
        weighted = centred * w[:, None] if w.size else centred
        return np.append(weighted.sum(axis=0), w.sum(dtype=np.float64) if w.size else len(X))

    *sums, weight = source.fold(moments, d + 1)
    centre = start + np.array(sums) / (weight or 1.0)
    origin = centre.astype(dtype)

    def scatter(X: np.ndarray, rows: slice) -> np.ndarray:
        X, w = rows_of(X, rows)
        out = np.zeros(d * d)
        add = add_cell if d < WIDE else add_wide_cell
        add(np.ascontiguousarray(X, dtype), w.astype(dtype, copy=False), origin, out)
        return out

    about_origin = source.fold(scatter, d * d).reshape(d, d)
    shift = centre - origin
    return TotalScatter(np.asarray(weight), centre, about_origin - weight * np.outer(shift, shift))


class ObservedMoments(NamedTuple):
    """Moments of each feature over the rows where it is observed, float64; 0 where it never is."""

    means: np.ndarray  # (d,)
    variances: np.ndarray  # (d,), 0 for a constant feature
    weights: np.ndarray  # (d,) of these rows

    def pooled(self, other: ObservedMoments, keep: float, share: float) -> ObservedMoments:
        """Return the moments of two sets of rows together, which count `keep` and `share` times."""
        first, second = keep * self.weights, share * other.weights
        total = np.where(first + second > 0, first + second, 1.0)
        means = self.means + second / total * (other.means - self.means)
        between = first / total * (second / total) * np.square(other.means - self.means)
        variances = (first * self.variances + second * other.variances) / total + between
        return ObservedMoments(means, without_rounding(variances, means), first + second)


def without_rounding(variances: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return variances (d,), 0 where they are what rounding leaves of a constant feature."""
    return np.where(variances <= np.square(64 * np.finfo(np.float64).eps * means), 0.0, variances)


def observed_moments(source: Any) -> ObservedMoments:
    """Return mean and variance of each feature of rows in which NaN is a missing value: two passes."""
    d = source.n_features

    def about(origin: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def cell(X: np.ndarray, rows: slice) -> np.ndarray:
            w, seen = source.weights_of(rows), ~np.isnan(X)
            w = w.astype(np.float64) if w.size else np.ones(len(X))
            centred = np.where(seen, X - origin, 0.0)
            return np.concatenate([w @ seen, w @ centred, w @ np.square(centred)])

        counts, sums, squares = source.fold(cell, 3 * d).reshape(3, d)
        some = np.where(counts > 0, counts, np.inf)
        return sums / some, squares / some, counts

    first = source.take(np.array([0]))[0].astype(np.float64)
    first = np.where(np.isnan(first), 0.0, first)
    means = first + about(first)[0]
    shift, squares, counts = about(means)
    variances = np.maximum(squares - shift**2, 0.0)
    return ObservedMoments(means + shift, without_rounding(variances, means), counts)
