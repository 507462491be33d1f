"""`charlstm train`: begin a run, or go on with one, and show it."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from functools import partial
from time import perf_counter
from typing import Any

import click

from charlstm.commands.layout import Grouped, Place, Source, table, word_option
from charlstm.commands.options import config_options, write
from charlstm.errors import UserError
from charlstm.settings.config import PRESETS, Config
from charlstm.show import hints
from charlstm.training.stopping import ENDS, Stopping

_NEWEST = "\0newest"
_STOPPING = "stopping after this iteration and saving; Ctrl-C again leaves at once"


class _Train(Grouped):
    """`--resume` takes a value after "=" alone, so that it never eats a TEXT."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        args = [f"--resume={_NEWEST}" if a in ("-r", "--resume") and k < end else a for k, a in enumerate(args)]
        return super().parse_args(ctx, args)


@click.command(cls=_Train, short_help="Train a model on a text.")
@click.argument("text", nargs=-1, type=Source())
@config_options
@click.option("-o", "--out", metavar="DIR", type=Place(), help="folder of the run [runs/NAME, NAME-2, ...]")
@click.option(
    "-r",
    "--resume",
    metavar="[=RUN]",
    help="go on with a run, by default the newest; budgets are totals over all of it",
)
@click.option(
    "--force-corpus",
    is_flag=True,
    help="with --resume: go on with another text, TEXT; --unknown says what becomes of characters that it adds",
)
@click.option(
    "--from",
    "from_run",
    metavar="RUN",
    type=Place(),
    help="begin with the best weights of a run, and keep its sizes and vocabulary",
)
@click.option("--offline", is_flag=True, help="download nothing: URLs and built-in texts come from the cache")
@word_option("--style", choices="own|original", default="own", help="original: print what the replaced script prints")
@click.option("-q", "--quiet", is_flag=True, help="print nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a report on stdout")
@click.pass_context
def train(
    ctx: click.Context, text: tuple[str, ...], out: str | None, resume: str | None, from_run: str | None,
    force_corpus: bool, offline: bool, style: str, quiet: bool, as_json: bool, **_: Any,
) -> int:  # fmt: skip
    """Train a model on TEXT: files, folders, - for stdin, http(s) URLs, or built-in texts (`charlstm data list`).

    \b
    charlstm train book.txt                60 seconds of training, into runs/book
    charlstm train book.txt -s 600 -V 0.1  ten minutes, measured on the last tenth
    charlstm train -r -s 1200              go on with the newest run, to twenty
    charlstm train poems/ -p quality       every text of a folder
    charlstm train -p list                 the presets

    Without TEXT it is python-docs, the text inside Python. An option set to none is unset. Options given win over the
    preset's.
    """
    began = perf_counter()
    if ctx.params["preset"] == "list":
        _list_presets()
        return 0
    if style not in ("own", "original"):
        raise UserError(f"--style: expected own or original, got {style!r}")
    if style == "original" and (quiet or as_json):
        raise UserError(
            f"--style original: prints what the script does; {'--quiet' if quiet else '--json'} prints less"
        )
    names = {item.name for item in fields(Config)}
    given = {
        name: value
        for name, value in ctx.params.items()
        if name in names and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    if force_corpus and (resume is None or not text):
        raise UserError("--force-corpus: goes with --resume and a TEXT")
    if resume is not None and out is not None:
        raise UserError("--out: a run that is resumed stays in its folder")
    if resume is not None and from_run is not None:
        raise UserError("--from: a run that is resumed has its weights")
    if from_run is not None and not text:
        raise UserError("--from: give the TEXT to go on with")
    from charlstm.show import display

    with closing(display.choose(quiet, as_json)) as screen:
        screen.status("starting ...")
        from charlstm.show import originals
        from charlstm.text import downloads

        fetch = partial(downloads.fetch, offline=offline, note=None if quiet else screen.note)
        if resume is not None:
            from charlstm.runs.begin import resume as resume_run

            screen.status("reading the run and its text ...")
            run = resume_run(None if resume == _NEWEST else resume, text, given, fetch, force_corpus=force_corpus)
        else:
            run = _begin(text, given, out, from_run, style, fetch, screen)
        if style == "own":
            return _train(run, screen, began, show_sample=not quiet and not as_json)
        screen.close()
        return _train(run, display.Guarded(originals.style_of(run.config)(run.trainer)), began, show_sample=False)


def _begin(
    text: tuple[str, ...], given: dict[str, Any], out: str | None, from_run: str | None, style: str, fetch: Any,
    screen: Any,
) -> Any:  # fmt: skip
    """A new run, of a new model or of that of another run."""
    from charlstm.model.model import load
    from charlstm.runs.begin import start
    from charlstm.settings.config import from_model, from_preset
    from charlstm.show import originals

    preset, model = given.pop("preset", "fast"), None
    if from_run is not None:
        model = load(from_run)
        screen.note(f"from    {from_run}: the model after {model.iteration:,} iterations on {model.corpus['name']}")
    config = from_preset(preset, **given) if model is None else from_model(model.config, preset, **given)
    if not text and "min-char-" in config.preset and os.path.isfile("input.txt"):
        text = ("input.txt",)
        screen.note("no TEXT given: training on input.txt, as the original script does")
    if style == "original":
        originals.style_of(config)  # before anything is written
    screen.status("reading the text ...")
    return start(text, config, out, model=model, fetch=fetch)


def _list_presets() -> None:
    """Show every preset: what it replaces, its sizes, how it learns, and how long."""
    from charlstm.settings.config import BUDGETS, from_preset
    from charlstm.settings.presets import REPLACES

    rows = [("preset", "replaces", "model", "reads", "learns by", "budget")]
    for name in PRESETS:
        config = from_preset(name)
        model = f"{config.num_layers} x {config.hidden_size}"
        reads = f"{config.batch_size} x {config.windows or config.seq_length}"
        learns = f"{config.optimizer} {config.learning_rate:g}, {config.schedule}"
        budget = ", ".join(f"{value:,.15g} {what}" for what in BUDGETS if (value := getattr(config, what)) is not None)
        rows.append((name, REPLACES[name], model, reads, learns, budget))
    click.echo(table(rows))


def _train(run: Any, screen: Any, began: float, show_sample: bool) -> int:
    """Train, showing it; return the exit code. `began` is when the command did."""
    import kernels
    from charlstm.show import display

    trainer, config, start_at = run.trainer, run.config, run.trainer.iteration
    trained_before = trainer.seconds
    corpus = trainer.corpus
    threads = "1 thread" if trainer.threads == 1 else f"up to {trainer.threads} threads"
    screen.note(display.text_line(corpus))
    screen.note(
        f"model   {config.cell.upper()}, {config.num_layers} x {config.hidden_size} hidden units, "
        f"{len(trainer.theta):,} parameters ({trainer.backend}, {config.dtype}, {threads}); preset {config.preset}"
    )
    if config.backend == "auto" and (reason := kernels.missing("numba")) is not None:
        screen.note(f"        slow: {reason}")
    if config.validation and not start_at:
        _note_line_to_beat(trainer, screen)
    screen.note(f"folder  {run.folder}" + (f", going on after {start_at:,} iterations" if start_at else ""))
    _tell_notes(run, screen)
    screen.status("preparing ...")
    with display.CompileNote(screen):
        stopping = Stopping(run, ENDS, lambda number: screen.note(_STOPPING), _leave)
        with _saved_by_signal(run), stopping, closing(screen):
            for progress in run.train():
                screen.show(progress)
                _tell_notes(run, screen)
                run.stop = run.stop or screen.gone  # whoever read the output has gone: save, and end like them
            _tell_notes(run, screen)
        if trainer.iteration > start_at:
            clock, training = perf_counter() - began, trainer.seconds - trained_before
            screen.note(
                f"took    {clock:.1f} s by the clock: {training:.1f} s of training, {clock - training:.1f} s of "
                "starting, measuring, sampling and saving"
            )
        if stopping.number is not None:
            screen.note(f"stopped after {trainer.iteration:,} iterations, saved")
            screen.note(f"go on   {hints.going_on(run.folder)}")
            return 128 + stopping.number
        return 0 if run.stop else _finish(run, screen, start_at, show_sample)


def _leave(number: int) -> None:
    raise click.exceptions.Exit(128 + number)


@contextmanager
def _saved_by_signal(run: Any) -> Iterator[None]:
    """While training: SIGUSR1, where a system has it, saves, and training goes on."""
    import signal

    def save(number: int, frame: Any) -> None:
        run.save = True

    old = signal.signal(signal.SIGUSR1, save) if hasattr(signal, "SIGUSR1") else None
    try:
        yield
    finally:
        if old is not None:
            signal.signal(signal.SIGUSR1, old)


def _tell_notes(run: Any, screen: Any) -> None:
    """Show what the run has to say, once."""
    while run.notes:
        screen.note(run.notes.pop(0))


def _note_line_to_beat(trainer: Any, screen: Any) -> None:
    """Say how well a Markov model predicts the text that is kept back."""
    from charlstm.ngram import line_to_beat

    bits = line_to_beat(trainer.ids, trainer.kept_back, len(trainer.corpus.vocabulary))
    screen.note(
        f"to beat {bits:.3f} bits per {trainer.corpus.vocabulary.unit} on the {len(trainer.kept_back):,} kept back: "
        "a Markov model of order 5"
    )


def _finish(run: Any, screen: Any, start_at: int, show_sample: bool) -> int:
    """Say why training ended and how to go on, and let the model write."""
    from charlstm.figures import in_words

    config, trainer = run.config, run.trainer
    if trainer.iteration == start_at:
        screen.note(f"nothing to do: this run has had {run.reached}")
    else:
        best = trainer.marks.best_validation
        kept_back = "" if best is None else f", {in_words(best, 3)} on the text that was kept back, at best"
        screen.note(
            f"done    {run.reached} reached: {trainer.iteration:,} iterations, {trainer.seconds:.1f} s of training, "
            f"{in_words(run.last.bits_per_unit, 3)} bits per {trainer.corpus.vocabulary.unit}{kept_back}"
        )
    screen.note(f"go on   {hints.going_on(run.folder, trainer.more())}")
    screen.note(f"write   {hints.sampling(run.folder)}")
    if show_sample and trainer.iteration > start_at:
        text = run.load("last").sample(length=500, temperature=config.temperature, seed=config.seed)
        screen.note("")
        write(text + "\n")
    return 0
