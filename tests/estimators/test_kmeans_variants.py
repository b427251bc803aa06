"""Spherical, mini-batch and bisecting k-means: oracles in NumPy, scikit-learn's rules, CSR, threads, saving."""

import numpy as np
import pytest
import sklearn
import sklearn.cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.datasets import load_digits, load_iris, make_blobs
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastem
from fastem import BisectingKMeans, KMeans, MiniBatchKMeans
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.estimators import minibatch
from fastem.families.base import Limits
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.sources.memory import MemorySource

# scikit-learn's own k-means estimators declare the same two: they draw rows at random.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "rows are drawn at random",
    "check_sample_weight_equivalence_on_sparse_data": "rows are drawn at random",
}
ALL = [KMeans(spherical=True), MiniBatchKMeans(), BisectingKMeans()]

new_scikit_learn = pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9), reason="puts itself into private functions of 1.9"
)


@parametrize_with_checks(ALL, expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(6000, 8, centers=12, cluster_std=2.0, random_state=0)[0]


# ---- spherical ----


def spherical_oracle(X, w, centers, n_iter):
    """Return centres and labels after `n_iter` iterations of spherical k-means, in plain NumPy."""
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    centers = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    for _ in range(n_iter):
        labels = np.argmax(unit @ centers.T, axis=1)
        sums = np.array([(w[:, None] * unit)[labels == k].sum(axis=0) for k in range(len(centers))])
        centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    cosines = unit @ centers.T
    return centers, cosines.argmax(axis=1), 2 * w @ (1 - cosines.max(axis=1))


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("weighted", [False, True])
def test_spherical_is_the_oracle(algorithm, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 10)) * rng.uniform(0.1, 50, (3000, 1))
    w = rng.uniform(0.5, 2, len(X)) if weighted else np.ones(len(X))
    init = X[:9]
    model = KMeans(9, init=init, spherical=True, algorithm=algorithm, max_iter=20, tol=0, certify=True)
    model.fit(X, sample_weight=w if weighted else None)
    centers, labels, inertia = spherical_oracle(X, w, init, model.n_iter_)
    np.testing.assert_allclose(model.cluster_centers_, centers, atol=1e-10)
    np.testing.assert_array_equal(model.labels_, labels)
    assert model.inertia_ == pytest.approx(inertia)
    assert np.all(np.diff(model.inertia_history_) <= 0)
    assert model.score(X, sample_weight=w) == pytest.approx(-inertia)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_spherical_sees_directions_only(blobs, dtype):
    X = blobs[:3000].astype(dtype)
    X[5] = 0
    model = KMeans(6, spherical=True, random_state=0).fit(X)
    scaled = X * 2.0 ** np.random.default_rng(0).integers(-20, 20, (len(X), 1)).astype(dtype)
    again = KMeans(6, spherical=True, random_state=0).fit(scaled)
    np.testing.assert_array_equal(model.cluster_centers_, again.cluster_centers_)
    np.testing.assert_array_equal(model.labels_, model.predict(3 * X))
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    np.testing.assert_array_equal(model.labels_[:4], [model.predict(row[None])[0] for row in X[:4]])
    np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1, rtol=1e-6)
    csr = KMeans(6, spherical=True, random_state=0).fit(sparse.csr_matrix(X))
    np.testing.assert_allclose(csr.cluster_centers_, model.cluster_centers_, atol=1e-5)
    with pytest.raises(ValueError, match="no direction"):
        KMeans(2, spherical=True).fit(np.zeros((5, 2)))


def test_spherical_rows_of_zeros_count_for_nothing(blobs):
    X = np.where(np.arange(3000)[:, None] % 3 == 0, 0.0, blobs[:3000])
    some = KMeans(5, init=blobs[:5], spherical=True, algorithm="lloyd").fit(X)
    none = KMeans(5, init=blobs[:5], spherical=True, algorithm="lloyd").fit(X[X.any(axis=1)])
    np.testing.assert_allclose(some.cluster_centers_, none.cluster_centers_)
    assert some.inertia_ == pytest.approx(none.inertia_)
    assert some.score(X) == pytest.approx(-some.inertia_)
    # rows that cancel out: the centre stays where it was
    model = KMeans(1, init=np.array([[0.6, 0.8]]), spherical=True).fit([[1.0, 2.0], [-1.0, -2.0]])
    np.testing.assert_allclose(model.cluster_centers_, [[0.6, 0.8]])


def test_bounds_notice_that_a_weighted_cluster_became_empty():
    # Updated by differences, the count of an emptied cluster is rounding, not 0.
    rng = np.random.default_rng(650)
    X = rng.normal(size=(181, 23)) + 3 * rng.normal(size=(16, 23))[rng.integers(16, size=181)]
    X = X[rng.integers(36, size=181)]
    w = rng.uniform(0, 2, 181)
    init = X[rng.choice(181, 16, replace=False)] + 1e-3 * rng.normal(size=(16, 23))
    runs = [KMeans(16, init=init, algorithm=name, tol=0).fit(X, sample_weight=w) for name in ("lloyd", "elkan")]
    assert runs[0].inertia_ == pytest.approx(runs[1].inertia_)


# ---- mini-batches ----


def minibatch_oracle(batches, centers):
    """Return centres as running means of the rows that steps assigned to them."""
    counts = np.zeros(len(centers))
    for X, w in batches:
        labels = np.square(X[:, None] - centers).sum(axis=2).argmin(axis=1)
        for k in range(len(centers)):
            mine = labels == k
            total = counts[k] + w[mine].sum()
            if np.any(mine):
                centers[k] = (counts[k] * centers[k] + w[mine] @ X[mine]) / total
            counts[k] = total
    return centers, counts


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_partial_fit_is_the_oracle_and_scikit_learn(blobs, offset):
    X, w = blobs + offset, np.random.default_rng(0).uniform(0.5, 2, len(blobs))
    start = X[:5].copy()
    ours = MiniBatchKMeans(5, init=start, reassignment_ratio=0)
    theirs = sklearn.cluster.MiniBatchKMeans(5, init=start, n_init=1, reassignment_ratio=0)
    batches = [(X[i : i + 500], w[i : i + 500]) for i in range(0, 3000, 500)]
    for rows, weights in batches:
        ours.partial_fit(rows, sample_weight=weights)
        theirs.partial_fit(rows, sample_weight=weights)
    centers, counts = minibatch_oracle(batches, start.copy())
    np.testing.assert_allclose(ours.cluster_centers_, centers)
    np.testing.assert_allclose(ours.counts_, counts)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-9)
    assert (ours.n_steps_, len(ours.labels_)) == (theirs.n_steps_, 500)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_minibatch_comes_close_to_k_means(blobs, dtype):
    X = blobs.astype(dtype)
    full = min(KMeans(12, n_init=10, random_state=0).fit(X).inertia_, sklearn.cluster.KMeans(12).fit(X).inertia_)
    small = [MiniBatchKMeans(12, random_state=seed, n_init=3).fit(X).inertia_ for seed in range(8)]
    assert np.median(small) < 1.05 * full
    model = MiniBatchKMeans(12, random_state=0).fit(X)
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    assert model.cluster_centers_.dtype == dtype
    assert model.inertia_ == pytest.approx(-model.score(X))
    assert model.n_iter_ == -(-model.n_steps_ * 1024 // len(X))


def test_minibatch_draws_in_proportion_to_weights(blobs):
    far = np.vstack([blobs, blobs[:200] + 1000])
    w = np.r_[np.ones(len(blobs)), np.zeros(200)]
    model = MiniBatchKMeans(12, random_state=0, init="random").fit(far, sample_weight=w)
    assert model.cluster_centers_.max() < 100
    heavy = MiniBatchKMeans(1, random_state=0, max_no_improvement=None).fit([[0.0], [1.0]], sample_weight=[1.0, 3.0])
    assert heavy.cluster_centers_[0, 0] == pytest.approx(0.75, abs=0.1)


def test_minibatch_same_bits_for_threads_and_csr(blobs):
    X = np.where(blobs > 4, blobs, 0)
    one, two, csr = (
        MiniBatchKMeans(7, random_state=0, batch_size=5000, n_threads=n).fit(Y)
        for n, Y in ((1, X), (2, X), (2, sparse.csr_matrix(X)))
    )
    for other in (two, csr):
        np.testing.assert_array_equal(one.cluster_centers_, other.cluster_centers_)
        np.testing.assert_array_equal(one.labels_, other.labels_)


def test_minibatch_moves_light_centres(capsys):
    X = np.r_[np.zeros((500, 2)), np.ones((500, 2))] + np.random.default_rng(0).normal(0, 0.01, (1000, 2))
    model = MiniBatchKMeans(2, init=np.array([[0.5, 0.5], [1e3, 1e3]]), random_state=0, verbose=1).fit(X)
    assert model.inertia_ < 1
    assert "of little weight" in capsys.readouterr().out
    assert model.counts_.sum() > 1000 * model.n_steps_, "a moved centre counts as much as the lightest that stays"
    still = MiniBatchKMeans(2, init=np.array([[0.5, 0.5], [1e3, 1e3]]), reassignment_ratio=0).fit(X)
    assert still.cluster_centers_.max() == 1e3


def test_minibatch_stops_and_options(blobs):
    never = MiniBatchKMeans(5, random_state=0, max_no_improvement=None, max_iter=3, compute_labels=False).fit(blobs)
    assert never.n_steps_ == 3 * len(blobs) // 1024
    assert not hasattr(never, "labels_")
    assert never.inertia_ == pytest.approx(-never.score(blobs), rel=0.1)
    assert MiniBatchKMeans(5, random_state=0, tol=0.1).fit(blobs).n_steps_ < 10
    with pytest.warns(RuntimeWarning, match="init_size=3 should be larger than n_clusters=5"):
        MiniBatchKMeans(5, init_size=3).fit(blobs)
    for name, bad in {"batch_size": 0, "init_size": 0, "max_no_improvement": -1, "reassignment_ratio": -0.1}.items():
        with pytest.raises(ValueError, match=name):
            MiniBatchKMeans(5, **{name: bad}).fit(blobs)


class Recorder(np.random.RandomState):
    """Random numbers that remember which rows were chosen."""

    def __init__(self, seed):
        super().__init__(seed)
        self.chosen = []

    def choice(self, *args, **kwargs):
        self.chosen.append(super().choice(*args, **kwargs))
        return self.chosen[-1]


# With 200 clusters light centres sometimes come to lie where others are, and rounding decides which gets a row.
@new_scikit_learn
@pytest.mark.parametrize(
    ("n_clusters", "options"), [(3, {}), (12, {}), (100, {}), (12, {"batch_size": 100, "reassignment_ratio": 0.2})]
)
def test_minibatch_stops_at_scikit_learns_step_on_the_same_batches(blobs, monkeypatch, n_clusters, options):
    steps = []
    for seed in range(6):
        init, record = blobs[np.random.default_rng(seed).permutation(len(blobs))[:n_clusters]], Recorder(seed)
        theirs = sklearn.cluster.MiniBatchKMeans(n_clusters, init=init, n_init=1, random_state=record, **options)
        theirs.fit(blobs)
        chosen = iter(record.chosen)  # the rows of each batch, and those that light centres were moved to
        monkeypatch.setattr(minibatch._Batches, "next", lambda self, size: MemorySource(blobs[next(chosen)]))  # noqa: B023
        monkeypatch.setattr(MemorySource, "sample_numbers", lambda self, m, draws: next(chosen))  # noqa: B023
        ours = MiniBatchKMeans(n_clusters, init=init, **options).fit(blobs)
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-9)
        assert ours.n_steps_ == theirs.n_steps_
        assert next(chosen, None) is None
        steps.append(ours.n_steps_)
    assert len(set(steps)) > 2, "stopping early depends on the draws"


def test_minibatch_takes_about_as_many_steps_as_scikit_learn(blobs):
    # Between seeds their number varies by a factor of three, so that geometric means over many are compared.
    def steps(estimator):
        fits = [estimator(12, random_state=seed, compute_labels=False).fit(blobs) for seed in range(30)]
        return np.exp(np.mean(np.log([model.n_steps_ for model in fits])))

    assert 0.75 < steps(MiniBatchKMeans) / steps(sklearn.cluster.MiniBatchKMeans) < 1.33


# ---- bisecting ----


@new_scikit_learn
@pytest.mark.parametrize("strategy", ["biggest_inertia", "largest_cluster"])
@pytest.mark.parametrize("weighted", [False, True])
def test_bisecting_is_scikit_learns_from_the_same_starts(blobs, strategy, weighted):
    def first_and_farthest(X, n_clusters, random_state):
        return X[[0, int(np.argmax(np.square(X - X[0]).sum(axis=1)))]]

    w = np.random.default_rng(0).uniform(0.5, 2, len(blobs)) if weighted else None
    options = {"init": first_and_farthest, "bisecting_strategy": strategy, "n_init": 1, "tol": 0}
    ours = BisectingKMeans(9, **options).fit(blobs, sample_weight=w)
    theirs = sklearn.cluster.BisectingKMeans(9, **options).fit(blobs, sample_weight=w)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-8)
    assert ours.inertia_ == pytest.approx(theirs.inertia_)
    probe = blobs[::-1] + 0.5
    np.testing.assert_array_equal(ours.predict(probe), theirs.predict(probe))


@pytest.mark.parametrize("options", [{}, {"algorithm": "elkan", "init": "k-means++", "n_init": 3}])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bisecting_labels_always_equal_predict(options, dtype):
    X = np.vstack([load_digits().data] * 2).astype(dtype) + dtype(1e4)
    model = BisectingKMeans(10, random_state=0, **options).fit(X)
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    np.testing.assert_array_equal(model.labels_[:5], [model.predict(row[None])[0] for row in X[:5]])
    own = np.square(X.astype(np.float64) - model.cluster_centers_[model.labels_]).sum()
    assert model.inertia_ == pytest.approx(own, rel=1e-4)
    two = BisectingKMeans(10, random_state=0, n_threads=1, **options).fit(X)
    np.testing.assert_array_equal(model.cluster_centers_, two.cluster_centers_)
    csr = BisectingKMeans(10, random_state=0, **{**options, "algorithm": "lloyd"}).fit(sparse.csr_matrix(X))
    np.testing.assert_array_equal(csr.labels_, csr.predict(X))
    assert csr.inertia_ == pytest.approx(model.inertia_, rel=0.05)


def test_bisecting_edges():
    one = BisectingKMeans(1).fit([[1.0], [3.0]], sample_weight=[1.0, 3.0])
    assert (one.cluster_centers_.item(), one.inertia_) == (2.5, 3.0)
    assert sorted(BisectingKMeans(6, random_state=0).fit_predict(np.arange(6.0)[:, None])) == list(range(6))
    with pytest.warns(UserWarning, match=r"distinct clusters \(2\)"):
        BisectingKMeans(4, random_state=0).fit(np.repeat([[0.0], [1.0]], 5, axis=0))
    weightless = BisectingKMeans(4, random_state=0).fit(np.arange(6.0)[:, None], sample_weight=[1, 0, 0, 0, 0, 0])
    assert np.all(np.isfinite(weightless.cluster_centers_))
    assert weightless.inertia_ == 0
    for name, bad in {"init": np.zeros((2, 1)), "bisecting_strategy": "best", "n_init": 0, "algorithm": "full"}.items():
        with pytest.raises(ValueError, match=name):
            BisectingKMeans(2, **{name: bad}).fit(np.arange(6.0)[:, None])


# ---- all ----


@pytest.mark.parametrize("model", ALL, ids=lambda model: type(model).__name__)
def test_models_are_saved_and_loaded(model, tmp_path):
    X = load_iris().data
    model = model.set_params(n_clusters=4, random_state=0).fit(X)
    fastem.save(model, tmp_path / "model.npz")
    loaded = fastem.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.get_params() == model.get_params()


def test_a_damaged_tree_is_refused(tmp_path):
    model = BisectingKMeans(4, random_state=0).fit(load_iris().data)
    model.tree_children_[1] = [0, 1]  # a loop
    fastem.save(model, tmp_path / "model.npz")
    with pytest.raises(ValueError, match="tree_children_"):
        fastem.load(tmp_path / "model.npz")


# ---- swaps after convergence ----


@pytest.mark.parametrize("spherical", [False, True])
def test_swaps_lower_the_distortion(blobs, spherical):
    for seed in range(3):
        options = {"init": "random", "n_init": 1, "random_state": seed, "spherical": spherical}
        plain = KMeans(12, **options).fit(blobs)
        model = KMeans(12, n_swaps=20, certify=True, **options).fit(blobs)
        assert model.inertia_ < 0.95 * plain.inertia_
        np.testing.assert_array_equal(model.labels_, model.predict(blobs))
        assert model.inertia_ == pytest.approx(-model.score(blobs))
        np.testing.assert_array_equal(model.inertia_history_, plain.inertia_history_)
    one = KMeans(12, n_swaps=20, n_threads=1, **options).fit(blobs)
    np.testing.assert_array_equal(one.cluster_centers_, model.cluster_centers_)


def test_swaps_know_the_cost_of_a_swap(blobs):
    from fastem.draws import Draws
    from fastem.sources.memory import MemorySource
    from fastem.starts import swaps

    X, w = blobs[:500], np.random.default_rng(0).uniform(0, 2, 500)
    centers = X[:6]
    source = MemorySource(X, w)
    known = swaps.two_nearest(source, centers)
    sqdist = np.square(X[:, None] - centers).sum(axis=2)
    np.testing.assert_allclose(known.first, np.sort(sqdist, axis=1)[:, 0], atol=1e-9)
    np.testing.assert_allclose(known.second, np.sort(sqdist, axis=1)[:, 1])

    def cost(c):
        return w @ np.square(X[:, None] - c).sum(axis=2).min(axis=1)

    draws = Draws(0)
    swapped = swaps._swap(source, centers, known, draws)
    out = np.flatnonzero((swapped != centers).any(axis=1))
    assert len(out) == 1
    others = [np.r_[np.delete(centers, k, axis=0), swapped[out]] for k in range(6)]
    assert cost(swapped) == pytest.approx(min(cost(c) for c in others))
    rows = np.unique(Draws(0).weighted(w * known.first, swaps.CANDIDATES))
    every = [np.r_[np.delete(centers, k, axis=0), X[[row]]] for k in range(6) for row in rows]
    assert cost(swapped) == pytest.approx(min(cost(c) for c in every))


def test_swaps_that_do_not_help_are_undone():
    X, _, centers = make_blobs(2000, 4, centers=6, cluster_std=0.3, random_state=0, return_centers=True)
    best = KMeans(6, init=centers).fit(X)
    model = KMeans(6, init=centers, n_swaps=5, random_state=0).fit(X)
    np.testing.assert_array_equal(model.cluster_centers_, best.cluster_centers_)
    assert model.notes_ == ["after convergence: kept 0 of 5 swaps"]


def test_swaps_of_csr_duplicates_and_one_cluster(blobs):
    X = np.where(blobs > 4, blobs, 0)
    options = {"n_swaps": 5, "random_state": 0, "algorithm": "lloyd"}
    dense, csr = (KMeans(5, **options).fit(Y) for Y in (X, sparse.csr_matrix(X)))
    np.testing.assert_array_equal(dense.labels_, csr.labels_)
    assert KMeans(1, n_swaps=3).fit(X).notes_ == ["after convergence: kept 0 of 3 swaps"]
    assert KMeans(3, n_swaps=3, random_state=0).fit([[0.0], [0.0], [1.0], [2.0]]).inertia_ == 0


# ---- small problems ----


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(20, 2048), d=st.integers(1, 30), k=st.integers(1, 20), seed=st.integers(0, 10**6),
    weighted=st.booleans(), single=st.booleans(), max_iter=st.sampled_from([1, 3, 300]),
)  # fmt: skip
def test_a_compiled_run_is_the_engines_to_the_bit(n, d, k, seed, weighted, single, max_iter):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, d)) + 3 * rng.normal(size=(k, d))[rng.integers(k, size=n)] + 10).astype(
        "f4" if single else "f8"
    )
    source = MemorySource(X, rng.uniform(0, 2, n).astype(X.dtype) if weighted else None)
    family, watched = KMeansFamily(k), Settings(max_iter=max_iter, tol=1e-4, keep_history=True)
    start = KMeansParams(X[rng.choice(n, k, replace=False)].astype(np.float64))
    engine = em.run_once(Problem(source, family), start, watched)
    small = family.run_small(source.X, source.sample_weight, None, start, Limits(max_iter, 1e-4, 1e-14))
    if small is None:
        assert engine.notes or np.any(np.diff(engine.objectives) < 0), "nothing was left for the engine"
        return
    assert (small.n_iter, small.converged, small.objective) == (engine.n_iter, engine.converged, engine.objective)
    for ours, theirs in zip((small.params.centers, small.objectives, small.memo.labels),
                            (engine.params.centers, engine.objectives, engine.memo.labels), strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (40, 3, 40), (150, 4, 3), (2048, 7, 33), (700, 40, 5)])
def test_seeds_of_one_call_are_those_of_the_passes(n, d, k, dtype, weighted):
    """Few rows are seeded without Python between the passes: the same rows, in the same order."""
    from fastem.draws import Draws
    from fastem.sources.memory import MemorySource
    from fastem.starts import kmeans_plus_plus

    rng = np.random.default_rng(n + d)
    X = (rng.standard_normal((n, d)) + 50).astype(dtype)
    w = rng.integers(1, 5, n).astype(dtype) if weighted else None
    source = MemorySource(X, w)
    for seed in range(5):
        draws, again = Draws(seed), Draws(seed)
        trials = 2 + int(np.log(k))
        in_passes = kmeans_plus_plus._in_passes(source, k, draws, trials)
        in_one_call = kmeans_plus_plus._in_one_call(source, k, again, trials)
        np.testing.assert_array_equal(in_one_call, in_passes)
    assert len(np.unique(in_one_call, axis=0)) == k


def test_seeds_of_fewer_distinct_rows_than_clusters():
    X = np.repeat(np.arange(3.0), 5)[:, None]
    centers = KMeans(6, random_state=0, n_init=1, max_iter=1).fit(X).cluster_centers_
    assert set(np.unique(centers)) == {0.0, 1.0, 2.0}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_oversampling_finds_separated_clusters_and_respects_weights(dtype):
    rng = np.random.default_rng(0)
    true = rng.uniform(-100, 100, (30, 5))
    X = (true[rng.integers(0, 30, 9000)] + rng.standard_normal((9000, 5))).astype(dtype)
    outlier = np.full((1, 5), 1e4, dtype)
    X = np.concatenate([X, outlier])
    w = np.append(np.ones(9000), 0.0)
    fits = [KMeans(30, init="k-means||", random_state=1, n_threads=n).fit(X, sample_weight=w) for n in (1, 2)]
    np.testing.assert_array_equal(fits[0].cluster_centers_, fits[1].cluster_centers_)
    assert np.abs(fits[0].cluster_centers_).max() < 200  # never the row of weight 0
    best = KMeans(30, init=true, n_init=1).fit(X[:-1]).inertia_
    assert fits[0].inertia_ < 1.5 * best
    start = KMeans(30, init="k-means||", random_state=1, max_iter=1).fit(X[:-1]).cluster_centers_
    assert len(np.unique(start, axis=0)) == 30


def test_oversampling_of_few_distinct_rows():
    X = np.repeat(np.arange(4.0), 50)[:, None]
    assert KMeans(4, init="k-means||", random_state=0).fit(X).inertia_ == 0
    with pytest.warns(UserWarning, match="distinct clusters"):
        assert KMeans(6, init="k-means||", random_state=0).fit(X).inertia_ == 0
