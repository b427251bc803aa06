"""The E-step in NumPy, for families without a compiled pass: log-densities of runs of rows become responsibilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastem import grid, threads

# Cells of one chunk of rows in the passes of predict and score: what is kept of (rows, k) numbers at a time.
CHUNK_CELLS = 4


def each_chunk(function: Callable[[slice], None], n_rows: int, n_threads: int) -> None:
    """Call a function for runs of rows, several at a time."""
    size = CHUNK_CELLS * grid.CELL

    def chunk(number: int) -> None:
        function(slice(number * size, min((number + 1) * size, n_rows)))

    threads.map_tasks(chunk, -(-n_rows // size), n_threads)


def normalise(log_joint: np.ndarray, prepared: Any) -> np.ndarray:
    """Turn log p(x, z) (n, k) into responsibilities in place; return log p(x) (n,).

    A row of all -inf, infinitely far from every component, becomes one-hot for the first of the largest weight.
    """
    best = log_joint.max(axis=1, keepdims=True)
    lost = np.flatnonzero(np.isneginf(best[:, 0]))
    if lost.size:
        log_joint[lost, int(np.argmax(getattr(prepared, "log_weights", [0])))] = 0.0
        best[lost] = 0.0
    log_joint -= best
    np.exp(log_joint, out=log_joint)
    total = log_joint.sum(axis=1, keepdims=True)
    log_joint /= total
    log_prob = (np.log(total) + best)[:, 0]
    log_prob[lost] = -np.inf
    return log_prob
