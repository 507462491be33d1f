"""Compilation of the CPU kernels, and the cache that keeps compiled code between runs.

`inner` compiles functions that only compiled code calls (`exact` if every rounding must be as in Python); `entry`
compiles the few functions that Python calls, which are cached on disk.

The cache is content-addressed: a file's key is a digest of every source file that compiled code depends on, of the
versions and settings that affect the compiler's output, of the processor and its vectors, of the function and its
argument types. An edit to any source file therefore recompiles (Numba's own cache looks at one file and misses edits to
others). A file is ``MAGIC``, the SHA-256 of the rest, its key, and Numba's pickled object code. The digest is checked
before anything is unpickled, and a file that does not match is removed and compiled again. Files are created under a
temporary name and then renamed, so several processes may start at once.

Unpickling runs code. A folder, or a file in it, is therefore used only if nobody but this user and root can have
written it. A folder that root has filled and this user cannot write to, as in a container image, is only read; new
kernels go to the next folder.
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
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy
import platformdirs
from numba import njit
from numba._dynfunc import make_function
from numba.core import config
from numba.core.caching import _Cache
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUContext
from numba.core.serialize import dumps

from kernels.cpu.emit.amx import IS_AMX
from kernels.cpu.emit.processor import FEATURES, VECTORS
from kernels.shared import compile_listeners

if getattr(config, "DISABLE_JIT", False):  # set in a file; kernels.missing checks the environment
    raise ImportError("Numba's settings turn its compiler off (DISABLE_JIT)")

FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}  # not nnan or ninf: NaN must stay NaN
_OPTIONS: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}  # numpy: no division checks
INNER_OPTIONS = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # never called from Python

MAGIC = b"charlstm-kernel-1\n"
SUFFIX = ".kernel"
MAX_BYTES = 100 * 2**20
_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "ENABLE_AVX", "DEBUGINFO_DEFAULT")

inner = njit(**INNER_OPTIONS)
exact = njit(**{**INNER_OPTIONS, "fastmath": False})  # rounds at every step, as Python does
_thin: set[str] = set()  # names that include the module: an entry may have the same bare name
_entries: set[str] = set()


def thin(function: Callable[..., Any]) -> Any:
    """Like `inner`, for a function that mostly calls others: it is optimized only as a part of its callers.

    Numba optimizes each function together with everything that it calls, and again for each caller; this took most of
    the compile time. (Optimizing all functions only in their outermost caller made the code 15 % slower.)
    """
    function.__qualname__ = f"{function.__module__}.{function.__qualname__}"  # Numba names the code after it
    _thin.add(function.__qualname__)
    return inner(function)


def named(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that renames a function, so that the versions for different cells have distinct names in the cache."""

    def rename(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__name__ = function.__qualname__ = name
        return function

    return rename


def entry(function: Callable[..., Any]) -> Any:
    """Compile `function`, or load it from the cache, when it is first called with new types."""
    compiled = njit(**_OPTIONS)(function)
    compiled._cache = KernelCache(function)
    plain = compiled.compile
    _entries.add(function.__qualname__)

    def compile_or_load(signature: Any) -> Any:
        with _compiling():
            return plain(signature)

    compiled.compile = compile_or_load
    return compiled


class _Library(JITCodeLibrary):
    """The code of one function, compiled for an entry: of all these libraries, only an entry's becomes machine code.

    An entry has its own copy of every function it calls, under internal names: the linker would otherwise prefer
    functions of the same name that the process compiled before, whose last bits may differ. So results do not depend on
    whether an entry was compiled or came from the cache, and Numba need not generate machine code for each function by
    itself, which took a third of the compile time.
    """

    def _optimize_final_module(self) -> None:
        if self.name not in _thin:
            super()._optimize_final_module()
        if self.name in _entries:
            for function in self._final_module.functions:
                if not function.is_declaration and function.linkage.name == "linkonce_odr":
                    function.linkage = "internal"

    def _finalize_final_module(self) -> None:
        if self.name in _entries:
            super()._finalize_final_module()
        else:
            self._finalize_dynamic_globals()
            self._finalized = True


@contextmanager
def _compiling() -> Iterator[None]:
    """Context manager for compiling an entry, and everything that it calls, as `_Library`.

    What Numba makes of a function for Python gets a null pointer if it is not the entry. This is what it gets anyway if
    there is no wrapper for Python, but Numba would generate the machine code to find that out.
    """
    codegen: Any = JITCPUCodegen
    contexts: Any = CPUContext

    def executable_of_entry(context: Any, library: Any, description: Any, environment: Any) -> Any:
        if library.name in _entries:
            return executable(context, library, description, environment)
        name = description.qualname.split(".")[-1]
        return make_function(description.lookup_module(), name, "", 0, environment, (library,))

    with global_compiler_lock:  # another thread may be here: what is plain is known only when it is done
        plain, executable = codegen._library_class, contexts.get_executable
        codegen._library_class, contexts.get_executable = _Library, executable_of_entry
        try:
            yield
        finally:
            codegen._library_class, contexts.get_executable = plain, executable


if hasattr(os, "register_at_fork"):  # fork only while no thread compiles: the child would inherit a locked lock
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


def source_digest() -> str:
    """SHA-256 of the names and contents of all Python files that compiled code depends on: kernels/cpu and spec."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in (*sorted((package / "cpu").rglob("*.py")), *sorted((package / "spec").glob("*.py"))):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _build_key() -> str:
    settings = [(name, getattr(config, name, None)) for name in _SETTINGS]
    versions = (sys.implementation.cache_tag, numba.__version__, llvmlite.__version__, numpy.__version__)
    system = (platform.system(), platform.machine(), tuple(VECTORS), sorted(FEATURES), IS_AMX)
    return repr((source_digest(), versions, system, settings))


def _candidates() -> Iterator[tuple[Path, int]]:
    """Folders to try, in order, each with its mode; other users may read a folder chosen by NUMBA_CACHE_DIR."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        yield Path(chosen) / "charlstm", 0o755
    with suppress(RuntimeError, KeyError):  # no HOME, and no entry for this user in the password database
        own = Path(platformdirs.user_cache_dir("charlstm", False))
        if own.is_absolute():  # without HOME, older versions of platformdirs return "~/.cache"
            yield own / "kernels", 0o700
    yield Path(tempfile.gettempdir()) / f"charlstm-kernels-{getattr(os, 'getuid', lambda: 'user')()}", 0o700


def is_safe(found: os.stat_result) -> bool:
    """Whether only root and this user can have written a file or a folder, since its content is executed."""
    if not hasattr(os, "getuid"):
        return True
    return found.st_uid in (0, os.getuid()) and not found.st_mode & 0o022


def cache_dir() -> Path | None:
    """The folder that compiled kernels are written to, created if necessary; None if none is writable."""
    return _places()[1]


def _places() -> tuple[list[Path], Path | None]:
    """Folders to search for kernels, and the folder to write to: the first writable one, at the end of the list."""
    found = []
    for folder, mode in _candidates():
        try:
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
            if _is_safe_folder(folder):
                found.append(folder)
                with tempfile.TemporaryFile(dir=folder):
                    return found, folder
        except OSError:
            continue  # not writable: try the next one
    return found, None


def _is_safe_folder(folder: Path) -> bool:
    """Whether it is a safe folder, not a link to one."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and is_safe(found)


def _content(path: Path) -> bytes | None:
    """The content of a file, or None if it is not safe, a link, or unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            return file.read() if is_safe(os.fstat(descriptor)) else None
    except OSError:
        return None


def clear_cache() -> tuple[int, int]:
    """Remove every compiled kernel; return the number of files and of bytes."""
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

    @property
    def cache_path(self) -> str:
        return str(self._places[1] or "")

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Remove this function's files."""
        folder = self._places[1]
        for path in folder.glob(f"{self._function.__name__}-*{SUFFIX}") if folder else ():
            path.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        target_context.refresh()
        key = self._key(sig, target_context.codegen())
        payload = self._read(key)
        if payload is not None:
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        for listener in compile_listeners:
            listener(self._function.__name__)
        return None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        folder = self._folder
        if folder is None:
            return
        key = self._key(sig, data.codegen)
        body = key + dumps(data._reduce())
        path = self._path(folder, key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
        try:
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as file:
                file.write(MAGIC + hashlib.sha256(body).digest() + body)
            os.replace(temporary, path)
            _prune(folder)
        except OSError:  # a full disk or a file in use: the kernel works, but is not cached
            temporary.unlink(missing_ok=True)

    @cached_property
    def _places(self) -> tuple[list[Path], Path | None]:
        return _places()

    @property
    def _folder(self) -> Path | None:
        """The folder that kernels are written to."""
        return self._places[1] if self._enabled else None

    def _key(self, sig: Any, codegen: Any) -> bytes:
        name = f"{self._function.__module__}.{self._function.__qualname__}"
        return hashlib.sha256(repr((_BUILD_KEY, codegen.magic_tuple(), name, str(sig))).encode()).digest()

    def _path(self, folder: Path, key: bytes) -> Path:
        return folder / f"{self._function.__name__}-{key.hex()[:24]}{SUFFIX}"

    def _read(self, key: bytes) -> bytes | None:
        """The payload stored under `key`, or None; a damaged file is removed."""
        for folder in self._places[0] if self._enabled else ():
            path = self._path(folder, key)
            content = _content(path)
            if content is None:
                continue
            body = content[len(MAGIC) + 32 :]
            if content == MAGIC + hashlib.sha256(body).digest() + body and body[:32] == key:
                with suppress(OSError):  # the file may belong to root
                    os.utime(path)  # mark it as recently used: _prune removes the least recently used files first
                return body[32:]
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return None


def _prune(folder: Path) -> None:
    """Remove the least recently used kernels beyond MAX_BYTES, and temporary files that dead processes left."""
    total = 0
    files = [(path, path.stat()) for path in folder.iterdir() if SUFFIX in path.name]
    for path, info in sorted(files, key=lambda item: -item[1].st_mtime):
        total += info.st_size
        stale = path.suffix == ".tmp" and time.time() - info.st_mtime > 3600
        if total > MAX_BYTES or stale:
            path.unlink(missing_ok=True)


_BUILD_KEY = _build_key()
