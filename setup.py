"""Builds the compiled modules; everything else is said in pyproject.toml."""

import sys
from glob import glob

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []  # Apple's clang ships without it


def extension(name: str, source: str, options: list[str]) -> Extension:
    """Return a compiled module of `fastem._native`, with the headers and parts of its room."""
    return Extension(
        f"fastem._native.{name}",
        [source],
        include_dirs=["src", np.get_include()],
        depends=[*glob("src/*/*.h"), *glob("src/*/*.pxi")],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=["/O2"] if sys.platform == "win32" else ["-O3", *options, *OPENMP],
        extra_link_args=OPENMP,
    )


modules = [
    extension("nearest", "src/kmeans/nearest.pyx", []),
    # Its numbers are NumPy's, which fuses no product with a sum.
    extension("mixtures", "src/mixtures/mixtures.pyx", ["-ffp-contract=off"]),
]

setup(ext_modules=cythonize(modules, build_dir="build", language_level=3))
