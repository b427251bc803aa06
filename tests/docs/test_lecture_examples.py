"""The examples of the lectures run, and find what is known to be there."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]


def run(name, tmp_path, *pictures):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    paths = [tmp_path / f"{picture}.png" for picture in pictures]
    result = module.main([str(path) for path in paths])
    assert all(path.stat().st_size > 8_000 for path in paths)
    return result


def test_aircraft_engines(tmp_path, capsys):
    found = run("aircraft_engines", tmp_path, "aircraft_engines")
    assert found["verdict"] == -1
    assert np.all((found["share_below"] > 0.05) & (found["share_below"] < 0.95))  # each feature is in range
    assert found["expected"][0] < 2.5  # an engine that cool vibrates less
    assert found["expected"][1] > 570.0  # an engine that vibrates so much is hotter
    assert "anomaly" in capsys.readouterr().out


def test_l_shape(tmp_path):
    found = run("l_shape", tmp_path, "l_shape")
    assert found == {1: [1, 1, 1], 2: [-1, -1, -1]}


def test_choosing_k(tmp_path):
    # mclust chooses the same of these for Old Faithful: EEE, 3 components, BIC -2314.386 in its sign.
    assert run("choosing_k", tmp_path, "choosing_k") == ((3, "tied"), 4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_local_maxima(tmp_path):
    found = run("local_maxima", tmp_path, "local_maxima")
    assert found["split-merge"] > found["one start"] + 0.1
    assert found["split-merge"] >= found["12 restarts"] - 1e-6


def test_lower_bound(tmp_path):
    assert run("lower_bound", tmp_path, "jensen", "lower_bound") == pytest.approx(0.0, abs=1e-9)


def test_one_dimension(tmp_path):
    assert run("one_dimension", tmp_path, "one_dimension") < 1e-12


def test_lecture_panels(tmp_path):
    cycles, _ = run("lecture_panels", tmp_path, "mixture_cycles", "kmeans_cycles")
    assert cycles >= 20


def test_soft_colours(tmp_path):
    assert 0.1 < run("soft_colours", tmp_path, "soft_colours") < 0.5


def test_the_documentation_shows_every_picture():
    page = (ROOT / "docs" / "lectures.md").read_text()
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.png"))
    assert len(pictures) >= 10
    for path in pictures:
        assert f"pictures/{path.name}" in page, path.name
        assert path.stat().st_size < 80_000, path.name
