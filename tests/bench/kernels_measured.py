"""Print which kernels there are, and which of them the benchmarks of kernels run; see test_benchmarks.py."""

import importlib
import inspect
import itertools
import json
import pkgutil

from fastem import families
from fastem._native import nearest
from fastem.jit import drivers


def place():
    frames = [frame for frame in inspect.stack() if "families" in frame.filename]
    home = next((frame for frame in frames if frame.function == "<module>"), frames[-1])
    return inspect.getmodulename(home.filename), home.lineno


made, ran = [], set()
make = drivers._binder


def binder(cell, *args, **options):
    bind, key = make(cell, *args, **options), (*place(), cell.__qualname__.rpartition(".")[2])
    made.append(key)

    def noted(arguments):
        ran.add(key)
        return bind(arguments)

    return noted


drivers._binder = binder
for module in pkgutil.walk_packages(families.__path__, "fastem.families."):
    importlib.import_module(module.name)
for name, function in list(vars(nearest).items()):
    if callable(function) and not name.startswith("_") and not inspect.isclass(function):
        made.append(("nearest", 0, name))

        def noted(*args, _function=function, _key=made[-1], **options):
            ran.add(_key)
            return _function(*args, **options)

        setattr(nearest, name, noted)
for room in ("kernels", "missing", "many"):
    module = importlib.import_module(f"asv_bench.benchmarks.{room}")
    for suite in vars(module).values():
        if inspect.isclass(suite) and suite.__module__ == module.__name__:
            # A kernel is the same function for rows of either type.
            names, params = getattr(suite, "param_names", ()), getattr(suite, "params", ())
            kept = [values[-1:] if name == "dtype" else values for name, values in zip(names, params, strict=True)]
            for values in itertools.product(*kept):
                instance = suite()
                instance.setup(*values)
                for method in dir(suite):
                    if method.startswith("time_"):
                        getattr(instance, method)(*values)
print(json.dumps([made, sorted(ran)]))
