"""Handwritten digits: how well ten clusters find the ten digits.

    python examples/digits.py

1797 scans of 8 x 8 pixels.  The clusters never see which digit a scan shows; homogeneity says how far each cluster
holds scans of one digit only (1 would be perfect).
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, homogeneity_score

import fastem


def main() -> dict[str, float]:
    X, digits = load_digits(return_X_y=True)
    model = fastem.KMeans(10, n_init=20, random_state=0).fit(X)
    result = {
        "inertia": float(model.inertia_),
        "homogeneity": float(homogeneity_score(digits, model.labels_)),
        "adjusted Rand index": float(adjusted_rand_score(digits, model.labels_)),
    }
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    print(f"worst of {len(model.restarts_)} restarts: {-model.restarts_.min():.4g}")
    print()
    print("cluster  scans  most of them show")
    for c in range(10):
        counts = np.bincount(digits[model.labels_ == c], minlength=10)
        print(f"{c:7d} {counts.sum():6d}  {counts.argmax()} ({counts.max() / counts.sum():.0%})")
    return result


if __name__ == "__main__":
    main()
