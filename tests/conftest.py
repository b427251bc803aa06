"""What tests of several files share."""

import pytest


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
