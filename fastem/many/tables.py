"""The parameters of many fits as columns: one row for each component of each group."""

from __future__ import annotations

from typing import Any

import numpy as np

# Fitted attributes with one entry for each component, but for covariances that all components share.
OF_COMPONENTS = (
    "weights_", "cluster_centers_", "means_", "rates_", "probabilities_", "components_", "dofs_", "covariances_",
    "scales_", "loadings_", "noise_variances_",
)  # fmt: skip
SHARED = ("mean_", "noise_variance_", "noise_weight_")


def components(result: Any) -> dict[str, Any]:
    """Return columns: the keys, the number of the component, and what is known of it.

    A vector that all groups have of one length becomes a column for each feature, ``means_x0`` or by the features'
    names; all else a column of flat arrays.
    """
    groups = np.flatnonzero(result.has_model).tolist()
    counts = np.array([_n_components(result, group) for group in groups], np.int64)
    repeated = np.repeat(np.array(groups, np.int64), counts)
    component = np.concatenate([np.arange(count) for count in counts]) if len(groups) else np.empty(0, np.int64)
    keys = result._layout.keys
    table: dict[str, Any] = {name: column[repeated] for name, column in zip(keys.names, keys.columns(), strict=True)}
    table["component"] = component
    shared = {"covariances_"} if _is_tied(result.estimator) else set()
    for name in (*OF_COMPONENTS, *SHARED):
        if name in result.parameters:
            own = name not in shared and name not in SHARED
            arrays = [result.parameters[name].of(group) for group in groups]
            rows = [part for array, count in zip(arrays, counts, strict=True) for part in _rows(array, count, own)]
            table |= _columns(name.removesuffix("_"), rows, result._names)
    return table


def _n_components(result: Any, group: int) -> int:
    components = result.parameters.get("components_")
    return len(components.of(group)) if components is not None else int(result.n_components[group])


def _is_tied(estimator: Any) -> bool:
    if not hasattr(estimator, "covariance_type") or "covariances_" not in getattr(estimator, "_fields", {}).values():
        return False
    return estimator._family().shape.name == "tied"


def _rows(array: Any, count: int, own: bool) -> list[np.ndarray]:
    return list(array) if own else [array] * count


def _columns(name: str, rows: list[Any], features: list[str]) -> dict[str, Any]:
    """Return the columns of one attribute."""
    shapes = {np.shape(row) for row in rows}
    if len(shapes) == 1:
        shape = next(iter(shapes))
        if not shape:
            return {name: np.array(rows)}
        if len(shape) == 1:
            table = np.array(rows)
            names = features if len(features) == shape[0] else [f"x{j}" for j in range(shape[0])]
            return {f"{name}_{feature}": table[:, j] for j, feature in enumerate(names)}
    column = np.empty(len(rows), object)
    column[:] = [np.ravel(row) for row in rows] if rows else []
    return {name: column}
