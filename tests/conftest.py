"""What tests of several files share."""

import importlib

import pytest


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
