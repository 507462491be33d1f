"""Training of any model: one iteration is recorded as a CUDA graph, which the GPU repeats without the host.

The graph finds in memory which iteration it is (training.cu). The host looks about every tenth of a second; an
iteration after the end of training changes nothing. Each thread keeps the graph of its last call for the next one.
"""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import cupy
import numpy as np

from kernels import spec
from kernels.gpu import optimizers
from kernels.gpu.launch import Call, each, launch, run
from kernels.gpu.matmul import empty, zeros
from kernels.gpu.model import Model, gather
from kernels.gpu.pace import Pace
from kernels.spec import atomic, checks

_MOST_IDS = 2**24  # per gather


class _Settings(NamedTuple):
    """All that a graph depends on besides its buffers."""

    shape: spec.Shape
    T: int
    B: int
    dtype: str
    optimizer: str
    hyper: tuple[tuple[str, float], ...]
    clips: tuple[float, float | None, float | None]
    last_only: bool
    dropout: float
    weight_drop: float
    bfloat16: bool
    device: int


def train(given: checks.Training, rates: Any) -> Any:
    """Run the iterations of a checked call; rates (3, n), from optimizers.rates, in host memory."""
    theta, state, h, c, ids, _, starts, *_ = given
    n, B, T = len(starts), starts.shape[1], given.seq_length
    graph = _graph_for(given)
    own = (graph.theta, graph.state, graph.h, graph.c)
    pairs = list(zip((theta, state, h, c), own, strict=True))
    for array, copy in pairs:
        copy[...] = array
    graph.watch[...] = cupy.asarray(np.array([given.smooth_loss, given.stop_below]))
    restore, done, pace = atomic.assignments(pairs), 0, Pace(1)
    try:
        for part in _parts(n, max(1, _MOST_IDS // ((T + 1) * B))):
            x = gather(ids, starts[part], T + 1, given.shape.vocab_size)
            masks = None if given.masks is None else given.masks[part]
            by_iteration = np.array(rates[:, part].T, theta.dtype, order="C")  # CuPy would keep the order of .T
            drawn = len(x) if given.weight_drop else 0
            keys = spec.dropping(given.weight_drop, given.seed, given.step + part.start, drawn).keys
            arrays = (x, given.reset[part], masks, given.losses[part], cupy.asarray(by_iteration), cupy.asarray(keys))
            graph.prepare(arrays)
            for _, count in pace.launches(len(x)):
                known, why = graph.run(count)
                if why:
                    return given.losses[: done + known]
            done += len(x)
    finally:  # also after an interruption: completed iterations count
        restore()
        cupy.cuda.get_current_stream().synchronize()  # the thread's next call may use the buffers on another stream
    return given.losses


def _parts(n: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(n, begin + size)) for begin in range(0, n, size))


class _Graph:
    """One iteration as a graph, and the buffers that it uses."""

    def __init__(self, settings: _Settings) -> None:
        shape, T, B, dtype, optimizer, hyper, clips, last_only, dropout, weight_drop, bfloat16, _ = settings
        real, N, constants = np.dtype(dtype), spec.num_parameters(shape), dict(hyper)
        self._stream = cupy.cuda.Stream(non_blocking=True)
        with self._stream:
            self.theta, grad = zeros((N,), real), empty((N,), real)
            self.state = zeros((spec.slots(optimizer, constants), N), real)
            self.h, self.c = zeros((2, shape.num_layers, B, shape.hidden_size), real)
            self.watch, self._plan, self._progress = (
                zeros((2,), np.float64),
                zeros((6,), np.uint64),
                zeros((3,), np.int32),
            )
            self._arrays: tuple[Any, ...] = ()
            model = Model(
                self.theta, shape, T, B, first=T - 1 if last_only else 0, dropout=dropout, bfloat16=bfloat16, grad=grad
            )
            clipping = optimizers.Clipping(N, real, *clips)
            hiding, putting_back = self._dropping(shape, weight_drop, grad)
            calls = [self._beginning(model), *hiding, *model.calls(), self._judging(model, B), *putting_back]
            calls += [
                *clipping.measuring(grad),
                optimizers.updating_in_turn(
                    optimizer, constants, self.theta, grad, self.state, clipping, self._plan, self._progress
                ),
                self._carrying(model),
            ]
            self._progress[1] = 1  # so that this first run, which loads all code, changes nothing
            run(calls)
            self._stream.synchronize()
            self._stream.begin_capture()
            run(calls)
            self._graph = self._stream.end_capture()
        self._kept = calls  # and with them the buffers

    def _beginning(self, model: Model) -> Call:
        """Return the call of begin_iteration."""
        L, rows, row = _sizes(model.h)
        count = max(model.x.size, model.masks.size, L * row)
        return each(
            "training", "begin_iteration", model.h.dtype, count, self._plan, self._progress, model.x, model.masks,
            self.h, self.c, model.h, model.c, model.x.size, np.int64(model.masks.size), L, L if model.c.size else 0,
            row, rows,
        )  # fmt: skip

    def _judging(self, model: Model, B: int) -> Call:
        """Return the call of judge."""
        arrays = (self._plan, self._progress, self.watch, model.loss_sum)
        return launch("training", "judge", model.h.dtype, 1, *arrays, np.float64(spec.SMOOTHING), B, threads=1)

    def _dropping(self, shape: spec.Shape, rate: float, grad: Any) -> tuple[list[Call], list[Call]]:
        """Return the calls that leave out some recurrent weights, and those that put them back."""
        hiding: list[Call] = []
        putting_back: list[Call] = []
        if rate == 0:
            return hiding, putting_back
        _, threshold, scale = spec.dropping(rate, 0, 0, 0)
        real = self.theta.dtype
        for name, begin, dims in spec.blocks(shape):
            if name.startswith("W_h"):
                count = dims[0] * dims[1]
                kept, factors = empty((count,), real), empty((count,), real)
                where = (np.int64(begin), np.int64(count))
                hiding.append(each(
                    "training", "hide_weights", real, count, self._plan, self._progress, self.theta, kept, factors,
                    *where, np.uint32(threshold), real.type(scale),
                ))  # fmt: skip
                putting_back.append(each(
                    "training", "put_weights_back", real, count, self._progress, self.theta, grad, kept, factors,
                    *where,
                ))  # fmt: skip
        return hiding, putting_back

    def _carrying(self, model: Model) -> Call:
        """Return the call of carry."""
        L, rows, row = _sizes(model.h)
        return each(
            "training", "carry", model.h.dtype, L * row, self._progress, model.h, model.c, self.h, self.c, L,
            L if model.c.size else 0, row, rows,
        )  # fmt: skip

    def prepare(self, arrays: tuple[Any, ...]) -> None:
        """Take the ids, reset, masks (or None), losses, rates and keys of the iterations to come, in device memory."""
        self._arrays = arrays
        addresses = [0 if array is None else array.data.ptr for array in arrays]
        self._plan[...] = cupy.asarray(np.array(addresses, np.uint64))
        self._progress[...] = cupy.asarray(np.zeros(3, np.int32))

    def run(self, count: int) -> tuple[int, int]:
        """Run that many iterations and wait; return the number with a loss since `prepare`, and why training ended."""
        for _ in range(count):
            self._graph.launch()
        known, why, _ = self._progress.get().tolist()
        return known, why


def _sizes(h: Any) -> tuple[int, int, int]:
    """Layers, rows of states, and length of a row, of h (L, T+1, B, H)."""
    return h.shape[0], h.shape[1], h.shape[2] * h.shape[3]


class _Latest(threading.local):
    settings: _Settings | None = None
    graph: Any = None


_latest = _Latest()


def _graph_for(given: checks.Training) -> _Graph:
    """The graph for a call; a new one if the thread's last call needed another."""
    settings = _Settings(
        given.shape, given.seq_length, given.starts.shape[1], str(given.theta.dtype), given.optimizer,
        tuple(given.hyper.items()), (given.grad_scale, given.grad_clip, given.grad_clip_norm), given.last_only,
        given.dropout, given.weight_drop, given.bfloat16, cupy.cuda.runtime.getDevice(),
    )  # fmt: skip
    if _latest.settings != settings:
        _latest.settings = _latest.graph = None  # frees its memory first
        _latest.graph = _Graph(settings)
        _latest.settings = settings
    graph: _Graph = _latest.graph
    return graph
