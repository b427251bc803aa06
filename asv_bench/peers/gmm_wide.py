"""Full and tied Gaussians of many features beside scikit-learn, full ones beside oneDAL: an iteration and whole fits.

A fit of four iterations begins at given weights, means and precisions, as `gmm.options_of` has them, and everything
counts that it does: checks, factors, and the attributes at its end.
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from functools import partial
from typing import Any

from asv_bench.benchmarks.data import WIDE_MIXTURE_SHAPES, Shape, mixture_data
from asv_bench.peers import check, gmm, report, timing

SHORT, LONG = 1, 4
# Where components have fewer rows than features, covariances need what is added to them, in float32 so much: the
# variances are about 6.  oneDAL adds nothing.
RIDGE = 1e-2


def run(options: Namespace) -> dict[str, list[dict]]:
    """Measure and print the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        return {"wide": _table(options)}


def _candidates(shape: Shape, X: Any, start: Any) -> dict[str, Any]:
    """Return the fits of those that are here, functions of max_iter."""
    n_matrices = shape.k if shape.covariance == "full" else 1
    more = {"reg_covar": RIDGE} if shape.n < n_matrices * shape.d else {}
    return {
        name: partial(fit, X, start, shape.covariance, **({} if name == "oneDAL" else more))
        for name, fit in gmm.candidates(shape.covariance).items()
    }


def _table(options: Namespace) -> list[dict]:
    peers = ("scikit-learn", "oneDAL")
    ratios = [f"{peer} / fastem{what}" for what in ("", ", fit") for peer in peers]
    title = f"ms: an iteration, from fits of {SHORT} and {LONG}, and a whole fit of {LONG} iterations; minima"
    columns = ["shape", "dtype", "fastem", *peers, "fastem, fit", *ratios, "objective"]
    table = report.Table(title, columns)
    shapes = report.selected([shape.shrunk(options.shrink) for shape in WIDE_MIXTURE_SHAPES], options.shapes)
    for shape in shapes:
        for dtype in options.dtypes:
            X, start = mixture_data(shape, dtype)
            fits, failed = report.that_run(_candidates(shape, X, start), lambda fit: fit(LONG))
            runs = {(name, n): partial(fit, n) for name, fit in fits.items() for n in (SHORT, LONG)}
            timings = timing.interleave(runs, options.repeats, options.budget)
            whole = {name: timings[name, LONG].best for name in fits}
            each = {name: (whole[name] - timings[name, SHORT].best) / (LONG - SHORT) for name in fits}
            found = {
                name: check.log_likelihood(X, *gmm.parameters(timings[name, LONG].last, shape.covariance))
                for name in fits
            }
            row = {"shape": str(shape), "dtype": dtype, **{name: 1e3 * s for name, s in each.items()}, **failed}
            row["fastem, fit"] = 1e3 * whole["fastem"]
            for peer in peers:
                if peer in fits:
                    row[f"{peer} / fastem"] = each[peer] / each["fastem"]
                    row[f"{peer} / fastem, fit"] = whole[peer] / whole["fastem"]
            row["objective"] = report.agreement(found, "fastem", gmm.TOLERANCE[dtype])
            table.add(row)
    return table.finish()
