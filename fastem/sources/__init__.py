"""Where rows come from.

Every source offers the same few passes: `accumulate` (the E-step of one iteration), `each_block` and `fold` (passes
around a fit), `sample_rows`, `take` and `extreme_rows`.
"""
