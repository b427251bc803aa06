"""Partitions of any lengths on the grid: which cells each holds whole, which lie across a boundary, and their sums.

A partition's whole cells are one block; a cell that lies across a boundary is a block of its own, put together of the
rows that its partitions have of it (the fringe).  A block gives its sum as records of aligned subtrees, the nodes of
the fixed tree; nodes of neighbours are joined where they are the two halves of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fastem import grid


class Part(NamedTuple):
    """A run of rows of a partition."""

    partition: int
    start: int  # in the partition
    stop: int


class Block(NamedTuple):
    """Rows of whole cells that follow each other."""

    first: int  # number of the first row, a multiple of `grid.CELL`
    n_rows: int
    parts: tuple[Part, ...]

    @property
    def rows(self) -> slice:
        """The numbers of the rows."""
        return slice(self.first, self.first + self.n_rows)


class Node(NamedTuple):
    """The sum of the cells ``number << level`` to ``(number + 1) << level``."""

    level: int
    number: int
    record: np.ndarray


class Group(NamedTuple):
    """Blocks that one task passes over."""

    blocks: list[int]  # their numbers
    holder: str | None  # who has the rows of all of them, if that is known
    n_nodes: int  # of their sum


class Ragged:
    """Rows in partitions of these lengths.

    Examples
    --------
    >>> [block.parts for block in Ragged([3000, 0, 5000]).blocks]  # doctest: +NORMALIZE_WHITESPACE
    [(Part(partition=0, start=0, stop=2048),),
     (Part(partition=0, start=2048, stop=3000), Part(partition=2, start=0, stop=1096)),
     (Part(partition=2, start=1096, stop=5000),)]
    """

    def __init__(self, lengths: Iterable[int]) -> None:
        self.lengths = [int(length) for length in lengths]
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        self.n_rows = int(self.offsets[-1])

    @cached_property
    def blocks(self) -> list[Block]:
        """All rows, in order."""
        blocks: list[Block] = []
        done = 0
        for number in np.flatnonzero(self.lengths).tolist():
            first, stop = self.offsets[number : number + 2].tolist()
            if done > first:  # the first cell is in a block already
                first = done
            if first >= stop:
                continue
            whole = stop if stop == self.n_rows else stop // grid.CELL * grid.CELL
            if whole > first:
                part = Part(number, first - int(self.offsets[number]), whole - int(self.offsets[number]))
                blocks.append(Block(first, whole - first, (part,)))
            done = max(first, whole)
            if done < stop:
                blocks.append(self._across(done, number))
                done += blocks[-1].n_rows
        return blocks

    def _across(self, first: int, number: int) -> Block:
        """Return the cell that begins in a partition and ends in a later one."""
        stop = min(first + grid.CELL, self.n_rows)
        parts = []
        while number < len(self.lengths) and self.offsets[number] < stop:
            start, end = self.offsets[number : number + 2].tolist()
            if end > start:
                parts.append(Part(number, max(first, start) - start, min(stop, end) - start))
            number += 1
        return Block(first, stop - first, tuple(parts))

    @cached_property
    def firsts(self) -> np.ndarray:
        """Number of the first row of each block."""
        return np.array([block.first for block in self.blocks], np.int64)

    def by_block(self, indices: np.ndarray) -> dict[int, np.ndarray]:
        """Return, for each block that holds some of the rows with these numbers, their places in `indices`."""
        if not len(indices):
            return {}
        blocks = np.searchsorted(self.firsts, indices, side="right") - 1
        order = np.argsort(blocks, kind="stable")
        found, starts = np.unique(blocks[order], return_index=True)
        return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True))


def subtrees(first: int, n_rows: int) -> list[tuple[int, int]]:
    """Return (level, index) of the largest aligned subtrees that make up the cells of a block.

    Examples
    --------
    >>> subtrees(grid.CELL, 6 * grid.CELL)  # cells 1 to 6
    [(0, 1), (1, 1), (1, 2), (0, 6)]
    """
    cell, stop = first // grid.CELL, grid.n_cells(first + n_rows)
    found = []
    while cell < stop:
        level = (cell & -cell).bit_length() - 1 if cell else (stop - cell).bit_length()
        while cell + (1 << level) > stop:
            level -= 1
        found.append((level, cell >> level))
        cell += 1 << level
    return found


def groups_of(blocks: list[Block], holders: list[tuple[str, ...]], most: int) -> list[Group]:
    """Return the blocks in groups of one holder, of so many rows at most; alone, if there are more or nobody has it.

    Who holds what others hold, too, is given it while he has fewer rows than they.

    Examples
    --------
    >>> blocks = Ragged([grid.CELL] * 4).blocks
    >>> [group.blocks for group in groups_of(blocks, [("a", "b"), ("a",), ("b",), ()], 2 * grid.CELL)]
    [[0, 1], [2], [3]]
    """
    groups: list[list[int]] = []
    names: list[str | None] = []
    begun: dict[str, int] = {}  # the group of each holder that others may join
    rows_of_group: list[int] = []
    rows_of_holder: Counter[str] = Counter()
    for number, (block, addresses) in enumerate(zip(blocks, holders, strict=True)):
        holder = min(addresses, key=lambda address: (rows_of_holder[address], address), default=None)
        group = None if holder is None else begun.get(holder)
        if group is None or rows_of_group[group] + block.n_rows > most:
            group = len(groups)
            groups.append([])
            names.append(holder)
            rows_of_group.append(0)
        if holder is not None:
            begun[holder] = group
            rows_of_holder[holder] += block.n_rows
        groups[group].append(number)
        rows_of_group[group] += block.n_rows
    return [
        Group(group, name, n_nodes([blocks[number] for number in group]))
        for group, name in zip(groups, names, strict=True)
    ]


def n_nodes(blocks: list[Block]) -> int:
    """Return of how many nodes the sum of some blocks is, which are in order."""
    nothing = np.empty(0)
    lists = ([Node(*place, nothing) for place in subtrees(block.first, block.n_rows)] for block in blocks)
    return len(join(lists))


def join(lists: Iterable[list[Node]]) -> list[Node]:
    """Return the nodes of neighbours, in order, where two halves of a subtree have become one."""
    joined: list[Node] = []
    for nodes in lists:
        for node in nodes:
            while joined and joined[-1].level == node.level and joined[-1].number ^ 1 == node.number:
                node = Node(node.level + 1, node.number >> 1, joined.pop().record + node.record)
            joined.append(node)
    return joined


def total(nodes: list[Node]) -> np.ndarray:
    """Return the sum of all cells, added as `grid.merge_tree` adds; the nodes are joined and cover all of them."""
    result = nodes[-1].record
    for node in reversed(nodes[:-1]):
        result = node.record + result
    return result
