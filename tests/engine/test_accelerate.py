"""Acceleration: coordinates there and back, no fall of the log-likelihood, fewer passes, refusals cost one pass."""

import numpy as np
import pytest
from sklearn.datasets import load_iris

from fastem import GaussianMixture
from fastem.draws import Draws
from fastem.engine import accelerate, em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.families.gaussian import SHAPES, GaussianFamily
from fastem.sources.memory import MemorySource

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
D = 3
types = pytest.mark.parametrize("covariance_type", SHAPES)


def overlapping(n=1500, k=4, covariance_type="full", seed=0):
    """Rows of components that overlap, so that EM is slow; a family and a start."""
    family, draws = GaussianFamily(k, covariance_type, 0.0), Draws(seed)
    params = family.example_params(D, draws)
    X = family.sample(params._replace(means=params.means / 4), n, draws)[0]
    return X, family, family.blank_params(X[:: n // k][:k], X.var(axis=0))


def counted(family):
    """Count the family's E-steps."""
    passes, prepare = [0], family.prepare

    def count(*args):
        passes[0] += 1
        return prepare(*args)

    family.prepare = count
    return passes


@types
def test_coordinates_there_and_back(covariance_type):
    family = GaussianFamily(4, covariance_type)
    here, like = (family.example_params(D, Draws(seed)) for seed in (0, 1))
    np.testing.assert_allclose(family.pack(like, like), 0, atol=1e-14)
    back = family.unpack(family.pack(here, like), like)
    for name, got, want in zip(here._fields, back, here, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12, err_msg=name)


@types
def test_coordinates_do_not_depend_on_units_or_origin(covariance_type):
    family = GaussianFamily(4, covariance_type)
    here, like = (family.example_params(D, Draws(seed)) for seed in (0, 1))

    def moved(params):
        scaled = family.with_covariances(params.weights, 1e3 * params.means, 1e6 * params.covariances).params
        return scaled._replace(means=scaled.means + 1e6)

    np.testing.assert_allclose(family.pack(moved(here), moved(like)), family.pack(here, like), rtol=1e-8, atol=1e-8)


@types
def test_length_of_a_short_step_is_the_kullback_leibler_divergence(covariance_type):
    family = GaussianFamily(1, covariance_type)
    like = family.example_params(D, Draws(0))
    step = 1e-4 * Draws(1).normal(len(family.pack(like, like)))
    step[0] = 0  # the only weight is 1
    near = family.unpack(step, like)
    square = {"full": lambda c: c[0], "tied": lambda c: c, "diag": lambda c: np.diag(c[0])}
    square["spherical"] = lambda c: c[0] * np.eye(D)
    a, b = (square[covariance_type](params.covariances) for params in (near, like))
    shift, precision = near.means[0] - like.means[0], np.linalg.inv(b)
    divergence = 0.5 * (np.trace(precision @ a) - D - np.linalg.slogdet(precision @ a)[1] + shift @ precision @ shift)
    assert divergence == pytest.approx(0.5 * step @ step, rel=1e-3)


@types
def test_a_component_without_weight_stays_where_it_is(covariance_type):
    family = GaussianFamily(4, covariance_type)
    here, like = (family.example_params(D, Draws(seed)) for seed in (0, 1))
    weights = np.array([0.5, 0.5, 0.0, 0.0])
    here = here._replace(weights=weights, means=np.where(weights[:, None] > 0, here.means, like.means))
    like = like._replace(weights=weights)
    back = family.unpack(1.5 * family.pack(here, like), like)
    np.testing.assert_array_equal(back.weights[2:], 0)
    np.testing.assert_array_equal(back.means[2:], like.means[2:])
    assert back.weights.sum() == pytest.approx(1)
    died = family.pack(like._replace(weights=np.array([1.0, 0, 0, 0])), like)
    assert family.unpack(died, like) is None


@types
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_log_likelihood_never_falls_and_fewer_passes_are_needed(covariance_type, dtype):
    X, family, start = overlapping(covariance_type=covariance_type)
    source = MemorySource(X.astype(dtype))
    constants, passes = family.constants(source), counted(family)
    tol = 1e-8 if dtype == np.float64 else 1e-6
    runs, needed = {}, {}
    for method in (None, "squarem"):
        passes[0] = 0
        settings = Settings(max_iter=3000, tol=tol, certify=True, accelerate=method)
        runs[method], needed[method] = (
            em.run_once(Problem(source, family, constants=constants), start, settings),
            passes[0],
        )
    fast = runs["squarem"]
    slack = 64 * np.finfo(dtype).eps * (1 + np.abs(fast.objectives[1:]))
    assert np.all(np.diff(fast.objectives) >= -slack)
    assert fast.converged
    assert needed[None] == runs[None].n_iter
    assert fast.n_iter <= needed["squarem"] <= 2 * fast.n_iter
    assert needed["squarem"] < 0.7 * needed[None]
    assert fast.objective >= runs[None].objective - 1e-3


def test_without_it_the_trace_is_plain_em():
    X, _, _ = overlapping()
    options = {"n_components": 4, "random_state": 0, "max_iter": 30, "tol": 0.0}
    plain, fast = GaussianMixture(**options).fit(X), GaussianMixture(**options, accelerate="squarem").fit(X)
    assert plain.lower_bounds_[:2] == fast.lower_bounds_[:2]  # two steps are watched before the first proposal
    assert fast.lower_bounds_[2] > plain.lower_bounds_[2]
    assert fast.lower_bounds_[-1] > plain.lower_bounds_[-1]


class Astray(accelerate.Plain):
    """Proposes a bad place after every step."""

    def propose(self, old, new):
        return new._replace(means=new.means + 100.0)


def test_a_refused_proposal_costs_one_pass_and_changes_nothing(monkeypatch):
    X, family, start = overlapping()
    source, passes = MemorySource(X), counted(family)
    plain = em.run_once(Problem(source, family), start, Settings(max_iter=20, tol=0.0, keep_history=True))
    assert passes == [20]
    monkeypatch.setitem(accelerate.METHODS, "squarem", Astray)
    led = em.run_once(
        Problem(source, family), start, Settings(max_iter=20, tol=0.0, certify=True, accelerate="squarem")
    )
    assert passes == [20 + 20 + 19]
    np.testing.assert_array_equal(plain.objectives, led.objectives)
    for ours, theirs in zip(led.params, plain.params, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Sideways(accelerate.Squarem):
    """Learns that every proposal is refused."""

    tried = 0

    def judge(self, accepted):
        type(self).tried += 1
        return super().judge(False)


def test_after_refusals_proposals_become_rare(monkeypatch):
    X, family, start = overlapping()
    monkeypatch.setitem(accelerate.METHODS, "squarem", Sideways)
    em.run_once(Problem(MemorySource(X), family), start, Settings(max_iter=200, tol=0.0, accelerate="squarem"))
    assert 3 <= Sideways.tried <= 10


def test_accelerated_fits_are_equal_for_any_number_of_threads_and_count_weights():
    X, _, start = overlapping(20_000)
    given = {
        "weights_init": start.weights,
        "means_init": start.means,
        "precisions_init": np.linalg.inv(start.covariances),
    }
    options = {"n_components": 4, "accelerate": "squarem", "tol": 1e-7, "max_iter": 500, **given}
    one, two = (GaussianMixture(**options, n_threads=n).fit(X) for n in (1, 2))
    assert one.lower_bounds_ == two.lower_bounds_
    np.testing.assert_array_equal(one.covariances_, two.covariances_)
    m = 1 + np.arange(2000) % 3
    options = {**options, "max_iter": 30, "tol": 0.0}
    weighted, repeated = GaussianMixture(**options), GaussianMixture(**options)
    weighted.fit(X[:2000], sample_weight=m)
    repeated.fit(np.repeat(X[:2000], m, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-6, atol=1e-6)


def test_iris_reaches_at_least_plain_em():
    X = load_iris().data
    options = {"n_components": 3, "random_state": 0, "max_iter": 2000, "tol": 1e-9}
    plain, fast = GaussianMixture(**options).fit(X), GaussianMixture(**options, accelerate="squarem").fit(X)
    assert fast.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-6)
    assert fast.n_iter_ < plain.n_iter_


def test_a_bad_method_is_refused():
    with pytest.raises(ValueError, match="'accelerate' parameter of GaussianMixture must be None or a str among"):
        GaussianMixture(2, accelerate="warp").fit(load_iris().data)
