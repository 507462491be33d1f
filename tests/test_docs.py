"""The documentation is correct: links resolve, commands and options exist, public functions have docstrings."""

import inspect
import pkgutil
import re
import runpy
from types import FunctionType, ModuleType

import click
import pytest
from conftest import ROOT

import charlstm
import kernels
from charlstm.cli import cli
from kernels.spec import OPS

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
ORIGINALS = {"min-char-rnn.py", "min-char-lstm.py", "min-char-lstm-mod-2.py", "markov-model.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_options_exist(page):
    for command, rest in re.findall(r"^(?:\S+ )?charlstm (\w+)(.*?)(?:#.*)?$", page.read_text(), re.M):
        assert command in cli.commands, command
        known = {option for parameter in cli.commands[command].params for option in parameter.opts}
        for option in re.findall(r"(--[a-z-]+)", rest):
            assert option in known, option


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_and_modules_that_are_named_exist(page):
    """Pages name our files with their folder; bare script names belong to the programs that charlstm replaces."""
    text = page.read_text()
    for path in re.findall(r"(?<![\w/.])((?:kernels|charlstm|tests|benchmarks|docs|\.ci)/[\w./-]*\w)", text):
        assert (ROOT / path).exists() or re.search(r"[A-Z]{4}", path), path
    for name in re.findall(r"`([\w-]+\.(?:py|cu))`", text):
        assert name in ORIGINALS, name
    for name in re.findall(r"`((?:kernels|charlstm)(?:\.\w+)+)`", text):
        optional = re.fullmatch(r"(kernels\.(?:torch|jax))(?:\.(\w+))?", name)
        if optional:  # what it imports need not be installed
            source = ROOT.joinpath(*optional[1].split(".")).with_suffix(".py").read_text()
            assert re.search(rf"^(?:class|def) {optional[2] or ''}", source, re.M), name
        else:
            assert pkgutil.resolve_name(name) is not None, name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z][a-z-]+)", page.read_text()):
            assert target in targets or target in ("and",), target


def test_every_public_name_is_there_and_described():
    for package in (charlstm, kernels):
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__doc__, name


@pytest.mark.parametrize("backend", kernels.available())
@pytest.mark.parametrize("name", sorted(OPS))
def test_ops_describe_their_arguments(name, backend):
    """On every backend, docstrings have an entry for each parameter, result and exception."""
    for load in (kernels.load, kernels.load_for_host):
        op = getattr(load(backend), name)
        parts = re.split(r"^(\w[\w ]*)\n-+\n", inspect.getdoc(op), flags=re.M)
        sections = dict(zip(parts[1::2], parts[2::2], strict=True))
        entries = re.findall(r"^([\w, ]+) : ", sections["Parameters"], re.M)
        assert sorted(", ".join(entries).split(", ")) == sorted(inspect.signature(op).parameters)
        assert ("Returns" in sections) == (inspect.signature(op).return_annotation is not None)
        assert "ValueError" in sections["Raises"]
        assert ":func:`kernels.reference." not in inspect.getdoc(op)  # no reference to another docstring


def test_what_a_backend_adds_to_the_reference_stands_below_it():
    """Load a made-up backend; loading it twice adds nothing."""
    backend, reference = ModuleType("backend"), kernels.load("numpy")
    backend.__all__ = ["score", "clip", "sample"]
    for name, text in (
        ("score", "Score, as :func:`kernels.reference.score`.\n\n    Allocates nothing."),
        ("clip", "Clip, as :func:`kernels.reference.clip`."),
        ("sample", "Raise ValueError: there is none."),
    ):
        setattr(backend, name, FunctionType((lambda: None).__code__, {}, name))
        getattr(backend, name).__doc__ = text
    for _ in range(2):
        kernels._documented(backend)
        whole = {name: inspect.getdoc(getattr(reference, name)) for name in backend.__all__}
        assert backend.clip.__doc__ == whole["clip"]
        assert backend.score.__doc__ == whole["score"] + "\n\nOn this backend\n---------------\nAllocates nothing."
        assert backend.sample.__doc__.endswith("\n\nOn this backend\n---------------\nRaise ValueError: there is none.")


def test_the_tables_of_arguments_are_those_that_calls_are_checked_by():
    from kernels.spec import checks

    page = (ROOT / "docs" / "kernels.md").read_text()
    assert checks.tables() in page, "python -m kernels.spec.checks prints them"


def test_the_cost_of_every_op_is_told():
    page = (ROOT / "docs" / "kernels.md").read_text()
    table = page.partition("## What each op costs")[2].partition("## Arguments")[0]
    told = [op for row in re.findall(r"^\| (`.+?) \|", table, re.M) for op in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(OPS)


def test_the_reference_has_every_command_option_and_default():
    hooks = runpy.run_path(str(ROOT / "docs" / "site" / "hooks.py"))
    parts = re.split(r"^## (.+)\n", hooks["commands_page"](), flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    every = dict(hooks["_commands"](cli, "charlstm"))
    assert list(sections) == list(every)
    for name, command in every.items():
        rows = [re.split(r"(?<!\\) \| ", row[2:-2]) for row in re.findall(r"^\| `-.*", sections[name], re.M)]
        found = {word: row for row in rows for word in re.findall(r"`(-[\w-]+)`", row[0])}
        given = [each for each in command.get_params(click.Context(command)) if isinstance(each, click.Option)]
        options = [option for option in given if not option.hidden]
        assert len(rows) == len(options), name
        for option in options:
            _, meaning, default = found[option.opts[-1]]
            assert meaning.strip(), option.opts
            assert "[" not in meaning, f"{option.opts}: one default, at the end of the help"
            assert default.strip() or option.is_eager, option.opts
            if option.show_default:
                assert default.strip() == str(option.default), option.opts
