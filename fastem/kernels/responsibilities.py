"""Responsibilities of a block of rows: Bayes' rule with known labels, negligible components and lost rows."""

from __future__ import annotations

import numpy as np

from fastem.jit import kernel
from fastem.kernels.elementary import exp, log
from fastem.kernels.few_rows import find_rows


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
def most_responsible(
    rows,
    share,  # (k, STRIDE)
    most,  # (STRIDE,) OUT: the largest share of each row
    component,  # (STRIDE,) OUT: whose it is, the lowest of equals
):
    """Find the component of the largest share of each row, as a number of the type of shares: vectors are compared."""
    for r in range(rows):
        most[r] = share[0, r]
    for c in range(1, share.shape[0]):
        for r in range(rows):
            most[r] = share[c, r] if share[c, r] > most[r] else most[r]
    last = share.dtype.type(share.shape[0])
    for r in range(rows):
        component[r] = last
    for c in range(share.shape[0]):
        own = share.dtype.type(c)
        for r in range(rows):
            found = own if share[c, r] == most[r] else last
            component[r] = found if found < component[r] else component[r]


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
