"""The one policy by which fastem compiles Numba kernels: flags, drivers, cache.

A kernel author writes one serial function over the rows of one grid cell and decorates it with `kernel`;
`sweep` (a sum over cells) and `each_cell` (an output row per data row) make it runnable over all cells, serially or in
parallel, as `fastem.threads` decides.  Importing this module imports Numba, so only modules that hold kernels import
it, and those are imported when the first kernel is needed.

Drivers.  Numba copies the machine code of a function into each of its callers: a driver that calls the cell kernel by
name makes LLVM optimise that kernel again for the driver, and again for the body of its prange.  So here the loops
over the grid are compiled once for the whole package and call the cell kernel through its address.  What the two
share is a *context*: the kernel's arguments stored in one buffer, and an *entry* of fixed C signature that reads them.

The cache.  Numba's own disk cache keys a function by its source file alone, so a helper edited in another file leaves
stale machine code; its index can mix up two functions when two processes write at once; and it raises where it cannot
write.  Here each compiled signature is one file with a checksum, in a folder named after a hash of all kernel sources
of the package and of the versions below it, under a name that holds a fingerprint of the function with everything
it calls and every constant it reads.  A cache that cannot be read or written falls back to compiling in memory.
"""

# Numba's annotations know neither its extension interface nor its configuration.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba import config, prange, types
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps
from numba.extending import intrinsic

from fastem.stats import CELL

# `nnan` and `ninf` are left out: they delete the guards against NaN and -inf.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a serial kernel: no GIL, fast-math without NaN assumptions, cached on disk."""
    return _compile(function, fastmath=FASTMATH)


def exact(function: Callable[..., Any]) -> Any:
    """Compile a helper whose rounding must not be reassociated (polynomials, compensated sums)."""
    return _compile(function, fastmath={"contract"})


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(function)
    if isinstance(dispatcher, Dispatcher):  # it is the plain function under NUMBA_DISABLE_JIT
        dispatcher._cache = _DiskCache(dispatcher)
    return dispatcher


# --- contexts and entries -------------------------------------------------------------------------------------------

_STATS = types.Array(types.float64, 1, "C")
_ENTRY = types.void(types.intp, types.intp, types.intp, _STATS)  # context, start, stop, stats
_HEADER = 2  # words of a context before the arguments: "the kernel failed", the kernel's address


@intrinsic
def _call_entry(typing, entry, context, start, stop, stats):
    """Call the function at address `entry`."""

    def generate(target, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [target.get_value_type(argument) for argument in _ENTRY.args])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return target.get_dummy_value()

    return types.void(types.intp, *_ENTRY.args), generate


def _borrowed(target: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Drop the owners of a value's arrays: a context outlives the call that stores it, counted references do not."""
    if isinstance(kind, types.Array):
        array = target.make_array(kind)(target, builder, value)
        array.meminfo = ir.Constant(array.meminfo.type, None)
        array.parent = ir.Constant(array.parent.type, None)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        parts = [_borrowed(target, builder, part, builder.extract_value(value, i)) for i, part in enumerate(kind)]
        return target.make_tuple(builder, kind, parts)
    return value


def _bind(arguments: Any, n_tail: int, with_stats: bool) -> Any:
    """Code generation for `_bind_sweep` and `_bind_each`.

    Stores the tuple `arguments` into the context and returns the address of an entry that calls the kernel with
    ``(*arguments[:-n_tail], start, stop, *arguments[-n_tail:])`` and, if asked, with `stats` at the end.
    """
    parts = tuple(arguments)
    head, tail = parts[: len(parts) - n_tail], parts[len(parts) - n_tail :]
    kernel_types = (*head, types.intp, types.intp, *tail, *((_STATS,) if with_stats else ()))

    def generate(target, builder, signature, args):
        word = ir.IntType(64)
        stored = target.get_value_type(arguments)

        def slot(builder, context, index, kind):
            words = builder.inttoptr(context, word.as_pointer())
            return builder.bitcast(builder.gep(words, [ir.Constant(word, index)]), kind.as_pointer())

        builder.store(_borrowed(target, builder, arguments, args[1]), slot(builder, args[0], _HEADER, stored))

        kind = ir.FunctionType(ir.VoidType(), [target.get_value_type(argument) for argument in _ENTRY.args])
        entry = ir.Function(builder.module, kind, name=f"{builder.function.name}.entry")
        entry.linkage = "internal"
        inner = ir.IRBuilder(entry.append_basic_block())
        context, start, stop, stats = entry.args
        values = inner.load(slot(inner, context, _HEADER, stored))
        flat = [inner.extract_value(values, i) for i in range(len(parts))]
        flat = [*flat[: len(head)], start, stop, *flat[len(head) :], *((stats,) if with_stats else ())]
        convention = target.call_conv
        function = convention.get_function_type(types.none, kernel_types)
        address = inner.load(slot(inner, context, 1, word))
        pointer = inner.inttoptr(address, function.as_pointer())
        status, _ = convention.call_function(inner, pointer, types.none, kernel_types, flat)
        with inner.if_then(status.is_error, likely=False):
            inner.store(ir.Constant(word, 1), slot(inner, context, 0, word))
        inner.ret_void()
        return builder.ptrtoint(entry, word)

    return types.intp(types.intp, arguments), generate


@intrinsic
def _bind_sweep(typing, context, arguments):
    return _bind(arguments, n_tail=0, with_stats=True)


@intrinsic
def _bind_each(typing, context, arguments):
    return _bind(arguments, n_tail=1, with_stats=False)


# --- the disk cache -------------------------------------------------------------------------------------------------


@functools.cache
def cache_directory() -> Path | None:
    """Find (or make) the folder of compiled kernels; None where there is no place to write.

    ``$NUMBA_CACHE_DIR/fastem/<stamp>``, or the same below the user's cache folder.
    """
    if config.CACHE_DIR:
        base = config.CACHE_DIR
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base).absolute() / "fastem" / _stamp() if base and not base.startswith("~") else None
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        return folder
    except OSError:
        return None


def _stamp() -> str:
    """Hash of the package's kernel sources and of all that decides what Numba makes of them."""
    settings = [getattr(config, name, None) for name in ("BOUNDSCHECK", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE")]
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, sys.abiflags)
    digest = hashlib.sha256(repr((versions, settings, config.DEBUGINFO_DEFAULT)).encode())
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        if b"jit" in source or path.parent != package:  # the families' folder whole, and whatever mentions jit.py
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + source)
    return digest.hexdigest()[:16]


def _ingredients(function: Any, seen: set[Any]) -> Iterator[str]:
    """All that the machine code of a Python function depends on, called functions included, as text."""
    if function in seen:
        return
    seen.add(function)
    code: CodeType = function.__code__
    yield f"{function.__module__}.{function.__qualname__}:{code.co_firstlineno}"
    names = set(code.co_names)
    pending = [code]
    while pending:
        block = pending.pop()
        yield f"{block.co_code.hex()} {block.co_varnames} {block.co_names} {block.co_argcount}"
        for constant in block.co_consts:
            if isinstance(constant, CodeType):
                pending.append(constant)
                names.update(constant.co_names)
            else:
                text = sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
                yield f"{type(constant)} {text}"
    scope = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        scope[name] = cell.cell_contents
    for name, value in sorted(scope.items()):
        yield name
        yield from _value_ingredients(value, names, seen)


def _value_ingredients(value: Any, names: set[str], seen: set[Any]) -> Iterator[str]:
    """Do the same for a global or a closure variable; for a module, through those members that the code names."""
    if isinstance(value, Dispatcher):
        options = value.targetoptions.items()
        yield repr(sorted((name, sorted(option) if isinstance(option, set) else option) for name, option in options))
        yield from _ingredients(value.py_func, seen)
    elif isinstance(value, FunctionType):
        yield from _ingredients(value, seen)
    elif isinstance(value, ModuleType):
        yield value.__name__
        if value.__name__.partition(".")[0] not in ("math", "cmath", "numpy", "numba"):
            for name in sorted(names & vars(value).keys()):
                yield name
                yield from _value_ingredients(vars(value)[name], names, seen)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value)).hexdigest()}"
    elif isinstance(value, tuple):
        for item in value:
            yield from _value_ingredients(item, names, seen)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        yield f"{type(value)} {value!r}"
    else:
        yield str(getattr(value, "__qualname__", type(value)))


def _describe(kind: Any) -> str:
    """Write a Numba type as text; its own name leaves out which NamedTuple class is meant."""
    if isinstance(kind, types.BaseTuple):
        owner = getattr(kind, "instance_class", tuple)
        fields = getattr(owner, "_fields", ())
        return f"{owner.__module__}.{owner.__qualname__}{fields}[{', '.join(map(_describe, kind))}]"
    return repr(kind)


class _DiskCache(_Cache):
    """One file for each compiled signature: a checksum and Numba's own serialised result."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        folder = cache_directory()
        return None if folder is None else str(folder)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Nothing: a file is only ever read for the very code that it was made from."""

    def _path(self, args: Any, codegen: Any) -> Path | None:
        folder = cache_directory() if self._enabled else None
        if folder is None:
            return None
        function = self._dispatcher.py_func
        digest = hashlib.sha256(repr((codegen.magic_tuple(), [_describe(kind) for kind in args])).encode())
        for text in _value_ingredients(self._dispatcher, set(), set()):
            digest.update(text.encode() + b"\0")
        name = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")[-80:]
        return folder / f"{name}-{digest.hexdigest()[:32]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        args = sig.args if isinstance(sig, numba.core.typing.Signature) else sig
        try:
            path = self._path(args, target_context.codegen())
            if path is None:
                return None
            stored = path.read_bytes()
            checksum, payload = stored[:32], stored[32:]
            if hashlib.sha256(payload).digest() != checksum:
                return None
            result = CompileResult._rebuild(target_context, *pickle.loads(payload))
            # A NamedTuple class that is not importable (one of `__main__`) comes back as another class.
            return result if tuple(result.signature.args) == tuple(args) else None
        except Exception:  # whatever is wrong with the file, compiling is right
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if data.lifted or data.library.has_dynamic_globals:
            return
        temporary = ""
        try:
            path = self._path(data.signature.args, data.codegen)
            if path is None:
                return
            payload = dumps(data._reduce())
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except Exception:  # disk full, folder gone, a constant that cannot be pickled: the code in memory is right
            with contextlib.suppress(OSError):
                os.unlink(temporary)


# --- the drivers ----------------------------------------------------------------------------------------------------


@_compile
def _task(entry, context, n_rows, level, number, out, row):
    """Record of task `number` into row `row` of out: its cells in order, merged as a binary tree on a stack."""
    size = out.shape[1]
    first = number << level
    last = min((number + 1) << level, (n_rows + CELL - 1) // CELL)
    stack = np.empty((level + 2, size))
    for j in range(size):
        stack[0, j] = 0.0
    top = 0
    for c in range(first, last):
        for j in range(size):
            stack[top, j] = 0.0
        _call_entry(entry, context, c * CELL, min((c + 1) * CELL, n_rows), stack[top])
        done = c - first
        while done & 1:  # one merge for each pair of siblings that this cell completes
            for j in range(size):
                stack[top - 1, j] += stack[top, j]
            top -= 1
            done >>= 1
        top += 1
    while top > 1:  # the ragged end of the grid: right to left, as the full tree would
        top -= 1
        for j in range(size):
            stack[top - 1, j] += stack[top, j]
    for j in range(size):
        out[row, j] = stack[0, j]


@_compile
def _sweep_serial(entry, context, n_rows, level, first, out):
    for t in range(out.shape[0]):
        _task(entry, context, n_rows, level, first + t, out, t)


def _sweep_parallel(entry, context, n_rows, level, first, out):
    for t in prange(out.shape[0]):
        _task(entry, context, n_rows, level, first + t, out, np.intp(t))  # prange counts in uint64: another signature


@_compile
def _cell(entry, context, n_rows, c, nothing):
    _call_entry(entry, context, c * CELL, min((c + 1) * CELL, n_rows), nothing)


@_compile
def _each_serial(entry, context, n_rows, first, last, nothing):
    for c in range(first, last):
        _cell(entry, context, n_rows, c, nothing)


def _each_parallel(entry, context, n_rows, first, last, nothing):
    for c in prange(first, last):
        _cell(entry, context, n_rows, np.intp(c), nothing)


_sweep_parallel = _compile(_sweep_parallel, parallel=True)
_each_parallel = _compile(_each_parallel, parallel=True)


@_compile
def _store_sweep(context, arguments):
    return _bind_sweep(context, arguments)


@_compile
def _store_each(context, arguments):
    return _bind_each(context, arguments)


# --- what kernel authors and threads.py use -------------------------------------------------------------------------


class Sweep(NamedTuple):
    """The serial and the parallel driver of one cell kernel; `fastem.threads` picks one.

    Both take the same arguments (see `sweep` and `each_cell`) and never hold the GIL while kernels run.
    """

    serial: Callable[..., None]
    parallel: Callable[..., None]


def _key(value: Any) -> Any:
    """Reduce a kernel argument to what decides its Numba type; `numba.typeof` costs ten times as much."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.ndim, value.flags.num
    if isinstance(value, tuple):
        return type(value), *map(_key, value)
    return type(value)


def _binder(cell: Any, store: Any, n_tail: int, with_stats: bool) -> Callable[[tuple], tuple[int, np.ndarray]]:
    """Make the function from kernel arguments to (entry, context); it compiles the kernel for new types."""
    known: dict[Any, tuple[int, int]] = {}

    def compiled(arguments: tuple) -> tuple[int, int]:
        kinds = tuple(numba.typeof(argument) for argument in arguments)
        head, tail = kinds[: len(kinds) - n_tail], kinds[len(kinds) - n_tail :]
        signature = (*head, types.intp, types.intp, *tail, *((_STATS,) if with_stats else ()))
        cell.compile(signature)
        result = cell.overloads[signature]
        target = cell.targetctx
        words = _HEADER + -(-target.get_abi_sizeof(target.get_value_type(types.Tuple(kinds))) // 8)
        return result.library.get_pointer_to_function(result.fndesc.llvm_func_name), words

    def bind(arguments: tuple) -> tuple[int, np.ndarray]:
        key = _key(arguments)
        found = known.get(key)
        if found is None:
            found = known[key] = compiled(arguments)
        address, words = found
        context = np.zeros(words, np.int64)
        context[1] = address
        return store(context.ctypes.data, arguments), context

    return bind


def _check(context: np.ndarray, cell: Any) -> None:
    if context[0]:
        raise RuntimeError(f"the compiled kernel {cell.__qualname__} failed, most likely for want of memory")


def sweep(cell: Any) -> Sweep:
    """Drivers that add up a cell kernel over the fixed row grid.

    Parameters
    ----------
    cell : kernel ``cell(X, w, labels, prepared, start, stop, stats)``
        Adds the statistics of rows start..stop to the zeroed float64 vector `stats`.

    Returns
    -------
    Sweep
        ``serial(X, w, labels, prepared, level, first, out)`` and ``parallel(...)`` of the same arguments: row t of
        `out` (tasks, size) becomes the record of task ``first + t``, that is of cells
        ``(first + t) << level`` up to ``(first + t + 1) << level``, merged by the fixed binary tree.
    """
    bind = _binder(cell, _store_sweep, n_tail=0, with_stats=True)

    def run(driver: Any, args: tuple) -> None:
        *arguments, level, first, out = args
        entry, context = bind(tuple(arguments))
        driver(entry, context.ctypes.data, len(arguments[0]), level, first, out)
        _check(context, cell)

    return Sweep(lambda *args: run(_sweep_serial, args), lambda *args: run(_sweep_parallel, args))


def each_cell(cell: Any) -> Sweep:
    """Drivers that run a cell kernel on every grid cell, for outputs with one row for each row of data.

    Parameters
    ----------
    cell : kernel ``cell(X, prepared, start, stop, out)``
        Writes rows start..stop of `out`, an array of any dimension or a NamedTuple of arrays.

    Returns
    -------
    Sweep
        ``serial(X, prepared, first_cell, last_cell, out)`` and ``parallel(...)`` of the same arguments.
    """
    bind = _binder(cell, _store_each, n_tail=1, with_stats=False)
    nothing = np.zeros(0)

    def run(driver: Any, args: tuple) -> None:
        *arguments, first, last, out = args
        entry, context = bind((*arguments, out))
        driver(entry, context.ctypes.data, len(arguments[0]), first, last, nothing)
        _check(context, cell)

    return Sweep(lambda *args: run(_each_serial, args), lambda *args: run(_each_parallel, args))
