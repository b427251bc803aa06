"""Every example in a docstring is run."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import fastem

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(fastem.__path__, "fastem.")
    if not info.name.startswith("fastem._native.") and not info.name.endswith("__main__")  # compiled; run when imported
)


@pytest.mark.parametrize("name", ["fastem", *MODULES])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files
    module = importlib.import_module(name)
    with np.printoptions(legacy=False):
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {name} failed"


def test_public_names_have_an_example():
    public = {name: getattr(fastem, name) for name in fastem.__all__}
    backend = {f"backend.{name}": getattr(fastem.backend, name) for name in fastem.backend.__all__}
    for name, value in (public | backend).items():
        record = isinstance(value, type) and issubclass(value, tuple | Exception)
        if callable(value) and not record and name != "load":  # shown with `save`
            assert ">>>" in (inspect.getdoc(value) or ""), name
