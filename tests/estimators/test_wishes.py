"""What people asked other packages for: functions, samples of one component, criteria with weights, who converged."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn import cluster
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import fastem

MIXTURES = {
    "full": fastem.GaussianMixture(3, random_state=0),
    "tied": fastem.GaussianMixture(3, covariance_type="tied", random_state=0),
    "noise": fastem.GaussianMixture(3, noise=True, random_state=0),
    "student": fastem.StudentTMixture(3, random_state=0),
    "poisson": fastem.PoissonMixture(3, random_state=0),
    "bernoulli": fastem.BernoulliMixture(3, binarize=3.0, random_state=0),
    "categorical": fastem.CategoricalMixture(3, random_state=0),
    "analysers": fastem.FactorAnalyserMixture(3, random_state=0),
    "generic": fastem.Mixture(3, family="poisson", random_state=0),
}


def counts(n=400, d=3):
    rng = np.random.default_rng(0)
    return rng.poisson(np.array([1.0, 6.0, 14.0])[rng.integers(0, 3, n)][:, None], (n, d)).astype(float)


def quiet(model, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(*args, **options)


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_by_seed_and_by_component(name):
    model = quiet(MIXTURES[name], counts())
    one, again, other = (model.sample(50, random_state=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)
    np.testing.assert_array_equal(model.sample(50)[0], model.sample(50, random_state=0)[0])
    for component in (*range(3), *((-1,) if name == "noise" else ())):
        X, y = model.sample(2000, component=component, random_state=3)
        assert set(y.tolist()) == {component}
        if name in ("full", "tied", "poisson", "generic"):
            middle = (model.means_ if hasattr(model, "means_") else model.rates_)[component]
            np.testing.assert_allclose(X.mean(axis=0), middle, atol=0.5)
    for bad in (3, -2, 1.5, *(() if name == "noise" else (-1,))):
        with pytest.raises(ValueError, match=r"component must be an int in \[0, 3\)"):
            model.sample(5, component=bad)
    assert model.weights_.shape == (3,)


@pytest.mark.parametrize("name", [*MIXTURES, "factor"])
def test_criteria_with_weights(name):
    X = counts()
    model = fastem.FactorAnalysis(1) if name == "factor" else MIXTURES[name]
    w = np.random.default_rng(1).integers(0, 4, len(X))
    quiet(model, X)
    repeated = np.repeat(X, w, axis=0)
    assert model.bic(X, sample_weight=w) == pytest.approx(model.bic(repeated))
    assert model.aic(X, sample_weight=w) == pytest.approx(model.aic(repeated))
    assert model.bic(X, sample_weight=np.ones(len(X))) == pytest.approx(model.bic(X))
    assert model.bic(X.tolist()) == model.bic(X)


def test_known_labels_in_fit_predict():
    X = counts()
    totals = X.sum(axis=1)
    known = np.full(400, -1)
    known[np.argsort(totals)[:20]], known[np.argsort(totals)[-20:]] = 2, 0
    model = fastem.PoissonMixture(3, random_state=0)
    found = model.fit_predict(X, labels=known)
    np.testing.assert_array_equal(found, model.fit(X, labels=known).predict(X))
    assert totals[found == 0].mean() > totals[found == 1].mean() > totals[found == 2].mean()


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_seeds_as_a_function(kind, dtype, weighted):
    X = counts(3000, 2).astype(dtype)  # with many equal rows
    w = np.random.default_rng(0).integers(0, 2, len(X)).astype(float) if weighted else None
    centers, indices = fastem.kmeans_plusplus(kind(X), 9, sample_weight=w, random_state=5)
    assert centers.dtype == dtype
    np.testing.assert_array_equal(X[indices], centers)
    assert w is None or np.all(w[indices] > 0)
    model = fastem.KMeans(9, random_state=5, max_iter=1, n_init=1, keep_history=True).fit(kind(X), sample_weight=w)
    np.testing.assert_array_equal(model.history_[0].centers, centers)  # the seeds of a fit
    threads = [fastem.kmeans_plusplus(kind(X), 9, sample_weight=w, random_state=5, n_threads=n)[1] for n in (1, 2)]
    np.testing.assert_array_equal(*threads)


def test_seeds_where_rows_are_fewer_than_seeds():
    centers, indices = fastem.kmeans_plusplus(np.repeat([[1.0], [2.0]], 5, axis=0), 4, random_state=0)
    assert centers.shape == (4, 1)
    assert set(indices.tolist()) == {0, 5}
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        fastem.kmeans_plusplus(np.eye(2), 3)
    with pytest.raises(ValueError, match="n_local_trials is set to 0"):
        fastem.kmeans_plusplus(np.eye(4), 3, n_local_trials=0)
    with pytest.raises(TypeError, match="'n_clusters' parameter"):
        fastem.kmeans_plusplus(np.eye(4), "three")


def test_kmeans_as_a_function():
    X = np.random.default_rng(1).normal(size=(500, 2))  # no rows that are equally near
    init = X[:6] + 0.25
    ours = fastem.k_means(X, 6, init=init, n_init=1, return_n_iter=True)
    theirs = cluster.k_means(X, 6, init=init, n_init=1, return_n_iter=True)
    np.testing.assert_allclose(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert ours[2] == pytest.approx(theirs[2])
    assert len(fastem.k_means(X, 3, random_state=0)) == 3


@pytest.mark.parametrize("kind", [fastem.KMeans, fastem.MiniBatchKMeans, fastem.BisectingKMeans])
def test_inertia_of_each_cluster(kind):
    X = counts()
    w = np.random.default_rng(0).random(len(X))
    model = kind(5, random_state=0).fit(X)
    for weights in (None, w):
        parts = model.inertia_per_cluster(X, sample_weight=weights)
        labels = model.predict(X)
        squares = np.square(X - model.cluster_centers_[labels]).sum(axis=1) * (1 if weights is None else w)
        if kind is not fastem.BisectingKMeans:  # whose rows need not be with the nearest centre
            np.testing.assert_allclose(parts, [squares[labels == c].sum() for c in range(5)])
        assert parts.sum() == pytest.approx(-model.score(X, sample_weight=weights))


@pytest.mark.parametrize("kind", [fastem.KMeans, fastem.BisectingKMeans])
def test_kmeans_says_that_it_was_stopped(kind, recwarn):
    X = np.random.default_rng(0).normal(size=(3000, 3))
    model = kind(12, n_init=1, random_state=0).fit(X)
    assert model.converged_
    assert not recwarn.list
    with pytest.warns(ConvergenceWarning, match="did not converge within max_iter=2 iterations"):
        model = kind(12, n_init=1, tol=0, max_iter=2, random_state=0).fit(X)
    assert not model.converged_
    kind(12, n_init=1, max_iter=1, random_state=0).fit(X)  # one step is what was asked for
    assert not recwarn.list


def test_mini_batches_tell_whether_they_converged(tmp_path):
    X = np.random.default_rng(0).normal(size=(3000, 3))
    assert fastem.MiniBatchKMeans(4, random_state=0).fit(X).converged_
    model = fastem.MiniBatchKMeans(4, max_iter=1, max_no_improvement=None, random_state=0).fit(X)
    assert not model.converged_
    fastem.save(model, tmp_path / "m.npz")
    assert fastem.load(tmp_path / "m.npz").converged_ is False


@pytest.mark.parametrize("name", [*MIXTURES, "kmeans", "minibatch", "bisecting", "factor"])
def test_a_negative_seed_is_refused_by_all(name):
    others = {
        "kmeans": fastem.KMeans(3),
        "minibatch": fastem.MiniBatchKMeans(3),
        "bisecting": fastem.BisectingKMeans(3),
        "factor": fastem.FactorAnalysis(1),
    }
    model = fastem.FactorAnalysis(1) if name == "factor" else others.get(name) or MIXTURES[name]
    with pytest.raises(ValueError, match="random_state must be at least 0, got -3"):
        clone(model).set_params(random_state=-3).fit(counts())
