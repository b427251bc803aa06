"""Whole runs of Gaussian mixtures over few rows of few features, of one mixture or of many, in one compiled call.

An iteration over 200 rows takes the compiled E-step a few microseconds, and NumPy's M-step a hundred.  The loop, the
M-step and what an E-step is prepared with are in `src/mixtures/`; its numbers are the engine's to the bit.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fastem._native import mixtures
from fastem.families.base import Groups, Labelled, Limits, Runs
from fastem.families.elliptical.full import padded_features
from fastem.families.elliptical.records import GaussianParams, Prepared, TiedPrepared
from fastem.families.elliptical.shape import Shape
from fastem.jit import Sweep
from fastem.kernels.expected import Expected

# The shapes by the number that the compiled code knows them by.
KINDS = {"full": 0, "tied": 1, "diag": 2, "spherical": 3}
MOST_COMPONENTS = 128  # NumPy adds up more numbers than these in another order


def possible(shape: Any, n_features: int, n_components: int) -> bool:
    """Tell whether the compiled code knows a shape, and mixtures of this size."""
    known = isinstance(shape, Shape) and shape.accumulate.bind is not None
    return known and n_features <= mixtures.MOST_FEATURES and n_components <= MOST_COMPONENTS


class Vectors:
    """Parameters of G mixtures as the compiled code has them: a row (P,) each, with views by field (G, ...)."""

    def __init__(self, shape: Shape, n_groups: int, k: int, d: int) -> None:
        matrix = shape.array_shape(k, d)
        size = int(np.prod(matrix))
        self.rows = np.empty((n_groups, k + k * d + 2 * size))
        stops = np.cumsum([0, k, k * d, size, size])
        parts = [self.rows[:, first:stop] for first, stop in itertools.pairwise(stops)]
        self.params = GaussianParams(
            *[part.reshape(n_groups, *form) for part, form in zip(parts, ((k,), (k, d), matrix, matrix), strict=True)]
        )


def _read_only(array: np.ndarray) -> np.ndarray:
    shown = array.view()
    shown.flags.writeable = False
    return shown


class Workplace:
    """Prepared parameters of one mixture after the other, and the kernels that are bound to them.

    Attributes
    ----------
    buffers : tuple of ndarray
        As `mixtures.run` takes them: origin, means, factors, whitened, vectors.
    """

    def __init__(self, shape: Shape, k: int, d: int, dtype: np.dtype) -> None:
        dp, tied = padded_features(d), shape.name == "tied"
        inner = {"full": (k, dp, dp), "tied": (dp, dp), "diag": (k, d), "spherical": (k,)}[shape.name]
        origin, means, factors = np.zeros(d, dtype), np.zeros((k, d), dtype), np.zeros(inner, dtype)
        whitened, vectors = np.zeros((k, d) if tied else (0, 0), dtype), np.zeros((3, k))
        logs, offsets, negligible = vectors
        if tied:
            prepared: Any = TiedPrepared(origin, means, logs, factors, whitened, offsets, negligible)
        else:
            prepared = Prepared(origin, means, logs, factors, offsets, negligible)
        self._prepared = type(prepared)(*map(_read_only, prepared))  # once for all calls
        self.buffers = origin, means, factors.reshape(-1), whitened, vectors
        self._contexts: list[np.ndarray] = []

    def call(self, sweep: Sweep, before: tuple, after: tuple = ()) -> tuple[int, int]:
        """Return address and context of a kernel of arguments `before`, the prepared parameters and `after`."""
        assert sweep.bind is not None
        address, context = sweep.bind((*before, self._prepared, *after))
        self._contexts.append(context)
        return address, context.ctypes.data

    def check(self) -> None:
        """Refuse what a kernel has left that could not do its work."""
        if any(context[0] for context in self._contexts):
            raise RuntimeError("a compiled E-step failed, most likely for want of memory")


def run(
    shape: Shape,
    reg_covar: float,
    groups: Groups,
    start: Labelled | None,
    constants: np.ndarray,
    vectors: Vectors,
    limits: Limits,
    *,
    keep: bool = False,
) -> Runs:
    """Run EM on every group.

    Parameters
    ----------
    shape : Shape
        A shape that is `possible`.
    reg_covar : float
        Added to the variances.
    groups : Groups
        The rows.
    start : Labelled or None
        Labels that the runs begin with; None: they begin with the parameters in `vectors`.
    constants : ndarray (G, d + d d) or (G, 0)
        Centre and scatter of each group's rows, for a tied covariance.
    vectors : Vectors
        The parameters.  # IN / OUT
    limits : Limits
        When to stop.
    keep : bool
        Whether the objectives of all iterations are kept.
    """
    d, k, n_groups = groups.X.shape[1], vectors.params.weights.shape[1], groups.n_groups
    place = Workplace(shape, k, d, groups.X.dtype)
    later = place.call(shape.accumulate, (groups.X, groups.w, np.empty(0, np.int32)))
    first = later if start is None else place.call(shape.accumulate, (groups.X, groups.w, start.labels))
    objective, objectives = np.full(n_groups, np.nan), np.empty((n_groups, limits.max_iter) if keep else (0, 0))
    n_iter = np.ones(n_groups, np.int32) if start is None else start.found.astype(np.int32)
    mixtures.run(
        KINDS[shape.name], reg_covar, *groups, constants,
        np.empty((0, 0, 0)) if start is None else start.centers, np.array([*first, *later], np.intp),
        *place.buffers, *limits, vectors.rows, objectives, objective, n_iter,
    )  # fmt: skip
    place.check()
    return Runs(objective, np.abs(n_iter), n_iter > 0, objectives)


def expect(shape: Shape, groups: Groups, vectors: Vectors, found: np.ndarray, out: Expected) -> None:
    """Fill the outputs of an E-step alone for the rows of all groups with `found` parameters (G,)."""
    place = Workplace(shape, *vectors.params.means.shape[1:], groups.X.dtype)
    call = np.array(place.call(shape.expect, (groups.X,), (out,)), np.intp)
    mixtures.expect(KINDS[shape.name], groups.offsets, call, *place.buffers, vectors.rows, found.astype(np.int32))
    place.check()
