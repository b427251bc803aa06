"""Which centres of bounded k-means are active: see `src/kmeans/bounds_body.h`.

Late in a run few centres move, and a single bound for all centres but a row's own is lost to those few.  Rows therefore
have two bounds, one for the active centres and one for the others, and a row for which only the first fails is compared
with the active centres alone.
"""

from __future__ import annotations

import numpy as np

from fastem._native import nearest

# Rows that are asked how many comparisons an iteration will need.
SAMPLE = 1024
# Clusters from which one bound is worth less than two, and multiply-adds of a full pass from which asking is worth its
# tenth of a millisecond.
MANY = 256
WORK = 200_000_000
# Share of the comparisons up to which active centres are worth having, and how many times as many they must need before
# they are chosen anew: that costs part of what the bounds know.
WORTHWHILE = 0.8
ANEW = 2


def worthwhile(n_rows: int, n_features: int, k: int) -> bool:
    """Tell whether to keep bounds for active centres at all."""
    return k >= MANY and n_rows * n_features * k >= WORK


def choose(moved: np.ndarray, active: np.ndarray, upper: np.ndarray, lower: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Choose what a sample of the rows says to need the fewest comparisons.

    Centres become active in the order of their movement; to begin anew with those that move now, or to do without, is
    an answer too.

    Parameters
    ----------
    moved : ndarray (k,)
        How far each centre moved since the last iteration.
    active : ndarray (k,) bool
        The active centres of the last iteration.
    upper : ndarray (m,)
        Bounds of the distance to the own centre, after the move.
    lower, near : ndarray (m,)
        Bounds of the distance to other centres and to other active centres, before the move.

    Returns
    -------
    ndarray (k,) int32
        1 for a centre that stays active, 2 for one that becomes so, else 0; without a 1, `near` goes into `lower`.
    """
    k = len(moved)
    groups = np.zeros(k, np.int32)
    merged = np.minimum(lower, near)
    plain = float(k * np.count_nonzero(merged - moved.max() <= upper))
    anew, members = _cheapest(moved, np.zeros(k, bool), upper, merged, np.full_like(merged, np.inf))
    if active.any():
        more, joining = _cheapest(moved, active, upper, lower, near)
        if more <= ANEW * min(anew, plain):
            groups[active], groups[joining] = 1, 2
            return groups
    if anew <= WORTHWHILE * plain:
        groups[members] = 2
    return groups


def _cheapest(
    moved: np.ndarray, active: np.ndarray, upper: np.ndarray, lower: np.ndarray, near: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the fewest comparisons of the sample, and the centres that have to join the active ones for that."""
    k, n_active = len(moved), int(np.count_nonzero(active))
    order = np.lexsort((-moved, ~active))
    sizes = np.append(k >> np.arange(1, 7), [n_active, np.count_nonzero(active | (moved > 0))])
    sizes = sizes[(sizes >= max(n_active, nearest.LEAST_ACTIVE)) & (sizes < k)]
    if not sizes.size:
        return np.inf, order[:0]
    rest = moved[order[sizes]][:, None]
    joined = np.where(sizes > n_active, moved[order[n_active % k]], 0.0)[:, None]
    near = np.minimum(near - moved[active].max(initial=0.0), lower - joined)
    work = k * np.count_nonzero(lower - rest <= upper, axis=1) + sizes * np.count_nonzero(near <= upper, axis=1)
    best = int(np.argmin(work))
    return float(work[best]), order[n_active : sizes[best]]
