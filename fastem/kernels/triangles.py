"""Triangles of matrices (d, d), square by square."""

from __future__ import annotations

import numpy as np

from fastem.jit import kernel

# Rows and columns of a square: what is read and written of it stays in the first cache.
SQUARE = 16


@kernel
def mirror(d, matrix):
    """Copy the upper triangle of a matrix (d, d) to the lower."""
    for block in range(0, d, SQUARE):
        for other in range(block, d, SQUARE):
            for i in range(block, min(block + SQUARE, d)):
                for j in range(max(other, i + 1), min(other + SQUARE, d)):
                    matrix[j, i] = matrix[i, j]


@kernel
def clear_lower(
    matrix,  # (d, d) INOUT
):
    """Write zeros below the diagonal; return whether all else is finite."""
    d, finite = matrix.shape[0], True
    for i in range(d):
        for j in range(i):
            matrix[i, j] = 0.0
        finite &= upper_row_below(matrix[i], i, np.inf)
    return finite


@kernel
def covariance(
    scatter,  # (d, d)
    count,
    shift,  # (d,)
    out,  # (d, d) OUT
):
    """Write a scatter over a count, about a mean that lies off by `shift`."""
    part, d = 1.0 / count, scatter.shape[0]
    for i in range(d):
        for j in range(d):
            out[i, j] = scatter[i, j] * part - shift[i] * shift[j]


@kernel
def about_means(
    total,  # (d, d) scatter of all rows
    moments,  # (k, d) sums of the rows of each component
    counts,  # (k,)
    means,  # (k, d), relative to what total and moments are
    out,  # (d, d) OUT
):
    """Write the scatter of rows about one mean for each component: total - sum (a mu' + mu a' - n mu mu')."""
    k, d = means.shape
    rest = np.empty((k, d))
    for c in range(k):
        for j in range(d):
            rest[c, j] = moments[c, j] - counts[c] * means[c, j]
    for i in range(d):
        own, given = out[i], total[i]
        for j in range(i, d):
            own[j] = given[j]
        for c in range(k):
            a, mu, mean, other = moments[c, i], means[c, i], means[c], rest[c]
            for j in range(i, d):
                own[j] -= a * mean[j] + mu * other[j]
    mirror(d, out)


@kernel
def upper_row_below(row, i, limit):
    """Tell whether the numbers of a row from place i on are smaller than a limit, and none is NaN."""
    below = True
    for j in range(i, row.shape[0]):
        below &= abs(row[j]) < limit
    return below


@kernel
def upper_below(
    matrix,  # (d, d)
    limit,
):
    """Tell whether all numbers of the upper triangle are smaller than a limit, and none is NaN."""
    below = True
    for i in range(matrix.shape[0]):
        below &= upper_row_below(matrix[i], i, limit)
    return below
