"""The loop: expectation-maximization for any family over any source, its restarts, monitor and acceleration."""
