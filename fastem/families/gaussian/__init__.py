r"""Gaussian mixtures: x given z = k is N(mu_k, Sigma_k) (lecture rows L5 and L7; Bishop, PRML, section 9.2).

The E-step weighs row i by its responsibility r_ik = p(z_i = k given x_i) and collects, centred on the current means m,

    loglik = sum_i w_i log p(x_i),           counts_k = sum_i w_i r_ik,
    sums_k = sum_i w_i r_ik (x_i - m_k),     scatter_k = sum_i w_i r_ik (x_i - m_k)(x_i - m_k)'

(diag keeps the diagonal of the scatter, spherical its trace; tied needs none, because the total scatter of the data is
a constant).  With s_k = sums_k / counts_k the M-step is

    pi_k = counts_k / sum(counts),   mu_k = m_k + s_k,   Sigma_k = scatter_k / counts_k - s_k s_k' + reg_covar I.

Kernels, algebra and covariance models are in `families/elliptical`.
"""

from fastem.families.gaussian.family import COVARIANCE_TYPES, LETTERS, SHAPES, GaussianFamily

__all__ = ["COVARIANCE_TYPES", "LETTERS", "SHAPES", "GaussianFamily"]
