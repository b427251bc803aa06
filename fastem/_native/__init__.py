"""Modules compiled ahead of time from ``src/``.

``nearest``: the nearest centroid of every row, fused with the counts, sums and inertia of k-means.  It is built by
``setup.py`` for every instruction set of the processor family at once and chooses among them when it is imported, so a
wheel runs on any machine of its platform.  Signatures are in ``nearest.pyi``.
"""
