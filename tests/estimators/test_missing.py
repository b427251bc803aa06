"""Gaussian mixtures of rows with missing values."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import drawn
import naive
import numpy as np
import pytest
from drawn import holes
from mixture_data import data

import fastem
from fastem import GaussianMixture
from fastem.draws import Draws
from fastem.families.elliptical import tied
from fastem.families.elliptical.records import prepared_means
from fastem.families.gaussian import GaussianFamily
from fastem.families.gaussian.noise import NoisyGaussianFamily
from fastem.sources.memory import MemorySource

TYPES = ("full", "tied", "diag", "spherical")
RTOL = {np.float64: 1e-10, np.float32: 3e-5}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def few_patterns(X, seed=1):
    """The same rows, in most of which one of three sets of features is missing."""
    rng = np.random.default_rng(seed)
    masks = np.vstack([np.zeros((1, X.shape[1]), bool), rng.random((3, X.shape[1])) < 0.4])
    return np.where(masks[rng.integers(0, 4, len(X))], np.nan, X).astype(X.dtype)


def problem(n, d, k, covariance_type, dtype=np.float64):
    """A family for missing values, parameters, and complete rows."""
    family = GaussianFamily(k, covariance_type, 0.0).for_missing()
    params = family.example_params(d, Draws(0))
    return family, params, drawn.rows(family, params, n, Draws(1)).astype(dtype)


def close(actual, desired, rtol):
    np.testing.assert_allclose(actual, desired, rtol=0, atol=rtol * max(1.0, np.abs(desired).max()))


def in_shape(scatter, covariance_type):
    """The oracle's scatter as `scatter_of` has it."""
    if covariance_type == "tied":
        return scatter.sum(axis=0)
    return scatter if covariance_type == "full" else np.diagonal(scatter, axis1=1, axis2=2)


def scatter_of(stats, family, source, prepared):
    """The record's scatter about the means; that of tied is pooled, and complete rows are a constant."""
    if family.covariance_type != "tied":
        return stats.scatter
    total = family.shape.total(stats, family.constants(source), prepared)
    return tied.scatter_about(stats, total, prepared, prepared_means(prepared))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("punch", [holes, few_patterns])
def test_statistics_are_the_oracle(d, covariance_type, dtype, punch):
    n, k = 300, 3  # more than a block
    family, params, X = problem(n, d, k, covariance_type, dtype)
    X = punch(X)
    X[7] = np.nan
    rng = np.random.default_rng(3)
    some = (rng.integers(0, 3, n).astype(dtype), np.where(rng.random(n) < 0.3, rng.integers(0, k, n), -1).astype("i4"))
    prepared = family.prepare(params, X.dtype)
    known = naive.gaussian_missing(X, params, covariance_type)
    for w, labels in ((None, None), some):
        source = MemorySource(X, w, labels)
        stats = source.accumulate(family, prepared)
        loglik, counts, sums, scatter = naive.gaussian_missing_stats(
            known, np.ones(n) if w is None else w, labels, prepared_means(prepared)
        )
        close(stats.loglik, loglik, RTOL[dtype])
        close(stats.counts, counts, RTOL[dtype])
        scale = np.abs(scatter).max()
        np.testing.assert_allclose(stats.sums, sums, rtol=0, atol=RTOL[dtype] * scale)
        found = scatter_of(stats, family, source, prepared)
        close(found, in_shape(scatter, covariance_type), RTOL[dtype])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_densities_and_posteriors_are_the_oracle(covariance_type, dtype):
    family, params, X = problem(2300, 4, 3, covariance_type, dtype)
    X = holes(X)
    X[3] = np.nan
    some = np.r_[:300, 1900:2200]  # the oracle takes its time with each row
    log_joint = naive.gaussian_missing(X[some], params, covariance_type)[0]
    log_prob, resp = naive.responsibilities(log_joint)
    prepared = family.prepare(params, X.dtype)
    close(family.log_joint(X, prepared, 1)[some], log_joint, RTOL[dtype])
    found, shares = (part[some] for part in family.posterior(X, prepared, 1))
    close(found, log_prob, RTOL[dtype])
    close(shares, resp, 10 * RTOL[dtype])
    close(shares[3], params.weights, RTOL[dtype])
    assert found[3] == pytest.approx(0.0, abs=RTOL[dtype])
    clear = np.sort(resp)[:, -1] > 0.51
    assert np.array_equal(family.most_probable(X, prepared, 1)[some][clear], resp.argmax(axis=1)[clear])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_noise_is_uniform_over_what_is_observed(covariance_type):
    complete = problem(900, 3, 2, covariance_type)[2]
    X = holes(complete)
    family = NoisyGaussianFamily(2, covariance_type).for_missing()
    box = family.constants(MemorySource(X))
    assert np.array_equal(box, [np.nanmin(X, axis=0), np.nanmax(X, axis=0)])
    params = family.blank_params(complete[:2], complete.var(axis=0))._replace(box=box)
    prepared = family.prepare(params, X.dtype)
    log_joint = family.log_joint(X, prepared, 1)
    widths = np.where(np.isnan(X), 0.0, np.log(box[1] - box[0]))
    close(log_joint[:, 2], np.log(params.noise) - widths.sum(axis=1), 1e-12)
    close(log_joint[:, :2], naive.gaussian_missing(X, params, covariance_type)[0], 1e-10)
    model = GaussianMixture(2, covariance_type=covariance_type, noise=True, certify=True, random_state=0).fit(X)
    assert 0 <= model.noise_weight_ < 0.2
    # What is observed is the same either way: complete rows, and features that never are.
    plain = NoisyGaussianFamily(2, covariance_type)
    one, other = family.log_joint(complete, prepared, 1), plain.log_joint(complete, plain.prepare(params, X.dtype), 1)
    inside = np.all((complete >= box[0] - 1e-5) & (complete <= box[1] + 1e-5), axis=1)
    assert np.array_equal(np.isneginf(one[:, 2]), ~inside)
    assert np.array_equal(np.isneginf(other[:, 2]), ~inside)
    close(one[:, :2], other[:, :2], 1e-10)
    close(one[inside], other[inside], 1e-10)


def test_monotone_pattern_has_anderson_s_estimate():
    """x2 is missing in the last rows: regression of x2 on x1 where both are known (Anderson, JASA 52, 1957)."""
    rng = np.random.default_rng(0)
    x1 = rng.normal(2.0, 1.5, 400)
    X = np.column_stack([x1, 0.7 * x1 + rng.normal(1.0, 0.5, 400)])
    X[150:, 1] = np.nan
    both = X[:150]
    slope = np.cov(both.T, bias=True)[0, 1] / both[:, 0].var()
    residual = both[:, 1].var() - slope**2 * both[:, 0].var()
    mean = x1.mean(), both[:, 1].mean() + slope * (x1.mean() - both[:, 0].mean())
    variance = x1.var()
    want = [[variance, slope * variance], [slope * variance, residual + slope**2 * variance]]
    model = GaussianMixture(1, reg_covar=0, tol=0, max_iter=2000).fit(X)
    np.testing.assert_allclose(model.means_[0], mean, rtol=1e-7)  # EM stops where the log-likelihood rests
    np.testing.assert_allclose(model.covariances_[0], want, rtol=1e-6)


# Every type and every share; the deep checks have each of the one with each of the other.
@pytest.mark.parametrize(
    ("covariance_type", "share"),
    [
        pytest.param(kind, share, marks=() if share == {"full": 0.7, "diag": 0.05}.get(kind, 0.3) else pytest.mark.deep)
        for kind in TYPES
        for share in (0.05, 0.3, 0.7)
    ],
)
def test_certified_with_every_option(covariance_type, share):
    X = holes(data(800)[0], share)
    X[:5] = np.nan
    options = {"covariance_type": covariance_type, "certify": True, "random_state": 0, "max_iter": 60, "tol": 1e-8}
    plain = GaussianMixture(3, **options).fit(X)
    assert np.all(np.isfinite(plain.covariances_))
    assert plain.lower_bounds_[-1] > plain.lower_bounds_[0]
    for init in ("k-means++", "random", "random_from_data", "em-em"):
        GaussianMixture(3, init_params=init, **options).fit(X)
    GaussianMixture(3, accelerate="squarem", **options).fit(X)
    GaussianMixture(3, assignment="hard", **options).fit(X)
    GaussianMixture(3, reg_covar=0.5, **options).fit(X)
    GaussianMixture(3, n_init=3, drop_restarts=True, escape="split-merge", **options).fit(X)
    fixed = GaussianMixture(3, fixed=["means"], means_init=plain.means_, **options).fit(X)
    assert np.array_equal(fixed.means_, plain.means_)
    kept = ["covariances"]
    fixed = GaussianMixture(3, fixed=kept, precisions_init=plain.precisions_, **options).fit(X)
    np.testing.assert_allclose(fixed.covariances_, plain.covariances_, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_fixed_mean_is_what_the_covariance_is_about(covariance_type):
    """Fixed at a wrong place, the means' maximum over covariances is reached, by its gradient in each direction."""
    X = holes(data(600, 3, 1)[0])
    means = np.nanmean(X, axis=0, keepdims=True) + 1.0
    options = {"covariance_type": covariance_type, "fixed": ["means"], "means_init": means, "reg_covar": 0}
    model = GaussianMixture(1, tol=0, max_iter=3000, **options).fit(X)
    best = model.score(X)
    for factor in (0.99, 1.01):
        other = GaussianMixture(1, max_iter=0, precisions_init=model.precisions_ * factor, **options).fit(X)
        assert other.score(X) < best


@pytest.mark.parametrize("covariance_type", TYPES)
def test_maximum_likelihood_where_values_are_missing_at_random(covariance_type):
    """The estimates do not suffer from 20 % missing; those from rows filled with means would."""
    _, params, X = problem(20_000, 3, 2, covariance_type)
    model = GaussianMixture(2, covariance_type=covariance_type, random_state=0, tol=1e-8, max_iter=500).fit(holes(X))
    order = np.argsort(model.means_[:, 0])
    truth = np.argsort(params.means[:, 0])
    np.testing.assert_allclose(model.weights_[order], params.weights[truth], atol=0.02)
    np.testing.assert_allclose(model.means_[order], params.means[truth], atol=0.12)
    if covariance_type == "tied":
        np.testing.assert_allclose(model.covariances_, params.covariances, atol=0.15)
    else:
        np.testing.assert_allclose(model.covariances_[order], params.covariances[truth], atol=0.15)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_without_nan_take_the_ordinary_path(covariance_type):
    X = data(500)[0]
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    family = GaussianFamily(3, covariance_type)
    params = model._fitted_params(family)
    assert np.array_equal(model.predict_proba(X), family.posterior(X, family.prepare(params, X.dtype), 1)[1])
    missing = family.for_missing()
    close(missing.posterior(X, missing.prepare(params, X.dtype), 1)[1], model.predict_proba(X), 1e-11)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_labels_rows_of_the_given_component(covariance_type):
    X, y = data(700)
    X = holes(X)
    supervised = GaussianMixture(3, covariance_type=covariance_type, random_state=0, certify=True, tol=1e-9)
    supervised.fit(X, labels=y)
    np.testing.assert_allclose(supervised.weights_, np.bincount(y) / len(y), rtol=1e-12)
    alone = GaussianMixture(1, covariance_type="full", tol=1e-9, max_iter=1000).fit(X[y == 1])
    if covariance_type == "full":
        supervised.set_params(tol=1e-12, max_iter=1000).fit(X, labels=y)
        np.testing.assert_allclose(supervised.means_[1], alone.means_[0], atol=1e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_are_repetitions_and_features_may_be_permuted(covariance_type):
    X = holes(data(400)[0])
    start = {"means_init": np.nan_to_num(X[:3]), "covariance_type": covariance_type, "max_iter": 10, "tol": 0}
    m = 1 + np.arange(len(X)) % 3
    weighted = GaussianMixture(3, **start).fit(X, sample_weight=m)
    repeated = GaussianMixture(3, **start).fit(np.repeat(X, m, axis=0))
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-2)  # k-means starts differ a little
    order = [2, 0, 3, 1]
    family = GaussianFamily(3, covariance_type).for_missing()
    params = weighted._fitted_params(family)
    turned = GaussianFamily(3, covariance_type)
    covariances = params.covariances
    if covariance_type in ("full", "tied"):
        covariances = covariances[..., order, :][..., order]
    elif covariance_type == "diag":
        covariances = covariances[:, order]
    permuted = turned.with_covariances(params.weights, params.means[:, order].copy(), covariances.copy()).params
    close(
        family.log_joint(np.ascontiguousarray(X[:, order]), family.prepare(permuted, X.dtype), 1),
        family.log_joint(X, family.prepare(params, X.dtype), 1),
        1e-11,
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_offset_1e6_costs_nothing(covariance_type):
    X = np.round(holes(data(500)[0]) * 1024) / 1024
    near = GaussianMixture(3, covariance_type=covariance_type, random_state=0, max_iter=20, tol=0).fit(X)
    far = GaussianMixture(3, covariance_type=covariance_type, random_state=0, max_iter=20, tol=0).fit(X + 2.0**20)
    np.testing.assert_allclose(far.means_ - 2.0**20, near.means_, atol=1e-6)
    np.testing.assert_allclose(far.covariances_, near.covariances_, atol=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_duplicates_and_a_column_with_one_value(covariance_type):
    rng = np.random.default_rng(0)
    X = np.repeat(holes(rng.normal(size=(20, 3))), 10, axis=0)
    X[:, 1] = np.nan
    X[[3, 77], 1] = 2.0
    model = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    assert np.all(np.isfinite(model.covariances_))
    assert np.isfinite(model.lower_bound_)


@pytest.mark.parametrize("noise", [False, True])
def test_a_column_without_any_value_is_refused_by_number(noise):
    X = data(100)[0]
    X[:, 2] = np.nan
    with pytest.raises(ValueError, match="Column 2 of X has no value"):
        GaussianMixture(2, noise=noise).fit(X)
    X[0, 2] = 1.0
    with pytest.raises(ValueError, match="Column 2 of X has no value"):
        GaussianMixture(2, noise=noise).fit(X, sample_weight=(np.arange(100) > 0).astype(float))
    with pytest.raises(ValueError, match="infinity"):
        GaussianMixture(2, noise=noise).fit(np.where(np.isnan(X), np.inf, X))


def test_a_column_missing_in_a_whole_cell_is_no_matter():
    X = data(5000)[0]
    X[:2100, 1] = np.nan
    model = GaussianMixture(3, random_state=0, certify=True).fit(X)
    assert np.all(np.isfinite(model.covariances_))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_far_rows_have_one_hot_responsibilities(covariance_type):
    X = holes(data(300)[0])
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    far = np.array([[1e160, np.nan, 0, 0], [np.nan, -1e300, 1e300, np.nan], [1e9, 1e9, np.nan, 1e9]])
    shares = model.predict_proba(far)
    assert np.array_equal(np.sort(shares, axis=1), [[0, 0, 1]] * 3)
    assert np.array_equal(shares.argmax(axis=1), model.predict(far))
    assert not np.any(np.isnan(model.score_samples(far)))
    assert np.all(np.isfinite(model.conditional_mean(far)[2]))


def test_rescue_moves_a_dead_component_to_an_incomplete_row():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(300, 2)), rng.normal(8, 0.1, size=(40, 2))])
    X[300:, 1] = np.where(rng.random(40) < 0.5, np.nan, X[300:, 1])
    start = {"means_init": [[0.0, 0.0], [-50.0, 50.0]], "weights_init": [1.0, 0.0]}
    model = GaussianMixture(2, rescue=True, precisions_init=np.repeat(np.eye(2)[None], 2, axis=0), **start)
    model.fit(X)
    assert sorted(model.weights_) == pytest.approx([40 / 340, 300 / 340], abs=0.01)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("observed", [2, 4, 10])
def test_worst_explained_rows_are_judged_by_what_was_observed_of_them(observed, weighted):
    rng = np.random.default_rng(observed)
    n, d = 6000, 10
    units = 10.0 ** rng.integers(-4, 5, size=d)  # in other units a feature counts the same
    X = rng.normal(size=(n, d))
    X[rng.random(n) < 0.5, observed:] = np.nan  # half of the rows are complete, and less likely for that
    odd = np.arange(5, n, n // 20)
    X[odd, :observed] = rng.choice([-5.0, 5.0], (len(odd), observed))
    X[odd, observed:] = np.nan
    w = np.ones(n) if weighted else np.empty(0)
    X[0], X[1] = 100.0, np.nan  # a row of weight 0, and one of which nothing is known
    w[:1] = 0.0
    if not weighted:
        X[0] = np.nan
    family = GaussianFamily(1, covariance_type="diag").for_missing()
    prepared = family.prepare(family.blank_params(np.zeros((1, d)), units**2), np.dtype(np.float64))
    rows = MemorySource(X * units, w, n_threads=1).extreme_rows(family, prepared, len(odd))
    assert np.mean(np.isin(rows.indices, odd)) >= 0.95
    two = MemorySource(X * units, w, n_threads=2).extreme_rows(family, prepared, len(odd))
    np.testing.assert_array_equal(rows.indices, two.indices)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_conditional_mean_is_that_of_condition(covariance_type, dtype):
    X = holes(data(300)[0].astype(dtype))
    X[5] = np.nan
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    before = X.copy()
    X.flags.writeable = False
    filled = model.conditional_mean(X)
    assert np.array_equal(X, before, equal_nan=True)
    assert filled.dtype == dtype
    assert np.array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    np.testing.assert_allclose(filled[5], model.weights_ @ model.means_, rtol=1e-5)
    for i in (0, 1, 2, 3, 4, 6, 7):
        seen = ~np.isnan(X[i])
        if seen.any() and not seen.all():
            rest = model.condition(seen, X[i, seen].astype(float))
            want = rest.weights_ @ rest.means_
            np.testing.assert_allclose(filled[i, ~seen], want, atol=1e-9 if dtype == np.float64 else 1e-3)


def test_conditional_mean_beside_noise_counts_the_middle_of_the_box():
    X = holes(data(300)[0])
    model = GaussianMixture(2, noise=True, random_state=0).fit(X)
    empty = model.conditional_mean(np.full((1, 4), np.nan))[0]
    middle = model.noise_box_.mean(axis=0)
    np.testing.assert_allclose(empty, model.weights_ @ model.means_ + model.noise_weight_ * middle, rtol=1e-9)


def test_saved_and_loaded_and_selected_and_bounded(tmp_path):
    X = holes(data(400)[0])
    model = GaussianMixture(3, random_state=0).fit(X)
    fastem.save(model, tmp_path / "m.npz")
    again = fastem.load(tmp_path / "m.npz")
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    found = fastem.select(X, [1, 3], covariance_types=["full", "diag"], random_state=0)
    assert found.best.n_components == 3
    assert fastem.select(X, [1, 3], criterion="heldout", random_state=0).best.n_components == 3
    at = fastem.LowerBound(model, X)
    q = np.full((400, 3), 1 / 3)
    assert at.bound(q) + at.kl(q) == pytest.approx(at.log_likelihood(), rel=1e-10)
    assert at.log_likelihood() == pytest.approx(model.score(X) * 400, rel=1e-12)
    assert at.bound(q, at.m_step(q)) > at.bound(q)


def test_anomalies_among_incomplete_rows():
    X = holes(data(400)[0], 0.1)
    X[0] = [99.0, np.nan, -99.0, 0.0]
    detector = fastem.AnomalyDetector(GaussianMixture(3, random_state=0), contamination=0.01).fit(X[1:])
    assert detector.predict(X)[0] == -1
    assert detector.explain(X[:3]) is not None


BITS = """
import hashlib, json
import numpy as np
from fastem import GaussianMixture, threads
threads.resolve = lambda n: n
rng = np.random.default_rng(0)
X = rng.normal(size=(9000, 4)) + 5 * rng.integers(0, 3, (9000, 1))
X[rng.random(X.shape) < 0.2] = np.nan
digests = {}
for kind in ("full", "tied", "diag", "spherical"):
    for n_threads in (1, 2, 7):
        model = GaussianMixture(3, covariance_type=kind, random_state=0, n_threads=n_threads, max_iter=5).fit(X)
        bits = [model.means_, model.covariances_, model.conditional_mean(X), model.predict_proba(X)]
        digests[f"{kind} {n_threads}"] = hashlib.sha256(b"".join(map(np.ndarray.tobytes, bits))).hexdigest()
print(json.dumps(digests))
"""


# In the default tests, tests/test_bits.py compares them.
@pytest.mark.deep
def test_same_bits_for_any_number_of_threads():
    environment = {**os.environ, "NUMBA_NUM_THREADS": "7", "OMP_NUM_THREADS": "7"}
    output = subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, text=True, timeout=200)
    assert output.returncode == 0, output.stderr
    digests = json.loads(output.stdout)
    assert len(digests) == 12
    for key, digest in digests.items():
        assert digest == digests[key[:-1] + "1"], key
