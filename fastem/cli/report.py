"""What the command line shows: tables, JSON, warnings in one line, and a progress bar on a terminal."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastem.cli.models import KINDS, ModelName

LN10 = math.log(10.0)
SHOWN_CLUSTERS = 30
SHOWN_COLUMNS = 4
SHOWN_FACTORS = 4
SHOWN_ANOMALIES = 10
SHOWN_NOTES = 3
HALF_WAY = 30  # iterations after which the bar has done half of a restart


@contextmanager
def sentences(quiet: bool) -> Iterator[None]:
    """Show each warning once, as one line on stderr, or not at all."""
    log = logging.getLogger("fastem")
    level = log.level
    log.setLevel(logging.ERROR if quiet else level)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        log.setLevel(level)
    if quiet:
        return
    for text in dict.fromkeys(str(item.message) for item in caught if issubclass(item.category, UserWarning)):
        print(f"fastem: warning: {' '.join(text.split())}", file=sys.stderr)


@contextmanager
def reading(*, shown: bool, rows: Any = None) -> Iterator[Callable[[Any], None] | None]:
    """Show on a terminal how far a pass over a stream is, and how long the rest of it takes.

    Parameters
    ----------
    shown : bool
        False for none at all; there is none either where stderr is not a terminal.
    rows : stream, array or None
        Where a stream is known already, it tells this bar from now on.

    Yields
    ------
    callable or None
        What a stream is to tell, or None.
    """
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    with _bar() as bar:
        told = _rows_told(bar)
        if hasattr(rows, "progress"):
            rows.progress = told
        yield told
        if hasattr(rows, "progress"):
            rows.progress = None


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _rows_told(bar: Any) -> Callable[[Any], None]:
    """Return what shows the rows of a pass in a bar, from the first it is told of."""
    tasks: list[Any] = []

    def told(info: Any) -> None:
        if not tasks:
            tasks.append(bar.add_task(info.what, total=info.of, state=""))
        total = "" if info.of is None else f" of {info.of:,}"
        rate = info.n_rows / max(info.seconds, 1e-9)
        bar.update(
            tasks[0],
            description=info.what,
            total=info.of,
            completed=info.n_rows,
            state=f"{info.n_rows:,}{total} rows, {rate:,.0f} per second",
        )

    return told


@contextmanager
def progress(n_init: int, *, shown: bool, rows: Any = None) -> Iterator[Callable[[Any], None] | None]:
    """Show a progress bar on a terminal.

    Parameters
    ----------
    n_init : int
        Restarts.
    shown : bool
        False for none at all; there is none either where stderr is not a terminal.
    rows : stream, array or None
        Of a stream, the rows of a pass are shown, too.

    Yields
    ------
    callable or None
        The estimator's callback.
    """
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    with _bar() as bar:
        if hasattr(rows, "progress"):
            rows.progress = _rows_told(bar)
        task = bar.add_task("fit", total=None, state="preparing")

        def callback(info: Any) -> None:
            # Nobody knows how many iterations are left; restarts may run side by side, but the bar never goes back.
            done = max(info.restart + info.iteration / (info.iteration + HALF_WAY), bar.tasks[0].completed)
            state = (
                f"restart {info.restart + 1} of {n_init}, iteration {info.iteration}, objective {info.objective:.6g}"
            )
            bar.update(task, total=n_init, completed=done, state=state)

        yield callback
        if hasattr(rows, "progress"):
            rows.progress = None


def show(summary: dict[str, Any], tables: Callable[[dict[str, Any]], list[Any]], *, as_json: bool) -> None:
    """Print a summary as JSON, or as the tables that `tables` makes of it."""
    if as_json:
        print(json.dumps(_plain(summary), indent=2, allow_nan=False))
        return
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    made = tables(summary)
    # A table that is wider than the terminal runs over its edge: cut numbers would be worse.
    unlimited = console.options.update(max_width=1000)
    needed = [Measurement.get(console, unlimited, table).maximum for table in made if table.show_header]
    console.width = max([console.width, *needed])
    with console.capture() as capture:  # printed by us, so that a closed pipe is dealt with in one place
        for table in made:
            console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().rstrip().split("\n")))


def _plain(value: Any) -> Any:
    """Return a summary whose numbers JSON knows: null for infinity, such as the logarithm of a density of 0."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _facts(rows: dict[str, str]) -> Any:
    """Names and values in two columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _grid(*headers: str) -> Any:
    """Make a table of right-aligned columns; file names and column names are shown as they are, not as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(Text(header), justify="right", no_wrap=True)
    return table


def power_of_ten(logarithm: float) -> str:
    """Write exp(`logarithm`) so that `--epsilon` reads it back, however small it is.

    Examples
    --------
    >>> power_of_ten(-2.302585092994046), power_of_ten(-2000.0)
    ('1.00000e-1', '2.57654e-869')
    """
    if not math.isfinite(logarithm):
        return "0"
    exponent = math.floor(logarithm / LN10 + 1e-12)
    return f"{math.exp(logarithm - exponent * LN10):.5f}e{exponent}"


def _number(value: float) -> str:
    return f"{value:.5g}"


def _share(part: int, whole: int) -> str:
    return f"{100.0 * part / whole:.1f} %"


def fit_tables(summary: dict[str, Any]) -> list[Any]:
    """Make the tables of `fastem fit`."""
    rows = summary["rows"]
    n_restarts = len(summary["restarts"])
    ending = "" if summary["converged"] else ", not converged"
    facts = {"input": f"{summary['input']}: {rows:,} rows, {_columns(summary)}"}
    facts["model"] = _described(summary)
    if "inertia" in summary:
        facts["inertia"] = f"{summary['inertia']:.8g}"
    else:
        facts["log-likelihood"] = f"{summary['log_likelihood']:,.3f} ({summary['log_likelihood_per_row']:.5f} per row)"
    facts["iterations"] = (
        f"{summary['iterations']}{ending} (best of {n_restarts} restarts, {summary['all_iterations']} in all)"
        if n_restarts > 1
        else f"{summary['iterations']}{ending}"
    )
    facts["time"] = f"{summary['seconds']:.3f} s, {summary['rows_per_second']:,.0f} rows per second"
    if summary["compile_seconds"] > 1.0:
        facts["time"] += f"; {summary['compile_seconds']:.1f} s before it to compile the kernels, once"
    if summary["notes"]:
        facts["notes"] = "; ".join(summary["notes"][:SHOWN_NOTES])
    return [_facts(facts), _loadings(summary) if "loadings" in summary else _clusters(summary)]


def _described(summary: dict[str, Any]) -> str:
    """Say what was fitted: the title of the model and its numbers."""
    name, title = summary["model"], KINDS[ModelName(summary["model"])].title
    if name == "factor":
        return f"{title}, {_plural(len(summary['loadings']), 'factor')}"
    parts = [title, _plural(len(summary["sizes"]), "cluster" if name == "kmeans" else "component")]
    if "covariance" in summary:
        parts.append(f"{summary['covariance']} covariance")
    if "factors" in summary:
        parts.append(_plural(summary["factors"], "factor") + " each")
    return ", ".join(parts)


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _loadings(summary: dict[str, Any]) -> Any:
    """Make the table of factor analysis: the loadings of every column, as many factors as fit on a line."""
    from rich.text import Text

    shown = summary["loadings"][:SHOWN_FACTORS]
    table = _grid("column", *(f"factor {c}" for c in range(len(shown))), "noise variance")
    for j, name in enumerate(summary["columns"][:SHOWN_CLUSTERS]):
        noise = _number(summary["noise_variances"][j])
        table.add_row(Text(name), *(f"{loadings[j]:.3g}" for loadings in shown), noise)
    more = [
        _plural(len(whole) - most, f"more {word}")
        for whole, most, word in (
            (summary["columns"], SHOWN_CLUSTERS, "column"),
            (summary["loadings"], SHOWN_FACTORS, "factor"),
        )
        if len(whole) > most
    ]
    if more:
        table.caption = f"and {' and '.join(more)}"
    return table


def _columns(summary: dict[str, Any]) -> str:
    names = summary["columns"]
    scaled = ", scaled" if summary["scaled"] else ""
    listed = f" ({', '.join(names)})" if len(names) <= SHOWN_COLUMNS else ""
    return f"{len(names)} column{'s' if len(names) != 1 else ''}{listed}{scaled}"


def _clusters(summary: dict[str, Any]) -> Any:
    """Make the table of clusters, largest first; centres only where they fit on a line."""
    names = summary["columns"] if len(summary["columns"]) <= SHOWN_COLUMNS else []
    weights, dofs = summary.get("weights"), summary.get("dofs")
    extra = (["weight"] if weights else []) + (["dof"] if dofs else [])
    table = _grid("cluster", "rows", "share", *extra, *names)
    sizes = summary["sizes"]
    order = sorted(range(len(sizes)), key=lambda c: -sizes[c])
    for c in order[:SHOWN_CLUSTERS]:
        values = ([f"{weights[c]:.4f}"] if weights else []) + ([_number(dofs[c])] if dofs else [])
        center = [_number(value) for value in summary["centers"][c]] if names else []
        table.add_row(str(c), f"{sizes[c]:,}", _share(sizes[c], summary["rows"]), *values, *center)
    if len(sizes) > SHOWN_CLUSTERS:
        table.caption = f"and {len(sizes) - SHOWN_CLUSTERS} smaller clusters"
    return table


def predict_tables(summary: dict[str, Any]) -> list[Any]:
    """Make the tables of `fastem predict`."""
    facts = {"input": f"{summary['input']}: {summary['rows']:,} rows", "model": summary["model"]}
    if "sizes" not in summary:
        return [_facts(facts | {"factors": str(summary["factors"])})]
    return [_facts(facts), _clusters(summary | {"columns": []})]


def score_tables(summary: dict[str, Any]) -> list[Any]:
    """Make the tables of `fastem score`."""
    density = summary["log_density"]
    facts = {
        "input": f"{summary['input']}: {summary['rows']:,} rows",
        "model": summary["model"],
        "anomalies": f"{summary['anomalies']:,} ({_share(summary['anomalies'], summary['rows'])})",
        "epsilon": f"{summary['epsilon']} (log {summary['log_epsilon']:.5g})",
        "log-density": (
            f"lowest {density['lowest']:.5g}, median {density['median']:.5g}, highest {density['highest']:.5g}"
        ),
    }
    worst = summary["least_probable"]
    return [_facts(facts), _anomalies(summary)] if worst else [_facts(facts)]


def _anomalies(summary: dict[str, Any]) -> Any:
    """Make the table of flagged rows, least probable first."""
    names = summary["columns"] if len(summary["columns"]) <= SHOWN_COLUMNS else []
    table = _grid("data row", "log-density", *names)
    for item in summary["least_probable"]:
        values = ["" if value is None else _number(value) for value in item["values"]] if names else []
        table.add_row(f"{item['row']:,}", _number(item["log_density"]), *values)
    more = summary["anomalies"] - len(summary["least_probable"])
    if more:
        table.caption = f"and {more:,} more"
    return table
