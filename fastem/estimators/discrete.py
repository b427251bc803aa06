"""Mixtures of Bernoulli and of Poisson distributions for scikit-learn users; what mixtures of discrete data share."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.utils import Tags

from fastem import validate
from fastem.estimators import door
from fastem.estimators.mixture import BaseMixture


class DiscreteMixture(BaseMixture):
    """What the three classes share: missing values, the family's own check of its input, given parameters."""

    _saved: ClassVar[tuple[str, ...]] = (
        "weights_",
        "converged_",
        "n_iter_",
        "lower_bound_",
        "lower_bounds_",
        "restarts_",
    )

    weights_init: Any
    weights_: np.ndarray

    def _table(self, X: Any, *, reset: bool) -> np.ndarray:
        X = door.table(self, X, reset=reset, allow_nan=True)
        door.looked_through(X, self._family().check)
        return X

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags: NaN is a missing value."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_floor(self, name: str, high: float) -> None:
        value = getattr(self, name)
        accepted = validate.is_real(value, 0) and value <= high
        validate.parameter(self, name, f"a float in the range [0.0, {high}]", accepted)

    def _weights_given(self) -> dict[str, np.ndarray]:
        if self.weights_init is None:
            return {}
        return {"weights": validate.proportions(self.weights_init, (self.n_components,), "weights")}

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        self.weights_ = validate.proportions(self.weights_, (self.n_components,), "weights_")
        given = {name: getattr(self, attribute) for name, attribute in self._fields.items() if name != "weights"}
        for name, value in given.items():
            setattr(self, self._fields[name], self._checked(name, value, self._fields[name]))

    def _checked(self, name: str, value: Any, called: str) -> np.ndarray:
        """Return given parameters (k, d) of the family, checked; refusals call them `called`."""
        raise NotImplementedError
