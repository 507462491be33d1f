"""Calls the real compiler, NVRTC, from its wheel (extra gpu-test), for any architecture, without CuPy or a driver."""

import ctypes
import re
from functools import cache, partial
from typing import NamedTuple

from device import wheels

PACKAGE = "nvidia-cuda-nvrtc"
REASON = f"needs the compiler's wheel: pip install {PACKAGE} (extra gpu-test)"
#: Options that CuPy adds to those of a RawModule.
CUPYS = ("-ftz=true", "--device-as-default-execution-space")


wheel = partial(wheels.installed, PACKAGE)


@cache
def _library():
    return ctypes.CDLL(wheels.path_of(PACKAGE, r"libnvrtc\.so\.\d+"))


class Kernel(NamedTuple):
    """What the assembler reports about a kernel."""

    registers: int
    spilled: int  # bytes stored and loaded
    stack: int  # bytes of local memory; arrays whose indices the compiler does not know count here, not as spilled
    shared: int  # bytes of static shared memory


class Compiled(NamedTuple):
    """The result of compiling a source: its kernels by name, its PTX, and what a GPU executes (a cubin)."""

    kernels: dict[str, Kernel]
    ptx: str
    code: bytes


def compiled(source, options, architecture):
    """Compile a source for an architecture, such as 80."""
    code, log = _built(source, (*options, *CUPYS, f"-arch=sm_{architecture}", "--ptxas-options=-v"), "CUBIN")
    ptx, _ = _built(source, (*options, *CUPYS, f"-arch=compute_{architecture}"), "PTX")
    return Compiled(_kernels_in(log), ptx.rstrip(b"\0").decode(), code)


def _kernels_in(log):
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]
        spilled = sum(map(int, re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part).groups()))
        shared = re.search(r"(\d+) bytes smem", part)
        registers, stack = (
            int(re.search(p, part).group(1)) for p in (r"Used (\d+) registers", r"(\d+) bytes stack frame")
        )
        found[name] = Kernel(registers, spilled, stack, int(shared.group(1)) if shared else 0)
    return found


def _built(source, options, what):
    """Compile; return the result and the log."""
    nvrtc, program = _library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        result = nvrtc.nvrtcCompileProgram(program, len(options), arguments)
        log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        if result:
            raise RuntimeError(log.decode())
        text = _read(getattr(nvrtc, f"nvrtcGet{what}Size"), getattr(nvrtc, f"nvrtcGet{what}"), program)
        return text, log.decode()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(size_of, get, program):
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.raw
