"""Keys of groups: one value, or several, for each row; any dtype that can be sorted."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Keys(NamedTuple):
    """The distinct keys, sorted, and how to find them again.

    A key of several parts is numbered part by part: the number that the parts so far have among those that occur,
    times the number of values of the next part, plus the number of its value.
    """

    names: list[str]  # of the parts
    levels: list[np.ndarray]  # of each part its distinct values, sorted, missing ones last
    pairs: list[np.ndarray]  # of each part but the first the numbers that occur, sorted
    positional: bool = False  # numbers that nobody gave, such as those of the arrays of a list

    def __len__(self) -> int:
        return len(self.pairs[-1] if self.pairs else self.levels[0])

    def columns(self) -> list[np.ndarray]:
        """Return of each part its value in every key (G,)."""
        codes, found = np.arange(len(self)), []
        for level, pairs in zip(self.levels[:0:-1], self.pairs[::-1], strict=True):
            codes, own = np.divmod(pairs[codes], len(level))
            found.append(level[own])
        return [self.levels[0][codes], *found[::-1]]

    def find(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Return the number of each key (n,) int64, -1 for one that is not known; `columns` are the parts.

        Raises
        ------
        ValueError
            If there are more or fewer parts.
        """
        if len(columns) != len(self.levels):
            raise ValueError(f"A key has {len(self.levels)} part(s), {', '.join(self.names)}; got {len(columns)}.")
        codes = _positions(self.levels[0], columns[0])
        for level, pairs, column in zip(self.levels[1:], self.pairs, columns[1:], strict=True):
            own = _positions(level, column)
            together = np.where((codes < 0) | (own < 0), -1, codes * len(level) + own)
            codes = _positions(pairs, together)
        return codes

    def number(self, key: Any) -> int:
        """Return the number of one key.

        Raises
        ------
        KeyError
            If it is not known.
        """
        parts = key if len(self.levels) > 1 else (key,)
        if isinstance(parts, tuple | list) and len(parts) == len(self.levels):
            columns = [as_column([part]) for part in parts]
            number = int(self.find(columns)[0]) if all(column.ndim == 1 for column in columns) else -1
            if number >= 0:
                return number
        raise KeyError(key)

    def of(self, number: int) -> Any:
        """Return one key: a value, or a tuple of values."""
        parts = []
        for level, pairs in zip(self.levels[:0:-1], self.pairs[::-1], strict=True):
            number, own = divmod(int(pairs[number]), len(level))
            parts.append(level[own])
        parts.append(self.levels[0][number])
        return tuple(parts[::-1]) if len(parts) > 1 else parts[0]


def numbered(n_groups: int) -> Keys:
    """Return the keys 0, 1, ... of groups that have none of their own."""
    return Keys(["group"], [np.arange(n_groups)], [], True)


def grouped(columns: Sequence[np.ndarray], names: list[str]) -> tuple[Keys, np.ndarray]:
    """Return the distinct keys of rows and the number of each row's key (n,)."""
    level, codes = _distinct(columns[0])
    levels, pairs = [level], []
    for column in columns[1:]:
        level, own = _distinct(column)
        levels.append(level)
        known, codes = np.unique(codes * len(level) + own, return_inverse=True)
        pairs.append(known)
    return Keys(names, levels, pairs), codes


def as_columns(given: Any, n_rows: int | None = None) -> list[np.ndarray]:
    """Return keys of rows, in any of their forms, as one array for each part.

    Parameters
    ----------
    given : array-like (n,), tuple of such, list of tuples, or array (n, m)
        A value for each row, or several.
    n_rows : int or None
        How many there must be.

    Raises
    ------
    ValueError
        If their number differs.
    """
    if isinstance(given, tuple):
        columns = [as_column(part) for part in given]
    elif isinstance(given, list) and given and isinstance(given[0], tuple):
        columns = [as_column(list(part)) for part in zip(*given, strict=True)]
    else:
        one = as_column(given)
        columns = [one] if one.ndim == 1 else list(one.T)
    for column in columns:
        if column.ndim != 1 or (n_rows is not None and len(column) != n_rows):
            shape = f"{column.shape}, expected {(n_rows,)}" if n_rows is not None else f"{column.shape}"
            raise ValueError(f"groups must have one key for each row: shape {shape}.")
    return columns


def as_column(values: Any) -> np.ndarray:
    """Return key values as an array that can be sorted: dates and numbers as such, text as text.

    Raises
    ------
    TypeError
        If they are of kinds that have no order, such as text and numbers in one column.
    """
    column = np.asarray(values)
    if column.dtype.kind == "V" or column.dtype.kind == "c":
        raise TypeError(f"groups must be numbers, dates or text, not {column.dtype}: give a tuple of columns.")
    if isinstance(values, list) and column.dtype.kind in "US" and not all(isinstance(v, str | bytes) for v in values):
        column = np.array(values, object)  # NumPy has made text of numbers
    if column.dtype != object:
        return column
    some = [value for value in column.ravel().tolist() if not _is_missing(value)]
    _in_order(some)
    kind = _plain_dtype(some) if len(some) == column.size else None
    return column if kind is None else column.astype(kind)


def _plain_dtype(values: list[Any]) -> Any:
    """Return the dtype that holds objects as they are; None if there is none."""
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return np.str_
    if kinds == {int} and max(map(abs, values)) < 2**63:
        return np.int64
    if kinds <= {int, float} and float in kinds:
        return np.float64
    if kinds == {datetime.date}:
        return "datetime64[D]"
    if kinds and all(isinstance(value, datetime.datetime) and value.tzinfo is None for value in values):
        return "datetime64[us]"
    return None


def _in_order(values: list[Any]) -> list[Any]:
    try:
        return sorted(set(values))
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values})
        raise TypeError(f"groups must have an order, and {' and '.join(kinds)} have none: make them text.") from None


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def _distinct(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted values of a column and the number of each row's (n,) int64."""
    if column.dtype == object:
        return _distinct_objects(column)
    if len(column) > 1 and bool((column[1:] >= column[:-1]).all()):  # as they lie: most often groups come in order
        new = np.append(True, column[1:] != column[:-1])
        return column[new], np.cumsum(new) - 1
    if column.dtype.kind in "US":  # a dictionary takes a tenth of the time of a sort
        level, codes = _distinct_objects(column)
        return level.astype(column.dtype), codes
    if column.dtype.kind in "iu" and len(column):
        low, high = int(column.min()), int(column.max())
        if high - low < 2 * len(column):
            return _distinct_numbers(column, low, high)
    level, codes = np.unique(column, return_inverse=True)
    return level, codes.astype(np.int64, copy=False)


def _distinct_numbers(column: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Return those of integers that lie close together, by counting: no sort."""
    wide: Any = column.dtype if column.dtype.kind == "u" else np.int64  # that holds the values and all differences
    shifted = (column.astype(wide) - np.array(low, wide)).astype(np.int64)
    there = np.bincount(shifted, minlength=high - low + 1) > 0
    level = (np.flatnonzero(there).astype(wide) + np.array(low, wide)).astype(column.dtype)
    return level, (np.cumsum(there) - 1)[shifted]


def _distinct_objects(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return those of values with missing ones among them, which come last, as None."""
    values = [None if _is_missing(value) else value for value in column.tolist()]
    order = _in_order([value for value in values if value is not None])
    order += [None] if None in values else []
    numbers = {value: number for number, value in enumerate(order)}
    level = np.empty(len(order), object)
    level[:] = order
    return level, np.fromiter(map(numbers.__getitem__, values), np.int64, len(values))


def _positions(level: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the place of each value in a sorted level (n,) int64, -1 where it is not there."""
    if not len(level):
        return np.full(len(column), -1, np.int64)
    if level.dtype == object or (column.dtype == object and level.dtype.kind not in "mM"):
        numbers = {None if _is_missing(value) else value: number for number, value in enumerate(level.tolist())}
        values = [None if _is_missing(value) else value for value in column.tolist()]
        return np.array([numbers.get(value, -1) for value in values], np.int64)
    same_kind = _like(level, column)
    if same_kind is None:
        return np.full(len(column), -1, np.int64)
    column = same_kind
    places = np.minimum(np.searchsorted(level, column), len(level) - 1)
    same = level[places] == column
    if level.dtype.kind in "fmM":
        same |= (level[places] != level[places]) & (column != column)
    return np.where(same, places, -1)


def _like(level: np.ndarray, column: np.ndarray) -> np.ndarray | None:
    """Return values as they can be compared with those of a level; None: they never can be equal."""
    if level.dtype.kind in "mM" and column.dtype.kind != level.dtype.kind:
        try:
            return column.astype(level.dtype)
        except (TypeError, ValueError):
            return None
    for kinds in ("UST", "mM"):
        if (level.dtype.kind in kinds) != (column.dtype.kind in kinds):
            return None
    return column
