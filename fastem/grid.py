"""The fixed grid of rows on which records are summed.

Rows are cut into cells of `CELL` rows by row number alone, and cell records (`records.py`) are merged by a binary tree
over cell numbers.  Neither depends on the number of threads, nor on how the rows arrive, so neither do the bits of the
sums.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# Small enough that 60,000 rows keep two threads equally busy (30 cells) and a cell of 64 float64 columns (1 MiB)
# stays in the second-level cache; large enough that zeroing and merging a record is below 5 % of a cell's work.
CELL = 2048

# Task records alive at once: at most this many, and at most this many bytes together.
MAX_TASKS = 256
MAX_TASK_BYTES = 48 * 2**20


class Plan(NamedTuple):
    """How a pass over the rows is cut into tasks: task t owns cells ``t << level`` to ``(t + 1) << level``."""

    level: int
    n_tasks: int


def n_cells(n_rows: int) -> int:
    """Number of grid cells that `n_rows` rows touch."""
    return -(-n_rows // CELL)


def plan(n_rows: int, size: int) -> Plan:
    """Cut the grid into aligned subtrees, as fine as the memory for their records (of `size` numbers) allows."""
    cells = n_cells(n_rows)
    most = max(1, min(MAX_TASKS, MAX_TASK_BYTES // (8 * max(size, 1))))
    level = max(0, math.ceil(math.log2(cells / most))) if cells > most else 0
    return Plan(level, -(-cells // (1 << level)))


def whole(n_rows: int) -> Plan:
    """Leave the grid to one task.

    Examples
    --------
    >>> whole(5 * CELL)
    Plan(level=3, n_tasks=1)
    """
    return Plan(max(n_cells(n_rows) - 1, 0).bit_length(), 1)


def merge_tree(records: np.ndarray) -> np.ndarray:
    """Add the rows of `records` (m, size) in place by the fixed binary tree; the sum ends in row 0.

    Examples
    --------
    >>> merge_tree(np.array([[1.0], [2.0], [3.0]]))
    array([6.])
    """
    span = 1
    while span < len(records):
        left = records[: len(records) - span : 2 * span]
        left += records[span :: 2 * span]
        span *= 2
    return records[0]
