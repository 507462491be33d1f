"""The layout of help (full summaries, options in groups, narrow terminals) and shell completion."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

#: The options of `train` by group, the ten most common first; options in no group are listed as advanced.
GROUPS = {
    "Usual options": (
        "preset", "seconds", "iterations", "hidden_size", "num_layers", "dropout", "validation", "out", "resume",
        "quiet",
    ),
    "Text": (
        "encoding", "format", "column", "field", "bytes", "lower", "separator", "documents", "weight", "unknown",
        "offline",
    ),
    "Model": (
        "cell", "embedding_size", "weight_drop", "mix", "members", "seeds", "init", "forget_bias", "from_run",
    ),
    "Learning": (
        "learning_rate", "schedule", "warmup", "optimizer", "momentum", "weight_decay", "grad_clip", "grad_clip_norm",
        "seq_length", "batch_size", "windows", "seed", "sync_every",
        "sync_dtype",
    ),
    "Budget": ("epochs", "max_chars", "until_loss", "patience"),
    "Evaluation": ("validate_every", "validation_from", "report_every", "diagnostics"),
    "Output": (
        "sample_every", "sample_length", "temperature", "epoch_samples", "save_every", "keep", "plot", "plot_every",
        "tensorboard", "style", "as_json", "help",
    ),
}  # fmt: skip
REST = "Advanced"
_NARROW = 60  # columns; a narrower terminal has no room for two columns of text

#: Short forms of the most common options.
SHORT = {
    "preset": "-p", "seconds": "-s", "iterations": "-n", "hidden_size": "-H", "num_layers": "-L", "dropout": "-d",
    "validation": "-V",
}  # fmt: skip


class Word(click.ParamType):
    """One of several words, completed by the shell; the code that uses the value checks it."""

    name = "word"

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = choices

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the possible completions."""
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]


class Place(click.ParamType):
    """A file or folder."""

    name = "place"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the possible completions."""
        return [CompletionItem(incomplete, type="file")]


class Source(Place):
    """The source of a text: a file, a folder, or the name of a built-in text."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the possible completions."""
        from charlstm.text.downloads import BUILT_IN

        names = [CompletionItem(name) for name in BUILT_IN if name.startswith(incomplete)]
        return names + super().shell_complete(ctx, param, incomplete)


def word_option(*names: str, choices: str, default: str | None = None, **more: Any) -> Any:
    """An option that takes one of the words in `choices`, such as "this|that|PATH"; capitals are placeholders."""
    words = [word for word in choices.split("|") if not word.isupper()]
    return click.option(*names, type=Word(words), metavar=choices, default=default, **more)


class _Formatter(click.HelpFormatter):
    """Help for terminals of any width; on a narrow one, descriptions are printed below options and examples."""

    def __init__(self, width: int | None = None, max_width: int | None = None, **more: Any) -> None:
        columns = width or shutil.get_terminal_size().columns
        super().__init__(width=max(min(columns, max_width or 80) - 2, 20), **more)
        self._is_narrow = self.width < _NARROW

    def write_text(self, text: str) -> None:
        """Write paragraphs, keeping the line breaks of those marked with \\b."""
        if self._is_narrow:
            text = "\n\n".join(_unfolded(part, self.width - 4) for part in text.split("\n\n"))
        super().write_text(text)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write pairs of a name and its description."""
        if not self._is_narrow:
            super().write_dl(rows, col_max, col_spacing)
            return
        for first, second in rows:
            self.write(f"{'':{self.current_indent}}{first}\n")
            with self.indentation():
                self.write_text(second)


def _unfolded(paragraph: str, width: int) -> str:
    """Move the second column of each line below the first, which is not wrapped, so that it can be copied."""
    if not paragraph.startswith("\b"):
        return paragraph
    return re.sub(r"^(\S.*?)  +(.*)", lambda found: f"{found[1]}\n{_below(found[2], width)}", paragraph, flags=re.M)


def _below(text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ", break_long_words=False)


class _Context(click.Context):
    formatter_class = _Formatter


class Grouped(click.Command):
    """A command whose help lists the options by GROUPS, each under a title."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group."""
        for title, options in self.groups(ctx).items():
            with formatter.section(title):
                formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])

    def groups(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        """The options that help shows, by the titles of GROUPS, then those in no group."""
        options = {
            "help" if "--help" in param.opts else param.name: param
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and not param.hidden
        }
        groups = {title: [options.pop(name) for name in names if name in options] for title, names in GROUPS.items()}
        return {title: found for title, found in {**groups, REST: list(options.values())}.items() if found}


class Commands(click.Group):
    """Commands in the order they were added, with full summaries and help as wide as the terminal."""

    context_class = _Context

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command."""
        cmd.context_class = _Context
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and summaries of the commands."""
        rows = [(name, self.commands[name].get_short_help_str(limit=1000)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a table, the first row being titles; on a terminal too narrow for it, as a list of items."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or sum(widths) + 2 * len(widths) - 2 <= columns:
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    titles, *items = rows
    facts = [
        "; ".join(f"{title} {fact}" for title, fact in zip(titles[1:], row[1:], strict=True) if fact not in ("", "-"))
        for row in items
    ]
    return "\n".join(f"{row[0]}\n{_below(said, columns)}" for row, said in zip(items, facts, strict=True))
