"""The only place that knows about processors, OpenMP, BLAS threads, Numba's threading layer and forks.

What was measured, and what is done about it here:

* Numba's *workqueue* layer aborts the process when two Python threads are in parallel kernels: prange is never entered
  on it; Python threads run the serial driver over parts of the grid instead (kernels hold no GIL).
* After a fork, a child that enters OpenMP is killed, hangs, or silently skips the kernel: a forked child (and its
  children) uses no prange and gives the Cython kernels one thread; asked for more, it uses Python threads likewise.
* Numba's *omp* layer overwrites OpenMP's own number of threads when it starts: it is put back.
* Limits on BLAS threads are global to the process, and overlapping ones get stuck: one limit is counted here.

Importing this module imports neither Numba nor scikit-learn; where it needs to know about Numba it looks whether it
has been imported.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import ctypes
import functools
import importlib
import math
import operator
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Guards this module's own state and, for a moment at a time, that of callers who count across threads.
LOCK = threading.Lock()
# Numbers from which more than one thread looks through an array for NaN or infinity.
PARALLEL_SEARCH = 1_000_000

_forked = False  # an ancestor of this process may have started threads that did not survive the fork
_layer: str | None = None  # Numba's threading layer, once started
_blas_users = 0
_blas_limited: list[tuple[Any, int]] = []
_blas_controller: tuple[int, Any] = (0, None)
_allowed: contextvars.ContextVar[int] = contextvars.ContextVar("fastem_threads", default=1)


def _after_fork() -> None:
    global _forked, LOCK
    _forked = True
    LOCK = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _born_in_fork() -> bool:
    """Tell whether this may be a child of multiprocessing in which Numba's threads were started before we came.

    Those may belong to the parent; if they do not, the serial drivers in Python threads do as well.
    """
    process = sys.modules.get("multiprocessing.process")
    numba_parallel = sys.modules.get("numba.np.ufunc.parallel")
    return (
        process is not None
        and process.parent_process() is not None
        and getattr(numba_parallel, "_threading_layer", None) is not None
    )


_forked = _born_in_fork()


# --- how many threads -----------------------------------------------------------------------------------------------


def resolve(n_threads: int | None) -> int:
    """Turn the parameter `n_threads` into the number of threads to use.

    Parameters
    ----------
    n_threads : int or None
        None means all that this process may use (one in a forked child, whose siblings share the processors),
        -1 all, -2 all but one and so on.

    Returns
    -------
    int
        At least 1, at most what the processors, a container's quota, OpenMP and Numba allow.
    """
    if n_threads is None:
        return 1 if _forked else _available()
    try:
        number = 0 if type(n_threads).__name__ in ("bool", "bool_") else operator.index(n_threads)
    except TypeError:
        number = 0
    if number == 0:
        raise ValueError(
            f"n_threads must be a positive integer, None for all processors, or a negative integer as in joblib "
            f"(-1: all, -2: all but one); got {n_threads!r}."
        )
    available = _available()
    return min(number, available) if number > 0 else max(1, available + 1 + number)


def native_threads(n_threads: int) -> int:
    """Return the number of threads for an OpenMP kernel: one in a forked child."""
    return 1 if _forked else n_threads


def _available() -> int:
    most: int | float = min(_affinity(), _quota())
    for name in ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
        most = min(most, _environment(name))
    config = getattr(sys.modules.get("numba"), "config", None)
    most = min(most, getattr(config, "NUMBA_NUM_THREADS", None) or _environment("NUMBA_NUM_THREADS"))
    openmp = _openmp()
    if openmp is not None:
        most = min(most, openmp.omp_get_max_threads())
    return max(1, int(most))


def _environment(name: str) -> int | float:
    value = os.environ.get(name)
    first = value.partition(",")[0].strip() if value else ""  # OMP_NUM_THREADS may list one number for each level
    return int(first) if first.isdecimal() and int(first) > 0 else math.inf


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _quota(folder: Path = Path("/sys/fs/cgroup")) -> int | float:
    """Processors granted by the container (cgroup v2 or v1), rounded up; infinite without a limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.inf if int(quota) <= 0 else max(1, math.ceil(int(quota) / int(period)))
    return math.inf


def _openmp() -> Any:
    """Return the OpenMP runtime of our Cython kernels, else of Numba's layer, as far as one of them is loaded."""
    for name in ("fastem._native.nearest", "numba.np.ufunc.omppool"):
        module = sys.modules.get(name)
        if module is not None:
            library = _openmp_of(module.__file__)
            if library is not None:
                return library
    return None


@functools.cache
def _openmp_of(file: str) -> Any:
    """Open an extension module as a library: looking a symbol up in it looks into the OpenMP runtime it links to."""
    try:
        library = ctypes.CDLL(file)
        library.omp_get_max_threads  # noqa: B018  (the look-up is the question)
        return library
    except (OSError, AttributeError):
        return None


# --- Numba's threading layer ----------------------------------------------------------------------------------------


def _expected_layer() -> str | None:
    """Name the layer that Numba is going to start, by its own rules, without starting it."""
    config: Any = importlib.import_module("numba").config
    asked = str(config.THREADING_LAYER).lower()
    groups = {
        "default": list(config.THREADING_LAYER_PRIORITY),
        "safe": ["tbb"],
        "threadsafe": ["tbb", "omp"],
        "forksafe": ["tbb", "workqueue"] if sys.platform.startswith("linux") else ["tbb", "omp", "workqueue"],
    }
    for name in groups.get(asked, [asked]):
        with contextlib.suppress(ImportError):
            if name == "tbb":
                importlib.import_module("numba.np.ufunc.parallel")._check_tbb_version_compatible()
            if name in ("tbb", "omp"):
                importlib.import_module(f"numba.np.ufunc.{name}pool")
            return name
    return None


def _started_layer() -> str | None:
    from numba import threading_layer

    try:
        return threading_layer()
    except ValueError:  # not started
        return None


def _may_prange() -> bool:
    """Tell whether prange is safe here; starts Numba's threads if it is."""
    global _layer
    if _forked:
        return False
    if _layer is None:
        with LOCK:
            _layer = _started_layer() or _start_layer()
    return _layer in ("omp", "tbb")


def _start_layer() -> str:
    import numba

    expected = _expected_layer()
    if expected not in ("omp", "tbb"):
        return expected or "none"
    module = sys.modules.get("numba.np.ufunc.omppool")
    openmp = _openmp_of(module.__file__) if module is not None and module.__file__ else None
    before = openmp.omp_get_max_threads() if openmp is not None else 0
    numba.get_num_threads()  # starts the threads
    if openmp is not None:
        openmp.omp_set_num_threads(before)
    return numba.threading_layer()


@contextlib.contextmanager
def _numba_threads(n_threads: int) -> Iterator[None]:
    """Let prange use so many threads in this Python thread; Numba keeps the number per thread."""
    numba: Any = importlib.import_module("numba")
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


# --- running kernels ------------------------------------------------------------------------------------------------


def run_sweep(sweep: Any, args: tuple, level: int, out: Any, n_threads: int) -> None:
    """Fill row t of `out` (tasks, size) with the record of task t of a `jit.sweep`, in at most `n_threads` threads.

    Parameters
    ----------
    sweep : jit.Sweep
        Drivers made by `fastem.jit.sweep`.
    args : tuple
        ``(X, w, labels, prepared)``.
    level : int
        A task is ``2**level`` grid cells (`grid.plan`).
    out : ndarray of shape (n_tasks, size)
        The records.  # OUT
    n_threads : int
        A number that `resolve` returned.
    """
    _run(sweep, n_threads, len(out), lambda driver, first, last: driver(*args, level, first, out[first:last]))


def run_each(sweep: Any, X: Any, prepared: Any, out: Any, n_threads: int) -> None:
    """Fill the rows of `out`, one for each row of X, by the kernel of a `jit.each_cell` in at most `n_threads` threads.

    Parameters
    ----------
    sweep : jit.Sweep
        Drivers made by `fastem.jit.each_cell`.
    X : ndarray of shape (n, d)
        Rows.
    prepared : NamedTuple of arrays
        What the kernel needs besides.
    out : ndarray or NamedTuple of ndarrays, of n rows
        The results.  # OUT
    n_threads : int
        A number that `resolve` returned.
    """
    from fastem.grid import n_cells

    _run(sweep, n_threads, n_cells(len(X)), lambda driver, first, last: driver(X, prepared, first, last, out))


def _run(sweep: Any, n_threads: int, n_items: int, part: Callable[[Any, int, int], None]) -> None:
    n_threads = min(n_threads, n_items)
    if n_threads <= 1:
        part(sweep.serial, 0, n_items)
    elif sweep.parallel is not None and _may_prange():
        with _numba_threads(n_threads):
            part(sweep.parallel, 0, n_items)
    else:
        n_parts = min(n_items, 4 * n_threads)  # a few for each thread, so that one that is held up delays little
        bounds = [n_items * i // n_parts for i in range(n_parts + 1)]
        map_tasks(lambda i: part(sweep.serial, bounds[i], bounds[i + 1]), n_parts, n_threads)


def map_tasks(function: Callable[[int], Any], n_tasks: int, n_threads: int) -> None:
    """Call ``function(0)`` to ``function(n_tasks - 1)`` in at most `n_threads` Python threads, this one included.

    The threads live for this call only (so no pool can be lost in a fork or wait for itself when calls are nested) and
    see the caller's context variables, such as NumPy's errstate.  The first exception stops the rest and is raised.
    They are begun as `threading.Thread` begins them, but not waited for then: that was a third of the 150
    microseconds that a call cost, and a pool of threads would save little more.
    """
    if min(n_threads, n_tasks) <= 1:
        for task in range(n_tasks):
            function(task)
        return
    waiting = deque(range(n_tasks))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                try:
                    task = waiting.popleft()
                except IndexError:
                    return
                function(task)
        except BaseException as error:
            waiting.clear()
            failures.append(error)

    def help_out(context: contextvars.Context, running: _thread.LockType) -> None:
        try:
            context.run(work)
        finally:
            running.release()

    helpers = []
    try:
        for _ in range(1, min(n_threads, n_tasks)):
            running = _thread.allocate_lock()
            running.acquire()
            try:
                _thread.start_new_thread(help_out, (contextvars.copy_context(), running))
            except RuntimeError:  # the system grants no more threads; those that run do all the work
                break
            helpers.append(running)
        work()
    finally:
        waiting.clear()  # of use only if interrupted
        for running in helpers:
            running.acquire()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def allowing(n_threads: int) -> Iterator[None]:
    """Let what knows no source use so many threads here, a number that `resolve` returned; otherwise it uses one."""
    token = _allowed.set(n_threads)
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed() -> int:
    """Return how many threads `allowing` lets be used here."""
    return _allowed.get()


def side_by_side(function: Callable[[int], Any], n_tasks: int) -> None:
    """Call ``function(0)`` to ``function(n_tasks - 1)``, each with BLAS on one thread, in the threads that are allowed.

    For the algebra of components, which knows no source: what a task gives may not depend on the others.
    """
    with single_threaded_blas():
        map_tasks(function, n_tasks, allowed())


# --- BLAS -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Keep BLAS on one thread while any thread is in this context; the last to leave restores what the first found."""
    global _blas_users, _blas_limited
    with LOCK:
        mine = _limit_blas(of_this_thread=True)
        if _blas_users == 0:
            _blas_limited = _limit_blas(of_this_thread=False)
        _blas_users += 1
    try:
        yield
    finally:
        with LOCK:
            _blas_users -= 1
            if _blas_users == 0:
                _restore_blas(_blas_limited)
            _restore_blas(mine)


def _limit_blas(of_this_thread: bool) -> list[tuple[Any, int]]:
    """Set BLAS libraries to one thread: those whose limit is OpenMP's for this thread, or those with one for all.

    Returns those that had more, with how many.  One that somebody else has set to one thread is left to them, and so
    is one that threadpoolctl (from 3.8) reserves for another thread which is inside a limit of its own.
    """
    limited = []
    for library in _controller().lib_controllers:
        by_openmp = library.internal_api == "openblas" and library.threading_layer == "openmp"
        if library.user_api == "blas" and by_openmp == of_this_thread:
            before = library.get_num_threads()
            if before is not None and before > 1:
                library.set_num_threads(1)
                if library.get_num_threads() == 1:
                    limited.append((library, before))
    return limited


def _restore_blas(limited: list[tuple[Any, int]]) -> None:
    for library, before in limited:
        release = getattr(library, "clear_controlling_thread", None)
        if release is not None:  # threadpoolctl heeds only the thread that set the limit, which may not be this one
            release(force=True)
        library.set_num_threads(before)
        if release is not None:
            release()


def _controller() -> Any:
    """Return threadpoolctl's list of BLAS libraries, made again only after an import could have brought one more."""
    global _blas_controller
    n_modules, controller = _blas_controller
    if n_modules != len(sys.modules):
        from threadpoolctl import ThreadpoolController

        controller = ThreadpoolController()
        _blas_controller = (len(sys.modules), controller)
    return controller


# --- what there is --------------------------------------------------------------------------------------------------


def info(start: bool = False) -> dict[str, Any]:
    """Say what this module found out, for `fastem.build_info`.

    Parameters
    ----------
    start : bool
        Whether to start Numba's threads, to be sure of the layer rather than to name the one expected.
    """
    config: Any = importlib.import_module("numba").config
    if start:
        _may_prange()
    openmp = _openmp()
    return {
        "threads": resolve(None),
        "processors": _affinity(),
        "openmp_threads": openmp.omp_get_max_threads() if openmp is not None else None,
        "numba_threads": config.NUMBA_NUM_THREADS,
        "numba_layer": _started_layer() or _expected_layer() or "none",
        "forked": _forked,
    }
