"""Tables of one line per row that are written block by block, and appear whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastem.files import TableError, replacing

Block = dict[str, np.ndarray]  # columns (m,), by name
Append = Callable[[Block], None]

WRITABLE = (".csv", ".parquet", ".feather", ".arrow", ".npy")


def write_blocks(path: str | Path, blocks: Iterable[Block]) -> int:
    """Write blocks of columns to a file, whole or not at all.

    Parameters
    ----------
    path : str or Path
        The suffix says how: .csv, .parquet, .feather or .arrow, .npy.  A .npy file holds one column as a plain array
        and several as a structured one.
    blocks : iterable of dict of str to ndarray (m,)
        The columns in order, at least one block.

    Returns
    -------
    int
        How many rows were written.

    Raises
    ------
    ValueError
        In one sentence, if the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise TableError(f"{path} has an unknown suffix; choose one of {', '.join(WRITABLE)}.")
    n_rows = 0
    # What makes the blocks may fail as well, and not because of this file.
    waiting = iter(blocks)
    first = next(waiting, None)
    if first is None:
        raise TableError("There are no rows to write.")
    with appending(path) as append:
        block: Block | None = first
        while block is not None:
            append(block)
            n_rows += len(next(iter(block.values())))
            block = _next(waiting)
    return n_rows


@contextmanager
def appending(path: str | Path) -> Iterator[Callable[[Any], None]]:
    """Write a table block by block to a file that appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The suffix, one of `WRITABLE`, says how.

    Yields
    ------
    callable
        What writes a block of columns: a dict of arrays by name, or an Arrow table (no .npy file).  All blocks have the
        same columns.
    """
    with replacing(path) as temporary, ExitStack() as stack:
        append: Append | None = None

        def write(block: Any) -> None:
            nonlocal append
            if append is None:
                append = stack.enter_context(_WRITERS[Path(path).suffix.lower()](temporary, block))
            append(block)

        yield write


def _next(waiting: Iterator[Block]) -> Block | None:
    """Return the next block; that a file cannot be read is no matter of the file that is written."""
    try:
        return next(waiting, None)
    except OSError as error:
        raise TableError(f"The rows cannot be read: {error}.") from error


@contextmanager
def _npy(path: Path, first: Block) -> Iterator[Append]:
    """Append to a .npy file, whose header tells the number of rows and has room for any."""
    (name, values), *others = first.items()
    dtype = np.dtype([(column, part.dtype) for column, part in first.items()]) if others else values.dtype
    n_rows = 0
    with open(path, "wb") as file:
        begins = _head(file, dtype, 0)

        def append(block: Block) -> None:
            nonlocal n_rows
            if others:
                records = np.empty(len(block[name]), dtype)
                for column, part in block.items():
                    records[column] = part
            else:
                records = np.ascontiguousarray(block[name], dtype)
            file.write(records.tobytes())
            n_rows += len(records)

        yield append
        file.seek(0)
        ends = _head(file, dtype, n_rows)
        assert ends == begins, "the header of a .npy file has room for any number of rows"


def _head(file: IO[bytes], dtype: np.dtype, n_rows: int) -> int:
    head = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_rows,)}
    np.lib.format.write_array_header_2_0(head, described)
    return file.write(head.getvalue())


def _csv(path: Path, schema: Any) -> AbstractContextManager[Any]:
    from pyarrow import csv

    return csv.CSVWriter(str(path), schema)


def _parquet(path: Path, schema: Any) -> AbstractContextManager[Any]:
    from pyarrow import parquet

    return parquet.ParquetWriter(str(path), schema)


@contextmanager
def _feather(path: Path, schema: Any) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import ipc

    with pa.OSFile(str(path), "wb") as sink, ipc.new_file(sink, schema) as writer:
        yield writer


def _table(block: Any) -> Any:
    import pyarrow as pa

    return block if isinstance(block, pa.Table) else pa.table(block)


def _arrow(make: Callable[[Path, Any], AbstractContextManager[Any]]) -> Callable[..., AbstractContextManager[Append]]:
    @contextmanager
    def open_writer(path: Path, first: Any) -> Iterator[Append]:
        with make(path, _table(first).schema) as writer:
            yield lambda block: writer.write_table(_table(block))

    return open_writer


_WRITERS = {
    ".npy": _npy,
    ".csv": _arrow(_csv),
    ".parquet": _arrow(_parquet),
    ".feather": _arrow(_feather),
    ".arrow": _arrow(_feather),
}
