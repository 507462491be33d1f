"""Compares runs of one text with each other and with the n-gram model: figures, samples and a plot."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charlstm.errors import UserError
from charlstm.model.model import Model, load
from charlstm.ngram import markov as ngram
from charlstm.runs import begin
from charlstm.runs.inspection import curves
from charlstm.runs.run import Run
from charlstm.settings.config import Config, from_preset
from charlstm.settings.presets import PRESETS
from charlstm.show.plotting import Curves
from charlstm.text.corpus import Corpus, Fetch

NGRAM = "n-gram"


@dataclass(frozen=True)
class Row:
    """What is told of one model; of the n-gram model, `parameters` counts contexts, and `seconds` are those it learned.

    Bits are per character, for a bytes run per byte, on the held-out text: those of the best evaluation.
    """

    name: str
    bits: float
    baseline: float
    parameters: int
    chars: int
    seconds: float
    sample: str

    @property
    def chars_per_second(self) -> float:
        """Characters learned per second of training."""
        return self.chars / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Sampling:
    """How the samples that stand side by side are drawn."""

    length: int = 300
    prime: str = ""
    temperature: float = 0.8
    seed: int = 0


def configs(presets: Sequence[str], corpus: Corpus, **options: Any) -> dict[str, Config]:
    """The options of a run of each preset; all of them are checked with the text before any run is begun.

    Raises
    ------
    UserError
        For an unknown preset, a preset given twice, or an option that does not fit the text or a preset.
    """
    for name in presets:
        if name not in PRESETS:
            raise UserError(f"--presets: expected some of {', '.join(PRESETS)}, got {name!r}")
        if presets.count(name) > 1:
            raise UserError(f"--presets: {name} is there twice")
    found = {name: from_preset(name, **options) for name in presets}
    for name, config in found.items():
        try:
            begin.prepared(corpus, config)
        except UserError as error:
            raise UserError(f"preset {name}: {error}") from None
    return found


def begun(corpus: Corpus, config: Config, folder: Path) -> Run:
    """Begin the run of one preset in a folder of its own; the comparison has the picture, so the run has none."""
    return begin.start(corpus, replace(config, plot=False), str(folder))


def compared(
    runs: dict[str, Path], how: Sampling, fetch: Fetch, corpus: Corpus | None = None
) -> tuple[list[Row], list[Curves]]:
    """The rows of a comparison, the best first, and the curves of the runs.

    Parameters
    ----------
    runs : folders by name
    how : how samples are drawn
    fetch : turns a URL or a built-in name into a file
    corpus : the text of all runs; by default it is found as for the first of them

    Raises
    ------
    UserError
        If a folder is not a run, holds out nothing, or holds out another text than the first one.
    """
    last = {name: load(folder, "last") for name, folder in runs.items()}
    _see_that_alike(last)
    first = next(iter(last))
    corpus = corpus or begin.training_text(last[first], runs[first], fetch)
    baseline = _of_ngram(corpus, last[first].config, how)
    rows = [_row(name, last[name], runs[name], baseline.bits, how) for name in runs]
    drawn = [curves(folder)._replace(name=name, baseline=baseline.bits) for name, folder in runs.items()]
    return sorted([*rows, baseline], key=lambda row: row.bits), drawn


def _see_that_alike(models: dict[str, Model]) -> None:
    """Raise UserError unless all models have been evaluated on the same held-out text."""
    what: Callable[[Model], Any] = lambda model: (  # noqa: E731
        model.corpus["digest"],
        model.config.validation,
        model.config.validation_from,
        model.config.seed if model.config.validation_from != "end" else 0,
    )
    first, *_ = models
    for name, model in models.items():
        if "best_validation" not in model.marks:
            raise UserError(f"{name}: has not been evaluated on held-out text; train with --validation")
        if what(model) != what(models[first]):
            raise UserError(f"{name}: holds out another text than {first}, so their figures cannot be compared")


def _row(name: str, model: Model, folder: Path, baseline: float, how: Sampling) -> Row:
    sample = load(folder).sample(how.prime, length=how.length, temperature=how.temperature, seed=how.seed)
    chars = model.iteration * model.config.iteration_chars
    return Row(name, model.marks["best_validation"], baseline, len(model.theta), chars, model.seconds, sample)


def _of_ngram(corpus: Corpus, config: Config, how: Sampling) -> Row:
    """The row of the n-gram model, which learns the same part of the text, once, and samples at temperature 1."""
    model, found = ngram.learn_and_measure(
        corpus, ngram.ORDER, "kneser-ney", config.validation, config.validation_from, config.seed
    )
    bits = found.bits_per_char if found.bits_per_byte is None else found.bits_per_byte
    if bits is None:
        raise UserError(f"{corpus.name}: the n-gram model gives its held-out text infinite bits")
    prime = encoded(how.prime, corpus, is_lower=config.lower)
    sample = "".join(ngram.pieces(corpus.vocabulary, model.sample(how.length, prime, how.seed)))
    learned = round(len(corpus.ids) * (1 - config.validation))
    return Row(NGRAM, bits, bits, found.contexts, learned, found.seconds, sample)


def encoded(prime: str, corpus: Corpus, is_lower: bool) -> Any:
    """The ids of the prime. Raises UserError if it has characters that the text lacks."""
    try:
        return corpus.vocabulary.encode(corpus.vocabulary.as_read(prime, is_lower))
    except UserError as error:
        raise UserError(f"--prime: {error}") from None


def new_folder(corpus: Corpus, out: str | None) -> Path:
    """The folder of a comparison: `out`, which must be new or empty, or runs/NAME-compare, -2, ...

    Raises
    ------
    UserError
        If it cannot be made, or `out` has files.
    """
    return begin.made_folder(f"{corpus.name}-compare", out)


def named(runs: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[str, Path]]:
    """Runs given by their folders, by name: the last part of the path, or all of it where two are the same.

    Raises
    ------
    UserError
        If a folder is there twice.
    """
    paths = [Path(run) for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"--runs: {path} is there twice")
        is_alone = sum(other.name == path.name for other in paths) == 1
        yield (path.name if is_alone and path.name else str(path)), path
