"""Bounded iterations and seeding steps of the compiled kernels: exact, and independent of the number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastem import grid
from fastem._native import nearest

ISAS = nearest.build_info()["available"]
DTYPES = [np.float32, np.float64]


class Bounded:
    """Lloyd iterations by bounds; a recount every `recount` iterations."""

    def __init__(self, X, w, start, recount=16, n_threads=1):
        self.X, self.w, self.recount, self.n_threads = X, w, recount, n_threads
        n, (k, d) = len(X), start.shape
        self.origin = start.mean(axis=0).astype(X.dtype)
        self.centers = start.astype(np.float64) - self.origin
        self.labels = np.empty(n, np.int32)
        self.upper, self.lower = np.empty(n, X.dtype), np.empty(n, X.dtype)
        self.changes = np.empty(n, np.uint32)
        self.delta = np.empty(k + k * d + 1)
        self.iteration = 0
        self.previous = None

    def step(self):
        k, d = self.centers.shape
        centers = self.centers.astype(self.X.dtype)
        exact = centers.astype(np.float64)
        half_norms = (0.5 * (exact**2).sum(axis=1)).astype(self.X.dtype)
        given = (self.X, self.w, self.origin, centers, half_norms)
        if self.iteration % self.recount == 0:
            out = np.empty((grid.n_cells(len(self.X)), k + k * d + 1))
            nearest.accumulate(*given, 0, out, self.labels, self.n_threads, self.upper, self.lower)
            self.total = grid.merge_tree(out).copy()
            changed = None
        else:
            before = self.labels.copy()
            moved = np.sqrt(((exact - self.previous) ** 2).sum(axis=1))
            between = np.sqrt(((exact[:, None] - exact) ** 2).sum(axis=2))
            between[np.arange(k), np.arange(k)] = np.inf
            changed = nearest.accumulate_bounded(
                *given, moved, between.min(axis=1) / 2, self.labels, self.upper, self.lower, self.changes, self.delta,
                np.empty(0, self.X.dtype), np.zeros(k, np.int32), self.n_threads,
            )  # fmt: skip
            assert changed == np.count_nonzero(before != self.labels)
            assert self.delta[-1] == 0
            self.total += self.delta
        lloyd = np.empty(len(self.X), np.int32)
        nearest.assign(self.X, self.origin, centers, half_norms, lloyd, np.empty(0, self.X.dtype), self.n_threads)
        self.check_labels(lloyd, exact)
        counts, sums = self.total[:k], self.total[k:-1].reshape(k, d)
        self.previous, alive = exact, counts > 1e-9
        self.centers = np.where(alive[:, None], sums / np.where(alive, counts, 1)[:, None], self.centers)
        self.iteration += 1

    def check_labels(self, lloyd, centers):
        """Those of the full pass; where they differ the two distances must be tied within 8 ulp of their terms."""
        different = np.flatnonzero(lloyd != self.labels)
        rows = (self.X[different] - self.origin).astype(np.float64)
        mine = ((rows - centers[self.labels[different]]) ** 2).sum(axis=1)
        other = ((rows - centers[lloyd[different]]) ** 2).sum(axis=1)
        scale = (rows**2).sum(axis=1) + mine
        assert np.all(np.abs(mine - other) <= 8 * np.finfo(self.X.dtype).eps * scale)

    def check_totals(self):
        k, d = self.centers.shape
        rows, w = (self.X - self.origin).astype(np.float64), self.w.astype(np.float64) if len(self.w) else 1.0
        w = np.broadcast_to(w, len(rows))
        sums = np.zeros((k, d))
        np.add.at(sums, self.labels, w[:, None] * rows)
        atol = 1e-5 * len(rows) * max(1e-9, np.abs(rows).max()) if self.X.dtype == np.float32 else 1e-10 * len(rows)
        np.testing.assert_allclose(self.total[:k], np.bincount(self.labels, w, k), rtol=1e-6, atol=atol)
        np.testing.assert_allclose(self.total[k:-1].reshape(k, d), sums, rtol=1e-5, atol=atol)
        exact = self.previous
        mine = np.sqrt(((rows - exact[self.labels]) ** 2).sum(axis=1))
        assert np.all(self.upper >= mine * (1 - 1e-15))
        for c in range(k):
            others = self.labels != c
            distance = np.sqrt(((rows[others] - exact[c]) ** 2).sum(axis=1))
            assert np.all(self.lower[others] <= distance)


def blobs(n, d, k, dtype, seed, offset=0.0, duplicates=False):
    rng = np.random.default_rng(seed)
    true = rng.uniform(-3, 3, (k, d))
    X = (true[rng.integers(0, k, n)] + rng.standard_normal((n, d)) + offset).astype(dtype)
    if duplicates:
        X = X[rng.integers(0, max(1, n // 5), n)]
    return X, X[rng.choice(n, k, replace=n < k)], rng


@given(
    n=st.integers(1, 900),
    d=st.integers(1, 40),
    k=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(ISAS),
    weighted=st.booleans(),
    duplicates=st.booleans(),
    offset=st.sampled_from([0.0, 1e4]),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_bounded_is_lloyd(n, d, k, dtype, isa, weighted, duplicates, offset, seed):
    nearest.force_isa(isa)
    X, start, rng = blobs(n, d, k, dtype, seed, offset, duplicates)
    w = rng.integers(0, 3, n).astype(dtype) if weighted else np.empty(0, dtype)
    run = Bounded(X, w, start)
    for _ in range(9):
        run.step()
    run.check_totals()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "d", "k"), [(6000, 2, 8), (5000, 16, 16), (3000, 64, 30), (900, 200, 10), (900, 250, 40)]
)
def test_bounded_over_a_run(n, d, k, dtype, isa):
    nearest.force_isa(isa)
    X, start, _ = blobs(n, d, k, dtype, 1)
    run = Bounded(X, np.empty(0, dtype), start, recount=10)
    for _ in range(25):
        run.step()
    run.check_totals()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [3, 64])
def test_bounded_has_the_same_bits_for_any_number_of_threads(d, dtype):
    runs = []
    for n_threads in (1, 2, 7):
        X, start, rng = blobs(20000, d, 20, dtype, 2)
        run = Bounded(X, rng.random(len(X)).astype(dtype), start, n_threads=n_threads)
        for _ in range(4):
            run.step()
        runs.append((run.total, run.labels, run.upper, run.lower))
    for run in runs[1:]:
        for expected, got in zip(runs[0], run, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_bounded_skips_rows_that_cannot_change():
    """Nothing moved: no row may be read.  NaN in X would end in labels or bounds if one were."""
    X, start, _ = blobs(3000, 8, 4, np.float64, 5)
    run = Bounded(X, np.empty(0), start)
    run.step()
    slack = run.upper < run.lower
    poisoned = X.copy()
    poisoned[slack] = np.nan
    exact = run.previous
    half_norms = 0.5 * (exact**2).sum(axis=1)
    labels, upper = run.labels.copy(), run.upper.copy()
    changed = nearest.accumulate_bounded(
        poisoned, run.w, run.origin, exact, half_norms, np.zeros(4), np.zeros(4), run.labels, run.upper, run.lower,
        run.changes, run.delta, np.empty(0), np.zeros(4, np.int32), 1,
    )  # fmt: skip
    assert slack.mean() > 0.9
    assert changed == 0
    assert not run.delta.any()
    np.testing.assert_array_equal(run.labels, labels)
    np.testing.assert_allclose(run.upper, upper, rtol=1e-14)


def seeding(X, w, picks, candidates, n_threads, prune=True):
    """Commit `picks` one by one, then score `candidates`; reductions, potential, closest, owner."""
    rows = X
    closest, owner = np.full(len(X), np.inf, X.dtype), np.zeros(len(X), np.int32)
    for s, pick in enumerate(picks):
        out = np.empty((grid.n_cells(len(X)), 2))
        chosen = np.ascontiguousarray(rows[picks[:s]]) if prune else rows[:0]
        nearest.score_seeds(X, w, rows[pick : pick + 1], chosen, closest, owner, s, out, n_threads)
        if not prune:
            owner[:] = 0
    potential = grid.merge_tree(out)[-1]
    out = np.empty((grid.n_cells(len(X)), len(candidates) + 1))
    chosen = np.ascontiguousarray(rows[picks]) if prune else rows[:0]
    nearest.score_seeds(X, w, np.ascontiguousarray(rows[candidates]), chosen, closest, owner, -1, out, n_threads)
    return grid.merge_tree(out)[:-1], potential, closest, owner


@given(
    n=st.integers(12, 900),
    d=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(ISAS),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_seeding_agrees_with_numpy(n, d, dtype, isa, weighted, seed):
    nearest.force_isa(isa)
    X, _, rng = blobs(n, d, 6, dtype, seed)
    w = rng.random(n).astype(dtype) if weighted else np.empty(0, dtype)
    picks, candidates = rng.choice(n, 7, replace=False), rng.choice(n, 4, replace=False)
    gains, potential, closest, owner = seeding(X, w, picks, candidates, 1)
    rows = X.astype(np.float64)
    weights = w.astype(np.float64) if weighted else np.ones(n)
    rtol = 50 * np.finfo(dtype).eps
    to = np.stack([((rows - rows[s]) ** 2).sum(axis=1) for s in picks], axis=1)
    scale = to.max()
    np.testing.assert_allclose(closest, to.min(axis=1), rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(to[np.arange(n), owner], to.min(axis=1), rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(potential, weights @ to.min(axis=1), rtol=rtol)
    for gain, c in zip(gains, candidates, strict=True):
        lower = np.minimum(to.min(axis=1), ((rows - rows[c]) ** 2).sum(axis=1))
        np.testing.assert_allclose(gain, weights @ (to.min(axis=1) - lower), rtol=rtol, atol=rtol * scale * n**0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pruning_changes_nothing_and_neither_do_threads(dtype):
    X, _, rng = blobs(9000, 6, 30, dtype, 4)
    w = rng.random(len(X)).astype(dtype)
    picks, candidates = rng.choice(len(X), 25, replace=False), rng.choice(len(X), 5, replace=False)
    expected = seeding(X, w, picks, candidates, 1, prune=False)
    for n_threads in (1, 2, 7):
        got = seeding(X, w, picks, candidates, n_threads)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-12 if dtype == np.float64 else 1e-5)
        np.testing.assert_array_equal(got[2], expected[2])
        if n_threads == 1:
            one = got
        for a, b in zip(one, got, strict=True):
            np.testing.assert_array_equal(b, a)


@pytest.mark.parametrize("m", [0, 1, 2, 3, 7, 8, 33])
@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_merge_tree_is_that_of_stats(m, n_threads):
    records = np.random.default_rng(0).standard_normal((m, 40001))
    if m == 0:
        nearest.merge_tree(records, n_threads)
        return
    expected = grid.merge_tree(records.copy())
    nearest.merge_tree(records, n_threads)
    np.testing.assert_array_equal(records[0], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["blobs", "weights", "duplicates", "offset"])
def test_active_centres_change_nothing(monkeypatch, dtype, kind):
    """Labels and centres at every iteration are Lloyd's, also where most rows are compared with some centres only."""
    from fastem import KMeans
    from fastem.families.kmeans import active_centers

    monkeypatch.setattr(active_centers, "MANY", 96)
    monkeypatch.setattr(active_centers, "WORK", 0)
    chosen, choose = [], active_centers.choose

    def watched(*args):
        chosen.append(choose(*args))
        return chosen[-1]

    monkeypatch.setattr(active_centers, "choose", watched)
    X, start, _ = blobs(9000, 6, 150, dtype, 3)
    weights = None
    if kind == "weights":
        weights = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    if kind == "duplicates":
        X = np.round(X)
        start = np.unique(X, axis=0)[::7][:150].astype(np.float64)
    if kind == "offset":
        X, start = X + dtype(1000), start + 1000
    fits = {
        algorithm: KMeans(
            len(start), init=start, n_init=1, algorithm=algorithm, max_iter=40, tol=0, keep_history=True
        ).fit(X, sample_weight=weights)
        for algorithm in ("lloyd", "hamerly")
    }
    lloyd, bounded = fits["lloyd"], fits["hamerly"]
    assert any((groups == 1).any() and (groups == 2).any() for groups in chosen)  # some stay, some join
    assert any((groups > 0).sum() >= nearest.LEAST_ACTIVE for groups in chosen)
    assert bounded.n_iter_ == lloyd.n_iter_
    for a, b in zip(lloyd.history_, bounded.history_, strict=True):
        np.testing.assert_allclose(b.centers, a.centers, rtol=1e-5 if dtype == np.float32 else 1e-10, atol=1e-6)
    np.testing.assert_array_equal(bounded.labels_, lloyd.labels_)
    assert bounded.inertia_ == pytest.approx(lloyd.inertia_, rel=1e-6)
