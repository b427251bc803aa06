"""What this build of fastem is made of, and compiling kernels before they are needed."""

from __future__ import annotations

from typing import Any


def build_info() -> dict[str, Any]:
    """Return compiler, instruction sets, OpenMP and Numba's threading layer.

    Returns
    -------
    dict
        ``version``, the compiled module's ``compiler``, ``openmp``, ``isa`` (in use) and ``available`` (instruction
        sets), and what `fastem.threads` found out about threads.

    Notes
    -----
    The environment variable ``FASTEM_ISA`` chooses one of the available instruction sets for k-means ("generic",
    "avx2", "avx512"), so that machines that have unlike ones give the same last bits; without it the best is used.

    Examples
    --------
    >>> import fastem
    >>> {"compiler", "isa", "openmp"} <= set(fastem.build_info())
    True
    """
    from fastem import __version__, threads
    from fastem._native import nearest

    return {"version": __version__, **nearest.build_info(), **threads.info()}
