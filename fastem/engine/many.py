"""Fits of very many groups of few rows: restarts of all groups at once, each group in compiled code from start to end.

What a fit of one group by the engine gives, this gives, to the bit; groups of which compiled code cannot make a run (an
empty component, a singular covariance, values that are not finite, more rows than a grid cell) are left, for the engine
to fit or to refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastem.draws import Draws
from fastem.engine.monitor import ROUNDING, Settings
from fastem.families.base import Family, Groups, Labelled, Limits, Runs

# start(groups, draws, slack) -> a first assignment of the rows of every group
GroupStart = Callable[[Groups, Draws, float], Labelled]
# cluster(groups, draws, limits) -> parameters of every group's clusters, labels of all rows, and how they were found
Clustering = Callable[[Groups, Draws, Limits], tuple[Any, np.ndarray, Runs]]


class ManyRuns(NamedTuple):
    """The best run of each group."""

    params: Any  # the family's parameters, each field stacked (G, ...)
    objective: np.ndarray  # (G,)
    n_iter: np.ndarray  # (G,) int32; 0 for groups that are left
    converged: np.ndarray  # (G,) bool
    labels: np.ndarray  # (n,) int32: the most probable component of each row


def possible(settings: Settings) -> bool:
    """Tell whether these settings ask for nothing that needs the engine between two iterations."""
    watched = settings.callback is not None or settings.keep_history or settings.certify
    plain = settings.accelerate is None and settings.escape is None and settings.convergence == "change"
    return plain and not watched and not settings.drop_restarts and settings.n_blocks == 1


def cluster(groups: Groups, clustering: Clustering, settings: Settings, n_init: int, seed: int) -> ManyRuns:
    """Return the best of `n_init` clusterings of each group."""
    limits = _limits(groups, settings)
    return _best(groups, lambda draws: clustering(groups, draws, limits), n_init, seed)


def fit(family: Family, groups: Groups, start: GroupStart, settings: Settings, n_init: int, seed: int) -> ManyRuns:
    """Return the best of `n_init` runs of a mixture of each group.

    Parameters
    ----------
    family : Family
        The model, of those that compiled code runs (`runs_groups`).
    groups : Groups
        Rows, complete, and their weights.
    start : callable
        The first assignment of a restart, whose M-step is where it begins.
    settings : Settings
        Settings that are `possible`.
    n_init, seed : int
        Restart r draws its numbers from ``Draws(seed, r)``, in every group.
    """
    limits, constants = _limits(groups, settings), family.constants_of_groups(groups)

    def restart(draws: Draws) -> tuple[Any, np.ndarray, Runs]:
        params, runs = family.run_groups(groups, start(groups, draws, limits.slack), constants, limits)
        return params, np.empty(0, np.int32), runs

    best = _best(groups, restart, n_init, seed)
    labels = np.full(len(groups.X), -1, np.int32)
    family.expect_groups(groups, best.params, best.n_iter > 0, labels=labels)
    return best._replace(labels=labels)


def _limits(groups: Groups, settings: Settings) -> Limits:
    return Limits(settings.max_iter, settings.tol, ROUNDING / 2 * float(np.finfo(groups.X.dtype).eps))


def _best(groups: Groups, restart: Callable[[Draws], tuple[Any, np.ndarray, Runs]], n_init: int, seed: int) -> ManyRuns:
    """Return the run of the highest objective of each group, the first of equals; a group is left if any run is."""
    best: ManyRuns | None = None
    for number in range(n_init):
        params, labels, runs = restart(Draws(seed, number))
        now = ManyRuns(params, runs.objective, runs.n_iter, runs.converged, labels)
        best = now if best is None else _better(groups, best, now)
    assert best is not None
    return best


def _better(groups: Groups, best: ManyRuns, now: ManyRuns) -> ManyRuns:
    """Put the groups that are better `now` into `best`."""
    better = now.objective > best.objective
    left = (best.n_iter == 0) | (now.n_iter == 0)
    for ours, theirs in zip((*best.params, *best[1:4]), (*now.params, *now[1:4]), strict=True):
        ours[better] = theirs[better]
    best.n_iter[left] = 0
    if best.labels.size:
        rows = np.repeat(better, np.diff(groups.offsets))
        best.labels[rows] = now.labels[rows]
    return best
