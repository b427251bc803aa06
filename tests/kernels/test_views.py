"""Records by name: kernels and `Layout.view` see the same numbers in the same places."""

from typing import NamedTuple

import numpy as np

from fastem.jit import kernel
from fastem.kernels import views
from fastem.records import Fields


class Sums(NamedTuple):
    total: np.ndarray
    first: np.ndarray
    second: np.ndarray
    third: np.ndarray


FIELDS = Fields(Sums, total="", first="k", second="kdd", third="k*d")
bind = views.binder(FIELDS)


@kernel
def number_places(vector, k, d):
    """Write to each place of a record what tells it from all others."""
    record = bind(vector, (k, d))
    record.total[0] = 1.0
    for c in range(record.first.shape[0]):
        record.first[c] = 100.0 + c
    for c in range(record.second.shape[0]):
        for i in range(record.second.shape[1]):
            for j in range(record.second.shape[2]):
                record.second[c, i, j] = 1000.0 + 100 * c + 10 * i + j
    for i in range(record.third.shape[1]):
        for j in range(record.third.shape[2]):
            column = record.third[:, i, j]
            for c in range(column.shape[0]):
                column[c] = 2000.0 + 100 * c + 10 * i + j


def test_a_kernel_sees_a_record_as_its_layout_shows_it():
    k, d = 3, 2
    for rest in (0, 1, 4):
        layout = FIELDS.layout(k, d, rest)
        space = np.full(layout.size + 6, np.nan)
        number_places(space[3:-3], k, d)
        c, i, j = np.ogrid[:k, :rest, :d]
        want = Sums(
            np.ones(1),
            100.0 + np.arange(k),
            1000.0 + 100 * c + 10 * np.arange(d)[:, None] + j,
            2000.0 + 100 * c + 10 * i + j,
        )
        shown = layout.view(space[3:-3])
        for seen in (shown._replace(total=shown.total.reshape(1)), views._in_python(FIELDS, space[3:-3], (k, d))):
            for name, mine, theirs in zip(Sums._fields, seen, want, strict=True):
                assert mine.shape == theirs.shape, name
                np.testing.assert_array_equal(mine, theirs, err_msg=name)
        assert np.isnan(space[[0, 1, 2, -3, -2, -1]]).all()  # and writes to nothing else
