"""Reads and continues texts with a model, always from the beginning of a text: see `charlstm.text.edges`.

The ids in `begin` are read before a text, from a zero state. If there are none, the zero state itself predicts the
first character: h = 0, so its logits are the bias of the readout.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import kernels
from charlstm.errors import Diverged
from charlstm.host.machine import usable_cores
from kernels import spec
from kernels.spec import Mixture, Shape

#: Characters read in one call of the kernels; bounds the memory for a text of any length.
READ_STEPS = 512
_AT_ONCE, _ROUNDED = 8192, 8  # characters of the lines read together, whose lengths are rounded up to a multiple


def zero_state(shape: Shape, dtype: Any, streams: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """h and c (L, B, H) of B streams that have read nothing."""
    h = np.zeros((shape.num_layers, streams, shape.hidden_size), dtype)
    return h, np.zeros_like(h)


class Reader:
    """Reads a text in pieces of any length; where the pieces are cut changes the results only by rounding.

    Parameters
    ----------
    ops, theta, shape : the model; theta where the backend keeps it (host or device)
    begin : the ids to read before the text
    threads : most threads that read; None for all cores
    """

    def __init__(self, ops: Any, theta: Any, shape: Shape, begin: Sequence[int], threads: int | None = None) -> None:
        self._ops, self._theta, self._shape, self._threads = ops, theta, shape, threads or usable_cores()
        self.h, self.c = zero_state(shape, theta.dtype)  #: (L, 1, H): the state before the last id is read
        self.last: int | None = None  #: the last id, not yet read into h and c
        self._workspace: Any = None
        if len(begin):
            self.last = int(begin[0])
            self.read(np.asarray(begin[1:], np.int32))

    def read(self, ids: np.ndarray) -> np.ndarray:
        """ln p of the next ids, (n,) integers, each given all ids before it: (n,) float64, nats."""
        found = np.empty(len(ids))
        begin = 0
        if self.last is None and len(ids):
            found[0], self.last, begin = _of_first(self._theta, self._shape)[ids[0]], int(ids[0]), 1
        for at in range(begin, len(ids), READ_STEPS):
            piece = ids[at : at + READ_STEPS]
            x = np.concatenate([[self.last], piece]).astype(np.int32)[:, None]
            if len(piece) == READ_STEPS and self._workspace is None:
                self._workspace = self._ops.workspace(self._shape, READ_STEPS, 1, self._theta.dtype)
            workspace = self._workspace if len(piece) == READ_STEPS else None
            found[at : at + len(piece)] = self._ops.score(
                self._theta, self.h, self.c, x, shape=self._shape, workspace=workspace, threads=self._threads
            )[:, 0]
            self.last = int(piece[-1])
        return found


def _of_first(theta: Any, shape: Shape) -> np.ndarray:
    """ln p of every character as the first of a text that begins after nothing, (V,) float64, nats."""
    logits = np.array(spec.params(kernels.to_host(theta), shape).b_y, np.float64)
    logits -= logits.max()
    return logits - np.log(np.exp(logits).sum())


def log_probs_of_lines(
    ops: Any, theta: Any, shape: Shape, begin: Sequence[int], lines: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """ln p of the ids of many texts, (n,) float64 for each: as a :class:`Reader` gives, up to rounding.

    Texts of similar length are read side by side, in buffers that are allocated once per size.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(lines)
    order = sorted((k for k in range(len(lines)) if len(lines[k])), key=lambda k: len(lines[k]))
    workspaces: dict[tuple[int, int], Any] = {}
    while order:
        longest = -(-(len(lines[order[-1]]) + len(begin)) // _ROUNDED) * _ROUNDED
        streams = max(1, _AT_ONCE // longest)
        chosen, order = order[-streams:], order[:-streams]
        together = _side_by_side(ops, theta, shape, begin, [lines[k] for k in chosen], workspaces)
        for k, each in zip(chosen, together, strict=True):
            found[k] = each
    return found


def _side_by_side(
    ops: Any, theta: Any, shape: Shape, begin: Sequence[int], lines: list[np.ndarray], workspaces: dict[Any, Any]
) -> Iterator[np.ndarray]:
    """ln p of the ids of some texts, all read in one batch."""
    size = -(-(len(begin) + max(map(len, lines))) // _ROUNDED) * _ROUNDED + 1
    x = np.zeros((size, len(lines)), np.int32)
    x[: len(begin)] = np.array(begin, np.int32)[:, None]
    for column, line in enumerate(lines):
        x[len(begin) : len(begin) + len(line), column] = line
    out = np.empty((size, len(lines)))
    if not len(begin):
        out[0] = _of_first(theta, shape)[x[0]]
    h, c = zero_state(shape, theta.dtype, len(lines))
    for at in range(0, size - 1, READ_STEPS):
        piece = x[at : at + READ_STEPS + 1]
        key = (len(piece) - 1, len(lines))
        if key not in workspaces:
            workspaces.clear()
            workspaces[key] = ops.workspace(shape, *key, theta.dtype)
        out[at + 1 : at + len(piece)] = ops.score(
            theta, h, c, piece, shape=shape, workspace=workspaces[key], threads=usable_cores()
        )
    for column, line in enumerate(lines):
        yield out[len(begin) : len(begin) + len(line), column].copy()


class Writer:
    """Continues several texts from the same ids, which are read from a zero state.

    Parameters
    ----------
    ops, theta, shape : the model; theta where the backend keeps it (host or device)
    ids : what to read first; empty for a text that begins after nothing
    count : number of texts
    mixture : the n-gram beside the model, with a history that ends with `ids`
    """

    def __init__(
        self, ops: Any, theta: Any, shape: Shape, ids: Any, count: int = 1, mixture: Mixture | None = None
    ) -> None:
        self._ops, self._theta, self._shape, self._count = ops, theta, shape, count
        reader = Reader(ops, theta, shape, ids)
        self._h, self._c = (np.repeat(a, count, axis=1) for a in (reader.h, reader.c))
        self._last = np.full(count, ids[-1], np.int32) if len(ids) else None
        self._mixture = mixture

    def draw(self, uniforms: np.ndarray, log_probs: np.ndarray | None = None, **how: Any) -> np.ndarray:
        """Draw the next ids of all texts, (n, B) int32, one per uniform (n, B); `how`: options of the op `sample`."""
        if self._last is None and len(uniforms):
            first = self._first(uniforms[:1], None if log_probs is None else log_probs[:1], how)
            self._last = first[0]
            rest = None if log_probs is None else log_probs[1:]
            return np.concatenate([first, self.draw(uniforms[1:], rest, **how)])
        if not len(uniforms):
            return np.empty(uniforms.shape, np.int32)
        drawn = drawn_from(
            self._ops,
            self._theta,
            self._h,
            self._c,
            self._last,
            uniforms,
            shape=self._shape,
            log_probs=log_probs,
            mixture=self._mixture,
            **how,
        )
        self._last = np.ascontiguousarray(drawn[-1])
        return drawn

    def _first(self, uniforms: np.ndarray, log_probs: np.ndarray | None, how: dict[str, Any]) -> np.ndarray:
        """Draw the first ids, (1, B), with the same op, from a model whose logits are the readout's bias."""
        shape = Shape(self._shape.vocab_size, 1, 1, self._shape.cell)
        theta = np.zeros(spec.num_parameters(shape), self._theta.dtype)  # zero weights keep h at zero
        spec.params(theta, shape).b_y[...] = spec.params(kernels.to_host(self._theta), self._shape).b_y
        h, c = zero_state(shape, theta.dtype, self._count)
        none = np.zeros(self._count, np.int32)
        how = {**how, "mixture": self._mixture}
        return drawn_from(self._ops, theta, h, c, none, uniforms, shape=shape, log_probs=log_probs, **how)


def drawn_from(ops: Any, *arguments: Any, **how: Any) -> np.ndarray:
    """What the op `sample` draws.

    Raises
    ------
    Diverged
        If a logit is NaN or inf because the weights have become too large.
    """
    try:
        drawn: np.ndarray = ops.sample(*arguments, **how)
        return drawn
    except kernels.NotFinite:
        raise Diverged(
            "the model cannot sample: its weights have grown so large that no probability is finite; train again with "
            "a smaller --learning-rate"
        ) from None


def continued(
    ops: Any, theta: Any, shape: Shape, prime: Any, uniforms: Any, temperature: float, window: bool
) -> np.ndarray:
    """Continue the ids `prime` (W,) by one character for each of `uniforms` (n,); return the new ids, (n,).

    With `window`, the last W characters are read again from a zero state for each new one, as in Keras' example.
    """
    if not window:
        return Writer(ops, theta, shape, prime).draw(uniforms[:, None], temperature=temperature)[:, 0]
    drawn = np.concatenate([prime, np.empty(len(uniforms), np.int32)])
    for n, u in enumerate(uniforms, len(prime)):
        drawn[n] = continued(ops, theta, shape, drawn[n - len(prime) : n], u[None], temperature, False)[0]
    return drawn[len(prime) :]
