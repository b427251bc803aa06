"""Student-t mixtures: kernels against formulas, the equation of the degrees of freedom, robustness, input rules.

What all families promise is checked by test_family_contract.py.
"""

import numpy as np
import pytest
from naive import (
    full_covariances,
    responsibilities,
    student_log_joint,
    student_missing_stats,
    student_stats,
)
from scipy import stats
from scipy.special import digamma
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastem
from fastem import GaussianMixture, StudentTMixture, families
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.families.base import MStep
from fastem.families.student import COVARIANCE_TYPES, LEAST_DOF, MOST_DOF, StudentFamily, solve_dofs
from fastem.sources.memory import MemorySource
from fastem.starts.mixture import from_centers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

by_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


@parametrize_with_checks([StudentTMixture(), StudentTMixture(2, covariance_type="diag", dof=4.0)])
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def example(covariance_type, k=3, d=5, n=1000, seed=0, dof=None):
    """A family, parameters and rows of it in random order."""
    family = StudentFamily(k, covariance_type, reg_covar=0.0, dof=dof)
    params = family.example_params(d, Draws(seed))
    X = family.sample(params, n, Draws(seed, 1))[0]
    return family, params, np.ascontiguousarray(X[np.random.default_rng(seed).permutation(n)])


@by_type
@pytest.mark.parametrize("d", [1, 2, 5, 17])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kernels_equal_the_formulas(covariance_type, d, dtype):
    family, params, X = example(covariance_type, d=d)
    X = X.astype(dtype)
    w = Draws(3).uniform(len(X)).astype(dtype)
    labels = np.where(np.arange(len(X)) % 5 == 0, np.arange(len(X)) % 3, -1).astype(np.int32)
    prepared = family.prepare(params, X.dtype)
    log_joint = student_log_joint(X, params, covariance_type)
    tolerance = 1e-10 if dtype == np.float64 else 2e-4
    np.testing.assert_allclose(family.log_joint(X, prepared, 1), log_joint, rtol=tolerance, atol=tolerance)
    loglik, resp = responsibilities(log_joint)
    np.testing.assert_allclose(family.posterior(X, prepared, 1)[0], loglik, rtol=tolerance, atol=tolerance)
    got = MemorySource(X, w, labels).accumulate(family, prepared)
    resp = responsibilities(log_joint, labels)[1] * w[:, None]
    centres = prepared.origin + prepared.means.astype(float)
    counts, logs, masses, sums, scatter = student_stats(X, resp, params, covariance_type, centres)
    scatter = {
        "full": scatter,
        "diag": np.einsum("kjj->kj", scatter),
        "spherical": np.einsum("kjj->k", scatter),
    }[covariance_type]
    for value, want in zip(got[1:], (masses, sums, scatter, counts, logs), strict=True):
        np.testing.assert_allclose(value, want, rtol=0, atol=tolerance * np.abs(want).max())


@by_type
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kernels_of_missing_values_equal_the_formulas(covariance_type, dtype):
    family, params, X = example(covariance_type, d=4, n=400)
    family, rng = family.for_missing(), np.random.default_rng(0)
    X = np.where(rng.random(X.shape) < 0.3, np.nan, X).astype(dtype)
    X[3] = np.nan
    w = Draws(3).uniform(len(X)).astype(dtype)
    prepared = family.prepare(params, X.dtype)
    centres = prepared.origin + prepared.means.astype(float)
    log_joint, want = student_missing_stats(X, w, params, covariance_type, centres)
    tolerance = 1e-10 if dtype == np.float64 else 2e-4
    np.testing.assert_allclose(family.log_joint(X, prepared, 1), log_joint, rtol=tolerance, atol=tolerance)
    assert family.log_prob(X, prepared, 1)[3] == pytest.approx(0.0, abs=tolerance)  # nothing is known of that row
    counts, logs, masses, sums, scatter = want
    scatter = scatter if covariance_type == "full" else np.einsum("kjj->kj", scatter)
    got = MemorySource(X, w).accumulate(family, prepared)
    for value, wanted in zip(got[1:], (masses, sums, scatter, counts, logs), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_missing_values_do_not_hide_the_parameters():
    family, params, X = example("full", k=2, d=3, n=30_000, seed=4)
    holes = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
    start = dict(zip(("weights_init", "means_init", "scales_init"), params, strict=False))
    model = StudentTMixture(2, tol=1e-8, certify=True, **start).fit(holes)
    np.testing.assert_allclose(model.means_, params.means, atol=0.15)
    np.testing.assert_allclose(model.scales_, params.scales, atol=0.3)
    np.testing.assert_allclose(model.dofs_, params.dofs, atol=1.0)
    assert model.score(X) == pytest.approx(family.log_prob(X, family.prepare(params, X.dtype), 1).mean(), abs=0.01)
    with pytest.raises(ValueError, match="Column 1 of X has no value"):
        StudentTMixture(2).fit(np.column_stack([X[:, 0], np.full(len(X), np.nan)]))


@pytest.mark.parametrize("dof", [1.0, 7.5, 1e3, 1e8])
def test_the_density_is_scipys(dof):
    family, params, X = example("full", k=1, dof=dof)
    want = stats.multivariate_t.logpdf(X, params.means[0], params.scales[0], df=dof)
    got = family.log_prob(X, family.prepare(params, X.dtype), 1)
    if dof < 1e8:  # beyond, SciPy's own loses digits
        np.testing.assert_allclose(got, want, rtol=1e-12)
    else:
        normal = stats.multivariate_normal.logpdf(X, params.means[0], params.scales[0])
        np.testing.assert_allclose(got, normal, rtol=1e-6)


def test_the_degrees_of_freedom_solve_their_equation():
    dofs = np.array([LEAST_DOF, 0.3, 1.0, 2.0, 4.7, 30.0, 150.0, MOST_DOF])
    gap = np.log(dofs / 2) - digamma(dofs / 2)
    np.testing.assert_allclose(solve_dofs(gap), dofs, rtol=1e-9)
    np.testing.assert_array_equal(solve_dofs(np.array([0.0, -1.0, np.inf])), [MOST_DOF, MOST_DOF, LEAST_DOF])


@by_type
def test_own_samples_give_the_parameters_back(covariance_type):
    family, params, X = example(covariance_type, k=2, d=3, n=40_000, seed=4)
    model = StudentTMixture(
        2, covariance_type=covariance_type, means_init=params.means, tol=1e-9, reg_covar=0.0, random_state=0
    ).fit(X)
    # Six standard errors; that of nu is about nu^2 / sqrt(n) times less than 1 for d = 3.
    n = len(X) * params.weights.min()
    np.testing.assert_allclose(model.weights_, params.weights, atol=6 * 0.5 / np.sqrt(len(X)))
    np.testing.assert_allclose(model.means_, params.means, atol=6 * np.sqrt(2 * params.scales.max() / n))
    np.testing.assert_allclose(model.scales_, params.scales, atol=6 * 3 * params.scales.max() / np.sqrt(n))
    np.testing.assert_allclose(model.dofs_, params.dofs, rtol=0, atol=6 * params.dofs.max() ** 1.5 / np.sqrt(n))
    assert model.lower_bound_ >= family.log_prob(X, family.prepare(params, X.dtype), 1).mean()


@by_type
def test_outliers_barely_move_the_means(covariance_type):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [12.0, 0.0]])
    X = np.repeat(centres, 500, axis=0) + rng.normal(size=(1000, 2))
    outliers = np.concatenate([X, rng.uniform(-100, 100, size=(30, 2))])
    family = families.make(f"gaussian-{covariance_type}", 2)
    unit = family.common_covariances(2, np.ones(2))
    options = {"covariance_type": covariance_type, "weights_init": [0.5, 0.5], "means_init": centres}

    def moved(model):
        return np.abs(model.fit(outliers).means_ - model.fit(X).means_).max()

    assert moved(StudentTMixture(2, scales_init=unit, dofs_init=10.0, **options)) < 0.2
    assert moved(GaussianMixture(2, precisions_init=unit, **options)) > 1


@by_type
def test_many_degrees_of_freedom_are_the_gaussian_mixture(covariance_type):
    X = GaussianMixture(2, covariance_type=covariance_type, random_state=0)
    family = families.make(f"gaussian-{covariance_type}", 2)
    X, _ = family.sample(family.example_params(3, Draws(0)), 500, Draws(1))
    options = {"covariance_type": covariance_type, "means_init": X[[0, -1]], "tol": 0.0, "max_iter": 40}
    student = StudentTMixture(2, dof=1e10, **options).fit(X)
    gaussian = GaussianMixture(2, **options).fit(X)
    np.testing.assert_allclose(student.means_, gaussian.means_, rtol=1e-6)
    np.testing.assert_allclose(student.covariances_, gaussian.covariances_, rtol=1e-5, atol=1e-6)
    assert student.lower_bound_ == pytest.approx(gaussian.lower_bound_, rel=1e-8)


def test_given_degrees_of_freedom_are_kept_and_not_counted():
    _, _, X = example("full", k=2, d=2)
    model = StudentTMixture(2, dof=[3.0, 8.0], random_state=0, certify=True).fit(X)
    np.testing.assert_array_equal(model.dofs_, [3.0, 8.0])
    free = StudentTMixture(2, random_state=0, certify=True).fit(X)
    assert free._n_parameters() == model._n_parameters() + 2 == 1 + 4 + 6 + 2
    assert free.lower_bound_ > model.lower_bound_


@by_type
@pytest.mark.parametrize("reg_covar", [0.0, 1e-3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_log_likelihood_is_certified_from_every_start(covariance_type, reg_covar, dtype):
    _, _, X = example(covariance_type, seed=7)
    for init_params in ("kmeans", "random", "random_from_data", "em-em"):
        options = {"covariance_type": covariance_type, "reg_covar": reg_covar, "init_params": init_params}
        model = StudentTMixture(3, random_state=1, certify=True, **options).fit(X.astype(dtype))
        assert np.all(np.isfinite(model.means_))


class Wrong(StudentFamily):
    """Forgets the degrees of freedom, or the means, at the fourth M-step."""

    calls, forgets = 0, "dofs"

    def m_step(self, stats, constants, prepared, params):
        step = super().m_step(stats, constants, prepared, params)
        self.calls += 1
        wrong = {"dofs": 5 * step.params.dofs, "means": step.params.means + 1.0}
        return MStep(step.params._replace(**{self.forgets: wrong[self.forgets]})) if self.calls == 4 else step


@pytest.mark.parametrize("forgets", ["dofs", "means"])
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
def test_L8_a_wrong_m_step_is_found_out(forgets, reg_covar):
    right, params, X = example("full", seed=2)
    family, source = Wrong(3, reg_covar=reg_covar), MemorySource(X)
    family.forgets = forgets
    start = from_centers(Problem(source, right), params.means)
    with pytest.raises(fastem.MonotonicityError, match="at iteration 5 of restart 0"):
        em.run_once(Problem(source, family), start, Settings(max_iter=50, tol=0.0, certify=True))


def test_infinitely_far_rows_are_no_nan():
    _, params, X = example("full", k=2, d=2)
    model = StudentTMixture(2, random_state=0).fit(X)
    far = np.array([[1e160, -1e160], [1e100, 1e100], [0.0, 1e308]])
    proba = model.predict_proba(far)
    assert np.all(np.isfinite(proba))
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    start = dict(zip(("weights_init", "means_init", "scales_init"), params, strict=False))
    start["dof"] = 4.0  # an estimate of them would follow the row: 200 nats for each degree less
    with_far = StudentTMixture(2, **start).fit(np.concatenate([X, [[1e90, -1e90]]]))
    without = StudentTMixture(2, **start).fit(X)
    np.testing.assert_allclose(with_far.means_, without.means_, atol=0.3)  # one row in 1001, at any distance


def test_known_labels_give_each_group_its_own_fit():
    _, _, X = example("full", k=2, d=2, seed=5)
    y = (X[:, 0] > np.median(X[:, 0])).astype(int)
    both = StudentTMixture(2, tol=1e-10, random_state=0).fit(X, labels=y)
    for c in range(2):
        alone = StudentTMixture(1, tol=1e-10, random_state=0).fit(X[y == c])
        np.testing.assert_allclose(both.means_[c], alone.means_[0], atol=1e-2)
        assert both.dofs_[c] == pytest.approx(alone.dofs_[0], rel=1e-2)


def test_save_load_select_and_anomalies(tmp_path):
    _, _, X = example("full", k=2, d=2, n=400)
    model = StudentTMixture(2, random_state=0).fit(X)
    fastem.save(model, tmp_path / "model.npz")
    again = fastem.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    found = fastem.select(X, [1, 2], model="student", random_state=0)
    assert {row.covariance_type for row in found.table} == set(COVARIANCE_TYPES)
    assert found.best.n_components == 2
    flagged = fastem.AnomalyDetector(StudentTMixture(2, random_state=0), contamination=0.05).fit(X).predict(X)
    assert np.sum(flagged == -1) == 20


@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data"])
def test_given_parameters_are_where_the_fit_starts(init_params):
    family, params, X = example("diag", k=2)
    model = StudentTMixture(
        2,
        covariance_type="diag",
        init_params=init_params,
        weights_init=params.weights,
        means_init=params.means,
        scales_init=params.scales,
        dofs_init=params.dofs,
        max_iter=0,
    ).fit(X)
    for name in ("weights", "means", "scales", "dofs"):
        np.testing.assert_allclose(getattr(model, f"{name}_"), getattr(params, name), rtol=1e-14)
    assert model.lower_bound_ == pytest.approx(family.log_prob(X, family.prepare(params, X.dtype), 1).mean())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"covariance_type": "tied"}, "covariance_type"),
        ({"dof": 0.0}, "dof must be a positive number, or one for each of 2 components, got 0.0"),
        ({"dof": [1.0, 2.0, 3.0]}, "one for each of 2 components"),
        ({"dofs_init": "many"}, "dofs_init must be a positive number"),
        ({"dof": 3.0, "dofs_init": 3.0}, "Give either 'dof'"),
        ({"reg_covar": -1.0}, "reg_covar"),
        ({"scales_init": np.zeros((2, 3, 3))}, "positive"),
    ],
)
def test_refusals(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        StudentTMixture(2, **options).fit(np.arange(30.0).reshape(10, 3) ** 1.5)


def test_covariances_are_those_of_the_distribution():
    _, _, X = example("full", k=1, d=2, n=20_000, dof=8.0)
    model = StudentTMixture(1, dof=8.0).fit(X)
    np.testing.assert_allclose(model.covariances_[0], np.cov(X.T), rtol=0.1, atol=0.1)
    assert np.all(np.isinf(np.diagonal(StudentTMixture(1, dof=1.5).fit(X).covariances_[0])))
    assert full_covariances(model.scales_, "full", 1, 2).shape == (1, 2, 2)
