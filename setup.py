"""Builds the compiled modules; everything else is said in pyproject.toml."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from typing import Any

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []  # Apple's clang ships without it
HEADERS = [*glob("src/*/*.h"), "setup.py"]  # and the flags


class BuildSideBySide(build_ext):
    """Compiles the sources of all modules on all processors, and only those that have changed or whose headers have."""

    def build_extensions(self) -> None:
        """Let the compiler take sources from a pool of threads."""
        compile_all = self.compiler.compile

        def compile_one(source: str, output_dir: str, how: dict[str, Any]) -> str:
            (made,) = self.compiler.object_filenames([source], output_dir=output_dir)
            if self.force or newer_group([source, *HEADERS], made):
                compile_all([source], output_dir=output_dir, **how)
            return made

        def side_by_side(sources: list[str], output_dir: str, **how: Any) -> list[str]:
            return list(pool.map(lambda source: compile_one(source, output_dir, how), sources))

        self.parallel = True  # the modules
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.compiler.compile = side_by_side
            super().build_extensions()


def extension(name: str, sources: list[str], options: list[str]) -> Extension:
    """Return a compiled module of `fastem._native`, with the headers and parts of its room."""
    return Extension(
        f"fastem._native.{name}",
        sources,
        include_dirs=["src"],
        depends=[*HEADERS, *glob("src/*/*.pxi")],
        # -g0: what debuggers read takes a fifth of the time and four fifths of the module; no instruction differs.
        extra_compile_args=["/O2"] if sys.platform == "win32" else ["-O3", "-g0", *options, *OPENMP],
        extra_link_args=OPENMP,
    )


modules = [
    extension("nearest", ["src/kmeans/nearest.pyx", *sorted(glob("src/kmeans/kernels_*.c"))], []),
    # Its numbers are NumPy's, which fuses no product with a sum.
    extension("mixtures", ["src/mixtures/mixtures.pyx"], ["-ffp-contract=off"]),
]

setup(ext_modules=cythonize(modules, build_dir="build", language_level=3), cmdclass={"build_ext": BuildSideBySide})
