"""Gaussian mixtures that nobody fitted: attributes set by hand, as for scikit-learn, or given to a constructor."""

import warnings

import numpy as np
import pytest
import sklearn.mixture

import fastem
from fastem import families
from fastem.draws import Draws

TYPES = ["full", "tied", "diag", "spherical"]


def parameters(covariance_type, k=3, d=4, seed=0):
    """Weights, means and covariances of a mixture."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(k, d, d))
    full = A @ A.transpose(0, 2, 1) + 0.1 * np.eye(d)
    shapes = {"full": full, "tied": full[0], "diag": np.diagonal(full, axis1=1, axis2=2), "spherical": full[:, 0, 0]}
    weights = rng.uniform(1, 2, k)
    return weights / weights.sum(), 3 * rng.normal(size=(k, d)), np.array(shapes[covariance_type])


def by_hand(kind, covariance_type, names, lower=False, seed=0):
    """A mixture of which only some attributes are set."""
    weights, means, covariances = parameters(covariance_type, seed=seed)
    if covariance_type in ("full", "tied"):
        factors = np.linalg.cholesky(np.linalg.inv(covariances))
        if not lower:
            factors = np.linalg.inv(np.linalg.cholesky(covariances)).swapaxes(-1, -2)
    else:
        factors = 1 / np.sqrt(covariances)
    model = kind(len(weights), covariance_type=covariance_type, random_state=0)
    given = {"weights_": weights, "means_": means, "covariances_": covariances, "precisions_cholesky_": factors}
    for name in names:
        setattr(model, name, given[name])
    return model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_factors_count_whichever_triangle_they_fill(covariance_type, lower, seed):
    names = ("weights_", "means_", "covariances_", "precisions_cholesky_")
    ours, theirs = (
        by_hand(kind, covariance_type, names, lower, seed)
        for kind in (fastem.GaussianMixture, sklearn.mixture.GaussianMixture)
    )
    X = 3 * np.random.default_rng(9).normal(size=(200, 4))
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.aic(X) == pytest.approx(theirs.aic(X))
    assert ours.bic(X) == pytest.approx(theirs.bic(X))


def test_the_case_that_users_met():
    covariance = np.array([[4, 1.8], [1.8, 1]])
    model = fastem.GaussianMixture(1)
    model.weights_, model.means_, model.covariances_ = np.ones(1), np.zeros((1, 2)), covariance[None]
    model.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariance))[None]
    assert model.score_samples([[2.0, 1.0]]) == pytest.approx(-2.23, abs=0.005)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_a_method_needs_is_enough(covariance_type):
    model = by_hand(fastem.GaussianMixture, covariance_type, ("weights_", "means_", "covariances_"))
    whole = fastem.GaussianMixture.from_parameters(*parameters(covariance_type), covariance_type=covariance_type)
    X, y = model.sample(500)
    assert X.shape == (500, 4)
    assert set(y) <= {0, 1, 2}
    np.testing.assert_allclose(model.score_samples(X), whole.score_samples(X), rtol=1e-12)
    model = by_hand(fastem.GaussianMixture, covariance_type, ("weights_", "means_", "precisions_cholesky_"))
    np.testing.assert_array_equal(model.predict(X), whole.predict(X))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_samples_follow_covariances_that_were_changed(covariance_type):
    X = np.random.default_rng(0).normal(size=(500, 2))
    model = fastem.GaussianMixture(1, covariance_type=covariance_type, random_state=0).fit(X)
    model.covariances_ *= 100
    np.testing.assert_allclose(model.sample(5000)[0].std(axis=0), 10 * X.std(axis=0), rtol=0.05)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_given_parameters_make_a_fitted_model(covariance_type, tmp_path):
    given = parameters(covariance_type)
    model = fastem.GaussianMixture.from_parameters(*given, covariance_type=covariance_type, random_state=0)
    X, _ = model.sample(300)
    theirs = model.to_sklearn()
    np.testing.assert_allclose(model.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    fastem.save(model, tmp_path / "model.npz")
    np.testing.assert_array_equal(fastem.load(tmp_path / "model.npz").predict(X), model.predict(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.5, 0.5, 0.5]}, "'weights' should be normalized"),
        ({"weights": [0.5, 0.5]}, "'weights' should have the shape of"),
        ({"means": [[0.0, np.nan, 0, 0]] * 3}, "means contains NaN"),
        ({"covariances": np.ones((3, 4))}, "'covariances' should have the shape of"),
        ({"covariances": -np.ones((3, 4, 4))}, "should be symmetric, positive-definite"),
        ({"covariance_type": "round"}, "'covariance_type' parameter of GaussianMixture must be"),
    ],
)
def test_unfit_parameters_are_refused(change, message):
    given = dict(zip(("weights", "means", "covariances"), parameters("full"), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        fastem.GaussianMixture.from_parameters(**given)


BY_HAND = {
    "bernoulli": (fastem.BernoulliMixture(3, binarize=3.0), ("weights_", "means_"), {"binarize": 3.0}),
    "poisson": (fastem.PoissonMixture(3), ("weights_", "rates_"), {}),
    "categorical": (fastem.CategoricalMixture(3), ("weights_", "feature_probabilities_"), {}),
    "student": (fastem.StudentTMixture(3), ("weights_", "means_", "scales_", "dofs_"), {}),
    "student-diag": (
        fastem.StudentTMixture(3, covariance_type="diag"),
        ("weights_", "means_", "scales_", "dofs_"),
        {"covariance_type": "diag"},
    ),
    "analysers": (
        fastem.FactorAnalyserMixture(3, n_factors=2),
        ("weights_", "means_", "loadings_", "noise_variances_"),
        {},
    ),
    "generic": (fastem.Mixture(3, family="poisson"), ("params_",), {"family": "poisson", "n_features": 3}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_mixture_is_made_of_its_parameters(name, tmp_path):
    model, attributes, options = BY_HAND[name]
    rng = np.random.default_rng(0)
    X = rng.poisson(np.array([2.0, 6.0, 14.0])[rng.integers(0, 3, 200)][:, None], (200, 3)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.set_params(random_state=0).fit(X)
    values = [getattr(model, attribute) for attribute in attributes]
    made = type(model).from_parameters(*values, random_state=0, **options)
    for method in ("predict", "predict_proba", "score_samples"):
        np.testing.assert_allclose(getattr(made, method)(X), getattr(model, method)(X), rtol=1e-9, atol=1e-12)
    assert made.bic(X) == pytest.approx(model.bic(X))
    np.testing.assert_allclose(made.sample(20)[0], model.sample(20)[0], rtol=1e-9)
    fastem.save(made, tmp_path / "m.npz")
    np.testing.assert_array_equal(fastem.load(tmp_path / "m.npz").predict(X), made.predict(X))
    for number, value in enumerate(values):
        if isinstance(value, np.ndarray):
            wrong = [*values[:number], value[:-1], *values[number + 1 :]]
            with pytest.raises(ValueError, match=r"shape|sum|normalized|one for each"):
                type(model).from_parameters(*wrong, **options)
            wrong[number] = np.full(value.shape, np.nan)
            with pytest.raises(ValueError, match=r"NaN|nan"):
                type(model).from_parameters(*wrong, **options)


def test_starts_of_a_generic_mixture_go_through_the_door():
    X = np.random.default_rng(0).poisson(3.0, (50, 2)).astype(float)
    params = families.make("poisson", 2).example_params(2, Draws(0))
    for bad in (params._replace(rates=params.rates[:1]), params._replace(rates=params.rates[:, :1])):
        with pytest.raises(ValueError, match="rates has shape"):
            fastem.Mixture(2, family="poisson", params_init=bad).fit(X)
    with pytest.raises(ValueError, match=r"params_init.rates contains NaN"):
        fastem.Mixture(2, family="poisson", params_init=params._replace(rates=params.rates * np.nan)).fit(X)


@pytest.mark.parametrize("missing", ["covariances_", "precisions_cholesky_"])
def test_a_twin_is_complete_whatever_was_set_by_hand(missing):
    X = np.random.default_rng(0).normal(size=(200, 2)) + 5 * np.repeat([[0.0], [1.0]], 100, axis=0)
    model = fastem.GaussianMixture(2, random_state=0).fit(X)
    want = model.score_samples(X)
    delattr(model, missing)
    np.testing.assert_allclose(model.to_sklearn().score_samples(X), want, rtol=1e-8)
