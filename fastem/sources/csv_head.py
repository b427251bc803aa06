"""How a CSV file begins: its delimiter, and whether its first line names the columns."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from fastem.files import TableError

DELIMITERS = ",;\t|"
HEAD_BYTES = 1 << 20  # enough for the header of a table with tens of thousands of columns


class Head(NamedTuple):
    """How a CSV file begins."""

    blank_lines: int
    fields: list[str]  # of the first line that is not blank
    delimiter: str  # the one which that line uses most


def head_of(path: Path) -> Head:
    """Read the head of a CSV file, compressed or not.

    Raises
    ------
    TableError
        If it is empty, or no text.
    """
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
    return Head(blank, next(csv.reader(lines[blank:], delimiter=delimiter)), delimiter)


def all_numbers(fields: list[str]) -> bool:
    """Whether a first line is data: numbers throughout, empty fields aside."""
    values = [field for field in fields if field.strip()]
    return bool(values) and all(_is_number(value) for value in values)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text) is not None
