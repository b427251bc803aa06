"""K-means for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastem import validate
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import IterationInfo
from fastem.engine.problem import Problem
from fastem.estimators import checkpoints
from fastem.estimators.callbacks import with_callbacks
from fastem.estimators.conversion import HasTwin
from fastem.estimators.kmeans_batches import KMeansBatches
from fastem.estimators.shared_parameters import documented
from fastem.families.kmeans import KMeansFamily, KMeansParams, SphericalKMeansFamily
from fastem.families.kmeans.running import Moves
from fastem.families.kmeans.spherical import unit_csr_rows, unit_rows
from fastem.grid import CELL
from fastem.sources.base import Source
from fastem.sources.csr import over_all_features
from fastem.starts import single_moves, swaps
from fastem.starts.assignment import inertia_of
from fastem.starts.kmeans import kmeans_tol
from fastem.starts.samples import few

ALGORITHMS = ("auto", "lloyd", "hamerly", "elkan", "rotated")

# The sample of `sample_per_cluster` draws as this restart.
SAMPLE = 2**42

# Multiply-adds of a row from which bounds are faster over a whole fit: 1.3 to 3.8 times on shapes from (2 features, 32
# clusters) to (128, 1000), but 0.4 times with (2, 8).
BOUNDS_PAY_OFF = 32

# The same for rows of one grid cell, on which the plain algorithm runs without Python between iterations.
BOUNDS_PAY_OFF_IN_A_CELL = 2000


@documented
class KMeans(KMeansBatches, HasTwin):
    """K-means clustering: centres that minimise the summed squared distance of rows to their nearest centre.

    A replacement for `sklearn.cluster.KMeans` with the same parameters and attributes; what is added is keyword-only
    and has a default.  The result does not depend on `n_threads`, to the bit.

    Parameters
    ----------
    {n_clusters}
    init : {"k-means++", "k-means||", "random"}, array (n_clusters, n_features) or callable, default="k-means++"
        How a restart chooses its first centres.  "k-means||" takes a few passes instead of one for each cluster: for
        many clusters.  A callable is called as ``init(X, n_clusters, random_state=...)``.
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
    algorithm : {"auto", "lloyd", "hamerly", "elkan", "rotated"}, default="auto"
        All give Lloyd's labels and, up to rounding, centres at every iteration.  "lloyd" compares every row with every
        centre; "hamerly" keeps two distance bounds per row and only looks at rows for which another centre may have
        come nearer ("elkan" is accepted as another name for it); "rotated" compares these by their leading principal
        coordinates first, which rule out most centres where features are many and correlated (64 or more, with 33
        clusters or more); "auto" chooses by the number of clusters and features and, for the last, by a sample of the
        rows.  Beyond float32 rows a fit takes 280 bytes a row by "rotated", which keeps 64 numbers of each, 30 by
        "hamerly" and 18 by "lloyd": the last two spare memory.
    spherical : bool, default=False
        Cluster the directions of the rows, by cosine: rows are divided by their norms wherever they are seen, centres
        are unit vectors, and `inertia_` is the weighted sum of 2 (1 - cosine).  Rows of zeros get a label, but count
        for nothing.
    n_swaps : int, default=0
        Swaps to try after the best restart: a centre that is missed least is moved to where the distortion falls most.
        Worth it where the rows form clusters that restarts rarely all find; see `fastem.starts.swaps`.
    refine : {None, "hartigan"}, default=None
        "hartigan": after the best restart, and swaps, rows are moved one by one to the clusters where they lower the
        distortion most, until no move lowers it: where it stops is one of Lloyd's fixed points, but not the other way
        round.  See `fastem.starts.single_moves`.
    sample_per_cluster : int or None, default=None
        Fit at most so many rows for each cluster, drawn at random among those of weight above 0, of each restart the
        same ones; `labels_` and `inertia_` are then those of all rows, from one pass.  None means all rows.  For very
        many rows: centres are means, which 256 rows tell well enough (faiss's rule).
    {n_threads, callback}
    certify : bool, default=False
        Raise `MonotonicityError` should the distortion ever rise.
    keep_history : bool, default=False
        Keep the centres of every iteration of the best restart in `history_`.
    {checkpoint, checkpoint_every}

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
    converged_ : bool
        Whether the centres of the best restart stopped moving, to `tol`, within `max_iter` iterations.
    inertia_history_ : ndarray (n_iter_,)
        J at the start of each iteration of the best restart, before any swaps; it never rises.
    restarts_ : ndarray (n_init,)
        Objective -J of each restart.
    histories_ : list of ndarray
        Objective -J per iteration of each restart.
    notes_ : list of str
        What happened during the best restart, such as moved empty clusters.
    counts_ : ndarray (n_clusters,)
        Weight of the rows that each centre is the mean of; set by `partial_fit` alone, which gives `labels_` and
        `inertia_` of its last batch and counts its steps as `n_iter_`.
    n_steps_ : int
        Batches that `partial_fit` has met; set by it alone.

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

    _saved: ClassVar = ("cluster_centers_", "inertia_", "inertia_history_", "n_iter_", "restarts_")
    _saved_if_set: ClassVar = (
        "converged_", "labels_", "counts_", "n_steps_", "_seed", "_since_moved", "_mean_directions",
    )  # fmt: skip
    _twin_module: ClassVar = "sklearn.cluster"
    _twin_attributes: ClassVar = ("cluster_centers_", "labels_", "inertia_", "n_iter_")
    _twin_values: ClassVar = {
        "algorithm": {"auto": "lloyd", "hamerly": "elkan", "rotated": "lloyd"},
        "init": {"k-means||": "k-means++"},
    }

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
        spherical: bool = False,
        n_swaps: int = 0,
        refine: str | None = None,
        sample_per_cluster: int | None = None,
        n_threads: int | None = None,
        callback: Callable[[IterationInfo], Any] | None = None,
        certify: bool = False,
        keep_history: bool = False,
        checkpoint: Any = None,
        checkpoint_every: Any = "5min",
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
        self.spherical = spherical
        self.n_swaps = n_swaps
        self.refine = refine
        self.sample_per_cluster = sample_per_cluster
        self.n_threads = n_threads
        self.callback = callback
        self.certify = certify
        self.keep_history = keep_history
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Find the centres.

        Parameters
        ----------
        X : array-like, CSR matrix or stream (n_samples, n_features)
            Rows; float32 stays float32, all else becomes float64.  A stream is what `fastem.rows` takes or gives.
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
        X = self._table_to_fit(X)
        start, n_init = self._start(X.shape[1], self.n_clusters)
        source = self._source(self._rows(X), sample_weight)
        if not source.total_weight > 0:
            raise ValueError("Rows of zeros have no direction, and X has no others of weight above 0.")
        watch = self._watch(X, n_init, lambda params: {"cluster_centers_": params.centers.astype(X.dtype)})
        seed = validate.seed(self.random_state)
        checkpoint = checkpoints.opened(self, source, seed)
        seed = seed if checkpoint is None else checkpoint.seed
        all_rows, source = source, self._sample(source, seed)
        family = self._family(source.n_rows, X.shape[1])
        settings = self._settings(kmeans_tol(source, self.tol), watch, checkpoint)
        start = _on_sphere(start) if self.spherical else start
        source, features = self._occupied(source, watch)
        result = em.run(Problem(source, family), start, settings=settings, n_init=n_init, seed=seed)
        for name in ("counts_", "n_steps_", "_seed", "_since_moved", "_mean_directions"):  # of batches
            self.__dict__.pop(name, None)
        self._keep_trace(result)
        best = result.best
        if self.n_swaps:
            best, kept = swaps.improve(source, family, best, settings, self.n_swaps, seed)
            self.notes_.append(f"after convergence: kept {kept} of {self.n_swaps} swaps")
        if self.refine is not None:
            best, moved = single_moves.refine(source, family, best, settings)
            self.notes_.append(f"after convergence: moved single rows {moved} times")
        self.cluster_centers_ = over_all_features(best.params.centers, features, X)
        if all_rows.n_rows > source.n_rows:
            labels, self.inertia_ = inertia_of(all_rows, self.cluster_centers_)
        else:
            labels, self.inertia_ = best.memo.labels, -best.objective
        self._keep_labels(all_rows, labels)
        self.converged_ = best.converged
        self.inertia_history_ = -result.best.objectives
        self._n_features_out = self.n_clusters
        if checkpoint is not None:
            checkpoint.remove()
        if watch is not None:
            watch.end(best.params)
        self._warn_if_clusters_coincide(all_rows, labels)
        self._warn_if_stopped()
        return self

    def _first_centers(self, source: Source, tries: int | None = None) -> np.ndarray:
        start = self._start(source.n_features, self.n_clusters)[0]
        start = _on_sphere(start) if self.spherical else start
        found = start(Problem(source, KMeansFamily(self.n_clusters)), Draws(self._seed, 0)).centers
        return np.array(found, np.float64)

    def _moves(
        self, counts: np.ndarray, batch: Source, family: KMeansFamily, prepared: Any, draws: Draws
    ) -> Moves | None:
        """Move centres that have met no row yet to the rows of the batch that are farthest from all."""
        idle = np.flatnonzero(counts == 0)
        if not idle.size:
            return None
        numbers = batch.extreme_rows(family, prepared, len(idle)).indices[: len(idle)]
        return Moves(idle[: len(numbers)], batch.rows_for(family, numbers), 0.0)

    def _means_of(self, centers: np.ndarray) -> np.ndarray:
        return getattr(self, "_mean_directions", centers) if self.spherical else centers

    def _centers_of(self, means: np.ndarray, before: np.ndarray) -> np.ndarray:
        if not self.spherical:
            return means
        self._mean_directions = np.array(means, np.float64, order="C")
        centers = unit_rows(self._mean_directions)
        lost = ~centers.any(axis=1)  # rows that cancel out: every direction is equally good
        centers[lost] = before[lost]
        return centers

    def _forget(self) -> None:
        super()._forget()
        for name in ("_mean_directions", "inertia_history_", "restarts_", "histories_", "history_"):
            self.__dict__.pop(name, None)

    def _finish(self, source: Source, centers: np.ndarray) -> None:
        super()._finish(source, centers)
        self.n_iter_, self.converged_, self.notes_ = self.n_steps_, False, []

    def _check_loaded(self) -> None:
        super()._check_loaded()
        if hasattr(self, "_mean_directions"):
            shape = self.cluster_centers_.shape
            self._mean_directions = validate.shaped(self._mean_directions, shape, "_mean_directions")

    def _complete_twin(self, twin: Any) -> None:
        if self.spherical:
            raise ValueError("scikit-learn has no spherical k-means.")
        super()._complete_twin(twin)

    def _complete_from(self, model: Any) -> None:
        super()._complete_from(model)
        self._untraced(-model.inertia_, bool(model.n_iter_ < model.max_iter))
        self.inertia_history_ = np.array([model.inertia_])

    def _check_parameters(self) -> None:
        check = validate.parameter
        check(self, "algorithm", f"a str among {set(ALGORITHMS)}", self.algorithm in ALGORITHMS)
        check(self, "spherical", "a bool", isinstance(self.spherical, bool | np.bool_))
        check(self, "refine", "None or a str among {'hartigan'}", self.refine in (None, "hartigan"))
        if self.spherical and self.refine is not None:
            raise ValueError(
                "refine='hartigan' moves rows by Euclidean distances: spherical k-means has no such moves."
            )
        self._check_sample_per_cluster()
        check(self, "n_swaps", "an int in the range [0, inf)", validate.is_int(self.n_swaps, 0))
        self._check_clusters_and_init()

    def _sample(self, source: Source, seed: int) -> Source:
        """Return the rows that are fitted."""
        if self.sample_per_cluster is None:
            return source
        return few(source, self.sample_per_cluster * self.n_clusters, Draws(seed, SAMPLE))

    def _family(self, n_rows: int, n_features: int) -> KMeansFamily:
        """Return the family: bounds pay off once a row costs more than to read and test its bounds."""
        bounded = self.algorithm in ("hamerly", "elkan")
        if self.algorithm == "auto":
            work = self.n_clusters * n_features
            bounded = self.n_clusters > 1 and work >= (BOUNDS_PAY_OFF if n_rows > CELL else BOUNDS_PAY_OFF_IN_A_CELL)
        kind = SphericalKMeansFamily if self.spherical else KMeansFamily
        if self.algorithm == "rotated":
            return kind(self.n_clusters, "rotated")
        if not bounded:
            return kind(self.n_clusters, "lloyd")
        return kind(self.n_clusters, "auto" if self.algorithm == "auto" else "bounded")

    def _rows(self, X: Any) -> Any:
        if not self.spherical:
            return X
        if isinstance(X, Source):
            return X.image(unit_rows)
        return unit_rows(X, self._threads()) if isinstance(X, np.ndarray) else unit_csr_rows(X)

    def _mute(self, X: Any) -> np.ndarray:
        if not self.spherical:
            return super()._mute(X)
        if isinstance(X, Source):
            return zero_rows(X)
        return np.flatnonzero(X.any(axis=1) == 0 if isinstance(X, np.ndarray) else abs(X).sum(axis=1) == 0)


def zero_rows(source: Source) -> np.ndarray:
    """Return the numbers of the rows of a stream in which all is 0."""
    return np.concatenate(source.collect(lambda X, rows, n_threads: rows.start + np.flatnonzero(~X.any(axis=1))))


def _on_sphere(start: em.Start) -> em.Start:
    """Return a start whose centres are unit vectors; a centre of zeros becomes the first axis."""

    def unit(problem: Problem, draws: Draws) -> KMeansParams:
        centers = unit_rows(start(problem, draws).centers)
        centers[~centers.any(axis=1), 0] = 1.0
        return KMeansParams(centers)

    return unit
