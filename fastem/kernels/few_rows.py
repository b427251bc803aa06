"""The few rows of a block that matter to a component: found by whole vectors, their moments added row by row.

With many well separated components each row matters to one or two of them, so that a component finds a few rows in a
block.  A tile over rows (`kernels/tiles.py`) then mostly pays for its horizontal sums.  Here the record itself is the
running sum: four rows at a time are added to it, as float64, a vector of features at a time.
"""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from fastem.jit import instruction
from fastem.kernels.vectors import WORD, Code, call, passed, shape_of

# Rows that `add_rows` takes at a time.
TOGETHER = 4


def list_rows(code: Code, rows: Any, share: Any, threshold: Any, index: Any) -> Any:
    """Build what `find_rows` does; return how many places there are."""
    builder, bits = code.builder, ir.IntType(code.lanes)
    limit = code.splat(threshold)
    found = cgutils.alloca_once_value(builder, code.word(0))
    with code.loop(code.word(0), rows, code.lanes) as (r, _):
        mask = builder.bitcast(builder.fcmp_ordered(">", code.load(share, r), limit), bits)
        with builder.if_then(builder.icmp_unsigned("!=", mask, ir.Constant(bits, 0))):
            mask = builder.zext(mask, WORD)
            place = builder.load(found)
            for lane in range(code.lanes):  # without a branch, which would be guessed wrong often
                builder.store(code.plus(r, lane), code.at(index, place))
                place = builder.add(place, builder.and_(builder.lshr(mask, code.word(lane)), code.word(1)))
            builder.store(place, found)
    return builder.load(found)


def _find_in_python(rows, share, threshold, index):
    found = np.flatnonzero(share[:rows] > threshold)
    index[: len(found)] = found
    return len(found)


@instruction(_find_in_python)
def find_rows(typingcontext, rows, share, threshold, index):
    """Write the places where `share` exceeds the threshold to `index`, in order, and return how many there are.

    Parameters
    ----------
    rows : int
        A multiple of the lanes of a vector.
    share : array (>= rows,)
        The numbers to compare.
    threshold : scalar of the same dtype
        The limit.
    index : int64 array (>= rows + lanes,)
        The places; what lies behind them is overwritten.  # OUT
    """
    number = share.dtype

    def generate(context, builder, signature, args):
        real = context.get_value_type(number)

        def build(builder, arguments):
            *given, count = arguments
            builder.store(list_rows(Code(builder, real), *given), count)

        count = cgutils.alloca_once(builder, WORD)
        values = [*passed(context, builder, signature, args), count]
        call(builder, f"fastem.find_rows.{number}", values, build)
        return builder.load(count)

    return types.intp(types.intp, share, number, index), generate


def _add_in_python(count, d, Z, root, sums, scatter):
    rows = Z[:count, :d]
    sums += root[:count] @ rows
    scatter += rows.T @ rows


@instruction(_add_in_python)
def add_rows(typingcontext, count, d, Z, root, sums, scatter):
    """Add sum_t root_t Z[t, j] to ``sums[j]``, and sum_t Z[t, i] Z[t, j] to ``scatter[i, j]``.

    Parameters
    ----------
    count, d : int
        Rows, a multiple of `TOGETHER`; features.
    Z : float64 array (>= count, >= d)
        Rows, each multiplied by its `root`.
    root : float64 array (>= count,)
        Square roots of the rows' weights.
    sums, scatter : float64 array (d,), (d, d)
        C-contiguous, apart from each other.  # OUT
    """

    def generate(context, builder, signature, args):
        double = ir.DoubleType()

        def build(builder, arguments):
            count, d, stride, Z, root, sums, scatter = arguments
            lanes = Code(builder, double).lanes
            zero = ir.Constant(WORD, 0)

            def features(t, j, width):
                code = Code(builder, double, width)
                first = [builder.mul(code.plus(t, a), stride) for a in range(TOGETHER)]
                z = [code.load(Z, builder.add(row, j)) for row in first]

                def add(base, place, factors):
                    totals = [code.load(base, place), ir.Constant(code.vector, [0.0] * width)]
                    for a in range(TOGETHER):
                        totals[a % 2] = code.fma(factors[a], z[a], totals[a % 2])
                    code.store(builder.fadd(*totals), base, place)

                add(sums, j, [code.number_at(root, code.plus(t, a)) for a in range(TOGETHER)])
                with code.loop(zero, d) as (i, _):
                    factors = [code.number_at(Z, builder.add(row, i)) for row in first]
                    add(scatter, builder.add(builder.mul(i, d), j), factors)

            code = Code(builder, double)
            with code.loop(zero, count, TOGETHER) as (t, _):
                with code.loop(zero, builder.and_(d, code.word(-lanes)), lanes) as (j, _):
                    features(t, j, lanes)
                width = lanes // 2
                while width:
                    with builder.if_then(builder.icmp_signed("!=", builder.and_(d, code.word(width)), zero)):
                        features(t, builder.and_(d, code.word(-2 * width)), width)
                    width //= 2

        count, d, *arrays = passed(context, builder, signature, args)
        values = [count, d, shape_of(context, builder, signature.args[2], args[2])[1], *arrays]
        call(builder, "fastem.add_rows", values, build)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, integer, Z, root, sums, scatter), generate
