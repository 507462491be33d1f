"""The steps of an LSTM layer in one cooperative launch of several blocks (persistent.cu), where a device can hold it.

All blocks must run at the same time, since they wait for each other; whether they can is asked before, because CuPy
makes a grid smaller that is too large, and only warns. Where they cannot, layers.py takes a launch for each step.
"""

from typing import Any

import cupy
import numpy as np

from kernels.gpu.launch import Call, function, launch, most_shared_memory
from kernels.gpu.matmul import zeros

_FILE = "persistent"
_UNITS = 8  # of a block, as in persistent.cu
_THREADS = 32 * _UNITS
_MOST_STREAMS = 32  # a lane has one


def fits(T: int, B: int, H: int, dtype: Any) -> bool:
    """Whether the steps of a layer can be one launch; a single step had better be two."""
    if T < 2 or B > _MOST_STREAMS or _memory(H, dtype) > most_shared_memory():
        return False
    runtime = cupy.cuda.runtime
    is_able, processors = (
        runtime.deviceGetAttribute(attribute, runtime.getDevice())
        for attribute in (runtime.cudaDevAttrCooperativeLaunch, runtime.cudaDevAttrMultiProcessorCount)
    )
    return bool(is_able) and all(
        _blocks(H) <= processors * _resident(name, H, dtype) for name in ("lstm_steps", "lstm_steps_back")
    )


def _blocks(H: int) -> int:
    return -(-H // _UNITS)


def _memory(H: int, dtype: Any) -> int:
    """Bytes of shared memory of a block: its units' part of the recurrent matrix."""
    return int(4 * _UNITS * H * dtype.itemsize)


def _resident(name: str, H: int, dtype: Any) -> int:
    """How many blocks of a kernel a multiprocessor of the current device has at once."""
    kernel = function(_FILE, name, dtype)
    kernel.max_dynamic_shared_size_bytes = most_shared_memory()
    occupancy = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
    return int(occupancy(kernel.kernel.ptr, _THREADS, _memory(H, dtype)))


def forward(W_h: Any, gates: Any, c: Any, h: Any) -> Call:
    """The steps of layers.forward, after what comes from the input; :func:`fits` is asked before."""
    return _launch("lstm_steps", h.shape, W_h, gates, c, h)


def backward(W_h: Any, dh: Any, gates: Any, c: Any, dz: Any, dh_next: Any, dc: Any) -> Call:
    """The steps of layers.backward; :func:`fits` is asked before."""
    return _launch("lstm_steps_back", c.shape, W_h, dh, gates, c, dz, dh_next, dc)


def _launch(name: str, dims: tuple[int, int, int], *arrays: Any) -> Call:
    """A launch with a barrier's counter of its own; dims are those of h and c, (T+1, B, H)."""
    rows, B, H = dims
    real, arrived = arrays[0].dtype, zeros((1,), np.uint32)
    sizes: dict[str, Any] = {"threads": _THREADS, "memory": _memory(H, real)}
    return launch(_FILE, name, real, _blocks(H), *arrays, arrived, rows - 1, B, H, **sizes)
