"""The asv suite: one module per room of the library, all on the data sets of `data.py`.

asv imports these modules in a server process and forks a child for every benchmark and every value of its parameters.
So what is slow to import and harmless in a fork is imported here, once: a child begins in 0.1 s instead of 1.3 s.  A
forked child of a process that had fastem's thread code loaded gets one thread, so a module here must not load that:
``import fastem`` is lazy and harmless, ``from fastem import KMeans`` or ``import fastem.backend`` at the top of a
module is not.
"""

import numba
import pandas  # scikit-learn looks whether it is there when it reads a table
import scipy.linalg
import sklearn.cluster
import sklearn.mixture

__all__ = ["numba", "pandas", "scipy", "sklearn"]
