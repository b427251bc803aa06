r"""Choosing the number of components (lecture row L3): every k, and covariance type, over a grid.

What is compared, with L the log-likelihood, p the free parameters, W the sum of the weights and r the responsibilities:

    AIC = -2 L + 2 p            BIC = -2 L + p log W            ICL = BIC + 2 H,   H = -sum w r log r >= 0

ICL prefers clusters that do not overlap.  The held-out log-likelihood is the mean over rows that the model has not
seen.  Runs that stop at different distances from their maxima cannot be compared: each goes on until what is left to
gain (`fastem.engine.monitor.remaining`) is a hundredth of the criteria's unit.  A component without variance of its own
has an unbounded likelihood, which says nothing: such candidates rank last.

K-means has no likelihood of its own; here it gets that of the mixture whose limit it is (lecture row L11):
equal fixed weights and one variance s = J / (W d), which adds one parameter, with hard assignment,

    -2 L = W d (log(2 pi s) + 1) + 2 W log k.

None of them knows what the clusters are for: a score of one's own does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastem.analysis.candidates import CRITERIA, Candidate, Progress, Search

__all__ = ["CRITERIA", "Candidate", "Progress", "SelectResult", "elbow", "select"]


@dataclass(frozen=True)
class SelectResult:
    """The table of candidates and the chosen model.

    Attributes
    ----------
    table : list of Candidate
        Every candidate that was fitted, in the order of the grid.
    best : Candidate
        The chosen one.
    model : estimator
        The chosen model, fitted to all rows: equal to a fit with its parameters outside `select`.
    criterion : str
        What was compared.
    complete : bool
        False if the time budget ran out before the grid was done.
    """

    table: list[Candidate]
    best: Candidate
    model: Any
    criterion: str
    complete: bool = True

    def columns(self) -> dict[str, np.ndarray]:
        """Return the table as a dict of arrays, one for each field."""
        return {name: np.array([getattr(row, name) for row in self.table]) for name in Candidate._fields}


def select(
    X: Any,
    n_components: Iterable[int] | int | None = None,
    *,
    model: Any = "gmm",
    covariance_types: Sequence[str] | str | None = None,
    criterion: str | Callable[[Any, Any], float] = "auto",
    sample_weight: Any = None,
    n_effective: float | None = None,
    n_init: int | None = None,
    n_splits: int = 5,
    random_state: Any = None,
    n_threads: int | None = None,
    time_budget: float | None = None,
    progress: Callable[[Progress], Any] | None = None,
) -> SelectResult:
    """Fit a model for every number of components, and covariance type, and choose one.

    Candidates of one k begin with the same clusters, which are found once.  Small ones run side by side.

    Parameters
    ----------
    X : array-like (n_samples, n_features)
        The rows.
    n_components : iterable of int, int or None
        The numbers of components (of factor analysis: factors) to try; None means 1 to 9, or to the number of rows (of
        factor analysis: features).
    model : {"gmm", "kmeans", "bernoulli", "poisson", "categorical", "student", "factor", "mfa"} or estimator
        What to fit; an estimator of `fastem` brings its own parameters, but for when a mixture or factor analysis
        stops: `convergence`, `tol` and, where it is less than 10,000, `max_iter`.  By name, EM is accelerated.
    covariance_types : str, sequence of str or None
        Covariance types to try, of a Gaussian mixture; None means "full", "tied", "diag" and "spherical" for "gmm", and
        an estimator's own; "all" means mclust's fourteen models by their letters.
    criterion : {"auto", "bic", "aic", "icl", "heldout", "silhouette", "elbow"} or callable
        What to compare.  "auto" is "bic" for mixtures and "silhouette" for k-means; "elbow", for k-means, takes the
        point of the curve of inertia that is farthest below its chord.  A callable ``criterion(fitted_model, X)``
        returns a number, and the highest wins.
    sample_weight : array-like (n_samples,) or None
        Weights of the rows.
    n_effective : float or None
        How many rows the weights stand for; None means their sum, which is right for counts.  Weights that add up to
        1 would make the log-likelihood one row's and the penalty of BIC vanish.
    n_init : int or None
        Restarts of each candidate; None means the estimator's own number.
    n_splits : int
        Folds of the held-out log-likelihood.
    random_state : int, RandomState, Generator or None
        Seed of all starts; None means the estimator's own `random_state`.
    n_threads : int or None
        Threads of the whole search.
    time_budget : float or None
        Seconds after which no candidate is begun and those that run are stopped and left out of the choice.
    progress : callable or None
        Called with a `Progress` after each candidate, from the thread that fitted it.

    Returns
    -------
    SelectResult
        The table, the chosen candidate and its fitted model.

    Raises
    ------
    ValueError
        If the grid is empty or asks for more components than rows, or the criterion does not go with the model.

    Examples
    --------
    >>> import numpy as np, fastem
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2)) + np.repeat([[0.0, 0], [8, 0], [0, 8]], 100, axis=0)
    >>> found = fastem.select(X, range(1, 6), covariance_types="spherical", random_state=0)
    >>> found.best.n_components
    3
    >>> found.model.means_.shape
    (3, 2)
    """
    search = Search.prepare(
        X, model, criterion, sample_weight, n_effective, n_init, n_splits, random_state, n_threads, time_budget
    )
    cells = search.grid(n_components, covariance_types)
    found = search.run(cells, progress)
    table = [candidate for candidate, _ in found.values()]
    if search.criterion == "elbow":
        bends = elbow(np.array([row.n_components for row in table]), -np.array([row.objective for row in table]))
        table = [row._replace(score=float(bend)) for row, bend in zip(table, bends, strict=True)]
    best = _best(table, search.cut_short, search.is_likelihood)
    chosen = [fitted for _, fitted in found.values()][best]
    return SelectResult(table, table[best], search.release(chosen), search.criterion, len(table) == len(cells))


def elbow(n_components: np.ndarray, inertia: np.ndarray) -> np.ndarray:
    """Return how far each point of a falling curve lies below the chord between its ends, both axes scaled to one.

    Examples
    --------
    >>> elbow(np.arange(1, 6), np.array([100.0, 60.0, 10.0, 8.0, 6.0])).round(2)
    array([0.  , 0.18, 0.46, 0.23, 0.  ])
    """
    spread_k, spread_j = np.ptp(n_components), np.ptp(inertia)
    if spread_k == 0 or spread_j == 0:
        return np.zeros(len(inertia))
    return (1.0 - (n_components - n_components.min()) / spread_k) - (inertia - inertia.min()) / spread_j


def _best(table: list[Candidate], cut_short: set[tuple[int, str | None]], is_likelihood: bool) -> int:
    """Return the position of the highest score; candidates that collapsed or were cut short only if all did."""
    scores = np.array([row.score for row in table])
    scores[np.isnan(scores)] = -np.inf
    stopped = np.array([(row.n_components, row.covariance_type) in cut_short for row in table])
    collapsed = np.array([row.collapsed > 0 for row in table]) & is_likelihood
    for last in (stopped, collapsed):
        if not np.all(last | np.isneginf(scores)):
            scores[last] = -np.inf
    if collapsed.all():
        warnings.warn(
            "Every candidate has components without variance of their own, so that none is to be trusted: try fewer "
            "components, or a larger reg_covar.",
            ConvergenceWarning,
            stacklevel=3,
        )
    if np.all(np.isneginf(scores)):
        raise ValueError("No candidate has a score; was the time budget too short, or is k = 1 the only choice?")
    return int(np.argmax(scores))
