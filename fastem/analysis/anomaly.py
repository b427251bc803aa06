r"""Anomalies: rows whose density p(x) is below a threshold epsilon (lecture row L4).

A mixture of any family models p(x).  Every feature of a row may be in its range and the combination still be odd: what
tells is the density of the whole row, and for a single feature its density *given the others*,

    p(x_j given the rest) = p(x) / p(x without x_j).

For a Gaussian mixture both are closed: within component k, with precision P and y = P (x - mu), feature j is normal
around x_j - y_j / P_jj with variance 1 / P_jj, and the weights of the components are those of the rest.  Any other
family that accepts missing values gives p(x without x_j) when x_j is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from fastem import validate
from fastem.estimators import door
from fastem.families.elliptical.covariance import COVARIANCES
from fastem.sources.rows import Stream

TYPICAL_ROWS = 2048  # rows that the usual surprise of a feature is averaged over
CHUNK_ROWS = 4096
LOG_2PI = float(np.log(2 * np.pi))


class Explanation(NamedTuple):
    """Why rows are improbable, feature by feature; each array has shape (n, d)."""

    log_conditional: np.ndarray  # log p(x_j given the other features)
    surprise: np.ndarray  # nats by which it is below the training rows' average; without unit, so features compare
    expected: np.ndarray  # mean of x_j given the other features; NaN where the family does not tell


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """Flag rows that a density model finds improbable, and say which feature does not fit the others.

    Parameters
    ----------
    estimator : estimator or None, default=None
        What models p(x): a mixture of `fastem`, or anything with ``fit`` and ``score_samples``.  None means one
        Gaussian with full covariance, ``fastem.GaussianMixture()``.
    epsilon : float or None, default=None
        Flag rows with p(x) < epsilon.  None: the threshold follows from `contamination`, or from known anomalies.
    contamination : float, default=0.01
        Share of the training rows to flag, above 0 and at most 0.5.  Not used with `epsilon` or known anomalies.

    Attributes
    ----------
    estimator_ : estimator
        The fitted density model.
    offset_ : float
        log epsilon: rows whose log-density is below it are flagged.
    f1_ : float
        The F1 score that the threshold reaches on the rows that it was tuned on; only after tuning.
    usual_surprisal_ : ndarray (n_features,)
        Average of -log p(x_j given the rest) over training rows; missing where the model cannot be explained.

    See Also
    --------
    fastem.select : choose the number of components of the density model.

    Examples
    --------
    Heat rises with vibration; an engine with much of the one and little of the other is odd, although neither is
    out of range.

    >>> import numpy as np, fastem
    >>> rng = np.random.default_rng(0)
    >>> vibration = rng.normal(size=500)
    >>> engines = np.column_stack([vibration, vibration + 0.2 * rng.normal(size=500)])
    >>> detector = fastem.AnomalyDetector(epsilon=1e-4).fit(engines)
    >>> detector.predict([[1.5, 1.4], [1.5, -1.4]])
    array([ 1, -1])
    >>> detector.explain([[1.5, -1.4]]).expected.round(0)
    array([[-1.,  1.]])
    """

    def __init__(self, estimator: Any = None, *, epsilon: float | None = None, contamination: float = 0.01) -> None:
        self.estimator = estimator
        self.epsilon = epsilon
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, labels: Any = None) -> AnomalyDetector:
        """Fit the density and set the threshold.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
            Rows, most of them normal.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows; the estimator must accept them.
        labels : array-like of int (n_samples,) or None
            A few known rows: -1 anomaly, 1 normal, 0 unknown.  Known anomalies are kept out of the density, and the
            threshold is the one with the best F1 score, unknown rows counting as normal.

        Returns
        -------
        AnomalyDetector
            self.
        """
        self._check_parameters(labels)
        model = _default() if self.estimator is None else clone(self.estimator)
        X = door.opened(X)
        known = None if labels is None else _labels(labels, len(X))
        if known is None:
            normal, weights = X, sample_weight
        else:
            normal = _take(X, known >= 0)
            weights = None if sample_weight is None else np.asarray(sample_weight)[known >= 0]
        self.estimator_ = model.fit(normal) if weights is None else model.fit(normal, sample_weight=weights)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))
        if known is not None:
            self.tune(X, known)
        elif self.epsilon is not None:
            self.offset_ = float(np.log(self.epsilon))
        else:
            scores = self.score_samples(X)
            weights = validate.weights(door.weights_with(X, sample_weight), len(scores), np.float64)
            self.offset_ = threshold_of_share(scores, self.contamination, weights)
        self._keep_usual(normal)
        return self

    def _check_parameters(self, labels: Any) -> None:
        check = validate.parameter
        threshold = self.epsilon is None or (validate.is_real(self.epsilon, 0) and self.epsilon > 0)
        check(self, "epsilon", "a float in the range (0.0, inf) or None", threshold)
        share = validate.is_real(self.contamination, 0) and 0 < self.contamination <= 0.5
        check(self, "contamination", "a float in the range (0.0, 0.5]", share)
        if self.epsilon is not None and labels is not None:
            raise ValueError("Give either epsilon or labels to find it by, not both.")

    def _keep_usual(self, X: Any) -> None:
        self.__dict__.pop("usual_surprisal_", None)
        if _explains(self.estimator_):
            X = X if hasattr(X, "iloc") or isinstance(X, Stream) else np.asarray(X)
            rows = np.linspace(0, len(X) - 1, min(len(X), TYPICAL_ROWS)).astype(np.int64)
            log_conditional, _ = _conditionals(self.estimator_, _take(X, rows))
            self.usual_surprisal_ = -np.nanmean(log_conditional, axis=0)

    def tune(self, X: Any, labels: Any) -> AnomalyDetector:
        """Set the threshold to the one with the best F1 score on rows that were judged by hand.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
            Rows, preferably others than those of `fit`.
        labels : array-like of int (n_samples,)
            -1 anomaly, 1 normal, 0 unknown; unknown rows count as normal.

        Returns
        -------
        AnomalyDetector
            self.

        Raises
        ------
        ValueError
            If a label is something else, or there is no anomaly, or nothing but anomalies.
        """
        scores = self.score_samples(X)
        self.offset_, self.f1_ = best_threshold(scores, _labels(labels, len(scores)) == -1)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Return log p(x) of each row (n_samples,)."""
        check_is_fitted(self, "estimator_")
        return np.asarray(self.estimator_.score_samples(X), np.float64)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return log p(x) - log epsilon of each row (n_samples,): negative for anomalies."""
        scores = self.score_samples(X)
        with np.errstate(invalid="ignore"):
            return np.where(scores == self.offset_, 0.0, scores - self.offset_)  # -inf less -inf, too

    def predict(self, X: Any) -> np.ndarray:
        """Return -1 for anomalies and 1 for other rows (n_samples,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def explain(self, X: Any) -> Explanation:
        """Say how improbable each feature of each row is, given the row's other features.

        Parameters
        ----------
        X : array-like (n_samples, n_features)

        Returns
        -------
        Explanation
            ``surprise.argmax(axis=1)`` is the feature that fits the others least.

        Raises
        ------
        ValueError
            If the density model is neither a Gaussian mixture nor accepts missing values.
        """
        check_is_fitted(self, "estimator_")
        if not _explains(self.estimator_):
            raise ValueError(
                f"{type(self.estimator_).__name__} cannot be explained: it is no Gaussian mixture of fastem and "
                "does not accept missing values."
            )
        log_conditional, expected = _conditionals(self.estimator_, X)
        return Explanation(log_conditional, -log_conditional - self.usual_surprisal_, expected)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(_default() if self.estimator is None else self.estimator)
        tags.input_tags = inner.input_tags
        return tags


def threshold_of_share(scores: np.ndarray, share: float, weights: np.ndarray | None = None) -> float:
    """Return the threshold on `scores` below which a share of the rows' weight lies, or the least that is more.

    Parameters
    ----------
    scores : ndarray (n,)
        Log-densities.  Rows of density 0 (-inf) are below any threshold, be they more than the share.
    share : float
        In (0, 1).
    weights : ndarray (n,) or None
        Weights of the rows; None or empty means one each.

    Returns
    -------
    float
        One of the scores; finite unless all densities are 0.

    Examples
    --------
    >>> threshold_of_share(np.array([-3.0, -1.0, -9.0, -2.0]), 0.25)
    -3.0
    """
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(np.ones(len(scores)) if weights is None or not weights.size else weights[order])
    flagged = int(np.searchsorted(below, share * below[-1] * (1 - 1e-12))) + 1
    threshold = scores[order[min(flagged, len(scores) - 1)]]
    if np.isneginf(threshold):
        threshold = np.min(scores, where=scores > -np.inf, initial=np.inf)
    return float(threshold)


def best_threshold(scores: np.ndarray, anomaly: np.ndarray) -> tuple[float, float]:
    """Find the threshold on `scores`, below which rows are flagged, that has the best F1 score.

    Parameters
    ----------
    scores : ndarray (n,)
        Low for anomalies.
    anomaly : ndarray (n,) of bool
        What the rows are.

    Returns
    -------
    threshold : float
        Halfway between two scores; of equally good ones the lowest.
    f1 : float
        2 * precision * recall / (precision + recall).

    Raises
    ------
    ValueError
        If there is no anomaly, or nothing else.

    Examples
    --------
    >>> best_threshold(np.array([-9.0, -8.0, -1.0, 0.0]), np.array([True, True, False, False]))
    (-4.5, 1.0)
    """
    if not anomaly.any() or anomaly.all():
        raise ValueError("Tuning needs both anomalies (-1) and other rows; got only one kind.")
    order = np.argsort(scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(anomaly[order])
    cuts = np.flatnonzero(ranked[1:] > ranked[:-1])  # rows 0..cut are flagged
    if not cuts.size:
        raise ValueError("Tuning needs rows of different density.")
    f1 = 2.0 * hits[cuts] / (cuts + 1 + hits[-1])
    best = int(np.argmax(f1))
    low, high = ranked[cuts[best]], ranked[cuts[best] + 1]
    return float(high if np.isinf(low) else low + 0.5 * (high - low)), float(f1[best])


def _default() -> Any:
    from fastem.estimators.gaussian import GaussianMixture

    return GaussianMixture()


def _labels(labels: Any, n_rows: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n_rows,):
        raise ValueError(f"labels.shape == {labels.shape}, expected {(n_rows,)}!")
    if not np.all(np.isin(labels, (-1, 0, 1))):
        raise ValueError("labels must be -1 (anomaly), 1 (normal) or 0 (unknown).")
    return labels


def _take(X: Any, rows: np.ndarray) -> Any:
    """Return some rows of an array, a data frame or a stream, by their numbers or by a mask."""
    if isinstance(X, Stream):
        return X.source().take(np.arange(len(X))[rows])
    return X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]


def _is_gaussian(model: Any) -> bool:
    return hasattr(model, "precisions_") and hasattr(model, "_prepared") and not getattr(model, "noise", False)


def _explains(model: Any) -> bool:
    return _is_gaussian(model) or bool(get_tags(model).input_tags.allow_nan)


def _conditionals(model: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return log p(x_j given the rest) and the mean of x_j given the rest, both (n, d)."""
    if _is_gaussian(model):
        rows, family, prepared = model._prepared(X)
        if np.isfinite(rows).all():
            log_joint = family.log_joint(rows, prepared, 1)
            parts = [slice(start, start + CHUNK_ROWS) for start in range(0, len(rows), CHUNK_ROWS)]
            found = [_gaussian_conditionals(model, rows[part], log_joint[part]) for part in parts]
            return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])
    names, frame = getattr(X, "columns", None), type(X)
    X = np.asarray(X)

    def log_density(rows: np.ndarray) -> np.ndarray:
        named = rows if names is None else frame(rows, columns=names)  # else the model would miss its names
        return np.asarray(model.score_samples(named), np.float64)

    return _left_out(log_density, X if X.dtype in validate.FLOATS else X.astype(np.float64))


def _left_out(log_density: Callable[[np.ndarray], np.ndarray], X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The conditionals of any model that accepts missing values: p(x) / p(x without x_j)."""
    log_prob = log_density(X)
    log_conditional = np.empty(X.shape)
    for j in range(X.shape[1]):
        rest = X.copy()
        rest[:, j] = np.nan
        # A row of which nothing is left has probability one, whatever a model says of such a row.
        some = ~np.isnan(rest).all(axis=1)
        log_conditional[:, j] = log_prob
        if some.any():
            log_conditional[some, j] -= log_density(rest[some])
    log_conditional[np.isnan(X)] = np.nan
    return log_conditional, np.full(X.shape, np.nan)


def _gaussian_conditionals(model: Any, X: np.ndarray, log_joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The conditionals of a Gaussian mixture, from its log p(x_i, z_i = k) (n, k)."""
    means = np.asarray(model.means_, np.float64)
    precisions = _full_precisions(model)
    centred = X[:, None, :].astype(np.float64) - means  # (n, k, d)
    own = np.einsum("kjj->kj", precisions)
    pulled = np.einsum("nkj,kjl->nkl", centred, precisions)
    log_own = 0.5 * (np.log(own) - LOG_2PI - pulled**2 / own)
    with np.errstate(invalid="ignore"):
        log_rest = log_joint[:, :, None] - log_own  # log p(x without x_j, z = k)
    log_rest = np.where(np.isnan(log_rest), -np.inf, log_rest)
    total_rest = np.logaddexp.reduce(log_rest, axis=1)
    share = np.exp(log_rest - np.where(np.isneginf(total_rest), 0.0, total_rest)[:, None])
    log_conditional = np.logaddexp.reduce(log_joint, axis=1)[:, None] - total_rest
    # The share-weighted mean of x_j - pulled / own over the components.
    return log_conditional, X - (share * pulled / own).sum(axis=1)


def _full_precisions(model: Any) -> np.ndarray:
    """Return the precisions of the components as matrices (k, d, d)."""
    shape = COVARIANCES[model.covariance_type].shape
    return shape.as_matrices(np.asarray(model.precisions_, np.float64), *model.means_.shape)
