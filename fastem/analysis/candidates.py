"""The candidates of `fastem.select`: each fitted and judged, side by side where they are small."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from fastem import grid, threads, validate
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import LEFT, MOST_ITERATIONS
from fastem.engine.problem import SharedCenters
from fastem.estimators import door
from fastem.families.gaussian import COVARIANCE_TYPES, LETTERS, SHAPES
from fastem.registry import BY_SHORT_NAME

CRITERIA = ("bic", "aic", "icl", "heldout", "silhouette", "elbow")
SILHOUETTE_ROWS = 4000
CHUNK_ROWS = 1 << 16
MOST_BY_DEFAULT = 9
# Weights that add up to a smaller part of the rows than this are no counts of rows.
FEW = 0.01


def chosen(known: Sequence[str], asked: Any) -> list[str]:
    """Return the covariance types that are asked for: None for the known words, "all" for the letters, or these."""
    if asked is None:
        return [kind for kind in known if kind in SHAPES]
    if isinstance(asked, str):
        return [asked] if asked != "all" else [kind for kind in known if kind in LETTERS] or list(known)
    return list(asked)


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
    collapsed: int = 0  # components without variance of their own; such candidates rank last


class Progress(NamedTuple):
    """What the progress callback is told after each candidate."""

    done: int
    total: int
    candidate: Candidate


@dataclass
class Search:
    """What all candidates have in common."""

    X: Any
    weights: np.ndarray  # (n,) or empty
    n_effective: float  # rows that the weights stand for
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
        cls, X, model, criterion, sample_weight, n_effective, n_init, n_splits, random_state, n_threads, time_budget
    ) -> Search:
        """Check what `select` was given."""
        door.refuse_stream(X, "fastem.select fits dozens of models, some to parts of the rows, and")
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
        weights = validate.weights(sample_weight, X.shape[0], np.float64)
        total = float(weights.sum()) if weights.size else float(X.shape[0])
        counted = _n_effective(n_effective, weights, total)
        estimator.set_params(**until_comparable(estimator, counted, total))
        if name == "heldout" and hasattr(estimator, "n_categories"):  # a fold may lack some, and must know them
            estimator.set_params(n_categories=estimator.count_categories(X))
        return cls(
            X=X,
            weights=weights,
            n_effective=counted,
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
        """Whether the candidates are k-means and have no likelihood."""
        return hasattr(self.estimator, "n_clusters")

    @property
    def is_likelihood(self) -> bool:
        """Whether the criterion is made of the likelihood, which is unbounded where a component collapses."""
        return self.own_score is None and self.criterion in ("bic", "aic", "icl", "heldout")

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
        if asked is None and not self.by_name:
            return [self.estimator.covariance_type]
        kinds = chosen(known, asked)
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
            collapsed=0 if self.is_kmeans else model._n_collapsed(_n_rows(self.weights, self.X.shape[0])),
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
        model._shared_centers = shared
        try:
            return model.fit(X, sample_weight=weights if weights.size else None)
        finally:
            del model._shared_centers

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
        total, weight = float(self.weights.sum()) if self.weights.size else float(n), self.n_effective
        icl = np.nan
        if self.is_kmeans:
            k, variance = model.n_clusters, model.inertia_ / (total * d)
            objective, p = -float(model.inertia_), k * d + 1
            with np.errstate(divide="ignore"):
                deviance = weight * d * (np.log(2 * np.pi * variance) + 1) + 2 * weight * np.log(k)
        else:
            objective = model.score(self.X, sample_weight=self.weights if self.weights.size else None)
            deviance, p = -2 * objective * weight, model._n_parameters()
        bic = deviance + p * np.log(weight)
        if hasattr(model, "predict_proba"):
            icl = bic + 2 * self._entropy(model) * (weight / total)
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


def until_comparable(estimator: Any, n_rows: float, weight: float) -> dict[str, Any]:
    """Return the parameters with which an estimator runs until hardly anything is left to gain.

    Parameters
    ----------
    estimator : estimator
        Any; k-means, which has no likelihood, keeps its own.
    n_rows : float
        How many rows the criteria count.
    weight : float
        The sum of the weights.
    """
    if not hasattr(estimator, "convergence"):
        return {}
    per_row = 1.0 if hasattr(estimator, "predict_proba") else weight  # what tol is of
    most = max(estimator.max_iter, MOST_ITERATIONS)
    return {"convergence": "remaining", "tol": LEFT / n_rows * per_row, "max_iter": most}


def _n_rows(weights: np.ndarray, n: int) -> float:
    """Return how many equal rows know as much as the weighted ones: (sum w)^2 / sum w^2."""
    return float(weights.sum()) ** 2 / float(weights @ weights) if weights.size else float(n)


def _n_effective(asked: float | None, weights: np.ndarray, total: float) -> float:
    """Return the number of rows that the criteria count; weights that can be no counts are told of."""
    if asked is not None:
        if not (validate.is_real(asked, 0) and asked > 0):
            raise ValueError(f"n_effective must be a positive number of rows, got {asked!r}.")
        return float(asked)
    n = int(np.count_nonzero(weights)) if weights.size else 0
    if n > 1 and total < max(2.0, FEW * n):
        warnings.warn(
            f"The weights of {n} rows add up to {total:.4g}, so that the criteria count {total:.4g} rows and hardly "
            "penalise parameters: pass n_effective, the number of rows that they stand for.",
            UserWarning,
            stacklevel=4,
        )
    return total


def _estimator(model: Any) -> Any:
    """Return a fresh estimator for a name or an estimator."""
    import fastem

    if isinstance(model, str):
        if model not in BY_SHORT_NAME:
            raise ValueError(f"model must be an estimator or one of {', '.join(BY_SHORT_NAME)}, got {model!r}.")
        made = getattr(fastem, BY_SHORT_NAME[model])()
        return made.set_params(accelerate="squarem") if hasattr(made, "accelerate") else made
    params = model.get_params(deep=False) if hasattr(model, "get_params") else {}
    if not ({"n_components", "n_clusters"} & params.keys() and {"random_state", "callback"} <= params.keys()):
        raise TypeError(f"model must be a mixture or KMeans of fastem, got {type(model).__name__}.")
    if params.get("checkpoint") is not None:
        raise ValueError("checkpoint is of one fit, and these are many.")
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
