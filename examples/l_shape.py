"""The L-shaped data of the lecture: two Gaussians follow the shape, and flag the corner that is empty.

    python examples/l_shape.py l_shape.png

No textbook density has the shape of an L.  One Gaussian covers the empty corner between the arms; a mixture of two,
one along each arm, does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastem
from fastem import plot
from fastem.plot.style import new_figure

CORNER = np.array([[4.0, 4.0], [5.5, 3.0], [3.2, 5.6]])


def arms(n: int = 800, seed: int = 0) -> np.ndarray:
    """Draw rows along the two arms of an L (n, 2)."""
    rng = np.random.default_rng(seed)
    along, across = rng.normal(3.6, 1.6, n), rng.normal(0.6, 0.35, n)
    upright = rng.uniform(size=n) < 0.5
    return np.where(upright[:, None], np.column_stack([across, along]), np.column_stack([along, across]))


def main(arguments: Sequence[str] | None = None) -> dict[int, list[int]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="where to draw, such as l_shape.png")
    picture = parser.parse_args(arguments).picture

    X = arms()
    figure = new_figure(9.4, 4.6)
    verdicts = {}
    for k, ax in zip((1, 2), figure.subplots(1, 2, sharex=True, sharey=True), strict=True):
        mixture = fastem.GaussianMixture(k, n_init=5, random_state=0)
        detector = fastem.AnomalyDetector(mixture, contamination=0.01).fit(X)
        verdicts[k] = detector.predict(CORNER).tolist()
        found = sum(verdict == -1 for verdict in verdicts[k])
        print(f"{k} Gaussian{'s' if k > 1 else ''}: {found} of {len(CORNER)} rows in the corner are flagged")
        plot.density(detector, np.vstack([X, CORNER]), limits=((-1.2, 9.0), (-1.2, 9.0)), ax=ax)
        ax.scatter(*CORNER.T, s=130, facecolors="none", edgecolors="#222222", linewidths=1.4, zorder=5)
        ax.set_title(f"{'one Gaussian' if k == 1 else 'two Gaussians'}: {found} of {len(CORNER)} in the corner flagged")
        ax.set_aspect("equal")
        ax.label_outer()
    figure.savefig(picture, dpi=90)
    return verdicts


if __name__ == "__main__":
    main()
