"""Products with blocks of rows of many features, read as they lie in memory: nothing is transposed.

Vectors run over features.  A tile of 4 rows by up to 5 components keeps its inner products in registers over all
features; a tile of 4 vectors of features by up to 5 components keeps its sums in registers over all rows of a block.
A block comes from memory for the first and is still in the second-level cache for the second.

What is left of the features, less than a vector, is read with the end of the vector before, which then counts for
nothing: so that rows need as many features as a vector has numbers.
"""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastem.jit import instruction
from fastem.kernels.blocks import STRIDE
from fastem.kernels.vectors import MACHINE, WORD, Code, call, passed, shape_of

ROWS = 4
VECTORS = 4 if MACHINE.many else 2
COMPONENTS = 5 if MACHINE.many else 2  # of a tile, at most
# Features from which reading rows as they lie pays.
LEAST_FEATURES = 32


def _last(code: Code, d: Any, vector: Any) -> Any:
    """Return the last d modulo `lanes` numbers of a vector in their places, and zeros before them."""
    n = code.lanes
    kind = ir.VectorType(WORD, n)
    used = code.builder.sub(code.word(n), code.builder.and_(d, code.word(n - 1)))
    first = code.builder.insert_element(ir.Constant(kind, ir.Undefined), used, ir.Constant(ir.IntType(32), 0))
    first = code.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), n), [0] * n))
    counts = code.builder.icmp_signed(">=", ir.Constant(kind, list(range(n))), first)
    return code.builder.select(counts, vector, ir.Constant(code.vector, [0.0] * n))


def _each_vector(code: Code, d: Any, step: Any) -> None:
    """Call ``step(j, keep)`` for the vectors of d features; `keep` leaves of the last one what is not done yet."""
    n = code.lanes
    with code.loop(code.word(0), code.builder.and_(d, code.word(-n)), n) as (j, _):
        step(j, lambda vector: vector)
    with code.builder.if_then(code.builder.icmp_signed("!=", code.builder.and_(d, code.word(n - 1)), code.word(0))):
        step(code.builder.sub(d, code.word(n)), lambda vector: _last(code, d, vector))


def _products(count: int) -> Any:
    """Code of the inner products of rows with `count` components."""

    def build(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
        X, d, start, m, origin, A, width, out = arguments
        code = Code(builder, number)
        slots = code.zeros(count * ROWS)
        last = builder.sub(m, code.word(1))
        with code.loop(code.word(0), m, ROWS) as (r, _):
            rows = []
            for i in range(ROWS):  # beyond the block its last row is read again
                row = code.plus(r, i)
                row = builder.select(builder.icmp_signed("<", row, last), row, last)
                rows.append(builder.mul(builder.add(start, row), d))
            code.clear(slots)

            def step(j: Any, keep: Any, rows: list[Any] = rows) -> None:
                centre = code.load(origin, j)
                x = [builder.fsub(code.load(X, builder.add(row, j)), centre) for row in rows]
                for row in rows:  # each row begins on a page of its own, where the processor cannot foresee it
                    code.fetch(X, builder.add(builder.add(row, j), builder.mul(d, code.word(ROWS))))
                for c in range(count):
                    a = keep(code.load(A, builder.add(builder.mul(width, code.word(c)), j)))
                    for i in range(ROWS):
                        slot = slots[c * ROWS + i]
                        builder.store(code.fma(a, x[i], builder.load(slot)), slot)

            _each_vector(code, d, step)
            sums = [builder.load(slot) for slot in slots]
            while (len(sums) % code.lanes) & (len(sums) % code.lanes - 1):  # groups of a power of two
                sums.append(ir.Constant(code.vector, [0.0] * code.lanes))
            totals = code.sums(sums)
            for c in range(count):
                for i in range(ROWS):
                    target = code.at(out, code.plus(r, c * STRIDE + i))
                    builder.store(code.lane(totals, c * ROWS + i), target)

    return build


def _sums(count: int) -> Any:
    """Code of the sums over rows for `count` components."""

    def build(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
        X, d, start, m, origin, resp, out = arguments
        code = Code(builder, number)
        slots = code.zeros(count * VECTORS)

        def panel(j: Any, n: int, keep: Any) -> None:
            code.clear(slots[: count * n])
            centres = [code.load(origin, code.plus(j, v * code.lanes)) for v in range(n)]
            with code.loop(code.word(0), m) as (r, _):
                row = builder.add(builder.mul(builder.add(start, r), d), j)
                x = [
                    builder.fsub(code.load(X, code.plus(row, v * code.lanes)), centre)
                    for v, centre in enumerate(centres)
                ]
                for c in range(count):
                    weight = code.number_at(resp, code.plus(r, c * STRIDE))
                    for v in range(n):
                        slot = slots[c * n + v]
                        builder.store(code.fma(weight, x[v], builder.load(slot)), slot)
            for c in range(count):
                for v in range(n):
                    at = builder.add(builder.mul(d, code.word(c)), code.plus(j, v * code.lanes))
                    code.add_wide(keep(builder.load(slots[c * n + v])), out, at)

        width = VECTORS * code.lanes
        whole = builder.mul(builder.sdiv(d, code.word(width)), code.word(width))
        with code.loop(code.word(0), whole, width) as (j, _):
            panel(j, VECTORS, lambda vector: vector)
        with code.loop(whole, builder.and_(d, code.word(-code.lanes)), code.lanes) as (j, _):
            panel(j, 1, lambda vector: vector)
        rest = builder.and_(d, code.word(code.lanes - 1))
        with builder.if_then(builder.icmp_signed("!=", rest, code.word(0))):
            panel(builder.sub(d, code.word(code.lanes)), 1, lambda vector: _last(code, d, vector))

    return build


def _over_components(builder: ir.IRBuilder, k: Any, tile: Any) -> None:
    """Call ``tile(c, count)`` for tiles of components that cover k: whole ones, then what is left."""
    most = ir.Constant(WORD, COMPONENTS)
    whole = builder.mul(builder.sdiv(k, most), most)
    with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), whole, most, WORD) as (c, _):
        tile(c, COMPONENTS)
    rest = builder.sub(k, whole)
    for count in range(1, COMPONENTS):
        with builder.if_then(builder.icmp_signed("==", rest, ir.Constant(WORD, count))):
            tile(whole, count)


def _multiply_in_python(X, start, m, origin, A, out):
    out[:, :m] = A[:, : X.shape[1]] @ (X[start : start + m] - origin).T


@instruction(_multiply_in_python)
def multiply_rows(typingcontext, X, start, m, origin, A, out):
    """Write the inner products of rows start..start + m, relative to the origin, with the rows of A.

    Parameters
    ----------
    X : array (n, d)
        Rows, C-contiguous; d is at least the lanes of a vector.
    start, m : int
        The first row, and how many, at least 1.
    origin : array (d,)
        A point.
    A : array (k, >= d)
        Coefficients.
    out : array (k, STRIDE)
        Products; up to three numbers beyond m are written too.  # OUT
    """
    if X.layout != "C" or out.layout != "C" or not (X.dtype == origin.dtype == A.dtype == out.dtype):
        return None

    def generate(context, builder, signature, args):
        real = context.get_value_type(X.dtype)
        rows, start, m, point, coefficients, products = passed(context, builder, signature, args)
        d = shape_of(context, builder, signature.args[0], args[0])[1]
        k, width = shape_of(context, builder, signature.args[4], args[4])

        def tile(c: Any, count: int) -> None:
            own = builder.gep(coefficients, [builder.mul(c, width)])
            target = builder.gep(products, [builder.mul(c, ir.Constant(WORD, STRIDE))])
            values = [rows, d, start, m, point, own, width, target]
            call(builder, f"fastem.products.{X.dtype}.{count}", values, partial(_products(count), number=real))

        _over_components(builder, k, tile)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(X, integer, integer, origin, A, out), generate


def _add_in_python(X, start, m, origin, resp, sums):
    sums += resp[:, :m] @ (X[start : start + m] - origin)


@instruction(_add_in_python)
def add_rows(typingcontext, X, start, m, origin, resp, sums):
    """Add resp times the rows start..start + m, relative to the origin, to ``sums[c, j]``.

    Parameters
    ----------
    X : array (n, d)
        Rows, C-contiguous; d is at least the lanes of a vector.
    start, m : int
        The first row, and how many.
    origin : array (d,)
        A point.
    resp : array (k, STRIDE)
        Weights of the rows; float32 is summed in float32.
    sums : float64 array (k, d)
        C-contiguous.  # OUT
    """
    if X.layout != "C" or resp.layout != "C" or not (X.dtype == origin.dtype == resp.dtype):
        return None

    def generate(context, builder, signature, args):
        real = context.get_value_type(X.dtype)
        rows, start, m, point, weights, target = passed(context, builder, signature, args)
        d = shape_of(context, builder, signature.args[0], args[0])[1]
        k = shape_of(context, builder, signature.args[4], args[4])[0]

        def tile(c: Any, count: int) -> None:
            own = builder.gep(weights, [builder.mul(c, ir.Constant(WORD, STRIDE))])
            values = [rows, d, start, m, point, own, builder.gep(target, [builder.mul(c, d)])]
            call(builder, f"fastem.sums.{X.dtype}.{count}", values, partial(_sums(count), number=real))

        _over_components(builder, k, tile)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(X, integer, integer, origin, resp, sums), generate
