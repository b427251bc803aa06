"""Who may import whom: the rules of CONTRIBUTING.md, read off the sources and seen in fresh processes."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastem
from fastem.families import FAMILIES

PACKAGE = Path(fastem.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)

# Rooms from the bottom up; a module imports, when it is loaded, only from its own room or from lower ones.
FLOORS = (
    {"_native", "jit", "cache", "threads", "stats", "draws", "sharing"},
    {"validate", "values", "families", "result", "monitor", "seeding", "accelerate"},
    {"sources"},
    {"em"},
    {"init", "oversampling", "backend", "bound", "gaussian_bound"},
    {"estimators"},
)
NO_SKLEARN = set().union(*FLOORS) - {"estimators", "validate"}  # the door imports it inside functions
ABOVE = {
    "estimators",
    "selection",
    "search",
    "anomaly",
    "commands_select",
    "commands_models",
    "cli",
    "commands",
    "tables",
    "outputs",
    "report",
    "plot",
}
OPTIONAL = {"matplotlib", "dask", "distributed", "pyarrow", "typer", "rich", "numba"}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module):
    """fastem.families.elliptical.full -> families"""
    return module.split(".")[1] if "." in module else ""


def imports(tree, *, only_at_load=False):
    """Names of imported modules; `from a import b` counts as a and a.b."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if only_at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        waiting.extend(ast.iter_child_nodes(node))


SOURCES = {module_of(path): ast.parse(path.read_text()) for path in FILES}
by_module = pytest.mark.parametrize("module", sorted(SOURCES))


@by_module
def test_rooms_import_downwards(module):
    floors = {name: height for height, names in enumerate(FLOORS) for name in names}
    if room(module) not in floors:
        pytest.skip("a room above the engine")
    for imported in imports(SOURCES[module]):
        if imported.startswith("fastem.") and room(imported) in floors and room(imported) != room(module):
            assert floors[room(imported)] <= floors[room(module)], f"{module} imports {imported}"


@by_module
def test_the_engine_knows_no_estimators_and_no_scikit_learn(module):
    if room(module) not in NO_SKLEARN:
        pytest.skip("may know scikit-learn")
    for imported in imports(SOURCES[module]):
        assert imported.split(".")[0] != "sklearn", f"{module} imports {imported}"
        assert room(imported) not in ABOVE or not imported.startswith("fastem."), f"{module} imports {imported}"


def family_of(module):
    """fastem.families.elliptical.full -> gaussian, of a registered family; shared modules such as math: nothing."""
    families = {home.split(".")[2] for home, _, _ in FAMILIES.values()}
    parts = module.split(".")
    return parts[2] if parts[:2] == ["fastem", "families"] and len(parts) > 2 and parts[2] in families else ""


@by_module
def test_families_know_neither_sources_nor_each_other(module):
    if room(module) != "families":
        pytest.skip("not a family")
    for imported in imports(SOURCES[module]):
        assert not imported.startswith("fastem.sources"), f"{module} imports {imported}"
        assert family_of(imported) in {"", family_of(module)}, f"{module} imports {imported}"


@by_module
def test_optional_packages_are_imported_inside_functions(module):
    # Numba is loaded when a Numba kernel is first needed: by jit.py, or by a module of kernels; what the command line
    # is written with, by the module that cli.py loads once it knows that all of it is there.
    allowed = {
        "jit": {"numba"},
        "cache": {"numba"},
        "compiling": {"numba"},
        "families": {"numba"},
        "commands": {"typer"},
        "commands_select": {"typer"},
    }.get(room(module), set())
    for imported in imports(SOURCES[module], only_at_load=True):
        top = imported.split(".")[0]
        assert top not in OPTIONAL - allowed, f"{module} imports {imported}"


def test_the_engine_names_no_family():
    source = (PACKAGE / "em.py").read_text().lower()
    for name in ("kmeans", "gaussian", "bernoulli", "poisson", "sklearn"):
        assert name not in source


def test_files_stay_readable():
    root = PACKAGE.parent
    folders = [PACKAGE, *(root / name for name in ("src", "tests", "asv_bench", "examples") if (root / name).is_dir())]
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix in {".py", ".pyx", ".h"} and "env" not in path.parts and "build" not in path.parts:
                assert len(path.read_text().splitlines()) < 500, path
    assert not {"utils.py", "helpers.py", "core.py"} & {path.name for path in FILES}


def in_fresh_process(program):
    """Run a program that prints JSON last; return that."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, cwd=PACKAGE.parent
    )
    return json.loads(done.stdout.splitlines()[-1])


HEAVY = ["sklearn", "scipy", "numba", "matplotlib", "dask", "pyarrow", "typer", "rich", "pandas"]


@pytest.mark.parametrize("name", ["fastem", "fastem.backend", "fastem.cli"])
def test_import_loads_nothing_heavy(name):
    loaded = in_fresh_process(f"import json, sys, {name}; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))")
    assert loaded == []


def test_the_backend_never_loads_scikit_learn():
    program = """
import json, sys
import numpy as np
from fastem import backend
X = np.random.default_rng(0).standard_normal((50, 2))
backend.assign(X, X[:3])
backend.kmeans_step(X, X[:3], np.ones(50))
numba_before = "numba" in sys.modules
backend.gaussian_log_density(X, X[:2], np.ones((2, 2)), "diag")
backend.em_step(X, [0.5, 0.5], X[:2], np.ones((2, 2)), "diag")
print(json.dumps([numba_before, "sklearn" in sys.modules, "fastem.estimators" in sys.modules]))
"""
    assert in_fresh_process(program) == [False, False, False]


def test_import_time_of_the_backend():
    # Seconds of the processor beyond NumPy's own import, both inside one process; the best of several: the tests
    # themselves keep all processors busy.
    program = """
import json, time
import numpy
start = time.process_time()
import fastem.backend
print(json.dumps(time.process_time() - start))
"""
    assert min(in_fresh_process(program) for _ in range(5)) < 0.1


def test_every_method_of_the_protocol_has_a_caller():
    """What a family answers and nobody asks is dead, and once was lost with a test that asked itself."""
    tree = ast.parse((PACKAGE / "families" / "base.py").read_text())
    protocol = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Family")
    methods = {node.name for node in protocol.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
    outside = [path for path in FILES if "families" not in path.parts]
    asked = {node.attr for path in outside for node in ast.walk(ast.parse(path.read_text())) if is_read(node)}
    assert methods - asked == set()


def is_read(node):
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
