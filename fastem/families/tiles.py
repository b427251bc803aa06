"""Register tiles written as LLVM vectors: the two inner loops that LLVM's vectoriser cannot arrange.

It vectorises innermost loops only.  A triangular product then keeps its running sums in memory (4 loads and 4 stores
for 16 multiply-adds), and a tile of sums over rows ends in 16 separate horizontal sums.  Here 4 outputs x `n_vectors`
vectors of rows stay in registers over the whole inner product, and the sums of a tile are reduced together.  Everything
is sized by the machine that compiles: 32 vectors of 64 bytes with AVX-512, otherwise 16 of 32, or 32 of 16 (ARM).
"""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastem.families.math import STRIDE

_WORD = ir.IntType(64)


class Machine(NamedTuple):
    """Vector registers of this machine."""

    n_bytes: int  # of a register
    many: bool  # 32 registers, not 16


def _machine() -> Machine:
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return Machine(64, True)
    if features.get("avx"):
        return Machine(32, False)
    return Machine(16, bool(features.get("neon")))


MACHINE = _machine()


class _Code:
    """Short names for building loops over vectors of `lanes` numbers; variables are stack slots that LLVM promotes."""

    def __init__(self, builder: ir.IRBuilder, number: ir.Type) -> None:
        self.builder = builder
        self.number = number
        self.lanes = MACHINE.n_bytes // (8 if number == ir.DoubleType() else 4)
        self.vector = ir.VectorType(number, self.lanes)

    def at(self, base: Any, index: Any) -> Any:
        return self.builder.gep(base, [index])

    def word(self, value: int) -> Any:
        return ir.Constant(_WORD, value)

    def plus(self, a: Any, b: Any) -> Any:
        return self.builder.add(a, self.word(b) if isinstance(b, int) else b)

    def load(self, base: Any, index: Any) -> Any:
        pointer = self.builder.bitcast(self.at(base, index), self.vector.as_pointer())
        return self.builder.load(pointer, align=self.size)

    def store(self, value: Any, base: Any, index: Any) -> None:
        pointer = self.builder.bitcast(self.at(base, index), self.vector.as_pointer())
        self.builder.store(value, pointer, align=self.size)

    @property
    def size(self) -> int:
        return 8 if self.number == ir.DoubleType() else 4

    def splat(self, scalar: Any) -> Any:
        first = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
        )
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, first, mask)

    def number_at(self, base: Any, index: Any) -> Any:
        return self.splat(self.builder.load(self.at(base, index)))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.size}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def zeros(self, count: int) -> list[Any]:
        slots = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        self.clear(slots)
        return slots

    def clear(self, slots: list[Any]) -> None:
        for slot in slots:
            self.builder.store(ir.Constant(self.vector, [0.0] * self.lanes), slot)

    def loop(self, start: Any, stop: Any, step: int = 1) -> Any:
        return cgutils.for_range_slice(self.builder, start, stop, self.word(step), _WORD)

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

    def sums(self, vectors: list[Any]) -> list[Any]:
        """Horizontal sums, in order, `lanes` of them in each vector: adds neighbours until each vector is full."""
        even, odd = list(range(0, 2 * self.lanes, 2)), list(range(1, 2 * self.lanes, 2))
        groups = [vectors[i : i + self.lanes] for i in range(0, len(vectors), self.lanes)]
        out = []
        for group in groups:
            while len(group) > 1:
                pairs = zip(group[::2], group[1::2], strict=True)
                group = [self.builder.fadd(self.shuffle(a, b, even), self.shuffle(a, b, odd)) for a, b in pairs]
            out.append(group[0])
        return out


def _procedure(builder: ir.IRBuilder, name: str, kinds: list[ir.Type], build: Any) -> ir.Function:
    """Define an internal function of the module once; `build(builder, args)` writes its body."""
    if name in builder.module.globals:
        return builder.module.globals[name]
    function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name=name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    for argument in function.args:
        if isinstance(argument.type, ir.PointerType):
            argument.add_attribute("noalias")
    inner = ir.IRBuilder(function.append_basic_block())
    build(inner, function.args)
    inner.ret_void()
    return function


def _data(context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


def vectors_of_rows() -> int:
    """Vectors of rows that the triangular product keeps in registers, times 4 features."""
    return 4 if MACHINE.many else 2


@intrinsic
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
        pointer = real.as_pointer()
        kinds = [_WORD, _WORD, _WORD, pointer, pointer, pointer, real, pointer, pointer, pointer]

        def build(builder, arguments):
            rows, d, dp, XT, mean, P, offset, panel, log_joint, best = arguments
            code = _Code(builder, real)
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

        procedure = _procedure(builder, f"fastem.mahalanobis.{number}", kinds, build)
        kind = dict(
            zip(("rows", "d", "XT", "mean", "P", "offset", "panel", "log_joint", "best"), signature.args, strict=True)
        )
        value = dict(zip(kind, args, strict=True))
        factor = context.make_array(kind["P"])(context, builder, value["P"])
        dp = cgutils.unpack_tuple(builder, factor.shape)[0]
        arrays = {
            name: _data(context, builder, kind[name], value[name])
            for name in kind
            if isinstance(kind[name], types.Array)
        }
        builder.call(
            procedure,
            [
                value["rows"],
                value["d"],
                dp,
                arrays["XT"],
                arrays["mean"],
                arrays["P"],
                value["offset"],
                arrays["panel"],
                arrays["log_joint"],
                arrays["best"],
            ],
        )
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, integer, XT, mean, P, number, panel, log_joint, best), generate


@intrinsic
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
        The sums.  # OUT
    width, at : int
        Row length of the matrix in `out`, and where the tile begins.
    mirrored : int
        Where the transposed tile begins; -1 for none.
    """
    number = Z.dtype

    def generate(context, builder, signature, args):
        real = context.get_value_type(number)
        pointer, double = real.as_pointer(), ir.DoubleType()
        columns = 4 if MACHINE.many else 2

        def build(builder, arguments):
            rows, left, right, out, width, at, mirrored = arguments
            code = _Code(builder, real)
            flat: dict[tuple[int, int], Any] = {}
            for first in range(0, 4, columns):
                slots = code.zeros(4 * columns)
                with code.loop(code.word(0), rows, code.lanes) as (r, _):
                    z = [code.load(left, code.plus(r, a * STRIDE)) for a in range(4)]
                    for b in range(columns):
                        x = code.load(right, code.plus(r, (first + b) * STRIDE))
                        for a in range(4):
                            slot = slots[a * columns + b]
                            builder.store(code.fma(z[a], x, builder.load(slot)), slot)
                totals = code.sums([builder.load(slot) for slot in slots])
                for a in range(4):
                    for b in range(columns):
                        place = a * columns + b
                        flat[a, first + b] = (totals[place // code.lanes], place % code.lanes)

            quad = ir.VectorType(double, 4)

            def collect(cells):
                """Four totals as float64: one shuffle where they share a vector."""
                if len({id(flat[cell][0]) for cell in cells}) == 1:
                    vector = flat[cells[0]][0]
                    four = code.shuffle(vector, vector, [flat[cell][1] for cell in cells])
                else:
                    four = ir.Constant(ir.VectorType(real, 4), ir.Undefined)
                    for place, cell in enumerate(cells):
                        vector, lane = flat[cell]
                        index = ir.Constant(ir.IntType(32), lane)
                        here = ir.Constant(ir.IntType(32), place)
                        four = builder.insert_element(four, builder.extract_element(vector, index), here)
                return four if real == double else builder.fpext(four, quad)

            def add(cells, place):
                target = builder.bitcast(code.at(out, place), quad.as_pointer())
                builder.store(builder.fadd(builder.load(target, align=8), collect(cells)), target, align=8)

            for a in range(4):
                add([(a, b) for b in range(4)], builder.add(at, builder.mul(width, code.word(a))))
            with builder.if_then(builder.icmp_signed(">=", mirrored, code.word(0))):
                for b in range(4):
                    add([(a, b) for a in range(4)], builder.add(mirrored, builder.mul(width, code.word(b))))

        kinds = [_WORD, pointer, pointer, double.as_pointer(), _WORD, _WORD, _WORD]
        procedure = _procedure(builder, f"fastem.outer.{number}", kinds, build)
        # One tile lies on the diagonal and reads the same rows twice: nothing is written there, so noalias holds.
        rows, columns_of_rows, i, j, sums, width, at, mirrored = args
        base = _data(context, builder, signature.args[1], columns_of_rows)
        left = builder.gep(base, [builder.mul(i, ir.Constant(_WORD, STRIDE))])
        right = builder.gep(base, [builder.mul(j, ir.Constant(_WORD, STRIDE))])
        target = _data(context, builder, signature.args[4], sums)
        builder.call(procedure, [rows, left, right, target, width, at, mirrored])
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, Z, integer, integer, out, integer, integer, integer), generate
