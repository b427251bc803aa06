"""The fit after 0, 1, 2, 5 and 20 cycles: Old Faithful, by EM for two Gaussians and by k-means.

    python examples/lecture_panels.py mixture_cycles.png kmeans_cycles.png

Both begin with the same two bad centres, on standardised data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastem
from fastem import plot

DATA = Path(__file__).with_name("faithful.csv")
START = np.array([[-1.5, 1.2], [1.5, -1.2]])


def main(arguments: Sequence[str] | None = None) -> tuple[int, int]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mixture", type=Path, help="where to draw the cycles of EM")
    parser.add_argument("kmeans", type=Path, help="where to draw those of k-means")
    options = parser.parse_args(arguments)

    X = np.loadtxt(DATA, delimiter=",", skiprows=1)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    names = ["eruption", "wait"]
    given = {"weights_init": [0.5, 0.5], "means_init": START, "precisions_init": [4.0 * np.eye(2)] * 2}
    mixture = fastem.GaussianMixture(2, **given, tol=1e-13, keep_history=True).fit(X)
    kmeans = fastem.KMeans(2, init=START, n_init=1, tol=0.0, keep_history=True).fit(X)
    print(f"EM: {mixture.n_iter_} cycles; k-means: {kmeans.n_iter_}")

    plot.cycles(mixture, X, names=names).savefig(options.mixture, dpi=72)
    plot.cycles(kmeans, X, after=(0, 1, 2, 5), names=names).savefig(options.kmeans, dpi=72)
    return mixture.n_iter_, kmeans.n_iter_


if __name__ == "__main__":
    main()
