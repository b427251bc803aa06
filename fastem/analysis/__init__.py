"""What is asked of fits: which number of components, which rows are anomalies, how far below the bound lies."""
