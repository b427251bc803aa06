"""Blocks of rows as columns, transposed in vector registers.

A tile of T rows by T features, T the numbers of a vector, is read as T vectors, turned in log2(T) steps of T shuffles
each, and written as T vectors: no number is touched by itself.  What is left of the features is read as shorter
vectors, first joined to full ones; what is left of the rows, number by number.
"""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from fastem.jit import instruction
from fastem.kernels.vectors import Code, generator, passed_rows, shape_of


def turned(code: Code, rows: list[Any]) -> list[Any]:
    """Return the w columns, vectors of T numbers, of T rows, vectors of w <= T numbers; powers of two.

    A vector holds, of its rows, one group of numbers for each of its features.
    """
    n = len(rows)
    width = rows[0].type.count if isinstance(rows[0].type, ir.VectorType) else 1
    group = 1
    while width * group < n:  # neighbours are joined until the vectors are full
        lanes = [f * group + g + part for f in range(width) for part in (0, width * group) for g in range(group)]
        rows = [code.shuffle(a, b, lanes) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        group *= 2
    parts = [rows]
    while width > 1:  # neighbours exchange: one keeps the first half of the features, one the second
        half, full = width // 2, width * group
        first = [f * group + g + part for f in range(half) for part in (0, full) for g in range(group)]
        second = [lane + half * group for lane in first]
        parts = [
            [code.shuffle(a, b, lanes) for a, b in zip(part[::2], part[1::2], strict=True)]
            for part in parts
            for lanes in (first, second)
        ]
        width, group = half, 2 * group
    return [part[0] for part in parts]


def _build(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
    X, d, start, m, rows, origin, XT, stride = arguments
    code = Code(builder, number)
    zero, n = code.word(0), code.lanes
    whole = builder.and_(m, code.word(-n))

    def columns(first: Any, j: Any, r: Any, width: int) -> None:
        at = [builder.add(first, builder.mul(d, code.word(i))) for i in range(n)]
        if width == 1:
            column = ir.Constant(code.vector, ir.Undefined)
            for i, index in enumerate(at):
                value = builder.load(code.at(X, builder.add(index, j)))
                column = builder.insert_element(column, value, ir.Constant(ir.IntType(32), i))
            found = [column]
        else:
            few = Code(builder, number, width)
            found = turned(code, [few.load(X, builder.add(index, j)) for index in at])
        for f, column in enumerate(found):
            feature = code.plus(j, f)
            value = builder.fsub(column, code.number_at(origin, feature))
            code.store(value, XT, builder.add(builder.mul(feature, stride), r))

    with code.loop(zero, whole, n) as (r, _):
        first = builder.mul(builder.add(start, r), d)
        with code.loop(zero, builder.and_(d, code.word(-n)), n) as (j, _):
            columns(first, j, r, n)
        width = n // 2
        while width:
            with builder.if_then(builder.icmp_signed("!=", builder.and_(d, code.word(width)), zero)):
                columns(first, builder.and_(d, code.word(-2 * width)), r, width)
            width //= 2
    nothing = ir.Constant(number, 0.0)
    with builder.if_then(builder.icmp_signed("<", whole, rows)), code.loop(zero, d) as (j, _):
        centre, place = builder.load(code.at(origin, j)), builder.mul(j, stride)
        with code.loop(whole, m) as (r, _):
            x = builder.load(code.at(X, builder.add(builder.mul(builder.add(start, r), d), j)))
            builder.store(builder.fsub(x, centre), code.at(XT, builder.add(place, r)))
        with code.loop(m, rows) as (r, _):
            builder.store(nothing, code.at(XT, builder.add(place, r)))


def _transpose_in_python(X, start, m, rows, origin, XT):
    d = X.shape[1]
    XT[:d, :m] = (X[start : start + m] - origin).T
    XT[:d, m:rows] = 0


@instruction(_transpose_in_python)
def transpose_block(typingcontext, X, start, m, rows, origin, XT):
    """Write rows start..start + m, relative to the origin, as columns; rows m..rows lie at the origin.

    Parameters
    ----------
    X : array (n, d)
        Rows, C-contiguous.
    start, m, rows : int
        The first row, how many, and how many with padding.
    origin : array (d,)
        A point.
    XT : array (>= d, STRIDE)
        Columns.  # OUT
    """
    if X.layout != "C" or XT.layout != "C" or X.dtype != XT.dtype or origin.dtype != X.dtype:
        return None

    def arguments(context, builder, signature, args):
        stride = shape_of(context, builder, signature.args[5], args[5])[1]
        return [*passed_rows(context, builder, signature, args), stride]

    return types.void(X, *[types.intp] * 3, origin, XT), generator("transpose", X.dtype, _build, arguments)
