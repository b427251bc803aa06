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
        "peers": ", ".join(f"{name} {cell}" for name, cell in peers.items()) or "there is none",
        "peer / fastem": report.ratio(timings, "fastem") if peers else "-",
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
        return _factor_likelihood(drawn["X"], outcome.result.components_, outcome.result.noise_variance_)

    return Case(f"factor {n} x {d}, q={q}", fits, objective, tolerance=1e-5)


def _factor_likelihood(X: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray) -> float:
    """Return the mean log-likelihood of rows X (n, d) about their mean, given loadings (q, d) and noise (d,)."""
    X = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    loadings = np.asarray(loadings, np.float64)
    covariance = loadings.T @ loadings + np.diag(np.asarray(noise_variance, np.float64))
    log_det = np.linalg.slogdet(covariance)[1]
    quadratic = np.sum(np.linalg.solve(covariance, X.T @ X / len(X)).diagonal())
    return float(-0.5 * (X.shape[1] * np.log(2 * np.pi) + log_det + quadratic))


# --- mixtures of factor analysers.  No Python package fits them (mofa is of Python 2, cplx-mfa fits another model, of
# complex numbers): one component stands beside scikit-learn's factor analysis, and more stand alone.


def analyser_cases() -> list[Case]:
    """Rows of one factor analyser, and of several."""
    return [_analyser_case(n, d, q, k) for n, d, q, k in ((10_000, 128, 10, 1), (20_000, 64, 4, 5))]


def _analyser_case(n: int, d: int, q: int, k: int) -> Case:
    drawn: dict[str, np.ndarray] = {}

    def fits(dtype: str, shrink: float) -> Fits:
        from sklearn.decomposition import FactorAnalysis

        import fastem

        X, given = _analyser_problem(max(int(n / shrink), 10 * k * q), d, q, k, dtype)
        drawn["X"] = X

        def ours(max_iter: int) -> Outcome:
            tol = 1e-7 if max_iter > 100 else 0.0
            return fitted(fastem.FactorAnalyserMixture(k, n_factors=q, tol=tol, max_iter=max_iter, **given), X)

        if k > 1:
            return {"fastem": ours}
        tol = 1e-7 * len(X)
        return {
            "fastem": ours,
            **{
                method: lambda m, method=method: fitted(
                    FactorAnalysis(
                        q, tol=tol if m > 100 else 0.0, max_iter=m, svd_method=method, noise_variance_init=np.ones(d)
                    ),
                    X,
                )
                for method in ("lapack", "randomized")
            },
        }

    def objective(outcome: Outcome) -> float:
        model = outcome.result
        if k > 1:
            return float(model.score(drawn["X"]))
        if hasattr(model, "loadings_"):
            return _factor_likelihood(drawn["X"], model.loadings_[0].T, model.noise_variances_[0])
        return _factor_likelihood(drawn["X"], model.components_, model.noise_variance_)

    return Case(f"analysers {n} x {d}, q={q}, k={k}", fits, objective, tolerance=1e-3)


def _analyser_problem(n: int, d: int, q: int, k: int, dtype: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return rows (n, d) in random order, and the start: scikit-learn's own for one component, else off the truth."""
    import fastem
    from fastem import families
    from fastem.draws import Draws

    if k == 1:
        X = factor_data(n, d, q, dtype)
        loadings = fitted(fastem.FactorAnalysis(q, max_iter=1, tol=0.0), X).result.components_.T[None]
        means = X.mean(axis=0, dtype=np.float64)[None]
    else:
        family = families.make("factor-mixture", k, n_factors=q)
        params = family.example_params(d, Draws(0))
        X = np.random.default_rng(1).permutation(family.sample(params, n, Draws(1))[0]).astype(dtype)
        loadings, means = 0.7 * params.loadings, params.means + 0.3
    start = {"weights": np.full(k, 1.0 / k), "means": means, "loadings": loadings, "noise_variances": np.ones((k, d))}
    return X, {f"{name}_init": value.astype(np.float64) for name, value in start.items()}


# --- mixtures of discrete data, beside StepMix and pomegranate; the rows are drawn from the family


def discrete_cases() -> list[Case]:
    """Bernoulli, categorical and Poisson mixtures, from the same start."""
    shapes = {
        "bernoulli": ((100_000, 20, 5), (20_000, 500, 10)),
        "categorical": ((100_000, 10, 5), (20_000, 100, 10)),
        "poisson": ((100_000, 20, 5), (20_000, 200, 10)),
    }
    return [_discrete_case(name, *shape) for name, several in shapes.items() for shape in several]


CATEGORIES = 4
DISCRETE = {
    "bernoulli": ("BernoulliMixture", "means", {"binarize": None}),
    "categorical": ("CategoricalMixture", "probabilities", {"n_categories": CATEGORIES}),
    "poisson": ("PoissonMixture", "rates", {}),
}


def _discrete_case(name: str, n: int, d: int, k: int) -> Case:
    drawn: dict[str, Any] = {}
    model_name, parameters, options = DISCRETE[name]

    def estimator(weights: Any, values: Any, **more: Any) -> Any:
        import fastem

        start = {"weights_init": weights, f"{parameters}_init": values}
        return getattr(fastem, model_name)(k, **options, **start, **more)

    def fits(dtype: str, shrink: float) -> Fits:
        X, start = _discrete_problem(name, max(int(n / shrink), 10 * k), d, k)
        X = drawn["X"] = X.astype(dtype)
        even = np.full(k, 1.0 / k)
        candidates: Fits = {
            "fastem": lambda m: _discrete_outcome(
                fitted(estimator(even, start, max_iter=m, tol=1e-9 if m > 100 else 0.0), X), parameters
            )
        }
        if has("stepmix") and name != "poisson":
            candidates["StepMix"] = lambda m: _stepmix(name, X, start, m)
        if has("pomegranate"):
            candidates["pomegranate"] = lambda m: _pomegranate(_discrete_components(name, start), X, m)
        return candidates

    def objective(outcome: Outcome) -> float:
        weights, values = outcome.result
        if name == "categorical":  # rounded to float32 by a peer
            values = values / values.reshape(k, -1, CATEGORIES).sum(axis=2).repeat(CATEGORIES, axis=1)
        return float(fitted(estimator(weights / weights.sum(), values, max_iter=0), drawn["X"]).result.lower_bound_)

    return Case(f"{name} {n} x {d}, k={k}", fits, objective, iterations=(2, 12), most=200, tolerance=1e-5)


def _discrete_problem(name: str, n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in random order and a start off the truth, (k, d) or (k, d * CATEGORIES)."""
    from fastem import families
    from fastem.draws import Draws

    family = families.make(name, k, **({"n_categories": CATEGORIES} if name == "categorical" else {}))
    params, rng = family.example_params(d, Draws(0)), np.random.default_rng(1)
    if name == "poisson":  # nearer to each other: clusters apart are found in two iterations, exactly
        params = params._replace(rates=10.0 + (params.rates - 10.0) / np.sqrt(d))
    X = rng.permutation(family.sample(params, n, Draws(1))[0])
    if name == "bernoulli":
        return X, np.clip(params.means + rng.uniform(-0.3, 0.3, params.means.shape), 0.05, 0.95)
    if name == "poisson":
        return X, params.rates * rng.uniform(0.7, 1.4, params.rates.shape)
    start = params.probabilities.reshape(k, d, CATEGORIES) + rng.uniform(0, 0.5, (k, d, CATEGORIES))
    return X, (start / start.sum(axis=2, keepdims=True)).reshape(k, -1)


def _discrete_outcome(outcome: Outcome, parameters: str) -> Outcome:
    """Keep weights and parameters alone."""
    model = outcome.result
    return outcome._replace(result=(model.weights_, getattr(model, f"{parameters}_")))


def _stepmix(name: str, X: np.ndarray, start: np.ndarray, max_iter: int) -> Outcome:
    import stepmix

    kind = "binary" if name == "bernoulli" else "categorical"
    pis = {"pis": start} if name == "bernoulli" else {"pis": start, "max_n_outcomes": CATEGORIES, "total_outcomes": 0}
    if name == "categorical":
        pis["total_outcomes"] = start.shape[1]

    class Started(stepmix.StepMix):
        def _initialize_parameters(self, X: Any, random_state: Any) -> None:
            super()._initialize_parameters(X, random_state)
            even = np.full(len(start), 1.0 / len(start))
            self.set_parameters({"weights": even, "measurement": pis, "measurement_in": X.shape[1]})

    options = {"abs_tol": 1e-9 if max_iter > 100 else 0.0, "progress_bar": 0, "verbose": 0, "random_state": 0}
    outcome = fitted(Started(len(start), measurement=kind, max_iter=max_iter, **options), X)
    found = outcome.result.get_parameters()
    return outcome._replace(result=(np.asarray(found["weights"]), np.asarray(found["measurement"]["pis"])))


def _discrete_components(name: str, start: np.ndarray) -> list[Any]:
    from pomegranate.distributions import Bernoulli, Categorical, Poisson

    if name == "categorical":
        return [Categorical(row.reshape(-1, CATEGORIES)) for row in start]
    return [(Bernoulli if name == "bernoulli" else Poisson)(row) for row in start]


def _pomegranate(components: list[Any], X: np.ndarray, max_iter: int) -> Outcome:
    import torch
    from pomegranate.gmm import GeneralMixtureModel

    categorical = type(components[0]).__name__ == "Categorical"
    for component in components:
        component.to(torch.from_numpy(X[:1]).dtype)
    model = GeneralMixtureModel(components, max_iter=max_iter, tol=1e-9 * len(X) if max_iter > 100 else -np.inf)
    rows = torch.from_numpy(X).to(torch.int64) if categorical else torch.from_numpy(X)
    seconds, _ = timing.clocked(partial(model.fit, rows))
    values = np.array([_plain(component).ravel() for component in model.distributions], np.float64)
    return Outcome(seconds, max_iter, (np.asarray(model.priors, np.float64), values))


def _plain(component: Any) -> np.ndarray:
    name = {"Bernoulli": "probs", "Categorical": "probs", "Poisson": "lambdas", "StudentT": "means"}
    return np.asarray(getattr(component, name[type(component).__name__]))


# --- Student-t mixtures.  studenttmixture mixes two M-steps, and is elsewhere than we after as many iterations; whole
# fits end together.  pomegranate's class of that name is another model: a product over features, fitted as if normal.


def student_cases() -> list[Case]:
    """Multivariate Student-t mixtures whose degrees of freedom are estimated."""
    return [_student_case(n, d, k) for n, d, k in ((100_000, 2, 4), (100_000, 8, 4), (20_000, 32, 5))]


def _student_case(n: int, d: int, k: int) -> Case:
    drawn: dict[str, np.ndarray] = {}

    def fits(dtype: str, shrink: float) -> Fits:
        import fastem
        from fastem.draws import Draws
        from fastem.families.student import StudentFamily

        family = StudentFamily(k)
        params = family.example_params(d, Draws(0))
        rows = family.sample(params, max(int(n / shrink), 10 * d * k), Draws(1))[0]
        X = drawn["X"] = np.random.default_rng(1).permutation(rows).astype(dtype)
        start = (np.full(k, 1.0 / k), params.means + 0.3, np.repeat(3.0 * np.eye(d)[None], k, axis=0), np.full(k, 10.0))
        given = dict(zip(("weights_init", "means_init", "scales_init", "dofs_init"), start, strict=True))

        def ours(max_iter: int) -> Outcome:
            tol = 1e-8 if max_iter > 100 else 0.0
            outcome = fitted(fastem.StudentTMixture(k, max_iter=max_iter, tol=tol, **given), X)
            m = outcome.result
            return outcome._replace(result=(m.weights_, m.means_, m.scales_, m.dofs_))

        candidates: Fits = {"fastem": ours}
        if has("studenttmixture"):
            candidates["studenttmixture"] = lambda m: _studenttmixture(X, start, m)
        return candidates

    def objective(outcome: Outcome) -> float:
        import fastem

        names = ("weights_init", "means_init", "scales_init", "dofs_init")
        given = dict(zip(names, outcome.result, strict=True))
        model = fitted(fastem.StudentTMixture(k, max_iter=0, **given), drawn["X"]).result
        return float(model.lower_bound_)

    return Case(f"student {n} x {d}, k={k}", fits, objective, most=500, tolerance=5e-4)


def _studenttmixture(X: np.ndarray, start: tuple[np.ndarray, ...], max_iter: int) -> Outcome:
    from studenttmixture import EMStudentMixture

    weights, means, scales, dofs = start

    class Started(EMStudentMixture):
        def initialize_params(self, X: Any, random_seed: Any, init_type: Any) -> Any:
            turned = np.moveaxis(scales, 0, -1).copy()
            return means.copy(), turned, weights.copy(), np.moveaxis(np.linalg.cholesky(scales), 0, -1).copy()

    tol = 1e-8 if max_iter > 100 else 1e-300  # a run that does not converge gives no parameters
    model = Started(len(weights), fixed_df=False, df=float(dofs[0]), max_iter=max_iter, tol=tol)
    seconds, found = timing.clocked(lambda: model.fitting_restart(np.asarray(X, np.float64), 0))
    _, _, means, scales, weights, dofs, _ = found
    return Outcome(seconds, max_iter, (weights, means, np.moveaxis(scales, -1, 0), dofs))


# --- covariance models, beside mclust


def covariance_cases() -> list[Case]:
    """Return the fourteen models (`asv_bench.peers.mclust`)."""
    from asv_bench.peers import mclust

    return mclust.cases()


CASES = (factor_cases, analyser_cases, discrete_cases, student_cases, covariance_cases)
