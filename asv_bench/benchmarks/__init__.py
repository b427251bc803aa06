"""The asv suite: one module per topic, all on the data sets of `data.py`.

asv imports these modules in a server process and forks a child for every benchmark.  A forked child of a process that
had fastem's thread code loaded gets one thread, so a module here must not load it: ``import fastem`` is lazy and
harmless, ``from fastem import KMeans`` or ``import fastem.backend`` at the top of a module is not.
"""
