"""`charlstm train`: start or resume a run, and show its progress."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from functools import partial
from time import perf_counter
from typing import Any

import click

from charlstm.commands.layout import Grouped, Place, Source, table, word_option
from charlstm.commands.options import config_options, leave, write
from charlstm.commands.ranks import ending_together
from charlstm.errors import UserError
from charlstm.settings.config import PRESETS, Config
from charlstm.show import hints
from charlstm.training.progress import ENDLESS
from charlstm.training.stopping import ENDS, Stopping

_NEWEST = "\0newest"
_STOPPING = "stopping after this iteration and saving; press Ctrl-C again to quit immediately"


class _Train(Grouped):
    """`--resume` takes a value only after "=", so that it never consumes a TEXT."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        args = [f"--resume={_NEWEST}" if a in ("-r", "--resume") and k < end else a for k, a in enumerate(args)]
        return super().parse_args(ctx, args)


@click.command(cls=_Train, short_help="Train a model on a text.")
@click.argument("text", nargs=-1, type=Source())
@config_options
@click.option("-o", "--out", metavar="DIR", type=Place(), help="run folder [runs/NAME, NAME-2, ...]")
@click.option(
    "-r",
    "--resume",
    metavar="[=RUN]",
    help="resume a run, by default the newest; budgets are totals that include earlier training",
)
@click.option(
    "--force-corpus",
    is_flag=True,
    help="with --resume: continue on a different TEXT; --unknown says how to treat its new characters",
)
@click.option(
    "--from",
    "from_run",
    metavar="RUN",
    type=Place(),
    help="start a new run from the best weights of RUN, with its sizes and vocabulary",
)
@click.option("--offline", is_flag=True, help="download nothing: take URLs and built-in texts from the cache")
@word_option(
    "--style", choices="own|original", default="own", help="original: print exactly what the original script prints"
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="train nothing and write no run: show what the text holds, the model, its memory, and how long training takes",
)
@click.option("-q", "--quiet", is_flag=True, help="print only errors")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per report to stdout")
@click.pass_context
def train(
    ctx: click.Context, text: tuple[str, ...], out: str | None, resume: str | None, from_run: str | None,
    force_corpus: bool, offline: bool, style: str, dry_run: bool, quiet: bool, as_json: bool, **_: Any,
) -> int:  # fmt: skip
    """Train a model on TEXT: files, folders, - for stdin, http(s) URLs, or built-in texts (`charlstm data list`).

    \b
    charlstm train book.txt                60 seconds of training, into runs/book
    charlstm train book.txt -s 600 -V 0.1  ten minutes, with the last tenth held out
    charlstm train -r -s 1200              resume the newest run, up to twenty minutes
    charlstm train poems/ -p quality       train on every text in a folder
    charlstm train -p list                 show the presets

    The default TEXT is python-docs, the documentation inside Python. Options override the preset; the value none unsets
    an option.
    """
    began = perf_counter()
    if ctx.params["preset"] == "list":
        _list_presets()
        return 0
    if style not in ("own", "original"):
        raise UserError(f"--style: expected own or original, got {style!r}")
    if style == "original" and (quiet or as_json):
        raise UserError(f"--style original: cannot be combined with {'--quiet' if quiet else '--json'}")
    names = {item.name for item in fields(Config)}
    given = {
        name: value
        for name, value in ctx.params.items()
        if name in names and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    if dry_run and (resume is not None or style == "original" or quiet or as_json):
        raise UserError("--dry-run: cannot be combined with --resume, --style original, --quiet or --json")
    if force_corpus and (resume is None or not text):
        raise UserError("--force-corpus: needs --resume and a TEXT")
    if resume is not None and out is not None:
        raise UserError("--out: cannot be combined with --resume, which keeps the folder of the run")
    if resume is not None and from_run is not None:
        raise UserError("--from: cannot be combined with --resume, which continues from the weights of the run")
    if from_run is not None and not text:
        raise UserError("--from: needs a TEXT to train on")
    from charlstm.show import display
    from charlstm.training.world import joined

    world = joined()
    with (
        ending_together(world),
        closing(display.choose(quiet or world.rank > 0, as_json and world.rank == 0)) as screen,
    ):
        screen.status("starting ...")
        from charlstm.runs.begin import prepared, start
        from charlstm.runs.begin import resume as resume_run
        from charlstm.show import originals
        from charlstm.text import downloads

        with world.together():
            if world.size > 1 and (dry_run or "-" in text):
                what = "--dry-run: shows the plan of" if dry_run else "TEXT -: is read by"
                raise UserError(f"{what} one process only, not of {world.size} ranks")
        fetch = partial(downloads.fetch, offline=offline, note=None if quiet else screen.note)
        if world.rank:
            return _help(world, text, given, from_run, resume, fetch, force_corpus)
        if resume is not None:
            screen.status("reading the run and its text ...")
            run = resume_run(
                None if resume == _NEWEST else resume, text, given, fetch, force_corpus=force_corpus, world=world
            )
        else:
            with world.together():
                text, config, model = _chosen(text, given, from_run, style, screen)
            screen.status("reading the text ...")
            if dry_run:
                return _show_plan(prepared(text, config, model=model, fetch=fetch), screen)
            run = start(text, config, out, model=model, fetch=fetch, world=world)
        if warning := world.bound():
            screen.note(warning)
        if style == "own":
            return _train(run, screen, began, show_sample=not quiet and not as_json)
        screen.close()
        return _train(run, display.Guarded(originals.style_of(run.config)(run.trainer)), began, show_sample=False)


def _help(
    world: Any, text: tuple[str, ...], given: dict[str, Any], from_run: str | None, resume: str | None, fetch: Any,
    force_corpus: bool,
) -> int:  # fmt: skip
    """Train as a rank other than the first, which shows and writes everything; return the exit code."""
    from charlstm.runs import begin
    from charlstm.show import display

    if resume is not None:
        helper = begin.help_to_resume(text, given, world, fetch, force_corpus=force_corpus)
    else:
        with world.together():
            text, config, model = _chosen(text, given, from_run, "own", display.Silent())
        helper = begin.help_to_start(text, config, world, model=model, fetch=fetch)
    world.bound()
    with _saved_by_signal(helper), Stopping(helper, ENDS, lambda number: None, leave) as stopping:
        for _progress in helper.train():
            pass
    return 0 if stopping.number is None else 128 + stopping.number


def _chosen(
    text: tuple[str, ...], given: dict[str, Any], from_run: str | None, style: str, screen: Any
) -> tuple[tuple[str, ...], Config, Any]:
    """The text, the options and the model that a new run starts from, None for initial weights."""
    from charlstm.model.model import load
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
        originals.style_of(config)  # raises before anything is written
    return text, config, model


def _show_plan(trainer: Any, screen: Any) -> int:
    """Show what a run would do, after measuring its speed for a second."""
    from charlstm.show import display

    config = trainer.config
    _describe(trainer, screen)
    screen.note(f"memory  {_in_bytes(trainer.nbytes)}: parameters, optimizer state, activations; the text is besides")
    screen.status("measuring the speed ...")
    with display.CompileNote(screen):
        rate = trainer.rate()
    trainer.budget.plan(0, 0.0, rate)
    total, per_pass = trainer.iterations, trainer.batches.iterations_per_pass
    speed = f"{rate * config.iteration_chars:,.0f} {trainer.corpus.vocabulary.kind}"
    screen.note(f"speed   {1e3 / rate:.3g} ms per iteration, {speed} per second")
    until = "" if config.until_loss is None else f"until a loss of {config.until_loss:g}"
    limit = f"{total:,} iterations in about {_in_time(total / rate)}, {total / per_pass:.3g} passes over the text"
    planned = (until, limit if total < ENDLESS else "")
    screen.note(f"budget  {', at most '.join(filter(None, planned))}; a pass is {per_pass:,} iterations")
    screen.note("nothing was trained, and no run was written")
    return 0


def _in_bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _in_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} seconds"
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:,.3g} hours"


def _list_presets() -> None:
    """Print a table of the presets: the script each replaces, sizes, optimizer and budget."""
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
    """Train and show the progress; return the exit code. `began` is the time when the command started."""
    from charlstm.show import display
    from charlstm.training.live import LiveSamples

    trainer, start_at = run.trainer, run.trainer.iteration
    trained_before = trainer.seconds
    _describe(trainer, screen)
    screen.note(f"folder  {run.folder}" + (f", resuming after {start_at:,} iterations" if start_at else ""))
    run.write_baseline()
    _tell_notes(run, screen)
    if screen.wants_samples:
        screen.begin(run.facts)
    live = LiveSamples(trainer)
    screen.status("preparing ...")
    with display.CompileNote(screen):
        stopping = Stopping(run, ENDS, lambda number: screen.note(_STOPPING), leave)
        with _saved_by_signal(run), stopping, closing(screen):
            for progress in run.train():
                screen.show(progress)
                if screen.wants_samples and (drawn := live.after(progress)) is not None:
                    screen.show(drawn)
                _tell_notes(run, screen)
                if progress.kind == "tick" and run.reached is not None:
                    screen.status("saving ...")
                run.stop = run.stop or screen.gone  # the reader of a pipe has gone: save and stop
            _tell_notes(run, screen)
        if trainer.iteration > start_at:
            clock, training = perf_counter() - began, trainer.seconds - trained_before
            screen.note(
                f"time    {clock:.1f} s in total: {training:.1f} s of training, {clock - training:.1f} s of startup, "
                "evaluation, sampling and saving"
            )
        if stopping.number is not None:
            screen.note(f"stopped after {trainer.iteration:,} iterations; the run is saved")
            _note_best(run, screen)
            screen.note(f"resume  {hints.going_on(run.folder)}")
            return 128 + stopping.number
        return 0 if run.stop else _finish(run, screen, start_at, show_sample)


def _describe(trainer: Any, screen: Any) -> None:
    """Show the text, the model and the baseline on held-out text."""
    import kernels
    from charlstm.show import display

    config = trainer.config
    threads = "1 thread" if trainer.threads == 1 else f"up to {trainer.threads} threads"
    if trainer.world.size > 1:
        threads = f"{trainer.world.size} ranks of {threads}"
    screen.note(display.text_line(trainer.corpus))
    screen.note(
        f"model   {config.net_in_words} hidden units, {trainer.num_parameters:,} parameters "
        f"({trainer.backend}, {config.dtype}, {threads}); preset {config.preset}"
    )
    if trainer.why_backend:
        screen.note(f"        backend {trainer.backend}: {trainer.why_backend}")
    if trainer.backend == "numpy" and (reason := kernels.missing("numba")) is not None:
        screen.note(f"        warning: training will be slow: {reason}")
    if config.validation:
        screen.status("measuring the n-gram baseline ...")
        _note_baseline(trainer, screen)


@contextmanager
def _saved_by_signal(run: Any) -> Iterator[None]:
    """Save at each SIGUSR1 while training continues, on systems that have this signal."""
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
    """Show the notes of the run, each once."""
    while run.notes:
        screen.note(run.notes.pop(0))


def _note_baseline(trainer: Any, screen: Any) -> None:
    """Show how well a Markov model predicts the held-out text."""
    vocabulary, bits = trainer.corpus.vocabulary, trainer.baseline_bits
    if bits is None:
        return
    screen.note(
        f"baseline: order-5 Markov model, {bits:.3f} bits/{vocabulary.short_unit} on {len(trainer.held_out):,} "
        f"held-out {vocabulary.kind}"
    )


def _finish(run: Any, screen: Any, start_at: int, show_sample: bool) -> int:
    """Show why training ended and how to continue, and print a sample."""
    from charlstm.figures import in_words

    config, trainer = run.config, run.trainer
    if trainer.iteration == start_at:
        screen.note(f"nothing to do: the budget ({run.reached}) is used up")
    else:
        bits = in_words(run.last.bits_per_unit, 3)
        screen.note(
            f"done    {run.reached} reached: {trainer.iteration:,} iterations, {trainer.seconds:.1f} s of training, "
            f"{bits} bits per {trainer.corpus.vocabulary.unit}"
        )
    _note_best(run, screen)
    screen.note(f"run     {run.folder}")
    for word, name in (("plot", "loss.png"), ("report", "report.html")):
        if (path := run.folder / name).is_file():
            screen.note(f"{word:8}{path}")
    screen.note(f"resume  {hints.going_on(run.folder, trainer.more())}")
    screen.note(f"sample  {hints.sampling(run.folder)}")
    if show_sample and trainer.iteration > start_at:
        text = run.load("last").sample(length=500, temperature=config.temperature, seed=config.seed)
        screen.status("")
        screen.note("")
        write(text + "\n")
    return 0


def _note_best(run: Any, screen: Any) -> None:
    """Show the best figure on the held-out text beside that of the baseline."""
    from charlstm.figures import in_words

    best, baseline = run.trainer.marks.best_validation, run.baseline_bits
    if best is None or baseline is None:
        return
    unit = run.trainer.corpus.vocabulary.short_unit
    side = "below" if best < baseline else "above"
    screen.note(
        f"best    {in_words(best, 3)} bits/{unit} on held-out text, after {run.model.iteration:,} iterations: "
        f"{in_words(abs(best - baseline), 3)} {side} the n-gram baseline of {in_words(baseline, 3)}"
    )
