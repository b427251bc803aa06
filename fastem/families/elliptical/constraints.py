r"""What components may have in common: M-steps of covariances Sigma_k = lambda_k D_k A_k D_k'.

lambda_k is the volume, A_k (diagonal, of determinant 1) the shape and D_k the axes; each is the same for all components
or each component's own.  With S_k the covariances without constraint and p_k the shares of the components, an M-step
minimises

    sum_k p_k (log det Sigma_k + trace(inverse(Sigma_k) S_k))

(Celeux and Govaert, "Gaussian parsimonious clustering models", Pattern Recognition 28, 1995).  Seen from the axes this
is a matter of variances alone: rules for variances are written once and used along the coordinates, along each
component's own axes, or along common ones.  Where there is no closed form, iterations begin at the previous
covariances, so that the objective of EM never falls, and go on until nothing moves.

Every function takes the weights (k,) of the components, of which only shares matter, covariances and previous ones of
the same shape, and raises `numpy.linalg.LinAlgError` where a covariance has no volume.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Constraint = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

# Iterations end when nothing moves by more than this, relative; they converge linearly.
STILL = 1e-12
MOST_ITERATIONS = 500


def _shares(weights: np.ndarray) -> np.ndarray:
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))


def _logs(variances: np.ndarray) -> np.ndarray:
    """Return logarithms of variances, none of which may be 0."""
    if not (variances > 0).all():
        raise np.linalg.LinAlgError("a covariance has no volume")
    return np.log(variances)


# --- rules for variances (k, d)


def equal(weights: np.ndarray, covariances: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Volume and shape in common: the mean.  Of variances (k, d), or of one variance each (k,)."""
    pooled = _shares(weights) @ covariances
    return np.broadcast_to(pooled, covariances.shape).copy()


def equal_shape(weights: np.ndarray, variances: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Shape in common, volumes their own: alternately one given the other, which has one maximum."""
    shares = _shares(weights)
    _logs(variances)
    volumes = np.exp(_logs(previous).mean(axis=1))
    for _ in range(MOST_ITERATIONS):
        shape = (shares / volumes) @ variances
        shape /= np.exp(_logs(shape).mean())
        now = (variances / shape).mean(axis=1)
        moved, volumes = np.abs(now / volumes - 1.0).max(), now
        if moved <= STILL:
            break
    return volumes[:, None] * shape


def equal_volume(weights: np.ndarray, variances: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Volume in common, shapes their own: each variance over its volume, times the mean volume."""
    volumes = np.exp(_logs(variances).mean(axis=1))
    return variances * (_shares(weights) @ volumes / volumes)[:, None]


def free(weights: np.ndarray, variances: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Nothing in common; a variance of 0 is refused, as by the others."""
    _logs(variances)
    return variances


# --- matrices (k, d, d)


def equal_shape_and_axes(weights: np.ndarray, covariances: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Volumes their own (VEE): alternately the common matrix of determinant 1 and the volumes."""
    shares, d = _shares(weights), covariances.shape[1]
    volumes = np.exp(np.linalg.slogdet(previous)[1] / d)
    for _ in range(MOST_ITERATIONS):
        matrix = np.tensordot(shares / volumes, covariances, 1)
        sign, log_det = np.linalg.slogdet(matrix)
        if sign <= 0:
            raise np.linalg.LinAlgError("a covariance has no volume")
        matrix /= np.exp(log_det / d)
        now = np.tensordot(covariances, np.linalg.inv(matrix), 2) / d
        _logs(now)
        moved, volumes = np.abs(now / volumes - 1.0).max(), now
        if moved <= STILL:
            break
    return volumes[:, None, None] * matrix


def along_own_axes(rule: Constraint) -> Constraint:
    """Return the constraint of matrices whose variances along their own axes obey a rule."""

    def constraint(weights: np.ndarray, covariances: np.ndarray, previous: np.ndarray) -> np.ndarray:
        variances, axes = np.linalg.eigh(covariances)  # in order, as the best match of common shapes asks for
        before = np.maximum(np.linalg.eigvalsh(previous), np.finfo(np.float64).tiny)
        return _matrices(axes, rule(weights, variances, before))

    return constraint


def along_common_axes(rule: Constraint) -> Constraint:
    """Return the constraint of matrices whose variances along common axes obey a rule (see `common_axes`)."""

    def constraint(weights: np.ndarray, covariances: np.ndarray, previous: np.ndarray) -> np.ndarray:
        from fastem.families.elliptical.common_axes import common_axes

        def allowed(variances: np.ndarray) -> np.ndarray:
            return rule(weights, variances, variances)

        axes = common_axes(_shares(weights), covariances, previous, allowed)
        variances = np.diagonal(axes.T @ covariances @ axes, axis1=1, axis2=2)
        return _matrices(axes[None], allowed(variances))

    return constraint


def _matrices(axes: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return symmetric matrices of axes (k, d, d) or (1, d, d), in columns, and variances (k, d)."""
    matrices = (axes * variances[:, None]) @ np.swapaxes(axes, 1, 2)
    return 0.5 * (matrices + np.swapaxes(matrices, 1, 2))
