"""Which values rows may have: what families refuse, naming the first."""

from __future__ import annotations

import numpy as np


def _refuse(X: np.ndarray, bad: np.ndarray, complaint: str) -> None:
    """Refuse rows if any value is bad, naming the first."""
    if np.any(bad):
        row, column = np.argwhere(bad)[0].tolist()
        raise ValueError(f"{complaint}: {X[row, column]} at row {row}, column {column}.")


def zeros_and_ones(X: np.ndarray, whom: str) -> None:
    """Refuse all but 0, 1 and NaN.

    Raises
    ------
    ValueError
        With the first other value.
    """
    _refuse(X, ~((X == 0) | (X == 1) | np.isnan(X)), f"{whom} takes zeros and ones")


def nonnegative(X: np.ndarray, whom: str) -> None:
    """Refuse negative values, in scikit-learn's words; NaN passes.

    Raises
    ------
    ValueError
        With the first negative value.
    """
    if np.fmin.reduce(X, axis=None) < 0:
        _refuse(X, X < 0, f"Negative values in data passed to {whom} (input X)")


def at_most(X: np.ndarray, limit: float, whom: str) -> None:
    """Refuse values above a limit, beyond which numbers of the model would overflow; NaN passes.

    Raises
    ------
    ValueError
        With the first such value.
    """
    if np.fmax.reduce(X, axis=None) > limit:
        _refuse(X, limit < X, f"{whom} takes values up to {limit:.3g}, and this looks like a fill value")


def codes(X: np.ndarray, n_categories: np.ndarray | None, whom: str) -> None:
    """Refuse all but the codes 0 .. n_categories[j] - 1 in column j, and NaN; None sets no upper limit.

    Raises
    ------
    ValueError
        With the first value that is negative, no integer, or too large.
    """
    nonnegative(X, whom)
    _refuse(X, (np.trunc(X) != X) & ~np.isnan(X), f"{whom} takes integer codes")
    if n_categories is not None:
        _refuse(
            X, n_categories <= X, f"{whom} knows the categories 0 to n_categories - 1 of each feature, not this code"
        )
