"""Hooks of the documentation site: the commands' reference, made from the commands' own options at build time."""

import re
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import click

from charlstm.cli import cli
from charlstm.commands.layout import Grouped

_ESCAPES = str.maketrans({mark: f"\\{mark}" for mark in "\\|*_[]<>"} | {"\n": " "})


def on_files(files: Any, config: Any) -> Any:
    """Add commands.md."""
    from mkdocs.structure.files import File  # noqa: PLC0415 (the tests of the page need no mkdocs)

    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def commands_page() -> str:
    """Return the reference of all commands as Markdown."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    every = list(_commands(cli, "charlstm"))
    yield from ("# Commands", "", "`charlstm COMMAND --help` says the same in a terminal.", "", "| command | |")
    yield "| --- | --- |"
    for name, command in every[1:]:
        yield f"| [{name}](#{name.replace(' ', '-')}) | {_escaped(command.get_short_help_str(limit=1000))} |"
    for name, command in every:
        ctx = click.Context(command, info_name=name)
        yield from ("", f"## {name}", "", "```text", f"{name} {' '.join(command.collect_usage_pieces(ctx))}", "```", "")
        yield from _paragraphs(command.help or "")
        for title, options in _groups(command, ctx).items():
            yield from (f"**{title}**", "", "| option | | default |", "| --- | --- | --- |")
            yield from (_row(option, ctx) for option in options)
            yield ""
        yield from _paragraphs(command.epilog or "")


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command with its full name, then those of a group."""
    yield name, command
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        yield from _commands(below, f"{name} {below.name}")


def _groups(command: click.Command, ctx: click.Context) -> dict[str, list[click.Option]]:
    if isinstance(command, Grouped):
        return command.groups(ctx)
    return {"Options": [each for each in command.get_params(ctx) if isinstance(each, click.Option) and not each.hidden]}


def _paragraphs(text: str) -> Iterator[str]:
    """Yield a help text as Markdown; click marks paragraphs whose lines stay as they are with a backspace.

    Examples, with what each does after two spaces or more, become a table, which fits narrow screens.
    """
    for paragraph in cleandoc(text).split("\n\n"):
        first, *lines = paragraph.split("\n")
        examples = [re.fullmatch(r"(\S.*?)  +(.*)", line) for line in lines if first == "\b"]
        if first != "\b":
            yield _escaped(paragraph)
        elif all(examples):
            yield from ("| example | |", "| --- | --- |")
            yield from (f"| `{example[1]}` | {_escaped(example[2])} |" for example in examples if example)
        else:
            yield from ("```text", *lines, "```")
        yield ""


def _row(option: click.Option, ctx: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    words = "" if option.is_flag else _escaped(f" {option.make_metavar(ctx)}".replace("|", " | "))
    meaning, default = explained(option)
    return f"| {names}{words} | {_escaped(meaning)} | {_escaped(default)} |"


def explained(option: click.Option) -> tuple[str, str]:
    """Return what an option means, and its default: its help names it in brackets at the end, or click knows it."""
    meaning, default = re.fullmatch(r"(.*?)(?: \[([^\[\]]*)\])?", option.help or "", re.DOTALL).groups()
    if isinstance(option.type, click.IntRange | click.FloatRange):
        low, high = option.type.min, option.type.max
        meaning += f" ({low} to {high})" if high is not None else f" (at least {low})"
    if default is None and option.is_flag:
        default = "" if option.is_eager else "on" if option.default is True else "off"
    elif default is None:
        default = str(option.default) if option.show_default else "none"
    return meaning, default


def _escaped(text: str) -> str:
    """Return plain text as Markdown; what stands between backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part.replace("\n", " ") if k % 2 else part.translate(_ESCAPES) for k, part in enumerate(parts))
