"""Rows of many features, read as they lie: the products, and E-steps equal to those over transposed blocks."""

import drawn
import naive
import numpy as np
import pytest

from fastem import families, threads
from fastem.draws import Draws
from fastem.families.discrete import linear
from fastem.grid import CELL
from fastem.jit import kernel
from fastem.kernels.blocks import STRIDE
from fastem.kernels.row_products import LEAST_FEATURES, add_rows, multiply_rows
from fastem.sources.memory import MemorySource

WIDTHS = (LEAST_FEATURES, 33, 47, 64, 101, 500)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@kernel
def products(X, start, m, origin, A, out):
    multiply_rows(X, start, m, origin, A, out)


@kernel
def sums(X, start, m, origin, resp, total):
    add_rows(X, start, m, origin, resp, total)


@dtypes
@pytest.mark.parametrize("d", [*range(16, 50), 100, 500])
def test_products_and_sums_are_numpy_s(d, dtype):
    rng = np.random.default_rng(d)
    k, start, m = 1 + d % 13, d % 7, 1 + (5 * d) % 64
    X, origin = rng.normal(size=(start + m, d)).astype(dtype), rng.normal(size=d).astype(dtype)
    A, resp = rng.normal(size=(k, d + 3)).astype(dtype), rng.uniform(size=(k, STRIDE)).astype(dtype)
    rows = X[start:].astype(np.float64) - origin
    tolerance = {"rtol": 0, "atol": 200 * np.finfo(dtype).eps * np.sqrt(d)}
    out = np.zeros((k, STRIDE), dtype)
    products(X, start, m, origin, A, out)
    np.testing.assert_allclose(out[:, :m], A[:, :d].astype(np.float64) @ rows.T, **tolerance)
    np.testing.assert_array_equal(out[:, m + 3 :], 0)
    total = np.ones(k * d + 9)
    sums(X, start, m, origin, resp, total[5:-4].reshape(k, d))
    np.testing.assert_allclose(total[5:-4].reshape(k, d) - 1, resp[:, :m].astype(np.float64) @ rows, **tolerance)
    np.testing.assert_array_equal([*total[:5], *total[-4:]], 1)


def problem(name, d, dtype=np.float64, k=3, n=700):
    family, draws = families.make(name, k), Draws(d)
    params = family.example_params(d, draws)
    near = params[1].mean(axis=0) + (params[1] - params[1].mean(axis=0)) / np.sqrt(d)  # components overlap
    params = params._replace(**{params._fields[1]: near})
    return family, params, drawn.rows(family, params, n, draws).astype(dtype)


def expect(family, params, X, w=None, labels=None, n_threads=1):
    w = np.empty(0) if w is None else w
    prepared = family.prepare(params, X.dtype)
    out = MemorySource(X, np.ascontiguousarray(w, X.dtype), labels, n_threads=n_threads)
    return out.accumulate(family, prepared)


def transposed(family):
    """The same model on the kernels that transpose."""
    return family.for_missing()


@dtypes
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_statistics_are_those_of_transposed_blocks(name, d, dtype):
    for k in (1, 4, 7, 10):
        family, params, X = problem(name, d, dtype, k)
        w = Draws(1).uniform(len(X))
        labels = np.where(np.arange(len(X)) % 3 == 0, np.arange(len(X)) % k, -1).astype(np.int32)
        got, want = (expect(f, params, X, w, labels) for f in (family, transposed(family)))
        for field, a, b in zip(got._fields, got, want, strict=True):
            scale = np.abs(b).max() if field != "loglik" else float(np.sum(w)) * d
            np.testing.assert_allclose(
                a, b, rtol=0, atol=(1e-11 if dtype == np.float64 else 1e-3) * scale, err_msg=field
            )


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_float32_is_as_close_to_float64_as_on_transposed_blocks(name):
    family, params, X = problem(name, 200, np.float32, n=5000)
    want = expect(family, params, X.astype(np.float64))
    errors = [
        max(np.abs(a - b).max() / max(1.0, np.abs(b).max()) for a, b in zip(expect(f, params, X), want, strict=True))
        for f in (family, transposed(family))
    ]
    assert errors[0] <= 2 * errors[1] + 1e-7


@dtypes
@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_additive_and_the_same_bits_for_any_number_of_threads(name, dtype, monkeypatch):
    family, params, X = problem(name, 70, dtype, 5, 3 * CELL + 77)
    whole = expect(family, params, X)
    parts = naive.merge(expect(family, params, X[:901]), expect(family, params, X[901:]))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10 if dtype == np.float64 else 1e-4, atol=1e-6 * np.abs(a).max())
    for n_threads in (1, 2):
        again = expect(family, params, X, n_threads=threads.resolve(n_threads))
        assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))


def test_rows_that_nothing_explains_go_to_one_component():
    family, params, X = problem("bernoulli", 64)
    params = params._replace(weights=np.array([0.7, 0.3, 0.0]), means=np.round(params.means * 0.9))
    labels = np.full(len(X), -1, np.int32)
    labels[:5] = 2  # known to be of a component that has died
    got, want = (expect(f, params, X, None, labels) for f in (family, transposed(family)))
    assert got.loglik == want.loglik == -np.inf
    np.testing.assert_allclose(got.counts, want.counts, rtol=1e-12)
    assert got.counts[2] == 5
    assert all(np.all(np.isfinite(field)) for field in (got.counts, got.sums, got.observed))


def test_missing_values_take_the_other_kernels():
    family, params, X = problem("bernoulli", 64)
    X[::3, 5] = np.nan
    stats = expect(family.for_missing(), params, X)
    assert np.isfinite(stats.loglik)
    assert stats.observed[:, 5].sum() == pytest.approx(np.sum(~np.isnan(X[:, 5])))
    assert family.complete
    assert not family.for_missing().complete


def test_many_features_are_read_as_they_lie():
    used = [problem("bernoulli", d)[0].accumulator(d) for d in (LEAST_FEATURES - 1, LEAST_FEATURES)]
    assert used == [linear.narrow, linear.wide]
