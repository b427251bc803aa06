"""Builds the compiled modules; everything else is said in pyproject.toml."""

import sys
from glob import glob

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []  # Apple's clang ships without it

native = Extension(
    "fastem._native.nearest",
    ["src/kmeans/nearest.pyx"],
    include_dirs=["src", np.get_include()],
    depends=[*glob("src/*/*.h"), *glob("src/*/*.pxi")],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=["/O2"] if sys.platform == "win32" else ["-O3", *OPENMP],
    extra_link_args=OPENMP,
)

setup(ext_modules=cythonize([native], build_dir="build", language_level=3))
