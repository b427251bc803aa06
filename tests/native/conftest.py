"""What the tests of the native kernels share."""

import pytest

from fastem._native import nearest


@pytest.fixture(autouse=True)
def best_isa():
    """Leave the machine its own instruction set, whichever a test has chosen."""
    yield
    nearest.force_isa(None)
