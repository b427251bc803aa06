"""The pass over rows of many features: numbers of the narrow one, the same bits for any tasks, nothing that matters
left out."""

import numpy as np
import pytest

from fastem import families, grid
from fastem.draws import Draws
from fastem.families.elliptical.full import SHAPE, WIDE
from fastem.families.elliptical.records import prepared_means
from fastem.kernels import wide_distances, wide_pass, wide_shares
from fastem.sources.memory import MemorySource

EPS = {"float64": 2.2e-16, "float32": 1.2e-7}


def problem(n=2500, d=131, k=3, dtype="float64", spread=1.0):
    """Rows of a mixture, whose means lie `spread` times as far apart as usual, and what an E-step needs."""
    family = families.make("gaussian-full", k)
    params = family.example_params(d, Draws(0))
    params = params._replace(means=params.means * spread)
    X = family.sample(params, n, Draws(1))[0]
    X = X[np.random.default_rng(0).permutation(n)].astype(dtype)
    return family, X, family.prepare(params, X.dtype)


def record(family, X, prepared, w=None, labels=None, n_threads=2):
    weights = np.empty(0, X.dtype) if w is None else w.astype(X.dtype)
    known = np.empty(0, np.int32) if labels is None else labels
    source = MemorySource(X, n_threads=n_threads).having(weights, known, n_threads)
    return source.accumulate(family, prepared)


def narrow(monkeypatch):
    monkeypatch.setattr(SHAPE.accumulate, "least", 10**9)
    monkeypatch.setattr(SHAPE.expect, "least", 10**9)


def same(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("d", "k", "spread"), [(WIDE, 1, 1.0), (131, 3, 0.02), (200, 5, 0.3)])
def test_e_step_has_the_numbers_of_the_narrow_pass(monkeypatch, dtype, d, k, spread):
    family, X, prepared = problem(700, d, k, dtype, spread)

    def answers():
        log_joint = family.log_joint(X, prepared, 2)
        return *family.posterior(X, prepared, 2), family.most_probable(X, prepared, 2), log_joint

    wide, own = answers(), record(family, X, prepared)
    narrow(monkeypatch)
    assert same(wide, answers())
    other = record(family, X, prepared)
    assert float(own.loglik) == pytest.approx(float(other.loglik), rel=1e-14)  # in blocks of other sizes
    scale = np.sqrt(np.abs(np.diagonal(other.scatter, axis1=1, axis2=2)))
    np.testing.assert_allclose(own.counts, other.counts, rtol=20 * EPS[dtype])
    np.testing.assert_allclose(own.sums / scale, other.sums / scale, rtol=0, atol=200 * EPS[dtype])
    apart = (own.scatter - other.scatter) / (scale[:, :, None] * scale[:, None, :])
    assert np.abs(apart).max() < 20 * EPS[dtype]
    assert np.array_equal(own.scatter, own.scatter.swapaxes(1, 2))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_moments_are_those_of_more_digits(dtype):
    family, X, _ = problem(2500, 137, 2, dtype, 0.05)
    params = family.example_params(137, Draws(0))
    means = params.means[0] + np.array([[0.0], [0.1]])
    prepared = family.prepare(
        family.with_covariances(params.weights, means, params.covariances[[0, 0]]).params, X.dtype
    )
    w = np.random.default_rng(3).uniform(0, 2, len(X)).astype(dtype)
    w[::7] = 0
    found = record(family, X, prepared, w)
    resp = family.posterior(X, prepared, 1)[1].astype(np.longdouble) * w[:, None]
    assert resp.min(axis=1).max() > 0.01, "rows shall matter to more than one component"
    for c, mean in enumerate(prepared_means(prepared)):
        centred = X.astype(np.longdouble) - mean
        assert float(found.counts[c]) == pytest.approx(float(resp[:, c].sum()), rel=20 * EPS[dtype])
        scatter = ((centred * resp[:, c, None]).T @ centred).astype(np.float64)
        deviation = np.sqrt(np.diag(scatter))
        sums, size = resp[:, c] @ centred, resp[:, c] @ np.abs(centred)
        assert np.abs((found.sums[c] - sums) / size).max() < 4 * EPS[dtype]
        assert np.abs((found.scatter[c] - scatter) / deviation / deviation[:, None]).max() < 4 * EPS[dtype]


@pytest.mark.parametrize("spread", [0.02, 0.2, 2.0])
def test_bits_depend_on_no_tasks_batches_or_threads(monkeypatch, spread):
    family, X, prepared = problem(3 * grid.CELL + 100, 129, 3, "float32", spread)
    one = record(family, X, prepared, n_threads=1)
    assert same(one, record(family, X, prepared, n_threads=7))
    parts = [record(family, X[first : first + grid.CELL], prepared) for first in range(0, len(X), grid.CELL)]
    whole = grid.merge_tree(np.array([np.concatenate([np.ravel(field) for field in part]) for part in parts]))
    assert np.array_equal(whole, np.concatenate([np.ravel(field) for field in one]))
    monkeypatch.setattr(wide_distances, "TASK_ROWS", 37)
    monkeypatch.setattr(wide_distances, "TASK_WORK", 1)
    monkeypatch.setattr(wide_shares, "CELLS_TOGETHER", 1)
    monkeypatch.setattr(wide_distances, "SAMPLED", 1)
    assert same(one, record(family, X, prepared))
    monkeypatch.setattr(wide_distances, "DIRECTION_BYTES", 0)
    assert same(one, record(family, X, prepared))
    monkeypatch.setattr(SHAPE.accumulate, "plan", lambda n, d, size: grid.plan(n, size))  # a task has one cell
    monkeypatch.setattr(wide_pass, "RECORD_BYTES", 1)
    assert same(one, record(family, X, prepared))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("spread", [0.02, 0.2, 2.0])
def test_what_is_left_out_does_not_matter(monkeypatch, dtype, spread):
    family, X, prepared = problem(1500, 150, 4, dtype, spread)
    columns = []

    def counting(self, first, rows, start, stop, squares, go_on=wide_distances.Distances.add_columns):
        columns.append(sum(map(len, rows)) * (stop**2 - start**2))
        go_on(self, first, rows, start, stop, squares)

    monkeypatch.setattr(wide_distances.Distances, "add_columns", counting)
    labels, loglik, found = (
        family.most_probable(X, prepared, 2), family.log_prob(X, prepared, 2), record(family, X, prepared)
    )  # fmt: skip
    work = columns[-1:] and sum(columns) / 3
    family.posterior(X, prepared, 2)  # of which nothing is left out
    complete = len(X) * 4 * 152**2
    assert work < 0.5 * complete if spread == 2.0 else work <= complete
    monkeypatch.setattr(wide_distances.Distances, "may_leave_out", lambda self: False)
    assert np.array_equal(labels, family.most_probable(X, prepared, 2))
    assert np.array_equal(loglik, family.log_prob(X, prepared, 2))
    assert same(found, record(family, X, prepared))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_squares_of_components_far_away_are_at_least_what_is_said(dtype):
    """The bound of Cauchy and Schwarz: below what all columns add up to, and most of it where means lie far apart."""
    _, X, prepared = problem(600, 150, 4, dtype, 2.0)
    distances = wide_distances.Distances(X, np.empty(0, np.int32), prepared, 2)
    first, complete, rows = np.zeros((4, len(X)), X.dtype), np.zeros((4, len(X)), X.dtype), np.arange(len(X))
    distances.add_columns(0, [rows] * 4, 0, wide_distances.FIRST_COLUMNS, first)
    distances.add_columns(0, [rows] * 4, 0, prepared.precisions_cholesky.shape[1], complete)
    likely = complete.argmin(axis=0)
    least = distances._least(0, [np.flatnonzero(likely == c) for c in range(4)], first)
    assert np.all(least <= complete * (1 + 20 * EPS[dtype]))
    others = np.arange(4)[:, None] != likely
    assert np.median((least / complete)[others]) > 0.8
    assert np.median((first / complete)[others]) < 0.6


def few_rows(n, d, k, dtype):
    """Rows of one cloud, and components that were each fitted to few more of them than there are features."""
    family = families.make("gaussian-full", k)
    X = np.random.default_rng(0).standard_normal((n, d)).astype(dtype)
    own = np.arange(n) * k // n
    means = np.array([X[own == c].mean(axis=0) for c in range(k)], np.float64)
    covariances = np.array([np.cov(X[own == c], rowvar=False) for c in range(k)], np.float64)
    params = family.with_covariances(np.full(k, 1 / k), means, covariances).params
    return family, X, family.prepare(params, X.dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_last_columns_leave_out_only_what_does_not_matter(monkeypatch, dtype):
    family, X, prepared = few_rows(1320, 400, 3, dtype)  # 440 rows of 400 features each
    work = []

    def counting(self, first, rows, start, stop, squares, go_on=wide_distances.Distances.add_columns):
        work.append((start, stop, sum(map(len, rows))))
        go_on(self, first, rows, start, stop, squares)

    monkeypatch.setattr(wide_distances.Distances, "add_columns", counting)
    found = record(family, X, prepared)
    assert work[1][0] > wide_distances.FIRST_COLUMNS, "the last columns shall come first"
    assert work[1][1:] == (400, 3 * 1320)
    done = sum(pairs * (stop**2 - start**2) for start, stop, pairs in work)
    monkeypatch.setattr(wide_distances, "last_columns", lambda *_: 0)
    work.clear()
    assert same(found, record(family, X, prepared))
    assert done < 0.8 * sum(pairs * (stop**2 - start**2) for start, stop, pairs in work)
    monkeypatch.setattr(wide_distances.Distances, "may_leave_out", lambda self: False)
    assert same(found, record(family, X, prepared))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_squares_of_first_and_last_columns_are_at_most_all(dtype):
    _, X, prepared = few_rows(900, 200, 3, dtype)
    prepared.precisions_cholesky[:, :, 64:160] = 0  # so that nothing is between them: only rounding is
    distances = wide_distances.Distances(X, np.empty(0, np.int32), prepared, 2)
    first, complete, rows = np.zeros((3, len(X)), X.dtype), np.zeros((3, len(X)), X.dtype), [np.arange(len(X))] * 3
    distances.add_columns(0, rows, 0, 64, first)
    distances.add_columns(0, rows, 0, 200, complete)
    least = distances._with_last(0, first, 40)
    assert np.all(least < complete)
    assert np.all(least > complete * (1 - 4 * 200 * EPS[dtype]))


def test_last_columns_come_first_where_they_save_more_than_they_cost():
    k, m, dp = 3, 20, 200  # parts of 64, 64, 64 and 8 columns
    own = np.arange(m) % k
    logs, nothing, lower = np.zeros((k, 4)), np.zeros(k), np.full(k, -20.0)
    apart = np.full((k, m, 4), 60.0)
    apart[:, :, 3] = 8.0
    apart[:, :, 3] += np.where(own == np.arange(k)[:, None], 0.0, 500.0)

    def found(far=False):
        return wide_distances.last_columns(apart, logs, nothing, lower, np.full((k, k), far), dp)

    assert found() == 8
    assert found(far=True) == 0  # nothing is left that costs anything
    apart[:, :, 2], apart[:, :, 3] = apart[:, :, 3], 8.0
    assert found() == 72
    apart[:, :, 0], apart[:, :, 2] = apart[:, :, 2].copy(), 60.0
    assert found() == 0  # the first columns say it all
    apart[:] = 60.0
    assert found() is None  # none does
    apart[:] = np.nan
    assert found() is None


def test_a_record_may_hold_anything_before(monkeypatch):
    family, X, prepared = problem(300, 131, 3, spread=2.0)
    clean = record(family, X, prepared)
    empty = np.empty

    def covered(*shape, **options):
        made = empty(*shape, **options)
        if made.dtype.kind == "f":
            made.fill(np.nan)
        return made

    monkeypatch.setattr(np, "empty", covered)
    assert same(clean, record(family, X, prepared))
    one = prepared._replace(log_weights=np.array([0.0, -1e9, -1e9]), offsets=prepared.offsets - [0.0, 1e9, 1e9])
    assert np.array_equal(record(family, X, one).scatter[1:], np.zeros((2, 131, 131)))  # of no rows


def test_known_labels_count(monkeypatch):
    family, X, prepared = problem(600, 140, 3, spread=1.0)
    labels = np.random.default_rng(0).integers(-1, 3, len(X)).astype(np.int32)
    found = record(family, X, prepared, labels=labels)
    narrow(monkeypatch)
    other = record(family, X, prepared, labels=labels)
    assert float(found.loglik) == pytest.approx(float(other.loglik), rel=1e-14)
    np.testing.assert_allclose(found.counts, other.counts, rtol=1e-14)
    np.testing.assert_allclose(found.scatter, other.scatter, rtol=0, atol=1e-12 * np.abs(other.scatter).max())


@pytest.mark.parametrize(("dtype", "far"), [("float64", 1e160), ("float64", 1e10), ("float32", 1e25)])
def test_rows_far_from_everything_are_done_as_in_the_narrow_pass(monkeypatch, dtype, far):
    family, X, prepared = problem(grid.CELL + 200, 130, 3, dtype)
    X[5] = far
    X[grid.CELL + 3, 7] = -far
    answers = *family.posterior(X, prepared, 2), family.most_probable(X, prepared, 2), family.log_prob(X, prepared, 2)
    found = record(family, X, prepared)
    narrow(monkeypatch)
    again = *family.posterior(X, prepared, 2), family.most_probable(X, prepared, 2), family.log_prob(X, prepared, 2)
    assert same(answers, again)
    np.testing.assert_array_equal(found.counts, record(family, X, prepared).counts)
