"""fastem fit --by and fastem predict: many groups of a table."""

import json
import os

import numpy as np
import pytest

import fastem

pytest.importorskip("typer")
pytest.importorskip("rich")
pa = pytest.importorskip("pyarrow")
csv, feather, parquet = (pytest.importorskip(f"pyarrow.{name}") for name in ("csv", "feather", "parquet"))

from fastem.cli import groups  # noqa: E402
from fastem.cli.tables import open_table  # noqa: E402

KEYS = ["shop", "week"]


def sales(n=900, seed=0):
    """Return a table sorted by shop and week, of which one group has a single row."""
    rng = np.random.default_rng(seed)
    shop, week = np.sort(rng.integers(0, 6, n)), rng.integers(0, 3, n)
    order = np.lexsort((week, shop))
    shop, week = shop[order], week[order]
    shop[-1], week[-1] = 9, 0
    X = rng.normal(size=(n, 3)) + 4.0 * rng.integers(0, 3, n)[:, None]
    names = np.array([f"s{number}" for number in shop])
    return pa.table({"shop": names, "week": week, "a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})


def write(table, path, rows=70):
    suffix = os.path.splitext(path)[1]
    if suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=rows)
    elif suffix == ".feather":
        feather.write_feather(table, path, chunksize=rows)
    else:
        csv.write_csv(table, path)


def read(path):
    source = open_table(path)
    return source.load(source.names)


@pytest.fixture
def table(run):
    """The table as a sorted file, in the folder of the commands."""
    made = sales()
    write(made, "sales.parquet")
    return made


@pytest.fixture
def expected(table):
    return fastem.fit_many(table, by=KEYS, n_components=3, n_init=2, random_state=0)


@pytest.mark.parametrize("rows", [1, 7, 70, 1000])
@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_a_sorted_file_comes_in_batches(run, table, expected, rows, suffix):
    write(table, f"in.{suffix}", rows)
    code, out, err = run(
        "fit", f"in.{suffix}", "--by", "shop,week", "-k", 3, "--n-init", 2, "--json",
        "--save", "models.npz", "--output", "labels.parquet", "--report", "groups.csv",
    )  # fmt: skip
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert (summary["groups"], summary["rows"], summary["in_batches"]) == (19, 900, True)
    assert summary["statuses"] == {"converged": 18, "too few rows": 1}
    assert summary["first_bad_groups"][0]["group"] == "('s9', 0)"
    labels = read("labels.parquet")
    assert labels.column_names == [*KEYS, "label"]
    assert labels.select(KEYS).equals(table.select(KEYS))
    assert labels["label"].to_numpy().tolist() == expected.labels.tolist()
    groups = read("groups.csv")
    assert groups.num_rows == 19
    assert groups["inertia"].to_pylist()[:18] == pytest.approx(expected.inertia.tolist()[:18])
    saved = fastem.ManyFits.load("models.npz")
    assert saved.keys == expected.keys
    assert saved.reasons == expected.reasons
    assert all(np.array_equal(saved[key].cluster_centers_, expected[key].cluster_centers_) for key in saved.keys[:-1])


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_groups_are_counted_before_the_first_is_fitted(table, rows):
    write(table, "in.parquet", rows)
    assert groups._n_sorted_groups(open_table("in.parquet"), KEYS) == 19


@pytest.mark.parametrize("how", ["shuffled.parquet", "sales.csv", "shuffled.feather"])
def test_other_files_are_read_whole_and_it_is_said(run, table, how):
    given = table.take(np.random.default_rng(0).permutation(900)) if how.startswith("shuffled") else table
    write(given, how)
    code, _, err = run("fit", how, "--by", "shop,week", "-k", 2, "--n-init", 1, "--output", "labels.csv")
    why = (
        "only .parquet, .feather and .arrow come in batches" if how.endswith("csv") else "it is not sorted by its keys"
    )
    assert (code, err) == (0, f"fastem: {how} is read whole: {why}.\n")
    result = fastem.fit_many(given, by=KEYS, n_components=2, random_state=0, n_init=1)
    labels = read("labels.csv")
    assert labels["label"].to_numpy().tolist() == result.labels.tolist()
    assert labels["shop"].to_pylist() == given["shop"].to_pylist()


def test_an_array_has_groups_too(run, table):
    X = np.column_stack([table["week"].to_numpy(), table["a"].to_numpy(), table["b"].to_numpy()])
    np.save("rows.npy", X)
    assert run("fit", "rows.npy", "--by", "x0", "-k", 2, "--quiet", "--output", "labels.npy") == (0, "", "")
    result = fastem.fit_many(X[:, 1:], X[:, 0], n_components=2, random_state=0, n_init=10)
    assert np.load("labels.npy")["label"].tolist() == result.labels.tolist()


@pytest.mark.parametrize("suffix", ["parquet", "csv", "feather", "npy"])
def test_labels_in_every_format(run, table, expected, suffix):
    assert (
        run("fit", "sales.parquet", "--by", "shop,week", "-k", 3, "--n-init", 2, "-q", "--output", f"l.{suffix}")[0]
        == 0
    )
    found = np.load("l.npy")["label"] if suffix == "npy" else read(f"l.{suffix}")["label"].to_numpy()
    assert found.tolist() == expected.labels.tolist()


def test_mixtures_columns_and_options(run, table):
    arguments = ("--model", "gmm", "--covariance", "diag", "--columns", "c,a", "--n-init", 1, "--seed", 4)
    assert run("fit", "sales.parquet", "--by", "shop", "-k", 2, *arguments, "--save", "m.npz", "-q") == (0, "", "")
    saved = fastem.ManyFits.load("m.npz")
    X = np.column_stack([table["c"].to_numpy(), table["a"].to_numpy()])[table["shop"].to_numpy() == "s2"]
    alone = fastem.GaussianMixture(2, covariance_type="diag", random_state=4).fit(X)
    assert np.array_equal(alone.means_, saved["s2"].means_)
    assert saved.feature_names == ["c", "a"]


def test_what_is_shown(run, table):
    _, out, _ = run("fit", "sales.parquet", "--by", "shop,week", "-k", 3, "--n-init", 1)
    assert "19 by shop, week" in out
    assert "converged: 18, too few rows: 1" in out
    assert "It has 1 row for 3 components." in out


def test_predict_uses_each_rows_own_model(run, table, expected):
    assert run("fit", "sales.parquet", "--by", "shop,week", "-k", 3, "--n-init", 2, "-q", "--save", "m.npz")[0] == 0
    new = sales(300, 5)
    new = pa.concat_tables([new, new.slice(0, 20).set_column(0, "shop", pa.array(["new"] * 20))]).select(
        list("cba") + KEYS
    )
    write(new, "new.parquet")
    code, out, err = run("predict", "m.npz", "new.parquet", "--output", "labels.parquet", "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["rows"] == 320
    assert summary["rows_of_unknown_groups"] == 20
    assert summary["unknown_groups"] == len(set(new["week"].to_pylist()[300:]))
    assert summary["rows_of_groups_without_model"] == 1
    assert summary["labelled"] == 299
    labels = read("labels.parquet")["label"].to_numpy()
    with pytest.warns(UserWarning, match="21 of 320 rows"):
        assert np.array_equal(labels, expected.predict(new))
    write(new, "new.csv")
    code, out, _ = run("predict", "m.npz", "new.csv", "--output", "labels.csv")
    assert "20 rows, label -1: new, " in out
    assert "1 rows, label -1" in out
    assert np.array_equal(read("labels.csv")["label"].to_numpy(), labels)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--by", "shopp"), 'no column "shopp"'),
        (("--by", ""), "by is empty"),
        (("--by", "shop", "--columns", "a,d"), 'no column "d"'),
        (("--by", "week"), "Column 'shop' is not numeric"),
        (("--by", "shop,week,a,b,c"), "no column beside those of the key"),
        (("--by", "shop", "--scale"), "--scale is for one model"),
        (("--by", "shop", "--plot", "p.png"), "--plot is for one model"),
        (("--report", "groups.csv"), "--report has one line per group, and goes with --by"),
        (("--by", "shop", "--report", "groups.npy"), "unknown suffix"),
        (("--by", "shop", "--report", "l.csv", "--output", "l.csv"), "already used"),
        (("--by", "shop", "--columns", "a,a"), "more than once"),
    ],
)
def test_refusals(run, table, tmp_path, arguments, sentence):
    before = sorted(os.listdir(tmp_path))
    code, out, err = run("fit", "sales.parquet", "-k", 2, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert sorted(os.listdir(tmp_path)) == before


def test_refusals_of_predict(run, table, tmp_path):
    run("fit", "sales.parquet", "--by", "shop", "-k", 2, "--columns", "a,b", "-q", "--n-init", 1, "--save", "m.npz")
    write(table.drop_columns(["shop"]), "new.parquet")
    write(table.slice(0, 0), "none.parquet")
    fastem.fit_many([np.zeros((9, 2)), np.ones((9, 2))], n_components=1).save("plain.npz")
    (tmp_path / "bad.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:-300])
    for arguments, sentence in (
        (("m.npz", "new.parquet"), 'no column "shop"'),
        (("m.npz", "none.parquet"), "has no rows"),
        (("m.npz", "sales.parquet", "--proba"), "--proba is for one model"),
        (("plain.npz", "sales.parquet"), "named columns"),
        (("bad.npz", "sales.parquet"), "bad.npz"),
    ):
        code, out, err = run("predict", *arguments, "--output", "labels.csv")
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert sentence in err
        assert not (tmp_path / "labels.csv").exists()
    code, _, err = run("score", "m.npz", "sales.parquet", "--epsilon", "0.1")
    assert code == 2
    assert "models of many groups" in err


def test_nothing_appears_when_writing_fails(run, table, tmp_path, monkeypatch):
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(
        "fastem.many.result.ManyFits.save", lambda self, path: (_ for _ in ()).throw(OSError(28, "full"))
    )
    code, _, err = run(
        "fit", "sales.parquet", "--by", "shop", "--columns", "a", "-k", 1, "--save", "m.npz", "--output", "l.parquet"
    )
    assert (code, "No space left on device" in err) == (2, True)
    assert sorted(os.listdir(tmp_path)) == before


def test_the_bar_counts_groups(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with groups._progress(7, shown=True) as advance:
        advance(3)
        advance(4)
    assert "7/7" in capsys.readouterr().err
