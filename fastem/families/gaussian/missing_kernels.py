r"""Rows with missing values (NaN), completed for one component of a Gaussian mixture.

Let m be the missing features of a row and o the others, L the precision of a component.  The missing part's conditional
distribution is normal with

    mean  mu_m - inverse(L_mm) L_mo (x_o - mu_o),      covariance  inverse(L_mm),

and, with the row completed by that mean, the density of what is observed is (Little and Rubin, section 11.2)

    log N(x_o) = log N(completed row) + |m|/2 log 2 pi - log det(L_mm) / 2.

So a block of rows is completed in place for one component after the other, and the ordinary kernels of `full` and
`diag` do the rest (`missing_passes`).  L_mm is as small as what is missing, and is factorised once for all rows of a
block that miss the same.  The scatter gets inverse(L_mm) besides, times the responsibilities.  Nothing is special about
a row of which nothing is known: its density is 1, its posterior pi, and it counts with the expectations of either
component, so that it does not move the estimates but slows EM down.

References
----------
Little and Rubin, "Statistical Analysis with Missing Data", 2nd edition, 2002.  Ghahramani and Jordan, "Supervised
learning from incomplete data via an EM approach", NIPS 6, 1994.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastem.families.elliptical import diag, full
from fastem.families.elliptical.records import LOG_2PI, DiagPrepared, FullPrepared
from fastem.families.math import log
from fastem.jit import kernel

# Rows of one pattern from which loops over rows are vectors' work.
_RUN = 6
_HALF_LOG_2PI = 0.5 * LOG_2PI


class MissingPrepared(NamedTuple):
    """Parameters of an E-step for rows with missing values: those of `full` or `diag`, and the precisions."""

    origin: np.ndarray  # (d,)
    means: np.ndarray  # (k, d)
    log_weights: np.ndarray  # (k,) float64
    precisions_cholesky: np.ndarray  # (k, dp, dp), or (k, d)
    offsets: np.ndarray  # (k,) float64
    negligible: np.ndarray  # (k,) float64
    precisions: np.ndarray  # (k, d, d), or (k, d): float64


class Kind(NamedTuple):
    """What the loops over rows need of full, or of diagonal, matrices."""

    one: Any  # (prepared, c) -> what the ordinary kernels are given for that component alone
    log_joint_block: Any
    moments_block: Any
    room: Any
    complete: Any  # completes a run of rows that miss the same features
    add_spread: Any  # adds the conditional covariance


# --- full matrices


@kernel
def _one_full(p, c):
    own = slice(c, c + 1)
    return FullPrepared(
        p.origin, p.means[own], p.log_weights[own], p.precisions_cholesky[own], p.offsets[own], p.negligible[own]
    )


@kernel
def _factorise(
    precision,  # (d, d)
    groups,
    g,
    lower,  # (d, d) OUT: Cholesky factor of the block of the missing features, its diagonal inverted
):
    """Factorise a component's precision of the features that group g misses; return half its log-determinant."""
    first = groups.n_observed[g]
    log_det, product = 0.0, 1.0
    for a in range(groups.features.shape[1] - first):
        row = groups.features[g, first + a]
        for b in range(a):
            value = precision[row, groups.features[g, first + b]]
            for t in range(b):
                value -= lower[a, t] * lower[b, t]
            lower[a, b] = value * lower[b, b]
        pivot = precision[row, row]
        least = 1e-15 * pivot  # what rounding leaves of a singular matrix
        for t in range(a):
            pivot -= lower[a, t] * lower[a, t]
        pivot = max(pivot, least)
        lower[a, a] = 1.0 / math.sqrt(pivot)
        product *= pivot
        if product > 1e100 or product < 1e-100:
            log_det += log(product)
            product = 1.0
    return 0.5 * (log_det + log(product))


@kernel
def _solve(
    lower,  # (d, d): see `_factorise`
    size,
    r0,
    r1,
    v,  # (d, STRIDE) float64 INOUT
):
    """Replace v[:size, r] by inverse(L L') v[:size, r]."""
    for a in range(size):
        for b in range(a):
            for r in range(r0, r1):
                v[a, r] -= lower[a, b] * v[b, r]
        for r in range(r0, r1):
            v[a, r] *= lower[a, a]
    for a in range(size - 1, -1, -1):
        for b in range(a + 1, size):
            for r in range(r0, r1):
                v[a, r] -= lower[b, a] * v[b, r]
        for r in range(r0, r1):
            v[a, r] *= lower[a, a]


@kernel
def _pull(groups, g, r0, r1, mean, precision, XT, v):
    """Write L_mo (x_o - mu_o) of rows r0..r1 to v (missing, STRIDE)."""
    d = mean.shape[0]
    n = groups.n_observed[g]
    for a in range(d - n):
        for r in range(r0, r1):
            v[a, r] = 0.0
        row = groups.features[g, n + a]
        if r1 - r0 < _RUN:
            for r in range(r0, r1):
                total = 0.0
                for b in range(n):
                    j = groups.features[g, b]
                    total += precision[row, j] * (np.float64(XT[j, r]) - np.float64(mean[j]))
                v[a, r] = total
        else:
            for b in range(n):
                j = groups.features[g, b]
                slope, middle = precision[row, j], np.float64(mean[j])
                for r in range(r0, r1):
                    v[a, r] += slope * (np.float64(XT[j, r]) - middle)


@kernel
def _complete_full(groups, g, r0, r1, prepared, c, XT, v, lower):
    """Complete rows r0..r1 of a block, of group g, for component c; return what that adds to their log-density."""
    d = prepared.means.shape[1]
    n = groups.n_observed[g]
    mean, precision = prepared.means[c], prepared.precisions[c]
    half_log_det = _factorise(precision, groups, g, lower)
    _pull(groups, g, r0, r1, mean, precision, XT, v)
    _solve(lower, d - n, r0, r1, v)
    far = 1e300 if XT.itemsize == 8 else 1e37
    for a in range(d - n):
        j = groups.features[g, n + a]
        for r in range(r0, r1):  # where that overflows so does the distance, whatever stands here
            XT[j, r] = mean[j] - XT.dtype.type(v[a, r] if abs(v[a, r]) < far else 0.0)
    return (d - n) * _HALF_LOG_2PI - half_log_det


@kernel
def _add_spread_full(groups, g, mass, prepared, c, lower, inverse, record):
    """Add mass times the conditional covariance of what group g misses to a component's record."""
    d = prepared.means.shape[1]
    n = groups.n_observed[g]
    _factorise(prepared.precisions[c], groups, g, lower)
    for a in range(d - n):  # column a of the factor's inverse, which is lower triangular
        inverse[a, a] = lower[a, a]
        for b in range(a + 1, d - n):
            value = 0.0
            for t in range(a, b):
                value -= lower[b, t] * inverse[a, t]
            inverse[a, b] = value * lower[b, b]
    for a in range(d - n):
        i = groups.features[g, n + a]
        for b in range(a + 1):
            j = groups.features[g, n + b]
            value = 0.0
            for t in range(a, d - n):
                value += inverse[a, t] * inverse[b, t]
            record[2 + d + i * d + j] += mass * value
            if i != j:
                record[2 + d + j * d + i] += mass * value


# --- variances


@kernel
def _one_diag(p, c):
    own = slice(c, c + 1)
    return DiagPrepared(
        p.origin, p.means[own], p.log_weights[own], p.precisions_cholesky[own], p.offsets[own], p.negligible[own]
    )


@kernel
def _complete_diag(groups, g, r0, r1, prepared, c, XT, v, lower):
    """Complete rows r0..r1 of a block, of group g, for component c; return what that adds to their log-density."""
    gain = 0.0
    for a in range(groups.n_observed[g], prepared.means.shape[1]):
        j = groups.features[g, a]
        gain += _HALF_LOG_2PI - 0.5 * log(prepared.precisions[c, j])
        for r in range(r0, r1):
            XT[j, r] = prepared.means[c, j]
    return gain


@kernel
def _add_spread_diag(groups, g, mass, prepared, c, lower, inverse, record):
    """Add mass times the variances of what group g misses to a component's record."""
    d = prepared.means.shape[1]
    for a in range(groups.n_observed[g], d):
        j = groups.features[g, a]
        record[2 + d + j] += mass / prepared.precisions[c, j]


FULL = Kind(_one_full, full.log_joint_block, full.moments_block, full.room, _complete_full, _add_spread_full)
DIAG = Kind(_one_diag, diag.log_joint_block, diag.moments_block, diag.room, _complete_diag, _add_spread_diag)
