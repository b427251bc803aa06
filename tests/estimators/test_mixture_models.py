"""Gaussian mixtures with known labels, fixed parameters and hard assignment."""

import numpy as np
import pytest
from mixture_data import data, identity_like
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fastem import GaussianMixture, KMeans, load, save
from fastem.families.gaussian import SHAPES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
types = pytest.mark.parametrize("covariance_type", SHAPES)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


# --- known labels (lecture row L6)


def discriminant_analysis(X, y, covariance_type, w=None):
    """Class proportions, means and covariances in closed form."""
    w = np.ones(len(X)) if w is None else w
    k, d = y.max() + 1, X.shape[1]
    weights = np.array([w[y == c].sum() for c in range(k)]) / w.sum()
    means = np.array([np.average(X[y == c], axis=0, weights=w[y == c]) for c in range(k)])
    each = np.array([np.cov(X[y == c].T, aweights=w[y == c], bias=True) for c in range(k)])
    diagonal = np.einsum("kjj->kj", each)
    covariances = {
        "full": each,
        "tied": np.tensordot(weights, each, 1),
        "diag": diagonal,
        "spherical": diagonal.mean(axis=1),
    }[covariance_type]
    return weights, means, covariances.reshape(covariances.shape if d > 1 else -1)


@types
@dtypes
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
@pytest.mark.parametrize("weighted", [False, True])
def test_l6_all_labels_known_is_discriminant_analysis_in_one_step(covariance_type, dtype, init_params, weighted):
    X, y = data()
    X = X.astype(dtype)
    tol = 1e-12 if dtype == np.float64 else 1e-6
    w = 0.5 + np.random.default_rng(0).random(len(X)).astype(dtype) if weighted else None
    model = GaussianMixture(3, covariance_type=covariance_type, reg_covar=0, init_params=init_params, tol=tol)
    model.fit(X, sample_weight=w, labels=y)
    weights, means, covariances = discriminant_analysis(X.astype(float), y, covariance_type, w)
    rtol = 1e-10 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(model.weights_, weights, rtol=rtol)
    np.testing.assert_allclose(model.means_, means, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(model.covariances_, covariances, rtol=rtol, atol=rtol)
    assert model.converged_
    assert model.n_iter_ <= 2
    np.testing.assert_allclose(model.lower_bounds_, model.lower_bounds_[0], rtol=tol)


def test_l6_all_labels_known_and_one_covariance_is_scikit_learns_linear_discriminant_analysis():
    X, y = load_iris(return_X_y=True)
    ours = GaussianMixture(3, covariance_type="tied", reg_covar=0).fit(X, labels=y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(X, y)
    np.testing.assert_allclose(ours.weights_, theirs.priors_)
    np.testing.assert_allclose(ours.means_, theirs.means_)
    np.testing.assert_allclose(ours.covariances_, theirs.covariance_, rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)


@types
def test_l6_some_labels_known_is_semi_supervised_em(covariance_type):
    X, y = data(std=4.0)
    known = np.where(np.arange(len(X)) % 10 == 0, y, -1)
    model = GaussianMixture(3, covariance_type=covariance_type, tol=1e-9, max_iter=500, reg_covar=0, certify=True)
    model.fit(X, labels=known)
    # A fixed point of the M-step whose responsibilities are one-hot where the labels are known.
    resp = np.where(known[:, None] >= 0, np.eye(3)[known], model.predict_proba(X))
    np.testing.assert_allclose(model.weights_, resp.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(model.means_, resp.T @ X / resp.sum(axis=0)[:, None], atol=1e-3)
    joint = np.log(model.predict_proba(X)) + model.score_samples(X)[:, None]
    rows = np.arange(len(X))
    objective = np.where(known >= 0, joint[rows, known], model.score_samples(X)).mean()
    assert model.lower_bound_ == pytest.approx(objective, abs=1e-6)
    alone = GaussianMixture(3, covariance_type=covariance_type).fit(X[known >= 0], labels=known[known >= 0])
    truth = np.array([X[y == c].mean(axis=0) for c in range(3)])
    assert np.abs(model.means_ - truth).mean() < np.abs(alone.means_ - truth).mean()  # the other rows help


def test_l6_components_keep_the_numbers_of_their_labels():
    X, y = data(std=0.5)
    for order in ([0, 1, 2], [2, 0, 1]):
        renamed = np.array(order)[y]
        known = np.where(np.arange(len(X)) < 60, renamed, -1)
        for init_params in ("kmeans", "k-means++", "random", "random_from_data"):
            model = GaussianMixture(3, init_params=init_params, random_state=0).fit(X, labels=known)
            np.testing.assert_array_equal(model.predict(X), renamed)


def test_l6_a_component_without_known_rows_takes_the_rest():
    X, y = data(std=0.5)
    model = GaussianMixture(3, random_state=0).fit(X, labels=np.where(y == 2, -1, y))
    np.testing.assert_array_equal(model.predict(X), y)


# --- fixed parameters


@types
@dtypes
@pytest.mark.parametrize("accelerate", [None, "squarem"])
@pytest.mark.parametrize(
    "fixed", [("weights",), ("means",), ("covariances",), ("weights", "means"), ["covariances", "means"]]
)
def test_fixed_parameters_stay_to_the_bit_and_the_rest_is_maximised(covariance_type, dtype, accelerate, fixed):
    X, _ = data()
    given = {
        "weights_init": np.array([0.2, 0.3, 0.5]),
        "means_init": X[[0, 10, 20]],
        "precisions_init": identity_like(covariance_type, 3, 4, 5.0),
    }
    model = GaussianMixture(
        3, covariance_type=covariance_type, fixed=fixed, **given, max_iter=12, tol=0.0, reg_covar=0, certify=True,
        accelerate=accelerate, keep_history=True,
    ).fit(X.astype(dtype))  # fmt: skip
    first, last = model.history_[0], model._fitted()[1]
    for name in ("weights", "means", "covariances"):
        np.testing.assert_array_equal(getattr(model, f"{name}_"), getattr(last, name).astype(dtype))
        same = np.array_equal(getattr(last, name), getattr(first, name))
        assert same == (name in fixed)
    assert np.all(np.diff(model.lower_bounds_) > -1e-4)


@types
def test_covariances_about_fixed_means(covariance_type):
    X, y = data()
    means = np.array([X[y == c].mean(axis=0) + shift for c, shift in enumerate((0.5, -1.0, 2.0))])
    model = GaussianMixture(3, covariance_type=covariance_type, means_init=means, fixed=("means",), reg_covar=0)
    model.fit(X, labels=y)
    moments = np.array([(X[y == c] - means[c]).T @ (X[y == c] - means[c]) / (y == c).sum() for c in range(3)])
    want = {
        "full": moments,
        "tied": np.tensordot(np.bincount(y) / len(y), moments, 1),
        "diag": np.einsum("kjj->kj", moments),
        "spherical": np.einsum("kjj->kj", moments).mean(axis=1),
    }[covariance_type]
    np.testing.assert_array_equal(model.means_, means)
    np.testing.assert_allclose(model.covariances_, want, rtol=1e-10, atol=1e-10)


def test_fixed_parameters_are_not_counted_as_free():
    X, _ = data()
    given = {"means_init": X[:3], "weights_init": np.full(3, 1 / 3)}
    all_free = GaussianMixture(3, **given, max_iter=1).fit(X)
    less = GaussianMixture(3, **given, max_iter=1, fixed=("weights", "means")).fit(X)
    free = [(model.bic(X) + 2 * model.score(X) * len(X)) / np.log(len(X)) for model in (all_free, less)]
    np.testing.assert_allclose(free, [2 + 12 + 30, 30])


# --- hard assignment


@pytest.mark.parametrize("covariance_type", ["spherical", "tied", "full", "diag"])
@dtypes
def test_l11_k_means_is_em_for_a_restricted_mixture(covariance_type, dtype):
    X, _ = data(4000, 3, 6, std=2.0)
    X = X.astype(dtype)
    (n, d), k, variance = X.shape, 6, 1.7
    start = X[:k].astype(float)
    mixture = GaussianMixture(
        k,
        covariance_type=covariance_type,
        weights_init=np.full(k, 1 / k),
        means_init=start,
        precisions_init=identity_like(covariance_type, k, d, variance),
        fixed=("weights", "covariances"),
        assignment="hard",
        max_iter=100,
        tol=0.0,
        keep_history=True,
        certify=True,
    ).fit(X)
    kmeans = KMeans(k, init=start, n_init=1, max_iter=100, tol=0.0, algorithm="lloyd", keep_history=True).fit(X)
    assert kmeans.n_iter_ > 5
    iterations = min(kmeans.n_iter_, mixture.n_iter_)
    constant = np.log(k) + 0.5 * d * np.log(2 * np.pi * variance)
    for t in range(iterations):
        restored = -2 * variance * n * (mixture.lower_bounds_[t] + constant)
        assert restored == pytest.approx(kmeans.inertia_history_[t], rel=1e-10 if dtype == np.float64 else 2e-5)
        centers = kmeans.history_[t].centers
        np.testing.assert_allclose(
            mixture.history_[t].means, centers, rtol=0, atol=1e-10 if dtype == np.float64 else 1e-5
        )
        if dtype == np.float64:
            ours = GaussianMixture(k, covariance_type=covariance_type, max_iter=1, **_all(mixture.history_[t], mixture))
            theirs = KMeans(k, init=centers, n_init=1, max_iter=1)
            np.testing.assert_array_equal(_labels(ours, X), _labels(theirs, X, centers))
    np.testing.assert_array_equal(mixture.predict(X), kmeans.labels_)


def _all(params, like):
    return {
        "weights_init": params.weights,
        "means_init": params.means,
        "precisions_init": like.precisions_,
        "fixed": ("weights", "means", "covariances"),
        "assignment": "hard",
    }


def _labels(model, X, centers=None):
    """Labels at given parameters."""
    model.fit(X)
    if centers is not None:
        model.cluster_centers_ = centers
    return model.predict(X)


@types
def test_hard_assignment_equals_classification_em_in_numpy(covariance_type):
    X, _ = data(600, std=4.0)
    options = {"covariance_type": covariance_type, "reg_covar": 0, "tol": 0.0, "random_state": 0}
    model = GaussianMixture(3, **options, max_iter=8, assignment="hard", keep_history=True, certify=True).fit(X)
    before = model.history_[0]
    at = GaussianMixture(
        3, covariance_type=covariance_type, weights_init=before.weights, means_init=before.means,
        precisions_init=_precisions(before.covariances, covariance_type), max_iter=1,
        fixed=("weights", "means", "covariances"),
    ).fit(X)  # fmt: skip
    labels = at.predict(X)
    weights, means, covariances = discriminant_analysis(X, labels, covariance_type)
    np.testing.assert_allclose(model.history_[1].weights, weights)
    np.testing.assert_allclose(model.history_[1].means, means)
    np.testing.assert_allclose(model.history_[1].covariances, covariances, rtol=1e-9, atol=1e-9)
    joint = np.log(at.predict_proba(X).max(axis=1)) + at.score_samples(X)
    assert model.lower_bounds_[0] == pytest.approx(joint.mean())


def _precisions(covariances, covariance_type):
    return 1 / covariances if covariance_type in ("diag", "spherical") else np.linalg.inv(covariances)


@types
@dtypes
def test_hard_assignment_keeps_the_contract(covariance_type, dtype):
    X, y = data(9000, std=4.0)
    X = X.astype(dtype)
    start = {
        "weights_init": np.full(3, 1 / 3),
        "means_init": X[:3].astype(float),
        "precisions_init": identity_like(covariance_type, 3, 4, 9.0),
    }
    options = {"covariance_type": covariance_type, "assignment": "hard", "tol": 1e-7, "max_iter": 200, **start}
    one, two = (GaussianMixture(3, **options, n_threads=n, certify=True).fit(X) for n in (1, 2))
    np.testing.assert_array_equal(one.covariances_, two.covariances_)
    assert one.lower_bounds_ == two.lower_bounds_
    m = np.arange(len(X)) % 3
    options["max_iter"] = 10
    weighted = GaussianMixture(3, **options).fit(X, sample_weight=m)
    repeated = GaussianMixture(3, **options).fit(np.repeat(X, m, axis=0))
    rtol = 1e-9 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=rtol, atol=rtol)
    known = np.where(np.arange(len(X)) % 2 == 0, y, -1)
    labelled = GaussianMixture(3, **options, fixed=("weights", "covariances")).fit(X, labels=known)
    chosen = np.where(known >= 0, known, labelled.predict(X))
    means = np.array([X[chosen == c].mean(axis=0, dtype=float) for c in range(3)])
    np.testing.assert_allclose(labelled.means_, means, atol=0.05)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fixed": ("wieghts",)}, "'fixed' parameter of GaussianMixture must be a collection of 'weights', 'means'"),
        ({"fixed": "weights"}, "'fixed' parameter"),
        ({"fixed": ("means",)}, "With 'means' in 'fixed', 'means_init' must say at which values"),
        ({"fixed": ("covariances",)}, "'precisions_init' must say"),
        ({"assignment": "firm"}, "'assignment' parameter"),
        ({"assignment": "hard", "accelerate": "squarem"}, "'accelerate' needs assignment='soft'"),
    ],
)
def test_bad_restrictions_are_refused_in_one_sentence(parameters, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, **parameters).fit(load_iris().data)


def test_options_survive_saving(tmp_path):
    X, _ = data(300)
    model = GaussianMixture(3, weights_init=np.full(3, 1 / 3), fixed=("weights",), assignment="hard").fit(X)
    save(model, tmp_path / "model.npz")
    loaded = load(tmp_path / "model.npz")
    assert set(loaded.fixed) == {"weights"}
    assert loaded.assignment == "hard"
    assert loaded.bic(X) == model.bic(X)
