"""Records as kernels see them: the fields of a flat vector by name, as arrays, from the one place that tells them."""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numba.core import cgutils, types

from fastem.jit import instruction, kernel
from fastem.kernels.vectors import WORD, data_of, shape_of
from fastem.records import REST, Fields


def _in_python(fields: Fields, record: np.ndarray, sizes: tuple[int, ...]) -> Any:
    """Do what the instruction of `binder` does."""
    length = dict(zip(fields.letters.replace(REST, ""), sizes, strict=True))
    parts, at = [], 0
    for axes in fields.axes:
        shape = [length.get(letter, -1) for letter in axes]
        size = len(record) - at if REST in axes else math.prod(shape)
        parts.append(record[at : at + size].reshape(shape or 1))
        at += size
    return fields.record(*parts)


def binder(fields: Fields) -> Any:
    """Make the instruction ``bind(record, sizes)``, which shows a record as its NamedTuple, without a copy.

    A view is a few numbers in registers and belongs to nobody: a cell that binds its record once pays nothing for the
    names.  `reshape` would count references and call a function, 0.3 microseconds a field.

    Parameters
    ----------
    fields : Fields
        The record.

    Returns
    -------
    instruction
        `record` is a float64 vector, and `sizes` a tuple of the axes' lengths in the order of ``fields.letters``,
        without that of `REST`.  A field without axes is an array (1,).
    """
    told = fields.letters.replace(REST, "")

    def bind(typingcontext, record, sizes):
        kinds = [types.Array(types.float64, max(1, len(axes)), "C") for axes in fields.axes]
        made = types.BaseTuple.from_types(kinds, fields.record)

        def generate(context, builder, signature, args):
            data = data_of(context, builder, signature.args[0], args[0])
            (length,) = shape_of(context, builder, signature.args[0], args[0])
            given = zip(cgutils.unpack_tuple(builder, args[1]), signature.args[1], strict=True)
            lengths = [context.cast(builder, value, kind, types.intp) for value, kind in given]
            known = dict(zip(told, lengths, strict=True))

            def product(factors: list[Any]) -> Any:
                result = WORD(1)
                for factor in factors:
                    result = builder.mul(result, factor)
                return result

            at, arrays = WORD(0), []
            for axes, kind in zip(fields.axes, kinds, strict=True):
                if REST in axes:
                    others = product([known[letter] for letter in axes if letter != REST])
                    known[REST] = builder.sdiv(builder.sub(length, at), others)
                shape = [known[letter] for letter in axes] or [WORD(1)]
                strides = [product([WORD(8), *shape[i + 1 :]]) for i in range(len(shape))]
                array = context.make_array(kind)(context, builder)
                array.data, array.itemsize, array.nitems = builder.gep(data, [at]), WORD(8), product(shape)
                array.shape, array.strides = (cgutils.pack_array(builder, words) for words in (shape, strides))
                array.meminfo, array.parent = (cgutils.get_null_value(x.type) for x in (array.meminfo, array.parent))
                arrays.append(array._getvalue())
                at = builder.add(at, array.nitems)
            return context.make_tuple(builder, made, arrays)

        return made(record, sizes), generate

    bind.__name__ = bind.__qualname__ = f"bind {fields}"  # what tells it from others in the disk cache
    return instruction(partial(_in_python, fields))(bind)


def view_of(fields: Fields) -> Any:
    """Make the kernel ``view(prepared, record)`` for records whose axes are components and features.

    Parameters
    ----------
    fields : Fields
        With the letters k and d, in this order.
    """
    bind = binder(fields)

    @kernel
    def view(prepared, record):
        return bind(record, (prepared.log_weights.shape[0], prepared.origin.shape[0]))

    return view
