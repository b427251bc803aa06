"""Rows seen through a function: one grid cell at a time is mapped, so that the image of all rows never exists."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastem.sources.memory import MemorySource, SparseSource


class MappedSource(SparseSource):
    """The rows of another source in memory, mapped by a function; weights and known labels are the same.

    Parameters
    ----------
    source : MemorySource
        Where the rows are.
    function : callable
        Maps rows (m, d) to rows (m, e) of the same dtype.
    """

    def __init__(self, source: MemorySource, function: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(source.X, source.sample_weight, source.labels, source.n_threads)
        self.function = function
        self._n_features = function(source.take(np.zeros(1, np.int64))).shape[1]

    @property
    def n_features(self) -> int:
        """Number of features e of the mapped rows."""
        return self._n_features

    def _but(self, labels: np.ndarray, n_threads: int) -> MappedSource:
        return MappedSource(MemorySource(self.X, self.sample_weight, labels, n_threads), self.function)

    def _cell(self, cell: int) -> np.ndarray:
        return np.ascontiguousarray(self.function(self.X[self._rows_of(cell)]), self.dtype)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the mapped rows with these numbers (m, e)."""
        return np.ascontiguousarray(self.function(self.X[indices]), self.dtype)
