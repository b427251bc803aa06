"""``fastem fit --checkpoint --resume``: goes on where it was killed, and says in one sentence why it cannot."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastem

FIT = (
    "fit",
    "rows.npy",
    "-k",
    5,
    "--model",
    "gmm",
    "--n-init",
    3,
    "--max-iter",
    150,
    "--tol",
    0,
    "--save",
    "model.npz",
    "--quiet",
)


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 5)) + 3 * rng.integers(0, 3, (20_000, 1))
    np.save(tmp_path / "rows.npy", X)
    return X


def kill_at_a_random_moment(arguments, folder, seconds):
    """Run a command; kill it a while after it wrote its checkpoint.  Returns whether that was before its end."""
    process = subprocess.Popen([sys.executable, "-m", "fastem.cli", *map(str, arguments)], cwd=folder)
    while process.poll() is None and not (folder / "fit.npz").exists():
        time.sleep(0.01)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return process.returncode == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9")
def test_a_command_that_was_killed_goes_on_with_the_same_bits(run, rows, tmp_path):
    assert run(*FIT)[0] == 0
    whole = fastem.load(tmp_path / "model.npz")
    (tmp_path / "model.npz").unlink()
    resumed = (*FIT, "--checkpoint", "fit.npz", "--checkpoint-every", "0.02s", "--resume")
    draws, killed = random.Random(1), 0
    for _ in range(2):
        killed += kill_at_a_random_moment(resumed, tmp_path, draws.uniform(0.05, 0.4))
    assert killed
    assert (tmp_path / "fit.npz").exists()
    assert not (tmp_path / "model.npz").exists()
    assert run(*resumed)[0] == 0
    again = fastem.load(tmp_path / "model.npz")
    for name in whole._saved:
        np.testing.assert_equal(getattr(again, name), getattr(whole, name), err_msg=name)
    half_written = {path.name for path in tmp_path.glob(".fastem-*")}  # of a kill while a file was written
    assert len(half_written) <= killed
    assert {path.name for path in tmp_path.iterdir()} - half_written == {"model.npz", "rows.npy"}


def test_refusals(run, rows, tmp_path, monkeypatch):
    checkpointed = (*FIT, "--max-iter", 5, "--checkpoint", "fit.npz")
    for arguments, words in [
        ((*FIT, "--resume"), "--resume needs --checkpoint"),
        ((*checkpointed, "--checkpoint-every", "soon"), "got soon"),
        ((*checkpointed[:-1], "rows.npy"), "rows.npy"),
        ((*checkpointed[:-1], "model.npz"), "already used"),
    ]:
        code, _, err = run(*arguments)
        assert code == 2
        assert words in err
        assert err.count("\n") == 1
    monkeypatch.setattr("fastem.engine.checkpoint.Checkpoint.remove", lambda checkpoint: None)
    assert run(*checkpointed)[0] == 0
    for arguments, words in [
        (checkpointed, "--resume goes on from it"),
        ((*checkpointed, "--resume", "--seed", 3), "random_state was 0 and not 3: remove it to begin anew."),
        ((*checkpointed, "--resume", "--columns", "x0,x3"), "shape of the rows"),
    ]:
        code, _, err = run(*arguments)
        assert code == 2, err
        assert words in err
        assert err.count("\n") == 1
    assert run(*checkpointed, "--resume", "--threads", 1)[0] == 0
