"""Clusters with ellipses in two dimensions, and the objective of every restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastem.families.elliptical.covariance import COVARIANCES
from fastem.plot.style import COLOURS, DARK_GREY, INK, new_axes, new_figure
from fastem.plot.style import colours as palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 20_000
MAX_NUMBERED = 30  # clusters whose numbers are written into the picture
DEAD = 1e-12  # components of no more weight than this are not drawn


class _View(NamedTuple):
    """A plane through the data: a row x is drawn at (x - origin) @ basis."""

    origin: np.ndarray  # (d,)
    basis: np.ndarray  # (d, 2)
    labels: tuple[str, str]

    def place(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.origin) @ self.basis


def clusters(
    model: Any,
    X: Any,
    *,
    columns: tuple[int | str, int | str] | None = None,
    axes: str = "features",
    colour_by: str | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw rows in the colour of their cluster, with centres and, for Gaussian mixtures, 1- and 2-sigma ellipses.

    Parameters
    ----------
    model : fitted KMeans or GaussianMixture
    X : array-like of shape (n, d)
        The rows to draw; of more than 20,000 a random 20,000 are drawn.
    columns : pair of int or str, optional
        The two features to draw, by position or name; by default the first two.
    axes : {"features", "principal"}
        Draw two features, or the two principal axes of the rows.  The ellipses are projected onto what is drawn.
    colour_by : {"labels", "responsibilities"}, optional
        Colour of a row: its cluster's, or the mixture of all clusters' colours by its responsibilities.  By default
        responsibilities for mixtures, labels for k-means.
    names : sequence of str, optional
        Names of the features; by default those of a data frame, or the ones that the model was fitted to.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Notes
    -----
    A single feature is drawn as a histogram, with the density of each Gaussian component over it.

    Examples
    --------
    >>> import fastem, fastem.plot, numpy as np
    >>> X = np.random.default_rng(0).normal(size=(300, 3))
    >>> model = fastem.GaussianMixture(2, random_state=0).fit(X)
    >>> axes = fastem.plot.clusters(model, X, axes="principal")
    >>> axes.get_xlabel().startswith("principal axis 1")
    True
    """
    names = _names(model, X, names)
    rows = _sample(np.asarray(X))
    if axes not in ("features", "principal"):
        raise ValueError(f'axes must be "features" or "principal", got {axes!r}.')
    if columns is not None and axes == "principal":
        raise ValueError("columns choose features; they do not go with principal axes.")
    colours = palette(len(_means(model)))
    row_colours = _row_colours(model, rows, colours, colour_by)
    ax = new_axes(ax)
    if rows.shape[1] == 1:
        return _draw_histogram(ax, model, rows, colours, names[0])
    rows = rows.astype(np.float64)
    view = _principal(rows) if axes == "principal" else _features(names, columns)
    _draw_points(ax, view.place(rows), row_colours)
    alive = np.flatnonzero(_weights(model) > DEAD)
    if hasattr(model, "covariances_"):
        _draw_ellipses(ax, view, model, alive, colours)
    _draw_centres(ax, view.place(_means(model)), alive, colours)
    if axes == "principal":
        ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel(view.labels[0])
    ax.set_ylabel(view.labels[1])
    return ax


def objective(model: Any, ax: Axes | None = None) -> Axes:
    """Draw the objective per iteration of every restart, the best one highlighted.

    Parameters
    ----------
    model : fitted KMeans or GaussianMixture
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        For k-means the inertia, which falls; otherwise the log-likelihood per row, which rises.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not hasattr(model, "histories_"):
        raise ValueError(f"This {type(model).__name__} instance is not fitted yet.")
    ax = new_axes(ax)
    falls = hasattr(model, "inertia_")
    curves = [-history if falls else np.asarray(history) for history in model.histories_]
    best = int(np.argmax(model.restarts_))
    _draw_curve(ax, curves[best], COLOURS[0], 3.2)
    for restart, curve in enumerate(curves):
        if restart != best:
            _draw_curve(ax, curve, DARK_GREY, 0.8)  # on top: restarts that agree with the best are seen inside it
    _label_curves(ax, len(curves), best)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if 1e4 <= max(float(np.abs(curve).max()) for curve in curves) < 1e10:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("iteration")
    ax.set_ylabel("inertia" if falls else "log-likelihood per row")
    return ax


def summary(model: Any, X: Any, *, names: Sequence[str] | None = None) -> Figure:
    """Draw the clusters and, beside them, the objective of every restart.

    Parameters
    ----------
    model : fitted KMeans or GaussianMixture
    X : array-like of shape (n, d)
        Two features are drawn as they are, more on their principal axes.
    names : sequence of str, optional
        Names of the features.

    Returns
    -------
    matplotlib.figure.Figure
    """
    n, d = np.shape(X)
    figure = new_figure(11.0, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    clusters(model, X, axes="features" if d <= 2 else "principal", names=names, ax=left)
    objective(model, ax=right)
    left.set_title(_title(model, n), loc="left")
    right.set_title("Objective per iteration", loc="left")
    return figure


def _title(model: Any, n: int) -> str:
    k = len(_means(model))
    what = f"Gaussian mixture, {k} components" if hasattr(model, "means_") else f"k-means, {k} clusters"
    return f"{what}, {n:,} rows" + (f" ({MAX_POINTS:,} drawn)" if n > MAX_POINTS else "")


# ------------------------------------------------------------------------------------------------------------- data


def _means(model: Any) -> np.ndarray:
    for attribute in ("means_", "cluster_centers_"):
        if hasattr(model, attribute):
            return np.asarray(getattr(model, attribute), np.float64)
    raise ValueError(f"This {type(model).__name__} instance is not fitted yet, or has no centres to draw.")


def _weights(model: Any) -> np.ndarray:
    """Weights of the components; clusters of k-means count as equal."""
    k = len(_means(model))
    return np.asarray(getattr(model, "weights_", np.full(k, 1.0 / k)), np.float64)


def _names(model: Any, X: Any, names: Sequence[str] | None) -> list[str]:
    shape = np.shape(X)
    if len(shape) != 2 or shape[1] != _means(model).shape[1] or shape[0] == 0:
        raise ValueError(f"X has shape {shape}; the model was fitted to {_means(model).shape[1]} features.")
    if names is None:
        found = getattr(X, "columns", getattr(model, "feature_names_in_", None))
        names = [f"x{j}" for j in range(shape[1])] if found is None else [str(name) for name in found]
    if len(names) != shape[1]:
        raise ValueError(f"There are {len(names)} names for {shape[1]} features.")
    return list(names)


def _sample(X: np.ndarray) -> np.ndarray:
    if len(X) <= MAX_POINTS:
        return X
    return X[np.sort(np.random.default_rng(0).choice(len(X), MAX_POINTS, replace=False))]


def _features(names: list[str], columns: tuple[int | str, int | str] | None) -> _View:
    picked = [_position(column, names) for column in ((0, 1) if columns is None else columns)]
    if len(picked) != 2:
        raise ValueError(f"columns must be a pair, got {columns!r}.")
    basis = np.zeros((len(names), 2))
    basis[picked, (0, 1)] = 1.0
    return _View(np.zeros(len(names)), basis, (names[picked[0]], names[picked[1]]))


def _position(column: int | str, names: list[str]) -> int:
    if isinstance(column, str):
        if column not in names:
            raise ValueError(f"There is no feature {column!r}; there are {', '.join(names)}.")
        return names.index(column)
    if not -len(names) <= column < len(names):
        raise ValueError(f"There is no feature {column}; there are {len(names)}.")
    return int(column) % len(names)


def _principal(rows: np.ndarray) -> _View:
    """The plane in which the rows vary most, with a sign that does not depend on the LAPACK at hand."""
    origin = rows.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    basis = vectors[:, :-3:-1]
    basis = basis * np.where(basis[np.abs(basis).argmax(axis=0), (0, 1)] < 0.0, -1.0, 1.0)
    shares = 100.0 * variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)
    first, second = (f"principal axis {j + 1} ({shares[j]:.0f} % of variance)" for j in range(2))
    return _View(origin, basis, (first, second))


def _plane_covariances(model: Any, basis: np.ndarray) -> np.ndarray:
    """Covariances (k, 2, 2) of the components, projected onto a plane."""
    shape = COVARIANCES[model.covariance_type].shape
    full = shape.as_matrices(np.asarray(model.covariances_, np.float64), *model.means_.shape)
    return np.einsum("ja,cji,ib->cab", basis, full, basis)


# ---------------------------------------------------------------------------------------------------------- drawing


def _row_colours(model: Any, rows: np.ndarray, colours: np.ndarray, colour_by: str | None) -> np.ndarray:
    mixture = hasattr(model, "predict_proba")
    if colour_by is None:
        colour_by = "responsibilities" if mixture else "labels"
    if colour_by == "labels":
        return colours[model.predict(rows)]
    if colour_by != "responsibilities" or not mixture:
        options = '"labels" or "responsibilities"' if mixture else '"labels" for this model'
        raise ValueError(f"colour_by must be {options}, got {colour_by!r}.")
    # Mixed as light is: the square root keeps a row halfway between two colours from turning dark.
    return np.sqrt(np.clip(model.predict_proba(rows) @ colours**2, 0.0, 1.0))


def _draw_points(ax: Axes, points: np.ndarray, colours: np.ndarray) -> None:
    # The order of the rows must not decide which cluster lies on top.
    order = np.random.default_rng(0).permutation(len(points))
    size = float(np.clip(6000.0 / len(points), 3.0, 20.0))
    alpha = float(np.clip(2500.0 / len(points), 0.35, 0.8))
    ax.scatter(
        points[order, 0],
        points[order, 1],
        s=size,
        c=colours[order],
        alpha=alpha,
        linewidths=0,
        rasterized=True,
        zorder=2,
    )


def _draw_ellipses(ax: Axes, view: _View, model: Any, alive: np.ndarray, colours: np.ndarray) -> None:
    from matplotlib.patches import Ellipse

    centres = view.place(_means(model))
    covariances = _plane_covariances(model, view.basis)
    for c in alive:
        variances, vectors = np.linalg.eigh(covariances[c])
        minor, major = 2.0 * np.sqrt(np.maximum(variances, 0.0))
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        centre = (float(centres[c, 0]), float(centres[c, 1]))
        for sigmas in (1.0, 2.0):
            size = (sigmas * float(major), sigmas * float(minor))
            fill = Ellipse(centre, *size, angle=angle, facecolor=(*colours[c], 0.10), edgecolor="none", zorder=1)
            edge = Ellipse(centre, *size, angle=angle, fill=False, edgecolor=0.75 * colours[c], linewidth=1.4, zorder=3)
            ax.add_patch(fill)
            ax.add_patch(edge)
    ax.autoscale_view()


def _draw_centres(ax: Axes, centres: np.ndarray, alive: np.ndarray, colours: np.ndarray) -> None:
    numbered = len(alive) <= MAX_NUMBERED
    size = 150.0 if numbered else 24.0
    edges = [*(0.75 * colours[alive])]
    ax.scatter(centres[alive, 0], centres[alive, 1], s=size, c="white", edgecolors=edges, linewidths=1.6, zorder=4)
    style: dict[str, Any] = {
        "ha": "center",
        "va": "center_baseline",
        "fontsize": 8,
        "fontweight": "bold",
        "color": INK,
        "zorder": 5,
    }
    for c in alive if numbered else ():
        ax.text(centres[c, 0], centres[c, 1], str(c), **style)


def _draw_histogram(ax: Axes, model: Any, rows: np.ndarray, colours: np.ndarray, name: str) -> Axes:
    """Draw one feature: a histogram stacked by cluster, and the density that the model gives it."""
    values, labels = rows[:, 0].astype(np.float64), model.predict(rows)
    edges = np.histogram_bin_edges(values, bins=int(np.clip(np.sqrt(len(values)), 10, 80)))
    parts = [values[labels == c] for c in range(len(colours))]
    ax.hist(parts, edges.tolist(), stacked=True, color=[*colours], alpha=0.45, density=True, linewidth=0)
    if hasattr(model, "covariances_"):
        grid = np.linspace(edges[0], edges[-1], 400)
        variances = _plane_covariances(model, np.array([[1.0, 0.0]]))[:, 0, 0]
        for mean, variance, weight, colour in zip(_means(model)[:, 0], variances, model.weights_, colours, strict=True):
            density = weight * np.exp(-0.5 * (grid - mean) ** 2 / variance) / np.sqrt(2.0 * np.pi * variance)
            ax.plot(grid, density, color=0.75 * colour, linewidth=2.0)
    else:
        for mean, colour in zip(_means(model)[:, 0], colours, strict=True):
            ax.axvline(mean, color=0.75 * colour, linewidth=1.6)
    ax.set_xlabel(name)
    ax.set_ylabel("density")
    return ax


def _draw_curve(ax: Axes, curve: np.ndarray, colour: str, width: float) -> None:
    iterations = np.arange(1, len(curve) + 1)
    ax.plot(iterations, curve, color=colour, linewidth=width)
    ax.plot(iterations[-1:], curve[-1:], "o", color=colour, markersize=3.0 + 1.2 * width)


def _label_curves(ax: Axes, n_curves: int, best: int) -> None:
    from matplotlib.lines import Line2D

    if n_curves > 1:
        others = n_curves - 1
        lines = {
            f"best: restart {best + 1}": Line2D([], [], color=COLOURS[0], linewidth=3.2),
            f"{others} other restart{'s' if others > 1 else ''}": Line2D([], [], color=DARK_GREY, linewidth=0.8),
        }
        ax.legend(list(lines.values()), list(lines), frameon=False, loc="best")
