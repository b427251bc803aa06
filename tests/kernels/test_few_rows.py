"""Rows that matter to a component: where they are, and their moments added one by one."""

import naive
import numpy as np
import pytest
from gaussian_problems import DTYPES, RTOL, close, problem, record

from fastem.families.elliptical.full import FEW
from fastem.families.elliptical.records import prepared_means
from fastem.jit import kernel
from fastem.kernels.few_rows import TOGETHER, add_rows, find_rows


@kernel
def found(rows, share, threshold, index):
    return find_rows(rows, share, threshold, index)


@kernel
def added(count, d, Z, root, sums, scatter):
    add_rows(count, d, Z, root, sums, scatter)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.2, 1.0])
def test_places_above_a_threshold_come_in_order(density, dtype):
    rng = np.random.default_rng(int(100 * density))
    for rows in (64, 192, 256):
        share = np.where(rng.random(256) < density, rng.random(256), 0).astype(dtype)
        share[rng.integers(0, 256, 3)] = 0.25, np.nan, -np.inf
        index = np.full(rows + 16, -1)
        count = found(rows, share, dtype(0.25), index)
        np.testing.assert_array_equal(index[:count], np.flatnonzero(share[:rows] > 0.25))


@pytest.mark.parametrize("d", [*range(1, 10), 15, 16, 23, 33])
def test_moments_are_added_to_the_record_and_to_nothing_else(d):
    rng = np.random.default_rng(d)
    for count in (TOGETHER, 3 * TOGETHER):
        Z, root = rng.standard_normal((count, d)), rng.random(count)
        out = rng.standard_normal(7 + d + d * d)
        want = out.copy()
        want[3 : 3 + d] += root @ Z
        want[5 + d : 5 + d + d * d] += (Z.T @ Z).ravel()
        added(count, d, Z, root, out[3 : 3 + d], out[5 + d : 5 + d + d * d].reshape(d, d))
        np.testing.assert_allclose(out, want, rtol=0, atol=1e-13 * count)
        np.testing.assert_array_equal(out[3 + d : 5 + d], want[3 + d : 5 + d])
        np.testing.assert_array_equal(out[[0, 1, 2, -2, -1]], want[[0, 1, 2, -2, -1]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [3, 8, 11])
@pytest.mark.parametrize("k", [FEW - 1, 40, 128])
def test_components_that_far_apart_find_few_rows_in_a_block(k, d, dtype):
    # Of 256 rows about 256 / k matter to a component: both sides of FEW, and none.
    X, params = problem(1500, d, k, "full", dtype, spread=60.0)
    w = np.random.default_rng(2).integers(0, 3, len(X)).astype(float)
    stats, prepared = record(X, w, None, params, "full")
    want = naive.gaussian_stats(X, w, None, params, "full", prepared_means(prepared))
    close(stats.loglik, want[0], RTOL[dtype], abs(want[0]))
    close(stats.counts, want[1], RTOL[dtype])
    close(stats.sums, want[2], RTOL[dtype], np.abs(want[3]).max())
    close(stats.scatter, want[3], RTOL[dtype])
    assert np.array_equal(stats.scatter, stats.scatter.transpose(0, 2, 1))
