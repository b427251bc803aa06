"""k-means of many features and many clusters: fastem beside scikit-learn, intelex, faiss and SuperKMeans.

Equal iterations for all; everyone's objective is computed by `check.inertia`.  Who takes no starting point has its own,
and its objective stands beside ours as a ratio.  Of very many clusters, the two that fit them in two levels.
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from asv_bench.benchmarks.data import chosen_rows
from asv_bench.peers import check, report, timing
from asv_bench.peers.kmeans import PEERS, Peer, fit_fastem, installed
from asv_bench.peers.timing import Outcome

CLUSTERS, ITERATIONS = 1000, 25
ROWS_PER_CLUSTER = 25  # of the fits in two levels
JUDGED = 20_000  # rows that their objectives are computed of
DIRECTIONS, CENTERS, NOISE = 200, 500, 0.05


class Wide(NamedTuple):
    """Rows and features of a data set, and what makes it."""

    n: int
    d: int
    make: Callable[[int, int], np.ndarray]


def patches(n: int, d: int) -> np.ndarray:
    """Return patches of 16 x 16 pixels of scikit-learn's two photographs, drawn at random, in [0, 1]."""
    from sklearn.datasets import load_sample_images
    from sklearn.feature_extraction.image import extract_patches_2d

    parts = [
        extract_patches_2d(image / 255.0, (16, 16), max_patches=n - n // 2 if which else n // 2, random_state=which)
        for which, image in enumerate(load_sample_images().images)
    ]
    return np.concatenate(parts).reshape(n, d)


def embeddings(n: int, d: int) -> np.ndarray:
    """Return rows of length 1 about centres in latent directions of falling weight, as text embeddings have them."""
    rng = np.random.default_rng(0)
    weights = np.arange(1, DIRECTIONS + 1) ** -0.6
    axes = np.linalg.qr(rng.standard_normal((d, DIRECTIONS)))[0]
    latent, of_row = rng.standard_normal((CENTERS, DIRECTIONS)), rng.integers(CENTERS, size=n)
    X = np.empty((n, d))
    for first in range(0, n, 100_000):
        rows = X[first : first + 100_000]
        rng.standard_normal(out=rows)
        rows *= NOISE
        rows += (latent[of_row[first : first + 100_000]] * weights) @ axes.T
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return X


def noise(n: int, d: int) -> np.ndarray:
    """Return uniform noise, of which nothing can be left out."""
    return np.random.default_rng(0).random((n, d))


def descriptors(n: int, d: int) -> np.ndarray:
    """Return rows of length 1 of falling variance in rotated directions, about centres, as descriptors of images."""
    rng = np.random.default_rng(0)
    weights = np.arange(1, d + 1) ** -0.6
    centers = rng.standard_normal((max(CENTERS, n // CENTERS), d))
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    X = np.empty((n, d), np.float32)
    for first in range(0, n, 100_000):
        rows = X[first : first + 100_000]
        near = centers[rng.integers(len(centers), size=len(rows))] + 0.7 * rng.standard_normal(rows.shape)
        rows[:] = (near * weights) @ axes.T
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return X


SETS = {
    "patches": Wide(60_000, 768, patches),
    "embeddings": Wide(200_000, 512, embeddings),
    "noise": Wide(60_000, 768, noise),
}


VERY_MANY = {"descriptors": Wide(100_000, 96, descriptors), "more descriptors": Wide(1_000_000, 96, descriptors)}


def fit_levels(X: np.ndarray, k: int, **options: Any) -> Outcome:
    """Fit fastem's two levels."""
    import fastem

    model = fastem.HierarchicalKMeans(k, random_state=0, **options)
    seconds, model = timing.clocked(partial(model.fit, X))
    return Outcome(seconds, model.n_iter_, model.cluster_centers_)


def fit_super_levels(X: np.ndarray, k: int, labels: bool = False, **options: Any) -> Outcome:
    """Fit SuperKMeans's two levels, and compare all rows with all centres if labels are wanted."""
    from superkmeans import SuperKMeans

    model = SuperKMeans(k, X.shape[1], hierarchical=True, **options)

    def run() -> np.ndarray:
        centers = model.train(X)
        if labels:
            model.assign(X, centers)
        return centers

    seconds, centers = timing.clocked(run)
    return Outcome(seconds, 0, centers)


def fit_faiss_super(X: np.ndarray, centers: np.ndarray, max_iter: int) -> Outcome:
    """Fit faiss's SuperKMeans, which starts from rows of its own."""
    import faiss

    k, d = centers.shape
    model = faiss.SuperKmeans(d, k, niter=max_iter, max_points_per_centroid=len(X), min_points_per_centroid=1)
    seconds, _ = timing.clocked(partial(model.train, X))
    return Outcome(seconds, max_iter, model.centroids)


def run(options: Namespace) -> dict[str, list[dict]]:
    """Measure and print the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        return {"wide": _table(options), "levels": _levels(options)}


def _candidates(dtype: str) -> dict[str, Callable[..., Outcome]]:
    peers: dict[str, Peer] = installed(dtype)
    found: dict[str, Callable[..., Outcome]] = {
        "fastem": partial(fit_fastem, algorithm="auto"),
        "lloyd": partial(fit_fastem, algorithm="lloyd"),
        **{name: peer.fit for name, peer in peers.items()},
    }
    if "faiss" in peers:
        found["faiss.Super"] = fit_faiss_super
    return found


def _levels(options: Namespace) -> list[dict]:
    """Measure and print the fits in two levels: the centres alone by the plainest settings, and with labels."""
    names = ["plain", "SuperKMeans", "fastem", "SuperKMeans refined", "labels", "SuperKMeans labels"]
    title = f"Two levels, {ROWS_PER_CLUSTER} rows a cluster, float32, seconds: minimum (median)"
    table = report.Table(title, ["shape", *names, "objective"])
    for name, shape in VERY_MANY.items():
        n = max(int(shape.n / options.shrink), 4 * CLUSTERS)
        k = n // ROWS_PER_CLUSTER
        called = f"{name} {n} x {shape.d}, k={k}"
        if not report.selected([called], options.shapes) or "float32" not in options.dtypes:
            continue
        X = shape.make(n, shape.d)
        fit_levels(X[: 4 * CLUSTERS], 100)  # what is compiled, is
        runs = {
            "plain": partial(fit_levels, X, k, n_refine=0, compute_labels=False),
            "fastem": partial(fit_levels, X, k, compute_labels=False),
            "labels": partial(fit_levels, X, k),
        }
        if "SuperKMeans" in installed("float32"):
            runs["SuperKMeans"] = partial(fit_super_levels, X, k)
            runs["SuperKMeans refined"] = partial(fit_super_levels, X, k, iters_refinement=2)
            runs["SuperKMeans labels"] = partial(fit_super_levels, X, k, labels=True)
        timings = timing.interleave(runs, options.repeats, options.budget)
        judged = X[:: max(1, n // JUDGED)]
        found = {key: check.inertia(judged, t.last.result) for key, t in timings.items() if t.last}
        apart = "; ".join(f"{key} {value / found['fastem']:.4f}" for key, value in found.items())
        table.add({"shape": called, **report.seconds(timings), "objective": apart})
    table.note(
        "plain: n_refine=0; labels: every row compared with all centres. Objectives over fastem's, "
        f"of about {JUDGED} rows."
    )
    return table.finish()


def _table(options: Namespace) -> list[dict]:
    columns = ["shape", "dtype", "fastem", "lloyd", *PEERS, "faiss.Super", "fastest peer / fastem", "objective"]
    title = f"k = {CLUSTERS}, {ITERATIONS} iterations, seconds: minimum (median)"
    table = report.Table(title, columns)
    for name, shape in SETS.items():
        n = max(int(shape.n / options.shrink), 4 * CLUSTERS)
        called = f"{name} {n} x {shape.d}"
        if not report.selected([called], options.shapes):
            continue
        for dtype in options.dtypes:
            X = shape.make(n, shape.d).astype(dtype)
            centers = chosen_rows(X, CLUSTERS)
            fits, failed = report.that_run(
                {key: partial(fit, X, centers) for key, fit in _candidates(dtype).items()}, lambda fit: fit(1)
            )
            runs = {key: partial(fit, ITERATIONS) for key, fit in fits.items()}
            timings = timing.interleave(runs, options.repeats, options.budget)
            found = {key: check.inertia(X, t.last.result) for key, t in timings.items() if t.last}
            apart = report.agreement(found, "fastem", 1e-6)
            peers = {key: t for key, t in timings.items() if key != "lloyd"}
            table.add(
                {
                    "shape": called, "dtype": dtype, **report.seconds(timings), **failed,
                    "fastest peer / fastem": report.ratio(peers, "fastem"), "objective": apart,
                }
            )  # fmt: skip
    table.note("fastem: algorithm='auto'; the two SuperKMeans start from their own rows.")
    return table.finish()
