"""K-means on rows of a CSR matrix: time of order values x clusters, memory of order values + clusters x features.

Distances are abs(x)^2 - 2 x.c + abs(c)^2, in which x has few values; what rounding may hide of one is computed in twice
the precision (`src/kmeans/csr_body.h`).  There is no origin: most values are zeros.  Centres lie features first (d, k),
so that one value of a row meets k numbers that lie together, and the M-step goes through the values by feature, as CSC
has them, which writes every number of the new centres once, in one order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem._native import nearest
from fastem.families.base import Family, MStep, State
from fastem.families.kmeans.family import KMeansFamily
from fastem.families.kmeans.partition import CSRPartition
from fastem.families.kmeans.records import KMeansParams
from fastem.families.kmeans.spherical import SphericalKMeansFamily
from fastem.records import Empty

# Values of a run of rows, at least.
RUN = 1 << 16


class CSRRows:
    """The values of a canonical CSR matrix as the kernels want them, by row and by feature.

    Parameters
    ----------
    by_row : tuple of ndarray (n + 1,) int64, (nnz,) int32, (nnz,) float32 or float64
        Where each row begins; the features and the values.
    n_features : int
        Number of features d.
    """

    def __init__(self, by_row: tuple[np.ndarray, np.ndarray, np.ndarray], n_features: int) -> None:
        self.by_row = by_row
        self.n_features = n_features

    @classmethod
    def of(cls, X: Any) -> CSRRows:
        """Return the rows of a SciPy matrix."""
        indptr, indices = X.indptr.astype(np.int64, copy=False), X.indices.astype(np.int32, copy=False)
        return cls((indptr, indices, X.data), X.shape[1])

    def __len__(self) -> int:
        return len(self.by_row[0]) - 1

    def take(self, rows: np.ndarray) -> CSRRows:
        """Return the rows with these numbers."""
        indptr = np.empty(len(rows) + 1, np.int64)
        taken = CSRRows(
            (indptr, *nearest.csr_take(*self.by_row, rows.astype(np.int64, copy=False), indptr)), self.n_features
        )
        taken.squares = self.squares[rows]
        return taken

    @cached_property
    def squares(self) -> np.ndarray:
        """Squared norm of each row (n,) float64."""
        indptr, _, data = self.by_row
        squares = np.zeros(len(self))
        for rows in self.runs():
            some = rows.start + np.flatnonzero(np.diff(indptr[rows.start : rows.stop + 1]))
            if some.size:
                first, last = indptr[rows.start], indptr[rows.stop]
                values = np.square(data[first:last], dtype=np.float64)
                squares[some] = np.add.reduceat(values, indptr[some] - first)
        return squares

    def runs(self) -> Iterator[slice]:
        """Yield runs of rows: what is made of the values of all at once is memory beside them, of a run it is little.

        A run has no fewer values than there are features, so that a number for each is no more work than its values.
        """
        indptr = self.by_row[0]
        edges = np.searchsorted(indptr, np.arange(0, max(1, indptr[-1]), max(RUN, self.n_features)))
        for start, stop in pairwise([*np.unique(edges).tolist(), len(self)]):
            yield slice(start, stop)

    @cached_property
    def by_feature(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values by feature: where each begins (d + 1,), rows (nnz,) in order, values (nnz,)."""
        _, indices, data = self.by_row
        by_feature = np.empty(self.n_features + 1, np.int64), np.empty_like(indices), np.empty_like(data)
        nearest.csr_by_feature(*self.by_row, *by_feature)
        return by_feature


class CSRCenters:
    """Centres as the kernels want them.

    Parameters
    ----------
    panel : ndarray (d, k)
        The centres, features first; from `empty_panel`.
    norms : ndarray (2, k) float64, or None
        Their squared norms, each as a sum of two numbers; None: still to be computed.
    scale : ndarray (k + CSR_BEYOND,), or None
        By which the columns of the panel are multiplied to be the centres; None: they are.
    """

    def __init__(self, panel: np.ndarray, norms: np.ndarray | None = None, scale: np.ndarray | None = None) -> None:
        self.panel = panel
        self._norms = norms
        self.scale = np.empty(0, panel.dtype) if scale is None else scale

    def norms(self, n_threads: int) -> np.ndarray:
        """Return the squared norms (2, k)."""
        if self._norms is None:
            self._norms = np.empty((2, self.panel.shape[1]))
            nearest.csr_norms(self.panel, self._norms, threads.native_threads(n_threads))
        return self._norms

    def arguments(self, n_threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return panel (d, k), half of the norms, the scale, and norms (2, k), for a kernel."""
        norms = self.norms(n_threads)
        half = np.zeros(norms.shape[1] + nearest.CSR_BEYOND, self.panel.dtype)
        half[: norms.shape[1]] = 0.5 * norms[0]
        return self.panel, half, self.scale, norms


def empty_panel(d: int, k: int, dtype: Any) -> np.ndarray:
    """Return an uninitialised panel (d, k): vectors may be read beyond its end."""
    return np.empty(d * k + nearest.CSR_BEYOND, dtype)[: d * k].reshape(d, k)


def as_panel(centers: np.ndarray, dtype: Any) -> np.ndarray:
    """Return centres (k, d) as a panel (d, k), which they are if they are the view of one."""
    panel: Any = centers.T
    memory: Any = centers.base
    like = memory is not None and memory.size == panel.size + nearest.CSR_BEYOND and panel.dtype == dtype
    if like and panel.flags.c_contiguous and panel.ctypes.data == memory.ctypes.data:
        return panel
    panel = empty_panel(*centers.shape[::-1], dtype)
    panel[:] = centers.T
    return panel


class CSRMemo(NamedTuple):
    """What is kept of each row."""

    labels: np.ndarray  # (n,) int32, nearest centre at the last pass
    tied: np.ndarray  # (n,) uint8, whether another was as near

    def tied_rows(self) -> np.ndarray:
        """Return the numbers of rows that the last pass found as near to two centres, in order."""
        return np.flatnonzero(self.tied)


class CSRParams(NamedTuple):
    """Centres (k, d) of the rows' dtype, a view of what the kernels want; and how far an M-step moved them."""

    centers: np.ndarray
    prepared: CSRCenters
    movement: float


class CSRStats(NamedTuple):
    """What an E-step found; the sums are made by the M-step, from the labels."""

    counts: np.ndarray  # (k,) sum of weights
    inertia: float  # sum of w abs(x - c)^2
    labels: np.ndarray  # (n,) int32
    sqdist: np.ndarray  # (n,) squared distance of each row to its centre
    rows: CSRRows
    w: np.ndarray  # (n,) or (0,)
    n_threads: int


class CSRKMeansFamily(KMeansFamily):
    """Hard assignment to the nearest of `n_components` centres, for rows of a CSR matrix."""

    name = "csr_kmeans"
    reads_csr = True

    def prepare(self, params: Any, dtype: np.dtype, previous: Any = None) -> Any:
        if isinstance(params, CSRParams):
            return params.prepared
        return CSRCenters(as_panel(params.centers, dtype))

    def new_memo(self, n_rows: int, empty: Empty = np.empty) -> Any:
        return CSRMemo(empty(n_rows, np.int32), empty(n_rows, np.uint8))

    def remembered(self, memo: Any, prepared: Any) -> dict[str, Any]:
        return {}

    def recall(self, saved: dict[str, Any], memo: Any) -> Any:
        return None

    def arrays_of(self, params: Any) -> dict[str, Any]:
        if not isinstance(params, CSRParams):
            return {"centers": params.centers}
        norms = params.prepared._norms
        known = {} if norms is None else {"norms": norms}
        return {"centers": params.centers, "movement": params.movement, **known}

    def params_of(self, arrays: dict[str, Any]) -> Any:
        if "movement" not in arrays:
            return KMeansParams(arrays["centers"])
        panel = as_panel(arrays["centers"], arrays["centers"].dtype)
        return CSRParams(panel.T, CSRCenters(panel, arrays.get("norms")), arrays["movement"])

    def stats_of_csr(self, rows: CSRRows, w: np.ndarray, prepared: Any, n_threads: int, memo: Any) -> CSRStats:
        """Return what the E-step finds in all rows."""
        labels, sqdist = np.empty(len(rows), np.int32), np.empty(len(rows))
        tied = np.empty(0, np.uint8) if memo is None else memo.tied
        self._search(rows, prepared, labels, sqdist, np.empty(0), tied, n_threads)
        if memo is not None:
            memo.labels[:] = labels
        counts = np.bincount(labels, w if w.size else None, self.n_components).astype(np.float64)
        inertia = float(np.sum(sqdist * w)) if w.size else float(np.sum(sqdist))
        return CSRStats(counts, inertia, labels, sqdist, rows, w, n_threads)

    def objective(self, stats: Any, constants: None, params: Any) -> float:
        return -stats.inertia

    def m_step(self, stats: Any, constants: None, prepared: Any, params: Any) -> MStep:
        panel, norms = empty_panel(*prepared.panel.shape, prepared.panel.dtype), np.empty((2, self.n_components))
        kept = np.flatnonzero(~(stats.counts > 0)).astype(np.int32)
        moved = nearest.csr_means(
            *stats.rows.by_feature, stats.w, stats.labels, stats.counts, kept, prepared.panel, panel, norms,
            threads.native_threads(stats.n_threads),
        )  # fmt: skip
        return MStep(CSRParams(panel.T, CSRCenters(panel, norms), moved))

    def stats_of_labels(self, rows: CSRRows, w: np.ndarray, labels: np.ndarray, n_threads: int) -> CSRStats:
        """Return the statistics of rows whose labels (n,) are given, without distances."""
        counts = np.bincount(labels, w if w.size else None, self.n_components).astype(np.float64)
        return CSRStats(counts, np.nan, labels, np.empty(0), rows, w, n_threads)

    def partition(self, stats: Any, prepared: Any, params: Any) -> Any:
        """Return the rows of an E-step as clusters, by their sums; empty clusters keep their centres."""
        sums, counts = np.empty((stats.rows.n_features, self.n_components)), stats.counts.copy()
        n_threads = threads.native_threads(stats.n_threads)
        nearest.csr_sums(*stats.rows.by_feature, stats.w, stats.labels, sums, n_threads)
        empty = ~(counts > 0)
        sums[:, empty] = params.centers[empty].T
        return CSRPartition(sums, counts, n_threads)

    def vacant(self, stats: Any, prepared: Any) -> np.ndarray:
        return np.flatnonzero(stats.counts == 0)

    def refill(self, stats: Any, prepared: Any, vacant: np.ndarray, rows: Any) -> Any:
        """Give each empty cluster one of the farthest rows, taken from the cluster that held it."""
        labels, counts = stats.labels.copy(), stats.counts.copy()
        rounding = 16 * float(np.finfo(prepared.panel.dtype).eps)
        sqdist = self.badness(stats.rows, stats.w, prepared, stats.n_threads)[rows.indices]
        movable = (sqdist > rounding**2 * stats.rows.squares[rows.indices]) & (rows.weights > 0)
        if not movable.any():
            return stats
        for component, row, weight, moves in zip(vacant, rows.indices, rows.weights, movable, strict=False):
            if moves:
                donor = labels[row]
                labels[row] = component
                counts[component] = weight
                left = labels == donor
                counts[donor] = stats.w[left].sum(dtype=np.float64) if stats.w.size else np.count_nonzero(left)
        return stats._replace(labels=labels, counts=counts)

    def progress(self, before: State, after: State) -> float:
        return after.params.movement

    def assign(self, X: Any, prepared: Any, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
        labels, sqdist = np.empty(len(X), np.int32), np.empty(len(X))
        self.assign_into(X, prepared, labels, sqdist, n_threads)
        return labels, sqdist

    def own_distances(self, X: Any, prepared: Any, labels: np.ndarray, n_threads: int) -> np.ndarray:
        return self.assign(X, prepared, n_threads)[1]

    def assign_into(
        self, X: Any, prepared: Any, labels: np.ndarray, sqdist: np.ndarray, n_threads: int,
        guess: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.two_nearest(X, prepared, labels, sqdist, np.empty(0), n_threads)

    def two_nearest(
        self, X: Any, prepared: Any, labels: np.ndarray, first: np.ndarray, second: np.ndarray, n_threads: int
    ) -> None:
        """Write the nearest centre (n,) int32 of each row and its squared distances (n,) to the two nearest."""
        exact = first if first.dtype == np.float64 else np.empty(len(first))
        self._search(X, prepared, labels, exact, second, np.empty(0, np.uint8), n_threads)
        if exact is not first:
            first[:] = exact

    def _search(
        self, rows: CSRRows, prepared: CSRCenters, labels: np.ndarray, first: np.ndarray, second: np.ndarray,
        tied: np.ndarray, n_threads: int,
    ) -> None:  # fmt: skip
        nearest.csr_assign(
            *rows.by_row, rows.squares, *prepared.arguments(n_threads), labels, first, second, tied,
            threads.native_threads(n_threads),
        )  # fmt: skip

    def distances(self, X: Any, centers: np.ndarray, out: np.ndarray, n_threads: int) -> None:
        arguments = self.prepare(KMeansParams(centers), centers.dtype).arguments(n_threads)
        nearest.csr_distances(*X.by_row, X.squares, *arguments, out, threads.native_threads(n_threads))


class CSRSphericalKMeansFamily(CSRKMeansFamily):
    """K-means on the unit sphere, for rows of a CSR matrix: see `SphericalKMeansFamily`."""

    name = "csr_spherical_kmeans"
    on_sphere = True

    def m_step(self, stats: Any, constants: None, prepared: Any, params: Any) -> MStep:
        means = super().m_step(stats, constants, prepared, params).params.prepared
        n_threads = stats.n_threads
        # Rows that cancel out have no mean direction: every unit centre is equally good, so the old one stays.
        lengths = np.sqrt(means.norms(n_threads)[0])
        lost = lengths < 16 * np.finfo(np.float64).eps
        nearest.csr_scale(means.panel, 1.0 / np.where(lost, 1.0, lengths), threads.native_threads(n_threads))
        means.panel[:, lost] = prepared.panel[:, lost]
        moved = sum(
            float(np.square(np.subtract(*pair, dtype=np.float64)).sum())
            for pair in zip(_parts(means.panel), _parts(prepared.panel), strict=True)
        )
        return MStep(CSRParams(means.panel.T, CSRCenters(means.panel), moved))


def _parts(panel: np.ndarray) -> list[np.ndarray]:
    """Return runs of features: differences of whole panels would be a third of them in memory."""
    return [panel[j : j + 4096] for j in range(0, len(panel), 4096)]


def csr_family(family: Family) -> Family:
    """Return the family that reads CSR rows itself, in place of one that would be handed dense cells."""
    kinds = {KMeansFamily: CSRKMeansFamily, SphericalKMeansFamily: CSRSphericalKMeansFamily}
    kind = kinds.get(type(family))
    return family if kind is None else kind(family.n_components)
