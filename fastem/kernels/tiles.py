"""Register tiles written as LLVM vectors: the inner loops that LLVM's vectoriser cannot arrange.

It vectorises innermost loops only.  A triangular product then keeps its running sums in memory (4 loads and 4 stores
for 16 multiply-adds), and a tile of sums over rows ends in 16 separate horizontal sums.  Here 4 outputs x `n_vectors`
vectors of rows stay in registers over the whole inner product, and the sums of a tile are reduced together.  Everything
is sized by the machine that compiles: 32 vectors of 64 bytes with AVX-512, otherwise 16 of 32, or 32 of 16 (ARM).
"""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from fastem.jit import instruction
from fastem.kernels.blocks import STRIDE
from fastem.kernels.vectors import MACHINE, WORD, Code, call, generator, passed, shape_of


def vectors_of_rows() -> int:
    """Vectors of rows that the triangular product keeps in registers, times 4 features."""
    return 4 if MACHINE.many else 2


def _write_density(rows, squares, offset, log_joint, best):
    """Write offset - squares / 2 (rows,) to `log_joint`, and raise `best` to it."""
    log_joint[:rows] = offset - 0.5 * squares
    best[:rows] = np.where(log_joint[:rows] > best[:rows], log_joint[:rows], best[:rows])


def _mahalanobis_in_python(rows, d, XT, mean, P, offset, panel, log_joint, best):
    whitened = (XT[:d, :rows] - mean[:, None]).T @ P[:d, :d]
    _write_density(rows, np.square(whitened).sum(axis=1), offset, log_joint, best)


@instruction(_mahalanobis_in_python)
def mahalanobis(typingcontext, rows, d, XT, mean, P, offset, panel, log_joint, best):
    """Write offset - |(x - mean) P|^2 / 2 of a block to `log_joint`, and raise `best` to it.

    Parameters
    ----------
    rows, d : int
        Rows of the block, a multiple of `math.LANES`; features.
    XT : array (dp, STRIDE)
        Rows as columns; dp is a multiple of 4.
    mean : array (d,)
        The centre.
    P : array (dp, dp)
        Upper triangular.
    offset : scalar
        The log-density at the centre.
    panel : array of at least dp * 64 numbers
        Room to work in; zeros beyond the first d rows of the panel.
    log_joint, best : arrays (STRIDE,)
        Results.  # OUT
    """
    number = XT.dtype

    def generate(context, builder, signature, args):
        real = context.get_value_type(number)

        def build(builder, arguments):
            rows, d, dp, XT, mean, P, offset, panel, log_joint, best = arguments
            code = Code(builder, real)
            n = vectors_of_rows()
            width = n * code.lanes
            products, squares = code.zeros(4 * n), code.zeros(n)
            zero = code.word(0)
            with code.loop(zero, rows, width) as (r, _):
                with code.loop(zero, d) as (j, _):
                    centre = code.number_at(mean, j)
                    source = builder.add(builder.mul(j, code.word(STRIDE)), r)
                    target = builder.mul(j, code.word(width))
                    for v in range(n):
                        x = builder.fsub(code.load(XT, code.plus(source, v * code.lanes)), centre)
                        code.store(x, panel, code.plus(target, v * code.lanes))
                code.clear(squares)
                with code.loop(zero, dp, 4) as (i, _):
                    code.clear(products)

                    def step(j, n_skipped, i=i):
                        x = [
                            code.load(panel, code.plus(builder.mul(j, code.word(width)), v * code.lanes))
                            for v in range(n)
                        ]
                        row = builder.add(builder.mul(j, dp), i)
                        for a in range(n_skipped, 4):
                            p = code.number_at(P, code.plus(row, a))
                            for v in range(n):
                                slot = products[a * n + v]
                                builder.store(code.fma(p, x[v], builder.load(slot)), slot)

                    with code.loop(zero, i) as (j, _):
                        step(j, 0)
                    for a in range(4):
                        step(code.plus(i, a), a)
                    for v in range(n):
                        for a in range(4):
                            y = builder.load(products[a * n + v])
                            builder.store(code.fma(y, y, builder.load(squares[v])), squares[v])
                minus_half = ir.Constant(code.vector, [-0.5] * code.lanes)
                for v in range(n):
                    place = code.plus(r, v * code.lanes)
                    value = code.fma(minus_half, builder.load(squares[v]), code.splat(offset))
                    code.store(value, log_joint, place)
                    old = code.load(best, place)
                    code.store(builder.select(builder.fcmp_ordered(">", value, old), value, old), best, place)

        rows, d, *others = passed(context, builder, signature, args)
        dp = shape_of(context, builder, signature.args[4], args[4])[0]
        call(builder, f"fastem.mahalanobis.{number}", [rows, d, dp, *others], build)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, integer, XT, mean, P, number, panel, log_joint, best), generate


def _outer_in_python(rows, Z, i, j, out, width, at, mirrored):
    tile, out = Z[i : i + 4, :rows] @ Z[j : j + 4, :rows].T, out.reshape(-1)
    for a in range(4):
        out[at + a * width :][:4] += tile[a]
        if mirrored >= 0:
            out[mirrored + a * width :][:4] += tile[:, a]


@instruction(_outer_in_python)
def add_outer_tile(typingcontext, rows, Z, i, j, out, width, at, mirrored):
    """Add the 4 x 4 sums over rows of Z[i + a] * Z[j + b] to ``out[at + a * width + b]``, and to its transpose.

    Parameters
    ----------
    rows : int
        A multiple of the lanes of a vector.
    Z : array (dp, STRIDE)
        Rows as columns.
    i, j : int
        First features of the tile.
    out : float64 array
        The sums, C-contiguous; places are counted from its first number.  # OUT
    width, at : int
        Row length of the matrix in `out`, and where the tile begins.
    mirrored : int
        Where the transposed tile begins; -1 for none.
    """
    number = Z.dtype

    def generate(context, builder, signature, args):
        real = context.get_value_type(number)
        columns = 4 if MACHINE.many else 2

        def build(builder, arguments):
            rows, left, right, out, width, at, mirrored = arguments
            code = Code(builder, real)
            sums: list[Any] = [None] * 16
            for first in range(0, 4, columns):
                slots = code.zeros(4 * columns)
                with code.loop(code.word(0), rows, code.lanes) as (r, _):
                    z = [code.load(left, code.plus(r, a * STRIDE)) for a in range(4)]
                    for b in range(columns):
                        x = code.load(right, code.plus(r, (first + b) * STRIDE))
                        for a in range(4):
                            slot = slots[a * columns + b]
                            builder.store(code.fma(z[a], x, builder.load(slot)), slot)
                for place, slot in enumerate(slots):
                    sums[place // columns * 4 + first + place % columns] = builder.load(slot)
            totals = code.sums(sums)
            for a in range(4):
                places = [4 * a + b for b in range(4)]
                code.add_quad(totals, places, out, builder.add(at, builder.mul(width, code.word(a))))
            with builder.if_then(builder.icmp_signed(">=", mirrored, code.word(0))):
                for b in range(4):
                    places = [4 * a + b for a in range(4)]
                    code.add_quad(totals, places, out, builder.add(mirrored, builder.mul(width, code.word(b))))

        # One tile lies on the diagonal and reads the same rows twice: nothing is written there, so noalias holds.
        rows, base, i, j, *others = passed(context, builder, signature, args)
        left = builder.gep(base, [builder.mul(i, ir.Constant(WORD, STRIDE))])
        right = builder.gep(base, [builder.mul(j, ir.Constant(WORD, STRIDE))])
        call(builder, f"fastem.outer.{number}", [rows, left, right, *others], build)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, Z, integer, integer, out, integer, integer, integer), generate


def _density(scaled: bool, kept: bool) -> Any:
    """Code generation of the densities below: `scaled`, each feature has its scale; `kept`, distances are written."""
    n_components = 4 if MACHINE.many else 2

    def build(builder: Any, arguments: Any, number: Any) -> None:
        rows, d, k, XT, means, *rest = arguments
        scales = rest.pop(0) if scaled or kept else None
        offsets, *rest = rest
        distances = rest.pop(0) if kept else None
        log_joint, best = rest
        code = Code(builder, number)
        n = vectors_of_rows()
        squares, top = code.zeros(n_components * n), code.zeros(n)
        zero = code.word(0)
        minus_half, nothing = (ir.Constant(code.vector, [value] * code.lanes) for value in (-0.5, -math.inf))

        def tile(r: Any, c: Any, count: int) -> None:
            """Evaluate components c..c + count for n vectors of rows from r."""
            code.clear(squares)
            with code.loop(zero, d) as (j, _):
                source = builder.add(builder.mul(j, code.word(STRIDE)), r)
                x = [code.load(XT, code.plus(source, v * code.lanes)) for v in range(n)]
                for i in range(count):
                    own = builder.add(builder.mul(code.plus(c, i), d), j)
                    centre = code.number_at(means, own)
                    factor = code.number_at(scales, own) if scaled else None
                    for slot, value in zip(squares[i * n :], x, strict=False):
                        y = builder.fsub(value, centre)
                        y = builder.fmul(y, factor) if scaled else y
                        builder.store(code.fma(y, y, builder.load(slot)), slot)
            for i in range(count):
                component = code.plus(c, i)
                offset = builder.load(code.at(offsets, component))
                offset = code.splat(offset if number == ir.DoubleType() else builder.fptrunc(offset, number))
                for v in range(n):
                    place = builder.add(builder.mul(component, code.word(STRIDE)), code.plus(r, v * code.lanes))
                    square = builder.load(squares[i * n + v])
                    if kept:
                        code.store(square, distances, place)
                        factor = code.number_at(scales, component)
                        square = builder.fmul(factor, builder.fmul(factor, square))
                    value, old = code.fma(minus_half, square, offset), builder.load(top[v])
                    code.store(value, log_joint, place)
                    builder.store(builder.select(builder.fcmp_ordered(">", value, old), value, old), top[v])

        whole = builder.and_(k, code.word(-n_components))
        with code.loop(zero, rows, n * code.lanes) as (r, _):
            for slot in top:
                builder.store(nothing, slot)
            with code.loop(zero, whole, n_components) as (c, _):
                tile(r, c, n_components)
            with code.loop(whole, k) as (c, _):
                tile(r, c, 1)
            for v, slot in enumerate(top):
                code.store(builder.load(slot), best, code.plus(r, v * code.lanes))

    def typing(number: Any, arguments: tuple) -> Any:
        name = "diagonal" if scaled else "round" if kept else "plain"
        return types.void(*[types.intp] * 3, *arguments), generator(name, number, build)

    return typing


_diagonal, _round, _plain = _density(True, False), _density(False, True), _density(False, False)


def _diagonal_in_python(rows, d, k, XT, means, scales, offsets, log_joint, best):
    best[:rows] = -np.inf
    for c in range(k):
        scaled = (XT[:d, :rows] - means[c, :, None]) * scales[c, :, None]
        _write_density(rows, np.square(scaled).sum(axis=0), offsets[c], log_joint[c], best)


def _round_in_python(rows, d, k, XT, means, scales, offsets, distances, log_joint, best):
    best[:rows] = -np.inf
    for c in range(k):
        distances[c, :rows] = np.square(XT[:d, :rows] - means[c, :, None]).sum(axis=0)
        _write_density(rows, scales[c] * (scales[c] * distances[c, :rows]), offsets[c], log_joint[c], best)


def _plain_in_python(rows, d, k, XT, means, offsets, log_joint, best):
    _diagonal_in_python(rows, d, k, XT, means, np.ones_like(means), offsets, log_joint, best)


@instruction(_diagonal_in_python)
def diagonal_density(typingcontext, rows, d, k, XT, means, scales, offsets, log_joint, best):
    """Write log-densities of all components of a block, and the largest of each row.

    offset_c - sum_j ((x_j - mean_cj) scale_cj)^2 / 2.

    Parameters
    ----------
    rows, d, k : int
        Rows of the block, a multiple of `math.LANES`; features; components.
    XT : array (>= d, STRIDE)
        Rows as columns.
    means, scales : arrays (k, d)
        Centres, and what each feature is multiplied by.
    offsets : float64 array (k,)
        The log-densities at the centres.
    log_joint, best : arrays (k, STRIDE), (STRIDE,)
        Results.  # OUT
    """
    return _diagonal(XT.dtype, (XT, means, scales, offsets, log_joint, best))


@instruction(_round_in_python)
def round_density(typingcontext, rows, d, k, XT, means, scales, offsets, distances, log_joint, best):
    """Do the same with scales (k,), one for all features, and write |x - mean|^2 to `distances` (k, STRIDE)."""
    return _round(XT.dtype, (XT, means, scales, offsets, distances, log_joint, best))


@instruction(_plain_in_python)
def plain_density(typingcontext, rows, d, k, XT, means, offsets, log_joint, best):
    """Do the same without scales: offset_c - |x - mean_c|^2 / 2."""
    return _plain(XT.dtype, (XT, means, offsets, log_joint, best))
