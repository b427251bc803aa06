"""Pieces of rows as they come, cut to the grid and read ahead of the kernels."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from fastem import grid

T = TypeVar("T")

# Cells of a block: an aligned subtree of the grid, 131,072 rows, so that a pass over a block outweighs its calls.
BLOCK_CELLS = 64
BLOCK_ROWS = BLOCK_CELLS * grid.CELL
# Blocks that are decoded and wait.
DEPTH = 2


class Piece(NamedTuple):
    """Rows as they come out of a file."""

    X: np.ndarray  # (m, d) float32 or float64
    weights: np.ndarray | None  # (m,) float64
    file: str  # what a sentence calls the place they are from
    first: int  # number of the first row there


def cut(pieces: Iterator[np.ndarray], n_rows: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
    """Yield the same rows in blocks of `n_rows`, the last one shorter; C-contiguous, and nobody else's.

    Examples
    --------
    >>> [len(block) for block in cut(iter([np.ones((3, 1)), np.ones((4, 1))]), 2)]
    [2, 2, 2, 1]
    """
    block, filled = None, 0
    for piece in pieces:
        start = 0
        while start < len(piece):
            if block is None:
                block, filled = np.empty((n_rows, *piece.shape[1:]), piece.dtype), 0
            stop = min(len(piece), start + n_rows - filled)
            block[filled : filled + stop - start] = piece[start:stop]
            filled, start = filled + stop - start, stop
            if filled == n_rows:
                yield block
                block = None
    if block is not None:
        yield block[:filled]


def ahead(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """Yield the same items, made by a thread that is at most `depth` items ahead.

    Examples
    --------
    >>> list(ahead(iter(range(5))))
    [0, 1, 2, 3, 4]
    """
    waiting: queue.Queue[tuple[str, object]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # goes on to whoever waits for the next item
            put("error", error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    worker = threading.Thread(target=work, name="fastem-reader", daemon=True)
    worker.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        worker.join()


class Tree:
    """The sum of records that come in the order of the grid, each of an aligned subtree, as `grid.merge_tree` adds.

    At most one record for each level of the tree is alive.

    Examples
    --------
    >>> tree = Tree()
    >>> for number in range(3):
    ...     tree.add(np.array([float(number)]))
    >>> tree.total()
    array([3.])
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, np.ndarray]] = []  # (level, record), levels falling

    def add(self, record: np.ndarray) -> None:
        """Take the next record."""
        level = 0
        while self._waiting and self._waiting[-1][0] == level:
            record = self._waiting.pop()[1] + record
            level += 1
        self._waiting.append((level, record))

    def total(self) -> np.ndarray:
        """Return the sum of all records."""
        total = self._waiting[-1][1]
        for _, record in reversed(self._waiting[:-1]):
            total = record + total
        return total
