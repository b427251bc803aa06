"""The records of elliptical families: parameters, prepared parameters and statistics of the four shapes.

Shapes: k components, d features.  Arrays in a `Prepared` record have the dtype of the rows unless float64 is said; the
origin is a point inside the data, rounded to that dtype, and the means in `Prepared` are relative to it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastem._native import mixtures

LOG_2PI = math.log(2 * math.pi)
# Less weight than this is none: mean and covariance of such a component would be rounding, or 0 / 0.
TINY = 10 * np.finfo(np.float64).eps


class GaussianParams(NamedTuple):
    """Parameters of a Gaussian mixture, float64."""

    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    covariances: np.ndarray  # full (k, d, d), tied (d, d), diag (k, d), spherical (k,)
    precisions_cholesky: np.ndarray  # as covariances; upper triangular P with precision P P', or 1 / sigma


class Prepared(NamedTuple):
    """Parameters of an E-step."""

    origin: np.ndarray  # (d,)
    means: np.ndarray  # (k, d)
    log_weights: np.ndarray  # (k,) float64
    precisions_cholesky: np.ndarray  # (k, dp, dp), padded with zeros to dp = `full.padded_features(d)`; (k, d); (k,)
    offsets: np.ndarray  # (k,) float64: log weight + log det P - d/2 log 2 pi
    negligible: np.ndarray  # (k,) float64: a smaller share of a row does not matter to the component


class Stats(NamedTuple):
    """Weighted moments about the means of the E-step, float64."""

    loglik: np.ndarray  # ()
    counts: np.ndarray  # (k,)
    sums: np.ndarray  # (k, d)
    scatter: np.ndarray  # (k, d, d); (k, d) of each feature; (k,) summed over the features


class TiedPrepared(NamedTuple):
    """Parameters of an E-step with one covariance: the means are whitened too."""

    origin: np.ndarray  # (d,)
    means: np.ndarray  # (k, d)
    log_weights: np.ndarray  # (k,) float64
    precisions_cholesky: np.ndarray  # (dp, dp)
    whitened: np.ndarray  # (k, d): means @ P
    offsets: np.ndarray  # (k,) float64
    negligible: np.ndarray  # (k,) float64


class TiedStats(NamedTuple):
    """Weighted moments about the means of the E-step, float64; the scatter follows from the constant total scatter."""

    loglik: np.ndarray  # ()
    counts: np.ndarray  # (k,)
    sums: np.ndarray  # (k, d)


class MissingTiedStats(NamedTuple):
    """Moments about the means of the E-step, and of incomplete rows about its origin, float64."""

    loglik: np.ndarray  # ()
    counts: np.ndarray  # (k,)
    sums: np.ndarray  # (k, d)
    incomplete: np.ndarray  # (d, d): expected second moments of whitened incomplete rows
    incomplete_sums: np.ndarray  # (d,): their expected sum, and
    incomplete_weight: np.ndarray  # (): their weight, by which the second moments can be moved


def common(params: GaussianParams, log_det: np.ndarray, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Return the fields that every `Prepared` has.

    Parameters
    ----------
    params : GaussianParams
        Current parameters.
    log_det : ndarray (k,) float64
        Log-determinants of the precisions' Cholesky factors.
    dtype : dtype
        Dtype of the rows.
    """
    weights = np.ascontiguousarray(params.weights, np.float64)
    dtype = np.dtype(dtype)
    origin = mixtures.weighted_mean(weights, np.ascontiguousarray(params.means, np.float64)).astype(dtype)
    log_weights = mixtures.logarithms(weights)
    # A share of 1e-18 of what the component weighs now is lost in the rounding of a float64 sum, 1e-11 in that of
    # float32 terms.
    share = 1e-18 if dtype == np.float64 else 1e-11
    return {
        "origin": origin,
        "means": np.ascontiguousarray((params.means - origin.astype(np.float64)).astype(dtype)),
        "log_weights": log_weights,
        "offsets": log_weights + log_det - 0.5 * params.means.shape[1] * LOG_2PI,
        "negligible": share * weights,
    }


def sums_of_logarithms(values: np.ndarray) -> np.ndarray:
    """Return the sum of the logarithms of each row (k,) of positive numbers (k, m)."""
    return mixtures.sums_of_logarithms(np.ascontiguousarray(values, np.float64))


def prepared_means(prepared: Any) -> np.ndarray:
    """Return the means of the E-step as rounded, float64 (k, d): the points that the moments are centred on."""
    return prepared.origin.astype(np.float64) + prepared.means.astype(np.float64)


def deviations(prepared: Any, onto: Any) -> np.ndarray:
    """Return by how much the points (k, d) that moments are centred on lie off those of another E-step."""
    origins = prepared.origin.astype(np.float64) - onto.origin.astype(np.float64)  # first: what both have in common
    return np.asarray(origins + (prepared.means.astype(np.float64) - onto.means.astype(np.float64)))


def updated_means(stats: Any, prepared: Any, previous: np.ndarray) -> np.ndarray:
    """Return the M-step's means (k, d); a dead component keeps its previous mean."""
    return np.where(alive(stats)[:, None], prepared_means(prepared) + shifts(stats), previous)


def alive(stats: Any) -> np.ndarray:
    """Tell which components have any weight (k,)."""
    return np.asarray(stats.counts > TINY)


def shifts(stats: Any) -> np.ndarray:
    """Return by how much the means move (k, d); 0 for a dead component."""
    counts = np.where(alive(stats), stats.counts, np.inf)
    return np.asarray(stats.sums / counts[:, None])


def complete_data(counts: np.ndarray, params: GaussianParams, log_det: np.ndarray, quadratic: float) -> float:
    """Return sum counts (log weight + log normaliser) - quadratic / 2; components without counts add nothing."""
    some = counts > 0
    with np.errstate(divide="ignore"):
        terms = np.log(params.weights) + log_det - 0.5 * params.means.shape[1] * LOG_2PI
    return float(counts[some] @ terms[some]) - 0.5 * quadratic
