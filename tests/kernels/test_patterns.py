"""Rows grouped by the features that they miss."""

import numpy as np
import pytest

from fastem.kernels.patterns import Groups, group_rows


def groups_by_numpy(X: np.ndarray, start: int, stop: int) -> Groups:
    """Slow oracle: group 0 complete, then patterns by how much they miss, and as they appear."""
    missing = np.isnan(X)
    rows: dict[tuple[bool, ...], list[int]] = {(False,) * X.shape[1]: []}
    for i in range(start, stop):
        rows.setdefault(tuple(missing[i].tolist()), []).append(i)
    patterns = sorted(rows, key=sum)
    runs = [rows[pattern] for pattern in patterns]
    masks = np.array(patterns)
    return Groups(
        np.array([i for run in runs for i in run], np.intp),
        np.cumsum([0, *map(len, runs)]),
        np.array([np.append(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in masks]),
        (~masks).sum(axis=1),
    )


def same(a: Groups, b: Groups) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("d", [1, 2, 5, 63, 64, 65, 130])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 1.0])
def test_groups_of_random_patterns_are_those_of_numpy(d, share):
    rng = np.random.default_rng(d)
    X = rng.normal(size=(300, d))
    X[rng.random(X.shape) < share] = np.nan
    for dtype in (np.float64, np.float32):
        assert same(group_rows(X.astype(dtype), 20, 290), groups_by_numpy(X, 20, 290))


def test_a_whole_cell_of_distinct_patterns():
    X = np.where((np.arange(2048)[:, None] >> np.arange(11)) & 1, np.nan, 1.0)
    X = X[np.random.default_rng(0).permutation(2048)]
    groups = group_rows(X, 0, 2048)
    assert len(groups.n_observed) == 2048
    assert same(groups, groups_by_numpy(X, 0, 2048))


def test_complete_rows_are_one_group_in_order():
    X = np.arange(12.0).reshape(4, 3)
    groups = group_rows(X, 1, 4)
    assert groups.order.tolist() == [1, 2, 3]
    assert groups.starts.tolist() == [0, 3]
    assert groups.features.tolist() == [[0, 1, 2]]
    assert groups.n_observed.tolist() == [3]


def test_group_of_complete_rows_comes_first_even_if_empty():
    X = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, 3.0]])
    groups = group_rows(X, 0, 3)
    assert groups.starts.tolist() == [0, 0, 2, 3]
    assert groups.order.tolist() == [0, 2, 1]
    assert groups.features.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert groups.n_observed.tolist() == [2, 1, 1]


def test_infinity_is_not_missing():
    assert group_rows(np.array([[np.inf, -np.inf]]), 0, 1).n_observed.tolist() == [2]
