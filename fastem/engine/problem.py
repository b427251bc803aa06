"""What no restart of a fit changes, made once and handed to every restart."""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from fastem import grid
from fastem._native import mixtures
from fastem.families.base import Family


class SharedCenters:
    """First centres found so far, by key: several models that are fitted to the same rows begin from the same ones."""

    def __init__(self) -> None:
        self._found: dict[Any, np.ndarray] = {}
        self._locks: defaultdict[Any, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()
        self._folds: defaultdict[int, SharedCenters] = defaultdict(SharedCenters)

    def once(self, key: Any, find: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what was found for `key`; the first to ask finds it, the others wait.

        Examples
        --------
        >>> centers = SharedCenters()
        >>> centers.once("key", lambda: 1), centers.once("key", lambda: 2)
        (1, 1)
        """
        with self._guard:
            lock = self._locks[key]
        with lock:
            if key not in self._found:
                self._found[key] = find()
        return self._found[key]

    def fold(self, number: int) -> SharedCenters:
        """Return those of a numbered part of the rows."""
        with self._guard:
            return self._folds[number]


class Problem:
    """Rows, and the family that is fitted to them.

    Parameters
    ----------
    source : a source of `fastem.sources`
        Rows, weights and known labels.
    family : Family
        The model.
    constants : object or None
        What ``family.constants(source)`` returned, if it is known already.
    centers : SharedCenters or None
        First centres that other fits to the same rows have found.

    Attributes
    ----------
    family : Family
        The model, for rows with missing values where there are some.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import families
    >>> from fastem.sources.memory import MemorySource
    >>> Problem(MemorySource(np.array([[0.0], [2.0]])), families.make("gaussian-full", 1)).variances
    array([1.])
    """

    def __init__(
        self, source: Any, family: Family, *, constants: Any = None, centers: SharedCenters | None = None
    ) -> None:
        self.source = source
        self.family = source.served_by(family)
        self._centers = centers
        self._lock = threading.RLock()  # restarts may run in several threads
        self._known: dict[str, Any] = {} if constants is None else {"constants": constants}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what was made under this name; the first to ask makes it."""
        if name in self._known:  # without the lock: a name that is there stays
            return self._known[name]
        with self._lock:
            if name not in self._known:
                self._known[name] = make()
            return self._known[name]

    @property
    def shares_centers(self) -> bool:
        """Whether other fits to the same rows begin from the same centres."""
        return self._centers is not None

    def first_centers(self, key: Any, find: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the first centres that another fit has found for this key, or find them."""
        return find() if self._centers is None else self._centers.once(key, find)

    @property
    def constants(self) -> Any:
        """What no parameter changes, of the family's choice."""
        return self.once("constants", lambda: self.family.constants(self.source))

    @property
    def space(self) -> Any:
        """The rows as starts see them (`start_space`)."""
        return self.once("space", lambda: start_space(self.source, self.family))

    @property
    def variances(self) -> np.ndarray:
        """Weighted variance of each feature (e,) of the start space."""
        found: np.ndarray = self.once("variances", lambda: variances(self.space))
        return found

    def needs_no_rows(self, params: Any) -> bool:
        """Tell whether an E-step at these parameters is made of the constants alone."""
        prepared = self.family.prepare(params, self.source.dtype)
        return self.family.stats_of_constants(self.constants, prepared) is not None

    def with_threads(self, n_threads: int) -> Problem:
        """Return the same problem, its rows read by another number of threads."""
        other = copy.copy(self)
        other.source, other._lock = self.source.with_threads(n_threads), threading.RLock()
        other._known = {"constants": self.constants}
        return other

    def with_family(self, family: Family) -> Problem:
        """Return the problem of another model of the same rows."""
        return Problem(self.source, family, centers=self._centers)


def start_space(source: Any, family: Family) -> Any:
    """Return the rows as starts see them: complete, and with distances that mean something to the family.

    Missing values lie at the mean of their feature.
    """
    embed = family.embedding()
    if embed is not None:
        return source.mapped(embed)
    if not family.allow_nan or not source.has_nan:
        return source
    middle = _observed_means(source).astype(source.dtype)
    return source.mapped(lambda X: np.where(np.isnan(X), middle, X))


def _observed_means(source: Any) -> np.ndarray:
    """Mean of each feature (d,) over the rows where it is observed; 0 where it never is."""
    d = source.n_features

    def cell(X: np.ndarray, rows: slice) -> np.ndarray:
        w, seen = source.weights_of(rows), ~np.isnan(X)
        w = w.astype(np.float64) if w.size else np.ones(len(X))
        return np.concatenate([w @ np.where(seen, X, 0.0), w @ seen])

    total = source.fold(cell, 2 * d)
    return total[:d] / np.where(total[d:] > 0, total[d:], np.inf)


def variances(source: Any) -> np.ndarray:
    """Return the weighted variance of each feature (d,), centred on their mean or on that of a few rows."""
    if source.array is not None and source.n_rows <= grid.CELL:
        return mixtures.variances(source.array, source.sample_weight)
    some = np.linspace(0, source.n_rows - 1, min(source.n_rows, 256)).astype(np.int64)
    origin = source.take(some).mean(axis=0, dtype=np.float64)
    d = source.n_features

    def cell(X: np.ndarray, rows: slice) -> np.ndarray:
        centred = X - origin
        w = source.weights_of(rows)
        w = w.astype(np.float64) if w.size else np.ones(len(X))
        return np.concatenate([[w.sum()], w @ centred, w @ np.square(centred)])

    total = source.fold(cell, 1 + 2 * d)
    mean = total[1 : 1 + d] / total[0]
    return np.maximum(total[1 + d :] / total[0] - mean**2, 0.0)
