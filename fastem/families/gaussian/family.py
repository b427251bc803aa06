"""The Gaussian family: what is common to the four covariance types."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Collection
from typing import Any

import numpy as np

from fastem import threads
from fastem.draws import Draws
from fastem.families.base import Family, MStep, State
from fastem.families.cells import Expected
from fastem.families.gaussian import packing
from fastem.families.gaussian.records import GaussianParams, prepared_means, updated_means
from fastem.stats import Layout

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
FIXABLE = ("weights", "means", "covariances")
# A component with a smaller share of the rows than this has lost them.
LOST = 1e-12


class GaussianFamily(Family):
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
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.fixed = frozenset(fixed)
        self.assignment = assignment
        self.rescue = rescue
        self.type: Any = importlib.import_module(f"fastem.families.gaussian.{covariance_type}")
        self.kernels: Any = self.type  # of the E-step

    @property
    def n_parts(self) -> int:
        """Number of parts of the mixture that a row may belong to."""
        return self.n_components

    def layout(self, n_features: int) -> Layout:
        return self.kernels.layout(self.n_parts, n_features)

    def constants(self, source: Any) -> Any:
        return self.type.constants(source)

    def prepare(self, params: GaussianParams, dtype: np.dtype, previous: Any = None) -> Any:
        return self.type.prepare(params, dtype)

    def accumulate(self, X, w, labels, prepared, stats: np.ndarray) -> None:
        record = np.empty((1, stats.size))
        self.sweep(X, w, labels, prepared, 0, record, 1)
        stats += record[0]

    def sweep(self, X, w, labels, prepared, level, out, n_threads, memo: Any = None) -> None:
        if self.assignment == "hard":  # known labels make a row's responsibilities one-hot
            chosen = self.most_probable(X, prepared, n_threads)
            labels = np.where(labels >= 0, labels, chosen) if labels.size else chosen
        threads.run_sweep(self.kernels.accumulate, (X, w, labels, prepared), level, out, n_threads)

    def objective(self, stats: Any, constants: Any, params: GaussianParams) -> float:
        """Mean log-likelihood of a row: scikit-learn's lower bound."""
        return float(stats.loglik / stats.counts.sum())

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
        """Complete the parameters by the precisions' Cholesky factors; a singular covariance is made regular.

        A ridge of 1e-10, 1e-9, ... of the mean variance (or of 1, if that is 0) is added to all components until the
        factors exist, and noted.
        """
        ridge, scale = 0.0, float(self.type.mean_variance(covariances))
        scale = scale if np.isfinite(scale) and scale > 0 else 1.0
        while True:
            try:
                regular = self.type.add_to_diagonal(covariances, ridge) if ridge else covariances
                factors = self.type.precisions_cholesky(regular)
                break
            except np.linalg.LinAlgError:
                ridge = 10 * ridge if ridge else 1e-10 * scale
        notes = [f"a covariance was singular; {ridge:.3g} was added to the variances"] if ridge else []
        params = GaussianParams(weights, means, regular, factors)
        lost, flat = self._collapsed(weights, factors, max(ridge, self.reg_covar))
        notes += [f"component {c} lost all its rows" for c in np.flatnonzero(lost)]
        notes += [f"component {c} collapsed: a variance is no more than what was added" for c in np.flatnonzero(flat)]
        return MStep(params, tuple(notes))

    def _collapsed(self, weights: np.ndarray, factors: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
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
        lost, flat = self._collapsed(weights, factors, floor)
        return np.flatnonzero(lost | flat)

    def refill(self, stats: Any, prepared: Any, vacant: np.ndarray, rows: Any) -> Any:
        """Give each vacant component one of the rows for its mean, an equal share, and the others' mean covariance."""
        kept = np.setdiff1d(np.arange(self.n_components), vacant)
        good = np.flatnonzero(rows.weights > 0)
        total = float(stats.counts.sum())
        if not good.size or stats.counts[kept].sum() <= LOST * total:
            return stats
        fields = {name: getattr(stats, name).copy() for name in ("counts", "sums", "scatter") if hasattr(stats, name)}
        share = total / self.n_components if "scatter" in fields else float(rows.weights[good].min())
        for c, row in zip(vacant, good, strict=False):
            shift = rows.X[row].astype(np.float64) - prepared_means(prepared)[c]
            fields["counts"][c] = share
            fields["sums"][c] = share * shift
            if "scatter" in fields:
                fields["scatter"][c] = share * (self._mean_covariance(stats, kept) + self._outer(shift))
        return stats._replace(**fields)

    def _mean_covariance(self, stats: Any, kept: np.ndarray) -> np.ndarray:
        """Return the covariance of one component: that of `kept` components (m,) on average."""
        counts = stats.counts[kept]
        within = stats.scatter[kept].sum(axis=0) - sum(
            n * self._outer(s / n) for n, s in zip(counts, stats.sums[kept], strict=True) if n > 0
        )
        return np.asarray(within / counts.sum())

    def _outer(self, shift: np.ndarray) -> np.ndarray:
        """Return second moments of one vector (d,) in the shape that the record of one component has."""
        squares = np.square(shift)
        return {"full": np.outer(shift, shift), "diag": squares, "spherical": squares.sum()}[self.covariance_type]

    def shortfall(self, stats: Any, constants: Any, prepared: Any, old: GaussianParams, new: GaussianParams) -> float:
        def q(params: GaussianParams) -> float:
            return float(self.type.expected_log_likelihood(stats, constants, prepared, params))

        explained = q(old) - q(new)
        # No more than what reg_covar takes from the maximum of Q: a wrong M-step must not explain itself.
        plain = copy.copy(self)
        plain.reg_covar = 0.0
        best = plain.m_step(stats, constants, prepared, old)
        if not best.notes:  # none: the covariances are regular without it
            floored = self.m_step(stats, constants, prepared, old)
            explained = min(explained, q(best.params) - q(floored.params))
        return max(0.0, explained / float(stats.counts.sum()))

    def progress(self, before: State, after: State) -> float:
        """Change of the mean log-likelihood since the last iteration."""
        return abs(after.objective - before.objective)

    def pack(self, params: GaussianParams, like: GaussianParams) -> np.ndarray:
        return packing.pack(params, like, self.covariance_type)

    def unpack(self, vector: np.ndarray, like: GaussianParams) -> GaussianParams | None:
        params = packing.unpack(vector, like, self.covariance_type)
        if params is None or not self.fixed:
            return params
        kept = {name: getattr(like, name) for name in self.fixed}
        if "covariances" in self.fixed:
            kept["precisions_cholesky"] = like.precisions_cholesky
        return params._replace(**kept)  # to the bit

    def log_joint(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        out = np.empty((len(X), self.n_parts))
        self.log_joint_into(X, prepared, out, n_threads)
        return out

    def log_joint_into(self, X: np.ndarray, prepared: Any, out: np.ndarray, n_threads: int) -> None:
        """Write log p(x_i, z_i = k) into `out` float64 (n, k)."""
        threads.run_each(self.kernels.log_joint, X, prepared, out, n_threads)

    def posterior(self, X: np.ndarray, prepared: Any, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
        out = self._expect(X, prepared, n_threads, loglik=np.empty(len(X)), resp=np.empty((len(X), self.n_parts)))
        return out.loglik, out.resp

    def log_prob(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        return self._expect(X, prepared, n_threads, loglik=np.empty(len(X))).loglik

    def most_probable(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        return self._expect(X, prepared, n_threads, labels=np.empty(len(X), np.int32)).labels

    def _expect(self, X: np.ndarray, prepared: Any, n_threads: int, **outputs: np.ndarray) -> Expected:
        """Fill the outputs that are asked for by the E-step's own numbers."""
        nothing, k = np.empty(0), self.n_parts
        out = Expected(np.empty((0, k)), nothing, np.empty(0, np.int32), np.empty((0, k)))._replace(**outputs)
        threads.run_each(self.kernels.expect, X, prepared, out, n_threads)
        return out

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: Any, stats: np.ndarray) -> None:
        """Add one cell's statistics for given responsibilities (m, k): the M-step's input for any q."""
        self.kernels.add_q_stats(X, w, resp, prepared, stats)

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> GaussianParams:
        """Return equal weights, these means (k, d), and the features' variances (d,) for every component."""
        k, d = means.shape
        variances = np.maximum(variances, self.reg_covar or np.finfo(np.float64).tiny)
        variances[variances < 1e-12 * variances.max()] = variances.max()  # a constant feature must not be singular
        shape = self.covariance_shape(d)
        covariances = {
            "full": lambda: np.broadcast_to(np.diag(variances), shape).copy(),
            "tied": lambda: np.diag(variances),
            "diag": lambda: np.broadcast_to(variances, shape).copy(),
            "spherical": lambda: np.full(shape, variances.mean()),
        }[self.covariance_type]()
        return self.with_covariances(np.full(k, 1.0 / k), np.asarray(means, np.float64), covariances).params

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

    def example_params(self, n_features: int, draws: Draws) -> GaussianParams:
        k, d = self.n_components, n_features
        means = 6.0 * draws.normal(k * d).reshape(k, d)
        mixing = np.eye(d) + 0.5 * draws.normal(k * d * d).reshape(k, d, d) / np.sqrt(d)
        full = mixing @ np.swapaxes(mixing, 1, 2)
        diagonal = np.einsum("kjj->kj", full)
        covariances = {"full": full, "tied": full[0], "diag": diagonal, "spherical": diagonal.mean(axis=1)}
        weights = 1.0 + draws.uniform(k)
        return self.with_covariances(weights / weights.sum(), means, covariances[self.covariance_type]).params

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
