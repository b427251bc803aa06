"""The other families beside their peers: one `Case` for each model and shape.

A new comparison is one function that returns cases, added to `CASES` at the end.  A case makes its rows and, for each
candidate, a function of max_iter that fits from the same start and returns an `Outcome`; its objective (mean
log-likelihood of a row) is computed for every result by the same formula.
"""

from __future__ import annotations

import importlib.util
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from asv_bench.benchmarks.data import factor_data
from asv_bench.peers import report, timing
from asv_bench.peers.timing import Outcome

Fits = dict[str, Callable[[int], Outcome]]  # candidate -> max_iter -> outcome; one is called "fastem"


class Case(NamedTuple):
    """One model on one data set."""

    name: str
    fits: Callable[[str, float], Fits]  # (dtype, divide the rows by) -> candidates
    objective: Callable[[Outcome], float]
    iterations: tuple[int, int] = (1, 11)  # of the two fits whose difference is the time of an iteration
    most: int = 1000  # iterations of a whole fit
    tolerance: float = 1e-6  # within which objectives agree, relative

    def __str__(self) -> str:
        return self.name


def run(options: Namespace) -> dict[str, list[dict]]:
    """Measure and print the tables asked for."""
    cases = report.selected([case for cases in CASES for case in cases()], options.shapes)
    tables: dict[str, Callable[[list[Case], Namespace], list[dict]]] = {"iteration": iteration, "fit": fit}
    return {name: table(cases, options) for name, table in tables.items() if name in options.sections}


def iteration(cases: list[Case], options: Namespace) -> list[dict]:
    """Print the time of one iteration: the difference of two fits."""
    table = report.Table(
        "One iteration, ms: minimum (median)", ["shape", "dtype", "fastem", "peers", "peer / fastem", "objective"]
    )
    for case in cases:
        for dtype in options.dtypes:
            working, failed = report.that_run(case.fits(dtype, options.shrink), lambda fit: fit(1))
            timings = timing.per_iteration(working, *case.iterations, options.repeats, options.budget)
            table.add(_row(case, dtype, timings, report.milliseconds(timings), failed))
    return table.finish()


def fit(cases: list[Case], options: Namespace) -> list[dict]:
    """Print the time of whole fits, with the same tolerance."""
    columns = ["shape", "dtype", "fastem", "peers", "peer / fastem", "iterations", "objective"]
    table = report.Table("Whole fits, s: minimum (median)", columns)
    for case in cases:
        for dtype in options.dtypes:
            working, failed = report.that_run(case.fits(dtype, options.shrink), lambda fit: fit(1))
            runs = {name: partial(one, case.most) for name, one in working.items()}
            timings = timing.interleave(runs, options.repeats, options.budget)
            counts = "/".join(str(t.last.n_iter) for t in timings.values() if t.last is not None)
            table.add({**_row(case, dtype, timings, report.seconds(timings), failed), "iterations": counts})
    return table.finish()


def _row(case: Case, dtype: str, timings: Any, cells: dict[str, str], failed: dict[str, str]) -> dict:
    found = {name: case.objective(t.last) for name, t in timings.items() if t.last is not None}
    peers = {name: cell for name, cell in {**cells, **failed}.items() if name != "fastem"}
    return {
        "shape": case.name,
        "dtype": dtype,
        "fastem": cells["fastem"],
        "peers": ", ".join(f"{name} {cell}" for name, cell in peers.items()),
        "peer / fastem": report.ratio(timings, "fastem"),
        "objective": report.agreement(found, "fastem", case.tolerance),
    }


def fitted(model: Any, X: np.ndarray) -> Outcome:
    """Fit an estimator that has `n_iter_`, without the warning that few iterations do not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, model = timing.clocked(partial(model.fit, X))
    return Outcome(seconds, int(model.n_iter_), model)


def has(module: str) -> bool:
    """Tell whether a peer is installed."""
    return importlib.util.find_spec(module) is not None


# --- factor analysis, beside scikit-learn's two ways to decompose the rows


def factor_cases() -> list[Case]:
    """Rows of a factor analyser, drawn."""
    return [_factor_case(n, d, q) for n, d, q in ((10_000, 20, 4), (100_000, 32, 5), (10_000, 128, 10), (2000, 300, 5))]


def _factor_case(n: int, d: int, q: int) -> Case:
    drawn: dict[str, np.ndarray] = {}

    def fits(dtype: str, shrink: float) -> Fits:
        from sklearn.decomposition import FactorAnalysis

        import fastem

        X = drawn["X"] = factor_data(max(int(n / shrink), 4 * q), d, q, dtype)
        tol = 1e-7 * len(X)  # on the log-likelihood of all rows
        return {
            "fastem": lambda m: fitted(fastem.FactorAnalysis(q, tol=tol if m > 100 else 0.0, max_iter=m), X),
            **{
                method: lambda m, method=method: fitted(
                    FactorAnalysis(q, tol=tol if m > 100 else 0.0, max_iter=m, svd_method=method), X
                )
                for method in ("lapack", "randomized")
            },
        }

    def objective(outcome: Outcome) -> float:
        X = drawn["X"].astype(np.float64) - drawn["X"].mean(axis=0, dtype=np.float64)
        loadings = np.asarray(outcome.result.components_, np.float64)
        covariance = loadings.T @ loadings + np.diag(np.asarray(outcome.result.noise_variance_, np.float64))
        log_det = np.linalg.slogdet(covariance)[1]
        quadratic = np.sum(np.linalg.solve(covariance, X.T @ X / len(X)).diagonal())
        return float(-0.5 * (d * np.log(2 * np.pi) + log_det + quadratic))

    return Case(f"factor {n} x {d}, q={q}", fits, objective, tolerance=1e-5)


CASES = (factor_cases,)
