"""`python -m asv_bench.gate BASE HEAD`: is HEAD slower than BASE?

How data flows::

    commits -> builds.py (an environment each) -> pairs.py (a worker.py each, measured in pairs)
                                                    -> decide.py (ratios to verdicts) -> report.py (table, exit status)

A *launch* starts one process of each commit, which are measured in pairs, benchmark by benchmark, and ends them: memory
lies elsewhere in each process, which moves a benchmark by some percent, so that a launch, and not a call, is what can
be counted as independent.  A benchmark leaves as soon as its verdict is clear.

`instructions.py` counts instructions instead; `proof.py` plants slowdowns and looks whether they
are caught (figures: README.md).
"""
