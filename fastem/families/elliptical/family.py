"""The base of families with a centre and a positive definite matrix for each component."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastem.draws import Draws
from fastem.families.base import Family
from fastem.families.data_moments import TotalScatter
from fastem.families.degenerate import flat
from fastem.families.elliptical.covariance import COVARIANCES

# A component with a smaller share of the rows than this has lost them.
LOST = 1e-12

Constrained = Callable[[np.ndarray], np.ndarray]
# Factor of a precision from which a covariance counts as singular: float32, which kernels may need it in, holds no
# larger one.
STEEPEST = 1e37


class EllipticalFamily(Family):
    """A mixture of `n_components` densities, each constant on ellipsoids about its centre.

    Parameters
    ----------
    n_components : int
        Number of components k.
    covariance_type : str
        A key of `covariance.COVARIANCES`.
    reg_covar : float
        Added to the variances in the M-step.

    Attributes
    ----------
    covariance : Covariance
        How matrices are stored, and what components have in common.
    shape : Shape
        Algebra of the matrices; for rows with missing values `missing.values.MissingValues`, which stands for one.
    kernels : object
        Kernels of the E-step: a shape, or another namespace with ``accumulate`` and ``expect``.
    """

    constants_record: type[Any] | None = TotalScatter

    def __init__(self, n_components: int, covariance_type: str = "full", reg_covar: float = 1e-6) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.covariance = COVARIANCES[covariance_type]
        self.shape: Any = self.covariance.shape
        self.kernels: Any = self.shape

    def accumulator(self, n_features: int) -> Any:
        return self.kernels.accumulate

    def expectation(self, n_features: int) -> Any:
        return self.kernels.expect

    def pooled_constants(self, first: Any, second: Any, keep: float, share: float) -> Any:
        return None if first is None else first.pooled(second, keep, share)

    def regular(
        self, weights: np.ndarray, covariances: np.ndarray, constrained: Constrained | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return covariances, the precisions' Cholesky factors and notes; a singular covariance is made regular.

        A ridge of 1e-10, 1e-9, ... of the mean variance (or of 1, if that is 0) is added to all components until the
        factors exist, and noted.  `constrained` is applied to what results.
        """
        ridge, scale = 0.0, float(self.shape.mean_variance(covariances))
        if not math.isfinite(scale):
            _refuse_infinite(covariances)
        scale = scale if scale * STEEPEST**2 > 1 else 1.0
        raised = None
        while True:
            try:
                if ridge:
                    raised = self.shape.add_to_diagonal(covariances, ridge, raised)
                regular = covariances if raised is None else raised
                regular = constrained(regular) if constrained else regular
                factors = self.shape.precisions_cholesky(regular)
                if not self.shape.below(factors, STEEPEST):
                    raise np.linalg.LinAlgError
                break
            except np.linalg.LinAlgError:
                _refuse_infinite(covariances)  # which no ridge would make regular
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
        if not self.covariance.own_volumes or not floor:
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
        if not self.covariance.own_volumes:
            return np.zeros(self.n_components, bool)
        d = params.means.shape[1]
        lost = params.weights * n_rows < self.covariance.least_rows(d)
        wide = self.covariance.shape.widened(self._matrices(params), *params.means.shape)
        return lost | flat(params.weights, params.means, wide, self.reg_covar)

    def expected_rounding(self, stats: Any, prepared: Any, params: Any) -> float:
        # Records are of float64; without correlations no term cancels another.
        return self._rounding(params, np.dtype(np.float64)) if self.shape.matrices else 0.0

    def _rounding(self, params: Any, dtype: np.dtype) -> float:
        """Return the rounding of a row's squared distance.

        About how much larger the mean variance is than the least in any direction, and how many of the least deviations
        the means lie from zero, which is what a difference loses; times the epsilon, for each of its terms, with a
        factor of safety.
        """
        variance = float(self.shape.mean_variance(self._matrices(params)))
        steepest = float(np.abs(params.precisions_cholesky).max())
        lost = steepest**2 * variance + steepest * float(np.abs(params.means).max())
        return 64 * params.means.shape[1] * lost * float(np.finfo(dtype).eps)

    def _matrices(self, params: Any) -> np.ndarray:
        """Return covariances, or the scales in their place."""
        matrices = getattr(params, "covariances", None)
        return np.asarray(params.scales if matrices is None else matrices)

    def common_covariances(self, k: int, variances: np.ndarray) -> np.ndarray:
        """Return covariances of k components that all have the features' variances (d,), none of them 0."""
        variances = np.maximum(variances, self.reg_covar or np.finfo(np.float64).tiny)
        variances[variances < 1e-12 * variances.max()] = variances.max()  # a constant feature must not be singular
        return self.covariance.shape.of_variances(k, variances)

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        k, shape = self.n_components, self.covariance_shape(n_features)
        matrices = {"covariances", "scales", "precisions_cholesky"}.intersection(self.params._fields)
        return {"weights": (k,), "means": (k, n_features), **dict.fromkeys(matrices, shape)}

    def covariance_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of `covariances`."""
        return self.covariance.shape.array_shape(self.n_components, n_features)

    def example_shapes(self, n_features: int, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return plausible random weights (k,), means (k, d) and covariances."""
        k, d = self.n_components, n_features
        means = 6.0 * draws.normal(k * d).reshape(k, d)
        mixing = np.eye(d) + 0.5 * draws.normal(k * d * d).reshape(k, d, d) / np.sqrt(d)
        full = mixing @ np.swapaxes(mixing, 1, 2)
        weights = 1.0 + draws.uniform(k)
        return weights / weights.sum(), means, self.covariance.shape.of_matrices(full)


def _refuse_infinite(covariances: np.ndarray) -> None:
    if not np.isfinite(covariances).all():
        raise ValueError(
            "A covariance is not finite: squares of the values in X overflow. Values of this size are often fill "
            "values for missing data; replace them by NaN, or scale X."
        )
