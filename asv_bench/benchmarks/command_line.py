"""The command line, from a file of rows to a file of labels: reading, fitting, writing, and starting Python."""

import os
import subprocess
import sys
import tempfile

import numpy as np

from .data import Shape, mixture_data
from .profiles import Benchmark, by_profile

ROWS = by_profile([50_000], [500_000], [20_000_000])


class FileToLabels(Benchmark):
    """``fastem fit rows --output labels`` of 8 columns and 5 clusters, in a process of its own."""

    params = (by_profile(["csv", "parquet"], ["npy"]), by_profile(["kmeans"], ["gmm"]), ROWS)
    param_names = ("format", "model", "n")
    in_process = False
    number, repeat = 1, 2

    def setup(self, form, model, n):
        self.folder = tempfile.TemporaryDirectory()
        X = mixture_data(Shape(n, 8, 5, "full").shrunk())[0]
        rows = os.path.join(self.folder.name, f"rows.{form}")
        if form == "npy":
            np.save(rows, X)
        else:
            import pyarrow as pa
            import pyarrow.csv
            import pyarrow.parquet

            table = pa.table({f"x{j}": X[:, j] for j in range(X.shape[1])})
            (pa.csv.write_csv if form == "csv" else pa.parquet.write_table)(table, rows)
        labels = os.path.join(self.folder.name, f"labels.{form}")
        command = ["fit", rows, "-k", "5", "--model", model, "--n-init", "1", "--max-iter", "10", "--output", labels]
        self.command = [sys.executable, "-c", "import sys; from fastem.cli import main; sys.exit(main())", *command]
        self.time_fit(form, model, n)  # compiles, and reads the file once

    def teardown(self, form, model, n):
        self.folder.cleanup()

    def time_fit(self, form, model, n):
        subprocess.run(self.command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
