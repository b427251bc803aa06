r"""Unconstrained coordinates of parameters, for acceleration: the parts that families put together (`Family.pack`).

Coordinates are relative to reference parameters and measured by the complete data's information there, so that the
information is the identity and the matrix of EM's linear convergence symmetric.  A component of weight w has, for a

    weight             sqrt(w) log(weight / w)
    rate l of counts   sqrt(w l) log(rate / l)
    probability p of   sqrt(w p) log(probability / p), scaled to add up to 1 afterwards;
    a category         of two, sqrt(w p (1 - p)) (logit(probability) - logit(p))

What is 0 is at a boundary that EM does not leave, and stays there.
"""

from __future__ import annotations

import numpy as np

# No step makes a weight, a variance or a rate change by more than this in the logarithm.
FARTHEST = 20.0


def present(weights: np.ndarray) -> np.ndarray:
    """Return the reference's weights (k,), 1 for a component that has none."""
    return np.where(weights > 0, weights, 1.0)


def pack_weights(weights: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return the coordinates (k,) of mixing proportions; not finite if one has died since."""
    some = present(like)
    with np.errstate(divide="ignore"):
        return np.sqrt(some) * np.where(like > 0, np.log(weights / some), 0.0)


def unpack_weights(vector: np.ndarray, like: np.ndarray) -> np.ndarray | None:
    """Return the mixing proportions (k,) that have these coordinates, or None if they lie too far off."""
    logs = vector / np.sqrt(present(like))
    if not np.all(np.isfinite(logs)) or np.abs(logs).max(initial=0.0) > FARTHEST:
        return None
    weights = like * np.exp(logs)
    return np.asarray(weights * (like.sum() / weights.sum()))


def log_ratio(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return log(values / like), 0 where either is 0."""
    some = (values > 0) & (like > 0)
    return np.log(np.where(some, values, 1.0) / np.where(some, like, 1.0))


def measured(steps: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return steps, measured by the roots of their information, as a vector."""
    return (np.sqrt(information) * steps).ravel()


def steps_of(vector: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return the steps (of the shape of `information`) that have these coordinates, none longer than `FARTHEST`."""
    root = np.sqrt(information)
    steps = np.where(root > 0, vector.reshape(root.shape) / np.where(root > 0, root, 1.0), 0.0)
    return np.clip(steps, -FARTHEST, FARTHEST)
