"""All steps of an LSTM layer in one cooperative launch of several blocks (persistent.cu), if the GPU can hold them.

All blocks must run at the same time, because they wait for each other. :func:`layout` checks this beforehand, because
CuPy shrinks a grid that is too large and only warns. If they do not fit, layers.py uses a launch for each step.
"""

from typing import Any, NamedTuple

import cupy
import numpy as np

from kernels.gpu.launch import Call, function, launch, most_shared_memory
from kernels.gpu.matmul import zeros

_FILE = "persistent"
_THREADS, _ROWS, _STREAMS = 256, 8, 64  # as in persistent.cu
_MOST_STATES = 8192  # B H; with more, a product for each step is faster (docs/gpu.md)
_FORWARD, _BACKWARD = "lstm_steps", "lstm_steps_back"


class Layout(NamedTuple):
    """How a layer's units are spread over blocks."""

    units: int  # per block
    at_once: int  # streams whose dz a block holds in shared memory
    forward: int  # bytes of shared memory per block
    backward: int


def layout(T: int, B: int, H: int, dtype: Any) -> Layout | None:
    """The layout with which all steps of a layer fit in one launch; None if they do not, or would gain nothing from it.

    Four units a block are faster than eight, as more multiprocessors work, but need twice as many blocks.
    """
    runtime = cupy.cuda.runtime
    is_able, processors = (
        runtime.deviceGetAttribute(attribute, runtime.getDevice())
        for attribute in (runtime.cudaDevAttrCooperativeLaunch, runtime.cudaDevAttrMultiProcessorCount)
    )
    if T < 2 or B > _STREAMS or B * H > _MOST_STATES or not is_able:
        return None
    for units in (4, 8):
        found = _in_memory(units, B, H, dtype.itemsize)
        if found and all(
            _blocks(H, units) <= processors * _resident(name, units, dtype, memory)
            for name, memory in ((_FORWARD, found.forward), (_BACKWARD, found.backward))
        ):
            return found
    return None


def _in_memory(units: int, B: int, H: int, itemsize: int) -> Layout | None:
    """The layout within the shared memory of a block, with as many streams at once as fit; None if too few do."""
    parts, span = 8 // units, _STREAMS + 1
    fixed = 4 * units * H + 4 * parts * units * span  # weights and sums
    room = most_shared_memory() // itemsize - fixed
    least = min(B, _ROWS)
    at_once = min(B, room // (4 * H))
    if room < B * H or at_once < least:
        return None
    if at_once < B:
        at_once -= at_once % _ROWS
    return Layout(units, at_once, (fixed + B * H) * itemsize, (fixed + at_once * 4 * H) * itemsize)


def _blocks(H: int, units: int) -> int:
    return -(-H // units)


def _resident(name: str, units: int, dtype: Any, memory: int) -> int:
    """Number of blocks of a kernel that a multiprocessor of the current GPU runs at once."""
    kernel = function(_FILE, name, dtype, {"UNITS": units})
    kernel.max_dynamic_shared_size_bytes = most_shared_memory()
    occupancy = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
    return int(occupancy(kernel.kernel.ptr, _THREADS, memory))


def forward(how: Layout, W_h: Any, gates: Any, c: Any, h: Any) -> Call:
    """Return a call that runs the steps of layers.forward after its input product."""
    return _launch(_FORWARD, how.units, how.forward, h.shape, W_h, gates, c, h)


def backward(how: Layout, W_h: Any, dh: Any, gates: Any, c: Any, dz: Any, dh_next: Any, dc: Any) -> Call:
    """Return a call that runs the steps of layers.backward."""
    arrays = (W_h, dh, gates, c, dz, dh_next, dc)
    return _launch(_BACKWARD, how.units, how.backward, c.shape, *arrays, more=(how.at_once,))


def _launch(
    name: str, units: int, memory: int, dims: tuple[int, int, int], *arrays: Any, more: tuple[int, ...] = ()
) -> Call:
    """Return a launch with its own barrier counter; dims is the shape of h and c, (T+1, B, H)."""
    rows, B, H = dims
    real, arrived, defines = arrays[0].dtype, zeros((1,), np.uint32), {"UNITS": units}
    return launch(
        _FILE, name, real, _blocks(H, units), *arrays, arrived, rows - 1, B, H, *more, threads=_THREADS, memory=memory,
        defines=defines,
    )  # fmt: skip
