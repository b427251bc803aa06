"""What the mixture kernels share: inlined exp and logarithms, transposed blocks of rows, and responsibilities.

A kernel works on blocks of at most `BLOCK` rows.  A block is transposed and taken relative to an origin inside the
data, XT[j, r] = X[start + r, j] - origin[j], so that every inner loop runs over rows, contiguous and without a
horizontal step, and LLVM turns it into full vectors.  Blocks are padded with rows at the origin to a multiple of
`LANES`; a padded row has weight 0.

`math.exp` costs 3 ns a number, because Numba has no vector mathematics library any more; `exp` and `log` here are
Cody-Waite reductions with polynomials that LLVM inlines and vectorises (0.2 ns a number in float64, 0.1 in float32).
They are compiled without `reassoc`, which would cancel the steps that carry the precision.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload, register_jitable

from fastem.families.gathered import find_rows
from fastem.jit import kernel

# Rows of a block: float32 rows are summed in float32 within one block only.
BLOCK = 256
# One cache line more than a block, so that the columns of XT do not all fall into the same sets of the cache.
STRIDE = BLOCK + 16
# Rows are padded to a multiple of this: four vectors of AVX-512 in float32.
LANES = 64
# Bytes that the arrays of one block may take: what stays in a second-level cache of 1 MiB with room for the rest.
BLOCK_BYTES = 3 * 2**18

_EXACT = {"fastmath": {"contract"}, "error_model": "numpy"}


@intrinsic
def _bits64(typingcontext, x):
    """Reinterpret a float64 as int64."""
    if x != types.float64:
        return None
    return types.int64(x), lambda context, builder, signature, args: builder.bitcast(args[0], ir.IntType(64))


@intrinsic
def _float64(typingcontext, bits):
    """Reinterpret an int64 as float64."""
    if bits != types.int64:
        return None
    return types.float64(bits), lambda context, builder, signature, args: builder.bitcast(args[0], ir.DoubleType())


@intrinsic
def _bits32(typingcontext, x):
    """Reinterpret a float32 as int32."""
    if x != types.float32:
        return None
    return types.int32(x), lambda context, builder, signature, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def _float32(typingcontext, bits):
    """Reinterpret an int32 as float32."""
    if bits != types.int32:
        return None
    return types.float32(bits), lambda context, builder, signature, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def _shift32(typingcontext, bits, by):
    """Shift an int32 left by a constant; Numba's own `<<` would widen it to int64."""
    if bits != types.int32 or not isinstance(by, types.IntegerLiteral):
        return None
    amount = by.literal_value

    def build(context, builder, signature, args):
        return builder.shl(args[0], ir.Constant(ir.IntType(32), amount))

    return types.int32(bits, by), build


@intrinsic
def _plus32(typingcontext, a, b):
    """Add two int32 as int32."""
    if a != types.int32 or b != types.int32:
        return None
    return types.int32(a, b), lambda context, builder, signature, args: builder.add(args[0], args[1])


@intrinsic
def _exponent32(typingcontext, bits):
    """Shift an int32 right by 23 places, keeping its sign."""
    if bits != types.int32:
        return None

    def build(context, builder, signature, args):
        return builder.ashr(args[0], ir.Constant(ir.IntType(32), 23))

    return types.int32(bits), build


def exp(x):
    """Exponential of x <= 700 to about one unit in the last place; exactly 0 for x < -650 (-70).

    The margin above the smallest normal number keeps squares of coordinates times shares out of the denormals.

    Only for kernels; what it returns for NaN is not specified.
    """
    raise NotImplementedError("only within compiled kernels")


def log(x):
    """Natural logarithm of a positive normal number to about one unit in the last place; only for kernels."""
    raise NotImplementedError("only within compiled kernels")


def log1p(x):
    """log(1 + x) of x >= 0 to about one unit in the last place; only for kernels."""
    raise NotImplementedError("only within compiled kernels")


# exp(x) = 2^n exp(r), |r| <= ln(2) / 2: adding 1.5 * 2^52 rounds x / ln(2) to the integer n, which then sits in the
# low bits of the sum; ln(2) is subtracted in two parts; the polynomial interpolates (exp(r) - 1 - r) / r^2 at
# Chebyshev nodes (error 2e-17; float32 1e-8); n is added to the exponent's bits.
def _exp64(x):
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    r = x - n * 0.6931471804855391
    r = r - n * 7.440617110012397e-11
    p = 2.5100472505694996e-08
    p = p * r + 2.7620201591031547e-07
    p = p * r + 2.7557268276905696e-06
    p = p * r + 2.4801521057868204e-05
    p = p * r + 0.00019841269863171557
    p = p * r + 0.0013888888917367081
    p = p * r + 0.008333333333330039
    p = p * r + 0.041666666666623824
    p = p * r + 0.16666666666666669
    p = p * r + 0.5000000000000001
    p = p * (r * r) + r + 1.0
    scaled = _float64(_bits64(p) + (_bits64(shifted) << 52))
    return 0.0 if x < -650.0 else scaled


def _exp32(x):
    f32 = np.float32
    shifted = x * f32(1.4426950408889634) + f32(12582912.0)
    n = shifted - f32(12582912.0)
    r = x - n * f32(0.693359375)
    r = r + n * f32(0.00021219444005469057)
    p = f32(0.0013926250831497611)
    p = p * r + f32(0.008363232883682618)
    p = p * r + f32(0.04166655421298415)
    p = p * r + f32(0.16666576666119928)
    p = p * r + f32(0.5)
    p = p * (r * r) + r + f32(1.0)
    scaled = _float32(_plus32(_bits32(p), _shift32(_bits32(shifted), 23)))
    return f32(0.0) if x < f32(-70.0) else scaled


# log(x) = e ln(2) + log(m), m in (sqrt(1/2), sqrt(2)): with s = (m - 1) / (m + 1), log(m) = 2 (s + s^3/3 + ...), in
# the coefficients of FreeBSD's e_log.c.
def _log64(x):
    t = _bits64(x) - 4604544271217802189
    e = t >> 52
    m = _float64(_bits64(x) - (e << 52))
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 1.479819860511658591e-01
    p = p * z + 1.531383769920937332e-01
    p = p * z + 1.818357216161805012e-01
    p = p * z + 2.222219843214978396e-01
    p = p * z + 2.857142874366239149e-01
    p = p * z + 3.999999999940941908e-01
    p = p * z + 6.666666666666735130e-01
    half = 0.5 * f * f
    return e * 0.6931471804855391 + (e * 7.440617110012397e-11 + (f - (half - s * (half + z * p))))


def _log32(x):
    f32 = np.float32
    t = _plus32(_bits32(x), np.int32(-1060439283))
    e = _exponent32(t)
    m = _float32(_plus32(_bits32(x), _shift32(np.int32(-e), 23)))
    f = m - f32(1.0)
    s = f / (f32(2.0) + f)
    z = s * s
    p = f32(0.24279078841)
    p = p * z + f32(0.28498786688)
    p = p * z + f32(0.40000972152)
    p = p * z + f32(0.66666662693)
    half = f32(0.5) * f * f
    whole = f32(e)
    return whole * f32(0.693359375) + (whole * f32(-0.00021219444005469057) + (f - (half - s * (half + z * p))))


# What the sum 1 + x loses is x - ((1 + x) - 1), exactly, and counts for less by the slope of the logarithm.
def _log1p64(x):
    w = 1.0 + x
    return _log64_(w) + (x - (w - 1.0)) / w


def _log1p32(x):
    w = np.float32(1.0) + x
    return _log32_(w) + (x - (w - np.float32(1.0))) / w


_log64_ = register_jitable(**_EXACT)(_log64)
_log32_ = register_jitable(**_EXACT)(_log32)


@overload(exp, jit_options=_EXACT)
def _typed_exp(x):
    return {types.float64: _exp64, types.float32: _exp32}.get(x)


@overload(log, jit_options=_EXACT)
def _typed_log(x):
    return {types.float64: _log64, types.float32: _log32}.get(x)


@overload(log1p, jit_options=_EXACT)
def _typed_log1p(x):
    return {types.float64: _log1p64, types.float32: _log1p32}.get(x)


@kernel
def block_rows(columns, itemsize):
    """Rows of a block: `BLOCK`, or fewer where its arrays of so many columns would outgrow the cache."""
    rows = BLOCK
    while rows > 64 and rows * columns * itemsize > BLOCK_BYTES:
        rows //= 2
    return rows


@kernel
def padded(m):
    """Round a number of rows up to whole vectors."""
    return (m + LANES - 1) // LANES * LANES


@kernel
def load_weights(
    w,  # (n,), or empty for unit weights
    start,
    m,
    rows,
    wb,  # (STRIDE,) OUT
):
    """Copy the weights of a block; the padding weighs nothing."""
    if w.size:
        for r in range(m):
            wb[r] = w[start + r]
    else:
        for r in range(m):
            wb[r] = 1
    for r in range(m, rows):
        wb[r] = 0


@kernel
def fix_labels(
    labels,  # (n,) int32, -1 for unknown, or empty
    start,
    m,
    log_joint,  # (k, STRIDE) INOUT
    best,  # (STRIDE,) INOUT
):
    """Leave a row of known component only that component."""
    minus_inf = log_joint.dtype.type(-np.inf)
    if labels.size:
        for r in range(m):
            known = labels[start + r]
            if known >= 0:
                for c in range(log_joint.shape[0]):
                    if c != known:
                        log_joint[c, r] = minus_inf
                best[r] = log_joint[known, r]


@kernel
def shares(
    rows,
    negligible,  # (k,) float64: a smaller share does not matter
    log_joint,  # (k, STRIDE) INOUT: becomes exp(log_joint - best)
    best,  # (STRIDE,) the largest of each row
    total,  # (STRIDE,) OUT: sum of the shares of each row
    heavy,  # (k,) float64 OUT: how many rows matter to each component
):
    """Turn log-densities into unnormalised responsibilities; return the number of far rows, for `settle`."""
    zero = log_joint.dtype.type(0)
    one = log_joint.dtype.type(1)
    for r in range(rows):
        total[r] = zero
    for c in range(log_joint.shape[0]):
        threshold = log_joint.dtype.type(negligible[c])
        count = zero
        for r in range(rows):
            share = exp(log_joint[c, r] - best[r])
            log_joint[c, r] = share
            total[r] += share
            count += one if share > threshold else zero
        heavy[c] = count
    limit = best.dtype.type(-4.5e15 if best.itemsize == 8 else -8.0e6)
    far = 0
    for r in range(rows):
        far += 0 if total[r] > zero and best[r] > limit else 1
    return far


@kernel
def settle(
    again,
    m,
    labels,  # (n,) or empty
    start,
    log_weights,  # (k,)
    XT,  # (d, STRIDE) INOUT
    share,  # (k, STRIDE) INOUT
    best,  # (STRIDE,) INOUT
    total,  # (STRIDE,) INOUT
    heavy,  # (k,) INOUT
    state,  # (STRIDE,) INOUT: 1 far, 2 overflowed
):
    """Give the far rows of a block one-hot responsibilities; return whether the block must be evaluated again.

    Far is where a log-density is so large that its rounding exceeds 1, or overflows.  Rows that overflow are moved
    towards the origin along their direction, which keeps the order of the components, and the second evaluation
    (`again`) decides; their log-likelihood is -inf.  Where nothing tells components apart, the heaviest wins.
    """
    limit = -4.5e15 if best.itemsize == 8 else -8.0e6
    near = 1e140 if XT.itemsize == 8 else 1e14
    moved = False
    for r in range(m):
        if not again:
            state[r] = 0 if total[r] > 0 and best[r] > limit else (1 if total[r] > 0 else 2)
        if state[r] == 2 and not again:
            largest = 0.0
            for j in range(XT.shape[0]):
                size = abs(np.float64(XT[j, r]))
                largest = size if size > largest else largest
            if largest > near:
                for j in range(XT.shape[0]):
                    XT[j, r] = XT.dtype.type(XT[j, r] * (near / largest))
            moved = True
    if moved:
        return True
    for r in range(m):
        if state[r] > 0:
            heaviest = 0
            for c in range(share.shape[0]):
                if log_weights[c] > log_weights[heaviest]:
                    heaviest = c
            chosen = heaviest
            if labels.size and labels[start + r] >= 0:
                chosen = labels[start + r]
            elif total[r] > 0:
                for c in range(share.shape[0]):
                    if share[c, r] > share[chosen, r]:
                        chosen = c
            for c in range(share.shape[0]):
                share[c, r] = 0
            share[chosen, r] = 1
            total[r] = 1
            heavy[chosen] += 1
            if state[r] == 2:
                best[r] = -np.inf
    for r in range(m, best.shape[0]):  # padding lies at the origin, which may be far from all components, too
        best[r], total[r] = 0, 1
        for c in range(share.shape[0]):
            share[c, r] = 0
    return False


@kernel
def heavy_rows(
    rows,
    XT,  # (d, STRIDE)
    share,  # (STRIDE,) of one component
    factor,  # (STRIDE,)
    negligible,  # a smaller share does not matter
    count,  # rows that matter, at most
    cycles,  # what a row costs that is not gathered
    gathered,  # (d, STRIDE) OUT
    resp,  # (STRIDE,) OUT: responsibilities of the rows returned
    index,  # (STRIDE,) int64 OUT: their places in the block
):
    """Gather the rows that matter to a component, if that is cheaper than taking all.

    Returns the number of rows gathered, a multiple of 16, or `rows` for XT as it is.
    """
    threshold = share.dtype.type(negligible)
    zero = share.dtype.type(0)
    if count + 16 > rows or 2.0 * rows + count * (1.3 * XT.shape[0] + cycles) >= rows * cycles:
        for r in range(rows):
            resp[r] = share[r] * factor[r]
        return rows
    heavy = find_rows(rows, share, threshold, index)
    used = (heavy + 15) // 16 * 16
    for t in range(heavy):
        resp[t] = share[index[t]] * factor[index[t]]
    for t in range(heavy, used):
        index[t] = 0
        resp[t] = zero
    for j in range(XT.shape[0]):
        for t in range(used):
            gathered[j, t] = XT[j, index[t]]
    return used


@kernel
def finish_rows(
    rows,
    wb,  # (STRIDE,) weights
    best,  # (STRIDE,)
    total,  # (STRIDE,) INOUT: becomes weight / total
):
    """Return the weighted log-likelihood of the block, and leave in `total` the factor of each row's shares."""
    loglik = 0.0
    zero = total.dtype.type(0)
    for r in range(rows):
        value = np.float64(best[r]) + np.float64(log(total[r]))
        loglik += np.float64(wb[r]) * value if wb[r] > zero else 0.0
        total[r] = wb[r] / total[r]
    return loglik
