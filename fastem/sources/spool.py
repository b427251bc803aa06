"""Temporary files: rows that were decoded once, and arrays with an entry for each row of more than memory holds.

A file has no name from the moment it is made (where the system allows that), so that nothing is left behind however the
process ends.  Its place on the disk is taken before anything is written through a map: a full disk is an error, said in
one sentence, and never a signal.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastem.files import FileError, first_line

SMALL = 1 << 20  # bytes of an array that stays in memory
CHUNK = 1 << 24  # bytes that are written at a time


class Spool:
    """A folder for temporary files.

    Parameters
    ----------
    folder : str or Path, optional
        Where they lie; by default where the system puts such files (TMPDIR).

    Examples
    --------
    >>> array = Spool().empty((1000, 500), np.float64)
    >>> array[:] = 1.0
    >>> float(array.sum())
    500000.0
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(tempfile.gettempdir() if folder is None else folder)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array of a file; nobody says what is in it."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if n_bytes <= SMALL:
            return np.empty(shape, dtype)
        with self._sentence(), self._file() as file:
            _reserve(file, n_bytes)
            return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)

    def column(self, dtype: Any, n_features: int | None = None) -> Column:
        """Return an array (n,), or rows (n, n_features), that grows."""
        with self._sentence():
            return Column(self, self._file(), np.dtype(dtype), n_features)

    def _file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(prefix="fastem-", dir=self.folder)

    @contextmanager
    def _sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(
                f"A temporary file in {self.folder} cannot be written: {error.strerror or first_line(error)}."
            ) from error


class Column:
    """An array of a temporary file to which rows are appended."""

    def __init__(self, spool: Spool, file: IO[bytes], dtype: np.dtype, n_features: int | None) -> None:
        self._spool = spool
        self._file = file
        self.dtype = dtype
        self._tail = () if n_features is None else (n_features,)
        self.n_bytes = 0

    def append(self, values: np.ndarray) -> None:
        """Write more entries to the end."""
        values = np.ascontiguousarray(values, self.dtype)
        if values.size:
            with self._spool._sentence():
                self._file.write(memoryview(values).cast("B"))  # type: ignore[arg-type]
            self.n_bytes += values.nbytes

    def mapped(self) -> np.ndarray:
        """Return all entries as one array of the file's pages, and write no more."""
        with self._spool._sentence(), self._file as file:
            file.flush()
            size = self.dtype.itemsize * int(np.prod(self._tail))
            shape = (self.n_bytes // size, *self._tail)
            return np.memmap(file, self.dtype, "r+", shape=shape).view(np.ndarray) if self.n_bytes else np.empty(shape)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _reserve(file: IO[bytes], n_bytes: int) -> None:
    """Take the place of so many bytes on the disk, or fail now."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)
        return
    zeros = bytes(CHUNK)
    for first in range(0, n_bytes, CHUNK):
        file.write(zeros[: n_bytes - first])
    file.flush()
