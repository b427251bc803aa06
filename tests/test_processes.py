"""Whole fits in forked children, grandchildren and many threads at once, under both of Numba's threading layers."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, os, sys, threading
import numpy as np
import fastem
from fastem import backend, threads

rng = np.random.default_rng(0)
X = rng.normal(size=(9000, 3)) + 5 * rng.integers(0, 3, 9000)[:, None]


def fits(n_threads=None):
    kmeans = fastem.KMeans(3, init=X[:3], n_threads=n_threads).fit(X)
    mixture = fastem.GaussianMixture(3, tol=1e-3, random_state=0, n_threads=n_threads).fit(X)
    labels, _ = backend.assign(X, X[:5], n_threads=n_threads)
    arrays = kmeans.cluster_centers_, mixture.covariances_, labels, mixture.predict(X)
    return b"".join(array.tobytes() for array in arrays)


EXPECTED = fits()  # parallel kernels have run before any fork


def check(where, n_threads=None):
    if fits(n_threads) != EXPECTED:
        print("wrong answer in", where, flush=True)
        os._exit(3)


def in_fork(where, then=None):
    child = os.fork()
    if child == 0:
        check(where)
        check(where + " with two threads", 2)
        if then is not None:
            then()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        print("exit status", status, "in", where, flush=True)
        os._exit(4)


in_fork("child", lambda: in_fork("grandchild"))
check("parent after forks")
together = [threading.Thread(target=check, args=(f"thread {i}",)) for i in range(8)]
for thread in together:
    thread.start()
for thread in together:
    thread.join()
with multiprocessing.get_context("fork").Pool(2) as pool:
    if set(pool.map(fits, [None, 2, 1, None])) != {EXPECTED}:
        sys.exit("wrong answer in a pool")
print("all right", threads.info(start=False)["numba_layer"])
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_forks_and_threads_get_the_right_answer(layer, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("all right")
