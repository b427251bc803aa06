"""Rows in partitions of Dask: arrays, frames and delayed blocks, passed over where they lie.

Parameters and functions of rows travel to the partitions, records come back.  Of the rows only those travel that a
partition shares a grid cell of with a neighbour, once, and those that somebody asks for by number.  Dask schedules all
of it: a pass is a graph, of which nothing here knows where it is computed.  Whatever a worker loses is made again from
the graph that made it, to the same bits.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from fastem import threads, validate
from fastem.sources import dask_tasks as work
from fastem.sources.base import Rows, Source
from fastem.sources.columns import Column, packed
from fastem.sources.memory import MemorySource
from fastem.sources.ragged import Block, Group, Ragged, groups_of, total
from fastem.sources.reading import BLOCK_ROWS

# Sums that one task joins.
JOINED = 16
# Bytes of sums that come here one by one, where there are no more of them than one task would join.
HERE = 1 << 16
# Bytes of parameters that go within the tasks of a pass: more are sent to each worker once, by a task of their own.
WITHIN = 1 << 20
# Bytes of rows that one task passes over, if they are of several blocks: what takes it over when their worker dies must
# have room for them.
TOGETHER = 1 << 29


class Blocks:
    """The rows of partitions in blocks of whole cells, as tasks of Dask.

    Parameters
    ----------
    partitions : list of Delayed
        Arrays (m, d), C-contiguous and of one dtype.
    lengths : list of int
        Rows of each.
    row_bytes : int
        Bytes of a row.
    keep : bool
        Whether Dask is to keep the blocks, not only what lies across boundaries: on a cluster.
    client : distributed.Client, optional
        What computes tasks; by default what Dask takes by itself.
    """

    def __init__(
        self, partitions: list[Any], lengths: list[int], row_bytes: int, keep: bool, client: Any = None
    ) -> None:
        self.ragged, self.row_bytes, self.keep, self.client = Ragged(lengths), row_bytes, keep, client
        self.n_rows = self.ragged.n_rows
        # Tasks are named by partitions, or the first and the last of those that they are of: if they end the workers
        # that they are given to, it is these names that are told (`dask_tasks._sentence`).
        self.partitions = [block.parts[0].partition for block in self.ragged.blocks]
        self.warned = False
        self._groups: list[Group] | None = None
        self._last: list[Any] = []
        across = [number for number, block in enumerate(self.ragged.blocks) if len(block.parts) > 1]
        self.X = [self._X(partitions, block) for block in self.ragged.blocks]
        chosen = list(range(len(self.X))) if keep else across
        for number, kept in zip(chosen, self.persisted([self.X[number] for number in chosen]), strict=True):
            self.X[number] = kept

    def _X(self, partitions: list[Any], block: Block) -> Any:
        if len(block.parts) == 1:
            (part,) = block.parts
            if part.start == 0 and part.stop == self.ragged.lengths[part.partition]:
                return partitions[part.partition]
            call = (part.partition, partitions[part.partition], part.start, part.stop)
            return work.tasks_of(work.run_of, "rows", [call])[0]
        calls = [(part.partition, partitions[part.partition], part.start, part.stop) for part in block.parts]
        return work.tasks_of(
            work.across, "cell", [(block.parts[0].partition, work.tasks_of(work.fringe, "fringe", calls))]
        )[0]

    def computed(self, tasks: Any) -> list[Any]:
        """Return the results of tasks."""
        return work.computed(tasks, self.client)

    def persisted(self, tasks: list[Any]) -> list[Any]:
        """Return the same tasks as what is kept where it is computed."""
        return work.persisted(tasks, self.client)

    def shared(self, data: bytes, n_tasks: int) -> Any:
        """Return bytes that all tasks of a pass have in common; many, as one task: they are sent to a worker once."""
        if len(data) * n_tasks <= WITHIN:
            return data
        return work.tasks_of(work.same, "parameters", [(self._span(self.partitions[0], self.partitions[-1]), data)])[0]

    def crew(self, most: int | None) -> tuple[int, int | None]:
        """Return how many tasks of a pass run at once in a process, and the most threads of one."""
        from dask.base import get_scheduler

        n = sum(len(block.parts) == 1 for block in self.ragged.blocks) or 1
        client = work.client_of(self.client)
        if client is not None:
            return -(-n // max(1, len(client.nthreads()))), most
        chosen = get_scheduler()
        return (1 if getattr(chosen, "__name__", "") == "get_sync" else n), most

    def crew_of_groups(self, most: int | None) -> tuple[int, int | None]:
        """Return how many groups are passed over at once in a process, and the most threads of one."""
        held = Counter(group.holder for group in self.groups if group.holder is not None)
        return (max(held.values()), most) if held else self.crew(most)

    def named(self, group: Group) -> str:
        """Return the partitions that a group is of, as the name of its task has them."""
        first, last = (self.ragged.blocks[group.blocks[end]].parts[end].partition for end in (0, -1))
        return self._span(first, first if len(group.blocks) == 1 else last)

    @staticmethod
    def _span(first: Any, last: Any) -> str:
        return str(first) if first == last else f"{first}..{last}"

    @property
    def groups(self) -> list[Group]:
        """The blocks that one task takes together, as they lie, or lay when last asked for."""
        if self._groups is None:
            self._groups = groups_of(self.ragged.blocks, work.holders(self.X), TOGETHER // self.row_bytes)
        return self._groups

    def specs(self, columns: list[Column], number: int) -> list[Any]:
        """Return what `_parts` makes the parts of columns of, that belong to a block."""
        found: list[Any] = []
        for column in columns:
            column.settle()
            if column.parts is None and column.here is not None:
                blocks = zip(self.partitions, self.ragged.blocks, strict=True)
                calls = [(partition, column.here[block.rows]) for partition, block in blocks]
                column.parts = self.persisted(work.tasks_of(work.same, "column", calls))
            if column.parts is None:
                found.append(work.Fill(column.fill, column.dtype))
            else:
                found.append([column.parts[number], not column.frozen])
        return found

    def summed(self, tasks: list[Any], size: int) -> np.ndarray:
        """Return the sum of all cells (size,), of tasks that return those of each group."""
        n_bytes = 8 * size * sum(group.n_nodes for group in self.groups)
        if len(tasks) > JOINED or n_bytes > HERE:
            names = [self.named(group) for group in self.groups]
            while len(tasks) > 1:
                runs = [slice(first, first + JOINED) for first in range(0, len(tasks), JOINED)]
                ends = [(names[run][0].split("..")[0], names[run][-1].split("..")[-1]) for run in runs]
                names = [self._span(*pair) for pair in ends]
                calls = [(name, tasks[run]) for name, run in zip(names, runs, strict=True)]
                tasks = work.tasks_of(work.joined, "join", calls)
        found = work.joined(work.computed_again(tasks, self.client, self._last))
        self._compare(found.kinds)
        if found.moved:
            self._groups = None
        return total(found.nodes)

    def _compare(self, kinds: frozenset[str]) -> None:
        if len(kinds) > 1 and not self.warned:
            self.warned = True
            warnings.warn(
                f"The workers have unlike instruction sets ({'; '.join(sorted(kinds))}): the last bits of the result "
                "depend on which of them computed what.",
                RuntimeWarning,
                stacklevel=2,
            )

    # ---------------------------------------------------------------------------------------- entries of columns

    def whole(self, column: Column) -> np.ndarray:
        """Return all entries of a column."""
        return np.concatenate(self.computed(column.parts or []))

    def entries(self, column: Column, indices: np.ndarray) -> np.ndarray:
        """Return the entries with these numbers."""
        taken = np.empty(len(indices), column.dtype)
        by_block = self.ragged.by_block(indices)
        assert column.parts is not None
        firsts, parts, partitions = self.ragged.firsts, column.parts, self.partitions
        calls = [(partitions[i], parts[i], indices[places] - firsts[i]) for i, places in by_block.items()]
        tasks = work.tasks_of(work.nth, "entries", calls)
        for places, found in zip(by_block.values(), self.computed(tasks), strict=True):
            taken[places] = found
        return taken

    def spans(self, column: Column, slices: list[slice]) -> list[np.ndarray]:
        """Return a few runs of entries."""
        calls: list[tuple[Any, ...]] = []
        counts = []
        assert column.parts is not None
        for rows in slices:
            before = len(calls)
            for number in self._touched(rows):
                block = self.ragged.blocks[number]
                here = slice(max(rows.start - block.first, 0), min(rows.stop - block.first, block.n_rows))
                calls.append((self.partitions[number], column.parts[number], here))
            counts.append(len(calls) - before)
        found = iter(self.computed(work.tasks_of(work.nth, "entries", calls)))
        return [np.concatenate([next(found) for _ in range(count)]) for count in counts]

    def _touched(self, rows: slice) -> range:
        firsts = self.ragged.firsts
        first = int(np.searchsorted(firsts, rows.start, side="right")) - 1
        return range(first, int(np.searchsorted(firsts, rows.stop, side="left")))


# ---------------------------------------------------------------------------------------------------- the source


class DaskSource(Source):
    """Rows in partitions of Dask; entries of each row lie beside them.

    Parameters
    ----------
    home : Blocks
        The rows.
    n_features : int
        Features d, after `maps`.
    dtype : dtype
        Of the rows.
    sample_weight, labels, n_threads
        As of `MemorySource`.
    maps : tuple of callable
        Functions through which the rows are seen, one after another.
    """

    keeps_labels = False
    reads_in_order = False

    def __init__(
        self,
        home: Blocks,
        n_features: int,
        dtype: Any,
        sample_weight: Any = None,
        labels: Any = None,
        n_threads: int = 1,
        maps: tuple[Callable[[np.ndarray], np.ndarray], ...] = (),
    ) -> None:
        self.home, self.n_features, self.dtype, self.maps = home, n_features, np.dtype(dtype), maps
        self.n_rows, self.n_threads = home.n_rows, n_threads
        self.sample_weight = self._column(sample_weight, dtype)
        self.labels = self._column(labels, np.int32)

    def _column(self, values: Any, dtype: Any) -> Any:
        if values is None or not len(values):
            return np.empty(0, dtype)
        if not isinstance(values, Column):
            column = Column(self.home, self.n_rows, values.dtype)
            column.here = np.asarray(values)
            values = column
        values.frozen = True
        return values

    def as_away(self) -> tuple[Any, ...]:
        """Return what `columns.Away` is made of."""
        return self.shape, self.dtype, self.sample_weight, self.labels

    def _most(self) -> int | None:
        """Most threads of a task: as asked for, where that is fewer than all."""
        return self.n_threads if self.n_threads < threads.resolve(None) else None

    def _blocks(self, sent: Any) -> tuple[bytes, list[list[Any]], list[Column]]:
        """Return what is sent, as bytes, what tasks need of each block, and the columns that what is sent refers to."""
        home = self.home
        data, columns = packed((self.maps, self.dtype, sent), home)
        blocks = enumerate(zip(home.X, home.ragged.blocks, strict=True))
        return data, [[X, home.specs(columns, number), block.first] for number, (X, block) in blocks], columns

    def _pass(self, function: Any, sent: Any) -> tuple[list[Any], list[Column]]:
        """Return a task for each block, and the columns that what is sent refers to."""
        data, blocks, columns = self._blocks(sent)
        shared, crew = self.home.shared(data, len(blocks)), self.home.crew(self._most())
        named = zip(self.home.partitions, blocks, strict=True)
        calls = [(partition, function, shared, *block, crew) for partition, block in named]
        return work.tasks_of(work.do, "pass", calls), columns

    def _summed(self, function: Any, what: str, sent: Any, size: int, *more: Any) -> np.ndarray:
        """Return the sum (size,) of all cells, of a function that returns the nodes of a block."""
        home, groups = self.home, self.home.groups
        data, blocks, _ = self._blocks(sent)
        shared, crew = home.shared(data, len(groups)), home.crew_of_groups(self._most())
        calls = [
            (
                home.named(group),
                function,
                shared,
                [blocks[number] for number in group.blocks],
                crew,
                group.holder,
                *more,
            )
            for group in groups
        ]
        return home.summed(work.tasks_of(work.summed, what, calls), size)

    def _taken(self, indices: np.ndarray) -> tuple[list[Any], list[np.ndarray]]:
        """Return tasks that take the rows with these numbers out of each block, and their places in `indices`."""
        home, by_block = self.home, self.home.ragged.by_block(indices)
        firsts, partitions = home.ragged.firsts, home.partitions
        shared = home.shared(packed((self.maps, self.dtype, None), home)[0], len(by_block))
        calls = [(partitions[i], shared, home.X[i], indices[places] - firsts[i]) for i, places in by_block.items()]
        return work.tasks_of(work.taken, "take", calls), list(by_block.values())

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        (n_rows,) = shape if isinstance(shape, tuple) else (shape,)
        return Column(self.home, n_rows, dtype) if n_rows == self.n_rows else np.empty(n_rows, dtype)

    def collect(self, function: Callable[[np.ndarray, slice, int], Any]) -> list[Any]:
        tasks, columns = self._pass(work.call, function)
        named = list(zip(self.home.partitions, tasks, strict=True))
        results = work.tasks_of(work.nth, "result", [(*call, 0) for call in named])
        new = [number for number, column in enumerate(columns) if not column.frozen]
        if new:
            split = [work.tasks_of(work.part_of, "column", [(*call, which) for call in named]) for which in new]
            kept = self.home.persisted([task for some in [results, *split] for task in some])
            results, n = kept[: len(tasks)], len(tasks)
            for place, which in enumerate(new, 1):
                columns[which].written(kept[place * n : (place + 1) * n])
        return [one for found in self.home.computed(results) for one in found]

    def each_block(self, function: Callable[[np.ndarray, slice, int], None]) -> None:
        self.collect(function)

    def fold(self, function: Callable[[np.ndarray, slice], np.ndarray], size: int) -> np.ndarray:
        return self._summed(work.folded, "fold", function, size, size)

    def _total(self, family: Any, prepared: Any, memo: Any) -> np.ndarray:
        if memo is not None:  # labels are found again, if somebody asks: they would be written at every pass
            memo.labels.pending = lambda column: self._fill_labels(column, family, prepared)
        return self._summed(work.records, "records", (family, prepared, self), family.layout(self.n_features).size)

    def _fill_labels(self, column: Column, family: Any, prepared: Any) -> None:
        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            column[rows] = family.assign(X, prepared, n_threads)[0]

        self.each_block(block)

    def extreme_rows(self, family: Any, prepared: Any, m: int, memo: Any = None) -> Rows:
        return super().extreme_rows(family, prepared, m)  # labels are not at hand: finding them is as long

    def undecided(self, family: Any, params: Any, memo: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return what `Source.undecided` does, by a pass of its own: nothing was written beside the rows."""
        if not family.leaves_undecided:
            return np.empty(0, np.int64), np.empty(0, np.int32)
        source, prepared = self, family.prepare(params, self.dtype)

        def block(X: np.ndarray, rows: slice, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
            here = family.new_memo(len(X)).rows(slice(0, len(X)))
            family.total_of_memo(X, source.weights_of(rows), prepared, n_threads, here)
            numbers = family.undecided(here)
            return rows.start + numbers, here.labels[numbers]

        numbers, labels = zip(*self.collect(block), strict=True)
        return np.concatenate(numbers), np.concatenate(labels)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, dense (m, d)."""
        indices = np.asarray(indices)
        tasks, places = self._taken(indices)
        taken = np.empty((len(indices), self.n_features), self.dtype)
        for here, found in zip(places, self.home.computed(tasks), strict=True):
            taken[here] = found
        return taken

    def largest(self, values: Any, m: int) -> np.ndarray:
        def block(X: np.ndarray, rows: slice, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
            here = values[rows]
            places = np.argsort(-here, kind="stable")[:m]
            return rows.start + places, here[places]

        was, values.frozen = values.frozen, True
        found = self.collect(block)
        values.frozen = was
        numbers, ranked = (np.concatenate(column) for column in zip(*found, strict=True))
        return numbers[np.argsort(-ranked, kind="stable")[:m]]

    def used_labels(self, labels: Any, n_labels: int) -> np.ndarray:
        def block(rows: slice) -> np.ndarray:
            return np.bincount(labels[rows], minlength=n_labels) > 0

        return np.any(self.of_entries(block), axis=0)

    def of_entries(self, function: Callable[[slice], Any]) -> list[Any]:
        return self.collect(lambda X, rows, n_threads: function(rows))

    def fold_entries(self, function: Callable[[slice], np.ndarray], size: int) -> np.ndarray:
        return self.fold(lambda X, rows: function(rows), size)

    @cached_property
    def has_nan(self) -> bool:
        return any(self.collect(lambda X, rows, n_threads: bool(np.isnan(X).any())))

    def refuse_empty_columns(self) -> None:
        source = self

        def block(X: np.ndarray, rows: slice, n_threads: int) -> np.ndarray:
            w = source.weights_of(rows)
            return np.isnan(X[w > 0] if w.size else X).all(axis=0)

        validate.refuse_empty(np.all(self.collect(block), axis=0))

    def having(self, sample_weight: Any, labels: Any, n_threads: int) -> DaskSource:
        return DaskSource(self.home, self.n_features, self.dtype, sample_weight, labels, n_threads, self.maps)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> DaskSource:
        n_features = function(self.take(np.zeros(1, np.int64))).shape[1]
        maps = (*self.maps, function)
        return DaskSource(self.home, n_features, self.dtype, self.sample_weight, self.labels, self.n_threads, maps)

    def image(self, function: Callable[[np.ndarray], np.ndarray]) -> DaskSource:
        return self.mapped(function)

    def subset(self, rows: np.ndarray, weights: np.ndarray) -> Source:
        """Return rows by number: few of them come here; many, in order, stay where they are."""
        if len(rows) <= BLOCK_ROWS or np.any(np.diff(rows) < 0):
            return MemorySource(self.take(rows), np.asarray(weights), n_threads=self.n_threads)
        tasks, places = self._taken(rows)
        lengths, row_bytes = [len(here) for here in places], self.n_features * self.dtype.itemsize
        home = Blocks(self.home.persisted(tasks), lengths, row_bytes, self.home.keep, self.home.client)
        return DaskSource(home, self.n_features, self.dtype, weights, None, self.n_threads)
