"""Tables on disk: CSV, Parquet, Feather and .npy files as matrices of numbers.

The command line reads through this module.  Whatever is wrong with a file becomes a `TableError`, whose text is one
sentence that names the file and, where it can, the column and the row.  Rows are counted from 1 and a header is not
counted ("data row 3").
"""

from __future__ import annotations

import csv
import glob
import io
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastem.files import TableError, first_line, plural, quoted, short
from fastem.sources.arrow import decoded, fill, not_numeric
from fastem.sources.csv_head import Head, all_numbers, head_of
from fastem.sources.opening import rows
from fastem.sources.rows import Progress, Stream

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
COMPRESSIONS = (".gz", ".bz2")
READABLE = ".csv, .tsv, .txt (also .gz, .bz2), .parquet, .feather, .arrow, .npy"
BLOCK_ROWS = 1 << 16
STREAM_BYTES = 1 << 28  # a file of more is read as a stream


class Source(NamedTuple):
    """An opened table whose columns are known and whose values are not read yet."""

    path: Path
    names: list[str]
    named: bool  # False where the names x0, x1, ... are ours
    load: Callable[[list[str]], Any]  # an Arrow table, a 2-D array, or a stream of more than memory may hold


class Table(NamedTuple):
    """The chosen columns of a file."""

    X: Any  # (n, d) float32 or float64, C-contiguous, or a stream; finite, or NaN where that was allowed
    columns: list[str]


def open_table(path: str | Path, *, header: bool | None = None) -> Source:
    """Open a table and learn the names of its columns.

    Parameters
    ----------
    path : str or Path
        A file whose suffix says what it is: .csv, .tsv or .txt (also compressed: .gz, .bz2), .parquet, .feather or
        .arrow, .npy.  A folder or a glob of such files, and a file of more than `STREAM_BYTES`, is read as a stream.
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
    if _is_large(path):
        stream = rows(path, header=header)
        return Source(path, stream.names, stream.named, stream.selected)
    return open_file(path, header=header)


def open_file(path: str | Path, *, header: bool | None = None) -> Source:
    """Open a table of one file, whatever its size, whose columns are to be read as a whole; as `open_table`.

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


def read_table(
    source: Source,
    columns: Sequence[str] | None = None,
    *,
    allow_nan: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Table:
    """Read columns of an opened table as a matrix of numbers.

    Parameters
    ----------
    source : Source
        What `open_table` returned.
    columns : sequence of str, optional
        The columns, in the order wanted; all by default.
    allow_nan : bool
        Whether values may be missing (NaN); infinity is always refused.
    progress : callable, optional
        Is told how far the first pass over a stream is, and every later one.

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
        if isinstance(loaded, Stream):
            return Table(_surveyed(loaded, allow_nan=allow_nan, progress=progress), chosen)
        X = loaded if isinstance(loaded, np.ndarray) else _matrix(source, loaded, everything=columns is None)
    if len(X) == 0:
        raise TableError(f"{source.path} has no rows.")
    _check_finite(source.path, X, chosen, allow_nan=allow_nan)
    return Table(X, chosen)


def _is_large(path: Path) -> bool:
    """Tell whether a table is read as a stream: a folder, a glob, a file of many bytes."""
    if path.is_dir() or (not path.exists() and glob.has_magic(str(path))):
        return True
    return path.is_file() and path.stat().st_size > STREAM_BYTES


def _surveyed(stream: Stream, *, allow_nan: bool, progress: Callable[[Progress], None] | None) -> Stream:
    """Read a stream for the first time, and refuse what `_check_finite` refuses."""
    stream.progress = progress
    facts = stream.survey()
    bad = facts.infinity or (None if allow_nan else facts.nan)
    if bad is not None:
        what = "an infinite value" if bad is facts.infinity else "a missing value (NaN)"
        column = quoted([stream.names[bad.column]])
        raise TableError(f"{bad.file} has {what} in column {column}, data row {bad.file_row + 1}.")
    return stream


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
    start = head_of(path)
    if header is None:
        header = not all_numbers(start.fields)
    names = [name.strip() for name in start.fields] if header else [f"x{j}" for j in range(len(start.fields))]

    def load(columns: list[str]) -> Any:
        return _read_csv(path, start, names, columns, header)

    return Source(path, names, header, load)


def _read_csv(path: Path, start: Head, names: list[str], columns: list[str], header: bool) -> Any:
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
            f"{source.path} has no {plural('column', missing)} {quoted(missing)}; it has {quoted(source.names)}."
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

    columns = [decoded(column) for column in table.columns]
    bad = {name: why for name, column in zip(table.column_names, columns, strict=True) if (why := not_numeric(column))}
    if bad:
        rest = [name for name in table.column_names if name not in bad] if everything else []
        raise TableError(f"{source.path}: {_reasons(bad)} not numeric{_advice(rest)}.")
    small = all(column.type in (pa.float16(), pa.float32()) for column in columns)
    X = np.empty((table.num_rows, len(columns)), np.float32 if small else np.float64)
    for j, column in enumerate(columns):
        fill(X[:, j], column)
    return X


def _reasons(bad: dict[str, str]) -> str:
    """Name the columns that cannot be used, with the reason for each."""
    shown = ", ".join(f'"{short(name)}" ({why})' for name, why in list(bad.items())[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f"{plural('column', list(bad))} {shown}{more} {'is' if len(bad) == 1 else 'are'}"


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


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
