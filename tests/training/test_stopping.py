"""Stopping training from outside loses nothing: Ctrl-C, a plain kill, a lost connection, a notebook's stop button."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from children import Terminal, command
from small_runs import everything, finish, small

import charlstm.training.stopping
from charlstm.model.model import load
from charlstm.runs.begin import resume, start
from charlstm.training.stopping import Stopping, trained

ENDLESS = (
    "--hidden-size", "4", "--seq-length", "5", "--batch-size", "2", "--backend", "numpy", "--iterations", "100000000",
    "--save-every", "1000", "--report-every", "1", "--sample-every", "0", "--out", "run",
)  # fmt: skip
needs_hangup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")


def until_trained(folder, iterations=50, timeout=60):
    """Wait until a run has reported this many iterations."""
    end = time.monotonic() + timeout
    while reported(folder) < iterations and time.monotonic() < end:
        time.sleep(0.02)
    assert reported(folder) >= iterations


def reported(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@needs_hangup
@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_connection_saves_as_sigterm_does(text_file, tmp_path, times):
    child = subprocess.Popen(command("train", text_file, *ENDLESS), cwd=tmp_path, stderr=subprocess.PIPE)
    until_trained(tmp_path / "run")
    for _ in range(times):  # the kernel signals the foreground processes, the shell may signal once more
        child.send_signal(signal.SIGHUP)
    err = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 129, err
    assert load(tmp_path / "run", "last").iteration >= 50
    assert "resume  charlstm train --resume=run" in err


@needs_hangup
def test_a_terminal_that_is_gone(text_file, tmp_path):
    terminal = Terminal(command("train", text_file, *ENDLESS), cwd=tmp_path)
    until_trained(tmp_path / "run")
    terminal.hang_up()
    assert terminal.process.wait(60) == 129
    assert load(tmp_path / "run", "last").iteration >= 50


@needs_hangup
def test_a_hangup_that_is_ignored_as_under_nohup(text_file, tmp_path):
    arguments = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command("train", text_file, *ENDLESS)]
    child = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE)
    until_trained(tmp_path / "run")
    child.send_signal(signal.SIGHUP)
    until_trained(tmp_path / "run", reported(tmp_path / "run") + 50)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 143


@needs_hangup
def test_a_background_job_outlives_its_terminal(text_file, tmp_path):
    arguments = ["sh", "-c", 'trap "" HUP; "$@" & echo $!; wait', "sh", *command("train", text_file, *ENDLESS)]
    terminal = Terminal(arguments, cwd=tmp_path, stdout=subprocess.PIPE)
    child = int(terminal.process.stdout.readline())
    until_trained(tmp_path / "run")
    terminal.hang_up()
    try:
        until_trained(tmp_path / "run", reported(tmp_path / "run") + 50)
    finally:
        os.kill(child, signal.SIGTERM)
        terminal.ended()


# ---------------------------------------------------------------------------------------------------------- Python
def interrupted_after(tick):
    """Pass on progress; interrupt the main thread after this many ticks, as a notebook does."""

    def show(progress):
        nonlocal tick
        tick -= progress.kind == "tick"
        if tick == 0 and progress.kind == "tick":
            signal.raise_signal(signal.SIGINT)

    return show


def test_an_interrupt_saves_and_gives_the_run(corpus, tmp_path):
    run = start(corpus, small(iterations=100, save_every=1000), str(tmp_path / "run"))
    run.trainer.call_iterations = 1
    with pytest.raises(KeyboardInterrupt) as caught:
        trained(run, interrupted_after(3))
    assert caught.value.run is run
    reached = run.trainer.iteration
    assert 3 < reached < 100
    assert load(tmp_path / "run", "last").iteration == reached
    assert str(caught.value) == f"stopped after {reached} iterations, saved in {tmp_path / 'run'}"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    trained(caught.value.run)
    finish(start(corpus, small(iterations=100), str(tmp_path / "whole")))
    assert everything(tmp_path / "run")[:4] == everything(tmp_path / "whole")[:4]


def test_the_stop_button_inside_train(text_file, tmp_path):
    threading.Timer(2.0, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    options = {"hidden_size": 4, "num_layers": 1, "backend": "numpy", "save_every": 1000, "iterations": 10**8}
    with pytest.raises(charlstm.Interrupted) as caught:
        charlstm.train(text_file, out=str(tmp_path / "run"), **options)
    assert caught.value.run.load("last").iteration == caught.value.run.trainer.iteration > 1


def test_a_second_interrupt_leaves_at_once(corpus, tmp_path):
    run = start(corpus, small(iterations=100), str(tmp_path / "run"))

    def twice(progress):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        trained(run, twice)
    assert type(caught.value) is KeyboardInterrupt


def test_a_program_that_handles_signals_itself_goes_on_doing_so(corpus, tmp_path):
    heard = []
    old = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        run = trained(start(corpus, small(iterations=20), str(tmp_path / "run")), interrupted_after(1))
    finally:
        signal.signal(signal.SIGINT, old)
    assert heard == [signal.SIGINT]
    assert run.trainer.iteration == 20


def test_other_threads_train_without_touching_signals(corpus, tmp_path):
    run, results = start(corpus, small(iterations=5), str(tmp_path / "run")), []
    thread = threading.Thread(target=lambda: results.append(trained(run)))
    thread.start()
    thread.join()
    assert results == [run]


def test_the_signals_are_given_back_and_sighup_is_never_impatient():
    class Run:
        stop = False

    called = []
    stopping = Stopping(
        Run, tuple(charlstm.training.stopping.ENDS), lambda n: called.append("first"), lambda n: called.append("again")
    )
    before = [signal.getsignal(number) for number in charlstm.training.stopping.ENDS]
    with stopping:
        for number in (
            (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else ()
        ):
            signal.raise_signal(number)
        assert called == ["first"]
        assert Run.stop
        signal.raise_signal(signal.SIGTERM)
        assert called == ["first", "again"]
    assert [signal.getsignal(number) for number in charlstm.training.stopping.ENDS] == before


@pytest.mark.parametrize("how", ["break", "raise"])
def test_who_stops_iterating_loses_nothing(corpus, tmp_path, how):
    options = {"validation": 0.1, "validate_every": 10, "save_every": 1000}
    run = start(corpus, small(iterations=60, **options), str(tmp_path / "run"))
    run.trainer.call_iterations = 1
    try:
        for progress in run.train():
            if progress.iteration >= 20:  # the Progress of an evaluation, which is between two ticks
                if how == "break":
                    break
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    saved = load(tmp_path / "run", "last").iteration
    assert saved == run.trainer.iteration >= 20
    finish(resume(tmp_path / "run", corpus))
    finish(start(corpus, small(iterations=60, **options), str(tmp_path / "whole")))
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("sample_every", [0, 100])
def test_ctrl_c_on_a_terminal_leaves_no_bar_behind(text_file, tmp_path, columns, sample_every):
    """The terminal writes ^C after the display, which must not fill its line to the end."""
    arguments = command("train", text_file, *ENDLESS, "--sample-every", sample_every)
    terminal = Terminal(arguments, columns, cwd=tmp_path)
    terminal.until("sample after" if sample_every else "chars/s")
    terminal.type(b"\x03")
    assert terminal.ended() == 130
    shown = terminal.screen
    assert not [line for line in shown if "━" in line or "─" in line or "^C" in line], shown
    assert any(line.startswith("stopped after") for line in shown), shown


@pytest.mark.parametrize("name", ["charlstm.cli", "click", "numpy"])
def test_ctrl_c_while_the_program_is_loaded(tmp_path, name):
    """Loading takes a second or so on a slow machine; nothing has begun, and a traceback would help nobody."""
    program = f"""import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["charlstm", "train", "book.txt"]
from charlstm.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == (130 if name == "numpy" else -signal.SIGINT)
    assert (done.stdout, done.stderr.strip()) == (b"", b"")
