"""Kernels made of LLVM's instructions, each beside Python that does the same."""

# Numba's settings have no annotations.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config
from numba.extending import intrinsic


def instruction(python: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorate code generation, as `numba.extending.intrinsic` does; where kernels are Python, give `python` instead.

    Parameters
    ----------
    python : function
        Does the same, slowly: what a debugger shows (NUMBA_DISABLE_JIT=1), and what tests compare with.
    """

    def decorate(generate: Callable[..., Any]) -> Any:
        if config.DISABLE_JIT:
            return python
        made: Any = intrinsic(generate)
        return made

    return decorate
