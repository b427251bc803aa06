"""k-means on CSR rows: the answer of the dense table, to rounding, and the same bits for any number of threads."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fastem import BisectingKMeans, KMeans, MiniBatchKMeans
from fastem.families.kmeans import csr
from fastem.families.kmeans.csr import CSRRows
from fastem.sources.csr import CSRSource, source_of

MODELS = {
    "kmeans": lambda k, **options: KMeans(k, n_init=2, **options),
    "k-means||": lambda k, **options: KMeans(k, init="k-means||", n_init=1, **options),
    "random": lambda k, **options: KMeans(k, init="random", n_init=2, **options),
    "swaps": lambda k, **options: KMeans(k, n_init=1, n_swaps=2, **options),
    # A batch may hold a row twice, and two centres moved there coincide: which is nearer is rounding's choice.
    "mini-batch": lambda k, **options: MiniBatchKMeans(
        k, batch_size=64, reassignment_ratio=0.0, **{"max_iter": 4, **options}
    ),
    "bisecting": BisectingKMeans,
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicates, and few iterations
        yield


def table(seed, n=300, d=40, density=0.08, empty_rows=0.1, empty_columns=0.1, duplicates=0.2):
    """Random rows with values of any sign, some of them empty, some repeated; some columns without values."""
    rng = np.random.default_rng(seed)
    X = rng.normal(1, 2, (n, d)) * (rng.random((n, d)) < density)
    X[rng.random(n) < empty_rows] = 0
    X[:, rng.random(d) < empty_columns] = 0
    again = rng.random(n) < duplicates
    X[again] = X[rng.integers(0, n, again.sum())]
    return X


def assert_like_dense(model, X, w=None, tolerance=1e-9):
    csr = sparse.csr_matrix(X)
    assert isinstance(source_of(csr, np.empty(0), np.empty(0, np.int32), 1), CSRSource)
    a, b = (model().fit(Y, sample_weight=w) for Y in (csr, X))
    scale = max(1.0, float(np.abs(X).max()))
    # Clusters that were empty may get two equally far rows in either order.
    same = np.zeros(len(a.cluster_centers_), np.int64)
    same[a.labels_] = b.labels_
    used = np.unique(a.labels_)
    assert len(np.unique(same[used])) == len(used)
    np.testing.assert_array_equal(same[a.labels_], b.labels_)
    np.testing.assert_allclose(a.inertia_, b.inertia_, rtol=tolerance, atol=tolerance * scale**2)
    np.testing.assert_allclose(
        a.cluster_centers_[used], b.cluster_centers_[same[used]], rtol=tolerance, atol=tolerance * scale
    )
    np.testing.assert_array_equal(a.predict(csr), a.labels_)
    np.testing.assert_allclose(
        a.transform(csr)[:, used], b.transform(X)[:, same[used]], rtol=tolerance, atol=tolerance * scale
    )
    np.testing.assert_allclose(a.score(csr), b.score(X), rtol=tolerance, atol=tolerance * scale**2)
    assert a.cluster_centers_.flags.c_contiguous


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 20),
    d=st.integers(10, 400),
    density=st.floats(0.001, 0.12),
    empty=st.sampled_from([0.0, 0.3]),
    duplicates=st.sampled_from([0.0, 0.3]),
    weighted=st.booleans(),
)
def test_csr_rows_give_what_the_dense_table_gives(name, seed, k, d, density, empty, duplicates, weighted):
    X = table(seed, 120, d, density, empty, empty, duplicates)
    distinct = len(np.unique(X, axis=0))
    w = np.random.default_rng(seed).uniform(0, 2, len(X)).round(2) if weighted else None
    # With fewer distinct rows than clusters, which of equal rows an empty cluster gets is a matter of rounding.
    k = min(k, max(1, distinct // 3))
    if sparse.csr_matrix(X).nnz > 0.2 * X.size:
        return
    assert_like_dense(lambda: MODELS[name](k, random_state=seed), X, w)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 3, 8, 17, 70])
def test_the_kernel_finds_the_nearest_centre_and_exact_distances(dtype, k):
    rng = np.random.default_rng(k)
    X = table(k, 500, 60).astype(dtype)
    centers = (rng.normal(size=(k, 60)) * (rng.random((k, 60)) < 0.5)).astype(dtype)
    centers[k // 2] = X[np.flatnonzero(X.any(axis=1))[0]]  # a row lies on its centre
    model = KMeans(k, init=centers, n_init=1, max_iter=1).fit(sparse.csr_matrix(np.repeat(X, 2, axis=0)))
    model.cluster_centers_ = centers
    found = model.transform(sparse.csr_matrix(X)).astype(np.float64)
    want = np.sqrt(np.square(X[:, None].astype(np.float64) - centers).sum(axis=2))
    np.testing.assert_allclose(found, want, rtol=3e-6 if dtype == np.float32 else 1e-12, atol=1e-30)
    np.testing.assert_array_equal(model.predict(sparse.csr_matrix(X)), want.argmin(axis=1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "n_threads"),
    [
        (np.float32, 5),
        (np.float64, 2),
        pytest.param(np.float32, 2, marks=pytest.mark.deep),
        pytest.param(np.float64, 5, marks=pytest.mark.deep),
    ],
)
def test_the_bits_do_not_depend_on_threads(name, dtype, n_threads):
    n, d, k = 5000, 400_000, 12  # so many that every kernel is shared out
    rng = np.random.default_rng(0)
    X = sparse.csr_matrix((rng.normal(size=60 * n), rng.integers(0, d, 60 * n), 60 * np.arange(n + 1)), shape=(n, d))
    X, w = X.astype(dtype), rng.uniform(0, 2, n)
    one, fit = (
        MODELS[name](k, random_state=0, max_iter=3, n_threads=n).fit(X, sample_weight=w) for n in (1, n_threads)
    )
    np.testing.assert_array_equal(fit.cluster_centers_, one.cluster_centers_)
    np.testing.assert_array_equal(fit.labels_, one.labels_)
    assert fit.inertia_ == one.inertia_


def test_ties_go_to_the_first_centre_and_large_offsets_cost_no_digits():
    X = np.zeros((40, 30))
    X[:, 0] = 1e8  # a column beside which all else is rounding
    X[:20, 1], X[20:, 2] = 1e-3, 1e-3
    model = KMeans(2, random_state=0).fit(sparse.csr_matrix(X))
    assert model.inertia_ == 0.0
    assert len(set(model.labels_[:20])) == len(set(model.labels_[20:])) == 1
    model.cluster_centers_ = np.eye(30)[[3, 1, 1]]  # as far from rows of other features
    assert model.predict(sparse.csr_matrix(np.eye(30)[[5, 1, 3]])).tolist() == [0, 1, 0]


def test_fewer_distinct_rows_than_clusters():
    X = sparse.csr_matrix(np.repeat(np.eye(30)[:4], 5, axis=0))
    with pytest.warns(Warning, match="distinct clusters"):
        model = KMeans(6, random_state=0).fit(X)
    assert model.inertia_ == 0.0
    assert model.converged_


def test_an_empty_cluster_gets_the_farthest_row():
    X = table(3, 200, 60)
    init = np.concatenate([X[:5], np.full((1, 60), 100.0)])
    assert_like_dense(lambda: KMeans(6, init=init, n_init=1), X)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_spherical_rows(kind):
    X = table(5, 400, 50, empty_rows=0).astype(kind)
    # Three features are everybody's: no two rows are orthogonal, which would be a tie.
    X[:, :3] = np.abs(X[:, :3]) + np.random.default_rng(1).random((400, 3))
    tolerance = 1e-9 if kind == np.float64 else 1e-4
    assert_like_dense(lambda: KMeans(5, spherical=True, random_state=0, n_init=1), X, tolerance=tolerance)


def test_large_indices_repeated_and_unordered_values():
    X = sparse.csr_matrix(table(7))
    want = KMeans(5, random_state=0).fit(X)
    large = X.copy()
    large.indices, large.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    order = np.random.default_rng(0).permutation(X.nnz)
    halves = np.concatenate([X.data * 0.5, X.data * 0.5])
    coo = sparse.coo_matrix((halves, (np.tile(row, 2), np.tile(X.indices, 2))), shape=X.shape)
    starts = np.concatenate([[0], np.cumsum(np.bincount(np.tile(row, 2), minlength=X.shape[0]))])
    sorted_by_row = np.argsort(np.tile(row, 2)[np.concatenate([order, order + X.nnz])], kind="stable")
    at = np.concatenate([order, order + X.nnz])[sorted_by_row]
    untidy = sparse.csr_matrix((halves[at], coo.col[at], starts), shape=X.shape)
    before = untidy.data.copy()
    for Y in (large, untidy, sparse.csr_array(X)):
        got = KMeans(5, random_state=0).fit(Y)
        np.testing.assert_array_equal(got.cluster_centers_, want.cluster_centers_)
    np.testing.assert_array_equal(untidy.data, before)


def test_features_without_values_are_left_out_and_come_back():
    X = np.zeros((300, 5000))
    X[:, ::100] = table(9, 300, 50, empty_rows=0)
    model = KMeans(4, random_state=0).fit(sparse.csr_matrix(X))
    narrow = source_of(sparse.csr_matrix(X), np.empty(0), np.empty(0, np.int32), 1).occupied()[0]
    assert narrow.n_features <= 50
    assert not model.cluster_centers_[:, 1::100].any()
    watched = KMeans(4, random_state=0, keep_history=True).fit(sparse.csr_matrix(X))
    assert watched.history_[-1].centers.shape == (4, 5000)
    np.testing.assert_allclose(watched.cluster_centers_, model.cluster_centers_, rtol=1e-12)


def test_partial_fit_and_certificate():
    X, dense, csr = table(11, 600), MiniBatchKMeans(4, random_state=0), MiniBatchKMeans(4, random_state=0)
    for part in np.array_split(np.arange(600), 6):
        dense.partial_fit(X[part])
        csr.partial_fit(sparse.csr_matrix(X[part]))
    np.testing.assert_allclose(csr.cluster_centers_, dense.cluster_centers_, rtol=1e-9, atol=1e-12)
    KMeans(8, random_state=0, certify=True, tol=0).fit(sparse.csr_matrix(X))


def test_values_by_feature():
    X = sparse.csr_matrix(table(13))
    by_feature, want = CSRRows.of(X).by_feature, X.tocsc()
    for got, right in zip(by_feature, (want.indptr, want.indices, want.data), strict=True):
        np.testing.assert_array_equal(got, right)


def test_memory_is_of_the_order_of_values_and_centres():
    import tracemalloc

    d = 300_000
    X = sparse.random(2000, d, 50 / d, format="csr", random_state=np.random.default_rng(0))
    for model in (KMeans(10, n_init=1, max_iter=3, random_state=0), MiniBatchKMeans(10, max_iter=2, random_state=0)):
        tracemalloc.start()
        model.fit(X)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * 10 * d * 8  # dense rows: 200 times as much


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms_and_variances_of_runs_are_those_of_all_rows(monkeypatch, dtype):
    monkeypatch.setattr(csr, "RUN", 7)
    for seed in range(20):
        X = table(seed, n=60 + seed, d=1 + seed % 5, density=0.4).astype(dtype)
        w = np.random.default_rng(seed).random(len(X)).astype(dtype)
        source = CSRSource(sparse.csr_matrix(X), w)
        runs = [number for rows in source.rows.runs() for number in range(rows.start, rows.stop)]
        assert runs == list(range(len(X)))
        np.testing.assert_allclose(source.rows.squares, np.square(X, dtype=np.float64).sum(axis=1), rtol=1e-14)
        mean = np.average(X.astype(np.float64), axis=0, weights=w)
        variances = np.average(np.square(X - mean), axis=0, weights=w)
        assert source.mean_variance == pytest.approx(variances.mean(), rel=1e-6)
