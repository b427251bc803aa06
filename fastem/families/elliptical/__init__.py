"""What families share whose density at x depends on (x - mu)' inverse(Sigma) (x - mu): kernels and algebra.

`shape` says what each way to store matrices owes; `full`, `tied`, `diag` and `spherical` are the four.  `covariance`
has the models by name: a shape and what components have in common (`constraints`, `common_axes`).  `family` has what
does not depend on the density itself: how matrices are kept regular.
"""
