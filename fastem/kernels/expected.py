"""What an E-step alone gives of each row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Expected(NamedTuple):
    """Outputs of an E-step for rows of data; an array of no rows is not asked for."""

    log_joint: np.ndarray  # (n, k) log p(x_i, z_i = k)
    loglik: np.ndarray  # (n,) log p(x_i)
    labels: np.ndarray  # (n,) int32, the most responsible component, the lowest of equals
    resp: np.ndarray  # (n, k) responsibilities

    @classmethod
    def of_no_rows(cls, k: int) -> Expected:
        """Return outputs of which none is asked for."""
        return cls(np.empty((0, k)), np.empty(0), np.empty(0, np.int32), np.empty((0, k)))
