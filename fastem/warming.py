"""Compiling kernels before they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np


def warmup(
    names: str | Iterable[str] = ("full",), dtypes: Iterable[Any] = (np.float64,), n_features: Iterable[int] = (2, 64)
) -> None:
    """Compile the kernels of models, or load them from the cache, before they are timed or served.

    Parameters
    ----------
    names : str or iterable of str
        Which kernels: families such as "gaussian-full", "student-diag", "bernoulli", "poisson", "categorical", "factor"
        and "factor-mixture"; "full", "tied", "diag" and "spherical" are those of Gaussian mixtures.
    dtypes : iterable of dtype
        float64, float32 or both.
    n_features : iterable of int
        Some families have other kernels for many features than for few.

    Raises
    ------
    ValueError
        If a name is neither.

    Examples
    --------
    >>> import fastem
    >>> fastem.warmup(["diag", "bernoulli"])
    """
    from fastem import families
    from fastem.draws import Draws
    from fastem.sources.memory import MemorySource
    from fastem.threads import resolve

    for name in [names] if isinstance(names, str) else names:
        known = f"gaussian-{name}" if f"gaussian-{name}" in families.FAMILIES else name
        family = families.make(known, 1)
        for d, dtype in itertools.product(n_features, map(np.dtype, dtypes)):
            params = family.example_params(d, Draws(0))
            X = family.sample(params, d + 1, Draws(0))[0]  # fewer rows than features are another case
            prepared = family.prepare(params, dtype)
            for n_threads in {1, resolve(None)}:
                source = MemorySource(X.astype(dtype), n_threads=n_threads)
                family.constants(source)
                source.accumulate(family, prepared)
                family.log_joint(source.X, prepared, n_threads)
