"""What all pictures share: colours, a tidy pair of axes, and a figure that needs no display."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#666666")
GREY = "#9AA0A6"
DARK_GREY = "#5F6368"
INK = "#222222"


def new_axes(ax: Axes | None = None, size: tuple[float, float] = (6.4, 4.8)) -> Axes:
    """Return `ax`, or the axes of a new figure, made tidy."""
    if ax is None:
        ax = new_figure(*size).add_subplot()
    tidy(ax)
    return ax


def new_figure(width: float, height: float) -> Any:
    """Return a figure that needs neither pyplot nor a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(ax: Axes) -> None:
    """Make the frame and the grid step back behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(color=GREY)
    ax.grid(color="#E6E8EB", linewidth=0.8)
    ax.set_axisbelow(True)


def colours(k: int) -> np.ndarray:
    """Colours (k, 3): the palette while it lasts, then hues a golden angle apart in three lightnesses."""
    from matplotlib.colors import to_rgb

    if k <= len(COLOURS):
        return np.array([to_rgb(colour) for colour in COLOURS[:k]])
    return np.array([colorsys.hls_to_rgb(0.58 + c * 0.618034, (0.42, 0.55, 0.34)[c % 3], 0.62) for c in range(k)])
