"""What becomes of bad groups: a status, a sentence, and no harm to others."""

import warnings

import numpy as np
import pytest
from many_problems import MODELS, differing, rows_for, with_k
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import fastem


def bad_groups(model):
    """Name -> rows, weights and number of components of a group, and the status that it must get."""
    good = rows_for(model, 60, 0)
    with_nan, with_inf, empty_column = good.copy(), good.copy(), good.copy()
    with_nan[3, 1], with_inf[3, 1], empty_column[:, 2] = np.nan, np.inf, np.nan
    takes_missing = model != "kmeans"
    mixes = model != "factor"
    few = "too few rows" if mixes else "constant"
    one = np.ones(60)
    return {
        "good": (good, one, 2, "converged"),
        "empty": (good[:0], one[:0], 2, "too few rows"),
        "one row": (good[:1], one[:1], 2, few),
        "one row, one component": (good[:1], one[:1], 1, "constant"),
        "k > n": (good[:3], one[:3], 4, "too few rows" if mixes else "converged"),
        "weight 0": (good, 0 * one, 2, "too few rows"),
        "weight in one row": (good, np.eye(60)[0], 2, few),
        "NaN": (with_nan, one, 2, "converged" if takes_missing else "values missing"),
        "column of NaN": (empty_column, one, 2, "values missing"),
        "all NaN": (np.full((60, 4), np.nan), one, 2, "values missing"),
        "infinity": (with_inf, one, 2, "refused"),
        "constant": (np.ones((60, 4)), one, 2, "constant"),
        "huge": (np.where(good == good[0, 0], 1e300, 0.0), one, 2, "refused"),
    }


@pytest.mark.parametrize("model", MODELS)
def test_the_table_of_bad_groups(model):
    table = bad_groups(model)
    names = list(table)
    options = {"random_state": 0, **MODELS[model], "max_iter": 2000}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said unless asked for
        result = fastem.fit_many(
            [rows for rows, _, _, _ in table.values()],
            model=model,
            n_components=[k for _, _, k, _ in table.values()],
            sample_weight=[w for _, w, _, _ in table.values()],
            **options,
        )
    assert dict(zip(names, result.status.tolist(), strict=True)) == {name: row[3] for name, row in table.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for group, (rows, weights, k, _) in enumerate(table.values()):
            assert result.reasons[group].endswith(".")
            alone = with_k(model, k, **options)
            try:
                alone.fit(rows, sample_weight=weights)
            except ValueError:
                assert not result.has_model[group]
                assert np.isnan(result.objective[group])
                with pytest.raises(NotFittedError, match=f"Group {group} has no model"):
                    result[group]
            else:
                assert differing(alone, result[group]) == []


def test_more_clusters_than_distinct_rows():
    X = np.repeat([[0.0], [1.0]], 10, axis=0)
    result = fastem.fit_many([X], n_components=3, random_state=0)
    assert result.status.tolist() == ["too few rows"]
    assert result.reasons == ["It has 2 distinct rows for 3 clusters."]
    assert result[0].inertia_ == 0.0


def test_a_collapsed_component_is_singular():
    X = np.concatenate([rows_for("gmm", 50, 0), np.full((5, 4), 40.0)])
    result = fastem.fit_many([X], model="gmm", n_components=4, random_state=0)
    assert result.status.tolist() == ["singular"]
    assert "no variance" in result.reasons[0]


def test_a_fit_that_was_stopped():
    result = fastem.fit_many([rows_for("gmm", 80, 0)], model="gmm", n_components=3, max_iter=1, random_state=0)
    assert result.status.tolist() == ["stopped"]
    assert not result.converged[0]
    assert result.reasons == ["It stopped after 1 iterations, before it had converged."]


@pytest.fixture
def three():
    """Rows of a good group, one with a missing value and one with a single row."""
    X = rows_for("kmeans", 81, 0)
    X[45, 2] = np.nan
    return X, np.array(["good"] * 40 + ["nan"] * 40 + ["one"])


def test_raise_names_the_first_bad_group(three):
    with pytest.raises(ValueError, match="Group 'nan': A value is missing in 1 of 40 rows, first in column 2"):
        fastem.fit_many(*three, on_error="raise", random_state=0)


def test_warn_counts_them(three):
    with pytest.warns(ConvergenceWarning, match="2 of 3 groups could not be fitted as they are") as caught:
        fastem.fit_many(*three, on_error="warn", random_state=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastem.fit_many(three[0][:40], three[1][:40], on_error="warn", random_state=0)


@pytest.mark.parametrize("model", ["kmeans", "gmm"])
def test_the_pooled_model(three, model):
    X, keys = three
    result = fastem.fit_many(X, keys, model=model, n_components=3, fallback="pooled", random_state=0)
    good = ~np.isnan(X).any(axis=1) if model == "kmeans" else np.ones(len(X), bool)
    pooled = with_k(model, 3, random_state=0).fit(X[good])
    assert result.status.tolist() == [
        "converged",
        "values missing" if model == "kmeans" else "converged",
        "too few rows",
    ]
    for at, key in enumerate(["good", "nan", "one"]):
        assert result.pooled[at] == (result.status[at] != "converged")
        if result.pooled[at]:
            names = set(differing(pooled, result[key])) - {"labels_"}
            assert names == set()
            mine = good & (keys == key)
            assert np.array_equal(result.labels[mine], pooled.predict(X[mine]))
            assert "the model of all rows" in result.reasons[at]
    assert (result.labels[~good] == -1).all()
    own = fastem.fit_many(X[:40], keys[:40], model=model, n_components=3, random_state=0)
    assert differing(own["good"], result["good"]) == []


def test_pooled_models_of_several_numbers_of_components():
    X = rows_for("gmm", 43, 0)
    keys = np.array([0] * 40 + [1, 2, 2])
    result = fastem.fit_many(
        X, keys, model="gmm", n_components=[2, 2, 3], fallback="pooled", covariance_type="diag", random_state=0
    )
    for key, k in ((1, 2), (2, 3)):
        pooled = with_k("gmm", k, covariance_type="diag", random_state=0).fit(X)
        assert differing(pooled, result[key]) == []


def test_where_there_is_no_pooled_model():
    with pytest.warns(UserWarning, match="There is no model of all rows with 3 components: too few rows"):
        result = fastem.fit_many(np.ones((2, 1)), [0, 1], fallback="pooled", random_state=0)
    assert not result.pooled.any()


def test_nothing_of_one_group_reaches_another(three):
    X, keys = three
    alone = fastem.fit_many(X[:40], keys[:40], n_components=2, random_state=0)
    together = fastem.fit_many(X, keys, n_components=2, random_state=0)
    assert differing(alone["good"], together["good"]) == []
