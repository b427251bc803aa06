"""Seconds that Numba takes: cold, with nothing on disk, and warm, to load what is kept there."""

import os
import subprocess
import sys
import tempfile

from .profiles import Benchmark, by_profile

FAMILIES = by_profile(["diag"], ["full", "student-full", "bernoulli", "categorical", "factor-mixture"])
PROGRAM = """
import sys, time
import numba, sklearn.base, scipy.linalg
import fastem
start = time.perf_counter()
fastem.warmup([sys.argv[1]])
print(time.perf_counter() - start)
"""


class Warmup(Benchmark):
    """`fastem.warmup` of a family in a fresh process, serial and parallel drivers included."""

    params = (FAMILIES,)
    param_names = ("family",)
    unit = "s"
    timeout = 900

    def setup(self, family):
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self, family):
        self.folder.cleanup()

    def track_cold(self, family):
        return self.seconds(family)

    def track_warm(self, family):
        self.seconds(family)
        return min(self.seconds(family) for _ in range(2))

    def seconds(self, family):
        """Return the seconds of a warmup in a process whose kernels are kept in the folder."""
        environment = {**os.environ, "NUMBA_CACHE_DIR": self.folder.name}
        command = [sys.executable, "-c", PROGRAM, family]
        return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
