"""Builds CUDA source for the CPU (cuda.h) and launches its kernels, checking arguments more strictly than a GPU does."""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HEADER = Path(__file__).parent / "cuda.h"
FOLDER = Path(__file__).parents[2] / "kernels" / "gpu" / "cuda"
CACHE = Path(__file__).parents[2] / ".pytest_cache" / "emulated"
COMPILER = shutil.which("g++")
REASON = "needs g++ to run CUDA source on the processor"

#: The barriers at which the threads of a block wait, and those at which blocks do.
BARRIER = re.compile(r"(?:__syncthreads\(\)|\b(?:grid_barrier|meet)\(\w+\));")

_KERNEL = re.compile(
    r"^KERNEL (?:__launch_bounds__\([^)]*\) )?(\w+)\(|^(\w+)\(real\* theta, real\* state, const int\* x", re.MULTILINE
)
_DYNAMIC = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")


class LaunchError(RuntimeError):
    """A launch that a GPU would refuse, or an error that the emulation detects."""


def kernels_of(source):
    """Return the names of the kernels that a source defines."""
    return [a or b for a, b in _KERNEL.findall(source)]


def build(source, options=(), sanitizer=None, edit=lambda text: text):
    """Compile a source unless the cache has it; return the path of the shared library."""
    text = _DYNAMIC.sub(r"\1* \2 = DYNAMIC_SHARED(\1);", edit(source))
    exports = "".join(f"EXPORT_KERNEL({name}, 0)\n" for name in kernels_of(source))
    return compiled(f'#include "{HEADER.name}"\n#line 1 "kernels.cu"\n{text}\n{exports}', options, sanitizer)


def compiled(unit, options=(), sanitizer=None):
    """Compile C++ that includes cuda.h; return the path of the shared library."""
    command = [
        COMPILER, "-std=c++20", "-O2", "-march=native", "-ffp-contract=fast", "-g1", "-w", "-fPIC", "-shared",
        "-pthread", f"-I{HEADER.parent}", *(o for o in options if o.startswith("-D")),
        *([f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer"] if sanitizer else []),
    ]  # fmt: skip
    key = hashlib.sha256("\0".join([unit, HEADER.read_text(), *command]).encode()).hexdigest()[:20]
    library = CACHE / f"{key}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}")  # another process may build the same source
        done = subprocess.run(
            [*command, "-x", "c++", "-", "-o", str(part)],
            input=unit, text=True, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise LaunchError(done.stderr)
        part.replace(library)
    return library


#: The calls of the graph that is being recorded, or None.
RECORDED = None


def run_or_record(call):
    """Make a call now, or keep it for the graph that is being recorded."""
    if RECORDED is None:
        call()
    else:
        RECORDED.append(call)


class Function:
    """A kernel, launched as CuPy launches it; `seed` shuffles the order of a block's threads."""

    seed = 0
    launches = 0  # shared by all kernels
    most_blocks = staticmethod(lambda threads, memory: 0)  # the limit for a cooperative launch

    def __init__(self, library, name, cooperative=False):
        self.name, self.cooperative = name, cooperative
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self.kernel = SimpleNamespace(ptr=self)
        self._launch = getattr(library, f"launch_{name}")
        self._launch.argtypes = [
            ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p,
        ]  # fmt: skip
        signature = getattr(library, f"signature_{name}")
        signature.restype = library.launch_failure.restype = ctypes.c_char_p
        self.parameters, self._failure = signature().decode().split(), library.launch_failure

    def __call__(self, grid, block, args, *, shared_mem=0):
        if len(args) != len(self.parameters):
            raise LaunchError(f"{self.name}: {len(args)} arguments, and {len(self.parameters)} parameters")
        if not (len(grid) == len(block) == 1 and grid[0] >= 1 and 1 <= block[0] <= 1024):
            raise LaunchError(f"{self.name}: no launch of {grid} blocks of {block} threads")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise LaunchError(
                f"{self.name}: {shared_mem} bytes of shared memory, and {self.max_dynamic_shared_size_bytes} allowed"
            )
        if self.cooperative and grid[0] > self.most_blocks(block[0], shared_mem):
            raise LaunchError(f"{self.name}: {grid[0]} blocks do not run at the same time")
        values = [self._value(k, *pair) for k, pair in enumerate(zip(args, self.parameters, strict=True))]
        run_or_record(partial(self._run, grid[0], block[0], shared_mem, values))

    def _run(self, blocks, threads, shared_mem, values):
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        Function.launches += 1
        if self._launch(blocks, threads, shared_mem, self.cooperative, self.seed, ctypes.addressof(pointers)):
            raise LaunchError(f"{self.name}: {self._failure().decode()}")

    def _value(self, k, argument, parameter):
        """Return an argument's bytes as a one-element NumPy array."""
        wanted = f"{self.name}: argument {k}: {parameter} wanted, got"
        if parameter.startswith("*"):
            if not getattr(argument, "is_on_device", False):
                raise TypeError(f"{wanted} {type(argument).__name__}")
            if argument.dtype.kind + str(argument.dtype.itemsize) != parameter[1:]:
                raise TypeError(f"{wanted} an array of {argument.dtype}")
            if not argument.flags.c_contiguous:
                raise TypeError(f"{wanted} an array with gaps")
            return np.array([argument.data.ptr], np.uint64)
        if type(argument) in (int, float, bool):  # the types that CuPy passes
            argument = {int: np.int64, float: np.float64, bool: np.bool_}[type(argument)](argument)
        if not isinstance(argument, np.generic) or argument.dtype.kind + str(argument.dtype.itemsize) != parameter:
            raise TypeError(f"{wanted} {getattr(argument, 'dtype', type(argument).__name__)}")
        return np.array([argument])
