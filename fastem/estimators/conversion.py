"""Fitted models of scikit-learn's classes and of fastem's, made of each other: for tools that know only the former."""

from __future__ import annotations

import copy
import importlib
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

NAMES = ("n_features_in_", "feature_names_in_")


class HasTwin(BaseEstimator):
    """An estimator with a twin in scikit-learn: a class of the same name, parameters and attributes."""

    _twin_module: ClassVar[str]
    # Fitted attributes that both classes have, where a fit has set them.
    _twin_attributes: ClassVar[tuple[str, ...]]
    # Values of parameters that only this class knows, and what the other gets instead.
    _twin_values: ClassVar[dict[str, dict[Any, Any]]] = {}

    def to_sklearn(self) -> Any:
        """Return the same fitted model as one of scikit-learn's class of the same name.

        Returns
        -------
        estimator of scikit-learn
            With the parameters that scikit-learn knows, and copies of the fitted attributes.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        ValueError
            If it is one that scikit-learn has not.
        """
        check_is_fitted(self)
        twin = self._twin_class()()
        _copy(self, twin, self._twin_attributes, self._twin_values)
        self._complete_twin(twin)
        return twin

    @classmethod
    def from_sklearn(cls, model: Any) -> Any:
        """Return a fitted model of scikit-learn's class of the same name as one of this class.

        Parameters
        ----------
        model : estimator of scikit-learn
            Fitted.

        Returns
        -------
        estimator
            With the same parameters, and copies of the fitted attributes.

        Raises
        ------
        TypeError
            If `model` is of another class.
        NotFittedError
            If it is not fitted.
        """
        if not isinstance(model, cls._twin_class()):
            raise TypeError(f"from_sklearn takes a {cls._twin_name()}, got a {type(model).__name__}.")
        check_is_fitted(model)
        own = cls()
        _copy(model, own, cls._twin_attributes, {})
        own._complete_from(model)
        return own

    @classmethod
    def _twin_name(cls) -> str:
        return f"{cls._twin_module}.{cls.__name__}"

    @classmethod
    def _twin_class(cls) -> Any:
        return getattr(importlib.import_module(cls._twin_module), cls.__name__)

    def _complete_twin(self, twin: Any) -> None:
        """Set the attributes that scikit-learn's methods read and `_twin_attributes` does not name."""

    def _complete_from(self, model: Any) -> None:
        """Set the attributes that only this class has, on the twin of `model`."""

    def _untraced(self, objective: float, converged: bool) -> None:
        """Set the attributes of a trace that scikit-learn has not kept."""
        self.converged_ = converged
        self.restarts_, self.histories_ = np.array([objective]), [np.array([objective])]
        self.notes_: list[str] = []


def _copy(source: Any, target: Any, attributes: tuple[str, ...], values: dict[str, dict[Any, Any]]) -> None:
    """Give `target` the parameters that both classes have and the fitted attributes of `source`."""
    known = target.get_params(deep=False)
    for name, value in source.get_params(deep=False).items():
        if name in known:
            other = values.get(name, {})
            found = other.get(value, value) if isinstance(value, str) else value
            target.set_params(**{name: copy.copy(found)})
    for name in (*attributes, *NAMES):
        if hasattr(source, name):
            setattr(target, name, copy.copy(getattr(source, name)))
