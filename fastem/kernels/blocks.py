"""Blocks of rows: how many, how they lie in memory, and their weights.

A kernel works on blocks of at most `BLOCK` rows.  A block is transposed and taken relative to an origin inside the
data, XT[j, r] = X[start + r, j] - origin[j], so that every inner loop runs over rows, contiguous and without a
horizontal step, and LLVM turns it into full vectors.  Blocks are padded with rows at the origin to a multiple of
`LANES`; a padded row has weight 0.
"""

from __future__ import annotations

from fastem.jit import kernel

# Rows of a block: float32 rows are summed in float32 within one block only.
BLOCK = 256


# One cache line more than a block, so that the columns of XT do not all fall into the same sets of the cache.
STRIDE = BLOCK + 16


# Rows are padded to a multiple of this: four vectors of AVX-512 in float32.
LANES = 64


# Bytes that the arrays of one block may take: what stays in a second-level cache of 1 MiB with room for the rest.
BLOCK_BYTES = 3 * 2**18


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
