r"""Uniform noise in the box around the data, as one more part of a mixture, whatever its other parts are.

    p(x) = sum_k pi_k p(x given k) + pi_0 / volume,      pi_0 = 1 - sum_k pi_k,

with the volume of the box (Banfield and Raftery, "Model-based Gaussian and non-Gaussian clustering", Biometrics 49,
1993); outside the box the noise has no density.  A box (2, d) holds the least and the largest value of each feature.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import validate
from fastem.draws import Draws

# Share of the noise at the start; EM cannot leave 0.
FIRST_SHARE = 0.05


def box_around(source: Any) -> np.ndarray:
    """Return the box around the rows that have weight; a constant feature gets the width 1.

    Raises
    ------
    ValueError
        With the number of the first column without any value.
    """

    def block(X: np.ndarray, rows: slice, n_threads: int) -> np.ndarray | None:
        w = source.weights_of(rows)
        counted = X[w > 0] if w.size else X
        return np.array([np.fmin.reduce(counted), np.fmax.reduce(counted)], np.float64) if len(counted) else None

    corners = [found for found in source.collect(block) if found is not None]
    box = np.array([np.fmin.reduce([low for low, _ in corners]), np.fmax.reduce([high for _, high in corners])])
    validate.refuse_empty(np.isnan(box[0]))
    return with_volume(box)


def box_around_both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the box around two boxes."""
    return np.array([np.minimum(first[0], second[0]), np.maximum(first[1], second[1])])


def with_volume(box: np.ndarray) -> np.ndarray:
    """Return the box with the width 1, or the spacing of numbers there, where it has none."""
    low, high = box
    return np.array([low, np.where(high > low, high, low + np.maximum(1.0, np.spacing(np.abs(low))))])


def log_density(box: np.ndarray) -> float:
    """Return the logarithm of the noise's density in the box."""
    return -float(np.log(box[1] - box[0]).sum())


def outside(X: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the numbers (m,) of the rows with a value outside the box; a missing one (NaN) is not.

    Rows on the box's edge must not fall out of it when their float32 becomes float64, or the other way round.
    """
    slack = 1e-6 * (box[1] - box[0]) + 1e-7 * np.abs(box).max(axis=0)
    low, high = box[0] - slack, box[1] + slack
    if np.all(np.fmin.reduce(X) >= low) and np.all(np.fmax.reduce(X) <= high):  # without a mask of n x d
        return np.empty(0, np.int64)
    return np.flatnonzero(((low > X) | (high < X)).any(axis=1))


def sample(box: np.ndarray, n: int, draws: Draws) -> np.ndarray:
    """Draw n rows (n, d) of noise."""
    low, high = box
    return np.asarray(low + (high - low) * draws.uniform(n * len(low)).reshape(-1, len(low)))
