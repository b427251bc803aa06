r"""Mixtures of categorical distributions: latent class analysis (lecture row L9).

Feature j holds a code v in 0 .. m_j - 1.  Given component k the features are independent and

    log p(x given z = k) = sum_j log theta_kj(x_j).

The E-step collects, for all features side by side in M = sum_j m_j columns, where a missing value counts nowhere,

    counts_k = sum_i w_i r_ik,      sums_kjv = sum of w_i r_ik over the rows with x_ij = v,

and the M-step sets pi_k = counts_k / sum(counts), theta_kj(v) = sums_kjv / sum_u sums_kju.  With a floor no probability
is smaller than that; the expected log-likelihood is concave in theta, and its maximum under the constraint sets what is
too small to the floor and scales the rest, so the log-likelihood never falls once the parameters obey it.

Features of few categories are written out as indicators, a panel of them at a time, and both steps become products of
small matrices (see `linear`).  Features of many categories look up their column, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastem import values
from fastem.draws import Draws
from fastem.families.base import MStep
from fastem.families.coordinates import log_ratio, measured, pack_weights, present, steps_of, unpack_weights
from fastem.families.discrete.linear import DEAD, NEVER, POOLED, DiscreteFamily, log_weights, weigh
from fastem.jit import kernel
from fastem.kernels.cell_pass import passes
from fastem.kernels.products import add_product, highest, sum_rows
from fastem.kernels.views import binder
from fastem.records import Fields, Layout

# Features of up to this many categories are multiplied as indicators: a look-up costs as much as 16 multiply-adds.
FEW = 16
# Indicators that exist at a time, a multiple of 4: they stay in the second-level cache.
PANEL = 64


class CategoricalParams(NamedTuple):
    """Parameters of a categorical mixture, float64."""

    weights: np.ndarray  # (k,) mixing proportions
    probabilities: np.ndarray  # (k, M) of every category, feature after feature


class CategoricalPrepared(NamedTuple):
    """Parameters as the kernels want them."""

    origin: np.ndarray  # (d,) zeros in the rows' dtype
    log_weights: np.ndarray  # (k,) float64
    negligible: np.ndarray  # (k,) float64, zeros: every share counts
    starts: np.ndarray  # (d + 1,) first column of each feature
    log_probs: np.ndarray  # (k, M + 4) in the rows' dtype; the last columns are zeros


class CategoricalStats(NamedTuple):
    """The additive record."""

    loglik: np.ndarray  # () sum of w log p(x)
    counts: np.ndarray  # (k,) sum of w r
    sums: np.ndarray  # (k, M) sum of w r over the rows of each category


# --- kernels


@kernel
def _indicators(rows, XT, starts, j, work):
    """Write indicators of features j, j + 1, ... of few categories; return the next feature and the columns used."""
    one, zero = XT.dtype.type(1), XT.dtype.type(0)
    n = 0
    while j < XT.shape[0]:
        m = starts[j + 1] - starts[j]
        if m > FEW or n + m > PANEL:
            break
        for v in range(m):
            code = XT.dtype.type(v)
            for r in range(rows):
                work[n + v, r] = one if XT[j, r] == code else zero
        n += m
        j += 1
    for t in range(n, (n + 3) // 4 * 4):
        for r in range(rows):
            work[t, r] = zero
    return j, n


@kernel
def _log_joint_block(rows, XT, prepared, work, log_joint, best):
    k, d = log_joint.shape[0], XT.shape[0]
    starts = prepared.starts
    for c in range(k):
        start = XT.dtype.type(prepared.log_weights[c])
        for r in range(rows):
            log_joint[c, r] = start
    j = 0
    while j < d:
        first = starts[j]
        after, n = _indicators(rows, XT, starts, j, work)
        if n:
            add_product(rows, (n + 3) // 4 * 4, work, first, prepared.log_probs, log_joint)
        else:  # a feature of many categories
            after = j + 1
            for r in range(rows):
                x = XT[j, r]
                if x == x:
                    column = first + np.intp(x)
                    for c in range(k):
                        log_joint[c, r] += prepared.log_probs[c, column]
        j = after
    highest(rows, log_joint, best)


@kernel
def _moments_block(rows, XT, prepared, work, share, factor, masses, record):
    k, d = share.shape[0], XT.shape[0]
    starts = prepared.starts
    weigh(rows, share, factor, record.counts)
    out = np.empty((k, PANEL))
    j = 0
    while j < d:
        first = starts[j]
        after, n = _indicators(rows, XT, starts, j, work)
        if n:
            sum_rows(rows, (n + 3) // 4 * 4, work, share, out)
            for c in range(k):
                for t in range(n):
                    record.sums[c, first + t] += out[c, t]
        else:
            after = j + 1
            for r in range(rows):
                x = XT[j, r]
                if x == x:
                    column = first + np.intp(x)
                    for c in range(k):
                        record.sums[c, column] += share[c, r]
        j = after


@kernel
def _room(prepared):
    """Rows of XT, and of the work array."""
    return prepared.origin.shape[0], PANEL


FIELDS = Fields(CategoricalStats, loglik="", counts="k", sums="km")
_bind = binder(FIELDS)


@kernel
def _view(prepared, record):
    return _bind(record, (prepared.log_weights.shape[0], prepared.starts[prepared.origin.shape[0]]))


accumulate, expect = passes(_log_joint_block, _moments_block, _room, _view)

# --- algebra


class CategoricalFamily(DiscreteFamily):
    """A mixture of `n_components` products of categorical distributions.

    Parameters
    ----------
    n_components : int
        Number of components k.
    n_categories : int or sequence of int
        Categories m_j of each feature, or the same for all.
    floor : float
        Least probability of a category, at most 1 / m_j in feature j; 0 for plain maximum likelihood.
    """

    name = "categorical"
    params = CategoricalParams
    positive_only = True

    def __init__(self, n_components: int, n_categories: int | Sequence[int] = 2, floor: float = 0.0) -> None:
        self.n_components = n_components
        self.n_categories = n_categories
        self.floor = floor

    def check(self, X: np.ndarray) -> None:
        values.codes(X, np.broadcast_to(self.n_categories, X.shape[1]), "CategoricalMixture")

    def starts(self, n_features: int) -> np.ndarray:
        """First column of each feature, and the number M of columns (d + 1,)."""
        return np.concatenate([[0], np.cumsum(np.broadcast_to(self.n_categories, n_features))]).astype(np.intp)

    def sizes(self, n_columns: int) -> np.ndarray:
        """Categories of each feature (d,), given their sum."""
        if isinstance(self.n_categories, int | np.integer):
            return np.full(n_columns // self.n_categories, self.n_categories, np.intp)
        return np.asarray(self.n_categories, np.intp)

    def layout(self, n_features: int) -> Layout[CategoricalStats]:
        return FIELDS.layout(self.n_components, int(self.starts(n_features)[-1]))

    def prepare(self, params: CategoricalParams, dtype: np.dtype, previous: Any = None) -> CategoricalPrepared:
        *groups, k, size = params.probabilities.shape
        starts = self.starts(len(self.sizes(size)))
        log_probs = np.zeros((*groups, k, size + 4), dtype)
        log_probs[..., :size] = np.log(np.maximum(params.probabilities, NEVER))
        origin = np.zeros((*groups, len(starts) - 1), dtype)
        starts = np.broadcast_to(starts, (*groups, len(starts)))
        return CategoricalPrepared(origin, log_weights(params.weights), np.zeros((*groups, k)), starts, log_probs)

    def accumulator(self, n_features: int) -> Any:
        return accumulate

    def expectation(self, n_features: int) -> Any:
        return expect

    def recentre(
        self, stats: CategoricalStats, prepared: CategoricalPrepared, onto: CategoricalPrepared
    ) -> CategoricalStats:
        """Return the record as it is: counts of categories are about no point."""
        return stats

    def m_step(
        self, stats: CategoricalStats, constants: Any, prepared: CategoricalPrepared, params: CategoricalParams
    ) -> MStep:
        sizes = self.sizes(stats.sums.shape[-1])
        return MStep(
            CategoricalParams(self.weights_of(stats), proportions(stats.sums, sizes, self.floor, params.probabilities))
        )

    def first_step(
        self, stats: CategoricalStats, constants: Any, prepared: CategoricalPrepared, params: CategoricalParams
    ) -> CategoricalParams:
        """Take in a little of all rows: EM cannot leave a probability of 0."""
        starts = self.starts(prepared.origin.shape[-1])
        pooled = stats.sums.sum(axis=-2, keepdims=True)
        observed = np.repeat(np.add.reduceat(pooled, starts[:-1], axis=-1), np.diff(starts), axis=-1)
        total = stats.counts.sum(axis=-1)[..., None, None]
        share = POOLED / self.n_components * total / np.where(observed > 0, observed, np.inf)
        return self.m_step(stats._replace(sums=stats.sums + share * pooled), constants, prepared, params).params

    def expected_log_likelihood(
        self, stats: CategoricalStats, constants: Any, prepared: CategoricalPrepared, params: CategoricalParams
    ) -> float:
        logs = np.log(np.maximum(params.probabilities, NEVER))
        return self.weights_term(stats, params) + float(np.sum(stats.sums * logs))

    def magnitude(self, stats: CategoricalStats, prepared: CategoricalPrepared, params: CategoricalParams) -> float:
        return -float(np.sum(stats.sums * np.log(np.maximum(params.probabilities, NEVER))))

    def embedding(self) -> Callable[[np.ndarray], np.ndarray]:
        return self.embed

    def embed(self, X: np.ndarray) -> np.ndarray:
        """Return the indicators (m, M) of rows X (m, d): codes are names, and their differences mean nothing."""
        starts = self.starts(X.shape[1])
        out = np.zeros((len(X), int(starts[-1])), X.dtype)
        row, feature = np.nonzero(~np.isnan(X))
        out[row, starts[feature] + X[row, feature].astype(np.intp)] = 1
        return out

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: CategoricalPrepared, stats: np.ndarray) -> None:
        record = self.layout(X.shape[1]).view(stats)
        weighted = resp * w[:, None] if w.size else resp
        record.counts[:] += weighted.sum(axis=0)
        record.sums[:] += weighted.T @ self.embed(X).astype(np.float64)

    def pack(self, params: CategoricalParams, like: CategoricalParams) -> np.ndarray:
        logs = log_ratio(params.probabilities, like.probabilities)
        information = present(like.weights)[:, None] * like.probabilities
        return np.append(pack_weights(params.weights, like.weights), measured(logs, information))

    def unpack(self, vector: np.ndarray, like: CategoricalParams) -> CategoricalParams | None:
        weights = unpack_weights(vector[: self.n_components], like.weights)
        if weights is None:
            return None
        before = like.probabilities
        odds = before * np.exp(steps_of(vector[self.n_components :], present(like.weights)[:, None] * before))
        return CategoricalParams(weights, proportions(odds, self.sizes(before.shape[1]), self.floor, before))

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> CategoricalParams:
        *groups, k, size = means.shape
        sizes = self.sizes(size)
        even = np.repeat(1.0 / sizes, sizes)[None]
        inner = proportions(np.maximum(means, 0.0), sizes, 0.0, np.broadcast_to(even, means.shape))
        return CategoricalParams(np.full((*groups, k), 1.0 / k), 0.9 * inner + 0.1 * even)

    def example_params(self, n_features: int, draws: Draws) -> CategoricalParams:
        """Component k favours one category in each feature, not the same as its neighbours'."""
        k, starts = self.n_components, self.starts(n_features)
        sizes = np.diff(starts)
        probabilities = 0.5 + draws.uniform(k * starts[-1]).reshape(k, -1)
        for j, m in enumerate(sizes):
            digit = np.array([c // int(m) ** j for c in range(k)])  # Python's integers: the power may be large
            favourites = starts[j] + (digit + j * np.arange(k)) % m
            probabilities[np.arange(k), favourites] += 4.0 * m
        weights = 1.0 + draws.uniform(k)
        return CategoricalParams(weights / weights.sum(), proportions(probabilities, sizes, 0.0, probabilities))

    def sample(self, params: CategoricalParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Draw n rows (n, d) of codes, ordered by component, and their components (n,)."""
        y = np.sort(draws.weighted(params.weights, n))
        sizes = self.sizes(params.probabilities.shape[1])
        starts = self.starts(len(sizes))
        X = np.empty((n, len(sizes)))
        for j, (start, m) in enumerate(zip(starts, sizes, strict=False)):
            cumulative = np.cumsum(params.probabilities[:, start : start + m - 1], axis=1)
            X[:, j] = (draws.uniform(n)[:, None] >= cumulative[y]).sum(axis=1)
        return X, y

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        return {"weights": (self.n_components,), "probabilities": (self.n_components, int(self.starts(n_features)[-1]))}

    def n_free_params(self, n_features: int) -> int:
        k = self.n_components
        return k * (int(self.starts(n_features)[-1]) - n_features) + k - 1


def proportions(sums: np.ndarray, sizes: np.ndarray, floor: float, previous: np.ndarray) -> np.ndarray:
    """Return sums (..., k, M) divided by their total in each feature, none below `floor`; `previous` where none is.

    What falls below the floor is set to it and the rest scaled to make up, which may push more below.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def total(values: np.ndarray) -> np.ndarray:
        return np.repeat(np.add.reduceat(values, starts, axis=-1), sizes, axis=-1)

    least = np.minimum(floor, np.repeat(1.0 / sizes, sizes))[None]
    weight = total(sums)
    alive = weight > DEAD
    out = np.where(alive, sums / np.where(alive, weight, 1.0), previous)
    if out.ndim > 2:  # of many groups, those alone that need it: scaling by 1 would change the digits of the others
        for group in np.flatnonzero((out < least).any(axis=(-2, -1))):
            out[group] = proportions(sums[group], sizes, floor, previous[group])
        return out
    low = np.zeros(out.shape, bool)
    while np.any(out < least):
        low |= out < least
        left = 1.0 - total(np.where(low, least, 0.0))
        free = np.where(low, 0.0, out)
        scale = total(free)
        out = np.where(low, least, free * left / np.where(scale > 0, scale, 1.0))
    return out
