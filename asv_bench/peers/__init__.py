"""fastem beside its peers: ``python -m asv_bench.peers kmeans``, ``gmm``, ``families``, ``many`` and ``sparse``.

Every peer that is installed takes part (``pip install -e ".[bench]"`` installs all): scikit-learn, scikit-learn-intelex
with its daal4py, faiss, SuperKMeans.  How a figure comes about:

* All run in one process, in turns A B C A B C ..., on all cores, from the same starting point, on the data of
  ``asv_bench/benchmarks/data.py``.  The minimum over the turns is shown, with the median behind it.
* "Per iteration" is the difference of two fits with different max_iter, divided by the difference of the iterations
  that they report: validation, copies and the final pass cancel, and what remains is assignment and update.
* The objective of each result is computed by plain NumPy (`check.py`) and must agree: 1e-4 relative for k-means, 1e-6
  for the log-likelihood in float64.
* OPENBLAS_CORETYPE is taken out of the environment first: with an old core's name there, a peer's BLAS runs at a
  fraction of its speed, and every comparison flatters us.
"""
