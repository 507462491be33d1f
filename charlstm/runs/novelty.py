"""How much of the saved samples of a run is copied from its training text."""

from pathlib import Path

from charlstm.model.model import load
from charlstm.runs.begin import training_text
from charlstm.runs.keywords import pieces_of, saved_samples
from charlstm.text import heldout
from charlstm.text.novelty import Novelty, novelty
from charlstm.text.reading import Fetch


def of_run(run: str | Path, least: int, fetch: Fetch) -> tuple[str, list[tuple[int | None, Novelty]]]:
    """The name of the training text, and for each saved sample its iteration and novelty.

    If the run holds text out, the first characters of that, as many as the longest sample has, come last, with None for
    an iteration.

    Raises
    ------
    UserError
        If the run has no samples, or its text cannot be found or has changed.
    """
    samples: list[tuple[int | None, str]] = [*saved_samples(run)]
    model = load(run, "last")
    corpus, config = training_text(model, run, fetch), model.config
    learned, held_out = heldout.split(corpus, config.validation, config.validation_from, config.seed)
    if len(held_out):
        most = max(len(sample) for _, sample in samples)
        samples.append((None, "".join(pieces_of(corpus, held_out[: 4 * most]))[:most]))  # a character has up to 4 bytes
    found = novelty([sample for _, sample in samples], pieces_of(corpus, learned), least)
    return corpus.name, [(iteration, each) for (iteration, _), each in zip(samples, found, strict=True)]
