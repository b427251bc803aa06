"""What a fit returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Run(NamedTuple):
    """One EM run, from its start to its stop."""

    restart: int
    params: Any
    objective: float
    objectives: np.ndarray  # (n_iter,) at the start of each iteration
    n_iter: int
    converged: bool
    history: list[Any]  # parameters before the first and after each iteration, if kept
    notes: tuple[str, ...]
    memo: Any  # per-row state of the family (k-means: labels), or None


class FitResult(NamedTuple):
    """The best run, and what the other restarts reached.

    `best.objective` is the largest of `restarts`; of equal ones the first.
    """

    best: Run
    restarts: np.ndarray  # (n_init,) final objective of each restart
    histories: list[np.ndarray]  # objective per iteration of each restart
