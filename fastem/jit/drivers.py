"""The one policy by which fastem compiles Numba kernels: flags, drivers, cache.

A kernel author writes one serial function over the rows of one grid cell and decorates it with `kernel`;
`sweep` (a sum over cells) and `each_cell` (an output row per data row) make it runnable over all cells, serially or in
parallel, as `fastem.threads` decides.  Importing this module imports Numba, so only modules that hold kernels import
it, and those are imported when the first kernel is needed.

Drivers.  Numba copies the machine code of a function into each of its callers: a driver that calls the cell kernel by
name makes LLVM optimise that kernel again for the driver, and again for the body of its prange.  So here the loops
over the grid are compiled once for the whole package and call the cell kernel through its address.  What the two
share is a *context*: the kernel's arguments stored in one buffer, and an *entry* of fixed C signature that reads them.

A kernel and all that it calls are optimised as one module, and kept on disk, by `fastem.jit.numba_internals`.
"""

# Numba's annotations do not know its extension interface.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from fastem.grid import CELL
from fastem.jit.numba_internals import (
    Kernel,
    Runnable,
    address_of,
    borrowed,
    call_kernel,
    probe,
    vector_at,
    vector_parts,
)
from fastem.jit.sweeps import FASTMATH, Sweep, read_only

probe()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a serial kernel: no GIL, fast-math without NaN assumptions."""
    return _compile(Kernel, function, fastmath=FASTMATH)


def _driver(function: Callable[..., Any], **options: Any) -> Any:
    return _compile(Runnable, function, **options)


def _compile(form: Any, function: Callable[..., Any], **options: Any) -> Any:
    common = {"nopython": True, "nogil": True, "error_model": "numpy", "boundscheck": None, "no_cfunc_wrapper": True}
    return form(function, common | options)


# --- contexts and entries -------------------------------------------------------------------------------------------

_STATS = types.Array(types.float64, 1, "C")
# Context, start, stop, and the numbers of the record and how many: what C can call.
_ENTRY = types.void(types.intp, types.intp, types.intp, types.CPointer(types.float64), types.intp)
_HEADER = 2  # words of a context before the arguments: "the kernel failed", the kernel's address


@intrinsic
def _call_entry(typing, entry, context, start, stop, stats):
    """Call the function at address `entry`."""

    def generate(target, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [target.get_value_type(argument) for argument in _ENTRY.args])
        place = vector_parts(target, builder, _STATS, args[4])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [*args[1:4], *place])
        return target.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp, _STATS), generate


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

        builder.store(borrowed(target, builder, arguments, args[1]), slot(builder, args[0], _HEADER, stored))

        kind = ir.FunctionType(ir.VoidType(), [target.get_value_type(argument) for argument in _ENTRY.args])
        entry = ir.Function(builder.module, kind, name=f"{builder.function.name}.entry")
        entry.linkage = "internal"
        inner = ir.IRBuilder(entry.append_basic_block())
        context, start, stop, *place = entry.args
        values = inner.load(slot(inner, context, _HEADER, stored))
        flat = [inner.extract_value(values, i) for i in range(len(parts))]
        stats = [vector_at(target, inner, _STATS, *place)] if with_stats else []
        flat = [*flat[: len(head)], start, stop, *flat[len(head) :], *stats]
        failed = call_kernel(target, inner, inner.load(slot(inner, context, 1, word)), kernel_types, flat)
        with inner.if_then(failed, likely=False):
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


# --- the drivers ----------------------------------------------------------------------------------------------------


@kernel
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


@_driver
def _sweep_serial(entry, context, n_rows, level, first, out):
    for t in range(out.shape[0]):
        _task(entry, context, n_rows, level, first + t, out, t)


def _sweep_parallel(entry, context, n_rows, level, first, out):
    for t in prange(out.shape[0]):
        _task(entry, context, n_rows, level, first + t, out, np.intp(t))  # prange counts in uint64: another signature


@kernel
def _cell(entry, context, n_rows, c, nothing):
    _call_entry(entry, context, c * CELL, min((c + 1) * CELL, n_rows), nothing)


@_driver
def _each_serial(entry, context, n_rows, first, last, nothing):
    for c in range(first, last):
        _cell(entry, context, n_rows, c, nothing)


def _each_parallel(entry, context, n_rows, first, last, nothing):
    for c in prange(first, last):
        _cell(entry, context, n_rows, np.intp(c), nothing)


_sweep_parallel = _driver(_sweep_parallel, parallel=True)
_each_parallel = _driver(_each_parallel, parallel=True)


@_driver
def _store_sweep(context, arguments):
    return _bind_sweep(context, arguments)


@_driver
def _store_each(context, arguments):
    return _bind_each(context, arguments)


# --- what kernel authors and threads.py use -------------------------------------------------------------------------


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
    runnable = cell.runnable

    def compiled(arguments: tuple) -> tuple[int, int]:
        kinds = tuple(numba.typeof(argument) for argument in arguments)
        head, tail = kinds[: len(kinds) - n_tail], kinds[len(kinds) - n_tail :]
        signature = (*head, types.intp, types.intp, *tail, *((_STATS,) if with_stats else ()))
        runnable.compile(signature)
        result = runnable.overloads[signature]
        if result.signature.return_type != types.none:
            raise TypeError(f"the kernel {cell.__qualname__} must return nothing, not {result.signature.return_type}")
        target = runnable.targetctx
        words = _HEADER + -(-target.get_abi_sizeof(target.get_value_type(types.Tuple(kinds))) // 8)
        return address_of(runnable, signature), words

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
        entry, context = bind(read_only(tuple(arguments)))
        driver(entry, context.ctypes.data, len(arguments[0]), level, first, out)
        _check(context, cell)

    def called(arguments: tuple) -> tuple[int, np.ndarray]:
        return bind(read_only(arguments))

    return Sweep(lambda *args: run(_sweep_serial, args), lambda *args: run(_sweep_parallel, args), called)


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
        entry, context = bind((*read_only(tuple(arguments)), out))
        driver(entry, context.ctypes.data, len(arguments[0]), first, last, nothing)
        _check(context, cell)

    def called(arguments: tuple) -> tuple[int, np.ndarray]:
        return bind((*read_only(arguments[:-1]), arguments[-1]))

    return Sweep(lambda *args: run(_each_serial, args), lambda *args: run(_each_parallel, args), called)
