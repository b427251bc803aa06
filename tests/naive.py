"""Slow oracles in plain NumPy, float64: what the kernels compute, written as the formulas are."""

from __future__ import annotations

import numpy as np


def full_covariances(covariances, covariance_type, k, d):
    """Any covariance type as full matrices (k, d, d)."""
    if covariance_type == "full":
        return np.asarray(covariances)
    if covariance_type == "tied":
        return np.repeat(np.asarray(covariances)[None], k, axis=0)
    if covariance_type == "diag":
        return np.array([np.diag(row) for row in covariances])
    return np.array([value * np.eye(d) for value in covariances])


def gaussian_log_joint(X, weights, means, covariances, covariance_type):
    """log p(x_i, z_i = k) (n, k)."""
    X = np.asarray(X, np.float64)
    k, d = means.shape
    out = np.empty((len(X), k))
    for c, sigma in enumerate(full_covariances(covariances, covariance_type, k, d)):
        _, log_det = np.linalg.slogdet(sigma)
        centred = X - means[c]
        mahalanobis = np.sum(centred * np.linalg.solve(sigma, centred.T).T, axis=1)
        with np.errstate(divide="ignore"):
            out[:, c] = np.log(weights[c]) - 0.5 * (d * np.log(2 * np.pi) + log_det + mahalanobis)
    return out


def responsibilities(log_joint, labels=None):
    """Log-likelihood of each row (n,) and responsibilities (n, k); rows of known label are one-hot."""
    log_joint = log_joint.copy()
    if labels is not None:
        for i in np.flatnonzero(labels >= 0):
            log_joint[i, np.arange(log_joint.shape[1]) != labels[i]] = -np.inf
    best = log_joint.max(axis=1)
    loglik = best + np.log(np.exp(log_joint - best[:, None]).sum(axis=1))
    return loglik, np.exp(log_joint - loglik[:, None])


def gaussian_stats(X, w, labels, params, covariance_type, centres):
    """loglik, counts, sums and full scatter (k, d, d) about `centres`, for all rows."""
    X = np.asarray(X, np.float64)
    loglik, resp = responsibilities(gaussian_log_joint(X, *params[:3], covariance_type), labels)
    weighted = resp * w[:, None]
    counts = weighted.sum(axis=0)
    sums = np.array([weighted[:, c] @ (X - centres[c]) for c in range(len(counts))])
    scatter = np.array([(X - m).T @ ((X - m) * weighted[:, c, None]) for c, m in enumerate(centres)])
    return float(w @ loglik), counts, sums, scatter


def gaussian_missing(X, params, covariance_type):
    """Rows with NaN: log p(x_o, z = k) (n, k), completed rows (n, k, d) and conditional covariances (n, k, d, d)."""
    X = np.asarray(X, np.float64)
    n, d = X.shape
    k = len(params.weights)
    log_joint, filled, spread = np.empty((n, k)), np.empty((n, k, d)), np.zeros((n, k, d, d))
    sigmas = full_covariances(params.covariances, covariance_type, k, d)
    for i, x in enumerate(X):
        m, o = np.flatnonzero(np.isnan(x)), np.flatnonzero(~np.isnan(x))
        for c, (mu, sigma) in enumerate(zip(params.means, sigmas, strict=True)):
            observed, cross = sigma[np.ix_(o, o)], sigma[np.ix_(m, o)]
            shift = np.linalg.solve(observed, x[o] - mu[o])
            log_det = np.linalg.slogdet(observed)[1]
            log_joint[i, c] = np.log(params.weights[c]) - 0.5 * (
                len(o) * np.log(2 * np.pi) + log_det + (x[o] - mu[o]) @ shift
            )
            filled[i, c, o], filled[i, c, m] = x[o], mu[m] + cross @ shift
            spread[i, c][np.ix_(m, m)] = sigma[np.ix_(m, m)] - cross @ np.linalg.solve(observed, cross.T)
    return log_joint, filled, spread


def gaussian_missing_stats(known, w, labels, centres):
    """loglik, counts, sums and full scatter (k, d, d) about `centres`, in expectation over what is missing.

    `known` is what `gaussian_missing` says of the rows.
    """
    log_joint, filled, spread = known
    loglik, resp = responsibilities(log_joint, labels)
    weighted = resp * w[:, None]
    centred = filled - centres
    scatter = np.einsum("ik,ikj,ikl->kjl", weighted, centred, centred) + np.einsum("ik,ikjl->kjl", weighted, spread)
    return float(w @ loglik), weighted.sum(axis=0), np.einsum("ik,ikj->kj", weighted, centred), scatter


def mahalanobis(X, means, scales, covariance_type):
    """Squared distances (n, k), and the matrices' log-determinants (k,)."""
    X = np.asarray(X, np.float64)
    k, d = means.shape
    matrices = full_covariances(scales, covariance_type, k, d)
    centred = X[:, None] - means
    distances = np.einsum("nkj,kjl,nkl->nk", centred, np.linalg.inv(matrices), centred)
    return distances, np.linalg.slogdet(matrices)[1]


def student_log_joint(X, params, covariance_type):
    """log p(x_i, z_i = k) (n, k) of a mixture of Student-t distributions, by their density."""
    from scipy.special import gammaln

    d, nu = params.means.shape[1], params.dofs
    distances, log_det = mahalanobis(X, params.means, params.scales, covariance_type)
    level = gammaln((nu + d) / 2) - gammaln(nu / 2) - d / 2 * np.log(nu * np.pi) - log_det / 2
    return np.log(params.weights) + level - (nu + d) / 2 * np.log1p(distances / nu)


def student_stats(X, weighted, params, covariance_type, centres):
    """counts, logs, masses, sums and full scatter (k, d, d) about `centres` for weighted responsibilities (n, k).

    The expectations of u and log u are those of a gamma distribution, as Peel and McLachlan give them.
    """
    from scipy.special import digamma

    X = np.asarray(X, np.float64)
    distances, _ = mahalanobis(X, params.means, params.scales, covariance_type)
    shape, rate = (params.dofs + X.shape[1]) / 2, (params.dofs + distances) / 2
    expected, expected_log = shape / rate, digamma(shape) - np.log(rate)
    masses = weighted * expected
    sums = np.array([masses[:, c] @ (X - m) for c, m in enumerate(centres)])
    scatter = np.array([(X - m).T @ ((X - m) * masses[:, c, None]) for c, m in enumerate(centres)])
    return weighted.sum(axis=0), (weighted * expected_log).sum(axis=0), masses.sum(axis=0), sums, scatter


def student_missing_stats(X, w, params, covariance_type, centres):
    """Rows with NaN: log p(x_o, z = k) (n, k), and counts, logs, masses, sums, full scatter about `centres`."""
    from types import SimpleNamespace

    from scipy.special import digamma

    k, d = params.means.shape
    seen = ~np.isnan(X)
    log_joint, distances, observed = np.empty((len(X), k)), np.zeros((len(X), k)), seen.sum(axis=1)
    sigmas = full_covariances(params.scales, covariance_type, k, d)
    for i, x in enumerate(np.asarray(X, np.float64)):
        o = np.flatnonzero(seen[i])
        part = params._replace(means=params.means[:, o], scales=sigmas[:, o[:, None], o])
        log_joint[i] = student_log_joint(x[o][None], part, "full")[0]
        distances[i] = mahalanobis(x[o][None], part.means, part.scales, "full")[0]
    normal = SimpleNamespace(weights=params.weights, means=params.means, covariances=sigmas)
    _, filled, spread = gaussian_missing(X, normal, "full")
    weighted = responsibilities(log_joint)[1] * w[:, None]
    shape, rate = (params.dofs + observed[:, None]) / 2, (params.dofs + distances) / 2
    masses, logs = weighted * shape / rate, weighted * (digamma(shape) - np.log(rate))
    centred = filled - centres
    scatter = np.einsum("ik,ikj,ikl->kjl", masses, centred, centred) + np.einsum("ik,ikjl->kjl", weighted, spread)
    sums = np.einsum("ik,ikj->kj", masses, centred)
    return log_joint, (weighted.sum(axis=0), logs.sum(axis=0), masses.sum(axis=0), sums, scatter)


def merge(left, right):
    """The sum of two records of the same family that are centred alike."""
    return type(left)(*(a + b for a, b in zip(left, right, strict=True)))
