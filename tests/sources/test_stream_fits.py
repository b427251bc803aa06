"""Every estimator, fitted to a stream, has the bits of a fit to the same rows in memory."""

import numpy as np
import pytest
from models_of_sources import COMPLETE, COUNTED, ESTIMATORS, fitted, same

import fastem

pa = pytest.importorskip("pyarrow")

NAMES = ["a", "b", "c"]


WAYS = {
    "kept": (False, False, True),
    "weighted, missing, kept": (True, True, True),
    "weighted, decoded anew": (True, False, False),
    "missing, decoded anew": (False, True, False),
}


def cases():
    """Half of the ways for an estimator that takes missing values, kept or not in turns; the others are deep checks.

    A random start of rows with missing values in float32 is one of these: it alone needs a kernel of 22 s to compile.
    """
    for number, name in enumerate(ESTIMATORS):
        for at, (way, given) in enumerate(WAYS.items()):
            quick = not given[1] if name in (*COMPLETE, "random") else at in ((0, 3), (1, 2))[number % 2]
            yield pytest.param(name, *given, id=f"{name}-{way}", marks=() if quick else pytest.mark.deep)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("name", "weighted", "missing", "kept"), list(cases()))
def test_every_estimator_has_the_bits_of_rows_in_memory(name, weighted, missing, kept, X, w):
    if missing and name in COMPLETE:
        pytest.skip("takes complete rows")
    if name == "bounds" and not kept:
        pytest.skip("bounds need rows in an array: tested below")
    data = np.abs(np.round(X)) if name in COUNTED else X
    if missing:
        data = data.copy()
        data[np.random.default_rng(2).random(data.shape) < 0.02] = np.nan
    table = pa.table({**dict(zip(NAMES, data.T, strict=True)), "w": w})
    given = {"sample_weight": w} if weighted else {}
    want = ESTIMATORS[name]().fit(data, **given)
    stream = fastem.rows(table, columns=NAMES, weights="w" if weighted else None, cache="always" if kept else "never")
    found = ESTIMATORS[name]().fit(stream)
    for attribute, value in fitted(want).items():
        if attribute != "labels_":
            assert same(getattr(found, attribute), value), attribute
    assert "labels_" not in vars(found)
    assert found.score(stream) == want.score(data, **given)
    if hasattr(want, "predict"):
        np.testing.assert_array_equal(np.concatenate(list(found.predict(stream))), want.predict(data))
