"""Streams of rows that would fit in memory: what reading them costs beside an array."""

import os
import tempfile

import numpy as np

import fastem

from .data import Shape, mixture_data
from .profiles import Benchmark, quietly

WAYS = ("array", "npy", "iterator", "kept iterator")


class Streams(Benchmark):
    """Fits of the same rows from an array, a memory map, an iterator decoded at every pass, and one kept in a file."""

    params = (list(WAYS),)
    param_names = ("rows",)

    def setup(self, way):
        X, start = mixture_data(Shape(400_000, 8, 8).shrunk(), "float32")
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "rows.npy")
        np.save(self.path, X)
        pieces = np.array_split(X, 7)
        self.rows = {
            "array": lambda: X,
            "npy": lambda: self.path,
            "iterator": lambda: lambda: iter(pieces),
            "kept iterator": lambda: fastem.rows(lambda: iter(pieces), cache="always"),
        }[way]
        self.model = fastem.KMeans(8, init=start.means, n_init=1, max_iter=10, tol=0)
        self.time_kmeans_fit(way)
        self.time_labels_to_file(way)

    def teardown(self, way):
        self.folder.cleanup()

    def time_kmeans_fit(self, way):
        quietly(self.model.fit, self.rows())

    def time_labels_to_file(self, way):
        rows = self.rows()
        stream = rows if way == "kept iterator" else fastem.rows(rows)
        stream.predict_to(f"{self.path}.labels.npy", self.model)
