"""Rows that the tests of streams share."""

import numpy as np
import pytest

from fastem.grid import CELL

N, D = 70 * CELL + 77, 3  # more than one block, and not on the grid
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(N, D)) + 5 * rng.integers(0, 3, (N, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def w():
    return np.random.default_rng(1).uniform(0.5, 2.0, N)


@pytest.fixture(scope="module")
def table(X, w):
    pa = pytest.importorskip("pyarrow")
    return pa.table({**dict(zip(NAMES, X.T, strict=True)), "w": w})
