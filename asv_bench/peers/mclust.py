"""The fourteen covariance models beside mclust, the R package that they come from (``apt install r-cran-mclust``).

Both begin at the same hard assignment, to the nearest of some rows: mclust's `me` with an M-step from it, and
fastem at the parameters of that M-step.  R runs in a process of its own, which says how long `me` took.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from asv_bench.peers.families import Case, Fits, fitted
from asv_bench.peers.timing import Outcome

SHAPES = ((20_000, 4, 4),)

PROGRAM = r"""
suppressMessages(library(mclust))
given <- commandArgs(TRUE); size <- as.integer(given[3:5]); iterations <- as.integer(given[6])
numbers <- function(name, n) readBin(file.path(given[1], name), "double", n)
X <- matrix(numbers("rows", size[1] * size[2]), size[1], size[2], byrow = TRUE)
labels <- numbers("labels", size[1])
z <- unmap(labels, groups = seq_len(size[3]))
tolerance <- if (iterations > 100) 1e-9 else 0
control <- emControl(tol = c(tolerance, 1e-12), itmax = c(iterations, 1000))
seconds <- system.time(found <- me(X, given[2], z, control = control))[["elapsed"]]
sigma <- found$parameters$variance$sigma
writeBin(c(seconds, abs(as.numeric(attr(found, "info"))[1]), found$loglik, found$parameters$pro,
           as.vector(found$parameters$mean), as.vector(sigma)), file.path(given[1], "found"))
"""


def cases() -> list[Case]:
    """Rows of clusters that overlap, each model from the same start."""
    from fastem.families.elliptical.covariance import LETTERS

    return [_case(letters, *shape) for shape in SHAPES for letters in LETTERS]


def _case(letters: str, n: int, d: int, k: int) -> Case:
    drawn: dict[str, Any] = {}

    def fits(dtype: str, shrink: float) -> Fits:
        X, labels = _problem(max(int(n / shrink), 50 * d), d, k)
        drawn["X"] = X = X.astype(dtype)
        start = _m_step(letters, X, labels, k)
        candidates: Fits = {"fastem": lambda m: _fastem(letters, X, start, m)}
        if shutil.which("Rscript"):
            candidates["mclust"] = lambda m: _mclust(letters, X, labels, k, m)
        return candidates

    def objective(outcome: Outcome) -> float:
        return _likelihood(drawn["X"], *outcome.result)

    return Case(f"{letters} {n} x {d}, k={k}", fits, objective, iterations=(2, 12), most=2000, tolerance=1e-6)


def _problem(n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (n, d) of overlapping clusters, and the nearest of k rows for each (n,)."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((k, d, d)))[0]
    scales = rng.uniform(0.5, 2.0, (k, d))
    y = rng.integers(0, k, n)
    X = 2.0 * rng.standard_normal((k, d))[y] + np.einsum(
        "nij,nj->ni", axes[y] * scales[y, None], rng.standard_normal((n, d))
    )
    centres = X[rng.choice(n, k, replace=False)]
    return X, ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)


def _m_step(letters: str, X: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights, means and covariances, in the shape of the model, of an M-step from a hard assignment."""
    from fastem.families.elliptical.covariance import COVARIANCES

    X, model = X.astype(np.float64), COVARIANCES[letters]
    counts = np.bincount(labels, minlength=k)
    means = np.array([X[labels == c].mean(axis=0) for c in range(k)])
    scatter = np.array([np.cov(X[labels == c].T, bias=True) for c in range(k)])
    if model.shape.shared:
        return counts / len(X), means, model.shape.narrowed(counts, scatter, scatter[0])
    own = model.shape.of_matrices(scatter)
    return counts / len(X), means, model.constraint(counts, own, own) if model.constraint else own


def _fastem(letters: str, X: np.ndarray, start: Any, iterations: int) -> Outcome:
    import fastem
    from fastem.families.elliptical.covariance import COVARIANCES

    weights, means, covariances = start
    shape = COVARIANCES[letters].shape
    given = {"weights_init": weights, "means_init": means, "precisions_init": shape.inverted(covariances)}
    options = {"reg_covar": 0.0, "tol": 1e-11 if iterations > 100 else 0.0, "max_iter": iterations - 1}
    outcome = fitted(fastem.GaussianMixture(len(weights), covariance_type=letters, **given, **options), X)
    model = outcome.result
    full = shape.as_matrices(model.covariances_, *model.means_.shape)
    return Outcome(outcome.seconds, outcome.n_iter + 1, (model.weights_, model.means_, full))


def _mclust(letters: str, X: np.ndarray, labels: np.ndarray, k: int, iterations: int) -> Outcome:
    n, d = X.shape
    with tempfile.TemporaryDirectory() as folder:
        X.astype(np.float64).tofile(Path(folder) / "rows")
        (labels + 1.0).tofile(Path(folder) / "labels")
        command = ["Rscript", "-e", PROGRAM, folder, letters, *map(str, (n, d, k, iterations))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = np.fromfile(Path(folder) / "found")
    seconds, n_iter, _ = found[:3]
    weights, means, sigma = np.split(found[3:], [k, k + k * d])
    return Outcome(seconds, int(n_iter), (weights, means.reshape(k, d), sigma.reshape(k, d, d)))


def _likelihood(X: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> float:
    """Return the mean log-likelihood of a row, in plain NumPy and float64."""
    X, log_joint = X.astype(np.float64), []
    for weight, mean, covariance in zip(weights, means, covariances.astype(np.float64), strict=True):
        factor = np.linalg.cholesky(covariance)
        white = np.linalg.solve(factor, (X - mean).T)
        log_det = np.log(np.diagonal(factor)).sum() + 0.5 * X.shape[1] * np.log(2 * np.pi)
        log_joint.append(np.log(weight) - log_det - 0.5 * np.square(white).sum(axis=0))
    return float(np.logaddexp.reduce(log_joint, axis=0).mean())
