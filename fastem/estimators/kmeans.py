"""K-means for scikit-learn users."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from fastem import em, init, validate
from fastem.draws import Draws
from fastem.estimators.base import EMEstimator
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.monitor import IterationInfo
from fastem.sources.memory import MemorySource, SparseSource

ALGORITHMS = ("auto", "lloyd", "hamerly", "elkan")

# Multiply-adds of a row from which bounds are faster over a whole fit: 1.3 to 3.8 times on shapes from (2 features, 32
# clusters) to (128, 1000), but 0.4 times with (2, 8).
BOUNDS_PAY_OFF = 32


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, EMEstimator):
    """K-means clustering: centres that minimise the summed squared distance of rows to their nearest centre.

    A replacement for `sklearn.cluster.KMeans` with the same parameters and attributes; what is added is keyword-only
    and has a default.  The result does not depend on `n_threads`, to the bit.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters k.
    init : {"k-means++", "random"}, array of shape (n_clusters, n_features) or callable, default="k-means++"
        How a restart chooses its first centres.  A callable is called as ``init(X, n_clusters, random_state=...)``.
    n_init : "auto" or int, default="auto"
        Number of restarts; the one with the lowest distortion is kept.  "auto" is 10 for "random" or a callable and
        1 otherwise.
    max_iter : int, default=300
        Most iterations of one restart.
    tol : float, default=1e-4
        Stop when the centres' squared movement, summed, is at most `tol` times the mean variance of the features.
    verbose : int, default=0
        Print each iteration.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the starts.
    copy_x : bool, default=True
        Without effect: X is never written to.
    algorithm : {"auto", "lloyd", "hamerly", "elkan"}, default="auto"
        All give Lloyd's labels and, up to rounding, centres at every iteration.  "lloyd" compares every row with every
        centre; "hamerly" keeps two distance bounds per row and only looks at rows for which another centre may have
        come nearer ("elkan" is accepted as another name for it); "auto" chooses by the number of clusters and features.
    n_threads : int or None, default=None
        Threads to use; None means all that the process may use, negative counts from the end (-1 all, -2 all but one).
    callback : callable or None, default=None
        Called after each iteration with an `IterationInfo`; returning True stops that restart.
    certify : bool, default=False
        Raise `MonotonicityError` should the distortion ever rise.
    keep_history : bool, default=False
        Keep the centres of every iteration of the best restart in `history_`.

    Attributes
    ----------
    cluster_centers_ : ndarray (n_clusters, n_features)
        Centres, in X's dtype.
    labels_ : ndarray (n_samples,) int32
        Nearest centre of each training row, always equal to ``predict(X)``.
    inertia_ : float
        Distortion J: weighted sum of squared distances to the nearest centre.
    n_iter_ : int
        Iterations of the best restart.
    inertia_history_ : ndarray (n_iter_,)
        J at the start of each iteration of the best restart; it never rises.
    restarts_ : ndarray (n_init,)
        Objective -J of each restart.
    histories_ : list of ndarray
        Objective -J per iteration of each restart.
    notes_ : list of str
        What happened during the best restart, such as moved empty clusters.

    See Also
    --------
    fastem.backend.assign : the kernel, on plain arrays.

    References
    ----------
    Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory 28, 1982.  Lecture rows L1, L2.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import KMeans
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> model = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> model.inertia_
    16.0
    >>> model.predict([[0.0, 0], [12, 3]]) == model.labels_[[0, 3]]
    array([ True,  True])
    """

    _saved: ClassVar = ("cluster_centers_", "labels_", "inertia_", "inertia_history_", "n_iter_", "restarts_")

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | np.ndarray | Callable[..., Any] = "k-means++",
        n_init: int | str = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "auto",
        n_threads: int | None = None,
        callback: Callable[[IterationInfo], Any] | None = None,
        certify: bool = False,
        keep_history: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.n_threads = n_threads
        self.callback = callback
        self.certify = certify
        self.keep_history = keep_history

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Find the centres.

        Parameters
        ----------
        X : array-like or CSR matrix (n_samples, n_features)
            Rows; float32 stays float32, all else becomes float64.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0.

        Returns
        -------
        KMeans
            self.

        Raises
        ------
        ValueError
            On bad parameters, NaN or infinity in X, fewer rows than clusters, or bad weights.
        """
        self._check_parameters()
        X = validate.table(self, X, reset=True, accept_sparse=True)
        if X.shape[0] < self.n_clusters:
            raise ValueError(f"n_samples={X.shape[0]} should be >= n_clusters={self.n_clusters}.")
        source = self._source(X, sample_weight)
        start, n_init = self._start(X)
        result = em.run(
            source,
            KMeansFamily(self.n_clusters, self._algorithm(X.shape[1])),
            start,
            settings=self._settings(init.kmeans_tol(source, self.tol)),
            n_init=n_init,
            seed=validate.seed(self.random_state),
        )
        self._keep_trace(result)
        self.cluster_centers_ = result.best.params.centers.astype(X.dtype)
        self.labels_ = result.best.memo.labels
        self.inertia_ = -result.best.objective
        self.inertia_history_ = -result.best.objectives
        self._n_features_out = self.n_clusters
        self._warn_if_clusters_coincide()
        return self

    def _check_parameters(self) -> None:
        check = validate.parameter
        check(self, "n_clusters", "an int in the range [1, inf)", validate.is_int(self.n_clusters, 1))
        restarts = self.n_init == "auto" if isinstance(self.n_init, str) else validate.is_int(self.n_init, 1)
        check(self, "n_init", "a str among {'auto'} or an int in the range [1, inf)", restarts)
        check(self, "algorithm", f"a str among {set(ALGORITHMS)}", self.algorithm in ALGORITHMS)
        known = self.init in init.CENTERS if isinstance(self.init, str) else self.init is not None
        check(self, "init", f"a str among {set(init.CENTERS)}, an array-like or a callable", known)
        self._check_shared_parameters()

    def _source(self, X: Any, sample_weight: Any) -> MemorySource:
        kind = MemorySource if isinstance(X, np.ndarray) else SparseSource
        return kind(X, self._weights(sample_weight, X), n_threads=self._threads())

    def _algorithm(self, n_features: int) -> str:
        """Return the family's algorithm: bounds pay off once a row costs more than to read and test its bounds."""
        if self.algorithm == "auto":
            return "bounded" if self.n_clusters > 1 and self.n_clusters * n_features >= BOUNDS_PAY_OFF else "lloyd"
        return "lloyd" if self.algorithm == "lloyd" else "bounded"

    def _start(self, X: Any) -> tuple[em.Start, int]:
        """Return the start and the number of restarts."""
        how = self.init
        if isinstance(how, str):
            n_init = (1 if how == "k-means++" else 10) if self.n_init == "auto" else self.n_init
            return init.kmeans_start(self.n_clusters, how), int(n_init)
        if callable(how):

            def chosen(source: Any, draws: Draws) -> np.ndarray:
                random_state = np.random.RandomState(int(draws.bits(1)[0] >> np.uint64(32)))
                return validate.centers(how(X, self.n_clusters, random_state=random_state), self.n_clusters, X.shape[1])

            return init.kmeans_start(self.n_clusters, chosen), 10 if self.n_init == "auto" else int(self.n_init)
        if self.n_init not in ("auto", 1):
            warnings.warn(
                "Explicit initial center position passed: performing only one init in "
                f"{type(self).__name__} instead of n_init={self.n_init}.",
                RuntimeWarning,
                stacklevel=3,
            )
        return init.kmeans_start(self.n_clusters, validate.centers(how, self.n_clusters, X.shape[1])), 1

    def _warn_if_clusters_coincide(self) -> None:
        distinct = np.count_nonzero(np.bincount(self.labels_))
        if distinct < self.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({distinct}) found smaller than n_clusters ({self.n_clusters}). "
                "Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _assign(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and squared distances of new rows."""
        check_is_fitted(self)
        X = validate.table(self, X, reset=False, accept_sparse=True)
        family = KMeansFamily(len(self.cluster_centers_))
        prepared = family.prepare(KMeansParams(self.cluster_centers_), X.dtype)
        labels, sqdist = np.empty(X.shape[0], np.int32), np.empty(X.shape[0], X.dtype)

        def block(part: np.ndarray, rows: slice, n_threads: int) -> None:
            labels[rows], sqdist[rows] = family.assign(part, prepared, n_threads)

        self._source(X, None).each_block(block)
        return labels, sqdist

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
        return self.fit(X, sample_weight=sample_weight).labels_

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
        from sklearn.metrics.pairwise import euclidean_distances

        check_is_fitted(self)
        X = validate.table(self, X, reset=False, accept_sparse=True)
        centers = self.cluster_centers_.astype(X.dtype)
        origin = centers.mean(axis=0)
        distances = np.empty((X.shape[0], len(centers)), X.dtype)

        def block(part: np.ndarray, rows: slice, n_threads: int) -> None:
            distances[rows] = euclidean_distances(part - origin, centers - origin)

        self._source(X, None).each_block(block)
        return distances

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Find the centres and return the distances of all rows to them (n_samples, n_clusters)."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the distortion of rows: -sum of w times squared distance to the nearest centre."""
        sqdist = self._assign(X)[1].astype(np.float64)
        weights = validate.weights(sample_weight, len(sqdist), np.float64)
        return -float(sqdist @ weights if weights.size else sqdist.sum())

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        k, d = len(self.cluster_centers_), self.n_features_in_
        self.cluster_centers_ = validate.rows(self.cluster_centers_, "cluster_centers_", n_features=d)
        if self.labels_.ndim != 1 or self.labels_.min() < 0 or self.labels_.max() >= k:
            raise ValueError(f"labels_ must be a vector of numbers below {k}")
        self._n_features_out = k

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
