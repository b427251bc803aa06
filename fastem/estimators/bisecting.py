"""Bisecting k-means for scikit-learn users: clusters are split in two until there are enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastem import validate
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.estimators import checkpoints, door
from fastem.estimators.callbacks import with_callbacks
from fastem.estimators.conversion import HasTwin
from fastem.estimators.kmeans import BOUNDS_PAY_OFF
from fastem.estimators.kmeans_base import KMeansBase
from fastem.estimators.shared_parameters import documented
from fastem.families.kmeans import KMeansFamily
from fastem.sources.base import Source
from fastem.sources.csr import over_all_features
from fastem.starts.assignment import assign
from fastem.starts.kmeans import kmeans_start, kmeans_tol

STRATEGIES = ("biggest_inertia", "largest_cluster")
ALGORITHMS = ("lloyd", "elkan")


@documented
class BisectingKMeans(KMeansBase, HasTwin):
    """Bisecting k-means: the worst cluster is split by k-means with two centres, until there are `n_clusters`.

    A replacement for `sklearn.cluster.BisectingKMeans` with the same parameters and attributes.  The result does not
    depend on `n_threads`, to the bit.

    Parameters
    ----------
    {n_clusters}
    init : {"k-means++", "k-means||", "random"} or callable, default="random"
        How a split chooses its two first centres.  A callable is called as ``init(X, 2, random_state=...)``.
    n_init : int, default=1
        Restarts of each split; the one with the lowest distortion is kept.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the starts.
    max_iter : int, default=300
        Most iterations of one restart of a split.
    verbose : int, default=0
        Print each iteration.
    tol : float, default=1e-4
        A split stops when its centres' squared movement, summed, is at most `tol` times the mean variance of the
        features of X.
    copy_x : bool, default=True
        Without effect: X is never written to.
    algorithm : {"lloyd", "elkan"}, default="lloyd"
        Both give the same splits up to rounding; "elkan" keeps distance bounds of the rows.
    bisecting_strategy : {"biggest_inertia", "largest_cluster"}, default="biggest_inertia"
        Which cluster to split next: the one of largest distortion, or of most rows.
    n_threads : int or None, default=None
        Threads to use; None means all that the process may use.
    {checkpoint, checkpoint_every}

    Attributes
    ----------
    cluster_centers_ : ndarray (n_clusters, n_features)
        Centres, in X's dtype.
    labels_ : ndarray (n_samples,) int32
        Cluster of each training row, always equal to ``predict(X)``.
    inertia_ : float
        Weighted sum of squared distances of rows to the centres of their clusters.
    converged_ : bool
        Whether every split did within `max_iter` iterations.
    tree_centers_ : ndarray (2 n_clusters - 1, n_features)
        Centres of all nodes of the tree of splits; node 0 is the root.
    tree_children_ : ndarray (2 n_clusters - 1, 2) int32
        Numbers of the two halves of each node; of a leaf -1 and its label.

    References
    ----------
    Steinbach, Karypis and Kumar, "A comparison of document clustering techniques", KDD workshop on text mining, 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import BisectingKMeans
    >>> X = np.array([[1, 1], [10, 1], [3, 1], [10, 0], [2, 1], [10, 2], [10, 8], [10, 9], [10, 10]])
    >>> model = BisectingKMeans(n_clusters=3, random_state=0).fit(X)
    >>> sorted(model.cluster_centers_.tolist())
    [[2.0, 1.0], [10.0, 1.0], [10.0, 9.0]]
    >>> model.predict([[0, 0], [12, 3]]).tolist() == model.labels_[[0, 1]].tolist()
    True
    """

    _saved: ClassVar = ("cluster_centers_", "inertia_", "tree_centers_", "tree_children_")
    _saved_if_set: ClassVar = ("converged_", "labels_")
    _twin_module: ClassVar = "sklearn.cluster"
    _twin_attributes: ClassVar = ("cluster_centers_", "labels_", "inertia_")
    _twin_values: ClassVar = {"init": {"k-means||": "k-means++"}}
    callback = None
    certify = False
    keep_history = False
    tree_centers_: np.ndarray
    tree_children_: np.ndarray

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | Callable[..., Any] = "random",
        n_init: int = 1,
        random_state: Any = None,
        max_iter: int = 300,
        verbose: int = 0,
        tol: float = 1e-4,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        bisecting_strategy: str = "biggest_inertia",
        n_threads: int | None = None,
        checkpoint: Any = None,
        checkpoint_every: Any = "5min",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.random_state = random_state
        self.max_iter = max_iter
        self.verbose = verbose
        self.tol = tol
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.bisecting_strategy = bisecting_strategy
        self.n_threads = n_threads
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> BisectingKMeans:
        """Find the clusters.

        Parameters
        ----------
        X : array-like or CSR matrix (n_samples, n_features)
            Rows; float32 stays float32, all else becomes float64.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0.

        Returns
        -------
        BisectingKMeans
            self.

        Raises
        ------
        ValueError
            On bad parameters, NaN or infinity in X, fewer rows than clusters, or bad weights.
        """
        self._check_parameters()
        X = self._table_to_fit(X)
        source = self._source(X, sample_weight)
        watch = self._watch(X, 0, lambda tree: {})  # the fit as a whole; its splits are no models yet
        seed = validate.seed(self.random_state)
        checkpoint = checkpoints.opened(self, source, seed)
        seed = seed if checkpoint is None else checkpoint.seed
        settings = self._settings(kmeans_tol(source, self.tol), checkpoint=checkpoint)
        source, features = self._occupied(source, watch)
        nodes, self.converged_ = [self._root(source, settings)], True
        for number in range(self.n_clusters - 1):
            largest = max((node for node in nodes if node.can_split()), key=lambda node: node.score)
            largest.children = (len(nodes), len(nodes) + 1)
            nodes.extend(self._split(source, largest, settings, int(Draws(seed, number).bits(1)[0])))
        labels = self._keep_tree(source, nodes, features, X)
        if checkpoint is not None:
            checkpoint.remove()
        if watch is not None:
            watch.end(None)
        self._warn_if_stopped()
        self._n_features_out = self.n_clusters
        self._warn_if_clusters_coincide(source, labels)
        return self

    def _check_parameters(self) -> None:
        check = validate.parameter
        check(self, "n_init", "an int in the range [1, inf)", validate.is_int(self.n_init, 1))
        check(self, "algorithm", f"a str among {set(ALGORITHMS)}", self.algorithm in ALGORITHMS)
        known = self.bisecting_strategy in STRATEGIES
        check(self, "bisecting_strategy", f"a str among {set(STRATEGIES)}", known)
        self._check_clusters_and_init(arrays=False)

    def _root(self, source: Source, settings: Settings) -> _Node:
        """Return the cluster of all rows."""
        start = kmeans_start(1, source.take(np.zeros(1, np.int64)).astype(np.float64))
        run = em.run(Problem(source, KMeansFamily(1)), start, settings=settings).best
        return _Node(np.arange(source.n_rows), run.params.centers[0], inertia=-run.objective)

    def _split(self, source: Source, node: _Node, settings: Settings, seed: int) -> list[_Node]:
        """Return the two halves of a node, whose rows are let go."""
        rows = node.rows
        w = source.sample_weight[rows] if source.sample_weight.size else source.sample_weight
        if w.size and not np.any(w):
            w = w[:0]  # rows without a say of their own
        part = source.subset(rows, w)
        start, n_init = self._start(source.n_features, 2)
        bounded = self.algorithm == "elkan" and 2 * source.n_features >= BOUNDS_PAY_OFF
        family = KMeansFamily(2, "bounded" if bounded else "lloyd")
        run = em.run(Problem(part, family), start, settings=settings, n_init=n_init, seed=seed).best
        node.rows = np.empty(0, np.int64)
        self.converged_ = self.converged_ and run.converged
        centers = run.params.centers.astype(source.dtype)
        labels, sqdist = assign(part, centers)
        distances = sqdist.astype(np.float64) * (source.sample_weight[rows] if source.sample_weight.size else 1.0)
        halves = []
        for half in (0, 1):
            mine = labels == half
            inertia = float(distances[mine].sum())
            score = inertia if self.bisecting_strategy == "biggest_inertia" else float(np.count_nonzero(mine))
            halves.append(_Node(rows[mine], centers[half], score, inertia))
        return halves

    def _keep_tree(self, source: Source, nodes: list[_Node], features: np.ndarray | None, X: Any) -> np.ndarray:
        """Set the fitted attributes and return the labels (n,); leaves are numbered from left to right."""
        self.tree_centers_ = over_all_features(np.array([node.center for node in nodes]), features, X)
        self.tree_children_ = np.full((len(nodes), 2), -1, np.int32)
        labels = source.empty(source.n_rows, np.int32)
        leaves: list[int] = []
        waiting = [0]
        while waiting:
            number = waiting.pop()
            node = nodes[number]
            if node.children:
                self.tree_children_[number] = node.children
                waiting.extend(reversed(node.children))
            else:
                self.tree_children_[number, 1] = len(leaves)
                labels[node.rows] = len(leaves)
                leaves.append(number)
        self._keep_labels(source, labels)
        self.cluster_centers_ = self.tree_centers_[leaves]
        self.inertia_ = float(sum(nodes[leaf].inertia for leaf in leaves))
        return labels

    @door.by_blocks
    def predict(self, X: Any) -> np.ndarray:
        """Return the cluster of each row: at every split the nearer of the two centres.

        Parameters
        ----------
        X : array-like or CSR matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) int32
        """
        check_is_fitted(self)
        source = self._source(door.table(self, X, reset=False, accept_sparse=True), None)
        labels = np.empty(source.n_rows, np.int32)
        waiting = [(0, np.arange(source.n_rows))]
        while waiting:
            number, rows = waiting.pop()
            first, second = self.tree_children_[number].tolist()
            if first < 0:
                labels[rows] = second
            elif rows.size:
                part = source.subset(rows, source.sample_weight[:0])
                nearer = assign(part, self.tree_centers_[[first, second]])[0]
                waiting.extend([(first, rows[nearer == 0]), (second, rows[nearer == 1])])
        return labels

    def _complete_twin(self, twin: Any) -> None:
        super()._complete_twin(twin)
        from sklearn.cluster._bisect_k_means import _BisectingTree

        nodes = [_BisectingTree(center, None, 0.0) for center in self.tree_centers_]
        for node, (first, second) in zip(nodes, self.tree_children_.tolist(), strict=True):
            if first < 0:
                node.label = second
            else:
                node.left, node.right = nodes[first], nodes[second]
        twin._bisecting_tree = nodes[0]

    def _complete_from(self, model: Any) -> None:
        super()._complete_from(model)
        shift = getattr(model, "_X_mean", 0.0)  # dense rows are centred for the fit
        nodes, children = [model._bisecting_tree], []
        for node in nodes:  # which grows
            if node.left is None:
                children.append((-1, node.label))
            else:
                children.append((len(nodes), len(nodes) + 1))
                nodes += [node.left, node.right]
        self.tree_centers_ = np.array([node.center + shift for node in nodes], self.cluster_centers_.dtype)
        self.tree_children_ = np.array(children, np.int32)

    def _check_loaded(self) -> None:
        super()._check_loaded()
        k, d = self.cluster_centers_.shape
        shape = (2 * k - 1, d)
        if self.tree_centers_.shape != shape or self.tree_children_.shape != (2 * k - 1, 2):
            raise ValueError(f"tree_centers_ and tree_children_ must have shapes {shape} and {(2 * k - 1, 2)}")
        self.tree_centers_ = validate.rows(self.tree_centers_, "tree_centers_")
        first, second = self.tree_children_.T
        leaf = first < 0
        numbers = np.arange(2 * k - 1)
        downwards = (first > numbers) & (second > numbers) & (np.maximum(first, second) < 2 * k - 1)
        if not np.all(np.where(leaf, (second >= 0) & (second < k), downwards)):
            raise ValueError("tree_children_ must point from each node to later ones, or to a label")


class _Node:
    """A cluster: its rows and their centre; once it is split, its halves."""

    def __init__(self, rows: np.ndarray, center: np.ndarray, score: float = 0.0, inertia: float = 0.0) -> None:
        self.rows = rows
        self.center = center
        self.score = score
        self.inertia = inertia
        self.children: tuple[int, int] | None = None

    def can_split(self) -> bool:
        """Whether there are two rows to part; while leaves are fewer than rows, one can."""
        return self.children is None and len(self.rows) > 1
