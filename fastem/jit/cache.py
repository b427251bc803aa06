"""Compiled kernels on disk, such that stale or broken machine code is never loaded and a missing cache never hurts.

Numba's own disk cache keys a function by its source file alone, so that a helper edited in another file leaves stale
machine code in its callers; its index can mix up two signatures when two processes write at once; and it raises where
it cannot write.  Here each compiled signature is one file with a checksum.  Its folder is named after a hash of all
kernel sources of the package and of the versions of what compiles them, its name holds a fingerprint of the function,
of every function it calls and of every constant it reads.  A file that cannot be read or written is as none: the
kernel is compiled in memory.  Deleting the folder is always safe.

Each change of a kernel or a version leaves a folder behind: making a new one removes those that no process has used for
30 days.  The time of a folder's last use is its modification time, which a process renews once.
"""

# Numba's annotations do not know its configuration.
# mypy: disable-error-code="attr-defined, var-annotated, arg-type, call-overload"

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import config, types

STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]
UNUSED_DAYS = 30  # after which a folder of another stamp is removed


@functools.cache
def cache_directory() -> Path | None:
    """Name the folder of compiled kernels: ``fastem/<stamp>`` below NUMBA_CACHE_DIR or else the user's cache folder.

    It need not exist.  None if there is no home to put it in, or the package's own sources cannot be read.
    """
    if config.CACHE_DIR:
        base = config.CACHE_DIR
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not base or base.startswith("~"):
        return None
    with contextlib.suppress(OSError):
        return Path(base).absolute() / "fastem" / _stamp()
    return None


def _stamp() -> str:
    """Hash of the package's kernel sources and of all that decides what Numba makes of them."""
    settings = [getattr(config, name, None) for name in ("BOUNDSCHECK", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE")]
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, sys.abiflags)
    digest = hashlib.sha256(repr((versions, settings, config.DEBUGINFO_DEFAULT)).encode())
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        name, source = path.relative_to(package).as_posix(), path.read_bytes()
        if b"jit" in source or name.startswith(("families/", "kernels/")):
            digest.update(name.encode() + b"\0" + source)
    return digest.hexdigest()[:16]


def tell(reason: str) -> None:
    """Log, once a process, that kernels cannot be kept, and what helps."""
    if not _told:
        _told.append(reason)
        logging.getLogger("fastem").warning(
            "fastem cannot keep its compiled kernels (%s), so that every process compiles them anew, for some seconds: "
            "set NUMBA_CACHE_DIR to a folder that can be written, or to one that fastem.warmup() has filled before.",
            reason,
        )


_told: list[str] = []


@functools.cache
def touch(folder: Path) -> None:
    """Note on the folder that it is in use; asked again, do nothing."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def make_folder(folder: Path) -> None:
    """Make the folder, if need be, and then remove its siblings that are out of use."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        for sibling in os.scandir(folder.parent):
            if sibling.name != folder.name:
                _remove_unused(sibling)


def _remove_unused(folder: os.DirEntry[str]) -> None:
    """Remove a folder of compiled kernels that was not used of late; never one that holds anything else."""
    with contextlib.suppress(OSError):
        if not re.fullmatch("[0-9a-f]{16}", folder.name) or not folder.is_dir(follow_symlinks=False):
            return
        if time.time() - folder.stat(follow_symlinks=False).st_mtime < UNUSED_DAYS * 86400:
            return
        files = list(os.scandir(folder))
        if all(file.is_file(follow_symlinks=False) and file.name.endswith((".nbc", ".tmp")) for file in files):
            for file in files:
                os.unlink(file)
            os.rmdir(folder)


def fingerprint(dispatcher: Any) -> str:
    """Hash a function, every function it calls and every constant it reads."""
    digest = hashlib.sha256()
    for text in _of_value(dispatcher, set(), set()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _of_function(function: Any, seen: set[Any]) -> Iterator[str]:
    """All that the machine code of a Python function depends on, called functions included, as text."""
    code: CodeType = function.__code__
    # Numba compiles no function that writes to a global: what it reads are no constants but the state of the moment.
    if function in seen or STORE_GLOBAL in code.co_code[::2]:
        return
    seen.add(function)
    yield f"{function.__module__}.{function.__qualname__}:{code.co_firstlineno} {function.__defaults__}"
    names = set(code.co_names)
    pending = [code]
    while pending:
        block = pending.pop()
        yield f"{block.co_code.hex()} {block.co_varnames} {block.co_names} {block.co_argcount}"
        for constant in block.co_consts:
            if isinstance(constant, CodeType):
                pending.append(constant)
                names.update(constant.co_names)
            else:
                text = sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
                yield f"{type(constant)} {text}"
    scope = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        scope[name] = cell.cell_contents
    for name, value in sorted(scope.items()):
        yield name
        yield from _of_value(value, names, seen)


def _of_value(value: Any, names: set[str], seen: set[Any]) -> Iterator[str]:
    """Do the same for a global or a closure variable; for a module, through those members that the code names."""
    if hasattr(value, "py_func"):  # compiled by Numba
        options = value.targetoptions.items()
        yield repr(sorted((name, sorted(option) if isinstance(option, set) else option) for name, option in options))
        yield from _of_function(value.py_func, seen)
    elif isinstance(value, FunctionType):
        yield from _of_function(value, seen)
    elif isinstance(value, ModuleType):
        yield value.__name__
        visit = (value, frozenset(names))
        if visit not in seen and value.__name__.partition(".")[0] not in ("math", "cmath", "numpy", "numba"):
            seen.add(visit)
            for name in sorted(names & vars(value).keys()):
                yield name
                yield from _of_value(vars(value)[name], names, seen)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value)).hexdigest()}"
    elif isinstance(value, tuple):
        for item in value:
            yield from _of_value(item, names, seen)
    else:
        text = repr(value)
        yield f"{type(value)} {getattr(value, '_fields', '')} {'' if ' at 0x' in text else text}"


def describe(kind: Any) -> str:
    """Write a Numba type as text; its own name leaves out which NamedTuple class is meant."""
    if isinstance(kind, types.BaseTuple):
        owner = getattr(kind, "instance_class", tuple)
        fields = getattr(owner, "_fields", ())
        return f"{owner.__module__}.{owner.__qualname__}{fields}[{', '.join(map(describe, kind))}]"
    return repr(kind)
