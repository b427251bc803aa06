r"""K-means as a family: hard assignment to the nearest centre (lecture row L1).

The distortion of centres c is J(c) = sum_i w_i min_k abs(x_i - c_k)^2.  The E-step assigns each row to its nearest
centre (of equally near ones the first) and collects

    counts_k = sum w_i,   sums_k = sum w_i (x_i - o),   inertia = sum w_i abs(x_i - c_(z_i))^2

over the rows assigned to k; the M-step moves each centre to o + sums_k / counts_k.  The objective is -J.  It is EM for
equal weights and a fixed covariance sigma^2 I in the limit sigma -> 0 (lecture row L11; Bishop, PRML, section 9.3.2).

Rows and centres are shifted by an origin o, the mean of the centres, so that the inner products in the kernel keep
their digits far from zero.  The kernel is Cython: `src/nearest.pyx`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem._native import nearest
from fastem.draws import Draws
from fastem.families.base import Family, MStep, State
from fastem.stats import Layout


class KMeansParams(NamedTuple):
    """Centres (k, d) float64."""

    centers: np.ndarray


class KMeansPrepared(NamedTuple):
    """Centres as the kernel wants them, all in the rows' dtype."""

    origin: np.ndarray  # (d,)
    centers: np.ndarray  # (k, d), relative to the origin
    half_norms: np.ndarray  # (k,), abs(center)^2 / 2


class KMeansStats(NamedTuple):
    """The additive record."""

    counts: np.ndarray  # (k,) sum of weights
    sums: np.ndarray  # (k, d) sum of w (x - origin)
    inertia: np.ndarray  # () sum of w abs(x - c)^2


@functools.lru_cache
def _layout(k: int, d: int) -> Layout[KMeansStats]:
    return Layout(KMeansStats, counts=(k,), sums=(k, d), inertia=())


class KMeansMemo(NamedTuple):
    """What is kept for each row across iterations."""

    labels: np.ndarray  # (n,) int32, nearest centre at the last pass


class KMeansFamily(Family):
    """Hard assignment to the nearest of `n_components` centres."""

    name = "kmeans"
    params = KMeansParams
    final_pass = True

    def __init__(self, n_components: int) -> None:
        self.n_components = n_components

    def layout(self, n_features: int) -> Layout[KMeansStats]:
        return _layout(self.n_components, n_features)

    def prepare(self, params: KMeansParams, dtype: np.dtype, previous: KMeansPrepared | None = None) -> KMeansPrepared:
        # Rounded first: the centres that a user sees in the rows' dtype are the ones that the kernel assigns to.
        rounded = params.centers.astype(dtype).astype(np.float64)
        # One origin for a run: unchanged labels then give unchanged sums, centres and a movement of exactly 0.
        origin = rounded.mean(axis=0).astype(dtype) if previous is None else previous.origin
        relative = rounded - origin.astype(np.float64)
        half_norms = 0.5 * np.einsum("kj,kj->k", relative, relative)
        return KMeansPrepared(origin, np.ascontiguousarray(relative.astype(dtype)), half_norms.astype(dtype))

    def new_memo(self, n_rows: int) -> KMeansMemo:
        return KMeansMemo(np.empty(n_rows, np.int32))

    def accumulate(self, X, w, labels, prepared: KMeansPrepared, stats: np.ndarray) -> None:
        record = np.zeros((1, stats.size))
        self.sweep(X, w, labels, prepared, 0, record, 1)
        stats += record[0]

    def sweep(
        self, X, w, labels, prepared: KMeansPrepared, level, out, n_threads, memo: KMeansMemo | None = None
    ) -> None:
        nearest.accumulate(
            X, w, *prepared, level, out, np.empty(0, np.int32) if memo is None else memo.labels,
            threads.native_threads(n_threads),
        )  # fmt: skip

    def objective(self, stats: KMeansStats, constants: None, params: KMeansParams) -> float:
        return -float(stats.inertia)

    def m_step(self, stats: KMeansStats, constants: None, prepared: KMeansPrepared, params: KMeansParams) -> MStep:
        occupied = stats.counts > 0  # an empty cluster keeps its centre
        centers = params.centers.copy()
        centers[occupied] = prepared.origin + stats.sums[occupied] / stats.counts[occupied, None]
        return MStep(KMeansParams(centers))

    def vacant(self, stats: KMeansStats) -> np.ndarray:
        return np.flatnonzero(stats.counts == 0)

    def refill(self, stats: KMeansStats, prepared: KMeansPrepared, vacant: np.ndarray, rows: Any) -> KMeansStats:
        """Give each empty cluster one of the farthest rows, taken from the cluster that held it."""
        donors, sqdist = self.assign(rows.X, prepared, 1)
        if not np.any((sqdist > 0) & (rows.weights > 0)):
            return stats
        counts, sums = stats.counts.copy(), stats.sums.copy()
        for component, row, donor in zip(vacant, range(len(donors)), donors, strict=False):
            # A row on its own centre stays: there are fewer distinct rows than clusters.
            if sqdist[row] > 0 and rows.weights[row] > 0:
                moved = rows.weights[row] * (rows.X[row].astype(np.float64) - prepared.origin)
                counts[donor] -= rows.weights[row]
                sums[donor] -= moved
                counts[component], sums[component] = rows.weights[row], moved
        counts[counts < 0] = 0.0  # the donor's only row, up to rounding
        return stats._replace(counts=counts, sums=sums)

    def progress(self, before: State, after: State) -> float:
        """Squared distance that the centres moved, summed: what scikit-learn compares with its scaled tol."""
        return float(np.square(after.params.centers - before.params.centers).sum())

    def assign(self, X: np.ndarray, prepared: KMeansPrepared, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest centre (n,) int32 of each row and the squared distance to it (n,)."""
        labels, sqdist = np.empty(len(X), np.int32), np.empty(len(X), X.dtype)
        self.assign_into(X, prepared, labels, sqdist, n_threads)
        return labels, sqdist

    def assign_into(self, X, prepared: KMeansPrepared, labels: np.ndarray, sqdist: np.ndarray, n_threads: int) -> None:
        """Write the nearest centre (n,) int32 of each row and the squared distance to it (n,)."""
        nearest.assign(X, *prepared, labels, sqdist, threads.native_threads(n_threads))

    def log_joint(self, X: np.ndarray, prepared: KMeansPrepared, n_threads: int) -> np.ndarray:
        """Return 0 for the nearest centre and -inf for the others: the posterior of the hard assignment."""
        log_joint = np.full((len(X), self.n_components), -np.inf)
        log_joint[np.arange(len(X)), self.assign(X, prepared, n_threads)[0]] = 0.0
        return log_joint

    def badness(self, X: np.ndarray, w: np.ndarray, prepared: KMeansPrepared, n_threads: int) -> np.ndarray:
        sqdist = self.assign(X, prepared, n_threads)[1]
        return np.where(w > 0, sqdist, -1.0) if w.size else sqdist

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: KMeansPrepared, stats: np.ndarray) -> None:
        record = self.layout(X.shape[1]).view(stats)
        resp = resp * w[:, None] if w.size else resp
        relative = X.astype(np.float64) - prepared.origin
        record.counts[:] += resp.sum(axis=0)
        record.sums[:] += resp.T @ relative
        sqdist = np.square(relative[:, None, :] - prepared.centers).sum(axis=2)
        record.inertia[...] += (resp * sqdist).sum()

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> KMeansParams:
        return KMeansParams(np.array(means, dtype=np.float64))

    def example_params(self, n_features: int, draws: Draws) -> KMeansParams:
        return KMeansParams(8.0 * draws.normal(self.n_components * n_features).reshape(-1, n_features))

    def sample(self, params: KMeansParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows of unit variance around centres chosen at random (lecture row L11: k-means' mixture)."""
        k, d = params.centers.shape
        y = draws.weighted(np.ones(k), n)
        return params.centers[y] + draws.normal(n * d).reshape(n, d), y

    def n_free_params(self, n_features: int) -> int:
        return self.n_components * n_features
