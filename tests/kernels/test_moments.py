"""Moments of a block: every way to take the rows gives what NumPy gives."""

import numpy as np
import pytest

from fastem.kernels.blocks import STRIDE
from fastem.kernels.moments import add_moments, add_sums

ROWS = 192


def block(d, k, share_of_rows, dtype):
    """Rows as columns, means, and shares of which only some matter."""
    rng = np.random.default_rng(d + 100 * k)
    XT, means = rng.normal(size=(d + 2, STRIDE)), rng.normal(size=(k, d))
    share = np.where(rng.random((k, STRIDE)) < share_of_rows, rng.random((k, STRIDE)), 0.0)
    factor = rng.random(STRIDE)
    return [a.astype(dtype) for a in (XT, means, share, factor)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("few", [1.0, 0.3, 0.02])
@pytest.mark.parametrize("d", [*range(1, 10), 16, 19, 32, 37, 70])
@pytest.mark.parametrize("with_squares", [False, True])
def test_moments_are_those_of_numpy(with_squares, d, few, dtype):
    k = 11
    XT, means, share, factor = block(d, k, few, dtype)
    share[3] = 0
    heavy = (share[:, :ROWS] > 0).sum(axis=1).astype(float)
    weights = share[:, :ROWS].astype(float) * factor[:ROWS]
    add = add_moments if with_squares else add_sums
    stats = np.full(1 + k + (1 + with_squares) * k * d + 1, 7.0)
    outputs = [stats[1 : 1 + k], *stats[1 + k : -1].reshape(-1, k, d)]
    add(ROWS, XT, means, share, factor, np.zeros(k), heavy, np.full((d + 2, STRIDE), np.nan, dtype), *outputs)
    centred = XT[None, :d, :ROWS].astype(float) - means[:, :, None]
    sums, squares = ((weights[:, None] * centred**power).sum(axis=2).ravel() for power in (1, 2))
    want = np.concatenate([[0], weights.sum(axis=1), sums, squares if with_squares else [], [0]])
    np.testing.assert_allclose(stats - 7, want, rtol=0, atol=1e-12 if dtype == np.float64 else 2e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_component_takes_the_rows_that_matter_alone(dtype):
    XT, means, share, factor = block(64, 40, 0.02, dtype)
    share[:, :ROWS][share[:, :ROWS] == 0] = 1e-30  # negligible: what is taken alone leaves them out
    mine = np.where(share[:, :ROWS] > 1e-20, share[:, :ROWS], 0).astype(float)
    heavy = np.count_nonzero(mine, axis=1).astype(float)
    XT[:, :ROWS][:, mine.sum(axis=0) == 0] = np.inf
    counts, moments = np.zeros(40), np.zeros((2, 40, 64))
    add_moments(ROWS, XT, means, share, factor, np.full(40, 1e-20), heavy, np.zeros_like(XT), counts, *moments)
    np.testing.assert_allclose(counts, mine @ factor[:ROWS].astype(float), rtol=1e-6)
    assert np.all(np.isfinite(moments))
