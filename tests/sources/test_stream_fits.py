"""Every estimator, fitted to a stream, has the bits of a fit to the same rows in memory."""

import numpy as np
import pytest

import fastem

pa = pytest.importorskip("pyarrow")

NAMES = ["a", "b", "c"]


def estimators():
    yield "kmeans", lambda: fastem.KMeans(6, random_state=0)
    yield "bounds", lambda: fastem.KMeans(40, random_state=0, algorithm="hamerly", max_iter=6)
    yield "k-means||", lambda: fastem.KMeans(6, init="k-means||", random_state=0)
    yield "random rows", lambda: fastem.KMeans(6, init="random", n_init=2, random_state=0)
    yield "spherical", lambda: fastem.KMeans(4, spherical=True, random_state=0, max_iter=5)
    yield "swaps", lambda: fastem.KMeans(4, n_swaps=2, random_state=0, max_iter=5)
    yield "minibatch", lambda: fastem.MiniBatchKMeans(4, random_state=0, max_iter=1)
    yield "bisecting", lambda: fastem.BisectingKMeans(4, random_state=0, max_iter=5)
    for kind in ("full", "tied", "diag", "spherical", "VVE"):
        yield kind, lambda kind=kind: fastem.GaussianMixture(3, covariance_type=kind, random_state=0, max_iter=3)
    yield "noise", lambda: fastem.GaussianMixture(3, noise=True, random_state=0, max_iter=3)
    for init in ("k-means++", "random", "random_from_data"):
        yield init, lambda init=init: fastem.GaussianMixture(3, init_params=init, random_state=0, max_iter=2)
    yield "student", lambda: fastem.StudentTMixture(3, random_state=0, max_iter=2)
    yield "factor", lambda: fastem.FactorAnalysis(1, max_iter=5)
    yield "factors", lambda: fastem.FactorAnalyserMixture(2, n_factors=1, random_state=0, max_iter=2)
    yield "bernoulli", lambda: fastem.BernoulliMixture(2, binarize=3.0, random_state=0, max_iter=3)
    yield "poisson", lambda: fastem.PoissonMixture(2, random_state=0, max_iter=3)
    yield "categorical", lambda: fastem.CategoricalMixture(2, random_state=0, max_iter=3)


ESTIMATORS = dict(estimators())
COUNTED = ("poisson", "categorical")
COMPLETE = ("kmeans", "bounds", "k-means||", "random rows", "spherical", "swaps", "minibatch", "bisecting")


def fitted(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_") and not name.startswith("_")}


def same(found, want):
    """Whether two fitted attributes have the same bits."""
    if isinstance(want, list | tuple):
        return len(found) == len(want) and all(map(same, found, want))
    if isinstance(want, np.ndarray) and want.dtype.kind == "f":
        return found.dtype == want.dtype and np.array_equal(found, want, equal_nan=True)
    return np.array_equal(found, want)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("weighted", "missing", "kept"),
    [(False, False, True), (True, False, False), (True, True, True), (False, True, False)],
    ids=["kept", "weighted, decoded anew", "weighted, missing, kept", "missing, decoded anew"],
)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_the_bits_of_rows_in_memory(name, weighted, missing, kept, X, w):
    if missing and name in COMPLETE:
        pytest.skip("takes complete rows")
    if name == "bounds" and not kept:
        pytest.skip("bounds need rows in an array: tested below")
    data = np.abs(np.round(X)) if name in COUNTED else X
    if missing:
        data = data.copy()
        data[np.random.default_rng(2).random(data.shape) < 0.02] = np.nan
    table = pa.table({**dict(zip(NAMES, data.T, strict=True)), "w": w})
    given = {"sample_weight": w} if weighted else {}
    want = ESTIMATORS[name]().fit(data, **given)
    stream = fastem.rows(table, columns=NAMES, weights="w" if weighted else None, cache="always" if kept else "never")
    found = ESTIMATORS[name]().fit(stream)
    for attribute, value in fitted(want).items():
        if attribute != "labels_":
            assert same(getattr(found, attribute), value), attribute
    assert "labels_" not in vars(found)
    assert found.score(stream) == want.score(data, **given)
    if hasattr(want, "predict"):
        np.testing.assert_array_equal(np.concatenate(list(found.predict(stream))), want.predict(data))
