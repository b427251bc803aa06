"""Checkpoints of estimators: what makes a fit that fit, by which its file is known."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from fastem.engine.checkpoint import Checkpoint, interval
from fastem.sources.base import Source

# Parameters that change no bit of a fit.  A seed is compared where it is an int; the file keeps that of another.
WITHOUT_EFFECT = {
    "n_threads", "verbose", "verbose_interval", "callback", "certify", "copy", "copy_x", "checkpoint",
    "checkpoint_every", "random_state",
}  # fmt: skip


def opened(estimator: Any, source: Source, seed: int, **more: Any) -> Checkpoint | None:
    """Return the checkpoint of a fit, which goes on from its file if there is one; None if none is asked for.

    Parameters
    ----------
    estimator : EMEstimator
        The one that is being fitted.
    source : Source
        The rows of the fit, of which it makes one pass.
    seed : int
        Seed of the fit, if it begins.
    **more
        Arrays and numbers of which the fit is made beside parameters and rows.
    """
    if estimator.checkpoint is None:
        return None
    from fastem import __version__

    every = interval(estimator.checkpoint_every)
    assert every is not None  # checked
    params = estimator.get_params(deep=False)
    identity = {
        "version": __version__,
        "class": type(estimator).__name__,
        **{name: described(params[name]) for name in sorted(params.keys() - WITHOUT_EFFECT)},
        "random_state": described(params["random_state"]) if isinstance(params["random_state"], int) else None,
        **{name: described(value) for name, value in more.items()},
        "shape of the rows": list(source.shape),
        "dtype of the rows": source.dtype.name,
        "checksum of the rows": f"{source.checksum():x}",
        "checksum of the weights": digest(source.sample_weight),
        "checksum of the labels": digest(source.labels),
    }
    return Checkpoint(estimator.checkpoint, every, identity, seed)


def described(value: Any) -> Any:
    """Return a number or a text that tells a parameter's value from others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, set | frozenset):
        return repr(sorted(value))
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype} {digest(value)}"
    if isinstance(value, tuple | list):
        return repr([described(part) for part in value])
    if isinstance(value, np.generic):
        return value.item()
    named = value if hasattr(value, "__qualname__") else type(value)
    options = "" if named is value else repr({key: described(part) for key, part in vars_of(value).items()})
    return f"{named.__module__}.{named.__qualname__}{options}"


def vars_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, or none."""
    return dict(sorted(vars(value).items())) if hasattr(value, "__dict__") else {}


def digest(array: np.ndarray) -> str:
    """Return a hash of an array's values, in their order; of an empty array, nothing."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=8).hexdigest() if array.size else ""
