"""Mixtures for scikit-learn users: what all families share, and the class for a family of one's own."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
from sklearn.base import DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from fastem import pool, threads, validate
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import IterationInfo
from fastem.engine.problem import Problem, SharedCenters
from fastem.estimators import checkpoints, door
from fastem.estimators.callbacks import warn, with_callbacks
from fastem.estimators.density import DensityEstimator
from fastem.estimators.stepwise import StepwiseEstimator
from fastem.families.base import Family
from fastem.starts.mixture import MIXTURE_INITS, MixtureStart

# Notes of these words become warnings.
GRAVE = ("was singular", "objective fell")


class BaseMixture(DensityMixin, StepwiseEstimator):
    """A mixture model of any family: fit, predict, score, sample and information criteria.

    A subclass has the parameters of `StepwiseEstimator` and n_components, init_params, warm_start and verbose_interval;
    it says which family it fits and under which names the family's parameters are kept.
    """

    n_components: int
    init_params: str
    warm_start: bool
    verbose_interval: int
    random_state: Any
    lower_bound_: float

    score = DensityEstimator.score  # that of scikit-learn's mixin takes no weights

    _least_max_iter: ClassVar[int] = 0  # the start itself, as in scikit-learn

    _shared_centers: SharedCenters | None = None  # those of other fits to the same rows, while `select` fits

    def _given(self, family: Family, n_features: int) -> dict[str, np.ndarray]:
        """Return the parameters that the user starts with, checked, by field."""
        return {}

    def _start(self, given: dict[str, np.ndarray]) -> em.Start:
        """Return what makes the parameters that a restart begins with."""
        return MixtureStart(self.init_params, given)

    def _table(self, X: Any, *, reset: bool) -> np.ndarray:
        """Return rows that the family's kernels can trust."""
        return door.table(self, X, reset=reset)

    def _check_parameters(self) -> None:
        check = validate.parameter
        check(self, "n_components", "an int in the range [1, inf)", validate.is_int(self.n_components, 1))
        check(self, "n_init", "an int in the range [1, inf)", validate.is_int(self.n_init, 1))
        check(self, "init_params", f"a str among {set(MIXTURE_INITS)}", self.init_params in MIXTURE_INITS)
        check(self, "verbose_interval", "an int in the range [1, inf)", validate.is_int(self.verbose_interval, 1))
        super()._check_parameters()

    def _first_params(self, problem: Problem, draws: Draws) -> Any:
        return self._start(self._given(problem.family, problem.source.n_features))(problem, draws)

    def _begins_alone(self, family: Family) -> bool:
        return set(self._given(family, self.n_features_in_)) == set(family.params._fields)

    @with_callbacks
    @pool.keeping
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, labels: Any = None) -> BaseMixture:
        """Estimate the parameters.

        Parameters
        ----------
        X : array-like or stream (n_samples, n_features)
            Rows; float32 is read as float32, all else becomes float64.  A stream is what `fastem.rows` takes or gives.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0; a row of weight m counts as m rows.
        labels : array-like of int (n_samples,) or None
            Known components, -1 where unknown (lecture row L6).  All known: maximum likelihood in one step, as in
            discriminant analysis.  Some known: semi-supervised EM.

        Returns
        -------
        object
            self.

        Raises
        ------
        ValueError
            On bad parameters, values that the family cannot have, fewer rows than components, bad weights or labels.
        """
        self._check_parameters()
        X = self._table(X, reset=True)
        if X.shape[0] < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components but got "
                f"n_components = {self.n_components}, n_samples = {X.shape[0]}"
            )
        known = validate.labels(labels, len(X), self.n_components)
        source = door.source(X, sample_weight, self._threads(), labels=known, weigh=validate.relative_weights)
        self._check_order(source)
        problem = Problem(source, self._family(), centers=self._shared_centers)
        family = problem.family
        if family.allow_nan and source.has_nan:
            source.refuse_empty_columns()
        warm = self.warm_start and hasattr(self, "converged_")
        n_init = 1 if warm else self.n_init
        watch = self._watch(X, n_init, lambda params: self._fitted_to(family, params))
        in_batches = hasattr(self, "_stepwise")  # whose bound is of the last one
        seed, reached = validate.seed(self.random_state), self.lower_bound_ if warm and not in_batches else -np.inf
        goes_on_from = list(self._fitted()[1]) if warm and self.checkpoint is not None else None
        checkpoint = checkpoints.opened(self, source, seed, start=goes_on_from)
        if not warm:
            with threads.allowing(source.n_threads):
                given = self._given(family, X.shape[1])
        result = em.run(
            problem,
            self._last_params if warm else self._start(given),
            settings=self._settings(self.tol, watch, checkpoint),
            n_init=n_init,
            seed=seed if checkpoint is None else checkpoint.seed,
            reached=reached,
        )
        self._forget_batches()
        self._keep_trace(result)
        self.converged_ = result.best.converged
        self.lower_bound_ = result.best.objective
        self.lower_bounds_ = result.best.objectives.tolist()
        with threads.allowing(source.n_threads):
            self._keep_params(family, result.best.params)
            self._round_to(X.dtype)
        if checkpoint is not None:
            checkpoint.remove()
        if watch is not None:
            watch.end(result.best.params)
        self._warn(result.best.notes)
        return self

    def _fitted_to(self, family: Family, params: Any) -> dict[str, Any]:
        """Return the attributes of an estimator that is fitted with these parameters."""
        other = copy.copy(self)
        other._keep_params(family, params)
        other.converged_ = False
        return {name: value for name, value in vars(other).items() if name.endswith("_")}

    def _keep_params(self, family: Family, params: Any) -> None:
        """Set the fitted attributes."""
        for field, attribute in self._fields.items():
            setattr(self, attribute, getattr(params, field))

    @classmethod
    def _made_of(cls, n_components: int, n_features: int, starts: dict[str, Any], options: dict[str, Any]) -> Any:
        """Return a mixture whose parameters are those that a fit would begin with, checked as there.

        Parameters
        ----------
        n_components, n_features : int
            The model's shape.
        starts : dict
            Parameters of the constructor that say where a fit begins: all of them.
        options : dict
            Its other parameters.
        """
        model = cls(n_components, **starts, **options)
        model._check_parameters()
        model.n_features_in_ = n_features
        family = model._family()
        params = family.params(**model._given(family, n_features))
        validate.fitting(params, family.shapes(n_features), {})
        model.set_params(**dict.fromkeys(starts))
        return model._as_if_fitted(family, params)

    def _as_if_fitted(self, family: Family, params: Any) -> Any:
        """Keep parameters that no fit of this object has found."""
        self._keep_params(family, params)
        self.converged_, self.n_iter_, self.lower_bound_ = True, 0, np.nan
        self.lower_bounds_, self.restarts_, self.histories_, self.notes_ = [], np.empty(0), [], []
        return self

    def _round_to(self, dtype: np.dtype) -> None:
        """Give the fitted attributes the rows' dtype, where scikit-learn's class does."""

    def _last_params(self, problem: Problem, draws: Draws) -> Any:
        family, params = self._fitted()
        if family.n_components != self.n_components:
            raise ValueError(
                f"warm_start goes on from the {family.n_components} components that were fitted, but n_components is "
                f"{self.n_components}: set it back, or warm_start=False."
            )
        return params

    def _fitted_family(self) -> Any:
        family = self._family()  # the arrays count, not `n_components`, which may have changed since
        family.n_components = len(getattr(self, next(iter(self._attributes().values()))))
        return family

    def _check_to_save(self) -> None:
        """Refuse fitted attributes that do not fit each other or `n_components`."""
        k = self._fitted()[0].n_components
        if k != self.n_components:
            raise ValueError(f"n_components is {self.n_components}, but the fitted attributes are of {k} components")

    def _params_to_draw(self) -> tuple[Any, Any]:
        """Return the family and the parameters that rows are drawn from."""
        return self._fitted()

    def _warn(self, notes: tuple[str, ...]) -> None:
        # What a fit had to do is in notes_; where scikit-learn would give up, or where something is wrong, it is said.
        grave = [note for note in notes if any(words in note for words in GRAVE)]
        if grave:
            warn(f"{grave[0]} ({len(notes)} note(s) in notes_).", ConvergenceWarning)
        in_batches = hasattr(self, "_stepwise")
        if not self.converged_ and self.callback is None and self.max_iter > 0 and not in_batches:
            warn(
                "Best performing initialization did not converge. Try different init parameters, or increase "
                "max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
            )

    def _print_iteration(self, info: IterationInfo) -> None:
        if info.iteration % self.verbose_interval == 0:
            super()._print_iteration(info)

    @door.by_blocks
    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable component of each row (n_samples,)."""
        X, family, prepared = self._prepared(X)
        return family.most_probable(X, prepared, self._threads()).astype(np.int64, copy=False)

    @door.by_blocks
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the responsibilities p(z = k given x) of each row (n_samples, n_components) (lecture row L7)."""
        X, family, prepared = self._prepared(X)
        return family.posterior(X, prepared, self._threads())[1]

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None, *, labels: Any = None) -> np.ndarray:
        """Estimate the parameters and return the most probable component of each row (n_samples,); see `fit`."""
        X = door.opened(X)
        return self.fit(X, sample_weight=sample_weight, labels=labels).predict(X)

    def sample(
        self, n_samples: int = 1, *, random_state: Any = None, component: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows from the fitted mixture, or from one of its components.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState, Generator or None
            Seed; None means the estimator's own, by which every call draws the same rows.
        component : int or None
            The component to draw from; -1 is the noise of a mixture that has one.  None means all, by their weights.

        Returns
        -------
        X : ndarray (n_samples, n_features)
            Rows, ordered by component.
        y : ndarray (n_samples,)
            The component of each; -1 for noise.

        Raises
        ------
        ValueError
            If `n_samples` is no positive integer, or there is no such component.
        """
        check_is_fitted(self)
        if not validate.is_int(n_samples, 1):
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples!r} . The sampling requires at least one sample."
            )
        family, params = self._params_to_draw()
        if component is not None:
            params = params._replace(weights=self._only(component, len(params.weights)))
        seed = validate.seed(self.random_state if random_state is None else random_state)
        X, parts = family.sample(params, n_samples, Draws(seed))
        return X, self._named(parts)

    def _named(self, parts: np.ndarray) -> np.ndarray:
        """Return the parts of the family's mixture as users call them."""
        return parts

    def _only(self, component: int, n_components: int) -> np.ndarray:
        """Return the weights (k,) with which all rows are drawn from one component."""
        if not (validate.is_int(component, 0) and component < n_components):
            raise ValueError(f"component must be an int in [0, {n_components}), got {component!r}.")
        return np.eye(n_components)[component]

    def _n_collapsed(self, n_rows: float) -> int:
        family, params = self._fitted()
        return int(family.degenerate(params, n_rows).sum())
