"""The help pages, and shell completion."""

import os
import re
import subprocess
import sys

import click
import pytest
from children import command

from charlstm.cli import cli
from charlstm.commands import layout
from charlstm.settings.config import PRESETS

TRAIN = cli.commands["train"]


def help_of(*names, columns=80):
    """A help page as printed at a given width."""
    found = cli
    context = found.context_class(found, info_name="charlstm", terminal_width=columns)
    for name in names:
        found = found.commands[name]
        context = found.context_class(found, context, info_name=name, terminal_width=columns)
    return found.get_help(context)


def sections(page):
    """Section titles with the options below them."""
    found = {}
    for line in page.splitlines():
        if title := re.fullmatch(r"(\S.*):", line):
            found[title[1]] = []
        elif found and (option := re.match(r"  (?:-\w, )?(--[\w-]+)", line)):
            list(found.values())[-1].append(option[1])
    return found


def test_the_options_of_train_are_in_groups_the_usual_ten_first():
    found = sections(help_of("train"))
    assert list(found) == ["Usual options", "Text", "Model", "Learning", "Budget", "Evaluation", "Output", "Advanced"]
    assert len(found["Usual options"]) == 10
    shown = [option for options in found.values() for option in options]
    known = {parameter.opts[-1] for parameter in TRAIN.params if isinstance(parameter, click.Option)}
    assert len(shown) == len(set(shown))
    assert set(shown) == known | {"--help"}
    assert len(found["Advanced"]) < len(shown) / 3


def test_every_name_in_the_groups_is_that_of_an_option():
    names = [name for names in layout.GROUPS.values() for name in names]
    assert len(names) == len(set(names))
    assert set(names) - {parameter.name for parameter in TRAIN.params} <= {"help", "validation_from"}
    assert set(layout.SHORT) <= set(names)


def test_examples_come_first_and_work(monkeypatch, tmp_path):
    page = help_of("train")
    examples = re.findall(r"^  charlstm (\w+)(.*?)  +\S", page, re.M)
    assert len(examples) >= 4
    assert page.index("  charlstm train") < page.index("Usual options:")
    for name, arguments in [*examples, *re.findall(r"^  charlstm (\w+)(.*?)  +\S", help_of("sample"), re.M)]:
        words = arguments.replace('"The "', "The").partition("|")[0].split()
        monkeypatch.setattr("charlstm.runs.begin.newest", lambda command: "runs/book")
        parsed = cli.commands[name].make_context(name, words)
        assert parsed.command.name == name


def test_short_options_are_those_of_the_long_ones():
    for name, letter, long, value in (
        ("train", "-p", "preset", "quality"), ("train", "-s", "seconds", 7.0), ("train", "-n", "iterations", 7),
        ("train", "-H", "hidden_size", 7), ("train", "-L", "num_layers", 7), ("train", "-d", "dropout", 0.5),
        ("train", "-V", "validation", 0.5), ("train", "-o", "out", "x"), ("sample", "-n", "length", 7),
        ("sample", "-p", "prime", "x"), ("sample", "-t", "temperature", 0.5), ("sample", "-s", "seed", 7),
        ("sample", "-c", "count", 7), ("sample", "-k", "top_k", 7),
    ):  # fmt: skip
        assert cli.commands[name].make_context(name, ["some", letter, str(value)]).params[long] == value
    context = TRAIN.make_context("train", ["-r", "book.txt", "-q"])
    assert context.params["text"] == ("book.txt",)
    assert (context.params["resume"], context.params["quiet"]) == ("\0newest", True)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_summaries_are_whole(columns):
    page = " ".join(help_of(columns=columns).split())
    assert "..." not in page.partition("Commands:")[2].replace("[ARGS]...", "")
    for name, each in cli.commands.items():
        assert f"{name} {each.get_short_help_str(limit=1000)}" in page
        assert len(each.get_short_help_str(limit=1000)) < 60
    assert "_CHARLSTM_COMPLETE=bash_source" in page


def whole(page):
    """A help page's text, however its lines are broken."""
    return " ".join(re.sub(r"-\n +", "-", page).split())


@pytest.mark.parametrize("columns", [40, 59, 80, 200])
def test_lines_fit_and_no_word_is_broken(columns):
    data = [("data", name) for name in cli.commands["data"].commands]
    for names in ((), *((name,) for name in cli.commands), *data):
        page = help_of(*names, columns=columns)
        for line in page.splitlines():
            is_to_be_copied = "_CHARLSTM_COMPLETE" in line or re.match("  charlstm .*", line)
            assert len(line) <= columns or "|" in line or is_to_be_copied, line
        if names == ("train",):
            for parameter in TRAIN.params:
                if isinstance(parameter, click.Option):
                    assert whole(parameter.help) in whole(page)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_list_of_presets_fits(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.main(["train", "-p", "list"], standalone_mode=False) == 0
    table = capsys.readouterr().out
    assert "1,000,000 iterations" in table  # one line each in a pipe, whatever the width
    assert len(table.splitlines()) == len(PRESETS) + 1
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert cli.main(["train", "-p", "list"], standalone_mode=False) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= columns for line in shown.splitlines())
    assert set(re.split(r"[\s,;]+", table)) - {"preset", "-"} <= set(re.split(r"[\s,;]+", shown))


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("train --optimizer a", {"adagrad", "adam", "adamw"}), ("train --preset min-char-l", {"min-char-lstm", "min-char-lstm-mod-2"}),
        ("train -p li", {"list"}), ("train --cell ", {"lstm", "gru", "rnn", "lnlstm"}), ("train --style o", {"own", "original"}),
        ("train nie", {"nietzsche", "nie"}), ("sample --checkpoint ", {"last", "best"}), ("sample --backend c", {"cupy"}),
        ("gradcheck --backend a", {"all"}), ("train --hidden", {"--hidden-size"}), ("sa", {"sample"}),
        ("ngram --smoothing w", {"witten-bell"}),
    ],
)  # fmt: skip
def test_the_shell_completes(typed, offered):
    words = f"charlstm {typed}"
    env = {
        **os.environ,
        "_CHARLSTM_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(command(), env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert found == offered


def test_completing_says_nothing_of_the_newest_run(monkeypatch, capsys):
    monkeypatch.setattr("charlstm.runs.begin.newest", lambda command: "runs/book")
    for name in ("sample", "keywords"):
        cli.commands[name].make_context(name, [], resilient_parsing=True)
        assert capsys.readouterr().err == ""
        cli.commands[name].make_context(name, [])
        assert capsys.readouterr().err == "run     runs/book\n"


def test_sample_takes_the_newest_run(tmp_path, text_file, charlstm_command):
    tiny = ("--hidden-size", 4, "--seq-length", 5, "--batch-size", 2, "--backend", "numpy", "-n", 3, "-q")
    for name in ("one", "two"):
        assert charlstm_command("train", text_file, *tiny, "-o", f"runs/{name}").returncode == 0
    os.utime(tmp_path / "runs" / "one" / "last.safetensors", (4e9, 4e9))
    done = charlstm_command("sample", "-n", 7, "-s", 1, "--backend", "numpy")
    assert done.returncode == 0, done.stderr
    mixed = "mix     the net and its n-gram, weight 0.5; --mix 0: the net alone\n"
    assert done.stderr.decode() == f"run     runs/one\n{mixed}"
    named = charlstm_command("sample", "runs/one", "-n", 7, "-s", 1, "--backend", "numpy")
    assert (named.stdout, named.stderr.decode()) == (done.stdout, mixed)


def test_help_is_there_without_what_is_heavy():
    """Its time is a benchmark; this tests that the slow imports stay out."""
    program = "from charlstm.cli import _guarded; import sys; _guarded([]); print(len(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stderr) < 250
