"""What fastem knows of Numba's compiler and cache, in one file; `probe` tells whether this Numba is the known one.

Three names of its threading layer are in `threads.py`, which works without them.

A kernel and all that it calls become one module, which is optimised once.  Numba optimises each function by itself,
again within each function that calls it, and wraps each for calls from Python, so that a helper three calls deep passes
through LLVM four times.  And the copies differ in the last bits: the process that has compiled a helper calls the
helper's own machine code, a process that has loaded its caller from the disk calls the copy within the caller.  Here a
kernel that is called by kernels stays LLVM's intermediate code, its callers take it over, and the outermost makes
machine code of everything, in which the copies are its own.

Where the probe fails, `fastem.jit.plain` serves, which needs nothing of this.
"""

# Numba's annotations do not know its insides.
# mypy: disable-error-code="attr-defined, misc, no-untyped-call, var-annotated, arg-type, call-overload"

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import itertools
import os
import pickle
import tempfile
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core.caching import _Cache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompileResult
from numba.core.environment import lookup_environment
from numba.core.registry import CPUDispatcher
from numba.core.serialize import dumps
from numba.np.arrayobj import populate_array

from fastem.jit.cache import cache_directory, describe, fingerprint, make_folder, tell, touch

# What is overridden or called here, by the class that has it.
KNOWN = {
    JITCodeLibrary: (
        *("_optimize_final_module", "_finalize_final_module", "_finalize_dynamic_globals", "enable_object_caching"),
        *("get_pointer_to_function", "codegen", "add_ir_module"),
    ),
    _Cache: ("load_overload", "save_overload", "enable", "disable", "flush", "cache_path"),
    CompileResult: ("_rebuild", "_reduce"),
    CPUDispatcher: ("compile",),
}


def probe() -> None:
    """Compare this Numba with the one that is known here.

    Raises
    ------
    ImportError
        If something is missing, or takes other arguments; without any import above, that is raised already.
    """
    missing = [
        f"{owner.__name__}.{name}" for owner, names in KNOWN.items() for name in names if not hasattr(owner, name)
    ]
    if list(inspect.signature(Compiler.__init__).parameters)[1:4] != ["typingctx", "targetctx", "library"]:
        missing.append("Compiler(typingctx, targetctx, library)")
    if missing:
        raise ImportError(f"Numba {numba.__version__} has no {', '.join(missing)}")


_numbers = itertools.count()
# An attribute of functions in LLVM's language; processors with shorter vectors, or not of Intel's kind, take no notice.
WIDTH = '"prefer-vector-width"="512"'


class _WideVectors(JITCodeLibrary):
    """Code in vectors of 64 bytes where a processor has them.

    On Intel's processors with AVX-512 LLVM takes 32, because the first of them lowered their clock for more.  With 64
    an EM step of spherical Gaussians (200,000 x 16, 16 components, float64) takes half the time, full ones of two
    features 0.75 to 0.9, Poisson and Bernoulli mixtures 0.9, those of wide matrices the same.
    """

    def add_ir_module(self, ir_module: ir.Module) -> None:
        for function in ir_module.functions:
            if not function.is_declaration:
                set.add(function.attributes, WIDTH)  # past llvmlite's list of names, which has none of a target's
        super().add_ir_module(ir_module)


class _Inner(_WideVectors):
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


class _Outer(_WideVectors):
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


class DiskCache(_Cache):
    """One file for each compiled signature: a checksum and Numba's own serialised result."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        """The folder."""
        folder = cache_directory()
        return None if folder is None else str(folder)

    def enable(self) -> None:
        """Use the disk (the default)."""
        self._enabled = True

    def disable(self) -> None:
        """Do not use the disk."""
        self._enabled = False

    def flush(self) -> None:
        """Do nothing: a file is only ever read for the very code that it was made from."""

    def _path(self, args: Any, codegen: Any) -> Path | None:
        folder = cache_directory() if self._enabled else None
        if folder is None:
            return None
        function = self._dispatcher.py_func
        digest = hashlib.sha256(repr((codegen.magic_tuple(), [describe(kind) for kind in args])).encode())
        digest.update(self._dispatcher.fingerprint.encode())
        name = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")[-80:]
        return folder / f"{name}-{digest.hexdigest()[:32]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Read the compiled code of a signature; None if there is none that is whole."""
        target_context.refresh()
        args = sig.args if isinstance(sig, numba.core.typing.Signature) else sig
        try:
            path = self._path(args, target_context.codegen())
            if path is None:
                return None
            stored = path.read_bytes()
            touch(path.parent)
            checksum, payload = stored[:32], stored[32:]
            if hashlib.sha256(payload).digest() != checksum:
                return None
            result = CompileResult._rebuild(target_context, *pickle.loads(payload))
            # A NamedTuple class that is not importable (one of `__main__`) comes back as another class.
            return result if tuple(result.signature.args) == tuple(args) else None
        except Exception:  # whatever is wrong with the file, compiling is right
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the compiled code of a signature, whole or not at all."""
        if data.lifted or data.library.has_dynamic_globals:
            return
        temporary = ""
        try:
            path = self._path(data.signature.args, data.codegen)
            if path is None:
                if cache_directory() is None:
                    tell("there is no home folder")
                return
            make_folder(path.parent)
            payload = dumps(data._reduce())
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except Exception as error:  # disk full, a constant that cannot be pickled: the code in memory is right
            if isinstance(error, OSError):
                tell(str(error))
            with contextlib.suppress(OSError):
                os.unlink(temporary)


class Runnable(CPUDispatcher):
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


class Kernel(CPUDispatcher):
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


# --- generated code ---------------------------------------------------------------------------------------------------


def borrowed(target: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Drop the owners of a value's arrays: a context outlives the call that stores it, counted references do not."""
    if isinstance(kind, types.Array):
        array = target.make_array(kind)(target, builder, value)
        array.meminfo = ir.Constant(array.meminfo.type, None)
        array.parent = ir.Constant(array.parent.type, None)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        parts = [borrowed(target, builder, part, builder.extract_value(value, i)) for i, part in enumerate(kind)]
        return target.make_tuple(builder, kind, parts)
    return value


def vector_parts(target: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, Any]:
    """Return the address of the first number of a vector, and their number."""
    array = target.make_array(kind)(target, builder, value)
    return array.data, builder.extract_value(array.shape, 0)


def vector_at(target: Any, builder: Any, kind: Any, data: Any, size: Any) -> Any:
    """Return the float64 vector of so many numbers at an address, owned by nobody."""
    array = target.make_array(kind)(target, builder)
    step = ir.Constant(size.type, 8)
    populate_array(array, data=data, shape=[size], strides=[step], itemsize=step, meminfo=None, parent=None)
    return array._getvalue()


def call_kernel(target: Any, builder: Any, address: Any, kinds: tuple, values: list) -> Any:
    """Call the compiled function at an address by Numba's convention; return whether it failed, as a bit."""
    convention = target.call_conv
    function = convention.get_function_type(types.none, kinds)
    pointer = builder.inttoptr(address, function.as_pointer())
    status, _ = convention.call_function(builder, pointer, types.none, kinds, values)
    return status.is_error


def address_of(runnable: Runnable, kinds: tuple) -> int:
    """Return the address of the machine code that was compiled for a signature."""
    result = runnable.overloads[kinds]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
