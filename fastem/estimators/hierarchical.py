"""K-means in two levels for scikit-learn users: very many clusters."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from fastem import validate
from fastem.engine.checkpoint import Checkpoint, Slot
from fastem.estimators import checkpoints, door
from fastem.estimators.callbacks import with_callbacks
from fastem.estimators.kmeans_base import KMeansBase
from fastem.estimators.shared_parameters import documented
from fastem.families.kmeans import KMeansFamily
from fastem.sources.base import Source
from fastem.starts import two_levels
from fastem.starts.assignment import inertia_of
from fastem.starts.kmeans import CENTERS


@documented
class HierarchicalKMeans(KMeansBase):
    """K-means of very many clusters, in two levels: coarse cells, and clusters within each.

    An iteration of `KMeans` takes time in proportion to n_samples x n_clusters; one of this class to n_samples x
    sqrt(n_clusters).  Memory is of order n_samples + n_clusters x n_features.  Labels and predictions are those of the
    nearest of all centres, as in `KMeans`.  The result does not depend on `n_threads`, to the bit.

    Parameters
    ----------
    {n_clusters}
    n_coarse : int or None, default=None
        Coarse cells, at most k; None means sqrt(k), rounded, for which both levels take about the same time.
    init : {"k-means++", "k-means||", "random"}, default="random"
        How the first centres of each k-means are chosen.
    max_iter : int, default=5
        Most iterations of each k-means.
    tol : float, default=1e-4
        A k-means stops when its centres' squared movement, summed, is at most `tol` times the mean variance of the
        features of its rows.
    n_refine : int, default=2
        Passes after that, in which each row is compared with the clusters of the cells around its own.
    sample_per_cluster : int or None, default=256
        Each k-means is fitted to at most so many rows for each of its clusters, drawn at random; None means all rows.
    compute_labels : bool, default=True
        Compare all rows with all centres in the end, which gives `labels_` and `inertia_`.
    verbose : int, default=0
        Print what was done.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the starts and samples.
    n_threads : int or None, default=None
        Threads to use; None means all that the process may use.
    {checkpoint}
    checkpoint_every : int, str or timedelta, default="5min"
        How often, if a stage has ended meanwhile: an int of stages (both levels together; then each pass that refines
        them), or a time such as "30s", "5min" or "2h".

    Attributes
    ----------
    cluster_centers_ : ndarray (n_clusters, n_features)
        Centres, in X's dtype, cell after cell.
    coarse_centers_ : ndarray (n_cells, n_features)
        Coarse centres; as many as were nearest to a row.
    coarse_labels_ : ndarray (n_clusters,) int32
        Cell that each cluster was found in.
    labels_ : ndarray (n_samples,) int32
        Nearest centre of each training row, always equal to ``predict(X)``.
    inertia_ : float
        Distortion J: weighted sum of squared distances to the nearest centre.
    n_iter_ : int
        Most iterations of a k-means within a cell.
    converged_ : bool
        Whether each of them did within `max_iter` iterations.

    See Also
    --------
    KMeans : one level; its `sample_per_cluster` fits a sample of the rows.
    fastem.starts.two_levels : how clusters are shared out among cells.

    References
    ----------
    Nister and Stewenius, "Scalable recognition with a vocabulary tree", CVPR 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import HierarchicalKMeans
    >>> X = np.random.default_rng(0).random((20000, 8))
    >>> model = HierarchicalKMeans(400, random_state=0).fit(X)
    >>> model.cluster_centers_.shape, len(model.coarse_centers_)
    ((400, 8), 20)
    >>> bool(np.all(model.predict(X) == model.labels_))
    True
    """

    _saved: ClassVar = ("cluster_centers_", "coarse_centers_", "coarse_labels_", "n_iter_", "converged_")
    _saved_if_set: ClassVar = ("labels_", "inertia_")
    init: str
    n_init = 1
    callback = None
    certify = False
    keep_history = False
    coarse_centers_: np.ndarray
    coarse_labels_: np.ndarray

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        n_coarse: int | None = None,
        init: str = "random",
        max_iter: int = 5,
        tol: float = 1e-4,
        n_refine: int = 2,
        sample_per_cluster: int | None = 256,
        compute_labels: bool = True,
        verbose: int = 0,
        random_state: Any = None,
        n_threads: int | None = None,
        checkpoint: Any = None,
        checkpoint_every: Any = "5min",
    ) -> None:
        self.n_clusters = n_clusters
        self.n_coarse = n_coarse
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.n_refine = n_refine
        self.sample_per_cluster = sample_per_cluster
        self.compute_labels = compute_labels
        self.verbose = verbose
        self.random_state = random_state
        self.n_threads = n_threads
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> HierarchicalKMeans:
        """Find the centres.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
            Rows; float32 stays float32, all else becomes float64.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0.

        Returns
        -------
        HierarchicalKMeans
            self.

        Raises
        ------
        ValueError
            On bad parameters, NaN or infinity in X, fewer rows than clusters, or bad weights.
        TypeError
            If X is a sparse matrix or a stream.
        """
        self._check_parameters()
        X = self._table_to_fit(X)
        source = self._source(X, sample_weight)
        watch = self._watch(X, 0, lambda levels: {})  # the fit as a whole; its levels are no models yet
        seed = validate.seed(self.random_state)
        checkpoint = checkpoints.opened(self, source, seed)
        seed = seed if checkpoint is None else checkpoint.seed
        levels = self._levels(source, seed, checkpoint)
        self.cluster_centers_ = levels.centers.astype(X.dtype)
        self.coarse_centers_ = levels.coarse.astype(X.dtype)
        self.coarse_labels_ = levels.cells
        self.n_iter_, self.converged_ = levels.n_iter, levels.converged
        self._n_features_out = self.n_clusters
        for name in ("labels_", "inertia_"):
            self.__dict__.pop(name, None)
        if self.compute_labels:
            self.labels_, self.inertia_ = inertia_of(source, self.cluster_centers_, levels.labels)
            self._tell(f"inertia {self.inertia_:.9g}")
            if len(np.unique(self.cluster_centers_, axis=0)) < self.n_clusters:
                self._warn_if_clusters_coincide(source, self.labels_)
        if checkpoint is not None:
            checkpoint.remove()
        if watch is not None:
            watch.end(None)
        return self

    def _levels(self, source: Source, seed: int, checkpoint: Checkpoint | None) -> two_levels.Levels:
        """Make both levels and the passes that refine them, on from what was saved after one of them."""
        slot = None if checkpoint is None else checkpoint.stage(KMeansFamily(self.n_clusters)).slot(0)
        if slot is None or slot.state is None:
            how = two_levels.How(self.init, self.max_iter, self.tol, self.sample_per_cluster, seed)
            levels, done = two_levels.fit(source, self.n_clusters, self._n_cells(), how), 0
            self._tell(f"{self.n_clusters} clusters in {len(levels.coarse)} cells")
            self._keep(slot, levels, done)
        else:
            with slot.stage.checkpoint.trusted():
                state = slot.take()
                levels, done = two_levels.Levels(**state["levels"]), state["passes"]
        while len(levels.coarse) > 1 and done < self.n_refine:
            levels, done = two_levels.refine(source, levels, 1), done + 1
            self._keep(slot, levels, done)
        return levels

    def _keep(self, slot: Slot | None, levels: two_levels.Levels, done: int) -> None:
        """Save what there is after so many passes, if it is time."""
        if slot is not None and slot.due(1):
            slot.keep({"levels": levels._asdict(), "passes": done})

    def _check_parameters(self) -> None:
        check = validate.parameter
        cells = self.n_coarse is None or validate.is_int(self.n_coarse, 1)
        check(self, "n_coarse", "an int in the range [1, inf) or None", cells)
        known = isinstance(self.init, str) and self.init in CENTERS
        check(self, "init", f"a str among {set(CENTERS)}", known)
        check(self, "n_refine", "an int in the range [0, inf)", validate.is_int(self.n_refine, 0))
        check(self, "compute_labels", "a bool", isinstance(self.compute_labels, bool | np.bool_))
        self._check_sample_per_cluster()
        self._check_clusters_and_init()
        if self.n_coarse is not None and self.n_coarse > self.n_clusters:
            raise ValueError(f"n_coarse={self.n_coarse} should be <= n_clusters={self.n_clusters}.")

    def _table_to_fit(self, X: Any) -> Any:
        door.refuse_stream(X, "HierarchicalKMeans")
        if sparse.issparse(X):
            raise TypeError(
                "HierarchicalKMeans takes dense rows: an array or a frame, not a sparse matrix; "
                "MiniBatchKMeans takes those."
            )
        return super()._table_to_fit(X)

    def _n_cells(self) -> int:
        return max(1, round(self.n_clusters**0.5)) if self.n_coarse is None else self.n_coarse

    def _tell(self, what: str) -> None:
        if self.verbose:
            print(what)

    def _check_loaded(self) -> None:
        super()._check_loaded()
        k, d = self.cluster_centers_.shape
        self.coarse_centers_ = validate.rows(self.coarse_centers_, "coarse_centers_", n_features=d)
        cells, g = self.coarse_labels_, len(self.coarse_centers_)
        if cells.shape != (k,) or cells.min() < 0 or cells.max() >= g:
            raise ValueError(f"coarse_labels_ must be a vector of {k} numbers below {g}")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags
