"""Factor analysis for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from fastem import validate, values
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import IterationInfo, Settings
from fastem.engine.problem import Problem
from fastem.estimators import checkpoints, door
from fastem.estimators.callbacks import warn, with_callbacks
from fastem.estimators.conversion import HasTwin
from fastem.estimators.shared_parameters import documented
from fastem.estimators.stepwise import StepwiseEstimator
from fastem.families.factor.single import FactorConstants, FactorFamily, FactorParams

# Iterations on rows with means in the place of missing values, from which EM on the rows as they are begins.
FIRST_ITERATIONS = 20
# Kaiser's criterion is maximised until it grows by less than this share, or so many times.
ROTATION_TOL, ROTATIONS = 1e-6, 100


@documented
class FactorAnalysis(ClassNamePrefixFeaturesOutMixin, TransformerMixin, StepwiseEstimator, HasTwin):
    """Factor analysis, fitted by expectation-maximization.

    A replacement for `sklearn.decomposition.FactorAnalysis` with the same parameters, methods and attributes; what is
    added is keyword-only and has a default.  A fit of complete rows reads them twice, for their mean and covariance,
    and iterates on the covariance; it begins where scikit-learn's begins and takes the same path.  NaN is a missing
    value, taken as missing at random: it adds nothing to the likelihood of its row, and EM then reads the rows.

    Parameters
    ----------
    n_components : int or None, default=None
        Number of factors; None means as many as features, and more than those are not made.
    tol : float, default=1e-2
        Stop when the log-likelihood of all rows changes by at most this.
    convergence : {"change", "remaining"}, default="change"
        What `tol` is compared with: the last change of the log-likelihood, or what is left of it to gain, by
        Aitken's estimate.  Runs that are to be compared need the second (`fastem.select` takes it).
    copy : bool, default=True
        Not used: X is never written to.
    max_iter : int, default=1000
        Most iterations.
    noise_variance_init : array-like (n_features,) or None, default=None
        Noise variances to start with; None means ones.
    svd_method : {"lapack", "randomized"}, default="randomized"
        Not used: both mean the exact eigenvectors of the covariance.
    iterated_power : int, default=3
        Not used.
    rotation : {"varimax", "quartimax"} or None, default=None
        Rotation of the factors towards few large loadings, by Kaiser's criterion.
    random_state : int, RandomState, Generator or None, default=0
        Seed of `sample`; a fit draws no numbers.
    min_noise : float, default=1e-9
        Least noise variance of a feature, as a share of its variance.
    verbose : int, default=0
        Print every iteration.
    {n_threads}
    callback : callable or None, default=None
        Called after each iteration with an `IterationInfo`; returning True stops the fit.
    {certify}
    keep_history : bool, default=False
        Keep the parameters of every iteration in `history_` (lecture row L12).
    accelerate : {"squarem"} or None, default=None
        Extrapolate the path of EM to need fewer iterations.  The log-likelihood never falls for it; trials that are
        thrown away are not counted by `n_iter_`.
    {checkpoint, checkpoint_every, learning_decay, first_batches, average_from, algorithm, n_blocks}

    Attributes
    ----------
    components_ : ndarray (n_components, n_features)
        Loadings.
    loglike_ : list of float
        Log-likelihood of all rows after each iteration; it never falls, and the last is that of the result.
    noise_variance_ : ndarray (n_features,)
        Noise variances.
    n_iter_ : int
        Number of iterations.
    mean_ : ndarray (n_features,)
        Mean of the rows.
    converged_ : bool
        Whether the fit converged.
    notes_ : list of str
        What the fit had to do beyond plain EM.

    References
    ----------
    Barber, "Bayesian Reasoning and Machine Learning", algorithm 21.1.  Bishop, PRML, section 12.2.4.  Lecture row L9.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import FactorAnalysis
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(2000, 1))
    >>> X = z * [3.0, 2.0, 1.0] + rng.normal(size=(2000, 3))
    >>> model = FactorAnalysis(1).fit(X)
    >>> model.components_.round(1)
    array([[3., 2., 1.]])
    >>> bool(np.corrcoef(model.transform(X)[:, 0], z[:, 0])[0, 1] > 0.95)
    True
    """

    _saved_if_set: ClassVar = (*StepwiseEstimator._saved_if_set, "lower_bound_")
    _saved: ClassVar = ("components_", "loglike_", "noise_variance_", "n_iter_", "mean_", "converged_")

    _twin_module: ClassVar = "sklearn.decomposition"
    _twin_attributes: ClassVar = ("components_", "loglike_", "noise_variance_", "n_iter_", "mean_")

    components_: np.ndarray
    noise_variance_: np.ndarray
    mean_: np.ndarray

    def __init__(
        self,
        n_components: int | None = None,
        *,
        tol: float = 1e-2,
        copy: bool = True,
        max_iter: int = 1000,
        noise_variance_init: Any = None,
        svd_method: str = "randomized",
        iterated_power: int = 3,
        rotation: str | None = None,
        random_state: Any = 0,
        min_noise: float = 1e-9,
        verbose: int = 0,
        n_threads: int | None = None,
        callback: Callable[[IterationInfo], Any] | None = None,
        certify: bool = False,
        keep_history: bool = False,
        accelerate: str | None = None,
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
        self.tol = tol
        self.copy = copy
        self.max_iter = max_iter
        self.noise_variance_init = noise_variance_init
        self.svd_method = svd_method
        self.iterated_power = iterated_power
        self.rotation = rotation
        self.random_state = random_state
        self.min_noise = min_noise
        self.verbose = verbose
        self.n_threads = n_threads
        self.callback = callback
        self.certify = certify
        self.keep_history = keep_history
        self.convergence = convergence
        self.accelerate = accelerate
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

    def _check_parameters(self) -> None:
        check = validate.parameter
        counted = self.n_components is None or validate.is_int(self.n_components, 0)
        check(self, "n_components", "an int in the range [0, inf) or None", counted)
        methods, rotations = ("lapack", "randomized"), ("varimax", "quartimax")
        check(self, "svd_method", f"a str among {set(methods)}", self.svd_method in methods)
        check(self, "iterated_power", "an int in the range [0, inf)", validate.is_int(self.iterated_power, 0))
        check(self, "rotation", f"None or a str among {set(rotations)}", self.rotation in (None, *rotations))
        share = validate.is_real(self.min_noise, 0) and 0 < self.min_noise < 1
        check(self, "min_noise", "a float in the range (0.0, 1.0)", share)
        super()._check_parameters()

    def _first_noise(self) -> np.ndarray:
        d = self.n_features_in_
        if self.noise_variance_init is None:
            return np.ones(d)
        if len(self.noise_variance_init) != d:
            raise ValueError(
                "noise_variance_init dimension does not match the number of features: "
                f"{len(self.noise_variance_init)} != {d}"
            )
        noise = validate.shaped(self.noise_variance_init, (d,), "noise_variance_init")
        values.nonnegative(noise, "noise_variance_init")
        return noise

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> FactorAnalysis:
        """Estimate the parameters.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
            Rows; float32 is read as float32, all else becomes float64.  NaN is a missing value.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0; a row of weight m counts as m rows.

        Returns
        -------
        FactorAnalysis
            self.

        Raises
        ------
        ValueError
            On bad parameters, infinite values, bad weights.
        """
        self._check_parameters()
        X = self._table(X, reset=True)
        seed = validate.seed(self.random_state)  # not drawn from, but to be sound
        source = door.source(X, sample_weight, self._threads(), weigh=validate.relative_weights)
        self._check_order(source)
        family, noise = self._family_to_fit(), self._first_noise()
        if source.has_nan:
            source.refuse_empty_columns()
        problem: Any = Problem(source, family)
        family = problem.family
        watch = self._watch(X, 1, _attributes)
        checkpoint = checkpoints.opened(self, source, seed)
        result = em.run(
            problem,
            lambda problem, draws: _start(problem, noise),
            settings=self._settings(self.tol / float(problem.constants.weight), watch, checkpoint),
        )
        self._forget_batches()
        self._keep_trace(result)
        self.converged_ = result.best.converged
        reached = np.append(result.best.objectives[1:], result.best.objective)
        self.loglike_ = (reached * door.total_weight(X, sample_weight)).tolist()
        self._keep_params(family, result.best.params)
        if checkpoint is not None:
            checkpoint.remove()
        if watch is not None:
            watch.end(result.best.params)
        if not self.converged_ and self.callback is None:
            warn(
                "FactorAnalysis did not converge. You might want to increase the number of iterations.",
                ConvergenceWarning,
            )
        return self

    def _keep_params(self, family: Any, params: FactorParams) -> None:
        self.mean_, self.noise_variance_ = params.means[0], params.noise_variances[0]
        loadings = params.loadings[0]
        self.components_ = np.ascontiguousarray((rotated(loadings, self.rotation) if self.rotation else loadings).T)

    def _first_params(self, problem: Problem, draws: Draws) -> FactorParams:
        return _start(problem, self._first_noise())

    def _complete_from(self, model: Any) -> None:
        self._untraced(float(model.loglike_[-1]), model.n_iter_ < model.max_iter)

    def _table(self, X: Any, *, reset: bool) -> np.ndarray:
        return door.table(self, X, reset=reset, allow_nan=True)

    def _family_to_fit(self) -> FactorFamily:
        d = self.n_features_in_
        return FactorFamily(1, d if self.n_components is None else min(self.n_components, d), self.min_noise)

    def _family(self) -> FactorFamily:
        return FactorFamily(1, len(self.components_), self.min_noise)

    def _attributes(self) -> dict[str, str]:
        return {"means": "mean_", "loadings": "components_", "noise_variances": "noise_variance_"}

    def _fitted_params(self, family: FactorFamily) -> FactorParams:
        return FactorParams(self.mean_[None], self.components_.T[None], self.noise_variance_[None])

    @door.by_blocks
    def transform(self, X: Any) -> np.ndarray:
        """Return the posterior mean of the factors of each row.

        Parameters
        ----------
        X : array-like (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_components)
            In the dtype of the rows.

        References
        ----------
        Barber, equation 21.2.33.
        """
        X, family, prepared = self._prepared(X)
        X = validate.with_room_for_squares(X)  # there is no answer far beyond it
        return family.factors(X, prepared, self._threads()).astype(X.dtype, copy=False)

    def get_covariance(self) -> np.ndarray:
        """Return the model's covariance of the features (n_features, n_features)."""
        check_is_fitted(self)
        return self.components_.T @ self.components_ + np.diag(self.noise_variance_)

    def get_precision(self) -> np.ndarray:
        """Return the inverse of the model's covariance (n_features, n_features), by the Woodbury identity."""
        check_is_fitted(self)
        scaled = self.components_ / self.noise_variance_
        inner = np.eye(len(scaled)) + scaled @ self.components_.T
        return np.diag(1.0 / self.noise_variance_) - scaled.T @ np.linalg.solve(inner, scaled)

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> np.ndarray:
        """Draw rows (n_samples, n_features) from the fitted model.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState, Generator or None
            Seed; None means the estimator's own.

        Raises
        ------
        ValueError
            If `n_samples` is no positive integer.
        """
        check_is_fitted(self)
        if not validate.is_int(n_samples, 1):
            raise ValueError(f"Invalid value for 'n_samples': {n_samples!r}, which must be an int of at least 1.")
        family, params = self._fitted()
        seed = validate.seed(self.random_state if random_state is None else random_state)
        return family.sample(params, n_samples, Draws(seed))[0]

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        d = self.n_features_in_
        self.components_ = validate.shaped(self.components_, (len(self.components_), d), "components_")
        self.mean_ = validate.shaped(self.mean_, (d,), "mean_")
        self.noise_variance_ = validate.shaped(self.noise_variance_, (d,), "noise_variance_")
        if not np.all(self.noise_variance_ > 0):
            raise ValueError("noise_variance_ must be positive")


def _attributes(params: FactorParams) -> dict[str, np.ndarray]:
    """Return the fitted attributes, not rotated."""
    return {
        "components_": np.ascontiguousarray(params.loadings[0].T),
        "mean_": params.means[0],
        "noise_variance_": params.noise_variances[0],
    }


def _start(problem: Problem, noise: np.ndarray) -> FactorParams:
    """Return the parameters that EM begins with: the best ones for these noise variances (d,).

    With missing values: where a few iterations arrive on rows with means in their place, and no factor is 0 there,
    because EM on the rows would leave it 0.
    """
    family: Any = problem.family
    constants: FactorConstants = problem.constants
    if constants.complete:
        return family.start(constants, noise)
    filled = Problem(problem.space, family)
    settings = Settings(max_iter=FIRST_ITERATIONS, tol=0.0)  # on the covariance alone
    params = em.run_once(filled, family.start(filled.constants, noise), settings).params
    generic, _ = family.generic(params.means, constants.variances)
    unused = ~params.loadings.any(axis=1, keepdims=True)
    return params._replace(loadings=np.where(unused, 0.1 * generic, params.loadings))


def rotated(loadings: np.ndarray, method: str) -> np.ndarray:
    """Return the loadings (d, q) rotated to the maximum of Kaiser's criterion.

    Parameters
    ----------
    loadings : ndarray (d, q)
        One column for each factor.
    method : {"varimax", "quartimax"}
        Variance of the squared loadings of each factor, or the sum of their squares.

    References
    ----------
    Kaiser, "The varimax criterion for analytic rotation in factor analysis", Psychometrika 23, 1958.
    """
    rotation, reached = np.eye(loadings.shape[1]), 0.0
    for _ in range(ROTATIONS):
        turned = loadings @ rotation
        gradient = turned**3
        if method == "varimax":
            gradient -= turned * np.mean(turned**2, axis=0)
        left, values, right = np.linalg.svd(loadings.T @ gradient)
        rotation = left @ right
        if values.sum() <= reached * (1 + ROTATION_TOL):
            break
        reached = values.sum()
    return loadings @ rotation
