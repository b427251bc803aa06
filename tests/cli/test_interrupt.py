"""Ctrl-C on the command line: one sentence, exit code 130, and nothing lost."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")


def wait_for_processor_time(pid, seconds):
    """Wait until a process has worked so long, however busy the machine is."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        time.sleep(seconds)
        return
    ticks = os.sysconf("SC_CLK_TCK")
    for _ in range(2000):
        fields = stat.read_text().rpartition(")")[2].split()
        if (int(fields[11]) + int(fields[12])) / ticks > seconds:
            return
        time.sleep(0.05)


def test_interrupt(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "t.npy", rng.random((200_000, 8)))
    (tmp_path / "out.csv").write_text("old")
    arguments = ("fit", "t.npy", "-k", "50", "--n-init", "1000", "--tol", "0", "--output", "out.csv")
    process = subprocess.Popen(
        [sys.executable, "-m", "fastem.cli", *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background job ignores Ctrl-C, and so does all that it starts, these tests included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        wait_for_processor_time(process.pid, 5.0)  # imports take 2 seconds of it
        for _ in range(5):  # Python drops a signal that arrives in a callback from C; who presses Ctrl-C presses again
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=15)
                break
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.endswith("fastem: interrupted.\n")
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "t.npy"]
    assert (tmp_path / "out.csv").read_text() == "old"
