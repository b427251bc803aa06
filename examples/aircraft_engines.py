"""Aircraft engines: vibration and heat are each in their usual range, but not together.

    python examples/aircraft_engines.py aircraft_engines.png

Every engine that leaves the line is measured.  Two plants build them, and engines that vibrate more also run hotter.
A density of both features flags the engine whose combination is odd, and says which heat such a vibration goes with;
a range for each feature by itself would let it pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastem
from fastem import plot

FEATURES = ("vibration (mm/s)", "heat (degrees C)")
SUSPECT = np.array([[3.1, 540.0]])


def measure(n: int = 600, seed: int = 0) -> np.ndarray:
    """Draw good engines of two plants (n, 2)."""
    rng = np.random.default_rng(seed)
    plant = rng.uniform(size=n) < 0.4
    vibration = np.where(plant, rng.normal(2.1, 0.35, n), rng.normal(3.4, 0.45, n))
    heat = np.where(plant, 545.0 + 30.0 * (vibration - 2.1), 600.0 + 55.0 * (vibration - 3.4)) + rng.normal(0, 7.0, n)
    return np.column_stack([vibration, heat])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="where to draw, such as aircraft_engines.png")
    picture = parser.parse_args(arguments).picture

    engines = measure()
    mixture = fastem.GaussianMixture(2, n_init=5, random_state=0)
    detector = fastem.AnomalyDetector(mixture, contamination=0.005).fit(engines)
    share_below = (engines < SUSPECT).mean(axis=0)
    explanation = detector.explain(SUSPECT)
    for name, value, share, expected, surprise in zip(
        FEATURES, SUSPECT[0], share_below, explanation.expected[0], explanation.surprise[0], strict=True
    ):
        print(f"{name}: {value:g}, above {share:.0%} of the engines; given the other feature {expected:.3g} is usual")
        print(f"    {surprise:.1f} nats more surprising than this feature usually is")
    verdict = int(detector.predict(SUSPECT)[0])
    print(f"p(x) = {np.exp(detector.score_samples(SUSPECT)[0]):.1e}: {'anomaly' if verdict < 0 else 'fine'}")

    ax = plot.density(detector, np.vstack([engines, SUSPECT]), names=FEATURES)
    ax.annotate(
        "in range twice,\nodd together", SUSPECT[0], (3.85, 524.0), arrowprops={"arrowstyle": "->"}, va="center"
    )
    ax.figure.savefig(picture, dpi=100)
    return {"verdict": verdict, "share_below": share_below, "expected": explanation.expected[0]}


if __name__ == "__main__":
    main()
