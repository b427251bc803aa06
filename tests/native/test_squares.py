"""The sum of squares by which values are checked."""

import numpy as np
import pytest

from fastem._native import nearest

DTYPES = [np.float32, np.float64]
SIZES = [0, 1, 31, 32, 33, 4095, 4097, 65_536, 65_537, 300_001]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_sum_for_any_number_of_threads(dtype, size):
    values = np.random.default_rng(size).normal(size=size).astype(dtype)
    found = nearest.sum_of_squares(values, 1)
    assert found == nearest.sum_of_squares(values, 7)
    # 128 squares at most are added up in a row in the values' type, and 32 such sums.
    assert abs(found - np.square(values, dtype=np.float64).sum()) <= 160 * np.finfo(dtype).eps * max(found, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, "large"])
def test_one_value_tells_wherever_it_is(dtype, size, odd):
    values = np.ones(size, dtype)
    for place in {0, size // 2, size - 1}:
        values[place] = np.finfo(dtype).max / 2 if odd == "large" else odd
        for n_threads in (1, 3):
            found = nearest.sum_of_squares(values, n_threads)
            assert np.isnan(found) if np.isnan(values[place]) else found == np.inf
        values[place] = 1.0
