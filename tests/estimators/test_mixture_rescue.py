"""Gaussian mixtures that start from short runs, notice and leave a collapse, and let noise be noise."""

import warnings

import numpy as np
import pytest
from mixture_data import data, dense, identity_like
from scipy.stats import multivariate_normal
from sklearn.datasets import make_blobs

from fastem import GaussianMixture, load, save
from fastem.families.gaussian import SHAPES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
types = pytest.mark.parametrize("covariance_type", SHAPES)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


# --- robust starts and rescue


@types
def test_em_em_begins_where_the_best_short_run_arrived(covariance_type):
    X, _ = data(1500, 3, 6, std=1.5)
    options = {"covariance_type": covariance_type, "random_state": 3, "tol": 1e-6, "max_iter": 400}
    model = GaussianMixture(6, init_params="em-em", **options, n_threads=1).fit(X)
    again = GaussianMixture(6, init_params="em-em", **options, n_threads=2).fit(X)
    np.testing.assert_array_equal(model.means_, again.means_)
    singles = [
        GaussianMixture(6, init_params="k-means++", **{**options, "random_state": seed, "max_iter": 8, "tol": 0.0}).fit(
            X
        )
        for seed in range(5)
    ]
    assert model.lower_bounds_[0] >= np.median([single.lower_bound_ for single in singles])
    assert np.all(np.diff(model.lower_bounds_) > -1e-6)


def test_em_em_keeps_labels_weights_and_given_values():
    X, y = data(900, std=0.5)
    known = np.where(np.arange(len(X)) < 30, y, -1)
    model = GaussianMixture(3, init_params="em-em", random_state=0).fit(X, labels=known)
    np.testing.assert_array_equal(model.predict(X), y)
    fixed = GaussianMixture(3, init_params="em-em", random_state=0, weights_init=[0.2, 0.3, 0.5], fixed=("weights",))
    np.testing.assert_array_equal(fixed.fit(X).weights_, [0.2, 0.3, 0.5])


def trap(covariance_type):
    """Three clusters and three equal rows between them, and a start in which one component sits on those alone."""
    X, _ = make_blobs(900, 2, centers=[[0, 0], [12, 0], [0, 12]], random_state=0)
    variances = np.array([1e-5, 30.0, 1.0])
    precisions = {
        "full": np.eye(2) / variances[:, None, None],
        "diag": np.ones((3, 2)) / variances[:, None],
        "spherical": 1 / variances,
    }
    start = {
        "weights_init": np.array([0.01, 0.65, 0.34]),
        "means_init": np.array([[6.0, 6.0], [0.0, 6.0], [12.0, 0.0]]),
        "precisions_init": precisions[covariance_type],
    }
    return np.vstack([X, np.full((3, 2), 6.0)]), start


own = pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])


@own
@dtypes
@pytest.mark.parametrize("reg_covar", [1e-6, 0])
def test_a_collapse_is_told_once(covariance_type, dtype, reg_covar):
    X, start = trap(covariance_type)
    model = GaussianMixture(3, covariance_type=covariance_type, reg_covar=reg_covar, **start)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X.astype(dtype))
    # A note where reg_covar has kept the model sound; a warning where scikit-learn would give up.
    assert [("singular" in str(item.message)) for item in caught] == ([] if reg_covar else [True])
    assert sum("component 0 collapsed" in note for note in model.notes_) == 1


@own
@dtypes
@pytest.mark.parametrize("reg_covar", [1e-6, 0])
def test_rescue_moves_a_collapsed_component_to_the_worst_explained_rows(covariance_type, dtype, reg_covar):
    X, start = trap(covariance_type)
    options = {"covariance_type": covariance_type, "reg_covar": reg_covar, "max_iter": 300, **start}
    stuck = GaussianMixture(3, **options).fit(X.astype(dtype))
    freed = GaussianMixture(3, **options, rescue=True, certify=True).fit(X.astype(dtype))
    assert stuck.weights_.min() < 0.01
    assert any("moved empty components" in note for note in freed.notes_)
    assert all(np.all(np.isfinite(a)) for a in (freed.means_, freed.covariances_))
    assert freed.converged_
    assert freed.weights_.min() > 0.01
    smallest = [min(np.linalg.eigvalsh(dense(model, c)).min() for c in range(3)) for model in (stuck, freed)]
    assert smallest[0] < 2e-5
    assert smallest[1] > 0.1


@types
def test_rescue_revives_a_component_that_lost_its_rows(covariance_type):
    X, y = data(900, std=0.5)
    means = np.array([X[y == 0].mean(axis=0), X[y == 1].mean(axis=0), np.full(4, 1e5)])
    start = {
        "means_init": means,
        "weights_init": np.full(3, 1 / 3),
        "precisions_init": identity_like(covariance_type, 3, 4),
    }
    options = {"covariance_type": covariance_type, "max_iter": 500, "tol": 1e-6, **start}
    dead = GaussianMixture(3, **options).fit(X)
    assert dead.weights_[2] == 0
    assert any("component 2 lost all its rows" in note for note in dead.notes_)
    model = GaussianMixture(3, **options, rescue=True, certify=True).fit(X)
    assert model.weights_.min() > 0.1
    assert np.trace(dense(model, 0)) > 0
    assert np.all(np.isfinite(model.covariances_))
    again = GaussianMixture(3, **options, rescue=True, n_threads=1).fit(X)
    np.testing.assert_array_equal(model.means_, again.means_)


def test_healthy_fits_have_no_notes():
    X, _ = data()
    for covariance_type in SHAPES:
        for scale in (1e-3, 1.0, 1e6):
            model = GaussianMixture(3, covariance_type=covariance_type, reg_covar=1e-6 * scale**2).fit(X * scale)
            assert not model.notes_
    constant = np.column_stack([X, np.ones(len(X))])  # the data's fault, not a component's
    assert not GaussianMixture(3).fit(constant).notes_


def test_rescue_cannot_move_what_is_fixed():
    X, _ = data(300)
    with pytest.raises(ValueError, match="'rescue' moves means and covariances"):
        GaussianMixture(3, rescue=True, means_init=X[:3], fixed=("means",)).fit(X)


# --- noise


def noisy(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    clusters = [rng.normal(size=(400, 2)), rng.normal(size=(400, 2)) + np.array([12, 0])]
    return np.vstack([*clusters, rng.uniform(-20, 30, (200, 2))]).astype(dtype)


@types
@dtypes
def test_noise_takes_the_rows_that_belong_to_no_cluster(covariance_type, dtype):
    X = noisy(dtype=dtype)
    options = {"covariance_type": covariance_type, "noise": True, "random_state": 0, "tol": 1e-7, "max_iter": 300}
    model = GaussianMixture(2, **options, certify=True).fit(X)
    np.testing.assert_allclose(model.noise_weight_, 0.2, atol=0.02)
    assert model.weights_.sum() + model.noise_weight_ == pytest.approx(1)
    np.testing.assert_allclose(np.sort(model.means_[:, 0]), [0, 12], atol=0.3)
    np.testing.assert_allclose(np.trace(dense(model, 0)), 2, atol=0.4)
    labels = model.predict(X)
    assert set(labels) == {-1, 0, 1}
    assert np.mean(labels[800:] == -1) > 0.9
    assert np.mean(labels[:800] == -1) < 0.03
    resp = model.predict_proba(X)
    assert resp.shape == (1000, 3)
    np.testing.assert_allclose(resp.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.where(resp.argmax(axis=1) == 2, -1, resp.argmax(axis=1)), labels)
    np.testing.assert_array_equal(model.noise_box_, [X.min(axis=0), X.max(axis=0)])
    volume = np.prod(model.noise_box_[1] - model.noise_box_[0])
    density = model.noise_weight_ / volume
    for c in range(2):
        density = density + model.weights_[c] * multivariate_normal(model.means_[c], dense(model, c)).pdf(X)
    np.testing.assert_allclose(model.score_samples(X), np.log(density), rtol=1e-8 if dtype == np.float64 else 1e-4)
    if dtype == np.float32:
        double = GaussianMixture(2, **options).fit(X.astype(float))
        np.testing.assert_allclose(model.covariances_, double.covariances_, rtol=1e-3, atol=1e-3)


@types
@pytest.mark.parametrize("assignment", ["soft", "hard"])
def test_noise_keeps_the_contract(covariance_type, assignment, tmp_path):
    X = noisy()
    start = {
        "means_init": np.array([[1.0, 0], [10, 1]]),
        "weights_init": [0.5, 0.5],
        "precisions_init": identity_like(covariance_type, 2, 2, 4.0),
    }
    options = {
        "covariance_type": covariance_type, "noise": True, "assignment": assignment, "max_iter": 12, "tol": 0.0, **start
    }  # fmt: skip
    m = np.arange(1000) % 3
    m[[np.argmin(X[:, 0]), np.argmax(X[:, 0]), np.argmin(X[:, 1]), np.argmax(X[:, 1])]] = 1  # the box stays
    weighted = GaussianMixture(2, **options, certify=True).fit(X, sample_weight=m)
    repeated = GaussianMixture(2, **options, n_threads=1).fit(np.repeat(X, m, axis=0))
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-8, atol=1e-8)
    assert weighted.noise_weight_ == pytest.approx(repeated.noise_weight_)
    tall = np.tile(X, (9, 1))
    one, two = (GaussianMixture(2, **options, n_threads=n).fit(tall) for n in (1, 2))
    np.testing.assert_array_equal(one.covariances_, two.covariances_)
    save(one, tmp_path / "model.npz")
    np.testing.assert_array_equal(load(tmp_path / "model.npz").predict_proba(X), one.predict_proba(X))
    Y, y = one.sample(4000)
    assert np.mean(y == -1) == pytest.approx(one.noise_weight_, abs=0.03)
    assert np.all((Y[y == -1] >= one.noise_box_[0]) & (Y[y == -1] <= one.noise_box_[1]))


@types
def test_noise_with_every_start_with_labels_and_warm(covariance_type):
    X = noisy()
    for init_params in ("kmeans", "k-means++", "random_from_data", "em-em"):
        model = GaussianMixture(2, covariance_type=covariance_type, noise=True, init_params=init_params, random_state=1)
        assert model.set_params(max_iter=300, n_init=3).fit(X).noise_weight_ > 0.1
    random = GaussianMixture(2, covariance_type=covariance_type, noise=True, init_params="random", random_state=1)
    assert np.all(np.isfinite(random.fit(X).means_))
    known = np.full(1000, -1)
    known[:100], known[400:500] = 1, 0
    model.set_params(warm_start=True).fit(X, labels=known)
    assert model.means_[0, 0] > model.means_[1, 0]
    model.fit(X, labels=known)
    constant = np.column_stack([X, np.ones(1000)])
    assert np.isfinite(GaussianMixture(2, covariance_type=covariance_type, noise=True).fit(constant).lower_bound_)


@types
@pytest.mark.parametrize("missing", [False, True])
def test_noise_has_no_density_outside_its_box(covariance_type, missing):
    X = noisy().astype(np.float32)
    if missing:
        X[::7, 1] = np.nan
    model = GaussianMixture(2, covariance_type=covariance_type, noise=True, random_state=0).fit(X)
    low, high = model.noise_box_
    edges = np.array([low, high, [low[0], high[1]]])
    np.testing.assert_array_equal(model.predict_proba(edges)[:, 2] > 0, True)
    np.testing.assert_array_equal(model.predict_proba(X)[:, 2] > 0, True)
    np.testing.assert_array_equal(model.predict_proba(X.astype(np.float64))[:, 2] > 0, True)
    far = np.array([[1e9, 0], [high[0] + 0.1, 0], [0, low[1] - 0.1], [-1e200, 0]])
    if missing:
        far[0, 1] = np.nan
    np.testing.assert_array_equal(model.predict_proba(far)[:, 2], 0)
    assert model.score_samples(far)[0] < -1e6
    assert np.all(model.predict(far) >= 0)
    together = np.concatenate([X, far])  # the others' answers are not touched
    np.testing.assert_array_equal(model.score_samples(together)[: len(X)], model.score_samples(X.astype(np.float64)))
    filled = model.conditional_mean(far)
    assert not np.isnan(filled).any()


def test_clean_data_need_no_noise():
    X, _ = data(std=0.5)
    model = GaussianMixture(3, noise=True, max_iter=500, tol=1e-9, random_state=0).fit(X)
    assert model.noise_weight_ < 1e-3
    plain = GaussianMixture(3, max_iter=500, tol=1e-9, random_state=0).fit(X)
    np.testing.assert_allclose(model.means_, plain.means_, atol=1e-2)
    free = [(m.aic(X) + 2 * m.score(X) * len(X)) / 2 for m in (model, plain)]
    assert free[0] - free[1] == pytest.approx(1)


def test_what_noise_does_not_go_with_is_refused():
    X = noisy()
    with pytest.raises(ValueError, match="'noise' does not go with"):
        GaussianMixture(2, noise=True, accelerate="squarem").fit(X)
    model = GaussianMixture(2, noise=True).fit(X)
    for call in (lambda: model.marginal([0]), lambda: model.condition([0], [0.0]), model.to_sklearn):
        with pytest.raises(ValueError, match="not offered for mixtures with noise"):
            call()
