"""Gaussian mixtures: fastem beside scikit-learn and oneDAL (daal4py.em_gmm of scikit-learn-intelex)."""

from __future__ import annotations

import importlib.util
import inspect
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from asv_bench.benchmarks.data import (
    MIXTURE_SHAPES,
    MORE_MIXTURE_SHAPES,
    MixtureStart,
    Shape,
    digits,
    mixture_data,
    mixture_start,
    photograph,
)
from asv_bench.peers import check, memory, report, timing
from asv_bench.peers.timing import Outcome

TOLERANCE = {"float64": 1e-6, "float32": 1e-4}  # relative, of the mean log-likelihood
TOL = 1e-6  # of the fits whose end is the target
MOST = 100  # iterations of those: scikit-learn's default

Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights, means, covariances


def options_of(start: MixtureStart, covariance: str, max_iter: int, tol: float = 0.0) -> dict[str, Any]:
    """Return the parameters that scikit-learn's class and fastem's share.

    A fixed number of iterations is made without reg_covar, which oneDAL does not have: a component of few rows would
    show the difference in the sixth digit.
    """
    return {
        "n_components": len(start.means), "covariance_type": covariance, "max_iter": max_iter, "tol": tol,
        "weights_init": start.weights, "means_init": start.means, "precisions_init": start.precisions(covariance),
        "reg_covar": 1e-6 if tol else 0.0,
    }  # fmt: skip


def fit_estimator(
    home: str, X: np.ndarray, start: MixtureStart, covariance: str, max_iter: int, tol: float = 0.0, **more: Any
) -> Outcome:
    """Fit the GaussianMixture of a module."""
    model = importlib.import_module(home).GaussianMixture(**{**options_of(start, covariance, max_iter, tol), **more})
    seconds, model = timing.clocked(partial(model.fit, X))
    return Outcome(seconds, model.n_iter_, model)


fit_fastem = partial(fit_estimator, "fastem")
fit_sklearn = partial(fit_estimator, "sklearn.mixture")


def fit_onedal(X: np.ndarray, start: MixtureStart, covariance: str, max_iter: int, tol: float = 0.0) -> Outcome:
    """Fit by oneDAL, which has full and diagonal covariances."""
    import daal4py

    if covariance not in ("full", "diag"):
        raise NotImplementedError(covariance)
    algorithm = daal4py.em_gmm(
        nComponents=len(start.means),
        fptype="float" if X.dtype == np.float32 else "double",
        maxIterations=max_iter,
        accuracyThreshold=tol,
        covarianceStorage="full" if covariance == "full" else "diagonal",
    )
    given = (start.weights[None], start.means, start.covariances(covariance))
    weights, means, covariances = (np.ascontiguousarray(array, X.dtype) for array in given)
    # A diagonal covariance is a table of one row.
    tables = [c if covariance == "full" else c[None] for c in covariances]
    seconds, found = timing.clocked(partial(algorithm.compute, X, weights, means, tables))
    return Outcome(seconds, max_iter, found)


def parameters(outcome: Outcome | None, covariance: str) -> Parameters:
    """Return weights, means and covariances, a tied covariance once per component."""
    assert outcome is not None
    found = outcome.result
    if hasattr(found, "weights_"):
        covariances = found.covariances_
        if covariance == "tied":
            covariances = np.repeat(covariances[None], len(found.means_), axis=0)
        return found.weights_, found.means_, covariances
    covariances = np.array([c if covariance == "full" else np.ravel(c) for c in found.covariances])
    return np.ravel(found.weights), found.means, covariances


def candidates(covariance: str) -> dict[str, Callable[..., Outcome]]:
    """Return the libraries that are here and have the covariance type."""
    found: dict[str, Callable[..., Outcome]] = {"fastem": fit_fastem, "scikit-learn": fit_sklearn}
    if importlib.util.find_spec("daal4py") and covariance in ("full", "diag"):
        found["oneDAL"] = fit_onedal
    return found


def run(options: Namespace) -> dict[str, list[dict]]:
    """Measure what was asked for, print the tables and return their rows."""
    shapes = report.selected(
        [shape.shrunk(options.shrink) for shape in MIXTURE_SHAPES + MORE_MIXTURE_SHAPES], options.shapes
    )
    sections = {"iteration": iteration, "fit": reached, "threads": threads, "memory": peak}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a few iterations do not converge
        return {name: section(shapes, options) for name, section in sections.items() if name in options.sections}


def iteration(shapes: list[Shape], options: Namespace) -> list[dict]:
    """Print the time of one EM iteration per row and component."""
    table = report.Table(
        "Per iteration, ns for a row and component: minimum (median)",
        ["shape", "dtype", "fastem", "scikit-learn", "oneDAL", "scikit-learn / fastem", "oneDAL / fastem", "objective"],
    )
    for shape in shapes:
        for dtype in options.dtypes:
            X, start = mixture_data(shape, dtype)
            kind = shape.covariance
            fits = {name: partial(fit, X, start, kind) for name, fit in candidates(kind).items()}
            # In 64 dimensions a component soon holds fewer rows than float32 can invert a covariance of.
            long = 3 if kind == "full" and shape.d >= 64 else 5
            fits, failed = report.that_run(fits, lambda fit, long=long: fit(long))
            timings = timing.per_iteration(fits, 1, long, options.repeats, options.budget)
            found = {
                name: check.log_likelihood(X, *parameters(t.last, shape.covariance)) for name, t in timings.items()
            }
            each = 1e6 / (shape.n * shape.k)  # ns per row and component for each ms
            scaled = {name: t._replace(best=t.best * each, median=t.median * each) for name, t in timings.items()}
            row = {"shape": str(shape), "dtype": dtype, **report.milliseconds(scaled), **failed}
            for peer in ("scikit-learn", "oneDAL"):
                if peer in timings:
                    row[f"{peer} / fastem"] = timings[peer].best / timings["fastem"].best
            row["objective"] = report.agreement(found, "fastem", TOLERANCE[dtype])
            table.add(row)
    return table.finish()


def reached(shapes: list[Shape], options: Namespace) -> list[dict]:
    """Print the time until scikit-learn's final log-likelihood is reached from the same start."""
    accelerated = "accelerate" in inspect.signature(importlib.import_module("fastem").GaussianMixture).parameters
    table = report.Table(
        f"Time to scikit-learn's final log-likelihood (its tol = {TOL:g}, at most {MOST} iterations), seconds",
        ["shape", "dtype", "scikit-learn", "fastem", "iterations", "scikit-learn / fastem"]
        + ["squarem", "its iterations", "scikit-learn / squarem"] * accelerated,
    )
    ratios: dict[str, list[float]] = {"fastem": [], "squarem": []}
    for name, (covariance, make) in convergence_data(shapes, options).items():
        for dtype in options.dtypes:
            X, start = make(dtype)
            fit_fastem(X, start, covariance, 1)
            theirs = fit_sklearn(X, start, covariance, MOST, TOL)
            # scikit-learn's bound of a float32 fit is rounded to float32: compare what both reach in float64.
            slack = 1e-9 if dtype == "float64" else 1e-6
            target = check.log_likelihood(X, *parameters(theirs, covariance))
            target -= slack * abs(target)
            row = {"shape": name, "dtype": dtype, "scikit-learn": theirs.seconds}
            for ours in ["fastem"] + ["squarem"] * accelerated:
                more = {"accelerate": "squarem"} if ours == "squarem" else {}
                best = min(
                    (until(target, X, start, covariance, **more) for _ in range(min(3, options.repeats))),
                    key=lambda outcome: outcome.seconds,
                )
                row["iterations" if ours == "fastem" else "its iterations"] = f"{theirs.n_iter}/{best.n_iter}"
                if not np.isfinite(best.seconds):
                    ended = check.log_likelihood(X, *parameters(best, covariance))
                    row[ours] = f"ends {(target - ended) / abs(target):.1g} lower"
                    continue
                row[ours] = best.seconds
                row[f"scikit-learn / {ours}"] = theirs.seconds / best.seconds
                ratios[ours].append(theirs.seconds / best.seconds)
            table.add(row)
    means = ", ".join(f"{name} {timing.geometric_mean(values):.3g}" for name, values in ratios.items() if values)
    table.note(f"geometric mean of the ratios: {means}; scikit-learn runs once, fastem's minimum of up to three runs.")
    return table.finish()


def until(target: float, X: np.ndarray, start: MixtureStart, covariance: str, **more: Any) -> Outcome:
    """Fit until an iteration's log-likelihood reaches `target`; the time is that of the callback that saw it.

    It is infinite if `2 * MOST` iterations do not reach it.
    """
    import fastem

    seen: list[float] = []

    def reached_it(info: Any) -> bool:
        if info.objective >= target:
            seen.append(time.perf_counter())
        return bool(seen)

    # An objective belongs to the parameters before its iteration: some more iterations are allowed, none is hidden.
    options = {**options_of(start, covariance, 2 * MOST, TOL), "tol": 0.0}
    model = fastem.GaussianMixture(**options, callback=reached_it, **more)
    begun = time.perf_counter()
    seconds, model = timing.clocked(partial(model.fit, X))
    if not seen:
        return Outcome(np.inf, model.n_iter_, model)
    pause = time.perf_counter() - begun - seconds
    return Outcome(seen[0] - begun - pause, model.n_iter_, model)


def convergence_data(
    shapes: list[Shape], options: Namespace
) -> dict[str, tuple[str, Callable[[str], tuple[np.ndarray, MixtureStart]]]]:
    """Return covariance type and maker of each data set: the five shapes, a photograph and handwritten digits."""
    main = {str(shape.shrunk(options.shrink)) for shape in MIXTURE_SHAPES}
    makers: dict[str, tuple[str, Callable[[str], tuple[np.ndarray, MixtureStart]]]] = {
        str(shape): (shape.covariance, partial(mixture_data, shape)) for shape in shapes if str(shape) in main
    }
    real = {"digits 1797 x 16, k=10, full": lambda dtype: (X := digits(16, dtype), mixture_start(X, 10))}
    if importlib.util.find_spec("PIL"):
        step = max(1, int(options.shrink))
        real["china.jpg, k=8, full"] = lambda dtype: (X := photograph(dtype)[::step].copy(), mixture_start(X, 8))
    for name in report.selected(list(real), options.shapes):
        makers[name] = ("full", real[name])
    return makers


def threads(shapes: list[Shape], options: Namespace) -> list[dict]:
    """Print what the second thread brings."""
    table = report.Table(
        "fastem with one thread and with all, per iteration, ms: minimum (median)",
        ["shape", "dtype", "one thread", "all", "one / all"],
    )
    for shape in shapes:
        for dtype in options.dtypes:
            X, start = mixture_data(shape, dtype)

            def fit(n_threads: int | None, max_iter: int, X=X, start=start, shape=shape) -> Outcome:
                return fit_fastem(X, start, shape.covariance, max_iter, n_threads=n_threads)

            fits = {"one thread": partial(fit, 1), "all": partial(fit, None)}
            report.that_run(fits, lambda fit: fit(1))
            timings = timing.per_iteration(fits, 1, 5, options.repeats, options.budget)
            row = {"shape": str(shape), "dtype": dtype, **report.milliseconds(timings)}
            table.add({**row, "one / all": report.ratio(timings, "all")})
    return table.finish()


MEMORY_PROGRAM = """
import warnings
warnings.simplefilter("ignore")
from {home} import GaussianMixture
def fit(X, weights, means, precisions):
    GaussianMixture(len(means), covariance_type="{covariance}", max_iter=2, tol=0, weights_init=weights,
                    means_init=means, precisions_init=precisions).fit(X)
"""


def peak(shapes: list[Shape], options: Namespace) -> list[dict]:
    """Print the peak of memory beyond the rows, for one and for eight million."""
    table = report.Table("Peak memory of a fit beyond its rows, MiB", ["shape", "dtype", "fastem", "scikit-learn"])
    for n in (1_000_000, 8_000_000):
        shape = Shape(n, 8, 16, "full").shrunk(options.shrink)
        for dtype in options.dtypes:
            X, start = mixture_data(shape, dtype)
            given = {"weights": start.weights, "means": start.means, "precisions": start.precisions("full")}
            row = {"shape": str(shape), "dtype": dtype}
            for name, home in {"fastem": "fastem", "scikit-learn": "sklearn.mixture"}.items():
                if name == "fastem" or n == 1_000_000:
                    used = memory.beyond_rows(MEMORY_PROGRAM.format(home=home, covariance="full"), X, **given)
                    row[name] = f"{used / 2**20:.1f}"
            table.add(row)
    return table.finish()
