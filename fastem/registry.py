"""The estimators, one line each: where a class is, and what those who know it by name have to know of it.

`fastem` gives the classes as its public names, `fastem.load` makes no others, `fastem.select` and the command line know
those with a short name.  A new estimator is one line here.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Entry(NamedTuple):
    """What is known of an estimator by its name."""

    module: str
    short: str = ""  # its name in `fastem.select` and on the command line; empty: it has none there
    title: str = ""  # what the command line calls it
    families: tuple[str, ...] = ()  # whose kernels a fit needs; a covariance type is added to one that ends with "-"
    options: tuple[tuple[str, Any], ...] = ()  # that the command line sets
    mixes: bool = True  # rows belong to components
    measures: bool = True  # columns are measurements, which may be scaled
    drawn: bool = False  # by `fastem.plot.summary`


_ROOM = "fastem.estimators."

ESTIMATORS = {
    "GaussianMixture": Entry(_ROOM + "gaussian", "gmm", "Gaussian mixture", ("gaussian-",), drawn=True),
    "KMeans": Entry(_ROOM + "kmeans", "kmeans", "k-means", drawn=True),
    "BernoulliMixture": Entry(
        _ROOM + "bernoulli", "bernoulli", "Bernoulli mixture", ("bernoulli",), (("binarize", None),), measures=False
    ),
    "PoissonMixture": Entry(_ROOM + "poisson", "poisson", "Poisson mixture", ("poisson",), measures=False),
    "CategoricalMixture": Entry(
        _ROOM + "categorical", "categorical", "categorical mixture", ("categorical",), measures=False
    ),
    "StudentTMixture": Entry(_ROOM + "student", "student", "Student-t mixture", ("student-",)),
    "FactorAnalysis": Entry(_ROOM + "factor", "factor", "factor analysis", ("factor",), mixes=False),
    "FactorAnalyserMixture": Entry(
        _ROOM + "factor_mixture", "mfa", "mixture of factor analysers", ("gaussian-full", "factor-mixture")
    ),
    "MiniBatchKMeans": Entry(_ROOM + "minibatch"),
    "BisectingKMeans": Entry(_ROOM + "bisecting"),
    "HierarchicalKMeans": Entry(_ROOM + "hierarchical"),
    "Mixture": Entry(_ROOM + "generic"),
}
# Short names, in the order in which messages list them.
BY_SHORT_NAME = {entry.short: name for name, entry in ESTIMATORS.items() if entry.short}
