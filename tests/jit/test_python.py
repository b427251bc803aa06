"""NUMBA_DISABLE_JIT=1: every kernel runs in Python, where a debugger can follow it, and gives the same."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fastem.families import FAMILIES

# Records, log-densities and responsibilities of every family, of complete rows and of rows with missing values.
PROGRAM = """
import json, sys, warnings
import numpy as np
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from fastem import families
    from fastem.draws import Draws
    from fastem.sources.memory import MemorySource
    import fastem.kernels.cell_pass
said = [str(one.message) for one in told if "NUMBA_DISABLE_JIT" in str(one.message)]
warnings.simplefilter("ignore")
answers = {"said": len(said)}
for name in sys.argv[2:]:
    for d in (2, 5, 40):
        family = families.make(name, 2 if families.mixes(name) else 1)
        params = family.example_params(d, Draws(0))
        X = family.sample(params, 90, Draws(1))[0].astype(sys.argv[1])
        for holes in (False, True) if family.allow_nan else (False,):
            if holes:
                X[Draws(2).uniform(X.size).reshape(X.shape) < 0.1] = np.nan
                X[0, 0] = np.nan
                family = family.for_missing()
            source = MemorySource(X, n_threads=1)
            constants = family.constants(source)
            prepared = family.prepare(params, X.dtype)
            record = source.accumulate(family, prepared)
            found = [np.concatenate([np.ravel(field) for field in record])]
            if family.mixes:
                found += [array.ravel() for array in family.posterior(X, prepared, 1)]
            answers[f"{name} {d} {holes}"] = [array.tolist() for array in found]
print(json.dumps(answers))
"""


def run(dtype, names, disabled):
    env = {**os.environ, "NUMBA_DISABLE_JIT": disabled}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, dtype, *names], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


KERNELS = [name for name in FAMILIES if name != "kmeans" and not name[-3:].isupper()]  # models share those of a shape


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.deep)])
def test_kernels_in_python_give_the_same(dtype):
    python, compiled = (run(dtype, KERNELS, disabled) for disabled in ("1", "0"))
    assert (python.pop("said"), compiled.pop("said")) == (1, 0)
    assert set(python) == set(compiled)
    rtol = 1e-10 if dtype == "float64" else 2e-4
    for name, found in python.items():
        for own, other in zip(found, compiled[name], strict=True):
            scale = max(1.0, np.abs(other).max())
            np.testing.assert_allclose(own, other, rtol=0, atol=rtol * scale, err_msg=name)
