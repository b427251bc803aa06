"""The certificate of monotonicity (lecture row L8): a wrong M-step is found out, at its iteration, with the amount."""

import numpy as np
import pytest
from exponential import Exponential, Parameters

import fastem
from fastem import em, init
from fastem.draws import Draws
from fastem.families.base import MStep
from fastem.families.gaussian import GaussianFamily
from fastem.families.gaussian.noise import NoisyGaussianFamily
from fastem.monitor import Settings
from fastem.sources.memory import MemorySource


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
        em.run_once(source, family, start, None, Settings(max_iter=50, tol=0.0, certify=True))
    family.calls = 0
    run = em.run_once(source, family, start, None, Settings(max_iter=10, tol=0.0))
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
    start = init.from_centers(source, GaussianFamily(3), X[:3])
    with pytest.raises(fastem.MonotonicityError, match=r"at iteration 5 of restart 0"):
        em.run_once(source, family, start, None, Settings(max_iter=50, tol=0.0, certify=True))


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
