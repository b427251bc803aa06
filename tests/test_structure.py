"""Who may import whom: the rules of CONTRIBUTING.md, read off the sources and seen in fresh processes."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastem
from fastem.families import FAMILIES

PACKAGE = Path(fastem.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)

# The order of the rooms, from the bottom up: a module imports from its own room and from lower floors, inside functions
# as well.  A module beside __init__.py is a room of its own.  What a floor's rooms share lies below it.
FLOORS = (
    {"_native", "threads", "grid", "draws", "files", "pool", "records", "registry", "values", "validate"},
    {"jit"},
    {"kernels"},
    {"families"},
    {"sources"},
    {"engine", "starts", "backend"},
    {"estimators", "build", "warming"},
    {"analysis", "persist"},
    {"many"},
    {"cli", "plot"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ENGINE = FLOOR_OF["engine"]
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
    if not room(module):
        pytest.skip("the package itself, which gives its public names")
    for imported in imports(SOURCES[module]):
        if imported.startswith("fastem.") and room(imported) in FLOOR_OF and room(imported) != room(module):
            assert FLOOR_OF[room(imported)] < FLOOR_OF[room(module)] or sisters(module, imported), (
                f"{module} imports {imported}"
            )


def sisters(module, imported):
    """Rooms of the lowest floor know each other, starts the engine, which is handed them as functions, and the command
    line plots."""
    rooms = {room(module), room(imported)}
    return rooms <= FLOORS[0] or (room(module), room(imported)) in {("starts", "engine"), ("cli", "plot")}


def test_every_module_has_a_floor():
    assert {room(module) for module in SOURCES} - {""} == set(FLOOR_OF)


def test_no_circles():
    """No module imports itself by way of others, inside functions as well; a package stands for what it gives."""
    graph = {
        module: {name for name in imports(tree) if name in SOURCES and name != module and not module.startswith(name)}
        for module, tree in SOURCES.items()
    }
    assert [" > ".join(circle) for circle in circles(graph)] == []


def circles(graph):
    """Yield circles of a directed graph, each as the path that closes it."""
    done, path = set(), []

    def visit(node):
        if node in path:
            yield [*path[path.index(node) :], node]
        elif node not in done:
            path.append(node)
            for following in sorted(graph[node]):
                yield from visit(following)
            path.pop()
            done.add(node)

    for node in sorted(graph):
        yield from visit(node)


@by_module
def test_the_engine_knows_no_scikit_learn(module):
    if not room(module) or FLOOR_OF[room(module)] > ENGINE or room(module) == "validate":
        pytest.skip("may know scikit-learn")  # the door imports it inside functions
    for imported in imports(SOURCES[module]):
        assert imported.split(".")[0] != "sklearn", f"{module} imports {imported}"


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
    # Numba is loaded when a Numba kernel is first needed: by jit/, or by a module of kernels; what the command line is
    # written with, by the modules that cli/entry.py loads once it knows that all of it is there.
    allowed = {
        "jit": {"numba"},
        "kernels": {"numba"},
        "families": {"numba"},
        "cli": {"typer"},
    }.get(room(module), set())
    for imported in imports(SOURCES[module], only_at_load=True):
        top = imported.split(".")[0]
        assert top not in OPTIONAL - allowed, f"{module} imports {imported}"


# What Numba documents for those who extend it, and LLVM's helpers that its own documentation uses there.
DOCUMENTED = {"numba.extending", "numba.core", "numba.core.types", "numba.core.cgutils"}


@by_module
def test_numba_s_insides_are_known_in_one_place(module):
    if module == "fastem.jit.numba_internals":
        pytest.skip("that place")
    for imported in imports(SOURCES[module]):
        if imported.startswith("numba.") and imported.count(".") > 1:
            home = imported.rpartition(".")[0]
            assert {imported, home} & DOCUMENTED - {"numba.core"}, f"{module} imports {imported}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "engine").glob("*.py")), ids=lambda path: path.stem)
def test_the_engine_names_no_family(path):
    source = path.read_text().lower()
    for name in ("kmeansfamily", "gaussianfamily", "bernoulli", "poisson", "sklearn"):
        assert name not in source
    families = {name for name in imports(SOURCES[module_of(path)]) if name.startswith("fastem.families")}
    assert all(name.startswith("fastem.families.base") for name in families)


def test_files_stay_readable():
    root = PACKAGE.parent
    folders = [PACKAGE, *(root / name for name in ("src", "tests", "asv_bench", "examples") if (root / name).is_dir())]
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix in {".py", ".pyx", ".pxi", ".h"} and "env" not in path.parts and "build" not in path.parts:
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
    base = PACKAGE / "families" / "base.py"  # whose own methods ask for a family's kernels
    outside = [path for path in FILES if "families" not in path.parts or path == base]
    asked = {node.attr for path in outside for node in ast.walk(ast.parse(path.read_text())) if is_read(node)}
    assert methods - asked == set()


# Called by Python, scikit-learn, Numba or rich, or demanded by them.
HOOKS = {
    *("__getattr__", "__dir__", "kwargs", "writeable"),
    *("_n_features_out", "preserves_dtype", "sparse", "_n_threads", "_batch_size", "_random_state"),
    *("cache_path", "enable", "disable", "load_overload", "save_overload", "_finalized", "_cache", "typingcontext"),
    *("caption", "tree", "default_fragment_scan_options"),
    "bernoulli",  # a member of `ModelName`, which typer reads
}
FACTS = {"hides_more", "continuous"}  # of a family, for whoever checks it: the contract tests
PUBLIC_RECORDS = {"Candidate", "Criterion"}  # what `fastem.select` and its command return and take


def test_nothing_is_defined_and_never_used():
    """Tests do not count: what only they use is dead, and they keep it green."""
    vulture = importlib.import_module("vulture")
    found = vulture.Vulture(ignore_decorators=["@app.command*", "@app.callback*", "@overload*"])
    root = PACKAGE.parent
    users = ("examples", "asv_bench/benchmarks", "asv_bench/gate", "asv_bench/peers")
    found.scavenge([str(PACKAGE), *(str(root / name) for name in users if (root / name).is_dir())])
    fields = {
        name.id
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name in PUBLIC_RECORDS
        for statement in node.body
        for name in ast.walk(statement)
        if isinstance(name, ast.Name)
    }
    unused = [
        f"{item.filename.relative_to(root)}:{item.first_lineno} {item.name}"
        for item in found.get_unused_code()
        if item.filename.is_relative_to(PACKAGE)
        and item.name not in HOOKS | FACTS | fields
        and not (is_public(item) and {"estimators", "analysis", "many"} & set(item.filename.parts))
    ]
    assert unused == []


def is_public(item):
    """Methods and fitted attributes of the estimators are for their users."""
    return item.name[0] != "_" and (item.typ in {"method", "property"} or item.name.endswith("_"))


def is_read(node):
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
