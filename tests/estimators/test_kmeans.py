"""KMeans: agreement with scikit-learn from the same start, rules for empty clusters and duplicates, input rules."""

import numpy as np
import pytest
import sklearn.cluster
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.datasets import load_digits, load_iris, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastem import KMeans, MonotonicityError

# scikit-learn's own KMeans declares the same two: they shuffle rows under a random start.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "rows are shuffled under a random start",
    "check_sample_weight_equivalence_on_sparse_data": "rows are shuffled under a random start",
}


@parametrize_with_checks([KMeans()], expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def starts():
    digits, iris = load_digits().data, load_iris().data
    blobs, _ = make_blobs(5000, 8, centers=12, cluster_std=3.0, random_state=0)
    return {"iris": (iris, 3), "digits": (digits, 10), "blobs": (blobs, 12), "one cluster": (iris, 1)}


@pytest.mark.parametrize("name", list(starts()))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_scikit_learn_from_the_same_start(name, dtype, weighted):
    X, k = starts()[name]
    X = X.astype(dtype)
    w = np.random.default_rng(0).uniform(0.5, 2, len(X)) if weighted else None
    init = X[np.random.default_rng(1).choice(len(X), k, replace=False)]
    ours = KMeans(k, init=init, tol=0).fit(X, sample_weight=w)
    theirs = sklearn.cluster.KMeans(k, init=init, n_init=1, tol=0).fit(X, sample_weight=w)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    tolerance = 1e-6 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=tolerance, atol=tolerance)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-5)
    if dtype == np.float64:
        assert ours.n_iter_ == theirs.n_iter_
    probe = X + 0.25
    np.testing.assert_array_equal(ours.predict(probe), theirs.predict(probe))
    np.testing.assert_allclose(ours.transform(probe), theirs.transform(probe), rtol=1e-3, atol=1e-3)
    assert ours.score(probe, sample_weight=w) == pytest.approx(theirs.score(probe, sample_weight=w), rel=1e-4)


@given(
    n=st.integers(20, 5000), d=st.integers(1, 40), k=st.integers(1, 20), seed=st.integers(0, 10**6),
    weighted=st.booleans(), duplicates=st.booleans(), offset=st.sampled_from([0.0, 100.0]), single=st.booleans(),
)  # fmt: skip
@example(n=3131, d=7, k=13, seed=292, weighted=False, duplicates=False, offset=100.0, single=True)
@settings(max_examples=60, deadline=None)
def test_bounds_give_lloyds_labels_and_centres_at_every_iteration(n, d, k, seed, weighted, duplicates, offset, single):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + 3 * rng.normal(size=(k, d))[rng.integers(k, size=n)] + offset
    if duplicates:
        X = X[rng.integers(max(2, n // 5), size=n)]
    X = X.astype(np.float32 if single else np.float64)
    w = rng.uniform(0, 2, n) if weighted else None
    init = X[rng.choice(n, k, replace=False)] + 1e-3 * rng.normal(size=(k, d)).astype(X.dtype)
    lloyd, bounded = (
        KMeans(k, init=init, algorithm=algorithm, max_iter=40, tol=0, keep_history=True).fit(X, sample_weight=w)
        for algorithm in ("lloyd", "elkan")
    )
    eps = np.finfo(X.dtype).eps
    scale = np.abs(X - X.mean(axis=0)).max() + offset
    steps = zip(lloyd.history_, bounded.history_, strict=False)
    apart = np.array([np.abs(a.centers - b.centers).max() for a, b in steps])
    if apart.max() > 2000 * eps * scale:
        first = int(np.argmax(apart > 20 * eps * scale))  # by one row of many, as a rule: it goes on from there
        gap = np.sort(np.square(X[:, None] - lloyd.history_[first - 1].centers).sum(axis=2), axis=1)
        assert np.min(gap[:, 1] - gap[:, 0]) < 64 * eps * gap.max(), "they differ, and no row was tied"
        return
    np.testing.assert_array_equal(bounded.labels_, bounded.predict(X))
    assert bounded.inertia_ == pytest.approx(lloyd.inertia_, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("tol", [1e-4, 1e-2])
def test_stops_at_the_same_iteration_as_scikit_learn(tol):
    X, k = starts()["blobs"]
    init = X[:k]
    ours = KMeans(k, init=init, tol=tol).fit(X)
    theirs = sklearn.cluster.KMeans(k, init=init, n_init=1, tol=tol).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    assert ours.inertia_ == pytest.approx(theirs.inertia_)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_csr_gives_the_dense_result(dtype):
    X = np.where(load_digits().data > 6, load_digits().data, 0).astype(dtype)
    X = np.vstack([X, X[::-1]])  # more than one grid cell
    w = np.random.default_rng(0).uniform(0.1, 2, len(X))
    for weights in (None, w):
        dense = KMeans(10, random_state=0, algorithm="lloyd").fit(X, sample_weight=weights)
        csr = KMeans(10, random_state=0).fit(sparse.csr_matrix(X), sample_weight=weights)
        np.testing.assert_array_equal(dense.labels_, csr.labels_)
        np.testing.assert_array_equal(dense.cluster_centers_, csr.cluster_centers_)
        assert dense.inertia_ == csr.inertia_
        np.testing.assert_array_equal(dense.predict(X), csr.predict(sparse.csr_matrix(X)))
        np.testing.assert_allclose(dense.transform(X), csr.transform(sparse.csr_array(X)))


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("offset", [0, 1e6])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_labels_always_equal_predict(init, offset, dtype):
    X = (make_blobs(3000, 3, centers=7, random_state=1)[0] + offset).astype(dtype)
    for max_iter in (1, 3, 300):
        model = KMeans(7, init=init, n_init=2, max_iter=max_iter, random_state=0).fit(X)
        np.testing.assert_array_equal(model.labels_, model.predict(X))
        assert model.inertia_ == pytest.approx(-model.score(X), rel=1e-5)


def test_distortion_never_rises_and_the_best_restart_is_kept():
    X, k = starts()["blobs"]
    model = KMeans(k, init="random", n_init=12, random_state=3, certify=True).fit(X)
    assert np.all(np.diff(model.inertia_history_) <= 0)
    assert len(model.restarts_) == 12
    assert model.restarts_.max() == -model.inertia_
    assert len(np.unique(model.restarts_)) > 1, "the data was meant to have local optima"


def test_an_empty_cluster_is_moved_to_the_farthest_row():
    X = np.array([[0.0], [1.0], [2.0], [100.0], [101.0], [300.0]])
    init = np.array([[1.0], [100.0], [-1000.0]])
    ours = KMeans(3, init=init, keep_history=True).fit(X)
    theirs = sklearn.cluster.KMeans(3, init=init, n_init=1).fit(X)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_)
    assert "empty" in ours.notes_[0]
    assert len(ours.history_) == ours.n_iter_ + 1


def test_a_row_of_weight_0_is_no_place_for_an_empty_cluster():
    X = np.array([[0.0], [1.0], [2.0], [500.0], [30.0]])
    model = KMeans(2, init=np.array([[1.0], [-1000.0]])).fit(X, sample_weight=[1, 1, 1, 0, 1])
    assert model.cluster_centers_.max() == pytest.approx(30)


def test_duplicates_give_fewer_clusters_and_a_warning():
    X = np.repeat([[1.0, 2.0], [3.0, 4.0]], 10, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\) found smaller than n_clusters \(3\)"):
        model = KMeans(3, random_state=0).fit(X)
    assert model.inertia_ == pytest.approx(0, abs=1e-24)
    assert np.all(np.isfinite(model.cluster_centers_))
    assert model.n_iter_ < 5, "nothing can be moved, so nothing is left to do"


def test_as_many_clusters_as_rows():
    X = np.arange(12.0).reshape(6, 2)
    model = KMeans(6, random_state=0).fit(X)
    assert model.inertia_ == 0
    assert sorted(model.labels_) == list(range(6))


def test_callable_init_and_generator_seed():
    X, k = starts()["iris"]
    model = KMeans(k, init=lambda X, k, random_state: X[random_state.permutation(len(X))[:k]], random_state=0).fit(X)
    assert len(model.restarts_) == 10
    assert KMeans(k, random_state=np.random.default_rng(0)).fit(X).inertia_ == pytest.approx(78.85, abs=0.1)


def test_same_result_for_any_number_of_threads():
    X, k = starts()["blobs"]
    one, two = (KMeans(k, n_init=3, random_state=0, n_threads=n).fit(X) for n in (1, 2))
    np.testing.assert_array_equal(one.cluster_centers_, two.cluster_centers_)
    np.testing.assert_array_equal(one.labels_, two.labels_)
    assert one.inertia_ == two.inertia_


def test_X_is_never_written_to():
    X = load_iris().data.copy()
    X.flags.writeable = False
    KMeans(3, copy_x=False, random_state=0).fit(X).predict(X)


def test_callback_is_told_and_can_stop():
    told = []

    def callback(info):
        told.append(info)
        return info.iteration == 3

    model = KMeans(12, init="random", n_init=1, random_state=0, callback=callback, tol=0).fit(starts()["blobs"][0])
    assert [info.iteration for info in told] == [1, 2, 3]
    assert model.n_iter_ == 3
    assert told[-1].params.centers.shape == (12, 8)


def test_certify_fails_loudly_where_the_objective_falls(monkeypatch):
    from fastem.families.kmeans import KMeansFamily

    monkeypatch.setattr(KMeansFamily, "m_step", lambda self, s, c, p, params: _broken(params))
    with pytest.raises(MonotonicityError, match=r"fell by .* at iteration 2 of restart 0"):
        KMeans(3, init=load_iris().data[:3], certify=True).fit(load_iris().data)


def _broken(params):
    from fastem.families.base import MStep

    return MStep(params._replace(centers=params.centers + 100.0))


def test_verbose_prints_each_iteration(capsys):
    KMeans(3, random_state=0, verbose=1).fit(load_iris().data)
    assert "restart 0, iteration 1: objective -" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": 0}, r"'n_clusters' parameter of KMeans must be an int in the range \[1, inf\). Got 0 instead"),
        ({"n_clusters": 2.5}, "'n_clusters'"),
        ({"n_clusters": 200}, r"n_samples=150 should be >= n_clusters=200"),
        ({"init": "best"}, "'init'"),
        ({"init": np.zeros((3, 4))}, r"initial centers \(3, 4\) does not match the number of clusters 2"),
        ({"init": np.zeros((2, 3))}, r"\(2, 3\) does not match the number of features of the data 4"),
        ({"init": np.full((2, 4), np.nan)}, r"NaN \(first at row 0, column 0\)"),
        ({"n_init": 0}, "'n_init'"),
        ({"max_iter": 0}, "'max_iter'"),
        ({"tol": -1.0}, "'tol'"),
        ({"algorithm": "full"}, "'algorithm'"),
        ({"n_threads": 0}, "n_threads"),
        ({"callback": 3}, "'callback'"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(parameters, message):
    with pytest.raises(ValueError, match=message):
        KMeans(**{"n_clusters": 2, **parameters}).fit(load_iris().data)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"sample_weight.shape == \(3,\), expected \(150,\)!"),
        (np.ones((150, 2)), "1D array or scalar"),
        (np.where(np.arange(150) == 7, -2.0, 1), "Negative values in data passed to `sample_weight`: -2.0 at row 7"),
        (np.where(np.arange(150) == 7, np.nan, 1), "NaN"),
        (np.zeros(150), "at least one non-zero"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        KMeans(2).fit(load_iris().data, sample_weight=weights)


def test_explicit_centres_with_restarts_warn_and_unfitted_models_refuse():
    X = load_iris().data
    with pytest.warns(RuntimeWarning, match="performing only one init"):
        KMeans(2, init=X[:2], n_init=5).fit(X)
    with pytest.raises(NotFittedError):
        KMeans(2).predict(X)
    with pytest.raises(ValueError, match="3 features"):
        KMeans(2).fit(X).predict(X[:, :3])
