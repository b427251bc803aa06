"""The parts around the kernels: the row grid, additive records, draws, the monitor, starts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy import stats as scipy_stats

from fastem import grid
from fastem.draws import Draws
from fastem.engine.monitor import Monitor, MonotonicityError, Settings
from fastem.sources.memory import MemorySource, SparseSource
from fastem.starts import kmeans_plus_plus
from fastem.starts.kmeans import variances


@given(st.integers(1, 10**9), st.integers(1, 10**7))
def test_a_plan_covers_the_grid_within_its_memory(n_rows, size):
    level, n_tasks = grid.plan(n_rows, size)
    cells = grid.n_cells(n_rows)
    assert (n_tasks - 1) << level < cells <= n_tasks << level
    assert n_tasks <= grid.MAX_TASKS
    assert n_tasks == 1 or 8 * size * n_tasks <= grid.MAX_TASK_BYTES


@given(st.integers(1, 300), st.integers(0, 5))
def test_merging_by_tasks_gives_the_bits_of_the_whole_tree(n_cells, level):
    records = Draws(n_cells).normal(n_cells)[:, None]
    whole = grid.merge_tree(records.copy())
    width = 1 << level
    tasks = np.array([grid.merge_tree(records[first : first + width].copy()) for first in range(0, n_cells, width)])
    assert grid.merge_tree(tasks) == whole
    np.testing.assert_allclose(whole, records.sum(axis=0), atol=1e-12 * n_cells)


def test_draws_depend_on_seed_restart_and_number_alone():
    draws = Draws(7, 3)
    parts = np.concatenate([draws.bits(5), draws.bits(1), draws.bits(10)])
    np.testing.assert_array_equal(parts, Draws(7, 3).bits(16))
    others = [Draws(seed, restart).bits(1000) for seed in range(10) for restart in range(10)]
    assert len(np.unique(others)) == 100 * 1000
    assert Draws(-1).bits(1) == Draws(2**64 - 1).bits(1)


def test_draws_have_their_distributions():
    assert scipy_stats.kstest(Draws(1).uniform(100_000), "uniform").pvalue > 1e-3
    assert scipy_stats.kstest(Draws(2).normal(100_000), "norm").pvalue > 1e-3
    pairs = np.array([Draws(0, restart).uniform(2) for restart in range(2000)])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.08
    weights = np.array([0.0, 1.0, 2.0, 0.0, 5.0, 0.0])
    counts = np.bincount(Draws(3).weighted(weights, 80_000), minlength=6)
    assert counts[[0, 3, 5]].sum() == 0
    np.testing.assert_allclose(counts / 80_000, weights / 8, atol=0.01)


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 50))
def test_distinct_rows_are_distinct(n, share, seed):
    m = int(share * n)
    rows = Draws(seed).distinct(n, m)
    assert len(set(rows.tolist())) == m
    assert np.all((rows >= 0) & (rows < n))
    weights = np.arange(n) % 2 * 1.0
    chosen = Draws(seed).weighted_distinct(weights, min(m, n // 2))
    assert np.all(weights[chosen] > 0)
    assert len(set(chosen.tolist())) == len(chosen)


def test_drawing_more_rows_than_there_are_is_refused():
    with pytest.raises(ValueError, match="Cannot draw 4 distinct rows out of 3"):
        Draws(0).distinct(3, 4)


def test_the_monitor_stops_at_tol_and_at_max_iter():
    monitor = Monitor(Settings(max_iter=3, tol=0.1), 0, None)
    for change, stop in ((1.0, False), (0.5, False), (0.2, True)):
        monitor.observe(1.0, 1e-12, lambda: 0.0)
        assert monitor.advance(change, None, settled=True) is stop
    assert not monitor.converged
    monitor = Monitor(Settings(tol=0.1), 0, None)
    monitor.observe(1.0, 1e-12, lambda: 0.0)
    assert not monitor.advance(0.0, None, settled=False), "moved parameters have not converged"
    monitor.observe(1.0, 1e-12, lambda: 0.0)
    assert monitor.advance(0.0, None, settled=True)
    assert monitor.converged


def test_the_certificate_allows_rounding_and_the_shortfall_but_no_more():
    monitor = Monitor(Settings(certify=True), 2, None)
    monitor.observe(-5.0, 1e-9, lambda: 0.0)
    monitor.observe(-5.0 - 1e-9, 1e-9, lambda: pytest.fail("not asked within rounding"))
    monitor.observe(-5.3, 1e-9, lambda: 0.3)
    with pytest.raises(MonotonicityError, match=r"fell by 0.2 at iteration 4 of restart 2, more than the 0.1"):
        monitor.observe(-5.5, 1e-9, lambda: 0.1)
    lenient = Monitor(Settings(), 0, None)
    lenient.observe(0.0, 1e-9, lambda: 0.0)
    lenient.observe(-1.0, 1e-9, lambda: 0.0)
    assert "fell by 1 at iteration 2" in lenient.notes[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kmeans_plus_plus_spreads_over_the_clusters(weighted, dtype):
    centers = np.array([[0, 0], [50, 0], [0, 50], [50, 50], [1e5, 1e5]], float)
    X = (centers[np.arange(3000) % 4] + Draws(0).normal(6000).reshape(-1, 2)).astype(dtype)
    X[7] = centers[4]
    w = np.ones(3000, dtype)
    w[7] = 0.0 if weighted else 1.0
    for seed in range(10):
        found = kmeans_plus_plus.kmeans_plus_plus(MemorySource(X, w if weighted else None), 4, Draws(seed))
        nearest = {int(np.square(centers - row).sum(axis=1).argmin()) for row in found}
        assert (4 in nearest) is not weighted, "a row of weight 0 is never chosen, a far one always"
        if weighted:
            assert nearest == {0, 1, 2, 3}


def test_variances_are_numpys():
    X = Draws(0).normal(9000).reshape(3000, 3) * [1, 10, 0] + [1e6, 0, 5]
    w = Draws(1).uniform(3000)
    mean = np.average(X, axis=0, weights=w)
    want = np.average(np.square(X - mean), axis=0, weights=w)
    np.testing.assert_allclose(variances(MemorySource(X, w)), want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(variances(MemorySource(X)), X.var(axis=0), rtol=1e-9, atol=1e-12)


def naive_potential(X, w, seeds):
    return w * np.square(X[:, None] - seeds).sum(axis=2).min(axis=1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
def test_pruned_seeding_keeps_the_exact_distances_and_takes_the_best_candidate(dtype, weighted):
    X = (Draws(4).normal(30_000).reshape(-1, 5) * 3 + 100).astype(dtype)
    w = Draws(5).uniform(6000).astype(dtype)
    source = MemorySource(X, w if weighted else None)
    mass = w if weighted else np.ones(6000)
    search = kmeans_plus_plus._Search(source, 20)
    search.add(11)
    draws = Draws(6)
    for count in range(1, 20):
        X64, seeds = X.astype(np.float64), search.seeds[:count]
        want = naive_potential(X64, np.ones(6000), seeds)
        np.testing.assert_allclose(search.closest, want, rtol=1e-3 if dtype == np.float32 else 1e-9, atol=1e-4)
        np.testing.assert_allclose(search.potential.sum(), mass @ want, rtol=1e-5)
        candidates = search.draw(draws, 4)
        search.score(candidates)
        potentials = [naive_potential(X64, mass, np.vstack([seeds, X64[c]])).sum() for c in candidates]
        best = candidates.tolist().index(search.best())
        assert potentials[best] <= min(potentials) * (1 + 1e-6)
        if count % 2:
            search.add(candidates[best])
            continue
        following = np.arange(5)
        search.add_and_score(candidates[best], following)
        seeds = search.seeds[: count + 1]
        want = [
            mass @ want - naive_potential(X64, mass, np.vstack([seeds, X64[c]])).sum()
            for want in [naive_potential(X64, np.ones(6000), seeds)]
            for c in following
        ]
        np.testing.assert_allclose(search.reductions, want, rtol=1e-3, atol=1e-3 * max(want))


def test_seeds_are_the_same_for_any_number_of_threads_and_for_sparse_rows():
    X = np.maximum(Draws(4).normal(60_000).reshape(-1, 6), 0)
    sources = [
        MemorySource(X, n_threads=1),
        MemorySource(X, n_threads=2),
        SparseSource(sparse.csr_matrix(X), n_threads=2),
    ]
    seeds = [kmeans_plus_plus.kmeans_plus_plus(source, 15, Draws(3)) for source in sources]
    np.testing.assert_array_equal(seeds[0], seeds[1])
    np.testing.assert_array_equal(seeds[0], seeds[2])


def test_rows_are_drawn_in_proportion_to_their_squared_distance():
    X = np.array([[0.0], [1.0], [3.0], [0.0]]).repeat(1500, axis=0)
    search = kmeans_plus_plus._Search(MemorySource(X), 2)
    search.add(0)
    values = X[search.draw(Draws(0), 40_000), 0]
    assert set(values) == {1.0, 3.0}
    assert np.mean(values == 3.0) == pytest.approx(0.9, abs=0.01)


def test_rejection_draws_as_if_the_seed_had_been_added(monkeypatch):
    monkeypatch.setattr(kmeans_plus_plus, "REJECTION_PAYS_OFF", 0)
    X = np.array([[0.0], [1.0], [3.0], [4.0]]).repeat(1500, axis=0)
    search = kmeans_plus_plus._Search(MemorySource(X), 2)
    search.add(0)  # squared distances 0, 1, 9, 16; with the seed 4 as well 0, 1, 1, 0
    drawn = [X[search.draw_after(5999, Draws(0, restart), 2), 0] for restart in range(4000)]
    values = np.concatenate(drawn)
    assert set(values) == {1.0, 3.0}
    assert np.mean(values == 3.0) == pytest.approx(0.5, abs=0.03)
    monkeypatch.setattr(kmeans_plus_plus, "TRIES", 400)
    values = np.concatenate([X[search.draw_after(5999, Draws(1, restart), 2), 0] for restart in range(400)])
    assert np.mean(values == 3.0) == pytest.approx(0.5, abs=0.06)


def test_seeds_do_not_depend_on_pruning_or_rejection(monkeypatch):
    X = Draws(4).normal(60_000).reshape(-1, 6)
    potentials = []
    for pays_off in (0, 10**9):
        monkeypatch.setattr(kmeans_plus_plus, "REJECTION_PAYS_OFF", pays_off)
        seeds = [kmeans_plus_plus.kmeans_plus_plus(MemorySource(X), 12, Draws(seed)) for seed in range(30)]
        potentials.append([naive_potential(X, np.ones(len(X)), found).sum() for found in seeds])
    assert scipy_stats.ks_2samp(*potentials).pvalue > 1e-3
