"""What the k-means estimators share: starts, checks, predict, transform and score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from fastem import validate
from fastem.draws import Draws
from fastem.engine import em
from fastem.estimators import door
from fastem.estimators.base import EMEstimator
from fastem.estimators.callbacks import warn
from fastem.families.kmeans import KMeansFamily
from fastem.sources.base import Source
from fastem.sources.csr import CSRSource
from fastem.starts.assignment import assign
from fastem.starts.kmeans import CENTERS, kmeans_start


class KMeansBase(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, EMEstimator):
    """Base of the estimators that are fitted clusters of `cluster_centers_`."""

    n_clusters: int
    init: str | np.ndarray | Callable[..., Any]
    random_state: Any

    # Restarts that "auto" stands for, but for k-means++ and k-means||, which are started once.
    _auto_n_init = 10

    cluster_centers_: np.ndarray
    labels_: np.ndarray
    inertia_: float
    converged_: bool

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Find the centres."""
        raise NotImplementedError

    def _check_clusters_and_init(self, arrays: bool = True) -> None:
        check = validate.parameter
        check(self, "n_clusters", "an int in the range [1, inf)", validate.is_int(self.n_clusters, 1))
        restarts = self.n_init == "auto" if isinstance(self.n_init, str) else validate.is_int(self.n_init, 1)
        check(self, "n_init", "a str among {'auto'} or an int in the range [1, inf)", restarts)
        kinds = ", an array-like or a callable" if arrays else " or a callable"
        known = self.init in CENTERS if isinstance(self.init, str) else self.init is not None
        check(self, "init", f"a str among {set(CENTERS)}{kinds}", known and (arrays or not _is_array(self.init)))
        self._check_shared_parameters()

    def _check_sample_per_cluster(self) -> None:
        some = getattr(self, "sample_per_cluster", None)
        known = some is None or validate.is_int(some, 1)
        validate.parameter(self, "sample_per_cluster", "an int in the range [1, inf) or None", known)

    def _table_to_fit(self, X: Any) -> Any:
        X = door.table(self, X, reset=True, accept_sparse=True)
        if X.shape[0] < self.n_clusters:
            raise ValueError(f"n_samples={X.shape[0]} should be >= n_clusters={self.n_clusters}.")
        return X

    def _source(self, X: Any, sample_weight: Any) -> Source:
        source, mute = door.source(X, sample_weight, self._threads()), self._mute(X)
        if not mute.size:
            return source
        weights = source.empty(source.n_rows, source.dtype)
        weights[:] = source.sample_weight if source.sample_weight.size else 1.0
        weights[mute] = 0.0
        return source.having(weights, source.labels, source.n_threads)

    def _occupied(self, source: Source, watch: Any) -> tuple[Source, np.ndarray | None]:
        """Return CSR rows without the features in which all are 0, as all centres are, and the numbers of the rest.

        Where somebody else gives or sees centres, all features stay.
        """
        seen = watch is not None or self.callback is not None or getattr(self, "keep_history", False)
        if seen or not isinstance(source, CSRSource) or not isinstance(self.init, str):
            return source, None
        return source.occupied()

    def _start(self, n_features: int, n_clusters: int) -> tuple[em.Start, int]:
        """Return the start, and how many of it."""
        how = self.init
        n_init = 0 if isinstance(self.n_init, str) else int(self.n_init)
        if isinstance(how, str):
            return kmeans_start(n_clusters, how), n_init or (self._auto_n_init if how == "random" else 1)
        if callable(how):

            def chosen(source: Any, draws: Draws) -> np.ndarray:
                random_state = np.random.RandomState(int(draws.bits(1)[0] >> np.uint64(32)))
                if not hasattr(source, "X"):
                    raise ValueError(
                        "A callable init takes an array, which these rows are not: see cache= of fastem.rows."
                    )
                centers = how(source.X, n_clusters, random_state=random_state)
                return validate.centers(centers, n_clusters, n_features)

            return kmeans_start(n_clusters, chosen), n_init or self._auto_n_init
        if n_init > 1:
            warn(
                "Explicit initial center position passed: performing only one init in "
                f"{type(self).__name__} instead of n_init={self.n_init}.",
                RuntimeWarning,
            )
        return kmeans_start(n_clusters, validate.centers(how, n_clusters, n_features)), 1

    def _warn_if_clusters_coincide(self, source: Source, labels: np.ndarray) -> None:
        distinct = np.count_nonzero(source.used_labels(labels, self.n_clusters))
        if distinct < self.n_clusters:
            warn(
                f"Number of distinct clusters ({distinct}) found smaller than n_clusters ({self.n_clusters}). "
                "Possibly due to duplicate points in X.",
                ConvergenceWarning,
            )

    def _keep_labels(self, source: Source, labels: np.ndarray) -> None:
        """Set `labels_`, but of a stream, whose rows may be more than memory holds labels of."""
        self.__dict__.pop("labels_", None)
        if source.keeps_labels:
            self.labels_ = labels

    def _warn_if_stopped(self) -> None:
        """Tell that `max_iter` came before convergence; one iteration is a step that somebody asked for."""
        if not self.converged_ and self.max_iter > 1 and self.callback is None:
            warn(
                f"k-means did not converge within max_iter={self.max_iter} iterations: increase max_iter or tol.",
                ConvergenceWarning,
            )

    def _rows(self, X: Any) -> Any:
        """Return validated rows as distances are measured between them."""
        return X

    def _mute(self, X: Any) -> np.ndarray:
        """Return the numbers of rows that get a label but do not count."""
        return np.empty(0, np.int64)

    def _assign(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and squared distances of new rows."""
        check_is_fitted(self)
        if door.is_stream(X):
            return door.all_of(self, KMeansBase._assign, door.opened(X))  # type: ignore[return-value]
        X = self._rows(door.table(self, X, reset=False, accept_sparse=True))
        labels, sqdist = assign(self._source(X, None), self.cluster_centers_)
        sqdist[self._mute(X)] = 0.0
        return labels, sqdist

    @door.by_blocks
    def predict(self, X: Any) -> np.ndarray:
        """Return the nearest centre of each row.

        Parameters
        ----------
        X : array-like or CSR matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) int32
        """
        return self._assign(X)[0]

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Find the centres and return the nearest one of each row (n_samples,) int32."""
        X = door.opened(X)
        self.fit(X, sample_weight=sample_weight)
        return self.predict(X) if door.is_stream(X) else self.labels_

    @door.by_blocks
    def transform(self, X: Any) -> np.ndarray:
        """Return the distances of rows to all centres.

        Parameters
        ----------
        X : array-like or CSR matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_clusters)
            In X's dtype.
        """
        check_is_fitted(self)
        X = self._rows(door.table(self, X, reset=False, accept_sparse=True))
        centers = np.ascontiguousarray(self.cluster_centers_, X.dtype)
        source = self._source(X, None)
        family = source.served_by(KMeansFamily(len(centers)))
        distances = np.empty((X.shape[0], len(centers)), X.dtype)

        def block(part: np.ndarray, rows: slice, n_threads: int) -> None:
            family.distances(part, centers, distances[rows], n_threads)

        source.each_block_for(family, block)
        return np.sqrt(distances, out=distances)

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Find the centres and return the distances of all rows to them (n_samples, n_clusters)."""
        X = door.opened(X)
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the distortion of rows: -sum of w times squared distance to the nearest centre."""
        X = door.opened(X)
        sqdist = self._assign(X)[1].astype(np.float64)
        weights = validate.weights(door.weights_with(X, sample_weight), len(sqdist), np.float64)
        return -float(sqdist @ weights if weights.size else sqdist.sum())

    def inertia_per_cluster(self, X: Any, sample_weight: Any = None) -> np.ndarray:
        """Return each cluster's part of the distortion of rows, `-score(X)` in all.

        Parameters
        ----------
        X : array-like or CSR matrix (n_samples, n_features)
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0.

        Returns
        -------
        ndarray (n_clusters,) float64
            Weights times squared distances to the centre, summed over the rows of each cluster.
        """
        X = door.opened(X)
        labels, sqdist = self._assign(X)
        weights = validate.weights(door.weights_with(X, sample_weight), len(sqdist), np.float64)
        return np.bincount(labels, sqdist * weights if weights.size else sqdist, len(self.cluster_centers_))

    def _complete_twin(self, twin: Any) -> None:
        """Set what scikit-learn's k-means reads in predict and transform."""
        twin._n_threads = self._threads()
        twin._n_features_out = len(self.cluster_centers_)

    def _complete_from(self, model: Any) -> None:
        """Set what a fit of this class sets beside what both have."""
        self._n_features_out = len(self.cluster_centers_)

    def _check_to_save(self) -> None:
        """Refuse centres whose number is not `n_clusters`."""
        if len(self.cluster_centers_) != self.n_clusters:
            raise ValueError(
                f"n_clusters is {self.n_clusters}, but there are {len(self.cluster_centers_)} fitted centers"
            )

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        k, d = len(self.cluster_centers_), self.n_features_in_
        self.cluster_centers_ = validate.rows(self.cluster_centers_, "cluster_centers_", n_features=d)
        labels = getattr(self, "labels_", None)
        if labels is not None and (labels.ndim != 1 or not labels.size or labels.min() < 0 or labels.max() >= k):
            raise ValueError(f"labels_ must be a vector of numbers below {k}")
        self._n_features_out = k

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _is_array(value: Any) -> bool:
    return not isinstance(value, str) and not callable(value)
