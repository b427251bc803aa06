"""Starting points (lecture rows L1 and L10).

A start is a function ``start(problem, draws) -> parameters`` that the engine calls once per restart.  K-means begins
with k rows of the data (k-means++ or drawn at random) or with given centres; a mixture begins with the parameters that
one M-step makes of a first assignment.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.families.base import Family, Groups, Labelled
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.starts.groups import KMEANS_ITERATIONS, KMEANS_TOL, mixture_labels
from fastem.starts.kmeans import kmeans_tol
from fastem.starts.kmeans_plus_plus import kmeans_plus_plus, random_rows

MIXTURE_INITS = ("kmeans", "k-means++", "random", "random_from_data", "em-em")
# The short runs of "em-em": how many, and how many iterations each.
SHORT_RUNS, SHORT_ITERATIONS = 10, 8


class MixtureStart:
    """The start of a mixture of any family.

    Parameters
    ----------
    init_params : {"kmeans", "k-means++", "random_from_data", "random", "em-em"}
        The first assignment: the clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random;
        or random responsibilities.  "em-em": the best of several short EM runs, each from rows chosen by k-means++.
        Known labels of the source are kept.
    given : dict or None
        Fields of the family's parameters that replace those of the start.
    """

    def __init__(self, init_params: str, given: dict[str, np.ndarray] | None = None) -> None:
        self.init_params = init_params
        self.given = given or {}

    def __call__(self, problem: Problem, draws: Draws) -> Any:
        """Return the parameters that a restart begins with."""
        family, init_params = problem.family, self.init_params
        if set(self.given) == set(family.params._fields):  # nothing is left to find out
            return family.params(**self.given)
        if init_params == "em-em":
            return best_short_run(problem, self.given, draws)
        if init_params == "random":
            params = from_random_responsibilities(problem, draws)
        else:
            k = family.n_components
            centers = problem.first_centers(
                (family.name, k, init_params, draws.key), lambda: _first_centers(problem, k, init_params, draws)
            )
            params = from_centers(problem, centers)
        return params._replace(**self.given)

    @property
    def labels_groups(self) -> bool:
        """Whether `labels_of` has an answer."""
        return not self.given and self.init_params in KMEANS_ITERATIONS

    def labels_of(self, family: Family, groups: Groups, draws: Draws, slack: float) -> Labelled:
        """Return the first assignment of the rows of each group, whose M-step is this start."""
        return mixture_labels(family, groups, self.init_params, draws, slack)


def best_short_run(problem: Problem, given: dict[str, np.ndarray], draws: Draws) -> Any:
    """Return where the best of several short EM runs arrived; the runs are restarts, side by side where that pays.

    References
    ----------
    Biernacki, Celeux and Govaert, "Choosing starting values for the EM algorithm for getting the highest likelihood in
    multivariate Gaussian mixture models", CSDA 41, 2003.
    """
    settings = Settings(max_iter=SHORT_ITERATIONS, tol=0.0)
    seed = int(draws.bits(1)[0])
    start = MixtureStart("k-means++", given)
    return em.run(problem, start, settings=settings, n_init=SHORT_RUNS, seed=seed).best.params


def _first_centers(problem: Problem, k: int, init_params: str, draws: Draws) -> np.ndarray:
    space = problem.space
    known = class_means(space, k)
    if not np.any(np.isnan(known)):
        return known
    if init_params == "random_from_data":
        centers = random_rows(space, k, draws)
    else:
        centers = kmeans_plus_plus(space, k, draws)
        if init_params == "kmeans":
            tol = problem.once("kmeans_tol", lambda: kmeans_tol(space, KMEANS_TOL))
            settings = Settings(max_iter=KMEANS_ITERATIONS["kmeans"], tol=tol)
            clusters = Problem(space, KMeansFamily(k))
            centers = em.run_once(clusters, KMeansParams(centers), settings).params.centers
    return beside_known(known, centers)


def class_means(source: Any, k: int) -> np.ndarray:
    """Return the means (k, d) of the rows with known labels, NaN for components without any."""
    d = source.n_features
    if not source.labels.size:
        return np.full((k, d), np.nan)

    def cell(X: np.ndarray, rows: slice) -> np.ndarray:
        labels, w = source.labels[rows], source.weights_of(rows)
        resp = (labels[:, None] == np.arange(k)) * (w[:, None] if w.size else 1.0)
        return np.concatenate([resp.sum(axis=0), (resp.T @ X).ravel()])

    total = source.fold(cell, k + k * d)
    counts = np.where(total[:k] > 0, total[:k], np.nan)
    return total[k:].reshape(k, d) / counts[:, None]


def beside_known(known: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return `known` centres (k, d), those missing (NaN) taken from `centers`, the farthest from the others first."""
    chosen = known.copy()
    for component in np.flatnonzero(np.isnan(known[:, 0])):
        taken = chosen[~np.isnan(chosen[:, 0])]
        if len(taken):
            distances = np.square(centers[:, None] - taken).sum(axis=2).min(axis=1)
            chosen[component] = centers[np.argmax(distances)]
        else:
            chosen[component] = centers[0]
    return chosen if np.any(~np.isnan(known)) else centers


def from_centers(problem: Problem, centers: np.ndarray) -> Any:
    """Return the mixture that one M-step makes of the rows' nearest centres (k, e), known labels kept.

    Distances are those of the start space.  A centre without rows keeps its place, with the variances of the whole
    data.
    """
    source, family = problem.source, problem.family
    kmeans = KMeansFamily(len(centers))
    prepared_centers = kmeans.prepare(KMeansParams(centers), source.dtype)
    labels = source.empty(source.n_rows, np.int32)

    def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
        labels[rows] = kmeans.assign(X, prepared_centers, n_threads)[0]
        if source.labels.size:
            labels[rows] = np.where(source.labels[rows] >= 0, source.labels[rows], labels[rows])

    problem.space.each_block(block)
    assigned = source.with_labels(labels)
    blank = family.blank_params(centers, problem.variances)
    prepared = family.prepare(blank, source.dtype)
    return family.first_step(assigned.accumulate(family, prepared), problem.constants, prepared, blank)


def from_random_responsibilities(problem: Problem, draws: Draws) -> Any:
    """Return the mixture that one M-step makes of responsibilities drawn uniformly and normalised."""
    source, family = problem.source, problem.family
    middle = problem.space.take(draws.distinct(source.n_rows, 1)).astype(np.float64)
    blank = family.blank_params(np.repeat(middle, family.n_components, axis=0), problem.variances)
    prepared = family.prepare(blank, source.dtype)
    layout = family.layout(source.n_features)
    key = int(draws.bits(1)[0])

    def cell(X: np.ndarray, rows: slice) -> np.ndarray:
        resp = Draws(key, rows.start).uniform(len(X) * family.n_components).reshape(len(X), -1)
        resp /= resp.sum(axis=1, keepdims=True)
        if source.labels.size:
            known = source.labels[rows] >= 0
            resp[known] = np.eye(family.n_components)[source.labels[rows][known]]
        record = np.zeros(layout.size)
        family.accumulate_given(X, source.weights_of(rows), resp, prepared, record)
        return record

    stats = layout.view(source.fold(cell, layout.size))
    return family.first_step(stats, problem.constants, prepared, blank)
