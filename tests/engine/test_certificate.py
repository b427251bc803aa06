"""The certificate of monotonicity (lecture row L8): a wrong M-step is found out, at its iteration, with the amount."""

import warnings

import numpy as np
import pytest
from exponential import Exponential, Parameters
from hypothesis import given, settings
from hypothesis import strategies as st

import fastem
from fastem import families
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.families.base import MStep
from fastem.families.gaussian import GaussianFamily
from fastem.families.gaussian.noise import NoisyGaussianFamily
from fastem.sources.memory import MemorySource
from fastem.starts.mixture import MixtureStart, from_centers


class Wrong(Exponential):
    """Forgets itself at the fourth M-step."""

    calls = 0

    def m_step(self, stats, constants, prepared, params):
        step = super().m_step(stats, constants, prepared, params)
        self.calls += 1
        return MStep(Parameters(step.params.weights, 3.0 * step.params.rates)) if self.calls == 4 else step


def test_L8_a_fall_is_an_error_with_the_iteration_and_the_amount():
    family, draws = Wrong(2), Draws(0)
    source = MemorySource(family.sample(family.example_params(1, draws), 1000, draws)[0])
    start = Parameters(np.array([0.5, 0.5]), np.array([1.0, 2.0]))
    with pytest.raises(fastem.MonotonicityError, match=r"fell by 0\.[0-9]+ at iteration 5 of restart 0"):
        em.run_once(Problem(source, family), start, Settings(max_iter=50, tol=0.0, certify=True))
    family.calls = 0
    run = em.run_once(Problem(source, family), start, Settings(max_iter=10, tol=0.0))
    assert any("the objective fell" in note for note in run.notes)


class WrongMeans(GaussianFamily):
    """Forgets the means at the fourth M-step."""

    calls = 0

    def m_step(self, stats, constants, prepared, params):
        step = super().m_step(stats, constants, prepared, params)
        self.calls += 1
        return MStep(step.params._replace(means=step.params.means + 1.0)) if self.calls == 4 else step


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
def test_L8_regularisation_does_not_excuse_a_wrong_m_step(reg_covar):
    X = np.random.default_rng(0).normal(size=(400, 2)) + np.repeat([[0.0], [5.0], [9.0], [9.0]], 100, axis=0)
    family, source = WrongMeans(3, reg_covar=reg_covar), MemorySource(X)
    start = from_centers(Problem(source, GaussianFamily(3)), X[:3])
    with pytest.raises(fastem.MonotonicityError, match=r"at iteration 5 of restart 0"):
        em.run_once(Problem(source, family), start, Settings(max_iter=50, tol=0.0, certify=True))


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
def test_L8_regularisation_does_not_excuse_a_wrong_m_step_beside_noise(reg_covar, monkeypatch):
    X = np.random.default_rng(0).normal(size=(400, 2)) + np.repeat([[0.0], [5.0], [9.0], [9.0]], 100, axis=0)
    right, calls = NoisyGaussianFamily.m_step, []

    def wrong(self, stats, constants, prepared, params):
        calls.append(None)
        step = right(self, stats, constants, prepared, params)
        return MStep(step.params._replace(means=step.params.means + 1.0)) if len(calls) == 6 else step

    monkeypatch.setattr(NoisyGaussianFamily, "m_step", wrong)
    model = fastem.GaussianMixture(
        3, noise=True, reg_covar=reg_covar, means_init=X[:3], random_state=0, tol=0.0, certify=True
    )
    with pytest.raises(fastem.MonotonicityError, match="of restart 0"):
        model.fit(X)


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "categorical"])
@pytest.mark.parametrize("floor", [0.0, 1e-10])
def test_L8_a_floor_does_not_excuse_a_wrong_m_step(name, floor, monkeypatch):
    family, draws = families.make(name, 2, floor=floor), Draws(0)
    X = family.sample(family.example_params(6, draws), 2000, draws)[0]
    source, right, calls = MemorySource(X), type(family).m_step, []

    def wrong(self, stats, constants, prepared, params):
        calls.append(None)
        step = right(self, stats, constants, prepared, params)
        unlikely = np.where(step.params.weights > 0.5, 1e-6, 1 - 1e-6)
        return MStep(step.params._replace(weights=unlikely)) if len(calls) == 4 else step

    start = MixtureStart("k-means++")(Problem(source, family), draws)
    calls.clear()
    monkeypatch.setattr(type(family), "m_step", wrong)
    with pytest.raises(fastem.MonotonicityError, match=r"at iteration 5 of restart 0"):
        em.run_once(Problem(source, family), start, Settings(max_iter=50, tol=0.0, certify=True))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e6, 1e8])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_L8_rounding_of_large_counts_is_no_fall(dtype, size):
    rng = np.random.default_rng(0)
    for seed in range(4):
        rates = size * rng.uniform(1, 1 + 5 / np.sqrt(size), (3, 4))
        X = rng.poisson(rates[rng.integers(0, 3, 900)]).astype(dtype)
        model = fastem.PoissonMixture(3, random_state=seed, tol=0.0, max_iter=60, certify=True)
        assert np.isfinite(model.fit(X).lower_bound_)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["bernoulli", "poisson", "categorical"])
def test_L8_what_the_order_of_rows_changes_is_within_the_rounding_allowed(name, dtype):
    family, rng = families.make(name, 2), np.random.default_rng(0)
    params = family.example_params(8, Draws(0))
    X = family.sample(params, 5000, Draws(1))[0].astype(dtype)
    if name == "poisson":
        X, params = (X + 2**20).astype(dtype), params._replace(rates=params.rates + 2**20)

    def objective(rows):
        source = MemorySource(np.ascontiguousarray(rows))
        prepared, constants = family.prepare(params, rows.dtype), family.constants(source)
        stats = source.accumulate(family, prepared)
        allowed = family.shortfall(stats, constants, prepared, params, params)
        return family.objective(stats, constants, params), allowed

    found, allowed = objective(X)
    others = [objective(rng.permutation(X))[0] for _ in range(5)]
    assert 0 < np.ptp([found, *others]) <= allowed < 1e-2 * (1 + abs(found))


@given(
    seed=st.integers(0, 10**6),
    d=st.sampled_from([1, 2, 5, 40]),
    dtype=st.sampled_from([np.float32, np.float64]),
    covariance_type=st.sampled_from(["full", "tied", "diag", "spherical"]),
    reg_covar=st.sampled_from([0.0, 1e-9, 1e-6, 1e-3]),
    init_params=st.sampled_from(["kmeans", "random", "random_from_data"]),
    scale=st.floats(-6, 6).map(np.exp),
    noise=st.booleans(),
    rounded=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_hard_assignment_raises_no_false_alarm(
    seed, d, dtype, covariance_type, reg_covar, init_params, scale, noise, rounded
):
    """Components collapse on few rows, and singular ones get a ridge: rounding is large there, and no defect."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(int(rng.integers(20, 400)), d)) + rng.integers(0, 3, d)
    X = ((np.round(4 * X) / 4 if rounded else X) * scale).astype(dtype)
    model = fastem.GaussianMixture(
        5, assignment="hard", covariance_type=covariance_type, reg_covar=reg_covar, init_params=init_params,
        noise=noise, certify=True, random_state=seed, tol=0, max_iter=40,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isfinite(model.fit(X).lower_bound_)
