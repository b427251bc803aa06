"""Tables of one line per row that are written block by block, and appear whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise TableError(f"{path} has an unknown suffix; choose one of {', '.join(WRITABLE)}.")
    open_writer = _npy if suffix == ".npy" else _WRITERS[suffix]
    n_rows = 0
    # What makes the blocks may fail as well, and not because of this file.
    waiting = iter(blocks)
    first = next(waiting, None)
    if first is None:
        raise TableError("There are no rows to write.")
    with replacing(path) as temporary, open_writer(temporary, first) as append:
        block: Block | None = first
        while block is not None:
            append(block)
            n_rows += len(next(iter(block.values())))
            block = _next(waiting)
    return n_rows


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


def _arrow(make: Callable[[Path, Any], AbstractContextManager[Any]]) -> Callable[..., AbstractContextManager[Append]]:
    @contextmanager
    def open_writer(path: Path, first: Block) -> Iterator[Append]:
        import pyarrow as pa

        with make(path, pa.table(first).schema) as writer:
            yield lambda block: writer.write_table(pa.table(block))

    return open_writer


_WRITERS = {
    ".csv": _arrow(_csv),
    ".parquet": _arrow(_parquet),
    ".feather": _arrow(_feather),
    ".arrow": _arrow(_feather),
}
