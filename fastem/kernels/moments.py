"""Weighted sums, and sums of squares, of a block's rows about the mean of each component, in vector registers.

A component to which most rows of the block matter takes its columns: a tile of features stays in the first cache for
one component after the other, and in registers until its sums are added up over the lanes.  A component to which few
rows matter takes these alone; if that pays for the components of a block together, the block is first turned back into
rows, and the sums run over features side by side.
"""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from fastem.jit import instruction, kernel
from fastem.kernels.blocks import STRIDE
from fastem.kernels.few_rows import list_rows
from fastem.kernels.transpose import turned
from fastem.kernels.vectors import MACHINE, Code, generator, passed

# Features whose sums stay in registers together: over the vectors of a column, and vectors of them over rows.
_FEATURES = 8 if MACHINE.many else 4
_VECTORS = 4
_BYTES = MACHINE.n_bytes


def _add_centred(code: Code, x: Any, weight: Any, centre: Any, slots: list[Any]) -> None:
    """Add weight (x - centre) to the first slot, and weight (x - centre)^2 to the second if there is one."""
    builder = code.builder
    x = builder.fsub(x, centre)
    if len(slots) == 1:
        builder.store(code.fma(weight, x, builder.load(slots[0])), slots[0])
    else:
        weighted = builder.fmul(weight, x)
        builder.store(builder.fadd(builder.load(slots[0]), weighted), slots[0])
        builder.store(code.fma(weighted, x, builder.load(slots[1])), slots[1])


def _moments_generator(name: str, number: Any, build: Any, with_squares: Any) -> Any:
    """Return the code generation of moments whose last argument, 0 or 1, says whether there are squares."""
    if not isinstance(with_squares, types.IntegerLiteral):
        return None
    both = bool(with_squares.literal_value)

    def arguments(*passing: Any) -> list[Any]:
        return passed(*passing)[:-1]

    return generator(f"{name}{1 + both}", number, partial(build, with_squares=both), arguments)


# --- all rows of a block, as columns


def _build_columns(builder: ir.IRBuilder, arguments: Any, number: ir.Type, with_squares: bool) -> None:
    rows, d, k, XT, means, resp, wanted, *outputs = arguments
    code = Code(builder, number)
    zero = code.word(0)
    bases = outputs[: 1 + with_squares]

    def tile(j: Any, c: Any, count: int) -> None:
        """Add the moments of features j..j + count to those of component c."""
        slots = code.zeros(count * len(bases))
        code.clear(slots)
        own = builder.add(builder.mul(c, d), j)
        centres = [code.number_at(means, code.plus(own, a)) for a in range(count)]
        weights, columns = builder.mul(c, code.word(STRIDE)), builder.mul(j, code.word(STRIDE))
        with code.loop(zero, rows, code.lanes) as (r, _):
            weight = code.load(resp, builder.add(weights, r))
            for a in range(count):
                x = code.load(XT, builder.add(code.plus(columns, a * STRIDE), r))
                _add_centred(code, x, weight, centres[a], slots[a::count])
        totals = code.sums([builder.load(slot) for slot in slots])
        for part, base in enumerate(bases):
            for a in range(0, count - 3, 4):
                code.add_quad(totals, [count * part + a + b for b in range(4)], base, code.plus(own, a))
            if count == 1:
                code.add_one(totals, part, base, own)

    start = zero
    for count in dict.fromkeys((_FEATURES, 4, 1)):
        stop = builder.and_(d, code.word(-count))
        with code.loop(start, stop, count) as (j, _), code.loop(zero, k) as (c, _):
            asked = builder.icmp_signed("!=", builder.load(code.at(wanted, c)), zero)
            with builder.if_then(asked):
                tile(j, c, count)
        start = stop


def _columns_in_python(rows, d, k, XT, means, resp, wanted, sums, squares, with_squares):
    for c in np.flatnonzero(wanted[:k]):
        centred = XT[:d, :rows] - means[c, :, None]
        sums[c] += centred @ resp[c, :rows]
        if with_squares:
            squares[c] += centred**2 @ resp[c, :rows]


@instruction(_columns_in_python)
def _add_columns(typingcontext, rows, d, k, XT, means, resp, wanted, sums, squares, with_squares):
    """Add the moments of all rows, weighted by `resp` (k, STRIDE), to those of the components `wanted` (k,) intp."""
    made = _moments_generator("columns", XT.dtype, _build_columns, with_squares)
    arrays = (XT, means, resp, wanted, sums, squares)
    return made and (types.void(*[types.intp] * 3, *arrays, with_squares), made)


# --- few rows of a block, as rows


def _build_back(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
    rows, d, XT, Y = arguments
    code = Code(builder, number)
    zero, n = code.word(0), code.lanes
    width = builder.and_(d, code.word(-n))
    with code.loop(zero, rows, n) as (r, _), code.loop(zero, width, n) as (j, _):
        at = [builder.add(builder.mul(code.plus(j, a), code.word(STRIDE)), r) for a in range(n)]
        for i, row in enumerate(turned(code, [code.load(XT, index) for index in at])):
            code.store(row, Y, builder.add(builder.mul(code.plus(r, i), width), j))


@instruction(lambda rows, d, XT, Y: None)  # `_rows_in_python` reads the columns
def _turn_back(typingcontext, rows, d, XT, Y):
    """Write a block to Y row by row, without the features that do not fill a vector."""
    return types.void(types.intp, types.intp, XT, Y), generator("back", XT.dtype, _build_back)


def _build_rows(builder: ir.IRBuilder, arguments: Any, number: ir.Type, with_squares: bool) -> None:
    rows, d, XT, Y, mean, share, factor, threshold, index, count, *outputs = arguments
    code, one = Code(builder, number), Code(builder, number, lanes=1)
    zero = code.word(0)
    bases = outputs[: 1 + with_squares]
    width = builder.and_(d, code.word(-code.lanes))
    n_rows = list_rows(code, rows, share, threshold, index)

    def each_row(add: Any) -> None:
        with code.loop(zero, n_rows) as (t, _):
            r = builder.load(code.at(index, t))
            add(r, builder.fmul(builder.load(code.at(share, r)), builder.load(code.at(factor, r))))

    def features(j: Any, kind: Code, n_vectors: int, values: Any) -> None:
        """Add the moments of n_vectors vectors of features from j; `values(r, v)` reads one of a row."""
        slots = kind.zeros(n_vectors * len(bases))
        kind.clear(slots)
        places = [kind.plus(j, v * kind.lanes) for v in range(n_vectors)]
        centres = [kind.load(mean, place) for place in places]

        def add(r: Any, weight: Any) -> None:
            weight = kind.splat(weight)
            for v in range(n_vectors):
                _add_centred(kind, values(r, places[v]), weight, centres[v], slots[v::n_vectors])

        each_row(add)
        for i, slot in enumerate(slots):
            kind.add_wide(builder.load(slot), bases[i // n_vectors], places[i % n_vectors])

    mass = one.zeros(1)
    one.clear(mass)
    each_row(lambda r, weight: builder.store(builder.fadd(builder.load(mass[0]), one.splat(weight)), mass[0]))
    one.add_wide(builder.load(mass[0]), count, zero)

    def of_row(r: Any, place: Any) -> Any:
        return code.load(Y, builder.add(builder.mul(r, width), place))

    fours = builder.and_(d, code.word(-_VECTORS * code.lanes))
    with code.loop(zero, fours, _VECTORS * code.lanes) as (j, _):
        features(j, code, _VECTORS, of_row)
    with code.loop(fours, width, code.lanes) as (j, _):
        features(j, code, 1, of_row)
    with code.loop(width, d) as (j, _):
        features(j, one, 1, lambda r, place: one.load(XT, builder.add(builder.mul(place, one.word(STRIDE)), r)))


def _rows_in_python(rows, d, XT, Y, mean, share, factor, threshold, index, count, sums, squares, with_squares):
    chosen = share[:rows] > threshold
    weight, centred = (share[:rows] * factor[:rows])[chosen], XT[:d, :rows][:, chosen] - mean[:, None]
    count += weight.sum()
    sums += centred @ weight
    if with_squares:
        squares += centred**2 @ weight


@instruction(_rows_in_python)
def _add_rows(typingcontext, rows, d, XT, Y, mean, share, factor, threshold, index, count, sums, squares, with_squares):
    """Add count and moments of the rows whose share exceeds the threshold to those of one component."""
    made = _moments_generator("rows", XT.dtype, _build_rows, with_squares)
    arrays, outputs = (XT, Y, mean, share, factor), (index, count, sums, squares)
    return made and (types.void(types.intp, types.intp, *arrays, XT.dtype, *outputs, with_squares), made)


# --- the choice


@kernel
def _choose_rows(
    rows,
    d,
    lanes,
    heavy,  # (k,)
    passes,  # what a vector of features costs as columns, in cycles
    alone,  # (k,) intp OUT: 1 for a component that shall take its rows alone
):
    """Choose how each component of a block takes its rows; return whether any takes them alone."""
    saved = -4.4 * rows * (d // lanes)  # measured cycles, here and below
    for c in range(heavy.shape[0]):
        few = 90.0 + heavy[c] * (10.0 + 1.7 * (d // lanes) + 3.5 * (d % lanes))
        gain = passes * rows * d / lanes - few
        alone[c] = 1 if gain > 0.0 and heavy[c] > 0 else 0
        saved += gain if alone[c] else 0.0
    return saved > 0.0


def _adder(with_squares: int, passes: float) -> Any:
    @kernel
    def add(
        rows,
        XT,  # (>= d, STRIDE) rows as columns
        means,  # (k, d)
        share,  # (k, STRIDE) INOUT: multiplied by the factor or left
        factor,  # (STRIDE,)
        negligible,  # (k,) float64: a smaller share does not matter
        heavy,  # (k,) float64: how many rows matter, at most
        Y,  # (>= d, STRIDE) room to work in
        counts,  # (k,) float64 OUT
        sums,  # (k, d) float64 OUT
        squares,  # (k, d) float64 OUT, or anything if there are none
    ):
        k, d = means.shape
        places = np.zeros((2, max(k, STRIDE)), np.intp)
        wanted, index = places[0, :k], places[1]
        if _choose_rows(rows, d, _BYTES // XT.itemsize, heavy, passes, wanted):
            _turn_back(rows, d, XT, Y)
            for c in range(k):
                if wanted[c]:
                    least = share.dtype.type(negligible[c])
                    _add_rows(
                        rows, d, XT, Y, means[c], share[c], factor, least, index,
                        counts[c : c + 1], sums[c], squares[c], with_squares,
                    )  # fmt: skip
                wanted[c] = 0 if wanted[c] else heavy[c] > 0
        else:
            for c in range(k):
                wanted[c] = heavy[c] > 0
        for c in range(k):
            if wanted[c]:
                n = share.dtype.type(0)
                for r in range(rows):
                    resp = share[c, r] * factor[r]
                    share[c, r] = resp
                    n += resp
                counts[c] += n
        _add_columns(rows, d, k, XT, means, share, wanted, sums, squares, with_squares)

    return add


# Adds counts, sums and sums of squares of a block about the means.
add_moments = _adder(1, 1.35)
_add_sums = _adder(0, 0.9)


@kernel
def add_sums(rows, XT, means, share, factor, negligible, heavy, Y, counts, sums):
    """Add counts and sums alone."""
    _add_sums(rows, XT, means, share, factor, negligible, heavy, Y, counts, sums, sums)
