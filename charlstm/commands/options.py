"""What several commands share: options, and writing text to stdout."""

import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

import click

from charlstm.commands.layout import SHORT, Place, Word, word_option
from charlstm.settings.config import PRESETS, Config


class _Number(click.ParamType):
    """A number, or `none` if the option can be unset."""

    def __init__(self, kind: type, optional: bool) -> None:
        self.kind, self.optional = kind, optional
        self.name = "integer" if kind is int else "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if self.optional and value == "none":
            return None
        try:
            return self.kind(value)
        except (TypeError, ValueError):
            unset = " or none" if self.optional else ""
            self.fail(f"expected {'a whole number' if self.kind is int else 'a number'}{unset}, got {value!r}")


_METAVARS = {
    "preset": "NAME",
    "members": "N|CELL:SIZE,...",
    "weight": "FILE=NUMBER",
    "windows": "MAXLEN:STEP",
    "unknown": "error|skip|replace:CHAR",
}


def config_options(command: Callable[..., Any], only: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Add one option to a command for each field of Config, or for the fields named in `only`."""
    kinds = get_type_hints(Config)
    for item in reversed([item for item in fields(Config) if not only or item.name in only]):
        kind, help = kinds[item.name], item.metadata["help"]
        plain = next(k for k in (get_args(kind) or (kind,)) if k is not type(None))
        choices = (*PRESETS, "list") if item.name == "preset" else item.metadata["choices"]
        name = item.name.replace("_", "-")
        letter = [SHORT[item.name]] if item.name in SHORT and not only else []
        if plain is bool:
            command = click.option(f"--{name}/--no-{name}", default=item.default, help=help)(command)
            continue
        is_many = get_origin(kind) is tuple
        if item.default not in (None, "") and not is_many:
            help = f"{help} [{item.default:g}]" if plain is float else f"{help} [{item.default}]"
        words = Word(choices) if choices else click.STRING
        command = click.option(
            *letter,
            f"--{name}",
            type=words if plain is str else _Number(plain, type(None) in get_args(kind)),
            metavar=_METAVARS.get(item.name, "|".join(choices) if choices else None),
            multiple=is_many,
            help=help,
        )(command)
    return command


CHECKPOINT = word_option(
    "--checkpoint", choices="last|best|PATH", default="best", help="which checkpoint of the run to use [best]"
)
CHECKPOINT_LAST = word_option(
    "--checkpoint", choices="last|best|PATH", default="last", help="which checkpoint of the run to use [last]"
)
UNKNOWN = word_option(
    "--unknown", choices="error|skip|replace:CHAR", default="error",
    help="characters missing from RUN's vocabulary: stop with an error, skip them, or read them as CHAR [error]",
)  # fmt: skip
MIX = word_option(
    "--mix", choices="WEIGHT|learned|0", default=None,
    help="weight of the n-gram beside the net, from 0 (the net alone) to 1; learned: weights that follow what is read "
    "[what did better on held-out text, else 0.5]",
)  # fmt: skip
BACKEND = word_option("--backend", choices="auto|numpy|numba|cupy", default="auto", help="compute backend [auto]")


def newest(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """RUN, or the newest run, named in a line on stderr; unchanged while a shell completes a command line."""
    if not value and value != "" and not ctx.resilient_parsing:
        from charlstm.runs import begin

        run = str(begin.newest(ctx.info_name or ""))
        click.echo(f"run     {run}", err=True)
        return (run,) if param.nargs == -1 else run
    return value


RUN = click.argument("run", required=False, type=Place(), callback=newest)


def write(text: str) -> None:
    """Write to stdout and flush it."""
    sys.stdout.write(text)
    sys.stdout.flush()


def leave(number: int) -> None:
    """Exit at once, as after a second signal of this number."""
    raise click.exceptions.Exit(128 + number)
