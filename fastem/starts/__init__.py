"""Where a run begins: rows chosen for k-means, the first assignment of a mixture, and swaps after convergence."""
