"""k-means: fastem beside scikit-learn, scikit-learn-intelex, faiss and SuperKMeans."""

from __future__ import annotations

import importlib.util
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from asv_bench.benchmarks.data import KMEANS_SHAPES, Shape, chosen_rows, kmeans_data, photograph
from asv_bench.peers import check, memory, report, timing
from asv_bench.peers.timing import Outcome

TOLERANCE = 1e-4  # relative, of the inertia
MOST = 300  # iterations of a fit to convergence


class Peer(NamedTuple):
    """A library: how to fit with it and what it can do."""

    module: str
    fit: Callable[..., Outcome]  # fit(X, centers, max_iter) -> Outcome with the final centres
    dtypes: tuple[str, ...] = ("float32", "float64")
    same_start: bool = True  # False: it draws its own starting point, so that only the time of an iteration compares
    converges: bool = True  # False: it runs the number of iterations it is told


def fit_fastem(X: np.ndarray, centers: np.ndarray, max_iter: int, algorithm: str = "lloyd", **options: Any) -> Outcome:
    import fastem

    model = fastem.KMeans(
        len(centers), init=centers, n_init=1, max_iter=max_iter, tol=0, algorithm=algorithm, **options
    )
    seconds, model = timing.clocked(partial(model.fit, X))
    return Outcome(seconds, model.n_iter_, model.cluster_centers_)


def fit_sklearn(X: np.ndarray, centers: np.ndarray, max_iter: int, algorithm: str = "lloyd") -> Outcome:
    from sklearn.cluster import KMeans

    model = KMeans(len(centers), init=centers, n_init=1, max_iter=max_iter, tol=0, algorithm=algorithm)
    seconds, model = timing.clocked(partial(model.fit, X))
    return Outcome(seconds, model.n_iter_, model.cluster_centers_)


def fit_intelex(X: np.ndarray, centers: np.ndarray, max_iter: int) -> Outcome:
    from sklearnex.cluster import KMeans

    model = KMeans(len(centers), init=centers, n_init=1, max_iter=max_iter, tol=0, algorithm="lloyd")
    seconds, model = timing.clocked(partial(model.fit, X))
    return Outcome(seconds, model.n_iter_, model.cluster_centers_)


def fit_faiss(X: np.ndarray, centers: np.ndarray, max_iter: int) -> Outcome:
    import faiss

    k, d = centers.shape
    # Without the two limits faiss would fit a sample, or complain that there are few rows.
    model = faiss.Kmeans(d, k, niter=max_iter, max_points_per_centroid=len(X), min_points_per_centroid=1)
    seconds, _ = timing.clocked(partial(model.train, X, init_centroids=centers))
    return Outcome(seconds, max_iter, model.centroids)


def fit_superkmeans(X: np.ndarray, centers: np.ndarray, max_iter: int) -> Outcome:
    from superkmeans import SuperKMeans

    k, d = centers.shape
    model = SuperKMeans(
        k, d, hierarchical=False, iters=max_iter, sampling_fraction=1.0, max_points_per_cluster=len(X),
        early_termination=False, tol=0.0,
    )  # fmt: skip
    seconds, found = timing.clocked(partial(model.train, X))
    return Outcome(seconds, max_iter, found)


FLOAT32 = ("float32",)
PEERS = {
    "scikit-learn": Peer("sklearn", fit_sklearn),
    "intelex": Peer("sklearnex", fit_intelex),
    "faiss": Peer("faiss", fit_faiss, FLOAT32, converges=False),
    "SuperKMeans": Peer("superkmeans", fit_superkmeans, FLOAT32, same_start=False, converges=False),
}
MEMORY_PROGRAM = """
import warnings
warnings.simplefilter("ignore")
from {module} import KMeans
def fit(X, centers):
    KMeans(len(centers), init=centers, n_init=1, max_iter=10, tol=0).fit(X)
"""


def installed(dtype: str) -> dict[str, Peer]:
    """Return the peers that are here and take the dtype."""
    here = {name: peer for name, peer in PEERS.items() if importlib.util.find_spec(peer.module)}
    return {name: peer for name, peer in here.items() if dtype in peer.dtypes}


def iterations(shape: Shape) -> int:
    """Return the length of a long fit: a few tenths of a second for the slower peers."""
    return 2 + int(np.clip(4e10 / (2 * shape.n * shape.d * shape.k + 4e8), 5, 20))


def run(options: Namespace) -> dict[str, list[dict]]:
    """Measure what was asked for, print the tables and return their rows."""
    shapes = report.selected([shape.shrunk(options.shrink) for shape in KMEANS_SHAPES], options.shapes)
    sections = {"iteration": iteration, "fit": converged, "threads": threads, "memory": peak}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a few iterations do not converge
        return {name: section(shapes, options) for name, section in sections.items() if name in options.sections}


def iteration(shapes: list[Shape], options: Namespace) -> list[dict]:
    """Print the time of one brute-force iteration: assignment and update."""
    limits = {dtype: timing.gemm_gflops(dtype) for dtype in options.dtypes}
    table = report.Table(
        "Per iteration (assignment and update, no bounds), ms: minimum (median)",
        ["shape", "dtype", "fastem", *PEERS, "fastest peer / fastem", "GFLOP/s", "of gemm", "objective"],
    )
    for shape in shapes:
        for dtype in options.dtypes:
            X, centers = kmeans_data(shape, dtype)
            peers = installed(dtype)
            fits = {"fastem": partial(fit_fastem, X, centers)}
            fits.update({name: partial(peer.fit, X, centers) for name, peer in peers.items()})
            long = iterations(shape)
            fits, failed = report.that_run(fits, lambda fit, long=long: fit(long))
            timings = timing.per_iteration(fits, 2, long, options.repeats, options.budget)
            found = {name: check.inertia(X, t.last.result) for name, t in timings.items() if t.last}
            comparable = {name: found[name] for name in found if name == "fastem" or peers[name].same_start}
            gflops = 2 * shape.n * shape.d * shape.k / timings["fastem"].best / 1e9
            table.add(
                {
                    "shape": str(shape), "dtype": dtype, **report.milliseconds(timings), **failed,
                    "fastest peer / fastem": report.ratio(timings, "fastem"),
                    "GFLOP/s": gflops, "of gemm": f"{gflops / limits[dtype]:.0%}",
                    "objective": report.agreement(comparable, "fastem", TOLERANCE),
                }
            )  # fmt: skip
    gemm = ", ".join(f"{limit:.0f} GFLOP/s in {dtype}" for dtype, limit in limits.items())
    table.note(f"gemm: NumPy's 3000 x 3000 matrix product reaches {gemm}; SuperKMeans starts from its own centres.")
    return table.finish()


def converged(shapes: list[Shape], options: Namespace) -> list[dict]:
    """Print the time of whole fits, until no row changes its cluster."""
    table = report.Table(
        f"Fit to convergence (tol = 0, at most {MOST} iterations), seconds: minimum (median)",
        ["shape", "dtype", "fastem", *PEERS, "elkan", "fastest peer / fastem", "iterations", "objective"],
    )
    ratios = []
    for name, make in convergence_data(shapes, options).items():
        for dtype in options.dtypes:
            X, centers = make(dtype)
            peers = {key: peer for key, peer in installed(dtype).items() if peer.same_start}
            # Who cannot stop by itself runs as many iterations as fastem needed.
            needed = fit_fastem(X, centers, MOST, "auto").n_iter
            runs = {"fastem": partial(fit_fastem, X, centers, MOST, "auto")}
            for key, peer in peers.items():
                runs[key] = partial(peer.fit, X, centers, MOST if peer.converges else needed)
            runs["elkan"] = partial(fit_sklearn, X, centers, MOST, "elkan")
            timings = timing.interleave(runs, options.repeats, options.budget)
            found = {key: check.inertia(X, t.last.result) for key, t in timings.items() if t.last}
            ratio = report.ratio(timings, "fastem")
            ratios.append(ratio)
            counts = "/".join(str(t.last.n_iter) for t in timings.values() if t.last)
            table.add(
                {
                    "shape": name, "dtype": dtype, **report.seconds(timings), "fastest peer / fastem": ratio,
                    "iterations": counts, "objective": report.agreement(found, "fastem", TOLERANCE),
                }
            )  # fmt: skip
    table.note(
        f"geometric mean of the ratios: {timing.geometric_mean(ratios):.2f}; elkan: scikit-learn's algorithm='elkan', "
        "a peer like the others; faiss runs fastem's number of iterations."
    )
    return table.finish()


def convergence_data(shapes: list[Shape], options: Namespace) -> dict[str, Callable[[str], tuple]]:
    """Return makers of the data sets for fits to convergence: the shapes, and the photograph."""
    makers: dict[str, Callable[[str], tuple]] = {str(shape): partial(kmeans_data, shape) for shape in shapes}
    name = "china.jpg, k=64"
    if report.selected([name], options.shapes) and importlib.util.find_spec("PIL"):

        def pixels(dtype: str) -> tuple[np.ndarray, np.ndarray]:
            X = photograph(dtype)[:: max(1, int(options.shrink))]
            # Off the grid of 8-bit colours, on which hundreds of pixels are exactly as far from two centres: who rounds
            # otherwise would go another way.
            shift = np.random.default_rng(2).uniform(-0.25, 0.25, (64, 3)) / 255
            return X, (chosen_rows(np.unique(X, axis=0), 64) + shift).astype(dtype)

        makers[name] = pixels
    return makers


def threads(shapes: list[Shape], options: Namespace) -> list[dict]:
    """Print what the second thread brings."""
    table = report.Table(
        "fastem with one thread and with all, per iteration, ms: minimum (median)",
        ["shape", "dtype", "one thread", "all", "one / all"],
    )
    for shape in shapes:
        for dtype in options.dtypes:
            X, centers = kmeans_data(shape, dtype)
            fits = {
                "one thread": partial(fit_fastem, X, centers, n_threads=1),
                "all": partial(fit_fastem, X, centers, n_threads=None),
            }
            long = iterations(shape)
            timings = timing.per_iteration(fits, 2, long, options.repeats, options.budget)
            table.add(
                {
                    "shape": str(shape), "dtype": dtype, **report.milliseconds(timings),
                    "one / all": report.ratio(timings, "all"),
                }
            )  # fmt: skip
    return table.finish()


def peak(shapes: list[Shape], options: Namespace) -> list[dict]:
    """Print the peak of memory beyond the rows."""
    table = report.Table(
        "Peak memory of a fit beyond its rows, MiB (bytes per row)", ["shape", "dtype", "fastem", "scikit-learn"]
    )
    for shape in shapes:
        for dtype in options.dtypes:
            X, centers = kmeans_data(shape, dtype)
            row = {"shape": str(shape), "dtype": dtype}
            for name, module in {"fastem": "fastem", "scikit-learn": "sklearn.cluster"}.items():
                used = memory.beyond_rows(MEMORY_PROGRAM.format(module=module), X, centers=centers)
                row[name] = f"{used / 2**20:.0f} ({used / len(X):.0f})"
            table.add(row)
    return table.finish()
