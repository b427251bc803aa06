"""Seeds where candidates are screened are those of the passes over all rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastem._native import nearest
from fastem.draws import Draws
from fastem.sources.memory import MemorySource
from fastem.starts import kmeans_plus_plus as starts

DTYPES = [np.float32, np.float64]


def seeds_of(search, draws, k, trials=4):
    """The loop of `_in_passes`, with the search given; seeds, closest, owner."""
    search.add(int(draws.uniform(1)[0] * search.source.n_rows))
    for number in range(1, k):
        if not search.pending.size:
            search.score(search.draw(draws, trials))
        best = search.best()
        if number < k - 1:
            search.add_and_score(best, search.draw_after(best, draws, trials))
        else:
            search.record(best)
    return search.centers(), search.closest, search.owner


def rows_of(kind, n, d, dtype, rng):
    if kind == "blobs":
        X = rng.normal(size=(40, d))[rng.integers(40, size=n)] * 5 + rng.normal(size=(n, d))
    elif kind == "integers":
        X = rng.integers(0, 6, (n, d))
    elif kind == "duplicates":
        X = rng.normal(size=(n // 50, d))[rng.integers(n // 50, size=n)]
    elif kind == "tiny":
        X = rng.normal(size=(n, d)) * 1e-21
    else:
        X = rng.random((n, d)) + 1000
    return X.astype(dtype)


@given(
    kind=st.sampled_from(["blobs", "integers", "duplicates", "tiny", "offset"]),
    n=st.integers(100, 6000),
    d=st.sampled_from([64, 65, 90, 130]),
    dtype=st.sampled_from(DTYPES),
    weighted=st.booleans(),
    n_threads=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_screened_seeds_and_distances_are_those_of_the_passes(kind, n, d, dtype, weighted, n_threads, seed):
    rng = np.random.default_rng(seed)
    X = rows_of(kind, n, d, dtype, rng)
    w = rng.random(n).astype(dtype) if weighted else None
    k = 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starts, "SCREENED_FROM", 4)
        patch.setattr(starts, "REJECTION_PAYS_OFF", 0 if seed % 2 else 10**9)
        patch.setattr(starts, "SCREENING_PAYS", 10.0)
        source = MemorySource(X, w, n_threads=n_threads)
        ours = seeds_of(starts._ScreenedSearch(source, k), Draws(seed), k)
        theirs = seeds_of(starts._Search(source, k), Draws(seed), k)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("isa", nearest.build_info()["available"])
@pytest.mark.parametrize("d", [64, 70])
def test_screened_reductions_are_those_of_all_rows(isa, d, monkeypatch):
    """Each candidate's reduction, by slow NumPy, and that rows are left out at all."""
    monkeypatch.setattr(starts, "SCREENING_PAYS", 10.0)
    nearest.force_isa(isa)
    try:
        rng = np.random.default_rng(d)
        X = rows_of("blobs", 9000, d, np.float64, rng)
        search = starts._ScreenedSearch(MemorySource(X), 200)
        seeds_of(search, Draws(0), 200)
        candidates = rng.choice(len(X), 7, replace=False)
        assert search.screening is not None
        got, cost = search.screening.score(candidates)
        sqdist = np.square(X[:, None] - X[candidates]).sum(axis=2)
        np.testing.assert_allclose(
            got, np.maximum(search.closest[:, None] - sqdist, 0).sum(axis=0), rtol=1e-9, atol=1e-9
        )
        assert cost < 0.9
    finally:
        nearest.force_isa(None)


def test_rows_beyond_the_largest_squares_are_seeded_by_passes():
    X = (np.random.default_rng(0).normal(size=(9000, 64)) * 1e16).astype(np.float32)
    search = starts._ScreenedSearch(MemorySource(X), 80)
    ours = seeds_of(search, Draws(0), 80)
    assert search.screening is None
    np.testing.assert_array_equal(ours[0], seeds_of(starts._Search(MemorySource(X), 80), Draws(0), 80)[0])


@pytest.mark.parametrize("doubt", [0.0, 1.0])
def test_candidates_that_lower_the_potential_as_much_are_told_apart_by_passes(doubt, monkeypatch):
    """Whole numbers on a grid have many such candidates; that all are asked about changes nothing but the time."""
    rng = np.random.default_rng(0)
    half = rng.integers(0, 3, (4500, 64))
    X = np.concatenate([half, 20 - half]).astype(np.float64)  # the mirror image lowers it exactly as much
    monkeypatch.setattr(starts, "SCREENED_FROM", 4)
    monkeypatch.setattr(starts, "SCREENING_PAYS", 10.0)
    monkeypatch.setattr(starts, "REJECTION_PAYS_OFF", 0)
    search = starts._ScreenedSearch(MemorySource(X), 40)
    asked = []
    undone = search._undone
    monkeypatch.setattr(search, "_undone", lambda *given: (asked.append(given), undone(*given)))
    if doubt:
        search.doubt = doubt
    ours = seeds_of(search, Draws(1), 40)
    theirs = seeds_of(starts._Search(MemorySource(X), 40), Draws(1), 40)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (len(asked) > 20) == (doubt > 0)


def test_noise_is_left_to_passes_and_few_directions_are_not():
    """Whether candidates are screened is decided by what it costs for some rows."""
    rng = np.random.default_rng(0)
    noise = rng.random((9000, 96))
    plane = rng.normal(size=(9000, 4)) @ rng.normal(size=(4, 96)) + 0.01 * noise
    for X, pays in ((noise, False), (plane, True)):
        search = starts._search_of(MemorySource(X), 128)
        assert isinstance(search, starts._ScreenedSearch)
        seeds_of(search, Draws(0), 128)
        assert (search.screening is not None) == pays
    assert type(starts._search_of(MemorySource(noise[:, :60].copy()), 128)) is starts._Search
    assert type(starts._search_of(MemorySource(noise), 100)) is starts._Search
