"""Marginals, conditionals and completed rows of a fitted Gaussian mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastem import validate
from fastem.estimators import door
from fastem.estimators.mixture import BaseMixture
from fastem.families.elliptical.records import GaussianParams
from fastem.families.gaussian import conditionals

if TYPE_CHECKING:
    from fastem.estimators.gaussian import GaussianMixture


class GaussianParts(BaseMixture):
    """What `GaussianMixture` says of some features, or of some given the others."""

    covariance_type: str
    reg_covar: float
    noise: bool
    n_features_in_: int
    feature_names_in_: np.ndarray

    def _without_noise(self) -> None:
        check_is_fitted(self)
        if self.noise:
            raise ValueError("This is not offered for mixtures with noise.")

    def marginal(self, columns: Any) -> GaussianMixture:
        """Return the fitted mixture of some of the features.

        Parameters
        ----------
        columns : array-like of int or str, or a mask (n_features,)
            The features to keep, by number or by name, in the order wanted.

        Returns
        -------
        GaussianMixture
            A fitted mixture with as many components.

        Raises
        ------
        ValueError
            If a column is unknown or named twice.
        """
        self._without_noise()
        kept = self._columns(columns)
        return self._part(conditionals.marginal(*self._fitted(), kept), kept)

    def condition(self, columns: Any, values: Any) -> GaussianMixture:
        """Return the mixture of the remaining features, given the values of some.

        Its `weights_` are the responsibilities of the components for the given values, and the weighted mean of its
        `means_` is the best prediction of the rest.

        Parameters
        ----------
        columns : array-like of int or str, or a mask (n_features,)
            The known features, by number or by name; not all of them.
        values : array-like (n_columns,)
            Their values in one row.

        Returns
        -------
        GaussianMixture
            A fitted mixture of the other features, in their order.

        Raises
        ------
        ValueError
            If a column is unknown or named twice, none remains, or the values do not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from fastem import GaussianMixture
        >>> X = np.array([[1.0, 10], [2, 21], [3, 29], [4, 41]])
        >>> line = GaussianMixture(1, reg_covar=0).fit(X)
        >>> line.condition([0], [2.5]).means_.round(6)
        array([[25.25]])
        """
        self._without_noise()
        known = self._columns(columns)
        rest = np.setdiff1d(np.arange(self.n_features_in_), known)
        if not rest.size:
            raise ValueError("Cannot condition on all features: at least one must remain.")
        values = validate.shaped(np.atleast_1d(values), (len(known),), "values")
        return self._part(conditionals.condition(*self._fitted(), known, values), rest)

    @door.by_blocks
    def conditional_mean(self, X: Any) -> np.ndarray:
        """Return the rows with missing values replaced by their means given the observed values of the row.

        The mean of the mixture's conditional distribution: those of the components (as `condition` gives them) weighted
        by the row's responsibilities; without any observed value, the mean of the mixture.  Noise counts with the
        centre of its box.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
            Rows; NaN is missing.

        Returns
        -------
        ndarray (n_samples, n_features), of the dtype of the rows
            A copy, in which what was observed stands unchanged.

        Raises
        ------
        ValueError
            If X has other features, or infinity.

        Examples
        --------
        >>> import numpy as np
        >>> from fastem import GaussianMixture
        >>> X = np.array([[1.0, 10], [2, 21], [3, 29], [4, 41]])
        >>> line = GaussianMixture(1, reg_covar=0).fit(X)
        >>> line.conditional_mean([[2.5, np.nan], [2.5, 0]]).round(6)
        array([[ 2.5 , 25.25],
               [ 2.5 ,  0.  ]])
        """
        family, params = self._fitted()
        X, family = self._table(X, reset=False), family.for_missing()
        prepared = family.prepare(params, X.dtype)
        return family.conditional_mean(X, prepared, self._threads())

    def _columns(self, columns: Any) -> np.ndarray:
        """Return numbers (m,) of features that were named by number, by name or by a mask."""
        d, given = self.n_features_in_, np.atleast_1d(columns)
        if given.dtype.kind in "OU":
            names = getattr(self, "feature_names_in_", np.empty(0, object)).tolist()
            unknown = [name for name in given.tolist() if name not in names]
            if unknown:
                raise ValueError(f"The mixture was not fitted with a feature named {unknown[0]!r}.")
            numbers = np.array([names.index(name) for name in given.tolist()])
        elif given.dtype == bool and given.shape == (d,):
            numbers = np.flatnonzero(given)
        elif given.dtype.kind in "iu" and given.ndim == 1 and np.all((given >= -d) & (given < d)):
            numbers = given % d
        else:
            raise ValueError(f"Columns must be numbers in [-{d}, {d}), names, or a mask of {d}; got {columns!r}.")
        if not numbers.size or len(set(numbers.tolist())) < len(numbers):
            raise ValueError(f"Columns must be distinct, and at least one; got {columns!r}.")
        return numbers

    def _part(self, params: GaussianParams, columns: np.ndarray) -> GaussianMixture:
        """Return a fitted mixture of some features; it has no trace of its own."""
        kind: Any = type(self)
        family: Any = self._family()
        part = kind(
            len(params.weights),
            covariance_type=conditionals.of_some_features(family).covariance_type,
            reg_covar=self.reg_covar,
            random_state=self.random_state,
            n_threads=self.n_threads,
        )
        if hasattr(self, "feature_names_in_"):
            part.feature_names_in_ = self.feature_names_in_[columns]
        part.n_features_in_ = len(columns)
        part._as_if_fitted(part._family(), params)
        part.converged_, part.n_iter_ = self.converged_, self.n_iter_
        return part
