r"""The lower bound of factor analysis, whose hidden variables are continuous (lecture rows L8 and L9).

For any normal distributions q_i = N(m_i, V_i) over the factors of each row,

    L(q, theta)  = sum_i w_i (E_q ln p(x_i given z) + E_q ln p(z) + H(q_i)),
    KL(q, p)     = sum_i w_i KL(N(m_i, V_i), N(z_bar_i, M_i^-1)),

with the posterior N(z_bar, M^-1) of `families.loadings`, and L + KL = ln p(X; theta).  Each is computed from its own
formula, over the observed values of each row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem.bound import LowerBound
from fastem.families.loadings import LOG_2PI, AnalyserStats


class GaussianQ(NamedTuple):
    """Normal distributions over the factors of each row.

    Attributes
    ----------
    means : ndarray (n, q)
    covariances : ndarray (n, q, q), or (q, q) for all rows
    """

    means: np.ndarray
    covariances: np.ndarray


class GaussianLowerBound(LowerBound):
    """What `LowerBound` makes of factor analysis: `q` is a `GaussianQ`.

    Examples
    --------
    >>> import fastem, numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 1)) + np.random.default_rng(1).normal(size=(100, 3))
    >>> at = fastem.LowerBound(fastem.FactorAnalysis(1).fit(X), X)
    >>> q = fastem.GaussianQ(np.zeros((100, 1)), np.eye(1))
    >>> bool(at.bound(q) < at.log_likelihood())
    True
    >>> bool(np.isclose(at.bound(q) + at.kl(q), at.log_likelihood()))
    True
    >>> bool(at.kl(at.e_step()) < 1e-8)
    True
    """

    def expected_log_joint(self, q: Any, theta: Any = None) -> float:
        """Return sum_i w_i E_q ln p(x_i, z_i; theta): what the M-step maximises."""
        (m, V), params = self._checked(q), self.parameters(theta)
        loadings, noise = params.loadings[0], params.noise_variances[0]
        seen = ~np.isnan(self.X)
        residuals = np.where(seen, self.X - params.means[0] - m @ loadings.T, 0.0)
        spread = np.einsum("jf,nfg,jg->nj", loadings, V, loadings)
        given = -0.5 * np.where(seen, LOG_2PI + np.log(noise) + (residuals**2 + spread) / noise, 0.0).sum(axis=1)
        prior = -0.5 * (m.shape[1] * LOG_2PI + np.square(m).sum(axis=1) + np.trace(V, axis1=1, axis2=2))
        return self._weigh(given + prior)

    def entropy(self, q: Any) -> float:
        """Return -sum_i w_i E_q ln q_i."""
        _, V = self._checked(q)
        return self._weigh(0.5 * (V.shape[1] * (1.0 + LOG_2PI) + np.linalg.slogdet(V)[1]))

    def kl(self, q: Any, theta: Any = None) -> float:
        """Return the Kullback-Leibler divergence of the posterior p(z given X; theta) from q; at least 0."""
        (m, V), posterior = self._checked(q), self.e_step(theta)
        precisions = np.linalg.inv(posterior.covariances)
        shift = posterior.means - m
        distance = np.einsum("nf,nfg,ng->n", shift, precisions, shift)
        product = np.einsum("nfg,ngf->n", precisions, V)
        log_ratio = np.linalg.slogdet(posterior.covariances)[1] - np.linalg.slogdet(V)[1]
        return self._weigh(np.maximum(0.5 * (product + distance - m.shape[1] + log_ratio), 0.0))

    def e_step(self, theta: Any = None) -> GaussianQ:  # type: ignore[override]
        """Return the posterior p(z_i given x_i; theta): the q that closes the gap."""
        params = self.parameters(theta)
        loadings, noise = params.loadings[0], params.noise_variances[0]
        seen = ~np.isnan(self.X)
        scaled = loadings / noise[:, None]
        precisions = np.eye(loadings.shape[1]) + np.einsum("nj,jf,jg->nfg", seen, scaled, loadings)
        covariances = np.linalg.inv(precisions)
        towards = np.where(seen, self.X - params.means[0], 0.0) @ scaled
        return GaussianQ(np.einsum("nfg,ng->nf", covariances, towards), covariances)

    def m_step(self, q: Any, theta: Any = None) -> Any:
        """Return the parameters that maximise the bound for this q.

        Parameters
        ----------
        q : GaussianQ
            Distributions of the factors.
        theta : optional
            Parameters that the statistics are centred on, and what a feature that no row has keeps.

        Returns
        -------
        FactorParams
            Means, loadings and noise variances.
        """
        (m, V), params = self._checked(q), self.parameters(theta)
        family: Any = self.family
        prepared = family.prepare(params, np.dtype(np.float64))
        w = self._source.sample_weight.astype(np.float64) if self._source.sample_weight.size else np.ones(len(m))
        seen = ~np.isnan(self.X)
        u = np.where(seen, self.X - (prepared.origin + prepared.means[0]), 0.0)
        zz = np.column_stack([m, np.ones(len(m))])
        moments = zz[:, :, None] * zz[:, None, :]
        moments[:, :-1, :-1] += V
        stats = AnalyserStats(
            loglik=np.zeros(()),
            counts=w.sum(keepdims=True),
            seconds=np.einsum("n,nfg->fg", w, moments)[None],
            cross=np.einsum("n,nj,nf->jf", w, u, zz)[None],
            squares=(w @ np.square(u))[None],
            lacking=np.einsum("n,nj,nfg->jfg", w, ~seen, moments)[None],
        )
        return family.em_step(stats, family.constants(self._source), prepared, params)

    def _checked(self, q: Any) -> GaussianQ:
        """Return q with a covariance (q, q) for each row."""
        if not isinstance(q, GaussianQ):
            raise TypeError(f"q must be a fastem.GaussianQ for factor analysis, got {type(q).__name__}.")
        means, covariances = np.asarray(q.means, np.float64), np.asarray(q.covariances, np.float64)
        n, size = len(self.X), self.family.n_factors  # type: ignore[attr-defined]
        if means.shape != (n, size) or covariances.shape not in ((size, size), (n, size, size)):
            raise ValueError(
                f"q has means {means.shape} and covariances {covariances.shape}, expected {(n, size)} and "
                f"{(n, size, size)}: rows by factors."
            )
        if size and not np.all(np.linalg.eigvalsh(covariances) > 0):
            raise ValueError("The covariances of q must be positive definite.")
        return GaussianQ(means, np.broadcast_to(covariances, (n, size, size)))
