"""Two Gaussians on Old Faithful: short eruptions after short waits, long ones after long waits.

    python examples/old_faithful.py faithful.png

The 272 eruptions are those of Haerdle (1991).  Two Gaussians, each with a full covariance, reach a log-likelihood of
-1130.264.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastem
from fastem import plot

DATA = Path(__file__).with_name("faithful.csv")


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="where to draw the fit, such as faithful.png")
    picture = parser.parse_args(arguments).picture

    X = np.loadtxt(DATA, delimiter=",", skiprows=1)
    model = fastem.GaussianMixture(2, n_init=10, tol=1e-9, random_state=0).fit(X)
    log_likelihood = float(model.score_samples(X).sum())

    print(f"log-likelihood {log_likelihood:.3f} after {model.n_iter_} iterations")
    for c in np.argsort(model.means_[:, 0]):
        minutes, wait = model.means_[c]
        print(f"{model.weights_[c]:.1%} of the eruptions: {minutes:.2f} minutes after a wait of {wait:.1f}")
    plot.summary(model, X, names=["eruption (minutes)", "wait (minutes)"]).savefig(picture, dpi=150)
    return log_likelihood


if __name__ == "__main__":
    main()
