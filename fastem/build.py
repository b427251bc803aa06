"""What this build of fastem is made of, and compiling kernels before they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def build_info() -> dict[str, Any]:
    """Return compiler, instruction sets, OpenMP and Numba's threading layer.

    Returns
    -------
    dict
        ``version``, the compiled module's ``compiler``, ``openmp``, ``isa`` (in use) and ``available`` (instruction
        sets), and what `fastem.threads` found out about threads.

    Examples
    --------
    >>> import fastem
    >>> {"compiler", "isa", "openmp"} <= set(fastem.build_info())
    True
    """
    from fastem import __version__, threads
    from fastem._native import nearest

    return {"version": __version__, **nearest.build_info(), **threads.info()}


def warmup(covariance_types: Iterable[str] = ("full",), dtypes: Iterable[Any] = (np.float64,)) -> None:
    """Compile the kernels of Gaussian mixtures, or load them from the cache, before they are timed or served.

    Parameters
    ----------
    covariance_types : iterable of {"full", "tied", "diag", "spherical"}
        Which kernels.
    dtypes : iterable of dtype
        float64, float32 or both.

    Examples
    --------
    >>> import fastem
    >>> fastem.warmup(["diag"])
    """
    from fastem.families.gaussian import GaussianFamily
    from fastem.sources.memory import MemorySource
    from fastem.threads import resolve

    X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0]])
    for covariance_type in covariance_types:
        family = GaussianFamily(1, covariance_type)
        params = family.blank_params(X[:1], np.ones(2))
        for dtype in dtypes:
            prepared = family.prepare(params, np.dtype(dtype))
            for n_threads in {1, resolve(None)}:
                source = MemorySource(X.astype(dtype), n_threads=n_threads)
                family.constants(source)
                source.accumulate(family, prepared)
                family.log_joint(source.X, prepared, n_threads)
