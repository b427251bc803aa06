"""The estimators that tests fit to rows of other sources than memory, and how two fits are compared."""

import numpy as np

import fastem


def estimators():
    yield "kmeans", lambda: fastem.KMeans(6, random_state=0)
    yield "bounds", lambda: fastem.KMeans(40, random_state=0, algorithm="hamerly", max_iter=6)
    yield "k-means||", lambda: fastem.KMeans(6, init="k-means||", random_state=0)
    yield "sample", lambda: fastem.KMeans(6, random_state=0, sample_per_cluster=30)
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
COMPLETE = ("kmeans", "bounds", "k-means||", "sample", "random rows", "spherical", "swaps", "minibatch", "bisecting")


def fitted(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_") and not name.startswith("_")}


def same(found, want):
    """Whether two fitted attributes have the same bits."""
    if isinstance(want, list | tuple):
        return len(found) == len(want) and all(map(same, found, want))
    if isinstance(want, np.ndarray) and want.dtype.kind == "f":
        return found.dtype == want.dtype and np.array_equal(found, want, equal_nan=True)
    return np.array_equal(found, want)
