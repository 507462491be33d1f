"""The works that are measured: sizes and text, the same for every rival."""

from pathlib import Path

import numpy as np

from charlstm import corpus
from charlstm.config import from_preset
from charlstm.trainer import Trainer

_CONSTITUTION = Path(__file__).parents[2] / "shared" / "data" / "us-constitution.txt"


def seed_corpus():
    """The text of the work `seed`: us-constitution where at hand, else of the text inside Python as much."""
    if _CONSTITUTION.exists():
        return corpus.load([_CONSTITUTION])
    docs = corpus.load()
    return corpus.Corpus.from_text(docs.vocabulary.decode(docs.ids[:45_345]), "python-docs")


def seed_trainer(backend, dtype):
    """The work `seed`: LSTM, H = 100, T = 16, B = 1, Adagrad 0.1, clip 5, state carried."""
    config = from_preset("min-char-lstm", backend=backend, dtype=dtype, seed=123, iterations=10**9)
    return Trainer(config, seed_corpus())


def iterations(trainer, count):
    """A function that goes on training by `count` iterations in one call of the kernels."""

    def run():
        begin = trainer.iteration
        rates = np.full(count, trainer.config.learning_rate)
        losses = trainer.train(begin, begin + count, rates)
        trainer.iteration += count
        return losses

    return run
