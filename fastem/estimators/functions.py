"""k-means as functions, for users of scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import threads, validate
from fastem.draws import Draws
from fastem.estimators import door
from fastem.estimators.kmeans import KMeans
from fastem.sources.memory import MemorySource
from fastem.starts import kmeans_plus_plus
from fastem.starts.assignment import assign


def kmeans_plusplus(
    X: Any,
    n_clusters: int,
    *,
    sample_weight: Any = None,
    random_state: Any = None,
    n_local_trials: int | None = None,
    n_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose rows to begin k-means with, by greedy k-means++.

    Parameters
    ----------
    X : array-like or CSR matrix (n_samples, n_features)
        Rows; float32 stays float32, all else becomes float64.
    n_clusters : int
        How many, at most n_samples.
    sample_weight : array-like (n_samples,) or None
        Weights of the rows, at least 0.
    random_state : int, RandomState, Generator or None
        Seed.
    n_local_trials : int or None
        Candidates for each; None means 2 + log(n_clusters).
    n_threads : int or None
        Threads; None means all.

    Returns
    -------
    centers : ndarray (n_clusters, n_features)
        The chosen rows, in the order of choice, in X's dtype.
    indices : ndarray (n_clusters,) int64
        Their numbers; of equal rows the first.

    Raises
    ------
    ValueError
        On NaN or infinity in X, fewer rows than clusters, or bad weights.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.

    Examples
    --------
    >>> import numpy as np, fastem
    >>> X = np.array([[0.0, 0], [0, 1], [9, 0], [9, 1]])
    >>> centers, indices = fastem.kmeans_plusplus(X, 2, random_state=0)
    >>> bool((X[indices] == centers).all()), sorted(centers[:, 0].tolist())
    (True, [0.0, 9.0])
    """
    checked = KMeans(n_clusters, n_threads=n_threads)
    checked._check_parameters()
    if n_local_trials is not None and not validate.is_int(n_local_trials, 1):
        raise ValueError(f"n_local_trials is set to {n_local_trials} but should be an integer value greater than zero.")
    source = door.source(checked._table_to_fit(X), sample_weight, threads.resolve(n_threads))
    w = source.sample_weight
    chosen = kmeans_plus_plus.kmeans_plus_plus(source, n_clusters, Draws(validate.seed(random_state)), n_local_trials)
    centers = np.ascontiguousarray(chosen, source.dtype)
    labels, sqdist = assign(source, centers)
    found = sqdist == 0 if not w.size else (sqdist == 0) & (w > 0)
    rows = np.flatnonzero(found)
    known, at = np.unique(labels[rows], return_index=True)  # each label, and where it comes first
    places = dict(zip(known.tolist(), rows[at].tolist(), strict=True))
    equal = assign(MemorySource(centers), centers)[0]  # of equal centres, the lowest
    return centers, np.array([places[int(c)] for c in equal])


def k_means(
    X: Any, n_clusters: int, *, sample_weight: Any = None, return_n_iter: bool = False, **params: Any
) -> tuple[Any, ...]:
    """Fit k-means and return its results; `fastem.KMeans` as a function.

    Parameters
    ----------
    X : array-like or CSR matrix (n_samples, n_features)
        Rows.
    n_clusters : int
        Number of clusters k.
    sample_weight : array-like (n_samples,) or None
        Weights of the rows, at least 0.
    return_n_iter : bool
        Whether to return the number of iterations, too.
    **params
        Further parameters of `fastem.KMeans`.

    Returns
    -------
    centroid : ndarray (n_clusters, n_features)
        Centres.
    label : ndarray (n_samples,) int32
        Nearest centre of each row; of a stream, what `KMeans.predict` returns.
    inertia : float
        Weighted sum of squared distances to it.
    best_n_iter : int
        Iterations of the best restart, if they were asked for.

    Raises
    ------
    ValueError, TypeError
        As `fastem.KMeans.fit`.

    Examples
    --------
    >>> import numpy as np, fastem
    >>> fastem.k_means(np.array([[0.0], [2.0], [8.0], [10.0]]), 2, random_state=0)[2]
    4.0
    """
    X = door.opened(X)
    model = KMeans(n_clusters, **params).fit(X, sample_weight=sample_weight)
    labels = model.labels_ if hasattr(model, "labels_") else model.predict(X)
    found = (model.cluster_centers_, labels, model.inertia_)
    return (*found, model.n_iter_) if return_n_iter else found
