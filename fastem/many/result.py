"""The fits of many groups as one result: `ManyFits`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import NotFittedError

from fastem.many import answers, storage, tables
from fastem.many.grouping import Layout
from fastem.many.keys import as_columns
from fastem.many.loop import with_components
from fastem.many.record import BatchFit
from fastem.many.stacked import Stacked
from fastem.many.statuses import TITLES, Status


class Facts(NamedTuple):
    """What is known of the groups beside their fits."""

    n_components: np.ndarray  # (G,) int64
    n_features: np.ndarray  # (G,) int64
    weights: np.ndarray  # (G,) float64: sums of the weights of their rows
    pooled: np.ndarray  # (G,) bool: whether the model is that of all rows
    bic: np.ndarray  # (G,) float64, or empty where nothing was chosen by it


class ManyFits:
    """The fits of many groups; `fastem.fit_many` and `ManyFits.load` make it.

    ``result[key]`` is the ordinary fitted estimator of one group, ``key in result`` tells whether there is such a
    group, and ``len(result)`` how many there are.

    Attributes
    ----------
    keys : ndarray (n_groups,) or list of tuples
        The key of each group, sorted; numbers from 0 where the groups had none.
    labels : ndarray (n_rows,), (n_groups, n), (n_rows, n_groups) or list of ndarray
        The component of each row in its group's model, in the form in which the rows were given; -1 for rows of groups
        without a model.  None if the model knows no components (factor analysis) or they were not kept.
    parameters : dict of str to Stacked
        Fitted attributes, all groups': ``result.parameters["means_"].of(3)`` is that of group number 3 (None without a
        model), ``.padded()`` one array of all.
    objective : ndarray (n_groups,)
        What the fits have maximised: the mean log-likelihood of a row, of factor analysis the log-likelihood, of
        k-means minus the distortion.  NaN without a model.
    n_iter : ndarray (n_groups,)
        Iterations of the best restart.
    converged : ndarray (n_groups,) of bool
        Whether it converged.
    n_components, n_rows, weight, n_features : ndarray (n_groups,)
        Facts about the groups: `weight` is the sum of the weights of their rows.
    pooled : ndarray (n_groups,) of bool
        Whether a group has the model of all rows (``fallback="pooled"``).
    estimator : estimator
        Not fitted; every group was fitted with its parameters, `random_state` among them.

    Examples
    --------
    >>> import numpy as np, fastem
    >>> X = np.array([[0.0], [1.0], [9.0], [0.0], [2.0], [5.0]])
    >>> result = fastem.fit_many(X, ["b", "b", "b", "a", "a", "c"], n_components=2, random_state=0)
    >>> result
    ManyFits: KMeans of 3 groups, 6 rows
      converged: 2
      too few rows: 1 (first 'c': It has 1 row for 2 components.)
    >>> result["b"].cluster_centers_.ravel(), result.labels
    (array([0.5, 9. ]), array([ 0,  0,  1,  0,  1, -1], dtype=int32))
    """

    def __init__(self, estimator: Any, layout: Layout, fit: BatchFit, facts: Facts, names: list[str]) -> None:
        self.estimator = estimator
        self.parameters: dict[str, Stacked] = fit.parameters
        self.objective, self.n_iter, self.converged = fit.objectives, fit.n_iter, fit.converged
        self.n_components, self.n_features, self.weight, self.pooled = facts[:4]
        self.n_rows = np.diff(layout.offsets)
        self._layout, self._fit, self._facts, self._names = layout, fit, facts, names

    # ------------------------------------------------------------------------------------------------------- groups

    @property
    def keys(self) -> Any:
        """The key of each group."""
        columns = self._layout.keys.columns()
        return columns[0] if len(columns) == 1 else list(zip(*(column.tolist() for column in columns), strict=True))

    @property
    def key_names(self) -> list[str]:
        """What the parts of the keys are called."""
        return list(self._layout.keys.names)

    @property
    def feature_names(self) -> list[str]:
        """The names of the features; empty if the rows had none."""
        return list(self._names)

    @property
    def labels(self) -> Any:
        """The component of each row, in the form in which the rows were given."""
        return self._layout.shaped(self._fit.labels) if self._fit.labels.size else None

    @property
    def status(self) -> np.ndarray:
        """What became of each group (n_groups,).

        "converged", "stopped", "too few rows", "values missing", "constant", "singular" (components without variance of
        their own) or "refused" (values that the model cannot take).
        """
        return TITLES[self._fit.statuses]

    @property
    def reasons(self) -> list[str]:
        """A sentence about each group."""
        return [self._reason(group) for group in range(len(self))]

    @property
    def log_likelihood(self) -> np.ndarray:
        """The log-likelihood of each group's rows (n_groups,), as its last iteration saw it; not of k-means.

        NaN without a model of the group's own.
        """
        if self._is_kmeans:
            raise AttributeError("k-means has no likelihood; see inertia.")
        of_rows = self.objective * (self.weight if hasattr(self.estimator, "predict") else 1.0)
        return np.where(self.pooled, np.nan, of_rows)

    @property
    def inertia(self) -> np.ndarray:
        """The distortion of each group (n_groups,), of k-means; NaN without a model of its own."""
        if not self._is_kmeans:
            raise AttributeError(f"{type(self.estimator).__name__} has no inertia; see log_likelihood.")
        return np.where(self.pooled, np.nan, -self.objective)

    @property
    def _is_kmeans(self) -> bool:
        return hasattr(self.estimator, "n_clusters")

    @property
    def has_model(self) -> np.ndarray:
        """Whether each group has a model (n_groups,), its own or that of all rows."""
        return ~np.isnan(self.objective)

    def __len__(self) -> int:
        return len(self.objective)

    def __contains__(self, key: Any) -> bool:
        try:
            self._layout.keys.number(key)
        except (KeyError, TypeError):
            return False
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)

    def __getitem__(self, key: Any) -> Any:
        return self._model(self._layout.keys.number(key))

    def _reason(self, group: int) -> str:
        text = self._fit.reasons.get(group) or f"It converged after {self.n_iter[group]} iterations."
        return f"{text} It has the model of all rows." if self.pooled[group] else text

    def _model(self, group: int) -> Any:
        """Return the fitted estimator of a group, as a fit to that group alone leaves it, but for traces."""
        if np.isnan(self.objective[group]):
            raise NotFittedError(f"Group {shown(self._layout.keys.of(group))} has no model. {self._reason(group)}")
        model = with_components(self.estimator, int(self.n_components[group]), self.estimator.n_threads)
        for name, stacked in self.parameters.items():
            value = stacked.of(group)
            if value is not None:
                setattr(model, name, value.copy() if value.ndim else value.item())
        model.n_features_in_ = int(self.n_features[group])
        model.n_iter_, model.converged_ = int(self.n_iter[group]), bool(self.converged[group])
        if self._names:
            model.feature_names_in_ = np.array(self._names, object)
        objective = float(self.objective[group])
        if self._is_kmeans:
            model.inertia_ = -objective
            if self._fit.labels.size and not self.pooled[group]:
                model.labels_ = self._fit.labels[self._layout.rows_of(group)].copy()
        elif hasattr(model, "predict"):
            model.lower_bound_ = objective
        model.notes_ = list(self._fit.notes.get(group, []))
        model._check_loaded()
        return model

    # --------------------------------------------------------------------------------------------------------- rows

    def find(self, groups: Any) -> np.ndarray:
        """Return the number of each row's group (n_rows,), -1 where it is none of these.

        Parameters
        ----------
        groups : array-like (n_rows,) or tuple of such
            Keys, as in `fastem.fit_many`.

        Returns
        -------
        ndarray (n_rows,) int64
            Positions in `keys`.
        """
        return self._layout.keys.find(as_columns(groups))

    def predict(self, X: Any, groups: Any = None, *, offsets: Any = None, by: Any = None) -> Any:
        """Return the component of each row in the model of its own group.

        Parameters
        ----------
        X : array, frame or list of arrays
            Rows, in any form of `fastem.fit_many`.  If the groups are columns, all rows belong to all groups.
        groups, offsets, by
            As in `fastem.fit_many`; a frame is grouped by the columns by which it was when the models were fitted.

        Returns
        -------
        ndarray of int32, or a list of them
            In the form of the rows; with groups of columns the codes (n_rows, n_groups).  -1 for rows of unknown
            groups, of groups without a model, and with values that the model cannot take; a warning counts them, and
            `find` tells which groups are unknown.
        """
        if not hasattr(self.estimator, "predict"):
            raise AttributeError(f"{type(self.estimator).__name__} has no components; see score_samples.")
        return answers.ask(self, (X, groups, offsets, by), "predict", -1, np.int32)

    def score_samples(self, X: Any, groups: Any = None, *, offsets: Any = None, by: Any = None) -> Any:
        """Return log p(x) of each row under the model of its own group.

        Parameters
        ----------
        X, groups, offsets, by
            As in `predict`.

        Returns
        -------
        ndarray of float64, or a list of them
            In the form of the rows; NaN where `predict` has -1.
        """
        if self._is_kmeans:
            raise AttributeError("k-means has no density; see predict.")
        return answers.ask(self, (X, groups, offsets, by), "score_samples", np.nan, np.float64)

    # ------------------------------------------------------------------------------------------------------- tables

    @property
    def summary(self) -> dict[str, Any]:
        """One row for each group, as columns: ``pandas.DataFrame(result.summary)`` or ``pyarrow.table(...)``."""
        kept = self._layout.keys
        fits = {"inertia": self.inertia} if self._is_kmeans else {"log_likelihood": self.log_likelihood}
        bic = {"bic": self._facts.bic} if self._facts.bic.size else {}
        return {
            **dict(zip(kept.names, kept.columns(), strict=True)),
            "n_rows": self.n_rows,
            "weight": self.weight,
            "n_components": self.n_components,
            "status": self.status,
            **fits,
            **bic,
            "n_iter": self.n_iter,
            "converged": self.converged,
            "pooled": self.pooled,
            "reason": np.array(self.reasons, object),
        }

    def to_arrow(self) -> Any:
        """Return a pyarrow table with one row for each component of each group that has a model."""
        import pyarrow as pa

        return pa.table(tables.components(self))

    def to_pandas(self) -> Any:
        """Return a pandas frame with one row for each component of each group that has a model."""
        import pandas as pd

        return pd.DataFrame(tables.components(self))

    def counts(self) -> dict[str, int]:
        """Return how many groups have each status, the most frequent first."""
        numbers = np.bincount(self._fit.statuses, minlength=len(Status))
        return {str(TITLES[at]): int(numbers[at]) for at in np.argsort(-numbers, kind="stable") if numbers[at]}

    def __repr__(self) -> str:
        of_columns = self._layout.form == "columns"
        rows = f"{int(self.n_rows[0] if of_columns else self.n_rows.sum()):,} rows"
        groups = f"{len(self):,} groups{' of columns' if of_columns else ''}"
        lines = [f"ManyFits: {type(self.estimator).__name__} of {groups}, {rows}"]
        for title, number in self.counts().items():
            first = int(np.argmax(self._fit.statuses == TITLES.tolist().index(title)))
            reason = self._fit.reasons.get(first)
            example = f" (first {shown(self._layout.keys.of(first))}: {reason})" if reason else ""
            lines.append(f"  {title}: {number:,}{example}")
        if self.pooled.any():
            lines.append(f"  with the model of all rows: {int(self.pooled.sum()):,}")
        return "\n".join(lines)

    # -------------------------------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one ``.npz`` file, without pickle, whole or not at all.

        Raises
        ------
        TypeError
            If keys are neither numbers, dates nor text.
        """
        storage.write(path, self.estimator, self._layout, self._fit, self._facts, self._names)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ManyFits:
        """Read a result that `save` wrote.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not such a file: truncated, foreign, hostile, or of a newer format.  Nothing in it is run.
        """
        estimator, layout, fit, facts, names = storage.read(path)
        return cls(estimator, layout, fit, Facts(*facts), names)


def shown(key: Any) -> str:
    """Return a key as messages write it."""
    parts = [
        part.item() if isinstance(part, np.generic) else part for part in (key if isinstance(key, tuple) else (key,))
    ]
    shown = [repr(part) if isinstance(part, str) else str(part) for part in parts]
    return f"({', '.join(shown)})" if isinstance(key, tuple) else shown[0]
