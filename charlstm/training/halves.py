"""Sums of gradients that travel as bfloat16, in half the bytes; what rounding takes away is added the next time.

Each rank rounds its gradient plus its remainder, and keeps what was lost (error feedback: Seide et al. 2014, 1-bit
stochastic gradient descent; Karimireddy et al. 2019, Error feedback fixes SignSGD). It sends each rank a part; that
rank sums the parts in float32, in the order of the ranks, and rounds the sum, with a remainder of its own; then all get
all sums. So every rank gets the same bits, and two bytes of each number travel twice, as in an Allreduce of halves.
"""

import numpy as np

from charlstm.training.world import World
from kernels import spec


class HalfSum:
    """The sums of float32 vectors of `size` numbers over all ranks, with this rank's remainders.

    `kept` is (M + M / ranks,), M being `size` filled up to a multiple of the ranks: what this rank's vectors have lost,
    then what the sums of its part have lost.
    """

    def __init__(self, world: World, size: int) -> None:
        self._world, self._size, self._part = world, size, -(-size // world.size)
        self.kept = np.zeros((world.size + 1) * self._part, np.float32)

    def all_reduce(self, vector: np.ndarray) -> None:
        """Replace a vector (size,) by its sum over all ranks."""
        lost, part_lost = self._split(self.kept)
        lost[: self._size] += vector
        sent = _halved(lost)
        received = self._world.exchange(sent.reshape(self._world.size, self._part))
        part_lost += _whole(received).sum(axis=0, dtype=np.float32)
        vector[...] = _whole(np.concatenate(self._world.gather(_halved(part_lost))))[: self._size]

    def _split(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return kept[: -self._part], kept[-self._part :]

    def gathered(self) -> np.ndarray:
        """The remainders of all ranks, (ranks, M + M / ranks)."""
        return np.stack(self._world.gather(self.kept))

    def take(self, kept: np.ndarray) -> None:
        """Go on with the remainders of a checkpoint: this rank's, or its share of those of another number of ranks."""
        if len(kept) == self._world.size:
            self.kept[...] = kept[self._world.rank]
            return
        part = kept.shape[1] // (len(kept) + 1)
        whole = kept[:, :-part].sum(axis=0) + kept[:, -part:].reshape(-1)
        self._split(self.kept)[0][: self._size] = whole[: self._size] / self._world.size


def _halved(numbers: np.ndarray) -> np.ndarray:
    """Numbers rounded to bfloat16, as uint16; they are replaced by what that loses."""
    rounded = spec.round_to_bfloat16(numbers)
    numbers -= rounded
    return (rounded.view(np.uint32) >> 16).astype(np.uint16)


def _whole(halves: np.ndarray) -> np.ndarray:
    """The float32 numbers that bfloat16 numbers, as uint16, stand for."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
