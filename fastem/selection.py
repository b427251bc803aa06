r"""Choosing the number of components (lecture row L3): every k, and covariance type, over a grid.

What is compared, with L the log-likelihood, p the free parameters, W the sum of the weights and r the responsibilities:

    AIC = -2 L + 2 p            BIC = -2 L + p log W            ICL = BIC + 2 H,   H = -sum w r log r >= 0

ICL prefers clusters that do not overlap.  The held-out log-likelihood is the mean over rows that the model has not
seen.  K-means has no likelihood of its own; here it gets that of the mixture whose limit it is (lecture row L11):
equal fixed weights and one variance s = J / (W d), which adds one parameter, with hard assignment,

    -2 L = W d (log(2 pi s) + 1) + 2 W log k.

None of them knows what the clusters are for: a score of one's own does.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from fastem import em, threads, validate
from fastem import stats as grid
from fastem.draws import Draws
from fastem.families.gaussian import COVARIANCE_TYPES
from fastem.sharing import SharedCenters, sharing

CRITERIA = ("bic", "aic", "icl", "heldout", "silhouette", "elbow")
MODELS = {
    "gmm": "GaussianMixture",
    "kmeans": "KMeans",
    "bernoulli": "BernoulliMixture",
    "poisson": "PoissonMixture",
    "categorical": "CategoricalMixture",
    "student": "StudentTMixture",
    "factor": "FactorAnalysis",
    "mfa": "FactorAnalyserMixture",
}
SILHOUETTE_ROWS = 4000
CHUNK_ROWS = 1 << 16
MOST_BY_DEFAULT = 9


class Candidate(NamedTuple):
    """One cell of the grid: what was fitted, and how well it did; NaN for what does not apply or was not asked for."""

    n_components: int
    covariance_type: str | None
    n_parameters: int
    objective: float  # mean log-likelihood of a row; of k-means minus the inertia
    aic: float
    bic: float
    icl: float
    heldout: float  # mean log-likelihood of a row that was not fitted to
    silhouette: float
    score: float  # what is maximised
    n_iter: int
    converged: bool
    seconds: float


class Progress(NamedTuple):
    """What the progress callback is told after each candidate."""

    done: int
    total: int
    candidate: Candidate


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
        What to fit; an estimator of `fastem` brings its own parameters.
    covariance_types : str, sequence of str or None
        Covariance types to try, of a Gaussian mixture; None means all four for "gmm", and an estimator's own.
    criterion : {"auto", "bic", "aic", "icl", "heldout", "silhouette", "elbow"} or callable
        What to compare.  "auto" is "bic" for mixtures and "silhouette" for k-means; "elbow", for k-means, takes the
        point of the curve of inertia that is farthest below its chord.  A callable ``criterion(fitted_model, X)``
        returns a number, and the highest wins.
    sample_weight : array-like (n_samples,) or None
        Weights of the rows.
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
    search = _Search.prepare(X, model, criterion, sample_weight, n_init, n_splits, random_state, n_threads, time_budget)
    cells = search.grid(n_components, covariance_types)
    found = search.run(cells, progress)
    table = [candidate for candidate, _ in found.values()]
    if search.criterion == "elbow":
        bends = elbow(np.array([row.n_components for row in table]), -np.array([row.objective for row in table]))
        table = [row._replace(score=float(bend)) for row, bend in zip(table, bends, strict=True)]
    best = _best(table, search.cut_short)
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


def _best(table: list[Candidate], cut_short: set[tuple[int, str | None]]) -> int:
    """Return the position of the highest score; candidates that were cut short only where there is no other."""
    scores = np.array([row.score for row in table])
    stopped = np.array([(row.n_components, row.covariance_type) in cut_short for row in table])
    scores[np.isnan(scores)] = -np.inf
    if not stopped.all():
        scores[stopped] = -np.inf
    if np.all(np.isneginf(scores)):
        raise ValueError("No candidate has a score; was the time budget too short, or is k = 1 the only choice?")
    return int(np.argmax(scores))


@dataclass
class _Search:
    """What all candidates have in common."""

    X: Any
    weights: np.ndarray  # (n,) or empty
    estimator: Any  # not fitted; the parameters of all candidates
    by_name: bool  # the model was asked for by name, so that its covariance types are ours to choose
    criterion: str
    own_score: Callable[[Any, Any], float] | None
    n_splits: int
    n_threads: int
    deadline: float
    asked: dict[str, Any]  # the estimator's n_threads and callback
    shared: SharedCenters = field(default_factory=SharedCenters)
    cut_short: set[tuple[int, str | None]] = field(default_factory=set)

    @classmethod
    def prepare(
        cls, X, model, criterion, sample_weight, n_init, n_splits, random_state, n_threads, time_budget
    ) -> _Search:
        estimator = _estimator(model)
        n_threads = threads.resolve(estimator.n_threads if n_threads is None else n_threads)
        seed = validate.seed(estimator.random_state if random_state is None else random_state)
        restarts = {} if n_init is None or not hasattr(estimator, "n_init") else {"n_init": n_init}
        estimator.set_params(random_state=seed, **restarts)
        name, own_score = _criterion(criterion, estimator)
        X = X if hasattr(X, "iloc") or hasattr(X, "tocsr") else np.asarray(X)
        if not validate.is_int(n_splits, 2):
            raise ValueError(f"n_splits must be an int of at least 2, got {n_splits!r}.")
        if time_budget is not None and not (validate.is_real(time_budget, 0) and time_budget > 0):
            raise ValueError(f"time_budget must be a positive number of seconds, got {time_budget!r}.")
        return cls(
            X=X,
            weights=validate.weights(sample_weight, X.shape[0], np.float64),
            estimator=estimator,
            by_name=isinstance(model, str),
            criterion=name,
            own_score=own_score,
            n_splits=n_splits,
            n_threads=n_threads,
            deadline=np.inf if time_budget is None else time.perf_counter() + time_budget,
            asked={"n_threads": estimator.n_threads, "callback": estimator.callback},
        )

    @property
    def is_kmeans(self) -> bool:
        return hasattr(self.estimator, "n_clusters")

    def grid(self, n_components: Any, covariance_types: Any) -> list[tuple[int, str | None]]:
        """Return the cells (k, covariance type or None) in order."""
        factors = not (self.is_kmeans or hasattr(self.estimator, "predict_proba"))
        what, there_are = ("factors", "features") if factors else ("components", "rows")
        most = self.X.shape[1 if factors else 0]
        if n_components is None:
            n_components = range(1, min(MOST_BY_DEFAULT, most) + 1)
        wanted = [n_components] if validate.is_int(n_components, 0) else list(n_components)
        if not wanted or not all(validate.is_int(k, 1) for k in wanted):
            raise ValueError(f"n_components must be positive integers, got {wanted!r}.")
        if max(wanted) > most:
            raise ValueError(f"n_components = {max(wanted)} asks for more {what} than there are {there_are} ({most}).")
        ks = sorted({int(k) for k in wanted})
        return [(k, kind) for k in ks for kind in self._covariance_types(covariance_types)]

    def _covariance_types(self, asked: Any) -> list[str | None]:
        if not hasattr(self.estimator, "covariance_type"):
            if asked is not None:
                raise ValueError(f"{type(self.estimator).__name__} has no covariance types to choose among.")
            return [None]
        known = getattr(self.estimator, "_covariance_types", COVARIANCE_TYPES)
        if asked is None:
            return list(known) if self.by_name else [self.estimator.covariance_type]
        kinds = [asked] if isinstance(asked, str) else list(asked)
        unknown = [kind for kind in kinds if kind not in known]
        if unknown or not kinds:
            raise ValueError(f"covariance_types must be among {', '.join(known)}, got {unknown or kinds!r}.")
        return list(dict.fromkeys(kinds))

    def run(self, cells: list[tuple[int, str | None]], progress: Callable[[Progress], Any] | None) -> dict:
        """Fit the candidates; return (candidate, model) by cell, in the order of the grid."""
        found: dict[int, tuple[Candidate, Any]] = {}
        side_by_side = grid.n_cells(self.X.shape[0]) < em.CELLS_PER_THREAD * self.n_threads
        per_fit = 1 if side_by_side else self.n_threads

        def task(number: int) -> None:
            if number and time.perf_counter() > self.deadline:  # there is always a first one
                return
            result = self._candidate(*cells[number], per_fit)
            with threads.LOCK:
                found[number] = result
                done = len(found)
            if progress is not None:
                progress(Progress(done, len(cells), result[0]))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the table says which did not converge
            threads.map_tasks(task, len(cells), self.n_threads if side_by_side else 1)
        return dict(sorted(found.items()))

    def _candidate(self, k: int, kind: str | None, n_threads: int) -> tuple[Candidate, Any]:
        start = time.perf_counter()
        model = self._fitted(k, kind, self.X, self.weights, self.shared, n_threads)
        converged = bool(getattr(model, "converged_", model.n_iter_ < model.max_iter))
        values = self._criteria(model)
        values["heldout"] = self._heldout(k, kind, n_threads) if self.criterion == "heldout" else np.nan
        values["silhouette"] = self._silhouette(model) if self.criterion == "silhouette" else np.nan
        candidate = Candidate(
            n_components=k,
            covariance_type=kind,
            **values,
            score=self._score(model, values),
            n_iter=int(model.n_iter_),
            converged=converged,
            seconds=time.perf_counter() - start,
        )
        return candidate, model

    def _fitted(self, k: int, kind: str | None, X: Any, weights: np.ndarray, shared: Any, n_threads: int) -> Any:
        model = clone(self.estimator)
        options: dict[str, Any] = {"n_clusters" if self.is_kmeans else "n_components": k, "n_threads": n_threads}
        if kind is not None:
            options["covariance_type"] = kind
        if self.deadline < np.inf:
            options["callback"] = self._stopper(k, kind)
        model.set_params(**options)
        with sharing(shared):
            return model.fit(X, sample_weight=weights if weights.size else None)

    def _stopper(self, k: int, kind: str | None) -> Callable[[Any], Any]:
        """Return a callback that also ends a restart when the time is up."""

        def callback(info: Any) -> Any:
            late = time.perf_counter() > self.deadline
            if late:
                self.cut_short.add((k, kind))
            told = self.asked["callback"](info) if self.asked["callback"] is not None else None
            return late or told

        return callback

    def _criteria(self, model: Any) -> dict[str, Any]:
        n, d = self.X.shape
        weight = float(self.weights.sum()) if self.weights.size else float(n)
        icl = np.nan
        if self.is_kmeans:
            k, variance = model.n_clusters, model.inertia_ / (weight * d)
            objective, p = -float(model.inertia_), k * d + 1
            with np.errstate(divide="ignore"):
                deviance = weight * d * (np.log(2 * np.pi * variance) + 1) + 2 * weight * np.log(k)
        else:
            objective = model.score(self.X, sample_weight=self.weights if self.weights.size else None)
            deviance, p = -2 * objective * weight, model._n_parameters()
        bic = deviance + p * np.log(weight)
        if hasattr(model, "predict_proba"):
            icl = bic + 2 * self._entropy(model)
        elif self.is_kmeans:
            icl = bic  # hard assignments have no entropy
        return {
            "n_parameters": int(p),
            "objective": float(objective),
            "aic": float(deviance + 2 * p),
            "bic": float(bic),
            "icl": float(icl),
        }

    def _entropy(self, model: Any) -> float:
        from scipy.special import xlogy

        total = 0.0
        for first in range(0, self.X.shape[0], CHUNK_ROWS):
            rows = slice(first, first + CHUNK_ROWS)
            resp = model.predict_proba(_rows(self.X, rows))
            per_row = -xlogy(resp, resp).sum(axis=1)
            total += float(self.weights[rows] @ per_row if self.weights.size else per_row.sum())
        return total

    def _heldout(self, k: int, kind: str | None, n_threads: int) -> float:
        """Return the mean log-likelihood of rows under models that were fitted to the other folds."""
        n = self.X.shape[0]
        if n < 2 * self.n_splits or n - n // self.n_splits < k + 1:
            raise ValueError(f"{n} rows are too few for {self.n_splits} folds and {k} components.")
        fold = np.empty(n, np.int64)
        fold[Draws(self.estimator.random_state).distinct(n, n)] = np.arange(n) % self.n_splits
        total = 0.0
        for number in range(self.n_splits):
            inside = np.flatnonzero(fold != number)
            shared = self.shared.fold(number)
            model = self._fitted(k, kind, _rows(self.X, inside), _part(self.weights, inside), shared, n_threads)
            outside = np.flatnonzero(fold == number)
            w = _part(self.weights, outside)
            per_row = model.score_samples(_rows(self.X, outside))
            total += float(w @ per_row if w.size else per_row.sum())
        return total / (float(self.weights.sum()) if self.weights.size else n)

    def _silhouette(self, model: Any) -> float:
        from sklearn.metrics import silhouette_score

        n = self.X.shape[0]
        some = np.sort(Draws(self.estimator.random_state, 1).distinct(n, min(n, SILHOUETTE_ROWS)))
        rows = _rows(self.X, some)
        labels = model.predict(rows)
        if not 2 <= len(np.unique(labels)) < len(labels):
            return np.nan
        return float(silhouette_score(rows, labels))

    def _score(self, model: Any, values: dict[str, Any]) -> float:
        if self.own_score is not None:
            return float(self.own_score(model, self.X))
        if self.criterion == "elbow":
            return np.nan  # known when the whole curve is
        value = float(values[self.criterion])
        return value if self.criterion in ("heldout", "silhouette") else -value

    def release(self, model: Any) -> Any:
        """Return a fitted candidate as the user would have fitted it."""
        return model.set_params(**self.asked)


def _estimator(model: Any) -> Any:
    """Return a fresh estimator for a name or an estimator."""
    import fastem

    if isinstance(model, str):
        if model not in MODELS:
            raise ValueError(f"model must be an estimator or one of {', '.join(MODELS)}, got {model!r}.")
        return getattr(fastem, MODELS[model])()
    params = model.get_params(deep=False) if hasattr(model, "get_params") else {}
    if not ({"n_components", "n_clusters"} & params.keys() and {"random_state", "callback"} <= params.keys()):
        raise TypeError(f"model must be a mixture or KMeans of fastem, got {type(model).__name__}.")
    return clone(model)


def _criterion(criterion: Any, estimator: Any) -> tuple[str, Callable[[Any, Any], float] | None]:
    """Return the criterion's name, and the user's own score if it is one."""
    is_kmeans = hasattr(estimator, "n_clusters")
    if callable(criterion):
        return getattr(criterion, "__name__", type(criterion).__name__), criterion
    if criterion == "auto":
        return ("silhouette" if is_kmeans else "bic"), None
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be auto, {', '.join(CRITERIA)} or a callable, got {criterion!r}.")
    if criterion == "heldout" and is_kmeans:
        raise ValueError("criterion 'heldout' needs a density; k-means has none.")
    if criterion in ("icl", "silhouette") and not (is_kmeans or hasattr(estimator, "predict_proba")):
        raise ValueError(f"criterion {criterion!r} needs clusters; {type(estimator).__name__} has none.")
    if criterion == "elbow" and not is_kmeans:
        raise ValueError("criterion 'elbow' bends the inertia of k-means; mixtures have none.")
    return criterion, None


def _rows(X: Any, rows: Any) -> Any:
    """Return some rows of an array, a CSR matrix or a data frame."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _part(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return weights[rows] if weights.size else weights
