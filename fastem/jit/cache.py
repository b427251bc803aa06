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
import functools
import hashlib
import logging
import os
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import config, types
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

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


def _tell(reason: str) -> None:
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
def _touch(folder: Path) -> None:
    """Note on the folder that it is in use; asked again, do nothing."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def _make(folder: Path) -> None:
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


def fingerprint(dispatcher: Dispatcher) -> str:
    """Hash a function, every function it calls and every constant it reads."""
    digest = hashlib.sha256()
    for text in _of_value(dispatcher, set(), set()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _of_function(function: Any, seen: set[Any]) -> Iterator[str]:
    """All that the machine code of a Python function depends on, called functions included, as text."""
    if function in seen:
        return
    seen.add(function)
    code: CodeType = function.__code__
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
    if isinstance(value, Dispatcher):
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


def _describe(kind: Any) -> str:
    """Write a Numba type as text; its own name leaves out which NamedTuple class is meant."""
    if isinstance(kind, types.BaseTuple):
        owner = getattr(kind, "instance_class", tuple)
        fields = getattr(owner, "_fields", ())
        return f"{owner.__module__}.{owner.__qualname__}{fields}[{', '.join(map(_describe, kind))}]"
    return repr(kind)


class DiskCache(_Cache):
    """One file for each compiled signature: a checksum and Numba's own serialised result."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        """The folder."""
        folder = cache_directory()
        return None if folder is None else str(folder)

    def enable(self) -> None:
        """Use the disk (the default)."""
        self._enabled = True

    def disable(self) -> None:
        """Do not use the disk."""
        self._enabled = False

    def flush(self) -> None:
        """Do nothing: a file is only ever read for the very code that it was made from."""

    def _path(self, args: Any, codegen: Any) -> Path | None:
        folder = cache_directory() if self._enabled else None
        if folder is None:
            return None
        function = self._dispatcher.py_func
        digest = hashlib.sha256(repr((codegen.magic_tuple(), [_describe(kind) for kind in args])).encode())
        digest.update(self._dispatcher.fingerprint.encode())
        name = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")[-80:]
        return folder / f"{name}-{digest.hexdigest()[:32]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Read the compiled code of a signature; None if there is none that is whole."""
        target_context.refresh()
        args = sig.args if isinstance(sig, numba.core.typing.Signature) else sig
        try:
            path = self._path(args, target_context.codegen())
            if path is None:
                return None
            stored = path.read_bytes()
            _touch(path.parent)
            checksum, payload = stored[:32], stored[32:]
            if hashlib.sha256(payload).digest() != checksum:
                return None
            result = CompileResult._rebuild(target_context, *pickle.loads(payload))
            # A NamedTuple class that is not importable (one of `__main__`) comes back as another class.
            return result if tuple(result.signature.args) == tuple(args) else None
        except Exception:  # whatever is wrong with the file, compiling is right
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the compiled code of a signature, whole or not at all."""
        if data.lifted or data.library.has_dynamic_globals:
            return
        temporary = ""
        try:
            path = self._path(data.signature.args, data.codegen)
            if path is None:
                if cache_directory() is None:
                    _tell("there is no home folder")
                return
            _make(path.parent)
            payload = dumps(data._reduce())
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except Exception as error:  # disk full, a constant that cannot be pickled: the code in memory is right
            if isinstance(error, OSError):
                _tell(str(error))
            with contextlib.suppress(OSError):
                os.unlink(temporary)
