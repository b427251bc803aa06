"""Rows of a CSR matrix, which stay sparse for the families that read them so; others are handed dense grid cells."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from fastem.families.base import Loose
from fastem.families.kmeans.csr import CSRRows, csr_family
from fastem.sources.memory import MemorySource, RowsInMemory, SparseSource

# Share of values that are stored from which rows are as well made dense, cell by cell: the dense kernels take a quarter
# of the time for each.
DENSE = 0.2

# Share of the features up to which it pays to leave out those in which all rows are 0.
FEW = 0.8


class CSRSource(SparseSource):
    """Rows of a canonical CSR matrix.

    Parameters
    ----------
    X : CSR matrix (n, d)
        The rows, float32 or float64.
    sample_weight, labels, n_threads
        As those of `RowsInMemory`.
    width : int or None
        Number of features of the table that these columns were taken from; None means d.
    """

    def __init__(
        self,
        X: Any,
        sample_weight: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        n_threads: int = 1,
        width: int | None = None,
    ) -> None:
        super().__init__(X, sample_weight, labels, n_threads)
        self.width = X.shape[1] if width is None else width

    @cached_property
    def rows(self) -> CSRRows:
        """The values as kernels want them."""
        return CSRRows.of(self.X)

    @property
    def kind(self) -> type:
        """Class of the matrix."""
        return type(self.X)

    def having(self, sample_weight: np.ndarray, labels: np.ndarray, n_threads: int) -> CSRSource:
        """Return the same rows with other weights, known labels and threads."""
        other = CSRSource(self.X, sample_weight, labels, n_threads, self.width)
        if "rows" in vars(self):
            other.rows = self.rows
        return other

    def subset(self, rows: np.ndarray, weights: np.ndarray) -> CSRSource:
        """Return the rows with these numbers, with other weights (m,), or none."""
        return CSRPart(self, rows, weights)

    def occupied(self) -> tuple[CSRSource, np.ndarray | None]:
        """Return the rows without the features in which all are 0, and the numbers of the rest: None if that is all."""
        d = self.X.shape[1]
        seen = np.zeros(d, bool)
        seen[self.X.indices] = True
        if np.count_nonzero(seen) > FEW * d:
            return self, None
        features = np.flatnonzero(seen)
        number = np.cumsum(seen, dtype=np.int32) - np.int32(1)
        X = type(self.X)(
            (self.X.data, number[self.X.indices], self.X.indptr), shape=(self.n_rows, max(1, len(features)))
        )
        X.has_canonical_format = True
        return CSRSource(X, self.sample_weight, self.labels, self.n_threads, self.width), features

    def checksum(self) -> int:
        """Return a number that tells these rows from others."""
        known = hashlib.blake2b(digest_size=8)
        for array in self.rows.by_row:
            known.update(np.ascontiguousarray(array).data)
        return int.from_bytes(known.digest(), "little")

    def served_by(self, family: Any) -> Any:
        """Return the family that serves these rows: its like for CSR rows, if there is one."""
        return csr_family(super().served_by(family))

    def accumulate(self, family: Any, prepared: Any, memo: Any = None) -> Any:
        """Return the family's statistics over all rows: the E-step of one iteration."""
        if not family.reads_csr:
            return super().accumulate(family, prepared, memo)
        return family.stats_of_csr(self.rows, self.sample_weight, prepared, self.n_threads, memo)

    def each_block_for(self, family: Any, function: Callable[[Any, slice, int], None]) -> None:
        """Call ``function(rows, slice, n_threads)`` with rows as the family reads them."""
        if family.reads_csr:
            function(self.rows, slice(0, self.n_rows), self.n_threads)
        else:
            self.each_block(function)

    def sample_rows(self, m: int, draws: Any) -> np.ndarray:
        """Return m distinct rows (m, d), drawn in proportion to their weights; features first in memory."""
        return self.X[self.sample_numbers(m, draws)].toarray(order="F")

    def partition(self, family: Any, params: Any, labels: np.ndarray) -> Any:
        """Return all rows as parts, by their labels (n,)."""
        if not family.reads_csr:
            return super().partition(family, params, labels)
        stats = family.stats_of_labels(self.rows, self.sample_weight, labels, self.n_threads)
        return family.partition(stats, None, params)

    def loose(self, family: Any, numbers: np.ndarray, labels: np.ndarray) -> Iterator[Loose]:
        """Yield rows with these numbers and labels (m,); all at once where they stay sparse."""
        if not family.reads_csr:
            yield from super().loose(family, numbers, labels)
        elif len(numbers):
            yield Loose(self.rows_for(family, numbers), self.weights_by_number(numbers), labels)

    def rows_for(self, family: Any, numbers: np.ndarray) -> Any:
        """Return rows by number as the family reads them."""
        return self.rows.take(numbers) if family.reads_csr else super().rows_for(family, numbers)

    @property
    def mean_variance(self) -> float:
        """Mean of the weighted variances of all features."""
        w = self.sample_weight.astype(np.float64) if self.sample_weight.size else np.ones(self.n_rows)
        total = w.sum()
        sums = np.zeros(self.X.shape[1])
        for rows in self.rows.runs():  # SciPy makes float32 values float64, as many as it is given
            sums += self.X[rows].T @ w[rows]
        means = sums / total
        # Not by BLAS, whose threads would go on waiting for more beside those of the fit.
        square = np.sum(self.rows.squares * w) / total
        return max(0.0, float(square - np.sum(np.square(means)))) / self.width


class CSRPart(CSRSource):
    """Rows taken from others, such as a batch; their matrix is made only where it is asked for.

    Parameters
    ----------
    source : CSRSource
        Where they are taken from.
    rows : ndarray (m,) int64
        Their numbers.
    sample_weight : ndarray (m,) or (0,)
        Their weights.
    """

    def __init__(self, source: CSRSource, rows: np.ndarray, sample_weight: np.ndarray) -> None:
        self.rows = source.rows.take(rows)
        self.sample_weight, self.labels = sample_weight, np.empty(0, np.int32)
        self.n_threads, self.width = source.n_threads, source.width
        self._kind = source.kind

    @property
    def n_rows(self) -> int:  # type: ignore[override]
        """Number of rows m."""
        return len(self.rows)

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Number of features d."""
        return self.rows.n_features

    @property
    def dtype(self) -> np.dtype:  # type: ignore[override]
        """Dtype of the values."""
        return self.rows.by_row[2].dtype

    @property
    def kind(self) -> type:
        """Class of the matrix."""
        return self._kind

    @cached_property
    def X(self) -> Any:
        """The rows as a matrix."""
        indptr, indices, data = self.rows.by_row
        return self._kind((data, indices, indptr), shape=(self.n_rows, self.n_features))


def source_of(X: Any, sample_weight: np.ndarray, labels: np.ndarray, n_threads: int) -> RowsInMemory:
    """Return the source of an array or a CSR matrix."""
    if isinstance(X, np.ndarray):
        return MemorySource(X, sample_weight, labels, n_threads)
    if X.nnz > DENSE * X.shape[0] * X.shape[1]:
        return SparseSource(X, sample_weight, labels, n_threads)
    return CSRSource(canonical(X), sample_weight, labels, n_threads)


def over_all_features(centers: np.ndarray, features: np.ndarray | None, like: Any) -> np.ndarray:
    """Return centres (k, e) of the features with these numbers, or of all, as C-contiguous (k, d) of the dtype."""
    if features is None:
        return np.array(centers, like.dtype, order="C")
    wide = np.zeros((len(centers), like.shape[1]), like.dtype)
    for first in range(0, len(features), 4096):  # a run of both stays in the cache
        wide[:, features[first : first + 4096]] = centers[:, first : first + 4096][:, : len(features) - first]
    return wide


def canonical(X: Any) -> Any:
    """Return a CSR matrix without repeated entries: X, or a copy."""
    if X.has_canonical_format:
        return X
    X = X.copy()
    X.sum_duplicates()
    return X
