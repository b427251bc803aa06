"""The fourteen covariance models against slow NumPy: what their letters say, M-steps, and fits that never fall."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastem
from fastem.draws import Draws
from fastem.families.elliptical.covariance import COVARIANCES, LETTERS
from fastem.families.gaussian import GaussianFamily

K, D = 4, 3
by_model = pytest.mark.parametrize("letters", LETTERS)
CONSTRAINED = [letters for letters in LETTERS if COVARIANCES[letters].constraint]


def scatters(seed, k=K, d=D, common=0.0):
    """Shares (k,), and covariances (k, d, d) without constraint, whose axes nearly agree if `common` is near 1."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    noise = (1 - common) * rng.standard_normal((k, d, d))
    own = axes + noise
    variances = rng.uniform(0.3, 4.0, (k, d)) * rng.uniform(0.5, 3.0, (k, 1))
    return rng.dirichlet(np.full(k, 5.0)), own @ (variances[:, :, None] * np.swapaxes(own, 1, 2)) + 0.1 * np.eye(d)


def m_step(letters, shares, covariances, previous=None):
    """The model's covariances as matrices (k, d, d)."""
    k, d = covariances.shape[:2]
    model = COVARIANCES[letters]
    if model.shape.name == "tied":
        return np.broadcast_to(np.tensordot(shares, covariances, 1), (k, d, d))
    own = model.shape.of_matrices(covariances)
    before = own if previous is None else model.shape.of_matrices(previous)
    found = model.constraint(shares, own, before) if model.constraint else own
    return model.shape.as_matrices(found, k, d)


def deviance(shares, covariances, found):
    """What an M-step minimises: -2 Q a row, up to a constant."""
    return sum(
        p * (np.linalg.slogdet(sigma)[1] + np.trace(np.linalg.solve(sigma, own)))
        for p, own, sigma in zip(shares, covariances, found, strict=True)
    )


# --- the oracle: Celeux and Govaert (1995), section 4, formula by formula; Browne and McNicholas (2014) for common axes


def unit(matrix):
    """A matrix over the d-th root of its determinant, and that root."""
    volume = np.linalg.det(matrix) ** (1 / len(matrix))
    return matrix / volume, volume


def common_axes(shares, S, inverse_of, axes):
    """Majorisation: until nothing moves, the linear bound of the trace is minimised by a polar decomposition."""
    largest = np.linalg.eigvalsh(S)[:, -1]
    for _ in range(200_000):
        B = inverse_of(axes)
        F = sum(
            p * (own - top * np.eye(len(axes))) @ axes * b for p, own, top, b in zip(shares, S, largest, B, strict=True)
        )
        U, _, V = np.linalg.svd(F)
        moved, axes = np.abs(-U @ V - axes).max(), -U @ V
        if moved < 1e-15:
            break
    return axes


def oracle(letters, shares, S):
    k, d = S.shape[:2]
    W = shares[:, None, None] * S  # scatters of one row's weight
    diagonal = np.array([np.diag(np.diag(own)) for own in W])
    if letters == "EII":
        return np.repeat((np.trace(W.sum(axis=0)) / d * np.eye(d))[None], k, axis=0)
    if letters == "VII":
        return np.array([np.trace(own) / (d * p) * np.eye(d) for own, p in zip(W, shares, strict=True)])
    if letters == "EEI":
        return np.repeat(diagonal.sum(axis=0)[None], k, axis=0)
    if letters in ("VEI", "VEE"):
        parts, volumes = diagonal if letters == "VEI" else W, np.ones(k)
        for _ in range(3000):
            C = unit(sum(part / volume for part, volume in zip(parts, volumes, strict=True)))[0]
            volumes = np.array(
                [np.trace(own @ np.linalg.inv(C)) / (d * p) for own, p in zip(parts, shares, strict=True)]
            )
        return volumes[:, None, None] * C
    if letters in ("EVI", "EVV"):
        shapes, volumes = zip(*(unit(part) for part in (diagonal if letters == "EVI" else W)), strict=True)
        return sum(volumes) * np.array(shapes)
    if letters == "VVI":
        return diagonal / shares[:, None, None]
    if letters == "EEE":
        return np.repeat(W.sum(axis=0)[None], k, axis=0)
    if letters == "VVV":
        return S
    if letters in ("EEV", "VEV"):
        values, axes = np.linalg.eigh(W)
        volumes = np.ones(k)
        for _ in range(3000 if letters == "VEV" else 1):
            A = unit(np.diag((values / volumes[:, None]).sum(axis=0)))[0]
            if letters == "VEV":
                inverse = 1 / np.diag(A)
                volumes = (values @ inverse) / (d * shares)
        if letters == "EEV":
            volumes = np.full(k, unit(np.diag(values.sum(axis=0)))[1])
        return np.array([v * L @ A @ L.T for v, L in zip(volumes, axes, strict=True)])

    def allowed(axes):
        own = np.diagonal(axes.T @ S @ axes, axis1=1, axis2=2)
        if letters == "VVE":
            return own
        roots = np.prod(own, axis=1) ** (1 / d)
        return own / roots[:, None] * (shares @ roots)

    start = np.linalg.eigh(W.sum(axis=0))[1]
    axes = common_axes(shares, S, lambda axes: 1 / allowed(axes), start)
    return np.array([axes @ np.diag(v) @ axes.T for v in allowed(axes)])


@by_model
@pytest.mark.parametrize("seed", range(5))
def test_m_step_is_the_oracle(letters, seed):
    shares, S = scatters(seed, common=0.8 if letters in ("EVE", "VVE") else 0.0)
    want = oracle(letters, shares, S)
    np.testing.assert_allclose(m_step(letters, shares, S), want, rtol=0, atol=1e-10 * np.abs(want).max())


@by_model
def test_m_step_does_not_depend_on_where_it_begins_but_for_common_axes(letters):
    shares, S = scatters(7)
    found = m_step(letters, shares, S, previous=scatters(8)[1])
    if letters in ("EVE", "VVE"):
        assert deviance(shares, S, found) <= deviance(shares, S, m_step(letters, shares, S, previous=S)) + 0.05
    else:
        np.testing.assert_allclose(found, m_step(letters, shares, S), rtol=1e-10, atol=1e-10)


@by_model
@given(seed=st.integers(0, 10_000), k=st.integers(1, 5), d=st.integers(1, 6), scale=st.floats(-8, 8))
@settings(max_examples=25, deadline=None)
def test_letters_say_what_is_equal_and_no_member_of_the_model_is_better(letters, seed, k, d, scale):
    shares, S = scatters(seed, k, d)
    S *= 10.0**scale
    found = m_step(letters, shares, S)
    volumes = np.exp(np.linalg.slogdet(found)[1] / d)
    values = np.linalg.eigvalsh(found / volumes[:, None, None])
    if letters[0] == "E":
        np.testing.assert_allclose(volumes, volumes[0], rtol=1e-9)
    if letters[1] == "E":
        np.testing.assert_allclose(values, np.broadcast_to(values[0], values.shape), rtol=1e-7)
    if letters[1] == "I":
        np.testing.assert_allclose(values, 1.0, rtol=1e-9)
    if letters[2] == "I":
        assert np.all(found == found * np.eye(d))
    if letters[2] == "E":  # matrices of common axes commute
        for one in found:
            np.testing.assert_allclose(one @ found[0], found[0] @ one, atol=1e-7 * np.abs(one @ found[0]).max())
    # Each other member, here the M-steps of other covariances in the same model, and scaled ones, explain S no better.
    best = deviance(shares, S, found)
    slack = 1e-9 * (1 + abs(best))
    for other in (m_step(letters, shares, scatters(seed + 1, k, d)[1]), 1.01 * found, 0.99 * found):
        if letters not in ("EVE", "VVE"):  # which may have several maxima
            assert best <= deviance(shares, S, other) + slack
    assert best <= deviance(shares, S, 1.01 * found) + slack


@pytest.mark.parametrize("letters", ["EVE", "VVE"])
@pytest.mark.parametrize(("k", "d"), [(2, 2), (5, 8), (16, 16)])
def test_common_axes_are_stationary_where_the_covariances_have_none(letters, k, d):
    shares, S = scatters(5, k, d)
    found = m_step(letters, shares, S)
    moment = sum(p * np.linalg.solve(one, own) for p, one, own in zip(shares, found, S, strict=True))
    np.testing.assert_allclose(moment, moment.T, atol=1e-8 * np.abs(moment).max())
    values, axes = np.linalg.eigh(found[0])
    turned = axes.T @ found @ axes
    np.testing.assert_allclose(turned * (1 - np.eye(d)), 0.0, atol=1e-10 * values.max() * k)


@pytest.mark.parametrize("letters", CONSTRAINED)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_an_m_step_is_never_worse_than_where_it_began(letters, seed):
    shares, S = scatters(seed)
    before = m_step(letters, *scatters(seed + 1))
    after = m_step(letters, shares, S, previous=before)
    assert deviance(shares, S, after) <= deviance(shares, S, before) + 1e-9


@pytest.mark.parametrize("letters", [letters for letters in LETTERS if letters[2] != "I"])
def test_matrices_turn_with_the_coordinates(letters):
    shares, S = scatters(11, common=0.8)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]
    turned = m_step(letters, shares, turn @ S @ turn.T)
    np.testing.assert_allclose(turned, turn @ m_step(letters, shares, S) @ turn.T, atol=1e-8)


# mclust 6: nMclustParams(model, d = 3, G = 4) less 4 * 3 means and 3 proportions.
PARAMETERS = {
    **{"EII": 1, "VII": 4, "EEI": 3, "VEI": 6, "EVI": 9, "VVI": 12, "EEE": 6, "VEE": 9, "EVE": 12, "VVE": 15},
    **{"EEV": 15, "VEV": 18, "EVV": 21, "VVV": 24},
}


@by_model
def test_numbers_of_parameters(letters):
    assert COVARIANCES[letters].n_parameters(4, 3) == PARAMETERS[letters]
    assert GaussianFamily(4, letters).n_free_params(3) == PARAMETERS[letters] + 12 + 3


def clusters(letters, n=900, d=3, k=3, seed=0):
    family = GaussianFamily(k, letters)
    params = family.example_params(d, Draws(seed))
    return family.sample(params, n, Draws(seed + 1))


ALIASES = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}


@pytest.mark.parametrize(("letters", "word"), ALIASES.items())
def test_four_models_have_a_word_as_well(letters, word):
    X, _ = clusters(letters)
    one, other = (fastem.GaussianMixture(3, covariance_type=name, random_state=0).fit(X) for name in (letters, word))
    assert np.array_equal(one.covariances_, other.covariances_)
    assert one.bic(X) == other.bic(X)


@by_model
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fits_find_the_clusters_and_never_fall(letters, missing, dtype):
    X, y = clusters(letters)
    if missing:
        X = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    model = fastem.GaussianMixture(3, covariance_type=letters, n_init=2, random_state=0, certify=True)
    labels = model.fit(X.astype(dtype), sample_weight=1.0 + np.arange(len(X)) % 3).predict(X.astype(dtype))
    best = np.array([np.bincount(y[labels == c]).max(initial=0) for c in range(3)])
    assert best.sum() > 0.95 * len(X)
    assert np.isfinite(model.score_samples(X.astype(dtype))).all()
    assert model.score(X) > fastem.GaussianMixture(1, covariance_type=letters).fit(X).score(X)


@pytest.mark.parametrize("letters", CONSTRAINED)
@pytest.mark.parametrize(
    "options",
    [{"noise": True}, {"assignment": "hard"}, {"accelerate": "squarem"}, {"rescue": True}, {"reg_covar": 0.0}],
)
def test_models_go_with_what_mixtures_can_do(letters, options):
    X, _ = clusters(letters)
    model = fastem.GaussianMixture(3, covariance_type=letters, random_state=0, certify=True, **options).fit(X)
    full = COVARIANCES[letters].shape.as_matrices(model.covariances_, 3, 3)
    shares = model.weights_ / model.weights_.sum()
    again = m_step(letters, shares, full, previous=full)  # a member of the model is its own M-step
    np.testing.assert_allclose(again, full, rtol=1e-8, atol=1e-8 * np.abs(full).max())


@pytest.mark.parametrize("letters", CONSTRAINED)
def test_flat_rows_and_lost_components_get_an_answer(letters):
    X, _ = clusters(letters, n=40)
    X[:, 2] = 1.0
    model = fastem.GaussianMixture(6, covariance_type=letters, reg_covar=0.0, random_state=0, max_iter=30).fit(X)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        assert np.isfinite(getattr(model, name)).all()


@pytest.mark.parametrize("letters", ["EEI", "VVE", "EVV"])
def test_some_features_have_nothing_in_common_any_more(letters):
    X, _ = clusters(letters)
    model = fastem.GaussianMixture(3, covariance_type=letters, random_state=0).fit(X)
    shape = COVARIANCES[letters].shape
    part = model.marginal([0, 2])
    assert part.covariance_type == shape.name
    full = shape.as_matrices(model.covariances_, 3, 3)
    np.testing.assert_allclose(shape.as_matrices(part.covariances_, 3, 2), full[:, [[0], [2]], [0, 2]], rtol=1e-12)
    twin = model.to_sklearn()
    assert twin.covariance_type == shape.name
    np.testing.assert_allclose(twin.score_samples(X), model.score_samples(X), rtol=1e-10)


def test_given_precisions_are_brought_into_the_model():
    X, _ = clusters("VVE")
    precisions = np.linalg.inv(scatters(3, 3, 3)[1])
    options = {"covariance_type": "VVE", "precisions_init": precisions, "random_state": 0, "certify": True}
    fastem.GaussianMixture(3, **options).fit(X)


def test_unknown_letters_are_refused():
    with pytest.raises(ValueError, match=r"covariance_type.*'XYZ'"):
        fastem.GaussianMixture(2, covariance_type="XYZ").fit(np.eye(3))
    with pytest.raises(ValueError, match="covariance_types must be among"):
        fastem.select(np.eye(3), 2, covariance_types=["VVX"])
