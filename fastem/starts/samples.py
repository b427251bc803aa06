"""A few of many rows, for what does not need all of them."""

from __future__ import annotations

import numpy as np

from fastem.draws import Draws
from fastem.sources.base import Source


def few(source: Source, size: int, draws: Draws) -> Source:
    """Return `size` distinct rows of weight above 0, with their weights; all rows if there are no more than that.

    Parameters
    ----------
    source : source
        Rows and weights.
    size : int
        How many rows, at least 1.
    draws : Draws
        Random numbers.
    """
    w = source.sample_weight
    if not w.size:
        return source if size >= source.n_rows else source.subset(draws.distinct(source.n_rows, size), w)
    heavy = np.flatnonzero(w)
    if len(heavy) <= size:
        return source
    rows = heavy[draws.distinct(len(heavy), size)]
    return source.subset(rows, w[rows])
