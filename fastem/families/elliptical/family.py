"""The base of families with a centre and a positive definite matrix for each component."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from fastem.draws import Draws
from fastem.families.base import Family
from fastem.families.degenerate import flat

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
# A component with a smaller share of the rows than this has lost them.
LOST = 1e-12


# Factor of a precision from which a covariance counts as singular: float32, which kernels may need it in, holds no
# larger one.
STEEPEST = 1e37


class EllipticalFamily(Family):
    """A mixture of `n_components` densities, each constant on ellipsoids about its centre.

    Parameters
    ----------
    n_components : int
        Number of components k.
    covariance_type : {"full", "tied", "diag", "spherical"}
        Each its own matrix, one shared matrix, each its own variances, each one variance.
    reg_covar : float
        Added to the variances in the M-step.

    Attributes
    ----------
    type : module
        Algebra of the covariance type.
    kernels : object
        Kernels of the E-step: a module, or another namespace with ``accumulate`` and ``expect``.
    """

    def __init__(self, n_components: int, covariance_type: str = "full", reg_covar: float = 1e-6) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.type: Any = importlib.import_module(f"fastem.families.elliptical.{covariance_type}")
        self.kernels: Any = self.type

    def accumulator(self, n_features: int) -> Any:
        return self.kernels.accumulate

    def expectation(self, n_features: int) -> Any:
        return self.kernels.expect

    def regular(self, weights: np.ndarray, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return covariances, the precisions' Cholesky factors and notes; a singular covariance is made regular.

        A ridge of 1e-10, 1e-9, ... of the mean variance (or of 1, if that is 0) is added to all components until the
        factors exist, and noted.
        """
        ridge, scale = 0.0, float(self.type.mean_variance(covariances))
        scale = scale if scale * STEEPEST**2 > 1 else 1.0
        if not np.isfinite(covariances).all():
            raise ValueError(
                "A covariance is not finite: squares of the values in X overflow. Values of this size are often fill "
                "values for missing data; replace them by NaN, or scale X."
            )
        while True:
            try:
                regular = self.type.add_to_diagonal(covariances, ridge) if ridge else covariances
                factors = self.type.precisions_cholesky(regular)
                if not np.abs(factors).max() < STEEPEST:
                    raise np.linalg.LinAlgError
                break
            except np.linalg.LinAlgError:
                ridge = 10 * ridge if ridge else 1e-10 * scale
        notes = [f"a covariance was singular; {ridge:.3g} was added to the variances"] if ridge else []
        lost, flat = self.collapsed(weights, factors, max(ridge, self.reg_covar))
        notes += [f"component {c} lost all its rows" for c in np.flatnonzero(lost)]
        notes += [f"component {c} collapsed: a variance is no more than what was added" for c in np.flatnonzero(flat)]
        return regular, factors, notes

    def collapsed(self, weights: np.ndarray, factors: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
        """Tell which components lost their rows, and which have no variance of their own in some direction (k,) each.

        Conditional variances, of each feature given those before, are read off the precision's Cholesky factor.
        """
        k = len(weights)
        lost, flat = weights < LOST, np.zeros(k, bool)
        if self.covariance_type == "tied" or not floor:
            return lost, flat
        scales = np.diagonal(factors, axis1=1, axis2=2) if factors.ndim == 3 else factors.reshape(k, -1)
        if 2 * floor * float(scales.max()) ** 2 < 1:  # nearly always
            return lost, flat
        variances = 1.0 / np.square(scales)
        low = variances <= 2 * floor
        usual = weights @ variances / weights.sum()
        # Where all components have no variance, the data have none: no component's fault.
        return lost, np.any(low & (usual > 100 * floor), axis=1) & ~lost

    def degenerate(self, params: Any, n_rows: float) -> np.ndarray:
        if self.covariance_type == "tied":
            return np.zeros(self.n_components, bool)
        d = params.means.shape[1]
        matrices = getattr(params, "covariances", None)
        matrices = params.scales if matrices is None else matrices
        if self.covariance_type == "spherical":
            matrices = np.repeat(matrices[:, None], d, axis=1)
        least = d + 1 if self.covariance_type == "full" else 2  # rows that a regular covariance takes
        lost = params.weights * n_rows < least
        return lost | flat(params.weights, params.means, matrices, self.reg_covar)

    def common_covariances(self, k: int, variances: np.ndarray) -> np.ndarray:
        """Return covariances of k components that all have the features' variances (d,), none of them 0."""
        variances = np.maximum(variances, self.reg_covar or np.finfo(np.float64).tiny)
        variances[variances < 1e-12 * variances.max()] = variances.max()  # a constant feature must not be singular
        shape = self.covariance_shape(len(variances))
        covariances = {
            "full": lambda: np.broadcast_to(np.diag(variances), shape).copy(),
            "tied": lambda: np.diag(variances),
            "diag": lambda: np.broadcast_to(variances, shape).copy(),
            "spherical": lambda: np.full(shape, variances.mean()),
        }
        return covariances[self.covariance_type]()

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        k, shape = self.n_components, self.covariance_shape(n_features)
        matrices = {"covariances", "scales", "precisions_cholesky"}.intersection(self.params._fields)
        return {"weights": (k,), "means": (k, n_features), **dict.fromkeys(matrices, shape)}

    def covariance_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of `covariances`."""
        k, d = self.n_components, n_features
        return {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[self.covariance_type]

    def inverted(self, matrices: np.ndarray) -> np.ndarray:
        """Return precisions of covariances, or covariances of precisions."""
        if self.covariance_type in ("diag", "spherical"):
            return 1.0 / matrices
        inverse = np.linalg.inv(matrices)
        return 0.5 * (inverse + np.swapaxes(inverse, -1, -2))

    def precisions(self, precisions_cholesky: np.ndarray) -> np.ndarray:
        """Return the precisions of their Cholesky factors."""
        if self.covariance_type in ("diag", "spherical"):
            return np.square(precisions_cholesky)
        return precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2)

    def example_shapes(self, n_features: int, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return plausible random weights (k,), means (k, d) and covariances."""
        k, d = self.n_components, n_features
        means = 6.0 * draws.normal(k * d).reshape(k, d)
        mixing = np.eye(d) + 0.5 * draws.normal(k * d * d).reshape(k, d, d) / np.sqrt(d)
        full = mixing @ np.swapaxes(mixing, 1, 2)
        diagonal = np.einsum("kjj->kj", full)
        covariances = {"full": full, "tied": full[0], "diag": diagonal, "spherical": diagonal.mean(axis=1)}
        weights = 1.0 + draws.uniform(k)
        return weights / weights.sum(), means, covariances[self.covariance_type]
