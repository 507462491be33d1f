"""All steps of an LSTM layer in one cooperative launch of several blocks (persistent.cu), if the GPU can hold them.

All blocks must run at the same time, because they wait for each other. :func:`fits` checks this beforehand, because
CuPy shrinks a grid that is too large and only warns. If they do not fit, layers.py uses a launch for each step.
"""

from typing import Any

import cupy
import numpy as np

from kernels.gpu.launch import Call, function, launch, most_shared_memory
from kernels.gpu.matmul import zeros

_FILE = "persistent"
_UNITS = 8  # hidden units per block, as in persistent.cu
_THREADS = 32 * _UNITS
_MOST_STREAMS = 32  # one per lane


def fits(T: int, B: int, H: int, dtype: Any) -> bool:
    """Whether all steps of a layer fit in one launch; False for a single step, which would gain nothing."""
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
    """Bytes of shared memory per block: its units' part of the recurrent matrix."""
    return int(4 * _UNITS * H * dtype.itemsize)


def _resident(name: str, H: int, dtype: Any) -> int:
    """Number of blocks of a kernel that a multiprocessor of the current GPU runs at once."""
    kernel = function(_FILE, name, dtype)
    kernel.max_dynamic_shared_size_bytes = most_shared_memory()
    occupancy = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
    return int(occupancy(kernel.kernel.ptr, _THREADS, _memory(H, dtype)))


def forward(W_h: Any, gates: Any, c: Any, h: Any) -> Call:
    """Return a call that runs the steps of layers.forward after its input product; check :func:`fits` first."""
    return _launch("lstm_steps", h.shape, W_h, gates, c, h)


def backward(W_h: Any, dh: Any, gates: Any, c: Any, dz: Any, dh_next: Any, dc: Any) -> Call:
    """Return a call that runs the steps of layers.backward; check :func:`fits` first."""
    return _launch("lstm_steps_back", c.shape, W_h, dh, gates, c, dz, dh_next, dc)


def _launch(name: str, dims: tuple[int, int, int], *arrays: Any) -> Call:
    """Return a launch with its own barrier counter; dims is the shape of h and c, (T+1, B, H)."""
    rows, B, H = dims
    real, arrived = arrays[0].dtype, zeros((1,), np.uint32)
    sizes: dict[str, Any] = {"threads": _THREADS, "memory": _memory(H, real)}
    return launch(_FILE, name, real, _blocks(H), *arrays, arrived, rows - 1, B, H, **sizes)
