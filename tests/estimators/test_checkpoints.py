"""Fits that are killed at random moments go on from their checkpoint and end with the bits of one that was not."""

import os
import random
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

import fastem
from fastem import (
    BernoulliMixture,
    BisectingKMeans,
    CategoricalMixture,
    FactorAnalyserMixture,
    FactorAnalysis,
    GaussianMixture,
    HierarchicalKMeans,
    KMeans,
    MiniBatchKMeans,
    Mixture,
    PoissonMixture,
    StudentTMixture,
)
from fastem.engine.checkpoint import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


class Killed(Exception):
    pass


def measurements(n=5000, d=4):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) + 4 * rng.integers(0, 4, (n, 1))


def with_holes(X):
    return np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.nan, X)


def counts():
    return np.random.default_rng(2).poisson(2 + 5 * np.random.default_rng(3).integers(0, 3, (3000, 4)))


def weights(n):
    return np.random.default_rng(4).uniform(0.2, 2.0, n)


X, DRAWN = measurements(), {"init_params": "random_from_data", "random_state": 0, "tol": 1e-9, "max_iter": 25}
FITS = {
    "restarts": (GaussianMixture, {"n_components": 4, "n_init": 3, **DRAWN}, X),
    "side by side": (
        GaussianMixture,
        {"n_components": 9, "n_init": 4, "n_threads": 2, **DRAWN},
        measurements(8000, 16),
    ),
    "missing, float32, squarem": (
        GaussianMixture,
        {"n_components": 4, "n_init": 2, "accelerate": "squarem", **DRAWN},
        with_holes(X).astype(np.float32),
    ),
    "a race": (
        GaussianMixture,
        # Few iterations, for each adds its parameters to the history, which every save writes; one restart is given up.
        {"n_components": 5, "n_init": 4, "drop_restarts": True, "keep_history": True, **DRAWN, "max_iter": 20},
        X,
    ),
    "a race of accelerated runs": (
        StudentTMixture,
        {"n_components": 3, "n_init": 4, "drop_restarts": True, "accelerate": "squarem", **DRAWN},
        X,
    ),
    "escape": (GaussianMixture, {"n_components": 4, "escape": "split-merge", **DRAWN, "tol": 1e-4}, X),
    "hard": (GaussianMixture, {"n_components": 4, "assignment": "hard", "covariance_type": "diag", **DRAWN}, X),
    "noise": (GaussianMixture, {"n_components": 4, "noise": True, **DRAWN}, X),
    "rescue": (GaussianMixture, {"n_components": 12, "rescue": True, **DRAWN}, X[:2500].round(0)),
    "bernoulli": (BernoulliMixture, {"n_components": 3, "n_init": 2, **DRAWN}, (X > 6).astype(float)),
    "poisson": (PoissonMixture, {"n_components": 3, "n_init": 2, **DRAWN}, counts()),
    "categorical": (CategoricalMixture, {"n_components": 3, "n_init": 2, **DRAWN}, counts() % 3),
    "factor analysers": (FactorAnalyserMixture, {"n_components": 3, **DRAWN}, X),
    "a family by name": (Mixture, {"n_components": 3, "family": "gaussian-tied", **DRAWN}, X),
    "factor analysis": (FactorAnalysis, {"n_components": 2, "tol": 1e-9, "max_iter": 20}, with_holes(X)),
    "k-means": (KMeans, {"n_clusters": 6, "n_init": 3, "init": "random", "random_state": 0, "tol": 0}, X),
    "bounds": (
        KMeans,
        {"n_clusters": 40, "n_init": 2, "init": "random", "random_state": 0, "tol": 0, "algorithm": "hamerly"},
        X,
    ),
    "swaps and moves": (
        KMeans,
        {"n_clusters": 6, "init": "random", "n_init": 2, "random_state": 0, "n_swaps": 4, "refine": "hartigan"},
        X,
    ),
    "spherical": (KMeans, {"n_clusters": 6, "n_init": 2, "spherical": True, "random_state": 0, "tol": 0}, X),
}


def sparse_rows():
    from scipy import sparse

    return sparse.random(5000, 30, 0.05, format="csr", random_state=0)


FITS |= {
    f"sparse rows{', spherical' * spherical}": (
        KMeans,
        {"n_clusters": 6, "n_init": 2, "init": "random", "random_state": 0, "tol": 0, "spherical": spherical},
        sparse_rows(),
    )
    for spherical in (False, True)
}


def equal(one, other):
    """Whether two fitted models have the same bits."""
    names = [name for name in vars(one) if name.endswith("_") and name[0] != "_"]
    for name in names:
        np.testing.assert_equal(getattr(other, name), getattr(one, name), err_msg=name)
    return bool(names)


def go_on_until_it_ends(kind, options, rows, path, w, every=1):
    """Begin a fit again and again, each time until it is stopped after a few iterations; return it, and how often."""
    draws, times = np.random.default_rng(7), 0
    while True:
        left = [int(draws.integers(2, 14)) if times else 2]

        def count(info, left=left):
            left[0] -= 1
            if left[0] <= 0:
                raise Killed

        model = kind(**options, callback=count, checkpoint=path, checkpoint_every=every)
        try:
            return model.fit(rows, **w), times
        except Killed:
            times += 1
            assert times < 200, "it gets nowhere"


# Every other fit has weights: the deep checks make each with and without.
@pytest.mark.parametrize(
    ("name", "weighted"),
    [
        pytest.param(name, weighted, marks=() if weighted == bool(number % 2) else pytest.mark.deep)
        for number, name in enumerate(FITS)
        for weighted in (False, True)
    ],
)
def test_a_fit_that_is_stopped_ends_with_the_same_bits(name, weighted, tmp_path):
    kind, options, rows = FITS[name]
    w = {"sample_weight": weights(rows.shape[0])} if weighted else {}
    whole = kind(**options).fit(rows, **w)
    model, times = go_on_until_it_ends(kind, options, rows, tmp_path / "fit.npz", w)
    assert times
    assert equal(whole, model)
    assert not list(tmp_path.iterdir())


# Centres of little weight are looked for after every second step.
BATCHES = {"n_clusters": 9, "batch_size": 80, "max_iter": 1, "reassignment_ratio": 0.3, "max_no_improvement": None}
BY_STEPS = {  # whose iterations nobody can watch
    "bisecting": (BisectingKMeans, {"n_clusters": 9, "algorithm": "elkan"}, X),
    "mini-batches": (MiniBatchKMeans, BATCHES, X),
    "mini-batches that stop early": (MiniBatchKMeans, {**BATCHES, "max_no_improvement": 6, "compute_labels": False}, X),
    "mini-batches of sparse rows": (MiniBatchKMeans, BATCHES, sparse_rows()),
    "two levels": (HierarchicalKMeans, {"n_clusters": 30, "n_refine": 4}, X),
}


def go_on_from_save_to_save(kind, options, rows, path, w, every, monkeypatch, most=15):
    """Begin a fit again and again, each time until it was stopped after a few states were saved."""
    save, times, draws = Checkpoint.save, 0, np.random.default_rng(5)
    while True:
        left = [int(draws.integers(1, most)) if times else 1]

        def save_and_stop(checkpoint, left=left):
            save(checkpoint)
            left[0] -= 1
            if not left[0]:
                raise Killed

        monkeypatch.setattr(Checkpoint, "save", save_and_stop)
        try:
            return kind(**options, random_state=0, checkpoint=path, checkpoint_every=every).fit(rows, **w), times
        except Killed:
            times += 1
            assert times < 100, "it gets nowhere"


@pytest.mark.parametrize(("weighted", "every"), [(False, 1), (True, 3)])
@pytest.mark.parametrize("name", BY_STEPS)
def test_a_fit_in_steps_ends_with_the_same_bits(name, weighted, every, tmp_path, monkeypatch):
    kind, options, rows = BY_STEPS[name]
    w = {"sample_weight": weights(rows.shape[0])} if weighted else {}
    every = 1 if name == "two levels" else every
    most = 15 if options.get("max_no_improvement", 0) is None else 4
    model, times = go_on_from_save_to_save(kind, options, rows, tmp_path / "fit.npz", w, every, monkeypatch, most)
    assert times
    assert equal(kind(**options, random_state=0).fit(rows, **w), model)
    assert not list(tmp_path.iterdir())


def test_batches_go_on_after_a_fit_that_went_on(tmp_path, monkeypatch):
    """What `partial_fit` needs is in the checkpoint, too."""
    whole = MiniBatchKMeans(**BATCHES, random_state=0).fit(X)
    model, _ = go_on_from_save_to_save(MiniBatchKMeans, BATCHES, X, tmp_path / "fit.npz", {}, 1, monkeypatch)
    assert equal(whole.partial_fit(X[:300]), model.partial_fit(X[:300]))


@pytest.mark.parametrize("name", ["mini-batches", "two levels"])
def test_steps_of_another_fit_are_refused(name, tmp_path, monkeypatch):
    kind, options, rows = BY_STEPS[name]
    model = kind(**options, random_state=0, checkpoint=tmp_path / "fit.npz", checkpoint_every=1)
    save = Checkpoint.save

    def save_and_stop(checkpoint):
        save(checkpoint)
        raise Killed

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    with pytest.raises(Killed):
        model.fit(rows)
    before = (tmp_path / "fit.npz").read_bytes()
    with pytest.raises(ValueError, match=r"n_clusters was .* and not 8: remove it to begin anew"):
        model.set_params(n_clusters=8).fit(rows)
    with pytest.raises(ValueError, match="checksum of the rows"):
        model.set_params(n_clusters=options["n_clusters"]).fit(other_rows())
    assert (tmp_path / "fit.npz").read_bytes() == before


@pytest.mark.parametrize("every", [3, "0s"])
def test_a_fit_that_is_saved_less_often_ends_with_the_same_bits(every, tmp_path):
    kind, options, rows = FITS["restarts"]
    model, times = go_on_until_it_ends(kind, options, rows, tmp_path / "fit.npz", {}, every)
    assert times
    assert equal(kind(**options).fit(rows), model)


@pytest.mark.parametrize("cache", ["never", "always"])
def test_a_stream_goes_on_with_the_same_bits(cache, tmp_path):
    options = {"n_clusters": 40, "random_state": 0, "tol": 0, "max_iter": 30, "algorithm": "hamerly"}
    rows = measurements(150_000)

    def stream():
        return fastem.rows(lambda: iter(np.array_split(rows, 7)), cache=cache)

    model, times = go_on_until_it_ends(KMeans, options, stream(), tmp_path / "fit.npz", {})
    assert times
    assert equal(KMeans(**options).fit(stream()), model)


def test_a_seed_from_nowhere_is_kept(tmp_path):
    options = {"n_clusters": 5, "init": "random", "n_init": 6, "tol": 0}
    first = stopped(KMeans(**options, checkpoint=tmp_path / "fit.npz", checkpoint_every=1))
    seen = np.load(tmp_path / "fit.npz")["fastem-checkpoint.json"].tobytes().decode()
    seed = int(re.search(r'"seed": (\d+)', seen)[1])
    again = first.set_params(callback=None).fit(X)
    assert equal(KMeans(**options, random_state=seed).fit(X), again)


def stopped(model, rows=X, after=8):
    """A model whose fit was stopped after some iterations."""
    left = [after]

    def count(info):
        left[0] -= 1
        if not left[0]:
            raise Killed

    with pytest.raises(Killed):
        model.set_params(callback=count).fit(rows)
    return model.set_params(callback=None)


def other_rows():
    rows = X.copy()
    rows[3211, 2] = np.nextafter(rows[3211, 2], 9.0)
    return rows


@pytest.mark.parametrize(
    ("change", "rows", "words"),
    [
        ({"n_components": 5}, X, "n_components was 4 and not 5"),
        ({"tol": 1e-8}, X, "tol was 1e-09 and not 1e-08"),
        ({"random_state": 1}, X, "random_state was 0 and not 1"),
        ({"means_init": X[:4]}, X, "means_init was None and not 'array"),
        ({}, X[:-1], r"shape of the rows was \[5000, 4\] and not \[4999, 4\]"),
        ({}, X.astype(np.float32), "dtype of the rows was 'float64' and not 'float32'"),
        ({}, other_rows(), "checksum of the rows"),
        ({}, X[::-1].copy(), "checksum of the rows"),
        ({}, X[:, ::-1].copy(), "checksum of the rows"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(change, rows, words, tmp_path):
    kind, options, _ = FITS["restarts"]
    path = tmp_path / "fit.npz"
    model = stopped(kind(**options, checkpoint=path, checkpoint_every=1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=words) as refusal:
        model.set_params(**change).fit(rows)
    assert "remove it to begin anew" in str(refusal.value)
    assert path.read_bytes() == before


def test_other_weights_labels_versions_and_classes_are_refused(tmp_path, monkeypatch):
    kind, options, _ = FITS["restarts"]
    model = stopped(kind(**options, checkpoint=tmp_path / "fit.npz", checkpoint_every=1))
    with pytest.raises(ValueError, match="checksum of the weights"):
        model.fit(X, sample_weight=weights(len(X)))
    with pytest.raises(ValueError, match="checksum of the labels"):
        model.fit(X, labels=np.where(np.arange(len(X)) < 9, 0, -1))
    with pytest.raises(ValueError, match="class was 'GaussianMixture' and not 'KMeans'"):
        KMeans(4, checkpoint=tmp_path / "fit.npz").fit(X)
    monkeypatch.setattr(fastem, "__version__", "99.0")
    with pytest.raises(ValueError, match=r"version was .* and not '99.0'"):
        model.fit(X)


def test_what_changes_no_bit_may_be_another(tmp_path):
    kind, options, _ = FITS["restarts"]
    model = stopped(kind(**options, checkpoint=tmp_path / "fit.npz", checkpoint_every=1))
    model.set_params(n_threads=1, certify=True, checkpoint_every="1h").fit(X)
    assert equal(kind(**options).fit(X), model)


def test_files_that_are_no_checkpoints_stay_as_they_are(tmp_path):
    path = tmp_path / "model.npz"
    fastem.save(KMeans(2, random_state=0).fit(X), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is not a checkpoint of fastem"):
        KMeans(2, checkpoint=path).fit(X)
    assert path.read_bytes() == before
    path.write_text("notes")
    with pytest.raises(ValueError, match="is not a checkpoint of fastem"):
        KMeans(2, checkpoint=path).fit(X)
    with pytest.raises(ValueError, match="cannot be read"):
        KMeans(2, checkpoint=tmp_path).fit(X)


@pytest.mark.parametrize("name", ["restarts", "bounds", "a race"])
def test_a_damaged_checkpoint_is_said_to_be_one(name, tmp_path):
    kind, options, rows = FITS[name]
    path = tmp_path / "fit.npz"
    model = stopped(kind(**options, checkpoint=path, checkpoint_every=1), rows, after=12)
    whole, draws = path.read_bytes(), random.Random(0)
    for _ in range(30):
        damaged = bytearray(whole)
        place = draws.randrange(len(whole))
        damaged[place] ^= 1 << draws.randrange(8)
        path.write_bytes(damaged[: draws.choice([len(whole), draws.randrange(1, len(whole))])])
        refusal = ""
        try:
            model.fit(rows)
        except ValueError as error:
            refusal = str(error)
        # Or it was in what nobody reads.
        assert str(path) in refusal if refusal else equal(kind(**options).fit(rows), model)


@pytest.mark.parametrize(
    "options", [{"checkpoint": 3}, {"checkpoint": "a.npz", "checkpoint_every": 0}, {"checkpoint_every": "soon"}]
)
def test_bad_values_are_refused(options):
    with pytest.raises(ValueError, match="checkpoint"):
        KMeans(2, **options).fit(X)


def test_many_fits_have_no_checkpoint():
    model = GaussianMixture(2, checkpoint="fit.npz")
    with pytest.raises(ValueError, match="these are many"):
        fastem.fit_many(X, np.arange(len(X)) % 2, model=model)
    with pytest.raises(ValueError, match="these are many"):
        fastem.select(X, range(1, 3), model=model)


# ---------------------------------------------------------------------------------------------------------- kill -9

SCRIPT = """
import sys, time, warnings
import numpy as np, fastem
warnings.simplefilter("ignore")
kind, options, rows, weights, checkpoint, every, saved = np.load(sys.argv[1], allow_pickle=True)["fit"].tolist()
model = getattr(fastem, kind)(**options, checkpoint=checkpoint, checkpoint_every=every)
model.callback = lambda info: time.sleep(0.01)
print("begun", flush=True)
model.fit(rows, sample_weight=weights)
model.callback = None
fastem.save(model, saved)
"""


def killed_at_random_moments(name, seed, folder, moments):
    """Fit in processes that are killed after a random time, until one ends; return the model, and how many were."""
    kind, options, rows = FITS[name]
    draws = random.Random(seed)
    w = weights(len(rows)) if seed % 2 else None
    every = draws.choice([1, 2, 5, "0s", "0.1s"])
    checkpoint, saved = folder / f"{seed}.npz", folder / f"{seed}-model.npz"
    packed = np.empty(7, object)
    packed[:] = [kind.__name__, options, rows, w, str(checkpoint), every, str(saved)]
    np.savez(folder / f"{seed}-fit.npz", fit=packed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # First: the processes find its kernels compiled, and are killed while they iterate, not while they compile.
        whole = kind(**options).fit(rows, sample_weight=w)
    killed = 0
    for most in (*moments, None):
        command = [sys.executable, "-c", SCRIPT, str(folder / f"{seed}-fit.npz")]
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        assert child.stdout.readline() == b"begun\n"
        try:
            child.wait(None if most is None else draws.uniform(0, most))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            killed += 1
        child.stdout.close()
        if saved.exists():
            break
    assert not checkpoint.exists()
    return fastem.load(saved), whole, killed


KILLED = ["restarts", "missing, float32, squarem", "bounds", "a race"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9")
@pytest.mark.parametrize("name", KILLED[:2])
def test_kill_9_at_random_moments(name, tmp_path):
    model, whole, killed = killed_at_random_moments(name, len(name), tmp_path, (0.1, 0.4))
    assert killed
    assert equal_where_saved(whole, model)


@pytest.mark.deep
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9")
@pytest.mark.parametrize("seed", range(20))
def test_kill_9_twenty_times(seed, tmp_path):
    names = KILLED + sorted(set(FITS) - {*KILLED, "sparse rows", "sparse rows, spherical"})
    model, whole, _ = killed_at_random_moments(names[seed % len(names)], seed, tmp_path, (0.1, 0.3, 0.6, 1.0))
    assert equal_where_saved(whole, model)


def equal_where_saved(whole, model):
    """Whether a model that was saved has the bits of another."""
    for name in model._saved:
        np.testing.assert_equal(getattr(model, name), getattr(whole, name), err_msg=name)
    return bool(model._saved)
