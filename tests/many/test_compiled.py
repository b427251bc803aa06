"""Groups that compiled code fits: what the loop over estimators finds, to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many_problems import rows_for

from fastem.many.batches import fit_batch
from fastem.many.compiled import fit_compiled
from fastem.many.fit import template
from fastem.many.loop import fit_each

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

OPTIONS = {
    "kmeans": {},
    "spherical kmeans": {"spherical": True},
    "gmm": {},
    "bernoulli": {"binarize": None},
    "poisson": {},
    "categorical": {"n_categories": 9},
}


def problem(model, dtype, sizes, d, weighted):
    model = model.split()[-1]
    X = np.concatenate([rows_for(model, n, g, dtype, d) for g, n in enumerate(sizes)])
    w = np.random.default_rng(0).uniform(0.1, 2, len(X)) if weighted else np.empty(0)
    return X, w, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def assert_alike(ours, theirs, offsets, which):
    assert set(ours.parameters) == set(theirs.parameters)
    rows = np.repeat(which, np.diff(offsets))
    np.testing.assert_array_equal(ours.labels[rows], theirs.labels[rows])
    for name in ("objectives", "n_iter", "converged", "statuses"):
        np.testing.assert_array_equal(getattr(ours, name)[which], getattr(theirs, name)[which], name)
    for group in np.flatnonzero(which):
        assert ours.reasons.get(group) == theirs.reasons.get(group)
        for name, stacked in ours.parameters.items():
            np.testing.assert_array_equal(stacked.of(group), theirs.parameters[name].of(group), f"{name} of {group}")


@settings(max_examples=20, deadline=None)
@given(
    model=st.sampled_from(sorted(OPTIONS)),
    dtype=st.sampled_from([np.float32, np.float64]),
    d=st.sampled_from([1, 2, 5, 33]),
    k=st.sampled_from([1, 2, 3, 9]),
    weighted=st.booleans(),
    n_init=st.sampled_from([1, 2]),
    max_iter=st.sampled_from([1, 7, 60]),
    seed=st.integers(0, 2**31),
)
def test_groups_of_any_form(model, dtype, d, k, weighted, n_init, max_iter, seed):
    d = min(d, 32) if model == "gmm" else d
    sizes = np.random.default_rng(seed).integers(k, k + 150, 8)
    X, w, offsets = problem(model, dtype, sizes, d, weighted)
    estimator = template(model.split()[-1], seed, 1, {"n_init": n_init, "max_iter": max_iter, **OPTIONS[model]})
    estimator.set_params(**{"n_clusters" if "kmeans" in model else "n_components": k})
    found, left = fit_compiled(estimator, X, w, offsets, k)
    assert_alike(found, fit_each(estimator, X, w, offsets, np.full(8, k)), offsets, ~left)


@pytest.mark.parametrize("model", OPTIONS)
def test_few_groups_are_left(model):
    X, w, offsets = problem(model, np.float64, np.full(60, 80), 4, weighted=False)
    found = fit_compiled(template(model.split()[-1], 0, 1, OPTIONS[model]), X, w, offsets, 3)
    assert found[1].sum() <= 6


def test_counts_far_from_zero_have_origins_of_their_own():
    rng = np.random.default_rng(1)
    X = rng.poisson(rng.choice([1.0, 90.0, 1e5], (500, 1)) * np.ones(3)).astype(float)
    offsets = np.arange(0, 501, 50)
    estimator = template("poisson", 0, 1, {})
    found, left = fit_compiled(estimator, X, np.empty(0), offsets, 2)
    assert left.sum() < 5
    assert_alike(found, fit_each(estimator, X, np.empty(0), offsets, np.full(10, 2)), offsets, ~left)


@pytest.mark.parametrize("model", ["bernoulli", "poisson", "categorical"])
def test_values_that_a_family_cannot_have_spoil_no_other_group(model):
    X, w, offsets = problem(model, np.float64, np.full(12, 50), 3, weighted=True)
    X[offsets[2], 1], X[offsets[5], 0], X[offsets[7], 2] = -1, 0.5, np.nan
    estimator = template(model, 0, 1, OPTIONS[model])
    _, left = fit_compiled(estimator, X, w, offsets, 3)
    refused = {2, 7} if model == "poisson" else {2, 5, 7}
    assert refused <= set(np.flatnonzero(left).tolist())
    assert left.sum() < 6
    numbers = np.full(12, 3)
    ours, theirs = fit_batch(estimator, X, w, offsets, numbers), fit_each(estimator, X, w, offsets, numbers)
    assert_alike(ours, theirs, offsets, ~np.isnan(theirs.objectives))
    assert ours.reasons == theirs.reasons


def test_groups_with_categories_of_their_own():
    X, w, offsets = problem("categorical", np.float64, np.full(40, 60), 2, weighted=False)
    X = np.minimum(X, np.repeat(np.arange(40) % 3 + 2, 60)[:, None])
    X[offsets[3]] = np.nan
    X[offsets[4]] = 1e12
    estimator = template("categorical", 0, 1, {})
    ours, left = fit_compiled(estimator, X, w, offsets, 2)
    assert {3, 4} <= set(np.flatnonzero(left).tolist())
    assert left.sum() < 20
    keep = np.delete(np.arange(40), 4)  # the loop would make room for 1e12 categories
    rows = np.concatenate([np.arange(offsets[g], offsets[g + 1]) for g in keep])
    theirs = fit_each(estimator, X[rows], w, np.arange(0, 60 * 40, 60), np.full(39, 2))
    for at, group in enumerate(keep):
        if not left[group]:
            for name, stacked in ours.parameters.items():
                np.testing.assert_array_equal(stacked.of(group), theirs.parameters[name].of(at))


def test_rows_without_a_direction_are_left_to_the_loop():
    X, w, offsets = problem("spherical kmeans", np.float64, np.full(8, 60), 3, weighted=False)
    X[[3, 190]] = 0.0
    estimator = template("kmeans", 0, 1, {"spherical": True})
    estimator.set_params(n_clusters=3)
    found, left = fit_compiled(estimator, X, w, offsets, 3)
    np.testing.assert_array_equal(np.flatnonzero(left), [0, 3])
    assert_alike(found, fit_each(estimator, X, w, offsets, np.full(8, 3)), offsets, ~left)
