"""`charlstm watch`: a run is followed from its files alone, while it grows, is resumed, falls silent and ends."""

import json
import os
import re
from time import time

import pytest
from children import Terminal, command
from small_runs import finish, small

from charlstm.cli import cli
from charlstm.errors import UserError
from charlstm.runs import following
from charlstm.runs.begin import resume, start
from charlstm.runs.following import Following
from charlstm.runs.records import BASELINE

OPTIONS = {"iterations": 60, "validation": 0.1, "validate_every": 20, "sample_every": None}


@pytest.fixture
def run(corpus, tmp_path):
    run = start(corpus, small(**OPTIONS), str(tmp_path / "run"))
    run.write_baseline()
    run.trainer.call_iterations = 1
    return run


def state(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def kinds(news):
    return [(progress.kind, progress.iteration) for progress in news]


def test_what_is_new_is_told_once_and_as_the_run_told_it(run):
    told, heard, follower = [], [], None
    for progress in run.train():
        told += [progress] if progress.kind == "report" else []
        follower = follower or Following(run.folder)
        heard += follower.poll()
        assert not follower.has_ended
    assert follower.has_ended
    heard += follower.poll()
    reports = [each for each in heard if each.kind == "report" and each.iteration % 10 == 0]
    assert [each.iteration for each in reports][:6] == [each.iteration for each in told]
    for mine, theirs in zip(reports, told, strict=False):
        assert mine.bits_per_char == theirs.bits_per_char
        assert mine.val_bits_per_char == theirs.val_bits_per_char
        assert (mine.iterations, mine.loss_chars, mine.chars) == (60, theirs.loss_chars, theirs.chars)
    samples = [each for each in heard if each.kind == "sample"]
    assert [each.iteration for each in samples] == [0, 10, 30]
    assert samples[-1].sample in (run.folder / "samples.txt").read_text()
    assert heard[-1].kind == "tick"
    assert heard[-1].iteration == follower.done == 60
    assert follower.poll() == []


def test_facts_have_the_baseline_and_all_that_is_known(run):
    finish(run)
    follower = Following(run.folder)
    facts = follower.facts(follower.poll())
    assert facts.baseline == run.baseline_bits
    assert facts.is_evaluated
    assert kinds(facts.history)[-2:] == [("sample", 30), ("tick", 60)]
    (run.folder / BASELINE).write_text("{}")
    with pytest.raises(UserError, match=r"baseline\.json: damaged"):
        follower.facts([])


def test_a_run_that_is_resumed_is_followed_anew_from_where_it_was_cut(run, corpus):
    for progress in run.train():
        if progress.kind == "tick" and progress.iteration == 25:
            break
    follower = Following(run.folder)
    follower.poll()
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 25, "cut": true')  # a line that has not been written to its end
    assert [each for each in follower.poll() if each.kind == "report"] == []
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    (run.folder / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    assert kinds(follower.poll())[:2] == [("report", 0), ("report", 10)]
    assert follower.is_new
    (run.folder / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    finish(resume(run.folder, corpus))
    news = follower.poll()
    assert kinds(news)[0] == ("report", 20)
    assert news[-1].iteration == 60
    assert not follower.is_new


def test_a_resumed_run_shows_what_it_did_before(run, corpus):
    finish(run)
    again = resume(run.folder, corpus, {"iterations": 80})
    history, facts = run.history["iteration"], again.facts
    assert [each.iteration for each in facts.history if each.kind == "report"] == history[history <= 60].tolist()
    assert kinds(facts.history)[-1] == ("sample", 30)
    assert facts.elapsed == run.seconds
    (run.folder / "metrics.jsonl").write_text("nonsense\n")
    assert again.facts.history == []  # `verify` reports it; the run goes on


def test_a_run_that_has_just_begun_has_nothing_to_tell_yet(run):
    follower = Following(run.folder)
    assert follower.poll() == []
    assert not follower.facts([]).history
    assert follower.done == 0
    assert not follower.has_ended


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl"])
def test_a_damaged_file_is_named(run, name):
    finish(run)
    (run.folder / name).write_text("nonsense\n")
    with pytest.raises(UserError, match=f"{re.escape(name)}: damaged"):
        Following(run.folder).poll()


def test_what_is_no_run_is_refused(tmp_path):
    for place, why in ((tmp_path, "no config.toml"), (tmp_path / "none", "no such folder")):
        with pytest.raises(UserError, match=f"expected the folder of a run: {why}"):
            Following(place)


@pytest.mark.parametrize(
    ("holder", "has_ended"),
    [
        ({"pid": 1, "host": "elsewhere"}, False),  # another machine's processes cannot be seen from here
        ({"pid": 2**22 + 1, "host": None}, True),  # there is no such process
        ({}, True),
        (None, True),  # a copy without the lock file
    ],
)
def test_a_silent_run_has_ended_unless_its_process_may_be_alive(run, monkeypatch, holder, has_ended):
    finish(run)
    lock, now = run.folder / ".lock", [1000.0]
    lock.unlink()
    if holder is not None:
        host = os.uname().nodename if holder.get("host", "") is None else holder.get("host")
        lock.write_text(" " + json.dumps({**holder, "host": host}) if holder else "")
    monkeypatch.setattr(following, "monotonic", lambda: now[0])
    follower = Following(run.folder)
    follower.poll()
    assert follower.silent_seconds == 0
    now[0] += 500
    assert follower.silent_seconds > 400
    assert follower.has_ended == has_ended


def test_a_run_that_was_silent_before_is_known_to_be(run):
    finish(run)
    for path in run.folder.glob("*"):
        os.utime(path, (time() - 1000, time() - 1000))
    assert Following(run.folder).silent_seconds == pytest.approx(1000, abs=60)


# ------------------------------------------------------------------------------------------------------ the command
def test_watch_once_prints_the_state_and_writes_nothing(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    finish(run)
    before = state(run.folder)
    assert cli.main(["watch", str(run.folder), "--once"], standalone_mode=False) == 0
    shown = capsys.readouterr().out
    assert state(run.folder) == before
    assert "iteration 60/60" in shown
    assert "held-out" in shown
    assert f"n-gram    {run.baseline_bits:.3f} bits/char" in shown
    assert "sample after 30 iterations" in shown
    assert "\x1b" not in shown
    assert shown.splitlines()[-1] == f"ended   {run.folder}: 60 of 60 iterations"
    assert all(len(line) <= 80 or str(run.folder) in line for line in shown.splitlines())


def test_watch_says_that_a_run_has_stopped_writing(run, capsys):
    finish(run)
    (run.folder / ".lock").write_text(' {"pid": 7, "host": "elsewhere"}')
    for path in run.folder.glob("*"):
        os.utime(path, (time() - 1000, time() - 1000))
    assert cli.main(["watch", str(run.folder), "--once"], standalone_mode=False) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        rf"silent  {run.folder}: 60 of 60 iterations; nothing written for 16:\d\d: process 7 on elsewhere may hang or "
        "have ended",
        last,
    )


def test_watch_once_tells_of_a_run_that_goes_on(run, capsys):
    for progress in run.train():
        if progress.iteration == 30 and progress.kind == "tick":
            assert cli.main(["watch", str(run.folder), "--once"], standalone_mode=False) == 0
            last = capsys.readouterr().out.splitlines()[-1]
            assert re.fullmatch(rf"trains  {run.folder}: [23]\d of 60 iterations, by process {os.getpid()} on .*", last)


def half(training):
    """Train until the files tell of at least 30 iterations."""
    return next(progress for progress in training if progress.kind == "tick" and progress.iteration >= 30)


def test_watch_follows_a_run_to_its_end(run, tmp_path):
    training = run.train()
    half(training)
    terminal = Terminal(command("watch", run.folder), 80, 30, cwd=tmp_path).until("sample after 10 iterations")
    assert list(training)[-1].iteration == 60
    assert terminal.ended(20) == 0
    shown = terminal.screen
    assert len([line for line in shown if "╭" in line]) == 1, shown  # the last state, on stdout
    assert "60/60" in "".join(shown)
    assert any(line.startswith("ended ") for line in shown)


def test_ctrl_c_ends_watching_and_leaves_the_run_alone(run, tmp_path):
    training = run.train()
    half(training)
    before = state(run.folder)
    terminal = Terminal(command("watch", run.folder), 80, 30, cwd=tmp_path).until("sample after 10 iterations")
    terminal.type(b"\x03")
    assert terminal.ended(20) == 130
    assert not [line for line in terminal.screen if "─" in line or "━" in line]
    assert state(run.folder) == before
    training.close()
