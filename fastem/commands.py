"""The commands ``fastem fit``, ``fastem predict`` and ``fastem score``.

A command checks its options and output files, reads the table, calls an estimator as any other user would, writes the
outputs and prints a summary.  Refusals are exceptions; `fastem.cli` turns them into sentences.
"""

from __future__ import annotations

import decimal
import importlib.util
import math
import time
import zipfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

import fastem
from fastem import report
from fastem.outputs import WRITABLE, check_outputs, replacing, write_table
from fastem.tables import Source, Table, first_line, open_table, quoted, read_table, split_names

BLOCK_ROWS = 1 << 16  # rows whose (n, k) probabilities are alive at once
PLOT_SUFFIXES = (".png", ".svg", ".pdf")

app = typer.Typer(
    name="fastem",
    help="Cluster tables and find anomalies by expectation-maximization.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class CommandError(ValueError):
    """A command that cannot be carried out, said in one sentence."""


class ModelName(StrEnum):
    """The models that can be fitted."""

    kmeans = "kmeans"
    gmm = "gmm"


class Covariance(StrEnum):
    """Covariance types of a Gaussian mixture."""

    full = "full"
    tied = "tied"
    diag = "diag"
    spherical = "spherical"


class Scaling(NamedTuple):
    """A model sees (x - shift) / scale."""

    shift: np.ndarray  # (d,)
    scale: np.ndarray  # (d,)

    def apply(self, X: np.ndarray) -> np.ndarray:
        """Scale rows, computing in float64 whatever their type."""
        scaled = np.empty_like(X)
        for j in range(X.shape[1]):
            scaled[:, j] = (X[:, j].astype(np.float64) - self.shift[j]) / self.scale[j]
        return scaled


class Saved(NamedTuple):
    """A model and how to feed it."""

    model: Any
    columns: list[str]  # empty where any table with the right number of columns will do
    scaling: Scaling | None


class Seconds(NamedTuple):
    """Where the time went."""

    compiling: float  # or loading what was compiled before
    fitting: float


Input = Annotated[Path, typer.Argument(metavar="INPUT", help="Table to read: .csv, .parquet, .feather or .npy.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="Model written by [bold]fastem fit --save[/bold].")]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write one line per row: .csv, .parquet, .feather or .npy.", show_default=False),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first line of a CSV names the columns; by default it does unless it is all numbers.",
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Threads; by default all.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No table, no progress, no warnings.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"fastem {fastem.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    path: Input,
    k: Annotated[int, typer.Option("-k", metavar="K", min=1, help="Number of clusters.", show_default=False)],
    model: Annotated[ModelName, typer.Option(help="k-means, or a Gaussian mixture.")] = ModelName.kmeans,
    covariance: Annotated[
        Covariance | None,
        typer.Option(metavar="TYPE", help="Covariances of the mixture: full, tied, diag or spherical."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns to use; by default all.", show_default=False)
    ] = None,
    scale: Annotated[bool, typer.Option("--scale", help="Give every column mean 0 and variance 1 first.")] = False,
    n_init: Annotated[int, typer.Option(metavar="N", min=1, help="Restarts; the best is kept.")] = 10,
    max_iter: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Iterations per restart; by default 300 or 100.", show_default=False),
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(metavar="T", min=0.0, help="When to stop; by default 1e-4 or 1e-3.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Seed of the random starts.")] = 0,
    threads: Threads = None,
    header: Header = None,
    output: Output = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the model to this .npz file.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the fit: .png, .svg or .pdf.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a model to a table and print its clusters."""
    if covariance is not None and model is not ModelName.gmm:
        raise CommandError("--covariance goes with --model gmm.")
    check_outputs([path], (output, WRITABLE), (save, (".npz",)), (plot, PLOT_SUFFIXES))
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise CommandError('--plot needs matplotlib: pip install "fastem[plot]".')
    source = open_table(path, header=header)
    table = read_table(source, None if columns is None else split_names(columns))
    if k > len(table.X):
        raise CommandError(f"-k {k} asks for more clusters than {path} has rows ({len(table.X)}).")
    scaling = _scaling(table.X) if scale else None
    X = table.X if scaling is None else scaling.apply(table.X)
    estimator = _estimator(model, covariance, k, n_init, max_iter, tol, seed, threads)

    with report.sentences(quiet):
        with report.progress(n_init, estimator.max_iter, shown=not quiet) as callback:
            estimator.set_params(callback=callback)
            start = time.perf_counter()
            if _is_mixture(estimator):
                fastem.warmup([estimator.covariance_type], [X.dtype])  # seconds on the first use ever: not the fit's
            ready = time.perf_counter()
            estimator.fit(X)
            seconds = Seconds(ready - start, time.perf_counter() - ready)
        estimator.set_params(callback=None)
        labels, probability = _assign(estimator, X)
        by_name = source.named or columns is not None
        if save is not None:
            _save(Saved(estimator, table.columns if by_name else [], scaling), save)
        if output is not None:
            _write_labels(output, labels, probability)
        if plot is not None:
            _draw(estimator, X, table.columns, scaling, plot)
    if as_json or not quiet:
        summary = _fit_summary(Saved(estimator, table.columns, scaling), X, labels, path, seconds)
        report.show(summary, report.fit_tables, as_json=as_json)


@app.command()
def predict(
    model: ModelFile,
    path: Input,
    output: Output = None,
    proba: Annotated[bool, typer.Option("--proba", help="Also write the probability of every component.")] = False,
    threads: Threads = None,
    header: Header = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Assign the rows of a table to the clusters of a saved model."""
    check_outputs([model, path], (output, WRITABLE))
    saved = _load(model, threads)
    if proba and not _is_mixture(saved.model):
        raise CommandError(f"--proba needs a mixture, and {model} holds k-means.")
    X = _rows_for(saved, model, path, header).X
    with report.sentences(quiet):
        labels, probability = _assign(saved.model, X)
        if output is not None:
            _write_labels(output, labels, probability, saved.model.predict_proba(X) if proba else None)
    if as_json or not quiet:
        sizes = np.bincount(labels, minlength=_n_components(saved.model)).tolist()
        summary = {"input": str(path), "model": str(model), "rows": len(X), "sizes": sizes}
        report.show(summary, report.predict_tables, as_json=as_json)


@app.command()
def score(
    model: ModelFile,
    path: Input,
    epsilon: Annotated[
        str | None,
        typer.Option(metavar="E", help="Flag rows whose density p(x) is below this, such as 1e-6.", show_default=False),
    ] = None,
    contamination: Annotated[
        float | None,
        typer.Option(metavar="C", help="Flag this share of the rows, such as 0.01.", show_default=False),
    ] = None,
    output: Output = None,
    threads: Threads = None,
    header: Header = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Flag the rows of a table that a saved Gaussian mixture finds improbable."""
    log_epsilon = _threshold(epsilon, contamination)
    check_outputs([model, path], (output, WRITABLE))
    saved = _load(model, threads)
    if not _is_mixture(saved.model):
        raise CommandError(f"{model} holds k-means, which has no density; score needs a Gaussian mixture.")
    table = _rows_for(saved, model, path, header)
    with report.sentences(quiet):
        log_density = _log_density(saved, table.X)
        if contamination is not None:
            log_epsilon = float(np.quantile(log_density, contamination))
        anomaly = log_density < log_epsilon
        if output is not None:
            write_table(output, {"log_density": log_density, "anomaly": anomaly})
    if as_json or not quiet:
        summary = _score_summary(saved, table, model, path, log_density, anomaly, log_epsilon)
        report.show(summary, report.score_tables, as_json=as_json)


# ----------------------------------------------------------------------------------------------------------- checks


def _threshold(epsilon: str | None, contamination: float | None) -> float:
    """Logarithm of epsilon; where a contamination rate was given, -inf until the densities are known."""
    if (epsilon is None) == (contamination is None):
        raise CommandError("give either --epsilon or --contamination.")
    if contamination is not None:
        if not 0.0 < contamination <= 0.5:
            raise CommandError(f"--contamination must be above 0 and at most 0.5, got {contamination}.")
        return -math.inf
    try:
        value = decimal.Decimal(str(epsilon))  # densities in many dimensions are far below the smallest float
    except decimal.InvalidOperation:
        value = decimal.Decimal(0)
    if not (value.is_finite() and value > 0):
        raise CommandError(f"--epsilon must be a positive number, got {epsilon}.")
    return float(value.ln())


# ----------------------------------------------------------------------------------------------------------- models


def _estimator(
    name: ModelName,
    covariance: Covariance | None,
    k: int,
    n_init: int,
    max_iter: int | None,
    tol: float | None,
    seed: int,
    threads: int | None,
) -> Any:
    options: dict[str, Any] = {"n_init": n_init, "random_state": seed, "n_threads": threads}
    if max_iter is not None:
        options["max_iter"] = max_iter
    if tol is not None:
        options["tol"] = tol
    if name is ModelName.kmeans:
        return fastem.KMeans(k, **options)
    return fastem.GaussianMixture(k, covariance_type=(covariance or Covariance.full).value, **options)


def _is_mixture(model: Any) -> bool:
    return hasattr(model, "predict_proba")


def _n_components(model: Any) -> int:
    return model.n_components if _is_mixture(model) else model.n_clusters


def _scaling(X: np.ndarray) -> Scaling:
    shift = X.mean(axis=0, dtype=np.float64)
    scale = np.array([np.sqrt(np.mean((X[:, j].astype(np.float64) - shift[j]) ** 2)) for j in range(X.shape[1])])
    # A constant column comes out as rounding error, which must not be blown up to unit variance.
    scale[scale <= 1e-12 * np.abs(shift)] = 1.0
    scale[scale == 0.0] = 1.0
    return Scaling(shift, scale)


def _assign(model: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Label of every row and, for mixtures, the probability of that component."""
    labels = model.predict(X)
    if not _is_mixture(model):
        return labels, None
    probability = np.empty(len(X))
    for start in range(0, len(X), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        picked = labels[rows, np.newaxis].astype(np.intp)
        probability[rows] = np.take_along_axis(model.predict_proba(X[rows]), picked, axis=1)[:, 0]
    return labels, probability


def _log_density(saved: Saved, X: np.ndarray) -> np.ndarray:
    """Log-density of rows in the units of the file: a scaled model's is per unit of the scaled columns."""
    log_density = np.asarray(saved.model.score_samples(X), dtype=np.float64)
    return log_density if saved.scaling is None else log_density - np.log(saved.scaling.scale).sum()


def _save(saved: Saved, path: Path) -> None:
    extra: dict[str, Any] = {"columns": saved.columns}
    if saved.scaling is not None:
        extra |= {"shift": saved.scaling.shift, "scale": saved.scaling.scale}
    with replacing(path) as temporary:
        fastem.save(saved.model, temporary, extra=extra)


def _load(path: Path, threads: int | None) -> Saved:
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


def _rows_for(saved: Saved, model: Path, path: Path, header: bool | None) -> Table:
    """Read the columns that a model was fitted to, and scale them as it was fitted."""
    source = open_table(path, header=header)
    table = read_table(source, _columns_for(saved, model, source))
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


# ---------------------------------------------------------------------------------------------------------- outputs


def _write_labels(
    path: Path, labels: np.ndarray, probability: np.ndarray | None, every: np.ndarray | None = None
) -> None:
    columns = {"label": labels.astype(np.int32, copy=False)}
    if probability is not None:
        columns["probability"] = probability
    if every is not None:
        columns |= {f"probability_{c}": every[:, c] for c in range(every.shape[1])}
    write_table(path, columns)


def _draw(model: Any, X: np.ndarray, columns: list[str], scaling: Scaling | None, path: Path) -> None:
    from fastem import plot

    names = columns if scaling is None else [f"{name} (scaled)" for name in columns]
    figure = plot.summary(model, X, names=names)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


# -------------------------------------------------------------------------------------------------------- summaries


def _fit_summary(saved: Saved, X: np.ndarray, labels: np.ndarray, path: Path, seconds: Seconds) -> dict[str, Any]:
    """Everything that `fit` has to say, in the units of the file."""
    model, scaling = saved.model, saved.scaling
    mixture = _is_mixture(model)
    centers = np.asarray(model.means_ if mixture else model.cluster_centers_, np.float64)
    if scaling is not None:
        centers = centers * scaling.scale + scaling.shift
    summary: dict[str, Any] = {
        "input": str(path),
        "model": "gmm" if mixture else "kmeans",
        "rows": len(X),
        "columns": saved.columns,
        "scaled": scaling is not None,
        "sizes": np.bincount(labels, minlength=len(centers)).tolist(),
        "centers": centers.tolist(),
    }
    if mixture:
        total = float(_log_density(saved, X).sum())
        summary |= {
            "covariance": model.covariance_type,
            "weights": model.weights_.tolist(),
            "log_likelihood": total,
            "log_likelihood_per_row": total / len(X),
            "converged": bool(model.converged_),
        }
    else:
        summary |= {"inertia": float(model.inertia_), "converged": bool(model.n_iter_ < model.max_iter)}
    restarts = [float(objective) for objective in model.restarts_]
    return summary | {
        "iterations": int(model.n_iter_),
        "all_iterations": sum(len(history) for history in model.histories_),
        "restarts": restarts,
        "compile_seconds": seconds.compiling,
        "seconds": seconds.fitting,
        "rows_per_second": len(X) / seconds.fitting,
        "notes": list(model.notes_),
    }


def _score_summary(
    saved: Saved,
    table: Table,
    model: Path,
    path: Path,
    log_density: np.ndarray,
    anomaly: np.ndarray,
    log_epsilon: float,
) -> dict[str, Any]:
    """Everything that `score` has to say; rows are counted from 1."""
    rows = np.argsort(log_density, kind="stable")[: report.SHOWN_ANOMALIES]
    rows = rows[anomaly[rows]]
    values = table.X[rows].astype(np.float64)
    if saved.scaling is not None:
        values = values * saved.scaling.scale + saved.scaling.shift
    return {
        "input": str(path),
        "model": str(model),
        "rows": len(log_density),
        "columns": table.columns,
        "epsilon": report.power_of_ten(log_epsilon),
        "log_epsilon": log_epsilon,
        "anomalies": int(anomaly.sum()),
        "log_density": {
            "lowest": float(log_density.min()),
            "median": float(np.median(log_density)),
            "highest": float(log_density.max()),
        },
        "least_probable": [
            {"row": int(i) + 1, "log_density": float(log_density[i]), "values": shown.tolist()}
            for i, shown in zip(rows, values, strict=True)
        ],
    }
