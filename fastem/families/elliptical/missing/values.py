r"""Rows with missing values (NaN): the algebra around `passes`, for each shape.

What is missing is integrated out, which is maximum likelihood where values are missing at random (Little and Rubin,
chapter 6).  Spherical goes through the kernels of `diag`.  Tied has its own (`MissingTied`); where rows are
weighed (Student) or a part does not share it (noise), it goes through those of `full`, and the scatters are pooled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem import threads, validate
from fastem.families.data_moments import TotalScatter, complete_scatter
from fastem.families.elliptical.missing.completion import MissingPrepared
from fastem.families.elliptical.missing.passes import MATRICES, VARIANCES, Kernels
from fastem.families.elliptical.records import LOG_2PI, GaussianParams
from fastem.families.elliptical.shape import Shape
from fastem.families.elliptical.tied import SHAPE as TIED
from fastem.records import Fields, Layout


class MissingValues:
    """A shape for rows with missing values; what does not look at rows is that of the plain shape.

    Parameters
    ----------
    plain : Shape
        The shape of the matrices.
    """

    def __init__(self, plain: Shape) -> None:
        self.plain = plain
        self.kernels: Kernels = MATRICES if plain.matrices else VARIANCES
        self.accumulate, self.expect, self._given, self._conditional_mean = self.kernels

    def __getattr__(self, name: str) -> Any:
        if name == "plain":  # while a copy is made
            raise AttributeError(name)
        return getattr(self.plain, name)

    @property
    def fields(self) -> Fields:
        """Fields of the record."""
        return self.plain.wide.fields

    def layout(self, n_components: int, n_features: int) -> Layout:
        """Shape of the additive record."""
        return self.fields.layout(n_components, n_features)

    def constants(self, source: Any) -> Any:
        """Refuse columns without any value.

        Raises
        ------
        ValueError
            With the number of the first such column.
        """

        def cell(X: np.ndarray, rows: slice) -> np.ndarray:
            w = source.weights_of(rows)
            seen = ~np.isnan(X)
            return np.asarray((seen & (w > 0)[:, None] if w.size else seen).sum(axis=0), np.float64)

        validate.refuse_empty(source.fold(cell, source.n_features) == 0)

    def _wide_params(self, params: Any) -> GaussianParams:
        factors = self.plain.widened(params.precisions_cholesky, *params.means.shape)
        return GaussianParams(params.weights, params.means, np.empty(0), factors)  # without covariances, not needed

    def prepare(self, params: GaussianParams, dtype: np.dtype) -> MissingPrepared:
        """Round the parameters to the rows' dtype, relative to the mean of the means; precisions stay float64."""
        wide = self._wide_params(params)
        factors = wide.precisions_cholesky
        precisions = np.square(factors) if factors.ndim == 2 else factors @ np.swapaxes(factors, 1, 2)
        fields = self.plain.wide.prepare(wide, dtype)._asdict()
        return MissingPrepared(**fields, **precision_fields(precisions))

    def with_box(self, prepared: MissingPrepared, component: int, box: np.ndarray) -> MissingPrepared:
        """Give a uniform component precisions, by which the width of a missing feature is taken out of its volume."""
        own, precisions = 2.0 * np.pi / np.square(box[1] - box[0]), prepared.precisions.copy()
        precisions[component] = np.diag(own) if precisions.ndim == 3 else own
        means = prepared.means.copy()
        means[component] = box.mean(axis=0) - prepared.origin
        return prepared._replace(means=means, **precision_fields(precisions))

    def recentred(self, stats: Any, prepared: Any, onto: Any) -> Any:
        """Return a record with moments about the means of another E-step."""
        return self.plain.wide.recentred(stats, prepared, onto)

    def covariances_from_stats(
        self, stats: Any, constants: Any, prepared: MissingPrepared, previous: np.ndarray
    ) -> np.ndarray:
        """Return the M-step's covariances without regularisation; a dead component keeps its previous one."""
        before = self.plain.widened(previous, *stats.sums.shape)
        now: np.ndarray = self.plain.wide.covariances_from_stats(stats, None, prepared, before)
        return self.plain.narrowed(stats.counts, now, previous)

    def add_q_stats(
        self, X: np.ndarray, w: np.ndarray, resp: np.ndarray, prepared: MissingPrepared, stats: np.ndarray
    ) -> None:
        """Add the statistics of one cell for given responsibilities (n, k) to the record; its log-likelihood stays."""
        self._given(np.ascontiguousarray(X), w, np.ascontiguousarray(resp), prepared, stats)

    def conditional_mean(self, X: np.ndarray, prepared: MissingPrepared, n_threads: int) -> np.ndarray:
        """Return the rows (n, d) with each missing value replaced by its mean given the observed ones."""
        out = np.where(np.isnan(X), X.dtype.type(0), X)
        threads.run_each(self._conditional_mean, X, prepared, out, n_threads)
        return out

    def expected_log_likelihood(
        self, stats: Any, constants: Any, prepared: MissingPrepared, params: GaussianParams
    ) -> float:
        """Return Q, the expected complete-data log-likelihood of `params` under the expectations of the record."""
        return float(self.plain.wide.expected_log_likelihood(stats, None, prepared, self._wide_params(params)))


class MissingTied(MissingValues):
    """The same for one shared covariance: the scatter of complete rows is a constant, and whitening is shared."""

    def __init__(self) -> None:
        from fastem.families.elliptical.missing import tied

        super().__init__(TIED)
        self.module = tied
        self.accumulate, self.expect, self._given, _ = tied.KERNELS

    @property
    def fields(self) -> Fields:
        return self.module.FIELDS

    def constants(self, source: Any) -> TotalScatter:
        """Return weight, mean and scatter of the complete rows; refuse columns without any value."""
        super().constants(source)
        return complete_scatter(source)

    def constants_of_part(self, source: Any) -> TotalScatter:
        """Return weight, mean and scatter of the complete rows among some of the rows, which may lack a column."""
        return complete_scatter(source)

    def prepare(self, params: GaussianParams, dtype: np.dtype) -> Any:
        from scipy.linalg import solve_triangular

        factor = np.ascontiguousarray(params.precisions_cholesky)
        fields = self.plain.prepare(params, dtype)._asdict()
        centres = fields["means"].astype(np.float64) @ factor
        inverse = np.ascontiguousarray(solve_triangular(factor, np.eye(len(factor))))
        return self.module.MissingTiedPrepared(**fields, factor=factor, inverse=inverse, centres=centres)

    def recentred(self, stats: Any, prepared: Any, onto: Any) -> Any:
        """Return a record about the means, and in the whitened coordinates, of another E-step."""
        moved = self.plain.recentred(stats, prepared, onto)
        change = prepared.inverse @ onto.factor
        shift = (prepared.origin.astype(np.float64) - onto.origin.astype(np.float64)) @ onto.factor
        first, n = stats.incomplete_sums @ change, stats.incomplete_weight
        cross = np.outer(first, shift)
        second = change.T @ stats.incomplete @ change + (cross + cross.T) + n * np.outer(shift, shift)
        return moved._replace(incomplete=second, incomplete_sums=first + n * shift)

    def total(self, stats: Any, constants: TotalScatter, prepared: Any) -> TotalScatter:
        """Return the expected scatter of all rows about the origin of the E-step."""
        origin = prepared.origin.astype(np.float64)
        shift = constants.centre - origin
        complete = constants.scatter + constants.weight * np.outer(shift, shift)
        return TotalScatter(
            stats.counts.sum(), origin, complete + prepared.inverse.T @ stats.incomplete @ prepared.inverse
        )

    def covariances_from_stats(
        self, stats: Any, constants: TotalScatter, prepared: Any, previous: np.ndarray
    ) -> np.ndarray:
        """Return the M-step's covariance (d, d) without regularisation."""
        return self.plain.covariances_from_stats(stats, self.total(stats, constants, prepared), prepared, previous)

    def conditional_mean(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        k, factor = len(prepared.means), prepared.factor
        precisions = np.repeat((factor @ factor.T)[None], k, axis=0)
        own = {name: getattr(prepared, name) for name in ("origin", "means", "log_weights", "offsets", "negligible")}
        factors = np.repeat(prepared.precisions_cholesky[None], k, axis=0)
        wide = MissingPrepared(precisions_cholesky=factors, **own, **precision_fields(precisions))
        return super().conditional_mean(X, wide, n_threads)

    def expected_log_likelihood(
        self, stats: Any, constants: TotalScatter, prepared: Any, params: GaussianParams
    ) -> float:
        return self.plain.expected_log_likelihood(stats, self.total(stats, constants, prepared), prepared, params)


def missing_values(shape: Shape) -> Any:
    """Return a Gaussian mixture's shape for rows with missing values."""
    return MissingTied() if shape.shared else MissingValues(shape)


def precision_fields(precisions: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fields of `MissingPrepared` that hold precisions (k, d, d), or (k, d)."""
    own = np.diagonal(precisions, axis1=1, axis2=2) if precisions.ndim == 3 else precisions
    return {"precisions": np.ascontiguousarray(precisions), "gains": 0.5 * (LOG_2PI - np.log(own))}
