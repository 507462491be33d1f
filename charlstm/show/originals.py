"""``--style original``: print a run on stdout exactly as the original script of its preset does.

Sources: min-char-lstm.py and min-char-rnn.py of eliben/deep-learning-samples, Karpathy's gist min-char-rnn.py, the
modified min-char-lstm.py, and lstm_text_generation.py of the Keras examples.
"""

import sys
from abc import ABC, abstractmethod
from time import strftime

from charlstm.errors import UserError
from charlstm.settings.config import Config
from charlstm.show.display import Silent
from charlstm.text.corpus import Corpus
from charlstm.training.progress import Progress
from charlstm.training.trainer import Trainer


class Original(Silent, ABC):
    """The display that the styles of all scripts are based on."""

    every, line = 0, ""  #: iterations between lines, and the format of a line, if the script prints any

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.header(trainer.corpus)

    @abstractmethod
    def header(self, corpus: Corpus) -> None:
        """Print the lines before training."""

    def show(self, progress: Progress) -> None:
        """Print a report or a sample."""
        if progress.kind == "report":
            self.report(progress)
        elif progress.kind == "sample":
            self.sample(progress)
        sys.stdout.flush()

    def report(self, progress: Progress) -> None:
        """Print the line of an iteration if the script prints one there."""
        if self.every and progress.iteration % self.every == 0:
            print(self.line.format(n=progress.iteration, p=self.position(progress), loss=progress.smooth_loss))

    @abstractmethod
    def sample(self, progress: Progress) -> None:
        """Print a sample."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        sys.stdout.flush()

    def position(self, progress: Progress) -> int:
        """The position in the text where an iteration starts: p in the scripts."""
        trainer = self.trainer
        return progress.iteration % trainer.batches.iterations_per_pass * trainer.config.seq_length


class MinCharLSTM(Original):
    """min-char-lstm.py."""

    every, line = 200, "iter {n} (p={p}), loss {loss:f}"

    def header(self, corpus: Corpus) -> None:
        characters = corpus.vocabulary.characters
        print(f"data has {len(corpus.ids)} characters, {len(characters)} unique.")
        print("char_to_ix", {character: k for k, character in enumerate(characters)})
        print("ix_to_char", dict(enumerate(characters)))

    def sample(self, progress: Progress) -> None:
        print(f"----\n {progress.sample} \n----")


class MinCharRNN(MinCharLSTM):
    """min-char-rnn.py, in Bendersky's version."""

    line = "iter {n} (p={p}), loss: {loss:f}"


class KarpathyMinCharRNN(MinCharLSTM):
    """min-char-rnn.py as first published: a header of one line, and no p."""

    every, line = 100, "iter {n}, loss: {loss:f}"

    def header(self, corpus: Corpus) -> None:
        print(f"data has {len(corpus.ids)} characters, {len(corpus.vocabulary)} unique.")


class MinCharLSTMMod2(MinCharLSTM):
    """min-char-lstm-mod-2.py: dated lines, every 1,000 iterations and later at each new minimum of the loss."""

    every, line = 1000, "{now}: iter {n} (p={p}), loss {loss:f}"

    def header(self, corpus: Corpus) -> None:
        super().header(corpus)
        print(f"\nStart Loss: {self.trainer.start_loss:f}\n")

    def report(self, progress: Progress) -> None:
        is_high = progress.smooth_loss > (self.trainer.config.show_below or 0.0) * self.trainer.start_loss
        if is_high and progress.iteration % self.every == 0:
            self._line(progress)

    def sample(self, progress: Progress) -> None:
        self._line(progress)
        super().sample(progress)
        if progress.is_kept:
            print("\nSaving to file\n")

    def _line(self, progress: Progress) -> None:
        now, n, p = strftime("%Y-%m-%d %H:%M:%S"), progress.iteration, self.position(progress)
        print(self.line.format(now=now, n=n, p=p, loss=progress.smooth_loss))


class KerasLSTMText(Original):
    """lstm_text_generation.py."""

    def header(self, corpus: Corpus) -> None:
        print(f"corpus length: {len(corpus.ids)}")
        print(f"total chars: {len(corpus.vocabulary)}")
        print(f"nb sequences: {getattr(self.trainer.batches, 'num_windows', self.trainer.batches.iterations_per_pass)}")
        print("Vectorization...")
        print("Build model...")
        self._epoch = -1

    def sample(self, progress: Progress) -> None:
        epoch = round(progress.epoch) - 1
        if epoch != self._epoch:
            print(f"\n----- Generating text after Epoch: {epoch}")
            self._epoch = epoch
        print(f"----- diversity: {progress.temperature}")
        print(f'----- Generating with seed: "{progress.prime}"')
        print(f"{progress.prime}{progress.sample}")


STYLES: dict[str, type[Original]] = {
    "min-char-lstm": MinCharLSTM,
    "min-char-rnn": MinCharRNN,
    "karpathy-min-char-rnn": KarpathyMinCharRNN,
    "min-char-lstm-mod-2": MinCharLSTMMod2,
    "keras-lstm-text": KerasLSTMText,
}


def style_of(config: Config) -> type[Original]:
    """The display that prints as the original script of a preset.

    Raises
    ------
    UserError
        For a preset without an original style, or a --report-every that misses lines of the script.
    """
    if config.preset not in STYLES:
        raise UserError(f"--style original: not available for preset {config.preset}, only for {', '.join(STYLES)}")
    style = STYLES[config.preset]
    if style.every % config.report_every:
        raise UserError(
            f"--report-every: expected a divisor of {style.every} with --style original, got {config.report_every}"
        )
    return style
