"""Mixtures of Bernoulli distributions for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastem import validate
from fastem.engine.monitor import IterationInfo
from fastem.estimators import door
from fastem.estimators.discrete import DiscreteMixture
from fastem.families.base import Family
from fastem.families.discrete.bernoulli import BernoulliFamily
from fastem.sources.base import Source


class BernoulliMixture(DiscreteMixture):
    """Mixture of Bernoulli distributions, for rows of zeros and ones, fitted by expectation-maximization.

    Within a component the features are independent.  NaN is a missing value, taken as missing at random: it adds
    nothing to the likelihood of its row.

    Parameters
    ----------
    n_components : int, default=1
        Number of components k.
    binarize : float or None, default=0.0
        Values above this are ones, the others zeros, as in `sklearn.naive_bayes.BernoulliNB`; None takes only rows of
        zeros and ones.
    min_prob : float, default=1e-10
        Least probability of either value.  0 is plain maximum likelihood, under which a value that a component has
        not seen counts as all but impossible (1e-30).
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
        random responsibilities.
    weights_init, means_init : array-like or None, default=None
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
