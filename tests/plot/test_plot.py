"""Pictures: what is drawn where.  (How they look was judged by eye.)"""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.patches import Ellipse

import fastem
from fastem import plot

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    centres = rng.uniform(-8, 8, (3, 4))
    return centres[rng.integers(3, size=600)] + rng.normal(size=(600, 4)) @ rng.normal(size=(4, 4))


@pytest.fixture(scope="module")
def mixtures(X):
    return {
        kind: fastem.GaussianMixture(3, covariance_type=kind, n_init=2, random_state=0).fit(X)
        for kind in COVARIANCE_TYPES
    }


def full_covariances(model):
    k, d = model.means_.shape
    if model.covariance_type == "full":
        return model.covariances_
    if model.covariance_type == "tied":
        return np.array([model.covariances_] * k)
    if model.covariance_type == "diag":
        return np.array([np.diag(row) for row in model.covariances_])
    return np.array([value * np.eye(d) for value in model.covariances_])


def outline(ellipse):
    """Points on the border of an ellipse patch, in data coordinates."""
    angles = np.linspace(0, 2 * np.pi, 50)
    along = np.column_stack([np.cos(angles) * ellipse.width / 2, np.sin(angles) * ellipse.height / 2])
    turn = np.radians(ellipse.angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return along @ rotation + ellipse.center


def edges(axes):
    return [patch for patch in axes.patches if isinstance(patch, Ellipse) and not patch.get_fill()]


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_ellipses_lie_one_and_two_sigmas_out(X, mixtures, kind):
    model = mixtures[kind]
    ellipses = edges(plot.clusters(model, X, columns=(3, 1)))
    assert len(ellipses) == 6
    for at, ellipse in enumerate(ellipses):
        c, sigmas = at // 2, at % 2 + 1
        away = outline(ellipse) - model.means_[c, [3, 1]]
        covariance = full_covariances(model)[c][np.ix_([3, 1], [3, 1])]
        distances = np.sqrt(np.einsum("ij,ij->i", away @ np.linalg.inv(covariance), away))
        np.testing.assert_allclose(distances, sigmas)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_ellipses_on_principal_axes(X, mixtures, kind):
    model = mixtures[kind]
    axes = plot.clusters(model, X, axes="principal")
    _, values, rotation = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    basis = rotation[:2].T * np.sign(rotation[:2, :][[0, 1], np.abs(rotation[:2]).argmax(axis=1)])
    shares = 100 * values**2 / (values**2).sum()
    assert axes.get_xlabel() == f"principal axis 1 ({shares[0]:.0f} % of variance)"
    for at, ellipse in enumerate(edges(axes)):
        c, sigmas = at // 2, at % 2 + 1
        away = outline(ellipse) - (model.means_[c] - X.mean(axis=0)) @ basis
        covariance = basis.T @ full_covariances(model)[c] @ basis
        distances = np.sqrt(np.einsum("ij,ij->i", away @ np.linalg.inv(covariance), away))
        np.testing.assert_allclose(distances, sigmas)


def test_points_are_the_rows_in_the_colours_of_their_clusters(X):
    model = fastem.KMeans(3, random_state=0).fit(X)
    axes = plot.clusters(model, X)
    points = axes.collections[0]
    order = np.lexsort(X[:, :2].T)
    drawn = np.lexsort(points.get_offsets().T)
    np.testing.assert_array_equal(points.get_offsets()[drawn], X[order, :2])
    colours = points.get_facecolors()[drawn, :3]
    for c in range(3):
        assert len(np.unique(colours[model.labels_[order] == c], axis=0)) == 1
    assert len(np.unique(colours, axis=0)) == 3
    np.testing.assert_allclose(axes.collections[1].get_offsets(), model.cluster_centers_[:, :2])
    assert not edges(axes)


def test_responsibilities_mix_the_colours(X, mixtures):
    model = fastem.GaussianMixture(2, random_state=0).fit(np.array([[-1.0, 0], [-1.5, 1], [1, 0], [1.5, 1]] * 3))
    rows = np.array([[-9.0, 0.5], [0.0, 0.5], [9.0, 0.5]])
    halves = model.predict_proba(rows)[1]
    assert halves == pytest.approx([0.5, 0.5], abs=0.1)
    by_responsibility = plot.clusters(model, rows).collections[0].get_facecolors()[:, :3]
    by_label = plot.clusters(model, rows, colour_by="labels").collections[0].get_facecolors()[:, :3]
    assert len(np.unique(by_responsibility.round(6), axis=0)) == 3
    assert len(np.unique(by_label.round(6), axis=0)) == 2


def test_names_come_from_a_data_frame_or_are_given(X, mixtures):
    class Frame(np.ndarray):
        columns = ("a", "b", "c", "d")

    axes = plot.clusters(mixtures["full"], X.view(Frame), columns=("d", "b"))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("d", "b")
    axes = plot.clusters(mixtures["full"], X, columns=(-1, 0), names=["p", "q", "r", "s"])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("s", "p")
    assert plot.clusters(mixtures["full"], X).get_ylabel() == "x1"


def test_at_most_20_000_rows_are_drawn(mixtures):
    X = np.random.default_rng(0).normal(size=(50_000, 4))
    figure = plot.summary(mixtures["diag"], X)
    assert len(figure.axes[0].collections[0].get_offsets()) == 20_000
    assert figure.axes[0].get_title(loc="left").endswith("50,000 rows (20,000 drawn)")


@pytest.mark.parametrize("model", [fastem.KMeans(2, random_state=0), fastem.GaussianMixture(2, random_state=0)])
def test_one_feature_is_a_histogram(X, model):
    axes = plot.clusters(model.fit(X[:, :1]), X[:, :1], names=["speed"])
    assert axes.get_xlabel() == "speed"
    heights = sum(bar.get_height() * bar.get_width() for bar in axes.patches)
    assert heights == pytest.approx(1.0)
    assert len(axes.lines) == 2


def test_objective_draws_every_restart(X):
    model = fastem.KMeans(3, n_init=5, init="random", random_state=0).fit(X)
    axes = plot.objective(model)
    curves = [line for line in axes.lines if line.get_marker() != "o"]
    assert len(curves) == 5
    best = max(curves, key=lambda line: line.get_linewidth())
    np.testing.assert_array_equal(best.get_ydata(), model.inertia_history_)
    assert axes.get_ylabel() == "inertia"
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [f"best: restart {np.argmax(model.restarts_) + 1}", "4 other restarts"]
    alone = plot.objective(fastem.GaussianMixture(2, random_state=0).fit(X))
    assert alone.get_legend() is None
    assert alone.get_ylabel() == "log-likelihood per row"


def test_given_axes_are_drawn_on(X, mixtures):
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert plot.clusters(mixtures["tied"], X, ax=left) is left
    assert plot.objective(mixtures["tied"], ax=right) is right


def test_a_dead_component_is_not_drawn(X, mixtures):
    import copy

    model = copy.deepcopy(mixtures["full"])
    model.weights_ = np.array([0.4, 0.0, 0.6])
    assert len(edges(plot.clusters(model, X, colour_by="labels"))) == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"columns": (0, 4)}, "There is no feature 4"),
        ({"columns": (0, "z")}, "There is no feature 'z'"),
        ({"columns": (0, 1, 2)}, "must be a pair"),
        ({"columns": (0, 1), "axes": "principal"}, "do not go with principal axes"),
        ({"axes": "polar"}, "axes must be"),
        ({"colour_by": "mood"}, "colour_by must be"),
        ({"names": ["a"]}, "There are 1 names for 4 features"),
    ],
)
def test_mistakes(X, mixtures, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        plot.clusters(mixtures["full"], X, **options)


def test_mistakes_about_the_model(X, mixtures):
    with pytest.raises(ValueError, match="fitted to 4 features"):
        plot.clusters(mixtures["full"], X[:, :2])
    with pytest.raises(ValueError, match="not fitted"):
        plot.clusters(fastem.KMeans(2), X)
    with pytest.raises(ValueError, match="not fitted"):
        plot.objective(fastem.KMeans(2))


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures_can_be_written(X, mixtures, tmp_path, suffix):
    plot.summary(mixtures["spherical"], X).savefig(tmp_path / f"fit.{suffix}")
    assert (tmp_path / f"fit.{suffix}").stat().st_size > 5_000


def test_neither_pyplot_nor_early_matplotlib():
    code = (
        "import sys, fastem.plot, numpy as np; assert 'matplotlib' not in sys.modules;"
        "X = np.arange(20.0).reshape(10, 2); fastem.plot.summary(fastem.KMeans(2, random_state=0).fit(X), X);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
