"""Every family's kernels, compiled by one process for a number type; see conftest.py."""

import itertools
import warnings

import numpy as np

from fastem import families
from fastem.draws import Draws
from fastem.sources.memory import MemorySource

# Covariance models in capitals share the kernels of a shape.
NAMES = [name for name in families.FAMILIES if name != "kmeans" and not name[-3:].isupper()]


def compile_kernels(dtype: str) -> None:
    """Run all passes over few rows: complete and with missing values, of few features and more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, d in itertools.product(NAMES, (2, 4)):
            family = families.make(name, 2 if families.mixes(name) else 1)
            params = family.example_params(d, Draws(0))
            X = family.sample(params, 60, Draws(1))[0].astype(dtype)
            run_passes(family, params, X)
            if family.allow_nan:
                X[::3, 0] = np.nan
                run_passes(family.for_missing(), params, X)


def run_passes(family, params, X):
    prepared, layout = family.prepare(params, X.dtype), family.layout(X.shape[1])
    for n_threads in (1, 2):
        source = MemorySource(X, n_threads=n_threads)
        family.constants(source)
        source.accumulate(family, prepared)
        joint = family.log_joint(X, prepared, n_threads)
    if np.isnan(X).any() and hasattr(family, "conditional_mean"):
        family.conditional_mean(X, prepared, 1)
    if X.dtype == np.float64:
        resp = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
        family.accumulate_given(X, np.empty(0), resp, prepared, np.zeros(layout.size))
