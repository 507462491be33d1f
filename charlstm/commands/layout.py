"""How help is laid out, and what a shell completes: whole summaries, options in groups, words to choose from."""

from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

#: Every option of `train`, the usual ten first; what is in no group is advanced.
GROUPS = {
    "Usual options": (
        "preset", "seconds", "iterations", "hidden_size", "num_layers", "dropout", "validation", "out", "resume",
        "quiet",
    ),
    "Text": (
        "encoding", "format", "column", "field", "bytes", "lower", "separator", "weight", "unknown", "offline",
    ),
    "Model": ("cell", "embedding_size", "init", "forget_bias", "from_run"),
    "Learning": (
        "learning_rate", "schedule", "warmup", "optimizer", "momentum", "grad_clip", "grad_clip_norm", "seq_length",
        "batch_size", "windows", "seed",
    ),
    "Budget": ("epochs", "max_chars", "until_loss", "patience"),
    "Measuring": ("validate_every", "validation_from", "report_every"),
    "Output": (
        "sample_every", "sample_length", "temperature", "epoch_samples", "save_every", "keep", "style", "as_json",
        "help",
    ),
}  # fmt: skip
REST = "Advanced"

#: Letters for the options that are given most.
SHORT = {
    "preset": "-p", "seconds": "-s", "iterations": "-n", "hidden_size": "-H", "num_layers": "-L", "dropout": "-d",
    "validation": "-V",
}  # fmt: skip


class Word(click.ParamType):
    """One of some words, which the shell completes. Who gets it says what is wrong with another one."""

    name = "word"

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = choices

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What may stand here."""
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]


class Place(click.ParamType):
    """A file or folder."""

    name = "place"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What may stand here."""
        return [CompletionItem(incomplete, type="file")]


class Source(Place):
    """What a text is read from: a file or folder, or the name of a built-in one."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What may stand here."""
        from charlstm.data import BUILT_IN

        names = [CompletionItem(name) for name in BUILT_IN if name.startswith(incomplete)]
        return names + super().shell_complete(ctx, param, incomplete)


def word_option(*names: str, choices: str, default: str | None = None, **more: Any) -> Any:
    """An option that takes one of some words, `choices` being "this|that"; capitals stand for what is free."""
    words = [word for word in choices.split("|") if not word.isupper()]
    return click.option(*names, type=Word(words), metavar=choices, default=default, **more)


class Grouped(click.Command):
    """A command whose options stand in GROUPS, each with a title."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        records = {
            "help" if "--help" in param.opts else param.name: record
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
        }
        groups = {title: [name for name in names if name in records] for title, names in GROUPS.items()}
        grouped = {name for names in groups.values() for name in names}
        groups[REST] = [name for name in records if name not in grouped]
        for title, names in groups.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([records[name] for name in names])


class Commands(click.Group):
    """Commands in the order in which they were added, their summaries whole."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and summaries."""
        rows = [(name, self.commands[name].get_short_help_str(limit=1000)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
