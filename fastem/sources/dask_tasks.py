"""What tasks of Dask are made of: what is done with a block where it lies, and graphs of such calls."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fastem import grid, threads
from fastem._native import nearest
from fastem.files import FileError
from fastem.sources import passes
from fastem.sources.columns import unpacked
from fastem.sources.ragged import Node, join, subtrees
from fastem.sources.reading import BLOCK_ROWS


class Fill:
    """Stands for a part of a column whose entries are all the same."""

    def __init__(self, value: Any, dtype: np.dtype) -> None:
        self.value, self.dtype = value, dtype


def same(value: Any) -> Any:
    """Return a value: what many tasks need is a task of its own."""
    return value


def run_of(X: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return a run of a partition's rows, without a copy."""
    return X[start:stop]


def fringe(X: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the rows that a partition has of a cell that it shares."""
    return X[start:stop].copy()  # by itself: a view would keep the partition where it is kept


def across(pieces: list[np.ndarray]) -> np.ndarray:
    """Return a cell of what its partitions have of it."""
    return np.concatenate(pieces)


def nth(values: Any, number: int) -> Any:
    """Return one of what `call` returned, or entries of a column."""
    return values[number]


def part_of(values: Any, number: int) -> Any:
    """Return one of the parts of columns that `call` returned."""
    return values[1][number]


def _parts(specs: list[Any], n_rows: int) -> list[np.ndarray]:
    """Return the parts of columns, to be read, written to, or made of one value."""
    return [
        np.full(n_rows, spec.value, spec.dtype) if isinstance(spec, Fill) else spec[0].copy() if spec[1] else spec[0]
        for spec in specs
    ]


def _mapped(maps: tuple[Any, ...], X: np.ndarray, dtype: np.dtype) -> np.ndarray:
    for function in maps:
        X = np.ascontiguousarray(function(X), dtype)
    return X


def instructions() -> str:
    """Name the instruction sets that this process computes with, by which the last bits may differ."""
    found = nearest.build_info()
    return f"{found['isa']} of {', '.join(found['available'])}"


def _worker() -> Any:
    """Return the worker whose task this is, or None."""
    if "distributed" in sys.modules:
        from distributed import get_worker

        with contextlib.suppress(ValueError):  # no task of a worker
            return get_worker()
    return None


def _address() -> str | None:
    worker = _worker()
    return None if worker is None else worker.address


def threads_of_task(at_once: int, most: int | None) -> int:
    """Return how many threads a task takes, where so many of a pass run at once in this process.

    A worker's slots are what it was given, whatever OMP_NUM_THREADS says, which its nanny sets to 1.
    """
    worker = _worker()
    available = threads.resolve(None) if worker is None else worker.state.nthreads
    n_threads = max(1, available // max(1, at_once))
    return n_threads if most is None else min(n_threads, most)


def do(work: Any, data: bytes, X: np.ndarray, specs: list[Any], first: int, crew: Any, *more: Any) -> Any:
    """Call ``work(what, X, first, n_threads, ...)`` for a block, with what was sent to it; see `columns`."""
    parts = _parts(specs, len(X))
    maps, dtype, what = unpacked(data, parts, first, len(X))
    return work(what, parts, _mapped(maps, X, dtype), first, threads_of_task(*crew), *more)


class Sums(NamedTuple):
    """The nodes of some blocks, of which one task or several made the sums."""

    moved: bool  # whether one of these tasks was computed elsewhere than expected
    kinds: frozenset[str]  # the instruction sets that made them
    places: list[tuple[int, int]]  # level and number of each node
    records: np.ndarray  # (nodes, size): as one array they are sent at once

    @property
    def nodes(self) -> list[Node]:
        """The nodes, in order."""
        return [Node(*place, record) for place, record in zip(self.places, self.records, strict=True)]


def _sums(moved: bool, kinds: frozenset[str], nodes: list[Node]) -> Sums:
    places, records = [node[:2] for node in nodes], np.array([node.record for node in nodes])
    return Sums(moved, kinds, places, records)


def summed(work: Any, data: bytes, blocks: list[list[Any]], crew: Any, holder: str | None, *more: Any) -> Sums:
    """Return the sums of blocks (X, specs, first) whose nodes a function returns; `holder` is said to have them all."""
    nodes = join([do(work, data, *block, crew, *more) for block in blocks])
    return _sums(_address() != holder, frozenset([instructions()]), nodes)


def joined(found: list[Sums]) -> Sums:
    """Return the sums of all blocks that these are of."""
    nodes = sorted((node for one in found for node in one.nodes), key=lambda node: node.number << node.level)
    kinds = frozenset[str]().union(*[one.kinds for one in found])
    return _sums(any(one.moved for one in found), kinds, join([nodes]))


def call(function: Any, parts: list[np.ndarray], X: np.ndarray, first: int, n_threads: int) -> Any:
    """Return what a function of a block returns, and the parts of columns that it may have written to."""
    results = []
    for start in range(0, len(X), BLOCK_ROWS):
        part = X[start : start + BLOCK_ROWS]
        results.append(function(part, slice(first + start, first + start + len(part)), n_threads))
    return results, parts


def folded(function: Any, parts: list[Any], X: np.ndarray, first: int, n_threads: int, size: int) -> list[Node]:
    """Return the nodes of a block, of a function of its cells."""
    records = np.empty((grid.n_cells(len(X)), size))

    def cell(number: int) -> None:
        part = X[number * grid.CELL : (number + 1) * grid.CELL]
        start = first + number * grid.CELL
        records[number] = function(part, slice(start, start + len(part)))

    threads.map_tasks(cell, len(records), n_threads)
    before, nodes = first // grid.CELL, []
    for level, index in subtrees(first, len(X)):
        here = (index << level) - before
        nodes.append(Node(level, index, grid.merge_tree(records[here : here + (1 << level)]).copy()))
    return nodes


def records(what: Any, parts: list[np.ndarray], X: np.ndarray, first: int, n_threads: int) -> list[Node]:
    """Return the nodes of a block, of a family's record."""
    family, prepared, source = what
    nodes = []
    with threads.single_threaded_blas():
        for level, index in subtrees(first, len(X)):
            start = (index << level) * grid.CELL
            rows = slice(start, min(start + (grid.CELL << level), first + len(X)))
            w, labels = source.sample_weight[rows], source.labels[rows]
            part = X[rows.start - first : rows.stop - first]
            nodes.append(Node(level, index, passes.total(family, part, w, labels, prepared, n_threads)))
    return nodes


def taken(data: bytes, X: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return rows of a block as its source sees them."""
    maps, dtype, _ = unpacked(data, [], 0, 0)
    return _mapped(maps, X[places], dtype)


# -------------------------------------------------------------------------------------------------------------- graphs


def holders(tasks: list[Any]) -> list[tuple[str, ...]]:
    """Return the addresses of the workers that hold the result of each task: none of what is not kept."""
    if "distributed" not in sys.modules:
        return [()] * len(tasks)
    from distributed import futures_of

    futures = [next(iter(futures_of(task)), None) for task in tasks]
    client = next((future.client for future in futures if future is not None), None)
    if client is None:
        return [()] * len(tasks)
    found = client.who_has([future for future in futures if future is not None])
    return [() if future is None else tuple(found.get(future.key, ())) for future in futures]


def client_of(client: Any = None) -> Any:
    """Return a given client, or the current one, or that which was chosen as Dask's scheduler; None without one."""
    if client is not None or "distributed" not in sys.modules:
        return client
    from dask.base import get_scheduler

    current = getattr(get_scheduler(), "__self__", None)
    return current if type(current).__name__ == "Client" else None


def tasks_of(function: Any, what: str, calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return a task for each call ``(number, *arguments)``; arguments and lists of them may be tasks.

    They are one layer of a graph: `dask.delayed` for each takes half a millisecond.
    """
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph

    token, keys = uuid.uuid4().hex, list[str]()
    layer: dict[Any, Any] = {}
    needed: dict[Any, Any] = {}

    def key_of(argument: Any) -> Any:
        if isinstance(argument, Delayed):
            needed[argument.key] = argument
            return argument.key
        return [key_of(one) for one in argument] if isinstance(argument, list) else argument

    for number, *arguments in calls:
        keys.append(f"{what}-{number}-{len(keys)}-{token}")
        layer[keys[-1]] = (function, *map(key_of, arguments))
    name = f"{what}-{token}"
    graph = HighLevelGraph.from_collections(name, layer, dependencies=list(needed.values()))
    return [Delayed(key, graph, layer=name) for key in keys]


def held(part: Any) -> Any:
    """Return a delayed object whose graph has its key, as `tasks_of` needs.

    Dask's own optimisation leaves the futures of a persisted array out of the graph of its delayed parts.
    """
    import dask

    return part if part.key in part.dask else dask.delayed(same)(part)


def computed(tasks: Iterable[Any], client: Any = None) -> list[Any]:
    """Return the results of tasks, on a client or on what Dask takes by itself.

    Raises
    ------
    ValueError
        In one sentence with the number of the partition, if the workers that were given it died, one after another.
    """
    import dask

    with _sentence():
        return list(dask.compute(*tasks, scheduler=client))


def computed_again(tasks: list[Any], client: Any, before: list[Any]) -> list[Any]:
    """Return the results of tasks of `tasks_of`, as `computed` does, for calls that follow each other closely.

    Nothing is optimised.  `before` holds the futures of the last call until those of this one are sent: what a client
    says of futures that it lets go holds up what it says next by ten milliseconds.
    """
    client = client_of(client)
    if client is None or _worker() is not None:  # a task that waits has to step aside, which `dask.compute` sees to
        return computed(tasks, client)
    with _sentence():
        before[:] = client.get(tasks[0].dask, [task.key for task in tasks], sync=False)
        return list(client.gather(before))


def persisted(tasks: list[Any], client: Any = None) -> list[Any]:
    """Return the same tasks as what has been, or is being, computed and is kept where that happens."""
    import dask

    # Only where distributed is loaded: what it sets of its own while it is imported in here would be taken back.
    quiet = {"distributed.admin.large-graph-warning-threshold": "1 PiB"} if client_of(client) is not None else {}
    with _sentence(), dask.config.set(quiet):
        if not tasks:
            return []
        return list(dask.persist(*tasks) if client is None else client.persist(tasks))


class _sentence:
    """Turns the death of workers into one sentence."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None or kind.__name__ != "KilledWorker":
            return
        number, _, last_number = [*str(error.task).split("-"), ""][1].partition("..")
        if number.isdecimal():
            named = f"One of the partitions {number} to {last_number}" if last_number else f"Partition {number}"
        else:
            named = f"The partition that {error.task!r} makes"
        last = getattr(error.last_worker, "address", error.last_worker)
        raise FileError(
            f"{named} ended every worker that was given it, {error.allowed_failures + 1} in all, the last at {last}: "
            "out of memory, as a rule, which that worker's log tells."
        ) from error
