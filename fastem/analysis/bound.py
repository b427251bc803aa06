r"""The lower bound of the lectures, term by term (lecture rows L8 and L10).

For any distribution q over the hidden components of each row, written as responsibilities q_ik with sum_k q_ik = 1,

    ln p(X; theta) = L(q, theta) + KL(q, p(z given X; theta)),

    L(q, theta) = sum_ik w_i q_ik ln p(x_i, z_i = k; theta)  -  sum_ik w_i q_ik ln q_ik,
    KL(q, p)    = sum_ik w_i q_ik ln (q_ik / p(z_i = k given x_i; theta))  >=  0.

The first sum of L is the expected complete-data log-likelihood, the second minus the entropy of q.  EM climbs L by
coordinates: the E-step takes q = p(z given X; theta), which makes KL zero and the bound tight; the M-step raises L over
theta with q held.  The log-likelihood is at least L, so it never falls.

Here the three quantities are computed apart, each from its own formula, so that the identity is a check and not a
definition.  Nothing of this is needed for a fit: it holds (n, k) numbers and is meant for looking at models.

The hidden variables of factor analysis are continuous.  For any normal distributions q_i = N(m_i, V_i) over the factors
of each row,

    L(q, theta)  = sum_i w_i (E_q ln p(x_i given z) + E_q ln p(z) + H(q_i)),
    KL(q, p)     = sum_i w_i KL(N(m_i, V_i), N(z_bar_i, M_i^-1)),

with the posterior N(z_bar, M^-1) of `families.factor.kernels`, and again L + KL = ln p(X; theta), over the observed
values of each row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastem import threads, validate
from fastem.estimators import door
from fastem.families.base import Family
from fastem.families.factor.kernels import LOG_2PI, AnalyserStats
from fastem.families.kmeans import KMeansFamily
from fastem.sources.memory import MemorySource


class LowerBound:
    """The log-likelihood of some rows, its lower bound, and the gap between them.

    Parameters
    ----------
    model : mixture or Family
        A mixture of `fastem`, fitted or not, or a family.
    X : array-like (n, d)
        The rows.
    sample_weight : array-like (n,) or None
        Weights of the rows; every sum over rows is weighted.
    n_threads : int or None
        Threads of the passes over the rows.

    Attributes
    ----------
    family : Family
        The model's family.
    X : ndarray (n, d)
        The rows as checked.

    Notes
    -----
    `theta` is a record of the family's parameters (its ``params`` class), a fitted mixture, or None for those of the
    fitted mixture that this was made with.  `q` has shape (n, k), is nonnegative and its rows sum to one; of factor
    analysis, whose hidden variables are continuous, it is a `fastem.GaussianQ`.  All values are sums over the rows;
    divided by the sum of the weights they compare with `lower_bound_`.

    References
    ----------
    Neal and Hinton, "A view of the EM algorithm that justifies incremental, sparse, and other variants", 1998.
    Bishop, PRML, section 9.4.

    Examples
    --------
    >>> import fastem, numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2)) + np.repeat([[0.0], [4.0]], 100, axis=0)
    >>> model = fastem.GaussianMixture(2, random_state=0).fit(X)
    >>> at = fastem.LowerBound(model, X)
    >>> q = np.full((200, 2), 0.5)
    >>> bool(at.bound(q) < at.log_likelihood())
    True
    >>> bool(np.isclose(at.bound(q) + at.kl(q), at.log_likelihood()))
    True
    >>> abs(at.kl(at.e_step())) < 1e-8
    True
    >>> theta = at.m_step(q)
    >>> bool(at.bound(q, theta) > at.bound(q))
    True
    """

    def __new__(cls, model: Any, *args: Any, **kwargs: Any) -> LowerBound:
        """Make a bound over what the model hides: components, or the factors of a single analyser."""
        family = model if isinstance(model, Family) else _family_of(model)
        if cls is LowerBound and not family.mixes:
            return object.__new__(GaussianLowerBound)
        return object.__new__(cls)

    def __init__(self, model: Any, X: Any, sample_weight: Any = None, *, n_threads: int | None = None) -> None:
        self._model = None if isinstance(model, Family) else model
        self.family: Family = model if isinstance(model, Family) else _family_of(model)
        if isinstance(self.family, KMeansFamily):
            raise ValueError("k-means has no likelihood to bound; it is the limit of a Gaussian mixture.")
        self.X = self._rows(X)
        self._source = MemorySource(
            self.X, validate.weights(sample_weight, len(self.X), self.X.dtype), n_threads=threads.resolve(n_threads)
        )
        self.family = self._source.served_by(self.family)

    def _rows(self, X: Any) -> np.ndarray:
        door.refuse_stream(X, "A lower bound keeps q of every row, and")
        if self._model is not None and hasattr(self._model, "n_features_in_"):
            return self._model._table(X, reset=False)
        if not self.family.allow_nan:
            return validate.rows(X)
        X = np.asarray(X)
        return np.ascontiguousarray(X, X.dtype if X.dtype in validate.FLOATS else np.float64)

    def _weigh(self, per_row: np.ndarray) -> float:
        w = self._source.sample_weight
        return float(w.astype(np.float64) @ per_row) if w.size else float(per_row.sum())

    def _prepared(self, theta: Any) -> Any:
        return self.family.prepare(self.parameters(theta), self.X.dtype)

    def parameters(self, theta: Any = None) -> Any:
        """Return the record of parameters that `theta` stands for.

        Raises
        ------
        ValueError
            If `theta` is None and there is no fitted mixture to take it from.
        """
        theta = self._model if theta is None else theta
        if theta is None or not (isinstance(theta, tuple) or hasattr(theta, "n_features_in_")):
            raise ValueError("theta must be a record of parameters or a fitted mixture; there is none to begin with.")
        params = theta if isinstance(theta, tuple) else theta._fitted()[1]
        validate.fitting(params, self.family.shapes(self.X.shape[1]), {})
        return params

    def log_joint(self, theta: Any = None) -> np.ndarray:
        """Return ln p(x_i, z_i = k; theta), (n, k)."""
        return np.asarray(self.family.log_joint(self.X, self._prepared(theta), self._source.n_threads), np.float64)

    def log_likelihood(self, theta: Any = None) -> float:
        """Return ln p(X; theta) = sum_i w_i ln p(x_i; theta), as the family's own pass over the rows gives it."""
        return self._weigh(self.family.log_prob(self.X, self._prepared(theta), self._source.n_threads))

    def expected_log_joint(self, q: Any, theta: Any = None) -> float:
        """Return sum_ik w_i q_ik ln p(x_i, z_i = k; theta): what the M-step maximises."""
        return self._weigh(_expectation(self._checked(q), self.log_joint(theta)))

    def entropy(self, q: Any) -> float:
        """Return -sum_ik w_i q_ik ln q_ik."""
        q = self._checked(q)
        return -self._weigh(_expectation(q, _log(q)))

    def bound(self, q: Any, theta: Any = None) -> float:
        """Return L(q, theta): the expected complete-data log-likelihood plus the entropy of q."""
        return self.expected_log_joint(q, theta) + self.entropy(q)

    def kl(self, q: Any, theta: Any = None) -> float:
        """Return the Kullback-Leibler divergence of the posterior p(z given X; theta) from q; at least 0."""
        q, log_joint = self._checked(q), self.log_joint(theta)
        log_posterior = log_joint - np.logaddexp.reduce(log_joint, axis=1, keepdims=True)
        # No row's divergence is negative but by rounding.
        return self._weigh(np.maximum(_expectation(q, _log(q)) - _expectation(q, log_posterior), 0.0))

    def e_step(self, theta: Any = None) -> np.ndarray:
        """Return the posterior p(z_i = k given x_i; theta), (n, k): the q that closes the gap."""
        return self.family.posterior(self.X, self._prepared(theta), self._source.n_threads)[1]

    def m_step(self, q: Any, theta: Any = None) -> Any:
        """Return the parameters that maximise the bound for this q, or raise it where rows hide more than components.

        Parameters
        ----------
        q : array-like (n, k)
            Responsibilities.
        theta : optional
            Parameters that the statistics are centred on; they decide nothing but rounding, and what a component
            without any responsibility keeps.

        Returns
        -------
        NamedTuple
            A record of the family's parameters.
        """
        q, params = self._checked(q), self.parameters(theta)
        prepared, layout = self.family.prepare(params, self.X.dtype), self.family.layout(self.X.shape[1])

        def cell(X: np.ndarray, rows: slice) -> np.ndarray:
            record = np.zeros(layout.size)
            self.family.accumulate_given(X, self._source.weights_of(rows), q[rows], prepared, record)
            return record

        stats = layout.view(self._source.fold(cell, layout.size))
        return self.family.m_step(stats, self.family.constants(self._source), prepared, params).params

    def _checked(self, q: Any) -> Any:
        q = np.asarray(q, np.float64)
        # Some families have parts beside their components, such as a uniform noise.
        shape = (len(self.X), getattr(self.family, "n_parts", self.family.n_components))
        if q.shape != shape:
            raise ValueError(f"q has shape {q.shape}, expected {shape}: rows by components.")
        if not (np.all(q >= 0) and np.allclose(q.sum(axis=1), 1.0, atol=1e-6)):
            raise ValueError("q must be nonnegative, and each of its rows must sum to one.")
        return q


def _family_of(model: Any) -> Family:
    if not hasattr(model, "_family") or not hasattr(model, "_fitted"):
        raise TypeError(f"LowerBound needs a mixture of fastem or a family, got {type(model).__name__}.")
    return model._fitted()[0] if hasattr(model, "n_features_in_") else model._family()


def _log(q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(q)


def _expectation(q: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return sum_k q_ik values_ik (n,); where q is 0 the value counts as nothing, be it infinite."""
    return np.where(q > 0, q * np.where(q > 0, values, 0.0), 0.0).sum(axis=1)


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
