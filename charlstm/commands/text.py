"""Commands about text: what a model writes, how well it predicts one, the Markov model, the words of the samples."""

import sys
from functools import partial
from typing import Any

import click

from charlstm.commands.layout import Place, Source, word_option
from charlstm.commands.options import BACKEND, CHECKPOINT, RUN, UNKNOWN, config_options, write
from charlstm.config import Config
from charlstm.errors import UserError


@click.command(short_help="Let a trained model write.")
@RUN
@click.option("-n", "--length", type=int, default=500, show_default=True, help="characters to write; 0 for no end")
@click.option("-p", "--prime", default="", metavar="TEXT", help="what the model reads, and prints, first")
@click.option(
    "-t", "--temperature", type=float, default=0.8, show_default=True, help="1 as it believes, lower is safer"
)
@click.option("--argmax", is_flag=True, help="always the likeliest character: temperature 0")
@click.option(
    "-k", "--top-k", type=int, default=0, metavar="K", help="draw among the K likeliest characters [0: among all]"
)
@click.option(
    "--top-p", type=float, default=1.0, metavar="P",
    help="of those, draw among the fewest that have the share P of their probability [1: among all]",
)  # fmt: skip
@click.option("--stop", metavar="STRING", help=r"end after STRING was written; \n and \t are line break and tab")
@click.option(
    "--new", is_flag=True,
    help="leave out lines that RUN's own text has, which is read for it; with another --stop, what ends in that",
)  # fmt: skip
@click.option("-c", "--count", type=int, default=1, show_default=True, help="texts to write, with seeds from --seed on")
@click.option("-s", "--seed", type=int, help="of the draws [another text each time]")
@UNKNOWN
@CHECKPOINT
@BACKEND
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a text, with log probabilities in nats")
def sample(
    run: str, prime: str, argmax: bool, count: int, checkpoint: str, as_json: bool, new: bool, **options: Any
) -> int:  # fmt: skip
    """Write text from the model of RUN, a run folder or a checkpoint file, to stdout.

    \b
    charlstm sample                               of the newest run
    charlstm sample runs/book -p "The " -t 0.5    begun with a text, and safer
    charlstm sample -n 0 | head -100              until its reader has enough

    Without RUN it is the newest run below runs/.

    Temperature comes before --top-k, and that before --top-p. Several texts come each under a line "--- 1 ---"; with
    --stop '\\n' they are a line each, and nothing else.

    In JSON, text is what follows prime; log_probs and bits_per_char tell how probable the model finds it, that is at
    temperature 1 and among all characters.
    """
    from charlstm import checkpoint as checkpoints
    from charlstm.reading import unescaped

    options["length"] = options["length"] or None
    options["temperature"] = 0.0 if argmax else options["temperature"]
    model = checkpoints.load(run, checkpoint)
    if options["stop"] is not None or new:
        options["stop"] = unescaped(options["stop"] or r"\n")
    if count == 1 and not as_json and not new:
        for piece in model.stream(prime, **options):
            write(piece)
        if sys.stdout.isatty():
            write("\n")
        return 0
    is_lines = (options["stop"] or "").endswith("\n")
    found = _new_samples(model, run, prime, count, options) if new else model.samples(prime, count, **options)
    for number, one in enumerate(found, 1):
        text = f"{one.prime}{one.text}"
        if as_json:
            write(_sample_json(one))
        elif is_lines:
            write(text.removesuffix("\n") + "\n")
        else:
            write(f"--- {number} ---\n{text}\n")
    return 0


def _new_samples(model: Any, run: str, prime: str, count: int, options: dict[str, Any]) -> Any:
    """Texts that the run's own text does not have."""
    from charlstm import data
    from charlstm.known import Known, new_samples
    from charlstm.run import training_text

    try:
        text = training_text(model, run, partial(data.fetch, note=partial(click.echo, err=True)))
    except UserError as error:
        raise UserError(f"--new: {error}") from None
    known = Known.of(text, model.vocabulary.as_read(options.pop("stop"), model.config.lower))
    return new_samples(model, known, prime, count, **options)


def _sample_json(sample: Any) -> str:
    import json

    names = ("prime", "text", "seed", "temperature", "bits_per_char")
    values = {name: getattr(sample, name) for name in names}
    return json.dumps({**values, "log_probs": sample.log_probs.tolist()}) + "\n"


@click.command(short_help="Tell how well a model predicts a text.")
@click.argument("run", type=Place())
@click.argument("text", nargs=-1, required=True, type=Source())
@click.option("--encoding", help="of TEXT [the run's own]")
@UNKNOWN
@CHECKPOINT
@BACKEND
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
    from charlstm.figures import below_a_guess, for_json, in_words, perplexity_in_words

    if as_json and per_char:
        raise UserError("--per-char prints JSON already: give it or --json")
    model = checkpoints.load(run, checkpoint)
    config = model.config
    found_text = corpus.load(
        text, encoding or config.encoding, lower=config.lower, as_bytes=config.bytes, vocabulary=model.vocabulary,
        unknown=unknown,
    )  # fmt: skip
    ids, name = found_text.ids, found_text.name
    for line in found_text.remark.splitlines():
        click.echo(line, err=True)
    if per_char:
        _write_characters(model.vocabulary.characters, ids, evaluate.log_probs(model, ids, backend))
        return 0
    found = evaluate.score_ids(model, ids, backend)
    if as_json:
        names = ("chars", "bits_per_char", "nats_per_char", "perplexity", "nats")
        write(json.dumps({"name": name, **{each: for_json(getattr(found, each)) for each in names}}) + "\n")
        return 0
    write(
        f"{name}: {found.chars:,} {model.vocabulary.kind}, {in_words(found.bits_per_char, 4)} bits per character "
        f"({in_words(found.nats_per_char, 4)} nats), perplexity {perplexity_in_words(found.bits_per_char, 4)}\n"
    )
    if said := below_a_guess(found.bits_per_char, len(model.vocabulary)):
        click.echo(f"{said}: the text is unlike the one that was learned, or the model is lost", err=True)
    return 0


def _write_characters(characters: str, ids: Any, pieces: Any) -> None:
    """Write a line of JSON for each of a text's characters, as their log probabilities come."""
    import json
    import math

    at = 0
    for log_probs in pieces:
        scored = zip(ids[at : at + len(log_probs)].tolist(), log_probs.tolist(), strict=True)
        lines = [{"char": characters[k], "log_prob": p, "bits": -p / math.log(2)} for k, p in scored]
        write("".join(json.dumps(line) + "\n" for line in lines))
        at += len(log_probs)


@click.command(short_help="Learn, measure and sample the Markov model of a text.")
@click.argument("text", nargs=-1, type=Source())
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
@partial(config_options, only=("encoding", "format", "column", "field", "bytes", "lower", "separator"))
@click.option("--offline", is_flag=True, help="download nothing: URLs and built-in texts come from the cache")
@word_option("--style", choices="own|original", default="own", help="original: print what markov-model.py prints")
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

    from charlstm import data, display
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
            write(line + "\n")
        return 0
    try:
        start = corpus.vocabulary.encode(corpus.vocabulary.as_read(prime, config.lower))
    except UserError as error:
        raise UserError(f"--prime: {error}") from None
    note(display.text_line(corpus))
    model, found = markov.learn_and_measure(corpus, order or 5, smoothing, validation)
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


@click.command(short_help="List the words that a run's samples use most.")
@RUN
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
