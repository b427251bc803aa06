"""Runs in one compiled call, of one small problem or of many: the engine's own, to the bit."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fastem
from fastem._native import mixtures
from fastem.engine import many
from fastem.engine.monitor import Settings
from fastem.families.base import Groups
from fastem.families.gaussian.family import GaussianFamily
from fastem.families.kmeans import KMeansParams
from fastem.grid import CELL
from fastem.starts import groups as starts
from fastem.starts.mixture import MixtureStart

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = ("full", "tied", "diag", "spherical")
TRACED = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bound_", "lower_bounds_", "restarts_")


def clustered(seed, n, d, k, dtype="float64"):
    """Rows about k centres, of unlike spread, far from the origin or not."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(k, d)) * rng.choice([0.5, 3, 10])
    spread = rng.uniform(0.2, 2, d)
    X = centers[rng.integers(0, k, n)] + rng.normal(size=(n, d)) * spread + rng.choice([0, 1000])
    return X.astype(dtype), rng.uniform(0, 2, n)


def runs_in_one_call(monkeypatch):
    """Count the runs that compiled code made from seeds to end, and those that it left."""
    counts = {"made": 0, "left": 0}
    original = GaussianFamily.run_groups

    def spy(self, *args, **options):
        params, runs = original(self, *args, **options)
        counts["made"] += int((runs.n_iter > 0).sum())
        counts["left"] += int((runs.n_iter == 0).sum())
        return params, runs

    monkeypatch.setattr(GaussianFamily, "run_groups", spy)
    return counts


@settings(max_examples=60, deadline=None)
@example(1, 1, 17, 5, "tied", "float64", False, "kmeans", 1e-3, 1)  # falls by rounding: of data far from zero,
@example(38, 32, 17, 1, "tied", "float64", False, "kmeans", 1e-3, 1)  # of an ill-conditioned covariance
@given(
    seed=st.integers(0, 2**32),
    d=st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 31, 32, 33]),
    k=st.sampled_from([1, 2, 3, 5, 8, 9, 17]),
    more=st.integers(1, 900),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float64", "float32"]),
    weighted=st.booleans(),
    init=st.sampled_from(["kmeans", "k-means++", "random"]),
    tol=st.sampled_from([1e-3, 1e-7]),
    n_init=st.sampled_from([1, 2]),
)
def test_whoever_watches_a_fit_sees_the_fit_that_nobody_watches(
    seed, d, k, more, kind, dtype, weighted, init, tol, n_init
):
    X, w = clustered(seed, k + more, d, k, dtype)
    options = {"covariance_type": kind, "random_state": 0, "tol": tol, "n_init": n_init, "init_params": init}
    alone = fastem.GaussianMixture(k, **options).fit(X, sample_weight=w if weighted else None)
    watched = fastem.GaussianMixture(k, callback=lambda info: None, **options)
    watched.fit(X, sample_weight=w if weighted else None)
    for name in TRACED:
        np.testing.assert_array_equal(getattr(alone, name), getattr(watched, name), name)
    assert (alone.n_iter_, alone.converged_, alone.notes_) == (watched.n_iter_, watched.converged_, watched.notes_)


def test_most_small_fits_are_made_in_one_call(monkeypatch):
    counts = runs_in_one_call(monkeypatch)
    for seed in range(40):
        X, _ = clustered(seed, 200, 4, 3)
        fastem.GaussianMixture(3, covariance_type=KINDS[seed % 4], random_state=0).fit(X)
    assert counts["made"] >= 38


@pytest.mark.parametrize("option", [{"certify": True}, {"keep_history": True}, {"callback": lambda info: None}])
def test_who_asks_for_iterations_gets_the_engine(monkeypatch, option):
    counts = runs_in_one_call(monkeypatch)
    fastem.GaussianMixture(2, random_state=0, **option).fit(clustered(0, 100, 3, 2)[0])
    assert counts["made"] == 0


def test_rows_beyond_a_cell_and_many_features_are_the_engines(monkeypatch):
    counts = runs_in_one_call(monkeypatch)
    fastem.GaussianMixture(2, random_state=0).fit(clustered(0, CELL + 1, 3, 2)[0])
    fastem.GaussianMixture(2, random_state=0).fit(clustered(0, 300, mixtures.MOST_FEATURES + 1, 2)[0])
    assert counts["made"] == 0


def test_a_fall_that_the_floor_explains_is_no_reason_to_leave(monkeypatch):
    # Well separated: the second iteration changes nothing but what is added to the variances takes.
    counts = runs_in_one_call(monkeypatch)
    rng = np.random.default_rng(0)
    for seed in range(60):
        X = np.concatenate([rng.normal(size=(70, 4)) + 20 * c for c in range(3)])
        fastem.GaussianMixture(3, covariance_type=KINDS[seed % 4], random_state=seed, certify=False).fit(X)
    assert counts["left"] == 0


def many_problems(seed, sizes, d, k, dtype="float64"):
    parts = [clustered(seed + g, n, d, k, dtype) for g, n in enumerate(sizes)]
    X, w = (np.concatenate(column) for column in zip(*parts, strict=True))
    return X, w.astype(dtype), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def mixtures_of(family, groups, limits=Settings(), n_init=1, seed=0):  # noqa: B008
    start = MixtureStart("kmeans")

    def begin(groups, draws, slack):
        return start.labels_of(family, groups, draws, slack)

    return many.fit(family, groups, begin, limits, n_init, seed)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_of_many_mixtures_is_the_fit_of_its_rows(kind, weighted, dtype):
    X, w, offsets = many_problems(3, np.random.default_rng(1).integers(20, 300, 25), 3, 3, dtype)
    w = w if weighted else w[:0]
    groups, family, limits = Groups(X, w, offsets), GaussianFamily(3, kind), Settings(max_iter=50)
    found = mixtures_of(family, groups, limits, 2, 7)
    assert (found.n_iter > 0).sum() >= 20
    for g in np.flatnonzero(found.n_iter):
        rows = slice(offsets[g], offsets[g + 1])
        model = fastem.GaussianMixture(3, covariance_type=kind, max_iter=50, n_init=2, random_state=7)
        model.fit(X[rows], sample_weight=w[rows] if weighted else None)
        exact = model._fitted()[1]
        for name in exact._fields:
            np.testing.assert_array_equal(getattr(exact, name), getattr(found.params, name)[g], name)
        assert (model.n_iter_, model.converged_) == (found.n_iter[g], found.converged[g])
        assert model.lower_bound_ == found.objective[g]
        np.testing.assert_array_equal(model.predict(X[rows]), found.labels[rows])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_of_many_clusterings_is_the_fit_of_its_rows(weighted, dtype):
    X, w, offsets = many_problems(5, np.random.default_rng(2).integers(10, 400, 40), 3, 4, dtype)
    w = w if weighted else w[:0]
    groups = Groups(X, w, offsets)

    def clustering(groups, draws, limits):
        found, runs = starts.clusters(groups, 4, draws, limits)
        return KMeansParams(found.centers), found.labels, runs

    found = many.cluster(groups, clustering, Settings(max_iter=300, tol=1e-4), 3, 7)
    assert (found.n_iter > 0).sum() >= 30
    for g in np.flatnonzero(found.n_iter):
        rows = slice(offsets[g], offsets[g + 1])
        model = fastem.KMeans(4, n_init=3, random_state=7).fit(X[rows], sample_weight=w[rows] if weighted else None)
        np.testing.assert_array_equal(model.cluster_centers_, found.params.centers[g].astype(dtype))
        np.testing.assert_array_equal(model.labels_, found.labels[rows])
        assert (model.inertia_, model.n_iter_) == (-found.objective[g], found.n_iter[g])


def test_odd_groups_are_left():
    rng = np.random.default_rng(0)
    odd = [
        np.empty((0, 2)), rng.normal(size=(2, 2)), np.full((30, 2), np.nan), np.ones((30, 2)), np.full((30, 2), 1e200),
        np.repeat(rng.normal(size=(2, 2)), 10, axis=0), rng.normal(size=(CELL + 1, 2)),
    ]  # fmt: skip
    good = clustered(0, 60, 2, 3)[0]
    parts = [good, *odd, good]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    groups = Groups(np.concatenate(parts), np.empty(0), offsets)
    found = mixtures_of(GaussianFamily(3), groups)
    assert np.flatnonzero(found.n_iter).tolist() == [0, len(parts) - 1]
    clusters = starts.clusters(groups, 3, fastem.draws.Draws(0), (10, 1e-4, 1e-13))[1]
    assert np.flatnonzero(clusters.n_iter).tolist() == [0, len(parts) - 1]


def test_a_group_without_weight_is_left():
    X = np.random.default_rng(0).normal(size=(60, 2))
    w = np.where(np.arange(60) < 30, 0.0, 1.0)
    groups = Groups(X, w, np.array([0, 30, 60]))
    found = mixtures_of(GaussianFamily(2), groups)
    assert (found.n_iter > 0).tolist() == [False, True]


@pytest.mark.parametrize("d", [1, 2, 5, 16, 32])
def test_factors_of_few_features_are_as_exact_as_lapack(d):
    from scipy.linalg import lapack

    rng = np.random.default_rng(d)
    for spread in (1.0, 1e3):
        A = rng.normal(size=(20, d, d)) * np.geomspace(1, spread, d)
        covariances = A @ A.transpose(0, 2, 1) / d + 1e-9 * np.eye(d)
        factors = np.empty_like(covariances)
        assert mixtures.precision_factors(covariances, factors)
        ours, theirs = [], []
        for covariance, factor in zip(covariances, factors, strict=True):
            lower = lapack.dtrtri(lapack.dpotrf(covariance, lower=1, clean=1)[0], lower=1)[0]
            exact = covariance.astype(np.longdouble)
            for residuals, P in ((ours, factor), (theirs, lower.T)):
                identity = np.asarray(P.T.astype(np.longdouble) @ exact @ P, float)
                residuals.append(np.abs(identity - np.eye(d)).max())
        assert np.median(ours) <= 3 * np.median(theirs) + 1e-15
        assert max(ours) <= 10 * max(theirs) + 1e-14


def test_no_factor_of_what_is_not_positive_definite():
    factors = np.empty((1, 2, 2))
    assert not mixtures.precision_factors(np.array([[[1.0, 2.0], [2.0, 1.0]]]), factors)
    assert not mixtures.precision_factors(np.array([[[np.nan, 0.0], [0.0, 1.0]]]), factors)


def test_sums_are_in_numpys_order():
    # The objective divides by a sum of counts that the engine takes by numpy.sum.
    rng = np.random.default_rng(0)
    for k in range(1, 129):
        counts = rng.uniform(0.1, 1, k) * 10.0 ** rng.integers(-5, 5, k)
        assert mixtures.sum_in_order(counts) == counts.sum(), k
