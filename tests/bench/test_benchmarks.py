"""The asv suite and the comparison with peers run: each benchmark once, on few rows, so that none rots."""

import ast
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "asv_bench" / "benchmarks"
PREFIXES = ("time_", "peakmem_", "track_", "mem_")

if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def importable():
    """asv_bench is a folder of the checkout, not of the installed package."""
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


def benchmark_classes():
    for path in sorted(BENCHMARKS.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(item, ast.FunctionDef) and item.name.startswith(PREFIXES) for item in node.body
            ):
                yield path.stem, node.name


# asv runs each once in .ci/run, on more rows.
@pytest.mark.deep
@pytest.mark.parametrize(("module", "name"), list(benchmark_classes()))
def test_each_benchmark_runs(module, name, monkeypatch):
    monkeypatch.setenv("FASTEM_BENCH_SHRINK", "500")
    suite = getattr(importlib.import_module(f"asv_bench.benchmarks.{module}"), name)
    methods = [key for key, _ in inspect.getmembers(suite, inspect.isfunction) if key.startswith(PREFIXES)]
    for combination in product(*getattr(suite, "params", ())):
        instance = suite()
        if hasattr(suite, "setup"):
            instance.setup(*combination)
        for method in methods:
            value = getattr(instance, method)(*combination)
            if method.startswith("track_"):
                assert np.isfinite(value)
        if hasattr(suite, "teardown"):
            instance.teardown(*combination)


# Compiled passes that no public method reaches: these families complete no rows.
UNREACHED = {("tied", "conditional_mean"), ("student", "conditional_mean")}


def test_every_kernel_has_a_benchmark():
    # Few enough rows to be quick, and more than the one grid cell for which other kernels serve.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FASTEM_BENCH_SHRINK": "3"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kernels_measured.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made, ran = (set(map(tuple, part)) for part in json.loads(done.stdout))
    of_all = {"build_info", "force_isa"}  # no kernels
    missing = {key for key in made - ran if (key[0], key[2]) not in UNREACHED and key[2] not in of_all}
    assert not missing, f"no benchmark of asv_bench/benchmarks runs the kernels {sorted(missing)}"
    assert len(ran) > 35
    assert {(module, name) for module, _, name in made - ran} >= UNREACHED, "UNREACHED is out of date"


def test_every_public_function_has_a_benchmark():
    import fastem

    program = "".join(path.read_text() for path in BENCHMARKS.glob("*.py"))
    used = {
        ast.unparse(node).removeprefix("fastem.").removeprefix("backend.")
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Attribute)
    }
    used |= {value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant) for value in [node.value]}
    no_calls = {"__version__", "IterationInfo", "MonotonicityError", "backend", "families", "plot"}
    public = {*fastem.__all__, *fastem.backend.__all__} - no_calls - {"EMStep", "KMeansStep"}
    assert not public - used, f"no benchmark of asv_bench/benchmarks calls {sorted(public - used)}"


def test_only_the_public_interface_is_measured():
    # The rooms behind it may move between two commits that are compared.
    for path in BENCHMARKS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("fastem.")], path


def test_every_kind_of_benchmark_is_there():
    names = [
        item.name
        for path in BENCHMARKS.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    ]
    for prefix in ("time_", "peakmem_", "track_"):
        assert any(name.startswith(prefix) for name in names)


def test_importing_the_suite_loads_no_thread_code():
    # asv forks its children from a process that imported the suite; see asv_bench/benchmarks/__init__.py.
    modules = [f"asv_bench.benchmarks.{path.stem}" for path in BENCHMARKS.glob("[a-z]*.py")]
    program = (
        f"import {', '.join(modules)}, sys; print([m for m in ('fastem.threads', 'fastem.jit') if m in sys.modules], "
        "getattr(sys.modules.get('numba.np.ufunc.parallel'), '_is_initialized', False))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_asv_configuration():
    lines = (ROOT / "asv_bench" / "asv.conf.json").read_text().splitlines()
    conf = json.loads("\n".join(line for line in lines if not line.lstrip().startswith("//")))
    assert (ROOT / "asv_bench" / conf["benchmark_dir"]).samefile(BENCHMARKS)
    assert "--no-build-isolation" in conf["build_command"][0]
    # What the build is not isolated from has to be there.
    assert {"cython", "setuptools", "numpy"} <= set(conf["matrix"]["req"])


def test_data_sets_do_not_depend_on_the_dtype():
    from asv_bench.benchmarks.data import Shape, kmeans_data, mixture_data

    for make, shape in ((kmeans_data, Shape(40_000, 3, 4)), (mixture_data, Shape(40_000, 3, 4, "full"))):
        X, X32 = make(shape, "float64")[0], make(shape, "float32")[0]
        assert X.shape == (40_000, 3)
        np.testing.assert_array_equal(X32, X.astype("float32"))
    start = mixture_data(shape)[1]
    np.testing.assert_allclose(start.covariance, np.cov(X.T, bias=True), rtol=1e-10)
    for kind in ("full", "tied"):
        factors = start.precisions_cholesky(kind)
        np.testing.assert_allclose(factors @ np.swapaxes(factors, -1, -2), start.precisions(kind), rtol=1e-10)


def test_neutral_objectives_agree_with_scikit_learn():
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    from asv_bench.peers import check, gmm

    X = np.random.default_rng(0).standard_normal((300, 3))
    model = KMeans(4, n_init=1, random_state=0).fit(X)
    assert check.inertia(X, model.cluster_centers_) == pytest.approx(model.inertia_)
    for kind in ("full", "tied", "diag", "spherical"):
        model = GaussianMixture(2, covariance_type=kind, random_state=0).fit(X)
        outcome = gmm.Outcome(0.0, 1, model)
        assert check.log_likelihood(X, *gmm.parameters(outcome, kind)) == pytest.approx(model.score(X), abs=1e-10)


def test_a_singular_covariance_has_no_likelihood_and_is_told():
    from asv_bench.peers import check, report

    X, singular = np.eye(3), np.zeros((1, 3, 3))
    assert np.isnan(check.log_likelihood(X, np.ones(1), np.zeros((1, 3)), singular))
    assert report.agreement({"fastem": -1.0, "oneDAL": np.nan, "other": -1.0}, "fastem", 0.1) == "oneDAL singular"
    assert report.agreement({"fastem": -1.0, "other": -1.0}, "fastem", 0.1) == "equal"


@pytest.mark.parametrize(
    ("model", "shape", "n_tables"),
    [
        pytest.param("kmeans", "x 2, k=8", 4, marks=pytest.mark.deep),
        pytest.param("gmm", "x 2, k=8", 4, marks=pytest.mark.deep),
        ("families", "x 20, q=4", 2),
    ],
)
def test_comparison_with_peers_runs(model, shape, n_tables, tmp_path):
    arguments = [
        "--quick",
        "--shrink",
        "100",
        "--shapes",
        shape,
        "--dtypes",
        "float64",
        "--json",
        str(tmp_path / "tables.json"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "asv_bench.peers", model, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "tables.json").read_text())["tables"]
    assert tables["iteration"][0]["objective"] == "equal"
    assert {"scikit-learn", "peers"} & set(tables["iteration"][0])
    assert len(tables) == n_tables


@pytest.mark.parametrize(
    "sections",
    [["sizes", "threads"], pytest.param(["problems", "sizes", "threads", "quantisation"], marks=pytest.mark.deep)],
    ids=["fastem alone", "beside the peers"],
)
def test_comparison_of_many_problems_runs(sections, tmp_path):
    few = ["--shrink", "200", "--repeats", "1", "--budget", "1", "--dtypes", "float64", "--sections", *sections]
    arguments = [*few, "--json", str(tmp_path / "tables.json")]
    command = [sys.executable, "-m", "asv_bench.peers", "many", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "tables.json").read_text())["tables"]
    assert list(tables) == sections
    if "problems" in tables:
        mixtures = tables["problems"][1:]  # k-means starts elsewhere
        assert {row["objective"] for row in mixtures} == {"equal"}


def test_comparison_of_single_moves_runs():
    from asv_bench.peers import moves
    from asv_bench.peers.__main__ import parse

    # Here and not in a process of its own, which would load every peer first: they take longer than the comparison.
    few = ["--shrink", "24", "--repeats", "1", "--budget", "1", "--shapes", "binary"]
    rows = moves.run(parse(["moves", *few]))["fit"]
    reached = {row["algorithm"]: float(row["J"]) for row in rows}
    assert len(rows) == 5 + (moves.R in reached)
    assert (moves.R in reached) == (shutil.which("Rscript") is not None)
    assert reached['refine="hartigan"'] <= reached["fastem"] <= reached["without moves of tied rows"]


def test_the_history_has_a_dozen_commits_of_one_machine():
    machines = [folder for folder in (ROOT / "asv_bench" / "results").iterdir() if folder.is_dir()]
    assert len(machines) == 1
    results = [json.loads(path.read_text()) for path in machines[0].glob("*-*.json")]
    assert len({result["commit_hash"] for result in results}) >= 12
    machine = json.loads((machines[0] / "machine.json").read_text())
    assert machine["machine"] == machines[0].name
