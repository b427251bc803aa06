"""GaussianMixture: agreement with scikit-learn from the same start, the known answer, degenerate data, input rules."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn.mixture
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastem import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical")
FAITHFUL = Path(__file__).parents[2] / "examples" / "faithful.csv"


@parametrize_with_checks([GaussianMixture()])
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def start(X, k, covariance_type, seed=0):
    """Weights, means and precisions that leave EM something to do."""
    means = X[np.random.default_rng(seed).choice(len(X), k, replace=False)]
    precision = np.linalg.inv(np.cov(X.T))
    precisions = {
        "full": np.repeat(precision[None], k, axis=0),
        "tied": precision,
        "diag": np.repeat(1 / X.var(axis=0)[None], k, axis=0),
        "spherical": np.full(k, 1 / X.var()),
    }
    return {"weights_init": np.full(k, 1 / k), "means_init": means, "precisions_init": precisions[covariance_type]}


def data(n=4000, d=5, k=4, seed=0):
    X, _ = make_blobs(n, d, centers=k, cluster_std=2.5, random_state=seed)
    return X


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("max_iter", [1, 2, 7, 30])
def test_agrees_with_scikit_learn_iteration_by_iteration(covariance_type, max_iter):
    X = data()
    options = {"covariance_type": covariance_type, "max_iter": max_iter, "tol": 0.0, **start(X, 4, covariance_type)}
    ours = GaussianMixture(4, **options).fit(X)
    theirs = sklearn.mixture.GaussianMixture(4, **options).fit(X)
    both = min(ours.n_iter_, theirs.n_iter_)  # a change of exactly 0 may come some iterations apart
    assert both >= min(max_iter, 20)
    np.testing.assert_allclose(ours.lower_bounds_[:both], theirs.lower_bounds_[:both], rtol=1e-8)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-8)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-7)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.aic(X) == pytest.approx(theirs.aic(X))
    assert ours.bic(X) == pytest.approx(theirs.bic(X))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_stops_at_the_same_iteration_as_scikit_learn(covariance_type):
    X = data()
    options = {"covariance_type": covariance_type, "max_iter": 500, "tol": 1e-5, **start(X, 4, covariance_type)}
    ours = GaussianMixture(4, **options).fit(X)
    theirs = sklearn.mixture.GaussianMixture(4, **options).fit(X)
    assert ours.converged_
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-8)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random_from_data"])
def test_old_faithful_has_the_known_log_likelihood(init_params):
    X = np.loadtxt(FAITHFUL, delimiter=",", skiprows=1)
    model = GaussianMixture(
        2, init_params=init_params, n_init=5, tol=1e-10, max_iter=2000, reg_covar=0, random_state=0, certify=True
    ).fit(X)
    assert model.score(X) * len(X) == pytest.approx(-1130.264, abs=1e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_every_init_fits_well_separated_clusters(covariance_type):
    X, y = make_blobs(600, 2, centers=[[-9, 0], [9, 0], [0, 15]], random_state=0)
    for init_params in ("kmeans", "k-means++", "random_from_data", "random"):
        model = GaussianMixture(
            3,
            covariance_type=covariance_type,
            init_params=init_params,
            n_init=8,
            max_iter=500,
            tol=1e-8,
            random_state=0,
        ).fit(X)
        labels = model.predict(X)
        assert len({(a, b) for a, b in zip(y, labels, strict=True)}) == 3, init_params
        assert model.restarts_.shape == (8,)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sampled_rows_have_the_fitted_moments(covariance_type):
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(data(k=3))
    X, y = model.sample(60_000)
    np.testing.assert_allclose(np.bincount(y, minlength=3) / len(y), model.weights_, atol=0.01)
    for c in range(3):
        covariance = {
            "full": lambda c=c: model.covariances_[c],
            "tied": lambda: model.covariances_,
            "diag": lambda c=c: np.diag(model.covariances_[c]),
            "spherical": lambda c=c: model.covariances_[c] * np.eye(5),
        }[covariance_type]()
        spread = np.abs(covariance).max()
        np.testing.assert_allclose(X[y == c].mean(axis=0), model.means_[c], atol=0.05 * np.sqrt(spread))
        np.testing.assert_allclose(np.cov(X[y == c].T), covariance, atol=0.05 * spread)


def test_score_samples_is_the_density():
    X = data(200)
    model = GaussianMixture(4, random_state=0).fit(X)
    parts = zip(model.weights_, model.means_, model.covariances_, strict=True)
    density = sum(w * multivariate_normal(m, c).pdf(X) for w, m, c in parts)
    np.testing.assert_allclose(np.exp(model.score_samples(X)), density, rtol=1e-9)
    w = np.arange(200.0)
    assert model.score(X, sample_weight=w) == pytest.approx(np.average(np.log(density), weights=w))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_equal_repeated_rows(covariance_type):
    X = data(500)
    m = 1 + np.arange(500) % 3
    options = {"covariance_type": covariance_type, "tol": 1e-8, "max_iter": 300, **start(X, 4, covariance_type)}
    weighted = GaussianMixture(4, **options).fit(X, sample_weight=m)
    repeated = GaussianMixture(4, **options).fit(np.repeat(X, m, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-8, atol=1e-9)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_far_points_have_one_hot_responsibilities(covariance_type):
    X = data(400)
    model = GaussianMixture(4, covariance_type=covariance_type, random_state=0).fit(X)
    far = np.array([[1e160] * 5, [-1e200] * 5, [1e8] * 5, [1e300, 0, 0, 0, 0]])
    resp = model.predict_proba(far)
    np.testing.assert_array_equal(resp.max(axis=1), 1)
    np.testing.assert_array_equal(resp.sum(axis=1), 1)
    assert not np.any(np.isnan(model.score_samples(far)))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_far_row_does_not_poison_a_fit(covariance_type):
    X = np.vstack([data(400), np.full((1, 5), 1e9)])
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0, max_iter=300).fit(X)
    assert np.all(np.isfinite(model.means_))
    assert np.all(np.isfinite(model.covariances_))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_dead_component_keeps_its_mean_and_covariance(covariance_type):
    X = data(400)
    given = start(X, 4, covariance_type)
    given["means_init"] = given["means_init"].copy()
    given["means_init"][3] = 1e7
    model = GaussianMixture(4, covariance_type=covariance_type, max_iter=30, **given).fit(X)
    assert model.weights_[3] == 0
    np.testing.assert_allclose(model.means_[3], 1e7)
    assert np.all(np.isfinite(model.covariances_))
    assert np.all(np.isfinite(model.score_samples(X)))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_singular_data_is_regularised_and_reported(covariance_type):
    X = np.repeat([[1.0, 2.0], [5.0, 6.0]], 20, axis=0)
    with pytest.warns(ConvergenceWarning, match="singular"):
        model = GaussianMixture(2, covariance_type=covariance_type, reg_covar=0, random_state=0).fit(X)
    assert np.all(np.isfinite(model.covariances_))
    np.testing.assert_allclose(np.sort(model.means_[:, 0]), [1, 5])
    assert model.notes_


def test_certified_with_regularisation():
    X = np.round(data(1000, 3), 0)
    for covariance_type in TYPES:
        model = GaussianMixture(
            6, covariance_type=covariance_type, reg_covar=0.5, max_iter=200, tol=1e-9, random_state=0, certify=True
        ).fit(X)
        assert model.converged_ or model.n_iter_ == 200


def test_warm_start_goes_on_where_it_stopped():
    X = data()
    options = {"tol": 0.0, "random_state": 0, **start(X, 4, "full")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = GaussianMixture(4, max_iter=10, **options).fit(X)
        parts = GaussianMixture(4, max_iter=5, warm_start=True, **options).fit(X).fit(X)
    np.testing.assert_array_equal(whole.means_, parts.means_)


def test_float32_rows_are_as_safe_as_float64():
    X = (data() + 1e4).astype(np.float32)
    for covariance_type in TYPES:
        options = {"covariance_type": covariance_type, **start(X.astype(float), 4, covariance_type)}
        single = GaussianMixture(4, **options).fit(X)
        double = GaussianMixture(4, **options).fit(X.astype(np.float64))
        np.testing.assert_allclose(single.means_, double.means_, rtol=1e-4)
        atol = 1e-4 * np.abs(double.covariances_).max()
        np.testing.assert_allclose(single.covariances_, double.covariances_, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_offset_1e8_costs_nothing(covariance_type):
    X = np.round(data() * 2**10) / 2**10  # exact after the offset
    near = GaussianMixture(4, covariance_type=covariance_type, **start(X, 4, covariance_type)).fit(X)
    given = start(X, 4, covariance_type)
    given["means_init"] = given["means_init"] + 1e8
    far = GaussianMixture(4, covariance_type=covariance_type, **given).fit(X + 1e8)
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(far.means_ - 1e8, near.means_, atol=1e-6)
    np.testing.assert_allclose(far.score_samples(X + 1e8), near.score_samples(X), atol=1e-5)


def test_history_holds_the_parameters_of_every_iteration():
    model = GaussianMixture(3, random_state=0, keep_history=True, tol=1e-6).fit(data())
    assert len(model.history_) == model.n_iter_ + 1
    np.testing.assert_array_equal(model.history_[-1].means, model.means_)
    assert not np.array_equal(model.history_[0].means, model.means_)


def test_same_result_for_any_number_of_threads():
    X = data(30_000)
    for covariance_type in TYPES:
        one, two = (
            GaussianMixture(4, covariance_type=covariance_type, random_state=0, n_threads=n).fit(X) for n in (1, 2)
        )
        np.testing.assert_array_equal(one.means_, two.means_)
        np.testing.assert_array_equal(one.covariances_, two.covariances_)
        assert one.lower_bounds_ == two.lower_bounds_


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "'n_components' parameter of GaussianMixture must be an int in the range"),
        ({"n_components": 200}, "Expected n_samples >= n_components but got n_components = 200, n_samples = 150"),
        ({"covariance_type": "round"}, "'covariance_type'"),
        ({"tol": -1}, "'tol'"),
        ({"reg_covar": -1}, "'reg_covar'"),
        ({"n_init": 0}, "'n_init'"),
        ({"init_params": "luck"}, "'init_params'"),
        ({"max_iter": -1}, "'max_iter'"),
        ({"weights_init": [0.5, 0.2]}, r"'weights' should be normalized, but got sum\(weights\) = 0.70000"),
        ({"weights_init": [1.5, -0.5]}, r"should be in the range \[0, 1\]"),
        ({"weights_init": [1.0]}, r"'weights' should have the shape of \(2,\), but got \(1,\)"),
        ({"means_init": np.zeros((2, 3))}, r"'means' should have the shape of \(2, 4\), but got \(2, 3\)"),
        ({"precisions_init": np.zeros((2, 4, 4))}, "'full precision' should be symmetric, positive-definite"),
        ({"precisions_init": -np.ones((2, 4)), "covariance_type": "diag"}, "'diag precision' should be positive"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(parameters, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"n_components": 2, **parameters}).fit(load_iris().data)


def test_bad_rows_weights_and_unfitted_models_are_refused():
    X = load_iris().data
    with pytest.raises(ValueError, match="infinity"):
        GaussianMixture(2).fit(np.where(X[3, 1] == X, np.inf, X))
    with pytest.raises(ValueError, match="Negative values"):
        GaussianMixture(2).fit(X, sample_weight=-np.ones(150))
    with pytest.raises(NotFittedError):
        GaussianMixture(2).score_samples(X)
    with pytest.raises(ValueError, match="at least one sample"):
        GaussianMixture(2, random_state=0).fit(X).sample(0)
