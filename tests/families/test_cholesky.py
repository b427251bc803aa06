"""Factors and inverses of large matrices: NumPy's to rounding, as exact as LAPACK's, whatever the threads."""

import numpy as np
import pytest

import fastem
from fastem import families, threads, validate
from fastem.draws import Draws
from fastem.families.elliptical import cholesky, full, lapack, tied
from fastem.sources.memory import MemorySource


def matrices(k, d, seed=0):
    rows = np.random.default_rng(seed).standard_normal((k, d, 2 * d))
    return rows @ rows.swapaxes(1, 2) / (2 * d)


@pytest.mark.parametrize(("k", "d"), [(1, 33), (3, 65), (4, 150)])
def test_factors_are_those_of_the_inverse(k, d):
    covariances = matrices(k, d)
    factors = cholesky.precision_factors(covariances)
    assert np.array_equal(factors, np.triu(factors))
    np.testing.assert_allclose(factors @ factors.swapaxes(1, 2), np.linalg.inv(covariances), atol=1e-10)
    np.testing.assert_allclose(cholesky.products(factors), factors @ factors.swapaxes(1, 2), atol=1e-12)
    found, own = cholesky.of_precisions(covariances)
    assert np.array_equal(found, found.swapaxes(1, 2))
    assert np.array_equal(own, np.triu(own))
    np.testing.assert_allclose(found, np.linalg.inv(covariances), atol=1e-10)
    np.testing.assert_allclose(own @ own.swapaxes(1, 2), covariances, atol=1e-12)


def test_bits_are_those_of_one_thread():
    covariances = matrices(5, 150)
    one = cholesky.precision_factors(covariances)
    with threads.allowing(3):
        assert np.array_equal(one, cholesky.precision_factors(covariances))
        assert all(map(np.array_equal, cholesky.of_precisions(covariances), cholesky.of_precisions(covariances)))
    assert np.array_equal(cholesky.precision_factors(covariances[2:3]), one[2:3])


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10])
@pytest.mark.parametrize("d", [64, 65, 129, 200, 333])
def test_inverses_of_triangles_are_as_exact_as_lapacks(d, condition):
    """Of both, the residual in units of the bound that the inverse's forward error has: eps |P| |U| |P|."""
    rng = np.random.default_rng(d)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    room = np.full((d, d + 3), np.nan)  # rows that lie farther apart than they are long
    upper = room[:, :d]
    upper[:] = np.linalg.cholesky((axes * np.geomspace(1, 1 / condition, d)) @ axes.T).T
    given, whole = upper.copy(), upper.copy()
    exact = inverse_in_long_double(given)
    assert lapack.invert_upper(upper)
    assert lapack.in_place("dtrtri", "LN", whole)
    assert np.array_equal(np.tril(upper, -1), np.tril(given, -1))
    assert np.isnan(room[:, d:]).all()
    bound = np.abs(exact) @ np.abs(given) @ np.abs(exact) * np.finfo(float).eps
    off, lapacks = (np.max(np.abs(np.triu(found) - exact) / np.where(bound > 0, bound, 1)) for found in (upper, whole))
    assert off < 3 * max(lapacks, 0.3)
    assert off < 2.0


def inverse_in_long_double(upper):
    upper = upper.astype(np.longdouble)
    found = np.zeros_like(upper)
    for i in reversed(range(len(upper))):
        row = -upper[i, i + 1 :] @ found[i + 1 :]
        row[i] += 1
        found[i] = row / upper[i, i]
    return found


@pytest.mark.parametrize(("d", "place"), [(40, 7), (200, 3), (200, 190)])
def test_a_triangle_without_an_inverse_is_told(d, place):
    upper = np.eye(d)
    upper[place, place] = 0.0
    assert not lapack.invert_upper(upper)


@pytest.mark.parametrize("k", [1, 4])
def test_matrices_that_are_one_have_the_bits_they_have_apart(k):
    one, other = matrices(2, 130)
    for make in (lambda given: [cholesky.precision_factors(given)], cholesky.of_precisions):
        alone = make(np.array([one, other]))
        for found, own in zip(make(np.repeat(one[None], k, axis=0)), alone, strict=True):
            assert all(np.array_equal(matrix, own[0]) for matrix in found)
            assert found.flags.writeable
            assert found.flags.c_contiguous
        last = np.array([one] * k + [other])  # which differs in its last number alone, in the second case
        for given in (last, np.array([one] * k + [one + 1e-3 * np.outer(np.eye(130)[-1], np.eye(130)[-1])])):
            for found, own in zip(make(given), make(given[::-1]), strict=True):
                assert np.array_equal(found, own[::-1])
                assert not np.array_equal(found[0], found[-1])


@pytest.mark.parametrize("d", [20, 40])
def test_singular_matrices_are_refused(d):
    covariances = matrices(3, d)
    covariances[1, 2] = covariances[1, :, 2] = 0.0
    for make in (full.precisions_cholesky, full.of_precisions):
        with pytest.raises(np.linalg.LinAlgError):
            make(covariances)
    covariances = matrices(3, d)
    covariances[2, 5], covariances[2, :, 5] = covariances[2, 4], covariances[2, :, 4]
    covariances[2, 5, 5] = covariances[2, 4, 4] * (1 + 1e-15)  # two features that are one
    with pytest.raises(np.linalg.LinAlgError):
        full.precisions_cholesky(covariances)


def test_symmetry_is_seen_across_blocks():
    precisions = matrices(2, 300)
    name = "full precision"
    assert validate.symmetric(precisions, name, full.SHAPE.of_precisions)[0] is precisions
    precisions[1, 3, 290] += 1e-9
    validate.symmetric(precisions, name, np.linalg.cholesky)
    precisions[1, 3, 290] += 1e-3
    with pytest.raises(ValueError, match="'full precision' should be symmetric, positive-definite"):
        validate.symmetric(precisions, name, np.linalg.cholesky)
    for place in ((290, 3), (130, 129), (299, 298), (1, 0)):
        given = matrices(1, 300)
        given[0][place] += 1e-3
        with pytest.raises(ValueError, match="should be symmetric"):
            validate.symmetric(given, name, full.SHAPE.of_precisions)
    with pytest.raises(ValueError, match="should be symmetric"):
        validate.positive_definite(-matrices(1, 40), name)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_given_precisions_are_where_a_fit_begins(kind):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 40))
    precisions = matrices(2, 40) if kind == "full" else matrices(1, 40)[0]
    options = {"weights_init": [0.5, 0.5], "means_init": X[:2], "precisions_init": precisions, "max_iter": 1}
    model = fastem.GaussianMixture(2, covariance_type=kind, fixed=["covariances"], tol=0, **options)
    with pytest.warns(UserWarning, match="did not converge"):
        model.fit(X)
    np.testing.assert_allclose(model.precisions_, precisions, atol=1e-12)
    np.testing.assert_allclose(model.covariances_, np.linalg.inv(precisions), atol=1e-10)
    shape = full.SHAPE if kind == "full" else tied.SHAPE
    assert np.array_equal(model.covariances_, shape.of_precisions(precisions)[0])


def test_a_task_that_fails_is_told():
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"), threads.allowing(2):
        cholesky.precision_factors(-matrices(4, 130))


def test_a_step_changes_nothing_it_was_given():
    """What is added to the variances is added in place: to the new covariances, not to a record or earlier ones."""
    for kind in ("full", "tied", "diag", "spherical"):
        family = families.make(f"gaussian-{kind}", 2)
        family.reg_covar = 0.5
        X = np.random.default_rng(0).standard_normal((60, 40))
        params = family.example_params(40, Draws(0))
        prepared = family.prepare(params, X.dtype)
        source = MemorySource(X, n_threads=1)
        stats, constants = source.accumulate(family, prepared), family.constants(source)
        dead = stats._replace(counts=np.zeros(2))
        for record in (stats, stats._replace(counts=np.array([60.0, 0.0])), dead):
            kept = [np.copy(field) for field in (*record, *params)]
            with np.errstate(invalid="ignore", divide="ignore"):
                family.m_step(record, constants, prepared, params)
            assert all(map(np.array_equal, kept, (*record, *params)))


def test_a_covariance_that_is_not_finite_is_refused():
    family = families.make("gaussian-full", 2)
    for value, place in ((np.nan, (1, 3, 50)), (np.inf, (0, 7, 7)), (np.inf, (1, 3, 50)), (-np.inf, (1, 8, 9))):
        covariances = matrices(2, 60)
        covariances[place] = covariances[place[0], place[2], place[1]] = value
        with pytest.raises(ValueError, match="A covariance is not finite"):
            family.regular(np.ones(2), covariances)
