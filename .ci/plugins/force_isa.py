"""pytest plugin: every test runs on the instruction set that FASTEM_ISA names, unless it chooses one itself."""

import os

import pytest

from fastem._native import nearest


@pytest.fixture(autouse=True)
def forced_isa():
    """Force it for one test."""
    nearest.force_isa(os.environ["FASTEM_ISA"])
    yield
    nearest.force_isa(None)
