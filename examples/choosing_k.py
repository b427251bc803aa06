"""How many clusters? BIC over k and covariance types for Old Faithful, and the elbow of k-means on four blobs.

python examples/choosing_k.py choosing_k.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastem
from fastem import plot
from fastem.plot.style import new_figure

DATA = Path(__file__).with_name("faithful.csv")


def blobs(n: int = 1200, seed: int = 0) -> np.ndarray:
    """Draw rows around four centres (n, 2)."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [7.0, 1.0], [1.0, 8.0], [8.0, 9.0]])
    return rng.normal(scale=1.1, size=(n, 2)) + centres[rng.integers(4, size=n)]


def main(arguments: Sequence[str] | None = None) -> tuple[tuple[int, str | None], int]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="where to draw, such as choosing_k.png")
    picture = parser.parse_args(arguments).picture

    X = np.loadtxt(DATA, delimiter=",", skiprows=1)
    kinds = ("full", "tied", "diag")
    mixtures = fastem.select(X, range(1, 8), covariance_types=kinds, n_init=5, random_state=0)
    clusters = fastem.select(blobs(), range(1, 10), model="kmeans", criterion="elbow", n_init=10, random_state=0)

    best = mixtures.best
    print("Old Faithful, BIC:")
    print("   k " + "".join(f"{kind:>12}" for kind in kinds))
    for k in range(1, 8):
        print(f"{k:4d} " + "".join(f"{row.bic:12.1f}" for row in mixtures.table if row.n_components == k))
    print(f"chosen: {best.n_components} components, {best.covariance_type} covariance")
    print(f"four blobs, elbow of k-means: {clusters.best.n_components} clusters")

    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    plot.criteria(mixtures, ax=left).set_title("Old Faithful: BIC of Gaussian mixtures", loc="left")
    plot.elbow(clusters, ax=right).set_title("Four blobs: the elbow of k-means", loc="left")
    figure.savefig(picture, dpi=80)
    return (best.n_components, best.covariance_type), clusters.best.n_components


if __name__ == "__main__":
    main()
