"""Triangles of matrices: what NumPy has, and nothing that is not finite is overlooked."""

import numpy as np
import pytest

from fastem.kernels.triangles import about_means, clear_lower, covariance, mirror, upper_below

SIZES = [1, 2, 15, 16, 17, 40]


def matrix(d):
    return np.random.default_rng(d).standard_normal((d, d))


@pytest.mark.parametrize("d", SIZES)
def test_triangles_are_mirrored_and_cleared(d):
    given = matrix(d)
    own = given.copy()
    mirror(d, own)
    assert np.array_equal(own, np.triu(given) + np.triu(given, 1).T)
    assert clear_lower(own)
    assert np.array_equal(own, np.triu(given))
    covered = np.triu(given) + np.tril(np.full((d, d), np.nan), -1)
    assert clear_lower(covered)
    assert np.array_equal(covered, np.triu(given))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, 39), (17, 20), (39, 39)])
def test_what_is_not_finite_is_seen(bad, place):
    given = np.triu(matrix(40))
    assert upper_below(given, np.inf)
    given[place] = bad
    assert not upper_below(given, np.inf)
    assert not clear_lower(given)


def test_a_limit_is_of_both_signs():
    given = np.triu(matrix(20))
    given[3, 7] = -5.0
    assert upper_below(given, np.abs(given).max() * (1 + 1e-15))
    assert not upper_below(given, 5.0)
    given[7, 3] = 9.0  # below the diagonal, where factors are 0
    assert upper_below(given, 5.1)


@pytest.mark.parametrize("d", SIZES)
def test_a_covariance_is_symmetric_and_that_of_numpy(d):
    rows = np.random.default_rng(d).standard_normal((3 * d + 5, d)) + 2
    scatter, shift = rows.T @ rows, rows.mean(axis=0)
    scatter = np.triu(scatter) + np.triu(scatter, 1).T
    found = np.full((d, d), np.nan)
    covariance(scatter, float(len(rows)), shift, found)
    assert np.array_equal(found, found.T)
    assert np.abs(found - (scatter / len(rows) - np.outer(shift, shift))).max() < 1e-14 * np.diag(scatter).max()


@pytest.mark.parametrize("k", [1, 4])
def test_scatter_about_means(k):
    rng = np.random.default_rng(k)
    X, resp = rng.standard_normal((60, 37)), rng.dirichlet(np.ones(k), 60)
    means = rng.standard_normal((k, 37))
    found = np.full((37, 37), np.nan)
    about_means(X.T @ X, resp.T @ X, resp.sum(axis=0), means, found)
    expected = sum(((X - mean) * own[:, None]).T @ (X - mean) for mean, own in zip(means, resp.T, strict=True))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert np.array_equal(found, found.T)
