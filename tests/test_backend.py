"""The low-level functions on plain arrays: values, buffers, refusals."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from fastem import backend

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5000, 3)) + 2
CENTERS = RNG.normal(size=(4, 3)) + 2
SQDIST = np.square(X[:, None] - CENTERS).sum(axis=2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_threads", [None, 1, 2])
def test_assign(dtype, n_threads):
    labels, sqdist = backend.assign(X.astype(dtype), CENTERS, n_threads=n_threads)
    assert (labels.dtype, sqdist.dtype) == (np.int32, dtype)
    np.testing.assert_array_equal(labels, SQDIST.argmin(axis=1))
    np.testing.assert_allclose(sqdist, SQDIST.min(axis=1), rtol=1e-10 if dtype == np.float64 else 1e-4, atol=1e-6)


def test_results_are_written_into_the_callers_buffers():
    labels, sqdist = np.empty(5000, np.int32), np.empty(5000)
    got = backend.assign(X, CENTERS, out_labels=labels, out_sqdist=sqdist)
    assert got[0] is labels
    assert got[1] is sqdist
    step_labels = np.empty(5000, np.int32)
    backend.kmeans_step(X, CENTERS, out_labels=step_labels)
    np.testing.assert_array_equal(step_labels, labels)
    out = np.empty((5000, 4))
    assert backend.gaussian_log_density(X, CENTERS, np.ones(4), "spherical", out=out) is out


@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_step(weighted):
    w = RNG.uniform(size=5000) if weighted else np.ones(5000)
    step = backend.kmeans_step(X, CENTERS, w if weighted else None)
    resp = np.eye(4)[SQDIST.argmin(axis=1)] * w[:, None]
    np.testing.assert_allclose(step.counts, resp.sum(axis=0))
    np.testing.assert_allclose(step.sums, resp.T @ X)
    assert step.inertia == pytest.approx((resp * SQDIST).sum())


COVARIANCE = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 0.5]])
FACTORS = {
    "full": np.repeat(np.linalg.inv(np.linalg.cholesky(COVARIANCE)).T[None], 4, axis=0),
    "tied": np.linalg.inv(np.linalg.cholesky(COVARIANCE)).T,
    "diag": np.repeat(1 / np.sqrt(np.diag(COVARIANCE))[None], 4, axis=0),
    "spherical": np.full(4, 0.7),
}
DENSE = {
    "full": COVARIANCE,
    "tied": COVARIANCE,
    "diag": np.diag(np.diag(COVARIANCE)),
    "spherical": np.eye(3) / 0.49,
}


@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gaussian_log_density(kind, dtype):
    got = backend.gaussian_log_density(X.astype(dtype), CENTERS, FACTORS[kind], kind)
    want = np.column_stack([multivariate_normal(m, DENSE[kind]).logpdf(X) for m in CENTERS])
    np.testing.assert_allclose(got, want, rtol=1e-10 if dtype == np.float64 else 2e-5)


@pytest.mark.parametrize("kind", FACTORS)
def test_em_step_takes_missing_values(kind):
    pi, holed, cov = np.array([0.1, 0.2, 0.3, 0.4]), X[:300].copy(), DENSE[kind]
    holed[::3, 1] = np.nan
    step = backend.em_step(holed, pi, CENTERS, FACTORS[kind], kind)
    log_prob = []
    for x in holed:
        o = ~np.isnan(x)
        densities = [multivariate_normal(m[o], cov[o][:, o]).pdf(x[o]) for m in CENTERS]
        log_prob.append(np.log(pi @ densities))
    assert step.log_likelihood == pytest.approx(np.sum(log_prob))
    again = backend.em_step(holed, step.weights, step.means, step.precisions_cholesky, kind)
    assert again.log_likelihood > step.log_likelihood
    holed[7, 0] = np.inf
    with pytest.raises(ValueError, match=r"Input X contains infinity \(first at row 7, column 0\)"):
        backend.em_step(holed, pi, CENTERS, FACTORS[kind], kind)


@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("weighted", [False, True])
def test_em_step(kind, weighted):
    w = RNG.uniform(size=5000) if weighted else np.ones(5000)
    pi = np.array([0.1, 0.2, 0.3, 0.4])
    step = backend.em_step(X, pi, CENTERS, FACTORS[kind], kind, w if weighted else None, reg_covar=0.0)
    log_joint = np.log(pi) + np.column_stack([multivariate_normal(m, DENSE[kind]).logpdf(X) for m in CENTERS])
    log_prob = np.logaddexp.reduce(log_joint, axis=1)
    assert step.log_likelihood == pytest.approx(w @ log_prob)
    resp = np.exp(log_joint - log_prob[:, None]) * w[:, None]
    np.testing.assert_allclose(step.weights, resp.sum(axis=0) / w.sum())
    means = resp.T @ X / resp.sum(axis=0)[:, None]
    np.testing.assert_allclose(step.means, means)
    scatter = np.einsum("ik,ikj,ikl->kjl", resp, X[:, None] - means, X[:, None] - means)
    covariances = scatter / resp.sum(axis=0)[:, None, None]
    want = {
        "full": covariances,
        "tied": scatter.sum(axis=0) / w.sum(),
        "diag": np.einsum("kjj->kj", covariances),
        "spherical": np.einsum("kjj->k", covariances) / 3,
    }[kind]
    np.testing.assert_allclose(step.covariances, want, rtol=1e-9, atol=1e-12)


def test_any_numeric_layout_is_read_and_none_is_written_to():
    for variant in (np.asfortranarray(X), X[::-1][::-1], (X * 10).astype(np.int32), X.tolist()):
        backend.assign(variant, CENTERS)
    frozen = X.copy()
    frozen.flags.writeable = False
    backend.assign(frozen, CENTERS)
    backend.em_step(frozen, np.full(4, 0.25), CENTERS, FACTORS["full"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: backend.assign(X[0], CENTERS), ValueError, "Expected 2D array, got 1D array"),
        (lambda: backend.assign(X, CENTERS[:, :2]), ValueError, "centers has 2 features, but 3 features were expected"),
        (lambda: backend.assign(X[:0], CENTERS), ValueError, r"shape \(0, 3\)"),
        (lambda: backend.assign(X.astype(str), CENTERS), TypeError, "X must be numeric, got dtype"),
        (
            lambda: backend.assign(np.where(X[9, 2] == X, np.nan, X), CENTERS),
            ValueError,
            "X contains NaN .*row 9, column 2",
        ),
        (lambda: backend.assign(X, CENTERS * np.inf), ValueError, "centers contains infinity"),
        (
            lambda: backend.assign(X, CENTERS, out_labels=np.empty(5000)),
            ValueError,
            r"out_labels must be a writable C-contiguous int32 array of shape \(5000,\), got float64",
        ),
        (lambda: backend.assign(X, CENTERS, n_threads=0), ValueError, "n_threads"),
        (lambda: backend.kmeans_step(X, CENTERS, np.ones(3)), ValueError, r"sample_weight.shape == \(3,\)"),
        (lambda: backend.em_step(X, [1.0], CENTERS, FACTORS["full"]), ValueError, "'weights' should have the shape"),
        (
            lambda: backend.gaussian_log_density(X, CENTERS, FACTORS["full"], "diag"),
            ValueError,
            "'precisions_cholesky' should have the shape",
        ),
        (
            lambda: backend.gaussian_log_density(X, CENTERS, FACTORS["full"], "round"),
            ValueError,
            "covariance_type must be one of full",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()
