"""Sufficient statistics as additive records.

A family describes its record as a NamedTuple class and the shape of each field.  In memory a record is one float64
vector, so that merging two records is one vector addition whatever the family; `Layout.view` shows the vector as the
NamedTuple.  A family with kernels tells its record once, as `Fields`, of which both the layout and the views that
kernels write to (`fastem.kernels.views`) are made.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T", bound=tuple)
REST = "*"  # the letter of an axis that is as long as a record has room for
Empty = Callable[[int, Any], np.ndarray]  # (n, dtype) -> an array with an entry for each row


class Layout(Generic[T]):
    """The shape of a family's record: which NamedTuple, and the shape of each of its fields.

    Parameters
    ----------
    record : type
        A NamedTuple class whose fields are arrays.
    **shapes : tuple of int
        The shape of each field, by name, in the order of the fields.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> class Moments(NamedTuple):
    ...     count: np.ndarray
    ...     total: np.ndarray
    >>> layout = Layout(Moments, count=(), total=(3,))
    >>> layout.size
    4
    >>> layout.view(np.arange(4.0))
    Moments(count=array(0.), total=array([1., 2., 3.]))
    """

    def __init__(self, record: type[T], **shapes: tuple[int, ...]) -> None:
        assert tuple(shapes) == record._fields, f"{record.__name__} has fields {record._fields}"  # type: ignore[attr-defined]
        self.record = record
        self.shapes = tuple(shapes.values())
        stops = list(itertools.accumulate(math.prod(shape) for shape in self.shapes))
        self.size = stops[-1]  # length of the vector that holds one record
        self.slices = list(zip([0, *stops], stops, self.shapes, strict=False))

    def view(self, vector: np.ndarray) -> T:
        """Show a float64 vector (size,) as the record, without a copy."""
        return self.record(*[vector[start:stop].reshape(shape) for start, stop, shape in self.slices])

    def view_all(self, vectors: np.ndarray) -> T:
        """Show float64 vectors (n, size) as one record of stacked fields (n, ...)."""
        n = len(vectors)
        return self.record(*[vectors[:, start:stop].reshape(n, *shape) for start, stop, shape in self.slices])


class Fields(Generic[T]):
    """The fields of a record, with a letter for each of their axes.

    Parameters
    ----------
    record : type
        A NamedTuple class whose fields are arrays.
    **axes : str
        The axes of each field by name, in the order of the fields: "kd" for a matrix (k, d), "" for a number.  An axis
        of the letter `REST`, in the last field alone, is what the length of the record leaves for it.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> class Moments(NamedTuple):
    ...     count: np.ndarray
    ...     total: np.ndarray
    >>> fields = Fields(Moments, count="", total="d")
    >>> fields.letters, fields.layout(3).size
    ('d', 4)
    """

    def __init__(self, record: type[T], **axes: str) -> None:
        assert tuple(axes) == record._fields, f"{record.__name__} has fields {record._fields}"  # type: ignore[attr-defined]
        self.record = record
        self.axes = tuple(axes.values())
        self.letters = "".join(dict.fromkeys("".join(self.axes)))  # each once, in the order of the fields

    def __repr__(self) -> str:
        return f"{self.record.__module__}.{self.record.__qualname__}{self.axes}"

    def layout(self, *sizes: int) -> Layout[T]:
        """Return the shape of a record; the axes' lengths are in the order of `letters`."""
        return _layout(self, sizes)


@functools.lru_cache(maxsize=1024)
def _layout(fields: Fields, sizes: tuple[int, ...]) -> Layout:
    """Return the shape of a record, which every pass asks for: 10 microseconds, a tenth of a pass over few rows."""
    length = dict(zip(fields.letters, sizes, strict=True))
    shapes = [tuple([length[letter] for letter in axes]) for axes in fields.axes]
    return Layout(fields.record, **dict(zip(fields.record._fields, shapes, strict=True)))
