"""Folders, globs and large files on the command line: read as streams, and what goes wrong with them."""

import json

import numpy as np
import pytest

pytest.importorskip("typer")
pa = pytest.importorskip("pyarrow")
import pyarrow.csv as arrow_csv  # noqa: E402
import pyarrow.feather as feather  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from fastem.cli import tables  # noqa: E402
from fastem.cli.tables import read_table  # noqa: E402

N = 5_000
NAMES = ["a", "b"]


@pytest.fixture
def folder(tmp_path):
    """Three Parquet files, and the same rows in one."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 2)) + 6 * rng.integers(0, 2, (N, 1))
    table = pa.table(dict(zip(NAMES, X.T, strict=True)))
    (tmp_path / "rows").mkdir()
    for number, (start, length) in enumerate([(0, 100), (100, 3000), (3100, N)]):
        pq.write_table(table.slice(start, length), tmp_path / "rows" / f"{number}.parquet")
    pq.write_table(table, tmp_path / "all.parquet")
    arrow_csv.write_csv(table, tmp_path / "all.csv")
    return tmp_path


def summary_of(done):
    code, out, err = done
    assert code == 0, err
    summary = json.loads(out)
    return {key: value for key, value in summary.items() if "seconds" not in key and "per_second" not in key}


@pytest.mark.parametrize("model", ["kmeans", "gmm", "factor"])
@pytest.mark.parametrize("where", ["rows", "rows/*.parquet", "large"])
def test_a_folder_says_what_one_file_says(model, where, folder, run, monkeypatch):
    fit = ["-k", 2 if model != "factor" else 1, "--model", model, "--n-init", 2, "--json"]
    want = summary_of(run("fit", folder / "all.parquet", *fit, "--save", "w.npz", "--output", "w.parquet"))
    path = folder / where
    if where == "large":
        monkeypatch.setattr(tables, "STREAM_BYTES", 1000)
        path = folder / "all.parquet"
    found = summary_of(run("fit", path, *fit, "--save", "m.npz", "--output", "m.parquet"))
    same = ["rows", "columns", "sizes", "centers", "inertia", "iterations", "restarts", "loadings"]
    assert {key: found.get(key) for key in same} == {key: want.get(key) for key in same}
    assert pq.read_table(folder / "m.parquet").equals(pq.read_table(folder / "w.parquet"))
    once = summary_of(run("predict", "m.npz", path, "--output", "p.parquet", "--json"))
    assert pq.read_table(folder / "p.parquet").equals(pq.read_table(folder / "m.parquet"))
    assert once["rows"] == N
    if model != "kmeans":
        score = ["--contamination", "0.01", "--json", "--output"]
        found = summary_of(run("score", "m.npz", path, *score, "s.parquet"))
        want = summary_of(run("score", "m.npz", folder / "all.parquet", *score, "t.parquet"))
        assert {**found, "input": ""} == {**want, "input": ""}
        assert pq.read_table(folder / "s.parquet").equals(pq.read_table(folder / "t.parquet"))


def test_scaling_probabilities_and_pictures(folder, run):
    pytest.importorskip("matplotlib")
    fit = ["-k", 2, "--model", "gmm", "--n-init", 1, "--scale", "--json"]
    want = summary_of(run("fit", folder / "all.parquet", *fit, "--save", "w.npz"))
    found = summary_of(run("fit", folder / "rows", *fit, "--save", "m.npz", "--plot", "p.png"))
    np.testing.assert_allclose(found["centers"], want["centers"], rtol=1e-6)
    assert (folder / "p.png").stat().st_size > 1000
    for model, path, output in (("m.npz", "rows", "m.feather"), ("w.npz", "all.parquet", "w.feather")):
        assert run("predict", model, folder / path, "--proba", "--output", output, "--quiet")[0] == 0
    left, right = (feather.read_table(folder / f"{name}.feather") for name in "mw")
    assert left.column_names == right.column_names == ["label", "probability", "probability_0", "probability_1"]
    np.testing.assert_allclose(left["probability_0"], right["probability_0"], atol=1e-6)


def test_select_reads_a_folder(folder, run):
    found = summary_of(run("select", folder / "rows", "-k", "1-2", "--n-init", 1, "--json"))
    want = summary_of(run("select", folder / "all.parquet", "-k", "1-2", "--n-init", 1, "--json"))
    assert found["rows"] == want["rows"] == N


def spoil_middle(folder):
    path = folder / "rows" / "1.parquet"
    path.write_bytes(path.read_bytes()[:500])
    return "1.parquet cannot be read: "


def spoil_columns(folder):
    table = pq.read_table(folder / "rows" / "1.parquet").rename_columns(["a", "z"])
    pq.write_table(table, folder / "rows" / "1.parquet")
    return '1.parquet has no column "b", which'


def spoil_text(folder):
    table = pq.read_table(folder / "rows" / "1.parquet")
    words = [str(value) for value in table["b"].to_pylist()]
    words[2900] = "oops"
    pq.write_table(table.set_column(1, "b", pa.array(words)), folder / "rows" / "1.parquet")
    return '1.parquet: column "b" ("oops" in data row 2901) is not numeric.'


def spoil_value(folder):
    table = pq.read_table(folder / "rows" / "1.parquet")
    values = table["b"].to_numpy().copy()
    values[7] = np.nan
    pq.write_table(table.set_column(1, "b", pa.array(values)), folder / "rows" / "1.parquet")
    return '1.parquet has a missing value (NaN) in column "b", data row 8.'


@pytest.fixture
def refused(folder, run, monkeypatch):
    """Run a command that must be refused, with an output, in one sentence: that.  No file may be left."""
    spool = folder / "spool"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))

    def refused(*command):
        before = sorted(path.name for path in folder.iterdir())
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert err.startswith("fastem: ")
        assert (err.count("\n"), err[-2:]) == (1, ".\n")
        assert sorted(path.name for path in folder.iterdir()) == before
        assert not list(spool.iterdir())
        return err

    return refused


@pytest.mark.parametrize("spoil", [spoil_middle, spoil_columns, spoil_text, spoil_value])
def test_bad_weather(spoil, folder, run, refused):
    assert run("fit", folder / "all.parquet", "-k", 2, "--save", "m.npz", "--quiet")[0] == 0
    said = spoil(folder)
    for command in (["fit", "rows", "-k", 2, "--save", "n.npz"], ["predict", "m.npz", "rows"]):
        assert said in refused(*command, "--output", "o.parquet")


def test_a_file_that_vanishes(folder, run, refused, monkeypatch):
    """Between what the command knows of the folder and its first pass."""
    assert run("fit", folder / "all.parquet", "-k", 2, "--save", "m.npz", "--quiet")[0] == 0
    path = folder / "rows" / "1.parquet"
    saved = path.read_bytes()

    def gone(*arguments, **options):
        path.unlink()
        return read_table(*arguments, **options)

    monkeypatch.setattr("fastem.cli.commands.read_table", gone)
    monkeypatch.setattr("fastem.cli.models.read_table", gone)
    for command in (["fit", "rows", "-k", 2, "--save", "n.npz"], ["predict", "m.npz", "rows"]):
        path.write_bytes(saved)
        assert "rows/1.parquet does not exist." in refused(*command, "--output", "o.parquet")


@pytest.fixture
def full_disk():
    """Limit the size of files, which stands for a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(folder, run, refused, full_disk):
    """For what is decoded once, and for the labels; the model is not saved then."""
    assert run("fit", folder / "all.parquet", "-k", 2, "--save", "m.npz", "--quiet")[0] == 0
    full_disk()
    fit = ["-k", 2, "--save", "n.npz", "--output", "o.csv"]
    said = f"A temporary file in {folder / 'spool'} cannot be written: File too large."
    assert said in refused("fit", "rows", *fit)
    assert said in refused("predict", "m.npz", "rows", "--output", "o.csv")
    assert "o.csv cannot be written: File too large." in refused("fit", "all.parquet", *fit)
    assert "o.csv cannot be written: File too large." in refused("predict", "m.npz", "all.parquet", "--output", "o.csv")


@pytest.mark.deep
@pytest.mark.parametrize("where", ["rows", "rows/1.csv"])
def test_text_in_row_ten_million(where, folder, refused):
    for path in (folder / "rows").iterdir():
        path.unlink()
    (folder / "rows" / "0.csv").write_text("a,b\n1,2\n3,4\n")
    with open(folder / "rows" / "1.csv", "wb") as file:
        file.write(b"a,b\n" + b"1,2\n" * 9_999_999 + b"5,oops\n" + b"3,4\n" * 1000)
    said = refused("fit", where, "-k", 2, "--output", "o.parquet", "--save", "n.npz")
    assert 'rows/1.csv: column "b" ("oops" in data row 10000000) is not numeric' in said


def test_an_empty_folder(folder, run):
    (folder / "empty").mkdir()
    code, _, err = run("fit", folder / "empty", "-k", 2)
    assert (code, "is a folder without a file that fastem reads" in err) == (2, True)


def test_streams_are_told_of(folder, monkeypatch):
    told = []
    monkeypatch.setattr(tables, "STREAM_BYTES", 1000)
    table = read_table(tables.open_table(folder / "all.csv"), progress=told.append)
    assert told[-1].n_rows == N == len(table.X)


def test_passes_are_shown_on_a_terminal(capsys, monkeypatch):
    from fastem.cli import report
    from fastem.sources.rows import Progress

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with report.reading(shown=True) as told:
        assert told is not None
        told(Progress("reading", 500, None, 1.0))
        told(Progress("pass 2", 1000, 2000, 1.0))
    with report.reading(shown=False) as told:
        assert told is None
