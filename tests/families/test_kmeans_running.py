"""Means that move with every batch: those of CSR rows, kept as sums with a scale, are those of the dense rows."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

from fastem.families.kmeans.csr import CSRKMeansFamily, CSRRows
from fastem.families.kmeans.family import KMeansFamily
from fastem.families.kmeans.running import CSRRunningMeans, Moves, RunningMeans
from fastem.sources.csr import CSRSource
from fastem.sources.memory import MemorySource


def batch(rng, d, dtype, weighted):
    n = int(rng.integers(1, 60))
    X = (rng.normal(1, 2, (n, d)) * (rng.random((n, d)) < 0.3)).astype(dtype)
    w = rng.choice([0.0, 0.5, 1.0, 3.0], n).astype(dtype) if weighted else np.empty(0, dtype)
    return X, w


@settings(max_examples=60, deadline=None)
@given(
    k=st.sampled_from([1, 2, 5, 17]),
    d=st.sampled_from([1, 6, 40]),
    dtype=st.sampled_from([np.float32, np.float64]),
    weighted=st.booleans(),
    met=st.booleans(),
    moving=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_means_of_csr_rows_are_those_of_the_dense_rows(k, d, dtype, weighted, met, moving, seed):
    rng = np.random.default_rng(seed)
    centers = rng.normal(1, 2, (k, d)).astype(dtype)
    counts = rng.choice([0.0, 2.5, 40.0], k) if met else np.zeros(k)
    dense = RunningMeans(KMeansFamily(k), centers, counts)
    sums = CSRRunningMeans(CSRKMeansFamily(k), centers, counts, np.dtype(dtype))
    close = {"rtol": 1e-10, "atol": 1e-9} if dtype == np.float64 else {"rtol": 2e-5, "atol": 2e-4}
    for _ in range(4):
        X, w = batch(rng, d, dtype, weighted)
        here, there = MemorySource(X, w), CSRSource(sparse.csr_matrix(X), w)
        ours, theirs = sums.prepare(dtype), dense.prepare(np.dtype(dtype))
        found, wanted = there.accumulate(sums.family, ours), here.accumulate(dense.family, theirs)
        assume(
            np.array_equal(found.counts, wanted.counts)
        )  # rounding decides ties, as between centres moved to one row
        np.testing.assert_allclose(found.inertia, wanted.inertia, **close)
        moves = None
        if moving:
            which, rows = np.flatnonzero(rng.random(k) < 0.4), rng.integers(0, len(X), k)
            rows = rows[: len(which)]
            moves = Moves(which, rows, float(rng.choice([0.0, 1.0, 7.0])))
        changes = [
            means.meet(stats, prepared, moves and moves._replace(rows=source.rows_for(means.family, moves.rows)))
            for means, stats, prepared, source in ((sums, found, ours, there), (dense, wanted, theirs, here))
        ]
        np.testing.assert_array_equal(sums.counts, dense.counts)
        np.testing.assert_allclose(sums.centers, dense.centers, **close)
        np.testing.assert_allclose(*changes, rtol=close["rtol"], atol=100 * close["atol"])
    norms = np.square(dense.centers).sum(axis=1)
    np.testing.assert_allclose(sums.prepare(dtype).norms(1)[0], norms, **{**close, "rtol": 10 * close["rtol"]})
    np.testing.assert_allclose(sums.settled(), dense.settled(), **close)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_do_not_drift(dtype):
    rng = np.random.default_rng(0)
    X = (rng.random((400, 30)) * (rng.random((400, 30)) < 0.2)).astype(dtype)
    means = CSRRunningMeans(CSRKMeansFamily(4), X[:4], np.zeros(4), np.dtype(dtype))
    for _ in range(500):
        part = CSRSource(sparse.csr_matrix(X[rng.integers(0, 400, 50)]))
        prepared = means.prepare(dtype)
        means.meet(part.accumulate(means.family, prepared), prepared, None)
    exact = np.square(means._sums, dtype=np.float64).sum(axis=0)
    np.testing.assert_allclose(means._norms.sum(axis=0), exact, rtol=1e-13)


def test_rows_taken_make_their_matrix_when_it_is_asked_for():
    X = sparse.random(50, 20, 0.2, format="csr", random_state=0)
    part = CSRSource(X).subset(np.array([3, 3, 7]), np.empty(0))
    assert (part.n_rows, part.n_features, part.dtype, part.kind) == (3, 20, X.dtype, type(X))
    assert "X" not in vars(part)
    np.testing.assert_array_equal(part.X.toarray(), X[[3, 3, 7]].toarray())
    assert isinstance(part.subset(np.array([0]), np.empty(0)).rows, CSRRows)
