"""Which ids of a text each training iteration reads: continuous streams, or shuffled windows.

Streams: a text of M ids is cut into B streams of M // B ids. Iteration n reads seq_length (T) inputs from every stream,
and the same shifted by one as targets; then each stream moves on by T, and its state is carried over. When no whole
sequence is left, the streams start over with a zero state, as in min-char-lstm. So the position follows from n alone.
A model that has only seen carried states may handle a zero state badly, although scoring and sampling start from one:
see Resets.

Windows: stretches of the text, each read from a zero state, in an order drawn anew for every epoch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from charlstm.errors import UserError

_SHUFFLED = 2**22  # up to this many windows the order is one array of 32 MiB; beyond, it is computed place by place
_ROUNDS = 8
_GROWS_AFTER = 32


@dataclass(frozen=True)
class Streams:
    """The plan of stateful truncated backpropagation through time over a text of `num_ids` ids.

    Raises
    ------
    UserError
            If a stream would hold fewer than two sequences; the message says what would fit.
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
        """Number of ids in a stream."""
        return self.num_ids // self.batch_size

    @property
    def iterations_per_pass(self) -> int:
        """Number of iterations until the streams start over."""
        return (self.stream_length - self.seq_length - 2) // self.seq_length + 1

    def extent(self, share: slice) -> slice:
        """The ids that some neighbouring streams read: from the first of the first one to the last of the last one."""
        last = (share.stop - 1) * self.stream_length + self.iterations_per_pass * self.seq_length
        return slice(share.start * self.stream_length, last + 1)

    def plan(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts (n, B) int64 and reset (n,) bool for iterations begin to end - 1, as for train_steps."""
        turn = np.arange(begin, end) % self.iterations_per_pass
        starts = (turn * self.seq_length)[:, None] + np.arange(self.batch_size) * self.stream_length
        return np.ascontiguousarray(starts, np.int64), turn == 0


@dataclass(frozen=True)
class Resets:
    """The iterations at which a stream's state is set to zero in the middle of the text.

    At first this happens to each stream every `every` iterations on average, while learning steps are large; the
    distance doubles whenever the iteration reaches 32 times the distance, so it costs a long run little. Four times per
    distance, each stream is drawn with probability 1/4, from the seed, the iteration and the stream's number alone: so
    the resets do not depend on how iterations are split into calls.
    """

    every: int
    batch_size: int
    seed: int

    def distance(self, iteration: int) -> int:
        """Average number of iterations between two resets of a stream."""
        return self.every << max(0, (iteration // (_GROWS_AFTER * self.every)).bit_length())

    def at(self, iteration: int) -> np.ndarray:
        """The numbers of the streams that are reset before this iteration, integers."""
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
        """The next iteration, later than this one, at which a stream may be reset."""
        distance = self.distance(iteration)
        step = max(1, distance // 4)
        return min((iteration // step + 1) * step, _GROWS_AFTER * distance)


@dataclass(frozen=True)
class Windows:
    """The plan of training on shuffled windows of a text, B at a time, each read from a zero state.

    A window reads ids[start : start+length]; its last target is ids[start+length]. A window begins every `step` ids.
    Epoch e takes each window once, in an order drawn from `seed` and e; windows that do not fill a last batch are left
    out of that epoch. So a batch follows from the iteration alone and does not depend on how calls are split.

    Raises
    ------
    UserError
            If there are fewer windows than a batch holds; the message says what would fit.
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
        """Number of windows in the text."""
        return max(0, (self.num_ids - self.length - 1) // self.step + 1)

    @property
    def iterations_per_pass(self) -> int:
        """Number of iterations in an epoch."""
        return self.num_windows // self.batch_size

    def plan(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts (n, B) int64 and reset (n,) bool, all True, for iterations begin to end - 1, as for train_steps."""
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
    """Places begin to end - 1 of an epoch's permutation of the numbers below `count`; integers."""
    if count <= _SHUFFLED:
        return _order(count, seed, epoch)[begin:end]
    keys = np.random.RandomState([seed, epoch]).randint(0, 2**64, _ROUNDS, np.uint64)
    return _scattered(np.arange(begin, end, dtype=np.uint64), count, keys)


def _scattered(numbers: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """A pseudo-random permutation of the numbers below `count`, applied to `numbers` (n,) uint64.

    A Feistel network with one key per round, on as many bits as `count` needs; a result that is too large goes through
    it again. Source: Black and Rogaway 2002, Ciphers with arbitrary finite domains, the cycle-walking cipher.
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
    """A hash of x, uint64, in which every input bit changes about half of the output bits: the end of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(2)  # many short calls read one epoch
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch's windows: a permutation of the numbers below `count`, (count,) int64, read-only."""
    order = np.random.RandomState([seed, epoch]).permutation(count).astype(np.int64, copy=False)
    order.flags.writeable = False
    return order
