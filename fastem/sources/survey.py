"""What the first pass over a stream finds out: how many rows there are, and what no model takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastem.files import TableError
from fastem.sources.reading import Piece

# Pieces whose squares add up to less hold neither NaN nor infinity, nor a value whose square is near the dtype's range.
ORDINARY = {np.float32: 1e30, np.float64: 1e290}


class Place(NamedTuple):
    """Where the first value of a kind is."""

    row: int  # of the whole, from 0
    column: int
    file: str
    file_row: int  # of the file, from 0


class Facts(NamedTuple):
    """What the first pass finds out."""

    n_rows: int
    nan: Place | None  # the first missing value
    infinity: Place | None
    largest: Place | None  # the largest absolute value, if it is large beside the range of the dtype
    value: float  # which it is
    squares: float  # the sum of all squares


class Survey:
    """What is wrong with rows, as they come."""

    def __init__(self) -> None:
        self.n_rows = 0
        self.nan: Place | None = None
        self.infinity: Place | None = None
        self.largest: Place | None = None
        self.value = self.squares = 0.0

    def see(self, piece: Piece) -> None:
        """Look at the next rows."""
        flat = piece.X.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            squares = float(np.dot(flat, flat))  # in float32: what overflows there is looked at again
        if squares < ORDINARY[piece.X.dtype.type]:
            self.squares += squares
        else:
            self._look(piece)
        self.n_rows += len(piece.X)

    def _look(self, piece: Piece) -> None:
        X = piece.X
        self.nan = self.nan or self._place(piece, np.isnan(X))
        self.infinity = self.infinity or self._place(piece, np.isinf(X))
        finite = np.abs(np.where(np.isfinite(X), X, 0)).astype(np.float64)
        if (value := float(finite.max(initial=0.0))) > self.value:
            self.value, self.largest = value, self._place(piece, finite == value)
        with np.errstate(over="ignore"):
            self.squares += float(np.square(finite).sum())

    def _place(self, piece: Piece, bad: np.ndarray) -> Place | None:
        if not bad.any():
            return None
        row, column = np.argwhere(bad)[0].tolist()
        return Place(self.n_rows + row, column, piece.file, piece.first + row)

    def facts(self) -> Facts:
        """Return all of it."""
        if not self.n_rows:
            raise TableError("There are no rows.")
        return Facts(self.n_rows, self.nan, self.infinity, self.largest, self.value, self.squares)


def checked_weights(piece: Piece) -> np.ndarray:
    """Return the weights of rows as they are.

    Raises
    ------
    ValueError
        If one is negative or not finite.
    """
    w = piece.weights
    assert w is not None
    bad = ~np.isfinite(w) | (w < 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"The weight of a row must be a number of at least 0, got {w[row]:.6g} in {piece.file}, data row "
            f"{piece.first + row + 1}."
        )
    return w
