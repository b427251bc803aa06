"""The first search of rows, by many coordinates of a rotated basis: the labels of a search of all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_to_search import KINDS, rows_and_centers

from fastem import KMeans
from fastem._native import nearest
from fastem.families.kmeans import KMeansFamily, KMeansParams, blind
from fastem.families.kmeans.basis import Basis, find_basis
from fastem.sources.memory import MemorySource

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DTYPES = [np.float32, np.float64]


def searched(X, prepared, by, n_threads):
    labels, upper, lower = np.empty(len(X), np.int32), np.empty(len(X), X.dtype), np.empty(len(X), X.dtype)
    assert blind.search(X, prepared, by, labels, upper, lower, n_threads)
    return labels, upper, lower


@given(
    st.sampled_from(KINDS), st.integers(1, 300), st.integers(60, 220), st.integers(33, 200), st.sampled_from(DTYPES),
    st.sampled_from(nearest.build_info()["available"]), st.integers(34, 192), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_labels_are_those_of_all_pairs(kind, n, d, k, dtype, isa, size, seed):
    """Whatever the rows, by however many directions, good or any."""
    nearest.force_isa(isa)
    X, centers, rng = rows_and_centers(kind, n, d, k, dtype, seed)
    prepared = KMeansFamily(k).prepare(KMeansParams(centers), X.dtype)
    size = min(size, d + 1)
    basis = find_basis(X, 10**6, size - 1)
    if seed % 2:  # directions of nothing, from a point outside
        directions = np.linalg.qr(rng.standard_normal((d, size - 1)))[0]
        basis = Basis((X[0] + X.std()).astype(dtype), np.ascontiguousarray(directions, dtype))
    labels, upper, lower = searched(X, prepared, blind.search_by(basis, prepared), 2)
    expected, _ = KMeansFamily(k).assign(X, prepared, 1)
    direct = np.stack([np.square(X.astype(np.float64) - c).sum(axis=1) for c in centers], axis=1)
    own, eps = direct[np.arange(n), labels], np.finfo(dtype).eps
    assert np.all(own <= direct.min(axis=1) * (1 + (8 + d**0.5) * eps))
    same = labels == expected  # but where a search of all pairs decides to half the digits
    assert np.all(same | (np.abs(direct[np.arange(n), expected] - own) <= 8 * eps**0.5 * own))
    assert np.all(upper.astype(np.float64) >= np.sqrt(own) * (1 - 4 * eps))
    direct[np.arange(n), labels] = np.inf
    assert np.all(lower.astype(np.float64) <= np.sqrt(direct.min(axis=1)) * (1 + 4 * eps))


def test_more_pairs_than_the_list_holds_are_compared():
    """Noise leaves nearly all pairs of a group, which are more than wait at a time."""
    X, centers, _ = rows_and_centers("noise", 300, 64, 1500, np.float32, 1)
    prepared = KMeansFamily(1500).prepare(KMeansParams(centers), X.dtype)
    labels, _, _ = searched(X, prepared, blind.search_by(find_basis(X, 10**6, 40), prepared), 1)
    np.testing.assert_array_equal(labels, KMeansFamily(1500).assign(X, prepared, 1)[0])


@pytest.fixture
def always_blind(monkeypatch):
    """Let the first pass of every fit by "auto" be such a search."""
    monkeypatch.setattr(blind, "WORK", 0)
    monkeypatch.setattr(blind, "WANTED", 0.0)
    monkeypatch.setattr(blind, "PAYS", np.inf)
    search, made = blind.search, []
    search_that_pays = blind.search_that_pays
    monkeypatch.setattr(blind, "search_that_pays", lambda X, prepared, otherwise: search_that_pays(X, prepared, np.inf))
    monkeypatch.setattr(blind, "search", lambda *args: made.append(1) or search(*args))
    return made


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_overflow_are_searched_otherwise(always_blind, dtype):
    X, centers, _ = rows_and_centers("decaying", 3000, 2 * nearest.BLIND, 40, dtype, 5)
    basis = find_basis(X, 10**6, 60)
    X[7, :] = 1e22 if dtype == np.float32 else 1e180  # no row of the sample
    X[11, 3] = -X[7, 0]
    family = KMeansFamily(40, "auto")
    prepared, memo = family.prepare(KMeansParams(centers), X.dtype), family.new_memo(len(X))
    family.total_of_memo(X, np.empty(0, dtype), prepared, 1, memo)
    assert always_blind
    np.testing.assert_array_equal(memo.labels, KMeansFamily(40).assign(X, prepared, 1)[0])
    centers[3] = X[7]
    assert blind.search_by(basis, family.prepare(KMeansParams(centers), dtype)) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["decaying", "duplicates"])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_iteration_is_lloyds(always_blind, dtype, kind, weighted):
    X, centers, rng = rows_and_centers(kind, 2500, 2 * nearest.BLIND, 60, dtype, 2)
    w = rng.random(len(X)) if weighted else None
    for iterations in (1, 2, 5):
        options = {"init": centers, "max_iter": iterations, "tol": 0.0}
        exact = KMeans(60, algorithm="lloyd", **options).fit(X, sample_weight=w)
        fast = [KMeans(60, n_threads=n_threads, **options).fit(X, sample_weight=w) for n_threads in (1, 2)]
        np.testing.assert_array_equal(fast[0].labels_, exact.labels_)
        assert fast[0].inertia_ == pytest.approx(exact.inertia_, rel=1e-12 if dtype == np.float64 else 1e-6)
        np.testing.assert_array_equal(fast[0].cluster_centers_, fast[1].cluster_centers_)
        assert fast[0].inertia_ == fast[1].inertia_
    assert len(always_blind) == 6


def test_a_sample_decides(monkeypatch):
    monkeypatch.setattr(blind, "WORK", 0)
    for kind, pays in (("decaying", True), ("noise", False)):
        X, centers, _ = rows_and_centers(kind, 600, 400, 400, np.float32, 4)
        prepared = KMeansFamily(400).prepare(KMeansParams(centers), X.dtype)
        assert blind.possible(X, 400)
        assert (blind.search_that_pays(X, prepared, 1.0) is not None) == pays
        assert blind.search_that_pays(X, prepared, 0.0) is None  # another way is cheaper
    assert not blind.possible(X[:, : 2 * nearest.BLIND - 1], 400)
    assert not blind.possible(X, nearest.LEAST_ROTATED - 1)


def test_arrays_that_do_not_fit_are_refused():
    X, centers, _ = rows_and_centers("decaying", 100, 90, 40, np.float32, 5)
    prepared = KMeansFamily(40).prepare(KMeansParams(centers), X.dtype)
    by = blind.search_by(find_basis(X, 10**6, 60), prepared)
    with pytest.raises(ValueError, match="do not fit each other"):
        searched(X, prepared, by._replace(halves=by.halves[1:]), 1)
    few = by._replace(basis=Basis(by.basis.mean, by.basis.directions[:, :20]), numbers=by.numbers[:, :21].copy())
    with pytest.raises(ValueError, match="by 21 numbers"):
        searched(X, prepared, few, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_farthest_rows_need_no_second_search(dtype):
    """Labels that a memo holds give the distances, to the bit, that a search would find."""
    X, centers, _ = rows_and_centers("decaying", 5000, 70, 50, dtype, 6)
    family = KMeansFamily(50, "auto")
    prepared, memo = family.prepare(KMeansParams(centers), X.dtype), family.new_memo(len(X))
    source = MemorySource(X, np.empty(0, dtype), n_threads=2)
    source.accumulate(family, prepared, memo)
    labels, sqdist = family.assign(X, prepared, 1)
    np.testing.assert_array_equal(family.own_distances(X, prepared, labels, 2), sqdist)
    known, searched_for = (source.extreme_rows(family, prepared, 9, some) for some in (memo, None))
    np.testing.assert_array_equal(known.indices, searched_for.indices)
    memo.labels[:] = (memo.labels + 1) % 50  # which it takes from there
    assert not np.array_equal(source.extreme_rows(family, prepared, 9, memo).indices, known.indices)
