"""Writes sample texts during training, without changing the model's weights or its carried state.

Which iterations have a saved sample follows from the config alone; charlstm.training.live draws more, for the eye only.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from charlstm.errors import UserError
from charlstm.model.forward import Net, continued, drawn_from, writer_of
from charlstm.model.memory import Voice
from charlstm.settings.config import Config
from charlstm.text.corpus import Corpus
from charlstm.text.edges import Ending

_TEMPERATURES = (0.2, 0.5, 1.0, 1.2)  # of samples after an epoch, and the characters they continue
_PRIME = 40


def is_due(every: int | None, iteration: int) -> bool:
    """Whether a sample is due before an iteration: see :func:`next_due`."""
    if every is None:
        return iteration == 0 or next_due(None, iteration - 1) == iteration
    return bool(every) and iteration % every == 0


def next_due(every: int | None, iteration: int) -> int:
    """The first later iteration before which a sample is due: a multiple of `every`, and for 0 never (sys.maxsize).

    For None, samples come after 0, 10, 30, 100, 300, 1,000, ... iterations: as often in the first second, when the text
    changes most, as in the last hour.
    """
    if every is not None:
        return (iteration // every + 1) * every if every else sys.maxsize
    return next(due for power in count(1) for due in (10**power, 3 * 10**power) if due > iteration)


class Written(NamedTuple):
    """A text, the prime that it continues, and its sampling temperature."""

    sample: str
    prime: str
    temperature: float


class Samples:
    """The samples of a run, as its config asks for them.

    Parameters
    ----------
    config, corpus : of the run
    ops : the run's backend
    ids : the training text, (M,)

    Raises
    ------
    UserError
        If samples after each epoch are wanted and the text is too short to prime one.
    """

    def __init__(self, config: Config, corpus: Corpus, ids: np.ndarray, ops: Any) -> None:
        if config.epoch_samples != "none" and len(ids) < _PRIME:
            raise UserError(f"the text has {len(ids)} characters; samples after an epoch need {_PRIME} to continue")
        self._config, self._corpus, self._ids, self._ops = config, corpus, ids, ops

    def _nets(self, voices: Sequence[Voice]) -> list[Net]:
        return [(self._ops, *voice) for voice in voices]

    def from_the_start(self, voices: Sequence[Voice], random: np.random.RandomState, length: int) -> Written:
        """A text as `charlstm sample` writes it."""
        config, edges = self._config, self._corpus.edges
        uniforms = random.random_sample((length, 1))
        writer = writer_of(self._nets(voices), edges.begin)
        drawn = writer.draw(uniforms, temperature=config.temperature)[:, 0]
        return self._of(drawn[: Ending(edges.end).cut(drawn)] if edges.end else drawn)

    def from_a_state(
        self, voice: Voice, h: Any, c: Any, at: int, random: np.random.RandomState, length: int
    ) -> Written:
        """Continue from one stream's state, h and c (L, 1, H), which are overwritten, and the id at `at`."""
        config = self._config
        drawn = drawn_from(
            self._ops, voice.theta, h, c, self._ids[at : at + 1].astype(np.int32),
            random.random_sample((length, 1)), shape=voice.shape, temperature=config.temperature,
        )  # fmt: skip
        return self._of(drawn[:, 0])

    def after_an_epoch(self, voices: Sequence[Voice], random: np.random.RandomState) -> Iterator[Written]:
        """Yield texts at several temperatures that all continue the same random piece of the text."""
        config, decode = self._config, self._corpus.vocabulary.decode
        begin = random.randint(0, len(self._ids) - _PRIME + 1)
        prime, window = self._ids[begin : begin + _PRIME].astype(np.int32), config.epoch_samples == "window"
        before = prime[:0] if window else np.array(self._corpus.edges.begin, np.int32)
        for temperature in _TEMPERATURES:
            uniforms = random.random_sample(config.sample_length)
            read = np.concatenate([before, prime])
            drawn = continued(self._nets(voices), read, uniforms, temperature, window)
            yield Written(decode(drawn), decode(prime), temperature)

    def _of(self, drawn: np.ndarray) -> Written:
        return Written(self._corpus.vocabulary.decode(drawn), "", self._config.temperature)
