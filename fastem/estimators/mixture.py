"""Gaussian mixtures for scikit-learn users."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.base import DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from fastem import em, init, validate
from fastem.draws import Draws
from fastem.estimators.base import EMEstimator
from fastem.families.gaussian import COVARIANCE_TYPES, GaussianFamily
from fastem.families.gaussian.records import GaussianParams
from fastem.monitor import IterationInfo
from fastem.sources.memory import MemorySource


class GaussianMixture(DensityMixin, EMEstimator):
    """Mixture of Gaussians, fitted by expectation-maximization.

    A replacement for `sklearn.mixture.GaussianMixture` with the same parameters, methods and attributes; what is added
    is keyword-only and has a default.  The result does not depend on `n_threads`, to the bit; statistics are centred
    and kept in float64, so that neither a large offset nor float32 rows cost digits.

    Parameters
    ----------
    n_components : int, default=1
        Number of components k.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        Each component its own matrix, one matrix for all, each its own variances, each one variance.
    tol : float, default=1e-3
        Stop when the mean log-likelihood of a row changes by at most this.
    reg_covar : float, default=1e-6
        Added to the variances.
    max_iter : int, default=100
        Most iterations of one restart.
    n_init : int, default=1
        Number of restarts; the one with the highest log-likelihood is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities.
    weights_init, means_init, precisions_init : array-like or None, default=None
        Parameters to start with; with all three given, `init_params` is not used.
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
        Raise `MonotonicityError` should the log-likelihood fall by more than rounding and `reg_covar` explain.
    keep_history : bool, default=False
        Keep the parameters of every iteration of the best restart in `history_` (lecture row L12).

    Attributes
    ----------
    weights_ : ndarray (n_components,)
        Mixing proportions.
    means_ : ndarray (n_components, n_features)
        Means.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Covariances, their inverses and the upper triangular factors U of precision = U U'; (k, d, d) for "full",
        (d, d) for "tied", (k, d) for "diag", (k,) for "spherical".
    converged_ : bool
        Whether the best restart converged.
    n_iter_ : int
        Its iterations.
    lower_bound_ : float
        Mean log-likelihood of a row at its last E-step.
    lower_bounds_ : list of float
        The same at each of its iterations; it never falls.
    restarts_ : ndarray (n_init,)
        `lower_bound_` of each restart.
    histories_ : list of ndarray
        `lower_bounds_` of each restart.
    notes_ : list of str
        What happened during the best restart, such as a singular covariance made regular.

    References
    ----------
    Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", JRSS B 39, 1977.
    Bishop, PRML, section 9.2.  Lecture rows L5, L7, L8.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import GaussianMixture
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> model = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> model.means_[model.predict([[0.0, 0], [12, 3]])].round(6)
    array([[ 1.,  2.],
           [10.,  2.]])
    """

    _saved: ClassVar = (
        "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "converged_", "n_iter_",
        "lower_bound_", "lower_bounds_", "restarts_",
    )  # fmt: skip

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        n_threads: int | None = None,
        callback: Callable[[IterationInfo], Any] | None = None,
        certify: bool = False,
        keep_history: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.n_threads = n_threads
        self.callback = callback
        self.certify = certify
        self.keep_history = keep_history

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Estimate the parameters.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
            Rows; float32 is read as float32, all else becomes float64.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0; a row of weight m counts as m rows.

        Returns
        -------
        GaussianMixture
            self.

        Raises
        ------
        ValueError
            On bad parameters, NaN or infinity in X, fewer rows than components, or bad weights.
        """
        self._check_parameters()
        X = validate.table(self, X, reset=True)
        if X.shape[0] < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components but got "
                f"n_components = {self.n_components}, n_samples = {X.shape[0]}"
            )
        source = MemorySource(X, self._weights(sample_weight, X), n_threads=self._threads())
        family = GaussianFamily(self.n_components, self.covariance_type, self.reg_covar)
        warm = self.warm_start and hasattr(self, "converged_")
        result = em.run(
            source,
            family,
            self._last_params if warm else init.mixture_start(family, self.init_params, self._given(family, X.shape[1])),
            settings=self._settings(self.tol),
            n_init=1 if warm else self.n_init,
            seed=validate.seed(self.random_state),
        )
        self._keep_trace(result)
        self.converged_ = result.best.converged
        self.lower_bound_ = result.best.objective
        self.lower_bounds_ = result.best.objectives.tolist()
        self._set_params(family, result.best.params)
        self._warn(result.best.notes)
        return self

    def _check_parameters(self) -> None:
        check = validate.parameter
        check(self, "n_components", "an int in the range [1, inf)", validate.is_int(self.n_components, 1))
        check(self, "covariance_type", f"a str among {set(COVARIANCE_TYPES)}", self.covariance_type in COVARIANCE_TYPES)
        check(self, "reg_covar", "a float in the range [0.0, inf)", validate.is_real(self.reg_covar, 0))
        check(self, "n_init", "an int in the range [1, inf)", validate.is_int(self.n_init, 1))
        check(self, "init_params", f"a str among {set(init.MIXTURE_INITS)}", self.init_params in init.MIXTURE_INITS)
        check(self, "verbose_interval", "an int in the range [1, inf)", validate.is_int(self.verbose_interval, 1))
        self._check_shared_parameters()

    def _given(self, family: GaussianFamily, d: int) -> dict[str, np.ndarray]:
        """Return the parameters that the user starts with, checked."""
        k, given = self.n_components, {}
        if self.weights_init is not None:
            given["weights"] = validate.proportions(self.weights_init, (k,), "weights")
        if self.means_init is not None:
            given["means"] = validate.shaped(self.means_init, (k, d), "means")
        if self.precisions_init is not None:
            precisions = validate.shaped(self.precisions_init, family.covariance_shape(d), f"{self.covariance_type} precision")
            given["covariances"] = family.inverted(validate.positive_definite(precisions, self.covariance_type))
            given["precisions_cholesky"] = family.type.precisions_cholesky(given["covariances"])
        return given

    def _last_params(self, source: Any, draws: Draws) -> GaussianParams:
        return self._fitted_params()

    def _set_params(self, family: GaussianFamily, params: GaussianParams) -> None:
        self.weights_ = params.weights
        self.means_ = params.means
        self.covariances_ = params.covariances
        self.precisions_cholesky_ = params.precisions_cholesky
        self.precisions_ = family.precisions(params.precisions_cholesky)

    def _warn(self, notes: tuple[str, ...]) -> None:
        if notes:
            warnings.warn(f"{notes[0]} ({len(notes)} note(s) in notes_).", ConvergenceWarning, stacklevel=3)
        if not self.converged_ and self.callback is None:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, or increase "
                "max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _print_iteration(self, info: IterationInfo) -> None:
        if info.iteration % self.verbose_interval == 0:
            super()._print_iteration(info)

    def _fitted_params(self) -> GaussianParams:
        return GaussianParams(self.weights_, self.means_, self.covariances_, self.precisions_cholesky_)

    def _expected(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return log p(x) (n,) and responsibilities (n, k) of new rows."""
        check_is_fitted(self)
        X = validate.table(self, X, reset=False)
        family = GaussianFamily(len(self.weights_), self.covariance_type)
        return family.normalised(X, family.prepare(self._fitted_params(), X.dtype), self._threads())

    def score_samples(self, X: Any) -> np.ndarray:
        """Return log p(x) of each row.

        Parameters
        ----------
        X : array-like (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) float64
        """
        return self._expected(X)[0]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the (weighted) mean log-likelihood of a row."""
        log_prob = self.score_samples(X)
        weights = validate.weights(sample_weight, len(log_prob), np.float64)
        return float(np.average(log_prob, weights=weights if weights.size else None))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable component of each row (n_samples,) int64."""
        return self._expected(X)[1].argmax(axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the responsibilities p(z = k given x) of each row (n_samples, n_components)."""
        return self._expected(X)[1]

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Estimate the parameters and return the most probable component of each row (n_samples,)."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.

        Returns
        -------
        X : ndarray (n_samples, n_features)
            Rows, ordered by component.
        y : ndarray (n_samples,)
            The component of each.
        """
        check_is_fitted(self)
        if not validate.is_int(n_samples, 1):
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples!r} . The sampling requires at least one sample."
            )
        family = GaussianFamily(len(self.weights_), self.covariance_type)
        return family.sample(self._fitted_params(), n_samples, Draws(validate.seed(self.random_state)))

    def aic(self, X: Any) -> float:
        """Return Akaike's information criterion on X; lower is better (lecture row L3)."""
        return -2 * self.score(X) * len(X) + 2 * self._n_parameters()

    def bic(self, X: Any) -> float:
        """Return the Bayesian information criterion on X; lower is better (lecture row L3)."""
        return -2 * self.score(X) * len(X) + self._n_parameters() * np.log(len(X))

    def _n_parameters(self) -> int:
        return GaussianFamily(len(self.weights_), self.covariance_type).n_free_params(self.means_.shape[1])

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        k, d = len(self.weights_), self.n_features_in_
        validate.parameter(self, "covariance_type", f"a str among {set(COVARIANCE_TYPES)}", self.covariance_type in COVARIANCE_TYPES)  # fmt: skip
        shape = GaussianFamily(k, self.covariance_type).covariance_shape(d)
        self.weights_ = validate.proportions(self.weights_, (k,), "weights_")
        self.means_ = validate.shaped(self.means_, (k, d), "means_")
        for name in ("covariances_", "precisions_", "precisions_cholesky_"):
            setattr(self, name, validate.shaped(getattr(self, name), shape, name))
