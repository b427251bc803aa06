"""The pictures of the lectures: Jensen's chord, the bound that touches the curve, the sigmoid, the cycles of EM."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastem.plot.clusters import clusters
from fastem.plot.style import COLOURS, DARK_GREY, GREY, INK, colours, new_axes, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 400  # along a curve


class _Touch(NamedTuple):
    """One iteration of EM along the slice."""

    at: float  # where the E-step makes the bound tight
    likelihood: float  # there
    bound: np.ndarray  # (POINTS,) the bound along the slice
    top: float  # where the M-step goes
    height: float  # the bound there
    reached: float  # the log-likelihood there


def jensen(
    x: Sequence[float] = (1.0, 5.0), probabilities: Sequence[float] = (0.5, 0.5), *, ax: Axes | None = None
) -> Axes:
    """Draw Jensen's inequality for the logarithm: the chord lies below the curve (lecture row L8).

    Parameters
    ----------
    x : pair of float
        Two positive values of a random variable.
    probabilities : pair of float
        Their probabilities.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there are not two positive values with probabilities that sum to one.
    """
    values, p = np.asarray(x, np.float64), np.asarray(probabilities, np.float64)
    if values.shape != (2,) or p.shape != (2,) or np.any(values <= 0) or np.any(p < 0) or not np.isclose(p.sum(), 1.0):
        raise ValueError("jensen draws two positive values with probabilities that sum to one.")
    ax = new_axes(ax)
    low, high = float(values.min()), float(values.max())
    grid = np.linspace(0.45 * low, 1.12 * high, POINTS)
    mean, mean_log = float(p @ values), float(p @ np.log(values))
    ax.plot(grid, np.log(grid), color=COLOURS[0], linewidth=2.4)
    ax.plot(values, np.log(values), color=DARK_GREY, linewidth=1.6, marker="o", markersize=6)
    floor = float(np.log(grid[0]))
    for value, height in ((low, np.log(low)), (high, np.log(high)), (mean, np.log(mean))):
        ax.plot([value, value], [floor, height], color=GREY, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
    ax.plot([mean, mean], [mean_log, np.log(mean)], color=COLOURS[1], linewidth=2.2, zorder=2)
    for height, text, colour, up in (
        (np.log(mean), r"$\ln\,\mathrm{E}[x]$", COLOURS[0], True),
        (mean_log, r"$\mathrm{E}[\ln x]$", COLOURS[1], False),
    ):
        ax.plot([mean], [height], "o", color=colour, markersize=8, zorder=4)
        offset = (-10, 6) if up else (10, -6)
        style: dict[str, Any] = {
            "ha": "right" if up else "left",
            "va": "bottom" if up else "top",
            "color": colour,
            "fontsize": 13,
        }
        ax.annotate(text, (mean, height), xytext=offset, textcoords="offset points", **style)
    ax.set_xticks([low, mean, high], [f"{low:g}", f"E[x] = {mean:g}", f"{high:g}"])
    ax.set_ylim(bottom=floor)
    ax.set_xlim(float(grid[0]), float(grid[-1]))
    ax.set_xlabel("x")
    ax.set_ylabel(r"$\ln x$")
    return ax


def lower_bound(
    model: Any,
    X: Any,
    *,
    along: Callable[[float], Any] | None = None,
    component: int = 0,
    feature: int = 0,
    start: float | None = None,
    limits: tuple[float, float] | None = None,
    iterations: int = 3,
    ax: Axes | None = None,
) -> Axes:
    """Draw the log-likelihood along a line through the parameters, and the bounds that EM climbs (lecture row L8).

    Each iteration the E-step makes the bound touch the curve where the parameters are, and the M-step, restricted to
    the line, goes to the top of the bound.

    Parameters
    ----------
    model : fitted mixture
        All parameters but one are held at the fitted values.
    X : array-like (n, d)
        The rows.
    along : callable, optional
        ``along(t)`` returns the parameters at the point t of the line; by default they are those of the model with one
        feature of one component's mean equal to t.
    component, feature : int
        Which mean that is.
    start : float, optional
        Where EM begins; by default near the left end.
    limits : pair of float, optional
        The ends of the line; by default the range of the feature.  Needed with `along`.
    iterations : int
        How many bounds to draw.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import fastem, fastem.plot, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 1)) + np.repeat([[0.0], [5.0]], 100, axis=0)
    >>> model = fastem.GaussianMixture(2, random_state=0).fit(x)
    >>> len(fastem.plot.lower_bound(model, x, iterations=2).lines) > 3
    True
    """
    from fastem.analysis.bound import LowerBound

    at = LowerBound(model, X)
    if along is None:
        along, label = _mean_slice(at.parameters(), component, feature), f"mean of component {component}"
        seen = np.asarray(at.X[:, feature], np.float64)
        limits = (float(seen.min()), float(seen.max())) if limits is None else limits
    else:
        label = "t"
    if limits is None:
        raise ValueError("limits are needed with a line of your own.")
    line = np.linspace(*limits, POINTS)
    n = len(at.X)
    curve = np.array([at.log_likelihood(along(t)) for t in line]) / n
    steps = _climb(at, along, line, limits[0] + 0.06 * (limits[1] - limits[0]) if start is None else start, iterations)
    ax = new_axes(ax, (7.2, 4.8))
    ax.plot(line, curve, color=INK, linewidth=2.6, zorder=3, label=r"$\ln p(X;\,\theta)$")
    for number, step in enumerate(steps):
        _draw_touch(ax, line, step, COLOURS[number % len(COLOURS)], number)
    floor = float(curve.min() - 0.35 * np.ptp(curve))
    ax.set_ylim(floor, float(curve.max() + 0.18 * np.ptp(curve)))
    ax.set_xlim(*limits)
    ax.legend(frameon=False, loc="best")
    ax.set_xlabel(label)
    ax.set_ylabel("log-likelihood per row")
    return ax


def _mean_slice(params: Any, component: int, feature: int) -> Callable[[float], Any]:
    if "means" not in params._fields:
        raise ValueError(f"{type(params).__name__} has no means; give the line as `along`.")

    def along(t: float) -> Any:
        means = np.array(params.means)
        means[component, feature] = t
        return params._replace(means=means)

    return along


def _climb(at: Any, along: Callable[[float], Any], line: np.ndarray, start: float, iterations: int) -> list[_Touch]:
    """EM along the line, with an M-step that searches it."""
    from scipy.optimize import minimize_scalar

    n, steps, t = len(at.X), [], float(start)
    for _ in range(iterations):
        q = at.e_step(along(t))

        def height(s: float, q: np.ndarray = q) -> float:
            return at.bound(q, along(s)) / n

        bound = np.array([height(s) for s in line])
        best = int(bound.argmax())
        around = (line[max(best - 1, 0)], line[min(best + 1, len(line) - 1)])
        top = float(minimize_scalar(lambda s, f=height: -f(s), bounds=around, method="bounded").x)
        reached = at.log_likelihood(along(top)) / n
        steps.append(_Touch(t, at.log_likelihood(along(t)) / n, bound, top, height(top), reached))
        t = top
    return steps


def _draw_touch(ax: Axes, line: np.ndarray, step: _Touch, colour: str, number: int) -> None:
    label = rf"$\mathcal{{L}}(q_{{{number + 1}}},\,\theta)$"
    ax.plot(line, step.bound, color=colour, linewidth=1.7, zorder=2, label=label)
    ax.plot([step.at], [step.likelihood], "o", color=colour, markersize=8, zorder=5)
    uphill = -1 if step.top < step.at else 1  # the label stands on the other side, clear of the curve
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "left" if uphill < 0 else "right", "fontsize": 13}
    place = (step.at, step.likelihood)
    ax.annotate(rf"$\theta_{{{number}}}$", place, xytext=(-6 * uphill, 7), color=colour, zorder=6, **style)
    # The M-step ends at the top of the bound; the next E-step closes the gap that is left above it.
    ax.plot([step.top], [step.height], "o", markerfacecolor="white", color=colour, markersize=6.5, zorder=5)
    ax.plot([step.top] * 2, [step.height, step.reached], color=colour, linewidth=1.2, linestyle=(0, (2, 2)), zorder=2)


def posterior(model: Any, x: Any, *, name: str = "x", figure: Figure | None = None) -> Figure:
    """Draw a mixture in one dimension, and below it the posterior of its components, a sigmoid for two (row L7).

    Parameters
    ----------
    model : fitted GaussianMixture
        Of one feature.
    x : array-like (n, 1) or (n,)
        The rows.
    name : str
        Name of the feature.
    figure : matplotlib.figure.Figure, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the model has more than one feature.
    """
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    if x.shape[1] != 1 or model.n_features_in_ != 1:
        raise ValueError(f"posterior draws one feature; the model has {model.n_features_in_}.")
    figure = new_figure(7.2, 5.4) if figure is None else figure
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    margin = 0.06 * np.ptp(x)
    grid = np.linspace(x.min() - margin, x.max() + margin, POINTS)[:, None]
    density, shares = np.exp(model.score_samples(grid)), model.predict_proba(grid)
    mixed = colours(model.n_components)
    _draw_parts(above, x, grid[:, 0], density, shares, mixed)
    own = np.sqrt(np.clip(model.predict_proba(x) @ mixed**2, 0.0, 1.0))
    below.scatter(x[:, 0], np.full(len(x), -0.09), marker="|", c=own, s=60, linewidths=0.8, alpha=0.8)
    for share, colour in zip(shares.T, mixed, strict=True):
        below.plot(grid[:, 0], share, color=colour, linewidth=2.4)
    below.set_ylim(-0.17, 1.05)
    below.set_yticks([0.0, 0.5, 1.0])
    below.set_ylabel(r"$p(z = k \mid x)$")
    below.set_xlabel(name)
    tidy(below)
    return figure


def _draw_parts(
    ax: Axes, x: np.ndarray, grid: np.ndarray, density: np.ndarray, shares: np.ndarray, mixed: np.ndarray
) -> None:
    tidy(ax)
    ax.hist(x[:, 0], bins=int(np.clip(np.sqrt(len(x)) * 1.6, 12, 80)), density=True, color="#DADCE0", linewidth=0)
    ax.plot(grid, density, color=INK, linewidth=2.4, label="p(x)")
    for k, (share, colour) in enumerate(zip(shares.T, mixed, strict=True)):
        ax.plot(grid, density * share, color=colour, linewidth=1.8, label=f"p(x, z = {k})")
        ax.fill_between(grid, density * share, color=colour, alpha=0.12, linewidth=0)
    ax.set_ylabel("density")
    ax.legend(frameon=False)


def cycles(
    model: Any,
    X: Any,
    after: Sequence[int] = (0, 1, 2, 5, 20),
    *,
    names: Sequence[str] | None = None,
    columns: tuple[int | str, int | str] | None = None,
) -> Figure:
    """Draw the fit after some numbers of iterations, side by side (lecture row L12).

    Parameters
    ----------
    model : mixture or KMeans, fitted with ``keep_history=True``
    X : array-like (n, d)
        The rows to draw.
    after : sequence of int
        Numbers of iterations; 0 is the start.  Where the fit needed fewer, its end is drawn.
    names : sequence of str, optional
        Names of the features.
    columns : pair of int or str, optional
        The two features to draw.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the model has no history.
    """
    if not hasattr(model, "history_"):
        raise ValueError(f"This {type(model).__name__} has no history_; fit it with keep_history=True.")
    last = len(model.history_) - 1
    shown = list(dict.fromkeys(min(number, last) for number in after))
    figure = new_figure(3.1 * len(shown), 3.3)
    for ax, number in zip(np.atleast_1d(figure.subplots(1, len(shown), sharex=True, sharey=True)), shown, strict=True):
        clusters(_as_of(model, number), X, columns=columns, names=names, ax=ax)
        ends = " (the end)" if number == last and number < max(after) else ""
        ax.set_title(("start" if number == 0 else f"{number} cycle{'s' if number > 1 else ''}") + ends, fontsize=11)
        ax.label_outer()
    return figure


def _as_of(model: Any, number: int) -> Any:
    """Return the model with the parameters that it had after some iterations."""
    then, params = copy.copy(model), model.history_[number]
    if hasattr(model, "cluster_centers_"):
        then.cluster_centers_ = params.centers.astype(model.cluster_centers_.dtype)
    else:
        then._keep_params(then._family(), params)
    return then
