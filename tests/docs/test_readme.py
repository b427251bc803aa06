"""What the README promises: its Python examples run, its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"

if not README.is_file():
    pytest.skip("the README is not beside the tests", allow_module_level=True)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[1])
def test_python_examples_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(README), "exec"), {"__name__": "__readme__"})


def test_there_are_three_examples_of_ten_lines():
    assert len(blocks("python")) == 3
    for block in blocks("python"):
        assert len([line for line in block.splitlines() if line]) <= 11


def test_the_two_commands_are_there():
    commands = [block.strip() for block in blocks("sh")]
    assert (
        'pip install -e ".[all]" && fastem fit examples/faithful.csv --model gmm -k 2 --plot faithful.png' in commands
    )
    assert 'pip install -e ".[all,test]" && pytest' in commands


def test_options_of_the_commands_exist():
    typer = pytest.importorskip("typer")
    from fastem.cli.select import app  # with all commands

    commands = typer.main.get_command(app).commands
    lines = [line for block in blocks("sh") for line in block.replace("&&", "\n").splitlines()]
    calls = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("fastem ")]
    assert {call[1] for call in calls} == {"fit", "predict", "score", "select"}
    for _, command, *arguments in calls:
        known = {name for parameter in commands[command].params for name in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("-")} <= known


def test_files_in_the_picture_exist():
    picture = next(part for part in README.read_text().split("\n\n") if part.lstrip().startswith("input ->"))
    for name in re.findall(r"\b([\w/]+\.py|\w+/)", picture):
        assert (README.parent / "fastem" / name.rstrip("/")).exists(), name


def test_links_to_files_resolve():
    for name in re.findall(r"`(\w[\w/.]*\.(?:md|csv|py|json))`", README.read_text()):
        assert (README.parent / name).exists(), name


@pytest.mark.parametrize("name", ["twins", "many", "larger_than_memory", "dask"])
def test_the_pages_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name in ("many", "dask"):
        pytest.importorskip("dask.dataframe")
    page = README.parent / "docs" / f"{name}.md"
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, str(page), "exec"), {})
