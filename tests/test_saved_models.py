"""A saved model is the model: every estimator, option and method, to the bit; and a damaged file is refused."""

import functools
import json
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastem

KINDS = ("full", "tied", "diag", "spherical")
OPTIONS = {
    fastem.KMeans: [
        {"algorithm": name, "init": init, "spherical": spherical, "n_swaps": swaps, "refine": refine}
        for name, init, spherical, swaps, refine in (
            ("auto", "k-means++", False, 0, None),
            ("lloyd", "random", True, 0, None),
            ("hamerly", "k-means||", False, 2, "hartigan"),
            ("elkan", np.arange(9.0).reshape(3, 3), False, 0, None),
        )
    ],
    fastem.MiniBatchKMeans: [{}, {"compute_labels": False}, {"init": "random", "reassignment_ratio": 0.5}],
    fastem.BisectingKMeans: [{}, {"bisecting_strategy": "largest_cluster", "init": "k-means++", "algorithm": "elkan"}],
    fastem.HierarchicalKMeans: [{}, {"n_coarse": 1, "compute_labels": False, "init": "k-means++"}],
    fastem.GaussianMixture: [
        *({"covariance_type": kind, "noise": noise} for kind in KINDS for noise in (False, True)),
        *({"covariance_type": kind, "accelerate": "squarem", "convergence": "remaining"} for kind in KINDS),
        {"assignment": "hard", "rescue": True, "n_init": 3, "drop_restarts": True, "escape": "split-merge"},
        {"fixed": {"means", "weights"}, "means_init": np.arange(9.0).reshape(3, 3), "weights_init": [0.2, 0.3, 0.5]},
        {"init_params": "em-em", "certify": True, "keep_history": True},
    ],
    fastem.StudentTMixture: [{"covariance_type": "full"}, {"covariance_type": "diag", "dof": 4.0}],
    fastem.BernoulliMixture: [{"binarize": 3.0}, {"binarize": None, "min_prob": 0.01}],
    fastem.PoissonMixture: [{}, {"min_rate": 0.5}],
    fastem.CategoricalMixture: [{}, {"n_categories": [40, 41, 42]}, {"min_prob": 0.001}],
    fastem.FactorAnalysis: [{"n_components": 1}, {"n_components": 2, "rotation": "varimax"}],
    fastem.FactorAnalyserMixture: [{}, {"n_factors": 0}, {"n_factors": 2, "min_noise": 1e-3}],
    fastem.Mixture: [{"family": "poisson"}, {"family": "gaussian-diag"}, {"family": "student-full"}],
}
# Every mixture and factor analysis also runs incremental EM, with its own number of blocks.
for kind, every in OPTIONS.items():
    if "n_blocks" in kind().get_params():
        every.append({**every[-1], "algorithm": "incremental", "n_blocks": 2})
CASES = [(kind, options) for kind, every in OPTIONS.items() for options in every]
# Parameters that say where a fit begins, when it stops and what it tells.
NO_OPTIONS = set(
    re.findall(
        r"\w+",
        """
        tol max_iter n_init random_state verbose verbose_interval n_threads callback warm_start copy copy_x n_clusters
        n_components batch_size max_no_improvement init_size iterated_power svd_method params_init weights_init
        means_init precisions_init noise_variance_init reg_covar rates_init probabilities_init loadings_init
        noise_variances_init scales_init dofs_init keep_history certify drop_restarts escape init_params accelerate
        convergence init min_noise checkpoint checkpoint_every learning_decay first_batches average_from
        n_coarse n_refine sample_per_cluster
        """,
    )
)
METHODS = (
    "predict", "predict_proba", "score_samples", "transform", "score", "aic", "bic", "inertia_per_cluster",
    "conditional_mean", "get_covariance", "get_covariances", "sample", "_n_parameters",
)  # fmt: skip


def counts(n=90):
    rng = np.random.default_rng(0)
    return rng.poisson(np.array([2.0, 6.0, 14.0])[rng.integers(0, 3, n)][:, None], (n, 3)).astype(float)


def fitted(number, dtype):
    kind, options = CASES[number]
    X = counts()
    if options.get("binarize", 0) is None:
        X = (X > 4).astype(float)
    size = "n_clusters" if "KMeans" in kind.__name__ else "n_components"
    model = kind(**{size: 3, "random_state": 0, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X.astype(dtype)), X.astype(dtype)


@functools.cache
def fitted_once(number):
    return fitted(number, np.float64)


def answers(model, X):
    for name in METHODS:
        if hasattr(model, name):
            method = getattr(model, name)
            alone = name in ("sample", "_n_parameters") or name.startswith("get")
            found = method() if alone else method(X)
            yield name, found if isinstance(found, tuple) else (found,)


@given(number=st.integers(0, len(CASES) - 1), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=30, deadline=None)
def test_every_method_after_load_is_as_before(number, dtype, tmp_path_factory):
    model, X = fitted(number, dtype)
    path = tmp_path_factory.mktemp("saved") / "m.npz"
    fastem.save(model, path)
    again = fastem.load(path)
    for (name, one), (other, two) in zip(answers(model, X), answers(again, X), strict=True):
        assert name == other
        for before, after in zip(one, two, strict=True):
            assert np.asarray(before).dtype == np.asarray(after).dtype, name
            np.testing.assert_array_equal(before, after, err_msg=name)
    for name in ("labels_", "inertia_", "n_iter_", "converged_", "lower_bound_", "notes_", "counts_", "n_steps_"):
        assert hasattr(model, name) == hasattr(again, name), name
        np.testing.assert_array_equal(getattr(model, name, 0), getattr(again, name, 0), err_msg=name)
    for name, value in again.get_params().items():
        if not isinstance(getattr(model, name), set):
            np.testing.assert_array_equal(value, getattr(model, name), err_msg=name)
    if hasattr(model, "partial_fit"):
        for batch in (X[::-1], X[10:70]):  # from the fit, and from what the file keeps of batches
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for one in (model, again):
                    one.partial_fit(batch)
            fastem.save(again, path)
            again = fastem.load(path)
            for (name, one), (_, two) in zip(answers(model, X), answers(again, X), strict=True):
                for before, after in zip(one, two, strict=True):
                    np.testing.assert_array_equal(before, after, err_msg=name)
        assert getattr(model, "inertia_", 0) == getattr(again, "inertia_", 0)
    if "warm_start" in model.get_params():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for one in (model, again):
                one.set_params(warm_start=True, n_init=1, escape=None).fit(X)
        assert model.lower_bound_ == again.lower_bound_


@pytest.mark.parametrize("number", range(len(CASES)))
def test_no_option_is_left_out(number):
    """The list above is whole: every parameter that changes a fit is tried, for every class."""
    kind = CASES[number][0]
    tried = {name for other in OPTIONS[kind] for name in other}
    assert set(kind().get_params()) - NO_OPTIONS <= tried


def damaged(path, name, array):
    """The file with another array of that name, or without it."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays[name] = array
    with open(path, "wb") as file:
        np.savez(file, **{key: value for key, value in arrays.items() if value is not None})


@given(
    number=st.integers(0, len(CASES) - 1),
    which=st.integers(0, 30),
    how=st.sampled_from(
        ["longer", "shorter", "flat", "deeper", "empty", "nan", "inf", "huge", "gone", "bool", "negative"]
    ),
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_array_is_refused_or_harmless(number, which, how, tmp_path_factory):
    model, X = fitted_once(number)
    path = tmp_path_factory.mktemp("damaged") / "m.npz"
    fastem.save(model, path)
    with np.load(path) as archive:
        names = [name for name in archive.files if name.startswith("fitted.")]
        name = names[which % len(names)]
        array = archive[name]
    if how in ("nan", "inf", "huge", "negative"):
        changed = array.astype(np.float64) if how != "negative" else array.copy()
        changed[...] = {"nan": np.nan, "inf": np.inf, "huge": 1e300, "negative": -1}[how]
    else:
        changed = {
            "longer": np.concatenate([array, array]),
            "shorter": array[:-1],
            "flat": array.ravel()[:1],
            "deeper": array[None],
            "empty": array[:0],
            "gone": None,
            "bool": array.astype(bool),
        }[how]
    damaged(path, name, changed)
    again = loaded_or_refusal(path)
    # What was let through must neither crash a method nor make one answer for other rows than those it was given.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for method in ("predict", "predict_proba", "score_samples", "transform"):
            if hasattr(again, method):
                assert len(answer_or_refusal(getattr(again, method), X)) in (len(X), 0)


def loaded_or_refusal(path):
    """The model, or None where the file is refused by a sentence that names it."""
    try:
        return fastem.load(path)
    except ValueError as refused:
        if str(path) not in str(refused):
            raise
        return None


def answer_or_refusal(method, X):
    try:
        return method(X)
    except ValueError:
        return np.empty(0)


VALUES = [None, -1, 0, 2.5, "x", [], [[1]], {"a": 1}, True, 10**30]


@pytest.mark.parametrize("section", ["params", "fitted"])
@pytest.mark.parametrize("value", VALUES)
# A third of the names of each class, another for every value; the deep checks have all, of all options.
@pytest.mark.parametrize(
    ("numbers", "share"),
    [
        pytest.param(list({kind: number for number, (kind, _) in enumerate(CASES)}.values()), 3, id="classes"),
        pytest.param(range(len(CASES)), 1, id="options", marks=pytest.mark.deep),
    ],
)
def test_a_hand_edited_header_is_refused_or_harmless(section, value, numbers, share, tmp_path):
    path = tmp_path / "m.npz"
    for number in numbers:
        model, X = fitted_once(number)
        fastem.save(model, path)
        with np.load(path) as archive:
            header = json.loads(archive["fastem.json"].tobytes())
        for name in list(header[section])[(number + VALUES.index(value)) % share :: share]:
            edited = json.loads(json.dumps(header))
            edited[section][name] = {"value": value}
            damaged(path, "fastem.json", np.frombuffer(json.dumps(edited).encode(), np.uint8))
            again = loaded_or_refusal(path)
            for method in ("predict", "transform"):
                if hasattr(again, method):
                    answer_or_refusal(getattr(again, method), X)


def test_the_list_of_classes_is_whole():
    from fastem.registry import ESTIMATORS

    assert {kind.__name__ for kind in OPTIONS} == set(ESTIMATORS)
