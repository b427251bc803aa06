"""The command ``fastem select``: which number of clusters, and which covariances (lecture row L3)."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import fastem
from fastem.cli import models, report
from fastem.cli.commands import (
    PLOT_SUFFIXES,
    AsJson,
    Factors,
    Header,
    Input,
    Model,
    Output,
    Quiet,
    Threads,
    app,
)
from fastem.cli.models import KINDS, CommandError, ModelName, Saved
from fastem.cli.outputs import WRITABLE, check_outputs
from fastem.cli.tables import open_table, read_table, split_names
from fastem.files import replacing
from fastem.sources.rows import Stream
from fastem.sources.writing import write_blocks

__all__ = ["app"]


class Criterion(StrEnum):
    """What can be compared: those of `fastem.analysis.selection`, which is imported only when it is needed."""

    auto = "auto"
    bic = "bic"
    aic = "aic"
    icl = "icl"
    heldout = "heldout"
    silhouette = "silhouette"
    elbow = "elbow"


@app.command()
def select(
    path: Input,
    k: Annotated[
        str | None,
        typer.Option(
            "-k",
            metavar="K",
            help="Numbers of clusters, or factors, to try: 2-6, or 2,4,8; by default 1-9.",
            show_default=False,
        ),
    ] = None,
    model: Model = ModelName.gmm,
    covariance: Annotated[
        str | None,
        typer.Option(
            metavar="TYPES",
            help="Covariances to try, such as full,diag,VVE; by default full, tied, diag and spherical; all: the "
            "fourteen models of mclust.",
            show_default=False,
        ),
    ] = None,
    factors: Factors = None,
    criterion: Annotated[
        Criterion,
        typer.Option(metavar="NAME", help="bic, aic, icl, heldout, silhouette or elbow; auto is bic or silhouette."),
    ] = Criterion.auto,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns to use; by default all.", show_default=False)
    ] = None,
    scale: Annotated[bool, typer.Option("--scale", help="Give every column mean 0 and variance 1 first.")] = False,
    n_init: Annotated[int, typer.Option(metavar="N", min=1, help="Restarts of every candidate.")] = 3,
    time_budget: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.0, help="Begin no candidate after this many seconds.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Seed of the random starts.")] = 0,
    threads: Threads = None,
    header: Header = None,
    output: Output = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the chosen model to this .npz file.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curves: .png, .svg or .pdf.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Choose the number of clusters of a table, and print how all candidates did."""
    kinds = _kinds(covariance, model)
    models.check_options(model, None if covariance is None else kinds, factors, scale)
    if time_budget == 0.0:
        raise CommandError("--time-budget must be above 0 seconds.")
    ks = None if k is None else _numbers(k)
    check_outputs([path], (output, WRITABLE), (save, (".npz",)), (plot, PLOT_SUFFIXES))
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise CommandError('--plot needs matplotlib: pip install "fastem[plot]".')
    source = open_table(path, header=header)
    candidate = models.estimator(model, 1, n_factors=factors)
    missing = models.takes_missing(candidate) and criterion.value != "silhouette"  # which is made of distances
    table = read_table(source, None if columns is None else split_names(columns), allow_nan=missing)
    scaling = models.scaling_of(table.X) if scale else None
    X = table.X if scaling is None else scaling.apply(table.X)
    if isinstance(X, Stream):  # dozens of fits, some to parts of the rows: to rows in memory
        X = np.concatenate(list(X.blocks()))

    with report.sentences(quiet):
        models.warmup(model, kinds, X)
        start = time.perf_counter()
        with _progress(shown=not quiet) as progress:
            found = fastem.select(
                X, ks, model=candidate, covariance_types=kinds or None,
                criterion=criterion.value, n_init=n_init, random_state=seed,
                n_threads=threads, time_budget=time_budget, progress=progress,
            )  # fmt: skip
        seconds = time.perf_counter() - start
        if save is not None:
            models.save(Saved(found.model, table.columns if source.named or columns is not None else [], scaling), save)
        if output is not None:
            write_blocks(output, [models.assigned(found.model, X)])
        if plot is not None:
            _draw(found, plot)
    if as_json or not quiet:
        summary = _summary(found, len(X), table.columns, scale, path, model.value, seconds)
        report.show(summary, tables, as_json=as_json)


def _numbers(text: str) -> list[int]:
    """Read ``2-6`` or ``2,4,8`` or both."""
    wanted: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise CommandError(f"-k must be numbers such as 2-6 or 2,4,8, got {text}.")
        wanted.extend(range(int(first), int(last or first) + 1))
    if not wanted or min(wanted) < 1:
        raise CommandError(f"-k must name at least one positive number, got {text}.")
    return sorted(set(wanted))


def _kinds(text: str | None, model: ModelName) -> list[str]:
    """Read the covariance types to try: those that the model is known by, unless others are named."""
    from fastem.analysis.candidates import chosen

    parts = [part.strip() for part in (text or "").split(",")]
    return chosen(models.covariances(model), None if text is None else parts[0] if len(parts) == 1 else parts)


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[Any], None] | None]:
    """Show on a terminal how many candidates are done."""
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("select"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("select", total=None)
        yield lambda info: bar.update(task, total=info.total, completed=info.done)


def _draw(found: Any, path: Path) -> None:
    from fastem import plot

    ax: Any = plot.elbow(found) if found.criterion == "elbow" else plot.criteria(found)
    with replacing(path) as temporary:
        ax.figure.savefig(temporary, dpi=150)


def _summary(
    found: Any, n_rows: int, columns: list[str], scaled: bool, path: Path, model: str, seconds: float
) -> dict[str, Any]:
    def plain(row: Any) -> dict[str, Any]:
        values = row._asdict()
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}

    return {
        "input": str(path),
        "model": model,
        "rows": n_rows,
        "columns": columns,
        "scaled": scaled,
        "criterion": found.criterion,
        "complete": found.complete,
        "best": plain(found.best),
        "candidates": [plain(row) for row in found.table],
        "seconds": seconds,
    }


def tables(summary: dict[str, Any]) -> list[Any]:
    """Make the tables of `fastem select`."""
    best, kind = summary["best"], summary["best"]["covariance_type"]
    facts = {
        "input": f"{summary['input']}: {summary['rows']:,} rows, {report._columns(summary)}",
        "model": KINDS[ModelName(summary["model"])].title,
        "chosen": f"k = {best['n_components']}" + (f", {kind} covariance" if kind else ""),
        "by": summary["criterion"] + ("" if summary["complete"] else "; the time budget left candidates out"),
        "time": f"{summary['seconds']:.3f} s, {len(summary['candidates'])} candidates",
    }
    density = summary["model"] != "kmeans"
    shown = ["objective", "aic", "bic"] + (["icl"] if KINDS[ModelName(summary["model"])].mixes else [])
    shown += [summary["criterion"]] if summary["criterion"] in ("heldout", "silhouette") else []
    names = {"objective": "log-lik. per row" if density else "inertia", "heldout": "held out"}
    heads = [names.get(name, name.upper() if len(name) == 3 else name) for name in shown]
    compared = summary["criterion"] if summary["criterion"] in shown else ""
    if compared:
        heads.insert(shown.index(compared) + 1, "to best")
    grid = report._grid("k", *(["covariance"] if kind else []), "parameters", *heads, "iterations")
    for row in summary["candidates"]:
        values = [row[name] if density or name != "objective" else -row[name] for name in shown]
        cells = ["-" if value is None else _number(value) for value in values]
        if compared:
            both = row[compared] is not None and best[compared] is not None
            away = row[compared] - best[compared] if both else None
            cells.insert(shown.index(compared) + 1, "-" if away is None else _difference(away))
        kinds = [row["covariance_type"]] if kind else []
        remarks = ["not converged"] * (not row["converged"]) + [f"{row['collapsed']} collapsed"] * (
            row["collapsed"] > 0
        )
        grid.add_row(
            str(row["n_components"]),
            *kinds,
            str(row["n_parameters"]),
            *cells,
            str(row["n_iter"]) + (f" ({', '.join(remarks)})" if remarks else ""),
            style="bold" if row == best else "",
        )
    return [report._facts(facts), grid]


def _number(value: float) -> str:
    """Criteria and inertias differ by units, means over rows by ten-thousandths."""
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.5f}"


def _difference(value: float) -> str:
    """A difference to the best candidate's value; that of the best is left empty."""
    return "" if value == 0 else f"{value:+,.2f}" if abs(value) >= 0.1 else f"{value:+.2g}"
