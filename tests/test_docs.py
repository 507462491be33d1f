"""What the documents say can be done: links lead somewhere, commands and options exist, public functions are described."""

import inspect
import pkgutil
import re

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
    """A file of ours is named with its folder; bare names of scripts are those of the programs that charlstm replaces."""
    text = page.read_text()
    for path in re.findall(r"(?<![\w/.])((?:kernels|charlstm|tests|benchmarks|docs|\.ci)/[\w./-]*\w)", text):
        assert (ROOT / path).exists() or re.search(r"[A-Z]{4}", path), path
    for name in re.findall(r"`([\w-]+\.(?:py|cu))`", text):
        assert name in ORIGINALS, name
    for name in re.findall(r"`((?:kernels|charlstm)(?:\.\w+)+)`", text):
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


@pytest.mark.parametrize("name", sorted(OPS))
def test_ops_describe_their_arguments(name):
    """Every parameter is named; those that must be given have an entry of their own, with a type or a shape."""
    op = getattr(kernels.load("numpy"), name)
    described = inspect.getdoc(op)
    entries = set(re.findall(r"\w+", " ".join(re.findall(r"^([\w, ]+) : ", described, re.M))))
    for parameter in inspect.signature(op).parameters.values():
        assert re.search(rf"\b{parameter.name}\b", described), parameter
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert parameter.name in entries, parameter


def test_the_tables_of_arguments_are_those_that_calls_are_checked_by():
    from kernels.spec import checks

    page = (ROOT / "docs" / "kernels.md").read_text()
    assert checks.tables() in page, "python -m kernels.spec.checks prints them"
