"""The families of models, by name.

A new family is one file here and one line in `FAMILIES`; the contract tests (tests/families/test_family_contract.py)
then run over it.  Modules are imported when a family is first asked for, because those with Numba kernels import Numba.

A family of one's own (docs/own_family.md) is made of `Family`, `MStep` and `Layout`, and of `kernel` and `sweep` where
its pass over the rows is compiled.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastem.families.base import Family, MStep
from fastem.records import Layout

if TYPE_CHECKING:
    from fastem.jit import kernel, sweep

__all__ = ["FAMILIES", "Family", "Layout", "MStep", "kernel", "make", "mixes", "sweep"]

# name -> (module, class, options)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "kmeans": ("fastem.families.kmeans", "KMeansFamily", {}),
    "gaussian-full": ("fastem.families.gaussian", "GaussianFamily", {"covariance_type": "full"}),
    "gaussian-tied": ("fastem.families.gaussian", "GaussianFamily", {"covariance_type": "tied"}),
    "gaussian-diag": ("fastem.families.gaussian", "GaussianFamily", {"covariance_type": "diag"}),
    "gaussian-spherical": ("fastem.families.gaussian", "GaussianFamily", {"covariance_type": "spherical"}),
    **{
        f"gaussian-{letters}": ("fastem.families.gaussian", "GaussianFamily", {"covariance_type": letters})
        for letters in ("EII", "EEI", "VEI", "EVI", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV")
    },
    "student-full": ("fastem.families.student", "StudentFamily", {"covariance_type": "full"}),
    "student-diag": ("fastem.families.student", "StudentFamily", {"covariance_type": "diag"}),
    "student-spherical": ("fastem.families.student", "StudentFamily", {"covariance_type": "spherical"}),
    "bernoulli": ("fastem.families.discrete.bernoulli", "BernoulliFamily", {}),
    "poisson": ("fastem.families.discrete.poisson", "PoissonFamily", {}),
    "categorical": ("fastem.families.discrete.categorical", "CategoricalFamily", {"n_categories": 3}),
    "factor": ("fastem.families.factor.single", "FactorFamily", {}),
    "factor-mixture": ("fastem.families.factor.mixture", "FactorMixtureFamily", {}),
}


def mixes(name: str) -> bool:
    """Tell whether a registered family is a mixture; others have one component.

    Examples
    --------
    >>> from fastem import families
    >>> [name for name in families.FAMILIES if not families.mixes(name)]
    ['factor']
    """
    module, class_name, _ = FAMILIES[name]
    return bool(getattr(importlib.import_module(module), class_name).mixes)


def make(name: str, n_components: int, **options: Any) -> Any:
    """Return a new family by its registered name.

    Parameters
    ----------
    name : str
        A key of `FAMILIES`.
    n_components : int
        Number of components.
    **options
        Options of the family's class, over those of the registry.

    Raises
    ------
    ValueError
        If the name is not registered.

    Examples
    --------
    >>> from fastem import families
    >>> families.make("kmeans", 3).name
    'kmeans'
    """
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {name!r}.")
    module, class_name, defaults = FAMILIES[name]
    return getattr(importlib.import_module(module), class_name)(n_components, **{**defaults, **options})


def __getattr__(name: str) -> Any:
    if name in ("kernel", "sweep"):  # Numba is imported when they are first needed
        return getattr(importlib.import_module("fastem.jit"), name)
    raise AttributeError(f"module 'fastem.families' has no attribute {name!r}")
