"""Mixtures of factor analysers: against SciPy's densities, factor analysis and Gaussian mixtures."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastem
from fastem import families
from fastem.draws import Draws
from fastem.sources.memory import MemorySource

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([fastem.FactorAnalyserMixture()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def drawn(n=600, d=6, q=2, k=3, seed=0, share=0.0, dtype=np.float64):
    """A family, parameters, and rows drawn from them, some of their values missing."""
    family = families.make("factor-mixture", k, n_factors=q)
    params = family.example_params(d, Draws(seed))
    X, y = family.sample(params, n, Draws(seed, 1))
    order = np.argsort(Draws(seed, 2).uniform(n))
    X, y = X[order], y[order]
    if share:
        X = np.where(Draws(seed, 3).uniform(X.size).reshape(X.shape) < share, np.nan, X)
        family = family.for_missing()
    return family, params, np.ascontiguousarray(X, dtype), y


def covariances_of(params):
    noise = np.eye(params.means.shape[1]) * params.noise_variances[:, None]
    return params.loadings @ np.swapaxes(params.loadings, 1, 2) + noise


def naive_log_joint(X, params):
    """log p(x, z = k) of what is observed, by SciPy."""
    X = np.asarray(X, np.float64)
    out = np.tile(np.log(params.weights), (len(X), 1))
    for c, covariance in enumerate(covariances_of(params)):
        for i, row in enumerate(X):
            seen = ~np.isnan(row)
            if seen.any():
                density = multivariate_normal(params.means[c, seen], covariance[np.ix_(seen, seen)])
                out[i, c] += density.logpdf(row[seen])
    return out


def naive_factors(row, params, c):
    """Posterior mean and covariance of the factors of a component, in covariance form."""
    seen = ~np.isnan(row)
    L = params.loadings[c][seen]
    slope = np.linalg.solve(covariances_of(params)[c][np.ix_(seen, seen)], L).T
    return slope @ (row - params.means[c])[seen], np.eye(L.shape[1]) - slope @ L


@pytest.mark.parametrize(("d", "q", "k"), [(2, 1, 3), (6, 2, 3), (5, 5, 2), (4, 0, 2), (70, 3, 2), (9, 6, 5)])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_densities_are_scipys(d, q, k, share):
    family, params, X, _ = drawn(200, d, q, k, share=share)
    prepared = family.prepare(params, X.dtype)
    want = naive_log_joint(X, params)
    np.testing.assert_allclose(family.log_joint(X, prepared, 1), want, rtol=1e-10)
    log_prob, resp = family.posterior(X, prepared, 1)
    np.testing.assert_allclose(log_prob, logsumexp(want, axis=1), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(resp, np.exp(want - logsumexp(want, axis=1)[:, None]), atol=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("labelled", [False, True])
def test_statistics_are_the_formulas(share, labelled):
    family, params, X, y = drawn(150, 5, 2, 3, share=share)
    params = params._replace(means=params.means * 0.2)  # so that responsibilities are soft
    w, known = Draws(5).uniform(len(X)), np.where(np.arange(len(X)) % 3 == 0, y, -1).astype(np.int32)
    source = MemorySource(X, w, known if labelled else None)
    prepared = family.prepare(params, X.dtype)
    stats = source.accumulate(family, prepared)
    joint = naive_log_joint(X, params)
    if labelled:
        joint[(known >= 0)[:, None] & (known[:, None] != np.arange(3))] = -np.inf
    resp = np.exp(joint - logsumexp(joint, axis=1)[:, None])
    assert float(stats.loglik) == pytest.approx(w @ logsumexp(joint, axis=1), rel=1e-11)
    p = 3
    for c in range(3):
        seconds, cross, squares, lacking = np.zeros((p, p)), np.zeros((5, p)), np.zeros(5), np.zeros((5, p, p))
        for i, row in enumerate(X):
            a, seen = w[i] * resp[i, c], ~np.isnan(row)
            mean, covariance = naive_factors(row, params, c)
            zz = np.outer(np.append(mean, 1.0), np.append(mean, 1.0))
            zz[:2, :2] += covariance
            seconds += a * zz
            lacking[~seen] += a * zz
            u = (row - prepared.origin - prepared.means[c])[seen]
            cross[seen] += a * np.outer(u, np.append(mean, 1.0))
            squares[seen] += a * u**2
        np.testing.assert_allclose(stats.counts[c], (w * resp[:, c]).sum(), rtol=1e-9)
        for got, want in ((stats.seconds, seconds), (stats.cross, cross), (stats.squares, squares)):
            np.testing.assert_allclose(got[c], want, atol=1e-9 * max(1.0, np.abs(want).max()))
        if share:
            np.testing.assert_allclose(stats.lacking[c], lacking, atol=1e-9 * np.abs(lacking).max())


def test_one_component_is_factor_analysis():
    _, _, X, _ = drawn(800, 7, 2, 1)
    alone = fastem.FactorAnalysis(2, tol=1e-9).fit(X)
    mixture = fastem.FactorAnalyserMixture(1, n_factors=2, tol=1e-10, max_iter=5000).fit(X)
    assert mixture.score(X) == pytest.approx(alone.score(X), abs=1e-6)
    np.testing.assert_allclose(mixture.get_covariances()[0], alone.get_covariance(), atol=0.01)
    assert mixture._n_parameters() == alone._family().n_free_params(7)


def test_enough_factors_make_it_a_gaussian_mixture():
    _, _, X, _ = drawn(900, 3, 2, 2, seed=4)
    gaussian = fastem.GaussianMixture(2, reg_covar=0, tol=1e-10, max_iter=2000, random_state=0).fit(X)
    mixture = fastem.FactorAnalyserMixture(2, n_factors=2, tol=1e-10, max_iter=5000, random_state=0).fit(X)
    assert mixture.lower_bound_ == pytest.approx(gaussian.lower_bound_, abs=1e-5)
    # Without factors it is the diagonal mixture.
    gaussian.set_params(covariance_type="diag").fit(X)
    mixture.set_params(n_factors=0).fit(X)
    assert mixture.lower_bound_ == pytest.approx(gaussian.lower_bound_, abs=1e-7)


@pytest.mark.parametrize(
    ("init_params", "share"),
    [
        *[("kmeans", 0.15), ("random", 0.0), ("em-em", 0.0)],
        *[pytest.param(init, 0.15, marks=pytest.mark.deep) for init in ("random", "em-em")],
        pytest.param("kmeans", 0.0, marks=pytest.mark.deep),
    ],
)
def test_clusters_and_subspaces_are_found(share, init_params):
    _, params, X, y = drawn(4000, 10, 2, 3, seed=1, share=share)
    model = fastem.FactorAnalyserMixture(
        3, n_factors=2, init_params=init_params, n_init=1 if init_params == "em-em" else 3, random_state=0,
        tol=1e-5, max_iter=1000, certify=True,
    ).fit(X)  # fmt: skip
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)
    order = [np.argmin(np.square(model.means_ - mean).sum(axis=1)) for mean in params.means]
    assert sorted(order) == [0, 1, 2]
    assert np.mean(model.predict(X) == np.array(order)[y]) > 0.99
    np.testing.assert_allclose(model.weights_[order], params.weights, atol=0.03)
    truth = covariances_of(params)
    np.testing.assert_allclose(model.get_covariances()[order], truth, atol=0.15 * truth.max())


def test_factors_are_posterior_means():
    family, params, X, _ = drawn(50, 6, 2, 3, share=0.2)
    params = params._replace(means=0.1 * params.means)
    model = fastem.FactorAnalyserMixture(3, n_factors=2, max_iter=1).fit(X)
    model._keep_params(family, params)
    factors = model.transform(X).reshape(50, 3, 2)
    resp = model.predict_proba(X)
    for i, row in enumerate(X):
        for c in range(3):
            np.testing.assert_allclose(factors[i, c], resp[i, c] * naive_factors(row, params, c)[0], atol=1e-9)
    assert model.transform(X.astype(np.float32)).dtype == np.float32
    assert len(model.get_feature_names_out()) == 6


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_float32_weights_and_labels(share):
    _, _, X, y = drawn(1500, 6, 2, 3, seed=2, share=share)
    options = {"n_factors": 2, "random_state": 0, "tol": 0.0, "max_iter": 15}
    wide = fastem.FactorAnalyserMixture(3, **options).fit(X.astype(np.float32).astype(np.float64))
    narrow = fastem.FactorAnalyserMixture(3, **options).fit(X.astype(np.float32))
    np.testing.assert_allclose(narrow.lower_bounds_, wide.lower_bounds_, rtol=2e-6)
    np.testing.assert_allclose(narrow.get_covariances(), wide.get_covariances(), atol=1e-3)
    m = np.arange(len(X)) % 3
    start = {
        "weights_init": wide.weights_, "means_init": wide.means_, "loadings_init": wide.loadings_,
        "noise_variances_init": wide.noise_variances_,
    }  # fmt: skip
    weighted = fastem.FactorAnalyserMixture(3, **options, **start).fit(X, sample_weight=m)
    repeated = fastem.FactorAnalyserMixture(3, **options, **start).fit(np.repeat(X, m, axis=0))
    np.testing.assert_allclose(weighted.lower_bounds_, repeated.lower_bounds_, rtol=1e-10)
    np.testing.assert_allclose(weighted.loadings_, repeated.loadings_, atol=1e-8)
    known = fastem.FactorAnalyserMixture(3, **options).fit(X, labels=y)
    np.testing.assert_allclose(known.weights_, np.bincount(y) / len(y), rtol=1e-9)


def test_a_component_on_a_constant_feature_stops_at_the_floor():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(100, 4)), np.column_stack([rng.normal(8, 1, (100, 3)), np.zeros(100)])])
    model = fastem.FactorAnalyserMixture(2, random_state=0, certify=True, tol=1e-8, max_iter=500).fit(X)
    floor = 1e-6 * X.var(axis=0)
    assert np.all(model.noise_variances_ >= floor * (1 - 1e-9))
    assert model.noise_variances_[:, 3].min() == pytest.approx(floor[3], rel=1e-6)


def test_same_bits_restarts_warm_start_and_files(tmp_path):
    _, _, X, _ = drawn(5000, 8, 2, 4, share=0.05)
    options = {"n_factors": 2, "n_init": 3, "random_state": 0, "max_iter": 10}
    one = fastem.FactorAnalyserMixture(4, n_threads=1, **options).fit(X)
    two = fastem.FactorAnalyserMixture(4, n_threads=2, **options).fit(X)
    np.testing.assert_array_equal(one.loadings_, two.loadings_)
    np.testing.assert_array_equal(one.restarts_, two.restarts_)
    assert one.lower_bound_ == max(one.restarts_)
    again = one.set_params(warm_start=True)
    before = again.lower_bound_
    assert again.fit(X).lower_bound_ >= before
    fastem.save(two, tmp_path / "m.npz")
    np.testing.assert_array_equal(fastem.load(tmp_path / "m.npz").predict(X), two.predict(X))
    assert two.aic(X) < two.bic(X)
    drawn_rows, components = two.sample(100)
    assert drawn_rows.shape == (100, 8)
    assert components.max() < 4


def test_what_is_refused():
    X = drawn(50, 3, 1, 2)[2]
    with pytest.raises(ValueError, match="at most the number of features 3, got 4"):
        fastem.FactorAnalyserMixture(2, n_factors=4).fit(X)
    with pytest.raises(ValueError, match="'min_noise' parameter"):
        fastem.FactorAnalyserMixture(2, min_noise=0).fit(X)
    with pytest.raises(ValueError, match="should be positive"):
        fastem.FactorAnalyserMixture(1, noise_variances_init=[[1.0, 0.0, 1.0]]).fit(X)
    with pytest.raises(ValueError, match="shape of"):
        fastem.FactorAnalyserMixture(1, loadings_init=np.ones((3, 1))).fit(X)
