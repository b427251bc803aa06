"""Many small problems: one call of `fastem.fit_many` beside a loop over scikit-learn, joblib, and faiss's quantiser.

A peer's loop is timed on a sample of the problems and scaled: they are alike.  All candidates run with their defaults
and the same tolerance; the objectives of the sample are compared by their mean, for every library starts elsewhere.
"""

from __future__ import annotations

import importlib.util
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from asv_bench.peers import report, timing
from asv_bench.peers.timing import Outcome

PROBLEMS, ROWS, FEATURES, COMPONENTS = 10_000, 200, 4, 3
SAMPLE = 300
MANY, SIZES = 100_000, (20, 500)
VECTORS, WIDTH, SLICES, CODES, ITERATIONS = 200_000, 128, 16, 256, 10
MODELS = {
    "k-means": ("kmeans", {}),
    "Gaussian, full": ("gmm", {"covariance_type": "full"}),
    "Gaussian, diag": ("gmm", {"covariance_type": "diag"}),
}


def run(options: Namespace) -> dict[str, list[dict]]:
    """Measure and print the tables asked for."""
    tables: dict[str, Callable[[Namespace], list[dict]]] = {
        "problems": problems,
        "sizes": sizes,
        "threads": threads,
        "quantisation": quantisation,
    }
    return {name: table(options) for name, table in tables.items() if name in options.sections}


def groups(n_groups: int, rows: int | tuple[int, int], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of overlapping clusters, group after group, and the offsets of the groups."""
    rng = np.random.default_rng(0)
    lengths = np.full(n_groups, rows) if isinstance(rows, int) else rng.integers(rows[0], rows[1] + 1, n_groups)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    centers = 4.0 * rng.standard_normal((COMPONENTS, FEATURES))
    X = rng.standard_normal((offsets[-1], FEATURES)) + centers[rng.integers(COMPONENTS, size=offsets[-1])]
    return X.astype(dtype), offsets


def ours(
    X: np.ndarray, offsets: np.ndarray, model: str, given: dict[str, Any], n_threads: int | None = None
) -> Outcome:
    """Fit all groups in one call."""
    import fastem

    call = partial(fastem.fit_many, X, offsets=offsets, model=model, n_components=COMPONENTS, random_state=0)
    seconds, result = timing.clocked(lambda: call(n_threads=n_threads, **given))
    return Outcome(seconds, int(result.n_iter.sum()), result)


def theirs(parts: list[np.ndarray], model: str, given: dict[str, Any], n_jobs: int, scale: float) -> Outcome:
    """Fit each group by scikit-learn, in a loop or in processes; seconds are scaled to all groups."""
    from joblib import Parallel, delayed

    fit = partial(_one, model=model, given=given)
    if n_jobs == 1:
        seconds, found = timing.clocked(lambda: [fit(part) for part in parts])
    else:
        parallel = Parallel(n_jobs=n_jobs)
        parallel(delayed(fit)(part) for part in parts[: 2 * n_jobs])  # starts the processes, which stay
        seconds, found = timing.clocked(lambda: parallel(delayed(fit)(part) for part in parts))
    return Outcome(seconds * scale, 0, np.array(found))


def _one(X: np.ndarray, model: str, given: dict[str, Any]) -> float:
    """Return the objective of one fit."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if model == "kmeans":
            return -float(KMeans(COMPONENTS, random_state=0, **given).fit(X).inertia_)
        return float(GaussianMixture(COMPONENTS, random_state=0, **given).fit(X).lower_bound_)


def problems(options: Namespace) -> list[dict]:
    """Print how many problems a second each candidate solves."""
    n_groups = max(int(PROBLEMS / options.shrink), 50)
    columns = ["model", "dtype", "fastem/s", "sklearn/s", "joblib/s", "to sklearn", "to joblib", "objective"]
    table = report.Table(f"{n_groups} problems of {ROWS} x {FEATURES}, k = {COMPONENTS}: problems a second", columns)
    for name, (model, given) in MODELS.items():
        for dtype in options.dtypes:
            X, offsets = groups(n_groups, ROWS, dtype)
            some = np.split(X, offsets[1:-1])[:: max(n_groups // SAMPLE, 1)][:SAMPLE]
            scale = n_groups / len(some)
            ours(X[: offsets[20]], offsets[:21], model, given)  # compiles
            runs = {
                "fastem": partial(ours, X, offsets, model, given),
                "sklearn": partial(theirs, some, model, given, 1, scale),
                "joblib": partial(theirs, some, model, given, 2, scale),
            }
            timings = timing.interleave(runs, options.repeats, options.budget)
            objective = timings["fastem"].last.result.objective[:: max(n_groups // SAMPLE, 1)][:SAMPLE]  # type: ignore[union-attr]
            found = {"fastem": float(objective.mean()), "sklearn": float(timings["sklearn"].last.result.mean())}  # type: ignore[union-attr]
            row = {f"{peer}/s": n_groups / t.best for peer, t in timings.items()}
            ratios = {f"to {peer}": timings[peer].best / timings["fastem"].best for peer in ("sklearn", "joblib")}
            agreement = report.agreement(found, "fastem", 1e-2)
            table.add({"model": name, "dtype": dtype, **row, **ratios, "objective": agreement})
    return table.finish()


def sizes(options: Namespace) -> list[dict]:
    """Print the cost of a problem among a tenth of many, and among all."""
    n_groups = max(int(MANY / options.shrink), 100)
    title = f"{n_groups} problems of {SIZES[0]} to {SIZES[1]} rows: microseconds for a problem"
    table = report.Table(title, ["model", "a tenth", "all", "all / a tenth"])
    X, offsets = groups(n_groups, SIZES, "float64")
    few = n_groups // 10
    for name, (model, given) in MODELS.items():
        runs = {
            "a tenth": partial(ours, X[: offsets[few]], offsets[: few + 1], model, given),
            "all": partial(ours, X, offsets, model, given),
        }
        runs["a tenth"]()
        timings = timing.interleave(runs, options.repeats, options.budget)
        costs = {"a tenth": 1e6 * timings["a tenth"].best / few, "all": 1e6 * timings["all"].best / n_groups}
        table.add({"model": name, **costs, "all / a tenth": costs["all"] / costs["a tenth"]})
    return table.finish()


def threads(options: Namespace) -> list[dict]:
    """Print what a second thread gains."""
    n_groups = max(int(PROBLEMS / options.shrink), 50)
    table = report.Table(f"{n_groups} problems by one thread and by two, ms", ["model", "1", "2", "1 / 2"])
    X, offsets = groups(n_groups, ROWS, "float64")
    for name, (model, given) in MODELS.items():
        runs = {str(n): partial(ours, X, offsets, model, given, n) for n in (1, 2)}
        runs["1"]()
        timings = timing.interleave(runs, options.repeats, options.budget)
        cells = report.milliseconds(timings)
        table.add({"model": name, **cells, "1 / 2": timings["1"].best / timings["2"].best})
    return table.finish()


def quantisation(options: Namespace) -> list[dict]:
    """Print the time of training a product quantiser, and its distortion."""
    n = max(int(VECTORS / options.shrink), 4 * CODES)
    title = f"Product quantisation of {n} x {WIDTH} float32: {SLICES} slices, k = {CODES}, {ITERATIONS} iterations, s"
    table = report.Table(title, ["fastem", "faiss", "faiss / fastem", "distortion"])
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
    X = (rng.standard_normal((n, WIDTH)) @ mixing + rng.standard_normal((64, WIDTH))[rng.integers(64, size=n)]).astype(
        np.float32
    )
    candidates = {"fastem": _our_codebooks}
    if importlib.util.find_spec("faiss"):
        candidates["faiss"] = _their_codebooks
    working, failed = report.that_run(candidates, lambda train: train(X[: 4 * CODES]))
    timings = timing.interleave(
        {name: partial(train, X) for name, train in working.items()}, options.repeats, options.budget
    )
    found = {name: distortion(X, t.last.result) for name, t in timings.items() if t.last is not None}
    table.add(
        {
            **report.seconds(timings),
            **failed,
            "faiss / fastem": report.ratio(timings, "fastem"),
            "distortion": report.agreement(found, "fastem", 1e-3),
        }
    )
    return table.finish()


def _our_codebooks(X: np.ndarray) -> Outcome:
    import fastem

    step = WIDTH // SLICES
    columns = [slice(first, first + step) for first in range(0, WIDTH, step)]
    options: dict[str, Any] = {"init": "random", "n_init": 1, "max_iter": ITERATIONS, "tol": 0.0, "random_state": 0}
    seconds, result = timing.clocked(lambda: fastem.fit_many(X, columns=columns, n_components=CODES, **options))
    return Outcome(seconds, ITERATIONS, result.parameters["cluster_centers_"].padded())


def _their_codebooks(X: np.ndarray) -> Outcome:
    import faiss

    quantiser = faiss.ProductQuantizer(WIDTH, SLICES, CODES.bit_length() - 1)
    quantiser.cp.niter = ITERATIONS
    quantiser.cp.max_points_per_centroid = len(X)  # or it would take a sample of the rows
    seconds, _ = timing.clocked(lambda: quantiser.train(X))
    centers = faiss.vector_to_array(quantiser.centroids).reshape(SLICES, CODES, WIDTH // SLICES)
    return Outcome(seconds, ITERATIONS, centers)


def distortion(X: np.ndarray, codebooks: np.ndarray) -> float:
    """Return the mean squared distance of rows to what they are quantised as; codebooks (slices, codes, width)."""
    total, step = 0.0, codebooks.shape[2]
    for first in range(0, len(X), 1 << 13):
        rows = X[first : first + (1 << 13)].astype(np.float64)
        for at, centers in enumerate(codebooks.astype(np.float64)):
            part = rows[:, at * step : (at + 1) * step]
            squared = (part**2).sum(axis=1)[:, None] - 2 * part @ centers.T + (centers**2).sum(axis=1)
            total += float(squared.min(axis=1).sum())
    return total / len(X)
