"""The gate over commits: its statistics, its workers, its table and its exit status."""

import json
import math
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

ROOT = Path(__file__).parents[2]
if not (ROOT / "asv_bench" / "gate").is_dir():
    pytest.skip("the gate is not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT))
from asv_bench.gate import builds, decide, instructions, pairs, proof, report, worker  # noqa: E402
from asv_bench.gate.decide import Verdict  # noqa: E402

numbers = st.floats(-0.5, 0.5).map(lambda x: round(x, 6))


# --- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_rank_sums_are_those_of_all_signs(n):
    counts = Counter(sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in product((0, 1), repeat=n))
    expected = [counts[total] / 2**n for total in range(n * (n + 1) // 2 + 1)]
    np.testing.assert_allclose(decide.rank_sums(n), expected, rtol=1e-14)


@given(st.lists(numbers, min_size=3, max_size=24, unique_by=abs), st.sampled_from([0.0, 0.0487, -0.02]))
@settings(max_examples=60, deadline=None)
def test_the_test_is_scipys(values, limit):
    shifted = np.asarray(values) - limit
    if len(set(np.abs(shifted).round(12))) < len(values) or np.any(shifted == 0):
        return  # ties have no exact distribution in scipy
    expected = stats.wilcoxon(shifted, alternative="greater", method="exact").pvalue
    assert decide.probability(values, limit) == pytest.approx(expected, rel=1e-9)


@given(st.lists(numbers, min_size=7, max_size=24))
@settings(max_examples=60, deadline=None)
def test_the_interval_is_that_of_the_test(values):
    found = decide.effect(values)
    assert found.low <= found.estimate <= found.high
    # A value a hair outside the interval is rejected at 2.5 % on its side, a hair inside is not.
    for bound, sign in ((np.log1p(found.low), 1), (np.log1p(found.high), -1)):
        ratios = sign * np.asarray(values)
        assert decide.probability(ratios, sign * bound - 1e-9) <= 0.025
        assert decide.probability(ratios, sign * bound + 1e-9) > 0.025


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [decide.effect(rng.normal(0.1, 0.03, 10)) for _ in range(2000)]
    covered = np.mean([effect.low <= math.expm1(0.1) <= effect.high for effect in found])
    assert 0.94 <= covered <= 0.97


def simulate(rng, shift, noise, n_benchmarks, size=0.05):
    """Return the verdict of one benchmark and the launches it took."""
    ratios = (math.log1p(shift) + noise * rng.standard_t(3, decide.LOOKS[-1])).tolist()
    for look in decide.LOOKS:
        found = decide.verdict(ratios[:look], size, n_benchmarks)
        if found is not Verdict.UNCLEAR:
            break
    return found, look


@pytest.mark.parametrize("noise", [0.002, 0.02, 0.06])
def test_what_did_not_change_raises_no_alarm_and_is_let_go_early(noise):
    rng = np.random.default_rng(1)
    found = [simulate(rng, 0.0, noise, 100) for _ in range(1500)]
    assert not [verdict for verdict, _ in found if verdict in (Verdict.SLOWER, Verdict.FASTER)]
    if noise < 0.01:
        assert max(look for _, look in found) <= 10


def test_at_the_stated_size_itself_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(2)
    runs = 5_000  # of a benchmark that is one of ten: a false alarm in one of 200 of them is allowed
    alarms = sum(simulate(rng, 0.05, 0.02, 10)[0] is Verdict.SLOWER for _ in range(runs))
    assert alarms <= 1.5 * runs * decide.ALARM / 10


@pytest.mark.parametrize(("shift", "expected"), [(0.15, Verdict.SLOWER), (-0.15, Verdict.FASTER)])
def test_a_change_of_fifteen_percent_is_told(shift, expected):
    rng = np.random.default_rng(3)
    assert all(simulate(rng, shift, 0.02, 150)[0] is expected for _ in range(300))


def test_too_few_launches_tell_nothing():
    assert decide.verdict([0.5] * 4, 0.05, 100) is Verdict.UNCLEAR
    assert decide.effect([0.5] * 4)[1:] == (-1.0, math.inf)


# --- builds ---------------------------------------------------------------------------------------------------------


def test_requirements_are_pinned():
    found = builds.requirements()
    assert {"numpy", "numba", "scikit-learn", "cython"} <= {name.partition("==")[0] for name in found if "==" in name}


def test_a_revision_that_is_none():
    with pytest.raises(builds.BuildError, match=r"'no-such-thing' is no commit of .*; fetch it, or name another one"):
        builds.resolve("no-such-thing")


def test_a_build_that_fails_says_why(tmp_path, monkeypatch):
    repository = tmp_path / "project"
    repository.mkdir()
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "nothing to build"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(repository), *identity, *command], check=True)
    monkeypatch.setattr(builds, "_dependencies", lambda folder: Path(sys.executable))
    with pytest.raises(builds.BuildError, match=r"wheel.* failed:\n"):
        builds.build(builds.resolve("HEAD", repository), repository, tmp_path / "builds")


# --- workers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def suite(tmp_path):
    """Benchmarks that wait, longer in a build that says so."""
    folder = tmp_path / "suite" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "waiting.py").write_text(
        """
import os, time

def wait(seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass

class Waits:
    in_process, one_thread = True, True
    params, param_names = ([1, 2],), ("milliseconds",)
    def setup(self, milliseconds):
        print("benchmarks may print")
        self.factor = float(os.environ["FACTOR"])
    def time_slower(self, milliseconds):
        wait(milliseconds * 1e-3 * self.factor)
    def time_same(self, milliseconds):
        wait(milliseconds * 1e-3)

class InTurns(Waits):
    one_thread = False
    params = ([1],)

class New:
    in_process, one_thread = True, True
    def setup(self):
        if os.environ["FACTOR"] == "1":
            raise AttributeError("only HEAD has it")
    def time_it(self):
        wait(1e-3)

class Gone(New):
    def setup(self):
        if os.environ["FACTOR"] != "1":
            raise AttributeError("HEAD has it no more")

class Elsewhere(New):
    in_process = False
"""
    )
    return folder.parent


class FakeBuild(builds.Build):
    """This interpreter, as a build."""

    def environment(self, **more):
        return {**super().environment(**more), "FACTOR": str(self.cache)}


def compare(suite, factor, chosen=lambda name: True, size=0.05):
    base, head = (FakeBuild(name * 40, Path(sys.executable), value) for name, value in (("a", 1), ("b", factor)))
    gate = pairs.Gate(base, head, suite, chosen, size)
    gate.run()
    return gate


def test_the_gate_names_what_is_slower_and_what_is_broken(suite):
    gate = compare(suite, 3.0)  # far apart: the other tests want the processors, too
    found = {row.name: row for row in gate.rows()}
    assert set(found) == {
        f"waiting.{name}"
        for name in (
            "Waits.time_slower(1)",
            "Waits.time_slower(2)",
            "Waits.time_same(1)",
            "Waits.time_same(2)",
            "InTurns.time_slower(1)",
            "InTurns.time_same(1)",
        )
    }
    slower = {name for name in found if "slower" in name}
    assert {name for name, row in found.items() if row.verdict is Verdict.SLOWER} == slower
    for name in slower:
        assert decide.effect(found[name].log_ratios).estimate == pytest.approx(2.0, rel=0.5)
    assert gate.new == {"waiting.New.time_it"}
    assert list(gate.broken) == ["waiting.Gone.time_it"]
    assert "HEAD has it no more" in gate.broken["waiting.Gone.time_it"]
    assert set(gate.regressions()) == slower | {"waiting.Gone.time_it"}


def test_table_and_json_of_a_gate(suite):
    from rich.console import Console

    gate = compare(suite, 0.5, lambda name: "time_slower(1)" in name or "New" in name)
    console = Console(record=True, width=160)
    report.show(gate, console, every=False)
    text = console.export_text()
    assert "faster" in text
    assert "waiting.Waits.time_slower(1)" in text
    assert "Not in BASE, and not compared: waiting.New.time_it" in text
    assert "0 slower by more than 5%, 2 faster by more than 5%" in text
    written = json.loads(json.dumps(report.as_json(gate)))
    assert {row["verdict"] for row in written["benchmarks"]} == {"faster"}
    assert all(row["low"] <= row["estimate"] <= row["high"] < 0 for row in written["benchmarks"])


def test_what_an_interrupted_gate_has_measured_is_told(suite, monkeypatch, tmp_path):
    runner = pytest.importorskip("typer.testing").CliRunner()
    from asv_bench.gate.__main__ import app

    launch, done = pairs.Gate.launch, []

    def stopping(gate, names):
        done.append(names)
        if len(done) > 2:
            raise KeyboardInterrupt
        launch(gate, names)

    monkeypatch.setattr(pairs.Gate, "launch", stopping)
    monkeypatch.setattr(builds, "resolve", lambda revision: revision * 40)
    monkeypatch.setattr(builds, "build", lambda commit: FakeBuild(commit, Path(sys.executable), 1))
    monkeypatch.setattr(builds, "suite", lambda: suite)
    output = tmp_path / "all.json"
    done_so = runner.invoke(app, ["a", "b", "--bench", "same", "--all", "--json", str(output)])
    assert done_so.exit_code == 130
    assert "Interrupted: what follows is what the launches until now say." in done_so.output
    assert "3 unclear" in done_so.output
    assert [len(row["log_ratios"]) for row in json.loads(output.read_text())["benchmarks"]] == [2, 2, 2]


def test_a_process_that_dies_says_why(tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "broken.py").write_text("raise SystemExit('no suite at all')")
    build = FakeBuild("a" * 40, Path(sys.executable), 1)
    with pytest.raises(pairs.BenchmarkError, match=r"ended with status 1. no suite at all"):
        pairs.Gate(build, build, tmp_path, lambda name: True, 0.05)


def test_the_gate_finds_the_suites_own_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "asv_bench")
    names = {name: alone for name, alone, *_ in worker.discover(ROOT / "asv_bench")}
    kernels = [name for name in names if name.startswith("kernels.")]
    assert len(kernels) > 50
    assert all(names[name] for name in kernels)
    assert not all(names.values())
    assert not [name for name in names if name.startswith(("command_line.", "imports.", "compiling.", "quality."))]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no-such-commit"], "'no-such-commit' is no commit of"),
        (["HEAD", "HEAD", "--bench", "("], "--bench '(' is no regular expression"),
        (["HEAD", "HEAD", "--size", "-1"], "Invalid value for '--size'"),
    ],
)
def test_bad_input_is_a_sentence_and_status_two(arguments, sentence):
    command = [sys.executable, "-m", "asv_bench.gate", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


# --- instructions ---------------------------------------------------------------------------------------------------


def test_what_perf_prints():
    assert instructions.read_perf("# started on\n\n123456,,instructions:u,1000,100.00,,\n") == 123456
    assert instructions.read_perf("<not supported>,,instructions:u,0,100.00,,\n") is None
    assert instructions.read_perf("") is None


# --- planted slowdowns ----------------------------------------------------------------------------------------------


def test_a_slowdown_is_planted_in_every_kind_of_kernel(tmp_path):
    source, drivers = Path("src") / "kmeans", Path("fastem") / "jit" / "drivers.py"
    for folder in (source, drivers.parent):
        (tmp_path / folder).mkdir(parents=True)
    for path in [*(ROOT / source).glob("*.h"), ROOT / drivers]:
        (tmp_path / path.relative_to(ROOT)).write_text(path.read_text())
    body, header = source / "cell_body.h", source / "tile.h"
    for name in proof.NATIVE:
        before = (tmp_path / body).read_text()
        proof.plant(tmp_path, f"native.{name}", 15)
        after = (tmp_path / body).read_text()
        assert f"NAME({name})(a0" in after.replace(before, "")
        (tmp_path / body).write_text((ROOT / body).read_text())
        (tmp_path / header).write_text((ROOT / header).read_text())
    proof.plant(tmp_path, "full.accumulate", 15)
    program = (tmp_path / drivers).read_text()
    compile(program, "drivers.py", "exec")
    assert 'name_of(cell) == "full.accumulate"' in program
    assert program.startswith((ROOT / drivers).read_text())
