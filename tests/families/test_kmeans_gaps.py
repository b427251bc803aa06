"""Half the distance of each centre to the nearest other, which bounds of rows are held against."""

import numpy as np
import pytest

from fastem.families.kmeans import gaps
from fastem.families.kmeans.family import KMeansFamily
from fastem.families.kmeans.records import KMeansParams


def exact(prepared):
    """Return half the distances (k,), in extended precision."""
    centers = prepared.centers.astype(np.longdouble)
    sqdist = np.square(centers[:, None] - centers[None]).sum(axis=2)
    np.fill_diagonal(sqdist, np.inf)
    return 0.5 * np.sqrt(sqdist.min(axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-22, 1.0, 1e15])
@pytest.mark.parametrize("at_once", [1, 50, 2**22])
def test_gaps_are_never_too_large_and_hardly_too_small(dtype, scale, at_once, monkeypatch):
    monkeypatch.setattr(gaps, "GAPS", at_once)
    rng, k = np.random.default_rng(0), 9
    family = KMeansFamily(k, "bounded")
    centers = scale * rng.normal(size=(k, 5))
    memo, previous = family.new_memo(gaps.GAPS_PAY * k), None
    for moving in (range(k), [3], [0, 8], [], range(k)):
        centers[moving] += 0.3 * scale * rng.normal(size=(len(moving), 5))
        prepared = family.prepare(KMeansParams(centers), np.dtype(dtype), previous)
        found, want = gaps.half_gaps(prepared, memo, 2), exact(prepared)
        assert np.all(found <= want)
        moved = np.asarray(list(moving), int)
        if previous is None or len(moved) == k:
            moved = np.arange(k)
        if scale > 1e-20 or dtype == np.float64:  # else squares underflow, and nothing is known
            assert np.all(found[moved] >= want[moved] * (1 - 32 * np.finfo(dtype).eps))
        previous = prepared


def test_they_are_none_where_they_do_not_pay():
    family = KMeansFamily(4)
    prepared = family.prepare(KMeansParams(np.eye(4)), np.dtype(np.float64))
    assert not gaps.half_gaps(prepared, family.new_memo(4 * gaps.GAPS_PAY - 1), 1).any()
