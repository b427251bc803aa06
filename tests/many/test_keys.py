"""Keys of any dtype: which groups there are, and how they are found again."""

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastem
from fastem.many.grouping import gather
from fastem.many.keys import as_columns, grouped

NUMBERS = st.integers(-(2**63), 2**63 - 1)
DAYS = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))
TIMES = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1))
VALUES = {
    "small numbers": st.integers(-3, 3),
    "numbers": NUMBERS,
    "floats": st.floats(allow_nan=False),
    "text": st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=3),
    "days": DAYS,
    "times": TIMES,
    "bools": st.booleans(),
    "numbers or none": st.none() | st.integers(0, 3),
    "text or none": st.none() | st.sampled_from("abc"),
}
by_kind = pytest.mark.parametrize("kind", VALUES)


def ranked(values):
    """Return distinct values in order, None last."""
    some = sorted({value for value in values if value is not None})
    return [*some, None] if None in values else some


def plain(key):
    return key.item() if isinstance(key, np.generic) else key


@by_kind
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_groups_are_those_of_a_dictionary(kind, data):
    values = data.draw(st.lists(VALUES[kind], min_size=1, max_size=30))
    rows = gather(np.zeros((len(values), 1)), values)
    layout = rows.layout
    expected = ranked(values)
    assert len(layout.keys) == len(expected)
    for number, key in enumerate(expected):
        members = np.arange(len(values))[layout.rows_of(number)].tolist()
        assert members == [row for row, value in enumerate(values) if value == key]  # in their order
        assert layout.keys.number(key) == number
        assert layout.keys.number(layout.keys.of(number)) == number
    assert layout.keys.find(as_columns(values)).tolist() == [expected.index(value) for value in values]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_keys_of_several_parts(data):
    kinds = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=2, max_size=3))
    n = data.draw(st.integers(1, 25))
    columns = [data.draw(st.lists(VALUES[kind], min_size=n, max_size=n)) for kind in kinds]
    keys, codes = grouped(as_columns(tuple(columns)), kinds)
    orders = [ranked(column) for column in columns]
    places = [tuple(order.index(v) for order, v in zip(orders, row, strict=True)) for row in zip(*columns, strict=True)]
    expected = sorted(set(places))
    assert len(keys) == len(expected)
    assert codes.tolist() == [expected.index(place) for place in places]
    assert keys.find(as_columns(tuple(columns))).tolist() == codes.tolist()
    for row, code in zip(zip(*columns, strict=True), codes.tolist(), strict=True):
        assert keys.number(row) == code
        assert keys.number(keys.of(code)) == code
        assert [plain(column[code]) for column in keys.columns()] == [plain(part) for part in keys.of(code)]


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int64, np.uint64, np.float32, "U3", "S3", "M8[D]", "M8[ns]"]
)
def test_dtypes(dtype):
    values = np.array([120, 3, 3, 97, 120, 0])
    column = np.array([str(v) for v in values], dtype) if dtype in ("U3", "S3") else values.astype(dtype)
    keys, codes = grouped([column], ["key"])
    order = sorted(set(column.tolist()))
    assert codes.tolist() == [order.index(v) for v in column.tolist()]
    assert keys.levels[0].dtype == column.dtype
    assert keys.find([column[::-1]]).tolist() == codes[::-1].tolist()


def test_extreme_integers():
    for dtype, values in ((np.int8, [-128, 127, -128]), (np.uint64, [2**64 - 1, 2**64 - 2]), (np.int64, [-(2**63), 0])):
        keys, codes = grouped([np.array(values, dtype)], ["key"])
        assert keys.levels[0].tolist() == sorted(set(values))
        assert codes.tolist() == [sorted(set(values)).index(v) for v in values]


def test_missing_floats_are_one_group():
    keys, codes = grouped([np.array([np.nan, 1.0, np.nan])], ["key"])
    assert (len(keys), codes.tolist()) == (2, [1, 0, 1])
    assert keys.find([np.array([np.nan, 2.0, 1.0])]).tolist() == [1, -1, 0]


def test_unknown_keys_are_not_found():
    X = np.zeros((4, 1))
    for groups, others in (
        ([1, 2, 3, 3], [0, "1", None, 2.5, (1, 2)]),
        (["a", "b", "b", "c"], ["", "ab", 1, None]),
        ([datetime.date(2026, 1, day) for day in (1, 2, 2, 5)], [datetime.date(2026, 1, 3), "not a date", 7]),
        (([1, 1, 2, 2], list("abab")), [(1, "c"), (3, "a"), 1, (1,), ("a", 1)]),
    ):
        result = fastem.fit_many(X, groups, n_components=1)
        assert all(key in result for key in result)
        for other in others:
            assert other not in result
            with pytest.raises(KeyError):
                result[other]


def test_parts_are_counted():
    result = fastem.fit_many(np.zeros((2, 1)), ([1, 2], [1, 2]), n_components=1)
    with pytest.raises(ValueError, match=r"A key has 2 part\(s\), key0, key1; got 1"):
        result.find([1, 2])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_labels_come_back_to_their_rows(keys):
    """Each row is put into a place of its own: its label must be that of its own centre."""
    X = 10.0 * np.array(keys)[:, None] + np.arange(len(keys))[:, None] % 2
    result = fastem.fit_many(X, keys, n_components=1, random_state=0)
    assert result.labels.tolist() == [0] * len(keys)
    assert result.n_rows.tolist() == [keys.count(key) for key in sorted(set(keys))]
    for key in set(keys):
        assert result[key].cluster_centers_[0, 0] == pytest.approx(X[np.array(keys) == key].mean())
