"""Contours of the density, with anomalies marked (lecture row L4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastem.plot.style import COLOURS, INK, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = 240  # points along each axis
LEVELS = 10
DEEPEST = 30.0  # nats below the peak that contours go down to


def density(
    model: Any,
    X: Any,
    *,
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw contours of log p(x) over two features, the rows, and which of them are anomalies.

    Parameters
    ----------
    model : fitted mixture or AnomalyDetector
        Anything with ``score_samples``; a detector also gives the contour p(x) = epsilon and the rows below it.
    X : array-like of shape (n, 2)
        The rows to draw.
    limits : pair of pairs of float, optional
        The range of each feature; by default that of the rows with a margin.
    names : sequence of str, optional
        Names of the features.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there are not two features.

    Examples
    --------
    >>> import fastem, fastem.plot, numpy as np
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> detector = fastem.AnomalyDetector(epsilon=1e-3).fit(X)
    >>> fastem.plot.density(detector, X, names=["heat", "vibration"]).get_xlabel()
    'heat'
    """
    names = _names(X, names)
    rows = np.asarray(X, np.float64)
    ax = new_axes(ax)
    (left, right), (low, high) = _limits(rows) if limits is None else limits
    across, up = np.meshgrid(np.linspace(left, right, GRID), np.linspace(low, high, GRID))
    log_density = model.score_samples(np.column_stack([across.ravel(), up.ravel()])).reshape(across.shape)
    peak = float(log_density.max())
    # Levels at equal steps of sqrt(nats below the peak) lie like ellipses of 1, 2, 3 ... sigmas.
    depth = np.linspace(0.0, np.sqrt(min(DEEPEST, peak - float(log_density.min()))), LEVELS + 1)[::-1]
    levels = peak - depth**2
    ax.contourf(across, up, np.maximum(log_density, levels[0]), levels=levels, colors=_shades(LEVELS), zorder=0)
    ax.contour(
        across, up, log_density, levels=levels[1:-1], colors="white", linewidths=0.6, linestyles="solid", zorder=1
    )
    if hasattr(model, "offset_"):
        edge: dict[str, Any] = {"colors": [COLOURS[1]], "linewidths": 2.0, "linestyles": "solid", "zorder": 3}
        ax.contour(across, up, log_density, levels=[float(model.offset_)], **edge)
    _draw_rows(ax, model, rows)
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    return ax


def _names(X: Any, names: Sequence[str] | None) -> list[str]:
    if np.ndim(X) != 2 or np.shape(X)[1] != 2:
        raise ValueError(f"density draws two features; X has shape {np.shape(X)}.")
    names = [str(name) for name in getattr(X, "columns", ("x0", "x1"))] if names is None else list(names)
    if len(names) != 2:
        raise ValueError(f"There are {len(names)} names for 2 features.")
    return names


def _limits(rows: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    low, high = rows.min(axis=0), rows.max(axis=0)
    margin = 0.08 * np.where(high > low, high - low, 1.0)
    return (low[0] - margin[0], high[0] + margin[0]), (low[1] - margin[1], high[1] + margin[1])


def _shades(n: int) -> list[tuple[float, float, float]]:
    """From white to a middle blue."""
    from matplotlib.colors import to_rgb

    blue = np.array(to_rgb(COLOURS[0]))
    weights = np.linspace(0.0, 0.62, n)
    return [(float(r), float(g), float(b)) for r, g, b in (1.0 - weight * (1.0 - blue) for weight in weights)]


def _draw_rows(ax: Axes, model: Any, rows: np.ndarray) -> None:
    odd = model.predict(rows) == -1 if hasattr(model, "offset_") else np.zeros(len(rows), bool)
    size = float(np.clip(4000.0 / len(rows), 3.0, 14.0))
    ax.scatter(
        rows[~odd, 0],
        rows[~odd, 1],
        s=size,
        color=INK,
        alpha=0.55,
        linewidths=0,
        zorder=2,
        label="rows",
        rasterized=True,
    )
    if hasattr(model, "offset_"):
        ax.plot([], [], color=COLOURS[1], linewidth=2.0, label=r"$p(x) = \epsilon$")
        said = f"{int(odd.sum())} anomal{'y' if odd.sum() == 1 else 'ies'}"
        ax.scatter(rows[odd, 0], rows[odd, 1], s=46, marker="x", color=COLOURS[1], linewidths=2.0, zorder=4, label=said)
        ax.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="best")
