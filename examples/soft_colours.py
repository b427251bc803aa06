"""Responsibilities as mixtures of colours: where components overlap, rows belong to both.

    python examples/soft_colours.py soft_colours.png

Left as k-means assigns them, right as a mixture of three Gaussians shares them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastem
from fastem import plot
from fastem.plot.style import new_figure


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="where to draw, such as soft_colours.png")
    picture = parser.parse_args(arguments).picture

    rng = np.random.default_rng(1)
    shapes = (((0, 0), (1.6, 0.9)), ((3.2, 0.8), (0.7, 1.8)), ((1.4, 4.0), (1.9, 0.7)))
    X = np.vstack([rng.normal(centre, scale, (140, 2)) for centre, scale in shapes])
    mixture = fastem.GaussianMixture(3, n_init=5, random_state=0).fit(X)
    kmeans = fastem.KMeans(3, init=mixture.means_, n_init=1).fit(X)
    shared = float(np.mean(mixture.predict_proba(X).max(axis=1) < 0.9))
    print(f"{shared:.0%} of the rows belong to no component by more than 90 %")

    figure = new_figure(10.0, 4.4)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    plot.clusters(kmeans, X, ax=left).set_title("k-means: hard assignment", loc="left")
    plot.clusters(mixture, X, ax=right).set_title("mixture: soft assignment", loc="left")
    right.label_outer()
    figure.savefig(picture, dpi=80)
    return shared


if __name__ == "__main__":
    main()
