"""The nearest centre by a row's own differences, wherever the other rows and centres lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastem import BisectingKMeans, KMeans, MiniBatchKMeans, backend
from fastem._native import nearest
from fastem.draws import Draws
from fastem.sources.memory import MemorySource
from fastem.starts.kmeans_plus_plus import kmeans_plus_plus

ISAS = nearest.build_info()["available"]
DTYPES = [np.float32, np.float64]


def towns(n, d, k, dtype, seed):
    """Rows (n, d) and centres (k, d) about three places whose distances from zero span many orders of magnitude."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(3, d)) * 10.0 ** rng.uniform(-2, 6, 3)[:, None]
    X = places[rng.integers(0, 3, n)] + rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-2, 1)
    centers = places[rng.integers(0, 3, k)] + 0.3 * rng.normal(size=(k, d))
    return X.astype(dtype), centers.astype(dtype)


def differences(X, centers):
    """Squared distances (n, k) from x - c, in more digits than either has."""
    return np.square(X.astype(np.longdouble)[:, None] - centers.astype(np.longdouble)).sum(axis=2)


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 700), st.one_of(st.integers(1, 40), st.integers(96, 140))),
        st.tuples(st.integers(1, 120), st.integers(193, 600)),  # several chunks of features
    ),
    k=st.one_of(st.integers(1, 40), st.integers(120, 140)),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(ISAS),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=160, deadline=None)
def test_no_centre_is_nearer(shape, k, dtype, isa, seed):
    nearest.force_isa(isa)
    n, d = shape
    X, centers = towns(n, d, k, dtype, seed)
    eps = np.finfo(dtype).eps
    labels, sqdist = backend.assign(X, centers, n_threads=1)
    exact = differences(X, centers)
    mine = exact[np.arange(n), labels]
    assert np.all(mine <= exact.min(axis=1) * (1 + 8 * np.sqrt(eps)))
    np.testing.assert_allclose(sqdist.astype(float), mine.astype(float), rtol=20 * (d + 8) * eps)
    again = backend.assign(X[::-1].copy(), centers, n_threads=2)[0]
    np.testing.assert_array_equal(again[::-1], labels)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("crowd", [1, 3, 40])
def test_rows_between_centres_are_decided_by_differences(crowd, dtype, isa):
    """Of two crowds of centres that lie closer together than scores tell, far off: the nearest by differences."""
    nearest.force_isa(isa)
    rng = np.random.default_rng(crowd)
    n, d = 400, 700
    eps = np.finfo(dtype).eps
    middle, axis = 10 * rng.normal(size=d), np.eye(d)[5]
    side = rng.choice([-1.0, 1.0], 2 * crowd)[:, None] * axis
    centers = middle + side + 1000 * eps * rng.normal(size=(2 * crowd, d))
    others = middle + 20 * rng.normal(size=(60, d))
    X = middle + 0.4 * rng.normal(size=(n, d)) * (np.arange(d) != 5) + 1e4 * eps * rng.normal(size=(n, 1)) * axis
    centers, X = np.concatenate([others, centers]).astype(dtype), X.astype(dtype)
    labels, sqdist = backend.assign(X, centers, n_threads=1)
    exact = differences(X, centers)
    best = exact.min(axis=1)
    assert np.all(exact[np.arange(n), labels] <= best * (1 + 2 * d**0.5 * eps))
    np.testing.assert_allclose(sqdist.astype(float), best.astype(float), rtol=20 * d * eps)
    assert len(np.unique(labels)) > 1


def test_a_far_centre_takes_no_digits():
    labels, sqdist = backend.assign(np.float32([[0.0], [1.0]]), np.float32([[0.0], [1.0], [1e5]]))
    assert labels.tolist() == [0, 1]
    assert sqdist.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan", "auto"])
def test_a_raster_with_a_no_data_value(algorithm):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 20000)
    X = rng.random((5, 4))[y] + 0.02 * rng.normal(size=(20000, 4))
    X[:1000] = -9999
    model = KMeans(6, n_init=5, random_state=0, algorithm=algorithm).fit(X.astype(np.float32))
    assert model.inertia_ == pytest.approx(30.47, abs=0.01)
    np.testing.assert_array_equal(model.predict(X.astype(np.float32)), model.labels_)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transform_is_the_distance_of_differences(dtype):
    centers = np.array([[0.0], [1.0], [1e9]], dtype)
    model = KMeans(3, init=centers, n_init=1).fit(centers)
    got = model.transform(np.array([[0.0], [1.0], [0.25]], dtype))
    np.testing.assert_array_equal(got[:, :2], [[0, 1], [1, 0], [0.25, 0.75]])
    assert got.dtype == dtype
    X, far = towns(900, 5, 12, dtype, 3)
    model = KMeans(12, init=far, n_init=1, max_iter=1).fit(np.concatenate([far, X]))
    exact = np.sqrt(differences(X, model.cluster_centers_.astype(dtype)).astype(float))
    np.testing.assert_allclose(model.transform(X), exact, rtol=20 * np.finfo(dtype).eps)
    assert not np.diagonal(model.transform(model.cluster_centers_)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_two_towns_are_clustered_as_in_more_digits(seed, dtype, algorithm):
    """Each town by itself, moved to where its own differences are exact, gives the objective to compare with."""
    rng = np.random.default_rng(seed)
    town = rng.integers(0, 64, (2000, 3)) + 16.0 * rng.integers(0, 4, (2000, 1))
    offset = 2.0**15  # the numbers of both towns are exact in float32
    X = np.concatenate([town, town + offset]).astype(dtype)
    start = np.concatenate([town[:5], town[:5] + offset])
    far = KMeans(10, init=start, n_init=1, tol=0, algorithm=algorithm).fit(X)
    near = KMeans(5, init=town[:5], n_init=1, tol=0, algorithm=algorithm).fit(town)
    assert far.inertia_ == pytest.approx(2 * near.inertia_, rel=1e-3 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(far.predict(X), far.labels_)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [500, 5000])
def test_seeds_are_drawn_by_differences(n, dtype):
    """Five clusters beside a far one: k-means++ finds each, for its distances lose nothing to the far rows."""
    rng = np.random.default_rng(0)
    X = 4.0 * rng.integers(0, 5, n)[:, None] + 0.01 * rng.normal(size=(n, 2))
    X[: n // 10] = 1e6
    seeds = kmeans_plus_plus(MemorySource(X.astype(dtype)), 6, Draws(0, 0))
    assert len(np.unique(np.round(seeds / 4), axis=0)) == 6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans, BisectingKMeans])
def test_labels_and_score_of_every_estimator(kind, dtype):
    rng = np.random.default_rng(1)
    X = rng.integers(0, 3, (3000, 2)) + 0.01 * rng.normal(size=(3000, 2))
    X[:300] += 30000.0
    X = X.astype(dtype)
    model = kind(8, random_state=0).fit(X)
    exact = differences(X, model.cluster_centers_.astype(dtype))
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    if kind is not BisectingKMeans:  # whose label is the nearer centre at every split
        mine = exact[np.arange(len(X)), model.labels_]
        assert np.all(mine <= exact.min(axis=1) * (1 + 8 * np.sqrt(np.finfo(dtype).eps)))
        assert -model.score(X) == pytest.approx(float(mine.sum()), rel=1e-5)
