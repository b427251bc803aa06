"""scikit-learn's callback protocol (from its version 1.9 on): progress bars and monitors of any package watch a fit.

A fit is a task, each restart a subtask of it, each iteration one of its restart.  Where scikit-learn is older,
estimators have no `set_callbacks`.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: there is no protocol."""

    def with_callbacks(method: Any) -> Any:
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Watch", "warn", "with_callbacks"]


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called fastem, however many frames of its own and of `with_callbacks` lie between."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("fastem.", "sklearn.callback.")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


class Watch:
    """The tasks of one fit, told to the callbacks that `set_callbacks` was given.

    Parameters
    ----------
    estimator : EMEstimator
        The one that is being fitted.
    X : array or CSR matrix
        Its rows.
    n_init : int
        Restarts.
    max_iter : int or None
        The most iterations of each; None where nobody knows.
    fitted : callable
        Returns, for parameters of the family, the fitted attributes of an estimator that had stopped there.
    """

    def __init__(
        self, estimator: Any, X: Any, n_init: int, max_iter: int | None, fitted: Callable[[Any], dict[str, Any]]
    ) -> None:
        self.estimator, self.X, self.max_iter, self.fitted = estimator, X, max_iter, fitted
        self.lock = threading.Lock()  # restarts may run side by side
        self.restarts: dict[int, Any] = {}
        self.root = estimator._init_callback_context(max_subtasks=n_init, sequential_subtasks=False)
        self.root.call_on_fit_task_begin(estimator=estimator, X=X)

    def iteration(self, info: Any) -> bool:
        """Tell of an iteration; return whether a callback wants its restart to stop."""
        with self.lock:
            if info.restart not in self.restarts:
                context = self.root.subcontext(
                    task_name="restart", task_id=info.restart, max_subtasks=self.max_iter, sequential_subtasks=True
                )
                self.restarts[info.restart] = context.call_on_fit_task_begin(estimator=self.estimator, X=self.X)
            task = self.restarts[info.restart].subcontext(task_name="iteration")
            task.call_on_fit_task_begin(estimator=self.estimator, X=self.X)
            stop = task.call_on_fit_task_end(
                estimator=self.estimator, X=self.X, reconstruction_attributes=lambda: self.fitted(info.params)
            )
        return bool(stop)

    def end(self, params: Any) -> None:
        """Tell that the restarts, and the fit, have ended at these parameters."""
        for context in (*self.restarts.values(), self.root):
            context.call_on_fit_task_end(
                estimator=self.estimator, X=self.X, reconstruction_attributes=lambda: self.fitted(params)
            )
