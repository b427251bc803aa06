"""How the matrices of an elliptical family are stored, and the kernels and the algebra that go with it.

There are four shapes: `full`, `tied`, `diag` and `spherical`.  What is the same for all components within a shape is a
matter of constraints (`covariance`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastem.families.elliptical.records import (
    GaussianParams,
    Prepared,
    Stats,
    alive,
    common,
    complete_data,
    deviations,
    prepared_means,
    shifts,
)
from fastem.records import Fields, Layout

if TYPE_CHECKING:
    from fastem.jit import Sweep
    from fastem.kernels.wide_pass import WideAccumulation, WideExpectation


class Blocks(NamedTuple):
    """The kernels of a block of rows, of which other densities make their passes; see `kernels.cell_pass`."""

    log_joint: Any
    moments: Any
    room: Any
    view: Any


class Shape(ABC):
    """One way to store the matrices of k components of d features.

    Covariances, precisions and their Cholesky factors are arrays of the same shape, `array_shape`.  A factor is upper
    triangular P with precision P P', or 1 / sigma.
    """

    name: str
    fields: Fields  # of the record, of the sizes k and d
    blocks: Blocks
    accumulate: Sweep | WideAccumulation
    expect: Sweep | WideExpectation
    shared = False  # one matrix for all components
    matrices: bool  # features may depend on each other

    @property
    def wide(self) -> Shape:
        """The shape in which each component has a matrix (k, d, d), or variances (k, d), of its own."""
        return self

    @abstractmethod
    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of the covariances."""

    # --- passes

    def layout(self, n_components: int, n_features: int) -> Layout:
        """Return the shape of the additive record."""
        return self.fields.layout(n_components, n_features)

    def constants(self, source: Any) -> Any:
        """Return what about the data is constant: nothing."""
        return None

    def constants_of_part(self, source: Any) -> Any:
        """Return what `expected_log_likelihood` needs to know of some of the rows: nothing."""
        return None

    def record_for_missing(self, stats: Any) -> Any:
        """Return a record as that of rows with missing values (`missing.values`) has it."""
        return stats

    def constants_of_groups(self, groups: Any) -> np.ndarray:
        """Return the constants of each group of rows (G, m), as compiled code takes them: m is 0."""
        return np.empty((groups.n_groups, 0))

    @abstractmethod
    def prepare(self, params: GaussianParams, dtype: np.dtype) -> Any:
        """Round the parameters to the rows' dtype, relative to the mean of the means."""

    def with_box(self, prepared: Any, component: int, box: np.ndarray) -> Any:
        """Return the prepared parameters with what else the kernels must know of a uniform component: nothing."""
        return prepared

    def add_q_stats(self, X: np.ndarray, w: np.ndarray, resp: np.ndarray, prepared: Any, stats: np.ndarray) -> None:
        """Add the statistics of one cell for given responsibilities (n, k) to the record; its log-likelihood stays."""
        record = self.layout(*prepared.means.shape).view(stats)
        weighted = resp * w[:, None] if w.size else resp
        rows = X.astype(np.float64) - prepared.origin
        record.counts[:] += weighted.sum(axis=0)
        for c, mean in enumerate(prepared.means):
            self._add_given(record, c, weighted[:, c], rows - mean)

    @abstractmethod
    def _add_given(self, record: Any, c: int, weights: np.ndarray, centred: np.ndarray) -> None:
        """Add centred rows (n, d) of weights (n,) to component c of a record."""

    def recentred(self, stats: Any, prepared: Any, onto: Any) -> Any:
        """Return a record with moments about the means of another E-step (see `Family.recentre`)."""
        deviation = deviations(prepared, onto)
        sums = stats.sums + stats.counts[:, None] * deviation
        return stats._replace(sums=sums, scatter=self.scatter_about(stats, deviation))

    # --- the M-step

    @abstractmethod
    def scatter_about(self, stats: Any, deviation: np.ndarray) -> np.ndarray:
        """Return the scatter about points that lie off those of the record by minus `deviation` (k, d)."""

    @abstractmethod
    def covariances_from_stats(self, stats: Any, constants: Any, prepared: Any, previous: np.ndarray) -> np.ndarray:
        """Return the M-step's covariances without regularisation, in a new array.

        A dead component keeps its previous one.
        """

    @abstractmethod
    def expected_log_likelihood(self, stats: Any, constants: Any, prepared: Any, params: GaussianParams) -> float:
        """Return Q, the expected complete-data log-likelihood of `params` under the responsibilities of the record."""

    @abstractmethod
    def spread(self, counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Return what second moments about points that lie off the means by `shift` (k, d) exceed the covariances."""

    @abstractmethod
    def outer(self, shift: np.ndarray) -> np.ndarray:
        """Return second moments of one vector (d,), in the shape that a record's scatter has for one component."""

    # --- algebra

    @abstractmethod
    def precisions_cholesky(self, covariances: np.ndarray) -> np.ndarray:
        """Return the Cholesky factors of the precisions.

        Raises
        ------
        numpy.linalg.LinAlgError
            When a covariance is not positive definite, or not to rounding.
        """

    @abstractmethod
    def of_precisions(self, precisions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the covariances of precisions, and the Cholesky factors of the precisions.

        Raises
        ------
        numpy.linalg.LinAlgError
            When a precision is not positive definite, or not to rounding.
        """

    def below(self, precisions_cholesky: np.ndarray, limit: float) -> bool:
        """Tell whether all numbers of the precisions' Cholesky factors are smaller than a limit."""
        return bool(max(precisions_cholesky.max(), -precisions_cholesky.min()) < limit)

    @abstractmethod
    def log_det(self, precisions_cholesky: np.ndarray, n_features: int) -> np.ndarray:
        """Return the log-determinants of the precisions' Cholesky factors, (k,) or ()."""

    @abstractmethod
    def add_to_diagonal(self, covariances: np.ndarray, value: float, before: np.ndarray | None = None) -> np.ndarray:
        """Return the covariances with `value` added to every variance.

        `before` is where they are left: what another value gave, or the covariances themselves.
        """

    @abstractmethod
    def mean_variance(self, covariances: np.ndarray) -> float:
        """Return the mean of all variances."""

    @abstractmethod
    def inverted(self, matrices: np.ndarray) -> np.ndarray:
        """Return precisions of covariances, or covariances of precisions."""

    @abstractmethod
    def precisions(self, precisions_cholesky: np.ndarray) -> np.ndarray:
        """Return the precisions of their Cholesky factors."""

    @abstractmethod
    def block(self, covariances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the covariances between two sets of features; of one set with itself where they are independent."""

    @abstractmethod
    def sample(self, params: Any, component: int, normals: np.ndarray) -> np.ndarray:
        """Turn standard normals (m, d) into draws from a component."""

    # --- other shapes

    def widened(self, matrices: np.ndarray, n_components: int, n_features: int) -> np.ndarray:
        """Show matrices of this shape as those of the wide one."""
        return matrices

    def narrowed(self, counts: np.ndarray, matrices: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Return the covariances of this shape that scatters of the wide one have; `previous`, copied, if none."""
        return matrices

    @abstractmethod
    def as_matrices(self, stored: np.ndarray, n_components: int, n_features: int) -> np.ndarray:
        """Show covariances or precisions as matrices (k, d, d)."""

    @abstractmethod
    def of_matrices(self, matrices: np.ndarray) -> np.ndarray:
        """Return plausible covariances of this shape, made of matrices (k, d, d)."""

    @abstractmethod
    def of_variances(self, n_components: int, variances: np.ndarray) -> np.ndarray:
        """Return covariances of components that all have the features' variances (d,)."""

    # --- coordinates (see `coordinates`)

    def stacked(self, factors: np.ndarray) -> np.ndarray:
        """Show factors as matrices (k, d, d) or (1, d, d), or as rows (k, d) or (k, 1)."""
        return factors

    def information(self, weights: np.ndarray, present: np.ndarray, n_features: int) -> np.ndarray:
        """Return how many rows' worth of information each covariance has, (k,) or (1,).

        Of weights (k,), and of the same with 1 where there is none.
        """
        return present


class Matrices(Shape):
    """Symmetric matrices."""

    matrices = True

    def add_to_diagonal(self, covariances: np.ndarray, value: float, before: np.ndarray | None = None) -> np.ndarray:
        raised = covariances.copy() if before is None else before
        np.add(np.diagonal(covariances, axis1=-2, axis2=-1), value, out=np.einsum("...ii->...i", raised))
        return raised

    def mean_variance(self, covariances: np.ndarray) -> float:
        return float(np.diagonal(covariances, axis1=-2, axis2=-1).mean())

    def inverted(self, matrices: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(matrices)
        return 0.5 * (inverse + np.swapaxes(inverse, -1, -2))

    def precisions(self, precisions_cholesky: np.ndarray) -> np.ndarray:
        return precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2)

    def block(self, covariances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return covariances[..., rows[:, None], columns]

    def outer(self, shift: np.ndarray) -> np.ndarray:
        return np.outer(shift, shift)

    def sample(self, params: Any, component: int, normals: np.ndarray) -> np.ndarray:
        from scipy.linalg import solve_triangular

        factor = self.stacked(params.precisions_cholesky)[0 if self.shared else component]
        return params.means[component] + solve_triangular(factor, normals.T, trans="T").T


class Variances(Shape):
    """Variances of independent features."""

    matrices = False

    def prepare(self, params: GaussianParams, dtype: np.dtype) -> Prepared:
        factors = params.precisions_cholesky
        return Prepared(
            precisions_cholesky=np.ascontiguousarray(factors, dtype),
            **common(params, self.log_det(factors, params.means.shape[1]), dtype),
        )

    def covariances_from_stats(
        self, stats: Stats, constants: None, prepared: Prepared, previous: np.ndarray
    ) -> np.ndarray:
        counts = np.where(alive(stats), stats.counts, np.inf)
        variances = self._variances(stats.scatter, counts, shifts(stats))
        some = alive(stats)
        return np.where(some if variances.ndim == 1 else some[:, None], np.maximum(variances, 0.0), previous)

    @abstractmethod
    def _variances(self, scatter: np.ndarray, counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Return scatter over counts (k,), about means that lie off by `shift` (k, d)."""

    def expected_log_likelihood(
        self, stats: Stats, constants: None, prepared: Prepared, params: GaussianParams
    ) -> float:
        deviation = prepared_means(prepared) - params.means  # the record is centred on prepared's means
        quadratic = float(np.sum(self.scatter_about(stats, deviation) * params.precisions_cholesky**2))
        log_det = self.log_det(params.precisions_cholesky, params.means.shape[1])
        return complete_data(stats.counts, params, log_det, quadratic)

    def precisions_cholesky(self, covariances: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1.0 / np.sqrt(covariances)
        if not np.all(np.isfinite(inverse) & (inverse > 0)):
            raise np.linalg.LinAlgError("a variance is not positive")
        return np.asarray(inverse)

    def of_precisions(self, precisions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        covariances = self.inverted(precisions)
        return covariances, self.precisions_cholesky(covariances)

    def add_to_diagonal(self, covariances: np.ndarray, value: float, before: np.ndarray | None = None) -> np.ndarray:
        return np.add(covariances, value, out=before)

    def mean_variance(self, covariances: np.ndarray) -> float:
        return float(covariances.mean())

    def inverted(self, matrices: np.ndarray) -> np.ndarray:
        return 1.0 / matrices

    def precisions(self, precisions_cholesky: np.ndarray) -> np.ndarray:
        return np.square(precisions_cholesky)

    def sample(self, params: Any, component: int, normals: np.ndarray) -> np.ndarray:
        drawn: np.ndarray = params.means[component] + normals / params.precisions_cholesky[component]
        return drawn
