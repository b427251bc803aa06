"""The kernel policy: drivers over the grid, and a disk cache that is never stale and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fastem import grid, threads
from fastem.jit import cache, drivers

PACKAGE_PARENT = Path(cache.__file__).parents[2]


class Shift(NamedTuple):
    origin: np.ndarray
    scale: np.ndarray


class Outputs(NamedTuple):
    first: np.ndarray
    both: np.ndarray


@drivers.kernel
def add_rows(X, w, labels, prepared, start, stop, stats):
    block = X[start:stop]  # a view: the arrays of a context must survive reference counting
    for i in range(block.shape[0]):
        weight = w[start + i] if w.size else 1.0
        for j in range(block.shape[1]):
            stats[j] += weight * (block[i, j] - prepared.origin[j])
        stats[block.shape[1]] += weight


@drivers.kernel
def first_feature(X, prepared, start, stop, out):
    for i in range(start, stop):
        out[i] = X[i, 0] - prepared.origin[0]


@drivers.kernel
def both_features(X, prepared, start, stop, out):
    for i in range(start, stop):
        out.first[i] = X[i, 0] - prepared.origin[0]
        for j in range(2):
            out.both[i, j] = X[i, j] * prepared.scale[j]


@drivers.kernel
def failing(X, w, labels, prepared, start, stop, stats):
    if stop > 3000:
        raise ValueError("cannot")


ADD = drivers.sweep(add_rows)
FIRST = drivers.each_cell(first_feature)
BOTH = drivers.each_cell(both_features)
FAILING = drivers.sweep(failing)
UNIT = np.empty(0)
UNKNOWN = np.empty(0, np.int32)


def data(n, dtype=np.float64):
    rng = np.random.default_rng(n)
    X = np.ascontiguousarray(rng.normal(size=(n, 2)) + 1e3, dtype)
    return X, Shift(np.full(2, 1e3, dtype), np.array([2.0, 3.0]))


def tree(records):
    """The fixed binary tree, from the leaves, in plain Python."""
    while len(records) > 1:
        pairs = [records[i] + records[i + 1] for i in range(0, len(records) - 1, 2)]
        records = pairs + records[len(records) - len(records) % 2 :]
    return records[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, grid.CELL, grid.CELL + 1, 11 * grid.CELL + 7])
def test_sweep_adds_cells_by_the_fixed_tree(n, dtype):
    X, prepared = data(n, dtype)
    X.flags.writeable = False
    cells = []
    for start in range(0, n, grid.CELL):
        record = np.zeros(3)
        add_rows(X, UNIT, UNKNOWN, prepared, start, min(start + grid.CELL, n), record)
        cells.append(record)
    expected = tree(cells)
    assert expected[2] == n
    for level in range(5):
        out = np.full((-(-len(cells) // (1 << level)), 3), np.nan)
        ADD.serial(X, UNIT, UNKNOWN, prepared, level, 0, out)
        other = np.full_like(out, np.nan)
        ADD.parallel(X, UNIT, UNKNOWN, prepared, level, 0, other)
        np.testing.assert_array_equal(out, other)
        np.testing.assert_array_equal(grid.merge_tree(out), expected)


def test_sweep_over_part_of_the_tasks_and_over_no_rows():
    X, prepared = data(5 * grid.CELL)
    whole, part = np.empty((5, 3)), np.empty((2, 3))
    ADD.serial(X, UNIT, UNKNOWN, prepared, 0, 0, whole)
    ADD.serial(X, UNIT, UNKNOWN, prepared, 0, 3, part)
    np.testing.assert_array_equal(whole[3:], part)
    ADD.serial(X[:0], UNIT, UNKNOWN, prepared, 0, 0, np.empty((0, 3)))
    ADD.parallel(X[:0], UNIT, UNKNOWN, prepared, 0, 0, np.empty((0, 3)))
    nothing = np.full((1, 3), np.nan)
    ADD.serial(X[:0], UNIT, UNKNOWN, prepared, 0, 0, nothing)
    np.testing.assert_array_equal(nothing, 0)


@pytest.mark.parametrize("driver", ["serial", "parallel"])
def test_each_cell_writes_every_row(driver):
    X, prepared = data(3 * grid.CELL + 5)
    out = np.full(len(X), np.nan)
    getattr(FIRST, driver)(X, prepared, 0, 4, out)
    np.testing.assert_array_equal(out, X[:, 0] - 1e3)
    column = np.full((len(X), 1), np.nan)[:, 0]
    getattr(FIRST, driver)(X, prepared, 1, 3, column)
    assert np.isnan(column[: grid.CELL]).all()
    assert np.isnan(column[3 * grid.CELL :]).all()
    np.testing.assert_array_equal(column[grid.CELL : 3 * grid.CELL], out[grid.CELL : 3 * grid.CELL])
    outputs = Outputs(np.full(len(X), np.nan), np.full((len(X), 2), np.nan))
    getattr(BOTH, driver)(X, prepared, 0, 4, outputs)
    np.testing.assert_array_equal(outputs.first, out)
    np.testing.assert_array_equal(outputs.both, X * prepared.scale)


def test_a_failing_kernel_is_reported():
    X, prepared = data(2 * grid.CELL)
    for driver in FAILING[:2]:
        driver(X[:9], UNIT, UNKNOWN, prepared, 0, 0, np.empty((1, 3)))
        with pytest.raises(RuntimeError, match="failing"):
            driver(X, UNIT, UNKNOWN, prepared, 0, 0, np.empty((2, 3)))


def test_a_kernel_that_returns_something_is_refused():
    @drivers.kernel
    def cell(X, prepared, start, stop, out):
        return stop - start

    X, prepared = data(4)
    with pytest.raises(TypeError, match="must return nothing, not int64"):
        drivers.each_cell(cell).serial(X, prepared, 0, 1, np.empty(4))


@drivers.kernel
def root_of(x):
    if x < 0:
        raise ValueError("negative")
    return np.sqrt(x)


@drivers.kernel
def sum_of_roots(X):
    total = 0.0
    for x in X:
        total += root_of(x)
    return total


@drivers.kernel
def scale_all(x, factor):
    for i in range(x.shape[0]):
        x[i] *= factor


def test_loops_use_the_widest_vectors_of_the_processor():
    import llvmlite.binding as llvm

    if not llvm.get_host_cpu_features().get("avx512f"):
        pytest.skip("needs AVX-512")
    scale_all.runnable._cache.disable()  # machine code from the disk has no text
    x = np.ones(1000)
    scale_all(x, 2.0)
    assert np.all(x == 2.0)
    (code,) = scale_all.runnable.inspect_asm().values()
    assert "zmm" in code


def test_kernels_can_be_called_from_python_and_raise():
    assert sum_of_roots(np.array([4.0, 9.0])) == 5.0
    assert root_of(16.0) == 4.0
    with pytest.raises(ValueError, match="negative"):
        sum_of_roots(np.array([4.0, -9.0]))
    # Only what ran has machine code.
    assert not sum_of_roots.signatures
    assert len(sum_of_roots.runnable.signatures) == 1


def test_kernels_made_by_one_factory_do_not_share_code():
    def make(power):
        @drivers.kernel
        def cell(X, prepared, start, stop, out):
            for i in range(start, stop):
                out[i] = X[i, 0] ** power

        return drivers.each_cell(cell)

    X, prepared = data(4)
    for power in (2, 3):
        out = np.empty(4)
        make(power).serial(X, prepared, 0, 1, out)
        np.testing.assert_allclose(out, X[:, 0] ** power, rtol=1e-15)


def test_fingerprint_is_the_same_whatever_runs_meanwhile():
    # Kernels reach functions of `threads` by names that they share with others; its state would compile them anew.
    def function():
        return threads.side_by_side

    kernel = drivers.kernel(function)
    before = cache.fingerprint(kernel)
    with threads.single_threaded_blas():
        assert cache.fingerprint(kernel) == before


def test_fingerprint_sees_options_defaults_and_nested_calls():
    def fingerprint(value):
        return list(cache._of_value(value, set(), set()))

    def function(x):
        return x + 1

    assert fingerprint(drivers.kernel(function)) == fingerprint(drivers.kernel(function))
    assert fingerprint(drivers.kernel(function)) != fingerprint(
        drivers._compile(drivers.Kernel, function, fastmath={"contract"})
    )

    def make(inner, constant):
        return drivers.kernel(lambda x: inner(x) + constant)

    one, two = drivers.kernel(lambda x: x * 1.0), drivers.kernel(lambda x: x * 2.0)
    variants = [make(one, 0), make(two, 0), make(one, 1), make(one, np.zeros(2)), make(one, np.ones(2))]
    assert len({str(fingerprint(variant)) for variant in variants}) == len(variants)


def test_stamp_changes_with_kernel_sources_only(tmp_path, monkeypatch):
    for folder in ("families", "jit"):
        (tmp_path / folder).mkdir()
    for name in ("jit/cache.py", "families/math.py", "cli.py"):
        (tmp_path / name).write_text("text = 1\n")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "jit" / "cache.py"))
    before = cache._stamp()
    (tmp_path / "cli.py").write_text("text = 2\n")
    assert cache._stamp() == before
    (tmp_path / "families" / "math.py").write_text("text = 2\n")
    after = cache._stamp()
    assert after != before
    (tmp_path / "cli.py").write_text("from fastem import jit\n")
    assert cache._stamp() != after


# --- the cache between processes ------------------------------------------------------------------------------------

USER_FAMILY = {
    "tools.py": """
        from fastem import jit
        FACTOR = 2.0
        @jit.kernel
        def twice(x):
            return FACTOR * x
        """,
    "family.py": """
        from typing import NamedTuple
        import numpy as np
        import tools
        from fastem import jit
        class Prepared(NamedTuple):
            origin: np.ndarray
        @jit.kernel
        def cell(X, w, labels, prepared, start, stop, stats):
            for i in range(start, stop):
                stats[0] += tools.twice(X[i, 0]) - prepared.origin[0]
        SWEEP = jit.sweep(cell)
        """,
    "main.py": """
        import sys
        import numpy as np
        import tools, family
        from fastem.jit import drivers
        X = np.ones((3000, 1))
        out = np.empty((2, 1))
        args = X, np.empty(0), np.empty(0, np.int32), family.Prepared(np.zeros(1)), 0, 0, out
        for driver in sys.argv[1].split(","):
            getattr(family.SWEEP, driver)(*args)
            print(out.sum())
        # What these call is linked into them: a warm process neither compiles nor loads anything else.
        used = [family.cell.runnable, drivers._store_sweep, drivers._sweep_serial, drivers._sweep_parallel]
        misses = sum(sum(f.stats.cache_misses.values()) for f in used)
        assert bool(misses) or not (tools.twice.signatures or drivers._task.signatures)
        print("misses", misses)
        print("hits", sum(sum(f.stats.cache_hits.values()) for f in used))
        """,
}


@pytest.fixture
def user_family(tmp_path):
    for name, text in USER_FAMILY.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


def start(folder, *args, program="main.py", **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    path = os.pathsep.join([str(folder), str(PACKAGE_PARENT)])
    command = [sys.executable, "-W", "error::ResourceWarning", str(folder / program), *args]
    environment = {**kept, "PYTHONPATH": path, **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, told=""):
    """The words printed; what is told on stderr is one line, or none."""
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert told in errors if told else not errors
    assert len(errors.splitlines()) == bool(told)
    return out.split()


def run(folder, *args, **variables):
    return finish(start(folder, *args, **variables))


def test_cache_is_used_by_the_next_process_and_never_stale_or_broken(user_family):
    caches = {"NUMBA_CACHE_DIR": str(user_family / "cache")}
    both = "serial,parallel"
    # Processes that fill the cache at the same time
    for process in [start(user_family, both, **caches) for _ in range(2)]:
        assert finish(process)[:2] == ["6000.0", "6000.0"]
    assert not list((user_family / "cache").rglob("*.tmp"))
    assert run(user_family, both, **caches) == ["6000.0", "6000.0", "misses", "0", "hits", "4"]

    tools = user_family / "tools.py"
    edited = tools.read_text().replace("FACTOR = 2.0", "FACTOR = 3.0")
    tools.write_text(edited)
    assert run(user_family, "serial", **caches)[:3] == ["9000.0", "misses", "1"]
    tools.write_text(edited.replace("FACTOR * x", "FACTOR * x + 1.0"))
    assert run(user_family, "serial", **caches)[:3] == ["12000.0", "misses", "1"]

    files = sorted((user_family / "cache").rglob("*.nbc"))
    sizes = [file.stat().st_size for file in files]
    for i, file in enumerate(files):
        content = file.read_bytes()
        middle = len(content) // 2
        broken = [content[:middle], content[:middle] + b"\0\1" + content[middle + 2 :], b"", content[:20]]
        file.write_bytes(broken[i % len(broken)])
    assert run(user_family, "serial", **caches)[0] == "12000.0"
    assert run(user_family, "serial", **caches) == ["12000.0", "misses", "0", "hits", "3"]
    assert any(file.stat().st_size == size for file, size in zip(files, sizes, strict=True))


CLOSURES = """
    import itertools, sys
    import numpy as np
    from numba.core import bytecode
    from fastem.jit import drivers

    def make(value):
        @drivers.kernel
        def cell(X, w, labels, prepared, start, stop, stats):
            stats[0] += value
        return drivers.sweep(cell)

    def run(sweep, n_features):
        out = np.empty((1, 1))
        sweep.serial(np.ones((10, n_features)), np.empty(0), np.empty(0, np.int32), (np.zeros(1),), 0, 0, out)
        return out[0, 0]

    run(make(0.0), 1)  # the drivers
    one, two = make(1.0), make(2.0)
    for sweep in {"first": (one,), "second": (two, one)}[sys.argv[1]]:
        bytecode.FunctionIdentity._unique_ids = itertools.count(5000)  # as if each were the first of its process
        run(sweep, 1)
    print(run(one, 2), *([run(two, 2)] if sys.argv[1] == "second" else []))  # of one column an array is Fortran's, too
    """


def test_a_loaded_kernel_never_answers_for_a_compiled_one(tmp_path):
    """Two closures of one factory had the same symbol where each was the n-th function that its process compiled."""
    (tmp_path / "closures.py").write_text(textwrap.dedent(CLOSURES))
    settings = {"program": "closures.py", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "0"}
    assert finish(start(tmp_path, "first", **settings)) == ["1.0"]
    assert finish(start(tmp_path, "second", **settings)) == ["1.0", "2.0"]


SUMS = """
    import numpy as np
    from fastem import families
    from fastem.sources.memory import MemorySource
    rng = np.random.default_rng(0)
    X = (rng.random((3000, 37)) < 0.3).astype(float)
    family = families.make("bernoulli", 3)
    params = family.blank_params(rng.uniform(0.1, 0.9, (3, 37)), np.ones(37))
    stats = MemorySource(X).accumulate(family, family.prepare(params, X.dtype))
    print(*(np.asarray(part).tobytes().hex() for part in stats))
    """


def test_the_process_that_compiles_and_the_next_get_the_same_bits(tmp_path):
    (tmp_path / "sums.py").write_text(textwrap.dedent(SUMS))
    cold, warm = (finish(start(tmp_path, program="sums.py", NUMBA_CACHE_DIR=str(tmp_path))) for _ in range(2))
    assert len(cold) > 2
    assert cold == warm


def test_no_place_for_a_cache_is_no_error(user_family):
    blocked = user_family / "file"
    blocked.write_text("")
    below_a_file = start(user_family, "serial", NUMBA_CACHE_DIR=str(blocked / "cache"))
    no_home = start(user_family, "serial", HOME="/proc/none", XDG_CACHE_HOME="")
    assert finish(below_a_file, told="set NUMBA_CACHE_DIR to a folder that can be written")[:2] == ["6000.0", "misses"]
    assert finish(no_home, told="set NUMBA_CACHE_DIR to a folder that can be written")[:2] == ["6000.0", "misses"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_full_disk_is_no_error(user_family):
    (user_family / "full.py").write_text(
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"  # every write beyond fails, as on a full disk
        f"runpy.run_path({str(user_family / 'main.py')!r}, run_name='__main__')\n"
    )
    cache_folder = user_family / "cache"
    full = start(user_family, "serial", program="full.py", NUMBA_CACHE_DIR=str(cache_folder))
    assert finish(full, told="fastem cannot keep its compiled kernels")[0] == "6000.0"
    assert [file for file in cache_folder.rglob("*") if file.is_file()] == []


def test_new_folder_removes_those_that_nothing_used_for_a_month(user_family):
    cache = user_family / "cache" / "fastem"
    files = {
        "0123456789abcdef": ["a.nbc", "b.tmp"],
        "00000000000000aa": [],
        "1123456789abcdef": ["a.nbc"],  # used of late
        "2123456789abcdef": ["a.nbc", "notes.txt"],
        "3123456789abcdef": ["a.nbc", "folder.nbc/a.nbc"],
        "0123456789ABCDEF": ["a.nbc"],
        "short": ["a.nbc"],
    }
    for folder, names in files.items():
        (cache / folder).mkdir(parents=True)
        for name in names:
            (cache / folder / name).parent.mkdir(exist_ok=True)
            (cache / folder / name).write_text("")
    elsewhere = user_family / "4123456789abcdef"
    elsewhere.mkdir()
    (elsewhere / "a.nbc").write_text("")
    (cache / elsewhere.name).symlink_to(elsewhere)
    removed = {"0123456789abcdef", "00000000000000aa"}
    kept = {path for path in cache.rglob("*") if not removed & set(path.parts)}

    def age(name, days):
        os.utime(cache / name, (time.time() - days * 86400,) * 2)

    for name in [*files, elsewhere.name]:
        age(name, 20 if name == "1123456789abcdef" else 40)
    assert run(user_family, "serial", NUMBA_CACHE_DIR=str(cache.parent))[0] == "6000.0"
    stamp = next(name for name in os.listdir(cache) if cache / name not in kept)
    assert {path for path in cache.rglob("*") if stamp not in path.parts} == kept

    age(stamp, 40)
    assert run(user_family, "serial", NUMBA_CACHE_DIR=str(cache.parent))[1:3] == ["misses", "0"]
    assert time.time() - (cache / stamp).stat().st_mtime < 86400, "a folder that is read from is in use"
