"""K-means in two levels, and fits of a sample: oracles in NumPy, exact labels, threads, weights, hostile input."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastem
from fastem import HierarchicalKMeans, KMeans
from fastem.draws import Draws
from fastem.families.kmeans import rotated
from fastem.sources.memory import MemorySource
from fastem.starts import two_levels
from fastem.starts.assignment import assign
from fastem.starts.two_levels import How, shares

# As scikit-learn's own k-means estimators: they draw rows at random.
EXPECTED_FAILURES = {"check_sample_weight_equivalence_on_dense_data": "rows are drawn at random"}


@parametrize_with_checks([HierarchicalKMeans()], expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def rows(n=6000, d=6, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return (4 * rng.standard_normal((40, d))[rng.integers(40, size=n)] + rng.standard_normal((n, d))).astype(dtype)


def sqdist_of(X, centers):
    return np.square(X[:, None, :].astype(float) - centers.astype(float)).sum(axis=2)


# ---- the estimator ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_are_nearest_centres_and_inertia_is_theirs(dtype, weighted):
    X = rows(dtype=dtype)
    w = np.random.default_rng(1).uniform(0, 3, len(X)) if weighted else None
    model = HierarchicalKMeans(150, random_state=0).fit(X, sample_weight=w)
    sqdist = sqdist_of(X, model.cluster_centers_)
    own = sqdist[np.arange(len(X)), model.labels_]
    np.testing.assert_allclose(own, sqdist.min(axis=1), rtol=1e-5 if dtype == np.float32 else 1e-12)
    expected = own @ (np.ones(len(X)) if w is None else w.astype(dtype))
    assert model.inertia_ == pytest.approx(expected, rel=1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert model.score(X, sample_weight=w) == pytest.approx(-model.inertia_, rel=1e-7)
    assert model.cluster_centers_.dtype == model.coarse_centers_.dtype == model.transform(X[:2]).dtype == dtype
    assert model.coarse_labels_.shape == (150,)
    assert np.all(np.diff(model.coarse_labels_) >= 0)


@pytest.mark.parametrize("options", [{}, {"n_coarse": 3, "init": "k-means++", "sample_per_cluster": 4}])
def test_any_number_of_threads_gives_the_same_bits(options):
    X = rows(9000, dtype=np.float32)
    one, three = (HierarchicalKMeans(90, random_state=1, n_threads=n, **options).fit(X) for n in (1, 3))
    for name in ("cluster_centers_", "coarse_centers_", "coarse_labels_", "labels_", "inertia_", "n_iter_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))


def test_the_loss_against_one_level_is_small():
    X = rows(8000)
    flat = KMeans(160, random_state=0).fit(X).inertia_
    losses = [HierarchicalKMeans(160, random_state=0, n_refine=n).fit(X).inertia_ / flat for n in (0, 1, 2, 6)]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 1.045 < losses[0]


def test_without_labels():
    X = rows(2000)
    model = HierarchicalKMeans(30, random_state=0).fit(X)
    again = HierarchicalKMeans(30, random_state=0, compute_labels=False).fit(X)
    np.testing.assert_array_equal(model.cluster_centers_, again.cluster_centers_)
    assert not hasattr(again, "labels_")
    assert not hasattr(again, "inertia_")
    assert not hasattr(model.set_params(compute_labels=False).fit(X), "labels_")


def test_clusters_go_where_the_inertia_is():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.standard_normal((9000, 2)), 200 + 10 * rng.standard_normal((1000, 2))])
    model = HierarchicalKMeans(100, n_coarse=2, random_state=0, sample_per_cluster=None).fit(X)
    wide = int(model.coarse_centers_[:, 0].argmax())
    # Of inertias 9000 x 2 and 1000 x 200 in the plane: their roots.
    share = np.count_nonzero(model.coarse_labels_ == wide)
    assert share == round(100 * (1 + 18 / 200) ** 0 * np.sqrt(2e5) / (np.sqrt(2e5) + np.sqrt(18e3)))


def test_few_rows_and_duplicates():
    assert sorted(HierarchicalKMeans(6, random_state=0).fit_predict(np.arange(6.0)[:, None])) == list(range(6))
    one = HierarchicalKMeans(1).fit([[1.0], [3.0]], sample_weight=[1.0, 3.0])
    assert one.cluster_centers_.tolist() == [[2.5]]
    with pytest.warns(ConvergenceWarning, match=r"Number of distinct clusters \([12]\) found smaller"):
        HierarchicalKMeans(4, random_state=0).fit(np.repeat([[0.0], [1.0]], 5, axis=0))
    w = np.zeros(40)
    w[:3] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HierarchicalKMeans(16, random_state=0).fit(rows(40), sample_weight=w)
    assert np.all(np.isfinite(model.cluster_centers_))
    assert model.inertia_ == pytest.approx(0.0, abs=1e-12)


def test_refusals(tmp_path):
    X = rows(60)
    np.save(tmp_path / "rows.npy", X)
    for name, bad in {"n_coarse": 0, "init": X[:8], "max_iter": 0, "n_refine": -1, "sample_per_cluster": 0}.items():
        with pytest.raises(ValueError, match=f"'{name}' parameter of HierarchicalKMeans must be"):
            HierarchicalKMeans(8, **{name: bad}).fit(X)
    with pytest.raises(ValueError, match=r"n_coarse=9 should be <= n_clusters=8\."):
        HierarchicalKMeans(8, n_coarse=9).fit(X)
    with pytest.raises(ValueError, match=r"n_samples=60 should be >= n_clusters=61\."):
        HierarchicalKMeans(61).fit(X)
    with pytest.raises(TypeError, match=r"HierarchicalKMeans takes dense rows.*not a sparse matrix"):
        HierarchicalKMeans(4).fit(sparse.csr_matrix(X))
    with pytest.raises(TypeError, match="HierarchicalKMeans takes rows in memory"):
        HierarchicalKMeans(4).fit(fastem.rows(tmp_path / "rows.npy"))
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        HierarchicalKMeans(4).fit(X)


# ---- the two levels ----


def levels_of(X, w, k=60, g=20, **options):
    how = How("random", 3, 0.0, None, 5)._replace(**options)
    source = MemorySource(X, np.empty(0, X.dtype) if w is None else w.astype(X.dtype), n_threads=2)
    return source, two_levels.fit(source, k, g, how)


def oracle_of_a_pass(X, w, levels):
    """Return labels and centres after one pass of the refinement, row by row."""
    cells, gaps = levels.cells, sqdist_of(levels.coarse, levels.coarse)
    np.fill_diagonal(gaps, -1.0)
    near = np.argsort(gaps, axis=1, kind="stable")[:, : two_levels.NEIGHBOURS]
    labels = np.empty(len(X), int)
    for i, own in enumerate(levels.labels):
        among = np.flatnonzero(np.isin(cells, near[cells[own]]))
        labels[i] = among[np.square(X[i] - levels.centers[among]).sum(axis=1).argmin()]
    centers = levels.centers.copy()
    for c in range(len(centers)):
        if w[labels == c].sum() > 0:
            centers[c] = np.average(X[labels == c], axis=0, weights=w[labels == c])
    return labels, centers


@pytest.mark.parametrize("neighbours", [1, 4])
def test_a_pass_of_the_refinement_is_that_of_the_oracle(monkeypatch, neighbours):
    monkeypatch.setattr(two_levels, "NEIGHBOURS", neighbours)
    X, w = rows(3000), np.random.default_rng(0).integers(0, 3, 3000).astype(float)
    source, levels = levels_of(X, w)
    for _ in range(2):
        labels, centers = oracle_of_a_pass(X, w, levels)
        levels = two_levels.refine(source, levels, 1)
        np.testing.assert_array_equal(levels.labels, labels)
        np.testing.assert_allclose(levels.centers, centers, rtol=1e-10, atol=1e-10)


def test_first_labels_are_the_nearest_centres_of_the_cell():
    X = rows(4000)
    for options in ({}, {"rows_per_cluster": 5}):
        _, levels = levels_of(X, None, **options)
        coarse = sqdist_of(X, levels.coarse).argmin(axis=1)
        np.testing.assert_array_equal(levels.cells[levels.labels], coarse)
        sqdist = np.where(levels.cells == coarse[:, None], sqdist_of(X, levels.centers), np.inf)
        np.testing.assert_array_equal(levels.labels, sqdist.argmin(axis=1))


def test_a_sample_is_of_so_many_rows_for_each_cluster(monkeypatch):
    sizes = []
    true = two_levels._run
    monkeypatch.setattr(
        two_levels, "_run", lambda source, k, *rest: sizes.append(source.n_rows / k) or true(source, k, *rest)
    )
    levels_of(rows(4000), None, rows_per_cluster=7)
    assert max(sizes) == sizes[0] == 7


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 30)), min_size=1, max_size=12),
    st.floats(0, 1),
)
@settings(max_examples=300, deadline=None)
def test_shares(cells, where):
    pays, most = (np.array(column) for column in zip(*cells, strict=True))
    total = len(cells) + int(where * (most.sum() - len(cells)))
    found = shares(pays, most, total)
    assert found.sum() == total
    assert np.all((found >= 1) & (found <= most))
    # Who pays more has no less, but for its limit and one of rounding.
    more = pays[:, None] > pays
    assert np.all((found[:, None] >= found - 1) | (found == 1) | (found[:, None] == most[:, None]) | ~more)


def test_shares_are_in_proportion():
    rng = np.random.default_rng(0)
    pays = rng.uniform(1, 2, 50)
    found = shares(pays, np.full(50, 10**6), 10**5)
    assert np.all(np.abs(found - 1e5 * pays / pays.sum()) < 1)


# ---- all rows with all centres ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rotation_gives_the_labels_and_distances_of_all_comparisons(monkeypatch, dtype):
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((5000, 96)) * np.arange(1, 97) ** -1.0).astype(dtype)
    X[100:120] = X[0]
    centers = np.concatenate([X[:70], X[:3]]).astype(float)  # with ties
    labels, sqdist = assign(MemorySource(X), centers)
    monkeypatch.setattr(rotated, "WORK", 0)
    searched = []
    true = rotated.search_by
    monkeypatch.setattr(rotated, "search_by", lambda *args: searched.append(args[3]) or true(*args))
    for guess in (None, labels, rng.integers(0, 73, len(X), dtype=np.int32)):
        monkeypatch.setattr(rotated, "PAYS", 100.0)
        found = assign(MemorySource(X, n_threads=2), centers, guess)
        np.testing.assert_array_equal(found[0], labels)
        np.testing.assert_array_equal(found[1], sqdist)
        monkeypatch.setattr(rotated, "PAYS", 0.0)
        np.testing.assert_array_equal(assign(MemorySource(X), centers, guess)[0], labels)
    assert searched == [True, False, False]


# ---- fits of a sample ----


@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_of_a_sample_is_the_fit_of_its_rows(weighted):
    X = rows(3000)
    w = np.random.default_rng(0).integers(0, 3, 3000).astype(float) if weighted else None
    heavy = np.arange(3000) if w is None else np.flatnonzero(w)
    chosen = heavy[Draws(3, 2**42).distinct(len(heavy), 8 * 20)]
    model = KMeans(20, random_state=3, sample_per_cluster=8).fit(X, sample_weight=w)
    part = KMeans(20, random_state=3).fit(X[chosen], sample_weight=None if w is None else w[chosen])
    np.testing.assert_array_equal(model.cluster_centers_, part.cluster_centers_)
    np.testing.assert_array_equal(model.labels_, sqdist_of(X, model.cluster_centers_).argmin(axis=1))
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    assert model.inertia_ == pytest.approx(-model.score(X, sample_weight=w), rel=1e-12)
    whole = KMeans(20, random_state=3, sample_per_cluster=150).fit(X, sample_weight=w)
    assert whole.inertia_ == KMeans(20, random_state=3).fit(X, sample_weight=w).inertia_


def test_a_sample_of_directions_sparse_rows_and_threads():
    X = rows(4000)
    X[X < 0.5] = 0.0
    X[7] = 0.0
    for options in ({}, {"spherical": True}):
        options = {"n_clusters": 12, "random_state": 0, "sample_per_cluster": 50, **options}
        dense, csr = (KMeans(**options).fit(Y) for Y in (X, sparse.csr_matrix(X)))
        np.testing.assert_allclose(dense.cluster_centers_, csr.cluster_centers_, atol=1e-8)
        np.testing.assert_array_equal(dense.labels_, csr.labels_)
        assert dense.inertia_ == pytest.approx(-dense.score(X), rel=1e-10) == pytest.approx(csr.inertia_)
        one = KMeans(n_threads=1, **options).fit(X)
        np.testing.assert_array_equal(dense.labels_, one.labels_)
        assert one.inertia_ == dense.inertia_
    with pytest.raises(ValueError, match="'sample_per_cluster' parameter of KMeans must be an int in the range"):
        KMeans(3, sample_per_cluster=1.5).fit(X)
