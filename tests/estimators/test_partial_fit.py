"""`partial_fit` of the estimators: what users see of stepwise EM and of k-means batch by batch."""

import pickle
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone

import fastem
from fastem.families.kmeans.spherical import unit_rows

MIXTURES = {
    "full": fastem.GaussianMixture(3),
    "tied": fastem.GaussianMixture(3, covariance_type="tied"),
    "noise": fastem.GaussianMixture(3, covariance_type="diag", noise=True),
    "letters": fastem.GaussianMixture(3, covariance_type="VEE"),
    "student": fastem.StudentTMixture(3, dof=5.0),
    "bernoulli": fastem.BernoulliMixture(3, binarize=4.0),
    "poisson": fastem.PoissonMixture(3),
    "categorical": fastem.CategoricalMixture(3, n_categories=40),
    "analysers": fastem.FactorAnalyserMixture(3),
    "factors": fastem.FactorAnalysis(1, random_state=None),
    "own": fastem.Mixture(3, family="gaussian-full"),
}
LEFT = {"learning_decay", "first_batches", "average_from"}


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.poisson(np.array([2.0, 6.0, 14.0])[rng.integers(0, 3, 900)][:, None], (900, 3)).astype(float)


def model(name, **params):
    return clone(MIXTURES[name]).set_params(random_state=0, **params)


def values(one):
    return {name: getattr(one, attribute) for name, attribute in one._attributes().items()}


def assert_same(one, other, **close):
    for name, value in values(one).items():
        if close:
            np.testing.assert_allclose(value, values(other)[name], err_msg=name, **close)
        else:
            np.testing.assert_array_equal(value, values(other)[name], err_msg=name)


@pytest.mark.parametrize("name", MIXTURES)
def test_one_batch_is_one_iteration_of_fit(rows, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = model(name, max_iter=1).fit(rows)
    assert_same(model(name).partial_fit(rows), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in MIXTURES if name != "noise"])  # its box grows with what is seen
def test_first_batches_are_one_iteration_from_fitted_parameters(rows, name):
    """What is expressed by first_batches: parameters are held, all rows count alike, then EM's own M-step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = model(name, max_iter=1).fit(rows)
    parts = pickle.loads(pickle.dumps(start)).set_params(first_batches=3)
    w = 0.5 + np.random.default_rng(1).random(len(rows))
    for part in (slice(0, 100), slice(100, 500), slice(500, 900)):
        parts.partial_fit(rows[part], sample_weight=w[part])
        if part.stop < 900:
            assert_same(parts, start, rtol=1e-12, atol=1e-13)
    assert_same(parts, start.set_params(first_batches=1).partial_fit(rows, sample_weight=w), rtol=1e-9, atol=1e-12)
    assert (parts.n_iter_, parts.n_samples_seen_, parts.converged_) == (3, 900, False)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_batch_twice_as_heavy_is_the_batch_with_every_row_twice(rows, name):
    one, two = (model(name) for _ in range(2))
    one.partial_fit(rows[:300]).partial_fit(rows[300:], sample_weight=np.full(600, 2.0))
    two.partial_fit(rows[:300]).partial_fit(np.repeat(rows[300:], 2, axis=0))
    assert_same(one, two, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("average_from", [None, 2])
def test_a_pickled_and_a_saved_model_go_on_to_the_same_bits(rows, name, average_from, tmp_path):
    one = model(name, average_from=average_from)
    for batch in np.array_split(rows[:600], 3):
        one.partial_fit(batch)
    fastem.save(one, tmp_path / "m.npz")
    others = [pickle.loads(pickle.dumps(one)), fastem.load(tmp_path / "m.npz")]
    one.partial_fit(rows[600:])
    for other in others:
        other.partial_fit(rows[600:])
        assert_same(one, other)
        assert (one.n_iter_, one.n_samples_seen_, one.lower_bound_) == (4, 900, other.lower_bound_)
    assert not hasattr(clone(one), "n_samples_seen_")


@pytest.mark.parametrize("name", ["full", "tied", "student", "poisson", "categorical", "analysers", "factors"])
def test_values_may_be_missing_from_any_batch_on(rows, name):
    holes = rows.copy()
    holes[np.random.default_rng(3).random(rows.shape) < 0.1] = np.nan
    one = model(name).partial_fit(rows[:300]).partial_fit(holes[300:600]).partial_fit(rows[600:])
    complete = model(name).partial_fit(rows[:300]).partial_fit(rows[300:600]).partial_fit(rows[600:])
    assert abs(one.score(rows) - complete.score(rows)) < 0.3
    with pytest.raises(ValueError, match="Column 1 of X has no value"):
        model(name).partial_fit(np.where([False, True, False], np.nan, rows))


def test_float32_batches_give_float64s_answer_and_dtypes(rows):
    one, two = model("full"), model("full")
    for batch in np.array_split(rows, 3):
        one.partial_fit(batch.astype(np.float32))
        two.partial_fit(batch)
    assert one.means_.dtype == np.float32
    assert_same(one, two, rtol=1e-3, atol=1e-3)
    assert one.partial_fit(rows).means_.dtype == np.float64


def test_averaging_lessens_what_parameters_vary_by():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(5000, 1)), 3 + rng.normal(size=(5000, 1))])
    rng.shuffle(X)
    best = fastem.GaussianMixture(2, tol=1e-9, max_iter=500, random_state=0).fit(X).score(X)
    lost = []
    for average_from in (None, 50):
        one = fastem.GaussianMixture(2, random_state=0, learning_decay=0.55, average_from=average_from)
        for batch in np.array_split(X, 250):
            one.partial_fit(batch)
        lost.append(best - one.score(X))
    assert lost[1] < 0.5 * lost[0]


def test_fit_forgets_batches_and_partial_fit_goes_on_from_fit(rows):
    one = model("full").partial_fit(rows[:300])
    one.fit(rows)
    assert not hasattr(one, "n_samples_seen_")
    assert len(one.lower_bounds_) == one.n_iter_
    before = one.score(rows)
    assert not hasattr(one.partial_fit(rows), "lower_bounds_")
    assert one.score(rows) >= before


def test_bad_batches_and_parameters_are_refused_in_one_sentence(rows):
    with pytest.raises(ValueError, match=r"n_components = 3, n_samples = 2 in the first batch of partial_fit"):
        model("full").partial_fit(rows[:2])
    one = model("full").partial_fit(rows)
    assert one.partial_fit(rows[:1]).n_iter_ == 2
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3 features as input"):
        one.partial_fit(rows[:, :2])
    with pytest.raises(ValueError, match="say another model now: set them back, or call fit"):
        one.set_params(covariance_type="tied").partial_fit(rows)
    with pytest.raises(ValueError, match="say another model now: set them back, or call fit"):
        one.set_params(covariance_type="full", n_components=4).partial_fit(rows)
    for bad in ({"learning_decay": 0.5}, {"learning_decay": 1.1}, {"first_batches": 0}, {"average_from": 0}):
        with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter of GaussianMixture must be"):
            model("full", **bad).partial_fit(rows)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        model("full").partial_fit(rows, sample_weight=np.full(900, -1.0))
    with pytest.raises(ValueError, match="40"):
        model("categorical").partial_fit(rows).partial_fit(np.full((5, 3), 40.0))


# --- k-means


def test_kmeans_steps_are_means_of_all_rows_met(rows):
    one = fastem.KMeans(3, init=rows[[0, 100, 200]], random_state=0, n_init=1)
    centers, counts = rows[[0, 100, 200]].copy(), np.zeros(3)
    for batch in np.array_split(rows, 4):
        one.partial_fit(batch)
        labels = np.square(batch[:, None] - centers).sum(axis=2).argmin(axis=1)
        for c in range(3):
            own = batch[labels == c]
            centers[c] = (counts[c] * centers[c] + own.sum(axis=0)) / max(counts[c] + len(own), 1)
            counts[c] += len(own)
    np.testing.assert_allclose(one.cluster_centers_, centers)
    np.testing.assert_array_equal(one.counts_, counts)
    np.testing.assert_array_equal(one.labels_, one.predict(batch))
    assert (one.n_iter_, one.n_steps_) == (4, 4)


@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_takes_csr_batches_and_goes_on_from_files(rows, spherical, tmp_path):
    dense, csr = (fastem.KMeans(3, random_state=0, spherical=spherical) for _ in range(2))
    for batch in np.array_split(rows[:600], 3):
        dense.partial_fit(batch)
        csr.partial_fit(sparse.csr_matrix(batch))
    np.testing.assert_allclose(dense.cluster_centers_, csr.cluster_centers_)
    fastem.save(dense, tmp_path / "m.npz")
    others = [fastem.load(tmp_path / "m.npz"), pickle.loads(pickle.dumps(dense))]
    for other in (dense, *others):
        np.testing.assert_array_equal(other.partial_fit(rows[600:]).cluster_centers_, dense.cluster_centers_)
    assert dense.counts_.sum() == np.any(rows, axis=1).sum() if spherical else len(rows)
    assert not hasattr(dense.fit(rows), "counts_")


def test_spherical_kmeans_keeps_the_mean_of_the_directions(rows):
    X = unit_rows(rows + 0.1)
    one = fastem.KMeans(2, init=X[[0, 1]], n_init=1, spherical=True)
    centers, sums = X[[0, 1]].copy(), np.zeros((2, 3))
    for batch in np.array_split(rows + 0.1, 3):
        one.partial_fit(batch)
        labels = (unit_rows(batch) @ centers.T).argmax(axis=1)
        for c in range(2):
            sums[c] += unit_rows(batch)[labels == c].sum(axis=0)
        centers = unit_rows(sums)
    np.testing.assert_allclose(one.cluster_centers_, centers)


def test_a_centre_that_meets_no_row_is_moved_to_the_farthest(rows):
    far = np.array([[0.0, 0, 0], [1e4, 1e4, 1e4]])
    one = fastem.KMeans(2, init=far, n_init=1).partial_fit(rows)
    assert one.counts_[1] == 0
    assert np.any(np.all(one.cluster_centers_[1] == rows, axis=1))
    assert one.partial_fit(rows).counts_[1] > 0
