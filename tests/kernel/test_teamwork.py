"""Threads and processes: each test checks one statement of docs/kernels.md."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from conftest import BACKENDS, ROOT
from team_children import STREAMS, arguments, digest, trained

from kernels import reference

numba = pytest.mark.skipif("numba" not in BACKENDS, reason="only the numba backend has teams")
posix = pytest.mark.skipif(sys.platform == "win32", reason="the system has no fork, and no timers that signal")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compile the kernels first, so that child processes stay within their time limits."""
    if "numba" in BACKENDS:
        trained(1)


def child(*names, limit=200):
    """Run functions of team_children.py in their own process; return its output."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "team_children.py", *names], capture_output=True, text=True, timeout=limit,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@numba
@posix
def test_threads_that_fail_or_cannot_be_had_or_moved_and_threads_that_are_kept():
    child("no_more_threads", "growing", "failing_members", "refused_core")


@numba
@posix
def test_at_the_systems_limit_of_threads_one_does_it_all():
    if child("at_the_limit") == "no limit\n":
        pytest.skip("nothing limits threads here")


@numba
@posix
def test_children_of_a_process_whose_team_trains_and_one_of_whose_threads_compiles_can_train():
    child("fork_after_slow_teams", "fork_while_training", "fork_while_compiling", "start_methods")


@numba
def test_processes_of_loky_train(monkeypatch):
    loky = pytest.importorskip("loky")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    with loky.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(trained, [2, 2])) == [trained(1)] * 2


@numba
@pytest.mark.parametrize("name", ["at_exit", "daemon_at_exit"])
def test_the_interpreters_end(name):
    child(name)


@posix
@pytest.mark.parametrize(
    "names", [["interrupted_numpy"], pytest.param(["interrupted_alone", "interrupted_team"], marks=numba)]
)
def test_what_a_signal_handler_raises_leaves_all_arrays_of_one_iteration(names):
    child(*names)


def test_an_interruption_at_any_instruction_leaves_all_arrays_of_one_iteration():
    code, n, sizes = reference.model._train.__code__, 2, {"batch": 2, "seq_length": 2}

    def run(at):
        """Train, and interrupt at the function's instruction number `at`; return whether it was reached."""
        arrays, plan, options = arguments(STREAMS, n=n, **sizes)
        out, count = np.zeros(n), 0

        def local(frame, event, _):
            nonlocal count
            count += event == "opcode"
            if event == "opcode" and count == at:
                raise KeyboardInterrupt
            return local

        def trace(frame, event, _):
            if frame.f_code is not code:
                return None
            frame.f_trace_opcodes = True
            return local

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            reference.train_steps(*arrays, *plan, out=out, **options)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        return count >= at, int(np.isfinite(out).sum()) if out[-1] != 0 else 0, digest(arrays)

    after = []
    for k in range(n + 1):
        arrays, (ids, *each), options = arguments(STREAMS, n=n, **sizes)
        reference.train_steps(*arrays, ids, *(a[:k] for a in each), **options)
        after.append(digest(arrays))
    seen, at = set(), 1
    while True:
        is_interrupted, made, found = run(at)
        assert found == after[made], (at, made)
        seen.add(made)
        if not is_interrupted:
            break
        at += 1
    assert seen == set(range(n + 1))


@numba
def test_two_trainings_at_once_give_the_bits_of_one():
    expected, outcomes = trained(1, n=300), []
    threads = [threading.Thread(target=lambda: outcomes.append(trained(2, n=300))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [expected] * 3


@numba
def test_a_team_keeps_nothing_of_a_call_that_is_over():
    from kernels import load

    arrays, plan, options = arguments()
    load("numba").train_steps(*arrays, *plan, threads=2, **options)
    theta = weakref.ref(arrays[0])
    del arrays
    for _ in range(100):  # a worker may hold its reference for a moment longer
        gc.collect()
        if theta() is None:
            break
        time.sleep(0.01)
    assert theta() is None


@numba
def test_while_the_interpreter_is_taken_down_one_thread_does_it_all(monkeypatch):
    expected, running = trained(2), threading.active_count()
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    assert trained(2) == expected
    assert trained(4, shape=STREAMS, batch=16) == trained(1, shape=STREAMS, batch=16)
    assert threading.active_count() == running


def test_short_calls_go_to_the_faster_of_a_team_and_one_thread():
    from kernels.cpu.pace import CallSwitch

    switch, now = CallSwitch(), 0.0

    def of_team(team, alone, seconds, steps=1):
        """The fraction of the time that a team had, of calls that take so long by either."""
        nonlocal now
        begun, teams = now, 0.0
        while now < begun + seconds:
            took = steps * (team if switch.has_team else alone)
            teams, now = teams + took * switch.has_team, now + took
            switch.record(took, steps, now)
        return teams / (now - begun)

    assert switch.has_team
    assert of_team(team=0.002, alone=0.001, seconds=30) < 0.02
    assert of_team(team=0.0005, alone=0.001, seconds=60) > 0.7  # seen in the next trial, at most 16 s later
    assert of_team(team=0.0005, alone=0.001, seconds=30, steps=7) > 0.98
    assert of_team(team=0.002, alone=0.001, seconds=60) < 0.3
    switch = CallSwitch()
    assert of_team(team=0.1, alone=0.05, seconds=30) > 0.99  # a trial would cost more than it tells


@numba
def test_stretches_are_of_a_tenth_of_a_second_and_short_calls_are_one():
    from kernels.cpu.pace import TeamSwitch

    for teams in (1, 2, 5):
        pace, lengths, done, now = TeamSwitch(teams), [], 0, 0.0
        assert pace.is_new
        while done < 100_000:
            n = pace.iterations(100_000 - done, now)
            taken = n * 1e-4 + (1.0 if not done else 0.0)  # the first stretch includes compiling
            now += taken
            pace.record(n, taken, 0, now)
            lengths.append(n)
            done += n
        assert done == 100_000
        assert max(lengths) <= 1500
        assert len(lengths) < 105
        assert pace.iterations(1400, now) == 1400


@numba
@pytest.mark.long
def test_a_prange_of_the_users_own_runs_beside_a_team():
    import numba as compiler

    @compiler.njit(parallel=True)
    def total(values):
        out = 0.0
        for k in compiler.prange(len(values)):
            out += values[k]
        return out

    values, expected, outcomes = np.ones(1000), trained(1, n=3000), []
    thread = threading.Thread(target=lambda: outcomes.append(trained(2, n=3000)))
    thread.start()
    while thread.is_alive():
        assert total(values) == 1000
    thread.join()
    assert outcomes == [expected]


@numba
@posix
@pytest.mark.long
def test_forks_and_interruptions_again_and_again():
    for _ in range(30):
        child("fork_while_training", "interrupted_team", "interrupted_alone", limit=600)
        child("daemon_at_exit")
        child("at_exit")
