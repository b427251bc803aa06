"""Fitted models as one .npz file: arrays, and JSON for all else.  Nothing in it is ever executed."""

from __future__ import annotations

import importlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fastem.files import whole
from fastem.registry import ESTIMATORS  # `load` makes no other classes; a file names one, never a module

FORMAT = 1
HEADER = "fastem.json"
# What a fit tells beside the attributes that a class names.
OF_ANY_FIT = ("notes_",)
# What tells how a fit went, iteration by iteration: the models of `fastem.fit_many` have none.
TRACES = frozenset({"inertia_history_", "lower_bounds_", "loglike_", "restarts_"})


def save(model: Any, path: str | os.PathLike[str], *, extra: dict[str, Any] | None = None) -> None:
    """Write a fitted model to one ``.npz`` file, without pickle.

    The file appears whole or not at all.  Parameters that are neither JSON nor arrays (a callback, a RandomState) are
    left out and come back as their defaults.

    Parameters
    ----------
    model : KMeans or GaussianMixture
        A fitted estimator.
    path : path-like
        Where to write; used as it is, no suffix is added.
    extra : dict or None
        Arrays and JSON values to keep beside the model, such as column names.

    Raises
    ------
    TypeError
        If the model is of a class that cannot be saved, or `extra` holds something else.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.

    Examples
    --------
    >>> import fastem, tempfile
    >>> model = fastem.KMeans(2, random_state=0).fit([[0.0], [1.0], [9.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastem.save(model, f"{folder}/model.npz")
    ...     fastem.load(f"{folder}/model.npz").cluster_centers_.ravel()
    array([0.5, 9. ])
    """
    from sklearn.utils.validation import check_is_fitted

    name = type(model).__name__
    if name not in ESTIMATORS or type(model).__module__ != ESTIMATORS[name].module:
        raise TypeError(f"Cannot save a {name}; fastem.save writes {', '.join(ESTIMATORS)}.")
    check_is_fitted(model)
    try:
        model._check_to_save()
    except ValueError as error:
        raise ValueError(f"Cannot save this {name}, which could not be read again: {reason(error)}.") from error
    arrays: dict[str, np.ndarray] = {}
    kept = [key for key in (*model._saved, "n_features_in_") if key not in TRACES or hasattr(model, key)]
    fitted = {key: getattr(model, key) for key in kept}
    fitted |= {key: getattr(model, key) for key in (*model._saved_if_set, *OF_ANY_FIT) if hasattr(model, key)}
    if hasattr(model, "feature_names_in_"):
        fitted["feature_names_in_"] = model.feature_names_in_.tolist()
    header = {
        "format": FORMAT,
        "class": name,
        "params": split("params", savable(model.get_params(deep=False)), arrays),
        "fitted": split("fitted", fitted, arrays),
        "extra": split("extra", extra or {}, arrays),
    }
    arrays[HEADER] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    write_whole(Path(path), arrays)


def savable(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that a file can hold."""
    plain = (str, int, float, bool, np.integer, np.floating, np.ndarray, list, tuple, type(None))
    params = {key: sorted(value) if isinstance(value, set | frozenset) else value for key, value in params.items()}
    return {key: value for key, value in params.items() if isinstance(value, plain)}


def split(section: str, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Move numeric arrays from `values` to `arrays`; return what JSON can hold."""
    header: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            arrays[f"{section}.{key}"] = value
            header[key] = {"array": f"{section}.{key}"}
        elif isinstance(value, dict) and section.startswith("fitted"):
            header[key] = {"dict": split(f"{section}.{key}", value, arrays)}
        else:
            value = value.item() if isinstance(value, np.generic) else value
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise TypeError(
                    f"Cannot save {key} of type {type(value).__name__}: neither JSON nor a numeric array."
                ) from None
            header[key] = {"value": value}
    return header


def write_whole(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to a file that appears whole or not at all."""
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: str | os.PathLike[str], *, with_extra: bool = False) -> Any:
    """Read a model that `save` wrote.

    Parameters
    ----------
    path : path-like
        The file.
    with_extra : bool, default=False
        Return ``(model, extra)`` with what was kept beside the model.

    Returns
    -------
    KMeans or GaussianMixture, or a tuple of it and a dict
        The fitted model.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a model of fastem: truncated, foreign, hostile, or of a newer format.  Nothing in it is run.
    """
    arrays = read_arrays(Path(path))
    header = _header(arrays, path)
    try:
        params = join(header["params"], arrays)
        fitted = join(header["fitted"], arrays)
        extra = join(header["extra"], arrays)
        model_class = getattr(importlib.import_module(ESTIMATORS[header["class"]].module), header["class"])
        known = model_class._get_param_names()
        model = model_class(**{key: value for key, value in params.items() if key in known})
        _restore(model, fitted)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path} is not a complete fastem model: {reason(error)}.") from error
    return (model, extra) if with_extra else model


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file that fastem has written; nothing in it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its arrays are compressed, which fastem.save never does")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something other than arrays")
        return arrays
    except OSError:
        raise
    except Exception as error:  # a damaged archive raises anything from AttributeError to zlib.error
        raise ValueError(f"{path} is not a fastem model: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """Return the first sentence of an error, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def _header(arrays: dict[str, np.ndarray], path: Any) -> dict[str, Any]:
    try:
        header = json.loads(arrays[HEADER].tobytes())
        version, name = header["format"], header["class"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a fastem model: it has no readable header.") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}, but this version of fastem reads format {FORMAT}.")
    if name == "ManyFits":
        raise ValueError(f"{path} holds the models of many groups, which fastem.ManyFits.load reads.")
    if name not in ESTIMATORS:
        raise ValueError(f"{path} holds a {name!r}, which is none of {', '.join(ESTIMATORS)}.")
    return header


def join(section: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the values that `split` has told apart."""

    def value(entry: dict[str, Any]) -> Any:
        if "dict" in entry:
            return join(entry["dict"], arrays)
        return arrays[entry["array"]] if "array" in entry else entry["value"]

    return {key: value(entry) for key, entry in section.items()}


def _restore(model: Any, fitted: dict[str, Any]) -> None:
    allowed = {*model._saved, *model._saved_if_set, *OF_ANY_FIT, "n_features_in_", "feature_names_in_"}
    missing = {*model._saved, "n_features_in_"} - TRACES - fitted.keys()
    if missing or not fitted.keys() <= allowed:
        raise ValueError(f"unexpected or missing attributes {sorted(missing | (fitted.keys() - allowed))}")
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = np.array(fitted["feature_names_in_"], dtype=object)
    if not (isinstance(fitted["n_features_in_"], int) and fitted["n_features_in_"] > 0):
        raise ValueError(f"n_features_in_ is {fitted['n_features_in_']!r}, which is no number of features")
    for key, value in fitted.items():
        setattr(model, key, value)
    model._check_parameters()
    model._check_loaded()
    model._check_to_save()
    model._recall_steps()
