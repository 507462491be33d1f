"""The command line: options -> Python API -> printing. It has no numerics and imports heavy modules only when needed.

Text that may be piped goes to stdout, everything else to stderr. A user error prints one line and exits with code 2.
"""

import os
import sys
from contextlib import suppress

import click

from charlstm.commands import machine, runs, text, train, travel, watch
from charlstm.commands.compare import compare
from charlstm.commands.layout import Commands
from charlstm.commands.sweep import sweep
from charlstm.errors import RunFailed, UserError
from charlstm.host import streams
from kernels import BackendUnavailable, DeviceFailed

COMPLETION = """For shell completion, add one of these lines to the start-up file of your shell:

\b
eval "$(_CHARLSTM_COMPLETE=bash_source charlstm)"  # bash
eval "$(_CHARLSTM_COMPLETE=zsh_source charlstm)"   # zsh
_CHARLSTM_COMPLETE=fish_source charlstm | source   # fish
"""


@click.group(
    cls=Commands, epilog=COMPLETION, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="charlstm", prog_name="charlstm")
def cli() -> None:
    """Train a character-level LSTM, GRU or RNN on a text, and generate text with it."""


for command in (
    train.train, watch.watch, text.sample, text.score, text.ngram, text.keywords, runs.plot, compare, sweep,
    runs.report, runs.novelty, runs.inspect_run, runs.verify, travel.export, travel.import_net,
    machine.gradcheck, machine.bench, machine.data_group, machine.info,
):  # fmt: skip
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    if arguments is None:
        streams.in_utf8()
    streams.prepare()
    code = _guarded(arguments)
    streams.finish()
    sys.exit(code)


def _guarded(arguments: list[str] | None) -> int:
    """Run a command; turn every way it can end into an exit code and at most one line of message."""
    try:
        return int(cli.main(args=arguments, prog_name="charlstm", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except UserError as error:
        return _fail(str(error), 2)
    except RunFailed as error:
        return _fail(str(error), 1)
    except BackendUnavailable as error:
        return _fail(str(error), 2)
    except DeviceFailed as error:
        return _fail(str(error), 1)
    except SystemExit:  # click exits after completion, and when the reader of a pipe has closed it
        if "_CHARLSTM_COMPLETE" in os.environ:
            raise
        streams.discard(sys.stdout)
        return 0
    except OSError as error:
        return _fail(f"{error.filename + ': ' if error.filename else ''}{error.strerror or error}", 1)
    except MemoryError as error:
        return _fail("not enough memory for a model or text of this size" + (f": {error}" if str(error) else ""), 1)
    except (KeyboardInterrupt, click.Abort):
        return 130


def _fail(message: str, code: int) -> int:
    line = " ".join(part.strip() for part in message.splitlines())  # spaces inside a quoted command stay
    with suppress(OSError):  # stderr is closed
        print(f"charlstm: {line.strip()}", file=sys.stderr, flush=True)
    return code
