"""`partial_fit` of k-means: centres that follow batches of rows, each the mean of all rows that it has met."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from fastem import threads, validate
from fastem.draws import Draws
from fastem.estimators import door
from fastem.estimators.kmeans_base import KMeansBase
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.families.kmeans.running import Moves, RunningMeans, running_means
from fastem.sources.base import Source
from fastem.starts.assignment import assign

# Starts draw as restarts 0, 1, ...; the steps that follow draw from here on.
FIRST_STEP = 2**40


class KMeansBatches(KMeansBase):
    """Base of the estimators that take rows batch by batch.

    A subclass says how the first centres are chosen (`_first_centers`) and what becomes of centres that meet few rows
    (`_moves`).
    """

    counts_: np.ndarray
    n_steps_: int
    _seed: int

    def _check_parameters(self) -> None:
        """Refuse bad parameters."""
        raise NotImplementedError

    def _first_centers(self, source: Source, tries: int | None = None) -> np.ndarray:
        """Return the best of several starts (k, d) float64 among the rows of a batch."""
        raise NotImplementedError

    def _moves(
        self, counts: np.ndarray, batch: Source, family: KMeansFamily, prepared: Any, draws: Draws
    ) -> Moves | None:
        """Return the centres that are too light, by counts (k,) after the batch, and its rows that they move to."""
        raise NotImplementedError

    def _finish(self, source: Source, centers: np.ndarray) -> None:
        """Assign the rows of the last batch to the centres (k, d) that it led to."""
        self._n_features_out = self.n_clusters
        labels, sqdist = assign(source, centers)
        self._keep_labels(source, labels)
        weights, distances = source.sample_weight.astype(np.float64), sqdist.astype(np.float64)
        self.inertia_ = float(distances @ weights if weights.size else distances.sum())

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Make one step on the rows of X; the first call also chooses the first centres among them.

        Parameters
        ----------
        X : array-like or CSR matrix (n_samples, n_features)
            The batch.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0.

        Returns
        -------
        object
            self; `counts_` are the weights of all rows that each centre is the mean of.

        Notes
        -----
        After a `fit` of `KMeans` it goes on from the fitted centres, but what `fit` has seen has no weight.

        Raises
        ------
        ValueError
            As `fit`; only the first batch must have as many rows as there are clusters.
        """
        first = not hasattr(self, "cluster_centers_")
        if first:
            self._check_parameters()
            X = self._table_to_fit(X)
        else:
            if len(self.cluster_centers_) != self.n_clusters:
                raise ValueError(
                    f"partial_fit goes on from the {len(self.cluster_centers_)} centers that it has, but n_clusters is "
                    f"{self.n_clusters}: set it back, or call fit."
                )
            X = door.table(self, X, reset=False, accept_sparse=True)
        source = self._source(self._rows(X), sample_weight)
        if not hasattr(self, "_seed"):  # the first call, or a model that was loaded
            self._seed = validate.seed(self.random_state)
        centers = self._first_centers(source, tries=1) if first else self.cluster_centers_.astype(np.float64)
        if first or not hasattr(self, "counts_"):
            self._forget()
            self.n_steps_ = 0
        means = self._means(source, self._means_of(centers))
        prepared = means.family.prepare(KMeansParams(centers), source.dtype)
        with threads.single_threaded_blas():
            self._step(source, means, prepared, Draws(self._seed, FIRST_STEP + 1 + self.n_steps_))
        moved = self._centers_of(means.settled(), centers)
        self.cluster_centers_ = np.array(moved, X.dtype if first else self.cluster_centers_.dtype, order="C")
        self.n_steps_ += 1
        self._finish(source, self.cluster_centers_)
        return self

    def _forget(self) -> None:
        """Begin to count anew."""
        self.counts_ = np.zeros(self.n_clusters)
        self._since_moved = 0
        for name in ("labels_", "inertia_"):
            self.__dict__.pop(name, None)

    def _means(self, source: Source, means: np.ndarray) -> RunningMeans:
        """Return the running means that steps over rows of a source move; they begin at `means` (k, d)."""
        family = source.served_by(KMeansFamily(self.n_clusters))
        return running_means(family, means, self.counts_, source.dtype)

    def _step(self, batch: Source, means: RunningMeans, prepared: Any, draws: Draws) -> tuple[float, float]:
        """Move the means by a batch, whose rows belong to the nearest of the centres that are `prepared`.

        Returns the inertia before, and the squared movement of means that are the centres.
        """
        stats, moves = batch.accumulate(means.family, prepared), None
        if self._due(batch.n_rows):
            moves = self._moves(means.counts + stats.counts, batch, means.family, prepared, draws)
        change = means.meet(stats, prepared, moves)
        self.counts_ = means.counts
        return float(stats.inertia), change

    def _means_of(self, centers: np.ndarray) -> np.ndarray:
        """Return the means (k, d) of all rows that centres have met: the centres themselves, as a rule."""
        return centers

    def _centers_of(self, means: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return the centres (k, d) that such means make, where `before` were the centres."""
        return means

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        super()._check_loaded()
        if hasattr(self, "counts_"):
            self.counts_ = validate.shaped(self.counts_, (len(self.cluster_centers_),), "counts_")

    def _due(self, n_rows: int) -> bool:
        """Tell whether a step of so many rows is to look for light centres: it is while one has met no row."""
        self._since_moved = getattr(self, "_since_moved", 0) + n_rows
        due = self._since_moved >= 10 * self.n_clusters or not np.all(self.counts_)
        if due:
            self._since_moved = 0
        return due
