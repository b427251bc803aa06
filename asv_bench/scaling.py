"""What a pass over rows in Dask costs: a model of it, its constants measured here, and what it says of larger clusters.

    python -m asv_bench.scaling measure docs/scaling.json
    python -m asv_bench.scaling tables docs/scaling.json

An iteration of a fit to n rows in p partitions of whole cells, on w workers of t threads each, takes

    seconds = n row / (w t) + tasks * task + p partition + each_pass

`row` is what the kernels take for a row on one thread; `task` and `partition` what client, scheduler and worker spend
on a task and on a partition of it, one after another; `each_pass` what is left: the M-step, and the way from the client
to the workers and back.  A task passes over the partitions of a worker, as many as half a gigabyte of rows; if there
are more than 16 such tasks, or more than 64 kB of records, other tasks join records, 16 at a time.  The scheduler's
sockets carry in an iteration

    bytes = tasks * about + p named + known + w seconds * beat + records

with `about` what is said of a task, its parameters included, `named` what is said of a partition, `known` what is said
once, `beat` what a worker says each second whatever it does, and the records that come to the client, whose number is
that of nodes of the fixed tree.

`measure` starts a scheduler and workers as processes of their own, on the loopback.  It takes the constants from one
worker and two, and what they say of other configurations is compared with what is measured there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastem.sources import dask as dask_source
from fastem.sources.ragged import Ragged, groups_of, n_nodes

D, K = 8, 8
JOINED = 16  # sums that a task joins, as `fastem.sources.dask`
TOGETHER = (1 << 29) // (4 * D)  # rows of several partitions that a task passes over, as there
HERE = 1 << 16  # bytes of sums that come to the client without being joined, as there
# Bytes of a record: weights, sums and scatter of each cluster, and the objective.
RECORDS = {"kmeans": 8 * (K * (1 + D) + 1), "gmm": 8 * (K * (1 + D + D * D) + 1)}
MODELS = tuple(RECORDS)


class Layout(NamedTuple):
    """Rows, how they are divided, and what works on them."""

    rows: int
    partitions: int
    workers: int
    threads: int = 1  # of a worker
    together: int = TOGETHER  # rows of several partitions that a task passes over, at most

    @property
    def groups(self) -> int:
        """Tasks that pass over rows, with the same number of partitions on each worker."""
        of_worker = -(-self.partitions // self.workers)
        together = max(1, self.together * self.partitions // self.rows)
        return min(self.partitions, self.workers * -(-of_worker // together))

    @property
    def nodes(self) -> int:
        """Nodes of the fixed tree whose records the tasks return, where partitions are dealt out in turn."""
        cells, more = divmod(self.rows // 2048, self.partitions)
        blocks = Ragged(2048 * (cells + (number < more)) for number in range(self.partitions)).blocks
        holders = [(str(number % self.workers),) for number in range(self.partitions)]
        return sum(group.n_nodes for group in groups_of(blocks, holders, self.together))

    def joins(self, model: str) -> list[int]:
        """Tasks of each level that joins records."""
        found, left = [], self.groups
        while left > 1 and (self.groups > JOINED or RECORDS[model] * self.nodes > HERE):
            left = -(-left // JOINED)
            found.append(left)
        return found

    def tasks(self, model: str) -> int:
        """Tasks of a pass."""
        return self.groups + sum(self.joins(model))

    def sent(self, model: str) -> int:
        """Bytes of records that come to the client by way of the scheduler, each of them in and out."""
        joined = self.groups > JOINED or len(self.joins(model)) > 0
        return 2 * RECORDS[model] * (n_nodes(Ragged([self.rows]).blocks) if joined else self.nodes)


class Costs(NamedTuple):
    """The constants, in seconds and bytes."""

    row: float
    task: float
    partition: float
    each_pass: float
    about: float  # of a task
    named: float  # of a partition
    known: float  # once
    beat: float  # a second and worker

    def seconds(self, layout: Layout, model: str) -> float:
        """Return the time of an iteration."""
        compute = layout.rows * self.row / (layout.workers * layout.threads)
        return compute + layout.tasks(model) * self.task + layout.partitions * self.partition + self.each_pass

    def bytes(self, layout: Layout, model: str, seconds: float) -> float:
        """Return what the scheduler's sockets carry in an iteration that takes so long."""
        said = layout.tasks(model) * self.about + layout.partitions * self.named + self.known
        return layout.sent(model) + said + layout.workers * seconds * self.beat


# ------------------------------------------------------------------------------------------------------- measuring


def rows_of(n: int, seed: int) -> np.ndarray:
    """Return rows of K overlapping clusters, float32."""
    centers = np.random.default_rng(0).uniform(-4, 4, (K, D)).astype(np.float32)
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, D), np.float32)
    X *= 2.5
    X += centers[rng.integers(0, K, n)]
    return X


def collection(layout: Layout) -> Any:
    """Return the rows as a dask array whose partitions are made where they lie."""
    import dask.array as da

    sizes = [len(part) for part in np.array_split(np.empty(layout.rows // 2048, bool), layout.partitions)]
    lengths = tuple(2048 * size for size in sizes)
    meta = np.empty((0, D), np.float32)

    def made(block_info: Any = None) -> np.ndarray:
        return rows_of(block_info[None]["chunk-shape"][0], block_info[None]["chunk-location"][0])

    return da.map_blocks(made, chunks=(lengths, (D,)), dtype=np.float32, meta=meta)


def estimator(model: str, iterations: int, **options: Any) -> Any:
    """Return an estimator that begins at given means and makes so many iterations."""
    import fastem

    start = np.random.default_rng(0).uniform(-4, 4, (K, D)) + 1.0
    more: dict[str, Any] = {"max_iter": iterations, "tol": 0, "random_state": 0, **options}
    if model == "kmeans":
        return fastem.KMeans(K, init=start, n_init=1, algorithm="lloyd", **more)
    return fastem.GaussianMixture(K, means_init=start, init_params="random_from_data", **more)


def wire_bytes() -> int:
    """Return what the TCP sockets of this process have sent and received so far."""
    import socket

    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
                    total += int.from_bytes(info[120:128], "little") + int.from_bytes(info[128:136], "little")
    return total


@contextlib.contextmanager
def cluster(workers: int, threads: int = 1) -> Iterator[Any]:
    """Start a scheduler and workers as processes of their own, and yield their client."""
    import distributed

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        dask = [sys.executable, "-W", "ignore", "-m", "dask"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
        host = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file), "--no-dashboard"]
        started = [subprocess.Popen([*dask, "scheduler", *host], env=environment, **quiet)]
        try:
            while not file.exists():
                time.sleep(0.1)
            options = ["--scheduler-file", str(file), "--nthreads", str(threads), "--no-dashboard"]
            started += [subprocess.Popen([*dask, "worker", *options], env=environment, **quiet) for _ in range(workers)]
            with distributed.Client(scheduler_file=str(file)) as client:
                client.wait_for_workers(workers, timeout=60)
                yield client
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait(30)


def iteration(model: str, X: Any, iterations: int, **options: Any) -> float:
    """Return the median time of an iteration after the first two."""
    at: list[float] = []
    fit = estimator(model, iterations + 2, callback=lambda info: at.append(time.perf_counter()), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit.fit(X)
    return float(np.median(np.diff(at)[1:]))


def scheduler_bytes(client: Any, model: str, X: Any, iterations: int = 5) -> float:
    """Return what the scheduler's sockets carry in an iteration; what asking for it carries is taken off."""
    at: list[int] = []

    def look(info: Any) -> None:
        if info.iteration in (2, 2 + iterations):
            at.append(client.run_on_scheduler(wire_bytes))
            at.append(client.run_on_scheduler(wire_bytes))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator(model, 3 + iterations, callback=look).fit(X)
    return (at[2] - at[1] - (at[1] - at[0])) / iterations


class Seen(NamedTuple):
    """A configuration, and what was measured there."""

    layout: Layout
    seconds: dict[str, float]
    bytes: dict[str, float]


def see(layouts: list[Layout], iterations: int, rounds: int) -> list[Seen]:
    """Measure configurations that share workers, in turns; the least of all rounds is kept."""
    found: dict[Layout, Seen] = {}
    with cluster(layouts[0].workers, layouts[0].threads) as client:
        for _ in range(rounds):
            for layout in layouts:
                dask_source.TOGETHER = layout.together * 4 * D
                X = collection(layout).persist()
                seen = found.setdefault(layout, Seen(layout, {}, {}))
                for model in MODELS:
                    seconds = iteration(model, X, iterations)
                    seen.seconds[model] = min(seconds, seen.seconds.get(model, np.inf))
                    if model not in seen.bytes:
                        seen.bytes[model] = scheduler_bytes(client, model, X)
                print(layout, seen.seconds, seen.bytes, file=sys.stderr, flush=True)
                del X
    return list(found.values())


def costs_of(model: str, seen: list[Seen]) -> Costs:
    """Return the constants that explain the measurements best, by relative errors; none is negative."""
    from scipy.optimize import nnls

    layouts = [one.layout for one in seen]
    rows = [[one.rows / (one.workers * one.threads), one.tasks(model), one.partitions, 1.0] for one in layouts]
    seconds = np.array([one.seconds[model] for one in seen])
    times, _ = nnls(np.array(rows) / seconds[:, None], np.ones(len(seen)))
    carried = np.array([one.bytes[model] for one in seen])
    left = carried - [one.layout.sent(model) for one in seen]
    said = [
        [one.layout.tasks(model), one.layout.partitions, 1.0, one.layout.workers * one.seconds[model]] for one in seen
    ]
    told, _ = nnls(np.array(said) / carried[:, None], np.maximum(left, 0) / carried)
    return Costs(*map(float, times), *map(float, told))


def one_process(rows: int, threads: int, iterations: int) -> dict[str, float]:
    """Return the time of an iteration over rows in memory, in this process."""
    X = rows_of(rows // 2048 * 2048, 0)
    return {model: iteration(model, X, iterations, n_threads=threads) for model in MODELS}


def decoding(rows: int) -> float:
    """Return what reading a row of Parquet takes, in seconds, with the numbers written to a temporary file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import fastem

    X = rows_of(rows, 0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        pq.write_table(pa.table({f"x{j}": X[:, j] for j in range(D)}), file)
        begun = time.perf_counter()
        fastem.rows(file).survey()
        return (time.perf_counter() - begun) / rows


def measure(size: int, iterations: int, rounds: int) -> dict[str, Any]:
    """Measure all configurations; `size` is the number of rows of the larger ones."""
    few, many = size // 8, size
    one = [Layout(few, 4, 1), Layout(few, 64, 1), Layout(few, 64, 1, together=1), Layout(many // 2, 4, 1)]
    two = [Layout(few, 4, 2), Layout(few, 64, 2), Layout(few, 64, 2, together=1), Layout(many, 4, 2)]
    seen = [*see(one, iterations, rounds), *see(two, iterations, rounds)]
    others = [
        Layout(many // 2, 32, 2), Layout(2 * many, 4, 2), Layout(many // 2, 200, 2), Layout(few, 32, 2, together=1)
    ]  # fmt: skip
    return {
        "seen": seen,
        "checked": see(others, iterations, rounds),
        "one process": {rows: one_process(rows, 2, iterations) for rows in (many, 2 * size)},
        "decoding": decoding(few),
    }


# --------------------------------------------------------------------------------------------------------- telling

# Rows of a partition, at most: two gigabytes of eight float32 features.
PARTITION_ROWS = 64_000_000
SLOTS = 8  # threads of a worker


def planned(rows: int, workers: int) -> Layout:
    """Return the rows on so many workers, in as few partitions as keep all of them busy."""
    rounds = max(1, -(-rows // (workers * PARTITION_ROWS)))
    return Layout(rows, workers * rounds, workers, SLOTS)


def table(head: list[str], lines: list[list[str]]) -> str:
    """Return a table of Markdown."""
    return "\n".join(["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]])


def seen_in(found: dict[str, Any], name: str) -> list[Seen]:
    """Return measurements as they were before they were saved."""
    return [Seen(Layout(*layout), seconds, carried) for layout, seconds, carried in found[name]]


def constants(costs: dict[str, Costs]) -> str:
    """Return the table of constants."""
    lines = [
        ["`row`, nanoseconds", *[f"{one.row * 1e9:.1f}" for one in costs.values()]],
        ["`task`, milliseconds", *[f"{one.task * 1e3:.1f}" for one in costs.values()]],
        ["`partition`, milliseconds", *[f"{one.partition * 1e3:.2f}" for one in costs.values()]],
        ["`each_pass`, milliseconds", *[f"{one.each_pass * 1e3:.0f}" for one in costs.values()]],
        ["`about`, bytes", *[f"{one.about:,.0f}" for one in costs.values()]],
        ["`named`, bytes", *[f"{one.named:,.0f}" for one in costs.values()]],
        ["`known`, bytes", *[f"{one.known:,.0f}" for one in costs.values()]],
        ["`beat`, bytes a second and worker", *[f"{one.beat:,.0f}" for one in costs.values()]],
    ]
    return table(["constant", *costs], lines)


def comparison(costs: dict[str, Costs], seen: list[Seen]) -> str:
    """Return what was measured and, in per cent beyond it, what the model says."""
    lines = []
    for layout, seconds, carried in seen:
        line = [f"{layout.rows:,}", str(layout.partitions), str(layout.groups), str(layout.workers)]
        for model, one in costs.items():
            time_off = one.seconds(layout, model) / seconds[model] - 1
            bytes_off = one.bytes(layout, model, seconds[model]) / carried[model] - 1
            line += [f"{seconds[model]:.3f} ({time_off:+.0%})", f"{carried[model] / 1e3:.0f} ({bytes_off:+.0%})"]
        lines.append(line)
    head = ["rows", "partitions", "tasks", "workers", *[f"{model}, {unit}" for model in costs for unit in ("s", "kB")]]
    return table(head, lines)


def beside_one_process(found: dict[str, Any]) -> str:
    """Return the speed of two workers, as a part of that of one process of two threads."""
    lines = []
    for layout, seconds, _ in seen_in(found, "seen") + seen_in(found, "checked"):
        alone = found["one process"].get(str(layout.rows))
        if layout.workers == 2 and alone is not None and layout.together == TOGETHER:
            ratios = [
                f"{alone[model]:.3f} / {seconds[model]:.3f} = {alone[model] / seconds[model]:.0%}" for model in MODELS
            ]
            lines.append([f"{layout.rows:,}", str(layout.partitions), *ratios])
    return table(["rows", "partitions", *MODELS], lines)


def plan(one: Costs, model: str) -> str:
    """Return seconds of an iteration for many rows and workers, and the part of it that is computing."""
    lines = []
    for rows in (10**9, 10**10, 10**11, 10**12):
        line = [f"1e{len(str(rows)) - 1}"]
        for workers in (10, 30, 100, 300, 1000):
            layout = planned(rows, workers)
            seconds = one.seconds(layout, model)
            compute = rows * one.row / (workers * SLOTS)
            gigabytes = rows * D * 4 / workers / 1e9
            line.append(f"{seconds:.3g} s ({compute / seconds:.0%}, {gigabytes:.3g} GB)")
        lines.append(line)
    return table(["rows", *[f"{workers} workers" for workers in (10, 30, 100, 300, 1000)]], lines)


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Return all tables, by what they are of."""
    costs = {model: costs_of(model, seen_in(found, "seen")) for model in MODELS}
    return {
        "constants": constants(costs),
        "taken from": comparison(costs, seen_in(found, "seen")),
        "checked": comparison(costs, seen_in(found, "checked")),
        "beside one process": beside_one_process(found),
        **{f"plan, {model}": plan(one, model) for model, one in costs.items()},
    }


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["measure", "tables"])
    parser.add_argument("file", type=Path, help="JSON, which measure writes and tables reads")
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    if asked.command == "measure":
        found = measure(asked.rows, asked.iterations, asked.rounds)
        asked.file.write_text(json.dumps(found, indent=1, default=float) + "\n")
    for name, text in tables(json.loads(asked.file.read_text())).items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
