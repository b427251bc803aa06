"""What a fresh process pays before its first answer: the import, and the first call with kernels on disk."""

import subprocess
import sys

from .profiles import Benchmark

FIRST_CALLS = {
    "import": "import fastem",
    "backend": "import fastem.backend",
    "KMeans.fit": "import fastem, numpy as np; fastem.KMeans(2, n_init=1).fit(np.arange(10.0)[:, None])",
    "GaussianMixture.fit": "import fastem, numpy as np; fastem.GaussianMixture(1).fit(np.arange(10.0)[:, None])",
}


class FreshProcess(Benchmark):
    """Seconds of a process from start to end; an empty one's are those of Python and NumPy."""

    params = (["nothing", *FIRST_CALLS],)
    param_names = ("call",)
    in_process = False
    number, repeat = 1, 3

    def setup(self, call):
        self.command = [sys.executable, "-c", FIRST_CALLS.get(call, "import numpy")]
        self.time_process(call)  # compiles, and reads the files once

    def time_process(self, call):
        subprocess.run(self.command, check=True)


class Modules(Benchmark):
    """Number of modules that an import loads: what import time comes from, without its noise."""

    params = (["fastem", "fastem.backend"],)
    param_names = ("module",)
    unit = "modules"

    def track_modules(self, module):
        program = f"import sys, numpy; n = len(sys.modules); import {module}; print(len(sys.modules) - n)"
        return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
