"""Hashes of what fits give, to the bit; see test_bits.py.

    python tests/bits.py N_THREADS [DTYPE ...]   print them as JSON, families of some types
    python tests/bits.py --record                write them to bits.json, for this machine's kind and versions

Everything goes through the public interface, so that the rooms behind it can move.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("bits.json")
THREADS = 7
DTYPES = ("float32", "float64")
N, D, K = 5000, 5, 3  # three cells of the grid, the last a part of one


def platform():
    """Name all that bits depend on beside fastem: instruction sets, compilers, the sources of random numbers."""
    import llvmlite.binding as llvm

    import fastem

    packages = [f"{name} {version(name)}" for name in ("numpy", "scipy", "numba", "scikit-learn")]
    info = fastem.build_info()
    return ", ".join([info["isa"], llvm.get_host_cpu_name(), info["compiler"], *packages])


def of(*arrays):
    """Return a hash of arrays, their shapes and types."""
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        digest.update(f"{array.shape} {array.dtype.str}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def of_model(model, *more):
    """Return a hash of all fitted numbers of a model."""
    fitted = {name: value for name, value in sorted(vars(model).items()) if name.endswith("_") and name[0] != "_"}
    numbers = [value for value in fitted.values() if isinstance(value, np.ndarray | float | int | bool)]
    return of(*numbers, *more)


def rows(name, dtype, missing):
    rng = np.random.default_rng(5)
    y = rng.integers(0, K, N)
    if name == "bernoulli":
        X = (rng.random((N, D)) < rng.uniform(0.1, 0.9, (K, D))[y]).astype(dtype)
    elif name == "poisson":
        X = rng.poisson(rng.uniform(1, 8, (K, D))[y]).astype(dtype)
    elif name == "categorical":
        X = np.maximum(rng.integers(0, 3, (N, D)), rng.integers(0, 2, (K, D))[y]).astype(dtype)
    else:
        X = (rng.standard_normal((N, D)) + rng.uniform(-3, 3, (K, D))[y]).astype(dtype)
    if missing:
        X[rng.random(X.shape) < 0.1] = np.nan
    return X


def families(n_threads, dtypes):
    """Yield name and hash of every family x complete or missing x weights x dtype."""
    import fastem

    shared = {"random_state": 0, "max_iter": 6, "tol": 0, "n_threads": n_threads}
    weights = np.random.default_rng(6).uniform(0.5, 2.0, N)
    models = {
        "kmeans": fastem.KMeans(K, n_init=1, **shared),
        **{
            f"gaussian-{kind}": fastem.GaussianMixture(K, covariance_type=kind, **shared)
            for kind in (*KINDS, *CONSTRAINED)
        },
        **{
            f"student-{kind}": fastem.StudentTMixture(K, covariance_type=kind, **shared)
            for kind in KINDS
            if kind != "tied"
        },
        "bernoulli": fastem.BernoulliMixture(K, binarize=None, **shared),
        "poisson": fastem.PoissonMixture(K, **shared),
        "categorical": fastem.CategoricalMixture(K, n_categories=3, **shared),
        "factor": fastem.FactorAnalysis(2, **shared),
        "factor-mixture": fastem.FactorAnalyserMixture(K, n_factors=2, **shared),
    }
    for name, missing, weighted, dtype in itertools.product(models, (False, True), (False, True), dtypes):
        if name == "kmeans" and missing:
            continue
        X, model = rows(name, dtype, missing), models[name]
        model.fit(X, sample_weight=weights if weighted else None)
        more = [model.score_samples(X)] if hasattr(model, "score_samples") else [model.transform(X)]
        if hasattr(model, "predict_proba"):
            more += [model.predict_proba(X), model.predict(X)]
        words = [name, "missing" if missing else "complete", "weighted" if weighted else "unweighted", dtype]
        yield " ".join(words), of_model(model, *more)


KINDS = ("full", "tied", "diag", "spherical")
CONSTRAINED = ("EII", "EEI", "VEI", "EVI", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV")


def starts(n_threads):
    """Yield starts of mixtures and of k-means, and k-means by every algorithm."""
    import fastem

    X, shared = rows("gaussian", "float64", False), {"random_state": 0, "n_threads": n_threads}
    for init in ("kmeans", "k-means++", "random_from_data", "em-em", "random"):
        model = fastem.GaussianMixture(K, init_params=init, max_iter=1, **shared)
        yield f"start {init}", of_model(model.fit(X))
    for init in ("k-means++", "k-means||", "random"):
        yield f"centres {init}", of_model(fastem.KMeans(20, init=init, n_init=1, max_iter=1, **shared).fit(X))
    for algorithm, k, dtype in itertools.product(("lloyd", "elkan", "auto"), (3, 60), ("float32", "float64")):
        model = fastem.KMeans(k, algorithm=algorithm, n_init=1, max_iter=40, tol=0, **shared)
        yield f"kmeans {algorithm} {k} {dtype}", of_model(model.fit(X.astype(dtype)))
    yield "kmeans one cell", of_model(fastem.KMeans(5, n_init=4, **shared).fit(X[:700]))
    yield "kmeans spherical", of_model(fastem.KMeans(5, spherical=True, n_init=1, **shared).fit(X))
    yield "kmeans swaps", of_model(fastem.KMeans(9, n_swaps=5, n_init=1, **shared).fit(X))
    yield "kmeans restarts", of_model(fastem.KMeans(9, n_init=5, **shared).fit(X))
    yield "mini batch", of_model(fastem.MiniBatchKMeans(9, n_init=2, max_iter=5, **shared).fit(X))
    yield "bisecting", of_model(fastem.BisectingKMeans(9, **shared).fit(X))


def runs(n_threads):
    """Yield what the engine does beside plain EM."""
    import fastem

    X, shared = (
        rows("gaussian", "float64", False),
        {"random_state": 0, "n_threads": n_threads, "max_iter": 12, "tol": 0},
    )
    options = {
        "restarts": {"n_init": 4},
        "restarts that give up": {"n_init": 6, "drop_restarts": True},
        "squarem": {"accelerate": "squarem"},
        "split and merge": {"escape": "split-merge"},
        "hard": {"assignment": "hard"},
        "noise": {"noise": True},
        "remaining": {"convergence": "remaining", "tol": 1e-3},
    }
    for name, changed in options.items():
        yield f"run {name}", of_model(fastem.GaussianMixture(K, **{**shared, **changed}).fit(X))
    holes = rows("gaussian", "float64", True)
    for kind in KINDS:
        model = fastem.GaussianMixture(K, covariance_type=kind, **shared).fit(holes)
        yield f"conditional mean {kind}", of(model.conditional_mean(holes))
    labels = np.where(np.arange(N) % 10 == 0, np.arange(N) // 10 % K, -1)
    yield "run labels", of_model(fastem.GaussianMixture(K, **shared).fit(X, labels=labels))
    yield "sample", of(*fastem.GaussianMixture(K, **shared).fit(X).sample(1000))


def hashes(n_threads, dtypes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(itertools.chain(families(n_threads, dtypes), starts(n_threads), runs(n_threads)))


def in_a_process(n_threads, dtypes=DTYPES):
    """Return the hashes of a process that may use so many threads, whatever the machine has."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    environment |= {"NUMBA_NUM_THREADS": str(THREADS), "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(
        [sys.executable, __file__, str(n_threads), *dtypes], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "--record":
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        known[platform()] = in_a_process(1)
        FILE.write_text(json.dumps(known, indent=1) + "\n")
    else:
        print(json.dumps(hashes(int(sys.argv[1]), sys.argv[2:] or DTYPES)))
