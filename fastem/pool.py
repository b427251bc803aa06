"""Memory of large arrays that serves again within a fit.

Matrices of many features are megabytes, and the C library gives such memory back to the system as soon as an array
dies: the next iteration's array is made of pages that the system has to fill with zeros anew.  At 1000 x 784 in ten
components that was 18 % of a fit.  Within `kept` an array's memory is kept for the next one of the same size.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import mmap
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

# Bytes from which on memory is kept: the C library keeps smaller pieces itself.
LEAST = 2**20


class _Pool:
    """Pieces of memory that no array uses any more, by size."""

    def __init__(self) -> None:
        self.free: dict[int, list[mmap.mmap]] = {}


_current: contextvars.ContextVar[_Pool | None] = contextvars.ContextVar("fastem_pool", default=None)


class _Lease(np.ndarray):
    """What an array and all views of it hold on to: when the last has gone, the memory goes back to its pool."""

    home: weakref.ref[_Pool]

    def __del__(self) -> None:
        pool = self.home()
        if pool is not None:
            pool.free.setdefault(self.nbytes, []).append(self.base)  # type: ignore[arg-type]


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep memory for the arrays made by `empty` here; what none of them uses at the end is given back."""
    if _current.get() is not None:
        yield
        return
    token = _current.set(_Pool())
    try:
        yield
    finally:
        _current.reset(token)


def keeping(function: F) -> F:
    """Decorate a function so that all it does is `kept`."""

    @functools.wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with kept():
            return function(*args, **kwargs)

    return inside  # type: ignore[return-value]


def empty(shape: int | tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    """Return an array that may hold anything, like `numpy.empty`, of memory that an array before may have used.

    Parameters
    ----------
    shape : int or tuple of int
        Its extents.
    dtype : dtype
        The type of its numbers.

    Returns
    -------
    ndarray
        An array, C-contiguous.

    Examples
    --------
    >>> with kept():
    ...     place = empty((512, 512)).ctypes.data
    ...     empty((512, 512)).ctypes.data == place
    True
    """
    array = np.empty(shape, dtype)  # of pages that the system gives only once they are touched
    size, pool = array.nbytes, _current.get()
    if size < LEAST or pool is None:
        return array
    try:
        memory = pool.free[size].pop()
    except (KeyError, IndexError):
        try:
            memory = _pages(size)
        except OSError:  # no more to be had, or too many pieces
            return array
    lease = _Lease(size, np.uint8, buffer=memory)
    lease.home = weakref.ref(pool)
    # A view of a view holds on to the first array alone where all are of one type; what a lease is of is no array.
    return lease.view(np.ndarray).view(array.dtype).reshape(array.shape)


def _pages(size: int) -> mmap.mmap:
    """Return so many bytes of the system, in large pages if it has them."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
