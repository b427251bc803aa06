"""Kernels and algebra of the four covariance types against slow NumPy."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from gaussian_problems import DTYPES, RTOL, close, problem, record, shape_of

from fastem.families.elliptical.records import GaussianParams, prepared_means, updated_means
from fastem.grid import CELL, merge_tree, plan
from fastem.kernels.expected import Expected
from fastem.sources.memory import MemorySource

TYPES = ("full", "tied", "diag", "spherical")
SHAPES = (
    (1, 1, 1),
    (700, 1, 3),
    (2 * CELL + 5, 2, 4),
    (300, 3, 2),
    (2500, 4, 3),
    (900, 5, 9),
    (600, 19, 3),
    (400, 40, 70),
)


def expected(X, params, covariance_type):
    gaussian = shape_of(covariance_type)
    n, k = len(X), len(params.weights)
    out = Expected(np.empty((n, k)), np.empty(n), np.empty(n, np.int32), np.empty((n, k)))
    gaussian.expect.serial(X, gaussian.prepare(params, X.dtype), 0, -(-n // CELL), out)
    return out


def m_step(stats, constants, prepared, params, covariance_type, reg=0.0):
    gaussian = shape_of(covariance_type)
    covariances = gaussian.covariances_from_stats(stats, constants, prepared, params.covariances)
    covariances = gaussian.add_to_diagonal(covariances, reg)
    means = updated_means(stats, prepared, params.means)
    factors = gaussian.precisions_cholesky(covariances)
    return GaussianParams(stats.counts / stats.counts.sum(), means, covariances, factors)


def fit(X, params, covariance_type, n_iter=5, w=None, labels=None, reg=0.0):
    """A few iterations of EM; returns parameters and the mean log-likelihood of each."""
    source = MemorySource(X, None if w is None else w.astype(X.dtype), labels)
    constants = shape_of(covariance_type).constants(source)
    trace = []
    for _ in range(n_iter):
        stats, prepared = record(X, w, labels, params, covariance_type)
        trace.append(float(stats.loglik / stats.counts.sum()))
        params = m_step(stats, constants, prepared, params, covariance_type, reg)
    return params, trace


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_accumulate_is_the_oracle(shape, covariance_type, dtype):
    n, d, k = shape
    X, params = problem(n, d, k, covariance_type, dtype)
    rng = np.random.default_rng(1)
    some = (rng.integers(0, 3, n).astype(float), np.where(rng.random(n) < 0.3, rng.integers(0, k, n), -1).astype("i4"))
    for w, labels in ((None, None), some):
        stats, prepared = record(X, w, labels, params, covariance_type)
        weights = np.ones(n) if w is None else w
        loglik, counts, sums, scatter = naive.gaussian_stats(
            X, weights, labels, params, covariance_type, prepared_means(prepared)
        )
        close(stats.loglik, loglik, RTOL[dtype], abs(loglik))
        close(stats.counts, counts, RTOL[dtype])
        close(stats.sums, sums, RTOL[dtype], np.abs(scatter).max())
        if covariance_type == "full":
            close(stats.scatter, scatter, RTOL[dtype])
            assert np.array_equal(stats.scatter, stats.scatter.transpose(0, 2, 1))
        elif covariance_type == "diag":
            close(stats.scatter, np.diagonal(scatter, axis1=1, axis2=2), RTOL[dtype])
        elif covariance_type == "spherical":
            close(stats.scatter, np.trace(scatter, axis1=1, axis2=2), RTOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("d", [1, 2, 5, 8])
def test_expect_is_the_oracle_and_agrees_with_accumulate(d, covariance_type, dtype):
    X, params = problem(CELL + 77, d, 4, covariance_type, dtype)
    out = expected(X, params, covariance_type)
    log_joint = naive.gaussian_log_joint(X, *params[:3], covariance_type)
    loglik, resp = naive.responsibilities(log_joint)
    close(out.log_joint, log_joint, RTOL[dtype])
    close(out.loglik, loglik, RTOL[dtype])
    close(out.resp, resp, 10 * RTOL[dtype])
    assert np.array_equal(out.labels, out.log_joint.argmax(axis=1))
    stats, _ = record(X, None, None, params, covariance_type)
    np.testing.assert_allclose(out.loglik.sum(), stats.loglik, rtol=1e-12)
    np.testing.assert_allclose(out.resp.sum(axis=0), stats.counts, rtol=1e-12 if dtype == np.float64 else 1e-5)
    plain = Expected.of_no_rows(4)._replace(log_joint=np.empty_like(out.log_joint))
    prepared = shape_of(covariance_type).prepare(params, X.dtype)
    shape_of(covariance_type).expect.parallel(X, prepared, 0, 2, plain)
    assert np.array_equal(plain.log_joint, out.log_joint)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_far_rows_are_one_hot(covariance_type, dtype):
    X, params = problem(300, 4, 3, covariance_type, dtype)
    X[5], X[6] = 1e30, -1e30  # overflows in float32 only: in float64 rounding hides the differences
    X[7] = (params.means[1] - params.means.mean(axis=0)) * 1e6
    if dtype == np.float64:
        X[5] = 1e160
    out = expected(X, params, covariance_type)
    assert np.all(np.isfinite(out.resp))
    assert np.all(np.sort(out.resp[5:8], axis=1) == [0, 0, 1])
    assert np.array_equal(out.resp[5:8].argmax(axis=1), out.labels[5:8])
    assert not np.isnan(out.loglik).any()
    near = np.r_[0:5, 8:300]
    loglik, resp = naive.responsibilities(naive.gaussian_log_joint(X[near], *params[:3], covariance_type))
    close(out.resp[near], resp, 10 * RTOL[dtype])
    # In the statistics they count as one row each, and a row of weight 0 as none.
    w = np.ones(300)
    w[5:8] = 0
    stats, _ = record(X, w, None, params, covariance_type)
    close(stats.counts, resp.sum(axis=0), RTOL[dtype])
    close(stats.loglik, loglik.sum(), RTOL[dtype])
    w[5:8] = 1
    stats, _ = record(X, w, None, params, covariance_type)
    close(stats.counts, resp.sum(axis=0) + out.resp[5:8].sum(axis=0), RTOL[dtype])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_dead_component_keeps_its_parameters(covariance_type):
    X, params = problem(500, 3, 4, covariance_type)
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    params = params._replace(weights=weights)
    stats, prepared = record(X, None, None, params, covariance_type)
    assert stats.counts[1] == 0
    constants = shape_of(covariance_type).constants(MemorySource(X))
    new = m_step(stats, constants, prepared, params, covariance_type)
    assert np.array_equal(new.means[1], params.means[1])
    if covariance_type != "tied":
        assert np.array_equal(new.covariances[1], params.covariances[1])
    others = params._replace(
        weights=weights[[0, 2, 3]],
        means=params.means[[0, 2, 3]],
        covariances=params.covariances if covariance_type == "tied" else params.covariances[[0, 2, 3]],
        precisions_cholesky=params.precisions_cholesky
        if covariance_type == "tied"
        else params.precisions_cholesky[[0, 2, 3]],
    )
    without, _ = record(X, None, None, others, covariance_type)
    close(stats.counts[[0, 2, 3]], without.counts, 1e-12)
    # A component far from all rows dies by itself.
    params = problem(500, 3, 4, covariance_type)[1]
    params.means[2] = 1e4
    stats, prepared = record(X, None, None, params, covariance_type)
    assert stats.counts[2] == 0
    assert np.array_equal(updated_means(stats, prepared, params.means)[2], params.means[2])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_iterations_agree_with_the_formulas(covariance_type):
    X, params = problem(1500, 5, 3, covariance_type)
    w = np.random.default_rng(2).uniform(0, 2, len(X))
    new, trace = fit(X, params, covariance_type, n_iter=6, w=w)
    assert np.all(np.diff(trace) > 0)
    weights, means, covariances = params[:3]
    for expected_loglik in trace:
        loglik, resp = naive.responsibilities(naive.gaussian_log_joint(X, weights, means, covariances, covariance_type))
        np.testing.assert_allclose(expected_loglik, w @ loglik / w.sum(), rtol=1e-11)
        resp = resp * w[:, None]
        counts = resp.sum(axis=0)
        weights, means = counts / counts.sum(), resp.T @ X / counts[:, None]
        scatter = np.array([(X - m).T @ ((X - m) * r[:, None]) for m, r in zip(means, resp.T, strict=True)])
        covariances = {
            "full": lambda s, n: s / n[:, None, None],
            "tied": lambda s, n: s.sum(axis=0) / n.sum(),
            "diag": lambda s, n: np.diagonal(s, axis1=1, axis2=2) / n[:, None],
            "spherical": lambda s, n: np.trace(s, axis1=1, axis2=2) / n / s.shape[1],
        }[covariance_type](scatter, counts)
    np.testing.assert_allclose(new.weights, weights, rtol=1e-9)
    np.testing.assert_allclose(new.means, means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(new.covariances, covariances, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_are_repetitions(covariance_type, dtype):
    X, params = problem(900, 3, 3, covariance_type, dtype)
    times = np.random.default_rng(3).integers(0, 4, len(X))
    weighted, prepared = record(X, times, None, params, covariance_type)
    repeated, _ = record(np.repeat(X, times, axis=0), None, None, params, covariance_type)
    for one, other in zip(weighted, repeated, strict=True):
        close(one, other, 1e-12 if dtype == np.float64 else 1e-6)
    a, b = (
        shape_of(covariance_type).constants(MemorySource(rows, weights))
        for rows, weights in ((X, times.astype(dtype)), (np.repeat(X, times, axis=0), None))
    )
    if covariance_type == "tied":
        for one, other in zip(a, b, strict=True):
            close(one, other, 1e-12 if dtype == np.float64 else 1e-6)
    assert np.all(prepared.means.dtype == dtype)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_same_bits_for_any_threads(covariance_type):
    from fastem import threads

    X, params = problem(40 * CELL + 11, 3, 5, covariance_type)
    gaussian = shape_of(covariance_type)
    prepared = gaussian.prepare(params, X.dtype)
    layout = gaussian.layout(5, 3)
    level, n_tasks = plan(len(X), layout.size)
    bits = set()
    for n_threads in (1, 2, 7):
        out = np.empty((n_tasks, layout.size))
        nothing = np.empty(0), np.empty(0, np.int32)
        threads.run_sweep(gaussian.accumulate, (X, *nothing, prepared), level, out, n_threads)
        bits.add(merge_tree(out).tobytes())
    assert len(bits) == 1


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("dtype", "offset", "tol"), [(np.float64, 1e8, 1e-6), (np.float32, 1e4, 1e-4)])
def test_large_offsets_do_no_harm(covariance_type, dtype, offset, tol):
    X, params = problem(3000, 3, 3, covariance_type, np.float64, spread=8.0)
    X = (X + offset).astype(dtype)
    params = params._replace(means=params.means + offset)
    moved, _ = fit(X, params, covariance_type, n_iter=10)
    # The same rounded rows, brought back without rounding, in float64.
    here, _ = fit(
        X.astype(np.float64) - offset, params._replace(means=params.means - offset), covariance_type, n_iter=10
    )
    np.testing.assert_allclose(moved.means - offset, here.means, rtol=0, atol=tol * 8)
    np.testing.assert_allclose(moved.covariances, here.covariances, rtol=0, atol=tol * np.abs(here.covariances).max())
    np.testing.assert_allclose(moved.weights, here.weights, rtol=0, atol=tol)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_of_given_responsibilities(covariance_type):
    X, params = problem(800, 3, 4, covariance_type)
    w = np.random.default_rng(4).uniform(0, 2, len(X))
    stats, prepared = record(X, w, None, params, covariance_type)
    vector = np.zeros(shape_of(covariance_type).layout(4, 3).size)
    shape_of(covariance_type).add_q_stats(X, w, expected(X, params, covariance_type).resp, prepared, vector)
    given = shape_of(covariance_type).layout(4, 3).view(vector)
    for name in stats._fields[1:]:
        close(getattr(given, name), getattr(stats, name), 1e-12)
    assert given.loglik == 0


@pytest.mark.parametrize("covariance_type", TYPES)
def test_expected_log_likelihood_is_maximal_at_the_m_step(covariance_type):
    X, params = problem(800, 3, 2, covariance_type)
    gaussian = shape_of(covariance_type)
    stats, prepared = record(X, None, None, params, covariance_type)
    constants = gaussian.constants(MemorySource(X))
    best = m_step(stats, constants, prepared, params, covariance_type)
    resp = expected(X, params, covariance_type).resp
    for candidate in (params, best):
        direct = np.sum(resp * naive.gaussian_log_joint(X, *candidate[:3], covariance_type))
        q = gaussian.expected_log_likelihood(stats, constants, prepared, candidate)
        np.testing.assert_allclose(q, direct, rtol=1e-10)
    highest = gaussian.expected_log_likelihood(stats, constants, prepared, best)
    rng = np.random.default_rng(5)
    for _ in range(5):
        covariances = gaussian.add_to_diagonal(best.covariances, rng.uniform(0.01, 0.1))
        other = GaussianParams(
            best.weights,
            best.means + 0.1 * rng.standard_normal(best.means.shape),
            covariances,
            gaussian.precisions_cholesky(covariances),
        )
        assert gaussian.expected_log_likelihood(stats, constants, prepared, other) < highest


@pytest.mark.parametrize("covariance_type", TYPES)
def test_samples_have_the_moments(covariance_type):
    _, params = problem(10, 3, 2, covariance_type)
    draws = shape_of(covariance_type).sample(params, 1, np.random.default_rng(6).standard_normal((200_000, 3)))
    sigma = naive.full_covariances(params.covariances, covariance_type, 2, 3)[1]
    np.testing.assert_allclose(draws.mean(axis=0), params.means[1], atol=0.02)
    np.testing.assert_allclose(np.cov(draws.T), sigma, atol=0.05)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_singular_covariances_are_refused(covariance_type):
    _, params = problem(10, 3, 2, covariance_type)
    singular = params.covariances.copy()
    singular[0] = 0
    with pytest.raises(np.linalg.LinAlgError):
        shape_of(covariance_type).precisions_cholesky(singular)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_and_log(dtype):
    from fastem.jit import kernel
    from fastem.kernels import responsibilities as kernels

    @kernel
    def both(x, y, exps, logs):
        for i in range(x.size):
            exps[i] = kernels.exp(x[i])
            logs[i] = kernels.log(y[i])

    low = -650 if dtype == np.float64 else -70
    rng = np.random.default_rng(7)
    x = np.concatenate(([0.0, -np.inf, -1e30, -800.0], rng.uniform(low, 0, 3000), rng.uniform(-1, 0, 3000))).astype(
        dtype
    )
    y = np.concatenate(([1.0], np.exp(rng.uniform(-5, 10, len(x) - 1)))).astype(dtype)
    exps, logs = np.empty_like(x), np.empty_like(y)
    both(x, y, exps, logs)
    eps = np.finfo(dtype).eps
    assert exps[0] == 1
    assert np.all(exps[1:4] == 0)
    np.testing.assert_allclose(exps[4:], np.exp(x[4:].astype(np.longdouble)).astype(float), rtol=eps)
    assert logs[0] == 0
    np.testing.assert_allclose(logs, np.log(y.astype(np.longdouble)).astype(float), rtol=1.5 * eps, atol=0)


def test_skipping_changes_nothing_beyond_rounding():
    # Clusters so far apart that most blocks hold nothing of most components, in rows ordered by cluster.
    X, params = problem(4000, 2, 8, "full", spread=60.0)
    order = np.argsort(naive.gaussian_log_joint(X, *params[:3], "full").argmax(axis=1), kind="stable")
    stats, prepared = record(np.ascontiguousarray(X[order]), None, None, params, "full")
    loglik, counts, sums, scatter = naive.gaussian_stats(
        X, np.ones(4000), None, params, "full", prepared_means(prepared)
    )
    np.testing.assert_allclose(stats.loglik, loglik, rtol=1e-12)
    np.testing.assert_allclose(stats.counts, counts, rtol=1e-12)
    np.testing.assert_allclose(stats.sums, sums, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stats.scatter, scatter, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("d", [2, 5, 40])
def test_a_covariance_that_is_singular_to_rounding_has_no_factor(d):
    """Whether LAPACK finds one is a matter of rounding, and of which BLAS there is."""
    rng = np.random.default_rng(d)
    scales = np.exp(rng.uniform(-20, 20, d))
    for _ in range(50):
        thin = rng.standard_normal((d, d // 2)) * scales[:, None]
        with pytest.raises(np.linalg.LinAlgError):
            shape_of("full").precisions_cholesky((thin @ thin.T)[None])
        wide = rng.standard_normal((d, 4 * d)) * scales[:, None]
        assert np.isfinite(shape_of("full").precisions_cholesky((wide @ wide.T)[None])).all()
