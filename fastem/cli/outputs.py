"""Output files that appear whole or not at all.

An output is written to a temporary file in the same folder, which takes its place only once it is complete.  A full
disk, an interrupt or an error leaves no half-written file, and an existing file stays what it was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastem.files import TableError
from fastem.sources.writing import WRITABLE, appending


def check_output(path: str | Path, suffixes: Sequence[str] = WRITABLE) -> Path:
    """Refuse an output file that could not be written, before the work starts.

    Parameters
    ----------
    path : str or Path
        The file to be written later.
    suffixes : sequence of str
        The suffixes allowed.

    Returns
    -------
    Path

    Raises
    ------
    TableError
        Unknown suffix, no such folder, a folder that cannot be written, or something other than a file in the way.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise TableError(f"{path} has an unknown suffix; choose one of {', '.join(suffixes)}.")
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise TableError(f"{path} exists and is not a file.")
    if not target.parent.is_dir():
        raise TableError(f"{path} cannot be written: there is no folder {path.parent}.")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise TableError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def check_outputs(inputs: Sequence[Path], *outputs: tuple[Path | None, Sequence[str]]) -> None:
    """Refuse outputs that could not be written, or that would overwrite an input or each other.

    Parameters
    ----------
    inputs : sequence of Path
        Files that are read.
    *outputs : pair of Path or None and sequence of str
        A file to be written later, and the suffixes allowed.

    Raises
    ------
    TableError
        See `check_output`.
    """
    taken = {os.path.realpath(path): path for path in inputs}
    for path, suffixes in outputs:
        if path is None:
            continue
        check_output(path, suffixes)
        real = os.path.realpath(path)
        if real in taken:
            raise TableError(f"{path} is already used as {taken[real]} in this command.")
        taken[real] = path


@contextmanager
def writing(path: str | Path) -> Iterator[Callable[[Any], None]]:
    """Write a table piece by piece to a file that appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The suffix says how, as in `write_blocks`; a .npy file is written when all pieces are there.

    Yields
    ------
    callable
        What writes an Arrow table; all have the same columns.
    """
    with appending(path) as append:
        if Path(path).suffix.lower() != ".npy":
            yield append
            return
        pieces: list[Any] = []
        yield pieces.append
        if pieces:
            import pyarrow as pa

            whole = pa.concat_tables(pieces)  # the longest text says how wide its column is
            columns = {name: whole[name].to_numpy() for name in whole.column_names}
            append({name: part.astype(str) if part.dtype == object else part for name, part in columns.items()})
