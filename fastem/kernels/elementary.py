"""exp, log and log1p that LLVM inlines and vectorises.

`math.exp` costs 3 ns a number, because Numba has no vector mathematics library any more; `exp` and `log` here are
Cody-Waite reductions with polynomials that LLVM inlines and vectorises (0.2 ns a number in float64, 0.1 in float32).
They are compiled without `reassoc`, which would cancel the steps that carry the precision.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload, register_jitable

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
    return type(x)(0) if x < (-650 if x.itemsize == 8 else -70) else np.exp(x)  # where kernels are Python


def log(x):
    """Natural logarithm of a positive normal number to about one unit in the last place; only for kernels."""
    return np.log(x)


def log1p(x):
    """log(1 + x) of x >= 0 to about one unit in the last place; only for kernels."""
    return np.log1p(x)


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


_log64_ = register_jitable(**_EXACT)(_log64)
_log32_ = register_jitable(**_EXACT)(_log32)


# What the sum 1 + x loses is x - ((1 + x) - 1), exactly, and counts for less by the slope of the logarithm.
def _log1p64(x):
    w = 1.0 + x
    return _log64_(w) + (x - (w - 1.0)) / w


def _log1p32(x):
    w = np.float32(1.0) + x
    return _log32_(w) + (x - (w - np.float32(1.0))) / w


@overload(exp, jit_options=_EXACT)
def _typed_exp(x):
    return {types.float64: _exp64, types.float32: _exp32}.get(x)


@overload(log, jit_options=_EXACT)
def _typed_log(x):
    return {types.float64: _log64, types.float32: _log32}.get(x)


@overload(log1p, jit_options=_EXACT)
def _typed_log1p(x):
    return {types.float64: _log1p64, types.float32: _log1p32}.get(x)
