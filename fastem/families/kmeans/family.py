r"""K-means as a family: hard assignment to the nearest centre (lecture row L1).

The distortion of centres c is J(c) = sum_i w_i min_k abs(x_i - c_k)^2.  The E-step assigns each row to its nearest
centre (of equally near ones the first) and collects

    counts_k = sum w_i,   sums_k = sum w_i (x_i - o),   inertia = sum w_i abs(x_i - c_(z_i))^2

over the rows assigned to k; the M-step moves each centre to o + sums_k / counts_k.  The objective is -J.  It is EM for
equal weights and a fixed covariance sigma^2 I in the limit sigma -> 0 (lecture row L11; Bishop, PRML, section 9.3.2).

Rows and centres are shifted by an origin o, so that the inner products in the kernel keep their digits far from zero.
It is a number that takes no digits from any difference x - c, wherever the other centres lie (`origin_of` in
`src/kmeans/centers.pxi`), and rows that the inner products can't decide are compared by differences
(`src/kmeans/differences_body.h`): a row's label is that of a nearest centre by its own x - c, to half the digits of the
rows' type where the centres lie well apart, to rounding elsewhere.  The kernel is Cython: `src/kmeans/nearest.pyx`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastem import grid, pool, threads
from fastem._native import nearest
from fastem.draws import Draws
from fastem.families.base import Family, Limits, Loose, MStep, SmallRun, State
from fastem.families.kmeans import active_centers, blind, rotated
from fastem.families.kmeans.gaps import half_gaps
from fastem.families.kmeans.partition import ROUNDINGS_OF_TIES, Partition
from fastem.families.kmeans.records import Bounds, KMeansMemo, KMeansParams, KMeansPrepared, KMeansStats, _layout
from fastem.records import Empty, Layout

# Bounded iterations between two counts from zero, so that rounding in the sums cannot pile up.
RECOUNT = 16
# Clusters below which such a count may as well compare every row anew, which tightens the bounds.
CHEAP = 32

# Bytes of a record, for each byte of a row's number, squared, from which it is made centroid by centroid, not by cells
# (`src/kmeans/by_centroid.pxi`): from 2 MB on in float32 (60,000 x 768, k = 1000: 24 ms instead of 42 by strips of
# features; 100,000 x 96, k = 4000: 4 instead of 18), from 8 MB on in float64, where rows
# read a second time, for their sums, cost more than cells do below that (200,000 x 512: 99 ms instead of 80).
BY_CENTROID = 125_000

# Share of all weight below which a count that was kept up to date is taken for the rounding of an empty cluster's.
VANISHING = 1e-8

# Share of sum w abs(x - o)^2 below which an inertia that was kept up to date has lost too many digits.
CANCELLED = 1e-9


class NativePass:
    """The compiled pass that adds up counts, sums and inertia, by the interface of a `jit.sweep`."""

    def plan(self, n_rows: int, n_features: int, size: int) -> grid.Plan:
        """Cut the grid into tasks."""
        return grid.plan(n_rows, size)

    def run(self, args: tuple, level: int, out: np.ndarray, n_threads: int) -> None:
        """Fill row t of `out` (tasks, size) with the record of task t; known labels play no part in k-means."""
        X, w, _, prepared = args
        nothing = np.empty(0, np.int32)
        nearest.accumulate(X, w, *prepared[:3], level, out, nothing, threads.native_threads(n_threads))


class KMeansFamily(Family):
    """Hard assignment to the nearest of `n_components` centres.

    Parameters
    ----------
    n_components : int
        Number of centres k.
    algorithm : {"lloyd", "bounded", "rotated", "auto"}
        Compare every row with every centre at every iteration; or only the rows whose distance bounds (Hamerly, SDM
        2010) allow another centre to have come nearer, and update the sums by the rows that changed; or these only with
        the centres that a few coordinates of a rotated basis do not rule out (`rotated`), where there are enough
        features and centres.  "auto" is one of the last two, by a sample of the rows.
    """

    name = "kmeans"
    params = KMeansParams
    final_pass = True
    on_sphere = False  # centres have length 1

    def __init__(self, n_components: int, algorithm: str = "lloyd") -> None:
        self.n_components = n_components
        self.algorithm = algorithm
        self._rotations = rotated.Rotations()

    def layout(self, n_features: int) -> Layout[KMeansStats]:
        return _layout(self.n_components, n_features)

    def prepare(self, params: KMeansParams, dtype: np.dtype, previous: KMeansPrepared | None = None) -> KMeansPrepared:
        # One origin for a run, as long as it is a good one: unchanged labels then give unchanged sums, centres and a
        # movement of exactly 0.
        k, d = params.centers.shape
        origin = np.empty(d, dtype) if previous is None else previous.origin.copy()
        centers, half_norms = pool.empty((k, d), dtype), np.empty(k, dtype)
        given = np.ascontiguousarray(params.centers, np.float64)
        before, moved = (centers[:0], np.empty(0)) if previous is None else (previous.centers, np.empty(k))
        kept = nearest.prepare_centers(
            given, previous is not None, origin, centers, half_norms, before, moved, _n_threads()
        )
        return KMeansPrepared(origin, centers, half_norms, moved if kept else np.empty(0))

    def new_memo(self, n_rows: int, empty: Empty = np.empty) -> KMeansMemo:
        return KMeansMemo(empty(n_rows, np.int32), empty)

    def remembered(self, memo: KMeansMemo, prepared: KMeansPrepared) -> dict[str, Any]:
        return {"prepared": prepared._asdict(), **memo.state()}

    def recall(self, saved: dict[str, Any], memo: KMeansMemo) -> KMeansPrepared:
        memo.recall(saved, self.n_components)
        memo.last = KMeansPrepared(**saved["prepared"])
        return memo.last

    def accumulator(self, n_features: int) -> NativePass:
        return NativePass()

    def total_of_memo(
        self, X: np.ndarray, w: np.ndarray, prepared: KMeansPrepared, n_threads: int, memo: KMeansMemo
    ) -> np.ndarray:
        final = memo.begun and not prepared.moved.size  # or the first of a new origin, where ties do no harm
        memo.begun = True
        memo.note_ties(final)
        before, memo.last = memo.last, prepared
        if self.algorithm == "lloyd":
            return self._count(X, w, prepared, n_threads, memo)
        stale = memo.passes == RECOUNT and self.n_components < CHEAP
        if memo.bounds is None or not prepared.moved.size or stale:
            return self._start(X, w, prepared, n_threads, memo, before)
        if memo.rotates:
            memo.rotated, memo.rotates = self._rotations.of(X, prepared, True, n_threads, memo.empty), False
        elif memo.asks_again:
            # Centres that were single rows are means now, by which many more of the others are ruled out.
            memo.asks_again = False
            self._rotate(X, prepared, n_threads, memo)
        total = pool.empty(memo.bounds.total.shape)
        search = self._turned_search(prepared, n_threads, memo)
        nearest.accumulate_bounded(
            X, w, *prepared[:3], prepared.moved, half_gaps(prepared, memo, n_threads), memo.labels, *memo.bounds[:3],
            total, memo.bounds.near, self._groups(prepared.moved, memo), threads.native_threads(n_threads), search,
        )  # fmt: skip
        memo.passes += 1
        total += memo.bounds.total
        counts = total[: self.n_components]
        vanishing = w.size and np.any((counts != 0) & (np.abs(counts) < VANISHING * counts.sum()))
        if vanishing or (memo.passes == RECOUNT and self.n_components >= CHEAP):
            return self._recount(X, w, prepared, n_threads, memo)
        inertia = memo.bounds.square - self._gain(total, prepared)
        if inertia < CANCELLED * memo.bounds.square:
            return self._recount(X, w, prepared, n_threads, memo)
        total[-1] = inertia
        memo.bounds = memo.bounds._replace(total=total)
        return total

    def _groups(self, moved: np.ndarray, memo: KMeansMemo) -> np.ndarray:
        """Tell which centres are active (k,) int32: 1 for those that are, 2 for those that become so now, else 0."""
        bounds = memo.bounds
        if bounds is None or not bounds.near.size:
            return np.zeros(self.n_components, np.int32)
        rows = slice(None, None, max(1, len(memo.labels) // active_centers.SAMPLE))
        upper = bounds.upper[rows] + moved[memo.labels[rows]]
        groups = active_centers.choose(moved, bounds.active, upper, bounds.lower[rows], bounds.near[rows])
        if bounds.active.any() and not np.any(groups == 1):  # begun anew
            np.minimum(bounds.lower, bounds.near, out=bounds.lower)
            bounds.near[:] = np.inf
        bounds.active[:] = groups > 0
        return groups

    def _count(self, X, w, prepared: KMeansPrepared, n_threads: int, memo: KMeansMemo, *bounds: np.ndarray):
        """Compare every row with every centre; write its bounds if asked."""
        level, records = self._records(X)
        n_threads = threads.native_threads(n_threads)
        # The positional arguments between are bounds, or none.
        kept = bounds or (None, None)
        nearest.accumulate(X, w, *prepared[:3], level, records, memo.labels, n_threads, *kept, *memo.noted)
        return _merged(records, n_threads)

    def _records(self, X: np.ndarray) -> tuple[int, np.ndarray]:
        """Return of how many cells, as a power of two, each task makes a record (n_tasks, size), and room for these."""
        size = _layout(self.n_components, X.shape[1]).size
        large = 8 * size > BY_CENTROID * X.itemsize**2
        level, n_tasks = grid.whole(len(X)) if large else grid.plan(len(X), size)
        return level, pool.empty((n_tasks, size))

    def _start(
        self, X, w, prepared: KMeansPrepared, n_threads: int, memo: KMeansMemo, before: KMeansPrepared | None
    ) -> np.ndarray:
        """Compare every row with every centre, and make the bounds, and the sums that are kept up to date, of that.

        A search by rotation spares the rows that bounds by the centres of the pass before still protect.
        """
        n = len(X)
        kept = memo.bounds
        share = self._share_of_work(X, prepared, memo) if kept is None else None
        by = None if share is None or share < blind.WANTED else blind.search_that_pays(X, prepared, share)
        if kept is None:
            if by is None:
                self._rotate(X, prepared, n_threads, memo, share)
            memo.asks_again = memo.rotated is None
        upper = kept.upper if kept else memo.empty(n, X.dtype)
        lower = kept.lower if kept else memo.empty(n, X.dtype)
        changes = kept.changes if kept else memo.empty(n, np.uint32)
        k = self.n_components
        grouped = memo.rotated is None and active_centers.worthwhile(n, X.shape[1], k)
        near, active = memo.empty(n if grouped else 0, X.dtype), np.zeros(k, bool)
        near[:] = np.inf
        search = self._turned_search(prepared, n_threads, memo, blind=kept is None)
        if by is not None and blind.search(X, prepared, by, memo.labels, upper, lower, n_threads):
            total = self.record_of(X, w, prepared, memo.labels, n_threads)
        elif search is None:
            total = self._count(X, w, prepared, n_threads, memo, upper, lower)
        else:
            carried = kept is not None and before is not None
            if kept is not None and before is not None:
                kept.carry(memo.labels, before, prepared)
            limited, (tied, n_tied) = threads.native_threads(n_threads), memo.noted or (None, None)
            nearest.search_rotated(
                X, *prepared[:3], search, memo.labels, limited, None, upper, lower, tied, n_tied, carried
            )
            total = self.record_of(X, w, prepared, memo.labels, n_threads)
        memo.bounds = Bounds(upper, lower, changes, near, active, total, float(total[-1]) + self._gain(total, prepared))
        memo.passes, memo.half_gaps = 0, np.empty(0)
        return total

    def _share_of_work(self, X: np.ndarray, prepared: KMeansPrepared, memo: KMeansMemo) -> float | None:
        """Return what rotated rows leave of a first pass where many coordinates may do better (`blind`), or None."""
        if self.algorithm != "auto" or memo.is_part or memo.noted or not blind.possible(X, self.n_components):
            return None
        return self._rotations.share_of_work(X, prepared)

    def _turned_search(self, prepared: KMeansPrepared, n_threads: int, memo: KMeansMemo, blind: bool = False) -> Any:
        """Return the rotation by which a pass over all rows is to search, or None."""
        if memo.rotated is None:
            return None
        before = memo.turned if prepared.moved.size else None
        memo.turned = rotated.turn(memo.rotated, prepared, n_threads, before)
        return None if memo.turned is None else rotated.search_by(memo.rotated, memo.turned, prepared.moved, blind)

    def _recount(self, X, w, prepared: KMeansPrepared, n_threads: int, memo: KMeansMemo) -> np.ndarray:
        """Count the rows from zero, by the labels that the bounds have kept up to date."""
        assert memo.bounds is not None
        total = self.record_of(X, w, prepared, memo.labels, n_threads)
        memo.bounds = memo.bounds._replace(total=total, square=float(total[-1]) + self._gain(total, prepared))
        memo.passes = 0
        return total

    def _rotate(
        self, X: np.ndarray, prepared: KMeansPrepared, n_threads: int, memo: KMeansMemo, share: float | None = None
    ) -> None:
        """Give the memo of all rows a rotated basis if it has none and one is wanted; `share` as in `Rotations.of`."""
        if memo.rotated is not None or memo.is_part:
            return
        if self.algorithm in ("rotated", "auto") and rotated.possible(X.shape[1], self.n_components):
            asked = self.algorithm == "rotated"
            memo.rotated = self._rotations.of(X, prepared, asked, n_threads, memo.empty, share)
        if memo.rotated is not None and memo.bounds is not None and memo.bounds.near.size:
            np.minimum(memo.bounds.lower, memo.bounds.near, out=memo.bounds.lower)
            memo.bounds = memo.bounds._replace(near=memo.bounds.near[:0], active=np.zeros(self.n_components, bool))

    def _gain(self, total: np.ndarray, prepared: KMeansPrepared) -> float:
        """Return 2 sum c.S - sum N abs(c)^2: by how much the centres lower sum w abs(x - o)^2 to J."""
        record = _layout(*prepared.centers.shape).view(total)
        return nearest.gain_of_means(prepared.centers, record.counts, record.sums, _n_threads())

    def objective(self, stats: KMeansStats, constants: None, params: KMeansParams) -> float:
        return -float(stats.inertia)

    def m_step(self, stats: KMeansStats, constants: None, prepared: KMeansPrepared, params: KMeansParams) -> MStep:
        occupied = stats.counts > 0
        if occupied.all():
            means = pool.empty(stats.sums.shape)
            nearest.means_of_sums(stats.sums, stats.counts, prepared.origin, means, _n_threads())
            return MStep(KMeansParams(means))
        centers = params.centers.copy()  # an empty cluster keeps its centre
        centers[occupied] = prepared.origin + stats.sums[occupied] / stats.counts[occupied, None]
        return MStep(KMeansParams(centers))

    def recentre(self, stats: KMeansStats, prepared: KMeansPrepared, onto: KMeansPrepared) -> KMeansStats:
        origins = prepared.origin.astype(np.float64) - onto.origin.astype(np.float64)
        centers = prepared.centers.astype(np.float64)
        moved = origins + (centers - onto.centers.astype(np.float64))
        about = stats.sums - stats.counts[:, None] * centers  # sum w (x - c)
        gain = 2.0 * np.sum(about * moved) + stats.counts @ np.square(moved).sum(axis=1)
        return stats._replace(sums=stats.sums + stats.counts[:, None] * origins, inertia=stats.inertia + gain)

    def vacant(self, stats: KMeansStats, prepared: KMeansPrepared) -> np.ndarray:
        return np.flatnonzero(stats.counts == 0)

    def refill(self, stats: KMeansStats, prepared: KMeansPrepared, vacant: np.ndarray, rows: Any) -> KMeansStats:
        """Give each empty cluster one of the farthest rows, taken from the cluster that held it."""
        donors, sqdist = self.assign(rows.X, prepared, 1)
        # A row on its own centre, to the rounding of a mean, stays: there are fewer distinct rows than clusters.
        rounding = 16 * float(np.finfo(rows.X.dtype).eps)
        movable = (sqdist > rounding**2 * np.square(rows.X, dtype=np.float64).sum(axis=1)) & (rows.weights > 0)
        if not movable.any():
            return stats
        counts, sums = stats.counts.copy(), stats.sums.copy()
        for component, row, donor in zip(vacant, range(len(donors)), donors, strict=False):
            if movable[row]:
                before = counts[donor]
                moved = rows.weights[row] * (rows.X[row].astype(np.float64) - prepared.origin)
                counts[donor] -= rows.weights[row]
                sums[donor] -= moved
                # Where the row was most of the cluster, its rounding is large beside what is left of the sums (float32
                # within a block): the centre stays until the next pass, and no row is farther from it.
                if counts[donor] < 0.5 * before:
                    sums[donor] = max(counts[donor], 0.0) * prepared.centers[donor].astype(np.float64)
                counts[component], sums[component] = rows.weights[row], moved
        counts[counts < 0] = 0.0  # the donor's only row, up to rounding
        return stats._replace(counts=counts, sums=sums)

    def progress(self, before: State, after: State) -> float:
        """Squared distance that the centres moved, summed: what scikit-learn compares with its scaled tol."""
        return nearest.squared_movement(after.params.centers, before.params.centers, _n_threads())

    def run_small(
        self, X: np.ndarray, w: np.ndarray, constants: None, params: KMeansParams, limits: Limits
    ) -> SmallRun | None:
        if self.algorithm != "lloyd":
            return None
        max_iter, tol, slack = limits
        centers, memo = params.centers.copy(), self.new_memo(len(X))
        objectives = np.empty(max_iter + 1)
        n_iter, converged = nearest.run_small(
            X, w, self.on_sphere, centers, max_iter, tol, slack, memo.labels, objectives, *memo.tied
        )
        if not n_iter:
            return None
        objective = float(objectives[n_iter])
        return SmallRun(KMeansParams(centers), objective, objectives[:n_iter].copy(), n_iter, converged, memo)

    @property
    def leaves_undecided(self) -> bool:
        return self.n_components > 1 and not self.on_sphere

    def undecided(self, memo: KMeansMemo) -> np.ndarray:
        """Return the numbers of rows that are as near to two centres: they belong to the first."""
        return memo.tied_rows() if self.leaves_undecided else np.empty(0, np.int64)

    def beyond(self, partition: Partition, loose: Iterable[Loose], tol: float) -> Any:
        """Return the means after tied rows were moved to where they lower J, or None if none does.

        J is lower if such a row belongs to the smaller cluster, as a rule (`nearest.move_rows`), and Lloyd's iterations
        go on from there.  Moves by which the centres move no farther than `tol` are none: the run has converged.
        """
        before, moved = partition.centers.copy(), 0
        for rows, w, labels in loose:
            moved += partition.move(rows, w, labels, ROUNDINGS_OF_TIES)
        centers = partition.centers
        return (
            KMeansParams(centers) if moved and nearest.squared_movement(centers, before, _n_threads()) > tol else None
        )

    def record_of(self, X: np.ndarray, w: np.ndarray, prepared: Any, labels: np.ndarray, n_threads: int) -> np.ndarray:
        """Return the record of rows that begin on the grid, with labels (n,) that are known."""
        level, records = self._records(X)
        n_threads = threads.native_threads(n_threads)
        nearest.settle(X, w, prepared.origin, prepared.centers, level, records, labels, n_threads)
        return _merged(records, n_threads)

    def partition(self, stats: KMeansStats, prepared: KMeansPrepared, params: KMeansParams) -> Partition:
        """Return the means and weights of the rows of a record; empty clusters keep their centres."""
        return Partition(self.m_step(stats, None, prepared, params).params.centers, stats.counts.copy())

    def assign(self, X: np.ndarray, prepared: KMeansPrepared, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest centre (n,) int32 of each row and the squared distance to it (n,)."""
        labels, sqdist = np.empty(len(X), np.int32), np.empty(len(X), X.dtype)
        self.assign_into(X, prepared, labels, sqdist, n_threads)
        return labels, sqdist

    def own_distances(self, X: np.ndarray, prepared: KMeansPrepared, labels: np.ndarray, n_threads: int) -> np.ndarray:
        """Return the squared distance (n,) of each row to its nearest centre, which is known (n,) int32."""
        sqdist = np.empty(len(X), X.dtype)
        nearest.own_distances(X, *prepared[:2], labels, sqdist, threads.native_threads(n_threads))
        return sqdist

    def assign_into(
        self, X, prepared: KMeansPrepared, labels: np.ndarray, sqdist: np.ndarray, n_threads: int,
        guess: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Write the nearest centre (n,) int32 of each row and the squared distance to it (n,).

        A guess (n,) int32, a near centre of each row, is of use where rows are searched by a rotation.
        """
        search = self._one_search(X, prepared, guess is None, n_threads)
        if search is None:
            nearest.assign(X, *prepared[:3], labels, sqdist, threads.native_threads(n_threads))
            return
        if guess is not None:
            labels[:] = guess
        nearest.search_rotated(X, *prepared[:3], search, labels, threads.native_threads(n_threads), sqdist)

    def _one_search(self, X: np.ndarray, prepared: KMeansPrepared, blind: bool, n_threads: int) -> Any:
        """Return the rotation by which one pass is to search, or None."""
        if self.algorithm not in ("rotated", "auto") or not rotated.possible(X.shape[1], self.n_components):
            return None
        known = self._rotations.for_one_pass(X, prepared, blind, n_threads)
        turned = None if known is None else rotated.turn(known, prepared, n_threads)
        return None if known is None or turned is None else rotated.search_by(known, turned, prepared.moved, blind)

    def two_nearest(
        self, X: np.ndarray, prepared: Any, labels: np.ndarray, first: np.ndarray, second: np.ndarray, n_threads: int
    ) -> None:
        """Write the nearest centre (n,) int32 of each row, and its squared distances (n,) to two, to rounding.

        The first is an upper bound, the second a lower bound.
        """
        level, records = self._records(X)
        upper, lower = np.empty(len(X), X.dtype), np.empty(len(X), X.dtype)
        n_threads = threads.native_threads(n_threads)
        nearest.accumulate(X, np.empty(0, X.dtype), *prepared[:3], level, records, labels, n_threads, upper, lower)
        first[:], second[:] = np.square(upper, dtype=np.float64), np.square(lower, dtype=np.float64)

    def distances(self, X: np.ndarray, centers: np.ndarray, out: np.ndarray, n_threads: int) -> None:
        """Write the squared distance (n, k) of each row to each centre (k, d), all in X's dtype."""
        nearest.distances(X, centers, out, threads.native_threads(n_threads))

    def log_joint(self, X: np.ndarray, prepared: KMeansPrepared, n_threads: int) -> np.ndarray:
        """Return 0 for the nearest centre and -inf for the others: the posterior of the hard assignment."""
        log_joint = np.full((len(X), self.n_components), -np.inf)
        log_joint[np.arange(len(X)), self.assign(X, prepared, n_threads)[0]] = 0.0
        return log_joint

    def badness(
        self, X: np.ndarray, w: np.ndarray, prepared: KMeansPrepared, n_threads: int, labels: np.ndarray | None = None
    ) -> np.ndarray:
        if labels is None:
            sqdist = self.assign(X, prepared, n_threads)[1]
        else:
            sqdist = self.own_distances(X, prepared, labels, n_threads)
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

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        return {"centers": (self.n_components, n_features)}

    def n_free_params(self, n_features: int) -> int:
        return self.n_components * n_features


def _n_threads() -> int:
    """Return the threads that what is done between two passes may use."""
    return threads.native_threads(threads.allowed())


def _merged(records: np.ndarray, n_threads: int) -> np.ndarray:
    """Return the sum (size,) of the records of tasks, which are not kept for it."""
    if len(records) == 1:
        return records[0]
    nearest.merge_tree(records, n_threads)
    return records[0].copy()
