"""Mixtures of factor analysers for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from fastem import validate
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import IterationInfo
from fastem.engine.problem import Problem
from fastem.estimators import door
from fastem.estimators.mixture import BaseMixture
from fastem.estimators.shared_parameters import documented
from fastem.families.base import Family
from fastem.families.factor.mixture import FactorMixtureFamily, FactorMixtureParams
from fastem.families.gaussian import GaussianFamily
from fastem.starts.mixture import MixtureStart


@documented
class FactorAnalyserMixture(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseMixture):
    """Mixture of factor analysers, fitted by expectation-maximization.

    A Gaussian mixture whose covariances are loadings times their transpose plus the noise of each feature: clusters
    that each lie near a subspace of its own.  It needs n_features * (n_factors + 1) numbers for a covariance and as
    many operations for a row, which makes it a choice where there are many features.  NaN is a missing value, taken as
    missing at random.

    Parameters
    ----------
    {n_components}
    n_factors : int, default=1
        Number of factors of each component, at most the number of features; 0 leaves the noise.
    tol : float, default=1e-3
        Stop when the mean log-likelihood of a row changes by at most this.
    {convergence}
    min_noise : float, default=1e-6
        Least noise variance of a feature, as a share of its variance over all rows.
    max_iter : int, default=100
        Most iterations of one restart.
    {n_init}
    init_params : {"kmeans", "k-means++", "random", "random_from_data", "em-em"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities.  The covariance of the rows of each cluster is split into loadings and noise.  "em-em"
        begins where the best of 10 short EM runs (8 iterations) arrived.
    weights_init, means_init, loadings_init, noise_variances_init : array-like or None, default=None
        Parameters to start with, in the shapes of the attributes; with all given, `init_params` is not used.
    {random_state, warm_start, verbose, verbose_interval, n_threads, callback}
    certify : bool, default=False
        Raise `MonotonicityError` should the log-likelihood fall by more than rounding and `min_noise` explain.
    {keep_history, accelerate, drop_restarts}
    escape : {"split-merge"} or None, default=None
        Try to leave the best run's local maximum by merging two components and splitting a third.
    {checkpoint, checkpoint_every, learning_decay, first_batches, average_from, algorithm, n_blocks}

    Attributes
    ----------
    weights_ : ndarray (n_components,)
        Mixing proportions.
    means_ : ndarray (n_components, n_features)
        Means.
    loadings_ : ndarray (n_components, n_features, n_factors)
        Loadings, known up to a rotation of the factors of each component.
    noise_variances_ : ndarray (n_components, n_features)
        Noise variances.
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
    Ghahramani and Hinton, "The EM algorithm for mixtures of factor analyzers", CRG-TR-96-1, Toronto, 1996.  Lecture
    row L9.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import FactorAnalyserMixture
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(500, 1))
    >>> X = np.concatenate([z * [3.0, 3.0, 0.0], 9.0 + z * [0.0, 2.0, -2.0]]) + 0.5 * rng.normal(size=(1000, 3))
    >>> model = FactorAnalyserMixture(2, n_factors=1, random_state=0).fit(X)
    >>> bool(np.all(model.predict(X[:500]) != model.predict(X[500:])))
    True
    >>> model.transform(X).shape
    (1000, 2)
    """

    _fields: ClassVar = {
        "weights": "weights_",
        "means": "means_",
        "loadings": "loadings_",
        "noise_variances": "noise_variances_",
    }
    _saved: ClassVar = (*_fields.values(), "converged_", "n_iter_", "lower_bound_", "lower_bounds_", "restarts_")

    weights_: np.ndarray
    means_: np.ndarray
    loadings_: np.ndarray
    noise_variances_: np.ndarray

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_factors: int = 1,
        tol: float = 1e-3,
        min_noise: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        loadings_init: Any = None,
        noise_variances_init: Any = None,
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
        self.n_components = n_components
        self.n_factors = n_factors
        self.tol = tol
        self.min_noise = min_noise
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.loadings_init = loadings_init
        self.noise_variances_init = noise_variances_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.n_threads = n_threads
        self.callback = callback
        self.certify = certify
        self.keep_history = keep_history
        self.convergence = convergence
        self.accelerate = accelerate
        self.drop_restarts = drop_restarts
        self.escape = escape
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.learning_decay = learning_decay
        self.first_batches = first_batches
        self.average_from = average_from
        self.algorithm = algorithm
        self.n_blocks = n_blocks

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags: NaN is a missing value, and factors have the dtype of the rows."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _family(self) -> FactorMixtureFamily:
        return FactorMixtureFamily(self.n_components, self.n_factors, self.min_noise)

    def _table(self, X: Any, *, reset: bool) -> np.ndarray:
        X = door.table(self, X, reset=reset, allow_nan=True)
        if X.shape[1] < self.n_factors:
            raise ValueError(f"n_factors must be at most the number of features {X.shape[1]}, got {self.n_factors}.")
        return X

    def _check_parameters(self) -> None:
        check = validate.parameter
        check(self, "n_factors", "an int in the range [0, inf)", validate.is_int(self.n_factors, 0))
        share = validate.is_real(self.min_noise, 0) and 0 < self.min_noise < 1
        check(self, "min_noise", "a float in the range (0.0, 1.0)", share)
        super()._check_parameters()

    def _given(self, family: Family, n_features: int) -> dict[str, np.ndarray]:
        k, d, q, given = self.n_components, n_features, self.n_factors, {}
        if self.weights_init is not None:
            given["weights"] = validate.proportions(self.weights_init, (k,), "weights")
        if self.means_init is not None:
            given["means"] = validate.shaped(self.means_init, (k, d), "means")
        if self.loadings_init is not None:
            given["loadings"] = validate.shaped(self.loadings_init, (k, d, q), "loadings")
        if self.noise_variances_init is not None:
            given["noise_variances"] = _positive(self.noise_variances_init, (k, d), "noise_variances")
        return given

    @classmethod
    def from_parameters(
        cls, weights: Any, means: Any, loadings: Any, noise_variances: Any, **options: Any
    ) -> FactorAnalyserMixture:
        """Return a mixture of given parameters, as if it had been fitted.

        Parameters
        ----------
        weights : array-like (k,)
            Mixing proportions, which sum to 1.
        means : array-like (k, d)
            Means.
        loadings : array-like (k, d, q)
            Loadings of the factors.
        noise_variances : array-like (k, d)
            Noise variances.
        **options
            Further parameters of the constructor, such as `random_state`.

        Returns
        -------
        FactorAnalyserMixture

        Raises
        ------
        ValueError
            If shapes do not fit each other, or a value is none that the parameter can have.

        Examples
        --------
        >>> from fastem import FactorAnalyserMixture
        >>> model = FactorAnalyserMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0], [1.0]]], [[1.0, 1.0]])
        >>> model.get_covariances()
        array([[[2., 1.],
                [1., 2.]]])
        """
        means, loadings = validate.rows(means, "means", np.float64), np.asarray(loadings, np.float64)
        if loadings.ndim != 3:
            raise ValueError(f"loadings must have shape (k, d, q), got {loadings.shape}.")
        start = {"weights_init": weights, "means_init": means, "loadings_init": loadings}
        start["noise_variances_init"] = noise_variances
        return cls._made_of(len(means), means.shape[1], start, {"n_factors": loadings.shape[2], **options})

    def _start(self, given: dict[str, np.ndarray]) -> em.Start:
        """Begin with the covariances of the clusters, each split into loadings and noise."""
        if self.init_params == "em-em":
            return super()._start(given)
        gaussian = GaussianFamily(self.n_components, "full", reg_covar=0.0)
        first = MixtureStart(self.init_params)

        def start(problem: Problem, draws: Draws) -> FactorMixtureParams:
            family: Any = problem.family
            if set(given) == set(family.params._fields):
                return family.params(**given)
            params = first(problem.once("gaussian", lambda: problem.with_family(gaussian)), draws)
            split = family.from_covariances(problem.constants, params.weights, params.means, params.covariances)
            return split._replace(**given)

        return start

    def transform(self, X: Any) -> np.ndarray:
        """Return the posterior mean of the factors of each row.

        Parameters
        ----------
        X : array-like (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_components * n_factors)
            The factors of each component in turn, times its responsibility for the row; in the dtype of the rows.
        """
        X, family, prepared = self._prepared(X)
        X = validate.with_room_for_squares(X)  # there is no answer far beyond it
        return family.factors(X, prepared, self._threads()).astype(X.dtype, copy=False)

    def get_covariances(self) -> np.ndarray:
        """Return the covariances of the components (n_components, n_features, n_features)."""
        check_is_fitted(self)
        noise = np.eye(self.n_features_in_) * self.noise_variances_[:, None]
        return self.loadings_ @ np.swapaxes(self.loadings_, 1, 2) + noise

    @property
    def _n_features_out(self) -> int:
        return self.n_components * self.n_factors

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        k, d, q = self.n_components, self.n_features_in_, self.n_factors
        self.weights_ = validate.proportions(self.weights_, (k,), "weights_")
        self.means_ = validate.shaped(self.means_, (k, d), "means_")
        self.loadings_ = validate.shaped(self.loadings_, (k, d, q), "loadings_")
        self.noise_variances_ = _positive(self.noise_variances_, (k, d), "noise_variances_")


def _positive(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return given noise variances, checked."""
    value = validate.shaped(value, shape, name)
    if not np.all(value > 0):
        raise ValueError(f"The parameter '{name}' should be positive, but got min value {value.min():.5g}")
    return value
