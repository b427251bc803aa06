"""Mixtures of Poisson distributions for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import Tags

from fastem import validate, values
from fastem.engine.monitor import IterationInfo
from fastem.estimators.discrete import DiscreteMixture
from fastem.families.base import Family
from fastem.families.discrete.poisson import PoissonFamily


class PoissonMixture(DiscreteMixture):
    """Mixture of Poisson distributions, for rows of counts, fitted by expectation-maximization.

    Within a component the features are independent.  NaN is a missing value, taken as missing at random: it adds
    nothing to the likelihood of its row.  Values must not be negative; like scikit-learn's PoissonRegressor this takes
    fractions too (rates, tf-idf), for which x! is Gamma(x + 1) and the likelihood is no density.

    Parameters
    ----------
    n_components : int, default=1
        Number of components k.
    min_rate : float, default=1e-10
        Least rate.  0 is plain maximum likelihood, under which a count in a feature that was always 0 in a component
        is all but impossible there (a rate of 1e-30).
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
    weights_init, rates_init : array-like or None, default=None
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
    rates_ : ndarray (n_components, n_features)
        Rates, the mean counts.
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

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import PoissonMixture
    >>> X = np.random.default_rng(0).poisson(np.repeat([[2.0, 30.0], [20.0, 5.0]], 500, axis=0))
    >>> model = PoissonMixture(2, random_state=0).fit(X)
    >>> model.rates_[model.rates_[:, 0].argsort()].round()
    array([[ 2., 30.],
           [20.,  5.]])
    """

    _fields: ClassVar = {"weights": "weights_", "rates": "rates_"}
    _saved: ClassVar = (*DiscreteMixture._saved, "rates_")

    min_rate: float
    rates_init: Any

    def __init__(
        self,
        n_components: int = 1,
        *,
        min_rate: float = 1e-10,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        rates_init: Any = None,
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

    def _family(self) -> PoissonFamily:
        return PoissonFamily(self.n_components, self.min_rate)

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags: counts are not negative."""
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    def _check_parameters(self) -> None:
        validate.parameter(self, "min_rate", "a float in the range [0.0, inf)", validate.is_real(self.min_rate, 0))
        super()._check_parameters()

    def _given(self, family: Family, n_features: int) -> dict[str, np.ndarray]:
        given = self._weights_given()
        if self.rates_init is not None:
            given["rates"] = self._checked("rates", self.rates_init, "rates")
        return given

    @classmethod
    def from_parameters(cls, weights: Any, rates: Any, **options: Any) -> PoissonMixture:
        """Return a mixture of given parameters, as if it had been fitted.

        Parameters
        ----------
        weights : array-like (k,)
            Mixing proportions, which sum to 1.
        rates : array-like (k, d)
            Mean counts.
        **options
            Further parameters of the constructor, such as `random_state`.

        Returns
        -------
        PoissonMixture

        Raises
        ------
        ValueError
            If shapes do not fit each other, or a value is none that the parameter can have.

        Examples
        --------
        >>> from fastem import PoissonMixture
        >>> model = PoissonMixture.from_parameters([0.5, 0.5], [[1.0, 9.0], [9.0, 1.0]])
        >>> model.predict([[0, 8], [7, 2]])
        array([0, 1])
        """
        rates = validate.rows(rates, "rates", np.float64)
        return cls._made_of(len(rates), rates.shape[1], {"weights_init": weights, "rates_init": rates}, options)

    def _checked(self, name: str, value: Any, called: str) -> np.ndarray:
        rates = validate.shaped(value, (self.n_components, self.n_features_in_), called)
        values.nonnegative(rates, called)
        return rates
