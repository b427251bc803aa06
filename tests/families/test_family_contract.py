"""What every family promises (fastem/families/base.py), checked over every registered one."""

import json
import os
import subprocess
import sys

import drawn
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastem import families
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.grid import CELL
from fastem.sources.memory import MemorySource

NAMES = sorted(families.FAMILIES)
K, D = 3, 4

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def size(name, k=K):
    """Number of components: k, or 1 for models that do not mix."""
    return k if families.mixes(name) else 1


def make(name, k=K):
    family = families.make(name, size(name, k))
    if hasattr(family, "reg_covar"):
        family.reg_covar = 0.0
    return family


def centers_of(params):
    """The parameters that `blank_params` takes: centres of the components, (k, d) or in an embedding (k, e)."""
    return next(field for field in params if field.ndim == 2)


def covariances_of(params):
    """The covariances, made of loadings and noise where they are not parameters; or matrices that stand for them."""
    for name in ("covariances", "scales"):
        if hasattr(params, name):
            return getattr(params, name)
    diagonal = np.eye(params.noise_variances.shape[1]) * params.noise_variances[:, None]
    return params.loadings @ np.swapaxes(params.loadings, 1, 2) + diagonal


def identifiable(params):
    """The parameters that rows can tell: factors may be turned."""
    if not hasattr(params, "loadings"):
        return params._asdict()
    others = {name: value for name, value in params._asdict().items() if name != "loadings"}
    return {**others, "covariances": covariances_of(params)}


def with_missing(X, share=0.2):
    """The same rows with holes."""
    return np.where(Draws(77).uniform(X.size).reshape(X.shape) < share, np.nan, X).astype(X.dtype)


def problem(name, n=700, seed=0, k=K, d=D):
    """A family, true parameters, rows drawn from them, and a start that is a little off."""
    family, draws = make(name, k), Draws(seed, 0)
    params = family.example_params(d, draws)
    X = drawn.rows(family, params, n, draws)
    centers = centers_of(params)
    start = family.blank_params(centers + 0.3 * draws.normal(centers.size).reshape(centers.shape), X.var(axis=0))
    return family, params, X, start


def expect(family, params, X, w=None, n_threads=1):
    """Statistics of one E-step."""
    weights = None if w is None else np.ascontiguousarray(w, X.dtype)
    return MemorySource(X, weights, n_threads=n_threads).accumulate(family, family.prepare(params, X.dtype))


def fit(family, start, X, w=None, max_iter=30, tol=1e-9, certify=True, n_threads=1):
    weights = None if w is None else np.ascontiguousarray(w, X.dtype)
    source = MemorySource(X, weights, n_threads=n_threads)
    return em.run_once(Problem(source, family), start, Settings(max_iter=max_iter, tol=tol, certify=certify))


def assert_close(a, b, rtol=1e-10):
    assert type(a) is type(b)
    for name, left, right in zip(a._fields, a, b, strict=True):
        scale = np.abs(right).max(initial=1e-300)
        np.testing.assert_allclose(left, right, rtol=0, atol=rtol * max(scale, 1e-3), err_msg=name)


def permuted(params, order, k=K):
    return type(params)(
        *(a[order] if a.shape[:1] == (k,) and not (a.ndim == 2 and a.shape == (D, D)) else a for a in params)
    )


@pytest.mark.parametrize("name", NAMES)
@given(n=st.integers(2, 3 * CELL), cut=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_statistics_are_additive_over_any_split(name, n, cut, seed):
    family, _, X, start = problem(name, n, seed)
    at = min(max(1, int(cut * n)), n - 1)
    both = naive.merge(expect(family, start, X[:at]), expect(family, start, X[at:]))
    assert_close(both, expect(family, start, X))


def two_centrings(name, missing, dtype=np.float64):
    """A family, rows, weights, a start and its E-step, and other parameters prepared, of float32."""
    family, other, X, start = problem(name)
    if missing and not family.allow_nan:
        pytest.skip("a family of complete rows")
    family, X = (family.for_missing(), with_missing(X)) if missing else (family, X)
    w = Draws(3).uniform(len(X))
    return family, X, w, start, family.prepare(start, X.dtype), family.prepare(other, np.dtype(np.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", [False, True])
def test_a_recentred_record_leads_to_the_same_m_step(name, missing):
    family, X, w, start, here, there = two_centrings(name, missing)
    source = MemorySource(X, w)
    stats, constants = source.accumulate(family, here), family.constants(source)
    moved = family.recentre(stats, here, there)
    assert type(moved) is type(stats)
    assert_close(
        family.m_step(moved, constants, there, start).params, family.m_step(stats, constants, here, start).params
    )
    assert any(not np.allclose(a, b) for a, b in zip(moved, stats, strict=True)) == family.continuous
    assert_close(family.recentre(moved, there, here), stats, 1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("student", "factor"))])
def test_a_recentred_record_is_that_of_the_same_responsibilities_centred_there(name):
    family, X, w, _, here, there = two_centrings(name, missing=False)
    layout, resp = family.layout(D), family.log_joint(X, here, 1)
    resp = np.exp(resp - np.logaddexp.reduce(resp, axis=1)[:, None])
    records = np.zeros((2, layout.size))
    for record, prepared in zip(records, (here, there), strict=True):
        family.accumulate_given(X, w, resp, prepared, record)
    want, got = layout.view(records[1]), family.recentre(layout.view(records[0]), here, there)
    assert_close(got._replace(loglik=want.loglik) if hasattr(got, "loglik") else got, want)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", [False, True])
def test_recentred_records_are_additive(name, missing):
    family, X, w, _, here, there = two_centrings(name, missing)
    parts = [MemorySource(X[rows], w[rows]).accumulate(family, here) for rows in (slice(0, 300), slice(300, None))]
    apart = naive.merge(*[family.recentre(part, here, there) for part in parts])
    assert_close(family.recentre(naive.merge(*parts), here, there), apart)


def test_a_recentred_record_of_counts_keeps_its_log_likelihood():
    family, X = families.make("poisson", 2), Draws(5).uniform(600).reshape(200, 3) * [[2.0, 300.0, 4000.0]]
    rates = [
        np.array([[1.0, 150.0, 2000.0], [2.0, 280.0, 3900.0]]),
        np.array([[70.0, 10.0, 900.0], [90.0, 20.0, 999.0]]),
    ]
    near, far = (family.params(np.array([0.4, 0.6]), own) for own in rates)
    source, here, there = MemorySource(X), family.prepare(near, X.dtype), family.prepare(far, X.dtype)
    assert np.any((here.origin == 0) & (there.origin > 0))
    assert np.any((there.origin > 0) & (here.origin > 0))
    stats, constants = source.accumulate(family, here), family.constants(source)
    moved = family.recentre(stats, here, there)
    assert family.objective(moved, constants, far) == pytest.approx(family.objective(stats, constants, near), rel=1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_fused_kernel_equals_the_two_steps_done_apart(name, weighted, missing):
    family, _, X, start = problem(name)
    if missing and not family.allow_nan:
        pytest.skip("a family of complete rows")
    family, X = (family.for_missing(), with_missing(X)) if missing else (family, X)
    w = Draws(1).uniform(len(X)) if weighted else np.empty(0)
    prepared = family.prepare(start, X.dtype)
    log_joint = family.log_joint(X, prepared, 1)
    log_prob = np.logaddexp.reduce(log_joint, axis=1)
    layout = family.layout(D)
    record = np.zeros(layout.size)
    family.accumulate_given(X, w, np.exp(log_joint - log_prob[:, None]), prepared, record)
    want = layout.view(record)
    got = expect(family, start, X, w if weighted else None)
    if "loglik" in got._fields:
        objective = family.objective(got, family.constants(MemorySource(X, w if weighted else None)), start)
        assert objective == pytest.approx(np.average(log_prob, weights=w if weighted else None), rel=1e-12)
        want = want._replace(loglik=got.loglik)
    assert_close(got, want)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "seed"),
    [
        *[(np.float64, 0), (np.float32, 1)],
        *[pytest.param(np.float64, seed, marks=pytest.mark.deep) for seed in (1, 2)],
        *[pytest.param(np.float32, seed, marks=pytest.mark.deep) for seed in (0, 2)],
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_objective_never_falls(name, dtype, seed, missing):
    family, _, X, start = problem(name, seed=seed)
    if missing and not family.allow_nan:
        pytest.skip("a family of complete rows")
    family, X = (family.for_missing(), with_missing(X)) if missing else (family, X)
    run = fit(family, start, X.astype(dtype))  # certified: raises where it falls
    assert len(run.objectives) > 1
    slack = 64 * np.finfo(dtype).eps * (1 + np.abs(run.objectives[1:]))
    assert np.all(np.diff(run.objectives) >= -slack)
    assert run.objectives[-1] > run.objectives[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_floor_lowers_the_objective_by_no_more_than_the_shortfall(name):
    family, _, X, start = problem(name)
    floor = next((option for option in ("reg_covar", "floor", "min_noise") if hasattr(family, option)), None)
    if floor is None:
        pytest.skip("a family without floors")
    fitted = fit(family, start, X).params
    setattr(family, floor, {"floor": np.quantile(centers_of(fitted), 0.4), "min_noise": 0.9}.get(floor, 0.5))
    prepared = family.prepare(fitted, X.dtype)
    source = MemorySource(X)
    stats, constants = source.accumulate(family, prepared), family.constants(source)
    new = family.m_step(stats, constants, prepared, fitted).params
    before, after = family.objective(stats, constants, fitted), family.objective(expect(family, new, X), constants, new)
    shortfall = family.shortfall(stats, constants, prepared, fitted, new)
    assert after < before, "the floor was meant to hurt"
    assert before - after <= shortfall + 1e-12


def incomplete(name, n):
    """A family that takes missing values, rows that have some, and a start."""
    family, _, X, start = problem(name, n)
    if not family.allow_nan:
        pytest.skip("a family of complete rows")
    return family.for_missing(), with_missing(X), start


@pytest.mark.parametrize("name", NAMES)
def test_missing_values_keep_weights_and_order_and_additivity(name):
    family, X, start = incomplete(name, 2 * CELL + 300)
    assert_close(naive.merge(expect(family, start, X[:900]), expect(family, start, X[900:])), expect(family, start, X))
    m = 1 + np.arange(len(X)) % 3
    assert_close(fit(family, start, X, m).params, fit(family, start, np.repeat(X, m, axis=0)).params)
    w = (np.arange(len(X)) % 4 > 0).astype(float)
    assert_close(fit(family, start, X, w).params, fit(family, start, X[w > 0]).params)
    reference, order = fit(family, start, X, max_iter=10).params, np.array([2, 0, 1])
    shuffled = np.ascontiguousarray(X[np.argsort(Draws(5).uniform(len(X)))])
    assert_close(fit(family, start, shuffled, max_iter=10).params, reference)
    assert_close(fit(family, permuted(start, order), X, max_iter=10).params, permuted(reference, order))


@pytest.mark.parametrize("name", NAMES)
def test_missing_values_in_float32_give_float64s_answer(name):
    family, X, start = incomplete(name, 3000)
    rounded = X.astype(np.float32)
    want = fit(family, start, rounded.astype(np.float64), max_iter=15, tol=0)
    assert_close(fit(family, start, rounded, max_iter=15, tol=0).params, want.params, 2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_complete_rows_are_the_same_to_kernels_for_missing_values(name):
    family, _, X, start = problem(name)
    if not family.allow_nan:
        pytest.skip("a family of complete rows")
    assert_close(fit(family.for_missing(), start, X, max_iter=10).params, fit(family, start, X, max_iter=10).params)


@pytest.mark.parametrize("name", NAMES)
def test_weight_m_equals_the_row_m_times(name):
    family, _, X, start = problem(name, 300)
    m = 1 + np.arange(len(X)) % 3
    assert_close(expect(family, start, X, m), expect(family, start, np.repeat(X, m, axis=0)))
    assert_close(fit(family, start, X, m).params, fit(family, start, np.repeat(X, m, axis=0)).params)


@pytest.mark.parametrize("name", NAMES)
def test_weight_0_equals_the_row_removed(name):
    family, _, X, start = problem(name, 300)
    w = (np.arange(len(X)) % 4 > 0).astype(float)
    assert_close(fit(family, start, X, w).params, fit(family, start, X[w > 0]).params)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_rows_and_components_does_not_matter(name):
    family, _, X, start = problem(name, 900)
    reference = fit(family, start, X, max_iter=10).params
    shuffled = X[np.argsort(Draws(5).uniform(len(X)))]
    assert_close(fit(family, start, np.ascontiguousarray(shuffled), max_iter=10).params, reference)
    if family.mixes:
        order = np.array([2, 0, 1])
        assert_close(fit(family, permuted(start, order), X, max_iter=10).params, permuted(reference, order))


@pytest.mark.parametrize("name", NAMES)
def test_sample_then_fit_recovers_the_parameters(name):
    family, params, X, _ = problem(name, 20_000, seed=3)
    run = fit(family, params, X, max_iter=200)
    spread = 6 / np.sqrt(len(X) / K)
    found = identifiable(run.params)
    for field, want in identifiable(params).items():
        np.testing.assert_allclose(found[field], want, atol=spread * max(1, np.abs(want).max()), err_msg=field)


@pytest.mark.parametrize("name", NAMES)
def test_float32_rows_give_float64s_answer(name):
    family, _, X, start = problem(name, 3000)
    rounded = X.astype(np.float32)
    want = fit(family, start, rounded.astype(np.float64), max_iter=15, tol=0)
    got = fit(family, start, rounded, max_iter=15, tol=0)
    assert_close(got.params, want.params, 2e-4)
    assert got.objective == pytest.approx(want.objective, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_offset_and_scale_do_no_harm(name, scale):
    family, _, X, start = problem(name)
    if not family.continuous:
        pytest.skip("counts and codes have neither")
    offset = 1e6
    moved = X * scale + offset
    X = (moved - offset) / scale  # the same rounded values
    centers = centers_of(start)
    near = fit(family, family.blank_params(centers, X.var(axis=0)), X, max_iter=10, tol=0).params
    far = fit(
        family, family.blank_params(centers * scale + offset, X.var(axis=0) * scale**2), moved, max_iter=10, tol=0
    ).params
    means = (centers_of(far) - offset) / scale
    np.testing.assert_allclose(means, centers_of(near), atol=1e-8 if scale == 1 else 1e-5)
    if name != "kmeans":
        far_covariances, near_covariances = covariances_of(far) / scale**2, covariances_of(near)
        np.testing.assert_allclose(far_covariances, near_covariances, atol=1e-7 if scale == 1 else 1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", ["one row", "duplicate rows", "constant feature"])
def test_degenerate_rows_give_finite_parameters(name, rows):
    family = families.make(name, size(name, 1 if rows == "one row" else 2))
    if not family.continuous:
        return degenerate_discrete(family, rows)
    X = {
        "one row": np.array([[1.0, 2.0]]),
        "duplicate rows": np.repeat([[1.0, 2.0], [5.0, 6.0]], 20, axis=0),
        "constant feature": np.column_stack([Draws(0).normal(50) + 9 * (np.arange(50) % 2), np.full(50, 7.0)]),
    }[rows]
    start = family.blank_params(X[:: len(X) // 2 + 1][: family.n_components] + 0.1, X.var(axis=0) + 1)
    if len(start[0]) < family.n_components:
        start = family.blank_params(np.repeat(X[:1], family.n_components, axis=0), X.var(axis=0) + 1)
    run = fit(family, start, X, certify=False)
    assert all(np.all(np.isfinite(field)) for field in run.params)
    assert np.isfinite(run.objective)


def degenerate_discrete(family, rows):
    params = family.example_params(2, Draws(0))
    X, _ = family.sample(params, 50, Draws(1))
    X = {
        "one row": X[:1],
        "duplicate rows": np.repeat(X[[0, -1]], 20, axis=0),
        "constant feature": np.column_stack([X[:, 0], np.full(50, X[0, 1])]),
    }[rows]
    run = fit(family, params, X)
    assert all(np.all(np.isfinite(field)) for field in run.params)
    assert np.isfinite(run.objective)


BITS = """
import hashlib, json, sys
import numpy as np
from fastem import families, threads
from fastem.draws import Draws
from fastem.sources.memory import MemorySource
threads.resolve = lambda n: n
digests = {}
for name in sys.argv[1:]:
    family = families.make(name, 3 if families.mixes(name) else 1)
    params = family.example_params(4, Draws(0))
    X = family.sample(params, 7 * 2048 + 1, Draws(1))[0]
    X = np.ascontiguousarray(X[np.argsort(Draws(2).uniform(len(X)))])
    holes = np.where(Draws(3).uniform(X.size).reshape(X.shape) < 0.2, np.nan, X)
    for kind, rows, model in (("complete", X, family), ("missing", holes, family.for_missing())):
        if rows is holes and not family.allow_nan:
            continue
        for dtype in ("f4", "f8"):
            prepared = model.prepare(params, np.dtype(dtype))
            for n_threads in (1, 2, 7):
                source = MemorySource(rows.astype(dtype), n_threads=n_threads)
                stats = source.accumulate(model, prepared)
                joint = model.log_joint(source.X, prepared, n_threads)
                bits = b"".join(field.tobytes() for field in (*stats, joint))
                digests[f"{name} {kind} {dtype} {n_threads}"] = hashlib.sha256(bits).hexdigest()
print(json.dumps(digests))
"""


# A process of its own may have more threads than processors; it takes longer to begin than to do its work.
@pytest.mark.parametrize("names", [NAMES[part::2] for part in range(2)], ids=" ".join)
def test_same_bits_for_1_2_and_7_threads(names):
    environment = {**os.environ, "NUMBA_NUM_THREADS": "7", "OMP_NUM_THREADS": "7"}
    program = [sys.executable, "-c", BITS, *names]
    output = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=230)
    assert output.returncode == 0, output.stderr
    digests = json.loads(output.stdout)
    assert len(digests) == sum(12 if make(name).allow_nan else 6 for name in names)
    for key, digest in digests.items():
        assert digest == digests[key[:-1] + "1"], key


@pytest.mark.parametrize("name", NAMES)
def test_restarts_give_the_same_result_side_by_side_or_in_turn(name):
    family, _, X, _ = problem(name, 5000)

    def start(problem, draws):
        rows = problem.space.sample_rows(family.n_components, draws)
        return family.blank_params(rows.astype(float), np.ones(D))

    results = [
        em.run(
            Problem(MemorySource(X, n_threads=threads), family),
            start,
            settings=Settings(max_iter=20, tol=1e-6),
            n_init=5,
            seed=1,
        )
        for threads in (1, 2)
    ]
    np.testing.assert_array_equal(results[0].restarts, results[1].restarts)
    assert results[0].best.restart == results[1].best.restart
    assert all(np.array_equal(a, b) for a, b in zip(results[0].best.params, results[1].best.params, strict=True))
    assert results[0].best.objective == results[0].restarts.max()
