"""What ends every worker that it is given to is named by its partitions, in one sentence."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastem.files import FileError
from fastem.grid import CELL
from fastem.sources import dask as dask_source
from fastem.sources import dask_tasks
from fastem.sources.dask import Blocks, DaskSource

dask = pytest.importorskip("dask")
KilledWorker = pytest.importorskip("distributed").scheduler.KilledWorker

LENGTHS = (700, 0, 3000, 5, 0, 3 * CELL, 40, 2 * CELL)


def killed(key):
    return KilledWorker(key, SimpleNamespace(address="tcp://127.0.0.1:9"), 3)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("records-3-0-7f", "Partition 3"),
        ("records-3..7-0-7f", "One of the partitions 3 to 7"),
        (("made-0a3", 3, 0), "The partition that ('made-0a3', 3, 0) makes"),
        ("mine", "The partition that 'mine' makes"),
    ],
)
def test_the_sentence(key, named, monkeypatch):
    monkeypatch.setattr(dask, "compute", lambda *tasks, **options: (_ for _ in ()).throw(killed(key)))
    with pytest.raises(FileError) as raised:
        dask_tasks.computed([])
    assert str(raised.value) == (
        f"{named} ended every worker that was given it, 4 in all, the last at tcp://127.0.0.1:9: "
        "out of memory, as a rule, which that worker's log tells."
    )


@pytest.fixture
def fatal():
    """A scheduler in whose tasks a LookupError is the end of every worker."""
    begun = []

    def get(graph, keys, **options):
        with dask.callbacks.Callback(pretask=lambda key, *others: begun.append(key)):
            try:
                return dask.get(graph, keys)
            except LookupError:
                raise killed(begun[-1]) from None

    with dask.config.set(scheduler=get):
        yield


def source_of(lengths=LENGTHS, held=False):
    X = np.arange(2.0 * sum(lengths)).reshape(-1, 2)
    parts = np.split(X, np.cumsum(lengths)[:-1])
    home = Blocks([dask.delayed(part) for part in parts], list(lengths), 16, keep=False)
    return DaskSource(home, 2, X.dtype)


def of_row(number):
    """Return a function of blocks and one of cells that fail where this row is."""

    def fail(rows):
        if rows.start <= number < rows.stop:
            raise LookupError

    return lambda X, rows, n_threads: fail(rows), lambda X, rows: fail(rows) or np.zeros(1)


@pytest.mark.parametrize(
    ("row", "partition"),
    [(100, 0), (3000, 2), (3703, 2), (3 * CELL, 5), (4 * CELL, 5), (sum(LENGTHS) - 1, 7)],
    ids=lambda value: str(value),
)
def test_a_task_is_named_by_the_partition_that_its_rows_begin_in(row, partition, fatal):
    """A cell that lies across a boundary by the first that it has rows of."""
    source, (of_block, of_cell) = source_of(), of_row(row)
    for attempt in (lambda: source.each_block(of_block), lambda: source.fold(of_cell, 1)):
        with pytest.raises(FileError, match=rf"^Partition {partition} ended every worker"):
            attempt()


def test_a_task_that_takes_several_partitions_is_named_by_the_first_and_the_last(fatal, monkeypatch):
    monkeypatch.setattr(dask_tasks, "holders", lambda tasks: [("a",)] * 3 + [("b",)] * (len(tasks) - 3))
    source = source_of()
    assert [source.home.named(group) for group in source.home.groups] == ["0..5", "5..7"]
    for row, named in ((0, "0 to 5"), (sum(LENGTHS) - 1, "5 to 7")):
        with pytest.raises(FileError, match=f"^One of the partitions {named} ended every worker"):
            source.fold(of_row(row)[1], 1)


def test_tasks_that_come_after_are_named_by_the_partitions_that_they_are_of(fatal, monkeypatch):
    """Those that join records, take rows or hand on what a pass found: a block is no partition."""

    def end(*arguments):
        raise LookupError

    source = source_of()
    with monkeypatch.context() as patch:
        patch.setattr(dask_tasks, "taken", end)
        with pytest.raises(FileError, match=r"^Partition 7 ended"):
            source.take(np.array([sum(LENGTHS) - 1]))
    nth = dask_tasks.nth

    def end_late(values, number):
        return end() if values[0] == ["late"] else nth(values, number)

    with monkeypatch.context() as patch:
        patch.setattr(dask_tasks, "nth", end_late)
        with pytest.raises(FileError, match=r"^Partition 7 ended"):
            source.collect(lambda X, rows, n_threads: "late" if rows.stop == sum(LENGTHS) else "")
    monkeypatch.setattr(dask_source, "JOINED", 3)
    tasks_of, names = dask_tasks.tasks_of, []

    def watched(function, what, calls):
        calls = list(calls)
        names.extend(call[0] for call in calls if what == "join")
        return tasks_of(function, what, calls)

    monkeypatch.setattr(dask_tasks, "tasks_of", watched)
    source = source_of()
    each = [source.home.named(group) for group in source.home.groups]
    source.fold(lambda X, rows: np.zeros(1), 1)
    assert names[-1] == "0..7"
    assert names[0] == f"{each[0]}..{each[2]}"
    assert len(names) > 2
