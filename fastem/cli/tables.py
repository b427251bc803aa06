"""Tables on disk: CSV, Parquet, Feather and .npy files as matrices of numbers.

The command line reads through this module.  Whatever is wrong with a file becomes a `TableError`, whose text is one
sentence that names the file and, where it can, the column and the row.  Rows are counted from 1 and a header is not
counted ("data row 3").
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastem.files import FileError, first_line

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
COMPRESSIONS = (".gz", ".bz2")
READABLE = ".csv, .tsv, .txt (also .gz, .bz2), .parquet, .feather, .arrow, .npy"
DELIMITERS = ",;\t|"
HEAD_BYTES = 1 << 20  # enough for the header of a table with tens of thousands of columns
BLOCK_ROWS = 1 << 16


class TableError(FileError):
    """A table that cannot be read or written, said in one sentence."""


class Source(NamedTuple):
    """An opened table whose columns are known and whose values are not read yet."""

    path: Path
    names: list[str]
    named: bool  # False where the names x0, x1, ... are ours
    load: Callable[[list[str]], Any]  # an Arrow table, or a 2-D array


class Table(NamedTuple):
    """The chosen columns of a file."""

    X: np.ndarray  # (n, d) float32 or float64, C-contiguous; finite, or NaN where that was allowed
    columns: list[str]


def open_table(path: str | Path, *, header: bool | None = None) -> Source:
    """Open a table and learn the names of its columns.

    Parameters
    ----------
    path : str or Path
        A file whose suffix says what it is: .csv, .tsv or .txt (also compressed: .gz, .bz2), .parquet, .feather or
        .arrow, .npy.
    header : bool, optional
        Whether the first line of a CSV file names its columns.  By default it does unless all its fields are numbers.
        Columns without a name are called x0, x1, and so on.

    Returns
    -------
    Source

    Raises
    ------
    TableError
        With one sentence that says what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        raise TableError(f"{path} is a folder, not a file.")
    if not path.exists():
        raise TableError(f"{path} does not exist.")
    suffix = _suffix(path)
    opener = _OPENERS.get(suffix)
    if opener is None:
        raise TableError(f"{path} has an unknown suffix; fastem reads {READABLE}.")
    with _sentences(path):
        if path.is_file() and path.stat().st_size == 0:
            raise TableError(f"{path} is empty.")
        return opener(path, header)


def read_table(source: Source, columns: Sequence[str] | None = None, *, allow_nan: bool = False) -> Table:
    """Read columns of an opened table as a matrix of numbers.

    Parameters
    ----------
    source : Source
        What `open_table` returned.
    columns : sequence of str, optional
        The columns, in the order wanted; all by default.
    allow_nan : bool
        Whether values may be missing (NaN); infinity is always refused.

    Returns
    -------
    Table

    Raises
    ------
    TableError
        A column is missing, holds text, infinity or a missing value that is not allowed, or the file has no rows.
    """
    chosen = list(source.names if columns is None else columns)
    _check_columns(source, chosen, everything=columns is None)
    with _sentences(source.path):
        loaded = source.load(chosen)
        X = loaded if isinstance(loaded, np.ndarray) else _matrix(source, loaded, everything=columns is None)
    if len(X) == 0:
        raise TableError(f"{source.path} has no rows.")
    _check_finite(source.path, X, chosen, allow_nan=allow_nan)
    return Table(X, chosen)


def split_names(text: str) -> list[str]:
    """Column names from one line of CSV, so that a quoted name may hold a comma.

    Examples
    --------
    >>> split_names('a, "b,c"')
    ['a', 'b,c']
    """
    names = next(csv.reader([text], skipinitialspace=True), [])
    return [name.strip() for name in names if name.strip()]


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS and suffixes[-2] in CSV_SUFFIXES:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one sentence about `path`."""
    try:
        yield
    except TableError:
        raise
    except MemoryError:
        raise TableError(f"{path} does not fit in memory.") from None
    except PermissionError:
        raise TableError(f"{path} cannot be read: permission denied.") from None
    except Exception as error:  # damaged files make readers fail in many ways, even with tokenize.TokenError
        raise TableError(f"{path} cannot be read: {first_line(error)}.") from error


def _open_csv(path: Path, header: bool | None) -> Source:
    start = _start(path)
    if header is None:
        header = not _all_numbers(start.fields)
    names = [name.strip() for name in start.fields] if header else [f"x{j}" for j in range(len(start.fields))]

    def load(columns: list[str]) -> Any:
        return _read_csv(path, start, names, columns, header)

    return Source(path, names, header, load)


class _Start(NamedTuple):
    """How a CSV file begins."""

    blank_lines: int
    fields: list[str]  # of the first line that is not blank
    delimiter: str  # the one which that line uses most


def _start(path: Path) -> _Start:
    import pyarrow as pa

    with pa.input_stream(str(path)) as stream:  # decompresses by suffix
        head = stream.read(HEAD_BYTES)
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise TableError(f"{path} is not text in UTF-8.")
    lines = list(io.StringIO(text, newline=None))
    blank = next((i for i, line in enumerate(lines) if line.strip()), None)
    if blank is None:
        raise TableError(f"{path} is empty.")
    delimiter = max(DELIMITERS, key=lines[blank].count)
    return _Start(blank, next(csv.reader(lines[blank:], delimiter=delimiter)), delimiter)


def _all_numbers(fields: list[str]) -> bool:
    """Whether a first line is data: numbers throughout, empty fields aside."""
    values = [field for field in fields if field.strip()]
    return bool(values) and all(_is_number(value) for value in values)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text) is not None


def _read_csv(path: Path, start: _Start, names: list[str], columns: list[str], header: bool) -> Any:
    from pyarrow import csv as arrow_csv

    ragged: list[Any] = []

    def refuse(row: Any) -> str:
        ragged.append(row)
        return "error"

    def attempt(use_threads: bool) -> Any:
        ragged.clear()
        return arrow_csv.read_csv(
            str(path),
            read_options=arrow_csv.ReadOptions(
                column_names=names,
                skip_rows=start.blank_lines,
                skip_rows_after_names=int(header),
                use_threads=use_threads,
                block_size=1 << 22,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=start.delimiter, newlines_in_values=True, invalid_row_handler=refuse
            ),
            convert_options=arrow_csv.ConvertOptions(include_columns=columns),
        )

    try:
        return attempt(use_threads=True)
    except ValueError:
        if not ragged:
            raise
    try:
        return attempt(use_threads=False)  # only the serial reader knows the number of a row
    except ValueError:
        row = ragged[0]
        number = row.number - start.blank_lines - int(header)
        raise TableError(
            f"{path} has {_count(row.actual_columns, 'value')} instead of {row.expected_columns} in data row {number}."
        ) from None


def _open_parquet(path: Path, header: bool | None) -> Source:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)

    def load(columns: list[str]) -> Any:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns).select(columns)

    return Source(path, names, True, load)


def _open_feather(path: Path, header: bool | None) -> Source:
    from pyarrow import ipc

    with open(path, "rb") as stream:
        names = list(ipc.open_file(stream).schema.names)

    def load(columns: list[str]) -> Any:
        wanted = ipc.IpcReadOptions(included_fields=[names.index(column) for column in columns])
        with open(path, "rb") as stream:
            table = ipc.open_file(stream, options=wanted).read_all().select(columns)
        table.validate(full=True)  # Arrow trusts the offsets in the file otherwise
        return table

    return Source(path, names, True, load)


def _open_npy(path: Path, header: bool | None) -> Source:
    with open(path, "rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise TableError(f"{path} is not a .npy file.")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (1, 2):
        raise TableError(f"{path} holds an array of {array.ndim} dimensions; a table has 2.")
    if array.dtype.kind not in "fiub":
        raise TableError(f"{path} holds values of type {array.dtype}, not numbers.")
    matrix = array.reshape(-1, 1) if array.ndim == 1 else array
    names = [f"x{j}" for j in range(matrix.shape[1])]

    def load(columns: list[str]) -> np.ndarray:
        dtype = np.float32 if matrix.dtype.kind == "f" and matrix.dtype.itemsize <= 4 else np.float64
        picked = matrix if columns == names else matrix[:, [names.index(column) for column in columns]]
        return np.array(picked, dtype=dtype, order="C")

    return Source(path, names, False, load)


_OPENERS: dict[str, Callable[[Path, bool | None], Source]] = {
    **dict.fromkeys(CSV_SUFFIXES, _open_csv),
    **dict.fromkeys((".parquet", ".pq"), _open_parquet),
    **dict.fromkeys((".feather", ".arrow"), _open_feather),
    ".npy": _open_npy,
}


def _check_columns(source: Source, chosen: list[str], *, everything: bool) -> None:
    if not chosen:
        raise TableError(f"{source.path} has no columns." if everything else "The list of columns is empty.")
    missing = [name for name in chosen if name not in source.names]
    if missing:
        raise TableError(
            f"{source.path} has no {_plural('column', missing)} {quoted(missing)}; it has {quoted(source.names)}."
        )
    twice = [name for name in dict.fromkeys(chosen) if chosen.count(name) > 1 or source.names.count(name) > 1]
    if twice:
        raise TableError(f"{source.path}: column {quoted(twice[:1])} appears more than once.")
    index = [name for name in source.names if name == "" or name.startswith("__index_level_")]
    if everything and index:
        rest = [name for name in source.names if name not in index]
        raise TableError(f"{source.path} has a column {quoted(index[:1])} that looks like a row index{_advice(rest)}.")


def _matrix(source: Source, table: Any, *, everything: bool) -> np.ndarray:
    """Copy the columns of an Arrow table side by side."""
    import pyarrow as pa

    columns = [_decoded(column) for column in table.columns]
    bad = {name: why for name, column in zip(table.column_names, columns, strict=True) if (why := _not_numeric(column))}
    if bad:
        rest = [name for name in table.column_names if name not in bad] if everything else []
        raise TableError(f"{source.path}: {_reasons(bad)} not numeric{_advice(rest)}.")
    small = all(column.type in (pa.float16(), pa.float32()) for column in columns)
    X = np.empty((table.num_rows, len(columns)), np.float32 if small else np.float64)
    for j, column in enumerate(columns):
        _fill(X[:, j], column)
    return X


def _reasons(bad: dict[str, str]) -> str:
    """Name the columns that cannot be used, with the reason for each."""
    shown = ", ".join(f'"{_short(name)}" ({why})' for name, why in list(bad.items())[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f"{_plural('column', list(bad))} {shown}{more} {'is' if len(bad) == 1 else 'are'}"


def _decoded(column: Any) -> Any:
    """Strip dictionary encoding and extension types from an Arrow column."""
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"


def _not_numeric(column: Any) -> str | None:
    """Why a column cannot be used: its first text that is no number, or its type.  None if it can."""
    import pyarrow as pa

    kind = column.type
    if _is_text(kind):
        row = _first_text(column)
        return None if row is None else f'"{_short(column[row].as_py())}" in data row {row + 1}'
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
        _numbers(column)
    except ValueError:
        return False
    return True


def _numbers(column: Any) -> Any:
    """Cast an Arrow column to float64; integers beyond 2**53 are rounded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    return column.cast(pa.float64(), safe=False)


def _fill(out: np.ndarray, column: Any) -> None:
    """Write an Arrow column into `out`, missing values as NaN."""
    import pyarrow as pa

    if column.type not in (pa.float16(), pa.float32(), pa.float64()):
        column = _numbers(column)
    start = 0
    for chunk in column.chunks:
        out[start : start + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
        start += len(chunk)


def _check_finite(path: Path, X: np.ndarray, columns: list[str], *, allow_nan: bool) -> None:
    for start in range(0, len(X), BLOCK_ROWS):
        block = X[start : start + BLOCK_ROWS]
        finite = np.isfinite(block)
        if allow_nan:
            finite |= np.isnan(block)
        if finite.all():
            continue
        i, j = np.argwhere(~finite)[0]
        what = "a missing value (NaN)" if np.isnan(block[i, j]) else "an infinite value"
        raise TableError(f"{path} has {what} in column {quoted([columns[j]])}, data row {start + i + 1}.")


def _advice(columns: list[str]) -> str:
    """Which columns to choose, ready to be pasted into a shell."""
    if not columns:
        return ""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(columns[:20])
    return f"; choose the numeric ones with --columns {shlex.quote(line.getvalue())}"


def quoted(names: Sequence[str]) -> str:
    """Column names in quotes, the first twenty of them."""
    shown = ", ".join(f'"{_short(name)}"' for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plural(word: str, names: Sequence[str]) -> str:
    return word if len(names) == 1 else f"{word}s"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
