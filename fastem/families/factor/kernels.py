r"""What the families of factor analysers share: kernels, statistics and the regression of the M-step.

Given its component, a row is x = mu + Lambda z + e with factors z ~ N(0, I_q) and noise e ~ N(0, Psi), Psi diagonal
(Bishop, PRML, section 12.2.4; Ghahramani and Hinton, "The EM algorithm for mixtures of factor analyzers", 1996).  With
u = x - mu over the observed features of a row, and M = I + Lambda' Psi^-1 Lambda over the same,

    p(z given x) = N(z_bar, M^-1),     z_bar = M^-1 Lambda' Psi^-1 u,
    log p(x)     = -1/2 (n log 2 pi + log det Psi + log det M + (u - Lambda z_bar)' Psi^-1 (u - Lambda z_bar)
                         + |z_bar|^2),

n being the number of observed features: the determinant lemma and the Woodbury identity, written so that no difference
of large numbers is taken.  That is O(d q) for a row and component.  Missing values are ignorable: rows with the same
pattern of missing values share M, which is inverted once for them (`patterns`); rows of rare patterns are taken
together (`scattered`).

With zz = (z, 1) the E-step collects, centred on the current means,

    seconds_k = sum w r E[zz zz'],     cross_kj = sum w r u_j E[zz],     squares_kj = sum w r u_j^2,

the last two over the rows where feature j is observed, and lacking_kj, which is seconds_k over the rows where it is
not.  The M-step regresses each feature on zz: loadings and mean are (seconds_k - lacking_kj)^-1 cross_kj, and the noise
variance is the mean square of the residual.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastem.families.factor.rare_patterns import (
    LOG_2PI,
    gather_scattered,
    log_joint_scattered,
    moments_scattered,
    new_room,
)
from fastem.jit import each_cell, kernel, sweep
from fastem.kernels.blocks import STRIDE, block_rows, load_weights
from fastem.kernels.elementary import log
from fastem.kernels.patterns import group_rows
from fastem.kernels.products import add_product, highest, sum_rows
from fastem.kernels.responsibilities import finish_rows, fix_labels, settle, shares
from fastem.kernels.views import binder
from fastem.records import REST, Fields, Layout

# To invert the matrices of a pattern costs as much as so many rows of patterns of their own.
RARE = 32


class AnalyserPrepared(NamedTuple):
    """Parameters as the kernels want them; the means are relative to the origin, both in the rows' dtype."""

    origin: np.ndarray  # (d,)
    means: np.ndarray  # (k, d)
    log_weights: np.ndarray  # (k,) float64
    loadings: np.ndarray  # (k, d, q) float64
    noise: np.ndarray  # (k, d) float64


class AnalyserStats(NamedTuple):
    """The additive record, float64, about the means of the E-step; p = q + 1."""

    loglik: np.ndarray  # ()
    counts: np.ndarray  # (k,)
    seconds: np.ndarray  # (k, p, p) sum w r E[zz zz']
    cross: np.ndarray  # (k, d, p) sum w r u_j E[zz], over the observed values
    squares: np.ndarray  # (k, d) sum w r u_j^2, over the observed values
    lacking: np.ndarray  # (k, d, p, p) what of `seconds` comes from rows where the feature is missing, or (k, 0, p, p)


class Expected(NamedTuple):
    """Outputs of an E-step for rows of data; an array of no rows is not asked for."""

    log_joint: np.ndarray  # (n, k) log p(x_i, z_i = k)
    loglik: np.ndarray  # (n,) log p(x_i)
    labels: np.ndarray  # (n,) int32, the most responsible component
    resp: np.ndarray  # (n, k) responsibilities
    factors: np.ndarray  # (n, k q) responsibility times the posterior mean of the component's factors


class Pattern(NamedTuple):
    """What the rows of one pattern of missing values share, in the rows' dtype; features and factors in fours."""

    to_factors: np.ndarray  # (k, q, dp) M^-1 Lambda' Psi^-1, 0 for missing features
    minus_loadings: np.ndarray  # (k, d, qp)
    inverse_noise: np.ndarray  # (k, d) 0 for missing features
    offsets: np.ndarray  # (k,) float64
    covariances: np.ndarray  # (k, q, q) float64: M^-1


FIELDS = Fields(AnalyserStats, loglik="", counts="k", seconds="kpp", cross="kdp", squares="kd", lacking=f"k{REST}pp")
_bind = binder(FIELDS)


def layout(n_components: int, n_features: int, n_factors: int, n_lacking: int) -> Layout[AnalyserStats]:
    """Shape of the additive record; `n_lacking` is the number of features, or 0 for rows without missing values."""
    return FIELDS.layout(n_components, n_factors + 1, n_features, n_lacking)


# --- kernels


@kernel
def _fours(n):
    return (n + 3) // 4 * 4


@kernel
def _new_pattern(X, prepared):
    """Room for a `Pattern`; what depends on no pattern is filled in."""
    k, d, q = prepared.loadings.shape
    minus = np.zeros((k, d, _fours(q)), X.dtype)
    for c in range(k):
        for j in range(d):
            for f in range(q):
                minus[c, j, f] = -prepared.loadings[c, j, f]
    return Pattern(
        np.zeros((k, q, _fours(d)), X.dtype), minus, np.zeros((k, d), X.dtype), np.zeros(k), np.zeros((k, q, q))
    )


@kernel
def _invert(
    M,  # (q, q) symmetric positive definite INOUT: becomes its inverse
    factor,  # (q, q) room to work in
):
    """Invert a matrix by its Cholesky factor; return the logarithm of its determinant."""
    q = M.shape[0]
    log_det = 0.0
    for i in range(q):
        for j in range(i + 1):
            value = M[i, j]
            for t in range(j):
                value -= factor[i, t] * factor[j, t]
            if i == j:
                factor[i, i] = math.sqrt(value)
                log_det += 2.0 * math.log(factor[i, i])
            else:
                factor[i, j] = value / factor[j, j]
    for column in range(q):  # the inverse factor, below its diagonal, then its square
        for i in range(column, q):
            value = 1.0 if i == column else 0.0
            for t in range(column, i):
                value -= factor[i, t] * M[t, column]
            M[i, column] = value / factor[i, i]
    for i in range(q):
        for j in range(i + 1):
            value = 0.0
            for t in range(i, q):
                value += M[t, i] * M[t, j]
            factor[i, j] = value
    for i in range(q):
        for j in range(i + 1):
            M[i, j] = factor[i, j]
            M[j, i] = factor[i, j]
    return log_det


@kernel
def _fill_pattern(
    prepared,
    observed,  # (n,) intp
    missing,  # (m,) intp
    pattern,  # INOUT
):
    """Make a `Pattern` for rows in which these features are observed."""
    k, _, q = prepared.loadings.shape
    factor = np.zeros((q, q))
    for c in range(k):
        M = pattern.covariances[c]
        for f in range(q):
            for g in range(q):
                M[f, g] = 1.0 if f == g else 0.0
        constant = prepared.log_weights[c] - 0.5 * observed.shape[0] * LOG_2PI
        for j in missing:
            pattern.inverse_noise[c, j] = 0
            for f in range(q):
                pattern.to_factors[c, f, j] = 0
        for j in observed:
            inverse = 1.0 / prepared.noise[c, j]
            constant -= 0.5 * math.log(prepared.noise[c, j])
            pattern.inverse_noise[c, j] = inverse
            for f in range(q):
                scaled = inverse * prepared.loadings[c, j, f]
                for g in range(f + 1):
                    M[f, g] += scaled * prepared.loadings[c, j, g]
        pattern.offsets[c] = constant - 0.5 * _invert(M, factor)
        for j in observed:
            inverse = 1.0 / prepared.noise[c, j]
            for f in range(q):
                value = 0.0
                for g in range(q):
                    value += M[f, g] * prepared.loadings[c, j, g]
                pattern.to_factors[c, f, j] = value * inverse


@kernel
def _gather(
    X,  # (n, d)
    order,  # (m,) intp numbers of the rows
    rows,  # m or more
    origin,  # (d,)
    XT,  # (>= d, STRIDE) OUT: 0 where a value is missing
    scattered,  # whether the rows have patterns of their own
    room,  # for those OUT
):
    """Write rows, relative to the origin, as columns; those beyond m lie at the origin."""
    if scattered:
        gather_scattered(X, order, rows, origin, room, XT)
        return
    zero = XT.dtype.type(0)
    for j in range(X.shape[1]):
        centre = origin[j]
        for r in range(order.shape[0]):
            value = X[order[r], j] - centre
            XT[j, r] = value if value == value else zero
        for r in range(order.shape[0], rows):
            XT[j, r] = zero


@kernel
def _centre(rows, XT, mean, U):
    """Write the rows less a mean (d,)."""
    for j in range(mean.shape[0]):
        centre = mean[j]
        for r in range(rows):
            U[j, r] = XT[j, r] - centre


@kernel
def _log_joint_block(
    rows,
    XT,  # (dp, STRIDE)
    prepared,
    pattern,
    U,  # (dp, STRIDE) room to work in, 0 beyond the features
    Z,  # (k, qp, STRIDE) OUT: posterior means of the factors, 0 beyond them
    log_joint,  # (k, STRIDE) OUT
    best,  # (STRIDE,) OUT
):
    """Write log p(x, z = k) of a block whose rows have one pattern."""
    k, d, q = prepared.loadings.shape
    half = XT.dtype.type(0.5)
    for c in range(k):
        _centre(rows, XT, prepared.means[c], U)
        for f in range(q):
            for r in range(rows):
                Z[c, f, r] = 0
        add_product(rows, XT.shape[0], U, 0, pattern.to_factors[c], Z[c, :q])
        add_product(rows, Z.shape[1], Z[c], 0, pattern.minus_loadings[c], U[:d])
        out = log_joint[c]
        for r in range(rows):
            out[r] = 0
        for j in range(d):
            inverse = pattern.inverse_noise[c, j]
            for r in range(rows):
                out[r] += U[j, r] * U[j, r] * inverse
        for f in range(q):
            for r in range(rows):
                out[r] += Z[c, f, r] * Z[c, f, r]
        offset = XT.dtype.type(pattern.offsets[c])
        for r in range(rows):
            out[r] = offset - half * out[r]
    highest(rows, log_joint, best)


@kernel
def _moments_block(
    rows,
    XT,  # (dp, STRIDE)
    prepared,
    pattern,
    observed,  # (n,) intp
    missing,  # (m,) intp
    U,  # (dp, STRIDE) room to work in
    Z,  # (k, qp, STRIDE)
    share,  # (k, STRIDE)
    factor,  # (STRIDE,)
    heavy,  # (k,)
    weighted,  # (q + 1, STRIDE) room to work in
    sums,  # (q + 1, max(dp, qp)) float64 room to work in
    record,  # OUT
):
    """Add the statistics of a block whose rows have one pattern."""
    k, q = prepared.loadings.shape[0], prepared.loadings.shape[2]
    p = q + 1
    moments = np.empty((p, p))
    for c in range(k):
        if heavy[c] == 0:
            continue
        n = XT.dtype.type(0)
        for r in range(rows):
            a = share[c, r] * factor[r]
            weighted[q, r] = a
            n += a
            for f in range(q):
                weighted[f, r] = a * Z[c, f, r]
        record.counts[c] += n
        _centre(rows, XT, prepared.means[c], U)
        sum_rows(rows, XT.shape[0], U, weighted, sums)
        for j in observed:
            for f in range(p):
                record.cross[c, j, f] += sums[f, j]
            square = XT.dtype.type(0)
            for r in range(rows):
                square += weighted[q, r] * U[j, r] * U[j, r]
            record.squares[c, j] += square
        sum_rows(rows, Z.shape[1], Z[c], weighted, sums)
        for f in range(q):
            moments[f, q] = moments[q, f] = sums[q, f]
            for g in range(q):
                moments[f, g] = 0.5 * (sums[f, g] + sums[g, f]) + n * pattern.covariances[c, f, g]
        moments[q, q] = n
        for f in range(p):
            for g in range(p):
                record.seconds[c, f, g] += moments[f, g]
                for j in missing if record.lacking.size else missing[:0]:
                    record.lacking[c, j, f, g] += moments[f, g]


@kernel
def _rare_rows(groups):
    """Numbers of the rows whose pattern is rare in the cell; complete rows are not."""
    rare = np.empty(groups.order.shape[0], np.intp)
    n = 0
    for g in range(1, groups.n_observed.shape[0]):
        first, last = groups.starts[g], groups.starts[g + 1]
        if last - first < RARE:
            for t in range(first, last):
                rare[n] = groups.order[t]
                n += 1
    return rare[:n]


@kernel
def _rows_of(groups, rare, g):
    """Numbers of the rows of a group, or of no row if it is rare; those of all rare ones for a number beyond."""
    if g == groups.n_observed.shape[0]:
        return rare
    first, last = groups.starts[g], groups.starts[g + 1]
    return groups.order[first:last] if g == 0 or last - first >= RARE else groups.order[:0]


@kernel
def _padded_rows(m):
    """Round up to whole vectors, unless the rows of a pattern are too few to be worth it."""
    return m if m < 8 else (m + 7) // 8 * 8


@kernel
def _accumulate(X, w, labels, prepared, start, stop, stats):
    k, d, q = prepared.loadings.shape
    record = _bind(stats, (k, q + 1, d))
    dp, qp = _fours(d), _fours(q)
    space = np.zeros((2 * dp + q + 1 + k + 4, STRIDE), X.dtype)
    XT, U, weighted = space[:dp], space[dp : 2 * dp], space[2 * dp : 2 * dp + q + 1]
    share, best, total, wb, state = space[2 * dp + q + 1 : -4], space[-4], space[-3], space[-2], space[-1]
    Z = np.zeros((k, qp, STRIDE), X.dtype)
    sums, heavy = np.empty((q + 1, max(dp, qp))), np.zeros(k)
    known, row_weights = np.empty(STRIDE, np.int32), np.empty(STRIDE, X.dtype)
    negligible = np.exp(prepared.log_weights) * (1e-18 if X.itemsize == 8 else 1e-11)
    pattern = _new_pattern(X, prepared)
    size = block_rows(space.shape[0] + k * qp, X.itemsize)
    groups = group_rows(X, start, stop)
    n_groups, rare = groups.n_observed.shape[0], _rare_rows(groups)
    room = new_room(X, dp, q, rare.shape[0])
    for g in range(n_groups + 1):
        order = _rows_of(groups, rare, g)
        if order.shape[0] == 0:
            continue
        scattered, features = g == n_groups, groups.features[min(g, n_groups - 1)]
        observed = features[: groups.n_observed[min(g, n_groups - 1)]]
        missing = features[observed.shape[0] :]
        if not scattered:
            _fill_pattern(prepared, observed, missing, pattern)
        for first in range(0, order.shape[0], size):
            m = min(size, order.shape[0] - first)
            here = order[first : first + m]
            rows = _padded_rows(m)
            _gather(X, here, rows, prepared.origin, XT, scattered, room)
            for r in range(m):
                known[r] = labels[here[r]] if labels.size else -1
                row_weights[r] = w[here[r]] if w.size else 1
            load_weights(row_weights, 0, m, rows, wb)
            for again in range(2):
                if scattered:
                    log_joint_scattered(rows, XT, prepared, pattern.minus_loadings, room, U, Z, share, best)
                else:
                    _log_joint_block(rows, XT, prepared, pattern, U, Z, share, best)
                fix_labels(known, 0, m, share, best)
                if shares(rows, negligible, share, best, total, heavy) == 0 and again == 0:
                    break
                if not settle(again, m, known, 0, prepared.log_weights, XT, share, best, total, heavy, state):
                    if again:
                        _gather(X, here, rows, prepared.origin, XT, scattered, room)
                    break
            record.loglik[0] += finish_rows(rows, wb, best, total)
            if scattered:
                moments_scattered(rows, XT, prepared, room, U, Z, share, total, heavy, record)
            else:
                _moments_block(
                    rows, XT, prepared, pattern, observed, missing, U, Z, share, total, heavy, weighted, sums, record
                )


@kernel
def _expect(X, prepared, start, stop, out):
    k, d, q = prepared.loadings.shape
    dp, qp = _fours(d), _fours(q)
    space = np.zeros((2 * dp + k + 3, STRIDE), X.dtype)
    XT, U, share = space[:dp], space[dp : 2 * dp], space[2 * dp : -3]
    best, total, state = space[-3], space[-2], space[-1]
    Z = np.zeros((k, qp, STRIDE), X.dtype)
    heavy, nothing = np.zeros(k), np.empty(0, np.int32)
    negligible = np.exp(prepared.log_weights) * (1e-18 if X.itemsize == 8 else 1e-11)
    pattern = _new_pattern(X, prepared)
    size = block_rows(space.shape[0] + k * qp, X.itemsize)
    groups = group_rows(X, start, stop)
    n_groups, rare = groups.n_observed.shape[0], _rare_rows(groups)
    room = new_room(X, dp, q, rare.shape[0])
    for g in range(n_groups + 1):
        order = _rows_of(groups, rare, g)
        if order.shape[0] == 0:
            continue
        scattered = g == n_groups
        if not scattered:
            n = groups.n_observed[g]
            _fill_pattern(prepared, groups.features[g, :n], groups.features[g, n:], pattern)
        for first in range(0, order.shape[0], size):
            m = min(size, order.shape[0] - first)
            here = order[first : first + m]
            rows = _padded_rows(m)
            _gather(X, here, rows, prepared.origin, XT, scattered, room)
            for again in range(2):
                if scattered:
                    log_joint_scattered(rows, XT, prepared, pattern.minus_loadings, room, U, Z, share, best)
                else:
                    _log_joint_block(rows, XT, prepared, pattern, U, Z, share, best)
                if again == 0 and out.log_joint.shape[0]:
                    for r in range(m):
                        for c in range(k):
                            out.log_joint[here[r], c] = share[c, r]
                if shares(rows, negligible, share, best, total, heavy) == 0 and again == 0:
                    break
                if not settle(again, m, nothing, 0, prepared.log_weights, XT, share, best, total, heavy, state):
                    break
            _write(m, here, share, best, total, Z, out)


@kernel
def _write(m, here, share, best, total, Z, out):
    """Write what is asked for of a block of rows."""
    k, q = share.shape[0], out.factors.shape[1] // share.shape[0]
    for r in range(m):
        i = here[r]
        if out.loglik.shape[0]:
            out.loglik[i] = np.float64(best[r]) + np.float64(log(total[r]))
        factor = 1.0 / np.float64(total[r])
        label = 0
        for c in range(k):
            label = c if share[c, r] > share[label, r] else label
            if out.resp.shape[0]:
                out.resp[i, c] = share[c, r] * factor
            if out.factors.shape[0]:
                for f in range(q):
                    out.factors[i, c * q + f] = share[c, r] * factor * Z[c, f, r]
        if out.labels.shape[0]:
            out.labels[i] = label


accumulate = sweep(_accumulate)
expect = each_cell(_expect)
