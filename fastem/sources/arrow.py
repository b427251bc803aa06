"""Columns of Arrow tables as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem.files import short


def decoded(column: Any) -> Any:
    """Strip dictionary encoding and extension types from an Arrow column."""
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def is_text(kind: Any) -> bool:
    """Tell whether an Arrow type is text."""
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"


def not_numeric(column: Any) -> str | None:
    """Why a column cannot be used: its first text that is no number, or its type.  None if it can."""
    import pyarrow as pa

    kind = column.type
    if is_text(kind):
        row = _first_text(column)
        return None if row is None else f'"{short(column[row].as_py())}" in data row {row + 1}'
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return None if numeric or pa.types.is_boolean(kind) or pa.types.is_null(kind) else f"type {kind}"


def _first_text(column: Any) -> int | None:
    """Row of the first text that is not a number, found by halving."""
    if _castable(column):
        return None
    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        if _castable(column.slice(start, middle - start)):
            start = middle
        else:
            stop = middle
    return start


def _castable(column: Any) -> bool:
    try:
        as_numbers(column)
    except ValueError:
        return False
    return True


def as_numbers(column: Any) -> Any:
    """Cast an Arrow column to float64; integers beyond 2**53 are rounded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_text(column.type):
        column = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    return column.cast(pa.float64(), safe=False)


def fill(out: np.ndarray, column: Any) -> None:
    """Write an Arrow column into `out`, missing values as NaN."""
    import pyarrow as pa

    if column.type not in (pa.float16(), pa.float32(), pa.float64()):
        column = as_numbers(column)
    start = 0
    for chunk in column.chunks:
        out[start : start + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
        start += len(chunk)
