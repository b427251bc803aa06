"""Mixtures of any family for scikit-learn users: a registered one by name, or one of the user's own."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import Tags

from fastem import families, validate
from fastem.draws import Draws
from fastem.engine.monitor import IterationInfo
from fastem.estimators import door
from fastem.estimators.mixture import BaseMixture
from fastem.estimators.shared_parameters import documented
from fastem.families.base import Family


@documented
class Mixture(BaseMixture):
    """Mixture of any family, fitted by expectation-maximization.

    Parameters
    ----------
    {n_components}
    family : str, Family or class, default="gaussian-full"
        The name of a registered family (a key of `fastem.families.FAMILIES`), a family of one's own, or its class.  A
        family object serves as a pattern: it is copied, and the copy gets `n_components`.
    tol : float, default=1e-6
        Stop when the family's progress, mostly the change of the mean log-likelihood of a row, is at most this.
    {convergence, max_iter}
    n_init : int, default=1
        Number of restarts; the one with the highest objective is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        First assignment: clusters of one k-means run; the nearest of k rows chosen by k-means++ or at random; or
        random responsibilities, for families that have `accumulate_given`.
    params_init : NamedTuple or None, default=None
        Parameters to start with, of the family's own class; then `init_params` is not used.
    {random_state, warm_start, verbose, verbose_interval, n_threads, callback}
    certify : bool, default=False
        Raise `MonotonicityError` should the objective fall by more than rounding and the family's shortfall.
    {keep_history, drop_restarts, escape, checkpoint, checkpoint_every, learning_decay, first_batches}
    {average_from, algorithm, n_blocks}

    Attributes
    ----------
    params_ : NamedTuple
        The fitted parameters; each field is an attribute of its own too, with an underscore (``weights_``).
    converged_ : bool
        Whether the best restart converged.
    n_iter_ : int
        Its iterations.
    lower_bound_ : float
        Objective at its last E-step.
    lower_bounds_ : list of float
        The same at each of its iterations; it never falls.
    restarts_ : ndarray (n_init,)
        Objective that each restart reached.
    notes_ : list of str
        What the fit had to do beyond plain EM.

    References
    ----------
    docs/own_family.md writes a family in a few lines.  Lecture row L9.

    Examples
    --------
    >>> from fastem import Mixture
    >>> X = [[0.0], [1.0], [2.0], [30.0], [31.0]]
    >>> model = Mixture(2, family="poisson", random_state=0).fit(X)
    >>> sorted(model.rates_.ravel().round(1).tolist())
    [1.0, 30.5]
    """

    family: Any
    params_init: Any

    def __init__(
        self,
        n_components: int = 1,
        *,
        family: Any = "gaussian-full",
        tol: float = 1e-6,
        max_iter: int = 500,
        n_init: int = 1,
        init_params: str = "kmeans",
        params_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        n_threads: int | None = None,
        callback: Callable[[IterationInfo], Any] | None = None,
        certify: bool = False,
        keep_history: bool = False,
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

    _trace: ClassVar[tuple[str, ...]] = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "restarts_")

    def _family(self) -> Family:
        if isinstance(self.family, str):
            return families.make(self.family, self.n_components)
        if isinstance(self.family, type) and issubclass(self.family, Family):
            return self.family(self.n_components)
        if isinstance(self.family, Family):
            family = copy.copy(self.family)
            family.n_components = self.n_components
            return family
        raise TypeError(
            "family must be the name of a registered family, a fastem.families.base.Family or a subclass of it, "
            f"got {self.family!r}."
        )

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags, as the family's attributes say."""
        tags = super().__sklearn_tags__()
        with contextlib.suppress(TypeError, ValueError):  # a bad family is refused by `fit`
            family = self._family()
            tags.input_tags.allow_nan = family.allow_nan
            tags.input_tags.positive_only = family.positive_only
        return tags

    def _table(self, X: Any, *, reset: bool) -> np.ndarray:
        family = self._family()
        X = door.table(self, X, reset=reset, allow_nan=family.allow_nan)
        door.looked_through(X, family.check)
        return X

    def _given(self, family: Family, n_features: int) -> dict[str, np.ndarray]:
        if self.params_init is None:
            return {}
        if not isinstance(self.params_init, family.params):
            raise TypeError(f"params_init must be of {family.params.__name__}, got {type(self.params_init).__name__}.")
        validate.fitting(self.params_init, family.shapes(n_features), {})
        given = self.params_init._asdict()
        for name, value in given.items():
            validate.finite(np.asarray(value, np.float64), f"params_init.{name}")
        return given

    @classmethod
    def from_parameters(cls, params: Any, *, family: Any = "gaussian-full", n_features: int, **options: Any) -> Mixture:
        """Return a mixture of given parameters, as if it had been fitted.

        Parameters
        ----------
        params : NamedTuple
            Of the family's class of parameters, all arrays float64.
        family : str, Family or subclass of it
            The family.
        n_features : int
            Number of features d of a row.
        **options
            Further parameters of the constructor, such as `random_state`.

        Returns
        -------
        Mixture

        Raises
        ------
        ValueError
            If shapes do not fit each other, or a value is none that the parameter can have.

        Examples
        --------
        >>> import numpy as np, fastem
        >>> from fastem.families.discrete.poisson import PoissonParams
        >>> params = PoissonParams(np.array([0.5, 0.5]), np.array([[1.0], [9.0]]))
        >>> fastem.Mixture.from_parameters(params, family="poisson", n_features=1).predict([[0], [12]])
        array([0, 1])
        """
        k = len(params[0])
        return cls._made_of(k, n_features, {"params_init": params}, {"family": family, **options})

    def _attributes(self) -> dict[str, str]:
        return {field: f"{field}_" for field in self._family().params._fields}

    def _keep_params(self, family: Family, params: Any) -> None:
        for field, attribute in self._attributes().items():
            setattr(self, attribute, getattr(params, field))

    def _fitted_params(self, family: Family) -> Any:
        return family.params(**{field: getattr(self, name) for field, name in self._attributes().items()})

    @property
    def params_(self) -> Any:
        """The fitted parameters, as the family's NamedTuple."""
        return self._fitted_params(self._family())

    @property
    def _saved(self) -> tuple[str, ...]:  # type: ignore[override]
        if not isinstance(self.family, str):
            raise TypeError("Cannot save a Mixture of one's own family: a file cannot name it. Save its params_.")
        return (*self._attributes().values(), *self._trace)

    def _check_loaded(self) -> None:
        """Check attributes that came from a file: a start from them must have the shapes that the family makes."""
        family = self._family()
        example = family.example_params(self.n_features_in_, Draws(0))
        for field, attribute in self._attributes().items():
            setattr(
                self, attribute, validate.shaped(getattr(self, attribute), getattr(example, field).shape, attribute)
            )
