r"""Better optima of k-means by moves of single rows, after Lloyd's iterations (Hartigan and Wong).

Lloyd's algorithm stops where every row is nearest to its own centre.  A row that leaves cluster a for b takes both
means with it, which lowers J = sum w abs(x - m)^2 where

    n_b / (n_b + w) abs(x - m_b)^2  <  n_a / (n_a - w) abs(x - m_a)^2,

already for some rows that are nearer to m_a: each fixed point of these moves is one of Lloyd's, but not the other way
round (Telgarsky and Vattani, "Hartigan's method: k-means clustering without Voronoi", AISTATS 2010).  One pass over
all rows, by the kernels of the E-step, gives each row's distances to the two nearest means; only rows that may move by
these are looked at (`nearest.move_rows`), one after the other, until none does; and so on, until a pass leaves no row
to move.

References
----------
Hartigan and Wong, "Algorithm AS 136: a k-means clustering algorithm", Applied Statistics 28, 1979.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.engine.result import Run
from fastem.families.kmeans import KMeansFamily, KMeansParams
from fastem.starts.swaps import two_nearest

# Passes over all rows; a dozen are usual.
MOST_PASSES = 1000
# Relative error of the distances to the two nearest, in square roots of the rows' machine epsilon.
SLACK = 4.0


def refine(source: Any, family: KMeansFamily, run: Run, settings: Settings) -> tuple[Run, int]:
    """Move single rows from where a run of k-means ended, until no move helps.

    Parameters
    ----------
    source : source
        Rows and weights.
    family : KMeansFamily
        The family that was fitted.
    run : Run
        Where it ended.
    settings : Settings
        When the run stops that ends the search.

    Returns
    -------
    Run
        The run, with the centres, objective and memo of the fixed point; its trace is unchanged.
    int
        Moves made.
    """
    labels, moved = run.memo.labels.copy(), 0
    w = source.sample_weight.astype(np.float64) if source.sample_weight.size else np.ones(source.n_rows)
    served = source.served_by(KMeansFamily(family.n_components))
    partition = source.partition(served, KMeansParams(run.params.centers), labels)
    for _ in range(MOST_PASSES):
        now = _pass(source, served, w, labels, partition)
        if not now:
            break
        moved += now
        # Free of the rounding of many moves.
        partition = source.partition(served, KMeansParams(partition.centers), labels)
    if not moved:
        return run, 0
    means = KMeansParams(partition.centers)
    ended = em.run(Problem(source, family), lambda problem, draws: means, settings=settings).best
    if not ended.objective > run.objective:
        return run, 0
    return run._replace(params=ended.params, objective=ended.objective, memo=ended.memo), moved


def _pass(source: Any, family: Any, w: np.ndarray, labels: np.ndarray, partition: Any) -> int:
    """Move rows, in place, that the distances to the two nearest means leave a chance; return how many moved."""
    known = two_nearest(source, partition.centers)
    numbers = np.flatnonzero(_may_move(known, w, labels, partition.counts, float(np.finfo(source.dtype).eps)))
    own, moved = labels[numbers], 0
    for rows, weights, here in source.loose(family, numbers, own):  # of which `here` is a view
        moved += partition.move(rows, weights, here, np.inf)
    labels[numbers] = own
    return moved


def _may_move(known: Any, w: np.ndarray, labels: np.ndarray, counts: np.ndarray, epsilon: float) -> np.ndarray:
    """Tell which rows (n,) may gain by a move: never False for one that does."""
    left = counts[labels] - w
    leaving = counts[labels] / np.where(left > 0, left, np.inf)
    leaving[left <= 0] = 0.0  # the last row of a cluster stays
    # What another cluster costs at least: the smallest grows cheapest by a row.
    joining = counts.min() / (counts.min() + w)
    slack = 1.0 + SLACK * np.sqrt(epsilon)
    nearer = known.labels != labels
    return (w > 0) & (left > 0) & (nearer | (leaving * known.first * slack >= joining * known.second))
