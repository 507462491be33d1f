"""How everything here is compiled, and where compiled code is kept between runs.

`inner` is for functions that only compiled code calls (`exact` where each rounding counts); `entry` for the few that
Python calls, which are kept on disk.

The cache is content-addressed: a file's key is a digest of every source file of this package, of the versions and
settings that change what the compiler makes, of the processor, the function and its argument types. So an edit
anywhere recompiles (Numba's own cache looks at one file and misses edits in others). A file is ``MAGIC``, the SHA-256
of the rest, its key, and Numba's pickled object code; the digest is checked before anything is unpickled, and a file
that does not match is removed and made anew. Files appear by renaming, so several processes may start at once.
"""

import hashlib
import os
import pickle
import platform
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy
import platformdirs
from numba import njit
from numba.core import config
from numba.core.caching import _Cache
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

import kernels

FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}  # not nnan, not ninf: a NaN must stay one
_OPTIONS: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}  # numpy: no zero checks
INNER_OPTIONS = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # never called from Python

MAGIC = b"charlstm-kernel-1\n"
SUFFIX = ".kernel"
MAX_BYTES = 100 * 2**20
_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "ENABLE_AVX", "DEBUGINFO_DEFAULT")

inner = njit(**INNER_OPTIONS)
exact = njit(**{**INNER_OPTIONS, "fastmath": False})  # rounded at every step, as Python would
_thin: set[str] = set()


def thin(function: Callable[..., Any]) -> Any:
    """`inner`, for a function that hardly does more than call others: it is optimized with its callers alone.

    Numba optimizes each function together with all that it calls, and all of it once more for each caller, which was
    the larger part of the time to compile. (Leaving it to the last caller throughout made the code slower by 15 %.)
    """
    _thin.add(function.__name__)
    return inner(function)


def entry(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called with new types, or load it from the cache."""
    compiled = njit(**_OPTIONS)(function)
    compiled._cache = KernelCache(function)
    plain = compiled.compile

    def compile_or_load(signature: Any) -> Any:
        with _thin_ones_pass():
            return plain(signature)

    compiled.compile = compile_or_load
    return compiled


@contextmanager
def _thin_ones_pass() -> Iterator[None]:
    """While an entry is compiled: do not optimize `thin` functions by themselves."""
    name = "_optimize_final_module"
    optimize = getattr(CPUCodeLibrary, name)

    def unless_thin(library: Any) -> None:
        if library.name not in _thin:
            optimize(library)

    with global_compiler_lock:
        setattr(CPUCodeLibrary, name, unless_thin)
        try:
            yield
        finally:
            setattr(CPUCodeLibrary, name, optimize)


def source_digest() -> str:
    """SHA-256 of every Python file of the package that this file is part of, names included."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _build_key() -> str:
    settings = [(name, getattr(config, name, None)) for name in _SETTINGS]
    versions = (sys.implementation.cache_tag, numba.__version__, llvmlite.__version__, numpy.__version__)
    return repr((source_digest(), versions, platform.system(), platform.machine(), settings))


def _candidates() -> Iterator[Path]:
    """Folders to try, in order; the last is in a place that others can write to, so it must be ours alone."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    yield Path(chosen) / "charlstm" if chosen else Path(platformdirs.user_cache_dir("charlstm", False)) / "kernels"
    yield Path(tempfile.gettempdir()) / f"charlstm-kernels-{getattr(os, 'getuid', lambda: 'user')()}"


def cache_dir() -> Path | None:
    """The folder that holds compiled kernels, made if need be; None where nothing can be written."""
    for folder in _candidates():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mine = folder.lstat()
            private = not hasattr(os, "getuid") or (mine.st_uid == os.getuid() and not mine.st_mode & 0o022)
            if not stat.S_ISDIR(mine.st_mode) or not private:
                continue  # someone else could put code there
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue  # not writable: the next one may be
    return None


def clear_cache() -> tuple[int, int]:
    """Remove every compiled kernel; return how many files, and how many bytes."""
    folder = cache_dir()
    found = [(path, path.stat().st_size) for path in folder.glob(f"*{SUFFIX}*")] if folder else []
    for path, _ in found:
        path.unlink(missing_ok=True)
    return len(found), sum(size for _, size in found)


class KernelCache(_Cache):
    """One function's compiled forms on disk; Numba calls `load_overload` before it compiles, `save_overload` after."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._enabled = True
        self._folder: Path | None = None
        self._located = False

    @property
    def cache_path(self) -> str:
        return str(self._locate() or "")

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Remove this function's files."""
        folder = self._locate()
        for path in folder.glob(f"{self._function.__name__}-*{SUFFIX}") if folder else ():
            path.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        target_context.refresh()
        key = self._key(sig, target_context.codegen())
        payload = self._read(key)
        if payload is not None:
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        for listener in kernels.compile_listeners:
            listener(self._function.__name__)
        return None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        folder = self._locate() if self._enabled else None
        if folder is None:
            return
        key = self._key(sig, data.codegen)
        body = key + dumps(data._reduce())
        path = self._path(folder, key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
        try:
            temporary.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)
            os.replace(temporary, path)
            _prune(folder)
        except OSError:  # a full disk or a file in use: the kernel is compiled and works, it is only not kept
            temporary.unlink(missing_ok=True)

    def _locate(self) -> Path | None:
        if not self._located:
            self._folder, self._located = cache_dir(), True
        return self._folder

    def _key(self, sig: Any, codegen: Any) -> bytes:
        name = f"{self._function.__module__}.{self._function.__qualname__}"
        return hashlib.sha256(repr((_BUILD_KEY, codegen.magic_tuple(), name, str(sig))).encode()).digest()

    def _path(self, folder: Path, key: bytes) -> Path:
        return folder / f"{self._function.__name__}-{key.hex()[:24]}{SUFFIX}"

    def _read(self, key: bytes) -> bytes | None:
        """The payload kept under `key`; a damaged or foreign file is removed, and counts as none."""
        folder = self._locate() if self._enabled else None
        if folder is None:
            return None
        path = self._path(folder, key)
        try:
            content = path.read_bytes()
            body = content[len(MAGIC) + 32 :]
            if content == MAGIC + hashlib.sha256(body).digest() + body and body[:32] == key:
                os.utime(path)  # the least recently used go first when the folder grows too large
                return body[32:]
            path.unlink(missing_ok=True)
        except OSError:
            pass  # not there, or not readable: compile
        return None


def _prune(folder: Path) -> None:
    """Keep the folder under MAX_BYTES, dropping what was used longest ago, and sweep temporary files of dead runs."""
    total = 0
    files = [(path, path.stat()) for path in folder.iterdir() if SUFFIX in path.name]
    for path, info in sorted(files, key=lambda item: -item[1].st_mtime):
        total += info.st_size
        stale = path.suffix == ".tmp" and time.time() - info.st_mtime > 3600
        if total > MAX_BYTES or stale:
            path.unlink(missing_ok=True)


_BUILD_KEY = _build_key()
