"""What a source of rows is, and the passes that follow from it for every source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastem import grid, validate
from fastem.draws import Draws
from fastem.families.base import Loose
from fastem.sources.reading import Tree

# Numbers of the rows that are taken out of a source at once.
AT_ONCE = 4_000_000


class Rows(NamedTuple):
    """A few rows taken out of a source."""

    indices: np.ndarray  # (m,) int64
    X: np.ndarray  # (m, d)
    weights: np.ndarray  # (m,) float64


def runs(column: Any, slices: list[slice]) -> list[np.ndarray]:
    """Return a few runs of entries of an array of `Source.empty`, wherever it lies."""
    fetch = getattr(column, "spans", None)
    return [column[rows] for rows in slices] if fetch is None else fetch(slices)


class Source:
    """Rows, with their weights and known labels, in the order of their numbers.

    A source owes its facts (the attributes below), its rows block by block (`each_block`, `fold`), rows by number
    (`take`), the E-step's pass (`accumulate`), parts of itself (`subset`, `having`) and its rows seen through a
    function (`mapped`, `image`).  Sums are those of the grid (`grid.py`), so that no bit of them depends on the source.

    Three capabilities are asked for where they matter.  `array` is all rows as one array, or None: a start or a run of
    few rows in one compiled call needs it.  `keeps_labels` tells whether a fit keeps the label of every row: that of a
    stream does not.  `reads_in_order` tells whether there is `in_order`: rows that lie in other processes have none.

    Attributes
    ----------
    n_rows, n_features : int
        Rows n and features d.
    dtype : dtype
        Of the rows: float32 or float64.
    sample_weight : ndarray (n,) of that dtype, or empty
        Weights; empty means one each.
    labels : ndarray (n,) int32, or empty
        Known components, -1 for unknown; empty means all unknown.
    n_threads : int
        Threads of one pass.
    """

    n_rows: int
    n_features: int
    dtype: np.dtype
    sample_weight: np.ndarray
    labels: np.ndarray
    n_threads: int
    client: Any = None  # of rows in Dask: what computes on them, if it is not the current one
    keeps_labels = True
    reads_in_order = True

    # ------------------------------------------------------------------------------------------- owed by each source

    @property
    def array(self) -> np.ndarray | None:
        """All rows as one array (n, d), or None where they are made block by block."""
        return None

    def each_block(self, function: Callable[[np.ndarray, slice, int], None]) -> None:
        """Call ``function(X_block, rows, n_threads)`` so that the blocks cover all rows; blocks begin on the grid."""
        raise NotImplementedError

    def each_block_for(self, family: Any, function: Callable[[Any, slice, int], None]) -> None:
        """Call `each_block` with rows as the family reads them."""
        self.each_block(function)

    def in_order(self, n_rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, X_block) of runs of `n_rows` rows, the last one shorter, in order and each when it is asked for.

        `n_rows` is a number of cells, a power of two, and at most `BLOCK_ROWS`.
        """
        raise NotImplementedError

    def collect(self, function: Callable[[np.ndarray, slice, int], Any]) -> list[Any]:
        """Return what ``function(X_block, rows, n_threads)`` returns of each block, in order.

        A function that is to be heard of returns what it finds: it may be called elsewhere, where it can write only to
        arrays of `empty`.
        """
        found: dict[int, Any] = {}

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            found[rows.start] = function(X, rows, n_threads)

        self.each_block(block)
        return [found[start] for start in sorted(found)]

    def of_entries(self, function: Callable[[slice], Any]) -> list[Any]:
        """Return ``function(rows)`` of runs of rows that begin on the grid, in order: for arrays of `empty` alone."""
        step = validate.CHUNK_ROWS
        return [function(slice(first, min(first + step, self.n_rows))) for first in range(0, self.n_rows, step)]

    def fold_entries(self, function: Callable[[slice], np.ndarray], size: int) -> np.ndarray:
        """Add up ``function(rows)`` (size,) over the grid cells, as `fold` does, where no rows are needed."""
        tree = Tree()
        for first in range(0, self.n_rows, grid.CELL):
            tree.add(function(slice(first, min(first + grid.CELL, self.n_rows))))
        return tree.total()

    def fold(self, function: Callable[[np.ndarray, slice], np.ndarray], size: int) -> np.ndarray:
        """Add up ``function(X_cell, rows)`` (size,) over the grid cells, by the fixed tree.

        For the passes around a fit (starts, given responsibilities), whose kernels are NumPy's.
        """
        raise NotImplementedError

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, dense (m, d)."""
        raise NotImplementedError

    def _total(self, family: Any, prepared: Any, memo: Any) -> np.ndarray:
        """Return a family's record of all rows, as one vector."""
        raise NotImplementedError

    def subset(self, rows: np.ndarray, weights: np.ndarray) -> Source:
        """Return the rows with these numbers as a source of their own, with other weights (m,), or empty."""
        raise NotImplementedError

    def having(self, sample_weight: np.ndarray, labels: np.ndarray, n_threads: int) -> Source:
        """Return the same rows with other weights, known labels and threads."""
        raise NotImplementedError

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Source:
        """Return the rows seen through a function of rows (m, d) -> (m, e), which is called at every pass."""
        raise NotImplementedError

    def image(self, function: Callable[[np.ndarray], np.ndarray]) -> Source:
        """Return what a function of rows (m, d) -> (m, e) makes of them, kept as the rows themselves are."""
        raise NotImplementedError

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return a new array with an entry for each row, where such arrays may lie."""
        return np.empty(shape, dtype)

    # ---------------------------------------------------------------------------------------------- follows from it

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features, as of an array."""
        return self.n_rows, self.n_features

    def __len__(self) -> int:
        return self.n_rows

    @property
    def total_weight(self) -> float:
        """Sum of the weights."""
        return float(self.sample_weight.sum(dtype=np.float64)) if self.sample_weight.size else float(self.n_rows)

    @cached_property
    def has_nan(self) -> bool:
        """Whether a value is missing (NaN); one pass over the rows, the first time."""
        found = []

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            found.append(math.isnan(validate.sum_of_squares(X, n_threads)))

        self.each_block(block)
        return any(found)

    def checksum(self) -> int:
        """Return a number that tells these rows from others, also from the same in another order; one pass.

        It is a sum modulo 2^64 of the words that the values are, each times an odd number for its row and its column.
        """
        sums: list[int] = []

        def part(X: np.ndarray, first: int) -> int:
            words = np.ascontiguousarray(X).view(f"u{X.dtype.itemsize}").astype(np.uint64)
            columns = 2 * np.arange(X.shape[1], dtype=np.uint64) + 1
            rows = 2 * np.arange(first, first + len(X), dtype=np.uint64) + 1
            return int(((words * columns).sum(axis=1) * rows).sum())

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            for first in range(0, len(X), validate.CHUNK_ROWS):
                sums.append(part(X[first : first + validate.CHUNK_ROWS], rows.start + first))

        self.each_block(block)
        return sum(sums) % 2**64

    def served_by(self, family: Any) -> Any:
        """Return the family that serves these rows: its like for rows with missing values, if a value is missing."""
        return family.for_missing() if family.allow_nan and self.has_nan else family

    def refuse_empty_columns(self) -> None:
        """Refuse rows in which a column is missing (NaN) wherever there is weight.

        Raises
        ------
        ValueError
            With the number of the first such column.
        """
        empty = np.ones(self.n_features, bool)

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            w = self.weights_of(rows)
            for first in range(0, len(X) if empty.any() else 0, validate.CHUNK_ROWS):
                part, here = X[first : first + validate.CHUNK_ROWS], w[first : first + validate.CHUNK_ROWS]
                np.logical_and(empty, np.isnan(part[here > 0] if here.size else part).all(axis=0), out=empty)
                if not empty.any():
                    return

        self.each_block(block)
        validate.refuse_empty(empty)

    def _having(self, labels: np.ndarray, n_threads: int) -> Any:
        other = self.having(self.sample_weight, labels, n_threads)
        if "has_nan" in self.__dict__:
            other.has_nan = self.has_nan
        return other

    def with_threads(self, n_threads: int) -> Any:
        """Return the same rows, read by another number of threads."""
        return self._having(self.labels, n_threads)

    def with_labels(self, labels: np.ndarray) -> Any:
        """Return the same rows with other known labels (n,) int32, -1 for unknown."""
        return self._having(labels, self.n_threads)

    def accumulate(self, family: Any, prepared: Any, memo: Any = None) -> Any:
        """Return the family's statistics over all rows: the E-step of one iteration."""
        return family.layout(self.n_features).view(self._total(family, prepared, memo))

    def partition(self, family: Any, params: Any, labels: np.ndarray) -> Any:
        """Return all rows as parts, by their labels (n,), as a family of hard assignments wants them.

        Parts without rows are what `params` says.
        """
        prepared, layout = family.prepare(params, self.dtype), family.layout(self.n_features)
        return family.partition(layout.view(self._record_of(family, prepared, labels)), prepared, params)

    def _record_of(self, family: Any, prepared: Any, labels: np.ndarray) -> np.ndarray:
        """Return the record of all rows, with labels (n,) that are known."""

        def cell(X: np.ndarray, rows: slice) -> np.ndarray:
            record: np.ndarray = family.record_of(X, self.weights_of(rows), prepared, labels[rows], 1)
            return record

        return self.fold(cell, family.layout(self.n_features).size)

    def undecided(self, family: Any, params: Any, memo: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers (m,) of rows that could as well be assigned otherwise, and where they are (m,).

        `memo` is of a run that ended at `params`, and was filled by its last pass.
        """
        numbers = family.undecided(memo)
        return numbers, memo.labels[numbers]

    def loose(self, family: Any, numbers: np.ndarray, labels: np.ndarray) -> Iterator[Loose]:
        """Yield rows with these numbers and labels (m,), as the family reads them, some at a time."""
        size = max(1, AT_ONCE // self.n_features)
        for first in range(0, len(numbers), size):
            some = slice(first, first + size)
            yield Loose(self.rows_for(family, numbers[some]), self.weights_by_number(numbers[some]), labels[some])

    def weights_by_number(self, numbers: np.ndarray) -> np.ndarray:
        """Return the weights (m,) float64 of the rows with these numbers."""
        w = self.sample_weight
        return w[numbers].astype(np.float64) if w.size else np.ones(len(numbers))

    def weights_of(self, rows: slice) -> np.ndarray:
        """Weights of a run of rows, or empty."""
        return self.sample_weight[rows]

    def sample_rows(self, m: int, draws: Draws) -> np.ndarray:
        """Return m distinct rows (m, d), drawn in proportion to their weights."""
        return self.take(self.sample_numbers(m, draws))

    def sample_numbers(self, m: int, draws: Draws) -> np.ndarray:
        """Return the numbers (m,) of distinct rows, drawn in proportion to their weights."""
        if self.sample_weight.size:
            return draws.weighted_distinct(self.sample_weight.astype(np.float64), m)
        return draws.distinct(self.n_rows, m)

    def rows_for(self, family: Any, numbers: np.ndarray) -> Any:
        """Return rows by number as the family reads them."""
        return self.take(numbers)

    def extreme_rows(self, family: Any, prepared: Any, m: int, memo: Any = None) -> Rows:
        """Return the m rows that the family explains worst, worst first; missing values (NaN) count neither way.

        A memo is that of a pass by the same parameters.
        """
        badness = self.empty(self.n_rows, np.float64)

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            labels = None if memo is None else memo.labels[rows]
            badness[rows] = family.badness(X, self.weights_of(rows), prepared, n_threads, labels)

        self.each_block_for(family, block)
        if family.allow_nan and self.has_nan:
            badness = self._beside_the_observed(badness)
        worst = self.largest(badness, m)
        return Rows(worst, self.take(worst), self.weights_by_number(worst))

    def largest(self, values: np.ndarray, m: int) -> np.ndarray:
        """Return the numbers of the m largest of an array of `empty`, the largest first, the first of equals."""
        return np.argsort(-values, kind="stable")[:m] if m > 1 else np.array([np.argmax(values)])

    def used_labels(self, labels: np.ndarray, n_labels: int) -> np.ndarray:
        """Tell which labels rows have (n_labels,), of an array of `empty`; it looks on until all were met."""
        met = np.zeros(n_labels, bool)
        for first in range(0, self.n_rows, grid.CELL):
            met[labels[first : first + grid.CELL]] = True
            if met.all():
                break
        return met

    def _beside_the_observed(self, badness: np.ndarray) -> np.ndarray:
        """Return by how much badness (n,) exceeds what is usual for the features observed in each row, standardised.

        A log-density is the lower the more features it is of.  What is usual is a sum over a row's observed features,
        fitted to all rows by least squares; the scatter about it grows with the square root of their number.
        """
        d = self.n_features

        def normal_equations(X: np.ndarray, rows: slice) -> np.ndarray:
            finite = np.isfinite(badness[rows])
            seen, w = (~np.isnan(X[finite])).astype(np.float64), self.weights_of(rows)
            weighted = seen * w[finite, None] if w.size else seen
            return np.concatenate([(weighted.T @ seen).ravel(), badness[rows][finite] @ weighted])

        total = self.fold(normal_equations, d * d + d)
        usual = np.linalg.lstsq(total[: d * d].reshape(d, d), total[d * d :], rcond=None)[0]
        standardised = self.empty(self.n_rows, np.float64)

        def block(X: np.ndarray, rows: slice, n_threads: int) -> None:
            seen = ~np.isnan(X)
            m = seen.sum(axis=1)
            some = m > 0
            here = np.full(len(X), -np.inf)  # a row without any value stays there
            here[some] = (badness[rows][some] - seen[some] @ usual) / np.sqrt(m[some])
            standardised[rows] = here

        self.each_block(block)
        return standardised
