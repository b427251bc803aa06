"""Arrays with an entry for each row that lie where the rows are, block by block; and functions that find them there.

A function of a block of rows is sent to the block.  What it refers to goes with it, but for arrays with an entry for
each row: of these it meets, under the same row numbers, the part that belongs to the block.  It may write to that part;
what it wrote is kept there.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from fastem import grid

_met = threading.local()  # columns of the block whose function is being unpickled


class Column(NDArrayOperatorsMixin):
    """An array (n,) of a source's blocks: at the client, or in parts where the rows are, or both.

    Whoever asks for entries gets them sent; whoever takes it for an array gets all of them.

    Parameters
    ----------
    home : object
        The source's blocks, which fetch parts: ``spans(column, slices)`` and ``whole(column)``.
    n_rows : int
        Number of entries n.
    dtype : dtype
        Of the entries.
    """

    def __init__(self, home: Any, n_rows: int, dtype: Any) -> None:
        self.home, self.n_rows, self.dtype = home, n_rows, np.dtype(dtype)
        self.fill: Any = self.dtype.type(0)  # what all entries are, while there is neither of the two
        self.here: np.ndarray | None = None
        self.parts: list[Any] | None = None  # of each block
        self.frozen = False  # nobody writes to it any more
        self.pending: Callable[[Column], None] | None = None  # fills it, once it is asked for

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.n_rows

    @property
    def shape(self) -> tuple[int]:
        """Shape of the array."""
        return (self.n_rows,)

    @property
    def ndim(self) -> int:
        """One."""
        return 1

    def __len__(self) -> int:
        return self.n_rows

    def settle(self) -> None:
        """Fill it, if that was put off."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending(self)

    def whole(self) -> np.ndarray:
        """Return all entries at the client."""
        self.settle()
        if self.here is None:
            self.here = np.full(self.n_rows, self.fill, self.dtype) if self.parts is None else self.home.whole(self)
        return self.here

    def written(self, parts: list[Any]) -> None:
        """Take the parts that functions have written."""
        self.here, self.parts = None, parts

    def spans(self, slices: list[slice]) -> list[np.ndarray]:
        """Return a few runs of entries."""
        self.settle()
        if self.here is not None or self.parts is None:
            return [self.whole()[rows] for rows in slices]
        found: list[np.ndarray] = self.home.spans(self, slices)
        return found

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(self.n_rows)
            return self.spans([slice(start, stop)])[0] if stop > start else np.empty(0, self.dtype)
        self.settle()
        few = isinstance(key, np.ndarray) and key.dtype.kind in "iu" and key.ndim == 1 and len(key) < self.n_rows // 64
        if few and self.here is None and self.parts is not None:
            return self.home.entries(self, key)
        return self.whole()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, slice) and key == slice(None) and np.ndim(value) == 0:
            self.fill, self.here, self.parts, self.pending = value, None, None, None
            return
        self.here, self.parts = np.array(self.whole()), None
        self.here[key] = value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.whole(), dtype) if copy else np.asarray(self.whole(), dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [one.whole() if isinstance(one, Column) else one for one in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def astype(self, dtype: Any, copy: bool = True) -> np.ndarray:
        """Return all entries as another type."""
        return self.whole().astype(dtype, copy=copy)

    def sum(self, dtype: Any = None) -> Any:
        """Return the sum of all entries, as NumPy adds them."""
        return self.whole().sum(dtype=dtype)

    def copy(self) -> np.ndarray:
        """Return all entries."""
        return self.whole().copy()


class PartOfColumn:
    """What a function of a block finds in place of a column: the entries of the block, under the same row numbers."""

    def __init__(self, part: np.ndarray, first: int, n_rows: int) -> None:
        self.part, self.first, self.size = part, first, n_rows
        self.dtype, self.shape = part.dtype, (n_rows,)

    def __len__(self) -> int:
        return self.size

    def _here(self, rows: slice) -> slice:
        return slice(rows.start - self.first, rows.stop - self.first)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.part[self._here(rows)]

    def __setitem__(self, rows: slice, values: Any) -> None:
        self.part[self._here(rows)] = values


class Away:
    """What a function of a block finds in place of its source: the facts, and the columns."""

    def __init__(self, shape: tuple[int, int], dtype: Any, sample_weight: Any, labels: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self.n_rows, self.n_features = shape
        self.sample_weight, self.labels = sample_weight, labels

    def weights_of(self, rows: slice) -> np.ndarray:
        """Weights of a run of rows, or empty."""
        weights: np.ndarray = self.sample_weight[rows]
        return weights


def found_part(number: int) -> Any:
    """Return the part of a column that the function being unpickled refers to."""
    return _met.columns[number]


def packed(function: Any, home: Any) -> tuple[bytes, list[Column]]:
    """Return a function as bytes, and the columns that it refers to, in the order in which `unpacked` wants parts."""
    import cloudpickle

    columns: list[Column] = []
    wrapped: dict[int, Column] = {}
    size = home.n_rows

    def number_of(column: Column) -> int:
        for number, known in enumerate(columns):
            if known is column:
                return number
        columns.append(column)
        return len(columns) - 1

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, Column):
                return found_part, (number_of(obj),)
            if hasattr(type(obj), "as_away"):
                return Away, obj.as_away()
            if type(obj) is np.ndarray and obj.ndim == 1 and len(obj) == size and size > grid.CELL:
                if id(obj) not in wrapped:
                    wrapped[id(obj)] = Column(home, size, obj.dtype)
                    wrapped[id(obj)].here, wrapped[id(obj)].frozen = obj, True
                return found_part, (number_of(wrapped[id(obj)]),)
            return super().reducer_override(obj)

    file = io.BytesIO()
    Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(function)
    return file.getvalue(), columns


def unpacked(data: bytes, parts: list[Any], first: int, n_rows: int) -> Any:
    """Return the function of these bytes, which finds the parts of the block that begins at a row."""
    _met.columns = [PartOfColumn(part, first, n_rows) for part in parts]
    try:
        return pickle.loads(data)
    finally:
        del _met.columns
