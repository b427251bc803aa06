"""Where the pieces of a stream come from: .npy files, Arrow data, arrays that a function gives.

A reader knows the names of its columns and yields its rows in pieces of any size; whatever is wrong with a file becomes
a `TableError`, one sentence that names the file and, where it can, the row, counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastem.files import TableError, first_line, plural, quoted, short
from fastem.sources.arrow import decoded, fill, not_numeric
from fastem.sources.csv_head import all_numbers, head_of
from fastem.sources.reading import Piece

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
FEATHER_SUFFIXES = (".feather", ".arrow", ".ipc")
COMPRESSIONS = (".gz", ".bz2")
PIECE_ROWS = 1 << 16  # rows that are decoded at a time
PIECE_BYTES = 1 << 24  # and bytes
# Arrow says of a CSV file where a value is no number, counting the lines of the header.
BAD_VALUE = re.compile(
    r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to [a-z0-9]+: invalid value '(.*)'"
)


class Columns(NamedTuple):
    """Which columns are read, and as what."""

    features: list[str]
    weights: str | None
    dtype: np.dtype


def chosen_of(names: list[str], columns: list[str] | None, weights: str | None) -> list[str]:
    """Return the features, checked: those asked for, or all but the weights."""
    chosen = [name for name in names if name != weights] if columns is None else list(columns)
    asked = [*chosen, *([] if weights is None else [weights])]
    missing = [name for name in asked if name not in names]
    if missing:
        raise TableError(f"There is no column {quoted(missing)}; there are {quoted(names)}.")
    twice = [name for name in dict.fromkeys(asked) if asked.count(name) > 1 or names.count(name) > 1]
    if twice or not chosen:
        raise TableError(f"Column {quoted(twice[:1])} appears more than once." if twice else "There are no columns.")
    return chosen


class Reader:
    """What pieces of rows come from.

    Attributes
    ----------
    names : list of str
        The columns, weights and all others.
    named : bool
        False where the names x0, x1, ... are ours.
    small : set of str
        The columns that are floating point of at most 32 bits.
    n_rows : int or None
        How many rows there are; None where only reading tells.
    once : bool
        Whether the rows can be read only once.
    slow : bool
        Whether decoding takes much longer than reading numbers.
    """

    names: list[str]
    named = True
    small: frozenset[str] = frozenset()
    n_rows: int | None = None
    once = False
    slow = False

    def pieces(self, columns: Columns) -> Iterator[Piece]:
        """Yield the rows in pieces of any size."""
        raise NotImplementedError

    def array(self, columns: Columns) -> np.ndarray | None:
        """Return all rows as one array that takes no memory of its own, C-contiguous and of that dtype, or None."""
        return None


@contextmanager
def sentences(name: str, row: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn whatever a reader raises into one sentence about a file; `row` tells how many rows came before."""
    try:
        yield
    except (TableError, MemoryError):
        raise
    except FileNotFoundError:
        raise TableError(f"{name} does not exist{_after(row)}.") from None
    except PermissionError:
        raise TableError(f"{name} cannot be read: permission denied.") from None
    except Exception as error:  # damaged files make readers fail in many ways
        raise TableError(f"{name} cannot be read{_after(row)}: {first_line(error)}.") from error


def _after(row: Callable[[], int] | None) -> str:
    seen = row() if row is not None else 0
    return f" after data row {seen}" if seen else ""


class ArrayReader(Reader):
    """The rows of an array, a memory map among them."""

    named = False

    def __init__(self, array: np.ndarray, name: str) -> None:
        if array.ndim not in (1, 2):
            raise TableError(f"{name} holds an array of {array.ndim} dimensions; a table has 2.")
        if array.dtype.kind not in "fiub":
            raise TableError(f"{name} holds values of type {array.dtype}, not numbers.")
        self._rows = array.reshape(-1, 1) if array.ndim == 1 else array
        self._name = name
        self.names = [f"x{j}" for j in range(self._rows.shape[1])]
        self.n_rows = len(self._rows)
        self.small = frozenset(self.names if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else ())

    def array(self, columns: Columns) -> np.ndarray | None:
        X = self._rows
        ready = X.dtype == columns.dtype and X.dtype.isnative and X.flags.c_contiguous and X.flags.aligned
        return X if ready and columns.features == self.names else None

    def pieces(self, columns: Columns) -> Iterator[Piece]:
        every = columns.features == self.names
        picked = slice(None) if every else [self.names.index(name) for name in columns.features]
        step = max(1, min(PIECE_ROWS, PIECE_BYTES // max(1, self._rows.strides[0] or 1)))
        for first in range(0, len(self._rows), step):
            part = self._rows[first : first + step]
            w = None
            if columns.weights is not None:
                w = part[:, self.names.index(columns.weights)].astype(np.float64)
            yield Piece(np.ascontiguousarray(part[:, picked], columns.dtype), w, self._name, first)


def npy_reader(path: Path) -> Reader:
    """Open a .npy file as a memory map.

    Raises
    ------
    TableError
        If it is none, or holds no numbers.
    """
    with open(path, "rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise TableError(f"{path} is not a .npy file.")
    # Copy on write: pages are the file's, and kernels compiled for arrays that may be written serve.
    return ArrayReader(np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray), str(path))


def columns_of(reader: Reader, columns: list[str] | None, weights: str | None = None, dtype: Any = None) -> Columns:
    """Return which columns of a reader are read, as `chosen_of` checks them; float32 if all of them fit in there."""
    chosen = chosen_of(reader.names, columns, weights)
    small = reader.small.issuperset(chosen)
    return Columns(chosen, weights, np.dtype(("float32" if small else "float64") if dtype is None else dtype))


class ArrowPart(NamedTuple):
    """A file, or what else gives batches of Arrow columns."""

    name: str
    names: list[str]
    types: list[Any]
    n_rows: int | None
    batches: Callable[[list[str]], Iterator[Any]]
    header: int  # lines of a CSV file before its first data row


class ArrowReader(Reader):
    """Batches of Arrow columns, from one part after another."""

    def __init__(self, parts: Sequence[ArrowPart], *, named: bool = True, once: bool = False, slow: bool = False):
        self._parts = parts
        self.names, self.named, self.once, self.slow = parts[0].names, named, once, slow
        counts = [part.n_rows for part in parts]
        self.n_rows = None if None in counts else sum(count for count in counts if count is not None)
        wide = {name for part in parts for name, kind in zip(part.names, part.types, strict=True) if not _small(kind)}
        self.small = frozenset(name for name in self.names if name not in wide)

    def pieces(self, columns: Columns) -> Iterator[Piece]:
        wanted = [*columns.features, *([columns.weights] if columns.weights is not None else [])]
        for part in self._parts:
            missing = [name for name in wanted if name not in part.names]
            if missing:
                raise TableError(
                    f"{part.name} has no {plural('column', missing)} {quoted(missing)}, which {self._parts[0].name} "
                    f"has; it has {quoted(part.names)}."
                )
            yield from self._of_part(part, wanted, columns)

    def _of_part(self, part: ArrowPart, wanted: list[str], columns: Columns) -> Iterator[Piece]:
        first = 0
        with _bad_values(part, wanted), sentences(part.name, lambda: first):
            for batch in part.batches(wanted):
                if len(batch):
                    yield _piece(batch, part.name, first, columns)
                    first += len(batch)


def _small(kind: Any) -> bool:
    return str(kind) in ("halffloat", "float")


def _piece(batch: Any, name: str, first: int, columns: Columns) -> Piece:
    """Copy the columns of a batch side by side."""
    import pyarrow as pa

    found = {}
    table = pa.Table.from_batches([batch])
    for column in [*columns.features, *([columns.weights] if columns.weights is not None else [])]:
        values = decoded(table.column(column))
        why = not_numeric(values)
        if why is not None:
            why = re.sub(r"(?<=in data row )\d+$", lambda match: str(first + int(match[0])), why)
            raise TableError(f'{name}: column "{short(column)}" ({why}) is not numeric.')
        found[column] = values
    X = np.empty((len(batch), len(columns.features)), columns.dtype)
    for j, column in enumerate(columns.features):
        fill(X[:, j], found[column])
    w = None
    if columns.weights is not None:
        w = np.empty(len(batch))
        fill(w, found[columns.weights])
    return Piece(X, w, name, first)


@contextmanager
def _bad_values(part: ArrowPart, wanted: list[str]) -> Iterator[None]:
    """Say of text in a numeric column of a CSV file where it is."""
    try:
        yield
    except TableError as error:
        match = BAD_VALUE.search(str(error.__cause__))
        if match is None:
            raise
        number, line, value = match.groups()
        column = part.names[int(number)] if int(number) < len(part.names) else wanted[0]
        where = f" in data row {int(line) - part.header}" if line else ""
        raise TableError(
            f'{part.name}: column "{short(column)}" ("{short(value)}"{where}) is not numeric.'
        ) from error.__cause__


def fragment_part(name: str, fragment: Any, row_filter: Any, schema: Any = None, header: int = 0) -> ArrowPart:
    """Return a fragment of a `pyarrow.dataset` as a part.

    Parameters
    ----------
    name : str
        What a sentence calls it.
    fragment : pyarrow.dataset.Fragment
        The part.
    row_filter : pyarrow.compute.Expression or None
        Which rows.
    schema : pyarrow.Schema or None
        That of the whole; None for the fragment's own.
    header : int
        Lines of a CSV file before its first data row.
    """
    known = fragment.physical_schema if schema is None else schema
    counted = row_filter is None and type(fragment).__name__ == "ParquetFileFragment"
    more = {} if schema is None else {"schema": schema}

    def batches(columns: list[str]) -> Iterator[Any]:
        chosen = {} if row_filter is None else {"filter": row_filter}
        return fragment.to_batches(columns=columns, batch_size=PIECE_ROWS, batch_readahead=4, **chosen, **more)

    n_rows = fragment.count_rows() if counted else None
    return ArrowPart(name, list(known.names), list(known.types), n_rows, batches, header)


def files_reader(paths: Sequence[Path], row_filter: Any, header: bool | None) -> Reader:
    """Open files of one kind.

    Raises
    ------
    TableError
        If there is none, or they are of several kinds, or one cannot be read.
    """
    kinds = {suffix_of(path) for path in paths}
    if len({_KINDS.get(kind) for kind in kinds}) > 1 and len(paths) > 1:
        raise TableError(f"{paths[0].parent} holds files of several kinds: {', '.join(sorted(kinds))}.")
    kind = _KINDS.get(next(iter(kinds)))
    if kind is None:
        raise TableError(f"{paths[0]} has an unknown suffix; fastem reads .csv, .parquet, .feather, .arrow and .npy.")
    if kind == "npy":
        if row_filter is not None:
            raise TableError(f"{paths[0]} is no table of named columns, which filter= needs.")
        readers = []
        for path in paths:
            with sentences(str(path)):
                readers.append(npy_reader(path))
        return readers[0] if len(readers) == 1 else Several(readers, [str(path) for path in paths])
    parts, named = [], True
    for path in paths:
        with sentences(str(path)):
            if path.stat().st_size == 0:
                raise TableError(f"{path} is empty.")
            if kind == "csv":
                part, named = _csv_part(path, row_filter, header)
            else:
                part = _binary_part(path, kind, row_filter)
        parts.append(part)
    return ArrowReader(parts, named=named, slow=True)


def suffix_of(path: Path) -> str:
    """Return what a file's name says that it is, of a compressed CSV file the inner suffix."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS and suffixes[-2] in CSV_SUFFIXES:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


_KINDS = {
    **dict.fromkeys(CSV_SUFFIXES, "csv"),
    **dict.fromkeys(PARQUET_SUFFIXES, "parquet"),
    **dict.fromkeys(FEATHER_SUFFIXES, "feather"),
    ".npy": "npy",
}
READABLE = tuple(_KINDS)


def _csv_part(path: Path, row_filter: Any, header: bool | None) -> tuple[ArrowPart, bool]:
    import pyarrow as pa
    from pyarrow import csv, dataset, fs

    head = head_of(path)
    titled = not all_numbers(head.fields) if header is None else header
    names = [name.strip() for name in head.fields] if titled else [f"x{j}" for j in range(len(head.fields))]
    form = dataset.CsvFileFormat(
        csv.ParseOptions(delimiter=head.delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(),
        read_options=csv.ReadOptions(
            column_names=names, skip_rows=head.blank_lines, skip_rows_after_names=int(titled), block_size=1 << 22
        ),
    )
    fragment = form.make_fragment(str(path), fs.LocalFileSystem())
    part = fragment_part(str(path), fragment, row_filter, None, head.blank_lines + int(titled))

    def batches(columns: list[str]) -> Iterator[Any]:
        # What the first rows hold says nothing of the others: every column that is read is of numbers.
        kinds = dict.fromkeys(columns, pa.float64())
        form.default_fragment_scan_options = dataset.CsvFragmentScanOptions(csv.ConvertOptions(column_types=kinds))
        numbers = pa.schema([(name, kinds.get(name, kind)) for name, kind in zip(names, part.types, strict=True)])
        chosen = {} if row_filter is None else {"filter": row_filter}
        return form.make_fragment(str(path), fs.LocalFileSystem()).to_batches(
            schema=numbers, columns=columns, batch_size=PIECE_ROWS, **chosen
        )

    return part._replace(batches=batches), titled


def _binary_part(path: Path, kind: str, row_filter: Any) -> ArrowPart:
    from pyarrow import dataset, fs

    checked = {"page_checksum_verification": True}  # of the files that have any
    form = dataset.ParquetFileFormat(**checked) if kind == "parquet" else dataset.IpcFileFormat()
    return fragment_part(str(path), form.make_fragment(str(path), fs.LocalFileSystem()), row_filter)


class Several(Reader):
    """Readers one after another, of the same columns."""

    def __init__(self, readers: Sequence[Reader], names: Sequence[str]) -> None:
        self._readers = readers
        first = readers[0]
        for reader, name in zip(readers, names, strict=True):
            if reader.names != first.names:
                raise TableError(f"{name} has {len(reader.names)} columns, and {names[0]} has {len(first.names)}.")
        self.names, self.named = first.names, first.named
        self.small = frozenset.intersection(*[reader.small for reader in readers])
        self.n_rows = sum(reader.n_rows or 0 for reader in readers)

    def pieces(self, columns: Columns) -> Iterator[Piece]:
        for reader in self._readers:
            yield from reader.pieces(columns)


class CallReader(Reader):
    """Arrays that a function's iterator gives, anew at every call."""

    named = False

    def __init__(self, function: Callable[[], Iterable[Any]]) -> None:
        self._function = function
        first = next(iter(function()), None)
        if first is None:
            raise TableError("The iterator of arrays is empty.")
        first = self._rows(first, 0)
        self.names = [f"x{j}" for j in range(first.shape[1])]
        self.small = frozenset(self.names if first.dtype.kind == "f" and first.dtype.itemsize <= 4 else ())

    def _rows(self, array: Any, number: int) -> np.ndarray:
        X = np.asarray(array)
        if X.ndim != 2 or X.dtype.kind not in "fiub":
            raise TableError(
                f"Array {number} of the iterator must be two-dimensional and numeric, got {X.dtype} of shape {X.shape}."
            )
        if number and X.shape[1] != len(self.names):
            raise TableError(f"Array {number} of the iterator has {X.shape[1]} columns, not {len(self.names)}.")
        return X

    def pieces(self, columns: Columns) -> Iterator[Piece]:
        first = 0
        for number, array in enumerate(self._function()):
            X = self._rows(array, number)
            if X.shape[1] != len(self.names):
                raise TableError(f"Array {number} of the iterator has {X.shape[1]} columns, not {len(self.names)}.")
            for piece in ArrayReader(X, "The iterator of arrays").pieces(columns):
                yield piece._replace(first=first + piece.first)
            first += len(X)
