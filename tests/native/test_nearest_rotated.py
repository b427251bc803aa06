"""Search by a rotated basis: the labels of a search of all pairs, whatever the rows."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rows_to_search import KINDS, rows_and_centers

from fastem import KMeans
from fastem._native import nearest
from fastem.families.kmeans import KMeansFamily, KMeansParams, active_centers, rotated
from fastem.families.kmeans.basis import SHARE, error_of_rows, find_basis

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DTYPES = [np.float32, np.float64]


def search_of(X, prepared, blind):
    rows = rotated.rotate(X, find_basis(X, 10**6, rotated.DIRECTIONS), 1)
    return rotated.search_by(rows, rotated.turn(rows, prepared, 1), prepared.moved, blind)


def labels_of(X, centers, n_threads, guess=None):
    family = KMeansFamily(len(centers))
    prepared = family.prepare(KMeansParams(centers), X.dtype)
    expected, sqdist = family.assign(X, prepared, 1)
    search = search_of(X, prepared, blind=guess is None)
    labels = np.empty(len(X), np.int32) if guess is None else guess.copy()
    found, upper, lower = np.empty(len(X), X.dtype), np.empty(len(X), X.dtype), np.empty(len(X), X.dtype)
    nearest.search_rotated(X, *prepared[:3], search, labels, n_threads, found, upper, lower)
    return expected, sqdist, labels, found, upper, lower


@given(
    st.sampled_from(KINDS), st.integers(1, 600), st.integers(64, 200), st.integers(33, 300), st.sampled_from(DTYPES),
    st.sampled_from(nearest.build_info()["available"]), st.booleans(), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_labels_are_those_of_all_pairs(kind, n, d, k, dtype, isa, blind, seed):
    nearest.force_isa(isa)
    X, centers, rng = rows_and_centers(kind, n, d, k, dtype, seed)
    guess = None if blind else rng.integers(k, size=n).astype(np.int32)
    expected, sqdist, labels, found, upper, lower = labels_of(X, centers, 2, guess)
    direct = np.stack([np.square(X.astype(np.float64) - c).sum(axis=1) for c in centers], axis=1)
    own, eps = direct[np.arange(n), labels], np.finfo(dtype).eps
    assert np.all(own <= direct.min(axis=1) * (1 + (8 + d**0.5) * eps))
    # Where no second look is taken, a search of all pairs decides to half the digits (`doubt` in differences_body.h).
    same = labels == expected
    assert np.all(same | (np.abs(direct[np.arange(n), expected] - own) <= 8 * eps**0.5 * own))
    np.testing.assert_array_equal(found[same], sqdist[same])
    # Bounds hold.
    assert np.all(upper.astype(np.float64) >= np.sqrt(own) * (1 - 4 * eps))
    direct[np.arange(n), labels] = np.inf
    assert np.all(lower.astype(np.float64) <= np.sqrt(direct.min(axis=1)) * (1 + 4 * eps))


def true_numbers(X, basis):
    """Coordinates of rows, and norms of what the first and all of them leave, in extended precision."""
    rows, directions = (
        np.asarray(table, np.longdouble) for table in (X - basis.mean.astype(X.dtype), basis.directions)
    )
    if X.dtype == np.float32:
        rows = X.astype(np.longdouble) - basis.mean
    inside = rows @ directions
    rest = np.sqrt(np.square(rows - inside @ directions.T).sum(axis=1))
    first = np.sqrt(np.square(rest) + np.square(inside[:, rotated.FIRST :]).sum(axis=1))
    return np.column_stack([inside[:, : rotated.FIRST], first, inside[:, rotated.FIRST :], rest])


@given(
    st.sampled_from(KINDS), st.integers(1, 200), st.integers(64, 300), st.sampled_from(DTYPES),
    st.sampled_from(nearest.build_info()["available"]), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_rows_and_centres_are_off_by_no_more_than_is_said(kind, n, d, dtype, isa, seed):
    nearest.force_isa(isa)
    X, centers, _ = rows_and_centers(kind, n, d, 40, dtype, seed)
    basis = find_basis(X, 10**6, rotated.DIRECTIONS)
    rows = rotated.rotate(X, basis, 2)
    squares = np.square(rows.rows[:, : nearest.ROTATED_FIRST], dtype=np.float64).sum(axis=1)
    said = error_of_rows(squares, rows.rows[:, -1].astype(np.float64), rows.row_error, np.finfo(dtype).eps)
    off = rows.rows - true_numbers(X, basis)
    for part in (off[:, : nearest.ROTATED_FIRST], np.delete(off, rotated.FIRST, axis=1)):
        assert np.all(np.sqrt(np.square(part).sum(axis=1)) <= said)

    prepared = KMeansFamily(40).prepare(KMeansParams(centers), X.dtype)
    turned = rotated.turn(rows, prepared, 1)
    given_centers = prepared.centers.astype(np.longdouble) + prepared.origin
    off = turned.numbers - true_numbers(given_centers, basis)
    said = np.sqrt(turned.allowance.astype(np.float64) * (1 + SHARE) / (1 + 1 / SHARE))
    for part in (off[:, : nearest.ROTATED_FIRST], np.delete(off, rotated.FIRST, axis=1)):
        assert np.all(np.sqrt(np.square(part).sum(axis=1)) <= said)


@pytest.mark.parametrize("isa", nearest.build_info()["available"])
def test_what_little_a_row_leaves_is_known(isa):
    """The difference of the squares of a row and of its coordinates would be off by more than what is left."""
    nearest.force_isa(isa)
    rng = np.random.default_rng(5)
    X, _, _ = rows_and_centers("decaying", 3000, 150, 40, np.float32, 5)
    X = (0.05 * X + np.outer(rng.standard_normal(3000), rng.standard_normal(150))).astype(np.float32)
    rows = rotated.rotate(X, find_basis(X, 10**6, rotated.DIRECTIONS), 1)
    squares = np.square(rows.rows[:, : nearest.ROTATED_FIRST], dtype=np.float64).sum(axis=1)
    rests = rows.rows[:, -1].astype(np.float64)
    off = 2.5 * rows.row_error * squares
    by_difference = np.where(rests**2 > 2 * off, off / rests, np.sqrt(3 * off))
    said = error_of_rows(squares, rests, rows.row_error, np.finfo(np.float32).eps)
    assert np.median(by_difference / rests) > 1
    assert np.median(said / rests) < 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_most_centres_are_left_out(dtype):
    """What is left out is what the search is for: lower bounds reach beyond the rows' own distances."""
    X, centers, _ = rows_and_centers("decaying", 3000, 128, 200, dtype, 1)
    family = KMeansFamily(200)
    prepared = family.prepare(KMeansParams(centers), X.dtype)
    assert rotated.share_of_work(X, find_basis(X, 10**6, rotated.DIRECTIONS), prepared) < 1.5
    noise, centers, _ = rows_and_centers("noise", 3000, 128, 200, dtype, 1)
    prepared = family.prepare(KMeansParams(centers), X.dtype)
    assert rotated.share_of_work(noise, find_basis(noise, 10**6, rotated.DIRECTIONS), prepared) > 2


# Every kind with both number types, in turns with weights; the deep checks have the other pairs.
@pytest.mark.parametrize(
    ("kind", "dtype", "weighted"),
    [
        pytest.param(kind, dtype, weighted, marks=() if (number + at) % 2 == weighted else pytest.mark.deep)
        for number, kind in enumerate(["decaying", "noise", "offset", "duplicates", "low rank"])
        for at, dtype in enumerate(DTYPES)
        for weighted in (False, True)
    ],
)
def test_every_iteration_is_lloyds(monkeypatch, dtype, kind, weighted):
    X, centers, rng = rows_and_centers(kind, 5000, 72, 160, dtype, 2)
    w = rng.random(len(X)) if weighted else None
    rotate, made = rotated.rotate, []
    monkeypatch.setattr(rotated, "rotate", lambda *args: made.append(1) or rotate(*args))
    for iterations in (1, 2, 3, 5, 9, 21):
        options = {"init": centers, "max_iter": iterations, "tol": 0.0}
        exact = KMeans(160, algorithm="lloyd", **options).fit(X, sample_weight=w)
        fast = KMeans(160, algorithm="rotated", **options).fit(X, sample_weight=w)
        np.testing.assert_array_equal(fast.labels_, exact.labels_)
        assert fast.inertia_ == pytest.approx(exact.inertia_, rel=1e-12 if dtype == np.float64 else 1e-6)
    assert made


@given(st.sampled_from(KINDS), st.integers(1, 3000), st.sampled_from(DTYPES), st.floats(0, 0.6), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_rows_are_lost_to_centres_that_moved_alone(kind, n, dtype, share, seed):
    """Where few centres move, or none, rows of the others are held against these only; several times, as bounds age."""
    k, d = 60, 70
    X, centers, rng = rows_and_centers(kind, n, d, k, dtype, seed)
    family, w, memo, prepared = KMeansFamily(k, "rotated"), np.empty(0, dtype), None, None
    for _ in range(5):
        prepared = family.prepare(KMeansParams(centers), X.dtype, prepared)
        memo = family.new_memo(n) if memo is None else memo
        family.total_of_memo(X, w, prepared, 2, memo)
        expected, _ = family.assign(X, prepared, 1)
        direct = np.stack([np.square(X.astype(np.float64) - c).sum(axis=1) for c in centers], axis=1)
        own, eps = direct[np.arange(n), memo.labels], np.finfo(dtype).eps
        assert np.all(own <= direct.min(axis=1) * (1 + (8 + d**0.5) * eps))
        same = memo.labels == expected
        assert np.all(same | (np.abs(direct[np.arange(n), expected] - own) <= 8 * eps**0.5 * own))
        if memo.bounds is not None:
            assert np.all(memo.bounds.upper >= np.sqrt(own) * (1 - 4 * eps))
            direct[np.arange(n), memo.labels] = np.inf
            assert np.all(memo.bounds.lower <= np.sqrt(direct.min(axis=1)) * (1 + 4 * eps))
        movers = np.flatnonzero(rng.random(k) < share)
        centers = centers.copy()
        towards = X[rng.integers(n, size=len(movers))].astype(np.float64)
        centers[movers] += rng.choice([0.01, 0.5, 1.0]) * (towards - centers[movers])
        centers = centers.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(dtype):
    X, centers, _ = rows_and_centers("decaying", 9000, 80, 64, dtype, 3)
    runs = [KMeans(64, init=centers, max_iter=4, algorithm="rotated", n_threads=t).fit(X) for t in (1, 2)]
    np.testing.assert_array_equal(runs[0].cluster_centers_, runs[1].cluster_centers_)
    np.testing.assert_array_equal(runs[0].labels_, runs[1].labels_)
    assert runs[0].inertia_ == runs[1].inertia_


def test_auto_asks_a_sample(monkeypatch):
    monkeypatch.setattr(rotated, "WORK", 0)
    rotate, made = rotated.rotate, []
    monkeypatch.setattr(rotated, "rotate", lambda *args: made.append(1) or rotate(*args))
    for kind, pays in (("decaying", True), ("noise", False)):
        X, centers, _ = rows_and_centers(kind, 3000, 400, 400, np.float32, 4)
        KMeans(400, init=centers, max_iter=1).fit(X)
        assert bool(made) == pays
        made.clear()


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("second", [0.0, 2.0])
def test_auto_asks_again_when_centres_are_means(monkeypatch, grouped, second):
    """Of single rows few others are ruled out; a run that began without a rotation may go on with one: it asks once."""
    answers, rotate, made = [2.0, second], rotated.rotate, []
    monkeypatch.setattr(rotated, "WORK", 0)
    monkeypatch.setattr(rotated, "share_of_work", lambda *args: answers.pop(0))
    monkeypatch.setattr(rotated, "rotate", lambda *args: made.append(1) or rotate(*args))
    monkeypatch.setattr(active_centers, "worthwhile", lambda *args: grouped)
    X, centers, _ = rows_and_centers("decaying", 5000, 72, 160, np.float32, 2)
    exact, fast = (KMeans(160, init=centers, max_iter=25, tol=0.0, algorithm=a).fit(X) for a in ("lloyd", "auto"))
    np.testing.assert_array_equal(fast.labels_, exact.labels_)
    assert len(made) == (second == 0.0)
    assert not answers


def test_values_that_overflow_when_squared_are_searched_without():
    X, centers, _ = rows_and_centers("decaying", 3000, 64, 40, np.float64, 5)
    X[7] = 1e130
    assert (
        find_basis(X, 10**6, rotated.DIRECTIONS) is None
        or rotated.rotate(X, find_basis(X, 10**6, rotated.DIRECTIONS), 1) is None
    )
    fits = [KMeans(40, init=centers, max_iter=1, algorithm=name).fit(X) for name in ("hamerly", "rotated")]
    np.testing.assert_array_equal(fits[0].labels_, fits[1].labels_)


@given(st.integers(64, 150), st.integers(33, 90), st.sampled_from(DTYPES), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_centres_that_stayed_need_not_be_turned_again(d, k, dtype, n_threads, seed):
    X, centers, rng = rows_and_centers("decaying", 300, d, k, dtype, seed)
    family, rows = KMeansFamily(k), rotated.rotate(X, find_basis(X, 10**6, rotated.DIRECTIONS), 1)
    before = family.prepare(KMeansParams(centers), dtype)
    which = rng.random(k) < rng.random()
    after = family.prepare(KMeansParams(centers + which[:, None] * rng.standard_normal((k, d))), dtype, before)
    assume(after.moved.size)  # the origin was kept
    turned = rotated.turn(rows, after, n_threads)
    moved_only = rotated.turn(rows, after, 1, rotated.turn(rows, before, n_threads))
    for whole, part in zip(turned[:3], moved_only[:3], strict=True):
        np.testing.assert_array_equal(whole, part)
    assert sorted(moved_only.order) == list(range(k))
    naive = (after.centers.astype(float) + after.origin - rows.basis.mean) @ rows.basis.directions.astype(float)
    places = np.delete(np.arange(nearest.ROTATED), [nearest.ROTATED_FIRST - 1, nearest.ROTATED - 1])
    np.testing.assert_allclose(
        turned.numbers[:, places], naive, rtol=0, atol=4 * np.finfo(dtype).eps * np.abs(naive).max()
    )


def test_centres_that_do_not_exist_are_not_turned():
    centers, directions, which = np.ones((3, 70)), np.ones((70, nearest.ROTATED)), np.array([0, 3])
    out, squares = np.empty((2, nearest.ROTATED)), np.empty(2)
    with pytest.raises(IndexError, match="no more than 3"):
        nearest.turn_centers(centers, np.zeros(70), directions, which, out, squares, 1)
    with pytest.raises(ValueError, match="do not fit"):
        nearest.turn_centers(centers, np.zeros(69), directions, which, out, squares, 1)


def test_a_rotation_of_other_rows_is_refused():
    X, centers, _ = rows_and_centers("decaying", 300, 64, 40, np.float32, 6)
    prepared = KMeansFamily(40).prepare(KMeansParams(centers), X.dtype)
    search = search_of(X, prepared, blind=False)
    with pytest.raises(ValueError, match="rotation of other rows"):
        nearest.search_rotated(X[:200], *prepared[:3], search, np.zeros(200, np.int32), 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 30, 300])
def test_tied_rows_are_those_of_all_pairs(dtype, offset):
    """The last pass by a rotation finds the rows that differences find tied; of scores, those near to rounding."""
    rng = np.random.default_rng(8)
    X = (0.1 * rng.integers(0, 2, (3000, 70)) * (np.arange(70) < 12) + offset).astype(dtype)
    centers = X[rng.choice(len(X), 40, replace=False)].astype(np.float64)
    centers[:, :20] += rng.integers(0, 2, (40, 20)) / 30  # ties but for their rounding, few of them at distance 0
    tied = {}
    for algorithm in ("lloyd", "rotated"):
        family = KMeansFamily(40, algorithm)
        memo = family.new_memo(len(X))
        for _ in range(2):  # the second pass is a last one
            prepared = family.prepare(KMeansParams(centers), X.dtype)
            family.total_of_memo(X, X[:0, 0], prepared, 2, memo)
        tied[algorithm] = np.sort(family.undecided(memo))
    relative = X.astype(np.float64) - prepared.origin
    sqdist = np.stack([np.square(relative - c).sum(axis=1) for c in prepared.centers.astype(np.float64)], axis=1)
    sqdist.sort(axis=1)
    near, size = np.sqrt(sqdist[:, 0]), np.sqrt(np.square(X, dtype=np.float64).sum(axis=1))
    allowed = 8 * np.finfo(dtype).eps * near * (near + size)
    np.testing.assert_array_equal(tied["rotated"], np.flatnonzero((near > 0) & (np.diff(sqdist)[:, 0] <= allowed)))
    assert len(tied["lloyd"]) > 50
    assert len(np.setdiff1d(tied["lloyd"], tied["rotated"])) == 0
    if offset < 300:
        np.testing.assert_array_equal(tied["rotated"], tied["lloyd"])
