"""The nets that a run trains side by side: one, the members that speak together, or several seeds.

Each is trained as a run of its own would train it, from its own seed; they share the text, the rates and the moments at
which training pauses. Each has a thread of its own, or a team of threads if there are enough.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

import kernels
from charlstm.errors import UserError
from charlstm.model import initial
from charlstm.model.checkpoint import shape_of, speaking
from charlstm.model.memory import Memory, Voice
from charlstm.settings.config import Config
from charlstm.text.batches import Resets, Streams, Windows
from charlstm.training import averages
from charlstm.training.parallel import share_of, steps_of
from charlstm.training.steps import CALL_SECONDS
from charlstm.training.world import ALONE, World
from kernels import spec

_CALIBRATION_SECONDS = 1.0


class Member:
    """One net, and what its training needs; `memory` is set by :meth:`begin` or :meth:`go_on`.

    `average` (N,) is the mean of its weights, None without ``--average``.

    Parameters
    ----------
    config : of this net
    backend : name of the compute backend
    ids : the training text, (M,)
    vocab_size, threads : of the run
    world : the ranks that train it, all in the same way: each owns some of the streams, with their h and c
    """

    memory: Memory
    average: Any | None

    def __init__(
        self, config: Config, backend: str, ids: np.ndarray, vocab_size: int, threads: int, world: World = ALONE
    ) -> None:
        self.config, self._backend, self._share = config, backend, share_of(config.batch_size, world)
        self.shape = shape_of(config, vocab_size)
        self.batches = _batches(config, len(ids))
        self.resets = Resets(0 if config.windows else config.reset_every, config.batch_size, config.seed)
        self.steps = steps_of(config, backend, self.shape, ids, self.batches, threads, world)

    def begin(self) -> np.random.RandomState:
        """Draw the initial weights; return the generator that they came from."""
        config, random = self.config, np.random.RandomState(self.config.seed)
        theta = initial.weights(config.init, self.shape, config.forget_bias, random, config.real)
        state = spec.aligned_zeros((spec.slots(config.optimizer, config.hyper), len(theta)), config.real)
        h = spec.aligned_zeros((config.num_layers, config.batch_size, config.hidden_size), config.real)
        self.go_on(Memory(theta, state, h, np.zeros_like(h)))
        return random

    def go_on(self, memory: Memory, average: np.ndarray | None = None) -> None:
        """Continue from these arrays of all streams, and from this mean of weights, on the host."""
        h, c = (np.ascontiguousarray(array[:, self._share]) for array in (memory.h, memory.c))
        mine = memory._replace(h=h, c=c)
        self.memory = Memory(*(kernels.to_device(self._backend, array) for array in mine))
        self.average = None
        if self.config.average:
            self.average = kernels.to_device(self._backend, memory.theta if average is None else average).copy()

    def start_from(self, theta: np.ndarray) -> None:
        """Begin with these weights instead of the drawn ones."""
        given = kernels.to_device(self._backend, theta)
        for weights in (self.memory.theta, self.average):
            if weights is not None:
                weights[...] = given

    def next_point(self, iteration: int) -> int:
        """The iteration after which the weights next enter their mean."""
        return averages.next_point(iteration, self.config.sync_every) if self.config.average else sys.maxsize

    def average_weights(self, iteration: int) -> None:
        """Let the weights after an iteration enter their mean, if it is time."""
        if self.average is not None:
            config = self.config
            averages.enter(self.average, self.memory.theta, iteration, config.average, config.sync_every)

    @property
    def voice(self) -> Voice:
        """The net as it speaks."""
        return Voice(self.memory.theta if self.average is None else self.average, self.shape)

    def reset(self, iteration: int) -> None:
        """Set the state of the streams that are reset before this iteration to zero."""
        for stream in self.resets.at(iteration).tolist():
            if self._share.start <= stream < self._share.stop:
                mine = stream - self._share.start
                self.memory.h[:, mine] = self.memory.c[:, mine] = 0


class Members:
    """The nets of a run, in the order of the config.

    Parameters
    ----------
    config, backend, ids, vocab_size, threads : of the run
    world : the ranks that train it

    Raises
    ------
    UserError
        For several nets on several ranks.
    """

    def __init__(
        self, config: Config, backend: str, ids: np.ndarray, vocab_size: int, threads: int, world: World = ALONE
    ) -> None:
        if world.size > 1 and len(config.nets) > 1:
            raise UserError("--members and --seeds: train in one process only; leave out mpiexec, or train one net")
        self._config, self._backend, self._threads = config, backend, threads
        each = max(1, threads // len(config.nets))
        self.all = [Member(net, backend, ids, vocab_size, each, world) for net in config.nets]
        self.first = self.all[0]
        self._most = min(member.steps.most for member in self.all)

    @property
    def memories(self) -> list[Memory]:
        """The arrays of each net."""
        return [member.memory for member in self.all]

    @property
    def groups(self) -> list[list[Voice]]:
        """The nets that could speak: all members together, or each seed by itself."""
        voices = [member.voice for member in self.all]
        return [voices] if self._config.seeds == 1 else [[voice] for voice in voices]

    def voices(self, each: dict[str, list[float]]) -> list[Voice]:
        """The nets that speak, given the figures of each: see :func:`charlstm.model.checkpoint.speaking`."""
        found = [voice for group in self.groups for voice in group]
        return [found[place] for place in speaking(self._config, each)]

    def run(
        self, memories: Sequence[Memory], begin: int, end: int, rates: np.ndarray, smooth_loss: float, stop_below: float
    ) -> np.ndarray:
        """Run iterations begin to end - 1 of each net on these arrays; return their losses: see :meth:`Steps.run`.

        Of several nets, it is the mean of their losses; it ends with the first that is not finite.
        """
        given = begin, end, rates, smooth_loss, stop_below
        if len(self.all) == 1:
            return self.first.steps.run(memories[0], *given)

        def train(member: Member, memory: Memory) -> np.ndarray:
            return member.steps.run(memory, *given)

        count = 1 if self._backend == "numpy" else min(self._threads, len(self.all))
        with ThreadPoolExecutor(count, thread_name_prefix="charlstm") as pool:  # it waits for all, whatever happens
            losses = list(pool.map(train, self.all, memories))
        made = min(map(len, losses))
        mean: np.ndarray = np.stack([each[:made] for each in losses]).mean(axis=0)
        return mean

    def average_weights(self, iteration: int) -> None:
        """Let the weights of each net after an iteration enter their mean, if it is time."""
        for member in self.all:
            member.average_weights(iteration)

    def fitting(self, now: int, made: int, seconds: float) -> int:
        """The maximum for the next call, after one of at most `now` iterations that made `made` in `seconds` s."""
        return max(1, min(2 * now, int(made * CALL_SECONDS / seconds), self._most))

    def rate(self, begin: int, most_seconds: float) -> float:
        """Iterations per second from `begin` on, measured on copies for `most_seconds`, but at most one second."""
        copies, enough = [memory.copy() for memory in self.memories], min(_CALIBRATION_SECONDS, most_seconds)
        rates: list[float] = []
        steps, since = 1, 0.0
        clock = self.first.steps.clock
        with self.on_one_blas_thread(), self.first.steps.aside():
            while not rates or clock() - since < enough:
                started = clock()
                self.run(copies, begin, begin + steps, np.full(steps, self._config.learning_rate), 0.0, -np.inf)
                taken = clock() - started
                if since:  # not the first call, which may have compiled
                    rates.append(steps / taken)
                since = since or clock()
                steps = self.fitting(steps, steps, taken)
        return float(np.median(rates))

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters, the optimizer states, the nets' states and the kernels' buffers."""
        arrays = [array for memory in self.memories for array in memory]
        arrays += [member.average for member in self.all if member.average is not None]
        return sum(array.nbytes for array in arrays) + sum(member.steps.nbytes for member in self.all)

    def on_one_blas_thread(self) -> AbstractContextManager[Any]:
        """A context that runs NumPy's products on one thread: with more, last bits would depend on their number."""
        if self._backend != "numpy":
            return nullcontext()
        from threadpoolctl import threadpool_limits

        return threadpool_limits(1, "blas")

    def __len__(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.all)


def _batches(config: Config, num_ids: int) -> Streams | Windows:
    """The plan of which ids each iteration reads."""
    if config.windows is None:
        return Streams(num_ids, config.seq_length, config.batch_size)
    return Windows(num_ids, *config.window, config.batch_size, config.seed)
