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
        """Horizontal sums, in order, up to `lanes` of them in each vector: neighbours are added until one is left."""
        even, odd = list(range(0, 2 * self.lanes, 2)), list(range(1, 2 * self.lanes, 2))

        def add_neighbours(a: Any, b: Any) -> Any:
            return self.builder.fadd(self.shuffle(a, b, even), self.shuffle(a, b, odd))

        out = []
        for first in range(0, len(vectors), self.lanes):
            group = vectors[first : first + self.lanes]
            size = len(group)
            while len(group) > 1:
                group = [add_neighbours(a, b) for a, b in zip(group[::2], group[1::2], strict=True)]
            while size < self.lanes:
                group = [add_neighbours(group[0], group[0])]
                size *= 2
            out.append(group[0])
        return out

    def add_quad(self, totals: list[Any], places: list[int], out: Any, at: Any) -> None:
        """Add the four totals at `places`, as float64, to ``out[at : at + 4]``."""
        double = ir.DoubleType()
        quad = ir.VectorType(double, 4)
        vectors = {place // self.lanes for place in places}
        if len(vectors) == 1:
            vector = totals[vectors.pop()]
            four = self.shuffle(vector, vector, [place % self.lanes for place in places])
        else:
            four = ir.Constant(ir.VectorType(self.number, 4), ir.Undefined)
            for i, place in enumerate(places):
                four = self.builder.insert_element(four, self.lane(totals, place), ir.Constant(ir.IntType(32), i))
        four = four if self.number == double else self.builder.fpext(four, quad)
        target = self.builder.bitcast(self.at(out, at), quad.as_pointer())
        self.builder.store(self.builder.fadd(self.builder.load(target, align=8), four), target, align=8)

    def add_one(self, totals: list[Any], place: int, out: Any, at: Any) -> None:
        """Add one total to ``out[at]``."""
        one = self.lane(totals, place)
        one = one if self.number == ir.DoubleType() else self.builder.fpext(one, ir.DoubleType())
        target = self.at(out, at)
        self.builder.store(self.builder.fadd(self.builder.load(target), one), target)

    def lane(self, totals: list[Any], place: int) -> Any:
        return self.builder.extract_element(
            totals[place // self.lanes], ir.Constant(ir.IntType(32), place % self.lanes)
        )


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


def _density(scaled: bool) -> Any:
    """Code generation of `diagonal_density` (each feature has its scale) and `round_density` (all the same one)."""

    def typing(number: Any, arguments: tuple) -> Any:
        def generate(context, builder, signature, args):
            real = context.get_value_type(number)

            def build(builder, arguments):
                rows, d, XT, mean, scale, offset, distance, log_joint, best = arguments
                code = _Code(builder, real)
                n = vectors_of_rows()
                squares = code.zeros(n)
                zero = code.word(0)
                with code.loop(zero, rows, n * code.lanes) as (r, _):
                    code.clear(squares)
                    with code.loop(zero, d) as (j, _):
                        centre = code.number_at(mean, j)
                        factor = code.number_at(scale, j) if scaled else None
                        source = builder.add(builder.mul(j, code.word(STRIDE)), r)
                        for v in range(n):
                            y = builder.fsub(code.load(XT, code.plus(source, v * code.lanes)), centre)
                            y = builder.fmul(y, factor) if scaled else y
                            builder.store(code.fma(y, y, builder.load(squares[v])), squares[v])
                    minus_half = ir.Constant(code.vector, [-0.5] * code.lanes)
                    for v in range(n):
                        place = code.plus(r, v * code.lanes)
                        square = builder.load(squares[v])
                        if not scaled:
                            code.store(square, distance, place)
                            factor = code.number_at(scale, zero)
                            square = builder.fmul(factor, builder.fmul(factor, square))
                        value = code.fma(minus_half, square, code.splat(offset))
                        code.store(value, log_joint, place)
                        old = code.load(best, place)
                        code.store(builder.select(builder.fcmp_ordered(">", value, old), value, old), best, place)

            pointer = real.as_pointer()
            kinds = [_WORD, _WORD, pointer, pointer, pointer, real, pointer, pointer, pointer]
            name = f"fastem.{'diagonal' if scaled else 'round'}.{number}"
            procedure = _procedure(builder, name, kinds, build)
            values = [
                _data(context, builder, kind, value) if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, args, strict=True)
            ]
            builder.call(procedure, values)
            return context.get_dummy_value()

        _, _, XT, mean, scale, _, distance, log_joint, best = arguments
        return types.void(types.intp, types.intp, XT, mean, scale, number, distance, log_joint, best), generate

    return typing


@intrinsic
def diagonal_density(typingcontext, rows, d, XT, mean, scale, offset, distance, log_joint, best):
    """Write offset - sum_j ((x_j - mean_j) scale_j)^2 / 2 to `log_joint`, and raise `best` to it; no `distance`."""
    return _density(True)(XT.dtype, (rows, d, XT, mean, scale, offset, distance, log_joint, best))


@intrinsic
def round_density(typingcontext, rows, d, XT, mean, scale, offset, distance, log_joint, best):
    """Write distance = |x - mean|^2, offset - scale[0]^2 distance / 2 to `log_joint`, and raise `best` to it."""
    return _density(False)(XT.dtype, (rows, d, XT, mean, scale, offset, distance, log_joint, best))


@intrinsic
def add_moments(typingcontext, rows, d, XT, mean, resp, out, sums, squares):
    """Add sum_r resp_r (x_rj - mean_j) to ``out[sums + j]``, and of its square to ``out[squares + j]``.

    Parameters
    ----------
    rows, d : int
        A multiple of the lanes of a vector; features.
    XT : array (d, STRIDE)
        Rows as columns.
    mean, resp : arrays (d,), (STRIDE,)
        Centre; weight of each row.
    out : float64 array
        The moments.  # OUT
    sums, squares : int
        Where they begin; a negative `squares` asks for none.
    """
    number = XT.dtype

    def generate(context, builder, signature, args):
        real = context.get_value_type(number)
        pointer = real.as_pointer()

        def procedure_for(with_squares):
            def build(builder, arguments):
                rows, d, XT, mean, resp, out, sums, squares = arguments
                code = _Code(builder, real)
                zero = code.word(0)
                whole = builder.and_(d, code.word(-4))

                def features(j, count):
                    slots = code.zeros(2 * count if with_squares else count)
                    code.clear(slots)
                    centres = [code.number_at(mean, code.plus(j, a)) for a in range(count)]
                    first = builder.mul(j, code.word(STRIDE))
                    with code.loop(zero, rows, code.lanes) as (r, _):
                        weight = code.load(resp, r)
                        for a in range(count):
                            x = code.load(XT, builder.add(code.plus(first, a * STRIDE), r))
                            x = builder.fsub(x, centres[a])
                            if with_squares:
                                w = builder.fmul(weight, x)
                                builder.store(builder.fadd(builder.load(slots[a]), w), slots[a])
                                builder.store(code.fma(w, x, builder.load(slots[count + a])), slots[count + a])
                            else:
                                builder.store(code.fma(weight, x, builder.load(slots[a])), slots[a])
                    totals = code.sums([builder.load(slot) for slot in slots])
                    for part, base in enumerate((sums, squares) if with_squares else (sums,)):
                        at = builder.add(base, j)
                        if count == 4:
                            code.add_quad(totals, [4 * part + a for a in range(4)], out, at)
                        else:
                            code.add_one(totals, part, out, at)

                with code.loop(zero, whole, 4) as (j, _):
                    features(j, 4)
                with code.loop(whole, d) as (j, _):
                    features(j, 1)

            kinds = [_WORD, _WORD, pointer, pointer, pointer, ir.DoubleType().as_pointer(), _WORD, _WORD]
            return _procedure(builder, f"fastem.moments{'2' if with_squares else '1'}.{number}", kinds, build)

        values = [
            _data(context, builder, kind, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, args, strict=True)
        ]
        with_squares, without = procedure_for(True), procedure_for(False)
        wanted = builder.icmp_signed(">=", args[-1], ir.Constant(_WORD, 0))
        with builder.if_else(wanted) as (yes, no):
            with yes:
                builder.call(with_squares, values)
            with no:
                builder.call(without, values)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, integer, XT, mean, resp, out, integer, integer), generate
