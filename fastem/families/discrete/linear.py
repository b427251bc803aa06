r"""What families share whose log-density is linear in the row, given the component.

    log p(x given z = k) = sum_j seen_j (slope_kj (x_j - o_j) + level_kj) + h(x),     seen_j = 0 where x_j is missing,

is an exponential family whose sufficient statistic is the row itself: Bernoulli and Poisson.  The term h(x), the same
for all components, is left to the family.  For a block of rows both steps are then products of small matrices,

    log_joint = log_weights + slope (X - o)' + level seen',      sums = R (X - o),      observed = R seen,

which the kernels below take in tiles of 4 components by 4 features; where nothing is missing in a panel of features,
`seen` is not needed.  Complete rows of many features are not transposed into columns for it, but read as they lie
(`wide`): log-densities are then the same to rounding.

Missing values are ignorable (missing at random): they contribute nothing to the density of their row, and a mean is
taken over the weight that its component has in the rows where the feature is observed.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np

from fastem.families.base import Family, Groups, Labelled, Limits, Runs
from fastem.families.discrete import groups as many
from fastem.jit import kernel, sweep
from fastem.kernels.blocks import STRIDE, load_weights, padded
from fastem.kernels.cell_pass import cell, expectation
from fastem.kernels.products import add_product, highest, sum_rows
from fastem.kernels.responsibilities import finish_rows, fix_labels, settle, shares
from fastem.kernels.row_products import LEAST_FEATURES, add_rows, multiply_rows
from fastem.kernels.views import view_of
from fastem.records import Fields, Layout

# A component or a feature of it with less weight than this keeps its parameters (10 eps, as for Gaussians).
DEAD = 10 * np.finfo(np.float64).eps
# A probability or rate of 0 counts as this in logarithms: finite, so that 0 log 0 = 0, and far below any rounding of a
# responsibility, but not so far that float32 loses digits to it.
NEVER = 1e-30
# Bytes of a block of rows that is read twice.
BLOCK_BYTES = 2**18
# Features that are looked at together, a multiple of 4: with missing values they are written down twice.
PANEL = 64
# Rounding error of a sum, in units of the machine epsilon times the sum of the terms' magnitudes.
ROUNDING = 8.0
# Weight of the pooled data in the first M-step of a start, as a share of the mean weight of a component.
POOLED = 0.01


class LinearPrepared(NamedTuple):
    """Parameters as the kernels want them."""

    origin: np.ndarray  # (d,) in the rows' dtype
    log_weights: np.ndarray  # (k,) float64
    negligible: np.ndarray  # (k,) float64, zeros: every share counts
    levels: np.ndarray  # (k, panels) float64, sums of the levels of each panel of features
    coefficients: np.ndarray  # (k, 2 dp) in the rows' dtype: slopes, then levels, each padded with zeros to dp


class LinearStats(NamedTuple):
    """The additive record."""

    loglik: np.ndarray  # () sum of w (log p(x) - h(x))
    counts: np.ndarray  # (k,) sum of w r
    sums: np.ndarray  # (k, d) sum of w r (x - origin) over the observed values
    observed: np.ndarray  # (k, d) sum of w r over the observed values


# --- kernels


@kernel
def weigh(
    rows,
    share,  # (k, STRIDE) INOUT: becomes weighted responsibilities
    factor,  # (STRIDE,)
    counts,  # (k,) float64 OUT
):
    """Turn shares into weighted responsibilities and add them to the counts."""
    zero = share.dtype.type(0)
    for c in range(share.shape[0]):
        n = zero
        for r in range(rows):
            value = share[c, r] * factor[r]
            share[c, r] = value
            n += value
        counts[c] += n


@kernel
def _panel(
    rows,
    j,  # first feature
    n,  # features, a multiple of 4 but at the end of XT
    XT,  # (dp, STRIDE) relative to the origin, NaN where missing
    work,  # (2 PANEL, STRIDE) OUT: values, 0 where missing, in rows 0..n; 1 where seen in rows n..2n
):
    """Return whether a value is missing in features j..j + n, and write them down if so."""
    zero, one = XT.dtype.type(0), XT.dtype.type(1)
    missing = 0
    for t in range(n):
        for r in range(rows):
            x = XT[j + t, r]
            missing += 1 if x != x else 0
    if missing:
        for t in range(n):
            for r in range(rows):
                x = XT[j + t, r]
                work[t, r] = x if x == x else zero
                work[n + t, r] = one if x == x else zero
    return missing > 0


@kernel
def _log_joint_block(rows, XT, prepared, work, log_joint, best):
    k, dp = log_joint.shape[0], XT.shape[0]
    constant = prepared.log_weights.copy()
    for c in range(k):
        for r in range(rows):
            log_joint[c, r] = 0
    for j in range(0, dp, PANEL):
        n = min(PANEL, dp - j)
        missing = _panel(rows, j, n, XT, work)
        for part in range(2 if missing else 1):  # one call, so that it is compiled once
            Z = work[part * n :] if missing else XT[j:]
            add_product(rows, n, Z, part * dp + j, prepared.coefficients, log_joint)
        if not missing:
            for c in range(k):
                constant[c] += prepared.levels[c, j // PANEL]
    for c in range(k):
        start = XT.dtype.type(constant[c])
        for r in range(rows):
            log_joint[c, r] += start
    highest(rows, log_joint, best)


@kernel
def _moments_block(rows, XT, prepared, work, share, factor, heavy, record):
    k, d, dp = share.shape[0], prepared.origin.shape[0], XT.shape[0]
    before = record.counts.copy()
    weigh(rows, share, factor, record.counts)
    out = np.empty((k, PANEL))
    for j in range(0, dp, PANEL):
        n = min(PANEL, dp - j)
        missing = _panel(rows, j, n, XT, work)
        for part in range(2 if missing else 1):
            sum_rows(rows, n, work[part * n :] if missing else XT[j:], share, out)
            target = record.observed if part else record.sums
            for c in range(k):
                for t in range(min(n, d - j)):
                    target[c, j + t] += out[c, t]
        if not missing:
            for c in range(k):
                for t in range(min(n, d - j)):
                    record.observed[c, j + t] += record.counts[c] - before[c]


@kernel
def _room(prepared):
    """Rows of XT (features in fours), and of the work array."""
    dp = prepared.coefficients.shape[1] // 2
    return dp, 2 * min(PANEL, dp)


FIELDS = Fields(LinearStats, loglik="", counts="k", sums="kd", observed="kd")
_view = view_of(FIELDS)
_narrow = cell(_log_joint_block, _moments_block, _room, _view)


@kernel
def _block_of_rows(d, itemsize):
    """Rows of a block that is read twice: what stays in a second-level cache of 1 MiB, beside much else."""
    return min(256, max(16, BLOCK_BYTES // (d * itemsize) // 4 * 4))


@kernel
def _wide(X, w, labels, prepared, start, stop, stats):
    """Do the work of `_narrow` without transposing rows, of which none may lack a value.

    Of rows so far that products with them overflow, the heaviest component gets all.
    """
    k, d = prepared.log_weights.shape[0], X.shape[1]
    record = _view(prepared, stats)
    space = np.zeros((k + 4, STRIDE), X.dtype)
    share, best, total, wb, state = space[:k], space[-4], space[-3], space[-2], space[-1]
    heavy, nothing = np.zeros(k), space[:0]
    constant = prepared.log_weights.copy()
    for c in range(k):
        for panel in range(prepared.levels.shape[1]):
            constant[c] += prepared.levels[c, panel]
    size = _block_of_rows(d, X.itemsize)
    for first in range(start, stop, size):
        m = min(size, stop - first)
        rows = padded(m)
        load_weights(w, first, m, rows, wb)
        for again in range(2):
            multiply_rows(X, first, m, prepared.origin, prepared.coefficients, share)
            for c in range(k):
                own = X.dtype.type(constant[c])
                for r in range(m):
                    share[c, r] += own
                for r in range(m, rows):
                    share[c, r] = 0
            highest(rows, share, best)
            fix_labels(labels, first, m, share, best)
            if shares(rows, prepared.negligible, share, best, total, heavy) == 0 and again == 0:
                break
            if not settle(again, m, labels, first, prepared.log_weights, nothing, share, best, total, heavy, state):
                break
        record.loglik[0] += finish_rows(rows, wb, best, total)
        weigh(rows, share, total, record.counts)
        add_rows(X, first, m, prepared.origin, share, record.sums)
    for c in range(k):
        for j in range(d):
            record.observed[c, j] += record.counts[c]


narrow, wide = sweep(_narrow), sweep(_wide)
expect = expectation(_log_joint_block, _room)

# --- algebra


def padded_features(d: int) -> int:
    """Features after padding to whole tiles."""
    return -(-d // 4) * 4


def log_weights(weights: np.ndarray) -> np.ndarray:
    """Return the logarithms of mixing proportions, -inf for a component that has died."""
    with np.errstate(divide="ignore"):
        return np.log(weights)


class DiscreteFamily(Family):
    """A mixture of discrete distributions: its record holds loglik and counts, its parameters hold weights."""

    allow_nan = True
    continuous = False
    floor: float  # least probability or rate

    def shortfall(self, stats: Any, constants: Any, prepared: Any, old: Any, new: Any) -> float:
        def q(params: Any) -> float:
            return self.expected_log_likelihood(stats, constants, prepared, params)

        # No more than what the floor takes from the maximum of Q: a wrong M-step must not explain itself.
        plain = copy.copy(self)
        plain.floor = 0.0
        best = plain.m_step(stats, constants, prepared, old).params
        floored = self.m_step(stats, constants, prepared, old).params
        explained = max(0.0, min(q(old) - q(new), q(best) - q(floored)))
        return (explained + self.rounding(stats, constants, prepared, new)) / float(stats.counts.sum())

    def rounding(self, stats: Any, constants: Any, prepared: Any, params: Any) -> float:
        """Return by how much rounding may move the log-likelihood of all rows, whose terms may be large and cancel."""
        epsilon = float(np.finfo(prepared.origin.dtype).eps)
        return ROUNDING * epsilon * (abs(self.weights_term(stats, params)) + self.magnitude(stats, prepared, params))

    @abstractmethod
    def magnitude(self, stats: Any, prepared: Any, params: Any) -> float:
        """Return the sum of the magnitudes of the terms of Q, without the mixing proportions'."""

    # Records, parameters and prepared parameters may have a leading axis of groups (`groups`) in all that follows up to
    # `weights_term`, and in what the families make of it.

    def weights_of(self, stats: Any) -> np.ndarray:
        """Return the M-step's mixing proportions (k,)."""
        return np.asarray(stats.counts / stats.counts.sum(axis=-1, keepdims=True))

    def objective(self, stats: Any, constants: Any, params: Any) -> float:
        """Mean log-likelihood of a row."""
        return float(self.objectives(stats, constants, params))

    def objectives(self, stats: Any, constants: Any, params: Any) -> np.ndarray:
        """Return `objective`, of each group."""
        return np.asarray(stats.loglik / stats.counts.sum(axis=-1))

    def runs_groups(self, n_features: int) -> bool:
        return True

    def blank_of_groups(self, groups: Groups, centers: np.ndarray) -> Any:
        """Return `blank_params` of each group, of first centres (G, k, e)."""
        return self.blank_params(centers, np.zeros(0))

    def run_groups(
        self, groups: Groups, start: Labelled, constants: np.ndarray, limits: Limits, *, keep: bool = False
    ) -> tuple[Any, Runs]:
        return many.run(self, groups, start, constants, limits, keep)

    def expect_groups(self, groups: Groups, params: Any, found: np.ndarray, **outputs: np.ndarray) -> None:
        many.expect(self, groups, params, found, self.no_outputs()._replace(**outputs))

    def pooled_constants(self, first: Any, second: Any, keep: float, share: float) -> Any:
        """Return constants that are sums over the rows, if there are any."""
        if first is None:
            return None
        return type(first)(*[keep * a + share * b for a, b in zip(first, second, strict=True)])

    def weights_term(self, stats: Any, params: Any) -> float:
        """Return the share of the mixing proportions in Q; 0 log 0 = 0."""
        return float(stats.counts @ np.log(np.maximum(params.weights, NEVER)))


class LinearFamily(DiscreteFamily):
    """A mixture with a log-density that is linear in the row."""

    complete = True  # no row lacks a value

    def __init__(self, n_components: int, floor: float = 0.0) -> None:
        self.n_components = n_components
        self.floor = floor

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        weights, others = self.params._fields
        return {weights: (self.n_components,), others: (self.n_components, n_features)}

    def n_free_params(self, n_features: int) -> int:
        return self.n_components * n_features + self.n_components - 1

    def for_missing(self) -> Self:
        other = copy.copy(self)
        other.complete = False
        return other

    @abstractmethod
    def origin(self, params: Any) -> np.ndarray:
        """Point (d,) that rows are taken relative to; the same whatever the rows' dtype."""

    @abstractmethod
    def natural(self, params: Any, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return slopes and levels (k, d) float64 of the log-density about the origin."""

    def layout(self, n_features: int) -> Layout[LinearStats]:
        return FIELDS.layout(self.n_components, n_features)

    def prepare(self, params: Any, dtype: np.dtype, previous: Any = None) -> LinearPrepared:
        origin = self.origin(params)
        slope, level = self.natural(params, origin)
        d, dp = origin.shape[-1], padded_features(origin.shape[-1])
        coefficients = np.zeros((*slope.shape[:-1], 2 * dp), dtype)
        coefficients[..., :d] = slope
        coefficients[..., dp : dp + d] = level
        log_pi = log_weights(params.weights)
        levels = np.add.reduceat(level, np.arange(0, d, PANEL), axis=-1)
        return LinearPrepared(origin.astype(dtype), log_pi, np.zeros(slope.shape[:-1]), levels, coefficients)

    def recentre(self, stats: LinearStats, prepared: LinearPrepared, onto: LinearPrepared) -> LinearStats:
        moved = prepared.origin.astype(np.float64) - onto.origin.astype(np.float64)
        return stats._replace(sums=stats.sums + stats.observed * moved) if moved.any() else stats

    def accumulator(self, n_features: int) -> Any:
        return wide if self.complete and n_features >= LEAST_FEATURES else narrow

    def expectation(self, n_features: int) -> Any:
        return expect

    def means(self, stats: LinearStats, prepared: LinearPrepared, previous: np.ndarray) -> np.ndarray:
        """Return the means (k, d) over the observed values; without any, `previous`."""
        alive = stats.observed > DEAD
        origin = prepared.origin[..., None, :]
        return np.where(alive, origin + stats.sums / np.where(alive, stats.observed, np.inf), previous)

    def pooled(self, stats: LinearStats) -> LinearStats:
        """Return the record of a start with a little of all rows added to each component.

        Clusters of a first hard assignment often hold one value only, and EM cannot leave a probability of 0.
        """
        observed = stats.observed.sum(axis=-2, keepdims=True)
        total = stats.counts.sum(axis=-1)[..., None, None]
        share = POOLED / self.n_components * total / np.where(observed > 0, observed, np.inf)
        return stats._replace(
            sums=stats.sums + share * stats.sums.sum(axis=-2, keepdims=True), observed=stats.observed + share * observed
        )

    def first_step(self, stats: LinearStats, constants: Any, prepared: LinearPrepared, params: Any) -> Any:
        return self.m_step(self.pooled(stats), constants, prepared, params).params

    def expected_log_likelihood(
        self, stats: LinearStats, constants: Any, prepared: LinearPrepared, params: Any
    ) -> float:
        slope, level = self.natural(params, prepared.origin.astype(np.float64))
        return self.weights_term(stats, params) + float(np.sum(stats.sums * slope + stats.observed * level))

    def magnitude(self, stats: LinearStats, prepared: LinearPrepared, params: Any) -> float:
        slope, level = self.natural(params, prepared.origin.astype(np.float64))
        return float(np.sum(np.abs(stats.sums * slope) + np.abs(stats.observed * level)))

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: LinearPrepared, stats: np.ndarray) -> None:
        record = self.layout(X.shape[1]).view(stats)
        weighted = resp * w[:, None] if w.size else resp
        seen = ~np.isnan(X)
        record.counts[:] += weighted.sum(axis=0)
        record.sums[:] += weighted.T @ np.where(seen, X.astype(np.float64) - prepared.origin, 0.0)
        record.observed[:] += weighted.T @ seen
