"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class FileError(ValueError):
    """A file that cannot be read or written, said in one sentence."""


class TableError(FileError):
    """A table that cannot be read or written, said in one sentence."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its name, to be put into a sentence."""
    lines = str(error).strip().splitlines()
    return re.split(r"\. (?=[A-Z])", lines[0])[0].rstrip(". ") if lines else type(error).__name__


def quoted(names: Sequence[str]) -> str:
    """Column names in quotes, the first twenty of them."""
    shown = ", ".join(f'"{short(name)}"' for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def short(text: str) -> str:
    """Return the beginning of a text, on one line, to be put into a sentence."""
    text = " ".join(text.split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def plural(word: str, names: Sequence[str]) -> str:
    """Return a word in the number of the names that follow it."""
    return word if len(names) == 1 else f"{word}s"


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file to be written.

    Yields
    ------
    Path
        A temporary file in the same folder and with the same suffix.  When the block ends well it takes the place of
        `path`; otherwise it is removed and `path` stays what it was.
    """
    target = Path(os.path.realpath(path))  # through a link, not over it
    handle, name = tempfile.mkstemp(prefix=".fastem-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _settle(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Do the same as `whole`, with errors that are sentences.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    try:
        with whole(path) as temporary:
            yield temporary
    except OSError as error:
        # Arrow's errors have the number of the system's, and words of their own about it.
        why = os.strerror(error.errno) if error.errno else first_line(error)
        raise FileError(f"{path} cannot be written: {why}.") from error


def _settle(temporary: Path, target: Path) -> None:
    """Put a finished file in its place, with the permissions that an ordinary file would have."""
    with open(temporary, "rb+") as stream:
        os.fsync(stream.fileno())
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~mask)
    os.replace(temporary, target)
