"""What every source promises: the same rows, weights and labels, on the grid, and the same bits of every sum."""

import threading

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from fastem import families, grid
from fastem.draws import Draws
from fastem.grid import CELL
from fastem.sources.base import runs
from fastem.sources.csr import CSRSource
from fastem.sources.dask import Blocks, DaskSource
from fastem.sources.memory import MappedSource, MemorySource, SparseSource
from fastem.sources.reading import BLOCK_ROWS, Tree, ahead, cut
from fastem.sources.spool import Spool
from fastem.sources.stream import FileSource, StreamSource


def ragged(X):
    """Return what gives the rows in blocks of the grid, out of pieces that do not lie on it."""
    pieces = [X[first : first + 1000] for first in range(0, len(X), 1000)]
    return lambda: cut(iter(pieces), 2 * CELL)


def stream(X, w=None, labels=None, n_threads=1):
    return StreamSource(ragged(X), X.shape, X.dtype, w, labels, n_threads, spool=Spool())


def in_partitions(X, w=None, labels=None, n_threads=1):
    """Rows in ragged partitions of Dask, some of them empty and some smaller than a cell."""
    dask = pytest.importorskip("dask")
    ends = [e for e in (0, 0, 700, 700, 705, 2500, 3 * CELL, 3 * CELL + 1) if e < len(X)]
    pieces = [X[start:stop] for start, stop in zip([0, *ends], [*ends, len(X)], strict=True)]
    home = Blocks(
        [dask.delayed(piece) for piece in pieces],
        [len(piece) for piece in pieces],
        X.shape[1] * X.itemsize,
        keep=False,
    )
    return DaskSource(home, X.shape[1], X.dtype, w, labels, n_threads)


SOURCES = {
    "memory": MemorySource,
    "sparse": lambda X, *facts: SparseSource(csr_matrix(X), *facts),
    "csr": lambda X, *facts: CSRSource(csr_matrix(X), *facts),
    "mapped": lambda X, *facts: MappedSource(MemorySource(X, *facts), lambda rows: rows),
    "file": lambda X, *facts: FileSource(X, *facts, spool=Spool()),
    "stream": stream,
    "dask": in_partitions,
}
by_source = pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
by_size = pytest.mark.parametrize("n", [1, 7, CELL, CELL + 1, 5 * CELL + 9])
NOTHING = (None, None, 1)


def rows(n, d=3, dtype=np.float64, seed=0):
    """Rows with zeros, as CSR has them, that nobody may write to."""
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, d)) + 4 * rng.integers(0, 2, (n, 1))) * (rng.random((n, d)) < 0.7)
    X = X.astype(dtype)
    X.flags.writeable = False
    return X


@by_source
@by_size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_facts(make, n, dtype):
    X, w = rows(n, dtype=dtype), np.linspace(0.5, 2.0, n).astype(dtype)
    source = make(X, w, None, 2)
    assert (source.n_rows, source.n_features, source.dtype, source.n_threads) == (n, 3, dtype, 2)
    assert source.total_weight == pytest.approx(w.sum(dtype=np.float64), rel=1e-12)
    assert make(X, *NOTHING).total_weight == n
    assert not source.has_nan
    holed = X.copy()
    holed[-1, -1] = np.nan
    assert make(holed, *NOTHING).has_nan


@by_source
@by_size
def test_blocks_begin_on_the_grid_and_cover_all_rows_once(make, n):
    X = rows(n)

    def block(part, where, n_threads):
        assert where.start % CELL == 0
        assert n_threads >= 1
        assert part.flags.c_contiguous
        np.testing.assert_array_equal(part, X[where])
        return where

    seen = make(X, None, None, 3).collect(block)
    covered = np.concatenate([np.arange(where.start, where.stop) for where in seen])
    np.testing.assert_array_equal(np.sort(covered), np.arange(n))


@by_source
@by_size
def test_a_fold_is_the_tree_over_cells_for_any_number_of_threads(make, n):
    X, w = rows(n), np.linspace(0.0, 2.0, n)

    def cell(part, where):
        return w[where] @ part

    cells = [cell(X[first : first + CELL], slice(first, first + CELL)) for first in range(0, n, CELL)]
    want = grid.merge_tree(np.array(cells))
    for n_threads in (1, 2, 7):
        source = make(X, w, None, n_threads)
        np.testing.assert_array_equal(source.fold(cell, 3), want)
        np.testing.assert_array_equal(source.weights_of(slice(0, 2)), w[:2])


@by_source
@by_size
def test_rows_are_taken_by_number(make, n):
    X = rows(n)
    wanted = np.random.default_rng(1).integers(0, n, 20)
    taken = make(X, *NOTHING).take(wanted)
    assert taken.dtype == X.dtype
    np.testing.assert_array_equal(taken, X[wanted])


@by_source
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_drawn_without_repetition_and_by_weight(make, weighted):
    X = np.arange(1.0, 301.0)[:, None]
    w = (np.arange(300) % 3 > 0).astype(float) if weighted else None
    drawn = make(X, w, None, 1).sample_rows(100, Draws(3))[:, 0].astype(int) - 1
    assert len(set(drawn)) == 100
    if weighted:
        assert (w[drawn] > 0).all()


# Covariance models in capitals take their statistics by the kernels of a shape.
@by_source
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.deep if name[-3:].isupper() else ()) for name in families.FAMILIES],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_have_the_bits_of_rows_in_memory(make, name, dtype):
    """Weights and known labels included, for any number of threads."""
    n, k = 3 * CELL + 5, 2 if families.mixes(name) else 1
    family = families.make(name, k)
    params = family.example_params(3, Draws(0))
    X = np.ascontiguousarray(family.sample(params, n, Draws(1))[0], dtype)
    rng = np.random.default_rng(2)
    w, labels = rng.uniform(0, 2, n).astype(dtype), rng.integers(-1, k, n).astype(np.int32)
    prepared = family.prepare(params, X.dtype)
    want = MemorySource(X, w, labels).accumulate(family, prepared)
    for n_threads in (1, 2, 7):
        found = make(X, w, labels, n_threads).accumulate(family, prepared)
        for field, right in zip(found, want, strict=True):
            np.testing.assert_array_equal(field, right)


@by_source
def test_what_a_family_remembers_of_each_row_is_filled(make):
    X, family = rows(2 * CELL + 3), families.make("kmeans", 2)
    prepared = family.prepare(family.blank_params(X[[0, 5]].astype(float), np.ones(3)), X.dtype)
    source = make(X, None, None, 2)
    memo = family.new_memo(len(X), source.empty)
    source.accumulate(family, prepared, memo)
    np.testing.assert_array_equal(memo.labels, family.assign(X, prepared, 1)[0])


@by_source
def test_the_worst_explained_rows_come_first(make):
    X = rows(CELL + 50).copy()
    X[[3, CELL + 20]] = [[50.0, 0.0, 0.0], [90.0, 0.0, 0.0]]
    family = families.make("gaussian-full", 1)
    prepared = family.prepare(family.blank_params(np.zeros((1, 3)), np.ones(3)), X.dtype)
    w = np.ones(len(X))
    worst = make(X, w, None, 2).extreme_rows(family, prepared, 2)
    np.testing.assert_array_equal(worst.indices, [CELL + 20, 3])
    np.testing.assert_array_equal(worst.X, X[worst.indices])
    w[CELL + 20] = 0.0  # a row without weight says nothing
    assert make(X, w, None, 1).extreme_rows(family, prepared, 1).indices == [3]


@by_source
def test_a_source_with_other_labels_or_threads_has_the_same_rows(make):
    X, labels = rows(40), np.arange(40, dtype=np.int32) % 3 - 1
    source = make(X, None, None, 1)
    other = source.with_labels(labels).with_threads(5)
    np.testing.assert_array_equal(other.take(np.arange(40)), X)
    np.testing.assert_array_equal(other.labels, labels)
    assert (other.n_threads, source.n_threads, source.labels.size) == (5, 1, 0)


@by_source
def test_parts_and_images_are_sources_of_their_own(make):
    X, w = rows(2 * CELL + 7), np.linspace(0.5, 1.0, 2 * CELL + 7)
    source = make(X, w, None, 2)
    picked = np.array([5, 2, CELL + 1, 2 * CELL + 6])
    if not isinstance(source, MappedSource):  # no fit takes parts of one
        part = source.subset(picked, w[picked])
        np.testing.assert_array_equal(part.take(np.arange(4)), X[picked])
        np.testing.assert_array_equal(part.weights_of(slice(0, 4)), w[picked])
    mapped = source.mapped(lambda part: 2 * part[:, :2])
    np.testing.assert_array_equal(mapped.take(picked), 2 * X[picked, :2])
    np.testing.assert_array_equal(mapped.weights_of(slice(0, 3)), w[:3])
    assert (mapped.shape, len(mapped)) == ((len(X), 2), len(X))
    empty = source.empty(len(X), np.float64)
    assert (empty.shape, empty.dtype) == ((len(X),), np.float64)


@by_source
def test_entries_of_rows_are_kept_beside_the_rows(make):
    """What functions of blocks write to arrays of `empty` is there for later functions, and for who asks."""
    n = 4 * CELL + 9
    X, w = rows(n), np.linspace(0.5, 1.0, n)
    source = make(X, w, None, 2)
    entries, others = source.empty(n, np.float64), source.empty(n, np.int32)
    entries[:], others[:] = 2.0, 7

    def write(part, where, n_threads):
        np.copyto(entries[where], part[:, 0] * source.weights_of(where), where=part[:, 1] > 0)
        others[where] = 3

    source.each_block(write)
    want = np.where(X[:, 1] > 0, X[:, 0] * w, 2.0)
    np.testing.assert_array_equal(np.asarray(entries), want)
    np.testing.assert_array_equal(entries[[5, n - 1]], want[[5, n - 1]])
    for found, rows_of in zip(
        runs(entries, [slice(5, 9), slice(2000, 7000)]), (slice(5, 9), slice(2000, 7000)), strict=True
    ):
        np.testing.assert_array_equal(found, want[rows_of])
    np.testing.assert_array_equal(source.largest(entries, 5), np.argsort(-want, kind="stable")[:5])
    assert np.flatnonzero(source.used_labels(others, 8)).tolist() == [3]
    assert np.flatnonzero(source.used_labels(others, 4)).tolist() == [3]
    cells = np.array([want[first : first + CELL].sum() for first in range(0, n, CELL)])
    (total,) = source.fold_entries(lambda where: np.array([entries[where].sum()]), 1)
    assert total == grid.merge_tree(cells[:, None])[0]
    assert sum(source.of_entries(lambda where: where.stop - where.start)) == n


@by_source
def test_a_column_without_any_value_is_refused(make):
    X, w = rows(CELL + 3).copy(), np.ones(CELL + 3)
    X[:, 1] = np.nan
    X[CELL + 1, 1] = 1.0
    make(X, w, None, 2).refuse_empty_columns()
    w[CELL + 1] = 0.0
    with pytest.raises(ValueError, match="Column 1 of X has no value"):
        make(X, w, None, 2).refuse_empty_columns()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 8, 13, 64, 100])
def test_records_that_come_in_order_are_merged_by_the_tree(n):
    records = np.random.default_rng(n).normal(size=(n, 4)) * 10.0 ** np.arange(n)[:, None]
    tree = Tree()
    for record in records:
        tree.add(record)
    np.testing.assert_array_equal(tree.total(), grid.merge_tree(records.copy()))


def test_a_block_is_a_subtree():
    assert BLOCK_ROWS % CELL == 0
    assert (BLOCK_ROWS // CELL).bit_count() == 1


def test_what_fails_while_it_is_read_ahead_fails_here():
    def items():
        yield 1
        raise OSError("gone")

    reading = ahead(items())
    assert next(reading) == 1
    with pytest.raises(OSError, match="gone"):
        next(reading)


def test_reading_ahead_stops_when_nobody_wants_more():
    made, closed = [], []

    def items():
        try:
            for number in range(1000):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    reading = ahead(items())
    assert next(reading) == 0
    reading.close()
    assert closed == [True]
    assert len(made) < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "fastem-reader"]


def test_a_stream_that_changes_is_refused():
    X = rows(3 * CELL)
    source = StreamSource(ragged(X[:-5]), X.shape, X.dtype, spool=Spool())
    with pytest.raises(ValueError, match=f"The rows are {len(X) - 5} at this pass, and were {len(X)} at the first"):
        source.each_block(lambda part, where, n_threads: None)


@by_source
@by_size
def test_rows_come_in_order_where_they_can(make, n):
    X, source = rows(n), make(rows(n), *NOTHING)
    if not source.reads_in_order:
        pytest.skip("its rows lie in other processes")
    for size in (CELL, 2 * CELL):
        seen = [(where, part) for where, part in source.in_order(size)]
        assert [where.start for where, _ in seen] == list(range(0, n, size))
        for where, part in seen:
            np.testing.assert_array_equal(part, X[where])
