"""Random numbers as a function of (seed, restart, draw number).

A restart's numbers do not depend on which thread runs it, or on how many restarts ran before: each number is a hash of
its place (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).  `mix64` is
plain integer arithmetic, so a compiled kernel that inlines it draws the same numbers.
"""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_MULTIPLIER_1, _MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix64(z):
    """SplitMix64's finalizer: a bijection of 64-bit words in which every output bit depends on every input bit."""
    z = (z ^ (z >> _SHIFT_1)) * _MULTIPLIER_1
    z = (z ^ (z >> _SHIFT_2)) * _MULTIPLIER_2
    return z ^ (z >> _SHIFT_3)


class Draws:
    """The random numbers of one restart, in order.

    Parameters
    ----------
    seed : int
        The fit's seed, taken modulo 2**64.
    restart : int
        Number of the restart.

    Examples
    --------
    >>> Draws(0, restart=1).uniform(3) == Draws(0, restart=1).uniform(3)
    array([ True,  True,  True])
    """

    def __init__(self, seed: int, restart: int = 0) -> None:
        words = np.array([seed % 2**64, restart], dtype=np.uint64)
        self._key = mix64(mix64(words[:1] + GOLDEN) + words[1:] * GOLDEN)
        self._next = 0

    @property
    def key(self) -> int:
        """What tells the draws of one seed and restart from all others."""
        return int(self._key[0])

    @property
    def n_drawn(self) -> int:
        """How many words have been drawn, which is all that changes."""
        return self._next

    def go_on_after(self, n_drawn: int) -> None:
        """Draw next what comes after so many words."""
        self._next = n_drawn

    def bits(self, n: int) -> np.ndarray:
        """Return n random 64-bit words (n,) uint64."""
        number = np.arange(self._next + 1, self._next + n + 1, dtype=np.uint64)
        self._next += n
        return mix64(self._key + number * GOLDEN)

    def uniform(self, n: int) -> np.ndarray:
        """Return n float64 numbers, uniform on [0, 1) in steps of 2**-53."""
        return (self.bits(n) >> np.uint64(11)) * 2.0**-53

    def normal(self, n: int) -> np.ndarray:
        """Return n standard normal float64 numbers, by inversion."""
        from scipy.special import ndtri

        return ndtri((self.bits(n) >> np.uint64(11)) * 2.0**-53 + 2.0**-54)

    def distinct(self, n: int, m: int) -> np.ndarray:
        """Return m distinct row numbers out of range(n), in random order.

        Raises
        ------
        ValueError
            If m > n.
        """
        if m > n:
            raise ValueError(f"Cannot draw {m} distinct rows out of {n}.")
        if 4 * m >= n:
            return np.argsort(self.bits(n), kind="stable")[:m]
        chosen: dict[int, None] = {}
        while len(chosen) < m:  # at most a quarter is taken: 4/3 draws a row on average
            for row in (self.uniform(m) * n).astype(np.int64).tolist():
                if len(chosen) < m:
                    chosen.setdefault(row)
        return np.fromiter(chosen, dtype=np.int64, count=m)

    def weighted(self, weights: np.ndarray, m: int) -> np.ndarray:
        """Return m row numbers drawn with replacement, row i with probability weights[i] / sum(weights)."""
        cumulative = np.cumsum(weights, dtype=np.float64)
        rows = np.searchsorted(cumulative, self.uniform(m) * cumulative[-1], side="right")
        return np.minimum(rows, np.flatnonzero(weights)[-1])  # never a row of weight 0, whatever the rounding

    def weighted_distinct(self, weights: np.ndarray, m: int) -> np.ndarray:
        """Return m distinct rows drawn one after another in proportion to `weights`.

        The m largest of log(u_i) / w_i (Efraimidis and Spirakis, Information Processing Letters 97, 2006).
        """
        with np.errstate(divide="ignore"):
            keys = np.log(self.uniform(len(weights)) + 2.0**-54) / weights
        keys[weights <= 0] = -np.inf
        return np.argsort(-keys, kind="stable")[:m]
