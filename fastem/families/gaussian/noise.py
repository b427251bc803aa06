"""Gaussian mixtures with a uniform noise component: background rows need not belong to any cluster.

What the noise is, says `uniform_noise`.  For the kernels it is one more component, the last, whose precision is 0.
They know no box, and in a fit need none: rows outside are evaluated once more without noise.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from fastem.draws import Draws
from fastem.families import uniform_noise
from fastem.families.base import MStep
from fastem.families.elliptical.records import GaussianParams, updated_means
from fastem.families.gaussian.family import GaussianFamily
from fastem.families.uniform_noise import FIRST_SHARE
from fastem.kernels.expected import Expected


class NoisyParams(NamedTuple):
    """Parameters of a Gaussian mixture with noise, float64."""

    weights: np.ndarray  # (k,), which add up to one less the weight of the noise
    means: np.ndarray  # (k, d)
    covariances: np.ndarray  # as in GaussianParams
    precisions_cholesky: np.ndarray
    box: np.ndarray  # (2, d): the least and the largest value of each feature

    @property
    def noise(self) -> float:
        """Weight of the noise."""
        return max(0.0, 1.0 - float(self.weights.sum()))


class BoxedPrepared(NamedTuple):
    """Parameters of an E-step and the box of the noise; it has the fields of `inner`, too."""

    inner: Any  # what the kernels take
    box: np.ndarray  # (2, d)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def without_noise(self) -> Any:
        """Return the parameters with which the noise, the last part, has no density."""
        fields = {name: getattr(self.inner, name).copy() for name in ("offsets", "log_weights")}
        for values in fields.values():
            values[-1] = -np.inf
        return self.inner._replace(**fields)


class NoisyGaussianFamily(GaussianFamily):
    """A mixture of `n_components` Gaussians and uniform noise, which is the part number `n_components`.

    Parameters
    ----------
    n_components, covariance_type, reg_covar, assignment
        As for `GaussianFamily`.
    """

    name = "gaussian with noise"
    params: type[Any] = NoisyParams

    def __init__(
        self,
        n_components: int,
        covariance_type: str = "full",
        reg_covar: float = 1e-6,
        assignment: str = "soft",
    ) -> None:
        super().__init__(n_components, covariance_type, reg_covar, assignment=assignment)
        # Noise does not share the covariance of the others, nor does its part of the scatter follow from the total.
        self.kernels = self.shape.wide if self.shape.shared else self.shape

    def for_missing(self) -> NoisyGaussianFamily:
        from fastem.families.elliptical.missing.values import MissingValues

        other = copy.copy(self)
        other.shape, other.kernels = MissingValues(self.shape), MissingValues(self.kernels)
        return other

    @property
    def n_parts(self) -> int:
        return self.n_components + 1

    def constants(self, source: Any) -> np.ndarray:
        return uniform_noise.box_around(source)

    def pooled_constants(self, first: np.ndarray, second: np.ndarray, keep: float, share: float) -> np.ndarray:
        return uniform_noise.box_around_both(first, second)  # a range forgets nothing

    def with_constants(self, params: NoisyParams, constants: np.ndarray) -> NoisyParams:
        return params._replace(box=constants)

    def prepare(self, params: NoisyParams, dtype: np.dtype, previous: Any = None) -> Any:  # type: ignore[override]
        factors = self._factors(params)
        k = self.n_components
        unit = np.eye(factors.shape[-1]) if factors.ndim == 3 else np.ones(factors.shape[1:])
        padded = GaussianParams(
            np.append(params.weights, params.noise),
            np.vstack([params.means, params.means.mean(axis=0)]),
            params.covariances,
            np.concatenate([factors, unit[None]]),
        )
        prepared = self.kernels.prepare(padded, dtype)
        flat, offsets = prepared.precisions_cholesky.copy(), prepared.offsets.copy()
        flat[k] = 0.0
        offsets[k] = prepared.log_weights[k] + uniform_noise.log_density(params.box)
        inner = self.kernels.with_box(prepared._replace(precisions_cholesky=flat, offsets=offsets), k, params.box)
        return BoxedPrepared(inner, params.box)

    def _factors(self, params: NoisyParams) -> np.ndarray:
        """Return a factor for each component."""
        return self._own(params.precisions_cholesky, params.means)

    def _own(self, matrices: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return a matrix for each component."""
        return self.covariance.shape.widened(matrices, *means.shape) if self.covariance.shape.shared else matrices

    def _proper(self, stats: Any, prepared: Any) -> tuple[Any, Any]:
        """Return the record and the prepared parameters without the noise."""
        k = self.n_components
        proper = stats._replace(counts=stats.counts[:k], sums=stats.sums[:k], scatter=stats.scatter[:k])
        return proper, prepared.inner._replace(means=prepared.means[:k])

    def arguments(self, prepared: Any) -> Any:
        return prepared.inner  # no row with weight is outside the box

    def expect(self, X: np.ndarray, prepared: Any, n_threads: int, **outputs: np.ndarray) -> Expected:
        if not isinstance(prepared, BoxedPrepared):
            return super().expect(X, prepared, n_threads, **outputs)
        found = super().expect(X, prepared.inner, n_threads, **outputs)
        outside = uniform_noise.outside(X, prepared.box)
        if outside.size:
            again = {
                name: np.empty((len(outside), *values.shape[1:]), values.dtype) for name, values in outputs.items()
            }
            super().expect(X[outside], prepared.without_noise(), n_threads, **again)
            for name, values in again.items():
                outputs[name][outside] = values
        return found

    def conditional_mean(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        filled = super().conditional_mean(X, prepared.inner, n_threads)
        outside = uniform_noise.outside(X, prepared.box)
        if outside.size:
            filled[outside] = super().conditional_mean(X[outside], prepared.without_noise(), n_threads)
        return filled

    def m_step(self, stats: Any, constants: np.ndarray, prepared: Any, params: NoisyParams) -> MStep:  # type: ignore[override]
        proper, centred = self._proper(stats, prepared)
        before = self._own(params.covariances, params.means)
        covariances = self.kernels.covariances_from_stats(proper, None, centred, before)
        if self.covariance.shape.shared:
            covariances = self.covariance.shape.narrowed(proper.counts, covariances, params.covariances)
        means = updated_means(proper, centred, params.means)
        covariances = self.shape.add_to_diagonal(covariances, self.reg_covar, covariances)
        weights = proper.counts / stats.counts.sum()
        step = self.with_covariances(weights, means, covariances, proper.counts, params.covariances)
        return MStep(NoisyParams(*step.params, constants), step.notes)

    def first_step(self, stats: Any, constants: np.ndarray, prepared: Any, params: NoisyParams) -> NoisyParams:
        first: NoisyParams = self.m_step(stats, constants, prepared, params).params
        return first._replace(weights=first.weights * (1 - FIRST_SHARE))

    def expected_log_likelihood(self, stats: Any, constants: Any, prepared: Any, params: NoisyParams) -> float:
        proper, centred = self._proper(stats, prepared)
        gaussians = GaussianParams(params.weights, params.means, params.covariances, self._factors(params))
        noise = float(stats.counts[-1]) * np.log(params.noise) if stats.counts[-1] > 0 else 0.0
        return float(self.kernels.expected_log_likelihood(proper, None, centred, gaussians) + noise)

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: Any, stats: np.ndarray) -> None:
        """Add one cell's statistics for responsibilities (m, k), of no noise, or (m, k + 1)."""
        missing = self.n_parts - resp.shape[1]
        super().accumulate_given(X, w, np.pad(resp, ((0, 0), (0, missing))), prepared.inner, stats)

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> NoisyParams:  # type: ignore[override]
        blank = super().blank_params(means, variances)
        box = uniform_noise.with_volume(np.array([np.zeros_like(variances), np.sqrt(12.0 * variances)]))
        return NoisyParams(blank.weights * (1 - FIRST_SHARE), *blank[1:], box)

    def sample(self, params: NoisyParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """Draw n rows (n, d), ordered by part, and their parts (n,); that of the noise is `n_components`."""
        y = np.sort(draws.weighted(np.append(params.weights, params.noise), n))
        proper = y < self.n_components
        X = draws.normal(n * params.means.shape[1]).reshape(n, -1)
        for c in np.unique(y[proper]):
            X[y == c] = self.shape.sample(params, c, X[y == c])
        X[~proper] = uniform_noise.sample(params.box, int(np.sum(~proper)), draws)
        return X, y

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        return {**super().shapes(n_features), "box": (2, n_features)}

    def n_free_params(self, n_features: int) -> int:
        return super().n_free_params(n_features) + 1
