"""The one place that checks and converts input; the kernels behind it trust what they get.

Refusals are ValueError or TypeError with one sentence: what is wrong, where, and the offending value or shape.  Where
scikit-learn has a text for the same mistake, its wording is used.  Only functions that serve estimators import
scikit-learn, inside.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from fastem import threads
from fastem._native import nearest

FLOATS = (np.float64, np.float32)
# Weights are taken as they are if their mean is at most this, and at least its inverse.
COUNTS = 1e6
# Rows that are looked through at a time.
CHUNK_ROWS = 1 << 16
# Rows and columns of a square of a matrix that is compared with its mirror image: they stay in the second cache.
SQUARE = 128
# The sum of squares of all values may be this part of the largest number; the rest is room for sums of their products.
ROOM: dict[type[np.floating[Any]], float] = {np.float32: 1 / 16, np.float64: 1e-8}
LARGEST_SUM = {dtype: float(np.finfo(dtype).max) * room for dtype, room in ROOM.items()}


def rows(
    X: Any, name: str = "X", dtype: Any = None, n_features: int | None = None, *, allow_nan: bool = False
) -> np.ndarray:
    """Return `X` as a finite C-contiguous float32 or float64 array (n, d); copied only if it must be converted.

    With `allow_nan`, NaN stands for a missing value and is let through; infinity is not.

    Raises
    ------
    ValueError
        If X is not two-dimensional, is empty, holds NaN or infinity, or has another number of columns than
        `n_features`.
    TypeError
        If X is complex or not numeric.
    """
    X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: {name} must have shape (n_rows, n_features)."
        )
    if X.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numeric, got dtype {X.dtype}.")
    if 0 in X.shape:
        raise ValueError(f"Found array with shape {X.shape}: {name} needs at least one row and one feature.")
    if n_features is not None and X.shape[1] != n_features:
        raise ValueError(f"{name} has {X.shape[1]} features, but {n_features} features were expected.")
    wanted = dtype if dtype is not None else (X.dtype if X.dtype in FLOATS else np.float64)
    X = np.ascontiguousarray(X, dtype=wanted)
    finite(X, name, allow_nan=allow_nan)
    return X


def finite(X: np.ndarray, name: str, *, allow_nan: bool = False) -> None:
    """Refuse NaN, unless it is allowed, and infinity, naming the first place.

    Raises
    ------
    ValueError
        With the row and column of the first value that is not finite.
    """
    if np.isfinite(X.sum(dtype=np.float64)):  # one pass without a mask; an overflowing sum falls through
        return
    bad = np.argwhere(np.isinf(X) if allow_nan else ~np.isfinite(X))
    if len(bad):
        place = ", ".join(f"{axis} {index}" for axis, index in zip(("row", "column"), bad[0].tolist(), strict=False))
        kind = "NaN" if np.isnan(X[tuple(bad[0])]) else "infinity"
        raise ValueError(f"Input {name} contains {kind} (first at {place}).")


def refuse_empty(columns: np.ndarray) -> None:
    """Refuse data with columns that have no value; `columns` (d,) bool tells which.

    Raises
    ------
    ValueError
        With the number of the first such column.
    """
    if np.any(columns):
        first = int(np.argmax(columns))
        raise ValueError(f"Column {first} of X has no value: it is missing (NaN) in every row that has weight.")


def weights(sample_weight: Any, n_rows: int, dtype: Any) -> np.ndarray:
    """Return `sample_weight` as an array (n,) of `dtype`, or an empty array for None (unit weights).

    Raises
    ------
    ValueError
        If the weights have the wrong shape, are negative or not finite, or are all zero.
    """
    if sample_weight is None:
        return np.empty(0, dtype)
    if isinstance(sample_weight, numbers.Number):
        sample_weight = np.full(n_rows, sample_weight)
    w = np.asarray(sample_weight)
    if w.dtype == object:
        w = _as_numbers(w)
    if w.ndim != 1:
        raise ValueError(f"Sample weights must be 1D array or scalar, got {w.ndim}D array.")
    if w.shape != (n_rows,):
        raise ValueError(f"sample_weight.shape == {w.shape}, expected {(n_rows,)}!")
    if w.dtype.kind not in "fiub":
        raise TypeError(f"sample_weight must be numeric, got dtype {w.dtype}.")
    w = np.ascontiguousarray(w, dtype=dtype)
    finite(w, "sample_weight")
    if np.any(w < 0):
        row = int(np.argmax(w < 0))
        raise ValueError(f"Negative values in data passed to `sample_weight`: {w[row]} at row {row}.")
    if not np.any(w > 0):
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return w


def relative_weights(sample_weight: Any, n_rows: int, dtype: Any) -> np.ndarray:
    """Return `weights` for a model that depends on their ratios alone, brought to the size of counts if they are not.

    They are multiplied by a power of two, which changes no digit: thresholds below which a component has lost its rows,
    and the range of float32, are those of counts.

    Raises
    ------
    ValueError
        As `weights`.
    """
    if sample_weight is None:
        return np.empty(0, dtype)
    w = weights(sample_weight, n_rows, np.float64)
    usual = float(w.sum() / np.count_nonzero(w))
    if not 1 / COUNTS <= usual <= COUNTS:
        w = np.ldexp(w, -int(np.frexp(usual)[1]))
    return w.astype(dtype, copy=False)


def _as_numbers(values: np.ndarray) -> np.ndarray:
    """Return an array of objects as float64, as scikit-learn takes it from frames."""
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError("sample_weight must be numeric, got dtype object with values that are no numbers.") from None


def labels(value: Any, n_rows: int, n_components: int) -> np.ndarray:
    """Return known labels as int32 (n,), -1 for unknown, or an empty array for None.

    Raises
    ------
    ValueError
        If the shape differs, or a label is no integer in [-1, n_components).
    """
    if value is None:
        return np.empty(0, np.int32)
    given = np.asarray(value)
    if given.shape != (n_rows,):
        raise ValueError(f"labels.shape == {given.shape}, expected {(n_rows,)}!")
    if given.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, -1 for unknown; got dtype {given.dtype}.")
    bad = np.flatnonzero((given < -1) | (given >= n_components))
    if bad.size:
        raise ValueError(f"labels must lie in [-1, {n_components}), got {given[bad[0]]} at row {bad[0]}.")
    return np.ascontiguousarray(given, dtype=np.int32)


def centers(init: Any, n_clusters: int, n_features: int) -> np.ndarray:
    """Return given centres as float64 (k, d).

    Raises
    ------
    ValueError
        If the shape is not (n_clusters, n_features) or a value is not finite.
    """
    init = np.asarray(init, dtype=np.float64)
    if init.ndim != 2:
        raise ValueError(f"Expected 2D array, got {init.ndim}D array instead: the initial centers.")
    if init.shape[0] != n_clusters:
        raise ValueError(
            f"The shape of the initial centers {init.shape} does not match the number of clusters {n_clusters}."
        )
    if init.shape[1] != n_features:
        raise ValueError(
            f"The shape of the initial centers {init.shape} does not match the number of features of the data "
            f"{n_features}."
        )
    finite(init, "init")
    return np.ascontiguousarray(init)


def output(out: Any, shape: tuple[int, ...], dtype: Any, name: str) -> np.ndarray:
    """Return a caller's output buffer, or a new one for None.

    Raises
    ------
    ValueError
        If the buffer has another shape or dtype, is not C-contiguous, or is read-only.
    """
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype or not out.flags.carray:
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(
            f"{name} must be a writable C-contiguous {np.dtype(dtype).name} array of shape {shape}, got {got}."
        )
    return out


def seed(random_state: Any) -> int:
    """Return the seed of a fit from scikit-learn's `random_state` (None, int, RandomState or Generator)."""
    if isinstance(random_state, numbers.Integral):
        if random_state < 0:
            raise ValueError(f"random_state must be at least 0, got {random_state}.")
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    from sklearn.utils import check_random_state

    return int(check_random_state(random_state).randint(2**31 - 1))


def parameter(owner: Any, name: str, requirement: str, accepted: bool) -> None:
    """Refuse a constructor parameter in scikit-learn's words.

    Raises
    ------
    InvalidParameterError
        scikit-learn's, a ValueError and a TypeError, if `accepted` is False: the parameter's name, what it must be, and
        what it is.
    """
    if not accepted:
        from sklearn.utils._param_validation import InvalidParameterError

        value = getattr(owner, name)
        raise InvalidParameterError(
            f"The {name!r} parameter of {type(owner).__name__} must be {requirement}. Got {value!r} instead."
        )


def is_int(value: Any, low: int) -> bool:
    """Whether `value` is an integer, not a bool, of at least `low`."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= low)


def is_real(value: Any, low: float) -> bool:
    """Whether `value` is a finite real number of at least `low`."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(low <= value < np.inf)


def table(estimator: Any, X: Any, *, reset: bool, accept_sparse: bool = False, allow_nan: bool = False) -> Any:
    """Return an estimator's input as finite C-contiguous float rows (n, d), or CSR, with its features checked.

    With `allow_nan`, NaN stands for a missing value and is let through; infinity is not.

    Raises
    ------
    ValueError, TypeError
        In scikit-learn's words.
    """
    from sklearn.utils.validation import validate_data

    if _is_plain(estimator, X, reset):  # a tenth of the time, for small problems
        if reset:
            estimator.n_features_in_ = X.shape[1]
        return X
    X = validate_data(
        estimator,
        X,
        reset=reset,
        accept_sparse="csr" if accept_sparse else False,
        accept_large_sparse=accept_sparse,
        dtype=FLOATS,
        order="C",
        ensure_all_finite="allow-nan" if allow_nan else True,
    )
    return with_room_for_squares(X, refuse=reset)


def with_room_for_squares(X: Any, name: str = "X", *, refuse: bool = True) -> Any:
    """Return rows (n, d), or CSR, whose squares and sums of squares are numbers: X, or its float32 values as float64.

    Parameters
    ----------
    X : ndarray (n, d) or CSR matrix
        Rows, float32 or float64; NaN counts for nothing.
    name : str
        What the refusal calls them.
    refuse : bool, default=True
        Whether values that are too large for float64, too, are refused.  A fit cannot go on with them; a model that is
        asked about them answers that they lie infinitely far away.

    Raises
    ------
    ValueError
        With the first such value, its row and its column.
    """
    values = X if isinstance(X, np.ndarray) else X.data
    if not values.size or _squares_add_up(values):
        return X
    largest = float(np.fmax.reduce(np.abs(values), axis=None))
    wide = np.finfo(np.float64)
    limit = float(np.sqrt(wide.max * ROOM[np.float64] / values.size))
    if values.dtype == np.float32:
        narrow = float(np.sqrt(np.finfo(np.float32).max * ROOM[np.float32] / values.size))
        return X.astype(np.float64) if largest > narrow else X
    if refuse and largest > limit:
        at = int(np.argmax(np.abs(values) > limit))
        row, column = divmod(at, X.shape[1]) if isinstance(X, np.ndarray) else (X.tocoo().row[at], X.indices[at])
        raise ValueError(
            f"Input {name} contains {values.flat[at]:.6g} at row {row}, column {column}, whose square is beyond the "
            f"range of float64 sums (values up to {limit:.3g} here). It looks like a fill value: remove the row, or "
            "put NaN for it where the model takes missing values."
        )
    return X


def sum_of_squares(values: np.ndarray, n_threads: int = 1) -> float:
    """Return the sum of the squares of all values: infinite if one overflows its type, NaN if one is NaN."""
    flat = np.ascontiguousarray(values).reshape(-1)
    several = flat.size >= threads.PARALLEL_SEARCH
    return float(nearest.sum_of_squares(flat, threads.native_threads(n_threads) if several else 1))


def _squares_add_up(values: np.ndarray, n_threads: int = 1) -> bool:
    """Tell whether the sum of the squares is a number with room to spare: then so is every value."""
    return sum_of_squares(values, n_threads) < LARGEST_SUM[values.dtype.type]


def _is_plain(estimator: Any, X: Any, reset: bool) -> bool:
    """Tell whether `X` is such that scikit-learn's checks would return it as it is, and have nothing to say."""
    if type(X) is not np.ndarray or X.ndim != 2 or X.dtype not in FLOATS or not X.flags.c_contiguous or not X.size:
        return False
    names = hasattr(estimator, "feature_names_in_")
    known = reset or getattr(estimator, "n_features_in_", None) == X.shape[1]
    n_threads = threads.resolve(getattr(estimator, "n_threads", None)) if X.size >= threads.PARALLEL_SEARCH else 1
    return known and not names and _squares_add_up(X, n_threads)


def shaped(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return a given parameter as finite float64 of `shape`.

    Raises
    ------
    ValueError
        If the shape differs or a value is not finite.
    """
    value = np.asarray(value, dtype=np.float64)
    if value.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {value.shape}")
    finite(value, name)
    return np.ascontiguousarray(value)


def fitting(params: Any, shapes: dict[str, tuple[int, ...]], called: dict[str, str]) -> None:
    """Refuse parameters whose arrays do not fit each other and the number of features: kernels trust their shapes.

    Raises
    ------
    ValueError
        If the array of a field has another shape than `shapes` says, under the name that `called` gives it.
    """
    for field, shape in shapes.items():
        got = np.shape(getattr(params, field))
        if got != shape:
            raise ValueError(
                f"{called.get(field, field)} has shape {got}, but the other fitted attributes need {shape}: the "
                "parameters of a model must fit each other."
            )


def proportions(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return given mixing proportions: in [0, 1] and summing to 1.

    Raises
    ------
    ValueError
        If they do not.
    """
    value = probabilities(value, shape, name)
    if not np.isclose(value.sum(), 1.0, rtol=0, atol=1e-6):
        raise ValueError(f"The parameter '{name}' should be normalized, but got sum({name}) = {value.sum():.5f}")
    return value


def probabilities(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return given probabilities: in [0, 1], but for rounding.

    Raises
    ------
    ValueError
        If the shape differs or one is outside.
    """
    value = shaped(value, shape, name)
    if np.any(value < -1e-9) or np.any(value > 1 + 1e-9):
        raise ValueError(
            f"The parameter '{name}' should be in the range [0, 1], but got max value {value.max():.5f}, "
            f"min value {value.min():.5f}"
        )
    return np.clip(value, 0.0, 1.0)


def positive(value: np.ndarray, name: str) -> np.ndarray:
    """Return an array unchanged if all of it is positive.

    Raises
    ------
    ValueError
        If a value is not.
    """
    if np.any(value <= 0):
        raise ValueError(f"'{name}' should be positive")
    return value


def positive_definite(precisions: np.ndarray, name: str) -> np.ndarray:
    """Return matrices unchanged if they are symmetric and positive definite.

    Raises
    ------
    ValueError
        If one is not.
    """
    return symmetric(precisions, name, np.linalg.cholesky)[0]


def symmetric(precisions: np.ndarray, name: str, factor: Callable[[np.ndarray], Any]) -> tuple[np.ndarray, Any]:
    """Return matrices unchanged if they are symmetric, and what `factor` makes of those that are positive definite.

    Raises
    ------
    ValueError
        If one is not symmetric, or `factor` raises `numpy.linalg.LinAlgError`.
    """
    try:
        if _are_symmetric(precisions.reshape(-1, *precisions.shape[-2:])):
            return precisions, factor(precisions)
    except np.linalg.LinAlgError:
        pass
    raise ValueError(f"'{name}' should be symmetric, positive-definite")


def _are_symmetric(matrices: np.ndarray) -> bool:
    """Tell whether matrices (k, d, d) are symmetric but for rounding: block by block, which stay in the cache."""
    parts = range(0, matrices.shape[1], SQUARE)

    def blocks(c: int) -> None:
        found[c] = all(_are_close(matrices[c], i, j) for i in parts for j in parts if j >= i)

    found = np.zeros(len(matrices), bool)
    threads.side_by_side(blocks, len(matrices))
    return bool(found.all())


def _are_close(matrix: np.ndarray, i: int, j: int) -> bool:
    """Tell whether a square of a matrix and the mirrored one are close to each other, as `numpy.allclose` has it."""
    own, other = matrix[i : i + SQUARE, j : j + SQUARE], matrix[j : j + SQUARE, i : i + SQUARE].T.copy()
    allowed = 1e-5 * np.minimum(np.abs(own), np.abs(other)) + 1e-8
    return bool((np.abs(own - other) <= allowed).all())
