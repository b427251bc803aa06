"""What the models of many groups say of new rows, each row by its own group's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from fastem import threads
from fastem.many.grouping import Batch, Grouped, gather
from fastem.many.loop import LARGE


def ask(result: Any, given: tuple[Any, Any, Any, Any], question: str, none: float, dtype: Any) -> Any:
    """Return what every row's model answers.

    Parameters
    ----------
    result : ManyFits
        The models.
    given : tuple
        ``(X, groups, offsets, by)`` as in `fastem.fit_many`.
    question : {"predict", "score_samples"}
        The method to ask.
    none : float
        The answer for rows that no model answers for.
    dtype : dtype
        Of the answers.

    Returns
    -------
    ndarray or list of ndarray
        In the form of the rows.
    """
    rows = _gathered(result, *given)
    numbers = _numbers(result, rows)
    answers = np.full(int(rows.layout.offsets[-1]), none, dtype)
    for batch in rows.batches():
        n_groups = len(batch.offsets) - 1
        run = slice(rows.layout.offsets[batch.first], rows.layout.offsets[batch.first + n_groups])
        own = numbers[batch.first : batch.first + n_groups]
        answers[run if rows.layout.order is None else rows.layout.order[run]] = _of_batch(
            result, batch, own, question, np.full(len(batch.X), none, dtype)
        )
    _tell(rows, numbers, answers, none)
    return rows.layout.shaped(answers)


def _gathered(result: Any, X: Any, groups: Any, offsets: Any, by: Any) -> Grouped:
    """Read new rows in the form in which the models know them."""
    layout, names = result._layout, result._names
    if layout.form == "columns":
        if not (groups is None and offsets is None and by is None):
            raise ValueError(
                "The groups are columns, and every row belongs to all: groups, offsets and by say nothing."
            )
        n_needed = 1 + max(int(np.max(columns)) for columns in layout.slices)
        if np.ndim(X) == 2 and np.shape(X)[1] < n_needed:
            raise ValueError(f"X has {np.shape(X)[1]} features, but the groups are made of {n_needed}.")
        return gather(X, columns=layout.slices)
    is_frame = hasattr(X, "iloc") or hasattr(X, "__arrow_c_stream__")
    if is_frame and groups is None and offsets is None and by is None and not layout.keys.positional:
        by = layout.keys.names
    rows = gather(X, groups, offsets, by, (names or None) if by is not None else None)
    got, expected = rows.pieces[0].shape[1], result.n_features[0]
    if got != expected:
        raise ValueError(f"X has {got} features, but ManyFits is expecting {expected} features as input.")
    return rows


def _numbers(result: Any, rows: Grouped) -> np.ndarray:
    """Return the number of the model of each group of new rows (groups,), -1 if there is none."""
    known, new = result._layout.keys, rows.layout.keys
    if new.positional and known.positional and len(new) != len(known) and rows.layout.form != "rows":
        raise ValueError(f"X has {len(new)} groups without keys, and there are models of {len(known)}.")
    if new.positional and not known.positional:
        raise ValueError("The groups of these models have keys: say by groups= which rows are whose.")
    numbers = known.find(new.columns())
    return np.where((numbers >= 0) & result.has_model[numbers], numbers, -1)


def _of_batch(result: Any, batch: Batch, numbers: np.ndarray, question: str, answers: np.ndarray) -> np.ndarray:
    """Fill in the answers for the rows of a batch whose groups have models of these numbers."""

    def answer(group: int) -> None:
        rows = slice(batch.offsets[group], batch.offsets[group + 1])
        if numbers[group] >= 0 and rows.start < rows.stop:
            model = result._model(int(numbers[group]))
            model.__dict__.pop("feature_names_in_", None)  # arrays have none
            _fill(model, batch.X[rows], question, answers[rows])

    threads.map_tasks(answer, len(numbers), threads.resolve(result.estimator.n_threads))
    return answers


def _fill(model: Any, X: np.ndarray, question: str, answers: np.ndarray) -> None:
    """Fill in a model's answers, but for rows with values that it cannot take."""
    model.n_threads = 1 if X.size < LARGE else model.n_threads
    with np.errstate(over="ignore", invalid="ignore"):
        ordinary = bool(np.isfinite(X.sum(dtype=np.float64)))
    if ordinary:
        answers[:] = getattr(model, question)(X)
        return
    good = ~(np.isinf(X) if model.__sklearn_tags__().input_tags.allow_nan else ~np.isfinite(X)).any(axis=1)
    if good.any():
        answers[good] = getattr(model, question)(X[good])


def _tell(rows: Grouped, numbers: np.ndarray, answers: np.ndarray, none: float) -> None:
    """Warn of rows that no model has answered for."""
    sizes = np.diff(rows.layout.offsets)
    others = int(sizes[numbers < 0].sum())
    silent = int(np.isnan(answers).sum()) if np.isnan(none) else int((answers == none).sum())
    if silent:
        label = "NaN" if np.isnan(none) else str(int(none))
        warnings.warn(
            f"{silent} of {len(answers)} rows got {label}: {others} are of {int((numbers < 0).sum())} groups without a "
            f"model, {silent - others} have values that their model cannot take.",
            UserWarning,
            stacklevel=4,
        )
