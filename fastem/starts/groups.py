"""First assignments of the rows of many groups, each group a problem of its own, in one compiled call.

They are those that `kmeans_start` and `MixtureStart` make of each group by itself, to the bit.
"""

from __future__ import annotations

import numpy as np

from fastem._native import nearest
from fastem.draws import Draws
from fastem.families.base import Family, Groups, Labelled, Limits, Runs
from fastem.starts.kmeans_plus_plus import trials_for

# What k-means begins a mixture with: `MixtureStart`'s limits.
KMEANS_ITERATIONS = {"kmeans": 300, "k-means++": 0}
KMEANS_TOL = 1e-4


def clusters(
    groups: Groups, n_clusters: int, draws: Draws, limits: Limits, *, on_sphere: bool = False
) -> tuple[Labelled, Runs]:
    """Run Lloyd's algorithm on every group, from seeds of greedy k-means++.

    Parameters
    ----------
    groups : Groups
        The rows.
    n_clusters : int
        Clusters of every group.
    draws : Draws
        Random numbers, of which none have been drawn; every group has the same.
    limits : Limits
        When a run stops; ``tol`` is relative to the mean variance of the group, as in `kmeans_tol`, and after no
        iterations the seeds are the centres.
    on_sphere : bool
        Rows have length 1, and so shall the centres.
    """
    n_groups, d = groups.n_groups, groups.X.shape[1]
    centers, labels = np.empty((n_groups, n_clusters, d)), np.empty(len(groups.X), np.int32)
    objective, n_iter = np.full(n_groups, np.nan), np.ones(n_groups, np.int32)
    nearest.fit_groups(
        groups.X, groups.w, groups.offsets, on_sphere, draws.key, trials_for(n_clusters), *limits, centers, labels,
        objective, n_iter,
    )  # fmt: skip
    return Labelled(labels, centers, n_iter != 0), Runs(objective, np.abs(n_iter), n_iter > 0, np.empty((0, 0)))


def mixture_labels(family: Family, groups: Groups, init_params: str, draws: Draws, slack: float) -> Labelled:
    """Return the first assignment of a mixture in every group, by "kmeans" or "k-means++"."""
    embed = family.embedding()
    space = groups if embed is None else groups._replace(X=embed(groups.X))
    limits = Limits(KMEANS_ITERATIONS[init_params], KMEANS_TOL, slack)
    return clusters(space, family.n_components, draws, limits)[0]
