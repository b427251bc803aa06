r"""Mixtures of multivariate Student-t distributions: clusters with outliers (Peel and McLachlan, 2000).

A row of component k is normal with a precision of its own: u ~ Gamma(nu_k / 2, nu_k / 2) and x given u
~ N(mu_k, Sigma_k / u).  Then x has the density

    p(x given z = k) = Gamma((nu + d) / 2) / Gamma(nu / 2) |nu pi Sigma|^(-1/2) (1 + q / nu)^(-(nu + d) / 2),

with q = (x - mu)' inverse(Sigma) (x - mu), and the E-step knows of u, besides the responsibility r,

    E[u] = (nu + d) / (nu + q),        E[log u] = log E[u] + psi((nu + d) / 2) - log((nu + d) / 2):

rows far away count for less.  It collects, centred on the current means m,

    counts = sum r,   logs = sum r E[log u],   masses = sum r u,
    sums = sum r u (x - m),   scatter = sum r u (x - m)(x - m)'.

The M-step is that of parameter expansion (PX-EM): u has an unknown scale a as well, whose estimate masses / counts is
absorbed by Sigma.  It costs nothing, raises the likelihood as surely, and needs fewer iterations (expectations of u at
other parameters than the last would have to be scaled along: there plain EM's step is made, `PlainStudentFamily`):

    pi = counts / sum(counts),   mu = m + s,   Sigma = scatter / masses - s s' + reg_covar I,   s = sums / masses,
    log(nu / 2) - psi(nu / 2) = log(masses / counts) - logs / counts.

The left side of the last equation falls from infinity to 0, so that it has one solution, and the nearest bound is the
maximum where that lies outside the bounds.

Of a row with missing values (NaN) the q and d are those of what is observed, and what is missing is normal about its
regression on that, as in `elliptical/missing/completion`: it adds r times its conditional covariance to the scatter.

References
----------
Peel and McLachlan, "Robust mixture modelling using the t distribution", Statistics and Computing 10, 2000.
Liu, Rubin and Wu, "Parameter expansion to accelerate EM: the PX-EM algorithm", Biometrika 85, 1998, section 4.
Minka, "Estimating a gamma distribution", 2002 (Newton's method in 1 / a).
"""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln

from fastem.draws import Draws
from fastem.families.base import MStep
from fastem.families.coordinates import measured, present, steps_of
from fastem.families.degrees_of_freedom import LEAST_DOF, MOST_DOF, information, levels_and_means, solve_dofs
from fastem.families.elliptical import coordinates
from fastem.families.elliptical.family import EllipticalFamily
from fastem.families.elliptical.records import LOG_2PI, Stats, alive, updated_means
from fastem.families.elliptical.shape import Shape
from fastem.jit import kernel
from fastem.kernels.cell_pass import Passes, passes
from fastem.kernels.elementary import log, log1p
from fastem.kernels.views import view_of
from fastem.records import Fields, Layout

COVARIANCE_TYPES = ("full", "diag", "spherical")
# Where an estimate begins.
FIRST_DOF = 10.0


class StudentParams(NamedTuple):
    """Parameters of a Student-t mixture, float64."""

    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    scales: np.ndarray  # Sigma: full (k, d, d), diag (k, d), spherical (k,)
    precisions_cholesky: np.ndarray  # of the scales; upper triangular P with inverse P P', or 1 / sigma
    dofs: np.ndarray  # (k,) degrees of freedom


class StudentPrepared(NamedTuple):
    """Parameters of an E-step; what the Gaussian's kernels read is set so that they write -q / 2."""

    origin: np.ndarray  # (d,) in the rows' dtype
    means: np.ndarray  # (k, d) relative to the origin
    log_weights: np.ndarray  # (k,) float64
    precisions_cholesky: np.ndarray  # as the shape stores them
    offsets: np.ndarray  # (k,) float64, zeros
    negligible: np.ndarray  # (k,) float64, zeros: rows that do not matter get the share 0
    least: np.ndarray  # (k,) float64: a smaller share of a row does not matter to the component
    dofs: np.ndarray  # (k,) float64
    levels: np.ndarray  # (k,) float64: logarithm of weight times density at the centre
    log_means: np.ndarray  # (k,) float64: E[log u] - log E[u]


class MissingStudentPrepared(NamedTuple):
    """Parameters of an E-step for rows with missing values; as in `StudentPrepared` and `MissingPrepared`."""

    origin: np.ndarray
    means: np.ndarray
    log_weights: np.ndarray
    precisions_cholesky: np.ndarray
    offsets: np.ndarray
    negligible: np.ndarray
    least: np.ndarray
    dofs: np.ndarray
    levels: np.ndarray  # (k, d + 1) float64: by how many features are observed
    log_means: np.ndarray  # (k, d + 1) float64: the same
    precisions: np.ndarray
    gains: np.ndarray


class StudentStats(NamedTuple):
    """The additive record: what the Gaussian's kernels add up with weights r u, and more."""

    loglik: np.ndarray  # ()
    masses: np.ndarray  # (k,) sum of r u
    sums: np.ndarray  # (k, d)
    scatter: np.ndarray  # as scales
    counts: np.ndarray  # (k,) sum of r
    logs: np.ndarray  # (k,) sum of r E[log u]


def fields_of(shape: Shape) -> Fields[StudentStats]:
    """Return the fields of the record: those of the Gaussian's, and more."""
    _, _, sums, scatter = shape.fields.axes
    return Fields(StudentStats, loglik="", masses="k", sums=sums, scatter=scatter, counts="k", logs="k")


# --- kernels


def _normal(record):
    """Show the part of a record that the Gaussian's kernels and algebra know: its counts are the masses."""
    return Stats(record.loglik, record.masses, record.sums, record.scatter)


normal = kernel(_normal)


@kernel
def heavy_tails(
    rows,
    d,
    prepared,
    log_joint,  # (k, STRIDE) INOUT: -q / 2 becomes the log-density
    best,  # (STRIDE,) OUT
    distances,  # (k, STRIDE) OUT: q
):
    """Turn the Gaussian's exponents into log-densities of Student-t distributions."""
    minus_inf = best.dtype.type(-np.inf)
    limit = best.dtype.type(1e300 if best.itemsize == 8 else 1e36)
    for r in range(rows):
        best[r] = minus_inf
    for c in range(log_joint.shape[0]):
        level = best.dtype.type(prepared.levels[c])
        power = best.dtype.type(0.5 * (prepared.dofs[c] + d))
        inverse = best.dtype.type(1.0 / prepared.dofs[c])
        for r in range(rows):
            q = best.dtype.type(-2) * log_joint[c, r]
            near = q < limit  # neither overflowed nor NaN
            q = q if near else limit
            value = level - power * log1p(q * inverse)
            value = value if near else minus_inf
            distances[c, r] = q
            log_joint[c, r] = value
            best[r] = value if value > best[r] else best[r]


@kernel
def weigh_tails(
    rows,
    d,
    prepared,
    distances,  # (k, STRIDE)
    share,  # (k, STRIDE) INOUT: multiplied by E[u]
    factor,  # (STRIDE,)
    heavy,  # (k,)
    record,  # OUT: counts and logs
):
    """Add counts and logs of a block, and weigh the shares for the Gaussian's moments."""
    zero = factor.dtype.type(0)
    for c in range(share.shape[0]):
        if heavy[c] == 0:
            continue
        dof = factor.dtype.type(prepared.dofs[c])
        most = factor.dtype.type(prepared.dofs[c] + d)
        least = factor.dtype.type(prepared.least[c])
        n = logs = zero
        for r in range(rows):
            u = most / (dof + distances[c, r])
            resp = share[c, r] * factor[r]
            n += resp
            logs += resp * log(u)
            share[c, r] = share[c, r] * u if share[c, r] > least else zero
        record.counts[c] += n
        record.logs[c] += logs + np.float64(n) * prepared.log_means[c]


@kernel
def _finish(rows, first, end, incomplete, prepared, s):
    """Do the work of `heavy_tails` for components first..end of rows with missing values."""
    share, best, n_missing, gain = s.share, s.best, s.block.n_missing, s.block.gain
    d = prepared.means.shape[1]
    minus_inf, limit = best.dtype.type(-np.inf), best.dtype.type(1e300 if best.itemsize == 8 else 1e36)
    for c in range(first, end):
        inverse = best.dtype.type(1.0 / prepared.dofs[c])
        for r in range(rows):
            m = n_missing[r]
            level = best.dtype.type(prepared.levels[c, d - m] + (gain[r] - m * 0.5 * LOG_2PI if m else 0.0))
            q = best.dtype.type(-2) * share[c, r]
            near = q < limit
            q = q if near else limit
            value = level - best.dtype.type(0.5 * (prepared.dofs[c] + (d - m))) * log1p(q * inverse)
            s.distances[c, r] = q
            share[c, r] = value if near else minus_inf
            best[r] = share[c, r] if share[c, r] > best[r] else best[r]


@kernel
def _weigh(rows, first, end, prepared, s, record):
    """Do the work of `weigh_tails` for components first..end of rows with missing values."""
    share, factor, n_missing = s.share, s.total, s.block.n_missing
    d = prepared.means.shape[1]
    for c in range(first, end):
        dof, least = prepared.dofs[c], factor.dtype.type(prepared.least[c])
        n = logs = 0.0
        for r in range(rows):
            m = n_missing[r]
            u = factor.dtype.type(dof + (d - m)) / (factor.dtype.type(dof) + s.distances[c, r])
            resp = np.float64(share[c, r] * factor[r])
            n += resp
            logs += resp * (np.float64(log(u)) + prepared.log_means[c, d - m])
            share[c, r] = share[c, r] * u if share[c, r] > least else factor.dtype.type(0)
        record.counts[c] += n
        record.logs[c] += logs


@functools.cache
def _missing_kernels(shape: Shape) -> Any:
    """Return the passes over rows with missing values, for a shape with matrices or variances of each component."""
    from fastem.families.elliptical.missing.completion import DIAG, FULL
    from fastem.families.elliptical.missing.passes import Density, assemble

    density = Density(_finish, _weigh, normal, keeps_distances=True)
    return assemble(FULL if shape.matrices else DIAG, density, view_of(fields_of(shape)))


@functools.cache
def kernels(shape: Shape) -> Passes:
    """Return the passes: the Gaussian's kernels between two passes over the components of a block."""
    exponents, moments, gaussian_room, _ = shape.blocks

    @kernel
    def log_joint_block(rows, XT, prepared, work, log_joint, best):
        inner = gaussian_room(prepared)[1]
        exponents(rows, XT, prepared, work[:inner], log_joint, best)
        heavy_tails(rows, prepared.means.shape[1], prepared, log_joint, best, work[inner:])

    @kernel
    def moments_block(rows, XT, prepared, work, share, factor, heavy, record):
        inner = gaussian_room(prepared)[1]
        weigh_tails(rows, prepared.means.shape[1], prepared, work[inner:], share, factor, heavy, record)
        moments(rows, XT, prepared, work[:inner], share, factor, heavy, normal(record))

    @kernel
    def room(prepared):
        features, inner = gaussian_room(prepared)
        return features, inner + prepared.means.shape[0]

    return passes(log_joint_block, moments_block, room, view_of(fields_of(shape)))


# --- algebra


class StudentFamily(EllipticalFamily):
    """A mixture of `n_components` Student-t distributions.

    Parameters
    ----------
    n_components : int
        Number of components k.
    covariance_type : {"full", "diag", "spherical"}
        Shape of the scale matrices.
    reg_covar : float
        Added to the diagonal of the scale matrices in the M-step.
    dof : float, array-like (k,) or None
        Degrees of freedom that stay what they are; None to estimate each component's.
    """

    name = "student"
    allow_nan = True
    hides_more = True
    params = StudentParams

    def __init__(
        self, n_components: int, covariance_type: str = "full", reg_covar: float = 1e-6, dof: Any = None
    ) -> None:
        super().__init__(n_components, covariance_type, reg_covar)
        self.kernels = kernels(self.shape)
        self.dof = dof

    def for_missing(self) -> StudentFamily:
        from fastem.families.elliptical.missing.values import MissingValues

        other = copy.copy(self)
        other.shape, other.kernels = MissingValues(self.shape), _missing_kernels(self.shape.wide)
        return other

    def for_parts(self) -> StudentFamily:
        other = PlainStudentFamily(self.n_components)
        vars(other).update(vars(self))
        return other

    def constants(self, source: Any) -> Any:
        return self.shape.constants(source)

    def layout(self, n_features: int) -> Layout[StudentStats]:
        return fields_of(self.shape).layout(self.n_components, n_features)

    def prepare(self, params: StudentParams, dtype: np.dtype, previous: Any = None) -> Any:
        fields = self.shape.prepare(params, dtype)._asdict()
        d, nu = params.means.shape[1], np.asarray(params.dofs, np.float64)
        base = fields["log_weights"] + self.shape.log_det(params.precisions_cholesky, d)
        fields |= {"least": fields["negligible"], "negligible": np.zeros(len(nu)), "offsets": np.zeros(len(nu))}
        if "precisions" not in fields:
            levels, log_means = levels_and_means(nu, d)
            return StudentPrepared(**fields, dofs=nu, levels=base + levels, log_means=log_means)
        levels, log_means = levels_and_means(nu[:, None], np.arange(d + 1))
        return MissingStudentPrepared(**fields, dofs=nu, levels=base[:, None] + levels, log_means=log_means)

    def m_step(self, stats: StudentStats, constants: Any, prepared: StudentPrepared, params: StudentParams) -> MStep:
        moments = _normal(stats)
        weights = stats.counts / stats.counts.sum()
        means = updated_means(moments, prepared, params.means)
        scales = self.shape.covariances_from_stats(moments, None, prepared, params.scales)
        left = np.where(alive(moments), _estimated_scale(stats) / self._scale(stats), 1.0)  # ones, if all is absorbed
        scales = scales * left.reshape(-1, *[1] * (scales.ndim - 1))
        scales, factors, notes = self.regular(weights, self.shape.add_to_diagonal(scales, self.reg_covar, scales))
        return MStep(StudentParams(weights, means, scales, factors, self._dofs(stats, params.dofs)), tuple(notes))

    def _scale(self, stats: StudentStats) -> np.ndarray:
        """Return the scale of u (k,) that the scale matrices absorb: all of its estimate."""
        return _estimated_scale(stats)

    def _dofs(self, stats: StudentStats, previous: np.ndarray) -> np.ndarray:
        """Return the M-step's degrees of freedom (k,); a dead component keeps its own."""
        if self.dof is not None:
            return previous
        some = alive(stats) & (stats.masses > 0)
        scale, left = self._scale(stats), _estimated_scale(stats) / self._scale(stats)
        gap = left - 1.0 + np.log(scale) - stats.logs / np.where(some, stats.counts, 1.0)
        return np.where(some, solve_dofs(gap), previous)

    def first_step(self, stats: StudentStats, constants: Any, prepared: Any, params: StudentParams) -> StudentParams:
        """Return the parameters of a first assignment; weights r u under no model yet say nothing of the tails."""
        first: StudentParams = self.m_step(stats, constants, prepared, params).params
        return first._replace(dofs=params.dofs)

    def record_for_missing(self, stats: StudentStats) -> StudentStats:
        moved = self.shape.record_for_missing(_normal(stats))
        return stats._replace(scatter=moved.scatter)

    def recentre(self, stats: StudentStats, prepared: Any, onto: Any) -> StudentStats:
        moved = self.shape.recentred(_normal(stats), prepared, onto)
        return stats._replace(sums=moved.sums, scatter=moved.scatter)

    def shortfall(self, stats: Any, constants: Any, prepared: Any, old: StudentParams, new: StudentParams) -> float:
        one, scale = np.ones(self.n_components), self._scale(stats)
        explained = self._expected(stats, prepared, old, one) - self._expected(stats, prepared, new, scale)
        # As for Gaussians, no more than what reg_covar takes from the maximum: a wrong M-step must not explain itself.
        plain = copy.copy(self)
        plain.reg_covar = 0.0
        best = plain.m_step(stats, constants, prepared, old)
        if not best.notes:
            floored = self.m_step(stats, constants, prepared, old).params
            cost = self._expected(stats, prepared, best.params, scale) - self._expected(stats, prepared, floored, scale)
            explained = min(explained, cost)
        return max(0.0, explained / float(stats.counts.sum()))

    def expected_log_likelihood(self, stats: Any, constants: Any, prepared: Any, params: StudentParams) -> float:
        return self._expected(stats, prepared, params, np.ones(self.n_components))

    def _expected(self, stats: Any, prepared: Any, params: StudentParams, scale: np.ndarray) -> float:
        """Return Q with u of scale a (k,), but for what no parameter changes; L(new) - L(old) >= Q(new) - Q(old)."""
        n, nu, log_a = stats.counts, params.dofs, np.log(scale)
        shaped = scale.reshape(-1, *[1] * (stats.scatter.ndim - 1))
        moments = Stats(stats.loglik, stats.masses / scale, stats.sums / scale[:, None], stats.scatter / shaped)
        normal = self.shape.expected_log_likelihood(moments, None, prepared, params)
        d, some = params.means.shape[1], stats.masses > 0
        with np.errstate(divide="ignore"):
            levels = np.log(params.weights) + self.shape.log_det(params.precisions_cholesky, d) - 0.5 * d * LOG_2PI
        normal += float((n - moments.counts)[some] @ levels[some])  # rows count for the levels as they are, without u
        gamma = n * (0.5 * nu * np.log(0.5 * nu) - gammaln(0.5 * nu) - 0.5 * d * log_a)
        return float(normal + np.sum(gamma + 0.5 * nu * (stats.logs - n * log_a - moments.counts)))

    def pack(self, params: StudentParams, like: StudentParams) -> np.ndarray:
        dofs = np.zeros(len(like.dofs)) if self.dof is not None else np.log(params.dofs / like.dofs)
        shapes = coordinates.pack(params, like, self.covariance.shape)
        return np.concatenate([shapes, measured(dofs, _information(like))])

    def unpack(self, vector: np.ndarray, like: StudentParams) -> StudentParams | None:
        k = self.n_components
        found = coordinates.unpack(vector[:-k], like, self.covariance.shape)
        if found is None:
            return None
        dofs = like.dofs
        if self.dof is None:
            dofs = np.clip(dofs * np.exp(steps_of(vector[-k:], _information(like))), LEAST_DOF, MOST_DOF)
        return StudentParams(*found, dofs)

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: Any, stats: np.ndarray) -> None:
        if isinstance(prepared, MissingStudentPrepared):
            self.kernels.given(np.ascontiguousarray(X), w, np.ascontiguousarray(resp), prepared, stats)
            return
        record = self.layout(X.shape[1]).view(stats)
        weighted = resp * w[:, None] if w.size else resp
        u = (prepared.dofs + X.shape[1]) / (prepared.dofs + self._distances(X, prepared))
        record.counts[:] += weighted.sum(axis=0)
        record.logs[:] += np.sum(weighted * (np.log(u) + prepared.log_means), axis=0)
        inner = self.shape.layout(self.n_components, X.shape[1]).size
        self.shape.add_q_stats(X, w, resp * u, prepared, stats[:inner])

    def _distances(self, X: np.ndarray, prepared: StudentPrepared) -> np.ndarray:
        """Return q (n, k) of rows (n, d)."""
        d, factors = X.shape[1], prepared.precisions_cholesky.astype(np.float64)
        rows = X.astype(np.float64) - prepared.origin
        out = np.empty((len(X), self.n_components))
        for c, mean in enumerate(prepared.means):
            centred = rows - mean
            whitened = centred @ factors[c, :d, :d] if factors.ndim == 3 else centred * factors[c]
            out[:, c] = np.square(whitened).sum(axis=1)
        return out

    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> StudentParams:
        k = len(means)
        weights = np.full(k, 1.0 / k)
        scales, factors, _ = self.regular(weights, self.common_covariances(k, variances))
        return StudentParams(weights, np.asarray(means, np.float64), scales, factors, self.first_dofs(k))

    def first_dofs(self, k: int) -> np.ndarray:
        """Return the degrees of freedom (k,) of a start."""
        return np.broadcast_to(np.asarray(FIRST_DOF if self.dof is None else self.dof, np.float64), k).copy()

    def example_params(self, n_features: int, draws: Draws) -> StudentParams:
        weights, means, scales = self.example_shapes(n_features, draws)
        dofs = 3.0 + 3.0 * draws.uniform(self.n_components) if self.dof is None else self.first_dofs(len(weights))
        return StudentParams(weights, means, scales, self.shape.precisions_cholesky(scales), dofs)

    def sample(self, params: StudentParams, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Draw n rows (n, d), ordered by component, and their components (n,)."""
        y = np.sort(draws.weighted(params.weights, n))
        d = params.means.shape[1]
        X = draws.normal(n * d).reshape(n, d)
        dofs = params.dofs[y]
        X /= np.sqrt(np.random.default_rng(draws.bits(4)).chisquare(dofs) / dofs)[:, None]
        for c in np.unique(y):
            X[y == c] = self.shape.sample(params, c, X[y == c])
        return X, y

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        return {**super().shapes(n_features), "dofs": (self.n_components,)}

    def n_free_params(self, n_features: int) -> int:
        k, d = self.n_components, n_features
        return k - 1 + k * d + self.covariance.n_parameters(k, d) + (k if self.dof is None else 0)


def _estimated_scale(stats: StudentStats) -> np.ndarray:
    """Return the M-step's estimate of the scale of u (k,); 1 for a dead component."""
    some = alive(stats) & (stats.masses > 0)
    return np.where(some, np.where(some, stats.masses, 1.0) / np.where(some, stats.counts, 1.0), 1.0)


def _information(like: StudentParams) -> np.ndarray:
    """Return what rows whose u is known tell of log nu (k,)."""
    return present(like.weights) * information(like.dofs)


class PlainStudentFamily(StudentFamily):
    """The same mixture with the M-step of plain EM, which maximises Q whatever parameters its expectations are of.

    A scale of u that Sigma absorbs would have to be taken out of the record of every row.
    """

    def _scale(self, stats: StudentStats) -> np.ndarray:
        return np.ones(self.n_components)
