"""The examples run, and find what is known to be there."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_old_faithful(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    log_likelihood = load("old_faithful").main([str(tmp_path / "faithful.png")])
    assert log_likelihood == pytest.approx(-1130.264, abs=1e-3)
    assert "log-likelihood -1130.264" in capsys.readouterr().out
    assert (tmp_path / "faithful.png").stat().st_size > 20_000


def test_colour_quantisation(tmp_path, capsys):
    image = pytest.importorskip("matplotlib.image")
    error = load("colour_quantisation").main([str(tmp_path / "china.png")])
    assert "273,280 pixels, 64 colours" in capsys.readouterr().out
    redrawn = image.imread(tmp_path / "china.png")[:, :, :3]
    assert redrawn.shape == (427, 640, 3)
    assert 48 <= len(np.unique(redrawn.reshape(-1, 3), axis=0)) <= 64  # near colours may round to the same byte
    from sklearn.datasets import load_sample_image

    difference = redrawn - load_sample_image("china.jpg") / 255.0
    assert np.sqrt(np.mean(difference**2)) == pytest.approx(error, abs=2e-3)
    assert error < 0.03


def test_digits(capsys):
    result = load("digits").main()
    assert "homogeneity" in capsys.readouterr().out
    assert 0.72 < result["homogeneity"] < 0.78
    assert result["inertia"] == pytest.approx(1_165_150, rel=2e-3)
