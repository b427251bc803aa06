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
from fastem.families.base import Family
from fastem.families.discrete.categorical import CategoricalFamily


class CategoricalMixture(DiscreteMixture):
    """Mixture of categorical distributions (latent class analysis), fitted by expectation-maximization.

    Feature j holds integer codes 0 .. n_categories_[j] - 1, as `sklearn.preprocessing.OrdinalEncoder` makes them;
    their order means nothing.  Within a component (a class) the features are independent.  NaN is a missing value,
    taken as missing at random: it adds nothing to the likelihood of its row.

    Parameters
    ----------
    n_components : int, default=1
        Number of components k.
    n_categories : int, array-like of int (n_features,) or None, default=None
        Categories of each feature, or of all; None counts from the largest code of each in `fit`.
    min_prob : float, default=1e-10
        Least probability of a category, at most 1 / n_categories_[j] in feature j.  0 is plain maximum likelihood,
        under which a category that a component has not seen counts as all but impossible (1e-30).
    tol : float, default=1e-6
        Stop when the mean log-likelihood of a row changes by at most this.
    convergence : {"change", "remaining"}, default="change"
        What `tol` is compared with: the last change of the mean log-likelihood, or what is left of it to gain, by
        Aitken's estimate.  Runs that are to be compared need the second (`fastem.select` takes it).
    max_iter : int, default=500
        Most iterations of one restart.
    n_init : int, default=1
        Number of restarts; the one with the highest log-likelihood is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities.  Distances are
        those of indicators: two rows are as far apart as the number of features in which they differ.
    weights_init, probabilities_init : array-like or None, default=None
        Parameters to start with; with all given, `init_params` is not used.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the starts and of `sample`.
    warm_start : bool, default=False
        Begin the next fit with the last one's parameters.
    verbose : int, default=0
        Print every `verbose_interval`-th iteration.
    verbose_interval : int, default=10
        See `verbose`.
    n_threads : int or None, default=None
        Threads to use; None means all that the process may use, negative counts from the end (-1 all, -2 all but one).
    callback : callable or None, default=None
        Called after each iteration with an `IterationInfo`; returning True stops that restart.
    certify : bool, default=False
        Raise `MonotonicityError` should the log-likelihood fall by more than rounding.
    keep_history : bool, default=False
        Keep the parameters of every iteration of the best restart in `history_` (lecture row L12).
    accelerate : {"squarem"} or None, default=None
        Extrapolate the path of EM to need fewer iterations.  The log-likelihood never falls for it, but the run may end
        in another local maximum than plain EM, and passes that are thrown away are not counted by `n_iter_`.
    drop_restarts : bool, default=False
        Drop restarts early that will hardly reach the best one.
    escape : {"split-merge"} or None, default=None
        Try to leave the best run's local maximum by merging two components and splitting a third; `lower_bound_` may
        then exceed all of `restarts_`.
    checkpoint : str, path or None, default=None
        File to save the state of the fit in, from which the next `fit` goes on should this one be killed, to the same
        bits; a finished fit removes it.  See docs/larger_than_memory.md.
    checkpoint_every : int, str or timedelta, default="5min"
        How often: an int of iterations, or a time such as "30s", "5min" or "2h".
    learning_decay : float, default=0.6
        Of `partial_fit`: a batch counts by its share of all weight so far to this power, in (0.5, 1].  At 1 all rows
        count alike; the less, the sooner early batches are forgotten.
    first_batches : int, default=1
        Of `partial_fit`: batches at whose end the first M-step is made; until then rows count alike, at the start's
        parameters, so that it is the M-step of EM over all of them.
    average_from : int or None, default=None
        Of `partial_fit`: number of the batch from which on statistics are averaged; the fitted attributes are then made
        of their mean.
    algorithm : {"em", "incremental"}, default="em"
        "incremental" makes an M-step after the E-step of each block of rows, on what is known of all blocks (Neal and
        Hinton 1998): fewer passes over the rows, which are then what `max_iter` and `n_iter_` count.  `lower_bound_` is
        a bound of the log-likelihood that never falls, and touches it where the fit ends.  See docs/online.md.
    n_blocks : int, default=16
        Of "incremental": most blocks.  Each has 2048 rows, or that times a power of two; with one it is EM.

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
