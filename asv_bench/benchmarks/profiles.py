"""How much the suite measures, and what all benchmarks have in common.

``FASTEM_BENCH_PROFILE`` is `quick` (the default, 2 minutes of measuring on two cores), `full` (11) or
`large` (sizes that users bring; hours).  ``FASTEM_BENCH_SHRINK`` divides the number of rows everywhere: for checks that
only ask whether all this still runs.
"""

import os
import warnings

PROFILES = ("quick", "full", "large")
PROFILE = os.environ.get("FASTEM_BENCH_PROFILE", PROFILES[0])
if PROFILE not in PROFILES:
    raise ValueError(f"FASTEM_BENCH_PROFILE must be one of {', '.join(PROFILES)}, got {PROFILE!r}.")

FEW = 20_000  # rows that warm a kernel: more than one grid cell for every thread


def by_profile(quick, full=None, large=None):
    """Return what the profile measures: a longer one adds its own to what the shorter ones have."""
    extent = [*quick, *(full or ())] if PROFILE != "quick" else list(quick)
    return [*extent, *(large or ())] if PROFILE == "large" else extent


DTYPES = ["float32", "float64"]
# Of what is written once for both types by Numba, the quick profile measures one.
A_DTYPE = by_profile(["float64"], ["float32"])
THREADS = by_profile(["all"], [1])


class Benchmark:
    """What asv is told of every benchmark.

    `version` stands for what is measured: a stored result is comparable as long as it is the same, so raise it in the
    class whose work or data change, and only then.  Benchmarks warm what they call in `setup`, with the dtypes that are
    timed, and a fit has a fixed number of iterations unless its name says otherwise.
    """

    version = "1"
    timeout = 600  # the first process of an environment compiles
    rounds = 1
    repeat = (2, 4, 0.15) if PROFILE == "quick" else (3, 10, 0.5)
    warmup_time = 0.0
    sample_time = 0.01
    one_thread = False  # of all its measurements: the gate then measures two builds at the same time, each on a core
    in_process = True  # what a benchmark times is done by its own process: the gate measures those alone


def quietly(function, *args, **options):
    """Call without the warning that so few iterations do not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def n_threads(which):
    """Return the parameter of a class for the value of a benchmark: `all` is None."""
    return None if which == "all" else which
