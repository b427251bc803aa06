"""Mixtures of categorical distributions (latent class analysis) for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.base import clone
from sklearn.utils import Tags

from fastem import validate, values
from fastem.draws import Draws
from fastem.engine.monitor import IterationInfo
from fastem.engine.problem import Problem
from fastem.estimators import door
from fastem.estimators.discrete import DiscreteMixture
from fastem.estimators.shared_parameters import documented
from fastem.families.base import Family
from fastem.families.discrete.categorical import CategoricalFamily


@documented
class CategoricalMixture(DiscreteMixture):
    """Mixture of categorical distributions (latent class analysis), fitted by expectation-maximization.

    Feature j holds integer codes 0 .. n_categories_[j] - 1, as `sklearn.preprocessing.OrdinalEncoder` makes them;
    their order means nothing.  Within a component (a class) the features are independent.  NaN is a missing value,
    taken as missing at random: it adds nothing to the likelihood of its row.

    Parameters
    ----------
    {n_components}
    n_categories : int, array-like of int (n_features,) or None, default=None
        Categories of each feature, or of all; None counts from the largest code of each in `fit`.
    min_prob : float, default=1e-10
        Least probability of a category, at most 1 / n_categories_[j] in feature j.  0 is plain maximum likelihood,
        under which a category that a component has not seen counts as all but impossible (1e-30).
    {tol, convergence, max_iter, n_init}
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities.  Distances are
        those of indicators: two rows are as far apart as the number of features in which they differ.
    weights_init, probabilities_init : array-like or None, default=None
        Parameters to start with; with all given, `init_params` is not used.
    {random_state, warm_start, verbose, verbose_interval, n_threads, callback, certify, keep_history, accelerate}
    {drop_restarts, escape, checkpoint, checkpoint_every, learning_decay, first_batches, average_from, algorithm}
    {n_blocks}

    Attributes
    ----------
    weights_ : ndarray (n_components,)
        Mixing proportions.
    probabilities_ : ndarray (n_components, sum of n_categories_)
        Probabilities of all categories, feature after feature.
    feature_probabilities_ : list of ndarray (n_components, n_categories_[j])
        The same, one array for each feature.
    n_categories_ : ndarray (n_features,)
        Categories of each feature.
    converged_ : bool
        Whether the best restart converged.
    n_iter_ : int
        Its iterations.
    lower_bound_ : float
        Mean log-likelihood of a row at its last E-step.
    lower_bounds_ : list of float
        The same at each of its iterations; it never falls.
    restarts_ : ndarray (n_init,)
        Mean log-likelihood that each restart reached.
    notes_ : list of str
        What the fit had to do beyond plain EM.

    References
    ----------
    Lazarsfeld and Henry, "Latent structure analysis", 1968.  Lecture row L9.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import CategoricalMixture
    >>> X = np.repeat([[0, 2, 1], [1, 0, 0]], [20, 60], axis=0)
    >>> X[::10, 1] = 1
    >>> model = CategoricalMixture(2, random_state=0).fit(X)
    >>> model.n_categories_
    array([2, 3, 2])
    >>> model.predict([[0, 2, 1], [np.nan, 0, 0]]) == model.predict([[0, 1, 1], [1, 0, 0]])
    array([ True,  True])
    """

    _fields: ClassVar = {"weights": "weights_", "probabilities": "probabilities_"}
    _saved: ClassVar = (*DiscreteMixture._saved, "probabilities_", "n_categories_")

    n_categories: Any
    min_prob: float
    probabilities_init: Any
    n_categories_: np.ndarray
    probabilities_: np.ndarray

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_categories: Any = None,
        min_prob: float = 1e-10,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        probabilities_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        n_threads: int | None = None,
        callback: Callable[[IterationInfo], Any] | None = None,
        certify: bool = False,
        keep_history: bool = False,
        accelerate: str | None = None,
        drop_restarts: bool = False,
        escape: str | None = None,
        convergence: str = "change",
        checkpoint: Any = None,
        checkpoint_every: Any = "5min",
        learning_decay: float = 0.6,
        first_batches: int = 1,
        average_from: int | None = None,
        algorithm: str = "em",
        n_blocks: int = 16,
    ) -> None:
        self._keep_arguments(locals())

    def _family(self) -> CategoricalFamily:
        known = getattr(self, "n_categories_", self.n_categories)
        if known is None:
            raise ValueError("n_categories is not known before `fit`; give it to the constructor.")
        return CategoricalFamily(self.n_components, known, self.min_prob)

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags: codes of categories."""
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        tags.input_tags.positive_only = True
        return tags

    def _table(self, X: Any, *, reset: bool) -> np.ndarray:
        if not reset:
            return super()._table(X, reset=False)
        X = door.table(self, X, reset=True, allow_nan=True)
        self.n_categories_ = np.max(door.looked_through(X, self._count_categories), axis=0)
        return X

    def count_categories(self, X: Any) -> np.ndarray:
        """Return the number of categories of each feature (n_features,): as given, or one more than the largest code.

        Raises
        ------
        ValueError
            If a value is no code, or none of those given.
        """
        X = door.table(clone(self), X, reset=True, allow_nan=True)
        return np.max(door.looked_through(X, self._count_categories), axis=0)

    def _count_categories(self, X: np.ndarray) -> np.ndarray:
        """Return the given or the seen number of categories (d,) of checked codes."""
        if self.n_categories is None:
            values.codes(X, None, type(self).__name__)
            return np.fmax(np.fmax.reduce(X, axis=0), 0).astype(np.int64) + 1
        given = np.asarray(self.n_categories)
        if given.dtype.kind not in "iu" or given.shape not in {(), (X.shape[1],)} or np.any(given < 1):
            raise ValueError(
                f"n_categories must be a positive int, or one for each of {X.shape[1]} features, "
                f"got {self.n_categories!r}."
            )
        known = np.broadcast_to(given, X.shape[1]).astype(np.int64)
        values.codes(X, known, type(self).__name__)
        return known

    def _last_params(self, problem: Problem, draws: Draws) -> Any:
        if self.probabilities_.shape[1] != self.n_categories_.sum():
            raise ValueError("warm_start needs the categories of the last fit; give n_categories to the constructor.")
        return super()._last_params(problem, draws)

    def _check_parameters(self) -> None:
        self._check_floor("min_prob", 0.5)
        super()._check_parameters()

    def _given(self, family: Family, n_features: int) -> dict[str, np.ndarray]:
        given = self._weights_given()
        if self.probabilities_init is not None:
            if not hasattr(self, "n_categories_"):  # no rows have been seen
                self.n_categories_ = np.asarray(self.n_categories, np.int64)
            given["probabilities"] = self._checked("probabilities", self.probabilities_init, "probabilities")
        return given

    @classmethod
    def from_parameters(cls, weights: Any, probabilities: Any, **options: Any) -> CategoricalMixture:
        """Return a mixture of given parameters, as if it had been fitted.

        Parameters
        ----------
        weights : array-like (k,)
            Mixing proportions, which sum to 1.
        probabilities : list of array-like (k, n_categories of the feature)
            Of each feature, the probabilities of its categories, as `feature_probabilities_`.
        **options
            Further parameters of the constructor, such as `random_state`.

        Returns
        -------
        CategoricalMixture

        Raises
        ------
        ValueError
            If shapes do not fit each other, or a value is none that the parameter can have.

        Examples
        --------
        >>> from fastem import CategoricalMixture
        >>> model = CategoricalMixture.from_parameters([0.5, 0.5], [[[0.9, 0.1], [0.2, 0.8]]])
        >>> model.predict_proba([[0]]).round(2)
        array([[0.82, 0.18]])
        """
        parts = [validate.rows(part, "probabilities", np.float64) for part in probabilities]
        k, sizes = len(parts[0]), [part.shape[1] for part in parts]
        if any(len(part) != k for part in parts):
            raise ValueError(f"probabilities must be of {k} components in each feature, as in the first.")
        start = {"weights_init": weights, "probabilities_init": np.hstack(parts)}
        return cls._made_of(k, len(parts), start, {"n_categories": sizes, **options})

    def _checked(self, name: str, value: Any, called: str) -> np.ndarray:
        shape = (self.n_components, int(self.n_categories_.sum()))
        value = validate.probabilities(value, shape, called)
        for part in np.split(value, np.cumsum(self.n_categories_)[:-1], axis=1):
            if not np.allclose(part.sum(axis=1), 1.0, rtol=0, atol=1e-6):
                raise ValueError(f"The parameter '{called}' should sum to 1 over the categories of each feature.")
        return value

    def _check_loaded(self) -> None:
        self.n_categories_ = np.asarray(self.n_categories_)
        whole = self.n_categories_.dtype.kind in "iu"
        if not whole or self.n_categories_.shape != (self.n_features_in_,) or np.any(self.n_categories_ < 1):
            raise ValueError("n_categories_ does not fit the number of features")
        super()._check_loaded()

    @property
    def feature_probabilities_(self) -> list[np.ndarray]:
        """Probabilities (n_components, n_categories_[j]) of each feature's categories."""
        return np.split(self.probabilities_, np.cumsum(self.n_categories_)[:-1], axis=1)
