"""The commands ``fastem fit``, ``fastem predict`` and ``fastem score``.

A command checks its options and output files, reads the table, calls an estimator as any other user would, writes the
outputs and prints a summary.  Refusals are exceptions; `fastem.cli` turns them into sentences.
"""

from __future__ import annotations

import decimal
import importlib.util
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

import fastem
from fastem.cli import groups, models, report
from fastem.cli.models import KINDS, CommandError, ModelName, Saved, Scaling
from fastem.cli.outputs import WRITABLE, check_outputs
from fastem.cli.tables import Table, open_file, open_table, read_table, split_names
from fastem.engine.checkpoint import interval
from fastem.files import replacing
from fastem.sources.rows import Stream
from fastem.sources.writing import write_blocks

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
DRAWN_ROWS = 20_000  # of a stream

app = typer.Typer(
    name="fastem",
    help="Cluster tables and find anomalies by expectation-maximization.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Seconds(NamedTuple):
    """Where the time went."""

    compiling: float  # or loading what was compiled before
    fitting: float


Model = Annotated[
    ModelName,
    typer.Option(
        metavar="NAME",
        help="kmeans; mixtures of Gaussians (gmm), student (outliers), bernoulli (0 and 1), poisson (counts), "
        "categorical (codes 0, 1, ...) or factor analysers (mfa); factor analysis (factor).",
    ),
]
Factors = Annotated[
    int | None, typer.Option(metavar="Q", min=0, help="Factors of each component of mfa; by default 1.")
]
Input = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT", help="Table to read: .csv, .parquet, .feather or .npy; also a folder or a glob of these."
    ),
]
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
    k: Annotated[
        int, typer.Option("-k", metavar="K", min=1, help="Number of clusters, or of factors.", show_default=False)
    ],
    model: Model = ModelName.kmeans,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Fit a model to every group of rows: those with the same values in these columns.",
            show_default=False,
        ),
    ] = None,
    covariance: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Of gmm full, tied, diag, spherical or the letters of a model such as VVE; of student full, diag or "
            "spherical.",
        ),
    ] = None,
    factors: Factors = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns to use; by default all.", show_default=False)
    ] = None,
    scale: Annotated[bool, typer.Option("--scale", help="Give every column mean 0 and variance 1 first.")] = False,
    n_init: Annotated[int, typer.Option(metavar="N", min=1, help="Restarts; the best is kept.")] = 10,
    max_iter: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Iterations per restart; by default 10000, of k-means 300.", show_default=False
        ),
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            min=0.0,
            help="Stop when the objective changes by less; by default when a mixture has no more than 0.005 of its "
            "log-likelihood left to gain.",
            show_default=False,
        ),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Incremental EM: parameters are made anew after each of at most N blocks of rows, and iterations are "
            "passes; fewer of them where reading rows is what takes time.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Seed of the random starts.")] = 0,
    threads: Threads = None,
    header: Header = None,
    output: Output = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the model to this .npz file.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save the state of the fit to this .npz file as it goes; removed when it ends.",
            show_default=False,
        ),
    ] = None,
    checkpoint_every: Annotated[
        str, typer.Option(metavar="T", help="How often: iterations, or a time such as 30s, 5min or 2h.")
    ] = "5min",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the --checkpoint file, if it is there.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the fit: .png, .svg or .pdf.", show_default=False)
    ] = None,
    group_report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="With --by, write one line per group: .csv, .parquet or .feather.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a model to a table and print its clusters."""
    models.check_options(model, None if covariance is None else [covariance], factors, scale)
    check_outputs(
        [path],
        (output, WRITABLE),
        (save, (".npz",)),
        (plot, PLOT_SUFFIXES),
        (group_report, groups.REPORTS),
        (checkpoint, (".npz",)),
    )
    if plot is not None:
        _check_plot(model)
    groups.check_options(by, group_report, {"--plot": plot, "--scale": scale, "--blocks": blocks})
    every = _check_checkpoint(checkpoint, checkpoint_every, {"--by": by, "--blocks": blocks}, resume=resume)
    source = (open_table if by is None else open_file)(path, header=header)
    estimator = models.estimator(
        model, k, blocks=blocks, covariance_type=covariance, n_factors=factors, n_init=n_init, max_iter=max_iter,
        tol=tol, random_state=seed, n_threads=threads, checkpoint=checkpoint, checkpoint_every=every,
    )  # fmt: skip
    chosen = None if columns is None else split_names(columns)
    if by is not None:
        asked = groups.Asked(split_names(by), chosen, model, estimator, k, output, save, group_report, as_json, quiet)
        return groups.fit(source, asked)
    with report.reading(shown=not quiet) as told:
        table = read_table(source, chosen, allow_nan=models.takes_missing(estimator), progress=told)
    _check_size(model, k, table, path)
    models.run_to_the_end(estimator, len(table.X), tol, max_iter)
    scaling = models.scaling_of(table.X) if scale else None
    X = table.X if scaling is None else scaling.apply(table.X)

    with report.sentences(quiet):
        n_runs = getattr(estimator, "n_init", 1)
        with report.progress(n_runs, shown=not quiet, rows=X) as callback:
            estimator.set_params(callback=callback)
            start = time.perf_counter()
            models.warmup(model, [getattr(estimator, "covariance_type", "")], X)
            ready = time.perf_counter()
            estimator.fit(X)
            seconds = Seconds(ready - start, time.perf_counter() - ready)
        estimator.set_params(callback=None)
        by_name = source.named or columns is not None
        tally = models.Tally(models.n_components(estimator))
        with report.reading(shown=not quiet, rows=X):
            _write(output, tally.over(models.each_assigned(estimator, X)))
        if save is not None:
            models.save(Saved(estimator, table.columns if by_name else [], scaling), save)
        if plot is not None:
            _draw(estimator, X, table.columns, scaling, plot)
    if as_json or not quiet:
        summary = _fit_summary(Saved(estimator, table.columns, scaling), X, tally.sizes, path, seconds)
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
    """Assign the rows of a table to the clusters of a saved model; of factor analysis, find their factors."""
    check_outputs([model, path], (output, WRITABLE))
    if groups.holds_groups(model):
        if proba:
            raise CommandError(f"--proba is for one model, and {model} holds those of many groups.")
        return groups.predict(model, path, output, threads, header, as_json=as_json, quiet=quiet)
    saved = models.load(model, threads)
    name = models.name_of(saved.model)
    if proba and not hasattr(saved.model, "predict_proba"):
        raise CommandError(f"--proba needs a mixture, and {model} holds {KINDS[name].title}.")
    tally = models.Tally(models.n_components(saved.model))
    with report.sentences(quiet), report.reading(shown=not quiet) as told:
        X = models.rows_for(saved, model, path, header, told).X
        _write(output, tally.over(models.each_assigned(saved.model, X, proba=proba)))
    if as_json or not quiet:
        summary = {"input": str(path), "model": str(model), "rows": tally.rows, "sizes": tally.sizes}
        if tally.sizes is None:
            del summary["sizes"]
            summary["factors"] = tally.columns
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
    """Flag the rows of a table that a saved mixture, or factor analysis, finds improbable."""
    from fastem.analysis.anomaly import threshold_of_share  # imports scikit-learn, which --help shall not wait for

    log_epsilon = _threshold(epsilon, contamination)
    check_outputs([model, path], (output, WRITABLE))
    saved = models.load(model, threads)
    if not hasattr(saved.model, "score_samples"):
        raise CommandError(f"{model} holds k-means, which has no density; score needs a mixture or factor analysis.")
    with report.sentences(quiet), report.reading(shown=not quiet) as told:
        table = models.rows_for(saved, model, path, header, told)
        log_density = models.log_density(saved, table.X)
        if contamination is not None:
            log_epsilon = _below(log_density, threshold_of_share(log_density, contamination))
        anomaly = log_density < log_epsilon
        if output is not None:
            write_blocks(output, [{"log_density": log_density, "anomaly": anomaly}])
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


def _below(log_density: np.ndarray, threshold: float) -> float:
    """Return a threshold halfway to the highest density below, so that it flags the same rows when rounded."""
    last = float(np.max(log_density, where=log_density < threshold, initial=-np.inf))
    return (
        max(threshold + 0.5 * (last - threshold), np.nextafter(last, threshold)) if math.isfinite(last) else threshold
    )


def _write(output: Path | None, blocks: Iterable[dict[str, np.ndarray]]) -> None:
    """Write blocks of columns, or only look at them."""
    if output is not None:
        write_blocks(output, blocks)
        return
    for _ in blocks:
        pass


def _check_checkpoint(checkpoint: Path | None, every: str, others: dict[str, Any], *, resume: bool) -> int | str:
    """Return how often a state is saved; refuse a file that is there unless the fit is to go on from it."""
    how_often: int | str = int(every) if every.isdecimal() else every
    if interval(how_often) is None:
        raise CommandError(f"--checkpoint-every must be iterations or a time such as 30s, 5min or 2h, got {every}.")
    if checkpoint is None:
        if resume:
            raise CommandError("--resume needs --checkpoint, the file to go on from.")
        return how_often
    if others["--by"] is not None:
        raise CommandError("--checkpoint is for one model, and --by fits many.")
    if others["--blocks"] is not None:
        raise CommandError("--checkpoint does not go with --blocks: what is known of each block is not saved.")
    if checkpoint.exists() and not resume:
        raise CommandError(f"{checkpoint} is there already: --resume goes on from it, or remove it to begin anew.")
    return how_often


def _check_plot(name: ModelName) -> None:
    if not KINDS[name].drawn:
        raise CommandError(f"--plot draws {' and '.join(n for n in ModelName if KINDS[n].drawn)}, not {name}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError('--plot needs matplotlib: pip install "fastem[plot]".')


def _check_size(name: ModelName, k: int, table: Table, path: Path) -> None:
    n, d = table.X.shape
    if name is ModelName.factor and k > d:
        raise CommandError(f"-k {k} asks for more factors than {path} has columns ({d}).")
    if name is not ModelName.factor and k > n:
        raise CommandError(f"-k {k} asks for more clusters than {path} has rows ({n}).")


# -------------------------------------------------------------------------------------------- pictures and summaries


def _draw(model: Any, X: Any, columns: list[str], scaling: Scaling | None, path: Path) -> None:
    from fastem import plot

    names = columns if scaling is None else [f"{name} (scaled)" for name in columns]
    if isinstance(X, Stream):  # a picture has no room for more
        X = models.taken(X, np.linspace(0, len(X) - 1, min(len(X), DRAWN_ROWS)).astype(np.int64))
    figure = plot.summary(model, X, names=names)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _fit_summary(saved: Saved, X: Any, sizes: list[int] | None, path: Path, seconds: Seconds) -> dict[str, Any]:
    """Everything that `fit` has to say, in the units of the file."""
    model = saved.model
    summary: dict[str, Any] = {
        "input": str(path),
        "model": models.name_of(model).value,
        "rows": len(X),
        "columns": saved.columns,
        "scaled": saved.scaling is not None,
    }
    if sizes is not None:
        summary["sizes"] = sizes
    summary |= models.summary_of(saved, X)
    return summary | {
        "iterations": int(model.n_iter_),
        "all_iterations": sum(len(history) for history in model.histories_),
        "restarts": [float(objective) for objective in model.restarts_],
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
    values: Any = models.taken(table.X, rows).astype(np.float64)
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
            {
                "row": int(i) + 1,
                "log_density": float(log_density[i]),
                "values": [None if v != v else v for v in shown.tolist()],
            }
            for i, shown in zip(rows, np.where(np.isnan(values), None, values), strict=True)
        ],
    }
