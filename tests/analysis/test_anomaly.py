"""Anomalies: the threshold on p(x), scikit-learn's conventions, and which feature is to blame."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.neighbors import KernelDensity
from sklearn.utils.estimator_checks import check_estimator

import fastem
from fastem import AnomalyDetector
from fastem.analysis.anomaly import best_threshold

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def engines(n=1000, seed=0):
    """Vibration and heat that rise together."""
    rng = np.random.default_rng(seed)
    vibration = rng.normal(50.0, 8.0, n)
    return np.column_stack([vibration, 300.0 + 4.0 * (vibration - 50.0) + rng.normal(0.0, 6.0, n)])


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::sklearn.exceptions.SkipTestWarning"
)
def test_scikit_learns_checks():
    check_estimator(AnomalyDetector())


def test_rows_below_epsilon_are_flagged():
    X = engines()
    detector = AnomalyDetector(epsilon=1e-6).fit(X)
    density = np.exp(detector.score_samples(X))
    np.testing.assert_array_equal(detector.predict(X) == -1, density < 1e-6)
    np.testing.assert_allclose(detector.decision_function(X), np.log(density) - np.log(1e-6))
    assert detector.offset_ == np.log(1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_contamination_is_the_share_that_is_flagged(weighted):
    X = engines()
    w = np.random.default_rng(1).integers(1, 4, len(X)) if weighted else None
    detector = AnomalyDetector(contamination=0.05).fit(X, sample_weight=w)
    flagged = np.average(detector.predict(X) == -1, weights=w)
    assert flagged == pytest.approx(0.05, abs=0.003)
    np.testing.assert_array_equal(detector.fit_predict(X, sample_weight=w), detector.predict(X))


def test_features_in_range_whose_combination_is_odd():
    X = engines()
    odd = np.array([[58.0, 270.0]])
    assert np.all((odd > np.quantile(X, 0.05, axis=0)) & (odd < np.quantile(X, 0.95, axis=0)))
    detector = AnomalyDetector().fit(X)
    assert detector.predict(odd) == [-1]
    expected = detector.explain(odd).expected[0]
    assert expected[1] == pytest.approx(300.0 + 4.0 * 8.0, abs=2.0)  # what heat such a vibration goes with
    apart = AnomalyDetector(fastem.GaussianMixture(covariance_type="diag")).fit(X)  # one feature at a time
    assert apart.predict(odd) == [1]


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_conditionals_of_a_gaussian_mixture_integrate_to_one(kind):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3)) + 4.0 * rng.integers(0, 2, (400, 1))
    detector = AnomalyDetector(fastem.GaussianMixture(2, covariance_type=kind, random_state=0)).fit(X)
    grid = np.linspace(-25.0, 30.0, 6001)
    for j in range(3):
        rows = np.repeat(X[:1], len(grid), axis=0)
        rows[:, j] = grid
        at = detector.explain(rows)
        density = np.exp(at.log_conditional[:, j])
        assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-6)
        assert np.trapezoid(density * grid, grid) == pytest.approx(at.expected[0, j], abs=1e-5)
        np.testing.assert_allclose(at.expected[:, j], at.expected[0, j], atol=1e-8)  # x_j itself has no say


def test_the_guilty_feature_is_named():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(2000, 5))
    X[:, 1] = X[:, 0] + X[:, 2] + 0.1 * X[:, 1]
    X *= [1.0, 1e-3, 1.0, 1e4, 1.0]  # units must not matter
    bad = X[:20].copy()
    bad[:, 3] += 8e4
    detector = AnomalyDetector(epsilon=1e-9).fit(X)
    assert np.all(detector.explain(bad).surprise.argmax(axis=1) == 3)
    usual = detector.explain(X).surprise.mean(axis=0)
    np.testing.assert_allclose(usual, 0.0, atol=0.05)  # nothing is surprising on average


def test_a_single_feature_is_conditioned_on_nothing():
    x = np.random.default_rng(4).normal(size=(300, 1))
    detector = AnomalyDetector().fit(x)
    at = detector.explain(x[:5])
    np.testing.assert_allclose(at.log_conditional[:, 0], detector.score_samples(x[:5]))
    np.testing.assert_allclose(at.expected, x.mean())


def test_far_rows_are_flagged_and_explained_without_nan():
    X = engines()
    far = np.array([[1e160, 300.0], [50.0, -1e8]])
    detector = AnomalyDetector(fastem.GaussianMixture(2, random_state=0)).fit(X)
    assert np.all(detector.predict(far) == -1)
    assert not np.isnan(detector.explain(far[1:]).surprise).any()


def test_a_few_labels_tune_the_threshold():
    rng = np.random.default_rng(5)
    X = engines(600)
    anomalies = np.column_stack([rng.uniform(30, 70, 12), rng.uniform(150, 450, 12)])
    rows, labels = np.vstack([X, anomalies]), np.r_[np.zeros(600, int), -np.ones(12, int)]
    detector = AnomalyDetector().fit(rows, labels=labels)
    flagged = detector.predict(rows) == -1
    hits = np.sum(flagged[600:])
    assert detector.f1_ == pytest.approx(2 * hits / (flagged.sum() + 12))
    assert detector.f1_ > 0.8
    # The density never saw the anomalies.
    np.testing.assert_allclose(detector.estimator_.means_[0], X.mean(axis=0), rtol=1e-12)
    alone = AnomalyDetector().fit(X).tune(rows, labels)
    assert alone.offset_ == pytest.approx(detector.offset_)


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(6)
    for _ in range(20):
        scores = np.round(rng.normal(size=40), 1)
        anomaly = rng.uniform(size=40) < stats.norm.cdf(-scores - 1)
        if not anomaly.any():
            continue
        threshold, best = best_threshold(scores, anomaly)

        def f1(at, scores=scores, anomaly=anomaly):
            flagged = scores < at
            return 2 * (flagged & anomaly).sum() / (flagged.sum() + anomaly.sum())

        assert best == pytest.approx(f1(threshold))
        assert best == pytest.approx(max(f1(at) for at in np.unique(scores)))


def test_any_model_with_score_samples_serves():
    X = engines()
    detector = AnomalyDetector(KernelDensity(bandwidth=5.0), contamination=0.02).fit(X)
    assert np.mean(detector.predict(X) == -1) == pytest.approx(0.02, abs=0.002)
    with pytest.raises(ValueError, match="KernelDensity cannot be explained"):
        detector.explain(X)
    noisy = AnomalyDetector(fastem.GaussianMixture(2, noise=True, random_state=0)).fit(X)
    told = noisy.explain(X)  # by leaving features out, as any model that accepts missing values
    assert np.all(np.isfinite(told.log_conditional))
    assert np.isnan(told.expected).all()


class Independent(KernelDensity):
    """Two independent standard normal features, missing ones left out: a model that accepts NaN."""

    def fit(self, X, y=None, sample_weight=None):
        self.n_features_in_ = 2
        return self

    def score_samples(self, X):
        return np.nansum(stats.norm.logpdf(X), axis=1)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def test_other_families_are_explained_by_leaving_features_out():
    X = np.random.default_rng(7).normal(size=(50, 2))
    detector = AnomalyDetector(Independent()).fit(X)
    at = detector.explain([[0.0, 6.0]])
    np.testing.assert_allclose(at.log_conditional, stats.norm.logpdf([[0.0, 6.0]]))
    assert at.surprise.argmax() == 1
    assert np.isnan(at.expected).all()


def test_counts_are_explained_by_their_poisson_conditionals():
    rng = np.random.default_rng(8)
    quiet = rng.uniform(size=(800, 1)) < 0.5
    X = np.where(quiet, rng.poisson([2, 2, 20], (800, 3)), rng.poisson([12, 15, 20], (800, 3))).astype(float)
    detector = AnomalyDetector(fastem.PoissonMixture(2, n_init=3, random_state=0), contamination=0.01).fit(X)
    odd = np.array([[2.0, 14.0, 20.0], [12.0, 15.0, 45.0]])  # a mismatch of the first two; too many of the last
    assert detector.predict(odd).tolist() == [-1, -1]
    assert detector.explain(odd).surprise.argmax(axis=1).tolist()[1] == 2
    weights, rates = detector.estimator_.weights_, detector.estimator_._fitted_params(detector.estimator_._family())[1]
    terms = stats.poisson.logpmf(odd[:, None, :], rates)  # (n, k, d)
    joint = terms.sum(axis=2) + np.log(weights)
    rest = np.logaddexp.reduce(joint[:, :, None] - terms, axis=1)
    want = np.logaddexp.reduce(joint, axis=1)[:, None] - rest
    np.testing.assert_allclose(detector.explain(odd).log_conditional, want, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "'epsilon' parameter"),
        ({"epsilon": np.nan}, "'epsilon' parameter"),
        ({"contamination": 0.0}, "'contamination' parameter"),
        ({"contamination": 0.7}, "'contamination' parameter"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AnomalyDetector(**options).fit(engines(50))


def test_bad_labels_are_refused():
    X = engines(50)
    with pytest.raises(ValueError, match="either epsilon or labels"):
        AnomalyDetector(epsilon=1e-3).fit(X, labels=np.zeros(50, int))
    with pytest.raises(ValueError, match="only one kind"):
        AnomalyDetector().fit(X, labels=np.zeros(50, int))
    with pytest.raises(ValueError, match="must be -1"):
        AnomalyDetector().fit(X, labels=np.full(50, 3))
    with pytest.raises(ValueError, match=r"expected \(50,\)"):
        AnomalyDetector().fit(X, labels=[1, -1])


@pytest.mark.parametrize("lost", [1, 30])
def test_rows_of_density_zero_are_anomalies(lost):
    """However many: a density underflows for rows too far off for their dtype."""
    X = np.random.default_rng(0).normal(size=(200, 2))
    X[:lost] = 1e200
    detector = AnomalyDetector(contamination=0.05).fit(X[30:])
    assert np.isneginf(detector.score_samples(X[:lost])).all()
    assert not np.isnan(detector.decision_function(X)).any()
    scores = detector.score_samples(X)
    threshold = fastem.analysis.anomaly.threshold_of_share(scores, 0.05)
    assert np.isfinite(threshold)
    assert np.sum(scores < threshold) == max(lost, 10)
    assert np.all(scores[:lost] < threshold)


@pytest.mark.parametrize("estimator", [None, fastem.StudentTMixture(1), fastem.GaussianMixture(2, noise=True)])
def test_data_frames_raise_no_warnings_about_names(estimator):
    X = pd.DataFrame(engines(), columns=["vibration", "heat"])
    labels = np.ones(len(X), int)
    labels[:3] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = AnomalyDetector(estimator).fit(X)
        detector.predict(X)
        detector.explain(X)
        detector.fit(X, labels=labels).tune(X, labels)
        X.iloc[3, 1] = np.nan
        detector.fit(X).explain(X)
