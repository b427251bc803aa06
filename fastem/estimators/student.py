"""Mixtures of Student-t distributions for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import Tags

from fastem import validate
from fastem.engine.monitor import IterationInfo
from fastem.estimators import door
from fastem.estimators.mixture import BaseMixture
from fastem.estimators.shared_parameters import documented
from fastem.families.student import COVARIANCE_TYPES, StudentFamily


@documented
class StudentTMixture(BaseMixture):
    """Mixture of multivariate Student-t distributions, for clusters with outliers.

    A `GaussianMixture` whose components have heavy tails: rows far from a component count for less in its mean and its
    scale matrix, the less the fewer degrees of freedom it has.  NaN is a missing value, integrated out, which is right
    where values are missing at random; a column of which nothing is known is refused.

    Parameters
    ----------
    {n_components}
    covariance_type : {"full", "diag", "spherical"}, default="full"
        Each component its own scale matrix, its own scale of each feature, or one scale.
    dof : float, array-like (n_components,) or None, default=None
        Degrees of freedom of all components, or of each; None estimates those of each, within 0.1 to 200.
    {tol, convergence}
    reg_covar : float, default=1e-6
        Added to the diagonal of the scale matrices.
    {max_iter, n_init}
    init_params : {"kmeans", "k-means++", "random", "random_from_data", "em-em"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities.  "em-em" begins where the best of 10 short EM runs (8 iterations) arrived.
    weights_init, means_init, scales_init, dofs_init : array-like or None, default=None
        Parameters to start with; with all given, `init_params` is not used.
    {random_state, warm_start, verbose, verbose_interval, n_threads, callback}
    certify : bool, default=False
        Raise `MonotonicityError` should the log-likelihood fall by more than rounding and `reg_covar` explain.
    {keep_history, accelerate, drop_restarts}
    escape : {"split-merge"} or None, default=None
        Try to leave the best run's local maximum by merging two components and splitting a third.
    {checkpoint, checkpoint_every, learning_decay, first_batches, average_from, algorithm, n_blocks}

    Attributes
    ----------
    weights_ : ndarray (n_components,)
        Mixing proportions.
    means_ : ndarray (n_components, n_features)
        Centres; the means where `dofs_` is above 1.
    scales_, precisions_cholesky_ : ndarray
        Scale matrices Sigma and the upper triangular factors U of inverse Sigma = U U', (k, d, d) for "full"; squares
        of the scales and inverse scales, (k, d) for "diag" and (k,) for "spherical".
    covariances_ : ndarray
        Covariances, dof / (dof - 2) times as large; infinite up to 2 degrees of freedom.
    dofs_ : ndarray (n_components,)
        Degrees of freedom.
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
    notes_ : list of str
        What happened during the best restart, such as a singular scale matrix made regular.

    References
    ----------
    Peel and McLachlan, "Robust mixture modelling using the t distribution", Statistics and Computing 10, 2000.
    Liu, Rubin and Wu, "Parameter expansion to accelerate EM: the PX-EM algorithm", Biometrika 85, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import GaussianMixture, StudentTMixture
    >>> X = np.random.default_rng(0).normal(size=(400, 1))
    >>> X[:10] = 50.0
    >>> GaussianMixture(1).fit(X).means_.round(1)
    array([[1.2]])
    >>> np.abs(StudentTMixture(1).fit(X).means_).round()
    array([[0.]])
    """

    _fields: ClassVar = {
        "weights": "weights_",
        "means": "means_",
        "scales": "scales_",
        "precisions_cholesky": "precisions_cholesky_",
        "dofs": "dofs_",
    }
    _saved: ClassVar = (*_fields.values(), "converged_", "n_iter_", "lower_bound_", "lower_bounds_", "restarts_")
    _covariance_types: ClassVar = COVARIANCE_TYPES

    covariance_type: str
    dof: Any
    reg_covar: float
    weights_init: Any
    means_init: Any
    scales_init: Any
    dofs_init: Any
    weights_: np.ndarray
    means_: np.ndarray
    scales_: np.ndarray
    precisions_cholesky_: np.ndarray
    dofs_: np.ndarray

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        dof: Any = None,
        tol: float = 1e-6,
        reg_covar: float = 1e-6,
        max_iter: int = 500,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        scales_init: Any = None,
        dofs_init: Any = None,
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

    def _family(self) -> StudentFamily:
        return StudentFamily(self.n_components, self.covariance_type, self.reg_covar, self.dof)

    def _table(self, X: Any, *, reset: bool) -> np.ndarray:
        return door.table(self, X, reset=reset, allow_nan=True)

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags: NaN is a missing value."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_parameters(self) -> None:
        check = validate.parameter
        check(self, "covariance_type", f"a str among {set(COVARIANCE_TYPES)}", self.covariance_type in COVARIANCE_TYPES)
        check(self, "reg_covar", "a float in the range [0.0, inf)", validate.is_real(self.reg_covar, 0))
        super()._check_parameters()
        for name in ("dof", "dofs_init"):
            value = getattr(self, name)
            if value is not None:
                _dofs(value, self.n_components, name)
        if self.dof is not None and self.dofs_init is not None:
            raise ValueError("Give either 'dof', which is kept, or 'dofs_init', which is where estimates begin.")

    def _given(self, family: Any, n_features: int) -> dict[str, np.ndarray]:
        k, given = self.n_components, {}
        if self.weights_init is not None:
            given["weights"] = validate.proportions(self.weights_init, (k,), "weights")
        if self.means_init is not None:
            given["means"] = validate.shaped(self.means_init, (k, n_features), "means")
        if self.scales_init is not None:
            kind, shape = self.covariance_type, family.covariance_shape(n_features)
            positive = validate.positive_definite if family.shape.matrices else validate.positive
            scales = positive(validate.shaped(self.scales_init, shape, f"{kind} scale"), f"{kind} precision")
            given["scales"], given["precisions_cholesky"] = scales, family.shape.precisions_cholesky(scales)
        given["dofs"] = family.first_dofs(k) if self.dofs_init is None else _dofs(self.dofs_init, k, "dofs_init")
        return given

    @classmethod
    def from_parameters(
        cls, weights: Any, means: Any, scales: Any, dofs: Any, *, covariance_type: str = "full", **options: Any
    ) -> StudentTMixture:
        """Return a mixture of given parameters, as if it had been fitted.

        Parameters
        ----------
        weights : array-like (k,)
            Mixing proportions, which sum to 1.
        means : array-like (k, d)
            Centres.
        scales : array-like
            Scale matrices, in the shape of `scales_`: full (k, d, d), diag (k, d), spherical (k,).
        dofs : array-like (k,)
            Degrees of freedom.
        covariance_type : {"full", "diag", "spherical"}, default="full"
            Shape of the scales.
        **options
            Further parameters of the constructor, such as `random_state`.

        Returns
        -------
        StudentTMixture

        Raises
        ------
        ValueError
            If shapes do not fit each other, or a value is none that the parameter can have.

        Examples
        --------
        >>> from fastem import StudentTMixture
        >>> model = StudentTMixture.from_parameters([1.0], [[0.0]], [[[1.0]]], [1.0])  # a Cauchy distribution
        >>> model.score_samples([[1.0]]).round(4)
        array([-1.8379])
        """
        means = validate.rows(means, "means", np.float64)
        start = {"weights_init": weights, "means_init": means, "scales_init": scales, "dofs_init": dofs}
        return cls._made_of(len(means), means.shape[1], start, {"covariance_type": covariance_type, **options})

    @property
    def covariances_(self) -> np.ndarray:
        """Covariances of the components, in the shape of `scales_`."""
        with np.errstate(divide="ignore"):
            factors = np.where(self.dofs_ > 2, self.dofs_ / np.abs(self.dofs_ - 2), np.inf)
        factors = factors.reshape(-1, *[1] * (self.scales_.ndim - 1))
        return np.where(self.scales_ == 0, 0.0, self.scales_ * factors)

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        k, d = self.n_components, self.n_features_in_
        known = self.covariance_type in COVARIANCE_TYPES
        validate.parameter(self, "covariance_type", f"a str among {set(COVARIANCE_TYPES)}", known)
        shape = self._family().covariance_shape(d)
        self.weights_ = validate.proportions(self.weights_, (k,), "weights_")
        self.means_ = validate.shaped(self.means_, (k, d), "means_")
        self.scales_ = validate.shaped(self.scales_, shape, "scales_")
        self.precisions_cholesky_ = validate.shaped(self.precisions_cholesky_, shape, "precisions_cholesky_")
        self.dofs_ = _dofs(self.dofs_, k, "dofs_")


def _dofs(value: Any, k: int, name: str) -> np.ndarray:
    """Return degrees of freedom (k,) float64, checked."""
    value = np.asarray(value)
    if value.dtype.kind not in "fiu" or value.shape not in {(), (k,)} or not np.all((value > 0) & np.isfinite(value)):
        got = value.tolist()
        raise ValueError(f"{name} must be a positive number, or one for each of {k} components, got {got!r}.")
    return np.broadcast_to(value.astype(np.float64), k).copy()
