"""Gaussian mixtures with noise, of rows with missing values (NaN)."""

from __future__ import annotations

import numpy as np

from fastem.families.elliptical.missing import MissingValues, precision_fields
from fastem.families.elliptical.missing_kernels import MissingPrepared
from fastem.families.gaussian.noise import NoisyGaussianFamily, NoisyParams


class MissingNoisyFamily(NoisyGaussianFamily):
    """A mixture with uniform noise, for rows with missing values; see `NoisyGaussianFamily`."""

    def __init__(
        self, n_components: int, covariance_type: str = "full", reg_covar: float = 1e-6, assignment: str = "soft"
    ) -> None:
        super().__init__(n_components, covariance_type, reg_covar, assignment)
        self.type = MissingValues(covariance_type)
        self.kernels = MissingValues("full") if covariance_type == "tied" else self.type

    def _with_noise(self, prepared: MissingPrepared, params: NoisyParams) -> MissingPrepared:
        """Give the noise precisions, by which the kernels take the width of a missing feature out of its volume."""
        widths = params.box[1] - params.box[0]
        own, precisions = 2.0 * np.pi / np.square(widths), prepared.precisions.copy()
        precisions[self.n_components] = np.diag(own) if precisions.ndim == 3 else own
        means = prepared.means.copy()
        means[self.n_components] = params.box.mean(axis=0) - prepared.origin
        return prepared._replace(means=means, **precision_fields(precisions))
