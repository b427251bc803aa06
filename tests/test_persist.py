"""Saving and loading: round trips, and files that are truncated, foreign or hostile."""

import copy
import io
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

import fastem

X = load_iris().data


MODELS = {
    "kmeans": lambda: fastem.KMeans(3, random_state=0).fit(X),
    "float32": lambda: fastem.KMeans(3, init=X[:3], callback=lambda info: None).fit(X.astype(np.float32)),
    **{
        kind: lambda kind=kind: fastem.GaussianMixture(3, covariance_type=kind, random_state=0, max_iter=500).fit(X)
        for kind in ("full", "tied", "diag", "spherical")
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, tmp_path):
    model = MODELS[name]()
    path = tmp_path / "model.npz"
    fastem.save(model, path)
    loaded = fastem.load(path)
    assert type(loaded) is type(model)
    for name in model._saved:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
        assert type(getattr(loaded, name)) is type(getattr(model, name))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    for key, value in model.get_params().items():
        if key != "callback":
            np.testing.assert_array_equal(loaded.get_params()[key], value)
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]


def test_feature_names_and_extras_come_back(tmp_path):
    frame = load_iris(as_frame=True).data
    model = fastem.KMeans(3, random_state=0).fit(frame)
    fastem.save(model, tmp_path / "m", extra={"columns": ["a", "b"], "scale": np.arange(3.0)})
    loaded, extra = fastem.load(tmp_path / "m", with_extra=True)
    assert list(loaded.feature_names_in_) == list(frame.columns)
    assert extra["columns"] == ["a", "b"]
    np.testing.assert_array_equal(extra["scale"], np.arange(3.0))
    loaded.predict(frame)


def test_refuses_to_save_what_cannot_be_loaded(tmp_path):
    model = fastem.KMeans(2)
    with pytest.raises(NotFittedError):
        fastem.save(model, tmp_path / "m")
    with pytest.raises(TypeError, match="Cannot save a dict"):
        fastem.save({}, tmp_path / "m")
    with pytest.raises(TypeError, match="Cannot save thing"):
        fastem.save(model.fit(X), tmp_path / "m", extra={"thing": object()})
    assert not list(tmp_path.iterdir())


def test_an_existing_file_survives_a_failed_save(tmp_path, monkeypatch):
    path = tmp_path / "m"
    path.write_bytes(b"precious")
    monkeypatch.setattr(np, "savez", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space"):
        fastem.save(fastem.KMeans(2, random_state=0).fit(X), path)
    assert path.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


@pytest.mark.skipif(os.name != "posix", reason="links and permissions of POSIX")
def test_a_save_through_a_link_writes_the_file_with_its_permissions(tmp_path):
    path, link = tmp_path / "m.npz", tmp_path / "link.npz"
    path.touch(mode=0o600)
    link.symlink_to(path)
    fastem.save(fastem.KMeans(2, random_state=0).fit(X), link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert fastem.load(path).n_clusters == 2


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "model.npz"
    fastem.save(fastem.GaussianMixture(2, random_state=0).fit(X), path)
    return path


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_refused(stored, share):
    whole = stored.read_bytes()
    stored.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="is not a"):
        fastem.load(stored)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize("content", ["pickle", "npy", "pickled array", "text", "zip"])
def test_foreign_files_are_refused_and_nothing_runs(tmp_path, content):
    path = tmp_path / "m"
    buffer = io.BytesIO()
    if content == "npy":
        np.save(buffer, X)
    elif content == "pickled array":
        np.savez(buffer, **{"fastem.json": np.array([Bomb()], dtype=object)})
    elif content == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("fastem.json", "{}")
    path.write_bytes({"pickle": pickle.dumps(Bomb()), "text": b"hello"}.get(content, buffer.getvalue()))
    with pytest.raises(ValueError, match="is not a fastem model"):
        fastem.load(path)


def _rewrite(path, change):
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["fastem.json"].tobytes())
    change(header, arrays)
    arrays["fastem.json"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


CHANGES = {
    "newer": (lambda h, a: h.update(format=99), "format 99, but this version of fastem reads format 1"),
    "class": (lambda h, a: h.update({"class": "os.system"}), "none of"),
    "dunder": (lambda h, a: h["fitted"].update(__class__={"value": 1}), "unexpected or missing attributes"),
    "missing": (lambda h, a: h["fitted"].pop("means_"), "unexpected or missing attributes"),
    "lost array": (lambda h, a: a.pop("fitted.means_"), "is not a complete fastem model"),
    "shape": (lambda h, a: a.update({"fitted.means_": np.zeros((7, 7))}), "'means_' should have the shape"),
    "nan": (lambda h, a: a["fitted.means_"].fill(np.nan), "NaN"),
    "type": (lambda h, a: h["fitted"].update(weights_={"value": "x"}), "is not a complete fastem model"),
    "option": (lambda h, a: h["params"].update(covariance_type={"value": "../full"}), "'covariance_type'"),
    "list": (lambda h, a: h.update(fitted=[1]), "is not a complete fastem model"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_tampered_files_are_refused(stored, name):
    change, message = CHANGES[name]
    _rewrite(stored, change)
    with pytest.raises(ValueError, match=message):
        fastem.load(stored)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_load_as_a_model_or_are_refused(stored, seed):
    rng = np.random.default_rng(seed)
    damaged = bytearray(stored.read_bytes())
    for place in rng.integers(len(damaged), size=8):
        damaged[place] = rng.integers(256)
    stored.write_bytes(damaged)
    refusal = "a fastem model"
    try:
        fastem.load(stored)
    except ValueError as error:
        refusal = str(error)
    assert re.search("fastem|format", refusal)
    assert "\n" not in refusal


def test_compressed_archives_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "m.npz", **{"fastem.json": np.zeros(10**6, np.uint8)})
    with pytest.raises(ValueError, match="compressed"):
        fastem.load(tmp_path / "m.npz")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastem.load(tmp_path / "nothing")


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_partial_fit_goes_on_from_a_file_as_from_memory(tmp_path, dtype, random_state):
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(30, 2)).astype(dtype) for _ in range(12)]
    batches[3:6] = [batch + 50 for batch in batches[3:6]]  # centres become light, and are moved at random
    model = fastem.MiniBatchKMeans(5, random_state=random_state, reassignment_ratio=0.3)
    for number, batch in enumerate(batches):
        model.partial_fit(batch)
        fastem.save(model, tmp_path / "model.npz")
        loaded = fastem.load(tmp_path / "model.npz")
        np.testing.assert_array_equal(loaded.labels_, model.labels_)
        assert loaded.inertia_ == model.inertia_
        for later in batches[number + 1 :]:
            loaded.partial_fit(later)
        alone = copy.deepcopy(model)
        for later in batches[number + 1 :]:
            alone.partial_fit(later)
        np.testing.assert_array_equal(loaded.cluster_centers_, alone.cluster_centers_)
        np.testing.assert_array_equal(loaded.counts_, alone.counts_)
    model = fastem.MiniBatchKMeans(3, random_state=0, n_init=1).fit(batches[0])
    fastem.save(model, tmp_path / "model.npz")
    loaded = fastem.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.labels_, model.labels_)
    assert (loaded.n_iter_, loaded.inertia_) == (model.n_iter_, model.inertia_)
