"""The models of the command line: what each is called and may be asked for, made, fed, saved and loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastem
from fastem.cli.tables import Source, Table, open_table, read_table
from fastem.families import FAMILIES
from fastem.families.elliptical.covariance import COVARIANCES, LETTERS, SHAPES
from fastem.files import first_line, quoted, replacing
from fastem.registry import BY_SHORT_NAME, ESTIMATORS
from fastem.sources.rows import Stream

BLOCK_ROWS = 1 << 16  # rows whose (n, k) probabilities are alive at once


class CommandError(ValueError):
    """A command that cannot be carried out, said in one sentence."""


class ModelName(StrEnum):
    """The models that can be fitted; those of `fastem.select`."""

    kmeans = "kmeans"
    gmm = "gmm"
    student = "student"
    bernoulli = "bernoulli"
    poisson = "poisson"
    categorical = "categorical"
    factor = "factor"
    mfa = "mfa"


KINDS = {ModelName(entry.short): entry for entry in ESTIMATORS.values() if entry.short}


def covariances(name: ModelName) -> tuple[str, ...]:
    """Return the covariance types that a model may have, those that are known by a word first."""
    prefixes = tuple(family for family in KINDS[name].families if family.endswith("-"))
    types = [family.removeprefix(prefix) for family in FAMILIES for prefix in prefixes if family.startswith(prefix)]
    letters = () if set(types).isdisjoint(LETTERS) else LETTERS
    return (*(kind for kind in types if kind in SHAPES), *letters)


class Scaling(NamedTuple):
    """A model sees (x - shift) / scale."""

    shift: np.ndarray  # (d,)
    scale: np.ndarray  # (d,)

    def apply(self, X: Any) -> Any:
        """Scale rows, or a stream of them, computing in float64 whatever their type."""
        if isinstance(X, Stream):
            return X.mapped(self.apply)
        scaled = np.empty_like(X)
        for j in range(X.shape[1]):
            scaled[:, j] = (X[:, j].astype(np.float64) - self.shift[j]) / self.scale[j]
        return scaled


class Saved(NamedTuple):
    """A model and how to feed it."""

    model: Any
    columns: list[str]  # empty where any table with the right number of columns will do
    scaling: Scaling | None


def check_options(name: ModelName, asked: list[str] | None, factors: int | None, scale: bool) -> None:
    """Refuse options that do not go with a model."""
    kind, known = KINDS[name], covariances(name)
    if asked is not None and not known:
        with_types = " or ".join(other for other in ModelName if covariances(other))
        raise CommandError(f"--covariance goes with --model {with_types}.")
    unknown = [covariance for covariance in asked or () if covariance not in known]
    if unknown:
        raise CommandError(f"--covariance of a {kind.title} must be among {', '.join(known)}, got {unknown[0]}.")
    if factors is not None and name is not ModelName.mfa:
        hint = "; of factor analysis -k is the number of factors" if name is ModelName.factor else ""
        raise CommandError(f"--factors goes with --model mfa{hint}.")
    if scale and not kind.measures:
        raise CommandError(f"--scale is for measurements, and a {kind.title} takes none.")


def estimator(name: ModelName, k: int, *, blocks: int | None = None, **options: Any) -> Any:
    """Return an estimator of k components; options that are None keep their defaults, n_init where it has none.

    With `blocks` it runs by incremental EM, on so many at most.
    """
    kind = KINDS[name]
    model = getattr(fastem, BY_SHORT_NAME[name])(**dict(kind.options))
    known = model.get_params(deep=False)
    if blocks is not None and "n_blocks" not in known:
        raise CommandError(f"--blocks is for models with a likelihood, and {kind.title} has none.")
    options |= {"accelerate": "squarem"} if blocks is None else {"algorithm": "incremental", "n_blocks": blocks}
    options["n_clusters" if name is ModelName.kmeans else "n_components"] = k
    return model.set_params(**{key: value for key, value in options.items() if value is not None and key in known})


def run_to_the_end(model: Any, n_rows: int, tol: float | None, max_iter: int | None) -> None:
    """Let a mixture run as `fastem select` does, so that fits of several k can be compared, unless asked otherwise."""
    from fastem.analysis.candidates import until_comparable

    asked = {"tol": tol, "max_iter": max_iter}
    wanted = until_comparable(model, n_rows, n_rows)
    if tol is not None:
        wanted.pop("convergence", None)
    model.set_params(**{name: value for name, value in wanted.items() if asked.get(name) is None})


def takes_missing(model: Any) -> bool:
    """Tell whether NaN is a missing value to an estimator."""
    return bool(model.__sklearn_tags__().input_tags.allow_nan)


def name_of(model: Any) -> ModelName:
    """Return what the command line calls a model."""
    for name in ModelName:
        if type(model).__name__ == BY_SHORT_NAME[name]:
            return name
    if hasattr(model, "cluster_centers_"):
        return ModelName.kmeans
    raise CommandError(f"the command line does not know models of class {type(model).__name__}.")


def _family(prefix: str, kind: str) -> str:
    """Return the registered family of a covariance type; four of the models by letters are registered by a word."""
    return prefix + kind if prefix + kind in FAMILIES else prefix + COVARIANCES[kind].stored


def warmup(name: ModelName, kinds: list[str], X: Any) -> None:
    """Compile the kernels of a model for such rows: seconds on the first use ever, which are not the fit's."""
    for family in KINDS[name].families:
        names = [_family(family, kind) for kind in kinds] if family.endswith("-") else [family]
        fastem.warmup(names, [X.dtype], [min(X.shape[1], 64)])


def n_components(model: Any) -> int:
    """Return the number of clusters; of factor analysis, of factors."""
    if hasattr(model, "cluster_centers_"):
        return int(model.n_clusters)
    return int(model.n_components) if hasattr(model, "predict_proba") else len(model.components_)


def scaling_of(X: Any) -> Scaling:
    """Return what gives every column mean 0 and variance 1; missing values (NaN) are left out."""
    if isinstance(X, Stream):
        return _scaling(*_moments(X))
    shift, scale = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for j, column in enumerate(X.T):
        seen = column[~np.isnan(column)].astype(np.float64)
        if seen.size:
            shift[j] = seen.mean()
            scale[j] = np.sqrt(np.mean((seen - shift[j]) ** 2))
    return _scaling(shift, scale)


def _moments(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each column of a stream, by two passes."""
    counts, sums, squares = np.zeros((3, len(stream.names)))
    for X in stream.blocks():
        counts += (~np.isnan(X)).sum(axis=0)
        sums += np.nansum(X, axis=0, dtype=np.float64)
    shift = sums / np.maximum(counts, 1)
    for X in stream.blocks():
        squares += np.nansum(np.square(X - shift), axis=0)
    return shift, np.sqrt(squares / np.maximum(counts, 1))


def _scaling(shift: np.ndarray, scale: np.ndarray) -> Scaling:
    # A constant column comes out as rounding error, which must not be blown up to unit variance.
    scale[scale <= 1e-12 * np.abs(shift)] = 1.0
    scale[scale == 0.0] = 1.0
    return Scaling(shift, scale)


def each_assigned(model: Any, X: Any, *, proba: bool = False) -> Iterable[dict[str, np.ndarray]]:
    """Return what is written for every row, block by block: what `assigned` returns, and all probabilities if asked."""

    def columns(model: Any, X: np.ndarray) -> dict[str, np.ndarray]:
        every = model.predict_proba(X).T if proba else []
        return assigned(model, X) | {f"probability_{c}": column for c, column in enumerate(every)}

    if not isinstance(X, Stream):
        return [columns(model, X)]
    from fastem.estimators.door import Blocks

    return Blocks(model, columns, X)


class Tally:
    """Counts rows, and those of every cluster, as they pass."""

    def __init__(self, k: int) -> None:
        self.rows = 0
        self.sizes: list[int] | None = [0] * k
        self.columns = 0

    def over(self, blocks: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the same blocks."""
        for block in blocks:
            yield block
            self.columns = len(block)
            self.rows += len(next(iter(block.values())))
            here = sizes(block, len(self.sizes or []))
            self.sizes = None if here is None else [a + b for a, b in zip(self.sizes or here, here, strict=True)]


def assigned(model: Any, X: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is written for every row: the label and its probability, or of factor analysis the factors."""
    if not hasattr(model, "predict"):
        factors = model.transform(X)
        return {f"factor_{c}": factors[:, c] for c in range(factors.shape[1])}
    labels = model.predict(X)
    columns = {"label": labels.astype(np.int32, copy=False)}
    if not hasattr(model, "predict_proba"):
        return columns
    probability = np.empty(len(X))
    for start in range(0, len(X), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        picked = labels[rows, np.newaxis].astype(np.intp)
        probability[rows] = np.take_along_axis(model.predict_proba(X[rows]), picked, axis=1)[:, 0]
    return {**columns, "probability": probability}


def taken(X: Any, rows: np.ndarray) -> np.ndarray:
    """Return a few rows (m, d) by their numbers."""
    found: np.ndarray = X.source().take(rows) if isinstance(X, Stream) else X[rows]
    return found


def sizes(columns: dict[str, np.ndarray], k: int) -> list[int] | None:
    """Return the rows of every cluster, given what `assigned` returned; None where there are no clusters."""
    return np.bincount(columns["label"], minlength=k).tolist() if "label" in columns else None


def log_density(saved: Saved, X: Any) -> np.ndarray:
    """Log-density of rows in the units of the file: a scaled model's is per unit of the scaled columns."""
    if isinstance(X, Stream):
        from fastem.estimators.door import Blocks

        return np.concatenate(
            list(Blocks(saved.model, lambda model, X: log_density(saved._replace(model=model), X), X))
        )
    values = np.asarray(saved.model.score_samples(X), dtype=np.float64)
    if saved.scaling is None:
        return values
    logs = np.log(saved.scaling.scale)
    return values - (~np.isnan(X) @ logs if np.isnan(X.sum()) else logs.sum())


def save(saved: Saved, path: Path) -> None:
    """Write a model and how to feed it."""
    extra: dict[str, Any] = {"columns": saved.columns}
    if saved.scaling is not None:
        extra |= {"shift": saved.scaling.shift, "scale": saved.scaling.scale}
    with replacing(path) as temporary:
        fastem.save(saved.model, temporary, extra=extra)


def load(path: Path, threads: int | None) -> Saved:
    """Read what `save`, or the library, wrote."""
    if not path.is_file():
        raise CommandError(f"{path} is not a file." if path.exists() else f"{path} does not exist.")
    if not zipfile.is_zipfile(path):
        raise CommandError(f"{path} is not a model saved by fastem, or is truncated.")
    try:
        model, extra = fastem.load(path, with_extra=True)
    except (ValueError, OSError, MemoryError):  # these are sentences
        raise
    except Exception as error:
        raise CommandError(f"{path} is not a model saved by fastem, or is damaged: {first_line(error)}.") from error
    d = model.n_features_in_
    columns = list(extra.get("columns", getattr(model, "feature_names_in_", [])))
    scaling = Scaling(extra["shift"], extra["scale"]) if "scale" in extra else None
    if len(columns) not in (0, d) or (scaling is not None and {np.shape(part) for part in scaling} != {(d,)}):
        raise CommandError(f"{path} is damaged: its columns or its scaling do not fit its model.")
    if threads is not None:
        model.set_params(n_threads=threads)
    return Saved(model, columns, scaling)


def rows_for(saved: Saved, model: Path, path: Path, header: bool | None, progress: Any = None) -> Table:
    """Read the columns that a model was fitted to, and scale them as it was fitted."""
    source = open_table(path, header=header)
    table = read_table(
        source, _columns_for(saved, model, source), allow_nan=takes_missing(saved.model), progress=progress
    )
    return table if saved.scaling is None else table._replace(X=saved.scaling.apply(table.X))


def _columns_for(saved: Saved, model: Path, source: Source) -> list[str] | None:
    """Columns by name where both sides have names, else by position."""
    missing = [name for name in saved.columns if name not in source.names]
    if saved.columns and not missing:
        return saved.columns
    d = saved.model.n_features_in_
    if len(source.names) == d and not (saved.columns and source.named):
        return None
    if missing and source.named:
        raise CommandError(
            f"{model} needs {quoted(saved.columns)}, and {source.path} has no {quoted(missing)}; "
            f"it has {quoted(source.names)}."
        )
    raise CommandError(f"{model} was fitted to {d} columns, and {source.path} has {len(source.names)}.")


def summary_of(saved: Saved, X: Any) -> dict[str, Any]:
    """Return the parameters of a fitted model in the units of the file, and how well it fits."""
    model, name = saved.model, name_of(saved.model)
    summary: dict[str, Any] = {}
    if name is ModelName.factor:
        scale = np.ones(X.shape[1]) if saved.scaling is None else saved.scaling.scale
        summary |= {
            "loadings": (model.components_ * scale).tolist(),
            "noise_variances": (model.noise_variance_ * scale**2).tolist(),
        }
    else:
        summary["centers"] = _centers(saved).tolist()
    if name is ModelName.kmeans:
        return summary | {"inertia": float(model.inertia_), "converged": bool(model.converged_)}
    if name is ModelName.categorical:
        summary["probabilities"] = [part.tolist() for part in model.feature_probabilities_]
    if covariances(name):
        summary["covariance"] = model.covariance_type
    if name is ModelName.mfa:
        summary["factors"] = int(model.n_factors)
    if name is ModelName.student:
        summary["dofs"] = model.dofs_.tolist()
    if KINDS[name].mixes:
        summary["weights"] = model.weights_.tolist()
    total = float(log_density(saved, X).sum())
    fit = {"log_likelihood": total, "log_likelihood_per_row": total / len(X), "converged": bool(model.converged_)}
    return summary | fit


def _centers(saved: Saved) -> np.ndarray:
    """Return the centres (k, d): means, rates, probabilities of a one, or the most probable codes."""
    model = saved.model
    if hasattr(model, "feature_probabilities_"):
        return np.column_stack([part.argmax(axis=1) for part in model.feature_probabilities_])
    attribute = next(name for name in ("cluster_centers_", "means_", "rates_") if hasattr(model, name))
    centers = np.asarray(getattr(model, attribute), np.float64)
    return centers if saved.scaling is None else centers * saved.scaling.scale + saved.scaling.shift
