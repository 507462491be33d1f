"""Predicts whether this machine's GPU trains a model faster than its processor, without CuPy and without a clock.

The model is that of docs/gpu.md for a CUDA graph, with figures that were measured (measured.py). Blocks and launches of
all steps are faster than predicted.
"""

from collections.abc import Callable
from typing import NamedTuple

from kernels.gpu import presence
from kernels.gpu.measured import CORE, DEVICES
from kernels.spec import CELLS, Shape

MARGIN = 1.5  # by which a GPU must be predicted to be faster
_MASK_SECONDS = 2e-9  # per number that may be dropped: the host draws the masks, for each backend
_NONE_TESTED = "no kind of GPU has passed all tests yet (--backend cupy uses one all the same)"


class Work(NamedTuple):
    """The sizes of a training iteration."""

    shape: Shape
    seq_length: int
    batch_size: int
    last_only: bool = False
    has_dropout: bool = False

    @property
    def products(self) -> int:
        """Multiply-adds of all matrix products, forward and backward."""
        V, H, L, cell, E = self.shape
        T, B, gates = self.seq_length, self.batch_size, CELLS[cell].gates
        return 3 * B * (T * gates * H * (H * (2 * L - 1) + E) + (1 if self.last_only else T) * H * V)

    @property
    def products_on_gpu(self) -> int:
        """The same on a GPU, which also sums the rows of each id by a product."""
        V, H, _, cell, E = self.shape
        return self.products + self.seq_length * self.batch_size * V * (E or CELLS[cell].gates * H)

    @property
    def nodes(self) -> int:
        """Nodes of the CUDA graph that wait for each other: a product and a cell per step and layer, both ways."""
        return 4 * self.shape.num_layers * self.seq_length + 10 * self.shape.num_layers + 20

    @property
    def mask_seconds(self) -> float:
        """Seconds in which the host draws the dropout masks."""
        _, H, L, *_ = self.shape
        return _MASK_SECONDS * L * self.seq_length * self.batch_size * H if self.has_dropout else 0.0

    def gpu_seconds(self, device: str) -> float:
        """Predicted seconds of an iteration on a GPU."""
        node, rate = DEVICES[device]
        return self.nodes * node + self.products_on_gpu / rate + self.mask_seconds

    def processor_seconds(self, cores: int, dtype: str) -> float:
        """Predicted seconds on cores as fast as the fastest that were measured, none of which waits for another."""
        return self.products / (cores * CORE[dtype]) + self.mask_seconds

    def gain(self, device: str, cores: int, dtype: str) -> float:
        """How many times as fast a GPU is predicted to be as the processor."""
        return self.processor_seconds(cores, dtype) / self.gpu_seconds(device)


def device() -> tuple[str | None, str]:
    """The GPU that may be chosen here, or None; and in words, why there is none, which starts CUDA to find out."""
    problem = presence.problem()
    if problem is not None:
        return None, f"the cupy backend {problem}"
    if not DEVICES:
        return None, _NONE_TESTED
    name = presence.device_name()
    if name not in DEVICES:
        return None, f"the tests have not passed on this kind of GPU, {name} (--backend cupy uses it all the same)"
    return name, ""


def gains(work: Work, cores: int, trains_in_bfloat16: Callable[[], bool]) -> tuple[bool, str]:
    """Whether a GPU gains, and why, in words.

    The sizes come first: CUDA is not started for a model that no known GPU trains faster.
    """
    if not DEVICES:
        return False, _NONE_TESTED
    slow = f"no GPU is predicted to be {MARGIN} times as fast as {_cores(cores)} with this model"
    if max(work.gain(name, cores, "float32") for name in DEVICES) < MARGIN:
        return False, slow
    name, why = device()
    if name is None:
        return False, why
    gain = work.gain(name, cores, "bfloat16" if trains_in_bfloat16() else "float32")
    if gain < MARGIN:
        return False, slow
    return True, f"{name}, predicted to be {gain:.2g} times as fast as {_cores(cores)} with this model"


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"
