"""The command line: options -> Python API -> printing. No numerics, and nothing heavy is imported before it is needed.

Text that may be piped goes to stdout, everything else to stderr. A person's mistake is one line and exit code 2.
"""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import click

from charlstm.config import PRESETS, Config
from charlstm.errors import RunFailed, UserError

_NEWEST = "\0newest"


class _Number(click.ParamType):
    """A number, or `none` where the option can be unset."""

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


def _config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each field of Config."""
    kinds = get_type_hints(Config)
    for item in reversed(fields(Config)):
        kind, help = kinds[item.name], item.metadata["help"]
        plain = next(k for k in (get_args(kind) or (kind,)) if k is not type(None))
        choices = tuple(PRESETS) if item.name == "preset" else item.metadata["choices"]
        if item.default is not None:
            help = f"{help} [{item.default}]"
        command = click.option(
            "--" + item.name.replace("_", "-"),
            type=str if plain is str else _Number(plain, type(None) in get_args(kind)),
            metavar="|".join(choices) if choices else None,
            help=help,
        )(command)
    return command


class _Train(click.Command):
    """`--resume` takes a value after "=" alone, so that it never eats a TEXT."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        args = [f"--resume={_NEWEST}" if a == "--resume" and k < end else a for k, a in enumerate(args)]
        return super().parse_args(ctx, args)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="charlstm", prog_name="charlstm")
def cli() -> None:
    """Train a character LSTM on a text, and let it write."""


@cli.command(cls=_Train)
@click.argument("text", nargs=-1)
@_config_options
@click.option("--out", metavar="DIR", help="folder of the run [runs/NAME, NAME-2, ...]")
@click.option(
    "--resume", metavar="[=RUN]", help="go on with a run, by default the newest; budgets are totals over all of it"
)
@click.option("--quiet", is_flag=True, help="print nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a report on stdout")
@click.pass_context
def train(
    ctx: click.Context, text: tuple[str, ...], out: str | None, resume: str | None, quiet: bool, as_json: bool, **_: Any
) -> int:
    """Train on TEXT: files, folders of .txt, - for stdin, or python-docs (the default: the text inside Python).

    An option set to none is unset. Options given win over the preset's.
    """
    names = {item.name for item in fields(Config)}
    given = {
        name: value
        for name, value in ctx.params.items()
        if name in names and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    from charlstm import display
    from charlstm.config import from_preset
    from charlstm.run import resume as resume_run
    from charlstm.run import start

    screen = display.choose(quiet, as_json)
    if resume is not None:
        if out is not None:
            raise UserError("--out: a run that is resumed stays in its folder")
        run = resume_run(None if resume == _NEWEST else resume, text, given)
    else:
        config = from_preset(given.pop("preset", "fast"), **given)
        if not text and config.preset.startswith("min-char-") and os.path.isfile("input.txt"):
            text = ("input.txt",)
            screen.note("no TEXT given: training on input.txt, as the original script does")
        run = start(text, config, out)
    return _train(run, screen, show_sample=not quiet and not as_json)


def _train(run: Any, screen: Any, show_sample: bool) -> int:
    """Train, showing it; return the exit code."""
    trainer, config, start_at = run.trainer, run.config, run.trainer.iteration
    corpus = trainer.corpus
    threads = "1 thread" if trainer.threads == 1 else f"up to {trainer.threads} threads"
    screen.note(f"text    {corpus.name}: {len(corpus.ids):,} characters, {len(corpus.vocabulary)} distinct")
    screen.note(
        f"model   LSTM, {config.num_layers} x {config.hidden_size} hidden units, {len(trainer.theta):,} parameters "
        f"({trainer.backend}, {config.dtype}, {threads}); preset {config.preset}"
    )
    screen.note(f"folder  {run.folder}" + (f", going on after {start_at:,} iterations" if start_at else ""))
    with _CompileNote(screen), _Signals(run, screen) as signals:
        try:
            for progress in run.train():
                screen.show(progress)
                run.stop = run.stop or screen.gone  # whoever read the output has gone: save, and end like them
        finally:
            screen.close()
    if run.stop:
        return signals.exit_code
    return _finish(run, screen, start_at, show_sample)


def _finish(run: Any, screen: Any, start_at: int, show_sample: bool) -> int:
    """Say why training ended and how to go on, and let the model write."""
    config, trainer = run.config, run.trainer
    name = shlex.quote(str(run.folder))
    more = (
        f"--seconds {2 * max(config.seconds, trainer.seconds):.0f}"
        if config.seconds
        else f"--iterations {max(2 * trainer.iteration, 1)}"
    )
    if trainer.iteration == start_at:
        screen.note(f"nothing to do: this run has had {trainer.budget} ({trainer.iteration:,} iterations)")
    else:
        screen.note(
            f"done    {trainer.budget} reached: {trainer.iteration:,} iterations in {trainer.seconds:.1f} s, "
            f"{run.last.bits_per_char:.3f} bits per character"
        )
    screen.note(f"go on   charlstm train --resume={name} {more}")
    screen.note(f"write   charlstm sample {name}")
    if show_sample and trainer.iteration > start_at:
        text = run.load("last").sample(length=500, temperature=config.temperature, seed=config.seed)
        screen.note("")
        _write(text + "\n")
    return 0


class _CompileNote:
    """Says once that kernels are being compiled, when they are."""

    def __init__(self, screen: Any) -> None:
        self.screen, self.said = screen, False

    def __call__(self, kernel: str) -> None:
        if not self.said:
            self.screen.note("        compiling kernels, once for this version and processor, about 20 s ...")
            self.said = True

    def __enter__(self) -> None:
        import kernels

        kernels.compile_listeners.append(self)

    def __exit__(self, *_: Any) -> None:
        import kernels

        kernels.compile_listeners.remove(self)


class _Signals:
    """The first Ctrl-C or SIGTERM ends training after its iteration, saving; a second Ctrl-C leaves at once."""

    def __init__(self, run: Any, screen: Any) -> None:
        self.run, self.screen, self.exit_code = run, screen, 0

    def __enter__(self) -> "_Signals":
        import signal

        self._old = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, error: Any, *_: Any) -> None:
        import signal

        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self.exit_code and error is None:
            self.screen.note(f"stopped after {self.run.trainer.iteration:,} iterations, saved")
            self.screen.note(f"go on   charlstm train --resume={shlex.quote(str(self.run.folder))}")

    def _stop(self, number: int, frame: Any) -> None:
        if self.exit_code:
            raise click.exceptions.Exit(128 + number)
        self.exit_code, self.run.stop = 128 + number, True
        self.screen.note("stopping after this iteration and saving; Ctrl-C again leaves at once")


@cli.command()
@click.argument("run")
@click.option("--length", type=int, default=500, show_default=True, help="characters to write")
@click.option("--prime", default="", metavar="TEXT", help="what the model reads, and prints, first")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="1 as it believes, lower is safer")
@click.option("--argmax", is_flag=True, help="always the likeliest character: temperature 0")
@click.option("--seed", type=int, help="of the draws [another text each time]")
@click.option("--unknown", metavar="error|skip", default="error", help="characters of TEXT it never saw [error]")
@click.option("--checkpoint", metavar="last|best|PATH", default="best", help="which of the run's [best]")
@click.option("--backend", metavar="auto|numpy|numba|cupy", default="auto", help="who does the arithmetic [auto]")
def sample(
    run: str, length: int, prime: str, temperature: float, argmax: bool, seed: int | None, unknown: str,
    checkpoint: str, backend: str,
) -> int:  # fmt: skip
    """Write text from the model of RUN, a run folder or a checkpoint file, to stdout."""
    Config(seed=seed or 0)  # its limits
    from charlstm import checkpoint as checkpoints

    model = checkpoints.load(run, checkpoint)
    pieces = model.stream(
        prime,
        length=length,
        temperature=0.0 if argmax else temperature,
        seed=seed,
        unknown=unknown,
        backend=backend,
    )
    for piece in pieces:
        _write(piece)
    if sys.stdout.isatty():
        _write("\n")
    return 0


@cli.command()
@click.option("--backend", metavar="all|numpy|numba|cupy", default="all", help="which to check [all that are present]")
def gradcheck(backend: str) -> int:
    """Check every gradient of every backend against central differences; exit with 1 where one is wrong."""
    import kernels
    from charlstm.sampler import choose_backend
    from kernels.testing import GRADIENT_TOLERANCE, gradient_errors

    names = kernels.available() if backend == "all" else (choose_backend(backend),)
    worst = 0.0
    for name in names:
        click.echo(f"{'backend':8} {'op':20} {'tensor':12} {'error':>9}")
        for check in gradient_errors(kernels.load(name)):
            verdict = "" if check.error < GRADIENT_TOLERANCE else "   WRONG"
            click.echo(f"{name:8} {check.op:20} {check.tensor:12} {check.error:9.1e}{verdict}")
            worst = max(worst, check.error) if check.error == check.error else float("inf")
    passed = worst < GRADIENT_TOLERANCE
    verdict = "all right" if passed else "WRONG"
    click.echo(f"worst relative error {worst:.1e} in float64 (limit {GRADIENT_TOLERANCE:g}): {verdict}")
    return 0 if passed else 1


@cli.command()
@click.option("--threads", type=click.IntRange(1, 256), help="the most to work with [all cores]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
def bench(threads: int | None, as_json: bool) -> int:
    """Measure training and sampling here, beside the machine's own limit; at most two minutes.

    The floor is the least time that the products, the reading of weights and the exponentials of a work can take on
    this machine, whose limits are measured first. Exits with 1, and tells no speed, where a gradient is wrong.
    """
    import json
    from dataclasses import asdict

    from charlstm import bench, limits, machine

    click.echo("checking the gradients and measuring the machine's limits ...", err=True)
    worst = bench.check_gradients("numba")
    found = limits.measure()
    team = threads or machine.usable_cores()
    where = {"processor": machine.processor(), "cores": machine.usable_cores(), "load": bench.load_average()}
    if not as_json:
        click.echo(f"{where['processor']}, {where['cores']} cores usable, load {where['load']}; one core at best:")
        click.echo(found.in_words())
        click.echo(f"\n{'work':16} {'threads':>7} {'iteration':>10} {'chars/s':>11} {'floor':>10} {'of floor':>8}")
    rows = []
    for row in bench.short(found, team):
        rows.append({**asdict(row), "of_floor": row.of_floor})
        if not as_json:
            click.echo(
                f"{row.work:16} {row.threads:7} {bench.in_words(row.seconds):>10} {row.chars_per_second:11,.0f} "
                f"{bench.in_words(row.floor):>10} {row.of_floor:8.0%}"
            )
    if as_json:
        everything = {"machine": where, "versions": machine.versions(), "limits": found.as_dict()}
        click.echo(json.dumps({**everything, "worst_gradient_error": worst, "works": rows}))
    return 0


@cli.command()
@click.option("--clear-cache", is_flag=True, help="remove every compiled kernel")
def info(clear_cache: bool) -> int:
    """Show backends, cores, versions, the cache of compiled kernels, and what is missing."""
    import kernels
    from charlstm.machine import processor, usable_cores, versions

    if clear_cache:
        files, size = kernels.clear_kernel_cache()
        click.echo(f"removed {files} compiled kernels, {size / 2**20:.1f} MiB")
        return 0
    for package, number in versions().items():
        click.echo(f"{package:12} {number}")
    click.echo(f"{'processor':12} {processor()}, {usable_cores()} cores usable")
    for name in kernels.BACKENDS:
        click.echo(f"{'backend':12} {name}: {kernels.missing(name) or 'present'}")
    folder = kernels.kernel_cache_dir() if "numba" in kernels.available() else None
    size = sum(path.stat().st_size for path in folder.iterdir()) if folder else 0
    where = f"{folder} ({size / 2**20:.1f} MiB)" if folder else "none: no folder can be written, kernels compile anew"
    click.echo(f"{'kernel cache':12} {where}")
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_guarded(arguments))


def _guarded(arguments: list[str] | None) -> int:
    """Run a command and turn whatever ends it into an exit code, and at most one line."""
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
    except SystemExit:  # click ends by itself for completion, and for a closed pipe, whose reader has what it wanted
        if "_CHARLSTM_COMPLETE" in os.environ:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename + ': ' if error.filename else ''}{error.strerror or error}", 1)
    except MemoryError:
        return _fail("not enough memory for a model or text of this size", 1)
    except (KeyboardInterrupt, click.Abort):
        return 130


def _fail(message: str, code: int) -> int:
    print(f"charlstm: {' '.join(message.split())}", file=sys.stderr)
    return code
