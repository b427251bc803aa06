"""The asv suite in `benchmarks/`, and `python -m asv_bench.peers`, which measures fastem beside its peers."""
