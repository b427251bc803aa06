"""Runs that pause: their state is saved, read again, and goes on to the same bits."""

import datetime

import numpy as np
import pytest
from drawn import holes, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from fastem import families
from fastem.draws import Draws
from fastem.engine import checkpoint, em
from fastem.engine.checkpoint import Checkpoint
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.families import FAMILIES
from fastem.families.kmeans import KMeansFamily, KMeansParams, rotated
from fastem.families.kmeans.rotated import search_by
from fastem.files import FileError
from fastem.sources.memory import MemorySource

LONG = Settings(max_iter=14, tol=0.0, keep_history=True)


def problem_of(family, missing, weighted, dtype=np.float64, n=2500):
    draws = Draws(3)
    X = rows(family, family.example_params(4, draws), n, draws).astype(dtype)
    X = holes(X, 0.1) if missing else X
    w = np.random.default_rng(0).uniform(0.2, 3.0, n).astype(dtype) if weighted else None
    return Problem(MemorySource(X, w, n_threads=2), family)


def start_of(problem):
    return problem.family.example_params(4, Draws(8))


def bits(run):
    """All of a run, as bytes."""
    params = [*run.params, *(field for params in run.history for field in params)]
    memo = () if run.memo is None else (run.memo.labels,)
    arrays = [np.asarray(value) for value in (*params, run.objective, run.objectives, run.n_iter, run.converged, *memo)]
    return [array.tobytes() for array in arrays], run.notes


def through_a_file(state, path):
    """What a state is once it was written and read."""
    arrays = {}
    text = checkpoint.taken_apart(state, arrays)
    np.savez(path, **arrays)
    with np.load(path) as archive:
        return checkpoint.put_together(text, archive)


def same_after_a_pause(problem, settings, stop, path):
    whole = em.EMRun(problem, start_of(problem), settings).until(settings.max_iter)
    paused = em.EMRun(problem, start_of(problem), settings)
    paused.until(stop)
    resumed = em.EMRun(problem, start_of(problem), settings)
    resumed.recall(through_a_file(paused.state(), path))
    assert bits(resumed.until(settings.max_iter)) == bits(whole)
    assert bits(paused.until(settings.max_iter)) == bits(whole)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_run_goes_on_to_the_same_bits(name, weighted, tmp_path):
    family = families.make(name, 1 if not families.mixes(name) else 3)
    for missing in (False, True) if family.allow_nan else (False,):
        same_after_a_pause(problem_of(family, missing, weighted), LONG, 5, tmp_path / "state.npz")


@given(
    name=st.sampled_from(["gaussian-full", "gaussian-VVE", "student-full", "poisson", "factor-mixture"]),
    stop=st.integers(1, 13),
    missing=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_an_accelerated_run_goes_on_to_the_same_bits(name, stop, missing, tmp_path_factory):
    family = families.make(name, 3)
    problem = problem_of(family, missing and family.allow_nan, weighted=False)
    squarem = Settings(max_iter=14, tol=0.0, accelerate="squarem")
    same_after_a_pause(problem, squarem, stop, tmp_path_factory.mktemp("states") / "state.npz")


@given(stop=st.integers(1, 39), k=st.sampled_from([5, 40]), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=12, deadline=None)
def test_a_paused_bounded_k_means_goes_on_with_its_bounds(stop, k, dtype, tmp_path_factory):
    problem = problem_of(KMeansFamily(k, "bounded"), missing=False, weighted=True, dtype=dtype, n=9000)
    path = tmp_path_factory.mktemp("states") / "state.npz"
    same_after_a_pause(problem, Settings(max_iter=40, tol=0.0), stop, path)
    paused = em.EMRun(problem, start_of(problem), Settings(max_iter=40, tol=0.0))
    paused.until(stop)
    assert paused.over or paused.state()["memo"]["bounds"] is not None


@pytest.mark.parametrize("stop", [1, 2, 7])
def test_a_paused_rotated_k_means_goes_on_with_its_basis(stop, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    X = (rng.normal(size=(3000, 70)) * 0.8 ** np.arange(70)).astype(np.float32)

    def run():
        return em.EMRun(Problem(MemorySource(X, n_threads=2), KMeansFamily(40, "rotated")), start, settings)

    settings, start = Settings(max_iter=12, tol=0.0), KMeansParams(X[:40].astype(np.float64))
    whole, paused, resumed = run(), run(), run()
    paused.until(stop)
    resumed.recall(through_a_file(paused.state(), tmp_path / "state.npz"))
    with monkeypatch.context() as patch:  # Hamerly's search would give the same labels, in more time
        asked = []
        patch.setattr(rotated, "search_by", lambda *args, **how: asked.append(args) or search_by(*args, **how))
        end = bits(resumed.until(12))
    assert len(asked) >= 11 - stop
    assert end == bits(whole.until(12))


def test_how_often():
    assert isinstance(checkpoint.interval(np.int64(3)), int)
    assert [checkpoint.interval(every) for every in (3, "30s", "1.5 min")] == [3, 30.0, 90.0]
    assert checkpoint.interval(datetime.timedelta(hours=1)) == 3600.0
    for neither in (0, -1, True, 2.5, "3", "3 days", "s", None, datetime.timedelta(-1)):
        assert checkpoint.interval(neither) is None


def test_a_clock_counts_iterations_or_seconds():
    by_number = checkpoint.Clock(3)
    assert [by_number.due(1) for _ in range(7)] == [False, False, True, False, False, True, False]
    assert [checkpoint.Clock(every).due(10**9) for every in (0.0, 3600.0)] == [True, False]


def test_a_fit_goes_on_without_a_checkpoint_should_the_disk_be_full(tmp_path, monkeypatch):
    saved = Checkpoint(tmp_path / "fit.npz", 1, {"class": "a"}, 0)
    before = (tmp_path / "fit.npz").read_bytes()

    def full(*arguments, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(RuntimeWarning, match="goes on without a checkpoint.*No space left on device"):
        saved.save()
    assert (tmp_path / "fit.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fit.npz"]


def test_a_folder_that_is_not_there_is_said_before_the_fit(tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        Checkpoint(tmp_path / "nowhere" / "fit.npz", 1, {}, 0)
