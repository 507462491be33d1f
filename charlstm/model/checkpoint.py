"""Checkpoint: the complete state of a run at one iteration, as one value and as one file.

The file is in the safetensors format, which holds no code: tensors (parameters by name, optimizer state, h and c, the
random generator's key) and one JSON text with everything else. The JSON begins with the SHA-256 of the whole file,
computed with the digest's own 64 characters set to zeros; a file that does not match is refused. (There is one JSON
text because safetensors writes several in a varying order; with one, the same state always gives the same bytes.)
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from charlstm.errors import UserError
from charlstm.model.memory import Memory, Voice, split
from charlstm.ngram.beside import NGram, digest
from charlstm.settings.config import Config
from charlstm.text.corpus import ByteVocabulary, Vocabulary
from charlstm.text.edges import Edges, known
from kernels import spec
from kernels.spec import Shape

FORMAT_VERSION = 2  #: that is written; older ones are read, too: 1 had one net
NGRAM = "ngram.safetensors"  #: the file of the n-gram, in the run folder
_BLANK = "0" * 64
_DIGEST = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')


@dataclass(repr=False)
class Checkpoint:
    """Everything that sampling needs, and everything that training needs to resume exactly. It does neither itself.

    theta (N,), state (S, N), h and c (L, B, H): see kernels.spec. Those of several nets are joined along the last axis,
    see :mod:`charlstm.model.memory`; `voices` are those that speak. `iteration` is the number of updates made,
    `seconds` the training time, `smooth_loss` is in nats per sequence, `loss_sum` and `loss_count` give the mean of the
    next line of metrics.jsonl, `files` are the lengths of the run's text files at this moment, `marks` the best losses
    so far (see :class:`charlstm.training.marks.Marks`), and `machine` what the exact bits depend on: processor,
    versions and backend. `mix` names the n-gram beside the net: the `digest` of its file, its default `weight`, and, if
    text was held out, the bits per id of `net`, `ngram` and `mixture`; it is empty without an n-gram. `each` has, of
    several nets, the held-out `bits` per id of each by itself; it is empty without an evaluation. `average` (N,) is
    the mean of the weights over the last part of the run, which speaks instead of theta: see
    :mod:`charlstm.training.averages`.
    """

    config: Config
    vocabulary: Vocabulary
    theta: np.ndarray
    state: np.ndarray
    h: np.ndarray
    c: np.ndarray
    random_state: tuple[Any, ...]
    iteration: int
    position: int
    seconds: float
    smooth_loss: float
    loss_sum: float
    loss_count: int
    corpus: dict[str, Any]
    files: dict[str, int] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    mix: dict[str, Any] = field(default_factory=dict)
    each: dict[str, list[float]] = field(default_factory=dict)
    average: np.ndarray | None = None
    remainders: np.ndarray | None = None  #: of gradients that travel as bfloat16: see charlstm.training.halves
    folder: Path | None = None  #: of the file that it was read from; not in the file
    ngram_fault: str = ""  #: why the n-gram that it names cannot be used; set when `ngram` is first read

    def __repr__(self) -> str:
        config, name = self.config, self.corpus.get("name", "text")
        return (
            f"<{type(self).__name__} of {name}: {config.net_in_words}, "
            f"{len(self.vocabulary):,} {self.vocabulary.kind}, {self.iteration:,} iterations>"
        )

    @property
    def edges(self) -> Edges:
        """The ids that a text begins after, and those that end a text."""
        return known(self.corpus, self.vocabulary)

    @cached_property
    def ngram(self) -> NGram | None:
        """The n-gram beside the net, read from the run folder; None without one, and `ngram_fault` says why."""
        if not self.mix:
            return None
        folder = self.folder or Path()
        if folder.name == "checkpoints" and not (folder / NGRAM).is_file():
            folder = folder.parent
        try:
            return read_ngram(folder / NGRAM, self.mix["digest"])
        except UserError as error:
            self.ngram_fault = str(error)
            return None

    @property
    def shape(self) -> Shape:
        """The sizes of the first net."""
        return shape_of(self.config, len(self.vocabulary))

    @property
    def memories(self) -> list[Memory]:
        """The arrays of each net."""
        return split(Memory(self.theta, self.state, self.h, self.c), shapes_of(self.config, len(self.vocabulary)))

    @property
    def averages(self) -> list[np.ndarray | None]:
        """The mean weights of each net; None without."""
        if self.average is None:
            return [None] * len(self.config.nets)
        return [each.theta for each in replace(self, theta=self.average).memories]

    @property
    def voices(self) -> list[Voice]:
        """The nets that speak, by the mean of their probabilities; of several seeds the best one."""
        shapes = shapes_of(self.config, len(self.vocabulary))
        nets = zip(self.memories, self.averages, shapes, strict=True)
        found = [Voice(each.theta if mean is None else mean, shape) for each, mean, shape in nets]
        return [found[place] for place in speaking(self.config, self.each)]

    def alone(self, number: int = 1) -> Self:
        """One of the nets that speak, the first unless `number` says otherwise, without the others and the n-gram.

        Raises
        ------
        UserError
            If there is no such net.
        """
        places = speaking(self.config, self.each)
        if not 1 <= number <= len(places):
            raise UserError(f"--member: expected 1 to {len(places)}, as many as speak together, got {number}")
        place = places[number - 1]
        config, memory = self.config.nets[place], self.memories[place]._replace(theta=self.voices[number - 1].theta)
        return replace(self, config=config, mix={}, each={}, average=None, **memory._asdict())

    def to_bytes(self) -> bytes:
        """The content of the checkpoint file."""
        from safetensors.numpy import save

        kind, key, place, has_gauss, gauss = self.random_state
        shapes = shapes_of(self.config, len(self.vocabulary))
        tensors = dict(_named(self.theta, shapes)) | {"optimizer": self.state, "h": self.h, "c": self.c}
        tensors["random_key"] = np.asarray(key, np.uint32)
        tensors |= {name: array for name in _OPTIONAL if (array := getattr(self, name)) is not None}
        rest = {
            "sha256": _BLANK,  # first, so that a later string that looks like a digest cannot be mistaken for it
            "format_version": FORMAT_VERSION,
            "config": asdict(self.config),
            "vocabulary": self.vocabulary.characters,
            "vocabulary_kind": self.vocabulary.kind,
            "random": [kind, int(place), int(has_gauss), float(gauss)],
            **{name: getattr(self, name) for name in (*_PLAIN, *_LATER)},
        }
        contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        data = save(contiguous, {"charlstm": json.dumps(rest)})
        place = _digest_place(data)
        return data[: place.start] + hashlib.sha256(data).hexdigest().encode() + data[place.stop :]

    @classmethod
    def from_file(cls, file: Path) -> Self:
        """Read one checkpoint file.

        Raises
        ------
        UserError
                If the file is missing, damaged or not a checkpoint.
        """
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
        found = cls.from_bytes(data, str(file))
        found.folder = file.parent
        return found

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Read the content of a checkpoint file; `name` is used in messages.

        Raises
        ------
        UserError
            Unless the content is an undamaged checkpoint in a format that this version reads.
        """
        rest = _text(data, name)
        version = rest.get("format_version")
        if version not in range(1, FORMAT_VERSION + 1):
            raise UserError(f"{name}: written in format {version}; this version of charlstm reads {FORMAT_VERSION}")
        place = _digest_place(data)
        blanked = hashlib.sha256(data[: place.start] + _BLANK.encode() + data[place.stop :])
        if blanked.hexdigest().encode() != data[place]:
            raise UserError(f"{name}: damaged: its content does not match its SHA-256")
        from safetensors import SafetensorError

        try:
            return cls._from_parts(data, rest)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, SafetensorError) as error:
            raise UserError(f"{name}: undamaged, but not readable by this version of charlstm: {error}") from None

    @classmethod
    def _from_parts(cls, data: bytes, rest: dict[str, Any]) -> Self:
        """Build the checkpoint from an undamaged file."""
        from safetensors.numpy import load

        tensors = load(data)
        config, is_bytes = Config(**{**_BEFORE, **rest["config"]}), rest.get("vocabulary_kind") == "bytes"
        vocabulary = ByteVocabulary() if is_bytes else Vocabulary(rest["vocabulary"])
        kind, place, has_gauss, gauss = rest["random"]
        shapes = shapes_of(config, len(vocabulary))
        if (count := sum(map(spec.num_parameters, shapes))) > len(data):
            raise ValueError("it has fewer bytes than the model has parameters")
        theta = spec.aligned_zeros(count, config.real)
        for block, view in _named(theta, shapes):
            _fill(view, tensors[block], block)
        state = spec.aligned_zeros((spec.slots(config.optimizer, config.hyper), len(theta)), config.real)
        _fill(state, tensors["optimizer"], "optimizer")
        units = sum(shape.hidden_size for shape in shapes)
        h, c = (np.empty((config.num_layers, config.batch_size, units), config.real) for _ in "hc")
        _fill(h, tensors["h"], "h")
        _fill(c, tensors["c"], "c")
        random_state = (kind, tensors["random_key"], place, has_gauss, gauss)
        np.random.RandomState().set_state(random_state)  # raises ValueError now rather than when it is needed
        plain = {item: rest[item] for item in _PLAIN} | {item: rest.get(item, {}) for item in _LATER}
        for item, kind in {**_PLAIN, **_LATER}.items():
            if not isinstance(plain[item], kind) or (kind is int and plain[item] < 0):
                raise TypeError(f"{item} is {plain[item]!r}")
        speaking(config, plain["each"])  # raises ValueError now rather than when it is needed
        known(plain["corpus"], vocabulary)  # raises ValueError now rather than when it is needed
        optional: dict[str, Any] = {name: tensors.get(name) for name in _OPTIONAL}
        if (average := optional["average"]) is not None:
            optional["average"] = np.empty_like(theta)
            _fill(optional["average"], average, "average")
        return cls(config, vocabulary, theta, state, h, c, random_state, **plain, **optional)


def read_ngram(path: Path, named: str) -> NGram:
    """Read the n-gram with this digest.

    Raises
    ------
    UserError
        If the file is missing, or is another one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if digest(data) != named:
        raise UserError(f"{path}: not the n-gram that the checkpoint names, or damaged")
    return NGram.from_bytes(data, str(path))


def shape_of(config: Config, vocab_size: int) -> Shape:
    """The sizes of the model that a config describes."""
    return Shape(vocab_size, config.hidden_size, config.num_layers, config.cell, config.embedding_size or 0)


def shapes_of(config: Config, vocab_size: int) -> list[Shape]:
    """The sizes of each net of a run."""
    return [shape_of(each, vocab_size) for each in config.nets]


def speaking(config: Config, each: dict[str, list[float]]) -> list[int]:
    """The places of the nets that speak: of several seeds the best one, the first before any evaluation; else all."""
    count, bits = len(config.nets), each.get("bits", [])
    if bits and len(bits) != count:
        raise ValueError(f"each has {len(bits)} figures of {count} nets")
    return list(range(count)) if config.seeds == 1 else [int(np.argmin(bits)) if bits else 0]


def _named(theta: np.ndarray, shapes: Sequence[Shape]) -> Iterator[tuple[str, np.ndarray]]:
    """The blocks of theta by name: views. From the second net on, ``net2.`` and so on stand before the name."""
    begin = 0
    for number, shape in enumerate(shapes, 1):
        end = begin + spec.num_parameters(shape)
        for name, view in spec.named(theta[begin:end], shape).items():
            yield (name if number == 1 else f"net{number}.{name}"), view
        begin = end


def _fill(array: np.ndarray, tensor: np.ndarray, name: str) -> None:
    if tensor.shape != array.shape:
        raise ValueError(f"{name} has the shape {tensor.shape}, not {array.shape}")
    if tensor.dtype != array.dtype:
        raise ValueError(f"{name} is {tensor.dtype}, not {array.dtype}")
    array[...] = tensor


#: Options missing from the oldest files whose default has changed since, with the value they had then.
_BEFORE: dict[str, Any] = {
    "reset_every": 0, "dtype": "float32", "embedding_size": 0, "mix": 0.0, "documents": "texts", "average": 0.0
}  # fmt: skip
_PLAIN: dict[str, Any] = {
    "iteration": int, "position": int, "seconds": int | float, "smooth_loss": int | float, "loss_sum": int | float,
    "loss_count": int, "corpus": dict, "files": dict,
}  # fmt: skip
_OPTIONAL = ("average", "remainders")  # arrays that only some runs have
_LATER: dict[str, Any] = {"marks": dict, "machine": dict, "mix": dict, "each": dict}  # missing from the oldest files


def _text(data: bytes, name: str) -> dict[str, Any]:
    """The JSON text of a safetensors file written by charlstm."""
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(data[8 : 8 + length].decode())["__metadata__"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{name}: not a checkpoint, or a damaged one") from None
    try:
        return dict(json.loads(metadata["charlstm"]))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{name}: a safetensors file, but not written by charlstm, or damaged") from None


def _digest_place(data: bytes) -> slice:
    """The place of the digest's 64 characters; an empty slice if a file has none."""
    found = _DIGEST.search(data)
    return slice(*found.span(1)) if found else slice(0, 0)


def find(path: str | os.PathLike[str], which: str = "best") -> Path:
    """The checkpoint file of a run folder (`which` is "best", "last" or a file in it or elsewhere), or the file itself.

    Raises
    ------
    UserError
        If the folder does not exist or has no checkpoint.
    """
    folder = Path(path)
    if os.path.isfile(folder):
        return folder
    if not os.path.isdir(folder):
        raise UserError(f"{str(folder)[:200]}: no such run folder")
    if which not in ("best", "last"):
        return next((at for at in (Path(which), folder / which) if at.is_file()), Path(which))
    file = folder / f"{which}.safetensors"
    if not file.is_file():
        steps = sorted((folder / "checkpoints").glob("step-*.safetensors"))
        if steps:  # the run was stopped before it wrote best or last
            return steps[-1]
        raise UserError(f"{folder}: no checkpoint here ({file.name} is missing): is this the folder of a run?")
    return file
