"""The lectures come true: each row of the table in docs/lectures.md has a test named after it.

Every expected value here is computed in plain NumPy or SciPy from the lecture's own formula, or is a property that the
lecture proves; a broken property fails its row.
"""

import warnings

import numpy as np
import pytest
from exponential import Exponential
from scipy.special import xlogy
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning

import fastem
from fastem import LowerBound, families
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.families.gaussian import GaussianFamily
from fastem.sources.memory import MemorySource
from fastem.starts.kmeans import kmeans_start
from fastem.starts.mixture import MixtureStart

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

MIXTURES = sorted(name for name in families.FAMILIES if name != "kmeans" and families.mixes(name))


def blobs(n=400, k=3, d=2, spread=5.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    return rng.normal(size=(n, d)) + spread * rng.normal(size=(k, d))[labels], labels


def plain_lloyd(X, centers, cycles):
    """The lecture's k-means: colour the points, move the centroids; centres and J of each cycle."""
    path, distortions = [centers], []
    for _ in range(cycles):
        sqdist = ((X[:, None] - path[-1]) ** 2).sum(axis=2)
        colour = sqdist.argmin(axis=1)
        distortions.append(sqdist.min(axis=1).sum())
        path.append(np.array([X[colour == j].mean(axis=0) for j in range(len(centers))]))
    return path, distortions


# --------------------------------------------------------------------------------------------------------------- L1


def test_L1_k_means_colours_points_and_moves_centroids():
    X, _ = blobs(k=4)
    start = X[:4]  # k training examples
    model = fastem.KMeans(4, init=start, n_init=1, tol=0.0, keep_history=True).fit(X)
    path, distortions = plain_lloyd(X, start, model.n_iter_)
    assert model.n_iter_ > 3
    np.testing.assert_allclose(model.inertia_history_, distortions, rtol=1e-12)
    for ours, theirs in zip(model.history_, path, strict=True):
        np.testing.assert_allclose(ours.centers, theirs, atol=1e-12)
    np.testing.assert_array_equal(model.labels_, ((X[:, None] - path[-1]) ** 2).sum(axis=2).argmin(axis=1))


@pytest.mark.parametrize("algorithm", ["lloyd", "auto"])
@pytest.mark.parametrize("seed", range(5))
def test_L1_the_distortion_never_rises(seed, algorithm):
    X, _ = blobs(3000, k=5, spread=1.0, seed=seed)
    model = fastem.KMeans(8, init="random", n_init=3, tol=0.0, random_state=seed, algorithm=algorithm).fit(X)
    for history in model.histories_:
        distortion = -np.asarray(history)
        assert len(distortion) > 3
        assert np.all(np.diff(distortion) <= 1e-12 * distortion[0])
    assert model.inertia_ <= model.inertia_history_[-1] * (1 + 1e-12)


def test_L1_starts_from_training_examples_and_stops_early():
    X, _ = blobs(2000, k=5, spread=1.0)
    rows = {tuple(row) for row in X}
    for how in ("random", "k-means++"):
        model = fastem.KMeans(6, init=how, n_init=1, random_state=1, keep_history=True, tol=0.0).fit(X)
        assert {tuple(center) for center in model.history_[0].centers} <= rows
        early = fastem.KMeans(6, init=how, n_init=1, random_state=1, tol=1e-2).fit(X)
        assert early.n_iter_ < model.n_iter_
        assert early.inertia_ >= model.inertia_
        assert fastem.KMeans(6, init=how, n_init=1, random_state=1, max_iter=2).fit(X).n_iter_ == 2


# --------------------------------------------------------------------------------------------------------------- L2


def test_L2_many_restarts_keep_the_lowest_distortion():
    X, _ = blobs(600, k=8, spread=6.0, seed=3)
    model = fastem.KMeans(8, init="random", n_init=50, random_state=0).fit(X)
    assert model.restarts_.shape == (50,)
    assert len(np.unique(model.restarts_.round(3))) > 3  # it does get stuck
    assert model.inertia_ == -model.restarts_.max()
    assert model.inertia_ == pytest.approx(((X - model.cluster_centers_[model.labels_]) ** 2).sum(), rel=1e-12)
    one = fastem.KMeans(8, init="random", n_init=1, random_state=0).fit(X)
    assert -one.inertia_ == model.restarts_[0]  # restart 0 is the single run
    assert model.inertia_ < -np.median(model.restarts_)


# --------------------------------------------------------------------------------------------------------------- L3


def test_L3_choosing_k_by_aic_and_bic():
    X, _ = blobs(600, k=3, spread=8.0, seed=2)
    found = fastem.select(X, range(1, 6), covariance_types="full", random_state=0, n_init=3)
    for row in found.table:
        k, n, d = row.n_components, *X.shape
        p = (k - 1) + k * d + k * d * (d + 1) // 2
        model = fastem.GaussianMixture(k, n_init=3, random_state=0, tol=1e-9, max_iter=5000).fit(X)
        likelihood = sum(
            np.log(sum(w * multivariate_normal(m, S).pdf(X) for w, m, S in zip(*mixture(model), strict=True)))
        )
        assert row.n_parameters == p
        assert row.aic == pytest.approx(2 * p - 2 * likelihood, abs=0.01)  # what a run leaves to gain
        assert row.bic == pytest.approx(p * np.log(n) - 2 * likelihood, abs=0.01)
    assert found.best.n_components == 3
    assert found.best.bic == min(row.bic for row in found.table)


def test_L3_choosing_k_by_what_it_is_for():
    X, _ = blobs(600, k=3, spread=8.0, seed=2)
    found = fastem.select(X, range(1, 7), model="kmeans", criterion=lambda model, X: -abs(model.n_clusters - 4))
    assert found.best.n_components == 4


def mixture(model):
    return model.weights_, model.means_, model.covariances_


# --------------------------------------------------------------------------------------------------------------- L4


def test_L4_rows_of_low_density_are_anomalies():
    X, _ = blobs(500, k=2)
    epsilon = 1e-4
    detector = fastem.AnomalyDetector(fastem.GaussianMixture(2, random_state=0), epsilon=epsilon).fit(X)
    density = sum(w * multivariate_normal(m, S).pdf(X) for w, m, S in zip(*mixture(detector.estimator_), strict=True))
    np.testing.assert_allclose(np.exp(detector.score_samples(X)), density, rtol=1e-9)
    np.testing.assert_array_equal(detector.predict(X), np.where(density < epsilon, -1, 1))
    assert 0 < np.sum(density < epsilon) < 50


def test_L4_each_feature_in_range_and_the_combination_odd():
    rng = np.random.default_rng(0)
    vibration = rng.normal(size=1000)
    engines = np.column_stack([vibration, vibration + 0.25 * rng.normal(size=1000)])
    odd = np.array([[1.3, -1.3]])
    assert np.all((odd > np.quantile(engines, 0.05, axis=0)) & (odd < np.quantile(engines, 0.95, axis=0)))
    detector = fastem.AnomalyDetector(contamination=0.01).fit(engines)
    assert detector.predict(odd) == [-1]
    explained = detector.explain(odd)
    assert np.all(explained.surprise > 10)
    np.testing.assert_allclose(explained.expected, [[-1.3, 1.3]], atol=0.2)


def test_L4_two_gaussians_follow_an_L():
    rng = np.random.default_rng(1)
    along, across = rng.normal(4.0, 1.5, 800), rng.normal(0.5, 0.3, 800)
    X = np.where(rng.uniform(size=(800, 1)) < 0.5, np.column_stack([across, along]), np.column_stack([along, across]))
    corner = np.array([[4.0, 4.0], [3.0, 5.0], [5.0, 3.0]])
    verdicts = [
        fastem.AnomalyDetector(fastem.GaussianMixture(k, n_init=5, random_state=0)).fit(X).predict(corner).tolist()
        for k in (1, 2)
    ]
    assert verdicts == [[1, 1, 1], [-1, -1, -1]]


# --------------------------------------------------------------------------------------------------------------- L5


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_L5_the_mixture_is_the_lectures_density_and_is_recovered(kind):
    family = GaussianFamily(3, kind)
    params = family.example_params(2, Draws(4))._replace(weights=np.array([0.55, 0.3, 0.15]))
    model = fastem.GaussianMixture(
        3,
        covariance_type=kind,
        weights_init=params.weights,
        means_init=params.means,
        precisions_init=family.shape.precisions(params.precisions_cholesky),
        random_state=0,
    )
    rng = np.random.default_rng(0)
    z = rng.choice(3, size=30_000, p=params.weights)  # z ~ Multinomial(phi), x given z = j ~ N(mu_j, Sigma_j)
    full = {
        "full": lambda: params.covariances,
        "tied": lambda: np.array([params.covariances] * 3),
        "diag": lambda: np.array([np.diag(v) for v in params.covariances]),
        "spherical": lambda: np.array([v * np.eye(2) for v in params.covariances]),
    }[kind]()
    X = np.array([rng.multivariate_normal(params.means[j], full[j], size=30_000) for j in range(3)])[
        z, np.arange(30_000)
    ]
    model.fit(X)
    np.testing.assert_allclose(model.weights_, params.weights, atol=0.015)
    np.testing.assert_allclose(model.means_, params.means, atol=0.08)
    np.testing.assert_allclose(model.covariances_, params.covariances, atol=0.12)
    shape = {"full": (3, 2, 2), "tied": (2, 2), "diag": (3, 2), "spherical": (3,)}[kind]
    assert model.covariances_.shape == shape


# --------------------------------------------------------------------------------------------------------------- L6


def test_L6_known_labels_give_discriminant_analysis_in_one_step():
    X, z = blobs(300, k=3, spread=2.0)
    model = fastem.GaussianMixture(3, reg_covar=0.0, tol=0.0, max_iter=20, random_state=0).fit(X, labels=z)
    for j in range(3):
        mine = X[z == j]
        assert model.weights_[j] == pytest.approx(np.mean(z == j), rel=1e-12)
        np.testing.assert_allclose(model.means_[j], mine.mean(axis=0), rtol=1e-10)
        np.testing.assert_allclose(model.covariances_[j], np.cov(mine.T, bias=True), rtol=1e-10)
    tied = fastem.GaussianMixture(3, covariance_type="tied", reg_covar=0.0, random_state=0).fit(X, labels=z)
    within = sum((z == j).sum() * np.cov(X[z == j].T, bias=True) for j in range(3)) / len(X)
    np.testing.assert_allclose(tied.covariances_, within, rtol=1e-10)
    once = fastem.GaussianMixture(3, reg_covar=0.0, max_iter=1, random_state=0).fit(X, labels=z)
    np.testing.assert_allclose(once.means_, model.means_, rtol=1e-10)


def test_L6_a_few_known_labels_are_kept():
    X, z = blobs(300, k=3, spread=3.0)
    few = np.where(np.arange(300) < 15, z, -1)
    model = fastem.GaussianMixture(3, reg_covar=0.0, tol=1e-12, max_iter=500, random_state=0).fit(X, labels=few)
    resp = model.predict_proba(X)
    resp[:15] = np.eye(3)[z[:15]]  # those rows' z is known
    np.testing.assert_allclose(model.weights_, resp.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(model.means_, resp.T @ X / resp.sum(axis=0)[:, None], atol=1e-4)
    assert np.mean(model.predict(X) == z) > 0.9  # components bear the names of the labels


# --------------------------------------------------------------------------------------------------------------- L7


def test_L7_the_e_step_is_bayes_rule_and_the_m_step_weighted_means():
    X, _ = blobs(250, k=3, spread=2.0)
    settings = {"reg_covar": 0.0, "tol": 0.0, "max_iter": 3, "keep_history": True, "random_state": 0}
    model = fastem.GaussianMixture(3, **settings).fit(X)
    for old, new in zip(model.history_, model.history_[1:], strict=False):
        parts = zip(old.weights, old.means, old.covariances, strict=True)
        joint = np.column_stack([phi * multivariate_normal(mu, sigma).pdf(X) for phi, mu, sigma in parts])
        w = joint / joint.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(new.weights, w.mean(axis=0), rtol=1e-9)
        means = w.T @ X / w.sum(axis=0)[:, None]
        np.testing.assert_allclose(new.means, means, rtol=1e-9)
        for j in range(3):
            centred = X - means[j]
            sigma = (w[:, j, None] * centred).T @ centred / w[:, j].sum()
            np.testing.assert_allclose(new.covariances[j], sigma, rtol=1e-8)


def test_L7_assignment_is_soft():
    X, _ = blobs(250, k=2, spread=1.0)
    model = fastem.GaussianMixture(2, random_state=0).fit(X)
    parts = zip(*mixture(model), strict=True)
    joint = np.column_stack([w * multivariate_normal(m, S).pdf(X) for w, m, S in parts])
    np.testing.assert_allclose(model.predict_proba(X), joint / joint.sum(axis=1, keepdims=True), rtol=1e-8)
    assert np.mean(model.predict_proba(X).max(axis=1) < 0.99) > 0.1
    np.testing.assert_array_equal(model.predict(X), joint.argmax(axis=1))


def test_L7_the_posterior_of_two_is_a_sigmoid():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 1, 200), rng.normal(2, 1, 200)])[:, None]
    model = fastem.GaussianMixture(2, covariance_type="tied", random_state=0).fit(x)
    a, b = model.means_[:, 0]
    odds = (b - a) / model.covariances_[0, 0] * (x[:, 0] - (a + b) / 2) + np.log(model.weights_[1] / model.weights_[0])
    np.testing.assert_allclose(model.predict_proba(x)[:, 1], 1 / (1 + np.exp(-odds)), atol=1e-12)


# --------------------------------------------------------------------------------------------------------------- L8


def family_problem(name, n=300, seed=0):
    family, draws = families.make(name, 3), Draws(seed)
    if hasattr(family, "reg_covar"):
        family.reg_covar = 0.0
    X = np.ascontiguousarray(family.sample(family.example_params(4, draws), n, draws)[0], np.float64)
    return family, X, MixtureStart("random")(Problem(MemorySource(X), family), draws)


@pytest.mark.parametrize("name", MIXTURES)
def test_L8_likelihood_is_bound_plus_divergence_and_em_climbs(name):
    family, X, theta = family_problem(name)
    at = LowerBound(family, X)
    for cycle in range(3):
        q = Draws(cycle).uniform(900).reshape(300, 3)
        q /= q.sum(axis=1, keepdims=True)
        joint = at.log_joint(theta)
        bound = (q * joint).sum() - xlogy(q, q).sum()  # by hand
        assert at.bound(q, theta) == pytest.approx(bound, rel=1e-10)
        assert at.kl(q, theta) > 0
        assert at.bound(q, theta) + at.kl(q, theta) == pytest.approx(at.log_likelihood(theta), rel=1e-10)
        assert at.log_likelihood(theta) == pytest.approx(np.logaddexp.reduce(joint, axis=1).sum(), rel=1e-10)
        q = at.e_step(theta)
        assert at.bound(q, theta) == pytest.approx(at.log_likelihood(theta), rel=1e-10)  # tight
        new = at.m_step(q, theta)
        assert at.bound(q, new) > at.bound(q, theta)  # raised
        assert at.log_likelihood(new) >= at.bound(q, new)  # so the likelihood rose too
        theta = new


@pytest.mark.parametrize("name", MIXTURES)
def test_L8_the_m_step_is_at_the_top_of_the_bound(name):
    family, X, theta = family_problem(name)
    if family.hides_more:
        pytest.skip("factors and scales are hidden too: an M-step climbs, but not to the top")
    at, u = LowerBound(family, X), Draws(5).uniform(1800).reshape(2, 300, 3)
    q, other = 0.5 * u / u.sum(axis=2, keepdims=True) + 1 / 6
    top = at.bound(q, at.m_step(q, theta))
    for step in (1e-3, -1e-3):  # anywhere else, on both sides, it is lower
        assert at.bound(q, at.m_step(q + step * (other - q), theta)) < top


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("seed", range(2))
def test_L8_the_likelihood_never_falls(name, seed):
    family, X, start = family_problem(name, 600, seed)
    source = MemorySource(X)
    run = em.run_once(Problem(source, family), start, Settings(max_iter=60, tol=0.0, certify=True))
    assert len(run.objectives) > 5
    assert np.all(np.diff(run.objectives) >= -1e-12 * (1 + np.abs(run.objectives[1:])))
    assert run.objectives[-1] > run.objectives[0] + 1e-6
    assert run.objectives[0] == pytest.approx(LowerBound(family, X).log_likelihood(start) / len(X), rel=1e-10)


def test_L8_jensen():
    """E[ln x] <= ln E[x] is why the bound is one; equality where x does not vary."""
    x = np.exp(np.random.default_rng(0).normal(size=(100, 4)))
    assert np.all(np.log(x).mean(axis=1) < np.log(x.mean(axis=1)))
    family, X, theta = family_problem("gaussian-full")
    at = LowerBound(family, X)
    q = at.e_step(theta)
    ratio = np.exp(at.log_joint(theta)) / q  # p(x, z) / q(z) is the same for every z where q is the posterior
    np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], 3, axis=1), rtol=1e-8)


# --------------------------------------------------------------------------------------------------------------- L9


@pytest.mark.parametrize("name", [*MIXTURES, "kmeans"])
def test_L9_one_engine_fits_every_family(name):
    family, draws = families.make(name, 2), Draws(3)
    params = family.example_params(5, draws)
    X = np.ascontiguousarray(family.sample(params, 4000, draws)[0], np.float64)
    start = kmeans_start(2, "k-means++") if name == "kmeans" else MixtureStart("kmeans")
    result = em.run(
        Problem(MemorySource(X), family), start, settings=Settings(max_iter=1000, tol=1e-9, certify=True), n_init=5
    )
    assert result.best.converged
    if name != "kmeans":
        truth = LowerBound(family, X).log_likelihood(params) / len(X)
        assert result.best.objective > truth - 1e-3  # a maximum is not below the parameters that made the rows


def test_L9_a_family_of_ones_own_needs_no_change_to_the_engine():
    family, draws = Exponential(2), Draws(0)
    X = family.sample(family.example_params(1, draws), 20_000, draws)[0]
    settings = Settings(max_iter=1000, tol=1e-10, certify=True)
    result = em.run(Problem(MemorySource(X), family), MixtureStart("kmeans"), settings=settings, n_init=2)
    order = np.argsort(result.best.params.rates)
    np.testing.assert_allclose(result.best.params.rates[order], [0.2, 5.0], rtol=0.1)
    np.testing.assert_allclose(result.best.params.weights[order], [0.4, 0.6], atol=0.03)


# -------------------------------------------------------------------------------------------------------------- L10


def stuck():
    """Three pairs of tight clusters; one start of k-means++ in several puts two centres into one pair's cluster."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [1, 0], [20, 0], [21, 0], [0, 20], [1, 20]])
    return (centres[:, None] + 0.12 * rng.normal(size=(6, 100, 2))).reshape(-1, 2)


def test_L10_em_gets_stuck_and_restarts_help():
    X = stuck()
    options = {"init_params": "random_from_data", "tol": 1e-6, "max_iter": 500}
    singles = [fastem.GaussianMixture(6, random_state=seed, **options).fit(X).lower_bound_ for seed in range(12)]
    assert max(singles) - min(singles) > 0.05  # different starts end in different maxima
    model = fastem.GaussianMixture(6, n_init=20, random_state=0, **options).fit(X)
    assert model.restarts_.shape == (20,)
    assert model.lower_bound_ == model.restarts_.max()
    assert model.lower_bound_ > np.median(singles)
    for history in model.histories_:
        assert np.all(np.diff(history) > -1e-9)  # each is an ascent


def test_L10_mixtures_start_from_k_means():
    X, _ = blobs(400, k=3, spread=1.5)
    assert fastem.GaussianMixture().init_params == "kmeans"
    model = fastem.GaussianMixture(3, keep_history=True, random_state=0, reg_covar=0.0).fit(X)
    start = model.history_[0]
    # The start is what one M-step makes of hard k-means labels: each component is one cluster's proportion and mean.
    sqdist = ((X[:, None] - start.means) ** 2).sum(axis=2)
    labels = sqdist.argmin(axis=1)
    np.testing.assert_allclose(start.weights, np.bincount(labels, minlength=3) / len(X), atol=0.01)
    # And a fixed point of k-means: moving the centres again changes them hardly.
    moved = np.array([X[labels == j].mean(axis=0) for j in range(3)])
    np.testing.assert_allclose(start.means, moved, atol=0.02)
    starts = [
        fastem.GaussianMixture(3, init_params=how, keep_history=True, random_state=0).fit(X).history_[0].means
        for how in ("k-means++", "random_from_data", "random")
    ]
    assert not any(np.allclose(np.sort(means, axis=0), np.sort(start.means, axis=0)) for means in starts)


# -------------------------------------------------------------------------------------------------------------- L11


@pytest.mark.parametrize("kind", ["spherical", "full"])
def test_L11_k_means_is_em_for_a_restricted_mixture(kind):
    X, _ = blobs(500, k=5, spread=1.5, seed=1)
    k, d, variance = 5, 2, 0.7
    start = X[:k]
    precision = {"spherical": np.full(k, 1 / variance), "full": np.array([np.eye(d) / variance] * k)}[kind]
    model = fastem.GaussianMixture(
        k, covariance_type=kind, fixed=("weights", "covariances"), assignment="hard", weights_init=np.full(k, 1 / k),
        means_init=start, precisions_init=precision, tol=0.0, max_iter=100, keep_history=True,
    ).fit(X)  # fmt: skip
    path, distortions = plain_lloyd(X, start, model.n_iter_)
    assert model.n_iter_ > 4
    for ours, theirs in zip(model.history_, path, strict=True):  # cycle by cycle
        np.testing.assert_allclose(ours.means, theirs, atol=1e-10)
        np.testing.assert_array_equal(ours.weights, np.full(k, 1 / k))
    constant = np.log(k) + 0.5 * d * np.log(2 * np.pi * variance)
    recovered = -2 * variance * len(X) * (np.array(model.lower_bounds_) + constant)
    np.testing.assert_allclose(recovered, distortions, rtol=1e-10)
    kmeans = fastem.KMeans(k, init=start, n_init=1, tol=0.0).fit(X)
    np.testing.assert_array_equal(model.predict(X), kmeans.labels_)


def test_L11_a_vanishing_variance_does_so_without_hard_assignment():
    X, _ = blobs(300, k=3, spread=4.0, seed=1)
    start = X[:3]
    model = fastem.GaussianMixture(
        3, covariance_type="spherical", fixed=("weights", "covariances"), weights_init=np.full(3, 1 / 3),
        means_init=start, precisions_init=np.full(3, 1e8), tol=0.0, max_iter=6, keep_history=True,
    ).fit(X)  # fmt: skip
    path, _ = plain_lloyd(X, start, 6)
    for ours, theirs in zip(model.history_, path, strict=False):
        np.testing.assert_allclose(ours.means, theirs, atol=1e-9)


# -------------------------------------------------------------------------------------------------------------- L12


def test_L12_stop_if_nothing_changes():
    X, _ = blobs(300, k=3)
    kmeans = fastem.KMeans(3, tol=0.0, random_state=0, keep_history=True).fit(X)
    assert kmeans.n_iter_ < kmeans.max_iter
    np.testing.assert_array_equal(kmeans.history_[-1].centers, kmeans.history_[-2].centers)  # nothing changed
    assert not np.array_equal(kmeans.history_[0].centers, kmeans.history_[1].centers)
    X, _ = blobs(300, k=3, spread=1.5)  # slow
    for tol in (1e-4, 1e-6):
        model = fastem.GaussianMixture(3, tol=tol, max_iter=500, random_state=0).fit(X)
        steps = np.diff(model.lower_bounds_)
        assert model.converged_
        assert steps[-1] <= tol
        assert np.all(steps[:-1] > tol)  # not before
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning, match="did not converge"):
            fastem.GaussianMixture(3, tol=0.0, max_iter=2, random_state=0).fit(X)


def test_L12_panels_after_1_2_5_and_20_cycles():
    pytest.importorskip("matplotlib")
    from fastem import plot

    X, _ = blobs(300, k=3, spread=2.0)
    model = fastem.GaussianMixture(3, tol=0.0, max_iter=25, keep_history=True, random_state=0).fit(X)
    assert len(model.history_) == model.n_iter_ + 1
    figure = plot.cycles(model, X, after=(0, 1, 2, 5, 20))
    assert [ax.get_title() for ax in figure.axes] == ["start", "1 cycle", "2 cycles", "5 cycles", "20 cycles"]
    for ax, cycle in zip(figure.axes, (0, 1, 2, 5, 20), strict=True):
        np.testing.assert_allclose(ax.collections[-1].get_offsets(), model.history_[cycle].means)
        again = fastem.GaussianMixture(3, tol=0.0, max_iter=max(cycle, 1), random_state=0).fit(X)
        if cycle:
            np.testing.assert_array_equal(again.means_, model.history_[cycle].means)


def test_L12_progress_is_told_and_can_be_stopped():
    X, _ = blobs(300, k=3, spread=2.0)
    told = []
    fastem.GaussianMixture(3, tol=0.0, max_iter=7, random_state=0, callback=told.append).fit(X)
    assert [info.iteration for info in told] == list(range(1, 8))
    assert np.all(np.diff([info.objective for info in told]) > -1e-12)
    model = fastem.GaussianMixture(3, tol=0.0, random_state=0, callback=lambda info: info.iteration == 3).fit(X)
    assert model.n_iter_ == 3
