"""The door of the estimators: an array, a matrix, a frame or a stream becomes rows that are checked, and a source."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastem import validate
from fastem.sources.base import Source
from fastem.sources.csr import source_of
from fastem.sources.dask_collections import DaskRows, gathered
from fastem.sources.opening import is_stream, opened
from fastem.sources.rows import Stream
from fastem.sources.survey import Place

Method = Callable[..., Any]


def table(estimator: Any, X: Any, *, reset: bool, accept_sparse: bool = False, allow_nan: bool = False) -> Any:
    """Return an estimator's input as rows that its kernels can trust, its features checked.

    Of a stream, a `Source`, which has the shape and dtype of an array; of all else, what `validate.table` returns.

    Raises
    ------
    ValueError, TypeError
        In scikit-learn's words where it has any.
    """
    if not is_stream(X):
        return validate.table(estimator, X, reset=reset, accept_sparse=accept_sparse, allow_nan=allow_nan)
    stream = opened(X)
    check_features(estimator, stream, reset=reset)
    facts = stream.survey()
    bad = facts.infinity or (None if allow_nan else facts.nan)
    if bad is not None:
        kind = "infinity" if bad is facts.infinity else "NaN"
        raise ValueError(f"Input X contains {kind} (first at {_said(bad)}).")
    dtype = stream.dtype
    if dtype == np.float32 and facts.squares >= validate.LARGEST_SUM[np.float32]:
        dtype = np.dtype(np.float64)
    if facts.largest is not None and facts.squares >= validate.LARGEST_SUM[np.float64]:
        raise ValueError(
            f"Input X contains {facts.value:.6g} at {_said(facts.largest)}, whose square is beyond the range of "
            "float64 sums. It looks like a fill value: remove the row, or put NaN for it where the model takes "
            "missing values."
        )
    return stream.source(dtype)


def _said(place: Place) -> str:
    file = f" (data row {place.file_row + 1} of {place.file})" if place.file else ""
    return f"row {place.row}, column {place.column}{file}"


def refuse_stream(X: Any, why: str) -> None:
    """Refuse a stream where rows must be in memory; the sentence begins with `why`.

    Raises
    ------
    TypeError
        If it is one.
    """
    if is_stream(X):
        raise TypeError(f"{why} takes rows in memory: an array or a frame, not {type(X).__name__}.")


def check_features(estimator: Any, stream: Stream, *, reset: bool) -> None:
    """Take down the features of a stream, or compare them with those of the fit, as scikit-learn does.

    Raises
    ------
    ValueError
        If they are other ones.
    """
    if reset:
        estimator.n_features_in_ = len(stream.names)
        estimator.__dict__.pop("feature_names_in_", None)
        if stream.named:
            estimator.feature_names_in_ = np.array(stream.names, object)
        return
    known = getattr(estimator, "feature_names_in_", None)
    if len(stream.names) != estimator.n_features_in_:
        raise ValueError(
            f"X has {len(stream.names)} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    if known is not None and stream.named and list(known) != stream.names:
        raise ValueError(
            f"The feature names should match those that were passed during fit: {', '.join(known)}; got "
            f"{', '.join(stream.names)}."
        )


def source(
    X: Any,
    sample_weight: Any,
    n_threads: int,
    *,
    labels: np.ndarray | None = None,
    weigh: Callable[[Any, int, Any], np.ndarray] = validate.weights,
) -> Source:
    """Return what a fit passes over.

    Parameters
    ----------
    X : ndarray, CSR matrix or Source
        What `table` returned.
    sample_weight : array-like (n,) or None
        Weights; None means one each, or those of a stream's own column.
    n_threads : int
        Threads of one pass.
    labels : ndarray (n,) int32, or empty
        Known components, checked.
    weigh : callable
        `validate.weights`, or `validate.relative_weights`.
    """
    labels = np.empty(0, np.int32) if labels is None else labels
    sample_weight = gathered(sample_weight, X)
    if not isinstance(X, Source):
        return source_of(X, weigh(sample_weight, X.shape[0], X.dtype), labels, n_threads)
    if sample_weight is None and X.sample_weight.size:
        sample_weight = X.sample_weight
    given = weigh(sample_weight, len(X), X.dtype)
    w = X.empty(given.shape, given.dtype)
    w[:] = given
    made = X.having(w, labels, n_threads)
    if "has_nan" in vars(X):
        made.has_nan = X.has_nan
    return made


def looked_through(X: Any, check: Callable[[np.ndarray], Any]) -> list[Any]:
    """Return what a check of rows returns, of an array or of each block of a stream.

    Raises
    ------
    ValueError
        What `check` raises; of a stream, with the rows that it speaks of.
    """
    if not isinstance(X, Source):
        return [check(X)]

    def block(part: np.ndarray, rows: slice, n_threads: int) -> list[Any]:
        firsts = range(rows.start, rows.stop, validate.CHUNK_ROWS)
        size = validate.CHUNK_ROWS
        return [_located(check, part[first - rows.start : first - rows.start + size], first) for first in firsts]

    return [one for found in X.collect(block) for one in found]


def _located(check: Method, part: np.ndarray, first: int) -> Any:
    """Return what a check of rows returns; its refusal tells from which row on it counts."""
    try:
        return check(part)
    except ValueError as error:
        if not first:
            raise
        sentence = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{sentence}, counted from row {first} on.") from error


def by_blocks(method: Method) -> Method:
    """Let a method of rows take a stream, too, and return what it returns of arrays block by block; of Dask, lazily."""

    @functools.wraps(method)
    def call(self: Any, X: Any) -> Any:
        if not is_stream(X):
            return method(self, X)
        stream = opened(X)
        return lazily(self, method, stream) if isinstance(stream, DaskRows) else Blocks(self, method, stream)

    return call


def nameless(estimator: Any, stream: Stream) -> Any:
    """Return a fitted model of its parameters at this time, for rows that have these features but, as arrays, no names.

    Raises
    ------
    ValueError
        If it is not fitted, or was fitted to other features.
    """
    check_is_fitted(estimator)
    check_features(estimator, stream, reset=False)
    model = copy.copy(estimator)
    model.__dict__.pop("feature_names_in_", None)
    return model


def lazily(estimator: Any, method: Method, stream: DaskRows) -> Any:
    """Return what a method makes of a collection of Dask, as a collection of the same kind, not computed yet."""
    return stream.lazily(nameless(estimator, stream), method)


class Blocks:
    """What a method returns of a stream: an iterable of arrays, one for each block of rows, made when it is reached.

    Parameters
    ----------
    estimator : estimator
        A fitted model.
    method : function
        ``method(estimator, X)`` of rows in memory.
    stream : Stream
        The rows.
    """

    def __init__(self, estimator: Any, method: Method, stream: Stream) -> None:
        self._estimator = nameless(estimator, stream)
        self._method, self._stream = method, stream

    def __iter__(self) -> Iterator[Any]:
        first = 0
        with closing(self._stream.blocks()) as blocks:
            for X in blocks:
                yield _located(functools.partial(self._method, self._estimator), X, first)
                first += len(X)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all blocks as one array in memory."""
        return np.concatenate(list(self)).astype(dtype, copy=False)


def all_of(estimator: Any, method: Method, X: Any) -> tuple[np.ndarray, ...]:
    """Return the arrays that a method returns, of a stream in temporary files of its rows.

    Parameters
    ----------
    estimator : estimator
        A fitted model.
    method : function
        ``method(estimator, X)`` of rows in memory, which returns a tuple of arrays (m,).
    X : array-like or Stream
        The rows.
    """
    if not isinstance(X, Stream):
        return method(estimator, X)
    if isinstance(X, DaskRows):
        return X.all_of(nameless(estimator, X), method)
    columns: list[Any] = []
    for parts in Blocks(estimator, method, X):
        columns = columns or [X.column(part.dtype) for part in parts]
        for column, part in zip(columns, parts, strict=True):
            column.append(part)
    if not columns:
        raise ValueError("There are no rows.")
    return tuple(column.mapped() for column in columns)


def n_rows(X: Any) -> int:
    """Return how many rows there are."""
    if isinstance(X, Stream):
        return X.survey().n_rows
    return X.shape[0] if hasattr(X, "shape") else len(X)


def weights_with(X: Any, sample_weight: Any) -> Any:
    """Return given weights, or those of a stream's column."""
    sample_weight = gathered(sample_weight, X)
    if sample_weight is None and isinstance(X, Stream) and X.weighted:
        return X.weights()
    return sample_weight


def total_weight(X: Any, sample_weight: Any) -> float:
    """Return the sum of the weights as they were given; X is what `table` returned."""
    if sample_weight is None and isinstance(X, Source) and X.sample_weight.size:
        sample_weight = X.sample_weight
    given = validate.weights(gathered(sample_weight, X), len(X), np.float64)
    return float(given.sum()) if given.size else float(len(X))
