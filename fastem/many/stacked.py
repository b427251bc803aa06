"""Arrays of one meaning, one for each group: flat inside, a view for each outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Stacked(NamedTuple):
    """Arrays of as many dimensions, one for each group; groups without one have `starts` of -1.

    Examples
    --------
    >>> means = stack([np.ones((1, 2)), None, np.zeros((3, 2))])
    >>> means.shapes.tolist(), means.of(2).shape, means.of(1) is None
    ([[1, 2], [0, 0], [3, 2]], (3, 2), True)
    >>> means.padded()[:, 0].tolist()
    [[1.0, 1.0], [nan, nan], [0.0, 0.0]]
    """

    values: np.ndarray  # (total,): all arrays one after another
    starts: np.ndarray  # (G,) int64: where that of each group begins
    shapes: np.ndarray  # (G, n_dimensions) int64

    def of(self, group: int) -> np.ndarray | None:
        """Return the array of a group, a view; None if it has none."""
        start = self.starts[group]
        if start < 0:
            return None
        shape = self.shapes[group]
        return self.values[start : start + int(np.prod(shape))].reshape(shape)

    def padded(self) -> np.ndarray:
        """Return one array (G, ...): NaN, or -1 of integers, where a group has less than the largest, or nothing.

        A view if all groups have arrays of one shape.
        """
        n_groups, shape = len(self.starts), tuple(self.shapes.max(axis=0, initial=0).tolist())
        size = int(np.prod(shape))
        if self.values.size == n_groups * size and np.array_equal(self.starts, np.arange(n_groups) * size):
            return self.values.reshape(n_groups, *shape)
        whole = np.full((n_groups, *shape), np.nan if self.values.dtype.kind == "f" else -1, self.values.dtype)
        for group in np.flatnonzero(self.starts >= 0).tolist():
            inside: Any = (group, *(slice(side) for side in self.shapes[group]))
            whole[inside] = self.of(group)
        return whole

    def check(self, n_groups: int) -> None:
        """Refuse what came from a file and does not fit together.

        Raises
        ------
        ValueError
            If an array would lie outside of the values.
        """
        sound = self.values.ndim == 1 and self.starts.shape == (n_groups,) and self.shapes.ndim == 2
        sound = sound and len(self.shapes) == n_groups and {self.starts.dtype.kind, self.shapes.dtype.kind} == {"i"}
        if sound and n_groups:
            sides = self.shapes[self.starts >= 0]
            inside = bool(np.all((sides >= 0) & (sides <= self.values.size)))
            sizes = np.prod(sides.astype(np.float64), axis=1)
            sound = inside and bool(np.all(self.starts[self.starts >= 0] + sizes <= self.values.size))
        if not sound:
            raise ValueError("its stacked arrays do not fit the number of groups")


def stack(arrays: Sequence[Any]) -> Stacked:
    """Return arrays of as many dimensions, or None where there is none, one after another."""
    found = [None if array is None else np.asarray(array) for array in arrays]
    some = [array for array in found if array is not None]
    shapes = np.zeros((len(found), some[0].ndim if some else 0), np.int64)
    starts, end = np.full(len(found), -1, np.int64), 0
    for group, array in enumerate(found):
        if array is not None:
            starts[group], shapes[group], end = end, array.shape, end + array.size
    return Stacked(np.concatenate([array.ravel() for array in some]) if some else np.empty(0), starts, shapes)


def uniform(array: np.ndarray) -> Stacked:
    """Return one array (G, ...) as the arrays of G groups, without a copy if it is C-contiguous."""
    n_groups, *shape = array.shape
    size = int(np.prod(shape))
    shapes = np.tile(np.array(shape, np.int64), (n_groups, 1)).reshape(n_groups, len(shape))
    return Stacked(array.reshape(-1), np.arange(n_groups, dtype=np.int64) * size, shapes)


def joined(parts: Sequence[Stacked]) -> Stacked:
    """Return the arrays of the groups of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    n_dimensions = max(part.shapes.shape[1] for part in parts)  # a part in which no group has one knows none
    shapes = [
        part.shapes if part.shapes.size else np.zeros((len(part.starts), n_dimensions), np.int64) for part in parts
    ]
    ends = np.cumsum([0, *(part.values.size for part in parts)])
    starts = [np.where(part.starts < 0, -1, part.starts + end) for part, end in zip(parts, ends, strict=False)]
    values = [part.values for part in parts if part.values.size]
    return Stacked(np.concatenate(values) if values else np.empty(0), np.concatenate(starts), np.concatenate(shapes))
