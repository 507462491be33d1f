"""Commands that messages suggest are run as a shell would run them, in a pipe and on a terminal, and do what they say."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from children import Terminal, command, words
from conftest import made_up_text

from charlstm.cli import main
from charlstm.model.model import load
from charlstm.show import hints

TINY = (
    "--hidden-size", 4, "--seq-length", 5, "--batch-size", 2, "--backend", "numpy", "--sample-length", 5, "--sample-every", 0,
    "--schedule", "constant",
)  # fmt: skip
#: budgets, and what the line that suggests resuming says
ENDS = {
    "iterations": (("--iterations", 30), "--iterations 60"),
    "epochs": (("--epochs", 0.5), "--epochs 1"),
    "max-chars": (("--max-chars", 300), "--max-chars 600"),
    "seconds": (("--seconds", 0.3), "--seconds 0.6"),
    "epochs first": (("--epochs", 0.2, "--seconds", 50), "--epochs 0.4 --seconds 100"),
    "iterations first": (("--iterations", 30, "--epochs", 5), "--iterations 60 --epochs 10"),
    "iterations before seconds": (("--iterations", 30, "--seconds", 50), "--iterations 60 --seconds 100"),
    "loss first": (("--iterations", 500, "--until-loss", 9), "--until-loss none"),
    "loss alone": (("--until-loss", 9), r"--iterations \d+"),
    "loss never": (("--iterations", 30, "--until-loss", 0.001), "--iterations 60 --until-loss 0.001"),
    "patience": (
        ("--iterations", 90, "--validation", 0.1, "--validate-every", 10, "--patience", 1, "--learning-rate", 2),
        "--patience none",
    ),
    "nothing": (("--iterations", 0), "--iterations 1"),
}  # fmt: skip


def told(text, what):
    """The command on a line of output."""
    return re.findall(rf"^(?:.*\r)?{what} +(charlstm .*)$", text, re.MULTILINE)[-1]


@pytest.fixture
def in_a_pipe(tmp_path, monkeypatch, capfdbinary):
    """Run the command line in this process; return its exit code, stderr and stdout."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        out, err = capfdbinary.readouterr()
        return ended.value.code, os.fsdecode(err), os.fsdecode(out)

    return run


def on_a_terminal(tmp_path):
    def run(*arguments):
        terminal = Terminal(command(*arguments), cwd=tmp_path, stdout=subprocess.PIPE)
        return terminal.ended(), terminal.text, ""  # its stdout fits into the pipe's buffer

    return run


@pytest.fixture(params=["pipe", "terminal"])
def anywhere(request, in_a_pipe, tmp_path):
    return in_a_pipe if request.param == "pipe" else on_a_terminal(tmp_path)


@pytest.mark.parametrize("end", ENDS)
def test_going_on_after_each_end(text_file, tmp_path, end, in_a_pipe, anywhere):
    budget, more = ENDS[end]
    code, text, _ = in_a_pipe("train", text_file, *TINY, *budget)
    assert code == 0, text
    line = told(text, "resume")
    assert re.fullmatch(f"charlstm train --resume=runs/book {more}", line), line
    before = load(tmp_path / "runs" / "book", "last").iteration
    code, text, _ = anywhere(*words(line))
    assert code == 0, text
    after = load(tmp_path / "runs" / "book", "last").iteration
    assert after > before, text
    assert "nothing to do" not in text
    assert "done    " in text
    if end == "epochs first":
        assert "0.4 epochs reached" in text


def test_five_hundred_iterations_then_twice_as_many_on_a_terminal(text_file, tmp_path):
    """This once ended in a ZeroDivisionError: a sample comes first, before a speed is known."""
    run = on_a_terminal(tmp_path)
    code, text, _ = run("train", text_file, *TINY, "--iterations", 500, "--sample-every", 500)
    assert code == 0, text
    line = told(text, "resume")
    assert line == "charlstm train --resume=runs/book --iterations 1000"
    code, text, _ = run(*words(line))
    assert code == 0, text
    assert "done    1,000 iterations reached" in text


@pytest.mark.parametrize("name", ["a book", "it's", "-dash", "a  b\nc", b"caf\xe9", "$HOME `x` \\", "天"], ids=ascii)
def test_a_folder_of_any_name(text_file, name, in_a_pipe):
    folder = os.fsdecode(name)
    code, first, _ = in_a_pipe("train", text_file, *TINY, "--iterations", 5, f"--out={folder}")
    assert code == 0, first
    code, text, _ = in_a_pipe(*words(told(first, "resume")))
    assert code == 0, text
    assert "done    10 iterations reached" in text
    code, refused, _ = in_a_pipe("train", text_file, f"--out={folder}")
    assert code == 2
    option = re.search(r"resume it with (--resume=.*?), or choose another", refused)[1]
    code, text, _ = in_a_pipe(*words(f"charlstm train {option} --iterations 11"))
    assert code == 0, text
    code, text, written = in_a_pipe(*words(told(first, "sample") + " --length 7 --backend numpy"))
    assert code == 0, text
    assert len(written) == 7


def test_going_on_from_another_checkpoint_than_the_newest(text_file, tmp_path, in_a_pipe):
    in_a_pipe("train", text_file, *TINY, "--iterations", 5, "--out", "a run")
    step = next((tmp_path / "a run" / "checkpoints").iterdir()).relative_to(tmp_path)
    code, text, _ = in_a_pipe("train", f"--resume={step}")
    assert code == 2
    option = re.search(r"(--from=.*) starts a new run", text)[1]
    code, text, _ = in_a_pipe(*words(f"charlstm train book.txt {option} --iterations 3"))
    assert code == 0, text


def test_a_text_that_came_from_a_pipe(charlstm_command, in_a_pipe):
    first = charlstm_command("train", "-", *TINY, "--iterations", 5, stdin=made_up_text().encode())
    code, text, _ = in_a_pipe(*words(told(first.stderr.decode(), "resume")))
    assert code == 0, text
    assert "done    10 iterations reached" in text


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_is_told_after_a_stop(text_file, tmp_path, in_a_pipe, name):
    arguments = command("train", text_file, *TINY, "--iterations", 10**9)
    terminal = Terminal(arguments, cwd=tmp_path, stdout=subprocess.PIPE).until("bits/char")
    terminal.process.send_signal(getattr(signal, name))
    assert terminal.ended() == 128 + getattr(signal, name)
    line = told(terminal.text, "resume")
    reached = load(tmp_path / "runs" / "book", "last").iteration
    code, text, _ = in_a_pipe(*words(line), "--iterations", reached + 5)
    assert code == 0, text
    assert f"done    {reached + 5:,} iterations reached" in text


@pytest.mark.parametrize(
    "word", ["plain", "two words", "it's", "a\nb\tc\rd", "back\\slash\n", "caf\udce9", "é天", "$'x'\x1b[1m", ""]
)
def test_a_shell_reads_back_what_was_quoted(word):
    done = subprocess.run(
        ["bash", "-c", f"printf '%s' {hints.quoted(word)}"],  # noqa: S607
        capture_output=True, check=True,
    )  # fmt: skip
    assert os.fsdecode(done.stdout) == word
    assert hints.quoted(word).isprintable()


def test_no_other_place_makes_commands():
    """Commands for people to run are made and quoted in charlstm/show/hints.py; elsewhere only fixed ones may stand."""
    for path in (Path(hints.__file__).parent).rglob("*.py"):
        if path.name != "hints.py":
            assert not re.search(
                r"(charlstm (train|sample|score)[^\n\"]*|--(resume|from)=)\{(?!_NEWEST)", path.read_text()
            ), path
