"""Hooks of the documentation site: the commands' reference, made from the commands' own options at build time."""

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import click
from mkdocs.structure.files import File, Files

from charlstm.cli import cli

_ESCAPES = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "*": "\\*", "_": "\\_", "\n": " "})


def on_files(files: Files, config: Any) -> Files:
    """Add commands.md."""
    files.append(File.generated(config, "commands.md", content="\n".join(_page())))
    return files


def _page() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "Every command with every option. `charlstm COMMAND --help` says the same in a terminal."
    for name, command in _commands(cli, ""):
        yield from ("", f"## charlstm {name}", "")
        yield from _paragraphs(command.help or command.short_help or "")
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        yield from ("", "```text", f"charlstm {name} {usage}", "```", "")
        options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
        if options:
            yield "| option | |"
            yield "| --- | --- |"
            yield from (_row(option) for option in options)


def _paragraphs(text: str) -> Iterator[str]:
    """Yield a help text as Markdown; click marks paragraphs whose lines stay as they are with a backspace."""
    for paragraph in cleandoc(text).split("\n\n"):
        first, *lines = paragraph.split("\n")
        yield from ("```text", *lines, "```") if first == "\b" else (_escaped(paragraph),)
        yield ""


def _commands(group: click.Group, before: str) -> Iterator[tuple[str, click.Command]]:
    """Yield each command, of groups too, with its full name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    words = "" if option.is_flag else option.make_metavar(click.Context(click.Command("")))
    words = f" {_escaped(words.replace('|', ' | '))}" if words else ""
    return f"| {names}{words} | {_escaped(option.help or '')} |"


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
