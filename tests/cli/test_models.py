"""Every model on the command line: fitted, saved, used on new rows, chosen; what does not go together is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

pytest.importorskip("typer")
pytest.importorskip("pyarrow")

import fastem
from fastem import families
from fastem.cli import models
from fastem.cli.models import KINDS, ModelName, covariances
from fastem.cli.tables import open_table, read_table
from fastem.draws import Draws
from fastem.grid import CELL
from fastem.registry import BY_SHORT_NAME

FAITHFUL = Path(__file__).parents[2] / "examples" / "faithful.csv"
FAMILY = {"gmm": "gaussian-full", "student": "student-full", "mfa": "factor-mixture", "kmeans": "gaussian-full"}
by_model = pytest.mark.parametrize("name", [name.value for name in ModelName])
WORDS = {
    "kmeans": ("k-means, 2 clusters", "inertia"),
    "gmm": ("Gaussian mixture, 2 components, full covariance", "weight"),
    "student": ("Student-t mixture, 2 components, full covariance", "dof"),
    "bernoulli": ("Bernoulli mixture, 2 components", "weight"),
    "poisson": ("Poisson mixture, 2 components", "weight"),
    "categorical": ("categorical mixture, 2 components", "weight"),
    "factor": ("factor analysis, 2 factors", "noise variance"),
    "mfa": ("mixture of factor analysers, 2 components, 1 factor each", "weight"),
}


def rows_for(name, n=300, d=4):
    """Rows that a model may be fitted to, drawn from two components."""
    family = families.make(FAMILY.get(name, name), 2 if name != "factor" else 1)
    return family.sample(family.example_params(d, Draws(0)), n, Draws(1))[0]


@by_model
def test_a_model_is_fitted_saved_and_used_on_new_rows(run, name):
    X = rows_for(name)
    np.save("t.npy", X)
    code, out, err = run("fit", "t.npy", "--model", name, "-k", 2, "--save", "m.npz", "--output", "fit.parquet")
    assert (code, err) == (0, "")
    for words in ("300 rows", *WORDS[name]):
        assert words in out
    assert max(map(len, out.splitlines())) <= 100
    model = fastem.load("m.npz")
    assert type(model).__name__ == BY_SHORT_NAME[name]
    columns = read_table(open_table("fit.parquet"))
    if name == "factor":
        assert columns.columns == ["factor_0", "factor_1"]
        np.testing.assert_allclose(columns.X, model.transform(X))
    else:
        np.testing.assert_array_equal(columns.X[:, 0], model.predict(X))
    assert run("predict", "m.npz", "t.npy", "--output", "new.parquet", "-q") == (0, "", "")
    np.testing.assert_array_equal(read_table(open_table("new.parquet")).X, columns.X)
    code, out, _ = run("predict", "m.npz", "t.npy")
    assert code == 0
    assert ("factors" if name == "factor" else "cluster") in out
    if name != "kmeans":
        code, out, _ = run("score", "m.npz", "t.npy", "--contamination", 0.1, "--json")
        assert (code, json.loads(out)["anomalies"]) == (
            0,
            int(np.sum(model.score_samples(X) < np.quantile(model.score_samples(X), 0.1))),
        )


@by_model
def test_the_summary_holds_the_library_s_numbers(run, name):
    X = rows_for(name)
    np.save("t.npy", X)
    code, out, _ = run("fit", "t.npy", "--model", name, "-k", 2, "--n-init", 2, "--seed", 3, "--json")
    assert code == 0
    summary = json.loads(out)
    model = models.estimator(ModelName(name), 2, n_init=2, random_state=3)
    models.run_to_the_end(model, len(X), None, None)
    model.fit(X)
    assert summary["model"] == name
    if name == "factor":
        np.testing.assert_allclose(summary["loadings"], model.components_)
        np.testing.assert_allclose(summary["noise_variances"], model.noise_variance_)
        assert "sizes" not in summary
    else:
        assert summary["sizes"] == np.bincount(model.predict(X), minlength=2).tolist()
        assert np.shape(summary["centers"]) == (2, 4)
    if name == "kmeans":
        assert summary["inertia"] == model.inertia_
    else:
        assert summary["log_likelihood"] == pytest.approx(model.score(X) * len(X), rel=1e-12)
    if name == "categorical":
        np.testing.assert_array_equal(np.hstack(summary["probabilities"]), model.probabilities_)
        assert summary["centers"][1][2] == np.argmax(model.feature_probabilities_[2][1])


@pytest.mark.parametrize("name", ["factor", "mfa", "student"])
def test_scaling_is_undone_in_what_is_shown(run, name):
    X = rows_for(name) * [1.0, 100.0, 0.01, 5.0] + 7.0
    np.save("t.npy", X)
    code, out, _ = run("fit", "t.npy", "--model", name, "-k", 1, "--tol", 1e-9, "--scale", "--save", "m.npz", "--json")
    assert code == 0
    summary = json.loads(out)
    if name == "factor":
        slopes = np.array(summary["loadings"])
        covariance = slopes.T @ slopes + np.diag(summary["noise_variances"])
        density = multivariate_normal(X.mean(axis=0), covariance).logpdf(X)
        assert summary["log_likelihood"] == pytest.approx(density.sum(), rel=1e-9)
    else:
        np.testing.assert_allclose((summary["centers"][0] - X.mean(axis=0)) / X.std(axis=0), 0, atol=0.3)
    assert run("score", "m.npz", "t.npy", "--epsilon", 1e-3, "--output", "s.npy", "-q")[0] == 0
    assert np.load("s.npy")["log_density"].sum() == pytest.approx(summary["log_likelihood"])


@by_model
def test_the_number_of_components_is_chosen(run, name):
    np.save("t.npy", rows_for(name, 200))
    code, out, err = run(
        "select", "t.npy", "--model", name, "-k", "1-3", "--n-init", 1, "--save", "m.npz", "--output", "labels.csv",
        "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    summary = json.loads(out)
    kinds = max(1, len([kind for kind in covariances(ModelName(name)) if kind.islower()]))
    assert [row["n_components"] for row in summary["candidates"]] == np.repeat([1, 2, 3], kinds).tolist()
    model = fastem.load("m.npz")
    assert models.n_components(model) == summary["best"]["n_components"]
    assert len(Path("labels.csv").read_text().splitlines()) == 201
    code, out, _ = run("select", "t.npy", "--model", name, "-k", "1,2", "--n-init", 1)
    assert code == 0
    assert KINDS[ModelName(name)].title in out
    assert ("ICL" in out) == (name != "factor")


def test_by_default_no_more_factors_than_columns_are_tried(run):
    np.save("t.npy", rows_for("factor"))
    code, out, _ = run("select", "t.npy", "--model", "factor", "--json")
    assert code == 0
    assert [row["n_components"] for row in json.loads(out)["candidates"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("fit {faithful} -k 2 --model bernoulli", "A Bernoulli mixture takes zeros and ones: 3.6 at row 0"),
        ("fit {faithful} -k 2 --model categorical", "codes"),
        ("fit negative.csv -k 1 --model poisson", "Negative values in data"),
        ("fit {faithful} -k 3 --model factor", "-k 3 asks for more factors than"),
        ("fit {faithful} -k 2 --model mfa --factors 3", "n_factors must be at most the number of features 2"),
        ("fit {faithful} -k 2 --model factor --factors 1", "of factor analysis -k is the number of factors"),
        ("fit {faithful} -k 2 --model gmm --factors 1", "--factors goes with --model mfa"),
        ("fit {faithful} -k 2 --model student --covariance tied", "must be among full, diag, spherical, got tied"),
        (
            "fit {faithful} -k 2 --model poisson --scale",
            "--scale is for measurements, and a Poisson mixture takes none",
        ),
        ("fit {faithful} -k 2 --model poisson --covariance full", "--covariance goes with --model gmm or student"),
        ("fit {faithful} -k 2 --model poisson --plot p.png", "--plot draws kmeans and gmm, not poisson"),
        ("fit {faithful} -k 2 --model warp", "--model"),
        ("select {faithful} --model bernoulli", "A Bernoulli mixture takes zeros and ones: 3.6 at row 0"),
        ("select {faithful} --model student --covariance tied", "must be among full, diag, spherical, got tied"),
        ("select {faithful} --model factor -k 1-4", "asks for more factors than there are features (2)"),
        ("select {faithful} --model factor --criterion silhouette", "FactorAnalysis has none"),
        ("select {faithful} --model factor --criterion icl", "FactorAnalysis has none"),
        ("select {faithful} --model poisson --scale", "--scale is for measurements"),
        ("predict factor.npz {faithful} --proba", "--proba needs a mixture, and factor.npz holds factor analysis"),
        ("predict codes.npz other.csv", "not this code: 7.0 at row 0, column 1"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(run, options, sentence):
    Path("negative.csv").write_text("a\n1\n-1\n")
    Path("other.csv").write_text("a,b\n0,7\n")
    rows = read_table(open_table(FAITHFUL)).X
    fastem.save(fastem.FactorAnalysis(1).fit(rows), "factor.npz")
    fastem.save(fastem.CategoricalMixture(1).fit([[0, 1], [1, 0]]), "codes.npz")
    before = sorted(os.listdir())
    code, out, err = run(*options.replace("{faithful}", str(FAITHFUL)).split())
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("fastem: ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("name", [name.value for name in ModelName if name is not ModelName.kmeans])
def test_incremental_em_is_the_library_s(run, name):
    X = rows_for(name, 3 * CELL)
    np.save("t.npy", X)
    fit = ("fit", "t.npy", "--model", name, "-k", 2, "--n-init", 1, "--max-iter", 3, "--seed", 3)
    assert run(*fit, "--blocks", 3, "--save", "m.npz", "-q")[0] == 0
    found = fastem.load("m.npz")
    assert (found.algorithm, found.n_blocks, found.accelerate) == ("incremental", 3, None)
    want = models.estimator(ModelName(name), 2, blocks=3, n_init=1, random_state=3, max_iter=3)
    models.run_to_the_end(want, len(X), None, 3)
    assert found.score(X) == want.fit(X).score(X)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--model kmeans", "--blocks is for models with a likelihood, and k-means has none."),
        ("--model gmm --checkpoint c.npz", "--checkpoint does not go with --blocks: "),
        ("--model gmm --by x0", "--blocks is for one model, and --by makes many."),
    ],
)
def test_what_does_not_go_with_blocks(run, options, sentence):
    np.save("t.npy", rows_for("gmm"))
    code, out, err = run("fit", "t.npy", "-k", 2, "--blocks", 4, *options.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert os.listdir() == ["t.npy"]


@by_model
def test_what_warm_up_compiles_is_what_a_fit_needs(name, tmp_path):
    np.save(tmp_path / "t.npy", rows_for(name))
    program = f"""
import sys
import numpy as np
from fastem.cli import models
name, X = models.ModelName({name!r}), np.load("t.npy")
model = models.estimator(name, 2, n_init=1, random_state=0)
models.warmup(name, [getattr(model, "covariance_type", "")], X)
late = []
if "numba" in sys.modules:
    from fastem.jit.numba_internals import DiskCache
    load = DiskCache.load_overload
    DiskCache.load_overload = lambda self, *rest: late.append(self._dispatcher.__name__) or load(self, *rest)
model.fit(X)
models.assigned(model, X)
print(late)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_warm_up_takes_families_and_covariance_types():
    fastem.warmup("bernoulli")
    fastem.warmup(["spherical", "factor"], [np.float32])
    with pytest.raises(ValueError, match=r"family must be one of kmeans, gaussian-full, .*, got 'warp'"):
        fastem.warmup("warp")


@by_model
def test_missing_values_are_let_through_where_the_model_takes_them(run, name):
    X = rows_for(name)
    X[::4, 1] = np.nan
    X[1, 3] = np.nan
    np.savetxt("t.csv", X, delimiter=",", header="a,b,c,d", comments="")
    fit = ("fit", "t.csv", "--model", name, "-k", 2, "--max-iter", 20, "--save", "m.npz", "-q")
    code, _, err = run(*fit)
    if name == "kmeans":
        assert (code, err) == (2, 'fastem: t.csv has a missing value (NaN) in column "b", data row 1.\n')
        return
    assert (code, err) == (0, "")
    assert run("predict", "m.npz", "t.csv", "--output", "p.parquet", "-q")[0] == 0
    code, out, err = run("score", "m.npz", "t.csv", "--contamination", 0.5, "--output", "s.npy", "--json")
    assert code == 0, err
    density = np.load("s.npy")["log_density"]
    np.testing.assert_allclose(density, fastem.load("m.npz").score_samples(X), rtol=1e-9)
    summary = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    shown = next((item for item in summary["least_probable"] if item["row"] in (2, *range(1, 301, 4))), None)
    assert shown is None or None in shown["values"]
    assert run("score", "m.npz", "t.csv", "--contamination", 0.5)[0] == 0
    X[5, 0] = np.inf
    np.savetxt("t.csv", X, delimiter=",", header="a,b,c,d", comments="")
    assert "an infinite value in column" in run(*fit)[2]


def test_missing_values_and_scaled_columns(run):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)) * [1e3, 1e-3] + np.repeat([[0, 0], [1e4, 1e-2]], 200, axis=0)
    X[::3, 0] = np.nan
    np.savetxt("t.csv", X, delimiter=",", header="a,b", comments="")
    assert run("fit", "t.csv", "--model", "gmm", "-k", 2, "--tol", 1e-9, "--save", "m.npz", "-q", "--scale")[0] == 0
    assert run("score", "m.npz", "t.csv", "--contamination", 0.1, "--output", "s.npy", "-q")[0] == 0
    code, out, err = run("select", "t.csv", "--model", "gmm", "-k", "1-3", "--scale", "--json")
    assert (code, json.loads(out)["best"]["n_components"]) == (0, 2), err
    assert "missing value (NaN)" in run("select", "t.csv", "--model", "gmm", "--criterion", "silhouette")[2]
    saved = models.load(Path("m.npz"), None)
    np.testing.assert_allclose(saved.scaling.shift, np.nanmean(X, axis=0))
    np.testing.assert_allclose(saved.scaling.scale, np.nanstd(X, axis=0))
    plain = fastem.GaussianMixture(2, random_state=0, reg_covar=0, tol=1e-9).fit(X).score_samples(X)
    np.testing.assert_allclose(np.load("s.npy")["log_density"], plain, atol=1e-3)


@by_model
def test_fit_goes_on_until_little_is_left_unless_asked_otherwise(run, name):
    X = rows_for(name)
    np.save("t.npy", X)
    for options in ([], ["--tol", 1e-3], ["--max-iter", 3], ["--tol", 1e-3, "--max-iter", 7]):
        assert run("fit", "t.npy", "--model", name, "-k", 2, "--save", "m.npz", "-q", *options)[0] == 0
        model = fastem.load("m.npz")
        asked = dict(zip(options[::2], options[1::2], strict=True))
        if hasattr(model, "convergence"):
            assert model.convergence == ("change" if "--tol" in asked else "remaining")
            left = 0.005 if name == "factor" else 0.005 / len(X)
            assert (model.tol, model.max_iter) == (asked.get("--tol", left), asked.get("--max-iter", 10_000))
        else:
            assert (model.tol, model.max_iter) == (asked.get("--tol", 1e-4), asked.get("--max-iter", 300))
