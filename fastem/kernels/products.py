"""Products of blocks that lie as columns with small matrices, and sums and maxima over them."""

from __future__ import annotations

from fastem.jit import kernel


@kernel
def add_product(
    rows,
    n,  # features, a multiple of 4
    Z,  # (>= n, STRIDE) rows as columns
    first,  # column of the coefficients that belongs to Z[0]
    coefficients,  # (k, >= first + n)
    out,  # (k, STRIDE) OUT
):
    """Add coefficients Z to `out`."""
    k = out.shape[0]
    whole = k // 4 * 4
    A = coefficients
    for c in range(0, whole, 4):
        for j in range(0, n, 4):
            t = first + j
            a0, a1, a2, a3 = A[c, t], A[c, t + 1], A[c, t + 2], A[c, t + 3]
            b0, b1, b2, b3 = A[c + 1, t], A[c + 1, t + 1], A[c + 1, t + 2], A[c + 1, t + 3]
            e0, e1, e2, e3 = A[c + 2, t], A[c + 2, t + 1], A[c + 2, t + 2], A[c + 2, t + 3]
            f0, f1, f2, f3 = A[c + 3, t], A[c + 3, t + 1], A[c + 3, t + 2], A[c + 3, t + 3]
            for r in range(rows):
                x0, x1, x2, x3 = Z[j, r], Z[j + 1, r], Z[j + 2, r], Z[j + 3, r]
                out[c, r] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                out[c + 1, r] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
                out[c + 2, r] += e0 * x0 + e1 * x1 + e2 * x2 + e3 * x3
                out[c + 3, r] += f0 * x0 + f1 * x1 + f2 * x2 + f3 * x3
    for c in range(whole, k):
        for j in range(0, n, 4):
            t = first + j
            a0, a1, a2, a3 = A[c, t], A[c, t + 1], A[c, t + 2], A[c, t + 3]
            for r in range(rows):
                out[c, r] += a0 * Z[j, r] + a1 * Z[j + 1, r] + a2 * Z[j + 2, r] + a3 * Z[j + 3, r]


@kernel
def sum_rows(
    rows,
    n,  # features, a multiple of 4
    Z,  # (>= n, STRIDE) rows as columns
    resp,  # (k, STRIDE)
    out,  # (k, >= n) float64 OUT
):
    """Write the sums over rows of resp times Z; float32 is summed in float32 within the block."""
    k = resp.shape[0]
    whole = k // 4 * 4
    zero = Z.dtype.type(0)
    for c in range(0, whole, 4):
        for j in range(0, n, 4):
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = e0 = e1 = e2 = e3 = f0 = f1 = f2 = f3 = zero
            for r in range(rows):
                x0, x1, x2, x3 = Z[j, r], Z[j + 1, r], Z[j + 2, r], Z[j + 3, r]
                a, b, e, f = resp[c, r], resp[c + 1, r], resp[c + 2, r], resp[c + 3, r]
                a0 += a * x0
                a1 += a * x1
                a2 += a * x2
                a3 += a * x3
                b0 += b * x0
                b1 += b * x1
                b2 += b * x2
                b3 += b * x3
                e0 += e * x0
                e1 += e * x1
                e2 += e * x2
                e3 += e * x3
                f0 += f * x0
                f1 += f * x1
                f2 += f * x2
                f3 += f * x3
            out[c, j], out[c, j + 1], out[c, j + 2], out[c, j + 3] = a0, a1, a2, a3
            out[c + 1, j], out[c + 1, j + 1], out[c + 1, j + 2], out[c + 1, j + 3] = b0, b1, b2, b3
            out[c + 2, j], out[c + 2, j + 1], out[c + 2, j + 2], out[c + 2, j + 3] = e0, e1, e2, e3
            out[c + 3, j], out[c + 3, j + 1], out[c + 3, j + 2], out[c + 3, j + 3] = f0, f1, f2, f3
    for c in range(whole, k):
        for j in range(0, n, 4):
            a0 = a1 = a2 = a3 = zero
            for r in range(rows):
                a = resp[c, r]
                a0 += a * Z[j, r]
                a1 += a * Z[j + 1, r]
                a2 += a * Z[j + 2, r]
                a3 += a * Z[j + 3, r]
            out[c, j], out[c, j + 1], out[c, j + 2], out[c, j + 3] = a0, a1, a2, a3


@kernel
def highest(
    rows,
    log_joint,  # (k, STRIDE)
    best,  # (STRIDE,) OUT
):
    """Write the largest log-density of each row."""
    for r in range(rows):
        best[r] = log_joint[0, r]
    for c in range(1, log_joint.shape[0]):
        for r in range(rows):
            best[r] = max(best[r], log_joint[c, r])
