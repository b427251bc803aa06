"""Choosing k: the criteria by their formulas, shared starts, the time budget, and that the known k is found."""

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import fastem
from fastem import select
from fastem.analysis.selection import elbow
from fastem.registry import BY_SHORT_NAME
from fastem.starts import mixture


def blobs(n=600, k=3, d=2, spread=7.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = spread * np.array([[0, 0], [1, 0], [0, 1], [1, 1], [2, 0]])[:k]
    labels = rng.integers(k, size=n)
    return np.column_stack([rng.normal(size=(n, 2)) + centres[labels], rng.normal(size=(n, d - 2))])


UNTIL = {"convergence": "remaining", "max_iter": 10_000, "accelerate": "squarem"}  # how `select` runs mixtures by name


def test_criteria_are_their_formulas():
    X = blobs()
    found = select(X, [2, 3], random_state=0)
    assert len(found.table) == 8
    for row in found.table:
        model = fastem.GaussianMixture(row.n_components, covariance_type=row.covariance_type, random_state=0)
        model.set_params(tol=0.005 / len(X), **UNTIL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X)
        resp = model.predict_proba(X)
        entropy = -np.sum(resp * np.log(np.where(resp > 0, resp, 1.0)))
        assert row.objective == model.score(X)
        assert row.aic == pytest.approx(model.aic(X), rel=1e-12)
        assert row.bic == pytest.approx(model.bic(X), rel=1e-12)
        assert row.icl == pytest.approx(model.bic(X) + 2 * entropy, rel=1e-9)
        assert row.score == -row.bic
    assert found.best.score == max(row.score for row in found.table)


def test_the_chosen_model_is_the_one_that_a_fit_gives():
    X = blobs()
    callback = lambda info: None  # noqa: E731
    found = select(X, range(1, 5), covariance_types=["full", "diag"], random_state=3, n_init=2)
    alone = fastem.GaussianMixture(
        found.best.n_components, covariance_type=found.best.covariance_type, n_init=2, random_state=3
    )
    alone.set_params(tol=0.005 / len(X), **UNTIL).fit(X)
    assert found.model.get_params() == alone.get_params()
    np.testing.assert_array_equal(found.model.means_, alone.means_)
    given = fastem.GaussianMixture(7, callback=callback, n_threads=1, random_state=0)
    model = select(X, [2], model=given).model
    assert (model.callback, model.n_threads, model.n_components) == (callback, 1, 2)
    assert not hasattr(given, "means_")


# Every criterion and every number, among one less and two more; the deep checks have each of the one with each of the
# other, among seven.
@pytest.mark.parametrize(
    ("criterion", "k", "candidates"),
    [
        *[("bic", 1, range(1, 4)), ("icl", 5, range(4, 8)), ("heldout", 3, range(2, 6))],
        *[
            pytest.param(criterion, k, range(1, 8), marks=pytest.mark.deep)
            for criterion in ("bic", "icl", "heldout")
            for k in (1, 3, 5)
        ],
    ],
)
def test_mixtures_find_the_known_number(criterion, k, candidates):
    found = select(
        blobs(900, k), candidates, covariance_types="spherical", criterion=criterion, random_state=0, n_init=3
    )
    assert found.best.n_components == k
    assert found.criterion == criterion


@pytest.mark.parametrize("model", ["bernoulli", "poisson", "categorical"])
def test_mixtures_of_other_families_find_the_known_number(model):
    rng = np.random.default_rng(1)
    z = rng.integers(3, size=1200)
    draw = {
        "bernoulli": lambda p: rng.uniform(size=p.shape) < p,
        "poisson": lambda p: rng.poisson(10 * p),
        "categorical": lambda p: rng.binomial(2, p),
    }[model]
    X = draw(rng.choice([0.1, 0.9], size=(3, 12))[z]).astype(float)
    found = select(X, range(1, 6), model=model, random_state=0, n_init=3)
    assert found.best.n_components == 3
    assert found.best.bic == pytest.approx(found.model.bic(X), rel=1e-12)


@pytest.mark.parametrize("criterion", ["silhouette", "elbow", "bic"])
def test_k_means_finds_the_known_number(criterion):
    found = select(
        blobs(900, 4, spread=12.0), range(1, 9), model="kmeans", criterion=criterion, random_state=0, n_init=5
    )
    assert found.best.n_components == 4
    assert isinstance(found.model, fastem.KMeans)
    assert np.isnan(found.table[0].silhouette)  # one cluster has none


def test_likelihood_of_k_means_is_that_of_its_mixture():
    X = blobs(300, 3)
    row = select(X, [3], model="kmeans", criterion="bic", random_state=0).best
    model = fastem.KMeans(3, random_state=0).fit(X)
    variance = model.inertia_ / X.size
    log_density = -np.log(2 * np.pi * variance) - model.transform(X).min(axis=1) ** 2 / (2 * variance) - np.log(3)
    assert row.aic == pytest.approx(-2 * log_density.sum() + 2 * 7)
    assert row.bic == pytest.approx(-2 * log_density.sum() + 7 * np.log(300))


def test_icl_prefers_clusters_that_do_not_overlap():
    rng = np.random.default_rng(0)
    # One cluster with heavy tails: two Gaussians describe it, but they are no clusters.
    X = np.concatenate([rng.normal(0, 1, (400, 1)), rng.normal(0, 4, (400, 1)), rng.normal(40, 1, (400, 1))])
    chosen = {
        criterion: select(X, range(1, 6), covariance_types="full", criterion=criterion, random_state=0, n_init=5).best
        for criterion in ("bic", "icl")
    }
    assert chosen["bic"].n_components == 3
    assert chosen["icl"].n_components == 2


def test_a_score_of_ones_own():
    def budget(model, X):
        """Marketing can run four campaigns, and wants them of similar size."""
        return -abs(model.n_components - 4) - np.ptp(model.weights_)

    found = select(blobs(), range(2, 7), covariance_types="tied", criterion=budget, random_state=0)
    assert found.best.n_components == 4
    assert found.criterion == "budget"


def test_weights_count_as_repetitions():
    X = blobs(200)
    w = 1 + np.arange(200) % 3
    start = fastem.GaussianMixture(means_init=X[:2], weights_init=[0.5, 0.5], precisions_init=[np.eye(2)] * 2)
    weighted = select(X, [2], model=start, sample_weight=w).best
    repeated = select(np.repeat(X, w, axis=0), [2], model=start).best
    for name in ("aic", "bic", "icl"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-9)


def test_candidates_share_their_starts(monkeypatch):
    counted = []
    once = mixture._first_centers
    monkeypatch.setattr(mixture, "_first_centers", lambda *a: counted.append(a[1]) or once(*a))
    select(blobs(), [2, 3], n_init=2, random_state=0)
    assert sorted(counted) == [2, 2, 3, 3]  # one for each k and restart, for four covariance types
    counted.clear()
    select(blobs(), [2], criterion="heldout", n_splits=3, random_state=0)
    assert len(counted) == 1 + 3


def test_the_result_does_not_depend_on_the_threads():
    tables = [select(blobs(), range(1, 4), random_state=0, n_threads=n).table for n in (1, 2)]
    one, two = ([row._replace(seconds=0.0) for row in table] for table in tables)
    assert str(one) == str(two)


def test_the_time_budget_is_kept():
    X = blobs(20_000, 5, d=8)
    slow = fastem.GaussianMixture(tol=0.0, max_iter=100_000, random_state=0)
    start = time.perf_counter()
    found = select(X, range(2, 40), model=slow, time_budget=0.5)
    assert time.perf_counter() - start < 10.0
    assert not found.complete
    assert 1 <= len(found.table) < 38
    assert np.isfinite(found.best.bic)


def test_progress_is_told_once_for_each_candidate():
    told = []
    select(blobs(), [1, 2], progress=told.append, random_state=0)
    assert sorted(info.done for info in told) == list(range(1, 9))
    assert {info.total for info in told} == {8}


def test_columns_are_arrays():
    found = select(blobs(), [1, 2, 3], covariance_types="full", random_state=0)
    columns = found.columns()
    assert columns["n_components"].tolist() == [1, 2, 3]
    assert columns["bic"].shape == (3,)
    assert found.best.n_components == columns["n_components"][columns["bic"].argmin()]


def test_the_elbow_of_a_straight_line_is_nowhere():
    np.testing.assert_allclose(elbow(np.arange(1, 5), np.array([4.0, 3.0, 2.0, 1.0])), 0.0, atol=1e-12)
    assert elbow(np.array([3]), np.array([1.0])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_components": []}, ValueError, "positive integers"),
        ({"n_components": [0]}, ValueError, "positive integers"),
        ({"n_components": 601}, ValueError, "more components than there are rows"),
        ({"criterion": "waic"}, ValueError, "criterion must be"),
        ({"criterion": "elbow"}, ValueError, "mixtures have none"),
        ({"criterion": "heldout", "model": "kmeans"}, ValueError, "needs a density"),
        ({"covariance_types": "round"}, ValueError, "covariance_types must be"),
        ({"covariance_types": "full", "model": "kmeans"}, ValueError, "no covariance types"),
        ({"model": "lda"}, ValueError, "model must be"),
        ({"model": 3}, TypeError, "model must be"),
        ({"time_budget": -1.0}, ValueError, "time_budget"),
        ({"n_splits": 1, "criterion": "heldout"}, ValueError, "n_splits"),
        ({"n_components": 1, "model": "kmeans", "criterion": "silhouette"}, ValueError, "No candidate has a score"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        select(blobs(), **options)


@pytest.mark.parametrize("seed", [*range(2), *[pytest.param(seed, marks=pytest.mark.deep) for seed in range(2, 8)]])
def test_collapsed_components_take_no_part(seed):
    """30 x 4 of one Gaussian: the likelihood of 8 or 9 components that hold a few rows each is as good as unbounded."""
    found = select(np.random.default_rng(seed).normal(size=(30, 4)), random_state=0)
    assert found.best.n_components == 1
    assert found.best.collapsed == 0
    assert any(row.collapsed and row.bic < found.best.bic for row in found.table)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        *[("gmm", 1e-4), ("student", 1e6), ("mfa", 1.0)],
        *[
            pytest.param(name, scale, marks=pytest.mark.deep)
            for name, scales in {"gmm": (1.0, 1e6), "student": (1e-4, 1.0), "mfa": (1e-4, 1e6)}.items()
            for scale in scales
        ],
    ],
)
def test_collapsed_components_take_no_part_in_any_family(name, scale):
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(60, 3)), np.full((6, 3), 9.0)]) * scale
    found = select(X, [1, 2, 3, 6], model=name, covariance_types=None if name == "mfa" else "full", random_state=0)
    assert found.best.collapsed == 0
    assert found.table[-1].collapsed > 0


def test_when_all_collapse_it_is_said():
    with pytest.warns(ConvergenceWarning, match="Every candidate has components without variance of their own"):
        select(np.random.default_rng(0).normal(size=(12, 4)), [6, 8], covariance_types="full", random_state=0)


@pytest.mark.parametrize(
    ("model", "accelerate"),
    [
        *[("gmm", None), ("factor", None), ("student", "squarem"), ("poisson", "squarem"), ("bernoulli", "squarem")],
        *[pytest.param(model, None, marks=pytest.mark.deep) for model in ("student", "poisson", "bernoulli")],
        *[pytest.param(model, "squarem", marks=pytest.mark.deep) for model in ("gmm", "factor")],
    ],
)
def test_hardly_anything_is_left_to_gain(model, accelerate):
    """Components that overlap: EM is slow, and a tolerance for the last change stops it far from where it goes."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(4000, 4)) + rng.integers(0, 2, (4000, 1)) * 1.2
    X = {"poisson": rng.poisson(np.exp(0.5 * X)), "bernoulli": X > 0.5}.get(model, X).astype(float)
    estimator = getattr(fastem, BY_SHORT_NAME[model])(accelerate=accelerate)
    found = select(X, [2], model=estimator, random_state=0)
    assert found.best.converged
    longer = found.model.set_params(tol=1e-13 * len(X) if model == "factor" else 1e-13, max_iter=60_000)
    longer.set_params(accelerate="squarem", convergence="change", **({} if model == "factor" else {"warm_start": True}))
    left = len(X) * (longer.fit(X).score(X) - found.best.objective)
    assert -1e-3 < left < 0.02  # Aitken's is an estimate


def test_weights_that_are_no_counts():
    X = blobs(300)
    w = np.full(300, 1 / 300)
    with pytest.warns(UserWarning, match="add up to 1, so that the criteria count 1 rows .* pass n_effective"):
        select(X, [1, 2], covariance_types="diag", sample_weight=w, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scaled = select(X, [1, 2, 3], covariance_types="diag", sample_weight=w, n_effective=300, random_state=0)
    plain = select(X, [1, 2, 3], covariance_types="diag", random_state=0)
    for one, other in zip(scaled.table, plain.table, strict=True):
        assert one.bic == pytest.approx(other.bic, rel=1e-6)
        assert one.icl == pytest.approx(other.icl, rel=1e-6)
    with pytest.raises(ValueError, match="n_effective must be a positive number of rows, got 0"):
        select(X, [1], sample_weight=w, n_effective=0)


def test_a_fold_may_lack_a_category():
    X = np.random.default_rng(0).integers(0, 3, (60, 3)).astype(float)
    X[7, 1] = 6
    found = select(X, [1, 2], model="categorical", criterion="heldout", random_state=0)
    assert np.isfinite([row.heldout for row in found.table]).all()
    np.testing.assert_array_equal(found.model.n_categories_, [3, 7, 3])


def test_old_faithful_as_mclust_has_it():
    """mclust 6 of these types: EEE (tied) with 3 components, BIC -2314.386 in its sign, which is the other."""
    X = np.loadtxt(Path(__file__).parents[2] / "examples" / "faithful.csv", delimiter=",", skiprows=1)
    found = select(X, range(1, 6), covariance_types=["full", "tied", "diag"], n_init=5, random_state=0)
    assert (found.best.n_components, found.best.covariance_type) == (3, "tied")
    assert 2314.2 < found.best.bic < 2314.386  # mclust stops a little short of the maximum
