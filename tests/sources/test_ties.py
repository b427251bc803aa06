"""Rows as near to two centres are moved where k-means has converged: to the same bits, whatever the rows' source."""

import numpy as np
import pytest
from models_of_sources import fitted, same

import fastem
from fastem.families.kmeans import KMeansFamily
from fastem.grid import CELL
from fastem.sources.reading import BLOCK_ROWS

N = BLOCK_ROWS + CELL  # at least
LENGTHS = (700, 0, 1500, CELL - 1, 5)  # and the rest


@pytest.fixture(autouse=True)
def moved(monkeypatch):
    """What each search for moves of tied rows arrived at: None where none helps."""
    beyond, found = KMeansFamily.beyond, []

    def watched(*arguments):
        found.append(beyond(*arguments))
        return found[-1]

    monkeypatch.setattr(KMeansFamily, "beyond", watched)
    return found


def streamed(X, w, cache):
    table = np.column_stack([X, np.ones(len(X), X.dtype) if w is None else w])
    pieces = np.array_split(table, 7)
    names = [*map(str, range(X.shape[1])), "w"]
    pa = pytest.importorskip("pyarrow")
    table = pa.concat_tables(pa.table(dict(zip(names, piece.T, strict=True))) for piece in pieces)
    return fastem.rows(table, columns=names[:-1], weights=None if w is None else "w", cache=cache), {}


def in_partitions(X, w):
    da = pytest.importorskip("dask.array")
    rows = da.from_array(X, chunks=((*LENGTHS, len(X) - sum(LENGTHS)), (X.shape[1],)))
    return rows, {} if w is None else {"sample_weight": da.from_array(w, chunks=999)}


MADE = {
    "kept": lambda X, w: streamed(X, w, "always"),
    "decoded anew": lambda X, w: streamed(X, w, "never"),
    "dask": in_partitions,
}


CENTERS = np.array([[0.5, 0.0], [1.5, 0.0], [16.5, 4.0], [17.5, 4.0]])


def table(n_rows, dtype):
    """Rows, and weights, of which those at 1 and 17 are as near to two centres: J is lower if some of them move."""
    rng = np.random.default_rng(5)
    copies = 1 + n_rows // 10
    five = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.5, 0.0]])
    X = np.tile(np.concatenate([five, five + np.array([16.0, 4.0])]), (copies, 1))
    order = rng.permutation(len(X))
    return X[order].astype(dtype), np.repeat(rng.integers(1, 4, copies), 10)[order].astype(dtype)


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moves_of_tied_rows_have_the_bits_of_rows_in_memory(made, weighted, dtype, moved):
    X, w = table(N, dtype)
    w = w if weighted else None
    model = fastem.KMeans(4, init=CENTERS, n_init=1, tol=0)
    want = fitted(model.fit(X, sample_weight=w))
    in_memory = [params is not None for params in moved]
    assert any(in_memory)
    moved.clear()
    rows, given = MADE[made](X, w)
    found = fitted(fastem.KMeans(4, init=CENTERS, n_init=1, tol=0).fit(rows, **given))
    assert [params is not None for params in moved] == in_memory
    for attribute in want.keys() - {"labels_"}:
        assert same(found[attribute], want[attribute]), attribute
