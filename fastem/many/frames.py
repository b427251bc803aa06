"""Data frames - pandas, polars, Arrow, whatever exports an Arrow stream - as rows and the columns of their keys."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np

from fastem.many.keys import as_column


class Frame(NamedTuple):
    """The rows of a frame, and their keys."""

    X: np.ndarray  # (n, d)
    names: list[str]
    keys: list[np.ndarray]  # one array (n,) for each part of the key
    by: list[str]


def read(frame: Any, by: list[str], columns: Any = None) -> Frame:
    """Return the rows of a frame and their keys.

    Parameters
    ----------
    frame : pandas.DataFrame or object with ``__arrow_c_stream__``
        The frame; a stream is read to its end.
    by : list of str
        The columns of the keys.
    columns : sequence of str or None
        The features; None means all other columns.

    Raises
    ------
    ValueError, TypeError
        If a column is not there, or a feature is not numeric.
    """
    if not hasattr(frame, "iloc") and not hasattr(frame, "__arrow_c_stream__"):
        raise TypeError(
            f"by= names columns of a frame (pandas, polars, Arrow), and X is a {type(frame).__name__}: use groups=."
        )
    table = frame if hasattr(frame, "iloc") else _arrow(frame)
    there = [str(name) for name in (table.columns if hasattr(table, "iloc") else table.column_names)]
    names = features_of(there, by, columns)
    missing = [name for name in (*by, *names) if name not in there]
    if missing:
        raise ValueError(f"The frame has no column {missing[0]!r}; it has {', '.join(map(repr, there))}.")
    features = [_feature(table[name], name) for name in names]
    dtype = np.float32 if all(part.dtype == np.float32 for part in features) else np.float64
    X = np.empty((len(features[0]), len(features)), dtype)
    for j, part in enumerate(features):
        X[:, j] = part
    return Frame(X, names, [key_of(table[name]) for name in by], list(by))


def _arrow(frame: Any) -> Any:
    if importlib.util.find_spec("pyarrow") is None:
        raise TypeError(f'A {type(frame).__name__} is read by pyarrow: pip install "fastem[cli]".')
    import pyarrow as pa

    return frame if isinstance(frame, pa.Table) else pa.table(frame)


def features_of(there: list[str], by: list[str], columns: Any = None) -> list[str]:
    """Return the names of the features: as given, or all that are there and no part of a key.

    Raises
    ------
    ValueError, TypeError
        If there are none, or they are no names.
    """
    names = [name for name in there if name not in by] if columns is None else _names(columns)
    if not by or not names:
        raise ValueError(f"There is no column {'of a key: by is empty' if not by else 'beside those of the key'}.")
    return names


def _names(columns: Any) -> list[str]:
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"columns must be a list of names where X is a frame, got {columns!r}.")
    return list(columns)


def _feature(column: Any, name: str) -> np.ndarray:
    """Return numbers, missing ones as NaN."""
    try:
        if hasattr(column, "iloc"):
            kind = np.float32 if str(column.dtype).lower() in ("float32", "float16") else np.float64
            if column.dtype.kind in "OUSMm":
                raise TypeError
            return column.to_numpy(dtype=kind, na_value=np.nan)
        import pyarrow as pa

        kind = pa.float32() if column.type in (pa.float16(), pa.float32()) else pa.float64()
        if pa.types.is_temporal(column.type) or pa.types.is_string(column.type):
            raise TypeError
        return column.cast(kind, safe=False).to_numpy()
    except (TypeError, ValueError, NotImplementedError):
        kind = column.dtype if hasattr(column, "iloc") else column.type
        raise ValueError(f"Column {name!r} is not numeric ({kind}): name the features by columns=.") from None


def key_of(column: Any) -> np.ndarray:
    """Return the values of a key column; missing ones as None, of dates as NaT."""
    if hasattr(column, "iloc"):
        plain = column.astype(object) if str(column.dtype) in ("category", "string", "str") else column
        return as_column(plain.to_numpy())
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count == 0 and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        coded = column.dictionary_encode().unify_dictionaries()  # far fewer texts than rows become objects
        texts = [np.array(chunk.dictionary.to_pylist(), np.str_)[chunk.indices.to_numpy()] for chunk in coded.chunks]
        return np.concatenate(texts) if texts else np.empty(0, "U1")
    dates = pa.types.is_temporal(column.type)
    plain = dates or (
        column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
    )
    return as_column(column.to_numpy() if plain else np.array(column.to_pylist(), object))
