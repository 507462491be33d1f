"""Ids -> streams: which characters each training iteration reads.

A text of M ids is cut into B streams of M // B ids. Iteration n reads seq_length (T) inputs of every stream, and the
same moved on by one as targets, then moves on by T; state is carried from one to the next. When no whole sequence is
left the streams begin again, with the state at zero, as in min-char-lstm. So the position follows from n alone.
"""

from dataclasses import dataclass

import numpy as np

from charlstm.errors import UserError


@dataclass(frozen=True)
class Streams:
    """The plan of stateful truncated backpropagation through time over a text of `num_ids` ids.

    Raises
    ------
    UserError
        If a stream would hold less than two sequences, saying what would fit.
    """

    num_ids: int
    seq_length: int
    batch_size: int

    def __post_init__(self) -> None:
        needed = 2 * self.seq_length + 2
        if self.stream_length < needed:
            fits = self.num_ids // needed
            way_out = f"--batch-size {fits} fits" if fits else "a smaller --seq-length may fit"
            raise UserError(
                f"the text has {self.num_ids:,} characters, too few for {self.batch_size} streams of two sequences of "
                f"{self.seq_length} (at least {needed * self.batch_size:,}): {way_out}"
            )

    @property
    def stream_length(self) -> int:
        """Ids in a stream."""
        return self.num_ids // self.batch_size

    @property
    def iterations_per_pass(self) -> int:
        """Iterations until the streams begin again."""
        return (self.stream_length - self.seq_length - 2) // self.seq_length + 1

    def plan(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """For iterations begin to end - 1: starts (n, B) int64 and reset (n,) bool, for train_steps."""
        turn = np.arange(begin, end) % self.iterations_per_pass
        starts = (turn * self.seq_length)[:, None] + np.arange(self.batch_size) * self.stream_length
        return np.ascontiguousarray(starts, np.int64), turn == 0
