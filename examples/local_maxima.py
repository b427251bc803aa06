"""EM gets stuck: random starts on three pairs of clusters, and two ways out.

    python examples/local_maxima.py local_maxima.png

A start that puts three centres into one pair leaves too few for the others, and no step of EM moves a centre that far.
Many restarts find a good start; split-and-merge moves the superfluous centre to where it is missing.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastem
from fastem import plot
from fastem.plot.style import new_figure


def pairs(seed: int = 0) -> np.ndarray:
    """Draw six clusters in three far pairs (720, 2)."""
    centres = np.array([[0.0, 0], [2.4, 0], [9, 0], [11.4, 0], [4.5, 7], [6.9, 7]])
    return (centres[:, None] + 0.45 * np.random.default_rng(seed).normal(size=(6, 120, 2))).reshape(-1, 2)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="where to draw, such as local_maxima.png")
    picture = parser.parse_args(arguments).picture

    X = pairs()
    options = {"init_params": "random_from_data", "max_iter": 200, "tol": 1e-6, "random_state": 1}
    stuck = fastem.GaussianMixture(6, **options).fit(X)
    freed = fastem.GaussianMixture(6, escape="split-merge", **options).fit(X)
    many = fastem.GaussianMixture(6, n_init=12, **options).fit(X)
    found = {"one start": stuck.lower_bound_, "split-merge": freed.lower_bound_, "12 restarts": many.lower_bound_}
    for how, value in found.items():
        print(f"{how:12s} log-likelihood per row {value:.4f}")

    figure = new_figure(13.0, 4.0)
    left, middle, right = figure.subplots(1, 3)
    plot.clusters(stuck, X, ax=left).set_title("one start: stuck", loc="left")
    plot.clusters(freed, X, ax=middle).set_title("the same start, split and merge", loc="left")
    plot.objective(many, ax=right).set_title("12 restarts", loc="left")
    figure.savefig(picture, dpi=80)
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    main()
