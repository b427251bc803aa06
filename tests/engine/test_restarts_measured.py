"""How often a race of restarts ends with the best run, and what it saves: 10 data sets, 50 seeds, 16 random starts.

Some minutes; run by ``pytest -m deep``.
"""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris, load_wine

import fastem

pytestmark = [pytest.mark.deep, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

SEEDS, STARTS = 50, 16


def standardised(X):
    return (X - X.mean(axis=0)) / X.std(axis=0)


def principal(X, m):
    X = X - X.mean(axis=0)
    return X @ np.linalg.svd(X, full_matrices=False)[2][:m].T


def blobs(n, k, d, spread, seed, *, stretched=False):
    rng = np.random.default_rng(seed)
    z, centres, X = rng.integers(k, size=n), spread * rng.normal(size=(k, d)), rng.normal(size=(n, d))
    return (np.einsum("nd,nde->ne", X, rng.normal(size=(k, d, d))[z]) if stretched else X) + centres[z]


def pairs():
    centres = np.array([[0.0, 0], [1, 0], [20, 0], [21, 0], [0, 20], [1, 20]])
    return (centres[:, None] + 0.12 * np.random.default_rng(5).normal(size=(6, 120, 2))).reshape(-1, 2)


def data_sets():
    faithful = np.loadtxt(Path(__file__).parents[2] / "examples" / "faithful.csv", delimiter=",", skiprows=1)
    return {
        "iris": (load_iris().data, 3),
        "faithful": (standardised(faithful), 4),
        "wine": (standardised(load_wine().data)[:, :6], 3),
        "digits": (principal(load_digits().data, 5), 10),
        "far": (blobs(800, 8, 2, 6, 1), 8),
        "overlapping": (blobs(800, 6, 3, 2, 2), 6),
        "stretched": (blobs(800, 5, 3, 4, 3, stretched=True), 5),
        "pairs": (pairs(), 6),
        "many": (blobs(1200, 16, 2, 6, 4), 16),
        "noise": (np.random.default_rng(5).normal(size=(600, 4)), 4),
    }


@pytest.mark.timeout(1800)
def test_a_race_ends_with_the_best_run(request):
    if "deep" not in request.config.option.markexpr:
        pytest.skip("minutes; asked for by -m deep")
    same, spent = {}, {}
    options = {"init_params": "random_from_data", "n_init": STARTS, "tol": 1e-5, "max_iter": 400, "reg_covar": 1e-3}
    for name, (X, k) in data_sets().items():
        for seed in range(SEEDS):
            every, raced = (
                fastem.GaussianMixture(k, random_state=seed, drop_restarts=drop, **options).fit(X)
                for drop in (False, True)
            )
            same.setdefault(name, []).append(raced.lower_bound_ > every.lower_bound_ - 1e-4)
            iterations = [sum(map(len, model.histories_)) for model in (every, raced)]
            spent.setdefault(name, []).append(iterations[1] / iterations[0])
        print(f"{name:12s} the best run {np.mean(same[name]):.0%}, iterations {np.mean(spent[name]):.0%}")
    print(f"all: the best run {np.mean([*same.values()]):.1%}, iterations {np.mean([*spent.values()]):.1%}")
    assert np.mean([*same.values()]) >= 0.95
    assert np.mean([*spent.values()]) < 0.9
