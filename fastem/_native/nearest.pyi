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
LEAST_ACTIVE: int
CSR_BEYOND: int
MOST_CANDIDATES: int
ROTATED: int
ROTATED_FIRST: int
MEASURED: int
BLIND: int  # numbers of a row of which nothing is known, at most
LEAST_ROTATED: int
ROUNDINGS_OF_TIES: float

def build_info() -> BuildInfo: ...
def force_isa(name: str | None) -> None: ...
def sum_of_squares(values: NDArray[Real], n_threads: int) -> float: ...  # (n,)
def assign(
    X: NDArray[Real],  # (n, d)
    origin: NDArray[Real],  # (d,)
    centers: NDArray[Real],  # (k, d) relative to the origin
    half_norms: NDArray[Real],  # (k,)
    labels: NDArray[np.int32],  # OUT (n,)
    sqdist: NDArray[Real],  # OUT (n,) or (0,)
    n_threads: int,
) -> None: ...
def distances(
    X: NDArray[Real],  # (n, d)
    centers: NDArray[Real],  # (k, d)
    out: NDArray[Real],  # OUT (n, k), squared
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
    upper: NDArray[Real] | None = None,  # OUT (n,) bounds that start a memo
    lower: NDArray[Real] | None = None,  # OUT (n,)
    tied: NDArray[np.int32] | None = None,  # OUT (n,) rows as near to two centroids, from where their cell begins
    n_tied: NDArray[np.int32] | None = None,  # OUT (n_cells,) how many
) -> None: ...
def settle(
    X: NDArray[Real],  # (n, d)
    w: NDArray[Real],  # (n,) or (0,)
    origin: NDArray[Real],  # (d,)
    centers: NDArray[Real],  # (k, d) relative to the origin
    level: int,
    out: NDArray[np.float64],  # OUT (n_tasks, k + k d + 1)
    labels: NDArray[np.int32],  # (n,)
    n_threads: int,
) -> None: ...
def accumulate_bounded(
    X: NDArray[Real],  # (n, d)
    w: NDArray[Real],  # (n,) or (0,)
    origin: NDArray[Real],  # (d,) as when the memo was made
    centers: NDArray[Real],  # (k, d) relative to the origin
    half_norms: NDArray[Real],  # (k,)
    moved: NDArray[np.float64],  # (k,) how far each centroid moved since the memo was made
    half_gaps: NDArray[np.float64],  # (k,) half the distance to the nearest other centroid, or less
    labels: NDArray[np.int32],  # IN / OUT (n,)
    upper: NDArray[Real],  # IN / OUT (n,)
    lower: NDArray[Real],  # IN / OUT (n,)
    changes: NDArray[np.uint32],  # work space (n,)
    delta: NDArray[np.float64],  # OUT (k + k d + 1,): changes of counts and sums, and 0
    near: NDArray[Real],  # IN / OUT (n,) or (0,)
    group: NDArray[np.int32],  # (k,) 0 passive, 1 active, 2 becomes active
    n_threads: int,
    rotation: Rotation | None = None,
) -> int: ...  # rows that changed their label

class Rotation:
    def __init__(
        self,
        rows: NDArray[Real],  # (n, ROTATED)
        order: NDArray[np.uint16],  # (n,) rows of each cell, neighbours near each other
        centers: NDArray[Real],  # (k, ROTATED) in such an order
        names: NDArray[np.int32],  # (k,) which centroids they are
        half_norms: NDArray[Real],  # (k,) of the first numbers, lowered by what is not known of them
        allowance: NDArray[Real],  # (k,) what is not known of a centroid
        row_error: float,  # share of its norm by which a rotated row is off
        blind: bool,  # labels are no guesses yet
        movers: NDArray[np.int64] | None,  # places of those that moved since labels were found; None: any may have
    ) -> None: ...

def search_rotated(
    X: NDArray[Real],  # (n, d)
    origin: NDArray[Real],  # (d,)
    centers: NDArray[Real],  # (k, d) relative to the origin
    half_norms: NDArray[Real],  # (k,)
    rotation: Rotation,
    labels: NDArray[np.int32],  # OUT (n,), IN a guess unless the rotation is blind
    n_threads: int,
    sqdist: NDArray[Real] | None = None,  # OUT (n,)
    upper: NDArray[Real] | None = None,  # OUT (n,) bounds that start a memo
    lower: NDArray[Real] | None = None,  # OUT (n,)
    tied: NDArray[np.int32] | None = None,  # OUT (n,)
    n_tied: NDArray[np.int32] | None = None,  # OUT (n_cells,)
    carried: bool = False,  # IN bounds are known
) -> None: ...
def own_distances(
    X: NDArray[Real],  # (n, d)
    origin: NDArray[Real],  # (d,)
    centers: NDArray[Real],  # (k, d) relative to the origin
    labels: NDArray[np.int32],  # (n,)
    sqdist: NDArray[Real],  # OUT (n,)
    n_threads: int,
) -> None: ...
def search_blind(
    X: NDArray[Real],  # (n, d)
    origin: NDArray[Real],  # (d,)
    centers: NDArray[Real],  # (k, d) relative to the origin
    half_norms: NDArray[Real],  # (k,)
    mean: NDArray[Real],  # (d,)
    directions: NDArray[Real],  # (size - 1, d) orthonormal
    numbers: NDArray[Real],  # (k, size) centres: coordinates in these, then the norm of the rest
    halves: NDArray[Real],  # (k,) half their squared norms, lowered by what is not known of them
    row_error: float,  # share of its norm by which a rotated row is off
    labels: NDArray[np.int32],  # OUT (n,)
    n_threads: int,
    upper: NDArray[Real],  # OUT (n,) bounds that start a memo
    lower: NDArray[Real],  # OUT (n,)
) -> None: ...
def score_seeds(
    X: NDArray[Real],  # (n, d)
    w: NDArray[Real],  # (n,) or (0,)
    candidates: NDArray[Real],  # (m, d)
    chosen: NDArray[Real],  # (s, d)
    closest: NDArray[Real],  # IN, and OUT after a commit (n,)
    owner: NDArray[np.int32],  # IN, and OUT after a commit (n,)
    commit: int,  # -1, or the index that candidates[0] takes among the seeds
    out: NDArray[np.float64],  # OUT (n_cells, m + 1)
    n_threads: int,
) -> None: ...

class Screen:
    def __init__(
        self,
        X: NDArray[Real],  # (n, d)
        w: NDArray[Real],  # (n,) or (0,)
        rows: NDArray[Real],  # (n, ROTATED)
        row_error: float,
        closest: NDArray[Real],  # (n,), and OUT after a commit
        owner: NDArray[np.int32],  # (n,), and OUT after a commit
        n_threads: int,
    ) -> None: ...
    def score(
        self,
        candidates: NDArray[Real],  # (m, d)
        of_rows: NDArray[Real],  # (m, ROTATED)
        half: NDArray[Real],  # (m,)
        allowance: NDArray[np.float64],  # (m,)
        out: NDArray[np.float64],  # OUT (m,)
    ) -> float: ...  # pairs compared in full
    def commit(
        self,
        candidate: int,
        seed: int,
        potential: NDArray[np.float64],  # OUT (n_cells,)
    ) -> None: ...

def seed_small(
    X: NDArray[Real],  # (n, d), n <= CELL
    w: NDArray[Real],  # (n,) or (0,)
    uniforms: NDArray[np.float64],  # ((k - 1) m,)
    first: int,
    seeds: NDArray[np.float64],  # OUT (k, d)
) -> int: ...
def draw_row(closest: NDArray[Real], w: NDArray[Real], target: float) -> int: ...  # (n,), (n,) or (0,)
def merge_tree(records: NDArray[np.float64], n_threads: int) -> None: ...  # in place; the sum ends in row 0
def prepare_centers(
    params: NDArray[np.float64],  # (k, d)
    keep_origin: bool,
    origin: NDArray[Real],  # IN or OUT (d,)
    centers: NDArray[Real],  # OUT (k, d) relative to the origin
    half_norms: NDArray[Real],  # OUT (k,)
    before: NDArray[Real],  # (k, d) or (0, d)
    moved: NDArray[np.float64],  # OUT (k,) or (0,)
    n_threads: int,
) -> bool: ...  # whether the origin was kept
def gain_of_means(
    centers: NDArray[Real],  # (k, d)
    counts: NDArray[np.float64],  # (k,)
    sums: NDArray[np.float64],  # (k, d)
    n_threads: int,
) -> float: ...
def means_of_sums(
    sums: NDArray[np.float64],  # (k, d)
    counts: NDArray[np.float64],  # (k,)
    origin: NDArray[Real],  # (d,)
    means: NDArray[np.float64],  # OUT (k, d)
    n_threads: int,
) -> None: ...
def turn_centers(
    centers: NDArray[Real],  # (k, d)
    shift: NDArray[np.float64],  # (d,)
    directions: NDArray[np.float64],  # (d, ROTATED)
    which: NDArray[np.int64],  # (m,)
    coordinates: NDArray[np.float64],  # OUT (m, ROTATED)
    squares: NDArray[np.float64],  # OUT (m,)
    n_threads: int,
) -> None: ...
def added_up(dtype: np.dtype, d: int) -> int: ...
def rotate(
    X: NDArray[Real],  # (n, d)
    mean: NDArray[Real],  # (d,)
    directions: NDArray[Real],  # (ROTATED - 2, d)
    row_error: float,
    rows: NDArray[Real],  # OUT (n, ROTATED)
    n_threads: int,
) -> float: ...
def squared_movement(
    after: NDArray[np.float64],  # (k, d)
    before: NDArray[np.float64],  # (k, d)
    n_threads: int,
) -> float: ...
def project_centers(before: NDArray[np.float64], means: NDArray[np.float64]) -> None: ...  # both (k, d); in place
def unit_rows(X: NDArray[Real], out: NDArray[Real]) -> None: ...  # both (n, d)
def run_small(
    X: NDArray[Real],  # (n, d), n <= CELL
    w: NDArray[Real],  # (n,) or (0,)
    on_sphere: bool,
    params: NDArray[np.float64],  # IN / OUT (k, d)
    max_iter: int,
    tol: float,
    slack: float,
    labels: NDArray[np.int32],  # OUT (n,)
    objectives: NDArray[np.float64],  # OUT (max_iter + 1,)
    tied: NDArray[np.int32],  # OUT (n,)
    n_tied: NDArray[np.int32],  # OUT (1,)
) -> tuple[int, bool]: ...  # iterations, or 0 for a run that the engine must make; converged
def mean_variance(X: NDArray[Real], w: NDArray[Real]) -> float: ...
def fit_groups(
    X: NDArray[Real],  # (n, d)
    w: NDArray[Real],  # (n,) or (0,)
    offsets: NDArray[np.int64],  # (G + 1,)
    on_sphere: bool,
    key: int,
    trials: int,
    max_iter: int,
    tol: float,
    slack: float,
    centers: NDArray[np.float64],  # OUT (G, k, d)
    labels: NDArray[np.int32],  # OUT (n,)
    objective: NDArray[np.float64],  # OUT (G,)
    n_iter: NDArray[np.int32],  # IN / OUT (G,)
) -> None: ...
def move_rows(
    X: NDArray[Real],  # (m, d)
    w: NDArray[np.float64],  # (m,)
    labels: NDArray[np.int32],  # IN / OUT (m,)
    counts: NDArray[np.float64],  # IN / OUT (k,)
    means: NDArray[np.float64],  # IN / OUT (k, d)
    reach: float,
) -> int: ...
def csr_assign(
    indptr: NDArray[np.int64],  # (n + 1,)
    indices: NDArray[np.int32],  # (nnz,)
    data: NDArray[Real],  # (nnz,)
    squares: NDArray[np.float64],  # (n,)
    panel: NDArray[Real],  # (d, k) and CSR_BEYOND numbers more
    half: NDArray[Real],  # (k + CSR_BEYOND,)
    scale: NDArray[Real],  # (k + CSR_BEYOND,) or (0,)
    norms: NDArray[np.float64],  # (2, k)
    labels: NDArray[np.int32],  # OUT (n,)
    sqdist: NDArray[np.float64],  # OUT (n,)
    second: NDArray[np.float64],  # OUT (n,) or (0,)
    tied: NDArray[np.uint8],  # OUT (n,) or (0,)
    n_threads: int,
) -> None: ...
def csr_sums(
    indptr: NDArray[np.int64],  # (d + 1,) the rows by feature
    indices: NDArray[np.int32],  # (nnz,) rows
    data: NDArray[Real],  # (nnz,)
    w: NDArray[Real],  # (n,) or (0,)
    labels: NDArray[np.int32],  # (n,)
    sums: NDArray[np.float64],  # OUT (d, k)
    n_threads: int,
) -> None: ...
def csr_move_rows(
    indptr: NDArray[np.int64],  # (m + 1,)
    indices: NDArray[np.int32],  # (nnz,)
    data: NDArray[Real],  # (nnz,)
    w: NDArray[np.float64],  # (m,)
    labels: NDArray[np.int32],  # IN / OUT (m,)
    counts: NDArray[np.float64],  # IN / OUT (k,)
    sums: NDArray[np.float64],  # IN / OUT (d, k)
    norms: NDArray[np.float64],  # IN / OUT (2, k)
    reach: float,
) -> int: ...
def csr_distances(
    indptr: NDArray[np.int64],  # (n + 1,)
    indices: NDArray[np.int32],  # (nnz,)
    data: NDArray[Real],  # (nnz,)
    squares: NDArray[np.float64],  # (n,)
    panel: NDArray[Real],  # (d, k) and CSR_BEYOND numbers more
    half: NDArray[Real],  # (k + CSR_BEYOND,)
    scale: NDArray[Real],  # (k + CSR_BEYOND,) or (0,)
    norms: NDArray[np.float64],  # (2, k)
    out: NDArray[Real],  # OUT (n, k), squared
    n_threads: int,
) -> None: ...
def csr_norms(
    panel: NDArray[Real],  # (d, k)
    norms: NDArray[np.float64],  # OUT (2, k)
    n_threads: int,
) -> None: ...
def csr_means(
    indptr: NDArray[np.int64],  # (d + 1,) the rows by feature
    indices: NDArray[np.int32],  # (nnz,) rows
    data: NDArray[Real],  # (nnz,)
    w: NDArray[Real],  # (n,) or (0,)
    labels: NDArray[np.int32],  # (n,)
    counts: NDArray[np.float64],  # (k,)
    kept: NDArray[np.int32],  # labels without weight
    before: NDArray[Real],  # (d, k)
    panel: NDArray[Real],  # OUT (d, k)
    norms: NDArray[np.float64],  # OUT (2, k)
    n_threads: int,
) -> float: ...
def csr_scale(
    panel: NDArray[Real],  # IN / OUT (d, k)
    factors: NDArray[np.float64],  # (k,)
    n_threads: int,
) -> None: ...
def csr_add(
    indptr: NDArray[np.int64],  # (n + 1,)
    indices: NDArray[np.int32],  # (nnz,)
    data: NDArray[Real],  # (nnz,)
    w: NDArray[Real],  # (n,) or (0,)
    labels: NDArray[np.int32],  # (n,)
    panel: NDArray[Real],  # IN / OUT (d, k)
    norms: NDArray[np.float64],  # IN / OUT (2, k)
) -> None: ...
def csr_clear(panel: NDArray[Real], columns: NDArray[np.int32]) -> None: ...  # (d, k) in place, (m,)
def csr_products(
    indptr: NDArray[np.int64],  # (n + 1,)
    indices: NDArray[np.int32],  # (nnz,)
    data: NDArray[Real],  # (nnz,)
    by_indptr: NDArray[np.int64],  # (d + 1,)
    by_indices: NDArray[np.int32],  # (nnz,)
    by_data: NDArray[Real],  # (nnz,)
    row: int,
    products: NDArray[np.float64],  # OUT (n,)
) -> None: ...
def csr_score_seeds(
    indptr: NDArray[np.int64],  # (n + 1,)
    indices: NDArray[np.int32],  # (nnz,)
    data: NDArray[Real],  # (nnz,)
    by_indptr: NDArray[np.int64],  # (d + 1,)
    by_indices: NDArray[np.int32],  # (nnz,)
    by_data: NDArray[Real],  # (nnz,)
    squares: NDArray[np.float64],  # (n,)
    w: NDArray[Real],  # (n,) or (0,)
    candidates: NDArray[np.int64],  # (m,)
    commit: int,
    closest: NDArray[Real],  # IN / OUT (n,)
    products: NDArray[np.float64],  # work space (m, n)
    out: NDArray[np.float64],  # OUT (n_cells, m + 1)
    n_threads: int,
) -> None: ...
def csr_take(
    indptr: NDArray[np.int64],  # (n + 1,)
    indices: NDArray[np.int32],  # (nnz,)
    data: NDArray[Real],  # (nnz,)
    rows: NDArray[np.int64],  # (m,)
    to_indptr: NDArray[np.int64],  # OUT (m + 1,)
) -> tuple[NDArray[np.int32], NDArray[Real]]: ...
def csr_by_feature(
    indptr: NDArray[np.int64],  # (n + 1,)
    indices: NDArray[np.int32],  # (nnz,)
    data: NDArray[Real],  # (nnz,)
    starts: NDArray[np.int64],  # OUT (d + 1,)
    rows: NDArray[np.int32],  # OUT (nnz,)
    values: NDArray[Real],  # OUT (nnz,)
) -> None: ...
