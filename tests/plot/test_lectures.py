"""The pictures of the lectures, of choosing k and of anomalies: what is drawn where."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

pytest.importorskip("matplotlib")

import fastem
from fastem import plot


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0.0, 1.0, 140), rng.normal(4.0, 1.2, 160)])[:, None]


@pytest.fixture(scope="module")
def plane():
    rng = np.random.default_rng(1)
    return np.vstack([rng.normal(0, 1, (150, 2)), rng.normal((6, 4), 1.3, (150, 2))])


def curves(ax):
    """The long lines of a picture, by label."""
    return {line.get_label(): line.get_xydata() for line in ax.lines if len(line.get_xdata()) > 50}


def test_the_bounds_lie_below_the_curve_and_touch_it(line):
    model = fastem.GaussianMixture(2, random_state=0).fit(line)
    low = int(model.means_[:, 0].argmin())
    ax = plot.lower_bound(model, line, component=low, start=2.5, limits=(-2.0, 4.0), iterations=3)
    drawn = curves(ax)
    curve = drawn.pop(r"$\ln p(X;\,\theta)$")
    assert len(drawn) == 3
    at = fastem.LowerBound(model, line)
    params = at.parameters()
    for t, height in curve[::80]:
        means = params.means.copy()
        means[low, 0] = t
        assert height == pytest.approx(at.log_likelihood(params._replace(means=means)) / len(line), rel=1e-12)
    tops = []
    for bound in drawn.values():
        gap = curve[:, 1] - bound[:, 1]
        assert gap.min() > -1e-12
        assert gap.min() < 1e-4  # it touches
        tops.append(bound[:, 1].max())
    assert np.all(np.diff(tops) > 0)  # and each is higher than the last


def test_a_line_of_ones_own_through_the_parameters(line):
    model = fastem.GaussianMixture(2, random_state=0).fit(line)
    params = fastem.LowerBound(model, line).parameters()
    ax = plot.lower_bound(
        model, line, along=lambda t: params._replace(weights=np.array([t, 1 - t])), limits=(0.01, 0.99), iterations=2
    )
    assert len(curves(ax)) == 3
    with pytest.raises(ValueError, match="limits are needed"):
        plot.lower_bound(model, line, along=lambda t: params)


def test_jensens_chord_lies_below_the_logarithm():
    ax = plot.jensen((1.0, 5.0), (0.25, 0.75))
    chord = next(line.get_xydata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o")
    np.testing.assert_allclose(chord, [[1, 0], [5, np.log(5)]])
    gap = next(line.get_xydata() for line in ax.lines if np.ptp(line.get_xdata()) == 0 and line.get_linewidth() > 2)
    np.testing.assert_allclose(gap, [[4.0, 0.75 * np.log(5)], [4.0, np.log(4)]])
    for bad in ({"x": (-1.0, 5.0)}, {"probabilities": (0.5, 0.6)}, {"x": (1.0, 2.0, 3.0)}):
        with pytest.raises(ValueError, match="two positive values"):
            plot.jensen(**bad)


def test_the_posterior_of_two_equal_gaussians_is_the_logistic_function(line):
    model = fastem.GaussianMixture(2, covariance_type="tied", random_state=0).fit(line)
    above, below = plot.posterior(model, line[:, 0]).axes
    grid, share = below.lines[1].get_data()
    np.testing.assert_allclose(np.exp(model.score_samples(grid[:, None])), above.lines[0].get_ydata())
    slope = (model.means_[1, 0] - model.means_[0, 0]) / model.covariances_[0, 0]
    middle = model.means_.mean() + np.log(model.weights_[0] / model.weights_[1]) / slope
    np.testing.assert_allclose(share, 1 / (1 + np.exp(-slope * (grid - middle))), atol=1e-12)
    with pytest.raises(ValueError, match="draws one feature"):
        plot.posterior(fastem.GaussianMixture(random_state=0).fit(np.eye(3)), np.eye(3))


@pytest.mark.parametrize("kind", ["mixture", "kmeans"])
def test_panels_show_the_parameters_of_their_cycle(plane, kind):
    start = np.array([[0.0, 4.0], [6.0, 0.0]])
    if kind == "kmeans":
        model = fastem.KMeans(2, init=start, n_init=1, tol=0.0, keep_history=True).fit(plane)
    else:
        model = fastem.GaussianMixture(2, means_init=start, tol=1e-12, keep_history=True, random_state=0).fit(plane)
    figure = plot.cycles(model, plane, after=(0, 1, 1000), names=["a", "b"])
    assert len(figure.axes) == 3
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:2] == ["start", "1 cycle"]
    assert titles[2].endswith("(the end)")
    for ax, params in zip(figure.axes, (model.history_[0], model.history_[1], model.history_[-1]), strict=True):
        centres = ax.collections[-1].get_offsets()
        np.testing.assert_allclose(centres, params.centers if kind == "kmeans" else params.means)
    with pytest.raises(ValueError, match="keep_history=True"):
        plot.cycles(fastem.KMeans(2, random_state=0).fit(plane), plane)


def test_contours_and_anomalies(plane):
    detector = fastem.AnomalyDetector(fastem.GaussianMixture(2, random_state=0), contamination=0.02).fit(plane)
    ax = plot.density(detector, plane, names=("heat", "vibration"))
    flagged = plane[detector.predict(plane) == -1]
    np.testing.assert_array_equal(np.asarray(ax.collections[-1].get_offsets()), flagged)
    edge = ax.collections[-3].get_paths()[0].vertices  # p(x) = epsilon
    np.testing.assert_allclose(detector.decision_function(edge), 0.0, atol=0.1)
    assert ax.get_ylabel() == "vibration"
    assert plot.density(detector.estimator_, plane).get_legend() is None
    with pytest.raises(ValueError, match="two features"):
        plot.density(detector, plane[:, :1])
    with pytest.raises(ValueError, match="3 names"):
        plot.density(detector, plane, names=("a", "b", "c"))


def test_curves_of_criteria(plane):
    found = fastem.select(plane, range(1, 5), covariance_types=["full", "tied"], random_state=0)
    ax = plot.criteria(found)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["full", "tied"]
    for line, kind in zip(ax.lines, labels, strict=False):
        bic = [row.bic for row in found.table if row.covariance_type == kind]
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([range(1, 5), bic]))
    assert ax.texts[-1].get_text() == f"k = {found.best.n_components}, {found.best.covariance_type}"
    one = fastem.select(plane, range(1, 4), covariance_types="full", random_state=0)
    labels = [text.get_text() for text in plot.criteria(one, names=("aic", "bic")).get_legend().get_texts()]
    assert labels == ["AIC full", "BIC full"]
    with pytest.raises(ValueError, match="no column 'waic'"):
        plot.criteria(one, names="waic")


def test_the_curve_of_inertia(plane):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = fastem.select(plane, range(1, 7), model="kmeans", criterion="elbow", random_state=0, n_init=3)
    ax = plot.elbow(found)
    inertia = ax.lines[1].get_ydata()
    assert np.all(np.diff(inertia) < 0)
    assert ax.texts[-1].get_text() == "k = 2"
    with pytest.raises(ValueError, match="results of k-means"):
        plot.elbow(fastem.select(plane, [1], covariance_types="full", random_state=0))
