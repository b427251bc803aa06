"""Threads, forks and Numba's layers: each case that PITFALLS calls deadly runs in a process of its own."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastem
from fastem import threads, validate

PACKAGE_PARENT = Path(threads.__file__).parents[1]

# What every script below starts with: a sum over 12 cells and an output per row, with their right answers.
HELPER = """
    import os, signal, sys, threading, multiprocessing
    import numpy as np
    from fastem import grid, jit, threads

    @jit.kernel
    def add(X, w, labels, prepared, start, stop, stats):
        for i in range(start, stop):
            stats[0] += X[i, 0] * prepared[0][0]
            stats[1] += 1.0

    @jit.kernel
    def copy(X, prepared, start, stop, out):
        for i in range(start, stop):
            out[i] = X[i, 0] * prepared[0][0]

    SWEEP, EACH = jit.sweep(add), jit.each_cell(copy)
    X = np.random.default_rng(0).normal(size=(11 * grid.CELL + 5, 1))
    PREPARED = (np.full(1, 3.0),)

    def total(n_threads, level=0):
        out = np.full((-(-12 // (1 << level)), 2), np.nan)
        threads.run_sweep(SWEEP, (X, np.empty(0), np.empty(0, np.int32), PREPARED), level, out, n_threads)
        return grid.merge_tree(out).tobytes()

    def each(n_threads):
        out = np.full(len(X), np.nan)
        threads.run_each(EACH, X, PREPARED, out, n_threads)
        return bool((out == X[:, 0] * 3.0).all())

    RIGHT = total(1)
    assert np.isclose(np.frombuffer(RIGHT)[0], 3.0 * X.sum()) and each(1)

    def right(n_threads=2):
        return total(n_threads) == RIGHT and each(n_threads)

    def forked(check):
        "Run check() in a child; whether it returned True there."
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if check() else 2
            finally:
                os._exit(code)
        return os.waitpid(pid, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a script after HELPER in a process of its own; the processes share one cache of compiled kernels."""
    folder = tmp_path_factory.mktemp("threads")
    (folder / "helper.py").write_text(textwrap.dedent(HELPER))

    def run(script, **variables):
        kept = {name: v for name, v in os.environ.items() if not name.startswith(("NUMBA_", "OMP_", "LOKY_"))}
        variables = {**kept, "NUMBA_CACHE_DIR": str(folder), "NUMBA_NUM_THREADS": "2", **variables}
        variables["PYTHONPATH"] = os.pathsep.join([str(folder), str(PACKAGE_PARENT)])
        command = [sys.executable, "-c", "from helper import *\n" + textwrap.dedent(script)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
layers = pytest.mark.parametrize("layer", ["omp", "workqueue"])


@layers
@needs_fork
def test_forked_child_grandchild_and_pool(run, layer):
    script = """
        assert right() and not threads._forked
        assert forked(right)
        assert forked(lambda: threads.resolve(None) == 1 == threads.native_threads(2))
        assert forked(lambda: forked(right) and right())
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(right, [1, 2, 2, 2]) == [True] * 4
        signal.signal(signal.SIGTERM, lambda *args: None)  # with a handler Numba would skip the kernel silently
        assert forked(right)
        assert right()
        print("done")
    """
    assert run(script, NUMBA_THREADING_LAYER=layer) == ["done"]


@needs_fork
def test_child_of_a_process_that_started_numba_before_it_knew_fastem(run):
    """The hook at fork is not there yet; multiprocessing tells that this is a child."""
    script = """
        import importlib
        import numba
        numba.get_num_threads()

        def late():
            importlib.reload(threads)
            threads._forked or sys.exit(3)
            right() or sys.exit(4)

        child = multiprocessing.get_context("fork").Process(target=late)
        child.start()
        child.join()
        print(child.exitcode)
    """
    assert run(script, NUMBA_THREADING_LAYER="omp") == ["0"]


@layers
def test_eight_python_threads_at_once(run, layer):
    script = """
        start, results = threading.Barrier(8), []

        def work():
            start.wait()
            results.extend([right() for _ in range(20)])

        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        print(len(results), all(results), threads.info()["numba_layer"])
    """
    assert run(script, NUMBA_THREADING_LAYER=layer) == ["160", "True", layer]


@layers
def test_same_bits_for_any_number_of_threads(run, layer):
    script = """
        for level in range(4):
            assert {total(n, level) for n in (1, 2, 3, 7, 50)} == {RIGHT}
        assert each(7)
        import numba
        print("numba.np.ufunc.workqueue" in sys.modules, threads._started_layer())
    """
    started = run(script, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="7")
    assert started == ["False", "omp" if layer == "omp" else "None"]  # workqueue is never started by us


def test_one_thread_starts_nothing(run):
    script = """
        before = threading.active_count()
        assert right(1)
        threads.map_tasks(lambda task: None, 5, 1)
        print(threads._started_layer(), threading.active_count() - before, len(os.listdir("/proc/self/task")) == 1)
    """
    result = run(script, OPENBLAS_NUM_THREADS="1")
    assert result[:2] == ["None", "0"]
    if sys.platform == "linux":
        assert result[2] == "True"


def test_settings_stay_as_they_were(run):
    """Numba's mask, OpenMP's number, BLAS threads, floating-point state: from before the layer starts until after."""
    script = """
        import numba, sklearn.cluster
        from threadpoolctl import threadpool_info, threadpool_limits
        threads._expected_layer()  # loads the library of the layer, so that threadpoolctl knows it from now on

        def settings():
            blas_and_openmp = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]
            tiny = np.float64(5e-324)
            with np.errstate(all="ignore"):
                return blas_and_openmp, float(tiny * 1.0), np.geterr()

        before = settings()
        assert right(2)
        assert settings() == before, (settings(), before)
        numba.set_num_threads(1)
        assert right(2)
        assert numba.get_num_threads() == 1
        with threads.single_threaded_blas():
            inside = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
            assert right(2)
        assert inside == {1}
        assert settings() == before
        with threadpool_limits(1):
            assert threads.resolve(None) == 1
        print(threads.resolve(None), threads.resolve(5))
    """
    # OpenMP is told 1, Numba 2: starting Numba's layer would make OpenMP believe 2.
    assert run(script, OMP_NUM_THREADS="1", NUMBA_THREADING_LAYER="omp") == ["1", "1"]


def test_importing_threads_imports_no_compiler_and_no_scikit_learn():
    script = (
        "import sys, fastem.threads as t; t.resolve(None); t.map_tasks(print, 0, 2)\n"
        "print([name for name in ('numba', 'sklearn', 'joblib', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# --- in this process ------------------------------------------------------------------------------------------------


def test_resolve(monkeypatch):
    monkeypatch.setattr(threads, "_available", lambda: 4)
    monkeypatch.setattr(threads, "_forked", False)
    given = [None, 1, 3, 9, -1, -2, -4, -9, np.int64(2)]
    assert [threads.resolve(n) for n in given] == [4, 1, 3, 4, 4, 3, 1, 1, 2]


@pytest.mark.parametrize("bad", [0, True, False, np.True_, 1.0, 2.5, "2", [1], np.arange(2)])
def test_resolve_refuses(bad):
    with pytest.raises(ValueError, match=r"n_threads must be a positive integer, None .* or a negative .*; got"):
        threads.resolve(bad)


def test_resolve_obeys_the_environment(monkeypatch):
    for name in ("_affinity", "_quota"):
        monkeypatch.setattr(threads, name, lambda: 16)
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(threads, "_forked", False)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert threads.resolve(None) == 16
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.setenv(name, "3")
        assert threads.resolve(None) == threads.resolve(8) == 3
        monkeypatch.setenv(name, "junk")
        assert threads.resolve(None) == 16
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert threads.resolve(-1) == 5


def test_container_quota(tmp_path):
    assert threads._quota(tmp_path) == np.inf
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in [("-1", np.inf), ("150000", 2), ("50000", 1)]:
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
        assert threads._quota.__wrapped__(tmp_path) == expected
    for text, expected in [("max 100000", np.inf), ("350000 100000", 4)]:
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert threads._quota.__wrapped__(tmp_path) == expected


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_map_tasks_runs_each_task_once_and_raises_the_first_error(n_threads):
    done = []
    threads.map_tasks(done.append, 50, n_threads)
    assert sorted(done) == list(range(50))
    started = []

    def fail(task):
        started.append(task)
        time.sleep(0.001)
        if task == 3:
            raise KeyError(task)

    before = _thread._count()
    with pytest.raises(KeyError):
        threads.map_tasks(fail, 1000, n_threads)
    assert len(started) < 100
    for _ in range(100):  # one that has done its work ends at once, but not before
        if _thread._count() == before:
            break
        time.sleep(0.01)
    assert _thread._count() == before


def test_map_tasks_shares_the_callers_errstate_and_nests():
    seen = []

    def outer(task):
        seen.append(np.geterr()["divide"])
        threads.map_tasks(lambda inner: seen.append(np.geterr()["divide"]), 3, 2)

    with np.errstate(divide="raise"):
        threads.map_tasks(outer, 4, 3)
    assert seen == ["raise"] * 16


def test_map_tasks_does_all_the_work_when_no_thread_can_be_started(monkeypatch):
    def refuse(function, arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    done = []
    threads.map_tasks(done.append, 9, 4)
    assert done == list(range(9))


def blas():
    pools = pytest.importorskip("threadpoolctl").threadpool_info()
    return [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"]


@pytest.fixture
def two_blas_threads():
    controller = pytest.importorskip("threadpoolctl").ThreadpoolController()
    before = [(library, library.get_num_threads()) for library in controller.select(user_api="blas").lib_controllers]
    for library, _ in before:
        library.set_num_threads(2)
        getattr(library, "clear_controlling_thread", lambda: None)()
    yield
    for library, number in before:
        library.set_num_threads(number)


@pytest.mark.usefixtures("two_blas_threads")
def test_blas_limit_ends_with_the_last_of_overlapping_threads():
    assert set(blas()) == {2}
    inside, left = [], threading.Event()
    entered, overlapping = threading.Barrier(2, timeout=20), threading.Barrier(2, timeout=20)

    def first():
        with threads.single_threaded_blas():
            entered.wait()
            overlapping.wait()
        left.set()
        finished.wait(20)  # still alive when the other one restores the number

    def second():
        entered.wait()
        with threads.single_threaded_blas():
            overlapping.wait()
            assert left.wait(20)
            inside.extend(blas())

    finished = threading.Event()
    workers = [threading.Thread(target=first), threading.Thread(target=second)]
    for worker in workers:
        worker.start()
    workers[1].join()
    after = blas()
    finished.set()
    workers[0].join()
    assert set(inside) == {1}
    assert set(after) == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_blas_limit_nests_and_ends_with_an_exception():
    with threads.single_threaded_blas():
        with pytest.raises(KeyError), threads.single_threaded_blas():
            raise KeyError
        assert set(blas()) == {1}
    assert set(blas()) == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_blas_limit_leaves_alone_what_is_limited_already():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    outer = threadpoolctl.threadpool_limits(1, user_api="blas")
    with threads.single_threaded_blas():
        outer.restore_original_limits()  # in the middle, as another thread's context may end
    assert set(blas()) == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_tasks_side_by_side_take_the_threads_that_are_allowed():
    seen, limits = set(), []

    def task(number):
        seen.add(threading.get_ident())
        limits.extend(blas())
        time.sleep(0.02)

    threads.side_by_side(task, 4)
    assert (seen, set(limits)) == ({threading.get_ident()}, {1})
    with threads.allowing(3):
        threads.side_by_side(task, 4)
        assert len(seen) == 3
        with threads.allowing(1):
            inner = set(seen)
            seen.clear()
            threads.side_by_side(task, 4)
            assert seen == {threading.get_ident()} <= inner
    assert set(blas()) == {2}


def others():
    """Return the processor seconds of all threads of this process but this one."""
    return time.process_time() - time.thread_time()


def test_a_fit_leaves_no_thread_that_waits_in_a_loop():
    """OpenBLAS's threads do, for a tenth of a second after each product that woke them."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    dense = rng.normal(size=(50_000, 4))
    tables = [dense, sparse.random(12_000, 15_000, 1e-3, format="csr", random_state=rng)]
    for X in tables:
        model = fastem.KMeans(3, n_init=1, random_state=0, tol=1e6, n_threads=1).fit(X)  # what is loaded first
        before = others()
        for _ in range(50):  # until what earlier tests woke is asleep
            time.sleep(0.02)
            if others() - before < 1e-3:
                break
            before = others()
        before = others()
        model.fit(X)
        time.sleep(0.03)
        assert others() - before < 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 31, 4095, 4096, 3 * 4096 + 5, 65_537, 1_000_001])
def test_a_value_whose_square_is_too_large_is_found_wherever_it_is(dtype, size):
    values = np.ones(size, dtype)
    assert validate.with_room_for_squares(values) is values
    for place in {0, size // 2, size - 1}:
        wrong = values.reshape(-1, 1).copy()
        wrong[place] = np.finfo(dtype).max / 2
        if dtype == np.float32:
            assert validate.with_room_for_squares(wrong).dtype == np.float64
        else:
            with pytest.raises(ValueError, match=f"at row {place}, column 0"):
                validate.with_room_for_squares(wrong)
