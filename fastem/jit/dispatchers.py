"""How Numba compiles fastem's kernels: a kernel and all that it calls become one module, which is optimised once.

Numba optimises each function by itself, again within each function that calls it, and wraps each for calls from
Python, so that a helper three calls deep passes through LLVM four times.  And the copies differ in the last bits: the
process that has compiled a helper calls the helper's own machine code, a process that has loaded its caller from the
disk calls the copy within the caller.  Here a kernel that is called by kernels stays LLVM's intermediate code, its
callers take it over, and the outermost makes machine code of everything, in which the copies are its own.
"""

# Numba's annotations do not know its extension interface.
# mypy: disable-error-code="attr-defined, misc, no-untyped-call"

from __future__ import annotations

import functools
import itertools
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
from numba.core import config
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.environment import lookup_environment
from numba.core.registry import CPUDispatcher

from fastem.jit.cache import DiskCache, fingerprint

_numbers = itertools.count()


class _Inner(JITCodeLibrary):
    """A kernel as its callers link it: not optimised, and without machine code."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Leave it to the outer kernel to fill the environment, which only that has in memory."""


class _Outer(JITCodeLibrary):
    """A kernel as it is run, with copies of all that it calls, which nobody else can see."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == llvm.Linkage.linkonce_odr:
                function.linkage = llvm.Linkage.internal
        super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        super()._finalize_final_module()
        for variable in self._final_module.global_variables:
            environment = lookup_environment(variable.name)
            if environment is not None:
                self.codegen.set_env(variable.name, environment)


class _InnerCompiler(Compiler):
    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *args: Any) -> None:
        super().__init__(typingctx, targetctx, library or _new(_Inner, targetctx), *args)


class _OuterCompiler(Compiler):
    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *args: Any) -> None:
        super().__init__(typingctx, targetctx, library or _new(_Outer, targetctx), *args)


def _new(form: type[JITCodeLibrary], targetctx: Any) -> JITCodeLibrary:
    library = form(targetctx.codegen(), f"fastem{next(_numbers)}")
    library.enable_object_caching()
    return library


def _renamed(function: Any, name: str) -> Any:
    """Return the same function under another qualified name."""
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__module__, copy.__qualname__ = function.__module__, name
    return copy


class _Compiled(CPUDispatcher):
    """A function that is compiled whatever `NUMBA_DISABLE_JIT` says: kernels are instructions, not Python."""

    def compile(self, sig: Any) -> Any:
        """Compile for a signature; the functions of Numba's that it calls need a compiler that is on."""
        disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
        try:
            return super().compile(sig)
        finally:
            config.DISABLE_JIT = disabled


class Runnable(_Compiled):
    """A compiled function as the drivers and Python call it, kept on disk."""

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        super().__init__(function, targetoptions=dict(options), pipeline_class=_OuterCompiler)
        self._cache = DiskCache(self)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all that the machine code depends on, but types and versions."""
        return fingerprint(self)

    def compile(self, sig: Any) -> Any:
        """Compile for a signature, or load what a process before has compiled.

        The symbol of the machine code is made of the function's name, its types and a number that counts the functions
        of a process: a loaded kernel and a compiled one, two closures of one factory, can have the same, and the
        address of that symbol is then the other kernel's.  So the name holds the fingerprint.
        """
        if self._compiler.py_func is self.py_func:
            self._compiler.py_func = _renamed(self.py_func, f"{self.py_func.__qualname__}_{self.fingerprint[:16]}")
        return super().compile(sig)


class Kernel(_Compiled):
    """A compiled function as other kernels call it; `runnable` is what runs it, and what a call from Python goes to."""

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        super().__init__(function, targetoptions={**options, "no_cpython_wrapper": True}, pipeline_class=_InnerCompiler)
        self._options = options

    @functools.cached_property
    def runnable(self) -> Runnable:
        """The same function for itself."""
        return Runnable(self.py_func, self._options)

    def __call__(self, *args: Any) -> Any:
        """Compile the kernel by itself, if it is not, and run it."""
        return self.runnable(*args)
