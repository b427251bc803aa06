from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)

MOST_FEATURES: int

def sum_in_order(values: NDArray[np.float64]) -> float: ...
def weighted_mean(weights: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]: ...
def logarithms(values: NDArray[np.float64]) -> NDArray[np.float64]: ...
def sums_of_logarithms(values: NDArray[np.float64]) -> NDArray[np.float64]: ...
def precision_factors(covariances: NDArray[np.float64], factors: NDArray[np.float64]) -> bool: ...
def whitened_means(means: NDArray[Real], factor: NDArray[Real]) -> NDArray[Real]: ...
def scatter_about(
    counts: NDArray[np.float64],  # (k,)
    sums: NDArray[np.float64],  # (k, d) relative to `centred`
    centred: NDArray[np.float64],  # (k, d) relative to the rows' centre, as all means here
    about: NDArray[np.float64],  # (k, d)
    scatter: NDArray[np.float64],  # (d, d)
) -> NDArray[np.float64]: ...
def run(
    kind: int,
    reg_covar: float,
    X: NDArray[Real],  # (n, d)
    w: NDArray[Real],  # (n,) or (0,)
    offsets: NDArray[np.int64],  # (G + 1,)
    constants: NDArray[np.float64],  # (G, d + d d) or (G, 0)
    centers: NDArray[np.float64],  # (G, k, d) or (0, 0, 0)
    calls: NDArray[np.intp],  # (4,): address and context, of labelled rows and without
    origin: NDArray[Real],  # (d,)
    means: NDArray[Real],  # (k, d)
    factors: NDArray[Real],  # (m,)
    whitened: NDArray[Real],  # (k, d) or (0, 0)
    vectors: NDArray[np.float64],  # (3, k)
    max_iter: int,
    tol: float,
    slack: float,
    parameters: NDArray[np.float64],  # IN / OUT (G, P)
    objectives: NDArray[np.float64],  # OUT (G, max_iter) or (0, 0)
    objective: NDArray[np.float64],  # OUT (G,)
    n_iter: NDArray[np.int32],  # IN / OUT (G,)
) -> None: ...
def expect(
    kind: int,
    offsets: NDArray[np.int64],  # (G + 1,)
    calls: NDArray[np.intp],  # (2,): address and context
    origin: NDArray[Real],  # (d,)
    means: NDArray[Real],  # (k, d)
    factors: NDArray[Real],  # (m,)
    whitened: NDArray[Real],  # (k, d) or (0, 0)
    vectors: NDArray[np.float64],  # (3, k)
    parameters: NDArray[np.float64],  # (G, P)
    n_iter: NDArray[np.int32],  # (G,)
) -> None: ...
def variances(X: NDArray[Real], w: NDArray[Real]) -> NDArray[np.float64]: ...
def total_scatters(
    X: NDArray[Real],  # (n, d)
    w: NDArray[Real],  # (n,) or (0,)
    offsets: NDArray[np.int64],  # (G + 1,)
) -> NDArray[np.float64]: ...
def pass_over_groups(
    offsets: NDArray[np.int64],  # (G + 1,)
    numbers: NDArray[np.int64],  # (A,)
    call: NDArray[np.intp],  # (2,): address and context
    fields: list[NDArray[Any]],  # (A, ...) each
    places: list[NDArray[Any]],  # (...) each
    records: NDArray[np.float64],  # OUT (A, size)
) -> None: ...
