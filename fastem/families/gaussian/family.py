"""The Gaussian family: what is common to all covariance models."""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np

from fastem.draws import Draws
from fastem.families.base import Groups, Labelled, Limits, MStep, Runs, SmallRun
from fastem.families.elliptical import coordinates, runs
from fastem.families.elliptical.covariance import LETTERS, SHAPES
from fastem.families.elliptical.family import LOST, EllipticalFamily
from fastem.families.elliptical.records import GaussianParams, prepared_means, updated_means
from fastem.records import Layout

__all__ = ["COVARIANCE_TYPES", "FIXABLE", "LETTERS", "LOST", "SHAPES", "GaussianFamily"]

COVARIANCE_TYPES = (*SHAPES, *LETTERS)
FIXABLE = ("weights", "means", "covariances")


class GaussianFamily(EllipticalFamily):
    """A mixture of `n_components` Gaussians.

    Parameters
    ----------
    n_components : int
        Number of components k.
    covariance_type : str
        "full", "tied", "diag", "spherical" (each its own matrix, one shared matrix, each its own variances, each one
        variance), or the letters of a model in `elliptical.covariance`.
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
    runs_are_compiled = True
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
        other.shape = other.kernels = missing_values(self.shape)
        return other

    def layout(self, n_features: int) -> Layout:
        return self.kernels.layout(self.n_parts, n_features)

    def constants(self, source: Any) -> Any:
        return self.shape.constants(source)

    def prepare(self, params: GaussianParams, dtype: np.dtype, previous: Any = None) -> Any:
        return self.shape.prepare(params, dtype)

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
        covariances = self.shape.covariances_from_stats(stats, constants, prepared, params.covariances)
        if "means" in self.fixed:
            covariances = covariances + self.shape.spread(stats.counts, means - params.means)
            means = params.means
        covariances = self.shape.add_to_diagonal(covariances, self.reg_covar, covariances)
        return self.with_covariances(weights, means, covariances, stats.counts, params.covariances)

    def run_small(
        self, X: np.ndarray, w: np.ndarray, constants: Any, params: GaussianParams, limits: Limits
    ) -> SmallRun | None:
        if not self.runs_groups(X.shape[1]):
            return None
        vectors = runs.Vectors(self.shape, 1, *params.means.shape)
        for ours, theirs in zip(vectors.params, params, strict=True):
            ours[0] = theirs
        groups = Groups(X, w, np.array([0, len(X)]))
        moments = np.empty((1, 0)) if constants is None else np.append(constants.centre, constants.scatter)[None]
        found = runs.run(self.shape, self.reg_covar, groups, None, moments, vectors, limits, keep=True)
        n_iter = int(found.n_iter[0])
        if not n_iter:
            return None
        arrived = GaussianParams(*[field[0].copy() for field in vectors.params])
        objectives = found.objectives[0, :n_iter].copy()
        return SmallRun(arrived, float(found.objective[0]), objectives, n_iter, bool(found.converged[0]), None)

    def constants_of_groups(self, groups: Groups) -> np.ndarray:
        return self.shape.constants_of_groups(groups)

    def run_groups(
        self, groups: Groups, start: Labelled, constants: np.ndarray, limits: Limits, *, keep: bool = False
    ) -> tuple[GaussianParams, Runs]:
        vectors = runs.Vectors(self.shape, groups.n_groups, *start.centers.shape[1:])
        found = runs.run(self.shape, self.reg_covar, groups, start, constants, vectors, limits, keep=keep)
        return vectors.params, found

    def expect_groups(self, groups: Groups, params: GaussianParams, found: np.ndarray, **outputs: np.ndarray) -> None:
        vectors = runs.Vectors(self.shape, *params.means.shape)
        for ours, theirs in zip(vectors.params, params, strict=True):
            ours[:] = theirs
        runs.expect(self.shape, groups, vectors, found, self.no_outputs()._replace(**outputs))

    def runs_groups(self, n_features: int) -> bool:
        plain = type(self) is GaussianFamily and self.assignment == "soft" and not self.fixed and not self.rescue
        known = self.shape is self.covariance.shape and self.covariance.constraint is None
        return plain and known and runs.possible(self.shape, n_features, self.n_components)

    def with_covariances(
        self,
        weights: np.ndarray,
        means: np.ndarray,
        covariances: np.ndarray,
        counts: np.ndarray | None = None,
        previous: np.ndarray | None = None,
    ) -> MStep:
        """Complete the parameters by the precisions' Cholesky factors; a singular covariance is made regular.

        What components have in common is found for so many rows of each (`weights` if not given), beginning at the
        `previous` covariances.
        """
        rule = self.covariance.constraint

        def constrained(own: np.ndarray) -> np.ndarray:
            assert rule is not None
            return rule(weights if counts is None else counts, own, own if previous is None else previous)

        regular, factors, notes = self.regular(weights, covariances, constrained if rule else None)
        return MStep(GaussianParams(weights, means, regular, factors), tuple(notes))

    def vacant(self, stats: Any, prepared: Any) -> np.ndarray:
        if not self.rescue:
            return np.empty(0, np.int64)
        weights = stats.counts / stats.counts.sum()
        d = prepared.means.shape[1]
        factors = prepared.precisions_cholesky.astype(np.float64)
        factors = factors[:, :d, :d] if factors.ndim == 3 else factors
        floor = self.reg_covar
        if not floor and self.covariance.own_volumes:  # as little as was added where a covariance was singular
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
                fields["scatter"][c] = share * (self._mean_covariance(stats, kept) + self.shape.outer(shift))
        return stats._replace(**fields)

    def _mean_covariance(self, stats: Any, kept: np.ndarray) -> np.ndarray:
        """Return the covariance of one component: that of `kept` components (m,) on average."""
        counts = stats.counts[kept]
        within = stats.scatter[kept].sum(axis=0) - sum(
            n * self.shape.outer(s / n) for n, s in zip(counts, stats.sums[kept], strict=True) if n > 0
        )
        return np.asarray(within / counts.sum())

    def expected_log_likelihood(self, stats: Any, constants: Any, prepared: Any, params: Any) -> float:
        """Return Q, the expected complete-data log-likelihood of `params` under the responsibilities of the record."""
        return float(self.shape.expected_log_likelihood(stats, constants, prepared, params))

    def constants_of_part(self, source: Any) -> Any:
        return self.kernels.constants_of_part(source)

    def record_for_missing(self, stats: Any) -> Any:
        return self.kernels.record_for_missing(stats)

    def recentre(self, stats: Any, prepared: Any, onto: Any) -> Any:
        return self.kernels.recentred(stats, prepared, onto)

    def shortfall(self, stats: Any, constants: Any, prepared: Any, old: GaussianParams, new: GaussianParams) -> float:
        q = partial(self.expected_log_likelihood, stats, constants, prepared)
        explained = q(old) - q(new)
        # No more than what reg_covar takes from the maximum of Q: a wrong M-step must not explain itself.
        plain = copy.copy(self)
        plain.reg_covar = 0.0
        best = plain.m_step(stats, constants, prepared, old)
        floored = self.m_step(stats, constants, prepared, old)
        if not best.notes:  # none: the covariances are regular without it
            explained = min(explained, q(best.params) - q(floored.params))
        # Where a component is flat but for what was added, or data lie far from zero beside their spread, the rounding
        # of a row's log-density is larger than the fall.
        return max(0.0, explained / float(stats.counts.sum())) + self._rounding(new, prepared.means.dtype)

    def pack(self, params: GaussianParams, like: GaussianParams) -> np.ndarray:
        return coordinates.pack(params, like, self.covariance.shape)

    def unpack(self, vector: np.ndarray, like: GaussianParams) -> GaussianParams | None:
        found = coordinates.unpack(vector, like, self.covariance.shape)
        if found is None:
            return None
        params = GaussianParams(*found)
        if self.covariance.constraint:  # coordinates are those of the shape
            params = self.with_covariances(*params[:3], previous=like.covariances).params
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
        return np.asarray(self.shape.conditional_mean(X, prepared, n_threads))

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
            X[y == c] = self.shape.sample(params, c, X[y == c])
        return X, y

    def n_free_params(self, n_features: int) -> int:
        k, d = self.n_components, n_features
        free = {"weights": k - 1, "means": k * d, "covariances": self.covariance.n_parameters(k, d)}
        return sum(count for name, count in free.items() if name not in self.fixed)
