"""How fastem compiles Numba kernels: flags and drivers, one module for a kernel and all that it calls, disk cache.

Importing this imports Numba.  `drivers` needs much of Numba that its makers may change; with a Numba that
`numba_internals` does not know, `plain` serves, by the public interface alone, and with NUMBA_DISABLE_JIT=1 by Python.
"""

import importlib
import warnings
from typing import TYPE_CHECKING

from numba import config

if TYPE_CHECKING:
    from fastem.jit.drivers import each_cell, kernel, sweep
elif config.DISABLE_JIT:  # NUMBA_DISABLE_JIT=1, for a debugger
    warnings.warn(
        "NUMBA_DISABLE_JIT is set: fastem's kernels run in Python, some thousand times slower.",
        RuntimeWarning,
        stacklevel=2,
    )
    _maker = importlib.import_module("fastem.jit.plain")
    each_cell, kernel, sweep = _maker.each_cell, _maker.kernel, _maker.sweep
else:
    try:
        _maker = importlib.import_module("fastem.jit.drivers")
    except (ImportError, AttributeError, TypeError) as _reason:
        warnings.warn(
            f"fastem does not know this version of Numba ({_reason}): kernels are right, but take longer to compile, "
            "and most are compiled by every process; pip install 'numba<0.69' helps.",
            RuntimeWarning,
            stacklevel=2,
        )
        _maker = importlib.import_module("fastem.jit.plain")
    each_cell, kernel, sweep = _maker.each_cell, _maker.kernel, _maker.sweep

from fastem.jit.instructions import instruction
from fastem.jit.sweeps import Sweep, read_only

__all__ = ["Sweep", "each_cell", "instruction", "kernel", "read_only", "sweep"]
