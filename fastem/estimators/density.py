"""What fitted models share that have a density p(x): score, information criteria, and the door to their passes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastem import validate
from fastem.estimators import door
from fastem.estimators.base import EMEstimator
from fastem.sources.memory import MemorySource


class DensityEstimator(EMEstimator):
    """Base of the estimators whose family has a log-likelihood: mixtures and factor analysis."""

    # Field of the family's parameters -> fitted attribute.
    _fields: ClassVar[dict[str, str]] = {}

    def _family(self) -> Any:
        """Return the family to fit."""
        raise NotImplementedError

    def _table(self, X: Any, *, reset: bool) -> np.ndarray:
        """Return rows that the family's kernels can trust."""
        raise NotImplementedError

    def _attributes(self) -> dict[str, str]:
        """Return the fitted attribute of each field of the family's parameters."""
        return self._fields

    def _fitted_family(self) -> Any:
        """Return the family of the fitted attributes."""
        return self._family()

    def _fitted(self) -> tuple[Any, Any]:
        """Return the family and its parameters as they were fitted, or set by hand, checked against each other.

        Nothing else may hand fitted attributes to a kernel, which trusts their shapes.
        """
        check_is_fitted(self)
        family = self._fitted_family()
        params = self._fitted_params(family)
        validate.fitting(params, family.shapes(self._n_features(params)), self._attributes())
        return family, params

    def _n_features(self, params: Any) -> int:
        """Return the number of features; of parameters that were set by hand, that of their means."""
        return self.n_features_in_ if hasattr(self, "n_features_in_") else int(np.shape(params.means)[1])

    def _fitted_params(self, family: Any) -> Any:
        return family.params(**{field: getattr(self, attribute) for field, attribute in self._fields.items()})

    def _prepared(self, X: Any) -> tuple[np.ndarray, Any, Any]:
        """Return checked rows, the family, and its prepared parameters, for a pass over new rows."""
        family, params = self._fitted()
        X = self._table(X, reset=False)
        family = MemorySource(X, n_threads=self._threads()).served_by(family)
        return X, family, family.prepare(params, X.dtype)

    @door.by_blocks
    def score_samples(self, X: Any) -> np.ndarray:
        """Return log p(x) of each row.

        Parameters
        ----------
        X : array-like (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) float64
        """
        return self._log_prob(X)[0]

    def _log_prob(self, X: Any) -> tuple[np.ndarray, np.dtype]:
        """Return log p(x) of each row, float64, and the dtype that the rows are read as."""
        X, family, prepared = self._prepared(X)
        return family.log_prob(X, prepared, self._threads()), X.dtype

    def _only_log_prob(self, X: Any) -> tuple[np.ndarray]:
        return (self._log_prob(X)[0],)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the (weighted) mean log-likelihood of a row."""
        X = door.opened(X)
        (log_prob,) = door.all_of(self, DensityEstimator._only_log_prob, X)
        weights = validate.weights(door.weights_with(X, sample_weight), len(log_prob), np.float64)
        return float(np.average(log_prob, weights=weights if weights.size else None))

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Return Akaike's information criterion on X; lower is better (lecture row L3).

        Weights count rows: their sum takes the place of the number of rows.
        """
        return self._deviance(X, sample_weight)[0] + 2 * self._n_parameters()

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the Bayesian information criterion on X; lower is better (lecture row L3).

        Weights count rows: their sum takes the place of the number of rows.
        """
        deviance, n = self._deviance(X, sample_weight)
        return deviance + self._n_parameters() * np.log(n)

    def _deviance(self, X: Any, sample_weight: Any) -> tuple[float, float]:
        """Return -2 times the log-likelihood of rows, and how many they are, weighted."""
        X = door.opened(X)
        n, sample_weight = door.n_rows(X), door.weights_with(X, sample_weight)
        total = float(n) if sample_weight is None else float(validate.weights(sample_weight, n, np.float64).sum())
        return -2 * self.score(X, sample_weight=sample_weight) * total, total

    def _n_parameters(self) -> int:
        family, params = self._fitted()
        return family.n_free_params(self._n_features(params))
