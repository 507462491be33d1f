"""The command line: options -> Python API -> printing. No numerics, and nothing heavy is imported before it is needed.

Text that may be piped goes to stdout, everything else to stderr. A person's mistake is one line and exit code 2.
"""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
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


def _config_options(command: Callable[..., Any], only: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Give a command one option for each field of Config, or for some of them."""
    kinds = get_type_hints(Config)
    for item in reversed([item for item in fields(Config) if not only or item.name in only]):
        kind, help = kinds[item.name], item.metadata["help"]
        plain = next(k for k in (get_args(kind) or (kind,)) if k is not type(None))
        choices = tuple(PRESETS) if item.name == "preset" else item.metadata["choices"]
        name = item.name.replace("_", "-")
        if plain is bool:
            command = click.option(f"--{name}/--no-{name}", default=item.default, help=help)(command)
            continue
        if item.default is not None:
            help = f"{help} [{item.default}]"
        command = click.option(
            f"--{name}",
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
    """Train a character LSTM (or GRU, or RNN) on a text, and let it write."""


@cli.command(cls=_Train)
@click.argument("text", nargs=-1)
@_config_options
@click.option("--out", metavar="DIR", help="folder of the run [runs/NAME, NAME-2, ...]")
@click.option(
    "--resume", metavar="[=RUN]", help="go on with a run, by default the newest; budgets are totals over all of it"
)
@click.option(
    "--force-corpus",
    is_flag=True,
    help="with --resume: go on with another text, TEXT; --unknown says what becomes of characters that it adds",
)
@click.option(
    "--from", "from_run", metavar="RUN", help="begin with the best weights of a run, and keep its sizes and vocabulary"
)
@click.option("--offline", is_flag=True, help="download nothing: URLs and built-in texts come from the cache")
@click.option("--style", metavar="own|original", default="own", help="original: print what the replaced script prints")
@click.option("--quiet", is_flag=True, help="print nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a report on stdout")
@click.pass_context
def train(
    ctx: click.Context, text: tuple[str, ...], out: str | None, resume: str | None, from_run: str | None,
    force_corpus: bool, offline: bool, style: str, quiet: bool, as_json: bool, **_: Any,
) -> int:  # fmt: skip
    """Train on TEXT: files, folders of .txt, - for stdin, http(s) URLs, or built-in texts (`charlstm data list`).

    Without TEXT it is python-docs, the text inside Python. An option set to none is unset. Options given win over the
    preset's; --preset list shows them all.
    """
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
    from charlstm import checkpoint, data, display, originals
    from charlstm.config import from_model, from_preset
    from charlstm.run import resume as resume_run
    from charlstm.run import start

    if force_corpus and (resume is None or not text):
        raise UserError("--force-corpus: goes with --resume and a TEXT")
    screen = display.choose(quiet, as_json)
    fetch = partial(data.fetch, offline=offline, note=None if quiet else screen.note)
    if resume is not None:
        if out is not None:
            raise UserError("--out: a run that is resumed stays in its folder")
        if from_run is not None:
            raise UserError("--from: a run that is resumed has its weights")
        run = resume_run(None if resume == _NEWEST else resume, text, given, fetch, force_corpus=force_corpus)
    elif from_run is not None:
        if not text:
            raise UserError("--from: give the TEXT to go on with")
        model = checkpoint.load(from_run)
        screen.note(f"from    {from_run}: the model after {model.iteration:,} iterations on {model.corpus['name']}")
        config = from_model(model.config, given.pop("preset", "fast"), **given)
        run = start(text, config, out, model=model, fetch=fetch)
    else:
        config = from_preset(given.pop("preset", "fast"), **given)
        if not text and "min-char-" in config.preset and os.path.isfile("input.txt"):
            text = ("input.txt",)
            screen.note("no TEXT given: training on input.txt, as the original script does")
        if style == "original":
            originals.style_of(config)  # before anything is written
        run = start(text, config, out, fetch=fetch)
    if style == "original":
        screen = display.Guarded(originals.style_of(run.config)(run.trainer))
    return _train(run, screen, show_sample=not quiet and not as_json and style == "own")


def _list_presets() -> None:
    """Show every preset: what it replaces, its sizes, how it learns, and how long."""
    from charlstm.config import BUDGETS, from_preset
    from charlstm.presets import REPLACES

    click.echo(f"{'preset':22} {'replaces':24} {'model':14} {'reads':12} {'learns by':28} budget")
    for name in PRESETS:
        config = from_preset(name)
        model = f"{config.num_layers} x {config.hidden_size}"
        reads = f"{config.batch_size} x {config.windows or config.seq_length}"
        learns = f"{config.optimizer} {config.learning_rate:g}, {config.schedule}"
        budget = ", ".join(f"{value:,.15g} {what}" for what in BUDGETS if (value := getattr(config, what)) is not None)
        click.echo(f"{name:22} {REPLACES[name]:24} {model:14} {reads:12} {learns:28} {budget}")


def _train(run: Any, screen: Any, show_sample: bool) -> int:
    """Train, showing it; return the exit code."""
    trainer, config, start_at = run.trainer, run.config, run.trainer.iteration
    corpus = trainer.corpus
    threads = "1 thread" if trainer.threads == 1 else f"up to {trainer.threads} threads"
    screen.note(_text_line(corpus))
    screen.note(
        f"model   {config.cell.upper()}, {config.num_layers} x {config.hidden_size} hidden units, "
        f"{len(trainer.theta):,} parameters ({trainer.backend}, {config.dtype}, {threads}); preset {config.preset}"
    )
    if config.validation and not start_at:
        _note_line_to_beat(trainer, screen)
    screen.note(f"folder  {run.folder}" + (f", going on after {start_at:,} iterations" if start_at else ""))
    _tell_notes(run, screen)
    with _CompileNote(screen), _Signals(run, screen) as signals:
        try:
            for progress in run.train():
                screen.show(progress)
                _tell_notes(run, screen)
                run.stop = run.stop or screen.gone  # whoever read the output has gone: save, and end like them
        finally:
            screen.close()
    if run.stop:
        return signals.exit_code
    return _finish(run, screen, start_at, show_sample)


def _tell_notes(run: Any, screen: Any) -> None:
    """Show what the run has to say, once."""
    while run.notes:
        screen.note(run.notes.pop(0))


def _text_line(corpus: Any) -> str:
    """The line that tells which text it is."""
    own = not corpus.is_frozen and corpus.vocabulary.kind == "characters"
    kinds = f"{len(corpus.vocabulary)} distinct" if own else f"a vocabulary of {len(corpus.vocabulary)}"
    return f"text    {corpus.name}: {len(corpus.ids):,} {corpus.vocabulary.kind}, {kinds}"


def _note_line_to_beat(trainer: Any, screen: Any) -> None:
    """Say how well a Markov model predicts the text that is kept back."""
    from charlstm.ngram import line_to_beat

    bits = line_to_beat(trainer.ids, trainer.kept_back, len(trainer.corpus.vocabulary))
    screen.note(
        f"to beat {bits:.3f} bits per character on the {len(trainer.kept_back):,} kept back: a Markov model of order 5"
    )


def _finish(run: Any, screen: Any, start_at: int, show_sample: bool) -> int:
    """Say why training ended and how to go on, and let the model write."""
    config, trainer = run.config, run.trainer
    name = shlex.quote(str(run.folder))
    more = (
        f"--seconds {2 * max(config.seconds, trainer.seconds):.0f}"
        if config.seconds
        else f"--iterations {max(2 * trainer.iteration, 1)}"
    ) + (" --patience none" if trainer.is_out_of_patience else "")
    if trainer.iteration == start_at:
        screen.note(f"nothing to do: this run has had {trainer.budget} ({trainer.iteration:,} iterations)")
    else:
        best = trainer.marks.get("best_validation")
        kept_back = "" if best is None else f", {best:.3f} on the text that was kept back, at best"
        screen.note(
            f"done    {trainer.budget} reached: {trainer.iteration:,} iterations in {trainer.seconds:.1f} s, "
            f"{run.last.bits_per_char:.3f} bits per character{kept_back}"
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
    """The first Ctrl-C or SIGTERM ends training after its iteration, saving; a second one leaves at once.

    SIGUSR1, where a system has it, saves, and training goes on.
    """

    def __init__(self, run: Any, screen: Any) -> None:
        self.run, self.screen, self.exit_code = run, screen, 0

    def __enter__(self) -> "_Signals":
        import signal

        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop}
        if hasattr(signal, "SIGUSR1"):
            handlers[signal.SIGUSR1] = self._save
        self._old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
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

    def _save(self, number: int, frame: Any) -> None:
        self.run.save = True


_CHECKPOINT = click.option("--checkpoint", metavar="last|best|PATH", default="best", help="which of the run's [best]")
_CHECKPOINT_LAST = click.option(
    "--checkpoint", metavar="last|best|PATH", default="last", help="which of the run's [last]"
)
_UNKNOWN = click.option(
    "--unknown", metavar="error|skip", default="error", help="characters of TEXT it never saw [error]"
)
_BACKEND = click.option(
    "--backend", metavar="auto|numpy|numba|cupy", default="auto", help="who does the arithmetic [auto]"
)


@cli.command()
@click.argument("run")
@click.option("--length", type=int, default=500, show_default=True, help="characters to write; 0 for no end")
@click.option("--prime", default="", metavar="TEXT", help="what the model reads, and prints, first")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="1 as it believes, lower is safer")
@click.option("--argmax", is_flag=True, help="always the likeliest character: temperature 0")
@click.option("--top-k", type=int, default=0, metavar="K", help="draw among the K likeliest characters [0: among all]")
@click.option(
    "--top-p", type=float, default=1.0, metavar="P",
    help="of those, draw among the fewest that have the share P of their probability [1: among all]",
)  # fmt: skip
@click.option("--stop", metavar="STRING", help="end after STRING was written; in most shells $'\\n' is a line break")
@click.option("--count", type=int, default=1, show_default=True, help="texts to write, with seeds from --seed on")
@click.option("--seed", type=int, help="of the draws [another text each time]")
@_UNKNOWN
@_CHECKPOINT
@_BACKEND
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a text, with log probabilities in nats")
def sample(run: str, prime: str, argmax: bool, count: int, checkpoint: str, as_json: bool, **options: Any) -> int:
    """Write text from the model of RUN, a run folder or a checkpoint file, to stdout.

    Temperature comes before --top-k, and that before --top-p. Several texts come each under a line "--- 1 ---".

    In JSON, text is what follows prime; log_probs and bits_per_char tell how probable the model finds it, that is at
    temperature 1 and among all characters.
    """
    from charlstm import checkpoint as checkpoints

    options["length"] = options["length"] or None
    options["temperature"] = 0.0 if argmax else options["temperature"]
    model = checkpoints.load(run, checkpoint)
    if count == 1 and not as_json:
        for piece in model.stream(prime, **options):
            _write(piece)
        if sys.stdout.isatty():
            _write("\n")
        return 0
    for number, one in enumerate(model.samples(prime, count, **options), 1):
        _write(_sample_json(one) if as_json else f"--- {number} ---\n{one.prime}{one.text}\n")
    return 0


def _sample_json(sample: Any) -> str:
    import json

    names = ("prime", "text", "seed", "temperature", "bits_per_char")
    values = {name: getattr(sample, name) for name in names}
    return json.dumps({**values, "log_probs": sample.log_probs.tolist()}) + "\n"


@cli.command()
@click.argument("run")
@click.argument("text", nargs=-1, required=True)
@click.option("--encoding", help="of TEXT [the run's own]")
@_UNKNOWN
@_CHECKPOINT
@_BACKEND
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@click.option("--per-char", is_flag=True, help="print one JSON object a character: char, log_prob (nats), bits")
def score(
    run: str, text: tuple[str, ...], encoding: str | None, unknown: str, checkpoint: str, backend: str, as_json: bool,
    per_char: bool,
) -> int:  # fmt: skip
    """Tell how well the model of RUN predicts TEXT: files, folders of .txt, - for stdin, URLs, or built-in texts.

    Bits per character: the mean of -log2 p, p being the probability of a character given all before it. Perplexity:
    2 to that power; a guess among so many equals would be as hard. The model begins in a zero state and predicts the
    first character after a line break.
    """
    import json

    from charlstm import checkpoint as checkpoints
    from charlstm import corpus, evaluate

    if as_json and per_char:
        raise UserError("--per-char prints JSON already: give it or --json")
    model = checkpoints.load(run, checkpoint)
    config = model.config
    found_text = corpus.load(
        text, encoding or config.encoding, lower=config.lower, as_bytes=config.bytes, vocabulary=model.vocabulary,
        unknown=unknown,
    )  # fmt: skip
    ids, name = found_text.ids, found_text.name
    if per_char:
        _write_characters(model.vocabulary.characters, ids, evaluate.log_probs(model, ids, backend))
        return 0
    found = evaluate.score_ids(model, ids, backend)
    if as_json:
        names = ("chars", "bits_per_char", "nats_per_char", "perplexity", "nats")
        _write(json.dumps({"name": name, **{each: getattr(found, each) for each in names}}) + "\n")
        return 0
    _write(
        f"{name}: {found.chars:,} {model.vocabulary.kind}, {found.bits_per_char:.4f} bits per character "
        f"({found.nats_per_char:.4f} nats), perplexity {found.perplexity:.4f}\n"
    )
    return 0


def _write_characters(characters: str, ids: Any, pieces: Any) -> None:
    """Write a line of JSON for each of a text's characters, as their log probabilities come."""
    import json
    import math

    at = 0
    for log_probs in pieces:
        scored = zip(ids[at : at + len(log_probs)].tolist(), log_probs.tolist(), strict=True)
        lines = [{"char": characters[k], "log_prob": p, "bits": -p / math.log(2)} for k, p in scored]
        _write("".join(json.dumps(line) + "\n" for line in lines))
        at += len(log_probs)


@cli.command()
@click.argument("text", nargs=-1)
@click.option(
    "--order", type=click.IntRange(1, 8), help="characters that the next one is drawn by [5; --style original: 4]"
)
@click.option(
    "--smoothing", type=click.Choice(["kneser-ney", "witten-bell", "none"]), default="kneser-ney", show_default=True,
    help="of the probabilities that are measured; what is written is drawn without",
)  # fmt: skip
@click.option(
    "--validation", type=float, default=0.1, show_default=True, help="part of the text, its end, kept back to measure"
)
@click.option("--length", type=int, default=200, show_default=True, help="characters to write; 0 for no end")
@click.option("--prime", default="", metavar="TEXT", help="what to go on from [a context of the text, by frequency]")
@click.option("--seed", type=int, help="of the draws [another text each time]")
@partial(_config_options, only=("encoding", "bytes", "lower", "separator"))
@click.option("--offline", is_flag=True, help="download nothing: URLs and built-in texts come from the cache")
@click.option("--style", metavar="own|original", default="own", help="original: print what markov-model.py prints")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
def ngram(
    text: tuple[str, ...], order: int | None, smoothing: str, validation: float, length: int, prime: str,
    seed: int | None, offline: bool, style: str, as_json: bool, **reading: Any,
) -> int:  # fmt: skip
    """Learn the Markov model of TEXT, measure it on the text's end, and let it write.

    TEXT is what `charlstm train` takes. The model predicts a character by the --order characters before it: what an
    LSTM has to beat, on the same end of the text as `charlstm train --validation` keeps back.

    Each character is drawn as often as it followed those before; where nothing ever followed them all, the last fewer
    decide. Everything that is not kept back is learned, the last transition too, which markov-model.py loses: with
    --style original it is lost, nothing is kept back, and the first context is drawn from all alike.
    """
    import json
    from dataclasses import asdict

    from charlstm import data
    from charlstm import ngram as markov
    from charlstm.run import read_corpus

    if style not in ("own", "original"):
        raise UserError(f"--style: expected own or original, got {style!r}")
    if style == "original" and (as_json or prime):
        raise UserError(f"--style original: {'--json' if as_json else '--prime'} does not go with it")
    must_end = as_json or style == "original"
    if length < must_end:
        raise UserError(f"--length: expected at least {must_end:d}, got {length}")
    given = {name: value for name, value in reading.items() if value is not None}
    config = Config(validation=validation, seed=seed or 0, **given)
    note = partial(click.echo, err=True)
    corpus = read_corpus(text, config, None, partial(data.fetch, offline=offline, note=note))
    if style == "original":
        for line in markov.original(corpus.vocabulary.decode(corpus.ids), order or 4, length, seed):
            _write(line + "\n")
        return 0
    try:
        start = corpus.vocabulary.encode(prime.lower() if config.lower else prime)
    except UserError as error:
        raise UserError(f"--prime: {error}") from None
    note(_text_line(corpus))
    model, found = markov.learn_and_measure(corpus, order or 5, smoothing, validation)
    note(f"model   Markov, order {found.order}, {found.contexts:,} contexts, {smoothing}")
    note(f"done    {found.in_words} in {found.seconds:.1f} s")
    written = markov.pieces(corpus.vocabulary, model.sample(length or None, start, seed))
    if as_json:
        _write(json.dumps({**asdict(found), "text": "".join(written)}) + "\n")
        return 0
    for piece in written:
        _write(piece)
    if sys.stdout.isatty():
        _write("\n")
    return 0


@cli.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a file")
def verify(run: str, as_json: bool) -> int:
    """Look at every file of the folder RUN: checkpoints must match their digests; exit with 1 where one is damaged."""
    import json
    from dataclasses import asdict

    from charlstm.inspection import verify as findings

    faulty = []
    for found in findings(run):
        faulty += [found.file] if found.fault else []
        if as_json:
            click.echo(json.dumps(asdict(found)))
        else:
            click.echo(f"{found.file:42} {'DAMAGED  ' + found.fault if found.fault else 'whole    ' + found.what}")
    if faulty:
        raise RunFailed(f"{run}: damaged: {', '.join(faulty)}")
    if not as_json:
        click.echo("all files are whole")
    return 0


@cli.command("inspect")
@click.argument("run")
@_CHECKPOINT_LAST
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def inspect_run(run: str, checkpoint: str, as_json: bool) -> int:
    """Show what RUN, a run folder or a checkpoint file, holds: text, sizes, options, progress, history."""
    import json

    from charlstm.inspection import inspect

    found = inspect(run, checkpoint)
    if as_json:
        click.echo(json.dumps(found))
        return 0
    text, model, machine = found["text"], found["model"], found["machine"]
    click.echo(f"text     {text['name']}: {text['num_ids']:,} long, SHA-256 of its ids {text['digest'][:16]}...")
    click.echo(
        f"model    {model['cell'].upper()}, {model['num_layers']} x {model['hidden_size']} hidden units, "
        f"{model['vocabulary']} characters, {model['parameters']:,} parameters, {model['dtype']}"
    )
    click.echo(f"preset   {found['preset']}" + (", with" if found["options"] else ""))
    for name, value in found["options"].items():
        click.echo(f"         --{name.replace('_', '-')} {'none' if value is None else value}")
    click.echo(
        f"trained  {found['iteration']:,} iterations, {found['chars']:,} characters, {found['seconds']:.1f} s, "
        f"smoothed loss {found['smooth_loss']:.4f}"
    )
    if machine:
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        click.echo(f"on       {machine['processor']}, {machine['backend']}, {versions}")
    if found["history"]:
        click.echo(f"\n{'iteration':>12} {'loss':>9} {'bits/char':>9} {'measured':>9} {'rate':>9}")
    for line in found["history"]:
        measured = f"{line['val_bits_per_char']:.4f}" if "val_bits_per_char" in line else "-"
        click.echo(
            f"{line['iteration']:12,} {line['loss']:9.2f} {line['bits_per_char']:9.4f} {measured:>9} "
            f"{line['learning_rate']:9.2g}"
        )
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
        for check in gradient_errors(kernels.load_for_host(name)):
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
@click.argument("run")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="words to list")
@click.option("--offline", is_flag=True, help="download nothing")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a word")
def keywords(run: str, top: int, offline: bool, as_json: bool) -> int:
    """List the words that the saved samples of RUN use most, and those of them that its text never had."""
    import json
    from dataclasses import asdict

    from charlstm import checkpoint, data
    from charlstm import run as runs
    from charlstm.keywords import keywords as found_in
    from charlstm.keywords import samples_of

    samples = samples_of(run)
    corpus = runs.corpus_of(checkpoint.load(run, "last"), run, fetch=partial(data.fetch, offline=offline))
    found = found_in(samples, corpus.vocabulary.decode(corpus.ids))
    new = [each for each in found if not each.in_text]
    if as_json:
        for each in found[:top]:
            click.echo(json.dumps(asdict(each)))
        return 0
    click.echo(f"{'word':20} {'in samples':>10} {'in text':>8}")
    for each in found[:top]:
        click.echo(f"{each.word:20} {each.in_samples:10,} {each.in_text:8,}")
    click.echo(f"\n{len(new):,} of {len(found):,} words are not in {corpus.name}" + (":" if new else ""))
    for each in new[:top]:
        click.echo(f"{each.word:20} {each.in_samples:10,}")
    return 0


@cli.group("data")
def data_group() -> None:
    """List the built-in texts, or download one."""


@data_group.command("list")
def data_list() -> int:
    """Show every built-in text: its name, size in bytes, licence, whether it is here, and its URL."""
    from charlstm import data

    click.echo(f"{'name':16} {'bytes':>9}  {'licence':14} {'here':9} url")
    for name, text in data.BUILT_IN.items():
        here = "in Python" if not text.url else "cached" if data.cached(name) else "no"
        size = f"{text.size:,}" if text.size else "-"
        click.echo(f"{name:16} {size:>9}  {text.licence:14} {here:9} {text.url or '-'}")
    return 0


@data_group.command("get")
@click.argument("name")
@click.option("--offline", is_flag=True, help="download nothing: print where the copy in the cache is")
def data_get(name: str, offline: bool) -> int:
    """Download a built-in text or a URL, unless it is in the cache, and print the path of the file."""
    from charlstm import data

    click.echo(data.fetch(name, offline, note=partial(click.echo, err=True)))
    return 0


@cli.command()
@click.option("--clear-cache", is_flag=True, help="remove every compiled kernel")
def info(clear_cache: bool) -> int:
    """Show backends, cores, versions, the cache of compiled kernels, and what is missing."""
    import kernels
    from charlstm import data
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
    click.echo(f"{'text cache':12} {data.cache_dir()}")
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
