"""Log-likelihood against passes over the rows: full EM beside incremental and stepwise EM, from the same start.

    python -m asv_bench.online
    python -m asv_bench.online --apart 6 --seeds 5
    python -m asv_bench.online --rows 100000 --batch 1000 --passes 1 2

The start is made of the first batch, for all alike.  Printed is by how much the mean log-likelihood of a row, over all
rows, falls short of where full EM ends (1000 iterations at most), in nats, with quartiles over `--seeds` data sets.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from typing import Any

import numpy as np

import fastem

WAYS: dict[str, dict[str, Any]] = {
    "a = 0.6": {"learning_decay": 0.6},
    "a = 0.6, averaged": {"learning_decay": 0.6, "average_from": "half"},
    "a = 0.8": {"learning_decay": 0.8},
    "a = 0.8, averaged": {"learning_decay": 0.8, "average_from": "half"},
    "a = 1": {"learning_decay": 1.0},
}

BLOCKS = (4, 16, 64)


def data(n: int, d: int, k: int, apart: float, seed: int) -> np.ndarray:
    """Return n rows of k Gaussians in d features, in random order; `apart` is the spread of the means."""
    rng = np.random.default_rng(seed)
    means = apart * rng.standard_normal((k, d))
    mixing = rng.standard_normal((k, d, d)) / np.sqrt(d) + np.eye(d)
    y = rng.integers(0, k, n)
    return np.einsum("nj,nij->ni", rng.standard_normal((n, d)), mixing[y]) + means[y]


def shortfalls(X: np.ndarray, k: int, batch: int, passes: list[int]) -> dict[str, list[float]]:
    """Return by how much each way falls short after so many passes."""
    first = fastem.GaussianMixture(k, max_iter=0, random_state=0).fit(X[:batch])
    start = {"weights_init": first.weights_, "means_init": first.means_, "precisions_init": first.precisions_}
    best = fastem.GaussianMixture(k, tol=1e-9, max_iter=1000, **start).fit(X).score(X)
    found = {"full EM": [best - fastem.GaussianMixture(k, tol=0, max_iter=p, **start).fit(X).score(X) for p in passes]}
    batches = np.array_split(X, len(X) // batch)
    learnt = fastem.GaussianMixture(k, **start)
    for rows in batches:
        learnt.partial_fit(rows)
    for n in BLOCKS:
        own = {"algorithm": "incremental", "n_blocks": n, "tol": 0}
        models = [fastem.GaussianMixture(k, max_iter=p, **own, **start) for p in passes]
        found[f"incremental, {n} blocks"] = [best - model.fit(X).score(X) for model in models]
    found["a = 0.6, then incremental, 16 blocks"] = [best - learnt.score(X) if p == 1 else np.nan for p in passes]
    for place, p in enumerate(passes):
        if p > 1:
            model = copy.deepcopy(learnt)
            model.set_params(algorithm="incremental", n_blocks=16, warm_start=True, tol=0, max_iter=p - 1).fit(X)
            found["a = 0.6, then incremental, 16 blocks"][place] = best - model.score(X)
    for name, options in WAYS.items():
        found[name] = []
        for p in passes:
            average_from = len(batches) * p // 2 + 1 if "average_from" in options else None
            model = fastem.GaussianMixture(k, **{**options, "average_from": average_from}, **start)
            for _ in range(p):
                for rows in batches:
                    model.partial_fit(rows)
            found[name].append(best - model.score(X))
    return found


def seconds(X: np.ndarray, k: int, batch: int) -> dict[str, float]:
    """Return the processor time of a pass of each way on one thread, without starts: the least of five turns each."""
    first = fastem.GaussianMixture(k, max_iter=0, random_state=0).fit(X[:batch])
    start = {"weights_init": first.weights_, "means_init": first.means_, "precisions_init": first.precisions_}
    options = {"tol": 0, "max_iter": 8, "n_threads": 1, **start}
    ways = {"full EM": fastem.GaussianMixture(k, **options)}
    for n in BLOCKS:
        ways[f"incremental, {n} blocks"] = fastem.GaussianMixture(k, algorithm="incremental", n_blocks=n, **options)
    steps = fastem.GaussianMixture(k, n_threads=1, **start)
    times: dict[str, list[float]] = {}
    for _ in range(5):
        for name, model in ways.items():
            begun = time.process_time()
            model.fit(X)
            times.setdefault(name, []).append((time.process_time() - begun) / 8)
        begun = time.process_time()
        for rows in np.array_split(X, len(X) // batch):
            steps.partial_fit(rows)
        times.setdefault("partial_fit", []).append(time.process_time() - begun)
    return {name: min(found) for name, found in times.items()}


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser("python -m asv_bench.online", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--features", type=int, default=4)
    parser.add_argument("--components", type=int, default=5)
    parser.add_argument("--apart", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = []
    for seed in range(asked.seeds):
        X = data(asked.rows, asked.features, asked.components, asked.apart, seed)
        runs.append(shortfalls(X, asked.components, asked.batch, asked.passes))
    taken = seconds(X, asked.components, asked.batch)
    print(f"{asked.rows} x {asked.features}, {asked.components} components, batches of {asked.batch}")
    print("processor time of a pass: " + ", ".join(f"{name} {1e3 * t:.1f} ms" for name, t in taken.items()))
    print("| passes | " + " | ".join(map(str, asked.passes)) + " |")
    for name in runs[0]:
        low, middle, high = np.quantile([run[name] for run in runs], [0.25, 0.5, 0.75], axis=0)
        cells = [f"{m:.4f} ({a:.4f} to {b:.4f})" for a, m, b in zip(low, middle, high, strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
