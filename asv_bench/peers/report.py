"""Tables of figures, in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from asv_bench.peers.timing import Timing

T = TypeVar("T")

WIDTHS = {"shape": 30, "algorithm": 27, "dtype": 7, "GFLOP/s": 7, "of gemm": 7}  # of columns; 13 by default


class Table:
    """A table that is printed row by row, as the figures come."""

    def __init__(self, title: str, columns: list[str]) -> None:
        self.columns = columns
        self.rows: list[dict] = []
        self.widths = [max(len(column), WIDTHS.get(column, 13)) for column in columns]
        print(f"\n{title}\n", flush=True)
        self._print(columns)
        print("|" + "|".join("-" * (width + 2) for width in self.widths) + "|", flush=True)

    def add(self, row: dict) -> None:
        """Print and keep a row."""
        self.rows.append(row)
        self._print([_text(row.get(column, "-")) for column in self.columns])

    def note(self, text: str) -> None:
        """Print a line below the table."""
        print(f"\n{text}", flush=True)

    def finish(self) -> list[dict]:
        """Return the rows."""
        return self.rows

    def _print(self, cells: list[str]) -> None:
        padded = (cell.ljust(width) for cell, width in zip(cells, self.widths, strict=True))
        print("| " + " | ".join(padded) + " |", flush=True)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "noise" if math.isnan(value) else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def milliseconds(timings: Mapping[str, Timing]) -> dict[str, str]:
    """Return the cells of timings in ms."""
    return {name: f"{_text(1e3 * t.best)} ({_text(1e3 * t.median)})" for name, t in timings.items()}


def seconds(timings: Mapping[str, Timing]) -> dict[str, str]:
    """Return the cells of timings in seconds."""
    return {name: f"{_text(t.best)} ({_text(t.median)})" for name, t in timings.items()}


def ratio(timings: Mapping[str, Timing], name: str) -> float:
    """Return how many times as long as `name` the fastest other one takes."""
    others = [t.best for other, t in timings.items() if other != name and not math.isnan(t.best)]
    return min(others, default=float("nan")) / timings[name].best


def agreement(found: Mapping[str, float], name: str, tolerance: float) -> str:
    """Return "equal", or who arrived at another objective and by how much (relative; negative is lower), or at none."""
    nowhere = [other for other in found if math.isnan(found[other])]
    if nowhere:
        return ", ".join(f"{other} singular" for other in nowhere)
    apart = {other: (found[other] - found[name]) / abs(found[name]) for other in found if other != name}
    return ", ".join(f"{other} {by:+.1e}" for other, by in apart.items() if not abs(by) <= tolerance) or "equal"


def that_run(candidates: Mapping[str, T], attempt: Callable[[T], Any]) -> tuple[dict[str, T], dict[str, str]]:
    """Try each candidate once; return those that work, and for the others a cell that says what they raised.

    The attempt also compiles and loads what a first call has to.
    """
    working, failed = {}, {}
    for name, candidate in candidates.items():
        try:
            attempt(candidate)
            working[name] = candidate
        except Exception as error:  # a peer's failure is a result; ours is an error
            if name == "fastem":
                raise
            failed[name] = f"fails ({type(error).__name__})"
    return working, failed


def selected(names: Sequence[T], patterns: list[str]) -> list[T]:
    """Return those whose text matches one of the regular expressions; all if there is none."""
    return [name for name in names if not patterns or any(re.search(pattern, str(name)) for pattern in patterns)]
