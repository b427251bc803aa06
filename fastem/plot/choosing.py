"""The pictures of `fastem.select`: criteria over the number of components, and the elbow of k-means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastem.plot.style import COLOURS, GREY, INK, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"aic": "AIC", "bic": "BIC", "icl": "ICL", "heldout": "held-out log-likelihood per row"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def criteria(result: Any, *, names: str | tuple[str, ...] | None = None, ax: Axes | None = None) -> Axes:
    """Draw information criteria over the number of components, the chosen model and collapsed candidates marked.

    Parameters
    ----------
    result : SelectResult
        What `fastem.select` returned.
    names : str or tuple of str, optional
        Columns of the table to draw; by default the criterion that was compared.  With several covariance types only
        one column makes sense.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import fastem, fastem.plot, numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> found = fastem.select(X, range(1, 4), covariance_types=["full", "diag"], random_state=0)
    >>> fastem.plot.criteria(found).get_ylabel()
    'BIC'
    """
    from matplotlib.ticker import MaxNLocator

    wanted = _columns(result, names)
    ax = new_axes(ax)
    curves = [(kind, name) for name in wanted for kind in dict.fromkeys(row.covariance_type for row in result.table)]
    for number, (kind, name) in enumerate(curves):
        rows = [row for row in result.table if row.covariance_type == kind]
        label = " ".join(part for part in (NAMES.get(name, name) if len(wanted) > 1 else "", kind or "") if part)
        ax.plot(
            [row.n_components for row in rows],
            [getattr(row, name) if not row.collapsed else np.nan for row in rows],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=1.8,
            label=label,
        )
    collapsed = [(row.n_components, getattr(row, name)) for name in wanted for row in result.table if row.collapsed]
    if collapsed:  # their likelihood is as good as unbounded, and says nothing
        ax.plot(*zip(*collapsed, strict=True), "x", color=GREY, markersize=6, label="collapsed")
    _mark(ax, result.best.n_components, getattr(result.best, wanted[0]), _said(result.best))
    if len(curves) > 1 or collapsed:
        ax.legend(frameon=False, title="covariance" if len(wanted) == 1 else None, alignment="left")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("number of components")
    ax.set_ylabel(NAMES.get(wanted[0], wanted[0]) if len(wanted) == 1 else "criterion")
    return ax


def elbow(result: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the inertia of k-means over the number of clusters, and the chord below which the elbow lies farthest.

    Parameters
    ----------
    result : SelectResult
        What ``fastem.select(X, model="kmeans", ...)`` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the result is not one of k-means.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not hasattr(result.model, "inertia_"):
        raise ValueError(f"elbow draws results of k-means, not of {type(result.model).__name__}.")
    ax = new_axes(ax)
    k = np.array([row.n_components for row in result.table])
    inertia = -np.array([row.objective for row in result.table])
    ax.plot(k[[0, -1]], inertia[[0, -1]], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="chord")
    ax.plot(k, inertia, color=COLOURS[0], marker="o", markersize=5, linewidth=1.8, label="inertia")
    _mark(ax, result.best.n_components, -result.best.objective, f"k = {result.best.n_components}")
    if inertia.max() >= 1e4:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_ylim(bottom=0.0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    ax.set_xlabel("number of clusters")
    ax.set_ylabel("inertia")
    return ax


def _columns(result: Any, names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if names is None:
        names = result.criterion if result.criterion in result.best._fields else "score"
    wanted = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in wanted if name not in result.best._fields]
    if unknown:
        raise ValueError(f"The table has no column {unknown[0]!r}; it has {', '.join(result.best._fields)}.")
    return wanted


def _said(best: Any) -> str:
    return f"k = {best.n_components}" + (f", {best.covariance_type}" if best.covariance_type else "")


def _mark(ax: Axes, x: float, y: float, text: str) -> None:
    ax.plot([x], [y], "o", markersize=13, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4)
    low, high = ax.get_ylim()
    above = y < (low + high) / 2
    ax.annotate(
        text,
        (x, y),
        xytext=(12, 16 if above else -16),
        textcoords="offset points",
        ha="left",
        va="bottom" if above else "top",
        color=INK,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
    )
