"""The Gaussian family: what is common to the four covariance types."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import numpy as np

from fastem.draws import Draws
from fastem.families.base import MStep
from fastem.families.elliptical import coordinates
from fastem.families.elliptical.family import COVARIANCE_TYPES, LOST, EllipticalFamily
from fastem.families.elliptical.records import GaussianParams, prepared_means, updated_means
from fastem.records import Layout

__all__ = ["COVARIANCE_TYPES", "FIXABLE", "LOST", "GaussianFamily"]

FIXABLE = ("weights", "means", "covariances")


class GaussianFamily(EllipticalFamily):
    """A mixture of `n_components` Gaussians.

    Parameters
    ----------
    n_components : int
        Number of components k.
    covariance_type : {"full", "tied", "diag", "spherical"}
        Each its own matrix, one shared matrix, each its own variances, each one variance.
    reg_covar : float
        Added to the variances in the M-step.
    fixed : collection of {"weights", "means", "covariances"}
        What keeps the values that a run begins with; the M-step maximises over the rest.
    assignment : {"soft", "hard"}
        Responsibilities, or all of a row to its most probable component (classification EM): the objective is then the
        mean of max_k log p(x, z = k).  Equal fixed weights and one fixed sigma^2 I make it k-means (lecture row L11).
    rescue : bool
        Whether collapsed components are moved to the worst explained rows.

    References
    ----------
    Celeux and Govaert, "A classification EM algorithm for clustering and two stochastic versions", CSDA 14, 1992.
    """

    name = "gaussian"
    params: type[Any] = GaussianParams
    allow_nan = True
    may_fall = True
    max_refills = 5

    def __init__(
        self,
        n_components: int,
        covariance_type: str = "full",
        reg_covar: float = 1e-6,
        fixed: Collection[str] = (),
        assignment: str = "soft",
        rescue: bool = False,
    ) -> None:
        super().__init__(n_components, covariance_type, reg_covar)
        self.fixed = frozenset(fixed)
        self.assignment = assignment
        self.rescue = rescue

    def for_missing(self) -> GaussianFamily:
        from fastem.families.elliptical.missing.values import missing_values

        other = copy.copy(self)
        other.type = other.kernels = missing_values(self.covariance_type)
        return other

    def layout(self, n_features: int) -> Layout:
        return self.kernels.layout(self.n_parts, n_features)

    def constants(self, source: Any) -> Any:
        return self.type.constants(source)

    def prepare(self, params: GaussianParams, dtype: np.dtype, previous: Any = None) -> Any:
        return self.type.prepare(params, dtype)

    def assigned(self, X: np.ndarray, labels: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        if self.assignment == "soft":
            return labels
        chosen = self.most_probable(X, self.arguments(prepared), n_threads)
        return np.where(labels >= 0, labels, chosen) if labels.size else chosen

    def m_step(self, stats: Any, constants: Any, prepared: Any, params: GaussianParams) -> MStep:
        weights = params.weights if "weights" in self.fixed else stats.counts / stats.counts.sum()
        means = updated_means(stats, prepared, params.means)
        if "covariances" in self.fixed:
            means = params.means if "means" in self.fixed else means
            return MStep(params._replace(weights=weights, means=means))
        covariances = self.type.covariances_from_stats(stats, constants, prepared, params.covariances)
        if "means" in self.fixed:
            covariances = covariances + self._spread(stats.counts, means - params.means)
            means = params.means
        return self.with_covariances(weights, means, self.type.add_to_diagonal(covariances, self.reg_covar))

    def _spread(self, counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Return what second moments about points that lie off the means by `shift` (k, d) exceed the covariances."""
        if self.covariance_type == "full":
            return shift[:, :, None] * shift[:, None, :]
        if self.covariance_type == "tied":
            return (shift.T * (counts / counts.sum())) @ shift
        squares = np.square(shift)
        return squares.mean(axis=1) if self.covariance_type == "spherical" else squares

    def with_covariances(self, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> MStep:
        """Complete the parameters by the precisions' Cholesky factors; a singular covariance is made regular."""
        regular, factors, notes = self.regular(weights, covariances)
        return MStep(GaussianParams(weights, means, regular, factors), tuple(notes))

    def vacant(self, stats: Any, prepared: Any) -> np.ndarray:
        if not self.rescue:
            return np.empty(0, np.int64)
        weights = stats.counts / stats.counts.sum()
        d = prepared.means.shape[1]
        factors = prepared.precisions_cholesky.astype(np.float64)
        factors = factors[:, :d, :d] if factors.ndim == 3 else factors
        floor = self.reg_covar
        if not floor and self.covariance_type != "tied":  # as little as was added where a covariance was singular
            diagonal = np.diagonal(factors, axis1=1, axis2=2) if factors.ndim == 3 else factors
            floor = 1e-9 / float(diagonal.min()) ** 2
        lost, flat = self.collapsed(weights, factors, floor)
        return np.flatnonzero(lost | flat)

    def refill(self, stats: Any, prepared: Any, vacant: np.ndarray, rows: Any) -> Any:
        """Give each vacant component one of the rows for its mean, an equal share, and the others' mean covariance."""
        kept = np.setdiff1d(np.arange(self.n_components), vacant)
        good = np.flatnonzero(rows.weights > 0)
        total = float(stats.counts.sum())
        if not good.size or stats.counts[kept].sum() <= LOST * total:
            return stats
        middle = stats.counts[kept] @ prepared_means(prepared)[kept] / stats.counts[kept].sum()
        fields = {name: getattr(stats, name).copy() for name in ("counts", "sums", "scatter") if hasattr(stats, name)}
        share = total / self.n_components if "scatter" in fields else float(rows.weights[good].min())
        for c, row in zip(vacant, good, strict=False):
            X = np.where(np.isnan(rows.X[row]), middle, rows.X[row].astype(np.float64))
            shift = X - prepared_means(prepared)[c]
            fields["counts"][c] = share
            fields["sums"][c] = share * shift
            if "scatter" in fields:
                fields["scatter"][c] = share * (self._mean_covariance(stats, kept) + _outer(shift, stats.scatter))
        return stats._replace(**fields)

    def _mean_covariance(self, stats: Any, kept: np.ndarray) -> np.ndarray:
        """Return the covariance of one component: that of `kept` components (m,) on average."""
        counts = stats.counts[kept]
        within = stats.scatter[kept].sum(axis=0) - sum(
            n * _outer(s / n, stats.scatter) for n, s in zip(counts, stats.sums[kept], strict=True) if n > 0
        )
        return np.asarray(within / counts.sum())

    def shortfall(self, stats: Any, constants: Any, prepared: Any, old: GaussianParams, new: GaussianParams) -> float:
        def q(params: GaussianParams) -> float:
            return float(self.type.expected_log_likelihood(stats, constants, prepared, params))

        explained = q(old) - q(new)
        # No more than what reg_covar takes from the maximum of Q: a wrong M-step must not explain itself.
        plain = copy.copy(self)
        plain.reg_covar = 0.0
        best = plain.m_step(stats, constants, prepared, old)
        floored = self.m_step(stats, constants, prepared, old)
        if not best.notes:  # none: the covariances are regular without it
            explained = min(explained, q(best.params) - q(floored.params))
        rounded = self._rounding(prepared, new) if best.notes or floored.notes else 0.0
        return max(0.0, explained / float(stats.counts.sum())) + rounded

    def _rounding(self, prepared: Any, params: GaussianParams) -> float:
        """Return the rounding of a row's log-density where a component is flat but for what was added.

        About how much larger the mean variance is than the least in any direction, times the rows' epsilon, for each
        of the terms of a squared distance, with a factor of safety.
        """
        factors = params.precisions_cholesky
        condition = float(np.abs(factors).max()) ** 2 * float(self.type.mean_variance(params.covariances))
        return 4 * params.means.shape[1] * condition * float(np.finfo(prepared.means.dtype).eps)

    def pack(self, params: GaussianParams, like: GaussianParams) -> np.ndarray:
        return coordinates.pack(params, like, self.covariance_type)

    def unpack(self, vector: np.ndarray, like: GaussianParams) -> GaussianParams | None:
        found = coordinates.unpack(vector, like, self.covariance_type)
        if found is None:
            return None
        params = GaussianParams(*found)
        if not self.fixed:
            return params
        kept = {name: getattr(like, name) for name in self.fixed}
        if "covariances" in self.fixed:
            kept["precisions_cholesky"] = like.precisions_cholesky
        return params._replace(**kept)  # to the bit

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: Any, stats: np.ndarray) -> None:
        """Add one cell's statistics for given responsibilities (m, k): the M-step's input for any q."""
        self.kernels.add_q_stats(X, w, resp, prepared, stats)

    def conditional_mean(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        """Return rows (n, d) with the missing values at their means given the rest; of `for_missing` families."""
        return np.asarray(self.type.conditional_mean(X, prepared, n_threads))

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> GaussianParams:
        """Return equal weights, these means (k, d), and the features' variances (d,) for every component."""
        k = len(means)
        covariances = self.common_covariances(k, variances)
        return self.with_covariances(np.full(k, 1.0 / k), np.asarray(means, np.float64), covariances).params

    def example_params(self, n_features: int, draws: Draws) -> GaussianParams:
        return self.with_covariances(*self.example_shapes(n_features, draws)).params

    def sample(self, params: GaussianParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Draw n rows (n, d), ordered by component, and their components (n,)."""
        y = np.sort(draws.weighted(params.weights, n))
        d = params.means.shape[1]
        X = draws.normal(n * d).reshape(n, d)
        for c in np.unique(y):
            X[y == c] = self.type.sample(params, c, X[y == c])
        return X, y

    def n_free_params(self, n_features: int) -> int:
        k, d = self.n_components, n_features
        free = {"weights": k - 1, "means": k * d, "covariances": int(self.type.n_covariance_params(k, d))}
        return sum(count for name, count in free.items() if name not in self.fixed)


def _outer(shift: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """Return second moments of one vector (d,) in the shape that a record's scatter has for one component."""
    squares = np.square(shift)
    return np.outer(shift, shift) if scatter.ndim == 3 else squares if scatter.ndim == 2 else squares.sum()
