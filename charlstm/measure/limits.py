"""The hardware limits of this machine, measured with NumPy, and the least time of a workload within them.

The limits are those of one core in float32: flops of a large matrix product, bandwidth of reads from arrays of several
sizes, exponentials per second. Each is the best of several tries, because a limit is not an average.

The floor of an iteration (:func:`training_floor`) follows from P flops per second, W(s) bytes per second read from an
array of s bytes, and E exponentials per second, on p cores, each with its share of the weights::

    recurrent   2 T L max(2 G B H^2 / P, 4 G H^2 / W(4 G H^2 / p)) / p
                                                    forward and backward, with G gates: each time step reads the whole
                                                    matrix once for all B streams
    products    (2 G T B H^2 (4 L - 3) + 6 R B H V) / P / p
                                                    gradient of W_h; inputs of layers above the first; readout of R
                                                    steps (T, or 1 if only the last step has a loss)
    update      8 (1 + S) U / W(4 (1 + S) N / p) / p
                                                    reads and writes U parameters with S memory arrays; Adagrad and SGD
                                                    skip the rows of W_x that the sequence did not touch
    exponents   (A T B H L + R B V) / E / p         A activations of a hidden unit: five in an LSTM, three sigmoids and
                                                    two tanh, three in a GRU; the softmax

Input rows, additions, clipping and waiting count as free, so no program that multiplies the same numbers can be faster
than the floor.

A sampled character costs the forward pass alone (:func:`sampling_floor`)::

    4 (8 L - 4) H^2 / W(4 (8 L - 4) H^2) + 4 H V / W(4 H V) + (5 H L + V) / E

"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.spec import CELLS, OPTIMIZERS, Shape, num_parameters

#: Sizes in bytes of the arrays read, from some that fit in the second-level cache to some that exceed every cache.
SIZES = tuple(2**k for k in range(16, 27))
#: Exponentials that one hidden unit takes in one step.
ACTIVATIONS = {"lstm": 5, "gru": 3, "rnn": 1, "lnlstm": 5}


@dataclass(frozen=True)
class Limits:
    """The limits of one core in float32."""

    flops: float  # per second, in sgemm
    bandwidths: tuple[float, ...]  # bytes read per second from arrays of SIZES, never increasing
    exps: float  # per second
    cache: int  # size of the second-level cache, in bytes

    def bandwidth(self, size: float) -> float:
        """Return the bandwidth of repeated reads from an array of `size` bytes, in bytes per second."""
        return float(np.interp(np.log2(max(size, 1.0)), np.log2(SIZES), self.bandwidths))

    def as_dict(self) -> dict[str, float]:
        """Return the limits in readable units, as benchmark results record them."""
        return {
            "sgemm_gflops": self.flops / 1e9,
            "l2_gbytes_per_s": self.bandwidth(self.cache / 2) / 1e9,
            "memory_gbytes_per_s": self.bandwidths[-1] / 1e9,
            "exp_per_ns": self.exps / 1e9,
            "l2_bytes": self.cache,
        }

    def in_words(self) -> str:
        """Return the limits as one line of text."""
        said = self.as_dict()
        return (
            f"sgemm {said['sgemm_gflops']:.0f} GFLOP/s, second-level cache {said['l2_gbytes_per_s']:.0f} GB/s, "
            f"memory {said['memory_gbytes_per_s']:.0f} GB/s, {said['exp_per_ns']:.1f} exponentials per nanosecond"
        )


def measure(tries: int = 15) -> Limits:
    """Measure the limits of one core, which takes about a second."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        rates = [_bandwidth(size, tries) for size in SIZES]
        falling = np.maximum.accumulate(rates[::-1])[::-1]  # a smaller array is never slower than a larger one
        return Limits(_flops(tries), tuple(map(float, falling)), _exps(tries), _cache_size())


def best_time(run: Callable[[], object], tries: int) -> float:
    """Return the time of the fastest of `tries` runs after a warm-up run, in seconds."""
    run()
    taken = []
    for _ in range(tries):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def _flops(tries: int) -> float:
    n = 768
    a = np.random.RandomState(0).standard_normal((n, n)).astype(np.float32)
    out = np.empty_like(a)
    return 2 * n**3 / best_time(lambda: np.matmul(a, a, out=out), tries)


def _bandwidth(size: int, tries: int) -> float:
    """Return the faster of two ways to read an array repeatedly in one NumPy call: a maximum, and a product x W."""
    count = max(1, 2**23 // size)
    whole = np.broadcast_to(np.ones(size // 4, np.int32), (count, size // 4))
    maxima = np.empty(count, np.int32)
    rows = int((size / 16) ** 0.5)
    W, x = np.ones((rows, 4 * rows), np.float32), np.ones((count, 1, rows), np.float32)
    out = np.empty((count, 1, 4 * rows), np.float32)
    as_maximum = count * size / best_time(lambda: whole.max(axis=1, out=maxima), tries)
    return max(as_maximum, count * W.nbytes / best_time(lambda: np.matmul(x, W, out=out), tries))


def _exps(tries: int) -> float:
    """Return exponentials per second for arguments typical of gates, in an array that fits in the L1 cache."""
    x = np.random.RandomState(0).uniform(-6, 6, 4096).astype(np.float32)
    out, repeats = np.empty_like(x), 100

    def run() -> None:
        for _ in range(repeats):
            np.exp(x, out=out)

    return repeats * len(x) / best_time(run, tries)


def _cache_size() -> int:
    """Return the size of a core's second-level cache, in bytes; 1 MiB where the system does not report it."""
    said = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    text = said.read_text("utf-8").strip() if said.exists() else ""
    return int(text[:-1]) * 1024 if text.endswith("K") and text[:-1].isdigit() else 2**20


def training_floor(
    limits: Limits, shape: Shape, T: int, B: int, optimizer: str, last_only: bool = False, cores: int = 1
) -> float:
    """Return the least time for one iteration of a model without an embedding, in seconds, by the formulas above."""
    V, H, L = shape[:3]
    R, G = 1 if last_only else T, CELLS[shape.cell].gates
    step = max(2 * G * B * H**2 / limits.flops, 4 * G * H**2 / limits.bandwidth(4 * G * H**2 / cores))
    products = (2 * G * T * B * H**2 * (4 * L - 3) + 6 * R * B * H * V) / limits.flops
    row, N = OPTIMIZERS[optimizer], num_parameters(shape)
    slots, updated = row.slots, N - max(0, V - T * B) * G * H if row.skips_zeros else N
    update = 8 * (1 + slots) * updated / limits.bandwidth(4 * (1 + slots) * N / cores)
    exponents = (ACTIVATIONS[shape.cell] * T * B * H * L + R * B * V) / limits.exps
    return (2 * T * L * step + products + update + exponents) / cores


def sampling_floor(limits: Limits, shape: Shape) -> float:
    """Return the least time for one sampled character on one core, in seconds."""
    V, H, L = shape[:3]
    weights, readout = 4 * (8 * L - 4) * H**2, 4 * H * V
    exponents = (5 * H * L + V) / limits.exps
    return weights / limits.bandwidth(weights) + readout / limits.bandwidth(readout) + exponents
