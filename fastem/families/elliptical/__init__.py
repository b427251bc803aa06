"""What families share whose density at x depends on (x - mu)' inverse(Sigma) (x - mu): kernels and algebra.

One module per covariance type: `full`, `tied`, `diag`, `spherical`.  `family` has what does not depend on the density
itself: how matrices are kept regular, and the passes of predict and score.
"""
