"""Mixtures of Poisson distributions for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import Tags

from fastem import validate, values
from fastem.engine.monitor import IterationInfo
from fastem.estimators.discrete import DiscreteMixture
from fastem.estimators.shared_parameters import documented
from fastem.families.base import Family
from fastem.families.discrete.poisson import PoissonFamily


@documented
class PoissonMixture(DiscreteMixture):
    """Mixture of Poisson distributions, for rows of counts, fitted by expectation-maximization.

    Within a component the features are independent.  NaN is a missing value, taken as missing at random: it adds
    nothing to the likelihood of its row.  Values must not be negative; like scikit-learn's PoissonRegressor this takes
    fractions too (rates, tf-idf), for which x! is Gamma(x + 1) and the likelihood is no density.

    Parameters
    ----------
    {n_components}
    min_rate : float, default=1e-10
        Least rate.  0 is plain maximum likelihood, under which a count in a feature that was always 0 in a component
        is all but impossible there (a rate of 1e-30).
    {tol, convergence, max_iter, n_init}
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities.
    weights_init, rates_init : array-like or None, default=None
        Parameters to start with; with all given, `init_params` is not used.
    {random_state, warm_start, verbose, verbose_interval, n_threads, callback, certify, keep_history, accelerate}
    {drop_restarts, escape, checkpoint, checkpoint_every, learning_decay, first_batches, average_from, algorithm}
    {n_blocks}

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
