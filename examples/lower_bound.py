"""Why EM climbs: Jensen's chord, and the lower bound that touches the log-likelihood.

    python examples/lower_bound.py jensen.png lower_bound.png

The second picture holds all parameters of a mixture but one mean.  Each E-step makes a bound that touches the curve at
the present mean; each M-step goes to the top of that bound; the curve is at least as high there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastem
from fastem import plot


def rows(n: int = 300, seed: int = 0) -> np.ndarray:
    """Draw a mixture of two Gaussians on a line (n, 1)."""
    rng = np.random.default_rng(seed)
    return np.where(rng.uniform(size=n) < 0.45, rng.normal(0.0, 1.0, n), rng.normal(3.0, 1.3, n))[:, None]


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chord", type=Path, help="where to draw Jensen's chord, such as jensen.png")
    parser.add_argument("bound", type=Path, help="where to draw the bound, such as lower_bound.png")
    options = parser.parse_args(arguments)

    X = rows()
    model = fastem.GaussianMixture(2, n_init=5, random_state=0).fit(X)
    component = int(model.means_[:, 0].argmin())
    at = fastem.LowerBound(model, X)
    q = np.full((len(X), 2), 0.5)
    print(f"log-likelihood {at.log_likelihood():.6f} = bound {at.bound(q):.6f} + divergence {at.kl(q):.6f}")
    q = at.e_step()
    print(f"after the E-step the bound is {at.bound(q):.6f}, the divergence {at.kl(q):.2g}")

    plot.jensen().figure.savefig(options.chord, dpi=90)
    ax = plot.lower_bound(model, X, component=component, start=2.35, limits=(-2.2, 3.0), iterations=3)
    ax.figure.savefig(options.bound, dpi=90)
    return at.bound(q) - at.log_likelihood()


if __name__ == "__main__":
    main()
