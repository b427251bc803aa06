"""K-means where optima differ: Lloyd's algorithm, tied rows that are moved, single moves of rows, and restarts.

All but the restarts begin at the same centres (greedy k-means++), so that their differences are those of what comes
after.  Restarts get the time of `refine="hartigan"`: as many as fit into it, at least one, of which the best counts.
Times are processor seconds of one thread each, so that they may be compared on a busy machine.  R's `kmeans` (Hartigan
and Wong's algorithm, its default) begins at the same centres, where Rscript is installed (``apt install r-base-core``).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

import fastem
from asv_bench.peers import report, timing
from asv_bench.peers.timing import Outcome
from fastem.families.kmeans import KMeansFamily

LLOYD = "scikit-learn's Lloyd"
PLAIN = "without moves of tied rows"
DEFAULT = "fastem"
HARTIGAN = 'refine="hartigan"'
R = "R's kmeans"
R_PROGRAM = r"""
given <- commandArgs(TRUE); size <- as.integer(given[2:6]); names(size) <- c("tables", "n", "d", "k", "starts")
numbers <- function(name, n) readBin(file.path(given[1], name), "double", n)
read <- function(name, rows) array(numbers(name, rows * size["d"]), c(size["d"], rows))
tables <- read("tables", size["tables"] * size["n"])
starts <- read("starts", size["tables"] * size["starts"] * size["k"])
distortion <- numeric(0); fit <- 0; options(warn = -1)
X <- lapply(seq_len(size["tables"]), function(t) t(tables[, (t - 1) * size["n"] + seq_len(size["n"])]))
begun <- proc.time()
for (t in seq_len(size["tables"])) for (s in seq_len(size["starts"])) {
    centers <- t(starts[, fit * size["k"] + seq_len(size["k"]), drop = FALSE]); fit <- fit + 1
    distortion <- c(distortion, kmeans(X[[t]], centers, iter.max = 1000)$tot.withinss)
}
writeBin(c(as.numeric((proc.time() - begun)[["user.self"]]), mean(distortion)), file.path(given[1], "found"))
"""


class Case(NamedTuple):
    """Tables of one kind, the number of clusters, and how many starts each gets."""

    name: str
    tables: list[np.ndarray]
    k: int
    n_starts: int

    def __str__(self) -> str:
        return self.name


def binary_tables(shrink: float) -> list[np.ndarray]:
    """Return 24 tables of 150 x 6 zeros and ones."""
    n_tables = max(1, int(24 / shrink))
    return [(np.random.default_rng(seed).random((150, 6)) < 0.5).astype(float) for seed in range(n_tables)]


def digits(shrink: float) -> list[np.ndarray]:
    """Return scikit-learn's digits, 1797 x 64 whole numbers."""
    from sklearn.datasets import load_digits

    X = load_digits().data
    return [X[: int(len(X) / shrink)]]


def patches(shrink: float) -> list[np.ndarray]:
    """Return the patches of 8 x 8 pixels of scikit-learn's two photographs, 4240 x 192 each."""
    from sklearn.datasets import load_sample_images

    tables = []
    for image in load_sample_images().images:
        height, width = (size // 8 for size in image.shape[:2])
        cut = image[: 8 * height, : 8 * width].reshape(height, 8, width, 8, 3).swapaxes(1, 2).reshape(-1, 192)
        tables.append(np.ascontiguousarray(cut[: int(len(cut) / shrink)], float))
    return tables


def blobs(shrink: float) -> list[np.ndarray]:
    """Return 5000 x 8 rows around ten centres."""
    rng = np.random.default_rng(0)
    n = int(5000 / shrink)
    return [4.0 * rng.normal(size=(10, 8))[rng.integers(0, 10, n)] + rng.normal(size=(n, 8))]


def cases(shrink: float) -> list[Case]:
    """Return what is fitted, on a share of the rows or tables."""
    return [
        Case("24 binary tables, k = 8", binary_tables(shrink), 8, 8),
        Case("digits, k = 10", digits(shrink), 10, 8),
        Case("digits, k = 50", digits(shrink), 50, 8),
        Case("patches of photographs, k = 32", patches(shrink), 32, 2),
        Case("blobs, k = 10", blobs(shrink), 10, 8),
        Case("blobs, k = 20", blobs(shrink), 20, 8),
    ]


def run(options: Namespace) -> dict[str, list[dict]]:
    """Measure what was asked for, print the table and return its rows."""
    table = report.Table(
        "Mean distortion J, and processor ms of a fit with its start: minimum (median)",
        ["shape", "algorithm", "J", "J / Lloyd's", "ms"],
    )
    chosen = report.selected(cases(options.shrink), options.shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clusters that coincide, of a few rows
        with threadpool_limits(1):
            for case in chosen:
                measured(case, options, table)
    return {"fit": table.finish()}


def measured(case: Case, options: Namespace, table: report.Table) -> None:
    """Add the rows of one case."""
    n_fits = len(case.tables) * case.n_starts
    candidates: dict[str, Callable[[], Outcome]] = {
        LLOYD: partial(all_fits, case, lloyd),
        PLAIN: partial(all_fits, case, without_ties),
        DEFAULT: partial(all_fits, case, fastem_fit),
        HARTIGAN: partial(all_fits, case, partial(fastem_fit, refine="hartigan")),
    }
    if shutil.which("Rscript"):
        candidates[R] = partial(r_fits, case)
    for run in candidates.values():
        run()  # what is compiled and loaded first
    timings = timing.interleave(candidates, options.repeats, options.budget)
    lloyds = timings[PLAIN].last
    assert lloyds is not None
    n_init = max(1, round(timings[HARTIGAN].best / timings[DEFAULT].best))
    restarts = partial(all_fits, case, partial(restarted, n_init=n_init))
    timings |= timing.interleave({f"fastem, {n_init} restarts": restarts}, options.repeats, options.budget)
    for name, t in timings.items():
        assert t.last is not None
        table.add(
            {
                "shape": case.name, "algorithm": name, "J": f"{t.last.result:.6g}",
                "J / Lloyd's": f"{t.last.result / lloyds.result:.4f}",
                "ms": f"{1e3 * t.best / n_fits:.3g} ({1e3 * t.median / n_fits:.3g})",
            }
        )  # fmt: skip


def all_fits(case: Case, fit: Callable[[np.ndarray, int, int], float]) -> Outcome:
    """Fit all tables from all starts; the mean distortion."""

    begun = time.process_time()
    found = [fit(X, case.k, start) for X in case.tables for start in range(case.n_starts)]
    return Outcome(time.process_time() - begun, 1, float(np.mean(found)))


def r_fits(case: Case) -> Outcome:
    """Fit R's kmeans to all tables from the starts of the others, in a process of its own that clocks itself.

    The starts count as for the others: they are made here.
    """
    begun = time.process_time()
    starts = [fastem.kmeans_plusplus(X, case.k, random_state=s)[0] for X in case.tables for s in range(case.n_starts)]
    spent = time.process_time() - begun
    size = (len(case.tables), *case.tables[0].shape, case.k, case.n_starts)
    with tempfile.TemporaryDirectory() as folder:
        np.concatenate(case.tables).astype(np.float64).tofile(Path(folder) / "tables")
        np.concatenate(starts).astype(np.float64).tofile(Path(folder) / "starts")
        subprocess.run(["Rscript", "-e", R_PROGRAM, folder, *map(str, size)], check=True, stdout=subprocess.DEVNULL)
        seconds, distortion = np.fromfile(Path(folder) / "found")
    return Outcome(spent + float(seconds), 1, float(distortion))


def lloyd(X: np.ndarray, k: int, start: int) -> float:
    """Fit scikit-learn's KMeans from the start of the others."""
    from sklearn.cluster import KMeans

    centers, _ = fastem.kmeans_plusplus(X, k, random_state=start)
    return float(KMeans(k, init=centers, n_init=1, tol=0, max_iter=1000).fit(X).inertia_)


def fastem_fit(X: np.ndarray, k: int, start: int, refine: str | None = None) -> float:
    """Fit fastem's KMeans."""
    model = fastem.KMeans(k, n_init=1, random_state=start, tol=0, max_iter=1000, refine=refine, n_threads=1)
    return float(model.fit(X).inertia_)


def without_ties(X: np.ndarray, k: int, start: int) -> float:
    """Fit fastem's KMeans, which stops where Lloyd's algorithm does."""
    with mock.patch.object(KMeansFamily, "undecided", return_value=np.empty(0, np.int64)):
        return fastem_fit(X, k, start)


def restarted(X: np.ndarray, k: int, start: int, n_init: int) -> float:
    """Fit fastem's KMeans from several starts."""
    model = fastem.KMeans(k, n_init=n_init, random_state=start, tol=0, max_iter=1000, n_threads=1)
    return float(model.fit(X).inertia_)
