"""Rows and centres by which searches of the nearest centre are tried."""

import numpy as np

KINDS = ["decaying", "noise", "offset", "duplicates", "far centre", "low rank", "beside a line"]


def rows_and_centers(kind, n, d, k, dtype, seed):
    rng = np.random.default_rng(seed)
    decay = np.arange(1, d + 1) ** (0.0 if kind == "noise" else -0.8)
    X = rng.standard_normal((n, d)) * decay @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    if kind == "duplicates":
        X = X[rng.integers(min(n, max(1, k // 2)), size=n)]
    if kind == "low rank":
        X = X[:, :3] @ rng.standard_normal((3, d))
    if kind == "beside a line":  # all but a thousandth of a row is one coordinate, as of patches of one brightness
        X = 1e-3 * X + np.outer(rng.standard_normal(n), rng.standard_normal(d))
    if kind == "offset":
        X += 100.0 if dtype == np.float32 else 1e6
    centers = X[rng.integers(n, size=k)] + (0 if kind == "duplicates" else 0.1 * rng.standard_normal((k, d)) * X.std())
    if kind == "far centre":
        centers[k // 3] = 1e7
        centers[k // 2] = -3e12
    return X.astype(dtype), centers.astype(dtype).astype(np.float64), rng
