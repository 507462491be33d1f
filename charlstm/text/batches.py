"""Ids -> streams or windows: which characters each training iteration reads.

A text of M ids is cut into B streams of M // B ids. Iteration n reads seq_length (T) inputs of every stream, and the
same moved on by one as targets, then moves on by T; state is carried from one to the next. When no whole sequence is
left the streams begin again, with the state at zero, as in min-char-lstm. So the position follows from n alone. A model
that has only ever met carried states may not stand a zero one, from which it is measured and writes: see Resets.

Windows are stretches of the same text, read each from a zero state in an order drawn anew for every epoch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from charlstm.errors import UserError

_SHUFFLED = 2**22  # windows of which the order is drawn as a whole, 32 MiB; that of more is computed, place by place
_ROUNDS = 8
_GROWS_AFTER = 32


@dataclass(frozen=True)
class Streams:
    """The plan of stateful truncated backpropagation through time over a text of `num_ids` ids.

    Raises
    ------
    UserError
        If a stream would hold less than two sequences, saying what would fit.
    """

    num_ids: int
    seq_length: int
    batch_size: int

    def __post_init__(self) -> None:
        needed = 2 * self.seq_length + 2
        if self.stream_length < needed:
            fits = self.num_ids // needed
            way_out = f"--batch-size {fits} fits" if fits else "a smaller --seq-length may fit"
            raise UserError(
                f"the text has {self.num_ids:,} characters, too few for {self.batch_size} streams of two sequences of "
                f"{self.seq_length} (at least {needed * self.batch_size:,}): {way_out}"
            )

    @property
    def stream_length(self) -> int:
        """Ids in a stream."""
        return self.num_ids // self.batch_size

    @property
    def iterations_per_pass(self) -> int:
        """Iterations until the streams begin again."""
        return (self.stream_length - self.seq_length - 2) // self.seq_length + 1

    def plan(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """For iterations begin to end - 1: starts (n, B) int64 and reset (n,) bool, for train_steps."""
        turn = np.arange(begin, end) % self.iterations_per_pass
        starts = (turn * self.seq_length)[:, None] + np.arange(self.batch_size) * self.stream_length
        return np.ascontiguousarray(starts, np.int64), turn == 0


@dataclass(frozen=True)
class Resets:
    """The moments at which streams go on from a zero state, wherever in the text they are.

    Each stream does so every `every` iterations on average at first, while the steps are large; the distance doubles
    whenever the iteration reaches 32 times as much, so that a long run costs little. Four times in a distance, each
    stream is drawn with a chance of a quarter, by the seed, the iteration and its number alone: so the moments are the
    same in however many calls.
    """

    every: int
    batch_size: int
    seed: int

    def distance(self, iteration: int) -> int:
        """Iterations from one zero state of a stream to its next, on average."""
        return self.every << max(0, (iteration // (_GROWS_AFTER * self.every)).bit_length())

    def at(self, iteration: int) -> np.ndarray:
        """The numbers of the streams whose state is zero before this iteration, integers."""
        if not self.every:
            return np.empty(0, np.int64)
        distance = self.distance(iteration)
        step = max(1, distance // 4)
        if iteration % step:
            return np.empty(0, np.int64)
        numbers = np.arange(iteration * self.batch_size, (iteration + 1) * self.batch_size, dtype=np.uint64)
        key = _mixed(np.full(1, self.seed + 1, np.uint64))
        return np.flatnonzero(_mixed(_mixed(numbers) ^ key) % np.uint64(distance) < np.uint64(step))

    def after(self, iteration: int) -> int:
        """No stream's state is set to zero between this iteration and the one that is returned, which is later."""
        distance = self.distance(iteration)
        step = max(1, distance // 4)
        return min((iteration // step + 1) * step, _GROWS_AFTER * distance)


@dataclass(frozen=True)
class Windows:
    """The plan of training on windows of a text, shuffled: B at a time, each with the state at zero before it.

    A window reads ids[start : start+length]; its last target is ids[start+length]. Windows begin every `step` ids.
    Epoch e takes all of them once, in the order that `seed` and e give; those that do not fill a last batch are left
    out of that epoch. So the batch follows from the iteration alone, in however many calls.

    Raises
    ------
    UserError
        If there are fewer windows than a batch holds, saying what would fit.
    """

    num_ids: int
    length: int
    step: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_windows < self.batch_size:
            way_out = f"--batch-size {self.num_windows} fits" if self.num_windows else "a shorter window may fit"
            raise UserError(
                f"the text has {self.num_ids:,} characters, {self.num_windows} windows of {self.length} every "
                f"{self.step}, too few for a batch of {self.batch_size}: {way_out}"
            )

    @property
    def num_windows(self) -> int:
        """Windows in the text."""
        return max(0, (self.num_ids - self.length - 1) // self.step + 1)

    @property
    def iterations_per_pass(self) -> int:
        """Iterations in an epoch."""
        return self.num_windows // self.batch_size

    def plan(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """For iterations begin to end - 1: starts (n, B) int64 and reset (n,) bool, all True, for train_steps."""
        each, B = self.iterations_per_pass, self.batch_size
        starts = np.empty((end - begin, B), np.int64)
        n = begin
        while n < end:
            epoch, first = divmod(n, each)
            count = min(each - first, end - n)
            order = _ordered(self.num_windows, self.seed, epoch, first * B, (first + count) * B)
            starts[n - begin : n - begin + count] = order.reshape(count, B) * self.step
            n += count
        return starts, np.ones(end - begin, bool)


def _ordered(count: int, seed: int, epoch: int, begin: int, end: int) -> np.ndarray:
    """Places begin to end - 1 of an epoch's order of all numbers below `count`, each once; integers."""
    if count <= _SHUFFLED:
        return _order(count, seed, epoch)[begin:end]
    keys = np.random.RandomState([seed, epoch]).randint(0, 2**64, _ROUNDS, np.uint64)
    return _scattered(np.arange(begin, end, dtype=np.uint64), count, keys)


def _scattered(numbers: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """Each of the numbers (n,) uint64, all below `count`, as another one below `count`, different ones for different.

    A Feistel network with a key a round, on as many bits as `count` takes; what gets too large goes through it again.
    Source: Black and Rogaway 2002, Ciphers with arbitrary finite domains, the cycle-walking cipher.
    """
    half = np.uint64((int(count - 1).bit_length() + 1) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    numbers, again = numbers.copy(), np.ones(len(numbers), bool)
    while again.any():
        left, right = numbers[again] >> half, numbers[again] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        numbers[again] = left << half | right
        again = numbers >= count
    return numbers


def _mixed(x: np.ndarray) -> np.ndarray:
    """Every bit of x, uint64, changes about half of those of the result: the end of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(2)  # an epoch is read in many short calls
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch takes its windows: all numbers below `count` once, (count,) int64, read-only."""
    order = np.random.RandomState([seed, epoch]).permutation(count).astype(np.int64, copy=False)
    order.flags.writeable = False
    return order
