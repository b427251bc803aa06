"""Parameters that do not fit the arrays, and values of fill: refused or served, never handed to a kernel."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import fastem
from fastem import families, threads
from fastem.draws import Draws
from fastem.families.factor.mixture import FactorMixtureFamily
from fastem.families.gaussian import GaussianFamily

MIXTURES = {
    "full": fastem.GaussianMixture(5),
    "tied": fastem.GaussianMixture(5, covariance_type="tied"),
    "diag": fastem.GaussianMixture(5, covariance_type="diag"),
    "spherical": fastem.GaussianMixture(5, covariance_type="spherical"),
    "noise": fastem.GaussianMixture(5, noise=True),
    "student": fastem.StudentTMixture(5),
    "bernoulli": fastem.BernoulliMixture(5),
    "poisson": fastem.PoissonMixture(5),
    "categorical": fastem.CategoricalMixture(5),
    "analysers": fastem.FactorAnalyserMixture(5),
    "generic": fastem.Mixture(5, family="poisson"),
}
CONTINUOUS = [
    fastem.KMeans(2, n_init=1),
    fastem.MiniBatchKMeans(2),
    fastem.BisectingKMeans(2),
    fastem.GaussianMixture(2, max_iter=20),
    fastem.GaussianMixture(2, covariance_type="tied", max_iter=20),
    fastem.GaussianMixture(2, covariance_type="diag", max_iter=20),
    fastem.GaussianMixture(2, covariance_type="spherical", max_iter=20),
    fastem.StudentTMixture(2, max_iter=20),
    fastem.FactorAnalysis(1, max_iter=20),
    fastem.FactorAnalyserMixture(2, max_iter=20),
    *(fastem.GaussianMixture(2, noise=True, covariance_type=kind, max_iter=20) for kind in ("full", "tied", "diag")),
    fastem.GaussianMixture(2, assignment="hard", max_iter=20),
    fastem.StudentTMixture(2, covariance_type="diag", max_iter=20),
    fastem.StudentTMixture(2, covariance_type="spherical", max_iter=20),
    fastem.Mixture(2, family="gaussian-full", max_iter=20),
    fastem.BernoulliMixture(2, binarize=0.5, max_iter=20),
    fastem.PoissonMixture(2, max_iter=20),
    fastem.Mixture(2, family="poisson", max_iter=20),
]


def fitted(name):
    """A mixture of five components and rows that it was fitted to."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (300, 3)).astype(float)
    if name in ("full", "tied", "diag", "spherical", "noise", "student", "analysers"):
        X = rng.normal(size=(300, 3)) + 4 * X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(MIXTURES[name]).set_params(random_state=0, max_iter=5).fit(X), X


@pytest.mark.parametrize("n_components", [1, 3, 90])
@pytest.mark.parametrize("name", MIXTURES)
def test_the_fitted_arrays_count_not_the_parameter(name, n_components, tmp_path):
    model, X = fitted(name)

    def answers():
        return [model.predict(X), model.predict_proba(X), model.score_samples(X), model.bic(X), *model.sample(9)]

    before = answers()
    model.set_params(n_components=n_components)
    for expected, got in zip(before, answers(), strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match=rf"n_components is {n_components}, but .* of 5 components"):
        fastem.save(model, tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="warm_start goes on from the 5 components"):
        model.set_params(warm_start=True).fit(X)


@pytest.mark.parametrize("name", [name for name in MIXTURES if name != "generic"])
def test_arrays_that_do_not_fit_each_other_are_refused(name):
    model, X = fitted(name)
    for attribute in model._attributes().values():
        kept = getattr(model, attribute)
        for axis in range(kept.ndim):
            for other in (np.repeat(kept, 2, axis=axis), kept.take(range(1, kept.shape[axis]), axis=axis)):
                setattr(model, attribute, other)
                for method in (model.predict, model.score_samples, model.predict_proba, model.aic):
                    with pytest.raises(ValueError, match="must fit each other"):
                        method(X)
                with pytest.raises(ValueError, match="must fit each other"):
                    model.sample(3)
        setattr(model, attribute, kept)
    model.predict(X)


@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_every_family_tells_the_shapes_of_its_parameters(name):
    family = families.make(name, 1 if name == "factor" else 3)
    params = family.example_params(4, Draws(0))
    assert family.shapes(4) == {field: getattr(params, field).shape for field in params._fields}


def test_a_bound_takes_no_parameters_that_do_not_fit():
    model, X = fitted("diag")
    bound = fastem.LowerBound(model, X)
    theta = model._fitted()[1]
    with pytest.raises(ValueError, match="means has shape"):
        bound.log_likelihood(theta._replace(means=theta.means[:3]))


def test_partial_fit_tells_that_the_number_of_clusters_changed():
    X = np.random.default_rng(0).normal(size=(100, 2))
    model = fastem.MiniBatchKMeans(4, random_state=0).partial_fit(X)
    with pytest.raises(ValueError, match="goes on from the 4 centers that it has, but n_clusters is 5"):
        model.set_params(n_clusters=5).partial_fit(X)


def test_a_set_of_fixed_parameters_is_saved(tmp_path):
    X = np.random.default_rng(0).normal(size=(100, 2))
    model = fastem.GaussianMixture(2, fixed={"weights"}, weights_init=[0.3, 0.7], random_state=0).fit(X)
    fastem.save(model, tmp_path / "model.npz")
    assert fastem.load(tmp_path / "model.npz").bic(X) == model.bic(X)


@given(
    number=st.integers(0, len(CONTINUOUS) - 1),
    value=st.one_of(
        st.sampled_from([-3.4e38, 9.97e36, 1e17, 1e20, -1.7976931348623157e308, 1e148, 1e152, 1e155, 2e19]),
        st.floats(-300, 308).map(lambda exponent: 10.0**exponent),
    ),
    rows=st.sampled_from([slice(3, 4), slice(None, None, 2), slice(None)]),
    columns=st.sampled_from([slice(1, 2), slice(None)]),
    weighted=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_a_huge_value_is_served_or_refused(number, value, rows, columns, weighted, dtype, seed):
    rng, model = np.random.default_rng(seed), clone(CONTINUOUS[number])
    counts = "oisson" in repr(model)
    X = rng.poisson(3, (60, 2)).astype(float) if counts else rng.normal(size=(60, 2))
    X[rows, columns] = np.clip(abs(value) if counts else value, -np.finfo(dtype).max, np.finfo(dtype).max)
    X = X.astype(dtype)
    options = {"sample_weight": rng.random(60)} if weighted else {}
    model.set_params(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if abs(X).max() > (1e30 if counts else 1e-4 * np.sqrt(np.finfo(np.float64).max / X.size)):
            row, column = np.argwhere(abs(X) == abs(X).max())[0]
            with pytest.raises(ValueError, match=rf"at row {row}, column {column}.|this looks like a fill value: "):
                model.fit(X, **options)
            return
        model.fit(X, **options)
    for name, fit in vars(model).items():
        if name.endswith("_") and isinstance(fit, np.ndarray | float) and np.asarray(fit).dtype.kind == "f":
            assert np.isfinite(fit).all(), name
    answer = model.predict(X) if hasattr(model, "predict") else model.score_samples(X)
    assert np.isfinite(answer).all()


@given(number=st.integers(0, len(CONTINUOUS) - 1), value=st.floats(0, 308), all_rows=st.booleans(), wide=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_model_has_an_answer_for_huge_values(number, value, all_rows, wide):
    model = clone(CONTINUOUS[number]).set_params(random_state=0)
    X = np.random.default_rng(0).poisson(3, (60, 2)).astype(np.float64 if wide else np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    X[slice(None) if all_rows else 3] = np.clip(10.0**value, 0, np.finfo(X.dtype).max)
    for name in ("predict", "predict_proba", "score_samples", "transform"):
        if hasattr(model, name):
            assert not np.isnan(answer_or_refusal(getattr(model, name), X)).any(), name


def answer_or_refusal(method, X):
    """What a method answers, nothing where it refuses a value."""
    try:
        return method(X)
    except ValueError as refused:
        if "looks like a fill value" not in str(refused):
            raise
        return np.empty(0)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical", "student"])
def test_padding_far_from_all_components_counts_for_nothing(kind):
    """Blocks are padded with rows at the origin, between components that are too far off for float32 to tell."""
    X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    X[::2, 1], X[1::2, 1] = 1e17, 0
    model = fastem.StudentTMixture(2) if kind == "student" else fastem.GaussianMixture(2, covariance_type=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.set_params(random_state=0).fit(X)
    np.testing.assert_allclose(model.weights_, [0.5, 0.5])


@pytest.mark.parametrize("scale", [1e19, 1e30, 1e45, 1e148])
def test_backend_serves_or_refuses_huge_values(scale):
    X = np.float32([[0, 0], [1, 1], [2, 0]])
    centers = np.array([[0.5, 0.25], [scale, -scale]])
    labels, sqdist = fastem.backend.assign(X, centers)
    np.testing.assert_array_equal(labels, 0)
    np.testing.assert_allclose(sqdist, [0.3125, 0.8125, 2.3125])
    far = fastem.backend.kmeans_step(X, centers[1:])
    np.testing.assert_allclose(far.inertia, 6 * scale**2, rtol=1e-6)
    assert np.isfinite(fastem.backend.gaussian_log_density(X, centers, np.ones(2), "spherical")).all()
    huge = np.float32([[0, 0], [3e38, 0]])
    assert np.isfinite(fastem.backend.em_step(huge, [1.0], [[0, 0]], [1.0], "spherical").covariances).all()
    with pytest.raises(ValueError, match=r"Input X contains 1e\+200 at row 1, column 0"):
        fastem.backend.assign(np.array([[0.0], [1e200]]), [[0.0]])
    with pytest.raises(ValueError, match=r"Input centers contains 1e\+200 at row 0, column 0"):
        fastem.backend.assign([[0.0]], [[1e200]])


def test_a_model_with_nan_is_not_returned():
    class Broken(GaussianFamily):
        def first_step(self, *args):
            return super().m_step(*args).params

        def m_step(self, *args):
            step = super().m_step(*args)
            return step._replace(params=step.params._replace(weights=step.params.weights * np.nan))

    with pytest.raises(ValueError, match="arrived at weights with NaN after 1 iterations"):
        fastem.Mixture(2, family=Broken, max_iter=1).fit(np.random.default_rng(0).normal(size=(30, 2)))


def test_a_sparse_fill_value_is_named():
    from scipy import sparse

    X = sparse.csr_matrix(np.diag([1.0, 2.0, 1e300, 3.0]))
    with pytest.raises(ValueError, match=r"1e\+300 at row 2, column 2"):
        fastem.KMeans(2).fit(X)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_clusters", [2, 9, 12, 30])
def test_more_clusters_than_distinct_rows_converge(n_clusters, seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 3, (200, 2)) * 0.1
    w = 10.0 ** rng.uniform(-3, 9, 200) if seed % 2 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fastem.KMeans(n_clusters, init="random", n_init=1, random_state=seed).fit(X, sample_weight=w)
    assert model.n_iter_ < 100
    assert model.cluster_centers_.min() > -1e-12
    assert model.cluster_centers_.max() < 0.2 + 1e-12
    if n_clusters >= 9 and w is None:
        assert model.inertia_ < 1e-20


def test_a_callback_may_answer_in_numpys_words():
    X = np.random.default_rng(0).normal(size=(500, 2))
    seen = []
    fastem.KMeans(5, n_init=1, tol=0, random_state=0, callback=lambda info: seen.append(info) or np.True_).fit(X)
    assert len(seen) == 1


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="random_state must be at least 0, got -1"):
        fastem.KMeans(2, random_state=-1).fit(np.eye(4))


def test_extrapolations_are_brought_back_to_the_floors(monkeypatch):
    """`admissible` sees every extrapolation before an E-step is spent on it."""
    seen, tried = [], []
    bring_back, prepare = FactorMixtureFamily.admissible, FactorMixtureFamily.prepare

    def admissible(self, params, constants):
        seen.append(bring_back(self, params, constants))
        return seen[-1]

    def watched(self, params, dtype, previous=None):
        tried.append(params)
        return prepare(self, params, dtype, previous)

    monkeypatch.setattr(FactorMixtureFamily, "admissible", admissible)
    monkeypatch.setattr(FactorMixtureFamily, "prepare", watched)
    X = np.random.default_rng(0).normal(size=(400, 5)) @ np.random.default_rng(1).normal(size=(5, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fastem.FactorAnalyserMixture(2, accelerate="squarem", tol=1e-10, max_iter=60, random_state=0).fit(X)
    assert seen
    assert all(any(leap is params for params in tried) for leap in seen[:-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "model",
    [
        fastem.GaussianMixture(2, reg_covar=0),
        fastem.GaussianMixture(2, reg_covar=0, covariance_type="tied"),
        fastem.GaussianMixture(2, reg_covar=0, covariance_type="diag"),
        fastem.GaussianMixture(2, reg_covar=0, covariance_type="spherical"),
        fastem.StudentTMixture(2, reg_covar=0),
        fastem.FactorAnalyserMixture(2),
        fastem.FactorAnalysis(1),
    ],
    ids=lambda model: f"{type(model).__name__}-{getattr(model, 'covariance_type', '')}",
)
@pytest.mark.parametrize("value", [0.0, 5.0, 1e9])
def test_rows_that_are_all_the_same(model, value, dtype):
    X = np.full((50, 3), value, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = clone(model).fit(X)
    for name, fit in vars(model).items():
        if name.endswith("_") and isinstance(fit, np.ndarray) and fit.dtype.kind == "f":
            assert np.isfinite(fit).all(), name
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mean", [1, 60, 200, 1e5])
def test_a_rate_of_zero_beside_a_large_one(mean, seed):
    X = np.r_[np.zeros(50), np.random.default_rng(seed).poisson(mean + 20, 50)][:, None]
    family = families.make("poisson", 2)
    params = family.params(np.array([0.5, 0.5]), np.array([[0.0], [mean + 20.0]]))
    prepared = family.prepare(params, X.dtype)
    assert not np.isnan(family.log_joint(X, prepared, 1)).any()
    model = fastem.Mixture(2, family="poisson", params_init=params, certify=True).fit(X)
    np.testing.assert_allclose(np.sort(model.rates_[:, 0]), [0, X[50:].mean()], rtol=1e-6, atol=1e-12)


def test_weights_as_objects_and_a_ratio_above_all():
    X = np.random.default_rng(0).normal(size=(500, 2))
    plain = fastem.KMeans(3, random_state=0).fit(X, sample_weight=np.ones(500))
    model = fastem.KMeans(3, random_state=0).fit(X, sample_weight=np.ones(500, object))
    np.testing.assert_array_equal(model.cluster_centers_, plain.cluster_centers_)
    with pytest.raises(TypeError, match="sample_weight must be numeric"):
        fastem.KMeans(3).fit(X, sample_weight=np.array(["a"] * 500, object))
    fastem.MiniBatchKMeans(3, reassignment_ratio=2.0, random_state=0).fit(X)


@pytest.mark.parametrize("contamination", [0.01, 0.07, 0.29, 0.3, 0.5])
def test_a_share_of_the_rows_is_flagged_to_the_row(contamination):
    X = np.random.default_rng(0).normal(size=(100, 2))
    flagged = fastem.AnomalyDetector(contamination=contamination).fit(X).predict(X) == -1
    assert flagged.sum() == round(100 * contamination)


def test_bad_parameters_are_type_errors_too():
    with pytest.raises(TypeError, match="The 'n_clusters' parameter of KMeans must be an int"):
        fastem.KMeans("eight").fit(np.eye(4))
    fastem.GaussianMixture(1, verbose=np.False_).fit(np.eye(4))


def test_kmeans_tells_whether_it_converged(tmp_path):
    X = np.random.default_rng(0).normal(size=(2000, 3))
    short = fastem.KMeans(20, n_init=1, max_iter=2, random_state=0).fit(X)
    model = fastem.KMeans(20, n_init=1, random_state=0).fit(X)
    assert (short.converged_, model.converged_) == (False, True)
    fastem.save(model, tmp_path / "model.npz")
    assert fastem.load(tmp_path / "model.npz").converged_ is True


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("number", range(len(CONTINUOUS) + 1))
def test_a_column_without_any_value_is_refused(number, weighted):
    model = clone([*CONTINUOUS, fastem.CategoricalMixture(2)][number])
    if not model.__sklearn_tags__().input_tags.allow_nan:
        pytest.skip("takes no missing values")
    X = np.random.default_rng(0).poisson(3.0, (60, 3)).astype(float)
    X[:, 2] = np.nan
    options = {}
    if weighted:
        X[5:9, 2] = 1.0
        options["sample_weight"] = np.where(np.isnan(X[:, 2]), 1.0, 0.0)
    with pytest.raises(ValueError, match="Column 2 of X has no value"):
        model.fit(X, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [2.0**-133, 2.0**-60, 2.0**60, 2.0**100])  # which lose no digit
@pytest.mark.parametrize("number", range(len(CONTINUOUS)))
def test_the_size_of_the_weights_does_not_matter(number, scale, dtype):
    model = clone(CONTINUOUS[number]).set_params(random_state=0)
    if isinstance(model, fastem.KMeans | fastem.MiniBatchKMeans | fastem.BisectingKMeans) and dtype == np.float32:
        pytest.skip("k-means sums the weights as they are, whose range is float32's")
    if isinstance(model, fastem.FactorAnalysis):
        model.set_params(tol=1e-9, max_iter=3000)  # which is of the log-likelihood of all rows
    rng = np.random.default_rng(0)
    X = rng.poisson(np.array([2.0, 9.0])[rng.integers(0, 2, 200)][:, None], (200, 3)).astype(dtype)
    w = rng.uniform(0.5, 2, 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (clone(model).fit(X, sample_weight=w * by) for by in (1.0, scale))
    for name in ("means_", "rates_", "cluster_centers_", "components_", "covariances_", "weights_"):
        if hasattr(one, name):
            tol = 1e-4 if dtype == np.float32 else 1e-6
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=tol, atol=tol, err_msg=name)


@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([np.float32, np.float64]),
    scale=st.floats(-6, 7).map(lambda exponent: 10.0**exponent),
    values=st.integers(2, 5),
    shift=st.sampled_from([0.0, 0.0, 37.0]),
    d=st.integers(1, 3),
    weights=st.sampled_from(["none", "wide", "two"]),
    share=st.floats(0.7, 1.6),
    init=st.sampled_from(["random", "k-means++"]),
    algorithm=st.sampled_from(["lloyd", "elkan"]),
)
@settings(max_examples=200, deadline=None)
def test_few_distinct_rows_whatever_they_weigh(seed, dtype, scale, values, shift, d, weights, share, init, algorithm):
    """Converged, no centre outside the data, and the distortion is NumPy's."""
    rng = np.random.default_rng(seed)
    X = ((rng.integers(0, values, (int(rng.integers(20, 300)), d)) + shift) * scale).astype(dtype)
    w = {"none": np.ones(len(X)), "wide": 10.0 ** rng.uniform(-3, 9, len(X)), "two": rng.choice([1e-3, 1e9], len(X))}
    w = w[weights]
    k = min(len(X), int(len(np.unique(X, axis=0)) * share) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fastem.KMeans(k, init=init, n_init=1, random_state=seed, algorithm=algorithm).fit(X, sample_weight=w)
    assert model.converged_
    largest, rounding = float(np.abs(X).max()), 64 * float(np.finfo(dtype).eps)
    centers = model.cluster_centers_.astype(np.float64)
    assert np.all(centers >= X.min(axis=0) - rounding * largest)
    assert np.all(centers <= X.max(axis=0) + rounding * largest)
    squares = np.square(X[:, None].astype(np.float64) - centers).sum(axis=2).min(axis=1)
    want = float(squares @ w.astype(dtype))
    assert model.inertia_ == pytest.approx(want, rel=1e-3, abs=float(w.sum()) * d * (rounding * largest) ** 2)


@pytest.mark.parametrize("value", [5.0, 1e50, 1e140])
@pytest.mark.parametrize("missing", [False, True])
def test_factors_of_rows_that_are_all_the_same(value, missing):
    rng, X = np.random.default_rng(3), np.full((60, 3), value)
    if missing:
        X[5:9, 0] = np.nan
    for model in (fastem.FactorAnalysis(1), fastem.FactorAnalyserMixture(2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for w in (None, rng.random(60)):
                assert np.isfinite(model.fit(X, sample_weight=w).score(X))


def test_one_thread_starts_no_other(monkeypatch):
    """A million numbers are enough for several threads to look through, if they are allowed."""
    started = []
    map_tasks = threads.map_tasks

    def watched(task, n_tasks, n_threads):
        started.append(n_threads)
        return map_tasks(task, n_tasks, n_threads)

    monkeypatch.setattr(threads, "map_tasks", watched)
    X = np.random.default_rng(0).normal(size=(400_000, 3))
    for model in (
        fastem.KMeans(2, n_init=1, max_iter=2),
        fastem.GaussianMixture(2, max_iter=2),
        fastem.FactorAnalysis(1),
    ):
        for n_threads, most in ((1, 1), (2, 2)):
            started.clear()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit = clone(model).set_params(n_threads=n_threads).fit(X)
                fit.predict(X) if hasattr(fit, "predict") else fit.transform(X)
            assert max(started) == most


@pytest.mark.parametrize("kind", [fastem.KMeans, fastem.MiniBatchKMeans, fastem.BisectingKMeans])
def test_parameters_that_a_class_has_not_are_no_attributes(kind):
    model = kind(2).fit(np.eye(4))
    for name in ("accelerate", "drop_restarts", "escape", "convergence"):
        assert not hasattr(model, name)
