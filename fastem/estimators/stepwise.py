"""Fits in parts of the estimators with a density, whose parameters follow each part of the rows.

`partial_fit` takes batch after batch (stepwise EM, `engine/stepwise.py`); ``algorithm="incremental"`` of `fit` takes
block after block of rows that can be read again (`engine/incremental.py`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from fastem import validate
from fastem.draws import Draws
from fastem.engine.problem import Problem
from fastem.engine.stepwise import Pace, Stepwise
from fastem.estimators import door
from fastem.estimators.density import DensityEstimator
from fastem.families.base import Family
from fastem.sources.base import Source

ALGORITHMS = ("em", "incremental")
# Parameters that have no meaning between the blocks of a pass, and why.
AGAINST_BLOCKS = {
    "accelerate": "an extrapolation is judged by the log-likelihood of all rows at one set of parameters",
    "rescue": "components are moved by what all rows say at one set of parameters",
    "checkpoint": "a run in blocks keeps records that no checkpoint holds",
}
# What tells how a fit went, which has no meaning for batches.
TRACES = ("lower_bounds_", "restarts_", "histories_", "history_", "loglike_")


class StepwiseEstimator(DensityEstimator):
    """Base of the estimators that take rows batch by batch.

    A subclass has the parameters learning_decay, first_batches, average_from, algorithm and n_blocks; it says how a run
    begins (`_first_params`) and which attributes its parameters become (`_keep_params`).
    """

    algorithm: str
    n_blocks: int
    learning_decay: float
    first_batches: int
    average_from: int | None
    random_state: Any

    n_samples_seen_: int
    converged_: bool
    lower_bound_: float

    _saved_if_set: ClassVar[tuple[str, ...]] = ("n_samples_seen_", "_steps")

    def _check_parameters(self) -> None:
        """Refuse bad parameters."""
        check = validate.parameter
        decay = validate.is_real(self.learning_decay, 0) and 0.5 < self.learning_decay <= 1
        check(self, "learning_decay", "a float in the range (0.5, 1.0]", decay)
        check(self, "first_batches", "an int in the range [1, inf)", validate.is_int(self.first_batches, 1))
        averaged = self.average_from is None or validate.is_int(self.average_from, 1)
        check(self, "average_from", "an int in the range [1, inf) or None", averaged)
        check(self, "algorithm", f"a str among {set(ALGORITHMS)}", self.algorithm in ALGORITHMS)
        check(self, "n_blocks", "an int in the range [1, inf)", validate.is_int(self.n_blocks, 1))
        self._check_shared_parameters()
        if self.algorithm == "incremental":
            for name, why in AGAINST_BLOCKS.items():
                if getattr(self, name, None) not in (None, False):
                    raise ValueError(f"algorithm='incremental' does not go with {name!r}: {why}.")

    @property
    def _most_blocks(self) -> int:
        return int(self.n_blocks) if self.algorithm == "incremental" else 1

    def _check_order(self, source: Source) -> None:
        """Refuse rows that cannot be read one block after another.

        Raises
        ------
        TypeError
            If blocks are asked for.
        """
        if self._most_blocks > 1 and not source.reads_in_order:
            raise TypeError(
                "algorithm='incremental' takes rows in memory or in files, not Dask's collections: each block waits "
                "for the M-step before it, so that workers would wait for each other."
            )

    def _family_to_fit(self) -> Any:
        """Return the family as the parameters say it, whatever is fitted."""
        return self._family()

    def _first_params(self, problem: Problem, draws: Draws) -> Any:
        """Return the parameters that a run begins with, made of its first batch."""
        raise NotImplementedError

    def _begins_alone(self, family: Family) -> bool:
        """Tell whether all parameters to begin with are given, so that none is made of the first batch."""
        return False

    def _keep_params(self, family: Family, params: Any) -> None:
        """Set the fitted attributes."""
        raise NotImplementedError

    def _round_to(self, dtype: np.dtype) -> None:
        """Give the fitted attributes the rows' dtype, where scikit-learn's class does."""

    def _warn(self, notes: tuple[str, ...]) -> None:
        """Warn of what a user should know."""

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Go on with the rows of one batch, which need not be seen again: stepwise EM.

        The batch is met by one E-step at the parameters so far and one M-step on statistics in which what was seen
        before has its share, as `learning_decay` says.  The first call chooses a start among its rows by `init_params`,
        or begins with the parameters that are given; after `fit` it begins with the fitted parameters, and what was
        seen by `fit` has no share.

        Parameters
        ----------
        X : array-like or stream (n_samples, n_features)
            The batch, as for `fit`.  Batches should be alike: rows in the order of their classes mislead a start.
        y : ignored
        sample_weight : array-like (n_samples,) or None
            Weights of the rows, at least 0; batches count by their weight.

        Returns
        -------
        object
            self.  `n_iter_` counts the batches, `n_samples_seen_` the rows, and `lower_bound_` is the mean
            log-likelihood of the batch's rows at the parameters before it.

        Raises
        ------
        ValueError
            On bad parameters, values that the family cannot have, another number of features or components than
            before, a column without any value, or a first batch of fewer rows than components.

        References
        ----------
        Cappe and Moulines, "On-line expectation-maximization algorithm for latent data models", JRSS B 71, 2009.
        """
        self._check_parameters()
        fitted = hasattr(self, "converged_")
        X = self._table(X, reset=not fitted)
        source = door.source(X, sample_weight, self._threads())
        run: Stepwise | None = getattr(self, "_stepwise", None)
        if run is None:
            run = self._begun(source, fitted)
        run = self._with_parameters(run, X.shape[1]).after(source, self._pace())
        self._stepwise = run
        self._keep_params(run.serving, run.best())
        self._round_to(X.dtype)
        self.converged_, self.n_iter_, self.n_samples_seen_ = False, run.n_batches, run.n_rows
        self.lower_bound_, self.notes_ = run.objective, list(run.notes)
        for name in TRACES:
            self.__dict__.pop(name, None)
        self._warn(run.notes)
        return self

    def _pace(self) -> Pace:
        return Pace(float(self.learning_decay), int(self.first_batches), self.average_from)

    def _begun(self, source: Source, fitted: bool) -> Stepwise:
        """Return a run of no batches: from the fitted parameters, from given ones or from a start among the rows."""
        if fitted:
            return Stepwise(*self._fitted())
        family = self._family_to_fit()
        if source.n_rows < family.n_components and not self._begins_alone(family):
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {family.n_components}, n_samples = "
                f"{source.n_rows} in the first batch of partial_fit, which chooses the start among its rows."
            )
        problem = Problem(source, family)
        if problem.family.allow_nan and source.has_nan:
            source.refuse_empty_columns()
        return Stepwise(family, self._first_params(problem, Draws(validate.seed(self.random_state))))

    def _with_parameters(self, run: Stepwise, n_features: int) -> Stepwise:
        """Return the run of the family as the parameters say it now; refuse one that cannot go on with it."""
        same = run.of_family(self._family_to_fit(), n_features)
        if same is None:
            raise ValueError(
                "partial_fit goes on from the model that it began, whose parameters have the shapes "
                f"{', '.join(str(np.shape(field)) for field in run.params)}, but those of this {type(self).__name__} "
                "say another model now: set them back, or call fit."
            )
        return same

    def _forget_batches(self) -> None:
        """Let a fit be none of batches."""
        for name in ("_stepwise", "n_samples_seen_"):
            self.__dict__.pop(name, None)

    @property
    def _steps(self) -> dict[str, Any]:
        """What the next `partial_fit` goes on from, to be saved; no attribute of other fits."""
        if not hasattr(self, "_stepwise"):
            raise AttributeError("_steps")
        return self._stepwise.state()

    @_steps.setter
    def _steps(self, state: dict[str, Any]) -> None:
        self.__dict__["_saved_steps"] = state

    def _recall_steps(self) -> None:
        """Go on from what a file holds of `partial_fit`; called when all other attributes are there."""
        state = self.__dict__.pop("_saved_steps", None)
        if state is not None:
            run = Stepwise.recalled(self._family_to_fit(), self.n_features_in_, state)
            self._stepwise = self._with_parameters(run, self.n_features_in_)
