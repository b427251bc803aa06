"""First centres of mixtures that are fitted to the same rows, shared between fits: `select` tries many models."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np


class SharedCenters:
    """What was found so far, by key: family, number of components, method and restart."""

    def __init__(self) -> None:
        self._found: dict[Any, np.ndarray] = {}
        self._locks: defaultdict[Any, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()
        self._folds: defaultdict[int, SharedCenters] = defaultdict(SharedCenters)

    def once(self, key: Any, find: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what was found for `key`; the first to ask finds it, the others wait."""
        with self._guard:
            lock = self._locks[key]
        with lock:
            if key not in self._found:
                self._found[key] = find()
        return self._found[key]

    def fold(self, number: int) -> SharedCenters:
        """Return those of a numbered part of the rows."""
        with self._guard:
            return self._folds[number]


_current: ContextVar[SharedCenters | None] = ContextVar("shared_centers", default=None)


@contextmanager
def sharing(centers: SharedCenters) -> Iterator[None]:
    """Let the mixtures that are fitted in this block, all to the same rows, share their first centres.

    Examples
    --------
    >>> with sharing(SharedCenters()):
    ...     once = finder()
    >>> once("key", lambda: 1), once("key", lambda: 2), finder()("key", lambda: 3)
    (1, 1, 3)
    """
    token = _current.set(centers)
    try:
        yield
    finally:
        _current.reset(token)


def finder() -> Callable[[Any, Callable[[], Any]], Any]:
    """Return ``once(key, find)`` of the block that this is called in; outside of any it finds each time anew."""
    current = _current.get()
    return (lambda key, find: find()) if current is None else current.once
