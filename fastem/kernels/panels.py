"""Products of many features on packed panels: what a tile reads lies side by side, in blocks that the caches hold.

With d features a factor has d^2 / 2 numbers, and a tile that reads them where they lie, for a few rows at a time, waits
for memory.  Here rows are packed into panels of `WIDTH` rows and factors into panels of four columns (Goto and van de
Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34, 2008): a block of columns stays in the second
cache for all rows, a piece of a panel of rows in the first.  The sums of a row are those of `tiles.mahalanobis`, in the
same order, to the bit.

Scatter matrices have vectors over features: no sum ends in a horizontal one.  Only the upper triangle is added up.
"""

# Numba's annotations know neither its extension interface nor LLVM's builders.
# mypy: disable-error-code="call-arg, call-overload, attr-defined, var-annotated, arg-type"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from fastem.jit import instruction, kernel
from fastem.kernels.blocks import STRIDE
from fastem.kernels.tiles import vectors_of_rows
from fastem.kernels.transpose import turned
from fastem.kernels.vectors import MACHINE, WORD, Code, generator, passed, passed_rows

# Bytes of a panel of rows for one feature, of the rows of a panel, and features of it that stay in the first cache.
PANEL_BYTES = vectors_of_rows() * MACHINE.n_bytes
DEPTH = 2**14 // PANEL_BYTES
# Columns of a factor that are taken for all rows before the next.
COLUMNS = 32

# A tile of a scatter matrix: so many features by so many vectors of features.
FEATURES = 8 if MACHINE.n_bytes == 64 else 4
VECTORS = 4 if MACHINE.n_bytes == 16 and MACHINE.many else 2
FEATURE_BYTES = VECTORS * MACHINE.n_bytes
# Rows of a block of a scatter matrix, and of those that are added up before they are added to the others: twice as
# many in float64.  In float32 these sums are added up over the block before they go into the record, each a conversion:
# a sum of 256 rows is rounded as often as one of 40.  Longer sums would be less accurate than those of tiles over rows,
# which add up in as many parts as a vector has numbers.
BLOCK_ROWS = 256
SHORT_ROWS = 32


@kernel
def pack_factor(
    P,  # (dp, dp) upper triangular
    packed,  # (dp * (dp + 4) / 2,) OUT
):
    """Write panels of four columns one after another, each down to its diagonal."""
    at = 0
    for i in range(0, P.shape[0], 4):
        for j in range(i + 4):
            for a in range(4):
                packed[at + a] = P[j, i + a]
            at += 4


# --- rows as panels


def _width(number: Any) -> int:
    return PANEL_BYTES // (8 if number in (types.float64, np.float64) else 4)


def _centred(builder: ir.IRBuilder, x: Any, origin: Any, mean: Any) -> Any:
    """Subtract one point after the other: flags of their own keep LLVM from adding up the points first."""
    return builder.fsub(builder.fsub(x, origin, flags=("contract",)), mean, flags=("contract",))


def _build_pack(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
    X, d, index, count, depth, origin, mean, panel = arguments
    code = Code(builder, number)
    zero, n = code.word(0), code.lanes
    vectors = vectors_of_rows()
    width = vectors * n
    last = builder.sub(count, code.word(1))
    features = code.smaller(depth, d)
    whole = builder.and_(features, code.word(-n))

    def put(column: Any, j: Any, own: Any) -> None:
        column = _centred(builder, column, code.number_at(origin, j), code.number_at(mean, j))
        code.store(column, panel, builder.add(builder.mul(j, code.word(width)), own))

    with code.loop(zero, count, width) as (r, _):
        for v in range(vectors):
            rows = []
            for i in range(n):  # beyond the end the last row is taken again
                place = code.smaller(code.plus(r, v * n + i), last)
                rows.append(builder.mul(builder.load(code.at(index, place)), d))
            own = code.plus(builder.mul(r, depth), v * n)
            with code.loop(zero, whole, n) as (j, _):
                for f, column in enumerate(turned(code, [code.load(X, builder.add(row, j)) for row in rows])):
                    put(column, code.plus(j, f), own)
            with code.loop(whole, features) as (j, _):
                column = ir.Constant(code.vector, ir.Undefined)
                for i, row in enumerate(rows):
                    value = builder.load(code.at(X, builder.add(row, j)))
                    column = builder.insert_element(column, value, ir.Constant(ir.IntType(32), i))
                put(column, j, own)
            with code.loop(features, depth) as (j, _):  # up to three
                nothing = ir.Constant(code.vector, [0.0] * n)
                code.store(nothing, panel, builder.add(builder.mul(j, code.word(width)), own))


def _pack_in_python(X, index, count, depth, origin, mean, panel):
    width, features = _width(X.dtype), min(depth, X.shape[1])
    whole = -(-count // width) * width
    rows = X[index[np.minimum(np.arange(whole), count - 1)], :features] - origin[:features] - mean[:features]
    for first in range(0, whole, width):
        out = panel[first * depth : (first + width) * depth].reshape(depth, width)
        out[:features], out[features:] = rows[first : first + width].T, 0


@instruction(_pack_in_python)
def pack_rows(typingcontext, X, index, count, depth, origin, mean, panel):
    """Write rows, relative to origin and mean, as panels of `depth` features times as many rows as fill the vectors.

    Parameters
    ----------
    X : array (n, d)
        Rows, C-contiguous.
    index : int64 array (>= count,)
        Numbers of the rows.
    count, depth : int
        How many, at least 1; the first features, of which those from d on are 0.
    origin, mean : arrays (d,)
        Points that are subtracted one after the other.
    panel : array
        Panels one after another, feature by feature; the last is filled up by its last row.  # OUT
    """
    made = generator("pack", X.dtype, _build_pack, passed_rows)
    return types.void(X, index, types.intp, types.intp, origin, mean, panel), made


# --- products with a factor


def _products(kept: bool) -> Any:
    """Code generation of products of rows and columns: `kept`, they are written; otherwise their squares are added."""

    def build(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
        count, depth, start, stop, panel, packed, room, out = arguments
        code = Code(builder, number)
        n = vectors_of_rows()
        width = n * code.lanes
        zero = code.word(0)
        products, totals = code.zeros(4 * n), code.zeros(0 if kept else n)

        def leave(i: Any, r: Any) -> None:
            """Do with four complete columns what is asked for."""
            for v in range(n):
                for a in range(4):
                    y = builder.load(products[a * n + v])
                    if kept:
                        row = builder.mul(builder.sub(code.plus(i, a), start), code.word(STRIDE))
                        code.store(y, out, builder.add(row, code.plus(r, v * code.lanes)))
                    else:
                        builder.store(code.fma(y, y, builder.load(totals[v])), totals[v])

        def tile(i: Any, r: Any, first: Any, last: Any, own: Any, partial_sums: Any) -> None:
            """Go on with four columns from i, over features first..last."""
            stop_here = code.smaller(last, code.plus(i, 4))
            with builder.if_else(builder.icmp_signed("==", first, zero)) as (then, otherwise):
                with then:
                    code.clear(products)
                with otherwise:
                    for place, slot in enumerate(products):
                        at = code.plus(partial_sums, place * code.lanes)
                        builder.store(code.load(room, at), slot)
            q = builder.lshr(i, code.word(2))
            column = builder.shl(builder.mul(q, code.plus(q, 1)), code.word(3))
            with code.loop(first, stop_here, 4) as (j, _):
                for step in range(4):
                    at = builder.add(own, builder.mul(code.plus(j, step), code.word(width)))
                    x = [code.load(panel, code.plus(at, v * code.lanes)) for v in range(n)]
                    factor = code.plus(column, builder.shl(code.plus(j, step), code.word(2)))
                    for a in range(4):
                        p = code.number_at(packed, code.plus(factor, a))
                        for v in range(n):
                            slot = products[a * n + v]
                            builder.store(code.fma(p, x[v], builder.load(slot)), slot)
            with builder.if_else(builder.icmp_signed("==", stop_here, code.plus(i, 4))) as (then, otherwise):
                with then:
                    leave(i, r)
                with otherwise:
                    for place, slot in enumerate(products):
                        code.store(builder.load(slot), room, code.plus(partial_sums, place * code.lanes))

        with code.loop(start, stop, COLUMNS) as (block, _):
            end = code.smaller(code.plus(block, COLUMNS), stop)
            with code.loop(zero, count, width) as (r, _):
                own = builder.mul(r, depth)
                for v, slot in enumerate(totals):
                    builder.store(code.load(out, code.plus(r, v * code.lanes)), slot)
                with code.loop(zero, end, DEPTH) as (first, _):
                    last = code.smaller(code.plus(first, DEPTH), end)
                    least = builder.and_(first, code.word(-4))
                    begin = builder.select(builder.icmp_signed(">", least, block), least, block)
                    with code.loop(begin, end, 4) as (i, _):
                        partial_sums = builder.mul(builder.sub(i, block), code.word(width))
                        tile(i, r, first, last, own, partial_sums)
                for v, slot in enumerate(totals):
                    code.store(builder.load(slot), out, code.plus(r, v * code.lanes))

    return build


_build_squares, _build_whitened = _products(kept=False), _products(kept=True)


def _products_in_python(count, depth, start, stop, panel, packed):
    width = _width(panel.dtype)
    for first in range(0, count, width):
        X = panel[first * depth : (first + width) * depth].reshape(depth, width)
        for i in range(start, stop, 4):
            at = 8 * (i // 4) * (i // 4 + 1)
            P = packed[at : at + 4 * (i + 4)].reshape(i + 4, 4)
            yield slice(first, first + width), i, P.T @ X[: i + 4]


def _squares_in_python(count, depth, start, stop, panel, packed, room, squares):
    for rows, _, Y in _products_in_python(count, depth, start, stop, panel, packed):
        squares[rows] += np.square(Y).sum(axis=0)


@instruction(_squares_in_python)
def add_squares(typingcontext, count, depth, start, stop, panel, packed, room, squares):
    """Add to `squares` those of columns start..stop of the product of packed rows with a packed factor.

    Parameters
    ----------
    count, depth : int
        Rows, and features of their panels (`pack_rows`): at least `stop`.
    start, stop : int
        Columns, multiples of 4.
    panel : array
        The rows.
    packed : array
        The factor (`pack_factor`).
    room : array of at least `COLUMNS` times a panel's rows
        Room to work in.
    squares : array of at least `count`, filled up to whole panels
        The sums.  # INOUT
    """
    made = generator("squares", panel.dtype, _build_squares)
    return types.void(*[types.intp] * 4, panel, packed, room, squares), made


def _whitened_in_python(count, depth, start, stop, panel, packed, room, Y):
    for rows, i, found in _products_in_python(count, depth, start, stop, panel, packed):
        Y[i - start : i - start + 4, rows] = found


@instruction(_whitened_in_python)
def whiten(typingcontext, count, depth, start, stop, panel, packed, room, Y):
    """Write columns start..stop of the product of packed rows with a packed factor to Y (>= stop - start, STRIDE).

    The other parameters are those of `add_squares`.
    """
    made = generator("whitened", panel.dtype, _build_whitened)
    return types.void(*[types.intp] * 4, panel, packed, room, Y), made


# --- scatter matrices


def _build_weighted(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
    X, d, index, root, rows, origin, mean, Z = arguments
    code, one = Code(builder, number), Code(builder, number, lanes=1)
    zero, panel = code.word(0), VECTORS * code.lanes
    whole = builder.and_(d, code.word(-code.lanes))
    end = builder.and_(code.plus(d, panel - 1), code.word(-panel))

    def place(t: Any, j: Any) -> Any:
        """Return where feature j of row t lies."""
        own = builder.and_(j, code.word(-panel))
        return builder.add(builder.mul(own, rows), builder.add(builder.mul(t, code.word(panel)), builder.sub(j, own)))

    def step(kind: Code, t: Any, j: Any, row: Any, weight: Any) -> None:
        x = kind.load(X, builder.add(row, j))
        x = builder.fmul(weight, _centred(builder, x, kind.load(origin, j), kind.load(mean, j)))
        kind.store(x, Z, place(t, j))

    with code.loop(zero, rows) as (t, _):
        row = builder.mul(builder.load(code.at(index, t)), d)
        weight = builder.load(code.at(root, t))
        with code.loop(zero, whole, code.lanes) as (j, _):
            step(code, t, j, row, code.splat(weight))
        with code.loop(whole, d) as (j, _):
            step(one, t, j, row, one.splat(weight))
        with code.loop(d, end) as (j, _):
            builder.store(ir.Constant(number, 0.0), code.at(Z, place(t, j)))


def _weighted_in_python(X, index, root, rows, origin, mean, Z):
    d, panel = X.shape[1], FEATURE_BYTES // X.dtype.itemsize
    found = np.zeros((rows, -(-d // panel) * panel), X.dtype)
    found[:, :d] = root[:rows, None] * (X[index[:rows]] - origin - mean)
    Z[: found.size] = found.reshape(rows, -1, panel).swapaxes(0, 1).ravel()


@instruction(_weighted_in_python)
def pack_weighted(typingcontext, X, index, root, rows, origin, mean, Z):
    """Write rows `index` of X, relative to origin and mean and times `root`, as panels of features, row by row.

    Parameters
    ----------
    X : array (n, d)
        Rows, C-contiguous.
    index : int64 array (>= rows,)
        Numbers of the rows.
    root : array (>= rows,)
        What they are multiplied by.
    rows : int
        How many.
    origin, mean : arrays (d,)
        Points that are subtracted one after the other.
    Z : array
        Panels of FEATURE_BYTES of features; what is left of the last one is 0.  # OUT
    """
    made = generator("weighted", X.dtype, _build_weighted, passed_rows)
    return types.void(X, index, root, types.intp, origin, mean, Z), made


def _build_sums(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
    rows, features, root, Z, out = arguments
    code = Code(builder, number)
    wide = Code(builder, ir.DoubleType(), lanes=code.lanes)
    panel = VECTORS * code.lanes
    sums = wide.zeros(VECTORS)

    def widened(vector: Any) -> Any:
        return vector if number == ir.DoubleType() else builder.fpext(vector, wide.vector)

    with code.loop(code.word(0), features, panel) as (j, _), code.loop(code.word(0), rows, SHORT_ROWS) as (first, _):
        wide.clear(sums)
        base = builder.mul(j, rows)
        last = code.smaller(code.plus(first, SHORT_ROWS), rows)
        with code.loop(first, last) as (r, _):
            weight = widened(code.number_at(root, r))
            place = builder.add(base, builder.mul(r, code.word(panel)))
            for v in range(VECTORS):
                z = widened(code.load(Z, code.plus(place, v * code.lanes)))
                builder.store(wide.fma(weight, z, builder.load(sums[v])), sums[v])
        for v in range(VECTORS):
            wide.add_wide(builder.load(sums[v]), out, code.plus(j, v * code.lanes))


def _sums_in_python(rows, features, root, Z, out):
    panel = FEATURE_BYTES // Z.dtype.itemsize
    Z = Z[: rows * features].reshape(-1, rows, panel).swapaxes(0, 1).reshape(rows, -1)
    out[:features] += root[:rows].astype(np.float64) @ Z


@instruction(_sums_in_python)
def add_weighted(typingcontext, rows, features, root, Z, out):
    """Add the sums over packed rows of root times Z, in float64, to `out`; `features` are those of whole panels."""
    return types.void(types.intp, types.intp, root, Z, out), generator("sums_panel", Z.dtype, _build_sums)


def _build_outer(builder: ir.IRBuilder, arguments: Any, number: ir.Type) -> None:
    rows, left, right, out, width, at, held = arguments
    code = Code(builder, number)
    panel = VECTORS * code.lanes
    sums = code.zeros(FEATURES * VECTORS)
    double = number == ir.DoubleType()
    totals = [] if double else code.zeros(len(sums))
    short = 2 * SHORT_ROWS if double else SHORT_ROWS

    def leave(slots: list[Any], new: Any) -> None:
        """Write a tile where it is new, and add it where it is not."""
        with builder.if_else(new) as (then, otherwise):
            for branch, put in ((then, code.store_wide), (otherwise, code.add_wide)):
                with branch:
                    for a in range(FEATURES):
                        for v in range(VECTORS):
                            place = builder.add(at, builder.mul(width, code.word(a)))
                            put(builder.load(slots[a * VECTORS + v]), out, code.plus(place, v * code.lanes))

    new = builder.icmp_signed("==", held, code.word(0))
    with code.loop(code.word(0), rows, short) as (first, _):
        code.clear(sums)
        last = code.smaller(code.plus(first, short), rows)
        with code.loop(first, last) as (r, _):
            place = builder.mul(r, code.word(panel))
            x = [code.load(right, code.plus(place, v * code.lanes)) for v in range(VECTORS)]
            for a in range(FEATURES):
                z = code.number_at(left, code.plus(place, a))
                for v in range(VECTORS):
                    slot = sums[a * VECTORS + v]
                    builder.store(code.fma(z, x[v], builder.load(slot)), slot)
        for own, total in zip(sums, totals, strict=False):
            builder.store(builder.fadd(builder.load(own), builder.load(total)), total)
        if double:
            leave(sums, builder.and_(new, builder.icmp_signed("==", first, code.word(0))))
    if not double:
        leave(totals, new)


def _outer_in_python(rows, Z, i, j, out, width, at, held):
    panel = FEATURE_BYTES // Z.dtype.itemsize
    left, right = (
        Z[place : place + rows * panel].reshape(rows, panel) for place in (i // panel * rows * panel, j * rows)
    )
    tile, out = left[:, i % panel :][:, :FEATURES].T @ right, out.reshape(-1)
    for a in range(FEATURES):
        own = out[at + a * width :][:panel]
        own[:] = tile[a] + (own if held else 0)


@instruction(_outer_in_python)
def _add_outer(typingcontext, rows, Z, i, j, out, width, at, held):
    """Add the sums over packed rows of Z_i+a Z_j+b to ``out[at + a * width + b]``, a tile that holds so many rows."""

    def arguments(context, builder, signature, args):
        panel = FEATURE_BYTES // (8 if Z.dtype == types.float64 else 4)
        rows, base, i, j, *others = passed(context, builder, signature, args)
        own = builder.and_(i, WORD(-panel))
        left = builder.gep(base, [builder.add(builder.mul(own, rows), builder.sub(i, own))])
        return [rows, left, builder.gep(base, [builder.mul(j, rows)]), *others]

    integer = types.intp
    made = generator("outer_panel", Z.dtype, _build_outer, arguments)
    return types.void(integer, Z, integer, integer, out, integer, integer, integer), made


@kernel
def add_upper(
    rows,
    d,
    Z,  # packed rows: panels of FEATURE_BYTES of features, row by row
    panel,  # features of a panel
    T,  # (FEATURES * panel,) float64 room to work in
    held,  # rows that `scatter` holds: of none, it may be anything
    scatter,  # (d, d) float64 OUT: the upper triangle of Z'Z is added, and something below the diagonal
):
    """Add the upper triangle of the sum of outer products of a block of rows with themselves."""
    blocks = 16 * panel  # features of a block that stays in the second cache
    for block in range(0, d, blocks):
        for j in range(block, d, panel):
            for i in range(block, min(block + blocks, min(j + panel, d)), FEATURES):
                if i + FEATURES <= d and j + panel <= d:
                    _add_outer(rows, Z, i, j, scatter, d, i * d + j, held)
                    continue
                _add_outer(rows, Z, i, j, T, panel, 0, 0)
                for a in range(min(FEATURES, d - i)):
                    for b in range(min(panel, d - j)):
                        before = scatter[i + a, j + b] if held else 0.0
                        scatter[i + a, j + b] = before + T[a * panel + b]
