"""A mixture on a line, and the posterior of its components: a sigmoid.

    python examples/one_dimension.py one_dimension.png

Scanning from left to right, the chance that a row comes from the right Gaussian rises like a sigmoid.  With one shared
variance it is exactly the logistic function.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastem
from fastem import plot


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="where to draw, such as one_dimension.png")
    picture = parser.parse_args(arguments).picture

    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(-2.0, 1.0, 220), rng.normal(2.2, 1.0, 180)])[:, None]
    model = fastem.GaussianMixture(2, covariance_type="tied", n_init=3, random_state=0).fit(X)

    left, right = np.argsort(model.means_[:, 0])
    slope = (model.means_[right, 0] - model.means_[left, 0]) / model.covariances_[0, 0]
    middle = model.means_[:, 0].mean() + np.log(model.weights_[left] / model.weights_[right]) / slope
    logistic = 1.0 / (1.0 + np.exp(-slope * (X[:, 0] - middle)))
    gap = float(np.abs(model.predict_proba(X)[:, right] - logistic).max())
    print(f"p(right given x) = 1 / (1 + exp(-{slope:.3f} (x - {middle:.3f}))), to {gap:.1g}")

    plot.posterior(model, X).savefig(picture, dpi=90)
    return gap


if __name__ == "__main__":
    main()
