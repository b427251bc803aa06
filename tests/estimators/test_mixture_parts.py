"""Marginals and conditionals of Gaussian mixtures; scikit-learn's twin of a fitted mixture."""

import numpy as np
import pytest
import sklearn.mixture
from mixture_data import data, dense
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from fastem import GaussianMixture, KMeans, load, save
from fastem.families.gaussian import SHAPES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
types = pytest.mark.parametrize("covariance_type", SHAPES)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


# --- parts of a model


@types
def test_marginal_is_the_density_of_the_columns(covariance_type):
    X, _ = data(600)
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    columns = [2, 0]
    part = model.marginal(columns)
    density = sum(
        model.weights_[c]
        * multivariate_normal(model.means_[c][columns], dense(model, c)[np.ix_(columns, columns)]).pdf(X[:, columns])
        for c in range(3)
    )
    np.testing.assert_allclose(np.exp(part.score_samples(X[:, columns])), density, rtol=1e-9)
    mask = np.array([True, False, True, False])
    np.testing.assert_array_equal(model.marginal(mask).means_, model.means_[:, [0, 2]])
    np.testing.assert_array_equal(model.marginal(-1).means_, model.means_[:, [3]])
    np.testing.assert_allclose(model.marginal(range(4)).score_samples(X), model.score_samples(X))
    assert part.sample(5)[0].shape == (5, 2)


@types
@pytest.mark.parametrize("columns", [[1], [3, 0], [0, 1, 2]])
def test_condition_is_the_quotient_of_joint_and_marginal(covariance_type, columns):
    X, _ = data(600)
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    rest = [j for j in range(4) if j not in columns]
    for row in X[:5]:
        part = model.condition(columns, row[columns])
        rows = np.repeat(row[None], 50, axis=0)
        rows[:, rest] = X[:50][:, rest]
        joint = model.score_samples(rows) - model.marginal(columns).score_samples(rows[:, columns])
        np.testing.assert_allclose(part.score_samples(rows[:, rest]), joint, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(part.weights_, model.marginal(columns).predict_proba(row[None, columns])[0])


def test_condition_far_away_belongs_to_one_component():
    X, _ = data(300)
    part = GaussianMixture(3, random_state=0).fit(X).condition([0], [1e12])
    assert sorted(part.weights_) == [0, 0, 1]
    assert np.all(np.isfinite(part.means_))


def test_columns_by_name_and_parts_that_can_be_saved(tmp_path):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(load_iris().data, columns=["sl", "sw", "pl", "pw"])
    model = GaussianMixture(3, random_state=0).fit(X)
    part = model.condition(["pl", "sl"], [4.0, 6.0])
    assert part.feature_names_in_.tolist() == ["sw", "pw"]
    save(part, tmp_path / "part.npz")
    rows = X[["sw", "pw"]]
    np.testing.assert_array_equal(load(tmp_path / "part.npz").predict_proba(rows), part.predict_proba(rows))
    with pytest.raises(ValueError, match="not fitted with a feature named 'petal'"):
        model.marginal(["petal"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.marginal([0, 4]), r"numbers in \[-4, 4\)"),
        (lambda m: m.marginal([0.0]), "numbers in"),
        (lambda m: m.marginal([1, -3]), "distinct"),
        (lambda m: m.marginal([]), "numbers in|at least one"),
        (lambda m: m.condition([0, 1, 2, 3], [0, 0, 0, 0]), "at least one must remain"),
        (lambda m: m.condition([0, 1], [0.0]), r"'values' should have the shape of \(2,\), but got \(1,\)"),
        (lambda m: m.condition([0], [np.nan]), "values contains NaN"),
    ],
)
def test_bad_columns_are_refused_in_one_sentence(call, message):
    model = GaussianMixture(2).fit(load_iris().data)
    with pytest.raises(ValueError, match=message):
        call(model)


# --- scikit-learn's twin


@types
@dtypes
def test_to_scikit_learn_and_back_predicts_the_same(covariance_type, dtype):
    X, _ = data(800, std=4.0)
    X = X.astype(dtype)
    options = {"covariance_type": covariance_type, "random_state": 0, "tol": 1e-4}
    ours = GaussianMixture(3, **options, n_threads=1).fit(X)
    theirs = ours.to_sklearn()
    assert isinstance(theirs, sklearn.mixture.GaussianMixture)
    assert theirs.get_params()["tol"] == 1e-4
    X = X.astype(np.float64)
    np.testing.assert_array_equal(theirs.predict(X), ours.predict(X))
    np.testing.assert_allclose(theirs.score_samples(X), ours.score_samples(X), rtol=1e-10)
    assert theirs.bic(X) == pytest.approx(ours.bic(X))
    theirs.sample(3)
    back = GaussianMixture.from_sklearn(theirs)
    np.testing.assert_array_equal(back.predict_proba(X), ours.predict_proba(X))
    fitted = sklearn.mixture.GaussianMixture(3, **options).fit(X)
    twin = GaussianMixture.from_sklearn(fitted)
    np.testing.assert_array_equal(twin.predict(X), fitted.predict(X))
    np.testing.assert_allclose(twin.predict_proba(X), fitted.predict_proba(X), atol=1e-10)
    again = twin.to_sklearn()
    for name in (
        "weights_",
        "means_",
        "covariances_",
        "precisions_",
        "precisions_cholesky_",
        "n_iter_",
        "lower_bound_",
    ):
        np.testing.assert_array_equal(getattr(again, name), getattr(fitted, name))
    assert again.get_params() == fitted.get_params()
    theirs.means_[:] = 0  # a copy
    assert np.any(ours.means_ != 0)


def test_only_fitted_mixtures_of_scikit_learn_are_taken():
    with pytest.raises(TypeError, match=r"takes a sklearn.mixture.GaussianMixture, got a KMeans"):
        GaussianMixture.from_sklearn(KMeans())
    with pytest.raises(NotFittedError):
        GaussianMixture.from_sklearn(sklearn.mixture.GaussianMixture())
    with pytest.raises(NotFittedError):
        GaussianMixture().to_sklearn()
