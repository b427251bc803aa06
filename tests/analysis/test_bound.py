"""ln p(X) = L(q, theta) + KL(q, posterior), for every registered mixture."""

import numpy as np
import pytest

import fastem
from fastem import LowerBound, families
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.sources.memory import MemorySource
from fastem.starts.mixture import MixtureStart

NAMES = sorted(name for name in families.FAMILIES if name != "kmeans" and families.mixes(name))
K, D = 3, 4


def problem(name, n=300, seed=0):
    """A family, parameters that did not make the rows, and the rows."""
    family = families.make(name, K)
    if hasattr(family, "reg_covar"):
        family.reg_covar = 0.0
    draws = Draws(seed)
    X, _ = family.sample(family.example_params(D, draws), n, draws)
    X = np.ascontiguousarray(X, np.float64)
    return family, MixtureStart("random")(Problem(MemorySource(X), family), draws), X


def some_q(n, seed=0, sharp=1.0):
    """Random responsibilities, some of them exactly 0."""
    q = Draws(seed, 9).uniform(n * K).reshape(n, K) ** sharp
    q[::7, 0] = 0.0
    return q / q.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_bound_and_divergence_add_up_for_any_q(name, weighted, seed):
    family, theta, X = problem(name, seed=seed)
    at = LowerBound(family, X, Draws(seed, 3).uniform(len(X)) if weighted else None)
    q = some_q(len(X), seed, sharp=1.0 + 3.0 * seed)
    likelihood, bound, kl = at.log_likelihood(theta), at.bound(q, theta), at.kl(q, theta)
    assert bound + kl == pytest.approx(likelihood, rel=1e-11)
    assert kl > 0
    assert bound < likelihood


@pytest.mark.parametrize("name", NAMES)
def test_the_e_step_closes_the_gap_and_nothing_else_does(name):
    family, theta, X = problem(name)
    at = LowerBound(family, X)
    q = at.e_step(theta)
    assert at.kl(q, theta) == pytest.approx(0.0, abs=1e-9 * len(X))
    assert at.bound(q, theta) == pytest.approx(at.log_likelihood(theta), rel=1e-12)
    for share in (1e-3, 0.1):  # any step away from the posterior opens it
        assert at.bound((1 - share) * q + share * some_q(len(X)), theta) < at.bound(q, theta)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_the_m_step_raises_the_bound_for_any_q(name, seed):
    family, theta, X = problem(name, seed=seed)
    at = LowerBound(family, X)
    for q in (at.e_step(theta), some_q(len(X), seed)):
        new = at.m_step(q, theta)
        assert at.bound(q, new) > at.bound(q, theta)
        again = at.m_step(q, new)  # the maximum does not depend on where the statistics are centred
        if family.hides_more:
            assert at.bound(q, again) > at.bound(q, new)
        else:
            assert at.bound(q, again) == pytest.approx(at.bound(q, new), rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_em_by_hand_is_the_engine(name):
    family, theta, X = problem(name)
    at = LowerBound(family, X)
    values = []
    for _ in range(4):
        q = at.e_step(theta)
        values.append(at.bound(q, theta) / len(X))
        theta = at.m_step(q, theta)
    source = MemorySource(X)
    start = problem(name)[1]
    run = em.run_once(Problem(source, family), start, Settings(max_iter=4, tol=0.0))
    np.testing.assert_allclose(run.objectives, values[: len(run.objectives)], rtol=1e-9)


def test_terms_are_the_formulas_in_plain_numpy():
    from scipy.stats import multivariate_normal

    family, theta, X = problem("gaussian-full", 50)
    at, q, w = LowerBound(family, X, np.arange(50) % 3 + 0.5), some_q(50), np.arange(50) % 3 + 0.5
    parts = zip(theta.weights, theta.means, theta.covariances, strict=True)
    joint = np.column_stack([np.log(pi) + multivariate_normal(mean, cov).logpdf(X) for pi, mean, cov in parts])
    log_q = np.log(np.where(q > 0, q, 1.0))
    assert at.entropy(q) == pytest.approx(-(w @ (q * log_q).sum(axis=1)), rel=1e-12)
    assert at.expected_log_joint(q, theta) == pytest.approx(w @ (q * joint).sum(axis=1), rel=1e-10)
    assert at.log_likelihood(theta) == pytest.approx(w @ np.log(np.exp(joint).sum(axis=1)), rel=1e-10)


def test_fitted_mixtures_bring_their_parameters():
    _, _, X = problem("gaussian-full")
    model = fastem.GaussianMixture(K, random_state=0, reg_covar=0.0).fit(X)
    other = fastem.GaussianMixture(K, random_state=0, max_iter=1, reg_covar=0.0)
    with pytest.warns(UserWarning, match="converge"):
        other.fit(X)
    at = LowerBound(model, X)
    assert at.log_likelihood() == pytest.approx(model.score_samples(X).sum(), rel=1e-12)
    assert at.log_likelihood(other) == pytest.approx(other.score_samples(X).sum(), rel=1e-12)
    np.testing.assert_array_equal(at.e_step(), model.predict_proba(X))


def test_a_noise_component_has_its_share_of_q():
    _, _, X = problem("gaussian-full")
    model = fastem.GaussianMixture(K, noise=True, random_state=0, reg_covar=0.0, tol=0.1).fit(X)
    at = LowerBound(model, X)
    q = at.e_step()
    assert q.shape == (len(X), K + 1)
    assert at.bound(q) == pytest.approx(at.log_likelihood(), rel=1e-12)
    mixed = 0.5 * q + 0.5 / (K + 1)
    assert at.bound(mixed) + at.kl(mixed) == pytest.approx(at.log_likelihood(), rel=1e-12)


def test_a_dead_component_adds_nothing():
    family, theta, X = problem("gaussian-full")
    theta = theta._replace(weights=np.array([0.5, 0.5, 0.0]))
    at = LowerBound(family, X)
    q = at.e_step(theta)
    assert np.all(q[:, 2] == 0)
    assert at.bound(q, theta) + at.kl(q, theta) == pytest.approx(at.log_likelihood(theta), rel=1e-12)
    assert at.kl(some_q(len(X)), theta) == np.inf


def test_what_is_refused():
    family, theta, X = problem("gaussian-full", 20)
    at = LowerBound(family, X)
    with pytest.raises(ValueError, match=r"shape \(20, 2\), expected \(20, 3\)"):
        at.bound(np.full((20, 2), 0.5), theta)
    with pytest.raises(ValueError, match="sum to one"):
        at.bound(np.full((20, 3), 0.5), theta)
    with pytest.raises(ValueError, match="sum to one"):
        at.kl(np.tile([1.5, -0.5, 0.0], (20, 1)), theta)
    with pytest.raises(ValueError, match="theta must be"):
        at.log_likelihood()
    with pytest.raises(ValueError, match="no likelihood"):
        LowerBound(families.make("kmeans", 2), X)
    with pytest.raises(TypeError, match="got KMeans"):
        LowerBound(fastem.KMeans(2), X)


# Factor analysis: what is hidden is continuous, and q is normal.


def factor_problem(n_factors=2, missing=0.0, seed=0, n=200, d=6):
    """A bound, parameters that did not make the rows, and any normal q."""
    family, draws = families.make("factor", 1, n_factors=n_factors), Draws(seed)
    X, _ = family.sample(family.example_params(d, draws), n, draws)
    X = np.where(draws.uniform(X.size).reshape(X.shape) < missing, np.nan, X)
    theta = family.example_params(d, draws)
    roots = draws.normal(n * n_factors**2).reshape(n, n_factors, n_factors)
    covariances = 0.1 * np.eye(n_factors) + roots @ np.swapaxes(roots, 1, 2)
    return family, theta, X, fastem.GaussianQ(draws.normal(n * n_factors).reshape(n, n_factors), covariances)


@pytest.mark.parametrize("n_factors", [0, 1, 3])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_bound_and_divergence_add_up_for_any_normal_q(n_factors, missing, weighted):
    family, theta, X, q = factor_problem(n_factors, missing)
    at = LowerBound(family, X, Draws(1).uniform(len(X)) if weighted else None)
    likelihood = at.log_likelihood(theta)
    assert at.bound(q, theta) + at.kl(q, theta) == pytest.approx(likelihood, rel=1e-11)
    same = fastem.GaussianQ(q.means, np.eye(n_factors))  # one covariance for all rows
    assert at.bound(same, theta) + at.kl(same, theta) == pytest.approx(likelihood, rel=1e-11)
    assert (at.kl(q, theta) > 1) == (n_factors > 0)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_posterior_of_the_factors_closes_the_gap_and_nothing_else_does(missing):
    family, theta, X, q = factor_problem(2, missing)
    at = LowerBound(family, X)
    best = at.e_step(theta)
    assert at.kl(best, theta) == pytest.approx(0.0, abs=1e-9)
    assert at.bound(best, theta) == pytest.approx(at.log_likelihood(theta), rel=1e-12)
    np.testing.assert_allclose(best.means, family.factors(X, family.prepare(theta, X.dtype), 1), atol=1e-10)
    for share in (1e-2, -1e-2):
        moved = best._replace(means=best.means + share * q.means)
        assert at.bound(moved, theta) < at.bound(best, theta)
        assert at.bound(best._replace(covariances=best.covariances * (1 + share)), theta) < at.bound(best, theta)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_m_step_of_factor_analysis_is_at_the_top_of_the_bound(missing):
    family, theta, X, other = factor_problem(2, missing)
    at = LowerBound(family, X, Draws(2).uniform(len(X)))
    for q in (other, at.e_step(theta)):
        new = at.m_step(q, theta)
        top = at.bound(q, new)
        assert top > at.bound(q, theta)
        assert at.log_likelihood(new) >= top
        assert at.bound(q, at.m_step(q, new)) == pytest.approx(top, rel=1e-12)
        rng = np.random.default_rng(0)
        for _ in range(10):
            step = [1e-3 * rng.standard_normal(field.shape) for field in new]
            for sign in (1, -1):
                assert at.bound(q, type(new)(*(a + sign * s for a, s in zip(new, step, strict=True)))) < top


def test_em_by_hand_is_the_engine_where_values_are_missing():
    family, theta, X, _ = factor_problem(2, 0.2)
    at, values, start = LowerBound(family, X), [], theta
    for _ in range(5):
        q = at.e_step(theta)
        values.append(at.bound(q, theta) / len(X))
        theta = at.m_step(q, theta)
    source = MemorySource(X)
    missing = family.for_missing()
    run = em.run_once(Problem(source, missing), start, Settings(max_iter=5, tol=0.0))
    np.testing.assert_allclose(run.objectives, values, rtol=1e-10)


def test_a_fitted_factor_analysis_brings_its_parameters():
    X = factor_problem()[2]
    model = fastem.FactorAnalysis(2).fit(X)
    at = LowerBound(model, X)
    assert at.log_likelihood() == pytest.approx(model.score(X) * len(X), rel=1e-12)
    np.testing.assert_allclose(at.e_step().means, model.transform(X), atol=1e-10)
    with pytest.raises(TypeError, match="GaussianQ"):
        at.bound(np.ones((len(X), 1)))
    with pytest.raises(ValueError, match="rows by factors"):
        at.bound(fastem.GaussianQ(np.zeros((3, 2)), np.eye(2)))
    with pytest.raises(ValueError, match="positive definite"):
        at.kl(fastem.GaussianQ(np.zeros((len(X), 2)), np.zeros((2, 2))))
