"""Mixtures of Bernoulli distributions for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastem import validate
from fastem.engine.monitor import IterationInfo
from fastem.estimators import door
from fastem.estimators.discrete import DiscreteMixture
from fastem.estimators.shared_parameters import documented
from fastem.families.base import Family
from fastem.families.discrete.bernoulli import BernoulliFamily
from fastem.sources.base import Source


@documented
class BernoulliMixture(DiscreteMixture):
    """Mixture of Bernoulli distributions, for rows of zeros and ones, fitted by expectation-maximization.

    Within a component the features are independent.  NaN is a missing value, taken as missing at random: it adds
    nothing to the likelihood of its row.

    Parameters
    ----------
    {n_components}
    binarize : float or None, default=0.0
        Values above this are ones, the others zeros, as in `sklearn.naive_bayes.BernoulliNB`; None takes only rows of
        zeros and ones.
    min_prob : float, default=1e-10
        Least probability of either value.  0 is plain maximum likelihood, under which a value that a component has
        not seen counts as all but impossible (1e-30).
    {tol, convergence, max_iter, n_init}
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities.
    weights_init, means_init : array-like or None, default=None
        Parameters to start with; with all given, `init_params` is not used.
    {random_state, warm_start, verbose, verbose_interval, n_threads, callback, certify, keep_history, accelerate}
    {drop_restarts, escape, checkpoint, checkpoint_every, learning_decay, first_batches, average_from, algorithm}
    {n_blocks}

    Attributes
    ----------
    weights_ : ndarray (n_components,)
        Mixing proportions.
    means_ : ndarray (n_components, n_features)
        Probability of a one.
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
    Bishop, PRML, section 9.3.3.  Lecture row L9.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import BernoulliMixture
    >>> X = np.repeat([[1, 1, 0], [0, 0, 1]], [20, 60], axis=0)
    >>> X[::10] = 1 - X[::10]
    >>> model = BernoulliMixture(2, random_state=0).fit(X)
    >>> model.predict([[1, 1, 0]]) == model.predict([[1, np.nan, 0]])
    array([ True])
    >>> model.weights_.sort()
    >>> model.weights_.round(2)
    array([0.3, 0.7])
    """

    _fields: ClassVar = {"weights": "weights_", "means": "means_"}
    _saved: ClassVar = (*DiscreteMixture._saved, "means_")

    binarize: float | None
    min_prob: float
    means_init: Any

    def __init__(
        self,
        n_components: int = 1,
        *,
        binarize: float | None = 0.0,
        min_prob: float = 1e-10,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
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

    def _family(self) -> BernoulliFamily:
        return BernoulliFamily(self.n_components, self.min_prob)

    def _table(self, X: Any, *, reset: bool) -> Any:
        if self.binarize is None:
            return super()._table(X, reset=reset)
        X = door.table(self, X, reset=reset, allow_nan=True)
        return X.image(self._binarized) if isinstance(X, Source) else self._binarized(X)

    def _binarized(self, X: np.ndarray) -> np.ndarray:
        ones = (self.binarize < X).astype(X.dtype)
        missing = np.isnan(X)
        if missing.any():
            ones[missing] = np.nan
        return ones

    def _check_parameters(self) -> None:
        real = self.binarize is None or validate.is_real(self.binarize, -np.inf)
        validate.parameter(self, "binarize", "a float or None", real)
        self._check_floor("min_prob", 0.5)
        super()._check_parameters()

    def _given(self, family: Family, n_features: int) -> dict[str, np.ndarray]:
        given = self._weights_given()
        if self.means_init is not None:
            given["means"] = self._checked("means", self.means_init, "means")
        return given

    @classmethod
    def from_parameters(cls, weights: Any, means: Any, **options: Any) -> BernoulliMixture:
        """Return a mixture of given parameters, as if it had been fitted.

        Parameters
        ----------
        weights : array-like (k,)
            Mixing proportions, which sum to 1.
        means : array-like (k, d)
            Probabilities of a one.
        **options
            Further parameters of the constructor, such as `random_state`.

        Returns
        -------
        BernoulliMixture

        Raises
        ------
        ValueError
            If shapes do not fit each other, or a value is none that the parameter can have.

        Examples
        --------
        >>> from fastem import BernoulliMixture
        >>> model = BernoulliMixture.from_parameters([0.5, 0.5], [[0.9, 0.9], [0.1, 0.1]])
        >>> model.predict([[1, 1], [0, 0]])
        array([0, 1])
        """
        means = validate.rows(means, "means", np.float64)
        return cls._made_of(len(means), means.shape[1], {"weights_init": weights, "means_init": means}, options)

    def _checked(self, name: str, value: Any, called: str) -> np.ndarray:
        return validate.probabilities(value, (self.n_components, self.n_features_in_), called)
