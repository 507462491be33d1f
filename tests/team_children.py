"""Tests that tests/kernel/test_teamwork.py runs in their own processes: ``python team_children.py NAME``.

Each function checks its own results; the process exits with 0 if all checks pass. A failing test may hang or die by a
signal, so its caller must set a timeout.
"""

import atexit
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

import kernels
from kernels import spec
from kernels.spec import Shape

PANELS = Shape(11, 64)  # two threads split the hidden units of one stream
STREAMS = Shape(11, 5)  # threads split the streams of a batch


def arguments(shape=PANELS, batch=1, n=50, seq_length=5):
    """Return arrays and options for train_steps, the same in every call."""
    random = np.random.RandomState(0)
    theta = random.randn(spec.num_parameters(shape)) * 0.1
    state, h, c = np.zeros((1, len(theta))), *np.zeros((2, shape.num_layers, batch, shape.hidden_size))
    ids = random.randint(0, shape.vocab_size, 500).astype(np.uint8)
    starts = random.randint(0, len(ids) - seq_length - 1, (n, batch))
    reset, rates = np.arange(n) % 7 == 3, np.full(n, 0.01)
    return [theta, state, h, c], (ids, starts, reset, rates), {"shape": shape, "seq_length": seq_length}


def digest(arrays):
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def trained(threads, name="numba", **sizes):
    """Train, and return a digest of the results."""
    arrays, plan, options = arguments(**sizes)
    losses = kernels.load(name).train_steps(*arrays, *plan, threads=threads, **options)
    return digest([*arrays, losses])


# --------------------------------------------------------------------------------------------------- failing threads
def failing_members():
    """If any thread of a team fails, wherever the others wait, the call raises that thread's exception."""
    import numba

    from kernels.cpu import teamwork
    from kernels.cpu.threads import barrier

    @numba.njit(nogil=True)
    def wait(counter):
        barrier(counter, 3)

    for failing in range(3):
        counter, met = np.zeros(8, np.int64), []

        def member(thread, failing=failing, counter=counter, met=met):
            if thread == failing:
                raise KeyboardInterrupt(f"member {failing}")
            wait(counter)
            met.append(thread)
            return 0

        with pytest.raises(KeyboardInterrupt, match=f"member {failing}"):
            teamwork.together(member, 3, counter)
        assert sorted(met) == [thread for thread in range(3) if thread != failing]


def refused_core():
    """If the system refuses to pin threads, the results stay the same."""
    expected = trained(1)
    kept = os.sched_setaffinity

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    os.sched_setaffinity = refuse
    assert trained(2) == expected
    os.sched_setaffinity, os.sched_getaffinity = kept, refuse
    assert trained(2) == expected


def no_more_threads():
    """If the second of three workers cannot start, one thread does all the work and the first worker stays usable."""
    sizes = {"shape": STREAMS, "batch": 16}
    expected, start, started = trained(1, **sizes), threading.Thread.start, []

    def at_most_one(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    threading.Thread.start = at_most_one
    assert trained(4, **sizes) == expected
    assert trained(2, **sizes) == expected  # with the worker that did start
    assert len(started) == 1
    threading.Thread.start = start
    assert trained(4, **sizes) == expected
    assert threading.active_count() == 4


def at_the_limit():
    """If the system's limit on threads is reached, one thread does all the work."""
    import resource

    expected = trained(1)
    if os.getuid() == 0:
        os.setuid(65534)  # the limit does not apply to root
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        assert trained(2) == expected
        assert threading.active_count() == 1
    else:
        print("no limit")


def growing():
    """Teams of varying size share their threads: there are never more than the largest team needs."""
    sizes = {"shape": STREAMS, "batch": 32}
    expected = trained(1, **sizes)
    for threads in (2, 3, 4, 5, 8, 3, 8):
        assert trained(threads, **sizes) == expected
    assert threading.active_count() == 8, threading.active_count()


# --------------------------------------------------------------------------------------------------------- processes
def fork_while_training():
    """Children that are forked while a team is running train with teams of their own."""
    expected, stop = trained(2), threading.Event()

    def train():
        while not stop.is_set():
            trained(2, n=4000)

    thread = threading.Thread(target=train)
    thread.start()
    time.sleep(0.1)
    codes = []
    for _ in range(6):
        time.sleep(0.03)
        codes.append(_code_of_a_child(expected))
    stop.set()
    thread.join()
    assert codes == [0] * 6, codes
    assert trained(2) == expected


def fork_after_slow_teams():
    """A child measures for itself whether several threads are faster, and ignores its parent's timings."""
    from kernels.cpu import teamwork
    from kernels.cpu.pace import TeamSwitch

    expected = trained(2)
    assert teamwork._paces
    for kind in teamwork._paces:
        teamwork._paces[kind] = TeamSwitch(teams=1)  # the parent has settled on one thread
    assert _code_of_a_child(expected) == 0


def _code_of_a_child(expected):
    """Fork a child that trains with its own team; return its exit code, or "hangs"."""
    child = os.fork()
    if child == 0:
        os._exit(0 if trained(2) == expected and threading.active_count() == 2 else 1)
    return _exit_code(child)


def _exit_code(child, seconds=30.0):
    """Return a child's exit code, or "hangs"."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def fork_while_compiling():
    """A fork waits until other threads finish compiling; otherwise the child could never compile."""
    from numba.core.compiler_lock import global_compiler_lock

    has_begun, ended = threading.Event(), []

    def compile_something():
        with global_compiler_lock:
            has_begun.set()
            time.sleep(0.2)
            ended.append(True)

    thread = threading.Thread(target=compile_something)
    thread.start()
    has_begun.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if ended and global_compiler_lock._lock.acquire(timeout=5) else 1)
    assert _exit_code(child) == 0
    thread.join()
    with global_compiler_lock:
        pass


def start_methods():
    """Processes that multiprocessing starts by any method, from a process with a team, train correctly."""
    expected, started = trained(2), []
    for way in ("spawn", "forkserver", "fork"):
        context = multiprocessing.get_context(way)
        process = context.Process(target=_expect, args=(expected,))
        process.start()
        started.append((way, process))
    for way, process in started:
        process.join(60)
        assert process.exitcode == 0, (way, process.exitcode)


def _expect(expected):
    sys.exit(trained(2) != expected)


# ------------------------------------------------------------------------------------------------ interpreter exit
def at_exit():
    """Training works after the main thread has ended, both in a remaining thread and in atexit functions."""
    expected = trained(1)
    outcomes = []

    def outlive():
        threading.main_thread().join()
        outcomes.append(trained(2))

    def last():
        outcomes.append(trained(2))
        outcomes.append(trained(4, shape=STREAMS, batch=16))
        right = [expected, expected, trained(1, shape=STREAMS, batch=16)]
        os._exit(0 if outcomes == right else 1)

    atexit.register(last)
    threading.Thread(target=outlive).start()


def daemon_at_exit():
    """A daemon thread that is training does not prevent the interpreter from exiting."""
    begun = threading.Event()

    def train():
        while True:
            trained(2, n=300)
            begun.set()

    threading.Thread(target=train, daemon=True).start()
    begun.wait()


# ----------------------------------------------------------------------------------------------------------- signals
def interrupted(name, threads, n):
    """Train n iterations while a signal handler raises repeatedly; resuming gives the same bits."""
    ops = kernels.load(name)
    whole, plan, options = arguments(n=n)
    ids, *each = plan
    losses = ops.train_steps(*whole, *plan, **options)
    arrays, _, _ = arguments(n=n)
    made, interruptions, out = 0, 0, np.full(n, np.nan)  # a signal may arrive before the call begins
    workspace = spec.workspace(PANELS, 5, 1, "float64")  # no longer in use when the next call begins

    def interrupt(*_):
        raise KeyboardInterrupt

    for kind in (signal.SIGINT, signal.SIGALRM):
        signal.signal(kind, interrupt)
    while made < n:
        part = out[made:]
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02 + 0.01 * (interruptions % 5))
            ops.train_steps(
                *arrays, ids, *(a[made:] for a in each), step=made, threads=threads, out=part, workspace=workspace,
                **options,
            )  # fmt: skip
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interruptions += 1
        else:
            break
        count = int(np.isfinite(part).sum())
        assert np.isfinite(part[:count]).all()
        made += count
        if interruptions in (1, 3):  # every array must be in the state after that iteration
            at, _, _ = arguments(n=n)
            ops.train_steps(*at, ids, *(a[:made] for a in each), **options)
            assert digest(at) == digest(arrays), (name, threads, made)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert interruptions > 1, interruptions
    assert digest([*whole, losses]) == digest([*arrays, out]), (name, threads)


def interrupted_numpy():
    interrupted("numpy", 1, 500)


def interrupted_alone():
    interrupted("numba", 1, 12000)


def interrupted_team():
    interrupted("numba", 2, 12000)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        globals()[each]()
