"""Commands about text: sample, score, the Markov model, and the most frequent words of the samples."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import click

from charlstm.commands.layout import Place, Source, word_option
from charlstm.commands.options import BACKEND, CHECKPOINT, MIX, RUN, UNKNOWN, config_options, write
from charlstm.errors import UserError
from charlstm.settings.config import Config
from charlstm.settings.unknown import unknown_in_words


@click.command(short_help="Generate text with a trained model.")
@RUN
@click.option(
    "-n", "--length", type=int, default=500, show_default=True, help="number of characters to generate; 0: no end"
)
@click.option("-p", "--prime", default="", metavar="TEXT", help="text to start from, which is printed first")
@click.option(
    "-t",
    "--temperature",
    type=float,
    default=0.8,
    show_default=True,
    help="1: the model's own distribution, below 1: safer, 0: likeliest character",
)
@click.option("--argmax", is_flag=True, help="always pick the likeliest character; same as temperature 0")
@click.option(
    "-k", "--top-k", type=int, default=0, metavar="K", help="sample from the K likeliest characters only [0: all]"
)
@click.option(
    "--top-p", type=float, default=1.0, metavar="P",
    help="nucleus sampling: sample from the smallest set of characters whose probabilities sum to at least P [1: all]",
)  # fmt: skip
@click.option(
    "--adapt-to", type=Place(), metavar="FILE",
    help="write in the style of FILE: the net learns from it first, and goes on after it; the run stays as it is",
)  # fmt: skip
@click.option("--stop", metavar="STRING", help=r"stop after generating STRING; \n: line break, \t: tab")
@click.option(
    "--new", is_flag=True,
    help="print only lines that do not occur in the training text (with --stop: texts that end with STRING)",
)  # fmt: skip
@click.option(
    "-c",
    "--count",
    type=int,
    default=1,
    show_default=True,
    help="number of texts, generated with consecutive seeds",
)
@click.option("-s", "--seed", type=int, help="random seed [a different text each time]")
@UNKNOWN
@MIX
@CHECKPOINT
@BACKEND
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per text, with log probabilities in nats")
def sample(
    run: str, prime: str, argmax: bool, count: int, checkpoint: str, as_json: bool, new: bool, adapt_to: str | None,
    **options: Any,
) -> int:  # fmt: skip
    """Generate text with the model of RUN, a run folder or a checkpoint file, and write it to stdout.

    \b
    charlstm sample                               sample from the newest run
    charlstm sample runs/book -p "The " -t 0.5    start from a text, at a lower temperature
    charlstm sample -n 0 | head -100              generate until the reader stops

    The default RUN is the newest run in runs/.

    Temperature is applied first, then --top-k, then --top-p. With --count, each text follows a header line
    "--- 1 ---"; with --stop '\\n', each text is one line without a header.

    In JSON, text is the part after prime; log_probs and bits_per_char are its score under the model itself, at
    temperature 1 and over all characters.
    """
    from charlstm.model.model import load
    from charlstm.text.reading import unescaped

    options["length"] = options["length"] or None
    options["temperature"] = 0.0 if argmax else options["temperature"]
    model = load(run, checkpoint)
    if adapt_to is not None:
        options["adapt_to"] = _passage(model, adapt_to)
    if options["unknown"] == "skip":
        _say_unknown(len(prime) - len(model.vocabulary.without_unknown(prime)), "skip")
    if options["stop"] is not None or new:
        options["stop"] = unescaped(options["stop"] or r"\n")
    if count == 1 and not as_json and not new:
        pieces = model.stream(prime, **options)  # raises first, if at all
        _say_mix(model, options["mix"])
        for piece in pieces:
            write(piece)
        if sys.stdout.isatty():
            write("\n")
        return 0
    is_lines = (options["stop"] or "").endswith("\n")
    found = _new_samples(model, run, prime, count, options) if new else model.samples(prime, count, **options)
    for number, one in enumerate(found, 1):
        if number == 1:
            _say_mix(model, options["mix"])
        text = f"{one.prime}{one.text}"
        if as_json:
            write(_sample_json(one))
        elif is_lines:
            write(text.removesuffix("\n") + "\n")
        else:
            write(f"--- {number} ---\n{text}\n")
    return 0


def _passage(model: Any, file: str) -> str:
    """The text of a file, read with the options of the training text."""
    read = _read(model, [file], model.config)
    text: str = read.vocabulary.decode(read.ids)
    return text


def _read(model: Any, sources: Sequence[str], config: Config) -> Any:
    """The corpus of some sources for a model to read, with the options in `config`."""
    from charlstm.text import corpus
    from charlstm.text.reading import unescaped

    return corpus.load(
        sources, config.encoding, format=config.format, column=config.column, field=config.field, lower=config.lower,
        separator=unescaped(config.separator), as_bytes=config.bytes,
        vocabulary=model.vocabulary if model.vocabulary.unit == "byte" else None, to_learn=False,
    )  # fmt: skip


def _new_samples(model: Any, run: str, prime: str, count: int, options: dict[str, Any]) -> Any:
    """Sample texts that do not occur in the training text."""
    from charlstm.model.known import Known, new_samples
    from charlstm.runs.begin import training_text
    from charlstm.text import downloads

    try:
        text = training_text(model, run, partial(downloads.fetch, note=partial(click.echo, err=True)))
    except UserError as error:
        raise UserError(f"--new: {error}") from None
    known = Known.of(text, model.vocabulary.as_read(options.pop("stop"), model.config.lower))
    return new_samples(model, known, prime, count, **options)


def _sample_json(sample: Any) -> str:
    import json

    names = ["prime", "text", "seed", "temperature", "bits_per_char"]
    names += ["bits_per_byte"] if sample.is_of_bytes else []
    values = {name: getattr(sample, name) for name in names}
    return json.dumps({**values, "log_probs": sample.log_probs.tolist()}) + "\n"


@click.command(short_help="Measure how well a model predicts a text.")
@click.argument("run", type=Place())
@click.argument("text", nargs=-1, required=True, type=Source())
@partial(config_options, only=("encoding", "format", "column", "field"))
@word_option(
    "--unknown", choices="error|skip|charge|replace:CHAR", default="error",
    help="characters missing from RUN's vocabulary: stop with an error, skip them, skip them at "
    "a cost of 20.1 bits each, or read them as CHAR [error]",
)  # fmt: skip
@MIX
@click.option(
    "--adapt", is_flag=True,
    help="let the model go on learning from TEXT as it reads (dynamic evaluation); its figures, called adaptive, are "
    "not comparable with others",
)  # fmt: skip
@CHECKPOINT
@BACKEND
@click.option("--lines", is_flag=True, help="score each line as a separate text, and print its bits per character")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object; with --lines, one per line")
@click.option(
    "--per-char", is_flag=True,
    help="print one JSON object per character: char (for a byte model, byte), log_prob (nats), bits",
)  # fmt: skip
def score(
    run: str, text: tuple[str, ...], unknown: str, mix: str | None, adapt: bool, checkpoint: str, backend: str,
    lines: bool, as_json: bool, per_char: bool, **reading: Any,
) -> int:  # fmt: skip
    """Measure how well the model of RUN predicts TEXT: files, folders, - for stdin, URLs, or built-in texts.

    TEXT is read with the options of RUN's training text, unless --encoding, --format, --column or --field are given.

    Bits per character is the mean of -log2 p, where p is the probability of a character given all characters before
    it. Perplexity is 2 to that power. A byte model reports bits per byte as well. The model reads the start of TEXT as
    it read the start of each training text: after a line break, or after the --separator that joined the texts.

    With --lines, a byte model prints bits per byte; a line with nothing to score gives nan.
    """
    from charlstm.model import scoring
    from charlstm.model.model import load

    if per_char and (as_json or lines):
        raise UserError(
            "--per-char: already prints JSON; leave out --json"
            if as_json
            else "--per-char: cannot be combined with --lines"
        )
    model = load(run, checkpoint)
    config = replace(model.config, **{name: value for name, value in reading.items() if value is not None})
    scorer = scoring.Scorer(model, unknown, backend, mix, adapt)
    read = _read(model, text, config)
    for line in read.remark.splitlines():
        click.echo(line, err=True)
    found = scoring.CorpusScorer(scorer, read)
    _say_mix(model, mix)
    if per_char:
        _write_characters(read.vocabulary, found.characters())
        _say_unknown(found.skipped, unknown)
    elif lines:
        skipped = 0
        for one in found.lines():
            write(_score_json(one, unknown) if as_json else f"{one.bits_per_unit:.4f}\n")
            skipped += one.skipped
        _say_unknown(skipped, unknown)
    elif as_json:
        write(_score_json(found.totals(), unknown, adapt, name=read.name))
    else:
        _tell_score(read.name, found.totals(), unknown, len(model.vocabulary), adapt)
    return 0


def _say_mix(model: Any, mix: str | None) -> None:
    """Print on stderr whether the n-gram speaks, too."""
    from charlstm.model import mixing

    if said := mixing.said(model, mix):
        click.echo(said, err=True)


def _say_unknown(count: int, unknown: str) -> None:
    """Print on stderr how many characters are missing from the vocabulary, and how they were treated."""
    if said := unknown_in_words(count, "charged" if unknown == "charge" else "skipped"):
        click.echo(said, err=True)


_COUNTS = ("chars", "bytes", "skipped")


def _score_json(found: Any, unknown: str, is_adaptive: bool = False, **first: Any) -> str:
    """Format the figures of a score as a line of JSON."""
    import json

    from charlstm.figures import for_json

    names = ["chars", "bits_per_char", "nats_per_char", "perplexity", "nats"]
    names += ["bytes", "bits_per_byte"] if found.is_of_bytes else []
    names += ["net_bits_per_char", "ngram_bits_per_char"] if found.parts else []
    names += ["skipped"] if unknown in ("skip", "charge") and not found.is_of_bytes else []
    begin = "adaptive_" if is_adaptive else ""  # such figures must never be taken for others
    own = {(each if each in _COUNTS else begin + each): for_json(getattr(found, each)) for each in names}
    return json.dumps({**first, **own}) + "\n"


def _tell_score(name: str, found: Any, unknown: str, vocab_size: int, is_adaptive: bool) -> None:
    """Print a score in a line, and a warning if a uniform guess would score better."""
    from charlstm.figures import in_words, perplexity_in_words, worse_than_a_guess

    words = f"{name}: {found.chars:,} characters" + (", adaptive (it learned while it read)" if is_adaptive else "")
    if found.is_of_bytes:
        nats = found.nats / found.units
        words += (
            f" in {found.units:,} bytes, {in_words(found.bits_per_unit, 4)} bits per byte ({in_words(nats, 4)} nats)"
        )
    words += f", {in_words(found.bits_per_char, 4)} bits per character ({in_words(found.nats_per_char, 4)} nats)"
    words += f", perplexity {perplexity_in_words(found.bits_per_char, 4)}"
    if found.parts:
        parts = (found.net_bits_per_char, found.ngram_bits_per_char)
        words += "; net alone {}, n-gram alone {}".format(*(in_words(each, 4) for each in parts))
    if found.skipped:
        words += f"; {unknown_in_words(found.skipped, 'charged' if unknown == 'charge' else 'skipped')}"
    write(words + "\n")
    if said := worse_than_a_guess(found.bits_per_unit, vocab_size):
        click.echo(f"{said}: the text is unlike the training text, or the model has diverged", err=True)


def _write_characters(vocabulary: Any, scored: Any) -> None:
    """Write a line of JSON for each character or byte of a text, as the log probabilities arrive."""
    import json
    import math
    from itertools import islice

    of = vocabulary.short_unit
    while piece := list(islice(scored, 4096)):
        lines = [
            {of: k if of == "byte" else vocabulary.characters[k], "log_prob": p, "bits": -p / math.log(2)}
            for k, p in piece
        ]
        write("".join(json.dumps(line) + "\n" for line in lines))


@click.command(short_help="Train, evaluate and sample a Markov model.")
@click.argument("text", nargs=-1, type=Source())
@click.option("--order", type=click.IntRange(1, 8), help="number of characters of context [5; --style original: 4]")
@click.option(
    "--smoothing", type=click.Choice(["kneser-ney", "witten-bell", "none"]), default="kneser-ney", show_default=True,
    help="smoothing for the evaluation; sampling uses none",
)  # fmt: skip
@click.option(
    "--validation", type=float, default=0.1, show_default=True, help="fraction of the text held out for evaluation"
)
@partial(config_options, only=("validation_from",))
@click.option("--length", type=int, default=200, show_default=True, help="number of characters to generate; 0: no end")
@click.option("--prime", default="", metavar="TEXT", help="text to start from [a random context of the text]")
@click.option(
    "--seed", type=int,
    help="random seed for sampling and for shuffle-lines [a different text each time; shuffle-lines: 0]",
)  # fmt: skip
@partial(config_options, only=("encoding", "format", "column", "field", "bytes", "lower", "separator"))
@click.option("--offline", is_flag=True, help="download nothing: take URLs and built-in texts from the cache")
@word_option(
    "--style", choices="own|original", default="own", help="original: print exactly what markov-model.py prints"
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object to stdout")
def ngram(
    text: tuple[str, ...], order: int | None, smoothing: str, validation: float, length: int, prime: str,
    seed: int | None, offline: bool, style: str, as_json: bool, **reading: Any,
) -> int:  # fmt: skip
    """Train a Markov model on TEXT, evaluate it on held-out text, and sample from it.

    TEXT is what `charlstm train` takes. The model predicts a character from the --order characters before it. It is
    the baseline for an LSTM: `charlstm train` holds out the same part of the text with the same options.

    Characters are sampled with the frequency at which they followed their context in the text; a context that nothing
    followed is shortened. Unlike markov-model.py, the model also counts the last transition of the text. With --style
    original it does not, nothing is held out, and the first context is drawn uniformly.
    """
    import json
    from dataclasses import asdict

    from charlstm.ngram import markov
    from charlstm.runs.begin import read_corpus
    from charlstm.show import display
    from charlstm.text import downloads, heldout

    if style not in ("own", "original"):
        raise UserError(f"--style: expected own or original, got {style!r}")
    if style == "original" and (as_json or prime):
        raise UserError(f"--style original: cannot be combined with {'--json' if as_json else '--prime'}")
    must_end = as_json or style == "original"
    if length < must_end:
        raise UserError(f"--length: expected at least {must_end:d}, got {length}")
    given = {name: value for name, value in reading.items() if value is not None}
    config = Config(validation=validation, seed=seed or 0, **given)
    note = partial(click.echo, err=True)
    corpus = read_corpus(text, config, None, partial(downloads.fetch, offline=offline, note=note))
    if style == "original":
        for line in markov.original(corpus.vocabulary.decode(corpus.ids), order or 4, length, seed):
            write(line + "\n")
        return 0
    try:
        start = corpus.vocabulary.encode(corpus.vocabulary.as_read(prime, config.lower))
    except UserError as error:
        raise UserError(f"--prime: {error}") from None
    note(display.text_line(corpus))
    if said := heldout.remark(corpus, validation, config.validation_from):
        note(said)
    model, found = markov.learn_and_measure(
        corpus, order or 5, smoothing, validation, config.validation_from, config.seed
    )
    note(f"model   Markov, order {found.order}, {found.contexts:,} contexts, {smoothing}")
    note(f"done    {found.in_words} in {found.seconds:.1f} s")
    written = markov.pieces(corpus.vocabulary, model.sample(length or None, start, seed))
    if as_json:
        figures = asdict(found)
        if corpus.vocabulary.unit != "byte":
            del figures["bytes"], figures["bits_per_byte"]
        write(json.dumps({**figures, "text": "".join(written)}) + "\n")
        return 0
    for piece in written:
        write(piece)
    if sys.stdout.isatty():
        write("\n")
    return 0


@click.command(short_help="List the most frequent words of a run's samples.")
@RUN
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="number of words to list")
@click.option("--offline", is_flag=True, help="download nothing")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per word")
def keywords(run: str, top: int, offline: bool, as_json: bool) -> int:
    """List the most frequent words of RUN's saved samples, and those that do not occur in the training text."""
    import json
    from dataclasses import asdict

    from charlstm.model.model import load
    from charlstm.runs.begin import corpus_of
    from charlstm.runs.keywords import keywords as found_in
    from charlstm.runs.keywords import pieces_of, samples_of
    from charlstm.text import downloads

    samples = samples_of(run)
    corpus = corpus_of(load(run, "last"), run, fetch=partial(downloads.fetch, offline=offline))
    found = found_in(samples, pieces_of(corpus))
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
