"""Building kernels from LLVM vectors: their size on this machine, and short names for what is done with them."""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types

WORD = ir.IntType(64)


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


class Code:
    """Short names for building loops over vectors of `lanes` numbers; variables are stack slots that LLVM promotes."""

    def __init__(self, builder: ir.IRBuilder, number: ir.Type, lanes: int | None = None) -> None:
        self.builder = builder
        self.number = number
        self.lanes = lanes or MACHINE.n_bytes // (8 if number == ir.DoubleType() else 4)
        self.vector = ir.VectorType(number, self.lanes)

    def at(self, base: Any, index: Any) -> Any:
        return self.builder.gep(base, [index])

    def word(self, value: int) -> Any:
        return ir.Constant(WORD, value)

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

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.size}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def fetch(self, base: Any, index: Any) -> None:
        """Ask for the cache line of ``base[index]``, which need not exist."""
        pointer = self.builder.bitcast(self.at(base, index), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        self.builder.call(function, [pointer, flag(0), flag(3), flag(1)])

    def zeros(self, count: int) -> list[Any]:
        slots = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        self.clear(slots)
        return slots

    def clear(self, slots: list[Any]) -> None:
        for slot in slots:
            self.builder.store(ir.Constant(self.vector, [0.0] * self.lanes), slot)

    def loop(self, start: Any, stop: Any, step: int = 1) -> Any:
        return cgutils.for_range_slice(self.builder, start, stop, self.word(step), WORD)

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

    def add_wide(self, vector: Any, out: Any, at: Any) -> None:
        """Add a vector, as float64, to ``out[at : at + lanes]``."""
        vector, target = self._widened(vector, out, at)
        self.builder.store(self.builder.fadd(self.builder.load(target, align=8), vector), target, align=8)

    def store_wide(self, vector: Any, out: Any, at: Any) -> None:
        """Write a vector, as float64, to ``out[at : at + lanes]``."""
        vector, target = self._widened(vector, out, at)
        self.builder.store(vector, target, align=8)

    def _widened(self, vector: Any, out: Any, at: Any) -> tuple[Any, Any]:
        wide = ir.VectorType(ir.DoubleType(), self.lanes)
        vector = vector if self.number == ir.DoubleType() else self.builder.fpext(vector, wide)
        return vector, self.builder.bitcast(self.at(out, at), wide.as_pointer())

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


def procedure(builder: ir.IRBuilder, name: str, kinds: list[ir.Type], build: Any) -> ir.Function:
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


def call(builder: ir.IRBuilder, name: str, values: list[Any], build: Any) -> None:
    """Call the procedure of that name with these values; see `procedure`."""
    builder.call(procedure(builder, name, [value.type for value in values], build), values)


def shape_of(context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> list[Any]:
    """Return the extents of an array."""
    return cgutils.unpack_tuple(builder, context.make_array(kind)(context, builder, value).shape)


def data_of(context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> Any:
    """Return the pointer to an array's first number."""
    return context.make_array(kind)(context, builder, value).data


def passed(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> list[Any]:
    """Return what a procedure is given for Numba's arguments: pointers for arrays, other values as they are."""
    return [
        data_of(context, builder, kind, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def passed_rows(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> list[Any]:
    """Return the same, and behind the first, which is an array of rows, how many features it has."""
    first, *others = passed(context, builder, signature, args)
    return [first, shape_of(context, builder, signature.args[0], args[0])[1], *others]


def generator(name: str, number: Any, build: Any, arguments: Any = passed) -> Any:
    """Return the code generation of an instruction that is a call of one procedure and returns nothing.

    Parameters
    ----------
    name : str
        The procedure's.
    number : type of Numba
        That of the numbers in its vectors.
    build : callable
        ``build(builder, values, number)`` writes its body.
    arguments : callable
        Makes its values of the instruction's, like `passed`.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        values = arguments(context, builder, signature, args)
        call(builder, f"fastem.{name}.{number}", values, partial(build, number=context.get_value_type(number)))
        return context.get_dummy_value()

    return generate
