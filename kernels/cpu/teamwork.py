"""The threads of a team, and the choice between teams of several sizes.

The first member of a team runs on the calling thread, each other one on a worker: a thread that waits for work. Workers
are started when needed and kept. A team gets either all of its workers before any of them begins, or none: its members
wait for each other, and would wait forever for one without a thread.

Workers are daemon threads. Idle ones hold no arrays and do not keep the interpreter from exiting; training in `atexit`
handlers, or in threads that outlive the main one, continues with the workers that exist. A forked child has none of its
parent's threads, so it begins without workers, and without its parent's measurements.
"""

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from kernels.cpu.pace import CallSwitch, Retreat, TeamSwitch
from kernels.cpu.threads import Plan, move_apart, own_core
from kernels.spec import atomic

Result = TypeVar("Result")
Switch = TypeVar("Switch", TeamSwitch, CallSwitch)
_KINDS = 64  # number of kinds of calls whose measured times are kept


class _Worker(Thread):
    """A thread that runs one piece of work after another, and is listed as idle in between."""

    def __init__(self, idle: "list[_Worker]") -> None:
        super().__init__(name="charlstm", daemon=True)
        self._idle = idle
        self.inbox: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]]] = SimpleQueue()

    def run(self) -> None:
        """Run each piece of work and report its result; the worker is idle again before it reports."""
        while True:
            work, report = self.inbox.get()
            outcome = work()
            self._idle.append(self)
            report(outcome)
            del work, report, outcome  # they hold arrays


class _Crew:
    """The workers of a process."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all workers: a forked child has only the thread that forked."""
        self._idle: list[_Worker] = []

    def take(self, count: int) -> list[_Worker] | None:
        """Take that many workers; None if the system cannot start more threads, or while Python shuts down."""
        taken: list[_Worker] = []
        if sys.is_finalizing():
            return None  # a waiting worker would never wake up
        try:
            while len(taken) < count:
                taken.append(self._idle_one() or self._started())
        except BaseException as error:
            self._idle.extend(taken)
            if isinstance(error, RuntimeError):  # "can't start new thread"
                return None
            raise
        return taken

    def _idle_one(self) -> _Worker | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _started(self) -> _Worker:
        worker = _Worker(self._idle)
        worker.start()
        return worker


_crew = _Crew()
_paces: OrderedDict[Hashable, Any] = OrderedDict()
_retreat = Retreat()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_crew.begin_anew)
    os.register_at_fork(after_in_child=_paces.clear)  # the child shares its parent's cores: the times change


def together(member: Callable[[int], Result], threads: int, counter: np.ndarray) -> Result | None:
    """Run member(0) on this thread and the others on workers; return the result of member(0).

    Return None, without running anything, if there are not enough threads. An exception in any member ends the team:
    the others stop waiting for it (threads.barrier).

    Raises
    ------
    BaseException
        The exception of a member.
    """
    if threads == 1:
        return member(0)
    workers = _crew.take(threads - 1)
    if workers is None:
        return None
    first, ended = own_core(), SimpleQueue[None]()
    outcomes: list[BaseException | None] = []

    def work(thread: int) -> BaseException | None:
        try:
            move_apart(thread, first)
            member(thread)
        except BaseException as error:
            counter[1] = 1
            return error
        return None

    def report(outcome: BaseException | None) -> None:
        outcomes.append(outcome)
        ended.put(None)

    hands = [partial(worker.inbox.put, (partial(work, n), report)) for n, worker in enumerate(workers, 1)]
    try:
        atomic.make(hands)
        done = member(0)
    except BaseException:
        counter[1] = 1
        raise
    finally:
        _wait(outcomes, threads - 1, ended)
    for error in outcomes:
        if error is not None:
            raise error
    return done


def together_or_alone(
    member: Callable[[Plan, int], bool], team: Plan, single: Plan, counter: np.ndarray,
    begin: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Run a pass by a team, or by the single thread of another plan if there are no threads or cores for the team.

    `member(plan, thread)` returns whether its team has not ended. `begin` is called before each try; what is written
    after it must not depend on earlier tries. A team whose threads wait long for each other, as they do when other
    programs take a core, gives up.
    """
    if len(team.members) > 1 and _retreat.may_try(perf_counter()):
        counter[:] = 0
        counter[3] = _retreat.WAITS
        begin()
        done = together(partial(member, team), len(team.members), counter)
        if done is not None:
            done = done and counter[1] == 0  # a thread may have given up after the first one's last barrier
            _retreat.record(not done, perf_counter())
            if done:
                return
    counter[:] = 0
    begin()
    member(single, 0)


def _wait(outcomes: list[BaseException | None], count: int, ended: "SimpleQueue[None]") -> None:
    """Wait for that many outcomes; raise an exception of a signal handler only then: members still use the arrays."""
    interruption = None
    while True:
        try:
            while len(outcomes) < count:
                ended.get()
            break
        except BaseException as error:
            interruption = error
    if interruption is not None:
        raise interruption


@contextmanager
def known_pace(kind: Hashable, make: Callable[[], Switch]) -> Iterator[Switch]:
    """The switch of one kind of call, as a context manager; a second call at the same time gets a new one."""
    pace = _paces.pop(kind, None) or make()
    try:
        yield pace
    finally:
        _paces[kind] = pace
        while len(_paces) > _KINDS:
            _paces.popitem(last=False)


def at_best_pace(
    pace: TeamSwitch,
    run: Callable[[int, int, Plan], int],
    is_last: Callable[[int], bool],
    total: int,
    teams: Sequence[Plan],
    counter: np.ndarray,
) -> int:
    """Run iterations 0 to total - 1 in stretches, each by one of the teams; return the number run.

    `is_last(n)` tells whether iteration n, the last of a stretch, ends the call without its update. Python runs signal
    handlers between two stretches.
    """
    done = 0
    while done < total:
        begun = perf_counter()
        end = done + pace.iterations(total - done, begun)
        reached = done + run(done, end, teams[pace.choice])
        now = perf_counter()
        if reached < end or is_last(end - 1):
            return reached
        pace.record(end - done, now - begun, int(counter[2]), now)
        done = end
    return done
