"""Net: what travels of a model. That is its weights, its vocabulary, and where its texts begin and end; no more."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint
from charlstm.text.edges import Edges, known
from charlstm.text.vocabulary import ByteVocabulary, Vocabulary
from kernels import spec
from kernels.spec import LAYOUTS, LayerWeights, Shape, from_layout, to_layout

#: Names of the two texts that a file holds beside the weights: JSON, the second an object with the rest of the facts.
VOCABULARY, CONFIG = "vocabulary", "config"


@dataclass(frozen=True, eq=False)
class Net:
    """A net and its vocabulary. theta (N,) is flat, in the layout of :mod:`kernels.spec.parameters`."""

    shape: Shape
    theta: np.ndarray
    vocabulary: Vocabulary
    edges: Edges
    lower: bool = False

    @classmethod
    def of(cls, model: Checkpoint) -> "Net":
        """The net of a checkpoint."""
        return cls(model.shape, model.theta, model.vocabulary, model.edges, model.config.lower)

    @property
    def params(self) -> spec.Params:
        """The parameters by name: views of theta."""
        return spec.params(self.theta, self.shape)

    def layers(self, library: str) -> list[LayerWeights]:
        """The weights of each layer in the layout of a library.

        Raises
        ------
        UserError
            If the library has no such cell.
        """
        cell = self.shape.cell
        if cell not in LAYOUTS[library].orders:
            has = ", ".join(LAYOUTS[library].orders)
            raise UserError(f"--cell {cell}: other libraries have no such layer, so only {has} can be exported")
        return [to_layout(layer, cell, library) for layer in self.params.layers]

    @property
    def facts(self) -> dict[str, str]:
        """The vocabulary, a JSON list in the order of the ids, and the other facts, a JSON object."""
        V, H, L, cell, E = self.shape
        facts = {
            "format": "charlstm",
            "cell": cell,
            "vocab_size": V,
            "hidden_size": H,
            "num_layers": L,
            "embedding_size": E,
            "dtype": self.theta.dtype.name,
            "vocabulary_kind": self.vocabulary.kind,
            "begin": list(self.edges.begin),
            "end": list(self.edges.end),
            "lower": self.lower,
        }
        return {VOCABULARY: json.dumps(list(self.vocabulary.characters)), CONFIG: json.dumps(facts)}


def library(name: str, what: str) -> Any:
    """Import a library that a kind of file needs; `what` needs it.

    Raises
    ------
    UserError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"{what}: needs {name}: pip install 'charlstm[export]'") from None


class Parts(NamedTuple):
    """A net as a file has it: matrices that act on row vectors, layers in the layout of `library`, ids in any order."""

    library: str
    cell: str
    layers: Sequence[LayerWeights]
    W_y: np.ndarray  # (H, V)
    b_y: np.ndarray | None  # (V,)
    embedding: np.ndarray | None = None  # (V, E)


def joined(parts: Parts, facts: Mapping[str, str], characters: Sequence[str] | None, name: str) -> Net:
    """The net that the parts of a file make up.

    Parameters
    ----------
    parts : its weights, float32 or float64
    facts : as :attr:`Net.facts`, as far as the file has them
    characters : the vocabulary in the order of the ids; it replaces that of `facts`
    name : of the file, for messages

    Raises
    ------
    UserError
        If the weights do not fit together, or there is no vocabulary.
    """
    more = _object(facts.get(CONFIG, "{}"), name)
    V, layers = parts.W_y.shape[-1], [from_layout(each, parts.cell, parts.library) for each in parts.layers]
    E = 0 if parts.embedding is None else parts.embedding.shape[-1]
    shape = Shape(V, len(layers[0].W_h), len(layers), parts.cell, E)
    theta = spec.aligned_zeros(spec.num_parameters(shape), np.result_type(parts.W_y, np.float32))
    wanted = spec.params(theta, shape)
    vocabulary, order = _vocabulary(facts, more, characters, V, name)
    b_y = np.zeros(V, theta.dtype) if parts.b_y is None else parts.b_y
    given = spec.Params(tuple(layers), parts.W_y, b_y, parts.embedding)
    for view, array, what in _pairs(wanted, given):
        if view.shape != array.shape:
            raise UserError(f"{name}: {what} is {array.shape}, and the other weights ask for {view.shape}")
        view[...] = array
    for ids in (wanted.embedding if E else wanted.layers[0].W_x, wanted.W_y.T, wanted.b_y):
        ids[...] = ids[order]
    if not np.isfinite(theta).all():
        raise UserError(f"{name}: a weight is not finite")
    edges = known(more if order.tolist() == list(range(V)) else {}, vocabulary)
    return Net(shape, theta, vocabulary, edges, more.get("lower") is True)


def _pairs(wanted: spec.Params, given: spec.Params) -> Any:
    """Each view of `wanted` with the array of `given` that goes there, and its name."""
    for k, (views, arrays) in enumerate(zip(wanted.layers, given.layers, strict=True)):
        yield from zip(views, arrays, (f"{field} of layer {k}" for field in views._fields), strict=True)
    yield wanted.W_y, given.W_y, "the readout's matrix"
    yield wanted.b_y, given.b_y, "the readout's bias"
    if wanted.embedding is not None:
        yield wanted.embedding, given.embedding, "the embedding"


def _vocabulary(
    facts: Mapping[str, str], more: Mapping[str, Any], characters: Sequence[str] | None, size: int, name: str
) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary, sorted as ours are, and the file's ids in that order, (V,)."""
    if characters is None and more.get("vocabulary_kind") == "bytes" and size == len(ByteVocabulary()):
        return ByteVocabulary(), np.arange(size)
    if characters is None:
        if VOCABULARY not in facts:
            raise UserError(
                f"{name}: says nothing of its vocabulary; --vocabulary FILE gives it: a JSON list of its {size:,} "
                "characters, in the order of their ids"
            )
        characters = characters_of(facts[VOCABULARY], name)
    if len(characters) != size:
        raise UserError(f"{name}: its vocabulary has {len(characters):,} characters, and its net {size:,}")
    order = np.argsort([ord(each) for each in characters], kind="stable")
    return Vocabulary("".join(characters[k] for k in order)), order


def characters_of(text: str, name: str) -> list[str]:
    """The characters in a JSON list, in the order of their ids, or in a JSON object with their ids.

    Raises
    ------
    UserError
        If it is neither, or an entry is not one character, or occurs twice.
    """
    try:
        found = json.loads(text)
        if isinstance(found, dict):  # character: id, as in the files of char-rnn and torch-rnn
            first = min(found.values())
            found = [each for _, each in sorted((number - first, each) for each, number in found.items())]
        characters = [str(each) for each in found]
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{name}: the vocabulary is not a JSON list of characters") from None
    if odd := next((each for each in characters if len(each) != 1), None):
        raise UserError(f"{name}: the vocabulary has {odd[:40]!r}; each entry must be one character")
    if "" in characters or len(set(characters)) != len(characters):
        raise UserError(f"{name}: the vocabulary has an entry twice, or an empty one")
    return characters


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{name}: its entry {CONFIG!r} is not a JSON object") from None
