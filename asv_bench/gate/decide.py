"""From the log-ratios of launches to a verdict: the signed-rank test of Wilcoxon, which is a permutation test.

Under the hypothesis that a benchmark became slower by a factor of exactly 1 + size, the log-ratios of the launches less
log(1 + size) are as likely positive as negative, whatever their distribution, as BASE and HEAD change places in every
pair.  Of the 2^n ways to give n ranks a sign, all equally likely then, the test counts those that say as much.

Looking again and again makes false alarms likelier, and so do many benchmarks.  The probability of a false alarm is
divided by the number of benchmarks and of looks (Bonferroni): with it, a run in which nothing became slower by more
than the stated size raises one with a probability of at most `ALARM`.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LOOKS = (7, 10, 16, 24)  # launches after which a verdict is tried
ALARM = 0.05  # probability of any false alarm in a run
MISS = 0.05  # probability that a benchmark which became slower by just the stated size is let go
CONFIDENCE = 0.95  # of the interval that is shown, for each benchmark by itself


class Verdict(enum.Enum):
    """What is known of a benchmark."""

    SLOWER = "slower"  # by more than the stated size
    FASTER = "faster"  # by more than the stated size
    FINE = "fine"  # not slower by the stated size
    UNCLEAR = "unclear"  # the launches did not suffice


class Effect(NamedTuple):
    """Relative change of the time, and its interval: 0.15 is 15 % slower."""

    estimate: float
    low: float
    high: float


@functools.cache
def rank_sums(n: int) -> np.ndarray:
    """Return the probability (n (n + 1) / 2 + 1,) of each sum of the positive ones among n ranks with random signs."""
    ways = np.ones(1)
    for rank in range(1, n + 1):
        ways = 0.5 * (np.concatenate([ways, np.zeros(rank)]) + np.concatenate([np.zeros(rank), ways]))
    ways.flags.writeable = False
    return ways


def walsh_averages(values: np.ndarray) -> np.ndarray:
    """Return the n (n + 1) / 2 means of pairs, each value with itself included, in order."""
    return np.sort(((values[:, None] + values) / 2)[np.triu_indices(len(values))])


def probability(log_ratios: Sequence[float] | np.ndarray, limit: float) -> float:
    """Return the p-value of "the median is at most `limit`": small if the ratios are larger.

    The sum of positive ranks is the number of Walsh averages above the limit (Tukey).
    """
    above = int(np.count_nonzero(walsh_averages(np.asarray(log_ratios, float)) > limit))
    return float(rank_sums(len(log_ratios))[above:].sum())


def effect(log_ratios: Sequence[float]) -> Effect:
    """Return the estimate of Hodges and Lehmann with the interval that belongs to the test."""
    averages = walsh_averages(np.asarray(log_ratios, float))
    tail = np.cumsum(rank_sums(len(log_ratios)))
    cut = int(np.searchsorted(tail, (1 - CONFIDENCE) / 2, side="right"))  # so many averages are left out on each side
    low, high = (averages[cut - 1], averages[-cut]) if cut else (-np.inf, np.inf)
    return Effect(*np.expm1([np.median(averages), low, high]).tolist())


def verdict(log_ratios: Sequence[float], size: float, n_benchmarks: int) -> Verdict:
    """Judge a benchmark by its launches.

    Parameters
    ----------
    log_ratios : sequence of float
        log(time of HEAD / time of BASE), one for each launch.
    size : float
        The slowdown that matters: 0.05 is 5 %.
    n_benchmarks : int
        How many benchmarks the run has.
    """
    values = np.asarray(log_ratios, float)
    limit, alarm = np.log1p(size), ALARM / (n_benchmarks * len(LOOKS))
    if probability(values, limit) <= alarm:
        return Verdict.SLOWER
    if probability(-values, limit) <= alarm:
        return Verdict.FASTER
    if probability(-values, -limit) <= MISS / len(LOOKS) and np.median(values) > -limit:
        return Verdict.FINE
    return Verdict.UNCLEAR
