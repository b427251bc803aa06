"""The compiled nearest-centroid kernels against slow NumPy, on every instruction set of the machine."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastem import grid
from fastem._native import nearest

ISAS = nearest.build_info()["available"]
DTYPES = [np.float32, np.float64]

# (n, d, k): fewer rows than a vector, features below / on / beside a transposition step, panels of every width, masked
# sums, rows sorted by centroid, the flat tile with and without a tail, features in several chunks.
SHAPES = [
    (1, 1, 1),
    (5, 3, 2),
    (100, 2, 8),
    (2049, 3, 64),
    (4100, 17, 9),
    (3000, 16, 16),
    (500, 33, 7),
    (2500, 100, 10),
    (300, 784, 10),
    (700, 300, 33),
    (60, 64, 1000),
    (50, 4097, 3),
    (40, 3000, 40),
]


def problem(n, d, k, dtype, weighted=True, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, d)) + offset).astype(dtype)
    origin = X.astype(np.float64).mean(axis=0).astype(dtype)
    centers = rng.standard_normal((k, d)).astype(dtype)
    w = rng.random(n).astype(dtype) if weighted else np.empty(0, dtype)
    return X, w, origin, centers


def half_norms(centers):
    return (0.5 * (centers.astype(np.float64) ** 2).sum(axis=1)).astype(centers.dtype)


def assign(X, origin, centers, n_threads=1, sqdist=True):
    labels = np.full(len(X), -7, np.int32)
    out = np.full(len(X) if sqdist else 0, np.nan, X.dtype)
    nearest.assign(X, origin, centers, half_norms(centers), labels, out, n_threads)
    return labels, out


def accumulate(X, w, origin, centers, level=0, n_threads=1, want_labels=True):
    k, d = centers.shape
    n_tasks = -(-grid.n_cells(len(X)) // (1 << level))
    out = np.full((n_tasks, k + k * d + 1), np.nan)
    labels = np.full(len(X) if want_labels else 0, -7, np.int32)
    nearest.accumulate(X, w, origin, centers, half_norms(centers), level, out, labels, n_threads)
    return out, labels


def distances(X, origin, centers):
    """Squared distances (n, k) in float64 of what the kernel is given."""
    rows = (X - origin).astype(np.float64)
    return np.stack([((rows - c) ** 2).sum(axis=1) for c in centers.astype(np.float64)], axis=1)


def check(X, w, origin, centers, n_threads=1):
    """Labels, distances and record of one problem; the tolerance is rounding in the rows' dtype."""
    n, (k, d) = len(X), centers.shape
    eps = np.finfo(X.dtype).eps
    true = distances(X, origin, centers)
    labels, sqdist = assign(X, origin, centers, n_threads)
    chosen = true[np.arange(n), labels]
    scale = true.max(initial=1.0)
    assert np.all(chosen - true.min(axis=1) <= 8 * (d + 8) ** 0.5 * eps * scale)
    np.testing.assert_allclose(sqdist, chosen, rtol=4 * (d + 8) ** 0.5 * eps, atol=eps * scale)
    out, again = accumulate(X, w, origin, centers, 0, n_threads)
    np.testing.assert_array_equal(labels, again)
    weights = w.astype(np.float64) if len(w) else np.ones(n)
    sums = np.zeros((k, d))
    np.add.at(sums, labels, weights[:, None] * (X - origin).astype(np.float64))
    record = grid.merge_tree(out)
    tolerance = {"rtol": 40 * eps, "atol": 40 * eps * n**0.5 * max(1.0, np.abs(X - origin).max())}
    np.testing.assert_allclose(record[:k], np.bincount(labels, weights, k), **tolerance)
    np.testing.assert_allclose(record[k:-1].reshape(k, d), sums, **tolerance)
    np.testing.assert_allclose(record[-1], weights @ chosen, rtol=40 * eps, atol=0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_numpy(shape, dtype, isa):
    nearest.force_isa(isa)
    for weighted in (False, True):
        check(*problem(*shape, dtype, weighted))


@given(
    n=st.integers(1, 700),
    d=st.integers(1, 40),
    k=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(ISAS),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_agrees_with_numpy_on_any_shape(n, d, k, dtype, isa, weighted, seed):
    nearest.force_isa(isa)
    check(*problem(n, d, k, dtype, weighted, seed=seed))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3000, 2, 8), (1000, 16, 16), (200, 200, 9)])
def test_offset_is_harmless(shape, dtype):
    check(*problem(*shape, dtype, offset=1e6))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_ties_go_to_the_lowest_index(shape, dtype, isa):
    k = shape[2]
    nearest.force_isa(isa)
    X, _, origin, centers = problem(*shape, dtype)
    labels, _ = assign(X, origin, centers)
    doubled, _ = assign(X, origin, np.ascontiguousarray(np.repeat(centers, 2, axis=0)))
    np.testing.assert_array_equal(doubled // 2 * 2, doubled)
    if k < 100:  # all centroids equal
        labels, _ = assign(X, origin, np.ascontiguousarray(np.repeat(centers[:1], k, axis=0)))
        assert not labels.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_instruction_sets_agree(shape, dtype):
    """On whole numbers every path is exact, so labels, distances and ties must be the same."""
    rng = np.random.default_rng(3)
    n, d, k = shape
    X = rng.integers(-4, 5, (n, d)).astype(dtype)
    centers = rng.integers(-4, 5, (k, d)).astype(dtype)
    origin = rng.integers(-1, 2, d).astype(dtype)
    answers = []
    for isa in ISAS:
        nearest.force_isa(isa)
        labels, sqdist = assign(X, origin, centers)
        out, _ = accumulate(X, np.empty(0, dtype), origin, centers)
        answers.append((labels, sqdist, grid.merge_tree(out)))
    true = distances(X, origin, centers)
    np.testing.assert_array_equal(answers[0][0], true.argmin(axis=1))
    np.testing.assert_array_equal(answers[0][1], true.min(axis=1))
    for answer in answers[1:]:
        for expected, got in zip(answers[0], answer, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9000, 2, 8), (9000, 16, 16), (20000, 5, 70), (5000, 130, 10)])
def test_same_bits_for_any_number_of_threads(shape, dtype):
    X, w, origin, centers = problem(*shape, dtype)
    labels, sqdist = assign(X, origin, centers)
    for level in (0, 1, 2):
        expected, _ = accumulate(X, w, origin, centers, level)
        for n_threads in (2, 7):
            out, other = accumulate(X, w, origin, centers, level, n_threads)
            np.testing.assert_array_equal(out, expected)
            np.testing.assert_array_equal(other, labels)
    for n_threads in (2, 7):
        for expected, got in zip((labels, sqdist), assign(X, origin, centers, n_threads), strict=True):
            np.testing.assert_array_equal(got, expected)


@given(
    n=st.integers(grid.CELL + 1, 9 * grid.CELL + 7),
    # k d either side of caches, and more features than are summed at once
    shape=st.sampled_from([(33, 7), (70, 40), (16, 600), (131, 513), (7, 40), (300, 600), (2053, 520)]),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(ISAS),
    weighted=st.booleans(),
    n_threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_a_record_made_centroid_by_centroid_is_that_of_cells(n, shape, dtype, isa, weighted, n_threads, seed):
    """One task for all rows makes labels, bounds and ties first, then each centroid's sums: nothing else comes out."""
    nearest.force_isa(isa)
    d, k = shape
    n = min(n, 3 * grid.CELL) if d > 1000 else n
    X, w, origin, centers = problem(n, d, k, dtype, weighted, seed=seed)
    X[: n // 8] = X[0]  # tied with themselves
    centers[k // 2] = centers[0]

    def everything(level, n_tasks, n_threads):
        out, labels = np.full((n_tasks, k + k * d + 1), np.nan), np.full(n, -7, np.int32)
        upper, lower = np.full(n, np.nan, dtype), np.full(n, np.nan, dtype)
        tied, n_tied = np.full(n, -1, np.int32), np.zeros(grid.n_cells(n), np.int32)
        nearest.accumulate(
            X, w, origin, centers, half_norms(centers), level, out, labels, n_threads, upper, lower, tied, n_tied
        )
        nearest.merge_tree(out, 1)
        return out[0], labels, upper, lower, tied, n_tied

    expected, found = everything(0, grid.n_cells(n), 1), everything(*grid.whole(n), n_threads)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(accumulate(X, w, origin, centers, grid.whole(n).level, 2, False)[0][0], found[0])
    settled = np.empty((1, len(found[0])))
    nearest.settle(X, w, origin, centers, grid.whole(n).level, settled, found[1], n_threads)
    np.testing.assert_array_equal(settled[0], found[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [257, 300])  # of 300 features: enough for several threads
@pytest.mark.parametrize("place", [0.0, 1000.0, -1000.0])
def test_centers_are_prepared_alike_by_any_number_of_threads(dtype, k, place):
    given = np.random.default_rng(k).normal(size=(k, 300)) + place

    def prepared(given, n_threads, before=None):
        origin = np.empty(300, dtype) if before is None else before[0].copy()
        centers, norms, moved = np.empty((k, 300), dtype), np.empty(k, dtype), np.empty(k)
        there = centers[:0] if before is None else before[1]
        moved = moved[: len(there)]
        kept = nearest.prepare_centers(given, before is not None, origin, centers, norms, there, moved, n_threads)
        if kept:
            away = np.linalg.norm(centers.astype(np.float64) - there, axis=1)
            np.testing.assert_allclose(moved, away, rtol=1e-13)
        return origin, centers, norms, moved if kept else moved[:0], kept

    far = given.copy()
    far[k - 1] = 0.0  # no centre may lie before half of an origin
    for after, holds in ((given + 0.1, True), (far, place == 0.0)):
        results = []
        for n_threads in (1, 3):
            before = prepared(given, n_threads)
            results.append((*before, *prepared(after, n_threads, before)))
            assert not before[-1]
            assert results[-1][-1] == holds
        for one, several in zip(*results, strict=True):
            np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 5), (3, 1), (300, 301)])  # the last is enough for several threads
def test_means_and_their_gain_are_those_of_their_formulas(k, d, dtype):
    rng = np.random.default_rng(k)
    counts, sums = rng.integers(1, 50, k).astype(np.float64), rng.normal(size=(k, d))
    origin, centers = rng.normal(size=d).astype(dtype), rng.normal(size=(k, d)).astype(dtype)
    gains = set()
    for n_threads in (1, 3):
        means = np.full((k, d), np.nan)
        nearest.means_of_sums(sums, counts, origin, means, n_threads)
        np.testing.assert_array_equal(means, sums / counts[:, None] + origin)
        gains.add(nearest.gain_of_means(centers, counts, sums, n_threads))
    wide = centers.astype(np.float64)
    expected = 2 * np.sum(wide * sums) - counts @ np.square(wide).sum(axis=1)
    assert len(gains) == 1
    assert gains.pop() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="do not fit each other"):
        nearest.means_of_sums(sums, counts[1:], origin, means, 1)


@pytest.mark.parametrize("cells", [1, 2, 3, 5, 6, 7, 8, 11])
@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_tree_is_that_of_stats(cells, level):
    X, w, origin, centers = problem(cells * grid.CELL - 5, 3, 4, np.float64)
    one_by_one = np.concatenate(
        [
            accumulate(X[s : s + grid.CELL], w[s : s + grid.CELL], origin, centers)[0]
            for s in range(0, len(X), grid.CELL)
        ]
    )
    out, _ = accumulate(X, w, origin, centers, level)
    np.testing.assert_array_equal(grid.merge_tree(out), grid.merge_tree(one_by_one))


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_names_the_instruction_set(isa):
    program = "from fastem import build_info; print(build_info()['isa'])"
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "FASTEM_ISA": isa}, capture_output=True, text=True
    )
    assert ran.stdout.split() == [isa], ran.stderr


def test_an_instruction_set_that_does_not_exist_is_named():
    ran = subprocess.run(
        [sys.executable, "-c", "from fastem import KMeans"],
        env={**os.environ, "FASTEM_ISA": "mmx"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("ValueError: FASTEM_ISA: instruction set 'mmx' is not one of [")


@pytest.mark.parametrize("isa", ISAS)
def test_optional_outputs_and_read_only_input(isa):
    nearest.force_isa(isa)
    X, w, origin, centers = problem(300, 5, 20, np.float32)
    for array in (X, w, origin, centers):
        array.flags.writeable = False
    labels, _ = assign(X, origin, centers)
    np.testing.assert_array_equal(assign(X, origin, centers, sqdist=False)[0], labels)
    with_labels, _ = accumulate(X, w, origin, centers)
    np.testing.assert_array_equal(accumulate(X, w, origin, centers, want_labels=False)[0], with_labels)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_their_neighbours(dtype, isa):
    """A row alone gets the label and distance that it gets among others: predict of one row equals predict of all."""
    nearest.force_isa(isa)
    for d, k in [(2, 8), (7, 30), (16, 16), (120, 12), (250, 40)]:
        X, _, origin, centers = problem(80, d, k, dtype)
        labels, sqdist = assign(X, origin, centers)
        for i in range(0, 80, 7):
            one, at = assign(X[i : i + 1], origin, centers)
            assert (one[0], at[0]) == (labels[i], sqdist[i])


def test_more_than_2_31_elements():
    X = np.zeros((2**31 // 16 + 1000, 16), np.float32)  # lazily zero
    X[-1] = 1
    centers = np.stack([np.zeros(16), np.ones(16)]).astype(np.float32)
    labels, _ = assign(X, np.zeros(16, np.float32), centers, 2, sqdist=False)
    assert labels[-1] == 1
    assert labels[:-1].max() == 0


def test_grid_and_names():
    assert nearest.CELL == grid.CELL
    nearest.force_isa(None)
    info = nearest.build_info()
    assert info["isa"] == os.environ.get("FASTEM_ISA", ISAS[-1])
    with pytest.raises(ValueError, match="instruction set"):
        nearest.force_isa("mmx")
    X, w, origin, centers = problem(10, 2, 3, np.float64)
    with pytest.raises(ValueError, match="shape"):
        nearest.accumulate(X, w, origin, centers, half_norms(centers), 0, np.empty((2, 10)), np.empty(0, np.int32), 1)
