"""Stepwise EM (engine/stepwise.py), over every registered family."""

import pickle

import drawn
import numpy as np
import pytest

from fastem import families
from fastem.draws import Draws
from fastem.engine.stepwise import Pace, Stepwise
from fastem.sources.memory import MemorySource

# Models by letters are the full ones but for their M-step.
PLAIN = [name for name in sorted(families.FAMILIES) if not name[-3:].isupper() or name.endswith(("EEV", "EII"))]
OTHERS = [pytest.param(name, marks=pytest.mark.deep) for name in sorted(set(families.FAMILIES) - set(PLAIN))]
NAMES = [*PLAIN, *OTHERS]
D = 3

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def problem(name, n=900, seed=0):
    """A family, rows, weights, and parameters a little off those that the rows were drawn from."""
    family, draws = families.make(name, 2 if families.mixes(name) else 1), Draws(seed)
    X = drawn.rows(family, family.example_params(D, draws), n, draws)
    X = np.ascontiguousarray(X[np.argsort(draws.uniform(n))])
    return family, X, 0.5 + draws.uniform(n), family.example_params(D, Draws(seed))


def with_holes(X):
    return np.where(Draws(77).uniform(X.size).reshape(X.shape) < 0.2, np.nan, X).astype(X.dtype)


def close(a, b, rtol=1e-9):
    assert type(a) is type(b)
    for name, left, right in zip(a._fields, a, b, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=rtol * max(1e-3, np.abs(right).max()), err_msg=name)


def after(run, X, w, cuts, pace):
    for rows in np.split(np.arange(len(X)), cuts):
        run = run.after(MemorySource(X[rows], w[rows]), pace)
    return run


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["complete", "missing", "missing late", "complete late"])
def test_first_batches_are_one_step_of_em_over_all_of_them(name, kind):
    family, X, w, start = problem(name)
    if kind != "complete":
        if not family.allow_nan:
            pytest.skip("a family of complete rows")
        holes = with_holes(X)
        X = {
            "missing": holes,
            "missing late": np.r_[X[:500], holes[500:]],
            "complete late": np.r_[holes[:500], X[500:]],
        }[kind]
    cuts = [100, 500, 750]
    run = after(Stepwise(family, start), X, w, cuts, Pace(0.6, len(cuts) + 1))
    source = MemorySource(X, w)
    serving, constants = source.served_by(family), source.served_by(family).constants(source)
    start = serving.with_constants(start, constants)
    prepared = serving.prepare(start, X.dtype)
    stats = serving.stats_of_constants(constants, prepared)
    stats = source.accumulate(serving, prepared) if stats is None else stats
    close(run.params, serving.m_step(stats, constants, prepared, start).params)
    assert (run.n_batches, run.n_rows) == (4, 900)
    assert run.weight == pytest.approx(w.sum())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "factor"])  # that one has a closed form
def test_a_step_is_that_of_cappe_and_moulines(name):
    """The same in their words: mean statistics, and constants of rows that are told apart by their weights."""
    family, X, w, start = problem(name)
    batches = np.split(np.arange(len(X)), [300, 450, 700])
    params, seen, before, run = start, 0.0, None, Stepwise(family, start)
    means, averages, shares = [], [], np.zeros(len(X))
    for n, rows in enumerate(batches, 1):
        run = run.after(MemorySource(X[rows], w[rows]), Pace(0.7, 1, 2))
        weight = w[rows].sum()
        seen += weight
        step = (weight / seen) ** 0.7
        shares *= 1 - step
        shares[rows] = step * w[rows] / weight
        constants = family.constants(MemorySource(X, shares * seen))
        params = family.with_constants(params, constants)
        prepared = family.prepare(params, X.dtype)
        stats = MemorySource(X[rows], w[rows]).accumulate(family, prepared)
        record = type(stats)
        mean = [a / weight for a in stats]
        if n > 1:
            means = family.recentre(record(*means), before, prepared)
            mean = [(1 - step) * a + step * b for a, b in zip(means, mean, strict=True)]
        means = mean
        averages = [list(family.recentre(record(*a), before, prepared)) for a in averages]
        averages += [means] if n > 1 else []
        params = family.m_step(record(*[seen * a for a in means]), constants, prepared, params).params
        before = prepared
        close(run.params, params)
    if constants is None:
        average = [seen * np.mean(fields, axis=0) for fields in zip(*averages, strict=True)]
        close(run.best(), family.m_step(record(*average), None, before, params).params)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("average_from", [None, 3])
def test_a_saved_and_a_pickled_run_go_on_to_the_same_bits(name, average_from):
    family, X, w, start = problem(name)
    pace = Pace(0.6, 1, average_from)
    rows = with_holes(X) if family.allow_nan else X
    run = after(Stepwise(family, start), rows[:600], w[:600], [200, 300, 500], pace)
    last = MemorySource(rows[600:].astype(np.float32), w[600:].astype(np.float32))
    want = run.after(last, pace)
    assert run.n_batches == 4  # it stayed what it was
    for other in (pickle.loads(pickle.dumps(run)), Stepwise.recalled(family, D, run.state())):
        got = other.of_family(family, D).after(last, pace)
        for a, b in zip(
            (*got.params, *got.best(), got.objective), (*want.params, *want.best(), want.objective), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_the_bits_do_not_depend_on_threads(name):
    family, X, _, start = problem(name, 9000)
    runs = []
    for n_threads in (1, 2):
        run = Stepwise(family, start)
        for rows in (slice(0, 5000), slice(5000, 9000)):
            run = run.after(MemorySource(X[rows], n_threads=n_threads), Pace())
        runs.append(run)
    for a, b in zip(runs[0].params, runs[1].params, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "factor"])
@pytest.mark.parametrize("average_from", [None, 20])
def test_passes_over_the_data_arrive_near_em(name, average_from):
    family, X, _, start = problem(name, 4000, seed=3)
    run = Stepwise(family, start)
    for _ in range(6):
        for rows in np.split(np.arange(len(X)), 10):
            run = run.after(MemorySource(X[rows]), Pace(0.7, 1, average_from))
    source, params = MemorySource(X), start
    constants, objectives = family.constants(source), []
    for _ in range(60):
        prepared = family.prepare(params, X.dtype)
        stats = source.accumulate(family, prepared)
        objectives.append(family.objective(stats, constants, params))
        params = family.m_step(stats, constants, prepared, params).params
    best = family.with_constants(run.best(), constants)
    reached = family.objective(source.accumulate(family, family.prepare(best, X.dtype)), constants, best)
    scale = 1.0 if name != "kmeans" else abs(objectives[-1])
    assert reached >= objectives[-1] - 2e-2 * scale


def test_a_family_that_cannot_recentre_says_so():
    class Own(families.Family):
        def layout(self, n_features):
            raise NotImplementedError

        def prepare(self, params, dtype, previous=None):
            raise NotImplementedError

        def m_step(self, stats, constants, prepared, params):
            raise NotImplementedError

        def blank_params(self, means, variances):
            raise NotImplementedError

    with pytest.raises(NotImplementedError, match="Own cannot recentre its record, which fits in parts need"):
        Own().recentre(None, None, None)
    with pytest.raises(NotImplementedError, match="Own cannot pool its constants, which fits in parts need"):
        Own().pooled_constants((1,), (2,), 1.0, 1.0)
    assert Own().pooled_constants(None, None, 1.0, 1.0) is None
