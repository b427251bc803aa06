"""Blocks of rows as columns: every shape, and nothing written beside."""

import numpy as np
import pytest

from fastem.jit import kernel
from fastem.kernels.blocks import STRIDE, padded
from fastem.kernels.transpose import transpose_block


@kernel
def transpose(X, start, m, origin, XT):
    transpose_block(X, start, m, padded(m), origin, XT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [*range(1, 20), 31, 32, 33, 64, 100])
def test_rows_relative_to_the_origin_become_columns(dtype, d):
    rng = np.random.default_rng(d)
    X, origin = rng.normal(size=(300, d)).astype(dtype), rng.normal(size=d).astype(dtype)
    X[17, 0] = np.nan
    for start, m in ((0, 256), (3, 200), (44, 256), (1, 1), (5, 15), (7, 64), (0, 17)):
        rows = (m + 63) // 64 * 64
        XT = np.full((d + 3, STRIDE), np.inf, dtype)
        transpose(X, start, m, origin, XT)
        want = np.zeros((d, rows), dtype)
        want[:, :m] = (X[start : start + m] - origin).T
        np.testing.assert_array_equal(XT[:d, :rows], want)
        assert np.all(XT[d:] == np.inf)
        assert np.all(XT[:, rows:] == np.inf)
