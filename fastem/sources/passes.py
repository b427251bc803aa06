"""The E-step's pass over rows, written once for every family.

A family says what is added up (its record) and by which kernel; in which threads and in what order is said here.  The
order is that of the grid, so that the bits of a sum depend on neither the threads nor on how the rows arrive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import grid, pool, threads
from fastem.families.base import Family


def total(
    family: Family, X: np.ndarray, w: np.ndarray, labels: np.ndarray, prepared: Any, n_threads: int, memo: Any = None
) -> np.ndarray:
    """Return a family's record of rows that begin on the grid.

    Parameters
    ----------
    family : Family
        The model.
    X : ndarray (n, d)
        The rows.
    w : ndarray (n,) or empty
        Their weights; empty means one each.
    labels : ndarray (n,) int32 or empty
        Known components, -1 for unknown; empty means all unknown.
    prepared : NamedTuple
        What the family prepared of its parameters.
    n_threads : int
        A number that `threads.resolve` returned.
    memo : object or None
        What the family remembers of each row, for families with ``new_memo``.

    Returns
    -------
    ndarray (size,) float64
        The record, as one vector.
    """
    if memo is not None:
        return family.total_of_memo(X, w, prepared, n_threads, memo)
    size = family.layout(X.shape[1]).size
    labels = family.assigned(X, labels, prepared, n_threads)
    kernel = family.accumulator(X.shape[1])
    level, n_tasks = grid.plan(len(X), size) if kernel is None else kernel.plan(*X.shape, size)
    records = pool.empty((n_tasks, size))
    if kernel is None:
        _by_numpy(family, X, w, labels, prepared, level, records, n_threads)
    else:
        kernel.run((X, w, labels, family.arguments(prepared)), level, records, n_threads)
    return grid.merge_tree(records)


def _by_numpy(
    family: Family,
    X: np.ndarray,
    w: np.ndarray,
    labels: np.ndarray,
    prepared: Any,
    level: int,
    records: np.ndarray,
    n_threads: int,
) -> None:
    """Write the record of each task, cell by cell."""

    def task(number: int) -> None:
        cells = range(number << level, min((number + 1) << level, grid.n_cells(len(X))))
        own = np.zeros((len(cells), records.shape[1]))
        for record, cell in zip(own, cells, strict=True):
            rows = slice(cell * grid.CELL, (cell + 1) * grid.CELL)
            family.accumulate(X[rows], w[rows], labels[rows], prepared, record)
        records[number] = grid.merge_tree(own)

    threads.map_tasks(task, len(records), n_threads)
