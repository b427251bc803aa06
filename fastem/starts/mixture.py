"""Starting points (lecture rows L1 and L10).

A start is a function ``start(source, draws) -> parameters`` that the engine calls once per restart.  K-means begins
with k rows of the data (k-means++ or drawn at random) or with given centres; a mixture begins with the parameters that
one M-step makes of a first assignment.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.em import Start
from fastem.engine.monitor import Settings
from fastem.engine.sharing import finder
from fastem.families.base import Family
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.sources.mapped import MappedSource
from fastem.starts.kmeans import kmeans_tol, variances
from fastem.starts.kmeans_plus_plus import kmeans_plus_plus, random_rows

MIXTURE_INITS = ("kmeans", "k-means++", "random", "random_from_data", "em-em")
# The short runs of "em-em": how many, and how many iterations each.
SHORT_RUNS, SHORT_ITERATIONS = 10, 8


def mixture_start(family: Family, init_params: str, given: dict[str, np.ndarray] | None = None) -> Start:
    """Return the start of a mixture of any family.

    Parameters
    ----------
    family : Family
        The model.
    init_params : {"kmeans", "k-means++", "random_from_data", "random", "em-em"}
        The first assignment: the clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random;
        or random responsibilities.  "em-em": the best of several short EM runs, each from rows chosen by k-means++.
        Known labels of the source are kept.
    given : dict or None
        Fields of the family's parameters that replace those of the start.
    """
    given = given or {}
    once = finder()  # now: restarts may run in other threads

    def start(source: Any, draws: Draws) -> Any:
        if set(given) == set(family.params._fields):  # nothing is left to find out
            return family.params(**given)
        if init_params == "em-em":
            return best_short_run(source, family, given, draws)
        if init_params == "random":
            params = from_random_responsibilities(source, family, draws)
        else:
            k = family.n_components
            centers = once(
                (family.name, k, init_params, draws.key),
                lambda: _first_centers(landscape(source, family), k, init_params, draws),
            )
            params = from_centers(source, family, centers)
        return params._replace(**given)

    return start


def best_short_run(source: Any, family: Family, given: dict[str, np.ndarray], draws: Draws) -> Any:
    """Return where the best of several short EM runs arrived; the runs are restarts, side by side where that pays.

    References
    ----------
    Biernacki, Celeux and Govaert, "Choosing starting values for the EM algorithm for getting the highest likelihood in
    multivariate Gaussian mixture models", CSDA 41, 2003.
    """
    start = mixture_start(family, "k-means++", given)
    settings = Settings(max_iter=SHORT_ITERATIONS, tol=0.0)
    seed = int(draws.bits(1)[0])
    return em.run(source, family, start, settings=settings, n_init=SHORT_RUNS, seed=seed).best.params


def landscape(source: Any, family: Family) -> Any:
    """Return the rows as starts see them: complete, and with distances that mean something to the family.

    Missing values lie at the mean of their feature.
    """
    embed = family.embedding()
    if embed is not None:
        return MappedSource(source, embed)
    if not family.allow_nan or not source.has_nan:
        return source
    middle = _observed_means(source).astype(source.dtype)
    return MappedSource(source, lambda X: np.where(np.isnan(X), middle, X))


def _observed_means(source: Any) -> np.ndarray:
    """Mean of each feature (d,) over the rows where it is observed; 0 where it never is."""
    d = source.n_features

    def cell(X: np.ndarray, rows: slice) -> np.ndarray:
        w, seen = source.weights_of(rows), ~np.isnan(X)
        w = w.astype(np.float64) if w.size else np.ones(len(X))
        return np.concatenate([w @ np.where(seen, X, 0.0), w @ seen])

    total = source.fold(cell, 2 * d)
    return total[:d] / np.where(total[d:] > 0, total[d:], np.inf)


def _first_centers(source: Any, k: int, init_params: str, draws: Draws) -> np.ndarray:
    known = class_means(source, k)
    if not np.any(np.isnan(known)):
        return known
    if init_params == "random_from_data":
        centers = random_rows(source, k, draws)
    else:
        centers = kmeans_plus_plus(source, k, draws)
        if init_params == "kmeans":
            settings = Settings(max_iter=300, tol=kmeans_tol(source, 1e-4))
            centers = em.run_once(source, KMeansFamily(k), KMeansParams(centers), None, settings).params.centers
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


def from_centers(source: Any, family: Family, centers: np.ndarray) -> Any:
    """Return the mixture that one M-step makes of the rows' nearest centres (k, e), known labels kept.

    Distances are those of the family's `landscape`.

    A centre without rows keeps its place, with the variances of the whole data.
    """
    kmeans = KMeansFamily(len(centers))
    prepared_centers = kmeans.prepare(KMeansParams(centers), source.dtype)
    labels = np.empty(source.n_rows, np.int32)

    def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
        labels[rows] = kmeans.assign(X, prepared_centers, n_threads)[0]

    space = landscape(source, family)
    space.each_block(block)
    if source.labels.size:
        labels = np.where(source.labels >= 0, source.labels, labels)
    assigned = source.with_labels(labels)
    blank = family.blank_params(centers, variances(space))
    prepared = family.prepare(blank, source.dtype)
    return family.first_step(assigned.accumulate(family, prepared), family.constants(source), prepared, blank)


def from_random_responsibilities(source: Any, family: Family, draws: Draws) -> Any:
    """Return the mixture that one M-step makes of responsibilities drawn uniformly and normalised."""
    space = landscape(source, family)
    middle = space.take(draws.distinct(source.n_rows, 1)).astype(np.float64)
    blank = family.blank_params(np.repeat(middle, family.n_components, axis=0), variances(space))
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
    return family.first_step(stats, family.constants(source), prepared, blank)
