"""Restarts that give up early, and moves that leave a local maximum."""

import numpy as np
import pytest

import fastem
from fastem import families
from fastem.draws import Draws
from fastem.engine import em, restarts
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.sources.memory import MemorySource
from fastem.starts.kmeans import kmeans_start
from fastem.starts.mixture import MixtureStart

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

MIXTURES = sorted(name for name in families.FAMILIES if name != "kmeans" and families.mixes(name))


def pairs(n=60, seed=0):
    """Six tight clusters in three far pairs: random starts put too many centres into one pair."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0], [1, 0], [20, 0], [21, 0], [0, 20], [1, 20]])
    return (centres[:, None] + 0.12 * rng.normal(size=(6, n, 2))).reshape(-1, 2)


def overlapping(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(600, 2)) + 2.5 * rng.normal(size=(5, 2))[rng.integers(5, size=600)]


OPTIONS = {"init_params": "random_from_data", "tol": 1e-5, "max_iter": 400, "reg_covar": 1e-3}


def test_a_race_finds_the_best_run_with_fewer_iterations():
    same, spent = [], []
    for make in (pairs, overlapping):
        for seed in range(4):
            model = fastem.GaussianMixture(6, n_init=12, random_state=seed, **OPTIONS)
            every = model.fit(make(seed=seed))
            best, cost = every.lower_bound_, sum(map(len, every.histories_))
            raced = fastem.GaussianMixture(6, n_init=12, random_state=seed, drop_restarts=True, **OPTIONS)
            raced.fit(make(seed=seed))
            same.append(raced.lower_bound_ > best - 1e-4)
            spent.append(sum(map(len, raced.histories_)) / cost)
    assert np.mean(same) > 0.8  # 95 % over many more data sets, measured apart
    assert np.mean(spent) < 0.9


def test_a_race_does_not_depend_on_the_threads():
    X = overlapping()
    models = [
        fastem.GaussianMixture(5, n_init=8, drop_restarts=True, random_state=1, n_threads=n, **OPTIONS).fit(X)
        for n in (1, 2)
    ]
    np.testing.assert_array_equal(models[0].restarts_, models[1].restarts_)
    np.testing.assert_array_equal(models[0].means_, models[1].means_)


@pytest.mark.parametrize("accelerate", [None, "squarem"])
def test_a_restart_that_wins_a_race_is_as_if_alone(accelerate):
    X, options = overlapping(), {**OPTIONS, "n_init": 6, "random_state": 1, "accelerate": accelerate}
    alone, raced = (fastem.GaussianMixture(5, drop_restarts=drop, **options).fit(X) for drop in (False, True))
    lengths = [len(history) for history in raced.histories_]
    assert max(lengths) > 2 * restarts.FIRST_STOP, "no restart was ever paused"
    for cut, whole in zip(raced.histories_, alone.histories_, strict=True):
        np.testing.assert_array_equal(cut, whole[: len(cut)])
    np.testing.assert_array_equal(raced.means_, alone.means_)
    assert (raced.lower_bound_, raced.n_iter_, raced.converged_) == (alone.lower_bound_, alone.n_iter_, True)


@pytest.mark.parametrize("iteration", [5, restarts.FIRST_STOP, 2 * restarts.FIRST_STOP])
def test_a_race_certifies_the_steps_across_its_stops(iteration, monkeypatch):
    right = em.EMRun._advance

    def wrong(self, now):
        right(self, now)
        if (self.monitor.restart, self.monitor.iteration) == (0, iteration):
            self.params = self.params._replace(means=self.params.means + 1.0)

    monkeypatch.setattr(em.EMRun, "_advance", wrong)
    model = fastem.GaussianMixture(
        5, n_init=4, drop_restarts=True, certify=True, random_state=1, **{**OPTIONS, "tol": 0.0}
    )
    with pytest.raises(fastem.MonotonicityError, match=f"at iteration {iteration + 1} of restart 0"):
        model.fit(overlapping())


def test_a_callback_ends_a_restart_at_a_stop_of_the_race():
    told = []

    def callback(info):
        told.append(info)
        return info.restart == 2 and info.iteration == restarts.FIRST_STOP

    options = {**OPTIONS, "n_init": 4, "random_state": 1, "callback": callback}
    fastem.GaussianMixture(5, drop_restarts=True, **options).fit(overlapping())
    assert max(info.iteration for info in told if info.restart == 2) == restarts.FIRST_STOP


def test_the_traces_of_a_race_are_whole():
    X, told = overlapping(), []
    model = fastem.GaussianMixture(
        5, n_init=6, drop_restarts=True, random_state=1, keep_history=True, callback=told.append, **OPTIONS
    ).fit(X)
    alone = fastem.GaussianMixture(5, n_init=6, random_state=1, **OPTIONS).fit(X)
    for raced, plain in zip(model.histories_, alone.histories_, strict=True):
        shared = min(len(raced), len(plain))
        np.testing.assert_allclose(raced[:shared], plain[:shared], rtol=1e-12)  # the same path, cut or not
        assert np.all(np.diff(raced) > -1e-9)
    best = int(model.restarts_.argmax())
    assert len(model.history_) == model.n_iter_ + 1 == len(model.histories_[best]) + 1
    for restart, history in enumerate(model.histories_):
        assert [info.iteration for info in told if info.restart == restart] == list(range(1, len(history) + 1))


def test_k_means_can_race_too():
    X = pairs()
    family, source = families.make("kmeans", 6), MemorySource(X)
    start = kmeans_start(6, "random")
    results = [
        em.run(Problem(source, family), start, settings=Settings(max_iter=300, tol=0.0, drop_restarts=drop), n_init=20)
        for drop in (False, True)
    ]
    assert results[1].best.objective == pytest.approx(results[0].best.objective, rel=1e-12)
    np.testing.assert_array_equal(results[1].best.memo.labels, results[0].best.memo.labels)


def test_split_and_merge_leaves_known_local_maxima():
    X = pairs()
    truth = fastem.GaussianMixture(6, means_init=X[30::60], **OPTIONS).fit(X).lower_bound_
    stuck, freed = [], []
    for seed in range(12):
        model = fastem.GaussianMixture(6, random_state=seed, **OPTIONS)
        stuck.append(truth - model.fit(X).lower_bound_)
        model = fastem.GaussianMixture(6, random_state=seed, escape="split-merge", **OPTIONS)
        freed.append(truth - model.fit(X).lower_bound_)
    stuck, freed = np.array(stuck), np.array(freed)
    assert np.all(freed <= stuck + 1e-6)  # never worse
    assert np.sum(stuck > 1e-3) >= 4  # plain EM is often stuck
    assert np.sum(freed > 1e-3) <= np.sum(stuck > 1e-3) / 2


@pytest.mark.parametrize("name", MIXTURES)
def test_split_and_merge_serves_every_family(name):
    family, draws = families.make(name, 4), Draws(7)
    X = np.ascontiguousarray(family.sample(family.example_params(5, draws), 400, draws)[0], np.float64)
    source, start = MemorySource(X, 1.0 + draws.uniform(400)), MixtureStart("random")
    plain, freed = (
        em.run(Problem(source, family), start, settings=Settings(max_iter=100, tol=1e-6, escape=escape)).best
        for escape in (None, "split-merge")
    )
    assert freed.objective >= plain.objective - 1e-9
    assert len(freed.objectives) == freed.n_iter >= plain.n_iter
    np.testing.assert_array_equal(freed.objectives[: plain.n_iter], plain.objectives)


def test_the_most_alike_are_merged_and_the_worst_explained_is_split():
    # Components 0 and 1 explain the same rows; component 2 stretches over two far clusters.
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(0, 1, (200, 2)), rng.normal((10, 0), 1, (100, 2)), rng.normal((10, 9), 1, (100, 2))])
    model = fastem.GaussianMixture(
        3, weights_init=[0.25, 0.25, 0.5], means_init=[[0, 0], [0.1, 0], [10, 4.5]],
        precisions_init=[np.eye(2), np.eye(2), np.diag([1, 1 / 20])], max_iter=1,
    ).fit(X)  # fmt: skip
    family = model._family()
    prepared = family.prepare(model._fitted_params(family), X.dtype)
    portrait = restarts._portrait(MemorySource(X), family, prepared)
    assert restarts._triples(portrait)[0] == (0, 1, 2)
    _, axis = restarts._longest_axis(MemorySource(X), family, prepared, 2)
    assert abs(axis[1]) > 0.99
    freed = fastem.GaussianMixture(
        3, weights_init=[0.25, 0.25, 0.5], means_init=[[0, 0], [0.1, 0], [10, 4.5]],
        precisions_init=[np.eye(2), np.eye(2), np.diag([1, 1 / 20])], escape="split-merge",
    ).fit(X)  # fmt: skip
    np.testing.assert_allclose(np.sort(freed.means_[:, 1]), [0, 0, 9], atol=0.3)
    assert freed.notes_ == []  # a success is no warning


def test_noise_stays_out_of_the_moves():
    X = np.vstack([pairs(), np.random.default_rng(1).uniform(-5, 25, (40, 2))])
    plain, freed = (
        fastem.GaussianMixture(6, noise=True, random_state=0, escape=escape, **OPTIONS).fit(X)
        for escape in (None, "split-merge")
    )
    assert freed.lower_bound_ >= plain.lower_bound_
    assert 0.03 < freed.noise_weight_ < 0.3


@pytest.mark.parametrize(("option", "value"), [("escape", "jump"), ("drop_restarts", 1)])
def test_bad_options_are_refused(option, value):
    with pytest.raises(ValueError, match=f"'{option}' parameter"):
        fastem.GaussianMixture(2, **{option: value}).fit(pairs())
