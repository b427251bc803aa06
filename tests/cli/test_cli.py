"""The command line, end to end."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("pyarrow")

import fastem
from fastem import cli
from fastem.cli import commands, models, report
from fastem.cli.tables import open_table, read_table

FAITHFUL = Path(__file__).parents[2] / "examples" / "faithful.csv"
LOG_LIKELIHOOD = -1130.264


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must be refused: its sentence.  No file may appear."""

    def refused(*arguments):
        before = sorted(os.listdir(tmp_path))
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("fastem: ")
        assert err.endswith(".\n")
        assert err.count("\n") == 1
        assert sorted(os.listdir(tmp_path)) == before
        return err

    return refused


@pytest.fixture
def mixture(run):
    """Fit and save a mixture of Old Faithful: the model's path."""
    assert run("fit", FAITHFUL, "--model", "gmm", "-k", 2, "--save", "gmm.npz", "--quiet") == (0, "", "")
    return Path("gmm.npz")


def launch(*arguments, **options):
    command = [sys.executable, "-m", "fastem.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# -------------------------------------------------------------------------------------------------------------- fit


def test_the_command_of_the_readme(tmp_path):
    done = launch("fit", FAITHFUL, "--model", "gmm", "-k", 2, "--plot", "faithful.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")  # no progress bar in a pipe
    assert "-1,130.264" in done.stdout
    assert "\x1b" not in done.stdout
    assert (tmp_path / "faithful.png").read_bytes().startswith(b"\x89PNG")


def test_gmm_writes_labels_with_their_probability(run):
    code, out, _ = run("fit", FAITHFUL, "--model", "gmm", "-k", 2, "--output", "labels.parquet", "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["log_likelihood"] == pytest.approx(LOG_LIKELIHOOD, abs=1e-3)
    assert summary["rows"] == sum(summary["sizes"]) == 272
    assert len(summary["restarts"]) == 10
    assert summary["converged"]
    (label, probability), names = read_table(open_table("labels.parquet")).X.T, open_table("labels.parquet").names
    assert names == ["label", "probability"]
    assert np.bincount(label.astype(int)).tolist() == summary["sizes"]
    assert ((probability > 0.5) & (probability <= 1)).all()


def test_kmeans_equals_the_library(run):
    code, out, _ = run("fit", FAITHFUL, "-k", 3, "--seed", 4, "--output", "labels.npy", "--json", "--n-init", 2)
    X = read_table(open_table(FAITHFUL)).X
    model = fastem.KMeans(3, n_init=2, random_state=4).fit(X)
    summary = json.loads(out)
    assert code == 0
    assert summary["inertia"] == model.inertia_
    assert summary["centers"] == model.cluster_centers_.tolist()
    np.testing.assert_array_equal(np.load("labels.npy"), model.labels_)


def test_options_reach_the_estimator(run):
    _, out, _ = run(
        *("fit", FAITHFUL, "--model", "gmm", "-k", 3, "--covariance", "diag", "--n-init", 1, "--max-iter", 2),
        *("--tol", 0, "--threads", 1, "--seed", 7, "--columns", "waiting", "--save", "m.npz", "--json"),
    )
    summary = json.loads(out)
    assert (summary["covariance"], summary["iterations"], summary["converged"]) == ("diag", 2, False)
    assert summary["columns"] == ["waiting"]
    model = fastem.load("m.npz")
    assert (model.tol, model.random_state, model.n_features_in_, model.n_init) == (0.0, 7, 1, 1)


def test_table_of_a_fit(run):
    _, out, _ = run("fit", FAITHFUL, "--model", "gmm", "-k", 2)
    for word in ("272 rows", "eruptions", "full covariance", "per row", "iterations", "rows per second", "weight"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 100
    _, out, _ = run("fit", FAITHFUL, "-k", 40, "--n-init", 1)
    assert "and 10 smaller clusters" in out


def test_names_are_not_taken_for_markup(run):
    Path("t.csv").write_text("[red]a,[/b]\n1,2\n3,4\n")
    code, out, err = run("fit", "t.csv", "-k", 1)
    assert (code, err) == (0, "")
    assert "[red]a" in out
    assert "[/b]" in out


def test_scaling_is_saved_and_applied(run):
    rows = read_table(open_table(FAITHFUL)).X
    code, out, _ = run(
        "fit", FAITHFUL, "--model", "gmm", "-k", 2, "--scale", "--save", "m.npz", "--output", "fit.npy", "--json"
    )
    summary = json.loads(out)
    assert code == 0
    # Densities and centres are those of the file's units: scaling does not change a full-covariance fit.
    assert summary["log_likelihood"] == pytest.approx(LOG_LIKELIHOOD, abs=1e-2)
    assert np.sort(np.array(summary["centers"])[:, 1]) == pytest.approx([54.48, 79.97], abs=0.05)
    _, extra = fastem.load("m.npz", with_extra=True)
    assert extra["columns"] == ["eruptions", "waiting"]
    np.testing.assert_allclose(extra["scale"], rows.std(axis=0))
    Path("swapped.csv").write_text("waiting,name,eruptions\n" + "".join(f"{b},x,{a}\n" for a, b in rows))
    assert run("predict", "m.npz", "swapped.csv", "--output", "predicted.npy", "--quiet") == (0, "", "")
    np.testing.assert_array_equal(np.load("predicted.npy"), np.load("fit.npy"))
    assert run("score", "m.npz", "swapped.csv", "--epsilon", "1e-3", "--output", "score.npy", "-q")[0] == 0
    assert np.load("score.npy")["log_density"].sum() == pytest.approx(summary["log_likelihood"])


def test_scaling_leaves_a_constant_column_alone(run):
    np.save("t.npy", np.column_stack([np.full(50, 0.1), np.arange(50.0)]))
    code, out, _ = run("fit", "t.npy", "-k", 2, "--scale", "--json")
    assert code == 0
    assert np.isfinite(json.loads(out)["inertia"])


def test_float32_far_from_zero_is_scaled_in_float64(run):
    rng = np.random.default_rng(0)
    rows = (rng.integers(0, 2, (500, 1)) * 64 + rng.integers(0, 8, (500, 2)) + 1e6).astype(np.float32)
    np.save("t.npy", rows)
    _, out, _ = run("fit", "t.npy", "-k", 2, "--scale", "--json")
    summary = json.loads(out)
    labels = (rows[:, 0] > 1e6 + 32).astype(int)
    means = sorted(rows[labels == c].astype(np.float64).mean(axis=0).tolist() for c in (0, 1))
    np.testing.assert_allclose(sorted(summary["centers"]), means, rtol=1e-7)


def test_warnings_are_one_line(run):
    Path("t.csv").write_text("a\n" + "1\n" * 5 + "2\n")
    code, _, err = run("fit", "t.csv", "-k", 3, "--max-iter", 5)
    assert code == 0
    assert err.startswith("fastem: warning: ")
    assert err.count("\n") == 1
    assert run("fit", "t.csv", "-k", 3, "--max-iter", 5, "--quiet") == (0, "", "")


# ------------------------------------------------------------------------------------------------ predict and score


def test_predict(run, mixture):
    assert run("fit", FAITHFUL, "--model", "gmm", "-k", 2, "--output", "fit.csv", "-q")[0] == 0
    code, out, _ = run("predict", mixture, FAITHFUL, "--output", "new.csv")
    assert code == 0
    assert "272 rows" in out
    assert Path("new.csv").read_text() == Path("fit.csv").read_text()
    assert run("predict", mixture, FAITHFUL, "--output", "all.feather", "--proba", "--threads", 1, "-q")[0] == 0
    table = read_table(open_table("all.feather"))
    assert table.columns == ["label", "probability", "probability_0", "probability_1"]
    np.testing.assert_allclose(table.X[:, 2:].sum(axis=1), 1.0)
    np.testing.assert_array_equal(table.X[:, 2:].max(axis=1), table.X[:, 1])


def test_probabilities_of_many_rows_are_those_of_a_few(run, mixture, monkeypatch):
    assert run("predict", mixture, FAITHFUL, "--output", "whole.csv", "-q")[0] == 0
    monkeypatch.setattr(models, "BLOCK_ROWS", 100)
    assert run("predict", mixture, FAITHFUL, "--output", "blocks.csv", "-q")[0] == 0
    np.testing.assert_allclose(
        read_table(open_table("blocks.csv")).X, read_table(open_table("whole.csv")).X, rtol=1e-12
    )


def test_columns_by_name_and_by_position(run, refused, mixture):
    rows = read_table(open_table(FAITHFUL)).X
    np.save("rows.npy", rows)
    np.save("wide.npy", rows[:, [0, 1, 1]])
    Path("named.csv").write_text("x,y\n1,2\n")
    assert run("predict", mixture, "rows.npy", "-q")[0] == 0  # no names: by position
    assert "was fitted to 2 columns, and wide.npy has 3" in refused("predict", mixture, "wide.npy")
    assert 'has no "eruptions", "waiting"; it has "x", "y"' in refused("predict", mixture, "named.csv")
    assert run("fit", "wide.npy", "-k", 2, "--columns", "x0,x2", "--save", "picked.npz", "-q")[0] == 0
    assert run("predict", "picked.npz", "wide.npy", "-q")[0] == 0
    assert run("predict", "picked.npz", "rows.npy", "-q")[0] == 0
    assert run("fit", "rows.npy", "-k", 2, "--save", "any.npz", "-q")[0] == 0
    assert run("predict", "any.npz", "named.csv", "-q")[0] == 0


def test_a_model_saved_by_the_library(run, refused):
    rows = read_table(open_table(FAITHFUL)).X
    fastem.save(fastem.KMeans(2, random_state=0).fit(rows), "plain.npz")
    code, out, _ = run("predict", "plain.npz", FAITHFUL, "--json")
    assert code == 0
    assert sum(json.loads(out)["sizes"]) == 272
    assert "which has no density" in refused("score", "plain.npz", FAITHFUL, "--epsilon", 1)
    assert "needs a mixture" in refused("predict", "plain.npz", FAITHFUL, "--proba")


def test_score_by_contamination_and_by_the_epsilon_that_it_reports(run, mixture):
    code, out, _ = run("score", mixture, FAITHFUL, "--contamination", 0.02, "--output", "a.parquet", "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["anomalies"] == 6
    log_density, anomaly = read_table(open_table("a.parquet")).X.T
    X = read_table(open_table(FAITHFUL)).X
    np.testing.assert_allclose(log_density, fastem.load(mixture).score_samples(X))
    np.testing.assert_array_equal(anomaly == 1, log_density < summary["log_epsilon"])
    assert summary["least_probable"][0]["row"] == np.argmin(log_density) + 1
    assert summary["least_probable"][0]["values"] == X[np.argmin(log_density)].tolist()
    _, out, _ = run("score", mixture, FAITHFUL, "--epsilon", summary["epsilon"], "--json")
    assert json.loads(out)["anomalies"] == 6
    _, out, _ = run("score", mixture, FAITHFUL, "--epsilon", summary["epsilon"])
    assert "6 (2.2 %)" in out
    assert "data row" in out


def test_rows_of_density_zero_are_flagged(run, mixture):
    far = [f"1e{200 + i},1" for i in range(3)]
    Path("far.csv").write_text("\n".join(["eruptions,waiting", *(["3,60"] * 97), *far]) + "\n")
    code, out, _ = run("score", mixture, "far.csv", "--contamination", 0.01, "--json")
    assert code == 0
    summary = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert summary["anomalies"] == 3
    assert summary["log_density"]["lowest"] is None
    assert sorted(item["row"] for item in summary["least_probable"]) == [98, 99, 100]
    assert "3 (3.0 %)" in run("score", mixture, "far.csv", "--contamination", 0.01)[1]


def test_an_epsilon_below_the_smallest_float(run, mixture):
    Path("far.csv").write_text("eruptions,waiting\n3,60\n100,1000\n")
    _, out, _ = run("score", mixture, "far.csv", "--epsilon", "1e-700", "--json")
    summary = json.loads(out)
    assert (summary["anomalies"], summary["epsilon"]) == (1, "1.00000e-700")


@pytest.mark.parametrize("logarithm", [0.0, 1.0, -1.0, -745.2, -1e5, 800.0, float(np.log(1e-6))])
def test_power_of_ten_is_read_back(logarithm):
    assert commands._threshold(report.power_of_ten(logarithm), None) == pytest.approx(logarithm, abs=1e-5)


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("none.csv -k 2", "none.csv does not exist"),
        ("{faithful} -k 300", "-k 300 asks for more clusters than"),
        ("{faithful} -k 0", "-k"),
        ("{faithful} -k two", "-k"),
        ("{faithful}", "-k"),
        ("{faithful} -k 2 --model foo", "--model"),
        ("{faithful} -k 2 --frobnicate", "--frobnicate"),
        ("{faithful} -k 2 --covariance diag", "--covariance goes with --model gmm or student"),
        ("{faithful} -k 2 --columns waiting,wait", 'has no column "wait"; it has "eruptions", "waiting"'),
        ("{faithful} -k 2 --columns ,", "list of columns is empty"),
        ("{faithful} -k 2 --output out.xlsx", "unknown suffix; choose one of .csv"),
        ("{faithful} -k 2 --output none/out.csv", "there is no folder"),
        ("{faithful} -k 2 --save model.pkl", "unknown suffix; choose one of .npz"),
        ("{faithful} -k 2 --plot fit.bmp", "unknown suffix; choose one of .png"),
        ("{faithful} -k 2 --output {faithful}", "is already used"),
        ("{faithful} -k 2 --output out.csv --plot out.csv", "unknown suffix"),
        ("{faithful} -k 2 --threads 0", "n_threads"),
        ("{faithful} -k 2 --seed -1", "--seed"),
    ],
)
def test_bad_options_of_fit(refused, options, sentence):
    words = options.replace("{faithful}", str(FAITHFUL)).split()
    assert sentence in refused("fit", *words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n1,x\n", '"x" in data row 2'),
        ("a,b\n1,2\n1,\n", 'a missing value (NaN) in column "b", data row 2'),
        ("a,b\n1,2\n1,inf\n", 'an infinite value in column "b", data row 2'),
        ("name,a,b\nTom,1,2\n", "--columns a,b"),
        ("a,b\n1,2\n1,2,3\n", "3 values instead of 2"),
    ],
)
def test_bad_tables(refused, tmp_path, text, sentence):
    (tmp_path / "t.csv").write_text(text)
    assert sentence in refused("fit", "t.csv", "-k", 1, "--output", "out.csv", "--save", "m.npz", "--plot", "p.png")


BAD_THRESHOLDS = (
    "", "--epsilon 1 --contamination 0.1", "--epsilon 0", "--epsilon -1", "--epsilon x", "--epsilon nan",
    "--contamination 0", "--contamination 0.7",
)  # fmt: skip


@pytest.mark.parametrize("options", BAD_THRESHOLDS)
def test_bad_options_of_score(refused, mixture, options):
    assert "--" in refused("score", mixture, FAITHFUL, *options.split(), "--output", "out.csv")


def test_bad_model_files(refused, mixture, tmp_path):
    whole = mixture.read_bytes()
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    np.savez(tmp_path / "hostile.npz", allow_pickle=True, **{"fastem.json": np.array([Hostile()], dtype=object)})
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        archive.writestr("fastem.json", b"{}")
    names = ("none.npz", "folder.npz", "truncated.npz", "text.npz", "foreign.npz", "hostile.npz", "raw.npz")
    for name in (*names, FAITHFUL):
        assert str(name) in refused("predict", name, FAITHFUL)
        assert str(name) in refused("score", name, FAITHFUL, "--epsilon", "1e-3")
    assert not (tmp_path / "ran").exists()


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_an_output_that_fails_late_leaves_the_old_file(run, monkeypatch):
    Path("labels.csv").write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.csv.CSVWriter", fail)
    code, out, err = run("fit", FAITHFUL, "-k", 2, "--output", "labels.csv")
    assert (code, out) == (2, "")
    assert err == "fastem: labels.csv cannot be written: No space left on device.\n"
    assert os.listdir() == ["labels.csv"]
    assert Path("labels.csv").read_text() == "old"


def test_a_defect_is_a_sentence_too(run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oh no")

    monkeypatch.setattr(models, "assigned", broken)
    code, _, err = run("fit", FAITHFUL, "-k", 2)
    assert code == 1
    assert "ZeroDivisionError: oh no" in err
    assert err.count("\n") == 1
    monkeypatch.setenv("FASTEM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.run(["fit", str(FAITHFUL), "-k", "2"])


@pytest.mark.parametrize("missing", [["typer"], ["rich", "pyarrow"]])
def test_without_the_extras(missing):
    hide = "; ".join(f"sys.modules[{name!r}] = None; hidden.add({name!r})" for name in missing)
    code = (
        "import sys, importlib.util; hidden = set(); find = importlib.util.find_spec;"
        f"{hide}; importlib.util.find_spec = lambda name, *a: None if name in hidden else find(name, *a);"
        "from fastem.cli import run; sys.exit(run(['--version']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "fastem[cli]"' in done.stderr
    assert all(name in done.stderr for name in missing)


def test_a_plot_without_matplotlib_is_refused_before_the_fit(refused, monkeypatch):
    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else True)
    assert 'pip install "fastem[plot]"' in refused("fit", FAITHFUL, "-k", 2, "--plot", "fit.png")


# ---------------------------------------------------------------------------------------------- the program around it


def test_version_and_help(run):
    from typer.testing import CliRunner

    assert run("--version") == (0, f"fastem {fastem.__version__}\n", "")
    for command in ([], ["fit"], ["predict"], ["score"]):
        result = CliRunner().invoke(commands.app, [*command, "--help"])
        assert result.exit_code == 0
        assert "Usage" in result.output
    assert run("fit", "--help")[0] == 0
    code, out, err = run()
    assert (code, err) == (2, "")
    assert "score" in out


def test_version_is_quick_and_imports_no_kernel():
    code = (
        "import sys; from fastem.cli import run; run(['--version']);"
        "print([m for m in ('numba', 'sklearn', 'matplotlib', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_early_is_no_error(unbuffered):
    done = subprocess.run(
        f'"{sys.executable}" -m fastem.cli fit "{FAITHFUL}" -k 2 | true; exit "${{PIPESTATUS[0]}}"',
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_ascii_terminals(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = launch("fit", FAITHFUL, "-k", 2, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done.stdout.encode("ascii")


def test_progress_on_a_terminal_only():
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastem.cli", "fit", str(FAITHFUL), "-k", "3", "--model", "gmm"],
        stdout=subprocess.PIPE, stderr=follower, text=True, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    out = process.communicate(timeout=60)[0]
    os.close(leader)
    assert process.returncode == 0
    assert b"restart" in shown
    assert "restart 1 of" not in out
    assert "272 rows" in out


def test_progress_never_goes_back(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with report.progress(3, shown=True) as callback:
        for restart, iteration in ((0, 1), (2, 1), (0, 2), (1, 9)):
            assert callback(fastem.IterationInfo(restart, iteration, -1.0, 0.1, None)) is None
    with report.progress(3, shown=False) as callback:
        assert callback is None
