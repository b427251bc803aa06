"""K-means on text as a CSR matrix: fastem beside scikit-learn.

Rows are TF-IDF of documents that are drawn (`benchmarks/data.py`), among them one of the shape of scikit-learn's
example with 20 newsgroups, 11,314 x 130,107, made without a download.  Both fit from the same centres where iterations
are compared; whole fits include the start, greedy k-means++ from other draws, so that objectives are shown as a ratio.
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from asv_bench.benchmarks.data import TEXTS, TextShape, tfidf
from asv_bench.peers import memory, report, timing
from asv_bench.peers.timing import Outcome

MOST = 100  # iterations of a whole fit
PROGRAM = """
import warnings
warnings.simplefilter("ignore")
import numpy as np
from scipy import sparse
from {module} import {model}
def fit(X, indices, indptr, shape):
    n = int(np.searchsorted(indptr, len(X), side="right")) - 1
    end = indptr[n]
    rows = sparse.csr_matrix((X[:end], indices[:end], indptr[: n + 1]), shape=(n, shape[1]))
    {model}(shape[2], n_init=1, random_state=0, max_iter={max_iter}).fit(rows)
"""


def run(options: Namespace) -> dict[str, list[dict]]:
    """Measure what was asked for, print the tables and return their rows."""
    shapes = report.selected([shape.shrunk(options.shrink) for shape in TEXTS], options.shapes)
    sections: dict[str, Callable[[list[TextShape], Namespace], list[dict]]] = {
        "iteration": iteration,
        "fit": fit,
        "memory": peak,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a few iterations do not converge
        return {name: section(shapes, options) for name, section in sections.items() if name in options.sections}


def fitted(model: Any, X: Any) -> Outcome:
    """Fit an estimator to rows."""
    seconds, model = timing.clocked(partial(model.fit, X))
    return Outcome(seconds, int(model.n_iter_), float(model.inertia_))


def libraries() -> dict[str, Any]:
    """Return the modules that have the estimators."""
    import sklearn.cluster

    import fastem

    return {"fastem": fastem, "scikit-learn": sklearn.cluster}


def iteration(shapes: list[TextShape], options: Namespace) -> list[dict]:
    """Print the time of one iteration of KMeans, from the same centres."""
    table = report.Table(
        "KMeans, one iteration, ms: minimum (median)",
        ["shape", "dtype", "fastem", "scikit-learn", "peer / fastem", "objective"],
    )
    for shape in shapes:
        for dtype in options.dtypes:
            X = tfidf(shape, dtype)
            rows = np.random.default_rng(1).choice(shape.n, shape.k, replace=False)
            centers = X[np.sort(rows)].toarray()

            def fits(module: Any, max_iter: int, X: Any = X, centers: Any = centers) -> Outcome:
                model = module.KMeans(len(centers), init=centers, n_init=1, tol=0, max_iter=max_iter)
                return fitted(model, X)

            candidates = {name: partial(fits, module) for name, module in libraries().items()}
            timings = timing.per_iteration(candidates, 2, 12, options.repeats, options.budget)
            found = {name: t.last.result for name, t in timings.items() if t.last}
            table.add(
                {
                    "shape": str(shape), "dtype": dtype, **report.milliseconds(timings),
                    "peer / fastem": report.ratio(timings, "fastem"),
                    "objective": report.agreement(found, "fastem", 1e-4),
                }
            )  # fmt: skip
    return table.finish()


def fit(shapes: list[TextShape], options: Namespace) -> list[dict]:
    """Print the time of whole fits of KMeans and MiniBatchKMeans, starts included."""
    table = report.Table(
        "Whole fits, s: minimum (median)",
        ["shape", "dtype", "model", "fastem", "scikit-learn", "peer / fastem", "iterations", "J / peer's"],
    )
    for shape in shapes:
        for dtype in options.dtypes:
            X = tfidf(shape, dtype)
            for name in ("KMeans", "MiniBatchKMeans"):

                def run(module: Any, X: Any = X, name: str = name, k: int = shape.k) -> Outcome:
                    return fitted(getattr(module, name)(k, n_init=1, random_state=0, max_iter=MOST), X)

                candidates = {library: partial(run, module) for library, module in libraries().items()}
                timings = timing.interleave(candidates, options.repeats, options.budget)
                ours, theirs = (timings[library].last for library in ("fastem", "scikit-learn"))
                assert ours is not None
                assert theirs is not None
                table.add(
                    {
                        "shape": str(shape), "dtype": dtype, "model": name, **report.seconds(timings),
                        "peer / fastem": report.ratio(timings, "fastem"),
                        "iterations": f"{ours.n_iter}/{theirs.n_iter}", "J / peer's": ours.result / theirs.result,
                    }
                )  # fmt: skip
    return table.finish()


def peak(shapes: list[TextShape], options: Namespace) -> list[dict]:
    """Print by how much the peak memory of a process rises during a fit."""
    table = report.Table(
        "Memory beyond the rows, MiB", ["shape", "dtype", "model", "fastem", "scikit-learn", "fastem / peer"]
    )
    for shape in shapes:
        for dtype in options.dtypes:
            X = tfidf(shape, dtype)
            arrays = {"indices": X.indices, "indptr": X.indptr, "shape": np.array([*X.shape, shape.k])}
            for model, max_iter in (("KMeans", 10), ("MiniBatchKMeans", 5)):
                used = {}
                for name, module in (("fastem", "fastem"), ("scikit-learn", "sklearn.cluster")):
                    program = PROGRAM.format(module=module, model=model, max_iter=max_iter)
                    used[name] = memory.beyond_rows(program, X.data, **arrays) / 2**20
                ratio = used["fastem"] / used["scikit-learn"]
                table.add({"shape": str(shape), "dtype": dtype, "model": model, **used, "fastem / peer": ratio})
    return table.finish()
