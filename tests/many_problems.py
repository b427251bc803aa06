"""Small problems of every model, and what two fits have in common."""

import numpy as np

from fastem.registry import BY_SHORT_NAME, ESTIMATORS

# Model -> options with which a fit is quick.
MODELS = {
    "kmeans": {},
    "gmm": {"covariance_type": "diag"},
    "bernoulli": {"binarize": None},
    "poisson": {},
    "categorical": {},
    "student": {"max_iter": 20},
    "factor": {},
    "mfa": {"max_iter": 20},
}
assert set(MODELS) == set(BY_SHORT_NAME)


def rows_for(model, n, seed, dtype=np.float64, d=4):
    """Return rows (n, d) that a model can take, of three overlapping clusters."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(3, size=n)[:, None]
    if model == "bernoulli":
        return (rng.random((n, d)) < 0.2 + 0.3 * cluster).astype(dtype)
    if model in ("poisson", "categorical"):
        return np.minimum(rng.poisson(1.0 + 2 * cluster, (n, d)), 8).astype(dtype)
    return (rng.normal(size=(n, d)) + 3.0 * cluster).astype(dtype)


def with_k(model, k, **options):
    """Return the estimator of a model with k components."""
    from importlib import import_module

    name = BY_SHORT_NAME[model]
    return getattr(import_module(ESTIMATORS[name].module), name)(k, **options)


def differing(alone, member):
    """Return the names of fitted attributes that both have and that are not equal to the bit, in type and dtype."""
    names = [name for name in vars(alone) if name.endswith("_") or name.startswith("_exact")]
    both = [name for name in names if hasattr(member, name)]
    assert {"n_iter_", "converged_", "n_features_in_", "notes_"} <= set(both)
    return [name for name in both if not same(getattr(alone, name), getattr(member, name))]


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other
