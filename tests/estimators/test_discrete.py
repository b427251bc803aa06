"""Bernoulli, Poisson and categorical mixtures: kernels against formulas, missing values, floors, starts, input rules.

What all families promise is checked by test_family_contract.py.
"""

import math

import numpy as np
import pytest
from drawn import holes
from scipy import stats
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastem
from fastem import BernoulliMixture, CategoricalMixture, PoissonMixture, families
from fastem.draws import Draws
from fastem.families.discrete.bernoulli import BernoulliParams
from fastem.families.discrete.categorical import CategoricalParams, proportions
from fastem.families.discrete.poisson import PoissonParams, log_factorials
from fastem.sources.memory import MemorySource

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CODES = (2, 3, 5, 40, 2, 16, 7, 17, 30, 4, 16, 16, 16, 16, 3)  # looked up and multiplied, in several panels


def refuses_what_is_no_code(estimator):
    if isinstance(estimator, CategoricalMixture):
        reason = "its rows are fractions, which scikit-learn's CategoricalNB would cut to 0"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    return {}


@parametrize_with_checks(
    [BernoulliMixture(), PoissonMixture(), CategoricalMixture()],
    expected_failed_checks=refuses_what_is_no_code,
)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def bernoulli_terms(X, params):
    return stats.bernoulli.logpmf(np.nan_to_num(X)[:, None, :], params.means)


def poisson_terms(X, params):
    return stats.poisson.logpmf(np.nan_to_num(X)[:, None, :], params.rates)


def categorical_terms(X, params):
    starts = np.concatenate([[0], np.cumsum(CODES)])[: X.shape[1]]
    return np.log(params.probabilities).T[(starts + np.nan_to_num(X)).astype(int)].transpose(0, 2, 1)


TERMS = {"bernoulli": bernoulli_terms, "poisson": poisson_terms, "categorical": categorical_terms}


def example(name, k, n=777, missing=0.0, seed=0):
    """A family, parameters and rows of it in random order."""
    options = {"n_categories": CODES} if name == "categorical" else {}
    family = families.make(name, k, **options)
    params = family.example_params(len(CODES), Draws(seed))
    X = family.sample(params, n, Draws(seed, 1))[0]
    X = X[np.random.default_rng(seed).permutation(n)]
    return family, params, np.ascontiguousarray(holes(X, missing) if missing else X)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kernels_equal_the_formulas(name, k, missing, dtype):
    family, params, X = example(name, k, missing=missing)
    seen = ~np.isnan(X)
    log_joint = np.log(params.weights) + np.where(seen[:, None, :], TERMS[name](X, params), 0.0).sum(axis=2)
    X = X.astype(dtype)
    prepared = family.prepare(params, X.dtype)
    close = {"rtol": 1e-11} if dtype == np.float64 else {"rtol": 2e-5, "atol": 2e-4}
    np.testing.assert_allclose(family.log_joint(X, prepared, 1), log_joint, **close)
    w = np.random.default_rng(1).random(len(X)).astype(dtype)
    source = MemorySource(X, w)
    got = source.accumulate(family, prepared)
    log_prob = np.logaddexp.reduce(log_joint, axis=1)
    resp = np.exp(log_joint - log_prob[:, None]) * w[:, None]
    np.testing.assert_allclose(got.counts, resp.sum(axis=0), **close)
    objective = family.objective(got, family.constants(source), params)
    assert objective == pytest.approx(np.average(log_prob, weights=w), rel=1e-11 if dtype == np.float64 else 1e-5)
    if name == "categorical":
        first = np.concatenate([[0], np.cumsum(CODES)])
        sums = [resp[X[:, j] == v].sum(axis=0) for j, m in enumerate(CODES) for v in range(m)]
        assert got.sums.shape == (k, first[-1])
        np.testing.assert_allclose(got.sums, np.transpose(sums), rtol=1e-11 if dtype == np.float64 else 2e-4, atol=1e-4)
    else:
        np.testing.assert_allclose(got.observed, resp.T @ seen, **close)
        total = got.sums + got.observed * prepared.origin
        np.testing.assert_allclose(total, resp.T @ np.nan_to_num(X), rtol=1e-11 if dtype == np.float64 else 2e-4)


@pytest.mark.parametrize("name", TERMS)
def test_a_row_with_missing_values_has_the_density_of_what_is_seen(name):
    family, params, X = example(name, 3, n=50)
    kept = slice(0, 4)
    hidden = X.copy()
    hidden[:, 4:] = np.nan
    columns = slice(0, sum(CODES[kept])) if name == "categorical" else kept
    part = type(params)(params.weights, params[1][:, columns])
    smaller = families.make(name, 3, **({"n_categories": CODES[kept]} if name == "categorical" else {}))
    want = smaller.log_joint(np.ascontiguousarray(X[:, kept]), smaller.prepare(part, X.dtype), 1)
    np.testing.assert_allclose(family.log_joint(hidden, family.prepare(params, X.dtype), 1), want, rtol=1e-12)
    hidden[:] = np.nan
    np.testing.assert_allclose(family.posterior(hidden, family.prepare(params, X.dtype), 1)[1][0], params.weights)


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_several_panels_of_features_of_which_some_are_complete(name):
    family = families.make(name, 5).for_missing()
    params = family.example_params(150, Draws(0))
    X = family.sample(params, 300, Draws(1))[0]
    X[:, 70:90] = holes(X[:, 70:90], 0.5)
    want = np.log(params.weights) + np.where(~np.isnan(X)[:, None, :], TERMS[name](X, params), 0.0).sum(axis=2)
    prepared = family.prepare(params, X.dtype)
    np.testing.assert_allclose(family.log_joint(X, prepared, 1), want, rtol=1e-11)
    got = MemorySource(X).accumulate(family, prepared)
    resp = np.exp(want - np.logaddexp.reduce(want, axis=1)[:, None])
    np.testing.assert_allclose(got.observed, resp.T @ ~np.isnan(X), rtol=1e-10)
    total = got.sums + got.observed * prepared.origin
    np.testing.assert_allclose(total, resp.T @ np.nan_to_num(X), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", TERMS)
def test_what_has_no_weight_keeps_its_parameters(name):
    family, params, X = example(name, 3, n=300)
    X[:, 1] = np.nan  # nothing is known of the second feature
    params = type(params)(np.array([0.4, 0.6, 0.0]), params[1])  # the third component is dead
    prepared = family.prepare(params, X.dtype)
    source = MemorySource(X)
    new = family.m_step(source.accumulate(family, prepared), family.constants(source), prepared, params).params
    assert new.weights[2] == 0
    np.testing.assert_array_equal(new[1][2], params[1][2])
    second = slice(CODES[0], CODES[0] + CODES[1]) if name == "categorical" else 1
    np.testing.assert_array_equal(new[1][:, second], params[1][:, second])


ESTIMATORS = {
    "bernoulli": lambda **options: BernoulliMixture(2, **options),
    "poisson": lambda **options: PoissonMixture(2, **options),
    "categorical": lambda **options: CategoricalMixture(2, **options),
}
CENTERS = {"bernoulli": "means_", "poisson": "rates_", "categorical": "probabilities_"}


def two_groups(n=400, seed=0):
    """Rows valid in all three families, in two groups that hardly overlap, and the group of each."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, n)
    return (generator.random((n, 8)) < np.where(y[:, None], 0.85, 0.1)).astype(float), y


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_every_start_finds_the_groups(name, init_params, missing):
    X, y = two_groups()
    X = holes(X, missing) if missing else X
    model = ESTIMATORS[name](init_params=init_params, n_init=4, random_state=0, certify=True).fit(X)
    agree = np.mean(model.predict(X) == y)
    assert max(agree, 1 - agree) > (0.95 if missing else 0.97)
    assert model.converged_
    assert len(model.restarts_) == 4
    assert np.diff(model.lower_bounds_).min(initial=0) > -1e-12
    assert model.score(X) == pytest.approx(model.lower_bound_, abs=1e-5)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)
    assert model.bic(X) > model.aic(X)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_known_labels_give_the_groups_own_frequencies(name):
    X, y = two_groups()
    X = holes(X, 0.1)
    model = ESTIMATORS[name]().fit(X, labels=y)
    np.testing.assert_allclose(model.weights_, np.bincount(y) / len(y))
    means = np.array([np.nanmean(X[y == c], axis=0) for c in range(2)])
    got = model.probabilities_[:, 1::2] if name == "categorical" else getattr(model, CENTERS[name])
    np.testing.assert_allclose(got, means, rtol=1e-12)
    some = np.where(np.arange(len(y)) % 5 == 0, y, -1)
    semi = ESTIMATORS[name](certify=True).fit(X, labels=some)
    assert np.mean(semi.predict(X) == y) > 0.95


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_floor_holds_and_the_objective_still_never_falls(name):
    X, _ = two_groups()
    option = "min_rate" if name == "poisson" else "min_prob"
    model = ESTIMATORS[name](**{option: 0.2}, random_state=0, init_params="random", tol=1e-9).fit(X)
    values = getattr(model, CENTERS[name])
    assert values.min() == pytest.approx(0.2)
    assert np.diff(model.lower_bounds_[1:]).min() > -1e-12
    if name == "categorical":
        np.testing.assert_allclose(values.reshape(2, 8, 2).sum(axis=2), 1.0)
    free = ESTIMATORS[name](**{option: 0.0}, random_state=0, init_params="random", tol=1e-9, certify=True).fit(X)
    assert free.lower_bound_ > model.lower_bound_


def test_proportions_above_a_floor_are_the_constrained_maximum():
    sums = np.array([[1.0, 2.0, 30.0, 300.0, 7.0, 3.0]])
    got = proportions(sums, np.array([4, 2]), 0.1, np.zeros((1, 6)))
    np.testing.assert_allclose(got, [[0.1, 0.1, 0.1, 0.7, 0.7, 0.3]])
    np.testing.assert_allclose(proportions(sums, np.array([4, 2]), 0.4, sums)[0, :4], 0.25)  # more than 1 / m is 1 / m
    nothing = proportions(np.zeros((1, 6)), np.array([4, 2]), 0.0, got)
    np.testing.assert_array_equal(nothing, got)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_plain_maximum_likelihood_reaches_zero_and_stays_finite(dtype):
    X = np.repeat([[1, 1, 0, 0], [0, 0, 0, 1]], 50, axis=0).astype(dtype)
    for model in (
        BernoulliMixture(2, min_prob=0.0, certify=True, random_state=0),
        CategoricalMixture(2, min_prob=0.0, n_categories=2, certify=True, random_state=0),
    ):
        model.fit(X)
        assert model.lower_bound_ == pytest.approx(np.log(0.5), abs=1e-5)
        unseen = model.score_samples(np.array([[1, 0, 0, 0]], dtype))
        assert np.all((unseen < -60) & np.isfinite(unseen))
        assert np.all(np.isfinite(model.predict_proba(np.ones((3, 4), dtype))))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_large_counts_keep_their_digits(dtype):
    rates = np.array([[1.00e6, 3.0], [1.01e6, 3.5]])
    generator = np.random.default_rng(0)
    X = np.vstack([generator.poisson(row, (500, 2)) for row in rates]).astype(dtype)
    family = families.make("poisson", 2)
    params = PoissonParams(np.array([0.5, 0.5]), rates)
    want = np.log(0.5) + stats.poisson.logpmf(X.astype(float)[:, None, :], rates).sum(axis=2)
    got = family.log_joint(X, family.prepare(params, X.dtype), 1)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7 if dtype == np.float64 else 1e-3)
    model = PoissonMixture(2, certify=True).fit(X)
    np.testing.assert_allclose(np.sort(model.rates_[:, 0]), np.sort([X[:500, 0].mean(), X[500:, 0].mean()]), rtol=1e-6)
    assert model.score(X) == pytest.approx(np.logaddexp.reduce(want, axis=1).mean(), rel=1e-3)


def test_fractions_and_large_counts_have_the_gamma_functions_factorial():
    for X in (np.array([[0.0, 0.5], [3.0, 2.0]]), np.array([[0.0, 4096.0], [1e9, 2.0]]), np.array([[0.0, 4095.0]])):
        np.testing.assert_allclose(log_factorials(X), np.vectorize(math.lgamma)(X + 1), rtol=1e-13)


def test_codes_are_names():
    X = example("categorical", 3, n=2000)[2]
    X = X[:, [1, 2, 6, 9]]
    # Random responsibilities: where rows of indicators are equally near, k-means would decide by rounding.
    options = {"random_state": 0, "n_init": 2, "init_params": "random"}
    first = CategoricalMixture(3, **options).fit(X)
    renamed = X.copy()
    order = np.random.default_rng(0).permutation(5)
    renamed[:, 1] = order[X[:, 1].astype(int)]
    second = CategoricalMixture(3, **options).fit(renamed)
    np.testing.assert_allclose(first.lower_bounds_, second.lower_bounds_, rtol=1e-10)
    np.testing.assert_allclose(
        first.feature_probabilities_[1], second.feature_probabilities_[1][:, order], rtol=1e-8, atol=1e-12
    )


def test_categories_are_counted_or_given():
    X = np.array([[0, 2, np.nan], [1, 0, 0], [np.nan, 1, np.nan]])
    model = CategoricalMixture(1).fit(X)
    np.testing.assert_array_equal(model.n_categories_, [2, 3, 1])
    assert [part.shape for part in model.feature_probabilities_] == [(1, 2), (1, 3), (1, 1)]
    np.testing.assert_allclose(model.probabilities_, [[0.5, 0.5, 1 / 3, 1 / 3, 1 / 3, 1.0]])
    with pytest.raises(ValueError, match=r"categories 0 to n_categories - 1 .*: 3.0 at row 0, column 1"):
        model.predict([[0, 3, 0]])
    given = CategoricalMixture(1, n_categories=[2, 4, 2]).fit(X)
    np.testing.assert_array_equal(given.n_categories_, [2, 4, 2])
    assert np.isfinite(given.score_samples([[0, 3, 1]])[0])
    with pytest.raises(ValueError, match="n_categories must be"):
        CategoricalMixture(1, n_categories=[2, 4]).fit(X)
    with pytest.raises(ValueError, match=r"this code: 2.0 at row 0, column 1"):
        CategoricalMixture(1, n_categories=2).fit(X)


@pytest.mark.parametrize(
    ("model", "value", "complaint"),
    [
        (BernoulliMixture(binarize=None), 2.0, "takes zeros and ones: 2.0 at row 1, column 0"),
        (BernoulliMixture(binarize="a"), 1.0, "'binarize' parameter of BernoulliMixture must be a float or None"),
        (BernoulliMixture(min_prob=0.6), 1.0, r"'min_prob' parameter .* in the range \[0.0, 0.5\]"),
        (BernoulliMixture(means_init=[[1.5, 0.5]]), 1.0, r"'means' should be in the range \[0, 1\]"),
        (
            PoissonMixture(),
            -1.0,
            r"Negative values in data passed to PoissonMixture \(input X\): -1.0 at row 1, column 0",
        ),
        (PoissonMixture(min_rate=-1), 1.0, "'min_rate' parameter"),
        (PoissonMixture(rates_init=[[1.0]]), 1.0, r"'rates' should have the shape of \(1, 2\)"),
        (PoissonMixture(), np.inf, "contains infinity"),
        (CategoricalMixture(), -1.0, "Negative values in data passed to CategoricalMixture"),
        (CategoricalMixture(), 0.5, "takes integer codes: 0.5 at row 1, column 0"),
        (CategoricalMixture(probabilities_init=[[0.5, 0.5, 0.9]]), 1.0, "should sum to 1 over the categories"),
    ],
)
def test_refusals(model, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        model.fit([[0.0, 0.0], [value, 0.0], [1.0, 0.0]])


def test_binarize_cuts_at_the_threshold():
    X = np.array([[0.2, 3.0], [0.7, np.nan], [0.5, -1.0]])
    model = BernoulliMixture(1, binarize=0.5, min_prob=0.0).fit(X)
    np.testing.assert_allclose(model.means_, [[1 / 3, 0.5]])
    cut = BernoulliMixture(1, binarize=None, min_prob=0.0).fit([[0, 1], [1, np.nan], [0, 0]])
    np.testing.assert_array_equal(model.score_samples(X), cut.score_samples([[0, 1], [1, np.nan], [0, 0]]))
    assert X[0, 0] == 0.2


@pytest.mark.parametrize("name", ESTIMATORS)
def test_given_parameters_are_where_the_fit_starts(name):
    X, _ = two_groups()
    field = CENTERS[name]
    fitted = ESTIMATORS[name](random_state=0, tol=1e-12, max_iter=5000).fit(X)
    options = {"weights_init": fitted.weights_, f"{field}init": getattr(fitted, field)}
    again = ESTIMATORS[name](**options, max_iter=3, tol=0.0).fit(X)
    np.testing.assert_allclose(getattr(again, field), getattr(fitted, field), atol=1e-5)
    assert again.lower_bounds_[0] == pytest.approx(fitted.lower_bound_, rel=1e-9)
    warm = ESTIMATORS[name](warm_start=True, max_iter=2, tol=0.0).fit(X)
    last = warm.lower_bound_
    assert warm.fit(X).lower_bounds_[0] > last


@pytest.mark.parametrize("name", ESTIMATORS)
def test_hopeless_restarts_are_dropped_and_local_maxima_left(name):
    _, _, X = example(name, 4, n=1500)
    options = {"n_categories": CODES} if name == "categorical" else {}
    model = {"bernoulli": BernoulliMixture, "poisson": PoissonMixture, "categorical": CategoricalMixture}[name]
    options |= {"n_components": 4, "n_init": 12, "init_params": "random_from_data", "max_iter": 40, "random_state": 0}
    plain = model(**options).fit(X)
    dropped = model(drop_restarts=True, **options).fit(X)
    assert len(dropped.restarts_) == 12
    assert sum(map(len, dropped.histories_)) < sum(map(len, plain.histories_))
    assert dropped.lower_bound_ == pytest.approx(plain.lower_bound_, rel=1e-3)
    one = model(**{**options, "n_init": 1}).fit(X)
    assert model(escape="split-merge", **{**options, "n_init": 1}).fit(X).lower_bound_ >= one.lower_bound_


@pytest.mark.parametrize("name", ESTIMATORS)
def test_save_and_load(name, tmp_path):
    X, _ = two_groups()
    model = ESTIMATORS[name](random_state=0, max_iter=20).fit(X)
    fastem.save(model, tmp_path / "model.npz")
    loaded = fastem.load(tmp_path / "model.npz")
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded.predict_proba(holes(X, 0.3)), model.predict_proba(holes(X, 0.3)))
    setattr(model, CENTERS[name], -getattr(model, CENTERS[name]) - 1)
    fastem.save(model, tmp_path / "broken.npz")
    with pytest.raises(ValueError, match="not a complete fastem model"):
        fastem.load(tmp_path / "broken.npz")


@pytest.mark.deep
@pytest.mark.parametrize("name", ["bernoulli", "categorical"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_agrees_with_stepmix(name, missing, peer):
    """Started at StepMix's fitted parameters, ours report its likelihood and stay there."""
    stepmix = peer("stepmix")
    sizes = (2,) * 6 if name == "bernoulli" else (2, 3, 4, 3)
    family = families.make("categorical", 3, n_categories=sizes)
    X = family.sample(family.example_params(len(sizes), Draws(0)), 1000, Draws(1))[0]
    X = holes(X, missing) if missing else X
    kind = ("binary" if name == "bernoulli" else "categorical") + ("_nan" if missing else "")
    theirs = stepmix.StepMix(
        n_components=3, measurement=kind, random_state=0, max_iter=3000, abs_tol=1e-13, verbose=0, progress_bar=0
    ).fit(X)  # fmt: skip
    pis = theirs.get_parameters()["measurement"]["pis"]
    if name == "bernoulli":
        start = BernoulliParams(np.asarray(theirs.weights_), np.asarray(pis))
        ours = BernoulliMixture(
            3, min_prob=0.0, weights_init=start.weights, means_init=start.means, tol=0.0, max_iter=30
        )
    else:
        widest = max(sizes)
        kept = np.concatenate([np.arange(m) + widest * j for j, m in enumerate(sizes)])
        start = CategoricalParams(np.asarray(theirs.weights_), np.asarray(pis)[:, kept])
        ours = CategoricalMixture(
            3, min_prob=0.0, weights_init=start.weights, probabilities_init=start.probabilities, tol=0.0, max_iter=30
        )
    ours.fit(X)
    assert ours.lower_bounds_[0] == pytest.approx(theirs.score(X), rel=1e-9)
    assert ours.lower_bound_ == pytest.approx(ours.lower_bounds_[0], abs=1e-9)
    np.testing.assert_allclose(getattr(ours, CENTERS[name]), start[1], atol=1e-4)
    np.testing.assert_allclose(ours.weights_, start.weights, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
