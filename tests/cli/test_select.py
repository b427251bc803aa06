"""``fastem select``, end to end."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("pyarrow")

import fastem
from fastem import cli
from fastem.analysis import selection
from fastem.cli import models, select
from fastem.families.gaussian import COVARIANCE_TYPES
from fastem.registry import BY_SHORT_NAME

FAITHFUL = str(Path(__file__).parents[2] / "examples" / "faithful.csv")


def test_old_faithful_has_two_kinds_of_eruptions(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = {name: tmp_path / name for name in ("model.npz", "labels.csv", "bic.png")}
    arguments = ["select", FAITHFUL, "-k", "1-4", "--covariance", "full,diag", "--seed", "3"]
    outputs = ["--save", str(files["model.npz"]), "--output", str(files["labels.csv"]), "--plot", str(files["bic.png"])]
    assert cli.run([*arguments, *outputs]) == 0
    shown = capsys.readouterr().out
    assert "k = 2, full covariance" in shown
    assert "BIC" in shown
    model = fastem.load(files["model.npz"])
    assert (model.n_components, model.covariance_type) == (2, "full")
    assert len(files["labels.csv"].read_text().splitlines()) == 273
    assert files["bic.png"].stat().st_size > 10_000
    X = np.loadtxt(FAITHFUL, delimiter=",", skiprows=1)
    assert fastem.select(X, range(1, 5), covariance_types=["full", "diag"], n_init=3, random_state=3).best.bic == (
        pytest.approx(model.bic(X), rel=1e-12)
    )
    assert cli.run(["predict", str(files["model.npz"]), FAITHFUL, "--quiet"]) == 0


def test_the_command_line_knows_every_criterion():
    assert {str(name) for name in select.Criterion} == {"auto", *selection.CRITERIA}
    assert {name.value for name in models.ModelName} == set(BY_SHORT_NAME)
    assert models.covariances("gmm") == COVARIANCE_TYPES


def test_all_covariance_models_are_compared(capsys):
    assert cli.run(["select", FAITHFUL, "-k", "1,3", "--covariance", "all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["candidates"]) == 2 * len(models.covariances("gmm")[4:]) == 28
    assert (found["best"]["n_components"], found["best"]["covariance_type"]) == (3, "EEE")


def test_json_holds_every_candidate(capsys):
    assert cli.run(["select", FAITHFUL, "-k", "2,3", "--model", "kmeans", "--scale", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["criterion"] == "silhouette"
    assert [row["n_components"] for row in summary["candidates"]] == [2, 3]
    assert summary["best"]["n_components"] == 2
    assert summary["best"]["heldout"] is None


@pytest.mark.parametrize("criterion", ["elbow", "silhouette", "bic"])
def test_k_means_by_every_criterion(criterion, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curve.svg"
    arguments = ["select", FAITHFUL, "-k", "1-5", "--model", "kmeans", "--criterion", criterion, "--plot", str(picture)]
    assert cli.run([*arguments, "--columns", "eruptions"]) == 0
    assert "inertia" in capsys.readouterr().out
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-k", "two"], "-k must be numbers"),
        (["-k", "0-3"], "at least one positive"),
        (["-k", "5-3"], "at least one positive"),
        (["-k", "500"], "more components than there are rows"),
        (["--covariance", "round"], "--covariance of a Gaussian mixture must be among"),
        (["--covariance", "full", "--model", "kmeans"], "goes with --model gmm"),
        (["--criterion", "elbow"], "mixtures have none"),
        (["--criterion", "waic"], "waic"),
        (["--time-budget", "0"], "above 0"),
        (["--columns", "colour"], "colour"),
        (["--plot", "curve.txt"], "curve.txt"),
    ],
)
def test_mistakes_are_one_sentence(options, sentence, capsys):
    assert cli.run(["select", FAITHFUL, *options]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_no_number_is_cut(run):
    """Criteria of millions of rows, or of large units, are wider than a table of 100 columns has room for."""
    rng = np.random.default_rng(0)
    np.save("t.npy", (rng.normal(size=(2000, 2)) + 6 * rng.integers(0, 2, (2000, 1))) * 1e200**0.5)
    code, out, err = run("select", "t.npy", "-k", "1-3", "--n-init", 1)
    assert code == 0, err
    assert "\u2026" not in out
    assert "log-lik. per row" in out
    _, as_json, _ = run("select", "t.npy", "-k", "1-3", "--n-init", 1, "--json")
    summary = json.loads(as_json)
    for row in summary["candidates"]:
        for name in ("aic", "bic", "icl"):
            assert f"{row[name]:,.2f}" in out
        away = row["bic"] - summary["best"]["bic"]
        assert away == 0 or f"{away:+,.2f}" in out
