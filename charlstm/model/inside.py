"""What happens inside a model while it reads: its units, its gates, and how far back the gradient reaches.

A unit is one element of the state of one layer. What it remembers is shown as h or, for the LSTMs, as what the output
gate lets through: tanh(c), or tanh(n) of the layer-normalised one. All lie between -1 and 1. Everything is computed
with the reference kernels, which need no compilation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import kernels
from charlstm.model.checkpoint import Checkpoint
from kernels import spec
from kernels.spec import CELLS, Shape

#: Names of the gates of each cell, in the order of their columns; the last activation of `tanh` gates is tanh.
GATES = {"lstm": "ifgo", "lnlstm": "ifgo", "gru": "rzn", "rnn": "h"}
TANH = "gnh"
#: The gate that multiplies what a unit remembers at each step, by kind of cell; an RNN has none.
KEEPS = {"lstm": "f", "lnlstm": "f", "gru": "z"}
LEAST = 0.1  #: a unit with a weaker correlation is not named
NEAR = 0.1  #: an activation within this distance of its limits is saturated
_STREAMS, _WARM_UP = 16, 64  # pieces of a text read side by side, and the part of each that is not counted
_STEPS, _STEP_WORK = (128, 512), 1.5e9  # least and greatest length of a piece, and parameters read in all its steps
_PIECE = 64  # steps whose activations are in memory at once
_BACK, _BACK_WORK = (50, 200), 6e8  # the same of the steps that the gradient is followed back
_BACK_STREAMS = 8  # streams over which it is averaged
_TINY = 1e-12
_MAX_TAU = 1e6
_MAX_POSITION = 200


class Read(NamedTuple):
    """One layer's activations over T steps and B streams."""

    remembered: np.ndarray  #: (T, B, H), between -1 and 1
    gates: np.ndarray  #: (T, B, G H), the activated gates; for an RNN h itself


class Network:
    """A model that is read step by step, with the state of B streams that begin where texts begin.

    Parameters
    ----------
    model : Checkpoint
    streams : B
    dtype : of all arrays
    """

    def __init__(self, model: Checkpoint, streams: int, dtype: str = "float32") -> None:
        self.shape: Shape = model.shape
        self.params = spec.params(model.theta.astype(dtype), model.shape)
        self._ops: Any = kernels.load("numpy")
        self._has_c = CELLS[self.shape.cell].has_c
        self.state = [
            [np.zeros((streams, self.shape.hidden_size), dtype) for _ in range(1 + self._has_c)]
            for _ in range(self.shape.num_layers)
        ]
        self._grads: list[Any] = [None] * self.shape.num_layers  # buffers, used again in each step
        for each in model.edges.begin:
            self.read(np.full((1, streams), each, np.int32))

    def read(self, x: np.ndarray) -> list[Any]:
        """Read ids (T, B) int32; return the cache of each layer, as the backward ops take it."""
        below = x if self.params.embedding is None else self.params.embedding[x]
        caches = []
        for k, layer in enumerate(self.params.layers):
            *states, cache = self._op("forward")(below, *self.state[k], *layer)
            self.state[k] = [each[-1] for each in states]
            caches.append(cache)
            below = states[0][1:]
        return caches

    def logits(self) -> np.ndarray:
        """The logits (B, V) of the next id."""
        found: np.ndarray = self.state[-1][0] @ self.params.W_y + self.params.b_y
        return found

    def activations(self, cache: Any) -> Read:
        """What the units of a layer did, from its cache."""
        remembered = cache.h[1:]
        if self._has_c:
            c = cache.c[1:]
            if self.shape.cell == "lnlstm":
                centred = c - c.mean(axis=-1, keepdims=True)
                deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + spec.LAYER_NORM_EPSILON)
                c = cache.gain_c * centred / deviation + cache.b_c
            remembered = np.tanh(c)
        gates = getattr(cache, "gates", None)
        gates = cache.h[1:] if gates is None else gates[0] if gates.ndim == 4 else gates
        return Read(remembered, gates)

    def backward(self, caches: Sequence[Any], dh: np.ndarray, carried: list[list[Any]], cut: bool) -> np.ndarray:
        """Take the gradient one step back; `carried` holds those of each layer's states, and is updated.

        Parameters
        ----------
        caches : of one step
        dh : (B, H), gradient of what stands above the last layer at this step
        carried : for each layer, the gradients (B, H) of its h and, if it has one, c, after this step
        cut : whether to cut the path through the cell state

        Returns
        -------
        norms : (2, B), Euclidean norms over all layers of the gradients of h and of c after this step
        """
        squares = np.zeros((2, len(dh)))
        for k in reversed(range(len(caches))):
            own = [carried[k][0] + dh, *(np.zeros_like(each) if cut else each for each in carried[k][1:])]
            for kind, each in enumerate(own):
                squares[kind] += (each**2).sum(axis=1)
            found = self._op("backward")(np.zeros_like(dh)[None], caches[k], *own, out=self._grads[k])
            self._grads[k] = found  # which may be the arrays of `own`, written over
            carried[k] = [found.dh0, *([found.dc0] if self._has_c else [])]
            dh = np.zeros_like(dh) if found.dx is None or k == 0 else found.dx[0]
        return np.sqrt(squares)

    def _op(self, which: str) -> Callable[..., Any]:
        op: Callable[..., Any] = getattr(self._ops, f"{self.shape.cell}_{which}")
        return op


def passage(model: Checkpoint, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each unit remembers after each id, (n, L H) float32, and the surprise of each id, (n,) float64, in bits."""
    network = Network(model, 1)
    units, bits = [], []
    for each in ids:
        logits = network.logits()[0].astype(np.float64)
        if not np.isfinite(logits).all():
            logits[:] = 0.0  # as uninformed as a model can be
        bits.append(np.log2(np.exp(logits - logits.max()).sum()) + (logits.max() - logits[each]) / math.log(2))
        caches = network.read(np.array([[each]], np.int32))
        units.append(np.concatenate([network.activations(cache).remembered[0, 0] for cache in caches]))
    return np.array(units, np.float32).reshape(len(ids), model.shape.num_layers * model.shape.hidden_size), np.array(
        bits
    )


@dataclass(frozen=True)
class Saturation:
    """How often each unit's gate is near its limits: below 0.1 and above 0.9; for tanh below -0.9 and above 0.9."""

    layer: int
    gate: str
    low: np.ndarray  #: (H,), fractions of all steps
    high: np.ndarray


@dataclass(frozen=True)
class Telling:
    """Units whose memory goes with a property of the text: (layer, unit, correlation), the strongest first."""

    feature: str
    units: list[tuple[int, int, float]]


@dataclass(frozen=True)
class Inside:
    """What was found while reading `chars` characters."""

    chars: int
    gates: list[Saturation]
    constants: list[np.ndarray]  #: for each layer (H,), characters over which a unit forgets to 1/e; empty for an RNN
    telling: list[Telling]


def look_inside(model: Checkpoint, ids: np.ndarray, best: int = 4) -> Inside:
    """Read a text, up to 8,192 ids (fewer for nets above 3 million parameters), and measure gates and units.

    Parameters
    ----------
    model : Checkpoint
    ids : (M,), the text, at least two ids
    best : number of units to name for each property of the text
    """
    x, warm_up = _streams(ids, len(model.theta))
    steps, streams = x.shape
    features = features_of(as_characters(model, ids[: steps * streams]))
    shaped = {name: values.reshape(streams, steps).T[warm_up:] for name, values in features.items()}
    network = Network(model, streams)
    names = GATES[model.shape.cell]
    sums = [_Sums(len(names), model.shape.hidden_size, len(shaped)) for _ in range(model.shape.num_layers)]
    network.read(x[:warm_up])
    for at in range(warm_up, steps, _PIECE):
        piece = np.array([values[at - warm_up : at - warm_up + _PIECE].ravel() for values in shaped.values()])
        for total, cache in zip(sums, network.read(x[at : at + _PIECE]), strict=True):
            total.add(network.activations(cache), names, KEEPS.get(model.shape.cell), piece)
    return Inside(
        (steps - warm_up) * streams,
        [
            Saturation(layer, name, total.low[k] / total.count, total.high[k] / total.count)
            for layer, total in enumerate(sums)
            for k, name in enumerate(names)
        ],
        [total.constants() for total in sums] if model.shape.cell in KEEPS else [],
        _telling(list(shaped), sums, best),
    )


class _Sums:
    """Sums over the steps and streams of one layer."""

    def __init__(self, gates: int, units: int, features: int) -> None:
        self.count = 0
        self.low, self.high = np.zeros((gates, units)), np.zeros((gates, units))
        self.log_kept = np.zeros(units)
        self.of_units, self.of_squares = np.zeros(units), np.zeros(units)
        self.of_features, self.of_feature_squares = np.zeros(features), np.zeros(features)
        self.of_products = np.zeros((features, units))

    def add(self, read: Read, names: str, keeps: str | None, features: np.ndarray) -> None:
        """Add a piece of a text with its features, (F, T B)."""
        u = read.remembered.reshape(-1, read.remembered.shape[-1]).astype(np.float64)
        gates = read.gates.reshape(len(u), len(names), -1)
        self.count += len(u)
        for k, name in enumerate(names):
            self.low[k] += (gates[:, k] < (NEAR - 1 if name in TANH else NEAR)).sum(axis=0)
            self.high[k] += (gates[:, k] > 1 - NEAR).sum(axis=0)
            if name == keeps:
                self.log_kept += np.log(np.maximum(gates[:, k].astype(np.float64), _TINY)).sum(axis=0)
        self.of_units += u.sum(axis=0)
        self.of_squares += (u**2).sum(axis=0)
        self.of_features += features.sum(axis=1)
        self.of_feature_squares += (features**2).sum(axis=1)
        self.of_products += features @ u

    def constants(self) -> np.ndarray:
        """-1 / mean ln f of each unit: the characters after which 1/e of what it remembers is left."""
        return -1 / np.minimum(np.nan_to_num(self.log_kept / self.count), -1 / _MAX_TAU)

    def varying(self) -> np.ndarray:
        """Which features are not the same all the time, (F,) bool."""
        found: np.ndarray = self.count * self.of_feature_squares > self.of_features**2
        return found

    def correlations(self) -> np.ndarray:
        """Pearson's correlation of each feature with each unit, (F, H); 0 where either does not vary."""
        n = self.count
        units = np.sqrt(np.maximum(n * self.of_squares - self.of_units**2, 0))
        features = np.sqrt(np.maximum(n * self.of_feature_squares - self.of_features**2, 0))
        scale = np.outer(features, units)
        covariance = n * self.of_products - np.outer(self.of_features, self.of_units)
        return np.nan_to_num(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > _TINY * n))


def _telling(names: list[str], sums: list[_Sums], best: int) -> list[Telling]:
    """For each feature that varies, the units that go with it most."""
    names = [name for name, varies in zip(names, sums[0].varying(), strict=True) if varies]
    all_layers = np.stack([total.correlations()[total.varying()] for total in sums], axis=1)  # (F, L, H)
    found = []
    for name, of_units in zip(names, all_layers, strict=True):
        order = np.argsort(-np.abs(of_units), axis=None, kind="stable")[:best]
        places = [divmod(int(each), of_units.shape[1]) for each in order]
        chosen = [(layer, unit, float(of_units[layer, unit])) for layer, unit in places]
        found.append(Telling(name, [each for each in chosen if abs(each[2]) >= LEAST]))
    return found


def _streams(ids: np.ndarray, parameters: int) -> tuple[np.ndarray, int]:
    """A text cut into pieces that are read side by side, (T, B) int32, and the steps that only warm up the state."""
    streams = max(1, min(_STREAMS, len(ids) // (2 * _WARM_UP)))
    steps = min(_within(_STEPS, _STEP_WORK / parameters), len(ids) // streams)
    x = np.array(ids[: steps * streams], np.int32).reshape(streams, steps).T
    return np.ascontiguousarray(x), min(_WARM_UP, steps // 4)


def _within(limits: tuple[int, int], wanted: float) -> int:
    return int(min(max(wanted, limits[0]), limits[1]))


def as_characters(model: Checkpoint, ids: np.ndarray) -> str:
    """One character for each id; bytes that are not ASCII count as letters."""
    if model.vocabulary.unit == "byte":
        return "".join(chr(each) if each < 128 else "a" for each in ids.tolist())
    return model.vocabulary.decode(ids)


def features_of(text: str) -> dict[str, np.ndarray]:
    """Properties of a text after each of its characters, (n,) float64 each.

    Quotes and brackets left open end with the paragraph.
    """
    rows = np.zeros((len(text), 6))
    position = indent = depth = 0
    is_quoted, is_indenting, before = False, True, "\n"
    for k, character in enumerate(text):
        if character == "\n":
            position, indent, is_indenting = 0, 0, True
            if before == "\n":
                depth, is_quoted = 0, False
        else:
            position += 1
            is_indenting = is_indenting and character in " \t"
            indent += is_indenting
            is_quoted = not is_quoted if character == '"' else character == "“" or (is_quoted and character != "”")
            depth = max(0, depth + (character in "([{") - (character in ")]}"))
        is_start = character.isalnum() and not before.isalnum()
        rows[k] = min(position, _MAX_POSITION), is_quoted, indent, character.isupper(), is_start, depth
        before = character
    names = ("line position", "inside quotes", "indentation", "capitals", "word starts", "brackets")
    return dict(zip(names, rows.T, strict=True))


@dataclass(frozen=True)
class Reach:
    """How large the gradient of one prediction's loss is, by how many steps back: geometric means over streams."""

    h: np.ndarray  #: (K,), norm of d loss / d h[t-k], k = 0, 1, ...
    c: np.ndarray | None  #: the same of the cell state, if there is one
    cut: np.ndarray | None  #: as h, with the path through the cell state cut


def gradient_reach(model: Checkpoint, ids: np.ndarray) -> Reach | None:
    """Follow the gradient of the loss of single predictions back through 200 steps (for nets above 3 million, fewer).

    Parameters
    ----------
    model : Checkpoint
    ids : (M,), the text; None is returned if it is too short for two steps, or if the model's logits are not finite
    """
    x, warm_up = _streams(ids, len(model.theta))
    x = np.ascontiguousarray(x[:, :_BACK_STREAMS])
    back = min(_within(_BACK, _BACK_WORK / len(model.theta)), len(x) - 1 - warm_up)
    if back < 2:
        return None
    network = Network(model, x.shape[1], "float64")
    network.read(x[:warm_up])
    caches = [network.read(x[at : at + 1]) for at in range(warm_up, warm_up + back)]
    logits = network.logits()
    if not np.isfinite(logits).all():
        return None
    target = x[warm_up + back][None]
    _, dlogits = kernels.load("numpy").softmax_cross_entropy(logits[None], target)
    dh = dlogits[0] @ network.params.W_y.T
    whole = _followed(network, caches, dh, False)
    if not CELLS[model.shape.cell].has_c:
        return Reach(whole[:, 0], None, None)
    return Reach(whole[:, 0], whole[:, 1], _followed(network, caches, dh, True)[:, 0])


def _followed(network: Network, caches: list[list[Any]], dh: np.ndarray, cut: bool) -> np.ndarray:
    """The geometric means of the norms of the gradients of h and c, (K, 2), the last step first."""
    carried = [[np.zeros_like(each) for each in states] for states in network.state]
    norms = []
    for step in reversed(caches):
        norms.append(network.backward(step, dh, carried, cut))
        dh = np.zeros_like(dh)
    with np.errstate(divide="ignore"):
        found: np.ndarray = np.exp(np.log(np.array(norms)).mean(axis=2))
    return found
