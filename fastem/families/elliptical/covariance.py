"""The models of covariances, by name: a shape, in which they are stored, and what components have in common.

Fourteen models are named by three letters, for volume, shape and axes: E if all components have it in common, V if each
has its own, I for the identity: spheres, or axes along the coordinates (Celeux and Govaert, "Gaussian parsimonious
clustering models", Pattern Recognition 28, 1995; the letters are mclust's).  Four of them have kernels of their own and
are known by a word as well.
"""

from __future__ import annotations

import functools
import importlib
from typing import NamedTuple

from fastem.families.elliptical import constraints
from fastem.families.elliptical.constraints import Constraint
from fastem.families.elliptical.shape import Shape


@functools.cache
def _shape(name: str) -> Shape:
    shape: Shape = importlib.import_module(f"fastem.families.elliptical.{name}").SHAPE
    return shape


class Covariance(NamedTuple):
    """A model of covariances."""

    stored: str  # name of the shape, which is in the module of that name
    letters: str  # of volume, shape and axes
    constraint: Constraint | None = None  # what the shape itself does not say

    @property
    def shape(self) -> Shape:
        """How covariances are stored; its kernels import Numba when it is first asked for."""
        return _shape(self.stored)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Return the number of free parameters of k covariances of d features.

        Examples
        --------
        >>> COVARIANCES["VVV"].n_parameters(3, 2), COVARIANCES["EVE"].n_parameters(3, 2)
        (9, 5)
        """
        k, d = n_components, n_features
        of = {"E": 1, "V": k, "I": 0}
        volume, shape, axes = tuple(self.letters)
        return of[volume] + of[shape] * (d - 1) + of[axes] * (d * (d - 1) // 2)

    @property
    def own_volumes(self) -> bool:
        """Whether a component may shrink to a point by itself, so that the likelihood has no bound."""
        return self.letters[0] == "V"

    def least_rows(self, n_features: int) -> int:
        """Return how many rows of a component its covariance takes to be regular by itself."""
        return n_features + 1 if self.letters[1:] == "VV" else 2


COVARIANCES = {
    "full": Covariance("full", "VVV"),
    "tied": Covariance("tied", "EEE"),
    "diag": Covariance("diag", "VVI"),
    "spherical": Covariance("spherical", "VII"),
    "EII": Covariance("spherical", "EII", constraints.equal),
    "VII": Covariance("spherical", "VII"),
    "EEI": Covariance("diag", "EEI", constraints.equal),
    "VEI": Covariance("diag", "VEI", constraints.equal_shape),
    "EVI": Covariance("diag", "EVI", constraints.equal_volume),
    "VVI": Covariance("diag", "VVI"),
    "EEE": Covariance("tied", "EEE"),
    "VEE": Covariance("full", "VEE", constraints.equal_shape_and_axes),
    "EVE": Covariance("full", "EVE", constraints.along_common_axes(constraints.equal_volume)),
    "VVE": Covariance("full", "VVE", constraints.along_common_axes(constraints.free)),
    "EEV": Covariance("full", "EEV", constraints.along_own_axes(constraints.equal)),
    "VEV": Covariance("full", "VEV", constraints.along_own_axes(constraints.equal_shape)),
    "EVV": Covariance("full", "EVV", constraints.along_own_axes(constraints.equal_volume)),
    "VVV": Covariance("full", "VVV"),
}
# The words, and the fourteen models by their letters.
SHAPES = tuple(name for name in COVARIANCES if name.islower())
LETTERS = tuple(name for name in COVARIANCES if name.isupper())
