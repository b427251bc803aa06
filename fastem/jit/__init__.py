"""How fastem compiles Numba kernels: flags and drivers, one module for a kernel and all that it calls, disk cache."""

from fastem.jit.drivers import Sweep, each_cell, kernel, sweep

__all__ = ["Sweep", "each_cell", "kernel", "sweep"]
