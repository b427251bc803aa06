"""A Numba that fastem does not know: one warning, and the same answers."""

import os
import subprocess
import sys
import textwrap

import pytest

from fastem.jit import numba_internals

# As if a later Numba had renamed something: the file that knows Numba's insides cannot be imported.
LATER = """
    import sys
    sys.modules["fastem.jit.numba_internals"] = None
"""
FITS = """
    import warnings
    import numpy as np
    import fastem
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 3)) + 4 * rng.integers(0, 2, (5000, 1))
    B = (X > 1).astype(float)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        models = [
            (fastem.GaussianMixture(2, covariance_type="diag", random_state=0, n_threads=n_threads).fit(X),
             fastem.BernoulliMixture(2, random_state=0, n_threads=n_threads).fit(B))
            for n_threads in (1, 2)
        ]
    print(sum("Numba" in str(warning.message) for warning in caught))
    for diag, bits in models:
        print(diag.lower_bound_.hex(), bits.lower_bound_.hex())
    print(diag.score(X), bits.score(B))
"""


def run(program, **settings):
    env = {**os.environ, "NUMBA_NUM_THREADS": "7", **settings}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    warnings, one, two, scores = done.stdout.splitlines()
    assert one == two  # the same bits for any number of threads
    return int(warnings), [float(score) for score in scores.split()]


# Compiles anew, twice: a minute.
@pytest.mark.deep
def test_the_answers_are_those_of_the_known_numba(tmp_path):
    fits, later = textwrap.dedent(FITS), textwrap.dedent(LATER)
    known = run(fits)
    plain = run(later + fits, NUMBA_CACHE_DIR=str(tmp_path))
    assert (known[0], plain[0]) == (0, 1)
    assert plain[1] == pytest.approx(known[1], rel=1e-12)


def test_the_probe_says_what_is_missing(monkeypatch):
    numba_internals.probe()
    monkeypatch.setitem(numba_internals.KNOWN, dict, ("renamed",))
    with pytest.raises(ImportError, match=r"Numba [\d.]+ has no dict\.renamed"):
        numba_internals.probe()
