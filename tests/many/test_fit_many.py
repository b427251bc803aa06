"""fit_many: every group as if it were fitted alone, in whatever form and order the groups come."""

import datetime
import tracemalloc
import warnings

import numpy as np
import pytest
from many_problems import MODELS, differing, rows_for, with_k
from sklearn.exceptions import ConvergenceWarning

import fastem

by_model = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the single fits
        yield


def random_groups(model, n_groups, seed, dtype=np.float64):
    """Return rows, keys and numbers of components of groups of 5 to 120 rows."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 120, n_groups)
    X = np.concatenate([rows_for(model, size, seed + at, dtype) for at, size in enumerate(sizes)])
    return X, np.repeat(np.arange(n_groups), sizes), rng.integers(1, 4, n_groups)


@by_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_group_equals_its_single_fit_to_the_bit(model, dtype):
    X, keys, numbers = random_groups(model, 12, 7, dtype)
    shuffled = np.random.default_rng(0).permutation(len(X))
    X, keys = X[shuffled], keys[shuffled]
    result = fastem.fit_many(X, keys, model=model, n_components=numbers, random_state=5, **MODELS[model])
    for key in range(12):
        mine = X[keys == key]
        alone = with_k(model, int(numbers[key]), random_state=5, **MODELS[model]).fit(mine)
        assert differing(alone, result[key]) == []
        assert result[key].get_params() == alone.get_params()
        if hasattr(alone, "predict"):
            assert np.array_equal(alone.predict(mine), result.labels[keys == key])
            assert np.array_equal(alone.predict(mine), result[key].predict(mine))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("gmm", {"covariance_type": "full"}),
        ("gmm", {"covariance_type": "tied", "n_init": 2}),
        ("gmm", {"covariance_type": "spherical", "reg_covar": 0.0}),
        ("gmm", {"covariance_type": "VVE"}),
        ("gmm", {"noise": True}),
        ("kmeans", {"spherical": True, "n_init": 3}),
        ("kmeans", {"n_swaps": 4}),
        ("factor", {"rotation": "varimax"}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_options_go_to_the_estimator(model, options, dtype):
    X, keys, _ = random_groups(model, 6, 11, dtype)
    result = fastem.fit_many(X, keys, model=model, n_components=2, random_state=1, **options)
    for key in range(6):
        alone = with_k(model, 2, random_state=1, **options).fit(X[keys == key])
        assert differing(alone, result[key]) == []


@by_model
def test_weights_and_missing_values(model):
    X, keys, _ = random_groups(model, 6, 3)
    w = np.random.default_rng(1).uniform(0.5, 2, len(X))
    if model != "kmeans":
        X[::11, 1] = np.nan
    result = fastem.fit_many(X, keys, model=model, n_components=2, sample_weight=w, random_state=1, **MODELS[model])
    for key in range(6):
        mine = keys == key
        alone = with_k(model, 2, random_state=1, **MODELS[model]).fit(X[mine], sample_weight=w[mine])
        assert differing(alone, result[key]) == []
        assert result.weight[key] == pytest.approx(w[mine].sum())


@by_model
def test_any_number_of_threads_and_any_order_of_groups(model):
    X, keys, _ = random_groups(model, 8, 2)
    options = {"model": model, "n_components": 2, "random_state": 0, **MODELS[model]}
    one = fastem.fit_many(X, keys, n_threads=1, **options)
    two = fastem.fit_many(X, keys, n_threads=2, **options)
    new_keys = np.random.default_rng(3).permutation(8)
    moved = fastem.fit_many(X, new_keys[keys], n_threads=2, **options)
    for key in range(8):
        assert differing(one[key], two[key].set_params(n_threads=1)) == []
        assert differing(one[key], moved[int(new_keys[key])]) == []
    assert np.array_equal(one.objective, two.objective)
    assert np.array_equal(one.objective, moved.objective[new_keys])


def test_a_large_group_beside_small_ones(monkeypatch):
    """Which groups get all threads changes nothing."""
    X, keys, _ = random_groups("gmm", 5, 4)
    before = fastem.fit_many(X, keys, model="gmm", n_components=2, random_state=0)
    monkeypatch.setattr("fastem.many.loop.LARGE", 200)
    after = fastem.fit_many(X, keys, model="gmm", n_components=2, random_state=0)
    assert all(differing(before[key], after[key]) == [] for key in range(5))


@pytest.mark.parametrize("n_bytes", [1, 1000, 10_000])
def test_batches_of_any_size(monkeypatch, n_bytes):
    X, keys, _ = random_groups("kmeans", 9, 4)
    before = fastem.fit_many(X, keys, n_components=2, random_state=0)
    monkeypatch.setattr("fastem.many.grouping.BATCH_BYTES", n_bytes)
    after = fastem.fit_many(X, keys, n_components=2, random_state=0)
    assert all(differing(before[key], after[key]) == [] for key in range(9))
    assert np.array_equal(before.labels, after.labels)


class Stream:
    """What exports an Arrow stream, and nothing else."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def test_all_forms_give_the_same():
    pa, pd = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    X, keys, _ = random_groups("kmeans", 6, 5)
    text, days = np.array(list("abcdef"))[keys], np.datetime64("2026-01-01") + keys
    offsets = np.concatenate([[0], np.cumsum(np.bincount(keys))])
    frame = pd.DataFrame(X, columns=list("wxyz")).assign(shop=text, day=days, kind=pd.Categorical(text))
    table = pa.table({**{name: X[:, j] for j, name in enumerate("wxyz")}, "shop": text, "week": keys})
    features = list("wxyz")
    calls = {
        "numbers": (X, keys, {}),
        "text": (X, text, {}),
        "list": (X, text.tolist(), {}),
        "dates": (X, days, {}),
        "date objects": (X, [datetime.date(2026, 1, 1 + key) for key in keys], {}),
        "tuple": (X, (keys // 2, text), {}),
        "list of tuples": (X, list(zip(keys // 2, text, strict=True)), {}),
        "table of keys": (X, np.column_stack([keys // 2, keys]), {}),
        "offsets": (X, None, {"offsets": offsets}),
        "arrays": (np.split(X, offsets[1:-1]), None, {}),
        "pandas": (frame, None, {"by": "shop", "columns": features}),
        "pandas dates": (frame, None, {"by": ["day", "shop"], "columns": features}),
        "pandas categories": (frame, None, {"by": "kind", "columns": features}),
        "Arrow": (table, None, {"by": ["shop", "week"]}),
        "stream": (Stream(table), None, {"by": ["shop"], "columns": features}),
        "Fortran": (np.asfortranarray(X), keys, {}),
    }
    expected = [with_k("kmeans", 2, random_state=0).fit(X[keys == key]) for key in range(6)]
    for name, (rows, groups, options) in calls.items():
        result = fastem.fit_many(rows, groups, n_components=2, random_state=0, **options)
        assert len(result) == 6, name
        for key, alone in zip(result.keys, expected, strict=True):
            assert differing(alone, result[key]) == [], name
        labels = np.concatenate(result.labels) if name == "arrays" else result.labels
        assert np.array_equal(labels, np.concatenate([alone.labels_ for alone in expected])), name


def test_an_array_of_groups():
    X = rows_for("gmm", 60, 0).reshape(4, 15, 4)
    result = fastem.fit_many(X, model="gmm", n_components=2, random_state=0)
    assert result.labels.shape == (4, 15)
    for group in range(4):
        alone = with_k("gmm", 2, random_state=0).fit(X[group])
        assert differing(alone, result[group]) == []
        assert np.array_equal(result.labels[group], alone.predict(X[group]))
    assert np.array_equal(result.predict(X), result.labels)


def test_groups_of_columns_give_codes():
    X = rows_for("kmeans", 300, 0, np.float32, d=8)
    columns = [slice(0, 3), slice(3, 6), [7, 1]]
    result = fastem.fit_many(X, columns=columns, n_components=16, random_state=0)
    codes = result.predict(X)
    assert codes.shape == result.labels.shape == (300, 3)
    for group, own in enumerate(columns):
        alone = with_k("kmeans", 16, random_state=0).fit(np.ascontiguousarray(X[:, own]))
        assert differing(alone, result[group]) == []
        assert np.array_equal(codes[:, group], alone.labels_)
    assert result.n_features.tolist() == [3, 3, 2]
    w = np.random.default_rng(0).uniform(1, 2, 300)
    weighted = fastem.fit_many(X, columns=columns, n_components=4, random_state=0, sample_weight=w)
    alone = with_k("kmeans", 4, random_state=0).fit(np.ascontiguousarray(X[:, 3:6]), sample_weight=w)
    assert differing(alone, weighted[1]) == []


def test_numbers_of_components_by_key():
    X, keys, _ = random_groups("kmeans", 3, 5)
    text = np.array(["b", "a", "c"])[keys]
    result = fastem.fit_many(X, text, n_components={"a": 1, "b": 2, "c": 3}, random_state=0)
    assert [len(result[key].cluster_centers_) for key in "abc"] == [1, 2, 3]
    pairs = fastem.fit_many(X, (text, keys), n_components={("a", 1): 1, ("b", 0): 2, ("c", 2): 3}, random_state=0)
    assert [len(pairs[key].cluster_centers_) for key in pairs.keys] == [1, 2, 3]
    with pytest.raises(ValueError, match="no number for group 'c'"):
        fastem.fit_many(X, text, n_components={"a": 1, "b": 2})


@pytest.mark.parametrize("model", ["gmm", "kmeans", "factor", "categorical"])
def test_bic_chooses_as_by_hand(model):
    X = np.concatenate([rows_for(model, 200, seed) for seed in range(3)])
    keys = np.repeat(np.arange(3), 200)
    result = fastem.fit_many(
        X, keys, model=model, n_components="bic", candidates=range(1, 4), random_state=0, **MODELS[model]
    )
    for key in range(3):
        mine = X[keys == key]
        fits = [with_k(model, k, random_state=0, **MODELS[model]).fit(mine) for k in range(1, 4)]
        if model == "kmeans":
            found = fastem.select(mine, range(1, 4), model=with_k("kmeans", 1, random_state=0), criterion="bic")
            bics = [row.bic for row in found.table]
        else:
            bics = [fit.bic(mine) for fit in fits]
        best = int(np.argmin(bics))
        assert result.n_components[key] == best + 1
        assert differing(fits[best], result[key]) == []
        assert result.summary["bic"][key] == pytest.approx(bics[best], abs=1.0)  # before the last step


def test_candidates_that_collapsed_come_last():
    """Three rows that are equal: a component of their own has an unbounded likelihood, and the lowest BIC."""
    X = np.concatenate([rows_for("gmm", 60, 0), np.full((3, 4), 9.0)])
    tried = {"model": "gmm", "reg_covar": 1e-12, "random_state": 0}
    fits = {k: fastem.fit_many([X], n_components=k, **tried) for k in range(1, 6)}
    collapsed = {k for k, fit in fits.items() if fit.status[0] == "singular"}
    bics = {k: fit[0].bic(X) for k, fit in fits.items()}
    assert min(bics, key=bics.get) in collapsed  # or nothing is tested
    result = fastem.fit_many([X], n_components="bic", candidates=range(1, 6), **tried)
    assert result.n_components[0] == min(set(bics) - collapsed, key=bics.get)


def test_bic_tries_no_more_components_than_there_are_rows():
    X = rows_for("gmm", 3, 0)
    result = fastem.fit_many(X, np.zeros(3, int), model="gmm", n_components="bic", random_state=0)
    assert result.n_components[0] <= 3
    assert 0 in result


def test_a_seed_is_drawn_once_and_kept():
    X, keys, _ = random_groups("kmeans", 3, 5)
    drawn = fastem.fit_many(X, keys, n_components=3)
    seed = drawn.estimator.random_state
    again = fastem.fit_many(X, keys, n_components=3, random_state=seed)
    assert np.array_equal(drawn.labels, again.labels)
    assert drawn[1].random_state == seed


def test_an_estimator_instead_of_a_name():
    X, keys, _ = random_groups("gmm", 3, 5)
    own = fastem.GaussianMixture(7, covariance_type="spherical", random_state=4)
    result = fastem.fit_many(X, keys, model=own, n_components=2)
    alone = fastem.GaussianMixture(2, covariance_type="spherical", random_state=4).fit(X[keys == 1])
    assert differing(alone, result[1]) == []
    assert not hasattr(own, "means_")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Say which rows make a group"),
        ({"groups": [1, 2]}, r"one key for each row: shape \(2,\), expected \(6,\)"),
        ({"groups": [0] * 6, "offsets": [0, 6]}, "one of groups, offsets and by, not groups and offsets"),
        ({"offsets": [0, 4]}, "rise from 0 to the number of rows, 6; got 0 to 4"),
        ({"offsets": [0, 4, 2, 6]}, "rise from 0"),
        ({"offsets": [0.5, 6]}, "two integers"),
        ({"by": "shop"}, "X is a ndarray: use groups="),
        ({"groups": [0] * 6, "columns": [slice(0, 1)]}, "makes groups of features"),
        ({"columns": [slice(2, 2)]}, "picks no column"),
        ({"columns": [[0, 5]]}, "numbers below 2"),
        ({"columns": []}, "columns is empty"),
        ({"columns": [slice(0, 1)], "fallback": "pooled"}, "no rows in common"),
        ({"groups": [0] * 6, "model": "svm"}, "one of gmm, kmeans"),
        ({"groups": [0] * 6, "model": 3}, "got int"),
        ({"groups": [0] * 6, "model": "gmm", "covariance_type": "round"}, "covariance_type"),
        ({"groups": [0] * 6, "covariance_type": "full"}, "KMeans has no parameter 'covariance_type'"),
        ({"groups": [0] * 6, "model": "gmm", "warm_start": True}, "warm_start"),
        ({"groups": [0] * 6, "n_components": 0}, "positive integer"),
        ({"groups": [0] * 6, "n_components": 1.5}, "positive integer"),
        ({"groups": [0] * 6, "n_components": [1, 2]}, "one for each of 1 groups"),
        ({"groups": [0] * 6, "n_components": "aic"}, "'bic'"),
        ({"groups": [0] * 6, "n_components": "bic", "candidates": []}, "candidates"),
        ({"groups": [0] * 6, "on_error": "skip"}, "on_error"),
        ({"groups": [0] * 6, "fallback": "mean"}, "fallback"),
        ({"groups": [0] * 6, "sample_weight": [-1.0] * 6}, "Negative values"),
        ({"groups": [0, "a", 0, 0, 0, 0]}, "int and str have none"),
    ],
)
def test_refusals(options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        fastem.fit_many(np.arange(12.0).reshape(6, 2), **options)


def test_refusals_of_rows():
    for X, sentence in (
        (np.zeros(3), "Expected 2D array"),
        (np.array([["a"]]), "numeric"),
        (np.zeros((0, 2)), "at least one row"),
        (np.zeros((2, 0)), "at least one feature"),
    ):
        with pytest.raises((ValueError, TypeError), match=sentence):
            fastem.fit_many(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="same features"):
        fastem.fit_many([np.zeros((2, 2)), np.zeros((2, 3))])
    with pytest.raises(ValueError, match="empty list"):
        fastem.fit_many([])


def test_the_rows_are_not_written_to():
    X, keys, _ = random_groups("kmeans", 4, 5)
    X.setflags(write=False)
    keys.setflags(write=False)
    fastem.fit_many(X, keys[::-1], n_components=2)


def test_memory_is_that_of_the_results_and_a_batch(monkeypatch):
    """The rows are never copied as a whole, in whatever order they come."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100_000, 32))
    keys = rng.permutation(np.repeat(np.arange(200), 500))
    monkeypatch.setattr("fastem.many.grouping.BATCH_BYTES", 1 << 20)
    options = {"n_components": 2, "max_iter": 2, "random_state": 0, "n_threads": 1}
    fastem.fit_many(X[:10], keys[:10], **options)
    tracemalloc.start()
    try:
        fastem.fit_many(X, keys, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    per_row = 48  # numbers of rows and groups, labels; for a moment two of each
    assert peak < len(X) * per_row + 4 * (1 << 20)
    assert peak < X.nbytes / 2


@pytest.mark.parametrize(
    "option", [{"refine": "hartigan"}, {"n_swaps": 2}, {"spherical": True}, {"algorithm": "elkan"}]
)
def test_options_that_compiled_code_does_not_know_count(option):
    X = np.random.default_rng(4).integers(0, 3, (6, 60, 4)).astype(float)
    result = fastem.fit_many(X, n_components=4, random_state=0, **option)
    for group, rows in enumerate(X):
        alone = fastem.KMeans(4, random_state=0, **option).fit(rows)
        np.testing.assert_array_equal(result[group].cluster_centers_, alone.cluster_centers_)
        np.testing.assert_array_equal(result[group].labels_, alone.labels_)
