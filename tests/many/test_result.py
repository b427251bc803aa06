"""ManyFits: new rows, tables, files."""

import json
import warnings

import numpy as np
import pytest
from many_problems import MODELS, differing, rows_for

import fastem
from fastem.many.stacked import joined, stack, uniform

by_model = pytest.mark.parametrize("model", MODELS)
SHOPS = np.array(["b", "a", "c"])


def fitted(model="gmm", n=150, **options):
    """Return rows, their keys and the models; the rows of "c" are too few."""
    X = rows_for(model, n, 0)
    keys = SHOPS[np.random.default_rng(1).integers(0, 2, n)]
    keys[-1] = "c"
    given = {"n_components": 2, "random_state": 0, **MODELS[model], **options}
    return X, keys, fastem.fit_many(X, keys, model=model, **given)


@by_model
def test_new_rows_are_asked_of_their_own_models(model):
    _, _, result = fitted(model)
    new, keys = rows_for(model, 20, 9), np.array(["a", "b"] * 10)
    if hasattr(result.estimator, "predict"):
        labels = result.predict(new, keys)
        assert labels.dtype == np.int32
        for key in "ab":
            assert np.array_equal(labels[keys == key], result[key].predict(new[keys == key]))
    if model != "kmeans":
        scores = result.score_samples(new, keys)
        for key in "ab":
            assert np.array_equal(scores[keys == key], result[key].score_samples(new[keys == key]))


def test_what_a_model_has_not_it_says():
    assert fitted("kmeans")[2].inertia.shape == (3,)
    with pytest.raises(AttributeError, match="no likelihood"):
        _ = fitted("kmeans")[2].log_likelihood
    with pytest.raises(AttributeError, match="no density"):
        fitted("kmeans")[2].score_samples(np.zeros((1, 4)), ["a"])
    with pytest.raises(AttributeError, match="no inertia"):
        _ = fitted("gmm")[2].inertia
    with pytest.raises(AttributeError, match="no components"):
        fitted("factor")[2].predict(np.zeros((1, 4)), ["a"])
    assert fitted("factor")[2].labels is None


def test_rows_without_a_model_are_counted():
    X, _, result = fitted()
    new = X[:6].copy()
    new[1, 0], new[2, 1] = np.inf, np.nan  # the second is a missing value, which this model takes
    keys = np.array(["a", "a", "a", "c", "zz", "b"])
    with pytest.warns(
        UserWarning, match="3 of 6 rows got -1: 2 are of 2 groups without a model, 1 have values"
    ) as caught:
        labels = result.predict(new, keys)
    assert caught[0].filename == __file__
    assert (labels == -1).tolist() == [False, True, False, True, True, False]
    with pytest.warns(UserWarning, match="3 of 6 rows got NaN"):
        scores = result.score_samples(new, keys)
    assert np.array_equal(np.isnan(scores), labels == -1)
    assert result.find(keys).tolist() == [0, 0, 0, 2, -1, 1]


def test_new_rows_in_every_form():
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    X, keys, _ = fitted()
    frame = pd.DataFrame(X, columns=list("wxyz")).assign(shop=keys)
    result = fastem.fit_many(frame, by="shop", model="gmm", n_components=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = result.predict(X, keys)
        turned = frame[["shop", "z", "y", "x", "w"]].assign(other=0)
        for labels in (
            result.predict(frame),
            result.predict(turned),
            result.predict(pa.Table.from_pandas(frame)),
            result.predict(frame.rename(columns={"shop": "s"}), by="s"),
        ):
            assert np.array_equal(labels, expected)
    assert np.array_equal(result.labels, expected)
    assert result["a"].feature_names_in_.tolist() == list("wxyz")
    own = frame[list("wxyz")][keys == "a"]
    assert np.array_equal(result["a"].predict(own), expected[keys == "a"])


def test_groups_without_keys():
    X = rows_for("kmeans", 60, 0)
    result = fastem.fit_many([X[:20], X[20:]], n_components=2, random_state=0)
    assert [part.tolist() for part in result.predict([X[:20], X[20:]])] == [part.tolist() for part in result.labels]
    assert np.array_equal(result.predict(X, offsets=[0, 20, 60]), np.concatenate(result.labels))
    assert np.array_equal(result.predict(X[:5], np.ones(5, int)), result[1].predict(X[:5]))
    with pytest.raises(ValueError, match="3 groups without keys, and there are models of 2"):
        result.predict([X, X, X])
    with pytest.raises(ValueError, match="have keys"):
        fitted()[2].predict([rows_for("gmm", 5, 0)])
    with pytest.raises(ValueError, match="X has 3 features, but ManyFits is expecting 4"):
        result.predict(X[:, :3], np.zeros(60, int))


def test_columns_have_codes_and_no_groups():
    X = rows_for("kmeans", 60, 0)
    result = fastem.fit_many(X, columns=[slice(0, 2), slice(2, 4)], n_components=2, random_state=0)
    assert "2 groups of columns, 60 rows" in repr(result)
    with pytest.raises(ValueError, match="groups are columns"):
        result.predict(X, np.zeros(60))
    with pytest.raises(ValueError, match="X has 3 features, but the groups are made of 4"):
        result.predict(X[:, :3])


@by_model
def test_saved_and_loaded(model, tmp_path):
    _, _, result = fitted(model)
    result.save(tmp_path / "many.npz")
    loaded = fastem.ManyFits.load(tmp_path / "many.npz")
    assert repr(loaded) == repr(result)
    assert loaded.reasons == result.reasons
    assert loaded.keys.tolist() == result.keys.tolist()
    for key in "ab":
        assert differing(result[key], loaded[key]) == []
        params = {name: [] if value == () else value for name, value in result[key].get_params().items()}
        assert loaded[key].get_params() == params  # JSON knows no tuples
    if result.labels is not None:
        assert np.array_equal(loaded.labels, result.labels)
    for name, column in result.summary.items():
        assert np.array_equal(column, loaded.summary[name], equal_nan=column.dtype.kind == "f"), name


@pytest.mark.parametrize(
    "groups",
    [
        np.arange(60) % 3,
        np.array(["x", "yy", "zzz"])[np.arange(60) % 3],
        np.datetime64("2026-01-01") + np.arange(60) % 3,
        [None if i % 3 == 0 else i % 3 for i in range(60)],
        [("a", None)[i % 2] for i in range(60)],
        (np.arange(60) % 2, ["u", "v", "w"] * 20),
    ],
)
def test_keys_are_saved(groups, tmp_path):
    X = rows_for("kmeans", 60, 0)
    result = fastem.fit_many(X, groups, n_components=2, random_state=0)
    result.save(tmp_path / "many.npz")
    loaded = fastem.ManyFits.load(tmp_path / "many.npz")
    assert list(loaded.keys) == list(result.keys)
    assert np.array_equal(loaded.find(groups), result.find(groups))
    assert all(differing(result[key], loaded[key]) == [] for key in result)


@pytest.mark.parametrize("form", ["list", "stack", "columns"])
def test_forms_are_saved(form, tmp_path):
    X = rows_for("kmeans", 60, 0)
    rows = {"list": [X[:20], X[20:]], "stack": X.reshape(3, 20, 4), "columns": X}[form]
    columns = [[3, 0], slice(1, 3)] if form == "columns" else None
    result = fastem.fit_many(rows, columns=columns, n_components=2, random_state=0)
    result.save(tmp_path / "many.npz")
    loaded = fastem.ManyFits.load(tmp_path / "many.npz")
    assert np.array_equal(np.concatenate(loaded.predict(rows)), np.concatenate(result.labels))


def test_one_member_can_be_saved_alone(tmp_path):
    for model in MODELS:
        _, _, result = fitted(model)
        fastem.save(result["a"], tmp_path / "one.npz")
        assert differing(result["a"], fastem.load(tmp_path / "one.npz")) == []


def test_files_are_not_mixed_up(tmp_path):
    _, _, result = fitted("kmeans")
    result.save(tmp_path / "many.npz")
    fastem.save(result["a"], tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"fastem\.ManyFits\.load reads"):
        fastem.load(tmp_path / "many.npz")
    with pytest.raises(ValueError, match=r"holds one KMeans, which fastem\.load reads"):
        fastem.ManyFits.load(tmp_path / "one.npz")


def rewritten(path, name, change):
    """Write a saved result again with one array changed, or with the header changed."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    if name == "header":
        header = json.loads(arrays["fastem.json"].tobytes())
        change(header)
        arrays["fastem.json"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    else:
        arrays[name] = change(arrays[name])
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda array: array[::-1].copy()),
        ("offsets", lambda array: array * 2),
        ("order", lambda array: array + 10**6),
        ("order", lambda array: array - 10**6),
        ("level.0", lambda array: array[:2]),
        ("fit.labels", lambda array: array[:-1]),
        ("fit.statuses", lambda array: array + 100),
        ("fit.objectives", lambda array: array[:1]),
        ("facts.n_features", lambda array: -array),
        ("facts.n_components", lambda array: array[:1]),
        ("fitted.cluster_centers_.starts", lambda array: array + 10**9),
        ("fitted.cluster_centers_.shapes", lambda array: array * 10**9),
        ("fitted.cluster_centers_.values", lambda array: array[:3]),
        ("header", lambda header: header.update(model="BisectingKMeans")),
        ("header", lambda header: header.update(model="os.system")),
        ("header", lambda header: header.update(format=99)),
        ("header", lambda header: header["params"].update(tol={"value": -1})),
        ("header", lambda header: header.update(fitted=["__class__"])),
        ("header", lambda header: header.update(form="heap")),
        ("header", lambda header: header["reasons"].update({"77": "?"})),
        ("header", lambda header: header["keys"].update(names=[])),
    ],
)
def test_damaged_files_are_refused(name, change, tmp_path):
    fitted("kmeans")[2].save(tmp_path / "many.npz")
    fastem.ManyFits.load(tmp_path / "many.npz")
    rewritten(tmp_path / "many.npz", name, change)
    with pytest.raises(ValueError, match=r"many\.npz"):
        fastem.ManyFits.load(tmp_path / "many.npz")


def test_members_of_an_edited_file_are_checked(tmp_path):
    """Shapes that fit the arrays, but not the number of features, reach no kernel."""
    _, _, result = fitted("kmeans")
    result.save(tmp_path / "many.npz")
    rewritten(tmp_path / "many.npz", "facts.n_features", lambda array: array + 1)
    with pytest.raises(ValueError, match="features"):
        fastem.ManyFits.load(tmp_path / "many.npz")["a"]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "many.npz"
    with pytest.raises(FileNotFoundError):
        fastem.ManyFits.load(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="not a fastem model"):
        fastem.ManyFits.load(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(ValueError, match="no readable header"):
        fastem.ManyFits.load(path)
    fitted()[2].save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a fastem model"):
        fastem.ManyFits.load(path)


def test_keys_that_no_file_can_hold(tmp_path):
    import fractions

    groups = [fractions.Fraction(1, 2)] * 5 + [fractions.Fraction(1, 3)] * 5
    result = fastem.fit_many(rows_for("kmeans", 10, 0), groups, n_components=1)
    with pytest.raises(TypeError, match="keys of type Fraction"):
        result.save(tmp_path / "many.npz")
    assert list(tmp_path.iterdir()) == []


@by_model
def test_one_row_for_each_component(model):
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    _, _, result = fitted(model)
    frame = result.to_pandas()
    shown = [("a", 0), ("a", 1), ("b", 0), ("b", 1)] + [("c", 0), ("c", 1)] * (model == "factor")  # "c" has one row
    assert list(zip(frame.group, frame.component, strict=True)) == shown
    table = result.to_arrow()
    assert table.column_names == frame.columns.tolist()
    assert table.num_rows == len(shown)
    name = {"kmeans": "cluster_centers", "gmm": "means", "poisson": "rates", "factor": "components"}.get(model)
    if name is not None:
        values = frame[[f"{name}_x{j}" for j in range(4)]].to_numpy()
        assert np.array_equal(values[2:4], getattr(result["b"], f"{name}_"))


def test_tables_of_matrices_of_what_is_shared_and_of_several_keys():
    pytest.importorskip("pandas")
    X, keys, _ = fitted()
    for kind, expected in (("full", (4, 4)), ("tied", (4, 4)), ("spherical", ())):
        result = fastem.fit_many(
            X, (keys, keys == "a"), model="gmm", n_components=[2, 3, 1], covariance_type=kind, random_state=0
        )
        frame = result.to_pandas()
        assert frame[["key0", "component"]].to_numpy().tolist() == [
            ["a", 0],
            ["a", 1],
            ["b", 0],
            ["b", 1],
            ["b", 2],
            ["c", 0],
        ]
        member = result["b", False].covariances_
        own = member if kind == "tied" else member[1]
        assert np.array_equal(np.reshape(frame.covariances[3], expected), own)


def test_the_summary_has_a_row_for_each_group():
    pd = pytest.importorskip("pandas")
    X, keys, result = fitted("gmm")
    frame = pd.DataFrame(result.summary).set_index("group")
    assert frame.index.tolist() == ["a", "b", "c"]
    assert frame.n_rows.tolist() == [int((keys == key).sum()) for key in "abc"]
    assert frame.status.tolist() == result.status.tolist() == ["converged", "converged", "too few rows"]
    a = result["a"]
    assert frame.log_likelihood["a"] == pytest.approx(a.lower_bound_ * (keys == "a").sum())
    assert a.score(X[keys == "a"]) >= a.lower_bound_ - 1e-9
    assert result.counts() == {"converged": 2, "too few rows": 1}


def test_it_tells_what_happened_on_a_few_lines():
    assert repr(fitted("kmeans")[2]).splitlines() == [
        "ManyFits: KMeans of 3 groups, 150 rows",
        "  converged: 2",
        "  too few rows: 1 (first 'c': It has 1 row for 2 components.)",
    ]


def test_stacked_arrays():
    arrays = [np.arange(6.0).reshape(2, 3), None, np.ones((1, 3))]
    parts = joined([stack(arrays), stack([None]), uniform(np.zeros((2, 4, 3)))])
    assert [None if parts.of(g) is None else parts.of(g).shape for g in range(6)] == [
        (2, 3), None, (1, 3), None, (4, 3), (4, 3),
    ]  # fmt: skip
    assert np.array_equal(parts.of(0), arrays[0])
    padded = parts.padded()
    assert padded.shape == (6, 4, 3)
    assert np.isnan(padded).sum() == 6 * 12 - 6 - 3 - 24
    whole = np.arange(24.0).reshape(2, 4, 3)
    assert np.shares_memory(uniform(whole).padded(), whole)
    assert np.array_equal(stack([whole[0], whole[1]]).padded(), whole)
