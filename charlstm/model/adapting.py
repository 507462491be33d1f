"""Dynamic evaluation: a net that goes on learning from the text that it reads.

After each segment of 16 characters, whose probabilities count as they were, the weights move against its gradient g:

    theta <- theta - step g / (sqrt(m) + floor)

m is the mean square of the gradients: of segments that the model wrote itself at first, which estimates the diagonal of
its Fisher information without the training text, and then of those that it read, too. The floor is a fraction of the
root mean square of all parameters. Source: Krause, Kahembwe, Murray and Renals 2018, Dynamic evaluation of neural
sequence models, section 5, where m comes from the training text, and weights decay towards their first values, which
did not help here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from charlstm.model import forward
from kernels.spec import Shape

SEGMENT, STEP = 16, 1e-3  #: characters between two updates, and the size of an update
_FLOOR = 0.01
_WRITTEN = 256  # segments that the model writes for m


class AdaptingReader:
    """Reads a text as :class:`charlstm.model.forward.Reader` does, and learns from it after each segment.

    Segments are counted from the beginning of the text, so where its pieces are cut changes only rounding.

    Parameters
    ----------
    ops, theta, shape : the model, in host memory; theta is copied
    begin : the ids to read before the text
    """

    def __init__(self, ops: Any, theta: np.ndarray, shape: Shape, begin: Sequence[int]) -> None:
        self._ops, self._shape = ops, shape
        self.theta = theta.copy()  #: as adapted so far
        self._reader = forward.Reader(ops, self.theta, shape, begin)
        self._segment: list[int] = []
        self._before = self._state()
        self._squares, self._count = np.zeros(len(theta)), 0
        self._write(begin)

    def _state(self) -> tuple[np.ndarray, np.ndarray, int | None]:
        """The state before the next segment, and the id that it reads first."""
        return self._reader.h.copy(), self._reader.c.copy(), self._reader.last

    def _write(self, begin: Sequence[int]) -> None:
        """Let the model write segments, and take the mean square of their gradients."""
        random = np.random.RandomState(0)
        writer = forward.Writer(self._ops, self.theta, self._shape, begin)
        text = writer.draw(random.random_sample((SEGMENT * _WRITTEN + 1, 1)))
        h, c = forward.zero_state(self._shape, self.theta.dtype)
        for at in range(0, SEGMENT * _WRITTEN, SEGMENT):
            _, grad, h, c = self._ops.loss_and_grad(self.theta, h, c, text[at : at + SEGMENT + 1], shape=self._shape)
            self._add(grad)

    def _add(self, grad: np.ndarray) -> np.ndarray:
        grad = grad.astype(np.float64) / SEGMENT
        self._squares += grad * grad
        self._count += 1
        return grad

    def read(self, ids: np.ndarray) -> np.ndarray:
        """ln p of the next ids, (n,) float64, each as the model had it before its segment was learned."""
        found, at = np.empty(len(ids)), 0
        while at < len(ids):
            piece = ids[at : at + SEGMENT - len(self._segment)]
            found[at : at + len(piece)] = self._reader.read(piece)
            self._segment += piece.tolist()
            at += len(piece)
            if len(self._segment) == SEGMENT:
                self._learn()
        return found

    def _learn(self) -> None:
        """Learn from the segment that was read."""
        h, c, last = self._before
        x = np.array(self._segment if last is None else [last, *self._segment], np.int32)[:, None]
        _, grad, *_ = self._ops.loss_and_grad(self.theta, h, c, x, shape=self._shape)
        grad = self._add(grad)
        means = self._squares / self._count
        grad /= np.sqrt(means) + _FLOOR * np.sqrt(means.mean())
        self.theta -= (STEP * grad).astype(self.theta.dtype)
        self._segment, self._before = [], self._state()
