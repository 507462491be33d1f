"""Reads and continues texts with one net, or with several that speak together.

This always starts from the beginning of a text: see `charlstm.text.edges`.

The ids in `begin` are read before a text, from a zero state. If there are none, the zero state itself predicts the
first character: h = 0, so its logits are the bias of the readout.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

import kernels
from charlstm.errors import Diverged
from charlstm.host.machine import usable_cores
from kernels import spec
from kernels.spec import Mixture, Shape

#: Characters read in one call of the kernels; bounds the memory for a text of any length.
READ_STEPS = 512
_AT_ONCE, _ROUNDED = 8192, 8  # characters of the lines read together, whose lengths are rounded up to a multiple


#: A net: the ops of a backend, theta where it keeps it (host or device), and the sizes.
Net = tuple[Any, Any, Shape]


class Reads(Protocol):
    """What reads a text in pieces."""

    def read(self, ids: np.ndarray) -> np.ndarray:
        """ln p of the next ids, (n,) integers, each given all ids before it: (n,) float64, nats."""


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


class Together:
    """Reads a text with several nets, and gives the mean of their probabilities."""

    def __init__(self, readers: Sequence[Reads]) -> None:
        self._readers = readers

    def read(self, ids: np.ndarray) -> np.ndarray:
        """ln p of the next ids, (n,) integers, each given all ids before it: (n,) float64, nats."""
        return mean_of([reader.read(ids) for reader in self._readers])


def together(readers: Sequence[Reads]) -> Reads:
    """What reads with all of these; a single one as it is."""
    return readers[0] if len(readers) == 1 else Together(readers)


def mean_of(log_probs: Sequence[np.ndarray]) -> np.ndarray:
    """The logarithm of the mean of several nets' probabilities; those of a single net as they are."""
    if len(log_probs) == 1:
        return log_probs[0]
    found: np.ndarray = np.logaddexp.reduce(np.stack(log_probs)) - math.log(len(log_probs))
    return found


def _of_first(theta: Any, shape: Shape) -> np.ndarray:
    """ln p of every character as the first of a text that begins after nothing, (V,) float64, nats."""
    logits = np.array(spec.params(kernels.to_host(theta), shape).b_y, np.float64)
    logits -= logits.max()
    return logits - np.log(np.exp(logits).sum())


def log_probs_of_lines(nets: Sequence[Net], begin: Sequence[int], lines: Sequence[np.ndarray]) -> list[np.ndarray]:
    """ln p of the ids of many texts, (n,) float64 for each, by the mean of the nets: as they are read one by one."""
    return [mean_of(each) for each in zip(*(_of_lines(*net, begin, lines) for net in nets), strict=True)]


def _of_lines(
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
        """Draw the first ids, (1, B), from the readout's bias."""
        logits = spec.params(kernels.to_host(self._theta), self._shape).b_y
        how = {**how, "log_probs": log_probs, "mixture": self._mixture}
        return _drawn_of_logits(self._ops, logits, self._shape.cell, uniforms, **how)


def _drawn_of_logits(ops: Any, logits: np.ndarray, cell: str, uniforms: np.ndarray, **how: Any) -> np.ndarray:
    """Draw one id a stream, (1, B), with the op `sample`, from a net that gives these logits (V,) whatever it reads."""
    shape = Shape(len(logits), 1, 1, cell)
    theta = np.zeros(spec.num_parameters(shape), logits.dtype)  # zero weights keep h at zero
    spec.params(theta, shape).b_y[...] = logits
    h, c = zero_state(shape, theta.dtype, uniforms.shape[1])
    return drawn_from(ops, theta, h, c, np.zeros(uniforms.shape[1], np.int32), uniforms, shape=shape, **how)


class Writers:
    """Continues several texts with nets that speak together, as a :class:`Writer` does with one.

    The nets step in turn, and each id is drawn from the mean of their probabilities. There is no compiled loop for
    this, so it is about ten times slower than with one net.

    Parameters
    ----------
    nets : on the host
    ids, count, mixture : as for :class:`Writer`
    """

    def __init__(self, nets: Sequence[Net], ids: Any, count: int = 1, mixture: Mixture | None = None) -> None:
        self._steppers = [Stepper(*net, ids, count) for net in nets]
        self._ops, self._cell, self._mixture = nets[0][0], nets[0][2].cell, mixture
        self._last: np.ndarray | None = np.full(count, ids[-1], np.int32) if len(ids) else None

    def draw(self, uniforms: np.ndarray, log_probs: np.ndarray | None = None, **how: Any) -> np.ndarray:
        """Draw the next ids of all texts, (n, B) int32, one per uniform (n, B); `how`: options of the op `sample`."""
        drawn = np.empty(uniforms.shape, np.int32)
        for n in range(len(uniforms)):
            logits = mean_of([stepper.log_probs(self._last) for stepper in self._steppers])
            for k, of_stream in enumerate(logits):
                one, out = slice(k, k + 1), None if log_probs is None else log_probs[n : n + 1, k : k + 1].copy()
                own = None if self._mixture is None else self._mixture._replace(history=self._mixture.history[one])
                drawn[n, k] = _drawn_of_logits(
                    self._ops, of_stream, self._cell, uniforms[n : n + 1, one], log_probs=out, mixture=own, **how
                )[0, 0]
                if log_probs is not None and out is not None:
                    log_probs[n, k] = out[0, 0]
            self._last = drawn[n].copy()
        return drawn


class Stepper:
    """Reads B texts with one net, an id of each at a time, and gives the distribution of the next.

    Parameters
    ----------
    ops, theta, shape : the net, on the host
    ids : what is read first; the last of them by the first step
    count : B
    """

    def __init__(self, ops: Any, theta: np.ndarray, shape: Shape, ids: Any, count: int) -> None:
        reader, cell = Reader(ops, theta, shape, ids), spec.CELLS[shape.cell]
        self._forward = getattr(ops, f"{shape.cell}_forward")
        self._params = spec.params(theta, shape)
        self._W_y, self._b_y = (each.astype(np.float64) for each in (self._params.W_y, self._params.b_y))
        states = (reader.h, reader.c) if cell.has_c else (reader.h,)
        self._states = [[np.repeat(each[k], count, axis=0) for each in states] for k in range(shape.num_layers)]

    def log_probs(self, last: np.ndarray | None) -> np.ndarray:
        """ln p of each next id, (B, V) float64, after `last` (B,) int32; None: at the beginning of a text."""
        if last is not None:
            below = last[None] if self._params.embedding is None else self._params.embedding[last][None]
            for k, layer in enumerate(self._params.layers):
                *states, _ = self._forward(below, *self._states[k], *layer)
                self._states[k] = [np.ascontiguousarray(each[-1]) for each in states]
                below = self._states[k][0][None]
        # not by BLAS, whose last bits may depend on the number of its threads
        logits: np.ndarray = np.einsum("bh,hv->bv", self._states[-1][0], self._W_y) + self._b_y
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def writer_of(nets: Sequence[Net], ids: Any, count: int = 1, mixture: Mixture | None = None) -> Writer | Writers:
    """What continues texts with these nets."""
    return Writer(*nets[0], ids, count, mixture) if len(nets) == 1 else Writers(nets, ids, count, mixture)


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


def continued(nets: Sequence[Net], prime: Any, uniforms: Any, temperature: float, window: bool) -> np.ndarray:
    """Continue the ids `prime` (W,) by one character for each of `uniforms` (n,); return the new ids, (n,).

    With `window`, the last W characters are read again from a zero state for each new one, as in Keras' example.
    """
    if not window:
        return writer_of(nets, prime).draw(uniforms[:, None], temperature=temperature)[:, 0]
    drawn = np.concatenate([prime, np.empty(len(uniforms), np.int32)])
    for n, u in enumerate(uniforms, len(prime)):
        drawn[n] = continued(nets, drawn[n - len(prime) : n], u[None], temperature, False)[0]
    return drawn[len(prime) :]
