"""What tests of several files share."""

import importlib
import os

import pytest

# Two workers of two threads each on two processors: a thread that spins while it waits for its partner takes the
# processor that the partner needs.  Three fits of k-means to 9000 rows took 5.4 s in each of two processes, and 0.24 s
# where they sleep; products of matrices 0.7 to 1.3 s and 0.5.  Read when the libraries are loaded, so set before
# anything is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # as a power of two of cycles; the least that it takes

# What a worker of a run of all tests compiles before the first one.  Kernels of one number type have parts in common,
# which a process compiles once; tests that come upon them in any order would compile these in each of the two.
COMPILED = {"gw0": "float64", "gw1": "float32"}


def pytest_configure_node(node):
    """Tell a worker of pytest-xdist whether it is to run all tests."""
    config = node.config
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    node.workerinput["whole"] = whole and not (config.option.keyword or config.option.markexpr)


def pytest_sessionstart(session):
    """Compile the kernels of all families, or do nothing where they are in the cache or only some tests are run."""
    given = getattr(session.config, "workerinput", {})
    dtype = COMPILED.get(given.get("workerid")) if given.get("whole") else None
    if dtype is not None and "NUMBA_DISABLE_JIT" not in os.environ:
        importlib.import_module("compiled").compile_kernels(dtype)


def pytest_collection_modifyitems(config, items):
    """Leave what is marked deep to who asks for it (``-m deep``)."""
    if "deep" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("deep"):
                item.add_marker(pytest.mark.skip(reason="deep"))


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command inside this process, in a folder of its own: (exit code, stdout, stderr)."""
    from fastem import cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def peer(request):
    """Import a package to compare with; where the deep checks run (``-m deep``), a missing one is a failure."""

    def load(name):
        try:
            return importlib.import_module(name)
        except ImportError:
            if "deep" in request.config.getoption("markexpr"):
                raise
            pytest.skip(f"{name} is not installed; the deep checks install it")

    return load
