"""Degrees of freedom of Student-t distributions: their estimate, and the numbers of a density that depend on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import betaln, digamma, gammaln, polygamma

# Estimates of the degrees of freedom stay within these: a normal distribution above, and below it tails so heavy that
# rounding hides them.
LEAST_DOF, MOST_DOF = 0.1, 200.0


def solve_dofs(gap: np.ndarray, low: float = LEAST_DOF, high: float = MOST_DOF) -> np.ndarray:
    """Return nu (k,) with log(nu / 2) - psi(nu / 2) = gap (k,), or the nearest bound.

    Examples
    --------
    >>> solve_dofs(np.log(2.5) - digamma([2.5, 1e6])).round(9)
    array([  5., 200.])
    """
    ends = np.log(0.5 * low) - digamma(0.5 * low), np.log(0.5 * high) - digamma(0.5 * high)
    inside = np.clip(gap, ends[1], ends[0])
    a = (3.0 - inside + np.sqrt((inside - 3.0) ** 2 + 24.0 * inside)) / (12.0 * inside)  # within 1.5 %
    for _ in range(6):  # each step doubles the digits
        a = 1.0 / (1.0 / a + (np.log(a) - digamma(a) - inside) / (a - a * a * polygamma(1, a)))
    return np.asarray(np.clip(2.0 * a, low, high))


def levels_and_means(nu: np.ndarray, d: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-density at the centre of d features under Sigma = I, and E[log u] - log E[u]."""
    half = 0.5 * np.maximum(d, 1)  # of no feature the density is 1
    level = np.where(np.asarray(d) > 0, gammaln(half) - betaln(0.5 * nu, half) - half * np.log(nu * math.pi), 0.0)
    return level, digamma(0.5 * (nu + d)) - np.log(0.5 * (nu + d))


def information(dofs: np.ndarray) -> np.ndarray:
    """Return what a row whose u is known tells of log nu (k,): u ~ Gamma(a, a) with a = nu / 2."""
    a = 0.5 * dofs
    return np.asarray(a * a * polygamma(1, a) - a)
