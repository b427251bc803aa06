"""What no restart changes is made once."""

import numpy as np
import pytest

from fastem import families
from fastem.engine import em, problem
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.grid import CELL
from fastem.sources.memory import MemorySource
from fastem.starts.mixture import MixtureStart

SETTINGS = Settings(max_iter=5, tol=0.0)


def rows(n, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 6 * rng.integers(0, 3, n)[:, None]


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize(("n", "n_threads"), [(300, 1), (20_000, 1), (14_000, 2)])
def test_restarts_share_what_they_do_not_change(init, n, n_threads, monkeypatch):
    """Tied covariances need a pass before the loop, starts the variances of all rows: once, however many restarts."""
    asked = []
    family = families.make("gaussian-tied", 30)  # so large a record that restarts run side by side
    constants, of_groups, variances = family.constants, family.constants_of_groups, problem.variances
    monkeypatch.setattr(family, "constants", lambda source: asked.append("constants") or constants(source))
    monkeypatch.setattr(family, "constants_of_groups", lambda *rows: asked.append("constants") or of_groups(*rows))
    monkeypatch.setattr(problem, "variances", lambda source: asked.append("variances") or variances(source))
    source = MemorySource(rows(n), n_threads=n_threads)
    em.run(Problem(source, family), MixtureStart(init), settings=SETTINGS, n_init=4)
    in_one_call = n <= CELL and init in ("kmeans", "k-means++")  # which has its own variances
    assert asked.count("constants") == 1
    assert asked.count("variances") == (not in_one_call)


def test_restarts_side_by_side_get_the_same(monkeypatch):
    X, results = rows(14_000), []
    for n_threads in (1, 2):
        found = Problem(MemorySource(X, n_threads=n_threads), families.make("gaussian-tied", 30))
        assert em._small_but_work(found) == (n_threads == 2)
        results.append(em.run(found, MixtureStart("kmeans"), settings=SETTINGS, n_init=4))
    np.testing.assert_array_equal(results[0].restarts, results[1].restarts)


def test_the_family_for_missing_values_is_chosen_once():
    X = rows(100)
    family = families.make("gaussian-full", 2)
    assert Problem(MemorySource(X), family).family is family
    X[3, 1] = np.nan
    found = Problem(MemorySource(X), family)
    assert found.family is not family
    assert np.isfinite(found.variances).all()
    assert found.variances[1] == pytest.approx(np.nanvar(X[:, 1]) * 99 / 100, rel=1e-9)  # the mean in its place


def test_constants_that_are_known_are_not_asked_for(monkeypatch):
    family = families.make("gaussian-tied", 2)
    source = MemorySource(rows(100))
    known = family.constants(source)
    monkeypatch.setattr(family, "constants", None)
    assert Problem(source, family, constants=known).with_threads(1).constants is known
