"""Factor analysis: against scikit-learn, against NumPy written as the formulas are, and with missing values."""

import functools
import warnings

import numpy as np
import pytest
from drawn import holes
from scipy.stats import multivariate_normal
from sklearn import decomposition
from sklearn.datasets import load_digits, load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastem
from fastem import families
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.estimators.factor import rotated
from fastem.sources.memory import MemorySource

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([fastem.FactorAnalysis()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def drawn(n, d, q, seed=0):
    """Rows of a random factor analyser."""
    family = families.make("factor", 1, n_factors=q)
    params = family.example_params(d, Draws(seed))
    return family, params, family.sample(params, n, Draws(seed, 1))[0]


def naive_log_prob(X, params):
    """log p(x) of what is observed of each row, by SciPy."""
    covariance = params.loadings[0] @ params.loadings[0].T + np.diag(params.noise_variances[0])
    out = np.zeros(len(X))
    for i, row in enumerate(X):
        seen = ~np.isnan(row)
        if seen.any():
            out[i] = multivariate_normal(params.means[0, seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen])
    return out


def naive_stats(X, w, params, centre):
    """The record, row by row, from the posterior in covariance form."""
    L, psi = params.loadings[0], params.noise_variances[0]
    (d, q), p = L.shape, L.shape[1] + 1
    seconds, cross, squares, lacking = np.zeros((p, p)), np.zeros((d, p)), np.zeros(d), np.zeros((d, p, p))
    for row, weight in zip(X, w, strict=True):
        seen = ~np.isnan(row)
        u = (row - params.means[0])[seen]
        slope = np.linalg.solve(L[seen] @ L[seen].T + np.diag(psi[seen]), L[seen]).T
        zz = np.zeros((p, p))
        z = np.append(slope @ u, 1.0)
        zz[:q, :q] = np.eye(q) - slope @ L[seen]
        zz += np.outer(z, z)
        seconds += weight * zz
        lacking[~seen] += weight * zz
        cross[seen] += weight * np.outer((row - centre)[seen], z)
        squares[seen] += weight * (row - centre)[seen] ** 2
    return w.sum(), seconds, cross, squares, lacking


@pytest.mark.parametrize(("d", "q"), [(3, 1), (5, 0), (7, 4), (6, 6), (70, 2)])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_densities_and_statistics_are_the_formulas(d, q, missing):
    family, params, X = drawn(300, d, q)
    if missing:
        X, family = holes(X, missing), family.for_missing()
    w = Draws(3).uniform(len(X))
    prepared = family.prepare(params, X.dtype)
    want = naive_log_prob(X, params)
    np.testing.assert_allclose(family.log_prob(X, prepared, 1), want, rtol=1e-11)
    stats = MemorySource(X, w).accumulate(family, prepared)
    centre = prepared.origin + prepared.means[0]
    counts, *moments = naive_stats(X, w, params, centre)
    assert float(stats.loglik) == pytest.approx(w @ want, rel=1e-11)
    assert float(stats.counts[0]) == pytest.approx(counts, rel=1e-12)
    for got, expected in zip(stats[2 : 6 if missing else 5], moments[: 4 if missing else 3], strict=True):
        np.testing.assert_allclose(got[0], expected, atol=1e-9 * np.abs(expected).max(initial=1.0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(5000, 6), (20, 30), (1, 3)])
def test_the_covariance_tells_what_the_rows_would(dtype, weighted, n, d):
    family, params, X = drawn(n, d, 2)
    X = (X + 1e3).astype(dtype)
    source = MemorySource(X, Draws(3).uniform(len(X)).astype(dtype) if weighted else None)
    prepared = family.prepare(params, X.dtype)
    rows = source.accumulate(family, prepared)
    alone = family.stats_of_constants(family.constants(source), prepared)
    tolerance = 1e-11 if dtype == np.float64 else 2e-5
    for name, a, b in zip(rows._fields, rows, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(initial=1e-300), err_msg=name)


def test_iterations_on_complete_rows_read_none():
    family, params, X = drawn(500, 5, 2)
    source = MemorySource(X)
    constants = family.constants(source)
    source.accumulate = lambda *args: pytest.fail("the rows were read")
    run = em.run_once(
        Problem(source, family, constants=constants), params, Settings(max_iter=50, tol=0.0, certify=True)
    )
    assert run.n_iter == 50


IRIS, DIGITS = load_iris().data, load_digits().data[:, 2:6]
TABLES = {
    "iris": (IRIS, 2),
    "as many factors as features": (IRIS, None),
    "no factor": (IRIS, 0),
    "one": (IRIS, 1),
    "digits": (load_digits().data[:, [2, 3, 4, 5, 10, 11, 12, 18, 19, 20, 21, 26, 27]], 5),
    "fewer rows than features": (drawn(30, 50, 2, seed=2)[2], 2),
    "far away": (drawn(2000, 8, 2)[2] + 1e6, 2),
    "drawn": (drawn(3000, 40, 6)[2], 6),
}


@functools.cache
def peer_of(name, table):
    """scikit-learn's factor analysis of few rows with the mean and the covariance of X, which are all that it sees.

    It decomposes its rows in every iteration, thousands of times, and once for a table that float32 holds exactly.
    """
    shape, q = TABLES[name][0].shape, TABLES[name][1]
    X = np.frombuffer(table).reshape(shape)
    root = np.linalg.qr(X - X.mean(axis=0), mode="r")
    few = np.vstack([root, -root]) * np.sqrt(len(root) / len(X))
    peer = decomposition.FactorAnalysis(q, svd_method="lapack", tol=1e-10 * len(few) / len(X), max_iter=3000).fit(few)
    peer.mean_ = X.mean(axis=0)
    return peer


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_same_log_likelihood_as_scikit_learn(name, dtype):
    X, q = TABLES[name]
    if dtype == np.float32 and name == "far away":
        X = X - 1e6 + 1e3
    X = X.astype(dtype)
    peer = peer_of(name, X.astype(np.float64).tobytes())
    model = fastem.FactorAnalysis(q, tol=1e-10, max_iter=3000, certify=True).fit(X)
    assert model.components_.shape == peer.components_.shape
    found, want = model.score(X.astype(np.float64)), peer.score(X.astype(np.float64))
    if q is None:  # scikit-learn's stopping rule counts factors that it has set to 0, and stops too early
        assert found > want
        return
    assert found == pytest.approx(want, abs=1e-6)
    assert model.score(X) == pytest.approx(want, abs=1e-6 if dtype == np.float64 else 1e-4)
    np.testing.assert_allclose(
        model.get_covariance(), peer.get_covariance(), atol=3e-4 * np.abs(peer.get_covariance()).max()
    )


def test_same_path_as_scikit_learn():
    X, q = drawn(800, 10, 3)[2], 3
    peer = decomposition.FactorAnalysis(q, svd_method="lapack", tol=0.0, max_iter=40).fit(X)
    model = fastem.FactorAnalysis(q, tol=0.0, max_iter=40).fit(X)
    assert model.n_iter_ == peer.n_iter_
    # Theirs begins before the first iteration, ours ends after the last.
    np.testing.assert_allclose(model.loglike_[:-1], peer.loglike_[1:], rtol=1e-12)
    assert model.loglike_[-1] == pytest.approx(model.score(X) * len(X), rel=1e-13)
    start = np.linspace(0.5, 2.0, 10)
    peer.set_params(noise_variance_init=start).fit(X)
    model.set_params(noise_variance_init=start).fit(X)
    np.testing.assert_allclose(model.loglike_[:-1], peer.loglike_[1:], rtol=1e-12)


def test_methods_are_scikit_learns():
    X, q = IRIS, 2
    peer = decomposition.FactorAnalysis(q, svd_method="lapack", tol=1e-8).fit(X)
    model = fastem.FactorAnalysis(q).fit(X)
    model.components_, model.noise_variance_, model.mean_ = peer.components_, peer.noise_variance_, peer.mean_
    np.testing.assert_allclose(model.transform(X), peer.transform(X), atol=1e-10)
    np.testing.assert_allclose(model.score_samples(X), peer.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(model.get_covariance(), peer.get_covariance(), rtol=1e-12)
    np.testing.assert_allclose(model.get_precision(), peer.get_precision(), rtol=1e-8, atol=1e-10)
    assert list(model.get_feature_names_out()) == ["factoranalysis0", "factoranalysis1"]
    assert model.transform(X.astype(np.float32)).dtype == np.float32
    for method in ("varimax", "quartimax"):
        turned = rotated(peer.components_.T, method).T  # the model stays
        np.testing.assert_allclose(turned.T @ turned, peer.components_.T @ peer.components_, atol=1e-10)
        again = decomposition.FactorAnalysis(q, svd_method="lapack", tol=1e-8, rotation=method).fit(X).components_
        ours = fastem.FactorAnalysis(q, tol=1e-8, rotation=method).fit(X).components_
        np.testing.assert_allclose(np.abs(ours), np.abs(again), atol=1e-3)


def test_missing_values_reach_a_maximum():
    family, _, X = drawn(600, 6, 2)
    X = holes(X, 0.25)
    model = fastem.FactorAnalysis(2, tol=1e-7, max_iter=3000, certify=True).fit(X)
    assert model.converged_
    theta = model._fitted_params(family)
    best = naive_log_prob(X, theta).sum()
    assert best == pytest.approx(model.score(X) * len(X), rel=1e-10)
    assert best == pytest.approx(model.loglike_[-1], abs=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(12):  # no step in any direction climbs
        step = [1e-4 * rng.standard_normal(a.shape) for a in theta]
        moved, back = (
            naive_log_prob(X, type(theta)(*(a + sign * s for a, s in zip(theta, step, strict=True)))).sum()
            for sign in (1, -1)
        )
        assert abs(moved - back) / 2 < 2e-3  # a typical slope at a wrong place is 1
        assert moved < best + 2e-3


def test_reading_rows_reaches_what_the_covariance_reaches():
    family, _, X = drawn(500, 5, 2)
    source = MemorySource(X)
    constants = family.constants(source)
    start = family.start(constants, np.ones(5))
    settings = Settings(max_iter=20_000, tol=1e-11, certify=True)
    quick = em.run_once(Problem(source, family, constants=constants), start, settings)
    slow = em.run_once(Problem(source, family, constants=constants._replace(scatter=np.empty((0, 0)))), start, settings)
    assert slow.objective == pytest.approx(quick.objective, abs=1e-6)
    assert slow.n_iter > quick.n_iter


def test_known_values_help_the_unknown():
    _, params, X = drawn(4000, 8, 2)
    model = fastem.FactorAnalysis(2, tol=1e-5).fit(holes(X, 0.3))
    truth = params.loadings[0] @ params.loadings[0].T + np.diag(params.noise_variances[0])
    assert np.abs(model.get_covariance() - truth).max() < 0.15 * truth.max()
    np.testing.assert_allclose(model.mean_, params.means[0], atol=0.2)
    complete = fastem.FactorAnalysis(2, tol=1e-5).fit(X).transform(X)
    partly = model.transform(holes(X, 0.1, seed=1))
    for f in range(2):  # the same factors but for their sign
        assert np.abs(np.corrcoef(complete.T, partly.T)[f, 2:]).max() > 0.9
    empty = np.full((1, 8), np.nan)
    np.testing.assert_array_equal(model.transform(empty), 0.0)
    assert model.score_samples(empty)[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_weights_are_repeated_rows(missing):
    X = holes(drawn(300, 5, 1)[2], missing)
    m = np.arange(len(X)) % 3
    a = fastem.FactorAnalysis(1, tol=1e-6).fit(X, sample_weight=m)
    b = fastem.FactorAnalysis(1, tol=1e-6).fit(np.repeat(X, m, axis=0))
    np.testing.assert_allclose(a.components_, b.components_, rtol=1e-7)
    np.testing.assert_allclose(a.loglike_, b.loglike_, rtol=1e-9)
    assert a.score(X, sample_weight=m) == pytest.approx(b.score(np.repeat(X, m, axis=0)))


@pytest.mark.parametrize("kind", ["constant feature", "one row", "equal rows", "tiny", "huge", "copies of a feature"])
def test_degenerate_rows(kind):
    rng = np.random.default_rng(0)
    X = {
        "constant feature": np.column_stack([rng.normal(size=(50, 3)), np.full(50, 1e5)]),
        "one row": np.ones((1, 3)),
        "equal rows": np.full((20, 3), 7.0),
        "tiny": 1e-8 * rng.normal(size=(50, 4)),
        "huge": 1e8 * rng.normal(size=(50, 4)),
        "copies of a feature": np.repeat(rng.normal(size=(50, 2)), 2, axis=1),
    }[kind]
    model = fastem.FactorAnalysis(1, certify=True).fit(X)
    assert np.all(np.isfinite(model.components_))
    assert np.all(model.noise_variance_ > 0)
    assert np.all(np.isfinite(model.transform(X)))
    assert np.all(np.diff(model.loglike_) >= -1e-3)


def test_scale_of_a_feature_does_not_matter():
    X = drawn(1000, 6, 2)[2]
    scales = 10.0 ** np.arange(-3, 3)
    a = fastem.FactorAnalysis(2, tol=1e-8, noise_variance_init=np.ones(6)).fit(X)
    b = fastem.FactorAnalysis(2, tol=1e-8, noise_variance_init=scales**2).fit(X * scales)
    np.testing.assert_allclose(b.components_, a.components_ * scales, rtol=1e-6)
    np.testing.assert_allclose(b.noise_variance_, a.noise_variance_ * scales**2, rtol=1e-6)


def test_history_callback_criteria_and_samples():
    X = drawn(500, 5, 1)[2]
    seen = []
    model = fastem.FactorAnalysis(1, keep_history=True, callback=seen.append, certify=True).fit(X)
    assert len(seen) == model.n_iter_ == len(model.history_) - 1 == len(model.loglike_)
    assert model.bic(X) > model.aic(X)
    assert model._family().n_free_params(5) == 5 + 5 + 5
    again = fastem.FactorAnalysis(1, tol=1e-8).fit(model.sample(50_000))
    np.testing.assert_allclose(again.components_, model.components_, atol=0.1)
    assert fastem.FactorAnalysis(1, max_iter=1, callback=lambda info: True).fit(X).n_iter_ == 1
    one = fastem.FactorAnalysis(1, n_threads=1).fit(X)
    np.testing.assert_array_equal(one.components_, fastem.FactorAnalysis(1, n_threads=2).fit(X).components_)


def test_what_is_refused():
    with pytest.raises(ValueError, match="'rotation' parameter"):
        fastem.FactorAnalysis(rotation="oblimin").fit(IRIS)
    with pytest.raises(ValueError, match="dimension does not match"):
        fastem.FactorAnalysis(noise_variance_init=np.ones(3)).fit(IRIS)
    with pytest.raises(ValueError, match="infinity"):
        fastem.FactorAnalysis().fit(np.where(IRIS > 7, np.inf, IRIS))
    with pytest.raises(ValueError, match="one component"):
        families.make("factor", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="did not converge"):
            fastem.FactorAnalysis(2, max_iter=2, tol=0.0).fit(IRIS)


def test_a_saved_model_is_the_same(tmp_path):
    model = fastem.FactorAnalysis(2).fit(IRIS)
    fastem.save(model, tmp_path / "m.npz")
    loaded = fastem.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(loaded.transform(IRIS), model.transform(IRIS))
    assert loaded.loglike_ == model.loglike_
