"""Gaussian mixtures for scikit-learn users."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import Tags

from fastem import pool, validate
from fastem.engine.monitor import IterationInfo
from fastem.estimators import door
from fastem.estimators.conversion import HasTwin
from fastem.estimators.gaussian_conditionals import GaussianParts
from fastem.estimators.shared_parameters import documented
from fastem.families.elliptical.records import GaussianParams
from fastem.families.gaussian import COVARIANCE_TYPES, GaussianFamily, conditionals
from fastem.families.gaussian.family import FIXABLE
from fastem.families.gaussian.noise import FIRST_SHARE, NoisyGaussianFamily

_FITTED = (
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "converged_", "n_iter_",
    "lower_bound_", "n_features_in_",
)  # fmt: skip


@documented
class GaussianMixture(GaussianParts, HasTwin):
    """Mixture of Gaussians, fitted by expectation-maximization.

    A replacement for `sklearn.mixture.GaussianMixture` with the same parameters, methods and attributes; what is added
    is keyword-only and has a default.  The result does not depend on `n_threads`, to the bit; statistics are centred
    and kept in float64, so that neither a large offset nor float32 rows cost digits.

    NaN is a missing value, integrated out: the likelihood is that of what is observed, which is right where values are
    missing at random (Little and Rubin, 2002).  A first k-means sees the mean of a column in its place.  A row of which
    nothing is known has the mixing proportions for its responsibilities and the log-density 0; a column of which
    nothing is known is refused.

    Parameters
    ----------
    {n_components}
    covariance_type : str, default="full"
        "full", "tied", "diag" or "spherical": each component its own matrix, one matrix for all, each its own
        variances, each one variance.  Or three letters for volume, shape and axes of the components' ellipsoids, each
        E where all have it in common, V where each has its own, I for spheres or axes along the coordinates: "EII",
        "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV" (mclust's names;
        Celeux and Govaert, "Gaussian parsimonious clustering models", Pattern Recognition 28, 1995).  "VVV", "EEE",
        "VVI" and "VII" are "full", "tied", "diag" and "spherical".
    tol : float, default=1e-3
        Stop when the mean log-likelihood of a row changes by at most this.
    {convergence}
    reg_covar : float, default=1e-6
        Added to the variances.
    max_iter : int, default=100
        Most iterations of one restart.
    {n_init}
    init_params : {"kmeans", "k-means++", "random", "random_from_data", "em-em"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities.  "em-em" begins where the best of 10 short EM runs (8 iterations) arrived.
    weights_init, means_init, precisions_init : array-like or None, default=None
        Parameters to start with; with all three given, `init_params` is not used.
    {random_state, warm_start, verbose, verbose_interval, n_threads, callback}
    certify : bool, default=False
        Raise `MonotonicityError` should the log-likelihood fall by more than rounding and `reg_covar` explain.
    {keep_history}
    drop_restarts : bool, default=False
        Drop restarts early that will hardly reach the best one: about a fifth fewer iterations, and in 97 % of the
        cases the same best run.
    {escape, accelerate}
    fixed : collection of {"weights", "means", "covariances"}, default=()
        What keeps the values of `weights_init`, `means_init`, `precisions_init`; the rest is estimated.
    assignment : {"soft", "hard"}, default="soft"
        "hard": each row counts for its most probable component alone (classification EM), and `lower_bound_` is the
        mean of log p(x, z) at that component.  With equal fixed weights and one fixed sigma^2 I it is k-means.
    rescue : bool, default=False
        Move a component that has collapsed (it lost its rows, or a variance of its own in some direction is no more
        than `reg_covar`) to the worst explained row, at most 5 times a run.  The log-likelihood may fall then.
        Without this a collapse is only told in `notes_`.
    noise : bool, default=False
        Add a component that is uniform over the box around the data, for rows that belong to no cluster: `predict` says
        -1 for them, and `predict_proba` has its responsibility in the last of n_components + 1 columns.
    {checkpoint, checkpoint_every, learning_decay, first_batches, average_from, algorithm, n_blocks}

    Attributes
    ----------
    weights_ : ndarray (n_components,)
        Mixing proportions; with `noise` they add up to 1 - `noise_weight_`.
    means_ : ndarray (n_components, n_features)
        Means.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Covariances, their inverses and the upper triangular factors U of precision = U U'; (k, d, d) for "full" and
        models whose letters end with E or V, (d, d) for "tied" and "EEE", (k, d) for "diag" and letters that end with
        I, (k,) for "spherical", "VII" and "EII".  After a fit to float32 rows all of these are
        rounded to float32, as scikit-learn's; the methods go on with what was rounded.
    noise_weight_, noise_box_ : float, ndarray (2, n_features)
        Proportion of the noise, and the lowest and highest corner of its box; only with `noise`.
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
    Little and Rubin, "Statistical Analysis with Missing Data", 2nd edition, 2002.

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

    covariance_type: str
    reg_covar: float
    weights_init: Any
    means_init: Any
    precisions_init: Any
    fixed: Collection[str]
    assignment: str
    rescue: bool
    noise: bool
    weights_: np.ndarray
    means_: np.ndarray

    _fields: ClassVar = {
        "weights": "weights_",
        "means": "means_",
        "covariances": "covariances_",
        "precisions_cholesky": "precisions_cholesky_",
    }

    _saved_if_set: ClassVar = (
        "_exact_weights", "_exact_means", "_exact_covariances", "_exact_precisions_cholesky",
        *GaussianParts._saved_if_set,
    )  # fmt: skip
    _twin_module: ClassVar = "sklearn.mixture"
    _twin_attributes: ClassVar = _FITTED[:-1]
    _twin_values: ClassVar = {"init_params": {"em-em": "kmeans"}}

    @property
    def _saved(self) -> tuple[str, ...]:  # type: ignore[override]
        noise = ("noise_weight_", "noise_box_") if self.noise else ()
        return (*_FITTED[:-1], "lower_bounds_", "restarts_", *noise)

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
        accelerate: str | None = None,
        drop_restarts: bool = False,
        escape: str | None = None,
        fixed: Collection[str] = (),
        assignment: str = "soft",
        rescue: bool = False,
        noise: bool = False,
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

    def _family(self) -> GaussianFamily:
        if self.noise:
            return NoisyGaussianFamily(self.n_components, self.covariance_type, self.reg_covar, self.assignment)
        return GaussianFamily(
            self.n_components, self.covariance_type, self.reg_covar, self.fixed, self.assignment, self.rescue
        )

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
        check(self, "assignment", "a str among {'hard', 'soft'}", self.assignment in ("soft", "hard"))
        listed = isinstance(self.fixed, list | tuple | set | frozenset) and set(self.fixed) <= set(FIXABLE)
        check(self, "fixed", f"a collection of {', '.join(map(repr, FIXABLE))}", listed)
        starts = {"weights": "weights_init", "means": "means_init", "covariances": "precisions_init"}
        for name, start in starts.items():
            if name in self.fixed and getattr(self, start) is None:
                raise ValueError(f"With {name!r} in 'fixed', {start!r} must say at which values.")
        check(self, "rescue", "a bool", isinstance(self.rescue, bool))
        if self.rescue and {"means", "covariances"} & set(self.fixed):
            raise ValueError("'rescue' moves means and covariances, which must not be in 'fixed' then.")
        check(self, "noise", "a bool", isinstance(self.noise, bool))
        if self.noise and (self.fixed or self.rescue or self.accelerate is not None):
            raise ValueError("'noise' does not go with 'fixed', 'rescue' or 'accelerate'.")
        if self.accelerate is not None and self.assignment == "hard":
            raise ValueError("'accelerate' needs assignment='soft': hard assignment ends after finitely many steps.")
        super()._check_parameters()

    def _given(self, family: Any, n_features: int) -> dict[str, np.ndarray]:
        k, d, given = self.n_components, n_features, {}
        if self.weights_init is not None:
            weights = validate.proportions(self.weights_init, (k,), "weights")
            given["weights"] = weights * (1 - FIRST_SHARE) if self.noise else weights
        if self.means_init is not None:
            given["means"] = validate.shaped(self.means_init, (k, d), "means")
        if self.precisions_init is not None:
            kind = self.covariance_type
            precisions = validate.shaped(self.precisions_init, family.covariance_shape(d), f"{kind} precision")
            if family.shape.matrices:
                found = validate.symmetric(precisions, f"{kind} precision", family.shape.of_precisions)[1]
            else:
                found = family.shape.of_precisions(validate.positive(precisions, f"{kind} precision"))
            given["covariances"], given["precisions_cholesky"] = found
            rule = family.covariance.constraint
            if rule:
                given["covariances"] = rule(np.ones(k), found[0], found[0])
                given["precisions_cholesky"] = family.shape.precisions_cholesky(given["covariances"])
        return given

    def _keep_params(self, family: Any, params: GaussianParams) -> None:
        super()._keep_params(family, params)
        self.precisions_ = family.shape.precisions(params.precisions_cholesky)
        if self.noise:
            self.noise_weight_, self.noise_box_ = params.noise, params.box  # type: ignore[attr-defined]

    def _round_to(self, dtype: np.dtype) -> None:
        """Give the attributes the rows' dtype, as scikit-learn does, and keep what was rounded for the methods."""
        for field, attribute in self._fields.items():
            if dtype == np.float64:
                self.__dict__.pop(f"_exact_{field}", None)
            else:
                setattr(self, f"_exact_{field}", getattr(self, attribute))
                setattr(self, attribute, _rounded(getattr(self, attribute), dtype))
        self.precisions_ = _rounded(self.precisions_, dtype)

    def _exact(self, field: str) -> Any:
        """Return the parameters before they were rounded, unless the attribute was set to something else since."""
        public, exact = getattr(self, self._fields[field], None), getattr(self, f"_exact_{field}", None)
        if public is None or exact is None or not np.array_equal(exact.astype(np.float32), public):
            return public
        return exact

    def _fitted_params(self, family: Any) -> Any:
        box = {"box": self.noise_box_} if self.noise else {}
        factors, covariances = self._exact("precisions_cholesky"), self._exact("covariances")
        if factors is None:  # set by hand, as scikit-learn's users do: only what the method at hand needs
            factors = family.shape.precisions_cholesky(np.asarray(covariances, np.float64))
        elif family.shape.matrices:
            factors = conditionals.upper_triangular(np.asarray(factors, np.float64))
        if covariances is None:
            covariances = family.shape.inverted(family.shape.precisions(factors))
        return family.params(self._exact("weights"), self._exact("means"), covariances, factors, **box)

    @door.by_blocks
    def score_samples(self, X: Any) -> np.ndarray:
        """Return log p(x) of each row (n_samples,), in the dtype of the rows, as scikit-learn does."""
        log_prob, dtype = self._log_prob(X)
        return log_prob.astype(dtype, copy=False)

    @door.by_blocks
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the responsibilities p(z = k given x) of each row (n_samples, n_components) (lecture row L7).

        In the dtype of the rows, as scikit-learn does; with `noise` its responsibility is the last column.
        """
        X, family, prepared = self._prepared(X)
        return family.posterior(X, prepared, self._threads())[1].astype(X.dtype, copy=False)

    def _params_to_draw(self) -> tuple[Any, Any]:
        family, params = self._fitted()  # the covariances say what is drawn, as in scikit-learn, also if set by hand
        factors = family.shape.precisions_cholesky(np.asarray(params.covariances, np.float64))
        return family, params._replace(precisions_cholesky=factors)

    @door.by_blocks
    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable component of each row (n_samples,); -1 for noise."""
        return self._named(super().predict(X))

    def _named(self, parts: np.ndarray) -> np.ndarray:
        return np.where(parts == len(self.weights_), -1, parts) if self.noise else parts

    def _only(self, component: int, n_components: int) -> np.ndarray:
        return np.zeros(n_components) if self.noise and component == -1 else super()._only(component, n_components)

    def _complete_twin(self, twin: Any) -> None:
        self._without_noise()
        params = self._fitted()[1]  # complete, also where only some attributes were set by hand
        for field, attribute in self._fields.items():
            known = self._exact(field)
            setattr(twin, attribute, np.array(getattr(params, field) if known is None else known))
        twin.set_params(covariance_type=self._family().shape.name)  # what components have in common it does not know
        twin.precisions_ = self._family().shape.precisions(twin.precisions_cholesky_)
        twin.lower_bounds_ = list(getattr(self, "lower_bounds_", []))

    def _complete_from(self, model: Any) -> None:
        self.lower_bounds_ = [float(bound) for bound in getattr(model, "lower_bounds_", [])]
        self._untraced(model.lower_bound_, model.converged_)
        self.histories_ = [np.array(self.lower_bounds_)]

    @classmethod
    def from_parameters(
        cls, weights: Any, means: Any, covariances: Any, *, covariance_type: str = "full", **params: Any
    ) -> GaussianMixture:
        """Return a mixture of given parameters, as if it had been fitted.

        Parameters
        ----------
        weights : array-like (k,)
            Mixing proportions, which sum to 1.
        means : array-like (k, d)
            Means.
        covariances : array-like
            Of the shape of `covariances_`: full (k, d, d), tied (d, d), diag (k, d), spherical (k,).
        covariance_type : str, default="full"
            As in the constructor; of a model by letters, that the covariances obey it is not checked.
        **params
            Further parameters of the constructor, such as `random_state`.

        Returns
        -------
        GaussianMixture

        Raises
        ------
        ValueError
            If shapes do not fit, weights do not sum to 1, or a covariance is not symmetric and positive-definite.

        Examples
        --------
        >>> from fastem import GaussianMixture
        >>> model = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[4.0, 1.8], [1.8, 1.0]]])
        >>> model.score_samples([[2.0, 1.0]]).round(2)
        array([-2.23])
        """
        means = validate.rows(means, "means", np.float64)
        k, d = means.shape
        model = cls(k, covariance_type=covariance_type, **params)
        model._check_parameters()
        family = model._family()
        covariances = validate.shaped(covariances, family.covariance_shape(d), "covariances")
        factors = family.shape.precisions_cholesky(_positive(covariances, family, f"{covariance_type} precision"))
        weights = validate.proportions(weights, (k,), "weights")
        model.n_features_in_ = d
        return model._as_if_fitted(family, GaussianParams(weights, means, covariances, factors))

    def _check_loaded(self) -> None:
        """Check attributes that came from a file."""
        k, d = len(self.weights_), self.n_features_in_
        known = self.covariance_type in COVARIANCE_TYPES
        validate.parameter(self, "covariance_type", f"a str among {set(COVARIANCE_TYPES)}", known)
        shape = GaussianFamily(k, self.covariance_type).covariance_shape(d)
        dtypes = {
            name: np.result_type(getattr(self, name), np.float32) for name in (*self._fields.values(), "precisions_")
        }
        if self.noise:
            self.noise_box_ = validate.shaped(self.noise_box_, (2, d), "noise_box_")
            together = np.append(self.weights_, self.noise_weight_)
            self.weights_ = validate.proportions(together, (k + 1,), "weights_")[:k]
        else:
            self.weights_ = validate.proportions(self.weights_, (k,), "weights_")
        self.means_ = validate.shaped(self.means_, (k, d), "means_")
        for name in ("covariances_", "precisions_", "precisions_cholesky_"):
            setattr(self, name, validate.shaped(getattr(self, name), shape, name))
        for name, dtype in dtypes.items():  # a fit to float32 rows has rounded them
            setattr(self, name, getattr(self, name).astype(dtype, copy=False))


def _rounded(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return an array as another type; of that type, the array itself."""
    if array.dtype == dtype:
        return array
    found = pool.empty(array.shape, dtype)
    found[...] = array
    return found


def _positive(matrices: np.ndarray, family: GaussianFamily, name: str) -> np.ndarray:
    """Return covariances or precisions unchanged if they are positive."""
    return (validate.positive_definite if family.shape.matrices else validate.positive)(matrices, name)
