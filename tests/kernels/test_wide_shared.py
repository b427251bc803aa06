"""The pass over rows of many features with one shared matrix: numbers of the narrow one, and of more digits."""

import numpy as np
import pytest

from fastem import GaussianMixture, families, grid
from fastem.draws import Draws
from fastem.families.data_moments import WIDE as WIDE_SCATTER
from fastem.families.data_moments import total_scatter
from fastem.families.elliptical.records import prepared_means
from fastem.families.elliptical.tied import SHAPE, WIDE
from fastem.kernels import wide_pass, wide_shared, wide_shares
from fastem.sources.memory import MemorySource

EPS = {"float64": 2.2e-16, "float32": 1.2e-7}


def problem(n=700, d=195, k=3, dtype="float64", spread=0.2, offset=0.0):
    """Rows of a mixture, whose means lie `spread` times as far apart as usual, and what an E-step needs."""
    family = families.make("gaussian-tied", k)
    params = family.example_params(d, Draws(0))
    params = params._replace(means=params.means * spread + offset)
    X = family.sample(params, n, Draws(1))[0]
    X = X[np.random.default_rng(0).permutation(n)].astype(dtype)
    return family, X, family.prepare(params, X.dtype)


def source(X, w=None, labels=None, n_threads=2):
    weights = np.empty(0, X.dtype) if w is None else w.astype(X.dtype)
    known = np.empty(0, np.int32) if labels is None else labels
    return MemorySource(X).having(weights, known, n_threads)


def record(family, X, prepared, w=None, labels=None, n_threads=2):
    return source(X, w, labels, n_threads).accumulate(family, prepared)


def narrow(monkeypatch):
    monkeypatch.setattr(SHAPE.accumulate, "least", 10**9)
    monkeypatch.setattr(SHAPE.expect, "least", 10**9)


def same(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("d", "k", "offset"), [(WIDE, 1, 0.0), (195, 3, 0.0), (330, 5, 1e3)])
def test_log_densities_are_those_of_more_digits(dtype, d, k, offset):
    family, X, prepared = problem(300, d, k, dtype, offset=offset)
    X[7] *= 1e4  # its neighbours in a panel shall not feel it
    centred = X.astype(np.longdouble) - prepared_means(prepared)[:, None]
    factor = prepared.precisions_cholesky[:d, :d].astype(np.longdouble)
    squares = np.square(np.einsum("kni,ij->knj", centred, factor)).sum(axis=2)
    complete = (prepared.offsets[:, None] - squares / 2).T
    found = family.log_joint(X, prepared, 2)
    # Rounding of a whitened feature is that of the row's, relative to the origin, times the factor's column.
    size = np.linalg.norm(X - prepared.origin.astype(np.float64), axis=1)[:, None] * np.linalg.norm(
        factor.astype(float)
    )
    bound = EPS[dtype] * size * np.sqrt(squares.T.astype(float)) + EPS[dtype] * np.abs(complete).astype(float)
    assert np.all(np.abs(found - complete) < 4 * bound)
    assert np.abs((found - complete) / complete).max() < 100 * EPS[dtype]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_e_step_has_the_numbers_of_the_narrow_pass(monkeypatch, dtype):
    family, X, prepared = problem(2300, dtype=dtype, spread=0.02)
    labels = np.random.default_rng(0).integers(-1, 3, len(X)).astype(np.int32)
    w = np.random.default_rng(3).uniform(0, 2, len(X))

    def answers():
        loglik, resp = family.posterior(X, prepared, 2)
        records = record(family, X, prepared), record(family, X, prepared, w, labels)
        return loglik, resp, family.most_probable(X, prepared, 2), *[field for own in records for field in own]

    wide = answers()
    narrow(monkeypatch)
    assert wide[1].min(axis=1).max() > 0.01, "rows shall matter to more than one component"
    # A row's squares add up to about d, with a relative rounding of an eps or less, in both passes.
    atol = 2 * X.shape[1] * EPS[dtype]
    for own, other in zip(wide, answers(), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(own, other, rtol=0, atol=atol * scale)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_moments_are_those_of_more_digits(dtype):
    family, X, prepared = problem(2499, 197, 2, dtype, 0.02, offset=100.0)
    w = np.random.default_rng(3).uniform(0, 2, len(X)).astype(dtype)
    w[::7] = 0
    found = record(family, X, prepared, w)
    resp = family.posterior(X, prepared, 1)[1].astype(np.longdouble) * w[:, None]
    for c, mean in enumerate(prepared_means(prepared)):
        centred = X.astype(np.longdouble) - mean
        assert float(found.counts[c]) == pytest.approx(float(resp[:, c].sum()), rel=20 * EPS[dtype])
        sums, size = resp[:, c] @ centred, resp[:, c] @ np.abs(centred)
        assert np.abs((found.sums[c] - sums) / size).max() < 4 * EPS[dtype]


def test_bits_depend_on_no_tasks_batches_or_threads(monkeypatch):
    family, X, prepared = problem(2 * grid.CELL + 100, 193, 3, "float32", 0.02)
    one = record(family, X, prepared, n_threads=1)
    assert same(one, record(family, X, prepared, n_threads=7))
    parts = [record(family, X[first : first + grid.CELL], prepared) for first in range(0, len(X), grid.CELL)]
    whole = grid.merge_tree(np.array([np.concatenate([np.ravel(field) for field in part]) for part in parts]))
    assert np.array_equal(whole, np.concatenate([np.ravel(field) for field in one]))
    monkeypatch.setattr(wide_shared, "TASK_ROWS", 37)
    monkeypatch.setattr(wide_shared, "TASK_WORK", 1)
    monkeypatch.setattr(wide_shares, "CELLS_TOGETHER", 1)
    assert same(one, record(family, X, prepared))
    monkeypatch.setattr(SHAPE.accumulate, "plan", lambda n, d, size: grid.plan(n, size))  # a task has one cell
    monkeypatch.setattr(wide_pass, "RECORD_BYTES", 1)
    assert same(one, record(family, X, prepared))


def test_a_record_may_hold_anything_before(monkeypatch):
    family, X, prepared = problem(300)
    clean = record(family, X, prepared)
    empty = np.empty

    def covered(*shape, **options):
        made = empty(*shape, **options)
        if made.dtype.kind == "f":
            made.fill(np.nan)
        return made

    monkeypatch.setattr(np, "empty", covered)
    assert same(clean, record(family, X, prepared))


@pytest.mark.parametrize(("dtype", "far"), [("float64", 1e160), ("float64", 1e10), ("float32", 1e25)])
def test_rows_far_from_everything_are_done_as_in_the_narrow_pass(monkeypatch, dtype, far):
    family, X, prepared = problem(grid.CELL + 200, dtype=dtype)
    X[5] = far
    X[grid.CELL + 3, 7] = -far

    def answers():
        return *family.posterior(X, prepared, 2), family.most_probable(X, prepared, 2), record(family, X, prepared)

    loglik, resp, labels, found = answers()
    narrow(monkeypatch)
    again = answers()
    np.testing.assert_allclose(loglik, again[0], rtol=100 * EPS[dtype])
    np.testing.assert_allclose(resp, again[1], atol=1000 * EPS[dtype])
    np.testing.assert_array_equal(labels, again[2])
    assert np.array_equal(resp[5], again[1][5])
    assert set(resp[5]) == {0.0, 1.0}
    np.testing.assert_array_equal(found.counts, again[3].counts)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("n", "d"), [(2100, WIDE_SCATTER), (40, 141)])
def test_total_scatter_is_that_of_more_digits(dtype, n, d):
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / 8 + 100).astype(dtype)
    w = rng.uniform(0, 2, n).astype(dtype)
    w[::5] = 0
    for weights in (None, w):
        own = np.ones(n) if weights is None else weights.astype(np.float64)
        centre = own @ X.astype(np.float64) / own.sum()
        centred = X.astype(np.float64) - centre
        scatter = (centred * own[:, None]).T @ centred
        found = total_scatter(source(X, weights))
        deviation = np.sqrt(np.diag(scatter))
        assert np.abs((found.scatter - scatter) / deviation / deviation[:, None]).max() < 8 * EPS[dtype]
        assert np.array_equal(found.scatter, found.scatter.T)
        assert same(found, total_scatter(source(X, weights, n_threads=1)))


def test_fits_have_the_bits_of_one_thread_and_the_answers_of_the_narrow_pass(monkeypatch):
    _, X, _ = problem(450, WIDE, 3, spread=0.05)
    options = {"covariance_type": "tied", "max_iter": 3, "tol": 0, "means_init": X[:3], "init_params": "random"}

    def fit(n_threads):
        with pytest.warns(Warning, match="converge"):
            return GaussianMixture(3, random_state=0, n_threads=n_threads, **options).fit(X)

    one, two = fit(1), fit(2)
    for name in ("means_", "covariances_", "weights_", "precisions_", "lower_bound_"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    np.testing.assert_allclose(one.precisions_ @ one.covariances_, np.eye(WIDE), atol=1e-8)
    narrow(monkeypatch)
    other = fit(2)
    assert one.lower_bound_ == pytest.approx(other.lower_bound_, rel=1e-12)
    np.testing.assert_allclose(one.covariances_, other.covariances_, rtol=0, atol=1e-10)
