"""``fastem fit --by`` and ``fastem predict`` of its models: many groups of a table, each with a model of its own.

A Parquet or Arrow file that is sorted by the keys is read twice, in batches: its keys, to see that it is sorted, and
its rows, which go out as labels as soon as their groups are complete.  Any other file is read whole.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastem.cli import report
from fastem.cli.models import KINDS, CommandError, ModelName
from fastem.cli.outputs import writing
from fastem.cli.tables import Source, TableError, open_file, quoted
from fastem.files import replacing
from fastem.sources.writing import write_blocks

SHOWN_GROUPS = 10
REPORTS = (".csv", ".parquet", ".feather", ".arrow")  # what can hold sentences beside numbers


class Asked(NamedTuple):
    """What ``fastem fit --by`` was asked for."""

    by: list[str]
    columns: list[str] | None
    model: ModelName
    estimator: Any
    k: int
    output: Path | None
    save: Path | None
    report: Path | None
    as_json: bool
    quiet: bool


def check_options(by: str | None, group_report: Path | None, of_one: dict[str, Any]) -> None:
    """Refuse options that go with one model alone (by name, with what was asked for), or with many."""
    if by is None:
        if group_report is not None:
            raise CommandError("--report has one line per group, and goes with --by.")
        return
    asked = [option for option, value in of_one.items() if value]
    if asked:
        raise CommandError(f"{asked[0]} is for one model, and --by makes many.")


def fit(source: Source, asked: Asked) -> None:
    """Fit every group of a table; write models, labels and the report."""
    from fastem.many.frames import features_of

    if hasattr(asked.estimator, "accelerate"):
        asked.estimator.set_params(accelerate=None)  # as the classes do by default: small fits need few iterations
    features = features_of(source.names, asked.by, asked.columns)
    _check_columns(source, [*asked.by, *features])
    start = time.perf_counter()
    with report.sentences(asked.quiet), ExitStack() as stack:
        n_groups = _n_sorted_groups(source, asked.by)
        if n_groups is None:
            result = _fit_whole(source, asked, features, stack)
        else:
            result = _fit_in_batches(source, asked, features, n_groups, stack)
        if asked.save is not None:
            with replacing(asked.save) as temporary:
                result.save(temporary)
        if asked.report is not None:
            write_blocks(asked.report, [result.summary])
    if asked.as_json or not asked.quiet:
        summary = _fit_summary(result, source, asked, features, n_groups is not None, time.perf_counter() - start)
        report.show(summary, fit_tables, as_json=asked.as_json)


def _check_columns(source: Source, names: list[str]) -> None:
    missing = [name for name in names if name not in source.names]
    if missing:
        raise TableError(f"{source.path} has no column {quoted(missing[:1])}; it has {quoted(source.names)}.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise TableError(f"{source.path}: column {quoted(twice[:1])} is asked for more than once.")


# ------------------------------------------------------------------------------------------------------------ reading


def _batches(source: Source, columns: list[str]) -> Iterator[Any] | None:
    """Return an iterator over the batches of a file as Arrow tables; None if it can only be read whole."""
    import pyarrow as pa

    suffix = source.path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        def parquet() -> Iterator[Any]:
            with pq.ParquetFile(source.path) as file:
                for batch in file.iter_batches(columns=columns):
                    yield pa.Table.from_batches([batch]).select(columns)

        return parquet()
    if suffix in (".feather", ".arrow"):
        from pyarrow import ipc

        def feather() -> Iterator[Any]:
            with open(source.path, "rb") as stream:
                file = ipc.open_file(stream)
                for number in range(file.num_record_batches):
                    yield pa.Table.from_batches([file.get_batch(number)]).select(columns)

        return feather()
    return None


def _whole(source: Source, columns: list[str]) -> Any:
    """Return columns of a file as an Arrow table."""
    import pyarrow as pa

    loaded = source.load(columns)
    if isinstance(loaded, np.ndarray):
        return pa.table({name: loaded[:, j] for j, name in enumerate(columns)})
    return loaded


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn what a reader says of a damaged file into a sentence about it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, pa.ArrowInvalid) as error:
        raise TableError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _n_sorted_groups(source: Source, by: list[str]) -> int | None:
    """Return the number of groups of a file that can be read in batches and is sorted by its keys; else None."""
    from fastem.many.frames import key_of
    from fastem.many.stream import changes, rise

    batches = _batches(source, by)
    if batches is None:
        return None
    n_groups, last = 0, None
    with _sentences(source.path):
        for table in batches:
            if not table.num_rows:
                continue
            keys = [key_of(table[name]) for name in by]
            joined = keys if last is None else [_after(before, key) for before, key in zip(last, keys, strict=True)]
            if not rise(joined):
                return None
            n_groups += int(changes(joined).sum()) - (last is not None)
            last = [key[-1:] for key in keys]
    return n_groups or None


def _after(before: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return a key column with the last value of the batch before in front; as objects if they are of two kinds."""
    same = before.dtype.kind == column.dtype.kind
    return np.concatenate([before, column] if same else [before.astype(object), column.astype(object)])


# ------------------------------------------------------------------------------------------------------------ fitting


def _fit_whole(source: Source, asked: Asked, features: list[str], stack: ExitStack) -> Any:
    """Fit the groups of a file that has to be in memory, and write the labels."""
    from fastem.many.fit import fit_groups
    from fastem.many.grouping import gather

    with _sentences(source.path):
        table = _whole(source, [*asked.by, *features])
    rows = gather(table, by=asked.by, columns=features)
    if not asked.quiet:
        print(f"fastem: {source.path} is read whole: {_why_whole(source)}.", file=sys.stderr)
    with _progress(len(rows.layout.keys), shown=not asked.quiet) as advance:
        result = fit_groups(asked.estimator, rows, asked.k, told=advance)
    if asked.output is not None:
        keys = table.select(asked.by)
        write = stack.enter_context(writing(asked.output))
        write(_labelled(keys, result.labels))
    return result


def _why_whole(source: Source) -> str:
    in_batches = source.path.suffix.lower() in (".parquet", ".pq", ".feather", ".arrow")
    return "it is not sorted by its keys" if in_batches else "only .parquet, .feather and .arrow come in batches"


def _fit_in_batches(source: Source, asked: Asked, features: list[str], n_groups: int, stack: ExitStack) -> Any:
    """Fit the groups of a sorted file as they come, and write their labels."""
    from fastem.many.frames import read
    from fastem.many.stream import GroupStream

    stream = GroupStream(asked.estimator, asked.k, asked.by, features)
    write = stack.enter_context(writing(asked.output)) if asked.output is not None else None
    with _sentences(source.path), _progress(n_groups, shown=not asked.quiet) as advance:
        for table in _complete(_batches(source, [*asked.by, *features]) or iter(()), asked.by):
            frame = read(table, asked.by, features)
            fitted = stream.fit(frame.X, frame.keys)
            if write is not None:
                write(_labelled(table.select(asked.by), fitted.labels))
            advance(len(fitted.n_iter))
    return stream.result()


def _complete(batches: Iterator[Any], by: list[str]) -> Iterator[Any]:
    """Cut sorted batches anew, between groups: what has begun waits for its end."""
    import pyarrow as pa

    from fastem.many.frames import key_of
    from fastem.many.stream import changes

    waiting: list[Any] = []
    last: list[np.ndarray] = []
    for table in batches:
        if not table.num_rows:
            continue
        keys = [key_of(table[name]) for name in by]
        joined = [_after(before, key) for before, key in zip(last, keys, strict=True)] if last else keys
        starts = np.flatnonzero(changes(joined)[1:] if last else changes(joined))
        last = [key[-1:] for key in keys]
        if waiting and not len(starts):
            waiting.append(table)
            continue
        cut = int(starts[-1])
        done = [*waiting, table.slice(0, cut)] if cut or waiting else []
        waiting = [table.slice(cut)]
        if done:
            yield pa.concat_tables(done)
    if waiting:
        yield pa.concat_tables(waiting)


def _labelled(keys: Any, labels: np.ndarray | None) -> Any:
    """Return key columns with the labels beside them."""
    import pyarrow as pa

    return keys.append_column("label", pa.array(labels))


@contextmanager
def _progress(n_groups: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in groups on a terminal, and yield what moves it on."""
    if not (shown and sys.stderr.isatty()):
        yield lambda number: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("groups"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("groups", total=n_groups)
        yield lambda number: bar.update(task, advance=number)


# --------------------------------------------------------------------------------------------------------- prediction


def holds_groups(path: Path) -> bool:
    """Tell whether a file holds the models of many groups; what is wrong with it is said by those who read it."""
    from fastem.many.storage import is_result

    return path.is_file() and is_result(path)


def predict(
    model: Path,
    path: Path,
    output: Path | None,
    threads: int | None,
    header: bool | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Give every row of a table the label of its own group's model."""
    from fastem.many.result import ManyFits

    result = ManyFits.load(model)
    if not hasattr(result.estimator, "predict"):
        raise CommandError(f"{model} holds factor analyses, which have no clusters.")
    if threads is not None:
        result.estimator.set_params(n_threads=threads)
    source = open_file(path, header=header)
    counts = _Counts(result)
    with report.sentences(quiet=True), ExitStack() as stack, _sentences(path):
        columns = counts.columns_of(source)
        write = stack.enter_context(writing(output)) if output is not None else None
        for table in _batches(source, columns) or iter([_whole(source, columns)]):
            labels = counts.labels(table)
            if write is not None:
                write(_labelled(table.select(result.key_names), labels))
        if not counts.rows:
            raise TableError(f"{path} has no rows.")
    summary = {"input": str(path), "model": str(model)} | counts.summary()
    if as_json or not quiet:
        report.show(summary, predict_tables, as_json=as_json)


class _Counts:
    """Labels of rows batch by batch, and what became of those without one."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.rows = self.labelled = self.of_unknown = self.of_unfitted = 0
        self.unknown: dict[Any, None] = {}

    def columns_of(self, source: Source) -> list[str]:
        """Return the columns to read: those of the keys and the features, by their names."""
        if not self.result.feature_names:
            raise CommandError("these models were not fitted to a table with named columns.")
        columns = [*self.result.key_names, *self.result.feature_names]
        _check_columns(source, columns)
        return columns

    def labels(self, table: Any) -> np.ndarray:
        """Return the labels of the rows of a batch."""
        from fastem.many.frames import key_of

        labels = self.result.predict(table)
        keys = [key_of(table[name]) for name in self.result.key_names]
        groups = self.result.find(tuple(keys))
        unknown = np.flatnonzero(groups < 0)
        self.unknown |= dict.fromkeys(zip(*(key[unknown].tolist() for key in keys), strict=True))
        self.rows += len(labels)
        self.labelled += int((labels >= 0).sum())
        self.of_unknown += len(unknown)
        self.of_unfitted += int((~self.result.has_model[groups[groups >= 0]]).sum())
        return labels

    def summary(self) -> dict[str, Any]:
        """Return what is to be said."""
        unknown = [", ".join(map(str, key)) for key in list(self.unknown)[:SHOWN_GROUPS]]
        return {
            "rows": self.rows,
            "labelled": self.labelled,
            "rows_of_unknown_groups": self.of_unknown,
            "unknown_groups": len(self.unknown),
            "first_unknown_groups": unknown,
            "rows_of_groups_without_model": self.of_unfitted,
        }


# -------------------------------------------------------------------------------------------------------------- shown


def _fit_summary(
    result: Any, source: Source, asked: Asked, features: list[str], in_batches: bool, seconds: float
) -> dict[str, Any]:
    """Everything that ``fastem fit --by`` has to say."""
    status = result.status
    bad = np.flatnonzero(~np.isin(status, ("converged", "stopped")))[:SHOWN_GROUPS]
    keys, reasons = result.keys, result.reasons
    return {
        "input": str(source.path),
        "model": asked.model.value,
        "k": asked.k,
        "rows": int(result.n_rows.sum()),
        "groups": len(result),
        "by": asked.by,
        "columns": features,
        "in_batches": in_batches,
        "statuses": result.counts(),
        "first_bad_groups": [
            {"group": str(keys[at]), "status": str(status[at]), "reason": reasons[at]} for at in bad.tolist()
        ],
        "seconds": seconds,
        "groups_per_second": len(result) / seconds,
    }


def fit_tables(summary: dict[str, Any]) -> list[Any]:
    """Make the tables of ``fastem fit --by``."""
    from rich.text import Text

    features = summary["columns"]
    facts = {
        "input": f"{summary['input']}: {summary['rows']:,} rows, {len(features)} features",
        "model": f"{KINDS[ModelName(summary['model'])].title}, k = {summary['k']}",
        "groups": f"{summary['groups']:,} by {', '.join(summary['by'])}",
        "statuses": ", ".join(f"{title}: {number:,}" for title, number in summary["statuses"].items()),
        "time": f"{summary['seconds']:.3f} s, {summary['groups_per_second']:,.0f} groups per second",
    }
    tables = [report._facts(facts)]
    if summary["first_bad_groups"]:
        grid = report._grid("group", "status", "reason")
        for item in summary["first_bad_groups"]:
            grid.add_row(Text(item["group"]), item["status"], Text(item["reason"]))
        tables.append(grid)
    return tables


def predict_tables(summary: dict[str, Any]) -> list[Any]:
    """Make the table of ``fastem predict`` with models of groups."""
    facts = {
        "input": f"{summary['input']}: {summary['rows']:,} rows",
        "model": summary["model"],
        "labelled": f"{summary['labelled']:,} rows",
    }
    if summary["unknown_groups"]:
        first = "; ".join(summary["first_unknown_groups"])
        more = summary["unknown_groups"] - len(summary["first_unknown_groups"])
        facts["unknown groups"] = (
            f"{summary['unknown_groups']:,} with {summary['rows_of_unknown_groups']:,} rows, label -1: {first}"
            + (f" and {more:,} more" if more else "")
        )
    if summary["rows_of_groups_without_model"]:
        facts["groups without a model"] = f"{summary['rows_of_groups_without_model']:,} rows, label -1"
    return [report._facts(facts)]
