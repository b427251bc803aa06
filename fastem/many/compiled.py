"""Many groups in one compiled call, as far as compiled code goes; the loop over estimators does the rest.

Every group that is in any way odd is left: what became of it is found out by the loop, which looks at one group.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastem import validate
from fastem.engine import many
from fastem.estimators.bernoulli import BernoulliMixture
from fastem.estimators.categorical import CategoricalMixture
from fastem.estimators.discrete import DiscreteMixture
from fastem.estimators.gaussian import GaussianMixture
from fastem.estimators.kmeans import KMeans
from fastem.estimators.poisson import PoissonMixture
from fastem.families.base import Groups
from fastem.families.kmeans import KMeansParams
from fastem.grid import CELL
from fastem.many import statuses
from fastem.many.record import BatchFit, blank, parameters_of, replaced, taken
from fastem.many.stacked import uniform
from fastem.many.statuses import Status
from fastem.starts import groups as starts

# So many groups with the same numbers of categories are fitted at once, fewer by the loop; and features of more
# categories are the loop's.
ALIKE, MOST_CATEGORIES = 4, 1 << 16
# A variance that is this part of the rows' is no rounding; `families.degenerate` is asked about smaller ones.
PLAIN = 1e-8


def fit_compiled(
    estimator: Any, X: np.ndarray, sample_weight: np.ndarray, offsets: np.ndarray, n_components: int
) -> tuple[BatchFit, np.ndarray] | None:
    """Fit every group of a share with the same number of components, in one thread.

    Parameters
    ----------
    estimator, X, sample_weight, offsets
        As in `fit_batch`.
    n_components : int
        Components of every group.

    Returns
    -------
    tuple or None
        The record, and which groups are left (G,), whose part of it means nothing.  None: there is no compiled code for
        this model, or these options.
    """
    if isinstance(estimator, CategoricalMixture) and estimator.n_categories is None:
        return _by_categories(estimator, X, sample_weight, offsets, n_components)
    model = copy.copy(estimator)
    groups = Groups(X, sample_weight.astype(X.dtype, copy=False), offsets)
    fit = FITS.get(type(model))
    found = fit(model, groups, n_components) if fit else None
    if found is None:
        return None
    runs, fitted, collapsed, left = found
    left = left | (runs.n_iter == 0) | _unusual(sample_weight, offsets, n_components)
    verdicts, reasons = np.full(groups.n_groups, Status.converged, np.int8), {}
    for group in np.flatnonzero((collapsed > 0) | ~runs.converged).tolist():
        told = statuses.of_run(int(collapsed[group]), bool(runs.converged[group]), int(runs.n_iter[group]))
        if told:
            verdicts[group], reasons[group] = told
    parameters = {name: uniform(np.ascontiguousarray(values)) for name, values in fitted.items()}
    record = BatchFit(
        parameters, runs.labels, runs.objective, runs.n_iter, runs.converged, verdicts,
        {group: reason for group, reason in reasons.items() if reason}, {},
    )  # fmt: skip
    return record, left


# The runs, fitted attributes (G, ...) by name, how many components of a group have no variance, and which are left.
Found = tuple[many.ManyRuns, dict[str, np.ndarray], np.ndarray, np.ndarray]


def _clusterings(model: KMeans, groups: Groups, k: int) -> Found | None:
    model.n_clusters = k
    d = groups.X.shape[1]
    plain = isinstance(model.init, str) and model.init == "k-means++" and not model.n_swaps and model.refine is None
    settings = model._settings(model.tol)
    if not plain or not many.possible(settings) or model._family(CELL, d).algorithm != "lloyd":
        return None
    n_init = model._start(d, k)[1]
    mute = ~groups.X.any(axis=1) if model.spherical else np.zeros(0, bool)  # rows without a direction
    with np.errstate(invalid="ignore"):  # of groups that are left
        groups = groups._replace(X=model._rows(groups.X))

    def clustering(groups: Groups, draws: Any, limits: Any) -> Any:
        found, runs = starts.clusters(groups, k, draws, limits, on_sphere=model.spherical)
        return KMeansParams(found.centers), found.labels, runs

    runs = many.cluster(groups, clustering, settings, n_init, validate.seed(model.random_state))
    left = ~(runs.objective < 0)  # these have nothing but equal rows
    if mute.any():
        left |= _sums(mute, groups.offsets) > 0
    nobody = np.zeros(groups.n_groups, np.int64)
    return runs, {"cluster_centers_": runs.params.centers.astype(groups.X.dtype)}, nobody, left


def _gaussian(model: GaussianMixture, groups: Groups, k: int) -> Found | None:
    found = _mixtures(model, groups, k)
    return found and (*found[:2], *_without_variance(model._family(), groups, found[0]))


def _discrete(model: DiscreteMixture, groups: Groups, k: int) -> Found | None:
    """Fit groups whose values the family can have; those with other values, or without some, are left."""
    d = groups.X.shape[1]
    if isinstance(model, CategoricalMixture):
        if np.shape(model.n_categories) not in {(), (d,)}:
            return None
        model.n_categories_ = np.broadcast_to(np.asarray(model.n_categories, np.int64), d)
    X = groups.X
    if isinstance(model, BernoulliMixture) and model.binarize is not None:
        X = model._binarized(X)
    bad = _refused(model._family(), X, groups.offsets)
    if k == 1:  # of more components, k-means leaves what has no k distinct rows
        bad |= _constant(groups)
    if bad.any():
        X = X.copy()
        X[np.repeat(bad, np.diff(groups.offsets))] = 0
    found = _mixtures(model, groups._replace(X=X), k)
    if found and isinstance(model, CategoricalMixture):
        found[1]["n_categories_"] = np.tile(model.n_categories_, (groups.n_groups, 1))
    return found and (*found[:3], bad)


def _by_categories(
    estimator: CategoricalMixture, X: np.ndarray, sample_weight: np.ndarray, offsets: np.ndarray, n_components: int
) -> tuple[BatchFit, np.ndarray] | None:
    """Do the work of `fit_compiled` where each group has the categories that its rows have: those alike at once."""
    record, left = blank(len(offsets) - 1, len(X)), np.ones(len(offsets) - 1, bool)
    with np.errstate(invalid="ignore"):
        largest = np.array([X[a:b].max(axis=0, initial=0) for a, b in itertools.pairwise(offsets.tolist())])
    codes = np.flatnonzero((largest < MOST_CATEGORIES).all(axis=1))
    sizes, which = np.unique(largest[codes].astype(np.int64) + 1, axis=0, return_inverse=True)
    for number, categories in enumerate(sizes):
        groups = codes[which == number]
        if len(groups) < ALIKE:
            continue
        given = copy.copy(estimator)
        given.n_categories = categories
        found = fit_compiled(given, *taken(X, sample_weight, offsets, groups), n_components)
        if found is None:
            return None
        record = replaced(record, groups, found[0], offsets)
        left[groups] = found[1]
    return record, left


def _refused(family: Any, X: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Tell which groups (G,) hold values that the family cannot have, or lack some."""
    bad = np.zeros(len(offsets) - 1, bool)
    parts = list(itertools.pairwise(offsets.tolist()))
    if _takes(family, X):
        return bad
    for group, (start, stop) in enumerate(parts):
        bad[group] = not _takes(family, X[start:stop])
    return bad


def _constant(groups: Groups) -> np.ndarray:
    """Tell which groups (G,) have rows that are all equal, but for those without weight."""
    found = np.zeros(groups.n_groups, bool)
    for group, (start, stop) in enumerate(itertools.pairwise(groups.offsets.tolist())):
        rows = groups.X[start:stop]
        rows = rows[groups.w[start:stop] > 0] if groups.w.size else rows
        found[group] = (rows == rows[:1]).all()
    return found


def _takes(family: Any, X: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        if not np.isfinite(X.sum(dtype=np.float64)):
            return False
    try:
        family.check(X)
    except ValueError:
        return False
    return True


def _mixtures(model: Any, groups: Groups, k: int) -> Found | None:
    model.n_components = k
    family, settings, d = model._family(), model._settings(model.tol), groups.X.shape[1]
    start: Any = model._start(model._given(family, d))
    if not family.runs_groups(d) or not many.possible(settings) or not start.labels_groups or settings.max_iter < 1:
        return None

    def begin(groups: Groups, draws: Any, slack: float) -> Any:
        return start.labels_of(family, groups, draws, slack)

    seed = validate.seed(model.random_state)
    runs = many.fit(family, groups, begin, settings, int(model.n_init), seed)
    with np.errstate(all="ignore"):  # of groups that are left the parameters are whatever was in memory
        model._keep_params(family, runs.params)
        model._round_to(groups.X.dtype)
    nobody = np.zeros(groups.n_groups, np.int64)
    return runs, parameters_of(model), nobody, nobody > 0


FITS: dict[type, Callable[[Any, Groups, int], Found | None]] = {
    KMeans: _clusterings,
    GaussianMixture: _gaussian,
    BernoulliMixture: _discrete,
    PoissonMixture: _discrete,
    CategoricalMixture: _discrete,
}


def _without_variance(family: Any, groups: Groups, runs: many.ManyRuns) -> tuple[np.ndarray, np.ndarray]:
    """Return how many components of each group (G,) have too few rows, and which groups need `Family.degenerate`."""
    params, d, n_groups = runs.params, groups.X.shape[1], groups.n_groups
    if not family.covariance.own_volumes:
        return np.zeros(n_groups, np.int64), np.zeros(n_groups, bool)
    totals = _sums(groups.w, groups.offsets) if groups.w.size else np.diff(groups.offsets)
    with np.errstate(invalid="ignore", over="ignore"):  # of groups that are left the parameters mean nothing
        rows = params.weights * totals[:, None]
        least_rows = family.covariance.least_rows(d)
        doubt = (np.abs(rows - least_rows) < 1e-6 * least_rows) if groups.w.size else np.zeros(rows.shape, bool)
        # The variance in any direction is at least one over the sum of the factor's squares.
        steepest = np.square(params.precisions_cholesky).reshape(n_groups, len(params.weights[0]), -1).sum(axis=2)
        least = np.maximum(2.5 * family.reg_covar, PLAIN * _whole(family, params))
        left = ~(steepest * least[:, None] < 1).all(axis=1) | doubt.any(axis=1)
        return (rows < least_rows).sum(axis=1), left


def _whole(family: Any, params: Any) -> np.ndarray:
    """Return the variance of each group's mixture (G,), summed over all features."""
    wide = params.covariances
    d = params.means.shape[2]
    if family.shape.matrices:
        within = np.trace(wide, axis1=-2, axis2=-1)
    else:
        within = wide.sum(axis=2) if wide.ndim == 3 else d * wide
    middle = np.einsum("gk,gkj->gj", params.weights, params.means)
    between = np.square(params.means - middle[:, None]).sum(axis=2)
    return np.asarray(np.einsum("gk,gk->g", params.weights, within + between))


def _sums(values: Any, offsets: np.ndarray) -> np.ndarray:
    """Return the sum of each group's values (G,)."""
    return np.diff(np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])[offsets])


def _unusual(sample_weight: np.ndarray, offsets: np.ndarray, n_components: int) -> np.ndarray:
    """Tell which groups (G,) have fewer rows with weight than components, or weights that are no counts' size."""
    sizes = np.diff(offsets)
    if not sample_weight.size:
        return sizes < n_components
    positive = _sums(sample_weight > 0, offsets)
    usual = _sums(sample_weight, offsets) / np.maximum(positive, 1)
    return (positive < n_components) | ~((usual > 2 / validate.COUNTS) & (usual < validate.COUNTS / 2))
