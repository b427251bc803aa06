"""Rows beyond memory, measured: time and private memory of a fit from an array, a .npy file and a folder of Parquet.

    python -m asv_bench.large make FOLDER --rows 100000000
    python -m asv_bench.large fit FOLDER

The rows are float32, 8 features, 8 clusters; a fit begins at given centres or means and makes the iterations asked for.
Each fit runs in a process of its own, in turns; private memory is `RssAnon` at its peak, pages of files apart.
`--ways dask-ml` (after `pip install dask-ml`) fits dask-ml's k-means to the Parquet files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

D, K, PART = 8, 8, 1_000_000


def make(folder: Path, n: int) -> None:
    """Write rows.npy and parquet/*.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "parquet").mkdir(parents=True)
    rng = np.random.default_rng(0)
    centers = rng.uniform(-10, 10, (K, D))
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (n, D))
    for first in range(0, n, PART):
        m = min(PART, n - first)
        part = (centers[rng.integers(0, K, m)] + 2.5 * rng.standard_normal((m, D))).astype(np.float32)
        rows[first : first + m] = part
        table = pa.table({f"x{j}": part[:, j] for j in range(D)})
        pq.write_table(table, folder / "parquet" / f"{first // PART:05}.parquet")
    np.save(folder / "start.npy", centers + 1.0)


def one(folder: Path, model: str, way: str, iterations: int, init: str) -> None:
    """Fit once, in this process, and print what was seen."""
    import fastem

    start = np.load(folder / "start.npy")
    if way == "dask-ml":
        print(json.dumps(of_dask_ml(folder, start, iterations)))
        return
    data = {
        "memory": lambda: np.load(folder / "rows.npy"),
        "npy": lambda: str(folder / "rows.npy"),
        "parquet": lambda: fastem.rows(folder / "parquet"),
        "parquet again": lambda: fastem.rows(folder / "parquet", cache="never"),
    }[way]()
    more = {"max_iter": iterations, "tol": 0, "random_state": 0}
    if model == "kmeans":
        begins = {"init": start, "n_init": 1} if init == "given" else {"init": init}
        estimator = fastem.KMeans(K, algorithm="lloyd", **begins, **more)
    else:
        begins = {"means_init": start} if init == "given" else {"init_params": init}
        estimator = fastem.GaussianMixture(K, **begins, **more)
    few = np.load(folder / "rows.npy", mmap_mode="r")[:50_000].copy()
    estimator.fit(few)  # compiled, or loaded
    begun = time.perf_counter()
    spooled = 0.0
    if way == "parquet":
        data.survey()
        spooled = time.perf_counter() - begun
    with Peak() as peak:
        estimator.fit(data)
    seconds = time.perf_counter() - begun
    objective = float(estimator.inertia_ if model == "kmeans" else estimator.lower_bound_)
    print(json.dumps({"way": way, "seconds": seconds, "spooling": spooled, "private": peak.bytes, "at": objective}))


def of_dask_ml(folder: Path, start: np.ndarray, iterations: int) -> dict[str, Any]:
    """Fit dask-ml's k-means to the Parquet files, on Dask's own threads; the rows are kept in memory."""
    import dask.dataframe as dd
    from dask_ml.cluster import KMeans

    begun = time.perf_counter()
    with Peak() as peak:
        rows = dd.read_parquet(folder / "parquet").to_dask_array(lengths=True).persist()
        read = time.perf_counter() - begun
        KMeans(K, init=start.astype(np.float32), max_iter=iterations, tol=0).fit(rows)
    return {"way": "dask-ml", "seconds": time.perf_counter() - begun, "spooling": read, "private": peak.bytes}


class Peak:
    """Watches this process' private memory."""

    def __enter__(self) -> Peak:
        self.bytes, self._over = 0, threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, private())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()


def private() -> int:
    """Return the bytes of private memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["make", "fit", "one"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--model", choices=["kmeans", "gmm"], default="kmeans")
    parser.add_argument("--ways", default="memory,npy,parquet")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--init", default="given")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    if asked.command == "make":
        make(asked.folder, asked.rows)
    elif asked.command == "one":
        one(asked.folder, asked.model, asked.ways, asked.iterations, asked.init)
    else:
        for _ in range(asked.rounds):
            for way in asked.ways.split(","):
                command = [sys.executable, "-W", "ignore", "-m", "asv_bench.large", "one", str(asked.folder)]
                command += ["--ways", way, "--model", asked.model, "--iterations", str(asked.iterations)]
                print(subprocess.run([*command, "--init", asked.init], check=True, text=True, stdout=-1).stdout, end="")


if __name__ == "__main__":
    main()
