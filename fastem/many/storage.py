"""The fits of many groups as one .npz file: arrays, and JSON for all else.  Nothing in it is ever executed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

import fastem
from fastem import persist
from fastem.many.grouping import Layout
from fastem.many.keys import Keys
from fastem.many.record import ARRAYS, COLUMNS, BatchFit
from fastem.many.stacked import Stacked
from fastem.many.statuses import Status
from fastem.registry import BY_SHORT_NAME

FORMAT = 1
FORMS = ("rows", "list", "stack", "columns")
# Fields of the facts about groups that are arrays of one entry each.
FACTS = ("n_components", "n_features", "weights", "pooled", "bic")


def write(
    path: str | os.PathLike[str], estimator: Any, layout: Layout, fit: BatchFit, facts: Any, names: list[str]
) -> None:
    """Write the parts of a `ManyFits`; see `fastem.many.result.ManyFits.save`."""
    arrays: dict[str, np.ndarray] = {"offsets": layout.offsets}
    levels = [_level(level, f"level.{i}", arrays) for i, level in enumerate(layout.keys.levels)]
    arrays |= {f"pairs.{i}": pairs for i, pairs in enumerate(layout.keys.pairs)}
    arrays |= {f"slice.{i}": columns for i, columns in enumerate(layout.slices)}
    if layout.order is not None:
        arrays["order"] = layout.order
    for name, stacked in fit.parameters.items():
        arrays |= {f"fitted.{name}.{field}": array for field, array in stacked._asdict().items()}
    arrays |= {f"fit.{field}": getattr(fit, field) for field in BatchFit._fields[ARRAYS]}
    arrays |= {f"facts.{field}": getattr(facts, field) for field in FACTS}
    params = persist.savable(estimator.get_params(deep=False))
    header = {
        "format": FORMAT,
        "class": "ManyFits",
        "model": type(estimator).__name__,
        "params": persist.split("params", params, arrays),
        "form": layout.form,
        "n_slices": len(layout.slices),
        "keys": {"names": layout.keys.names, "levels": levels, "positional": layout.keys.positional},
        "names": names,
        "fitted": sorted(fit.parameters),
        "reasons": fit.reasons,
        "notes": fit.notes,
    }
    arrays[persist.HEADER] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    persist.write_whole(Path(path), arrays)


def _level(level: np.ndarray, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Put the values of a part of the keys among the arrays, or return them for the header."""
    if level.dtype.kind in "fiubUSmM":
        arrays[name] = level
        return None
    values = level.tolist()
    if not all(isinstance(value, str | int | float | bool | type(None)) for value in values):
        kinds = sorted({type(value).__name__ for value in values})
        raise TypeError(f"Cannot save keys of type {' and '.join(kinds)}: neither numbers, dates nor text.")
    return values


def is_result(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file says that it is one of `write`; it may be damaged all the same."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return json.loads(archive[persist.HEADER].tobytes())["class"] == "ManyFits"
    except Exception:  # a damaged archive raises anything from AttributeError to zlib.error
        return False


def read(path: str | os.PathLike[str]) -> tuple[Any, Layout, BatchFit, list[np.ndarray], list[str]]:
    """Read the parts of a `ManyFits`: estimator, layout, fit, facts and names of features.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not such a file.
    """
    arrays = persist.read_arrays(Path(path))
    try:
        header = json.loads(arrays[persist.HEADER].tobytes())
        version, kind = header["format"], header["class"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a fastem model: it has no readable header.") from error
    if kind != "ManyFits":
        raise ValueError(f"{path} holds one {kind}, which fastem.load reads.")
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}, but this version of fastem reads format {FORMAT}.")
    try:
        return _parts(header, arrays)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path} holds no complete result of fit_many: {persist.reason(error)}.") from error


def _parts(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Any, Layout, BatchFit, Any, list[str]]:
    if header["model"] not in BY_SHORT_NAME.values():
        raise ValueError(f"it is of a {header['model']!r}")
    model_class = getattr(fastem, header["model"])
    estimator = model_class(**persist.join(header["params"], arrays))
    estimator._check_parameters()
    layout = _layout(header, arrays)
    n_groups = len(layout.offsets) - 1
    allowed = {*estimator._saved, *estimator._saved_if_set} - persist.TRACES - COLUMNS
    if not set(header["fitted"]) <= allowed:
        raise ValueError(f"unexpected attributes {sorted(set(header['fitted']) - allowed)}")
    parameters = {
        name: Stacked(*(arrays[f"fitted.{name}.{field}"] for field in Stacked._fields)) for name in header["fitted"]
    }
    for stacked in parameters.values():
        stacked.check(n_groups)
    columns: list[Any] = [arrays[f"fit.{field}"] for field in BatchFit._fields[ARRAYS]]
    reasons = {int(group): str(text) for group, text in header["reasons"].items()}
    notes = {int(group): list(texts) for group, texts in header["notes"].items()}
    fit = BatchFit._make([parameters, *columns, reasons, notes])
    facts = [arrays[f"facts.{field}"] for field in FACTS]
    _check(fit, facts, layout)
    return estimator, layout, fit, facts, [str(name) for name in header["names"]]


def _layout(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Layout:
    told = header["keys"]
    levels = []
    for i, values in enumerate(told["levels"]):
        level = arrays[f"level.{i}"] if values is None else np.empty(len(values), object)
        if values is not None:
            level[:] = values
        levels.append(level)
    pairs = [arrays[f"pairs.{i}"] for i in range(len(levels) - 1)]
    keys = Keys([str(name) for name in told["names"]], levels, pairs, bool(told["positional"]))
    slices = [arrays[f"slice.{i}"] for i in range(header["n_slices"])]
    layout = Layout(keys, arrays["offsets"], arrays.get("order"), header["form"], slices)
    _check_layout(layout)
    return layout


def _check_layout(layout: Layout) -> None:
    """Refuse groups that do not fit together."""
    offsets, order, keys = layout.offsets, layout.order, layout.keys
    sound = layout.form in FORMS and offsets.ndim == 1 and len(offsets) > 1 and offsets.dtype.kind == "i"
    sound = sound and offsets[0] == 0 and bool(np.all(offsets[1:] >= offsets[:-1]))
    sound = sound and len(keys.levels) == len(keys.names) > 0 and all(level.ndim == 1 for level in keys.levels)
    n_before = len(keys.levels[0]) if sound else 0
    for level, pairs in zip(keys.levels[1:], keys.pairs, strict=True):
        sound = sound and pairs.ndim == 1 and pairs.dtype.kind == "i"
        sound = sound and bool(np.all((pairs >= 0) & (pairs < n_before * len(level))))
        n_before = len(pairs) if sound else 0
    sound = sound and len(keys) == len(offsets) - 1
    if sound and order is not None:
        sound = order.shape == (offsets[-1],) and order.dtype.kind in "iu"
        sound = sound and bool(np.all((order >= 0) & (order < offsets[-1])))
    if sound and layout.slices:
        sound = len(layout.slices) == len(offsets) - 1
        sound = sound and all(part.ndim == 1 and part.dtype.kind == "i" and len(part) for part in layout.slices)
    if not sound:
        raise ValueError("its keys and offsets do not fit each other")


def _check(fit: BatchFit, facts: list[np.ndarray], layout: Layout) -> None:
    """Refuse columns that do not have an entry for each group, or statuses that there are not."""
    n_groups, n_rows = len(layout.offsets) - 1, int(layout.offsets[-1])
    kinds = ["f", "i", "b", "i", "i", "i", "f", "b", "f"]
    columns = [*fit[2:6], *facts]
    shapes = {column.shape for column in columns[:-1]} | ({facts[-1].shape} if facts[-1].size else set())
    sound = shapes == {(n_groups,)} and [column.dtype.kind for column in columns] == kinds
    sound = sound and bool(np.all((fit.statuses >= 0) & (fit.statuses < len(Status))))
    sound = sound and bool(np.all(facts[0] > 0)) and bool(np.all(facts[1] > 0))
    sound = sound and fit.labels.dtype == np.int32 and fit.labels.shape in {(n_rows,), (0,)}
    if not sound or not all(0 <= group < n_groups for group in (*fit.reasons, *fit.notes)):
        raise ValueError("its columns do not have an entry for each group")
