"""What fastem's scikit-learn classes share: the parameters of a fit, its trace, and the attributes to save."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator

from fastem import threads, validate
from fastem.engine.accelerate import METHODS
from fastem.engine.checkpoint import Checkpoint, interval
from fastem.engine.monitor import CONVERGENCES, IterationInfo, Settings
from fastem.engine.result import FitResult
from fastem.estimators.callbacks import CallbackSupportMixin, Watch

# Parameters of a run that not all estimators offer.
OFFERED = ("accelerate", "drop_restarts", "escape", "convergence")


class EMEstimator(CallbackSupportMixin, BaseEstimator):
    """Base of the estimators: checks the parameters that all have, runs the engine, keeps the trace."""

    # What `fastem.save` writes: the names of fitted attributes, arrays and scalars.
    _saved: ClassVar[tuple[str, ...]] = ()
    # The same of attributes that only some fits set, and of what the next `partial_fit` goes on from.
    _saved_if_set: ClassVar[tuple[str, ...]] = ()

    _least_max_iter: ClassVar[int] = 1

    checkpoint: Any = None  # of classes that have no such parameter
    checkpoint_every: Any = "5min"

    n_init: Any
    max_iter: int
    tol: float
    verbose: Any
    n_threads: int | None
    callback: Callable[[IterationInfo], Any] | None
    certify: bool
    keep_history: bool

    def _keep_arguments(self, arguments: dict[str, Any]) -> None:
        """Store the constructor's ``locals()`` under their own names, which is all that it may do (scikit-learn)."""
        for name, value in arguments.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def _check_shared_parameters(self) -> None:
        check = validate.parameter
        least = self._least_max_iter
        check(self, "max_iter", f"an int in the range [{least}, inf)", validate.is_int(self.max_iter, least))
        check(self, "tol", "a float in the range [0.0, inf)", validate.is_real(self.tol, 0))
        quiet = isinstance(self.verbose, bool | np.bool_) or validate.is_int(self.verbose, 0)
        check(self, "verbose", "an int in the range [0, inf) or a bool", quiet)
        methods = {name for name in METHODS if name is not None}
        self._check_offered("accelerate", f"None or a str among {methods}", METHODS)
        self._check_offered("drop_restarts", "a bool", (False, True))
        self._check_offered("escape", "None or a str among {'split-merge'}", (None, "split-merge"))
        self._check_offered("convergence", f"a str among {set(CONVERGENCES)}", CONVERGENCES)
        check(self, "callback", "a callable or None", self.callback is None or callable(self.callback))
        named = self.checkpoint is None or isinstance(self.checkpoint, str | os.PathLike)
        check(self, "checkpoint", "a str, a path or None", named)
        how_often = "an int in the range [1, inf), a timedelta or a str such as '30s', '5min' or '2h'"
        check(self, "checkpoint_every", how_often, interval(self.checkpoint_every) is not None)
        if self.n_threads is not None:
            threads.resolve(self.n_threads)

    def _check_offered(self, name: str, requirement: str, values: Collection[Any]) -> None:
        """Refuse another value of a parameter that not all estimators have."""
        value = getattr(self, name, None)
        known = not hasattr(self, name) or (isinstance(value, str | bool | None) and value in values)
        validate.parameter(self, name, requirement, known)

    def _watch(
        self, X: Any, n_init: int, fitted: Callable[[Any], dict[str, Any]], *, most: int | None = None
    ) -> Watch | None:
        """Begin to tell scikit-learn's callbacks of a fit, if there are any; `most` iterations, or `max_iter`."""
        if not getattr(self, "_skl_callbacks", None):
            return None
        return Watch(self, X, n_init, self.max_iter if most is None else most, fitted)

    def _settings(self, tol: float, watch: Watch | None = None, checkpoint: Checkpoint | None = None) -> Settings:
        return Settings(
            max_iter=self.max_iter,
            tol=tol,
            certify=self.certify,
            keep_history=self.keep_history,
            callback=self._callback(watch),
            checkpoint=checkpoint,
            n_blocks=self._most_blocks,
            **{name: getattr(self, name) for name in OFFERED if hasattr(self, name)},
        )

    @property
    def _most_blocks(self) -> int:
        """Blocks of rows with an M-step after each, at most: 1 is EM."""
        return 1

    def _callback(self, watch: Watch | None) -> Callable[[IterationInfo], Any] | None:
        if not self.verbose and watch is None:
            return self.callback

        def report(info: IterationInfo) -> Any:
            if self.verbose:
                self._print_iteration(info)
            stop = watch is not None and watch.iteration(info)
            told = self.callback(info) if self.callback is not None else None
            return True if stop else told

        return report

    def _print_iteration(self, info: IterationInfo) -> None:
        print(
            f"restart {info.restart}, iteration {info.iteration}: "
            f"objective {info.objective:.9g}, change {info.change:.3g}"
        )

    def _keep_trace(self, result: FitResult) -> None:
        """Set the attributes that tell how the fit went."""
        self.n_iter_ = result.best.n_iter
        self.restarts_ = result.restarts
        self.histories_ = result.histories
        self.notes_ = list(result.best.notes)
        if self.keep_history:
            self.history_ = result.best.history

    def _check_to_save(self) -> None:
        """Refuse a fitted model whose parameters and attributes do not fit each other: no file shall hold it."""

    def _recall_steps(self) -> None:
        """Go on from what a file holds of `partial_fit`, of classes that keep more than attributes for it."""

    def _n_collapsed(self, n_rows: float) -> int:
        """Return the number of components without variance of their own, fitted to so many rows."""
        return 0

    def _threads(self) -> int:
        return threads.resolve(self.n_threads)

    def _weights(self, sample_weight: Any, X: Any) -> np.ndarray:
        return validate.weights(sample_weight, X.shape[0], X.dtype)
