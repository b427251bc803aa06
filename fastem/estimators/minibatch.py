"""Mini-batch k-means for scikit-learn users: centres that follow small samples of the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastem import threads, validate
from fastem.draws import Draws
from fastem.engine.checkpoint import Checkpoint
from fastem.engine.monitor import IterationInfo
from fastem.engine.problem import Problem
from fastem.estimators import checkpoints
from fastem.estimators.callbacks import Watch, warn, with_callbacks
from fastem.estimators.conversion import HasTwin
from fastem.estimators.kmeans_batches import FIRST_STEP, KMeansBatches
from fastem.estimators.shared_parameters import documented
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.families.kmeans.running import Moves, RunningMeans
from fastem.sources.base import Source
from fastem.sources.csr import over_all_features
from fastem.starts.kmeans import kmeans_tol
from fastem.starts.samples import few


@documented
class MiniBatchKMeans(KMeansBatches, HasTwin):
    """K-means on mini-batches: each step moves the centres by the rows of one small sample.

    A replacement for `sklearn.cluster.MiniBatchKMeans` with the same parameters and attributes.  Each centre is the
    mean of all rows that steps have assigned to it.  On the same batches the steps and the early stop are
    scikit-learn's; the batches are other draws, and from one seed to the next the number of steps varies several-fold.
    The result does not depend on `n_threads`, to the bit.

    Parameters
    ----------
    {n_clusters}
    init : {"k-means++", "k-means||", "random"}, array (n_clusters, n_features) or callable, default="k-means++"
        How the first centres are chosen, among `init_size` rows drawn at random.
    max_iter : int, default=100
        Most passes over the data, counted in rows drawn.
    batch_size : int, default=1024
        Rows of one step.
    verbose : int, default=0
        Print each step.
    compute_labels : bool, default=True
        Assign all rows to the final centres, which gives `labels_` and `inertia_`.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the starts and batches.
    tol : float, default=0.0
        Stop when a step moves the centres, in squared distance summed, by at most `tol` times the mean variance of the
        features; 0 turns this off.
    max_no_improvement : int or None, default=10
        Stop after this many steps in a row without a new lowest smoothed inertia of the batches.
    init_size : int or None, default=None
        Rows drawn for a start; None means three batches, or 3 k if those are fewer than k.
    n_init : "auto" or int, default="auto"
        Starts tried, each judged by its inertia on one sample of `init_size` rows; "auto" is 3 for "random" or a
        callable and 1 otherwise.
    reassignment_ratio : float, default=0.01
        Centres with less than this share of the largest centre's weight are moved to random rows, every 10 k rows.
    n_threads : int or None, default=None
        Threads to use; None means all that the process may use.
    checkpoint : str, path or None, default=None
        File to save the state of `fit` in, from which the next `fit` goes on should this one be killed, to the same
        bits; a finished fit removes it.  See docs/larger_than_memory.md.
    checkpoint_every : int, str or timedelta, default="5min"
        How often: an int of steps, or a time such as "30s", "5min" or "2h".

    Attributes
    ----------
    cluster_centers_ : ndarray (n_clusters, n_features)
        Centres, in X's dtype.
    labels_ : ndarray (n_samples,) int32
        Nearest centre of each row of the last call, always equal to ``predict(X)``.
    inertia_ : float
        Distortion of these rows; without `compute_labels`, estimated from the batches.
    counts_ : ndarray (n_clusters,)
        Weight of the rows that each centre is the mean of.
    n_iter_ : int
        Passes over the data.
    converged_ : bool
        Whether `fit` stopped before `max_iter` passes; `partial_fit` does not ask.
    n_steps_ : int
        Steps.

    References
    ----------
    Sculley, "Web-scale k-means clustering", WWW 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import MiniBatchKMeans
    >>> rng = np.random.default_rng(0)
    >>> X = np.repeat([[0.0, 0.0], [9.0, 9.0]], 5000, axis=0) + rng.normal(size=(10000, 2))
    >>> MiniBatchKMeans(2, random_state=0).fit(X).predict([[1.0, 1.0], [8.0, 8.0]]).tolist() in ([0, 1], [1, 0])
    True
    >>> model = MiniBatchKMeans(2, random_state=0)
    >>> for batch in np.array_split(rng.permutation(X), 10):
    ...     model = model.partial_fit(batch)
    >>> model.n_steps_, int(model.counts_.sum())
    (10, 10000)
    """

    _saved: ClassVar = ("cluster_centers_", "counts_", "n_steps_")
    _saved_if_set: ClassVar = ("labels_", "inertia_", "n_iter_", "converged_", "_seed", "_since_moved")
    _twin_module: ClassVar = "sklearn.cluster"
    _twin_attributes: ClassVar = ("cluster_centers_", "labels_", "inertia_", "n_iter_", "n_steps_")
    _twin_values: ClassVar = {"init": {"k-means||": "k-means++"}}
    _auto_n_init = 3
    callback = None

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | np.ndarray | Callable[..., Any] = "k-means++",
        max_iter: int = 100,
        batch_size: int = 1024,
        verbose: int = 0,
        compute_labels: bool = True,
        random_state: Any = None,
        tol: float = 0.0,
        max_no_improvement: int | None = 10,
        init_size: int | None = None,
        n_init: int | str = "auto",
        reassignment_ratio: float = 0.01,
        n_threads: int | None = None,
        checkpoint: Any = None,
        checkpoint_every: Any = "5min",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.init_size = init_size
        self.n_init = n_init
        self.reassignment_ratio = reassignment_ratio
        self.n_threads = n_threads
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Find the centres by steps on rows drawn from X, in proportion to their weights.

        Parameters
        ----------
        X : array-like or CSR matrix (n_samples, n_features)
            Rows; float32 stays float32, all else becomes float64.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0.

        Returns
        -------
        MiniBatchKMeans
            self.

        Raises
        ------
        ValueError
            On bad parameters, NaN or infinity in X, fewer rows than clusters, or bad weights.
        """
        self._check_parameters()
        X = self._table_to_fit(X)
        source = self._source(X, sample_weight)
        seed = validate.seed(self.random_state)
        checkpoint = checkpoints.opened(self, source, seed)
        self._seed = seed if checkpoint is None else checkpoint.seed
        size = min(self.batch_size, source.n_rows)
        limits = _Limits(self.max_iter * source.n_rows // size, kmeans_tol(source, self.tol))
        watch = self._watch(X, 1, lambda centers: {"cluster_centers_": centers.astype(X.dtype)}, most=limits.n_steps)
        source, features = self._occupied(source, watch)
        improvement = _Improvement(min(1.0, 2.0 * size / (source.n_rows + 1)), self.max_no_improvement)
        with threads.single_threaded_blas():
            means, step = self._steps(source, size, limits, improvement, watch, checkpoint)
        centers = means.settled()
        self.cluster_centers_ = over_all_features(centers, features, X)
        self.n_steps_ = step
        self.n_iter_ = -(-step * size // source.n_rows)
        self._finish(source, centers)
        if not self.compute_labels:
            self.inertia_ = improvement.smoothed * source.total_weight
        if checkpoint is not None:
            checkpoint.remove()
        if watch is not None:
            watch.end(centers)
        return self

    def _steps(
        self,
        source: Source,
        size: int,
        limits: _Limits,
        improvement: _Improvement,
        watch: Watch | None,
        checkpoint: Checkpoint | None,
    ) -> tuple[RunningMeans, int]:
        """Make all steps, on from a state that was saved; return the means and how many steps there were."""
        draws, step = Draws(self._seed, FIRST_STEP), 0
        batches = _Batches(source, draws)
        slot = None if checkpoint is None else checkpoint.stage(KMeansFamily(self.n_clusters)).slot(0)
        self._forget()
        self.converged_ = False
        if slot is None or slot.state is None:
            means = self._means(source, self._first_centers(source))
        else:
            with slot.stage.checkpoint.trusted():
                means, step = self._recall(slot.take(), source, draws, improvement)
        while step < limits.n_steps:
            step += 1
            inertia, change = self._step(batches.next(size), means, means.prepare(source.dtype), draws)
            if watch is not None and watch.iteration(IterationInfo(0, step, -inertia, change, means.centers)):
                break
            self.converged_ = improvement.see(step, inertia / size) or (
                step > 1 and limits.tol > 0 and change <= limits.tol
            )
            if self.converged_:
                break
            if slot is not None and slot.due(1):
                slot.keep(self._state(step, means, draws, improvement))
            if self.verbose:
                print(f"step {step} of {limits.n_steps}: inertia of a row {inertia / size:.6g}, change {change:.3g}")
        return means, step

    def _state(self, step: int, means: RunningMeans, draws: Draws, improvement: _Improvement) -> dict[str, Any]:
        """Return all that a fit is between two steps: arrays and numbers by name."""
        return {
            "step": step,
            "drawn": draws.n_drawn,
            "since moved": self._since_moved,
            "means": means.state(),
            "smoothed": improvement.smoothed,
            "lowest": improvement.lowest,
            "in vain": improvement.in_vain,
        }

    def _recall(
        self, state: dict[str, Any], source: Source, draws: Draws, improvement: _Improvement
    ) -> tuple[RunningMeans, int]:
        """Go on from what `_state` returned; return the means and the number of steps."""
        means = self._means(source, np.zeros((self.n_clusters, source.n_features)))
        means.recall(state["means"])
        draws.go_on_after(state["drawn"])
        self._since_moved, self.counts_ = state["since moved"], means.counts
        improvement.smoothed, improvement.lowest = state["smoothed"], state["lowest"]
        improvement.in_vain = state["in vain"]
        return means, state["step"]

    def _complete_twin(self, twin: Any) -> None:
        super()._complete_twin(twin)
        twin._counts = self.counts_.astype(self.cluster_centers_.dtype)  # what its partial_fit goes on from
        twin._batch_size = self.batch_size
        twin._n_since_last_reassign = getattr(self, "_since_moved", 0)
        twin._random_state = np.random.RandomState(self._seed % 2**32)

    def _complete_from(self, model: Any) -> None:
        super()._complete_from(model)
        self.counts_, self._since_moved = np.asarray(model._counts, np.float64), model._n_since_last_reassign
        self._seed = validate.seed(self.random_state)

    def _check_parameters(self) -> None:
        check = validate.parameter
        check(self, "batch_size", "an int in the range [1, inf)", validate.is_int(self.batch_size, 1))
        check(self, "compute_labels", "a bool", isinstance(self.compute_labels, bool | np.bool_))
        patience = self.max_no_improvement is None or validate.is_int(self.max_no_improvement, 0)
        check(self, "max_no_improvement", "an int in the range [0, inf) or None", patience)
        sized = self.init_size is None or validate.is_int(self.init_size, 1)
        check(self, "init_size", "an int in the range [1, inf) or None", sized)
        ratio = validate.is_real(self.reassignment_ratio, 0)
        check(self, "reassignment_ratio", "a float in the range [0.0, inf)", ratio)
        self._check_clusters_and_init()

    def _first_centers(self, source: Source, tries: int | None = None) -> np.ndarray:
        """Return the best of several starts (k, d) float64, each among a few rows."""
        start, n_init = self._start(source.n_features, self.n_clusters)
        size, family = self._start_size(source.n_rows), source.served_by(KMeansFamily(self.n_clusters))
        starts = []
        for number in range(tries or n_init):
            draws = Draws(self._seed, number)
            starts.append(start(Problem(few(source, size, draws), family), draws).centers)
        if len(starts) == 1:
            return np.asarray(starts[0])
        judge = few(source, size, Draws(self._seed, FIRST_STEP - 1))
        inertias = [
            judge.accumulate(family, family.prepare(KMeansParams(centers), source.dtype)).inertia for centers in starts
        ]
        return starts[int(np.argmin(inertias))]

    def _start_size(self, n_rows: int) -> int:
        """Return the number of rows that a start is chosen among."""
        size = 3 * min(self.batch_size, n_rows) if self.init_size is None else self.init_size
        if size < self.n_clusters:
            size = 3 * self.n_clusters
            if self.init_size is not None:
                warn(
                    f"init_size={self.init_size} should be larger than n_clusters={self.n_clusters}. "
                    "Setting it to min(3*n_clusters, n_samples)",
                    RuntimeWarning,
                )
        return min(size, n_rows)

    def _moves(
        self, counts: np.ndarray, batch: Source, family: KMeansFamily, prepared: Any, draws: Draws
    ) -> Moves | None:
        """Return the centres of little weight, beside these counts (k,), and the random rows that they move to."""
        light = np.flatnonzero(counts < self.reassignment_ratio * counts.max())
        light = np.sort(light[np.argsort(counts[light], kind="stable")[: batch.n_rows // 2]])
        if not light.size:
            return None
        others = np.delete(counts, light)
        weight = float((others if others.size else counts).min())  # enough not to be moved again at once
        if self.verbose:
            print(f"moved {len(light)} centres of little weight to random rows")
        return Moves(light, batch.rows_for(family, batch.sample_numbers(len(light), draws)), weight)

    def _finish(self, source: Source, centers: np.ndarray) -> None:
        """Assign the rows to the final centres (k, d), if asked."""
        self._n_features_out = self.n_clusters
        if self.compute_labels:
            super()._finish(source, centers)


class _Limits(NamedTuple):
    """When the steps end."""

    n_steps: int
    tol: float  # a squared movement; 0 turns it off


class _Improvement:
    """Watches the smoothed inertia of the batches; the first one belongs to the start and is left out.

    Parameters
    ----------
    alpha : float
        Weight of the newest batch.
    patience : int or None
        Steps without a new minimum after which to stop.
    """

    def __init__(self, alpha: float, patience: int | None) -> None:
        self.alpha = alpha
        self.patience = patience
        self.smoothed = np.nan
        self.lowest = np.inf
        self.in_vain = 0

    def see(self, step: int, inertia: float) -> bool:
        """Take note of a step's inertia per row; return whether to stop."""
        if step <= 2:
            self.smoothed = inertia
        else:
            self.smoothed = (1 - self.alpha) * self.smoothed + self.alpha * inertia
        if step == 1:
            return False
        self.in_vain = 0 if self.smoothed < self.lowest else self.in_vain + 1
        self.lowest = min(self.lowest, self.smoothed)
        return self.patience is not None and self.in_vain >= self.patience


class _Batches:
    """Draws rows with replacement, in proportion to their weights.

    Parameters
    ----------
    source : Source
        Rows and weights.
    draws : Draws
        Random numbers.
    """

    def __init__(self, source: Source, draws: Draws) -> None:
        self.source = source
        self.draws = draws
        w = source.sample_weight
        self.heavy = np.flatnonzero(w)
        self.cumulative = np.cumsum(w[self.heavy], dtype=np.float64)

    def next(self, size: int) -> Source:
        """Return the next batch, of unit weights; its rows are in order, which is how they come fast out of memory."""
        u = np.sort(self.draws.uniform(size))
        if self.cumulative.size:
            places = np.searchsorted(self.cumulative, u * self.cumulative[-1], side="right")
            rows = self.heavy[np.minimum(places, len(self.heavy) - 1)]
        else:
            rows = (u * self.source.n_rows).astype(np.int64)
        return self.source.subset(rows, self.source.sample_weight[:0])
