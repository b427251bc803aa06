"""Models made of scikit-learn's and back: the same answers, and tools that know only scikit-learn's classes."""

import numpy as np
import pandas as pd
import pytest
from sklearn import cluster, decomposition, mixture
from sklearn.exceptions import NotFittedError

import fastem

MODELS = {
    "KMeans": (fastem.KMeans(4, random_state=0), cluster.KMeans),
    "KMeans-elkan": (fastem.KMeans(4, init="k-means||", algorithm="hamerly", random_state=0), cluster.KMeans),
    "MiniBatchKMeans": (fastem.MiniBatchKMeans(4, random_state=0), cluster.MiniBatchKMeans),
    "BisectingKMeans": (fastem.BisectingKMeans(5, random_state=0), cluster.BisectingKMeans),
    "FactorAnalysis": (fastem.FactorAnalysis(2, random_state=0), decomposition.FactorAnalysis),
    "FactorAnalysis-varimax": (fastem.FactorAnalysis(2, rotation="varimax"), decomposition.FactorAnalysis),
    **{
        f"GaussianMixture-{kind}": (
            fastem.GaussianMixture(3, covariance_type=kind, init_params="em-em", random_state=0),
            mixture.GaussianMixture,
        )
        for kind in ("full", "tied", "diag", "spherical")
    },
}
ANSWERS = ("predict", "predict_proba", "transform", "score_samples", "score", "bic", "aic", "get_covariance")
by_name = pytest.mark.parametrize("name", MODELS)


def rows(dtype=np.float64):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(600, 4)) + 6 * rng.integers(0, 2, (600, 4))).astype(dtype)


def equal_answers(ours, theirs, X):
    for name in ANSWERS:
        if hasattr(ours, name) and hasattr(theirs, name):
            args = () if name == "get_covariance" else (X,)
            one, other = getattr(ours, name)(*args), getattr(theirs, name)(*args)
            np.testing.assert_allclose(
                one, other, rtol=2e-4 if X.dtype == np.float32 else 1e-8, atol=1e-5, err_msg=name
            )


@by_name
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back(name, dtype):
    model, kind = MODELS[name]
    X = rows(dtype)
    model.fit(X)
    theirs = model.to_sklearn()
    assert type(theirs) is kind
    equal_answers(model, theirs, X if dtype == np.float64 or "Means" in name else X.astype(np.float64))
    kind(**theirs.get_params()).fit(X)  # its parameters are ones that it takes
    back = type(model).from_sklearn(theirs)
    for method in ANSWERS:
        if hasattr(model, method):
            args = () if method == "get_covariance" else (X,)
            np.testing.assert_array_equal(getattr(back, method)(*args), getattr(model, method)(*args), err_msg=method)
    for attribute in type(model)._twin_attributes:  # copies
        value = getattr(theirs, attribute)
        if isinstance(value, np.ndarray):
            assert not np.shares_memory(value, getattr(model, attribute))


@by_name
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_from_scikit_learn_s_own_fit(name, dtype, tmp_path):
    model, kind = MODELS[name]
    X = rows(dtype)
    theirs = kind(**{**model.to_sklearn().get_params(), "random_state": 1} if hasattr(model, "n_features_in_") else {})
    frame = pd.DataFrame(X, columns=list("abcd"))
    theirs.fit(frame)
    ours = type(model).from_sklearn(theirs)
    assert ours.feature_names_in_.tolist() == list("abcd")
    own = ours.predict(frame) if hasattr(ours, "predict") else ours.transform(frame)
    other = theirs.predict(frame) if hasattr(theirs, "predict") else theirs.transform(frame)
    np.testing.assert_allclose(own, other, atol=1e-4)
    fastem.save(ours, tmp_path / "m.npz")  # whole enough to be saved
    again = fastem.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(again.predict(frame) if hasattr(ours, "predict") else again.transform(frame), own)
    for attribute in type(model)._twin_attributes:
        np.testing.assert_array_equal(getattr(ours.to_sklearn(), attribute), getattr(theirs, attribute))


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_scikit_learn_s(kind, dtype, tmp_path):
    X = rows(dtype)
    options = {"covariance_type": kind, "random_state": 0}
    ours, theirs = fastem.GaussianMixture(3, **options).fit(X), mixture.GaussianMixture(3, **options).fit(X)
    fastem.save(ours, tmp_path / "m.npz")
    for model in (ours, fastem.load(tmp_path / "m.npz")):
        for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
            assert getattr(model, name).dtype == getattr(theirs, name).dtype
        for rows_dtype in (np.float32, np.float64):
            Y = X.astype(rows_dtype)
            for name in ("predict", "predict_proba", "score_samples"):
                assert getattr(model, name)(Y).dtype == rows_dtype if name != "predict" else np.int64
        assert model.sample(3)[0].dtype == np.float64  # as theirs


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_what_is_rounded_is_kept_for_the_methods(kind, tmp_path):
    """Means of float32 rows far from 0 have more digits than float32; the bits of predictions are those before."""
    X = rows(np.float32) + np.float32(1e5)
    # As many iterations of both: where a run stops is a matter of the objective's rounding.
    options = {"covariance_type": kind, "random_state": 0, "tol": 0, "max_iter": 40}
    model = fastem.GaussianMixture(3, **options).fit(X)
    wide = fastem.GaussianMixture(3, **options).fit(X.astype(np.float64))
    np.testing.assert_allclose(model.score_samples(X), wide.score_samples(X), rtol=1e-3)
    assert abs(model._exact_means - wide.means_).max() < 1e-4 < 1e-3 < abs(model.means_ - wide.means_).max()
    fastem.save(model, tmp_path / "m.npz")
    again = fastem.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    model.means_ = model.means_ + 1  # set by hand: the array counts
    assert np.all(model.score_samples(X) != again.score_samples(X))
    again.means_[0] += 1
    np.testing.assert_array_equal(again.fit(X).score_samples(X), wide.set_params().fit(X).score_samples(X))


def test_a_mini_batch_goes_on_in_the_other_class():
    X = rows()
    ours = fastem.MiniBatchKMeans(4, random_state=0).partial_fit(X[:300])
    theirs = ours.to_sklearn().partial_fit(X[300:])
    assert theirs._counts.sum() == 600
    back = fastem.MiniBatchKMeans.from_sklearn(theirs).partial_fit(X[:300])
    assert back.counts_.sum() == 900


@by_name
def test_what_is_not_taken(name):
    model, kind = MODELS[name]
    fresh = type(model)()
    with pytest.raises(NotFittedError):
        fresh.to_sklearn()
    with pytest.raises(NotFittedError):
        type(model).from_sklearn(kind())
    with pytest.raises(TypeError, match=rf"takes a {type(model)._twin_name()}, got a PCA"):
        type(model).from_sklearn(decomposition.PCA())


def test_spherical_clusters_have_no_twin():
    with pytest.raises(ValueError, match="no spherical k-means"):
        fastem.KMeans(2, spherical=True, random_state=0).fit(rows()).to_sklearn()


@pytest.mark.deep
@pytest.mark.parametrize("name", [name for name in MODELS if name.split("-")[0] in ("KMeans", "MiniBatchKMeans")])
def test_onnx_labels(name, peer):
    X = rows(np.float32)
    model = MODELS[name][0].fit(X)
    np.testing.assert_array_equal(run_onnx(peer, model.to_sklearn(), X)[0].ravel(), model.predict(X))


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_onnx_mixtures(kind, peer):
    X = rows(np.float32) + np.float32(9) * np.repeat(np.float32([[0], [1], [2]]), 200, axis=0)
    model = fastem.GaussianMixture(3, covariance_type=kind, random_state=0).fit(X)
    labels, proba = run_onnx(peer, model.to_sklearn(), X)[:2]
    sure = model.predict_proba(X).max(axis=1) > 0.9
    assert sure.sum() > 300
    np.testing.assert_array_equal(labels.ravel()[sure], model.predict(X)[sure])
    np.testing.assert_allclose(proba, model.predict_proba(X), atol=1e-3)


def run_onnx(peer, model, X):
    """What a runtime that knows neither package makes of a converted model."""
    skl2onnx, onnxruntime = peer("skl2onnx"), peer("onnxruntime")
    kind = peer("skl2onnx.common.data_types").FloatTensorType
    made = skl2onnx.convert_sklearn(model, initial_types=[("X", kind([None, X.shape[1]]))])
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"X": X})
