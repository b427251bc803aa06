"""scikit-learn's callback protocol: what its own callbacks, and one of ours, see of a fit."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import fastem

callback = pytest.importorskip("sklearn.callback", reason="the protocol came with scikit-learn 1.9")

MODELS = {
    "kmeans": fastem.KMeans(4, n_init=3, init="random", random_state=0),
    "gmm": fastem.GaussianMixture(3, n_init=2, random_state=0),
    "poisson": fastem.PoissonMixture(3, n_init=2, random_state=0),
    "student": fastem.StudentTMixture(2, random_state=0),
    "factor": fastem.FactorAnalysis(1),
}


class Recorder:
    """Keeps what it is told, and stops each restart at an iteration if asked."""

    def __init__(self, stop_at=None):
        self.stop_at, self.told, self.scores = stop_at, [], []

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X):
        self.told.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.told.append(("end", context.task_name, context.task_id))
        self.scores.append(fitted_estimator.score(X))
        return context.task_name == "iteration" and context.task_id + 1 == self.stop_at


def rows():
    rng = np.random.default_rng(0)
    return rng.poisson(np.array([2.0, 8.0, 20.0])[rng.integers(0, 3, 300)][:, None], (300, 4)).astype(float)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_callback_is_told(name):
    recorder, X = Recorder(), rows()
    model = clone(MODELS[name]).set_params(max_iter=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = clone(model).fit(X)
        model.set_callbacks(recorder).fit(X)
    assert recorder.told[0] == "setup"
    assert recorder.told[1][:2] == ("begin", "fit")
    assert recorder.told[-2][:2] == ("end", "fit")
    assert recorder.told[-1] == "teardown"
    n_init = getattr(model, "n_init", 1)
    assert sum(told[:2] == ("end", "restart") for told in recorder.told) == n_init
    iterations = sum(told[:2] == ("end", "iteration") for told in recorder.told)
    assert iterations == sum(len(history) for history in model.histories_)
    assert model.score(X) == plain.score(X) == recorder.scores[-1]  # watched, and not disturbed
    first = recorder.scores[: len(model.histories_[0])]
    assert name == "kmeans" or np.all(np.diff(first) > -1e-9)
    assert not hasattr(model, "_callback_fit_ctx")


@pytest.mark.parametrize("name", MODELS)
def test_a_callback_may_stop_a_restart(name):
    model = clone(MODELS[name]).set_params(tol=0.0).set_callbacks(Recorder(stop_at=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows())
    assert {len(history) for history in model.histories_} == {2}


def test_scikit_learns_monitor():
    monitor = callback.ScoringMonitor(scoring=None)
    model = fastem.GaussianMixture(3, random_state=0, max_iter=5, tol=0).set_callbacks(monitor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows())
    logged = monitor.get_logs()
    assert logged


def test_other_callbacks_are_refused():
    with pytest.raises(TypeError, match="FitCallback protocol"):
        fastem.KMeans(2).set_callbacks(print)


@pytest.mark.parametrize("kind", [fastem.MiniBatchKMeans, fastem.BisectingKMeans])
def test_the_other_k_means(kind):
    recorder, X = Recorder(), rows()
    model = kind(4, random_state=0).set_callbacks(recorder).fit(X)
    assert [told if isinstance(told, str) else told[:2] for told in recorder.told[-2:]] == [("end", "fit"), "teardown"]
    assert recorder.scores[-1] == model.score(X) == kind(4, random_state=0).fit(X).score(X)
    if kind is fastem.MiniBatchKMeans:
        assert sum(told[:2] == ("end", "iteration") for told in recorder.told) == model.n_steps_
        stopped = kind(4, random_state=0).set_callbacks(Recorder(stop_at=2)).fit(X)
        assert stopped.n_steps_ == 2


@pytest.mark.parametrize("model", [fastem.KMeans(9, max_iter=2, tol=0), fastem.GaussianMixture(4, max_iter=1)])
def test_warnings_point_at_the_caller(model):
    with pytest.warns(ConvergenceWarning) as caught:
        model.set_params(random_state=0).fit(rows())
    assert {item.filename for item in caught} == {__file__}
