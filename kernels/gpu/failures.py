"""CUDA's errors as one exception with one line, and the trial that tells whether the GPU works at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import cupy
import numpy as np
from cupy.cuda import compiler, cublas, driver, nvrtc, runtime

from kernels.gpu.cublas import CuBLASError
from kernels.gpu.launch import each
from kernels.shared import BackendUnavailable, DeviceFailed

_FAILURES = (
    runtime.CUDARuntimeError, driver.CUDADriverError, cublas.CUBLASError, nvrtc.NVRTCError,
    compiler.CompileException, CuBLASError,
)  # fmt: skip
#: What CUDA's libraries say if a context, a module or a handle of theirs finds no memory.
_NO_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn CUDA's errors in the body into DeviceFailed, or MemoryError where memory was lacking."""
    try:
        yield
    except _FAILURES as error:
        line = _line(error)
        if any(code in line for code in _NO_MEMORY):
            raise MemoryError(line) from error
        raise DeviceFailed(f"the GPU failed: {line}") from error


def _line(error: BaseException) -> str:
    """The first line of an error, with its kind if it has no words of its own, and its number if it has one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    status = getattr(error, "status", None)
    return (lines[0][:300] if lines else type(error).__name__) + (f" (code {status})" if status else "")


def fetched(array: Any) -> np.ndarray:
    """Copy an array to the host."""
    with in_one_line():
        return array.get()


@cache
def try_out() -> None:
    """Compile and run one small kernel.

    Raises
    ------
    BackendUnavailable
        If that fails, for whatever reason; the line names it.
    """
    try:
        array = cupy.zeros((1,), np.float32)
        factor = cupy.asarray(np.array([2], np.float32))
        each("clipping", "clip", array.dtype, 1, array, factor, np.int64(1), np.float32(1))()
        array.get()
    except Exception as error:  # CuPy and CUDA have many, and each means that nothing would run
        raise BackendUnavailable(f"the cupy backend cannot use the GPU: {_line(error)}") from error
