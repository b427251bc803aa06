"""Every estimator, fitted to a collection of Dask, has the bits of a fit to the same rows in memory."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from models_of_sources import COMPLETE, COUNTED, ESTIMATORS, fitted, same

import fastem
from fastem.grid import CELL
from fastem.sources.ragged import Node, Ragged, join, subtrees, total

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
pd = pytest.importorskip("pandas")

N, D = 9 * CELL + 77, 3
LENGTHS = (700, 0, 1500, 3000, CELL, 5, 4 * CELL + 3)  # and the rest
NAMES = ["a", "b", "c"]
PRODUCT = [(weighted, missing, dtype) for weighted in (0, 1) for missing in (0, 1) for dtype in ("f4", "f8")]
QUICK = {(1, 0, "f4")}
QUICK_WITH_GAPS = ("full", "factor", "categorical")  # with missing values, of the families whose kernels differ most

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def scheduler():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)) + 5 * rng.integers(0, 3, (N, 1))


@pytest.fixture(scope="module")
def w():
    return np.random.default_rng(1).uniform(0.5, 2.0, N)


def ragged(X):
    lengths = (*LENGTHS, len(X) - sum(LENGTHS))
    return da.from_array(X, chunks=(lengths, (X.shape[1],)))


def cases():
    for name in ESTIMATORS:
        for weighted, missing, dtype in PRODUCT:
            gaps = missing and name in QUICK_WITH_GAPS and (weighted, dtype) == (0, "f8")
            quick = (weighted, missing, dtype) in QUICK or gaps
            words = "-".join([name, dtype, *["weighted"] * weighted, *["missing"] * missing])
            if name != "bounds" and not (missing and name in COMPLETE):
                yield pytest.param(name, weighted, missing, dtype, id=words, marks=[] if quick else pytest.mark.deep)


@pytest.mark.parametrize(("name", "weighted", "missing", "dtype"), list(cases()))
def test_every_estimator_has_the_bits_of_rows_in_memory(name, weighted, missing, dtype, X, w):
    data = (np.abs(np.round(X)) if name in COUNTED else X).astype(dtype)
    if missing:
        data[np.random.default_rng(2).random(data.shape) < 0.02] = np.nan
    given = {"sample_weight": w} if weighted else {}
    rows = ragged(data)
    lazy = {"sample_weight": da.from_array(w, chunks=4000)} if weighted else {}
    want, found = ESTIMATORS[name]().fit(data, **given), ESTIMATORS[name]().fit(rows, **lazy)
    for attribute, value in fitted(want).items():
        if attribute != "labels_":
            assert same(getattr(found, attribute), value), attribute
    assert "labels_" not in vars(found)
    if missing:  # the last bits of a density may depend on whether others of the partition have missing values
        assert found.score(rows, **lazy) == pytest.approx(
            want.score(data, **given), rel=1e-12 if dtype == "f8" else 1e-6
        )
    else:
        assert found.score(rows, **lazy) == want.score(data, **given)
    if hasattr(want, "predict"):
        labels = found.predict(rows)
        assert isinstance(labels, da.Array)
        np.testing.assert_array_equal(labels.compute(), want.predict(data))


PARTITIONS = {
    "one": [N],
    "a row each, then all": [1, 1, 1, N - 3],
    "on the grid": [2 * CELL, 3 * CELL, N - 5 * CELL],
    "smaller than a cell": [500] * (N // 500) + [N % 500],
    "empty ends": [0, 0, 4000, 0, N - 4000, 0],
}


@pytest.mark.parametrize("lengths", PARTITIONS.values(), ids=PARTITIONS)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_no_partitioning_changes_a_bit(lengths, scheduler, X, w):
    rows = da.from_array(X, chunks=(tuple(lengths), (D,)))
    want = fastem.GaussianMixture(3, random_state=0, max_iter=3).fit(X, sample_weight=w)
    with dask.config.set(scheduler=scheduler):
        found = fastem.GaussianMixture(3, random_state=0, max_iter=3).fit(rows, sample_weight=w)
        np.testing.assert_array_equal(found.score_samples(rows).compute(), want.score_samples(X))
    np.testing.assert_array_equal(found.means_, want.means_)
    np.testing.assert_array_equal(found.covariances_, want.covariances_)


@pytest.mark.parametrize("seed", range(20))
def test_nodes_of_ragged_blocks_add_up_as_the_tree_does(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.choice([0, 1, 700, CELL - 1, CELL, CELL + 1, 5000, 30_000, 70_000], rng.integers(1, 9))
    blocks, n = Ragged([*lengths, 1]).blocks, int(lengths.sum()) + 1
    np.testing.assert_array_equal(np.concatenate([np.r_[block.rows] for block in blocks]), np.arange(n))
    assert all(block.n_rows <= CELL for block in blocks if len(block.parts) > 1)
    n_cells = -(-n // CELL)
    records = rng.normal(size=(n_cells, 3)) * 10.0 ** rng.integers(-5, 5, (n_cells, 1))
    merge = fastem.grid.merge_tree
    lists = [
        [Node(i, j, merge(records[j << i : (j + 1) << i].copy())) for i, j in subtrees(block.first, block.n_rows)]
        for block in blocks
    ]
    while len(lists) > 1:
        lists = [join(lists[first : first + 3]) for first in range(0, len(lists), 3)]
    np.testing.assert_array_equal(total(join(lists)), merge(records.copy()))


def test_frames_give_series_with_their_index(X, w):
    index = pd.Index(np.arange(N) * 2, name="number")
    frame = pd.DataFrame(X, columns=NAMES, index=index)
    rows = dd.from_pandas(frame, npartitions=4)
    weights = dd.from_pandas(pd.Series(w, index=index), npartitions=3)
    want = fastem.GaussianMixture(3, random_state=0, max_iter=2).fit(frame, sample_weight=w)
    found = fastem.GaussianMixture(3, random_state=0, max_iter=2).fit(rows, sample_weight=weights)
    assert list(found.feature_names_in_) == NAMES
    np.testing.assert_array_equal(found.means_, want.means_)
    labels, density = found.predict(rows), found.score_samples(rows)
    assert isinstance(labels, dd.Series)
    pd.testing.assert_series_equal(labels.compute(), pd.Series(want.predict(frame), index=index))
    pd.testing.assert_series_equal(
        density.compute(), pd.Series(want.score_samples(frame), index=index), check_exact=True
    )
    shares = found.predict_proba(rows)
    assert isinstance(shares, dd.DataFrame)
    np.testing.assert_array_equal(shares.compute().to_numpy(), want.predict_proba(frame))
    with pytest.raises(
        ValueError, match="feature names should match those that were passed during fit: a, b, c; got b"
    ):
        found.predict(rows[["b", "a", "c"]])


def test_arrays_give_arrays_and_nothing_is_computed(X):
    started = []

    def opened(block):
        started.append(True)
        return block

    rows = ragged(X).map_blocks(opened, meta=np.empty((0, 0)))
    model = fastem.KMeans(3, random_state=0).fit(X)
    started.clear()
    labels, distances = model.predict(rows), model.transform(rows)
    assert not started
    assert (labels.dtype, labels.chunks) == (np.int32, (rows.chunks[0],))
    assert (distances.dtype, distances.shape) == (np.float64, (N, 3))
    np.testing.assert_array_equal(distances.compute(), model.transform(X))
    np.testing.assert_array_equal(fastem.KMeans(3, random_state=0).fit_predict(rows).compute(), model.labels_)
    factors = fastem.FactorAnalysis(1).fit(X)
    np.testing.assert_array_equal(factors.transform(rows).compute(), factors.transform(X))


def test_delayed_blocks(X):
    parts = [dask.delayed(part) for part in np.array_split(X, [700, 9000])]
    want = fastem.KMeans(3, random_state=0).fit(X)
    found = fastem.KMeans(3, random_state=0).fit(parts)
    np.testing.assert_array_equal(found.cluster_centers_, want.cluster_centers_)
    np.testing.assert_array_equal(np.concatenate(dask.compute(*found.predict(parts))), want.labels_)


def test_known_labels_moves_of_rows_and_few_rows(X):
    known = np.full(N, -1)
    known[:5000] = X[:5000, 0] > 4
    want = fastem.GaussianMixture(2, random_state=0, max_iter=3).fit(X, labels=known)
    found = fastem.GaussianMixture(2, random_state=0, max_iter=3).fit(ragged(X), labels=known)
    np.testing.assert_array_equal(found.means_, want.means_)
    few = da.from_array(X[:500], chunks=(200, D))
    np.testing.assert_array_equal(
        fastem.KMeans(3, random_state=0).fit(few).cluster_centers_,
        fastem.KMeans(3, random_state=0).fit(X[:500]).cluster_centers_,
    )
    moved = fastem.KMeans(3, random_state=0, refine="hartigan").fit(ragged(X))
    assert moved.inertia_ <= fastem.KMeans(3, random_state=0).fit(X).inertia_


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_values_that_no_model_takes(value, said, X):
    bad = X.copy()
    bad[6000, 1] = value
    match = rf"Input X contains {said} \(first at row 6000, column 1 \(data row 801 of partition 4\)\)"
    with pytest.raises(ValueError, match=match):
        fastem.KMeans(2, random_state=0).fit(ragged(bad))


def test_what_is_no_rows(X):
    fit = fastem.KMeans(2, random_state=0).fit
    with pytest.raises(ValueError, match="There are no rows"):
        fit(ragged(X)[:0])
    with pytest.raises(ValueError, match="Partition 1 has 2 columns, partition 0 has 3"):
        fit([dask.delayed(X), dask.delayed(X[:, :2])])
    with pytest.raises(ValueError, match="Partition 1 cannot be read as numbers"):
        fit([dask.delayed(X), dask.delayed(np.array([["a"]]))])
    with pytest.raises(ValueError, match='Column "t" is not numeric'):
        fit(dd.from_pandas(pd.DataFrame({"t": pd.to_datetime(["2020-01-01"])}), npartitions=1))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(5,\)"):
        fit(ragged(X), sample_weight=np.ones(5))


def test_settings_of_distributed_are_left_alone():
    """Also where what is kept of a fit is what loads it: the next look at its settings failed."""
    script = """
        import dask
        from fastem.sources.dask_tasks import persisted
        persisted([dask.delayed(1)])
        import distributed
        dask.config.get("distributed.comm.timeouts.connect")
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], check=True)


# -------------------------------------------------------------------------------------------------- fastem.rows of Dask


def test_rows_of_dask_have_columns_weights_and_a_dtype(X, w):
    table = np.column_stack([X[:, :2], w, X[:, 2:]])
    want = fastem.GaussianMixture(3, random_state=0, max_iter=3).fit(X.astype(np.float32), sample_weight=w)
    frame = dd.from_pandas(pd.DataFrame(table, columns=["a", "b", "w", "c"]), npartitions=4)
    for rows in (
        fastem.rows(ragged(table), columns=["x0", "x1", "x3"], weights="x2", dtype="float32"),
        fastem.rows(frame, weights="w", dtype="float32"),
        fastem.rows(frame.assign(text="left out"), columns=["a", "b", "c"], weights="w", dtype="float32"),
    ):
        found = fastem.GaussianMixture(3, random_state=0, max_iter=3).fit(rows)
        np.testing.assert_array_equal(found.means_, want.means_)
        np.testing.assert_array_equal(found.predict(rows).compute(), want.predict(X.astype(np.float32)))
        assert found.score(rows) == want.score(X.astype(np.float32), sample_weight=w)


def test_rows_of_dask_that_few_are_have_weights_too(X, w):
    table = np.column_stack([X, w])[:500]
    found = fastem.KMeans(3, random_state=0).fit(fastem.rows(da.from_array(table, chunks=(90, 4)), weights="x3"))
    want = fastem.KMeans(3, random_state=0).fit(X[:500], sample_weight=w[:500])
    np.testing.assert_array_equal(found.cluster_centers_, want.cluster_centers_)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"columns": ["x0", "x9"]}, ValueError, 'no column "x9"'),
        ({"weights": "x7"}, ValueError, 'no column "x7"'),
        ({"dtype": "int32"}, ValueError, "dtype must be 'float32' or 'float64'"),
        ({"cache": "never"}, TypeError, "cache= does not go with rows of Dask"),
        ({"header": False}, TypeError, "header= does not go with rows of Dask"),
    ],
)
def test_what_rows_of_dask_refuse(options, error, words, X):
    with pytest.raises(error, match=words):
        fastem.rows(ragged(X), **options)


def test_other_refusals_of_rows(X):
    with pytest.raises(TypeError, match="delayed arrays, whose columns nobody knows yet"):
        fastem.rows([dask.delayed(X)], weights="x0")
    with pytest.raises(TypeError, match="client= goes with collections of Dask, not with ndarray"):
        fastem.rows(X, client=object())
    with pytest.raises(ValueError, match='Column "day" is not numeric'):
        fastem.rows(
            dd.from_pandas(pd.DataFrame({"day": pd.to_datetime(["2026-11-29"] * 2), "x": [1.0, 2.0]}), npartitions=1)
        )
