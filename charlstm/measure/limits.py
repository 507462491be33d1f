"""What this machine could do at best, measured here and now, and the least time that a work can take on it.

The limits are those of one core in float32: multiply-adds of a large matrix product, bytes read from arrays of several
sizes, exponentials. All are measured with NumPy, each as the best of several tries: a limit is not an average.

The floor of an iteration (:func:`training_floor`) with P flops a second, W(s) bytes a second out of an array of s
bytes, E exponentials a second, on p cores, each with its share of the weights::

    recurrent   2 T L max(8 B H^2 / P, 16 H^2 / W(16 H^2 / p)) / p      forward and backward, step by step: each step
                                                                        needs the whole matrix, which B streams share
    products    (8 T B H^2 L + 24 T B H^2 (L-1) + 6 R B H V) / P / p    gradient of W_h; inputs of layers above the
                                                                        first; readout, of R steps (T, or 1 if the loss
                                                                        is that of the last step)
    update      8 (1 + S) U / W(4 (1 + S) N / p) / p                    U parameters and their S memories are read and
                                                                        written; with Adagrad and SGD rows of W_x that
                                                                        the text did not touch are left out of U
    exponents   (5 T B H L + R B V) / E / p                             three sigmoids, two tanh; the softmax

Input rows, additions, clipping and everything that waits for something else count as free. So no program that
multiplies the same numbers reaches the floor; it is what the fraction of the floor compares with.

A character that is sampled costs the forward pass alone (:func:`sampling_floor`)::

    4 (8 L - 4) H^2 / W(4 (8 L - 4) H^2) + 4 H V / W(4 H V) + (5 H L + V) / E

"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.spec import OPTIMIZERS, Shape, num_parameters

#: Bytes of the arrays that are read, from what lies in the second-level cache to what lies in memory.
SIZES = tuple(2**k for k in range(16, 27))


@dataclass(frozen=True)
class Limits:
    """The limits of one core in float32."""

    flops: float  # a second, in sgemm
    bandwidths: tuple[float, ...]  # bytes read a second from arrays of SIZES, falling
    exps: float  # a second
    cache: int  # bytes of the second-level cache

    def bandwidth(self, size: float) -> float:
        """Bytes a second that can be read, again and again, from an array of `size` bytes."""
        return float(np.interp(np.log2(max(size, 1.0)), np.log2(SIZES), self.bandwidths))

    def as_dict(self) -> dict[str, float]:
        """The limits for people, and for the results of benchmarks."""
        return {
            "sgemm_gflops": self.flops / 1e9,
            "l2_gbytes_per_s": self.bandwidth(self.cache / 2) / 1e9,
            "memory_gbytes_per_s": self.bandwidths[-1] / 1e9,
            "exp_per_ns": self.exps / 1e9,
            "l2_bytes": self.cache,
        }

    def in_words(self) -> str:
        """The limits in a line."""
        said = self.as_dict()
        return (
            f"sgemm {said['sgemm_gflops']:.0f} GFLOP/s, second-level cache {said['l2_gbytes_per_s']:.0f} GB/s, "
            f"memory {said['memory_gbytes_per_s']:.0f} GB/s, {said['exp_per_ns']:.1f} exponentials a nanosecond"
        )


def measure(tries: int = 15) -> Limits:
    """Measure the limits of one core; about a second."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        rates = [_bandwidth(size, tries) for size in SIZES]
        falling = np.maximum.accumulate(rates[::-1])[::-1]  # what a larger array gives, a smaller one gives too
        return Limits(_flops(tries), tuple(map(float, falling)), _exps(tries), _cache_size())


def best_time(run: Callable[[], object], tries: int) -> float:
    """Seconds of the fastest of `tries` runs, after one that does not count."""
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
    """The better of two ways to read an array again and again in one call of NumPy: a maximum, and x W."""
    count = max(1, 2**23 // size)
    whole = np.broadcast_to(np.ones(size // 4, np.int32), (count, size // 4))
    maxima = np.empty(count, np.int32)
    rows = int((size / 16) ** 0.5)
    W, x = np.ones((rows, 4 * rows), np.float32), np.ones((count, 1, rows), np.float32)
    out = np.empty((count, 1, 4 * rows), np.float32)
    as_maximum = count * size / best_time(lambda: whole.max(axis=1, out=maxima), tries)
    return max(as_maximum, count * W.nbytes / best_time(lambda: np.matmul(x, W, out=out), tries))


def _exps(tries: int) -> float:
    """Of arguments as gates have them, in an array that stays in the first-level cache."""
    x = np.random.RandomState(0).uniform(-6, 6, 4096).astype(np.float32)
    out, repeats = np.empty_like(x), 100

    def run() -> None:
        for _ in range(repeats):
            np.exp(x, out=out)

    return repeats * len(x) / best_time(run, tries)


def _cache_size() -> int:
    """Bytes of the second-level cache of a core, 1 MiB where the system does not tell."""
    said = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    text = said.read_text().strip() if said.exists() else ""
    return int(text[:-1]) * 1024 if text.endswith("K") and text[:-1].isdigit() else 2**20


def training_floor(
    limits: Limits, shape: Shape, T: int, B: int, optimizer: str, last_only: bool = False, cores: int = 1
) -> float:
    """Seconds that an iteration of an LSTM without an embedding takes at least, by the formulas at this file's head."""
    V, H, L = shape[:3]
    R = 1 if last_only else T
    step = max(8 * B * H**2 / limits.flops, 16 * H**2 / limits.bandwidth(16 * H**2 / cores))
    products = (8 * T * B * H**2 * (L + 3 * (L - 1)) + 6 * R * B * H * V) / limits.flops
    row, N = OPTIMIZERS[optimizer], num_parameters(shape)
    slots, updated = row.slots, N - max(0, V - T * B) * 4 * H if row.skips_zeros else N
    update = 8 * (1 + slots) * updated / limits.bandwidth(4 * (1 + slots) * N / cores)
    exponents = (5 * T * B * H * L + R * B * V) / limits.exps
    return (2 * T * L * step + products + update + exponents) / cores


def sampling_floor(limits: Limits, shape: Shape) -> float:
    """Seconds that one sampled character takes at least on one core."""
    V, H, L = shape[:3]
    weights, readout = 4 * (8 * L - 4) * H**2, 4 * H * V
    exponents = (5 * H * L + V) / limits.exps
    return weights / limits.bandwidth(weights) + readout / limits.bandwidth(readout) + exponents
