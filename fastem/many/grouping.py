"""The forms in which rows and groups come, made one: batches of groups whose rows lie one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from fastem import validate
from fastem.many import frames
from fastem.many.keys import Keys, as_columns, grouped, numbered

# Rows are gathered, or converted, for so many bytes of them at a time.
BATCH_BYTES = 1 << 26


class Batch(NamedTuple):
    """A run of groups, their rows one after another."""

    first: int  # number of the first group
    X: np.ndarray  # (n, d) C-contiguous float32 or float64
    sample_weight: np.ndarray  # (n,) float64, or empty
    offsets: np.ndarray  # (groups + 1,)


class Layout(NamedTuple):
    """Where the rows of the groups are among those that were given."""

    keys: Keys
    offsets: np.ndarray  # (G + 1,) int64: group g has the numbers order[offsets[g]:offsets[g + 1]]
    order: np.ndarray | None  # (n,) int64 numbers of rows, group after group; None: they lie so
    form: str  # of the answers for rows: "rows" (n,), "list" of arrays, "stack" (b, n) or "columns" (n, m)
    slices: list[np.ndarray]  # the columns of each group, as indices, if the groups are columns

    def rows_of(self, group: int) -> Any:
        """Return what picks the rows of a group, as an index."""
        rows = slice(self.offsets[group], self.offsets[group + 1])
        return rows if self.order is None else self.order[rows]

    def shaped(self, flat: np.ndarray) -> Any:
        """Return one value for each row, flat, in the form in which the rows were given."""
        n_groups = len(self.offsets) - 1
        if self.form == "list":
            return [flat[self.rows_of(group)] for group in range(n_groups)]
        if self.form == "stack":
            return flat.reshape(n_groups, -1)
        return flat.reshape(n_groups, -1).T if self.form == "columns" else flat


class Grouped(NamedTuple):
    """Rows and their groups."""

    layout: Layout
    pieces: list[np.ndarray]  # one table (n, d), or one for each group
    sample_weight: np.ndarray  # (n,) float64 of the rows, or empty
    names: list[str]  # of the features; empty without

    def batches(self) -> Iterator[Batch]:
        """Yield the groups in runs of at most `BATCH_BYTES` of rows, or one group."""
        offsets = self.layout.offsets
        first, n_groups = 0, len(offsets) - 1
        while first < n_groups:
            width = self._width(first)
            most = offsets[first] + BATCH_BYTES // (8 * width)
            last = max(first + 1, int(np.searchsorted(offsets, most, side="right")) - 1)
            last = (
                next((g for g in range(first + 1, last) if self._width(g) != width), last)
                if self.layout.slices
                else last
            )
            yield Batch(first, *self._rows(first, last), offsets[first : last + 1] - offsets[first])
            first = last

    def n_features(self) -> np.ndarray:
        """Return the number of features of each group (G,)."""
        widths = [len(columns) for columns in self.layout.slices] or self.pieces[0].shape[1]
        return np.full(len(self.layout.offsets) - 1, widths, np.int64)

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all rows as one table, and their weights."""
        table = self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)
        return _floats(table), self.sample_weight

    def rows(self, group: int) -> np.ndarray:
        """Return the rows of one group."""
        return self._rows(group, group + 1)[0]

    def _width(self, group: int) -> int:
        slices = self.layout.slices
        return len(slices[group]) if slices else self.pieces[0].shape[1]

    def _rows(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a run of groups and their weights."""
        w = self.sample_weight
        if self.layout.slices:
            X = np.concatenate([_picked(self.pieces[0], columns) for columns in self.layout.slices[first:last]])
            return _floats(X), np.tile(w, last - first) if w.size else w
        layout = self.layout
        run = slice(layout.offsets[first], layout.offsets[last])
        if len(self.pieces) > 1:
            X = np.concatenate(self.pieces[first:last])
        else:
            rows: Any = run if layout.order is None else layout.order[run]
            X = self.pieces[0][rows]
            return _floats(X), w[rows] if w.size else w
        return _floats(X), w[run] if w.size else w


def _floats(X: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(X, X.dtype if X.dtype in validate.FLOATS else np.float64)


def _indices(part: Any, group: int, n_features: int) -> np.ndarray:
    """Return the columns of a group of features as indices."""
    everything = np.arange(n_features)
    if isinstance(part, slice):
        indices = everything[part]
    else:
        indices = np.asarray(part)
        if indices.ndim != 1 or indices.dtype.kind not in "iu" or not np.isin(indices, everything).all():
            raise ValueError(f"columns[{group}] must be a slice or a list of numbers below {n_features}, got {part!r}.")
    if not len(indices):
        raise ValueError(f"columns[{group}] picks no column: {part!r} of {n_features}.")
    return indices


def _picked(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return columns of a table, a view if they lie side by side."""
    first, last = int(indices[0]), int(indices[-1])
    side_by_side = np.array_equal(indices, np.arange(first, last + 1))
    return table[:, first : last + 1] if side_by_side else table[:, indices]


def gather(
    X: Any, groups: Any = None, offsets: Any = None, by: Any = None, columns: Any = None, sample_weight: Any = None
) -> Grouped:
    """Read rows and groups in any of the forms that `fastem.fit_many` takes.

    Raises
    ------
    ValueError, TypeError
        With one sentence about what does not fit.
    """
    given = [name for name, value in (("groups", groups), ("offsets", offsets), ("by", by)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"Give one of groups, offsets and by, not {' and '.join(given)}.")
    if by is not None:
        frame = frames.read(X, [by] if isinstance(by, str) else list(by), columns)
        return _by_keys(frame.X, frame.keys, frame.by, sample_weight, frame.names)
    if columns is not None:
        return _by_columns(X, columns, given, sample_weight)
    if not given and (isinstance(X, list | tuple) or np.ndim(X) == 3):
        return _by_pieces(X, sample_weight)
    names = [str(name) for name in getattr(X, "columns", [])] if hasattr(X, "__dataframe__") else []
    table = _table(X)
    if groups is not None:
        parts = as_columns(groups, len(table))
        return _by_keys(table, parts, [f"key{i}" for i in range(len(parts))], sample_weight, names)
    if offsets is None:
        raise ValueError("Say which rows make a group: groups, offsets, by or columns; or give a list of arrays.")
    ends = _offsets(offsets, len(table))
    w = validate.weights(sample_weight, len(table), np.float64)
    return Grouped(Layout(numbered(len(ends) - 1), ends, None, "rows", []), [table], w, names)


def _by_keys(
    table: np.ndarray, columns: Sequence[np.ndarray], by: list[str], sample_weight: Any, names: list[str]
) -> Grouped:
    if not len(table):
        raise ValueError(f"Found array with shape {table.shape}: X needs at least one row.")
    by = ["group"] if by == ["key0"] else by
    keys, codes = grouped(columns, by)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(keys)))]).astype(np.int64)
    order = None
    if not bool((codes[1:] >= codes[:-1]).all()):
        order = _stable_order(codes, len(keys))
    w = validate.weights(sample_weight, len(table), np.float64)
    return Grouped(Layout(keys, offsets, order, "rows", []), [table], w, names)


def _stable_order(codes: np.ndarray, n_codes: int) -> np.ndarray:
    """Return the numbers of rows sorted by their codes, equal ones as they lie: SciPy counts where NumPy would sort."""
    n = len(codes)
    kind = np.int32 if max(n, n_codes) < 2**31 else np.int64
    one_row = csr_array((np.arange(n, dtype=kind), codes.astype(kind), np.array([0, n], kind)), shape=(1, n_codes))
    return one_row.tocsc().data


def _by_columns(X: Any, columns: Any, given: list[str], sample_weight: Any) -> Grouped:
    if given:
        raise ValueError(f"columns= makes groups of features, and {given[0]}= of rows: give one of them.")
    table = _table(X)
    slices = [_indices(part, group, table.shape[1]) for group, part in enumerate(columns)]
    if not slices:
        raise ValueError("columns is empty: it must hold a slice for each group of features.")
    offsets = np.arange(len(slices) + 1, dtype=np.int64) * len(table)
    w = validate.weights(sample_weight, len(table), np.float64)
    return Grouped(Layout(numbered(len(slices)), offsets, None, "columns", slices), [table], w, [])


def _by_pieces(X: Any, sample_weight: Any) -> Grouped:
    stacked = isinstance(X, np.ndarray)
    if stacked:
        pieces = [_table(np.ascontiguousarray(X).reshape(-1, X.shape[2]))]
        lengths = [X.shape[1]] * len(X)
    else:
        pieces = [_table(piece) for piece in X]
        lengths = [len(piece) for piece in pieces]
    if not lengths:
        raise ValueError("X is an empty list: there is no group.")
    widths = sorted({piece.shape[1] for piece in pieces})
    if len(widths) > 1:
        raise ValueError(f"All groups must have the same features: the arrays of X have {widths[0]} and {widths[-1]}.")
    if len({piece.dtype for piece in pieces}) > 1:
        dtype = np.result_type(*(piece.dtype for piece in pieces), np.float32)
        pieces = [piece.astype(dtype, copy=False) for piece in pieces]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    w = validate.weights(_joined_weights(sample_weight), int(offsets[-1]), np.float64)
    layout = Layout(numbered(len(lengths)), offsets, None, "stack" if stacked else "list", [])
    return Grouped(layout, pieces, w, [])


def _joined_weights(sample_weight: Any) -> Any:
    """Return weights that may come as the rows do, a list of arrays or (b, n), as one array."""
    if isinstance(sample_weight, list | tuple) and any(np.ndim(part) == 1 for part in sample_weight):
        return np.concatenate([np.asarray(part) for part in sample_weight])
    return np.ravel(sample_weight) if np.ndim(sample_weight) == 2 else sample_weight


def _table(X: Any) -> np.ndarray:
    """Return rows as an array; their values are looked at group by group."""
    if hasattr(X, "tocsr"):
        raise TypeError("fit_many takes dense rows: sparse ones are no small groups. Use X.toarray().")
    table = np.asarray(X)
    if table.ndim != 2:
        raise ValueError(f"Expected 2D array, got {table.ndim}D array instead: X must have shape (n_rows, n_features).")
    if table.dtype == object:
        table = table.astype(np.float64)
    if table.dtype.kind not in "fiub":
        raise TypeError(f"X must be numeric, got dtype {table.dtype}.")
    if not table.shape[1]:
        raise ValueError(f"Found array with shape {table.shape}: X needs at least one feature.")
    return table


def _offsets(offsets: Any, n_rows: int) -> np.ndarray:
    ends = np.asarray(offsets)
    if ends.ndim != 1 or len(ends) < 2 or ends.dtype.kind not in "iu":
        raise ValueError("offsets must be at least two integers, one more than there are groups.")
    if ends[0] != 0 or ends[-1] != n_rows or np.any(ends[1:] < ends[:-1]):
        raise ValueError(f"offsets must rise from 0 to the number of rows, {n_rows}; got {ends[0]} to {ends[-1]}.")
    return ends.astype(np.int64)
