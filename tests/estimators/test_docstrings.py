"""Docstrings of estimators: every parameter, and what estimators share told in one place."""

import inspect
import re

import pytest

import fastem
from fastem.estimators import shared_parameters

ESTIMATORS = [one for _, one in inspect.getmembers(fastem, inspect.isclass) if hasattr(one, "get_params")]


def entries(text):
    """The names of the parameters of a numpydoc docstring, in order, and the text of each entry."""
    section = re.search(
        r"^Parameters\n-+\n(.*?)(?=\n\n[A-Z][\w ]*\n-+\n|\Z)", inspect.cleandoc(text), re.MULTILINE | re.DOTALL
    )
    for entry in re.split(r"\n(?=\S)", section[1]):
        for name in entry.partition(" : ")[0].split(", "):
            yield name, entry


def test_there_are_estimators():
    assert len(ESTIMATORS) >= 12


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_is_documented(estimator):
    documented = [name for name, _ in entries(estimator.__doc__)]
    assert sorted(documented) == sorted(estimator().get_params())
    assert not re.search(r"^ *\{", estimator.__doc__, re.MULTILINE)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_shared_is_told_once(estimator):
    """Nobody writes an entry again that stands in the list."""
    for name, entry in entries(inspect.cleandoc(inspect.getsource(estimator).split('"""')[1])):
        assert shared_parameters.SHARED.get(name) != entry


def test_every_entry_is_used():
    used = {
        name
        for one in ESTIMATORS
        for line in shared_parameters.NAMES.findall(inspect.getsource(one))
        for name in line[1].split(", ")
    }
    assert used == set(shared_parameters.SHARED)


def test_an_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="toll"):
        shared_parameters.documented(type("Model", (), {"__doc__": "Model.\n\n    {tol, toll}\n"}))
