from typing import TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)

class BuildInfo(TypedDict):
    compiler: str
    openmp: bool
    isa: str
    available: list[str]

CELL: int

def build_info() -> BuildInfo: ...
def force_isa(name: str | None) -> None: ...
def assign(
    X: NDArray[Real],  # (n, d)
    origin: NDArray[Real],  # (d,)
    centers: NDArray[Real],  # (k, d) relative to the origin
    half_norms: NDArray[Real],  # (k,)
    labels: NDArray[np.int32],  # OUT (n,)
    sqdist: NDArray[Real],  # OUT (n,) or (0,)
    n_threads: int,
) -> None: ...
def accumulate(
    X: NDArray[Real],  # (n, d)
    w: NDArray[Real],  # (n,) or (0,)
    origin: NDArray[Real],  # (d,)
    centers: NDArray[Real],  # (k, d) relative to the origin
    half_norms: NDArray[Real],  # (k,)
    level: int,
    out: NDArray[np.float64],  # OUT (n_tasks, k + k d + 1)
    labels: NDArray[np.int32],  # OUT (n,) or (0,)
    n_threads: int,
) -> None: ...
