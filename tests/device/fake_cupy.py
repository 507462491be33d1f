"""A stand-in for the part of CuPy that kernels/gpu uses: it runs on the CPU and enforces CuPy's rules.

Device memory is an ndarray subclass that does not mix with NumPy arrays; kernels reject NumPy arrays as arguments; and
`empty` returns NaN. Matrix products follow cuBLAS: column-major matrices, raw addresses, a leading dimension for each.
"""

import ctypes
import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np

from device import emulator, nvrtc, ptx
from kernels.spec import atomic


class Array(np.ndarray):
    """Device memory."""

    is_on_device, device_id = True, 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        for value in (*inputs, *(out or ())):
            if type(value) is np.ndarray and value.ndim:
                raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        if method != "__call__":
            raise NotImplementedError(f"`cupy_{ufunc.__name__}.{method}` is not supported yet")
        plain = [v.view(np.ndarray) if isinstance(v, Array) else v for v in inputs]
        if out is not None:
            options["out"] = tuple(v.view(np.ndarray) for v in out)
        result = getattr(ufunc, method)(*plain, **options)
        return out[0] if out is not None else np.asarray(result).view(Array)

    def max(self):
        return np.asarray(self.view(np.ndarray).max()).view(Array)

    def min(self):
        return np.asarray(self.view(np.ndarray).min()).view(Array)

    def __setitem__(self, key, value):
        assert emulator.RECORDED is None, "a graph would not hold this assignment"
        if type(value) is np.ndarray and value.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        super().__setitem__(key, value)

    @property
    def data(self):
        """Its address, and the number of its GPU."""
        return SimpleNamespace(ptr=self.__array_interface__["data"][0], device_id=self.device_id)

    def get(self):
        """Return a copy on the host."""
        return np.array(self.view(np.ndarray))


def asarray(array, dtype=None):
    if isinstance(array, Array) and dtype in (None, array.dtype):
        return array
    if hasattr(array, "__cuda_array_interface__"):
        told = array.__cuda_array_interface__
        real = np.dtype(told["typestr"])
        memory = (ctypes.c_char * (int(np.prod(told["shape"])) * real.itemsize)).from_address(told["data"][0])
        return np.frombuffer(memory, real).reshape(told["shape"]).view(Array)
    return np.array(array, dtype, order="K").view(Array)  # as CuPy, which keeps the order of columns, too


def empty(dims, dtype=np.float64):
    array = np.empty(dims, dtype)
    array.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN for floats
    return array.view(Array)


def empty_like(array):
    return empty(array.shape, array.dtype)


def zeros(dims, dtype=np.float64):
    return np.zeros(dims, dtype).view(Array)


# -------------------------------------------------------------------------------------------------------------- graphs
class Stream:
    """A stream; while it records, kernels and products are kept instead of run, and nothing else is allowed."""

    def __init__(self, non_blocking=False):
        self.ptr = id(self)

    def __enter__(self):
        _streams.append(self)

    def __exit__(self, *_):
        _streams.remove(self)

    def synchronize(self):
        """Do nothing: all work is done when it is queued."""

    def begin_capture(self):
        emulator.RECORDED = []

    def end_capture(self):
        calls, emulator.RECORDED = emulator.RECORDED, None
        return SimpleNamespace(launch=lambda: atomic.make(calls))  # an interruption stops a host, but not a GPU


_streams = [Stream()]  # the last is the current one


# -------------------------------------------------------------------------------------------------------------- cuBLAS
#: Arguments of cublasGemmEx that others lack: CUDA_R_32F for each matrix, CUBLAS_COMPUTE_32F_FAST_16BF, and
#: CUBLAS_GEMM_DEFAULT.
_OF_EX = {7: 0, 10: 0, 14: 0, 16: 75, 17: -1}


def _gemm(dtype, is_ex=False):
    """Imitate a product; the one that may run in bfloat16 requires factors that lose nothing by it."""

    def columns_first(address, rows, columns, leading):
        if leading < max(1, rows):
            raise RuntimeError("CUBLAS_STATUS_INVALID_VALUE")
        size = leading * (columns - 1) + rows  # an access beyond the end raises an error
        memory = np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)
        return np.lib.stride_tricks.as_strided(
            memory, (rows, columns), (dtype.itemsize, leading * dtype.itemsize), writeable=True
        )

    def gemm(handle, *arguments):
        assert handle.value == _HANDLE
        assert [type(each) for each in arguments[:5]] == [ctypes.c_int] * 5
        given = [each.contents.value if hasattr(each, "contents") else each.value for each in arguments]
        if is_ex:
            assert {k: given[k] for k in _OF_EX} == _OF_EX
            given = [value for k, value in enumerate(given) if k not in _OF_EX]
        turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc = given

        def run():
            left = columns_first(a, k, m, lda).T if turn_a else columns_first(a, m, k, lda)
            right = columns_first(b, n, k, ldb).T if turn_b else columns_first(b, k, n, ldb)
            out = columns_first(c, m, n, ldc)
            assert not is_ex or all(
                (np.ascontiguousarray(each).view("u4") % 65536 == 0).all() for each in (left, right)
            )
            with np.errstate(all="ignore"):  # a GPU warns of nothing
                made = alpha * (left @ right)
                out[...] = made + beta * out if beta else made

        emulator.run_or_record(run)

    return gemm


_HANDLE = 7


def _create(handle):
    handle._obj.value = _HANDLE


def _cublas():
    """Imitate the C library."""
    nothing = {f"cublas{name}": lambda *_: None for name in ("SetStream_v2", "SetWorkspace_v2", "SetMathMode")}
    products = {"cublasSgemm_v2": _gemm(np.dtype("f4")), "cublasDgemm_v2": _gemm(np.dtype("f8"))}
    products["cublasGemmEx"] = _gemm(np.dtype("f4"), is_ex=True)
    return SimpleNamespace(cublasCreate_v2=_create, **nothing, **products)


# ------------------------------------------------------------------------------------------------------------- errors
class CUDARuntimeError(RuntimeError):
    """An error with CUDA's number."""

    def __init__(self, status, words):
        super().__init__(words)
        self.status = status


class CUDADriverError(CUDARuntimeError):
    """An error of the driver."""


class CUBLASError(CUDARuntimeError):
    """An error of cuBLAS."""


class NVRTCError(CUDARuntimeError):
    """An error of the compiler."""


class CompileException(Exception):
    """Source that does not compile."""


# ------------------------------------------------------------------------------------------------------------- modules
class RawModule:
    """CUDA source, built when one of its kernels is first requested."""

    sanitizer, edit = None, staticmethod(lambda text: text)
    architecture = None  # an architecture: run the real compiler's PTX instead of the source

    def __init__(self, *, code, options=(), enable_cooperative_groups=False):
        self._code, self._options, self._cooperative = code, options, enable_cooperative_groups
        self._library = self._through_ptx = None

    def get_function(self, name):
        if self._library is None:
            path = emulator.build(self._code, self._options, self.sanitizer, self.edit)
            self._library = ctypes.CDLL(str(path))
        made = emulator.Function(self._library, name, self._cooperative)
        if self.architecture is None:
            return made
        compiled = nvrtc.compiled(self._code, self._options, self.architecture)
        if self._through_ptx is None:
            unit = ptx.translated(compiled.ptx, emulator.kernels_of(self._code))
            self._through_ptx = ctypes.CDLL(str(emulator.compiled(unit)))
        executed = emulator.Function(self._through_ptx, name, self._cooperative)
        executed.parameters = made.parameters  # PTX does not give the type of a pointer's target
        return executed


#: Attributes of the emulated GPU; tests set them.
ATTRIBUTES = {
    "MaxSharedMemoryPerBlockOptin": 101376, "MultiProcessorCount": 4,
    "CooperativeLaunch": 0,  # small, so that small models also test separate launches
}  # fmt: skip


def _resident(function, threads, memory):
    """Return how many blocks fit on a multiprocessor, by threads and shared memory; each block takes 1 KiB extra."""
    if memory > min(function.max_dynamic_shared_size_bytes, ATTRIBUTES["MaxSharedMemoryPerBlockOptin"]):
        return 0
    return min(1536 // threads, (ATTRIBUTES["MaxSharedMemoryPerBlockOptin"] + 1024) // (memory + 1024))


emulator.Function.most_blocks = lambda self, threads, memory: (
    ATTRIBUTES["MultiProcessorCount"] * _resident(self, threads, memory)
)

#: In the environment: "cupy" for CuPy's own arrays over host memory (real_arrays.py) instead of the ones above.
ARRAYS = "CHARLSTM_TEST_ARRAYS"


def _modules():
    cupy, cuda = ModuleType("cupy"), ModuleType("cupy.cuda")
    cupy.__spec__, cuda.__spec__ = ModuleSpec("cupy", None), ModuleSpec("cupy.cuda", None)
    cupy.__path__ = []
    arrays = import_module("device.real_arrays" if os.environ.get(ARRAYS) == "cupy" else __name__)
    cupy.ndarray, cupy.RawModule, cupy.cuda = arrays.Array, RawModule, cuda
    for name in ("asarray", "empty", "empty_like", "zeros"):
        setattr(cupy, name, getattr(arrays, name))
    cuda.cublas, cuda.device = SimpleNamespace(CUBLASError=CUBLASError), SimpleNamespace()
    cuda.nvrtc, cuda.compiler = (
        SimpleNamespace(NVRTCError=NVRTCError),
        SimpleNamespace(CompileException=CompileException),
    )
    cuda.Stream, cuda.get_current_stream = Stream, lambda: _streams[-1]
    cuda.driver = SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=_resident, CUDADriverError=CUDADriverError)
    cuda.runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDevice=lambda: 0,
        getDeviceProperties=lambda device: {"name": b"imitated", "major": 8},
        deviceGetAttribute=lambda name, device: ATTRIBUTES[name],
        **{f"cudaDevAttr{name}": name for name in ATTRIBUTES},
    )
    return {"cupy": cupy, "cupy.cuda": cuda}


def load(name):
    """Import a module of kernels.gpu with this module in place of CuPy, for this caller only."""
    modules = _modules()
    real = {key: sys.modules.pop(key) for key in list(sys.modules) if key.partition(".")[0] == "cupy"}
    sys.modules.update(modules)
    try:
        import_module("kernels.gpu.cublas").load = _cublas
        return import_module(name)
    finally:
        for key in ("cupy", "cupy.cuda"):
            del sys.modules[key]
        sys.modules.update(real)
