"""Ties at convergence, and moves of single rows: they lower the distortion, and nothing else changes."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import fastem
from fastem import KMeans
from fastem._native import nearest
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.families.kmeans.csr import CSRKMeansFamily, CSRRows
from fastem.families.kmeans.partition import Partition


def binary(seed, n=150, d=6):
    return (np.random.default_rng(seed).random((n, d)) < 0.5).astype(float)


def distortion(X, labels, w=None):
    w = np.ones(len(X)) if w is None else w
    total = 0.0
    for c in np.unique(labels):
        mine = (labels == c) & (w > 0)
        if mine.any():
            mean = np.average(X[mine], axis=0, weights=w[mine])
            total += float(w[mine] @ np.square(X[mine] - mean).sum(axis=1))
    return total


def best_move(X, labels, k, w=None):
    """Return by how much the best move of a row changes J, in plain NumPy."""
    w = np.ones(len(X)) if w is None else w
    counts = np.bincount(labels, w, k)
    means = np.array([np.average(X[labels == c], axis=0, weights=w[labels == c]) for c in range(k)])
    sqdist = np.square(X[:, None] - means).sum(axis=2)
    own = np.arange(len(X)), labels
    left = counts[labels] - w
    leave = np.where(left > 1e-9, counts[labels] / np.where(left > 1e-9, left, 1) * w * sqdist[own], 0)
    join = counts / (counts + w[:, None]) * w[:, None] * sqdist
    join[own] = np.inf
    return float((join.min(axis=1) - leave).min())


def test_tied_rows_are_moved_where_that_lowers_the_distortion():
    """Lloyd stops at once: both rows at 1 are as near to 0.5 as to 1.5."""
    X = np.array([[0.0], [0.0], [1.0], [1.0], [1.5]])
    fit = KMeans(2, init=np.array([[0.5], [1.5]]), n_init=1, tol=0).fit(X)
    # {0, 0, 1, 1}, {1.5} costs 1; with the tied rows on the other side it is {0, 0}, {1, 1, 1.5}: 1 / 6.
    assert fit.inertia_ == pytest.approx(1 / 6, rel=1e-12)
    np.testing.assert_array_equal(fit.predict(X), fit.labels_)


def widened(X, d=30):
    """Return the table with columns of zeros between: as a CSR matrix it stays sparse."""
    wide = np.zeros((len(X), d), X.dtype)
    wide[:, 3 : 3 + 2 * X.shape[1] : 2] = X
    return wide


# The same rows as every source that fits them by another way.
MADE = {
    "csr": lambda X: sparse.csr_matrix(widened(X)),
    "csr made dense": sparse.csr_matrix,
    "stream": lambda X: fastem.rows(lambda: iter(np.array_split(X, 3))),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("repeats", [1, 1500])
def test_tied_rows_of_every_source_are_moved(made, dtype, repeats):
    X = np.repeat(np.array([[0.0], [0.0], [1.0], [1.0], [1.5]], dtype), repeats, axis=0)
    init = np.array([[0.5], [1.5]])
    init = widened(init) if made == "csr" else init
    fits = [KMeans(2, init=init, n_init=1, tol=0, n_threads=threads).fit(MADE[made](X)) for threads in (1, 2)]
    assert fits[0].inertia_ == pytest.approx(repeats / 6, rel=1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(fits[0].cluster_centers_, fits[1].cluster_centers_)
    np.testing.assert_array_equal(fits[0].inertia_history_, fits[1].inertia_history_)


def fraction_of_ties_left(X, w, labels, k):
    """Return how many rows are exactly as near to a mean that it would pay to move them to, in whole numbers."""
    rows, weights = X.astype(int).tolist(), w.astype(int).tolist()
    counts = [sum(weights[i] for i in range(len(X)) if labels[i] == c) for c in range(k)]
    sums = [[0] * X.shape[1] for _ in range(k)]
    for x, weight, a in zip(rows, weights, labels, strict=True):
        sums[a] = [total + weight * value for total, value in zip(sums[a], x, strict=True)]
    means = [[Fraction(total, n or 1) for total in of_one] for of_one, n in zip(sums, counts, strict=True)]
    found = 0
    for i, a in enumerate(labels):
        if counts[a] <= weights[i] or not weights[i]:
            continue
        sqdist = [sum((x - m) ** 2 for x, m in zip(rows[i], mean, strict=True)) for mean in means]
        leave = sqdist[a] * counts[a] / (counts[a] - weights[i])
        found += any(
            counts[b] and sqdist[b] == sqdist[a] and sqdist[b] * counts[b] / (counts[b] + weights[i]) < leave
            for b in range(k)
            if b != a
        )
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(8, 30),
    d=st.integers(1, 3),
    k=st.integers(2, 4),
    most=st.integers(1, 3),
    weighted=st.booleans(),
)
def test_no_exact_tie_is_left_that_would_pay(seed, n, d, k, most, weighted):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, most + 1, (n, d)).astype(float)
    w = rng.integers(0, 3, n).astype(float) if weighted else np.ones(n)
    init = np.unique(X, axis=0)
    if len(init) < 2 or w.sum() < k:
        return
    init = init[: min(k, len(init))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer clusters than asked for
        dense, csr = (
            KMeans(len(init), init=start, n_init=1, tol=0).fit(Y, sample_weight=w)
            for Y, start in ((X, init), (MADE["csr"](X), widened(init)))
        )
    for fit in (dense, csr):
        assert fraction_of_ties_left(X, w, fit.labels_, len(init)) == 0
        assert fit.inertia_ == pytest.approx(distortion(X, fit.labels_, w), rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(2, 9),
    density=st.floats(0.02, 0.4),
    weighted=st.booleans(),
    single=st.booleans(),
    near=st.booleans(),
)
def test_the_csr_kernel_moves_what_the_dense_kernel_moves(seed, k, density, weighted, single, near):
    """Empty rows, columns and clusters, duplicates, weights of zero; any mean may be joined, or only those as near."""
    rng = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    X = (rng.normal(2, 1, (80, 15)) * (rng.random((80, 15)) < density)).astype(dtype)
    X[40:50] = X[:10]
    w = rng.integers(0, 4, 80).astype(dtype) if weighted else np.ones(80, dtype)
    labels = rng.integers(0, k, 80).astype(np.int32)
    labels[labels == k - 1] = 0  # nobody's
    rows, centers = CSRRows.of(sparse.csr_matrix(X)), rng.normal(size=(k, 15))
    family = CSRKMeansFamily(k)
    whole = family.partition(family.stats_of_labels(rows, w, labels, 1), None, KMeansParams(centers))
    counts, wide, w = np.bincount(labels, w, k), X.astype(float), w.astype(float)
    means = centers.copy()
    for c in np.flatnonzero(counts):
        means[c] = np.average(wide[labels == c], axis=0, weights=w[labels == c])
    np.testing.assert_allclose(whole.centers, means, rtol=1e-12, atol=1e-14)
    dense, roundings = Partition(means, counts), 0.3 / np.finfo(dtype).eps if near else np.inf
    ours, theirs = labels.copy(), labels.copy()
    moved = dense.move(X, w, theirs, roundings)
    assert whole.move(rows, w, ours, roundings) == moved
    assert moved or near
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(whole.centers, dense.centers, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(whole.counts, dense.counts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tables_of_ties(dtype):
    """24 binary tables of 150 x 6, eight starts each."""
    reached, moved = [], []
    for seed in range(24):
        X = binary(seed).astype(dtype)
        for start in range(8):
            options = {"n_init": 1, "random_state": start, "tol": 0}
            fit = KMeans(8, **options).fit(X)
            refined = KMeans(8, refine="hartigan", **options).fit(X)
            assert refined.inertia_ <= fit.inertia_ * (1 + 1e-6)
            np.testing.assert_array_equal(refined.predict(X), refined.labels_)
            reached.append(fit.inertia_)
            moved.append(refined.inertia_)
    assert np.mean(reached) <= 112.0  # 114.2 where the first of equally near centres keeps its rows
    assert np.mean(moved) <= 110.2


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("n", [150, 6000])
@pytest.mark.parametrize("refine", [None, "hartigan"])
def test_the_engine_and_the_compiled_run_agree_to_the_bit(algorithm, n, refine):
    X = np.random.default_rng(n).integers(0, 4, (n, 3)).astype(float)
    fits = [
        KMeans(
            7, n_init=2, random_state=3, tol=0, algorithm=algorithm, refine=refine, certify=certify, n_threads=t
        ).fit(X)
        for certify, t in ((False, 1), (True, 1), (False, 2), (True, 5))
    ]
    for fit in fits[1:]:
        np.testing.assert_array_equal(fit.cluster_centers_, fits[0].cluster_centers_)
        np.testing.assert_array_equal(fit.labels_, fits[0].labels_)
        np.testing.assert_array_equal(fit.inertia_history_, fits[0].inertia_history_)
        assert fit.n_iter_ == fits[0].n_iter_
    assert (np.diff(fits[0].inertia_history_) <= 1e-9 * fits[0].inertia_).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "csr"])
@pytest.mark.parametrize("density", [0.1, 0.6])
def test_no_single_move_helps_after_refinement(weighted, make, density):
    rng = np.random.default_rng(4)
    X = rng.normal(size=(400, 20)) * (rng.random((400, 20)) < density)
    w = rng.uniform(0.1, 3, 400) if weighted else None
    plain = KMeans(12, n_init=1, random_state=0, tol=0).fit(make(X), sample_weight=w)
    fit = KMeans(12, n_init=1, random_state=0, tol=0, refine="hartigan").fit(make(X), sample_weight=w)
    assert best_move(X, plain.labels_, 12, w) < -1e-6
    assert best_move(X, fit.labels_, 12, w) > -1e-6
    assert fit.inertia_ < plain.inertia_
    assert fit.inertia_ == pytest.approx(distortion(X, fit.labels_, w), rel=1e-9)
    assert "moved single rows" in fit.notes_[-1]


def test_counted_rows_are_repeated_rows_where_none_is_tied():
    rng = np.random.default_rng(6)
    X, counts = rng.normal(size=(200, 3)), np.full(200, 2)
    init = X[:5]
    a = KMeans(5, init=init, n_init=1, tol=0, refine="hartigan").fit(X)
    b = KMeans(5, init=init, n_init=1, tol=0, refine="hartigan").fit(X, sample_weight=counts * 3.0)
    assert b.inertia_ == pytest.approx(6 * a.inertia_, rel=1e-9)


def test_the_kernel_moves_what_plain_arithmetic_moves():
    X = np.random.default_rng(8).normal(size=(60, 4))
    labels = np.random.default_rng(9).integers(0, 5, 60).astype(np.int32)
    counts = np.bincount(labels, minlength=5).astype(float)
    means = np.array([X[labels == c].mean(axis=0) for c in range(5)])
    before = distortion(X, labels)
    assert nearest.move_rows(X, np.ones(60), labels, counts, means, np.inf) > 0
    assert distortion(X, labels) < before
    np.testing.assert_array_equal(counts, np.bincount(labels, minlength=5))
    np.testing.assert_allclose(means, [X[labels == c].mean(axis=0) for c in range(5)], rtol=1e-9)
    assert best_move(X, labels, 5) > -1e-6
    assert nearest.move_rows(X, np.ones(60), labels, counts, means, np.inf) == 0


def test_iterations_are_counted_on_and_the_certificate_holds():
    X, seen = binary(3), []
    fit = KMeans(
        8, n_init=1, random_state=1, tol=0, certify=True, callback=lambda info: seen.append(info.iteration)
    ).fit(X)
    assert seen == list(range(1, fit.n_iter_ + 1))
    assert len(fit.inertia_history_) == fit.n_iter_
    with pytest.raises(ValueError, match="'refine' parameter"):
        KMeans(2, refine="more").fit(X)
    with pytest.raises(ValueError, match="spherical"):
        KMeans(2, refine="hartigan", spherical=True).fit(X)


def test_no_iteration_is_made_beyond_max_iter():
    for most in range(1, 12):
        assert KMeans(8, n_init=1, random_state=1, tol=0, max_iter=most).fit(binary(3)).n_iter_ <= most


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    d=st.integers(1, 20),
    k=st.integers(2, 40),
    whole=st.booleans(),
    n_threads=st.integers(1, 3),
)
def test_a_pass_notes_the_rows_that_are_tied_and_no_other(seed, d, k, whole, n_threads):
    """Of rows in general position none: a fit of blobs is not kept up by them."""
    rng = np.random.default_rng(seed)
    X = (rng.integers(0, 4, (5000, d)) if whole else rng.normal(size=(5000, d))).astype(np.float32)
    centers = X[rng.choice(5000, k, replace=False)].astype(float)
    X[::100] = (centers[0] + centers[-1]) / 2  # exact for whole numbers
    family = KMeansFamily(k)
    memo = family.new_memo(len(X))
    memo.note_ties(True)
    family._count(X, np.empty(0, X.dtype), family.prepare(KMeansParams(centers), X.dtype), n_threads, memo)
    wide = X.astype(float)
    sqdist = np.square(wide[:, None] - centers).sum(axis=2)
    own = sqdist[np.arange(len(X)), memo.labels]
    sqdist[np.arange(len(X)), memo.labels] = np.inf
    reach = 8 * np.finfo(X.dtype).eps * np.sqrt(own) * (np.sqrt(own) + np.linalg.norm(wide, axis=1))
    tied = (own > 0) & (sqdist.min(axis=1) <= own + reach)
    np.testing.assert_array_equal(family.undecided(memo), np.flatnonzero(tied))
