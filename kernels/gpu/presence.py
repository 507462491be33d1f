"""Finds out, without importing CuPy, what the GPU backend lacks on this machine: package, driver, GPU or library."""

import ctypes
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

_CUDA_SUCCESS = 0
_LIBRARIES = {"nvrtc": "the compiler", "cublas": "the matrix products"}
_OLDEST_FOR_13 = 13000  # the driver reports 1000 times its CUDA version
_OLDEST_GPU = 7, 0  # compute capability: the barrier between blocks needs its instructions
_MAJOR, _MINOR, _MODE, _PROHIBITED = 75, 76, 20, 2  # CUdevice_attribute and CUcomputemode


def is_installed() -> bool:
    """Whether there is a CuPy to import."""
    return find_spec("cupy") is not None


@cache
def problem() -> str | None:
    """The reason why the GPU cannot be used, in one line with a remedy; None if it can be used."""
    if not is_installed():
        return f"needs CuPy: {_install(_driver_version())}"
    driver = _driver_version()
    if driver is None:
        return "needs the NVIDIA driver, which was not found: install it from your system's packages, or from NVIDIA"
    if _has("cupy-cuda13x") and not _has("cupy-cuda12x") and driver < _OLDEST_FOR_13:
        return f"has a CuPy for drivers from 580 on, and an older driver: {_install(driver)}, or a newer driver"
    if _devices() == 0:
        return "found the NVIDIA driver, but no GPU that it can use (CUDA_VISIBLE_DEVICES may hide it)"
    capability = _attribute(_MAJOR), _attribute(_MINOR)
    if capability < _OLDEST_GPU:
        return f"needs a GPU of compute capability 7.0 or more; this one has {capability[0]}.{capability[1]}"
    if _attribute(_MODE) == _PROHIBITED:
        return "found a GPU whose compute mode is Prohibited: nvidia-smi --compute-mode=DEFAULT allows its use"
    lost = [name for name in _LIBRARIES if not _loads(name)]
    if lost:
        what = " and ".join(f"{name} ({_LIBRARIES[name]})" for name in lost)
        return f"needs CUDA's libraries {what}: {_install(driver)}, or a CUDA toolkit"
    return None


def _install(driver_version: int | None) -> str:
    """The command that installs a CuPy which needs only the driver."""
    extra = "cuda12" if driver_version is not None and driver_version < _OLDEST_FOR_13 else "cuda13"
    return f"pip install 'charlstm[{extra}]'" + ("" if driver_version else " (cuda12 for drivers before 580)")


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _driver_version() -> int | None:
    """The driver's CUDA version; None if there is no driver."""
    driver, version = _driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != _CUDA_SUCCESS:
        return None
    return version.value


def _devices() -> int:
    """Number of GPUs that this process can use."""
    driver, count = _driver(), ctypes.c_int()
    if driver is None or driver.cuInit(0) != _CUDA_SUCCESS:
        return 0
    return count.value if driver.cuDeviceGetCount(ctypes.byref(count)) == _CUDA_SUCCESS else 0


def _attribute(number: int) -> int:
    """An attribute of the first GPU; 0 if the driver does not tell."""
    driver, value = _driver(), ctypes.c_int()
    if driver is None or driver.cuDeviceGetAttribute(ctypes.byref(value), number, 0) != _CUDA_SUCCESS:
        return 0
    return value.value


def device_name() -> str:
    """The driver's name of the first GPU; empty if it does not tell."""
    driver, name = _driver(), ctypes.create_string_buffer(256)
    if driver is None or driver.cuDeviceGetName(name, len(name), 0) != _CUDA_SUCCESS:
        return ""
    return name.value.decode("utf-8", "replace")


def _has(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _loads(library: str) -> bool:
    """Whether CuPy will find a CUDA library."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # noqa: PLC0415
    except ImportError:  # an older CuPy finds its libraries by itself
        return True
    try:
        load_nvidia_dynamic_lib(library)
    except RuntimeError:
        return False
    return True
