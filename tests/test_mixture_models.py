"""Gaussian mixtures with known labels, fixed parameters, hard assignment; their parts; scikit-learn's twin."""

import numpy as np
import pytest
import sklearn.mixture
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, make_blobs
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from fastem import GaussianMixture, KMeans, load, save
from fastem.families.gaussian import COVARIANCE_TYPES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
types = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def data(n=3000, d=4, k=3, seed=0, std=2.5):
    return make_blobs(n, d, centers=k, cluster_std=std, random_state=seed)


def identity_like(covariance_type, k, d, variance=1.0):
    """Precisions of k components of one variance."""
    identity = np.eye(d) / variance
    return {
        "full": np.repeat(identity[None], k, axis=0),
        "tied": identity,
        "diag": np.full((k, d), 1 / variance),
        "spherical": np.full(k, 1 / variance),
    }[covariance_type]


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
    first = model.history_[0]
    for name in ("weights", "means", "covariances"):
        same = np.array_equal(getattr(model, f"{name}_"), getattr(first, name))
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


# --- parts of a model


def dense(model, c):
    """The covariance of a component as a matrix."""
    d = model.means_.shape[1]
    return {
        "full": lambda: model.covariances_[c],
        "tied": lambda: model.covariances_,
        "diag": lambda: np.diag(model.covariances_[c]),
        "spherical": lambda: model.covariances_[c] * np.eye(d),
    }[model.covariance_type]()


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
    with pytest.warns(ConvergenceWarning, match="collapsed|singular"):
        model.fit(X.astype(dtype))
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
    for covariance_type in COVARIANCE_TYPES:
        for scale in (1e-3, 1.0, 1e6):
            model = GaussianMixture(3, covariance_type=covariance_type, reg_covar=1e-6 * scale**2).fit(X * scale)
            assert not model.notes_
    constant = np.column_stack([X, np.ones(len(X))])  # the data's fault, not a component's
    assert not GaussianMixture(3).fit(constant).notes_


def test_rescue_cannot_move_what_is_fixed():
    X, _ = data(300)
    with pytest.raises(ValueError, match="'rescue' moves means and covariances"):
        GaussianMixture(3, rescue=True, means_init=X[:3], fixed=("means",)).fit(X)
