"""Which file is which: formats by name and by the end of a file's name; a net out of a run, and a run out of a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlstm.errors import RunFailed, UserError
from charlstm.model.checkpoint import Checkpoint, find
from charlstm.model.model import load
from charlstm.runs import begin, disk, records, store
from charlstm.runs.records import CONFIG, METRICS, SAMPLES
from charlstm.settings.config import from_preset
from charlstm.travel import keras, onnx, tensors
from charlstm.travel.net import Net, Parts, characters_of, joined


class Format(NamedTuple):
    """A kind of file: how it is written, None if it is only read, and how it is read."""

    write: Callable[[Net], bytes] | None
    read: Callable[[Path], tuple[Parts, dict[str, str]]]


#: The kinds of files by the end of their name, and the names of those that are exported; the first of each is usual.
FORMATS = {
    ".safetensors": Format(tensors.to_safetensors, tensors.from_safetensors),
    ".keras": Format(keras.to_keras, keras.from_keras),
    ".weights.h5": Format(keras.to_weights, keras.from_weights),
    ".onnx": Format(onnx.to_onnx, onnx.from_onnx),
    ".json": Format(tensors.to_json, tensors.from_json),
    ".pt": Format(None, tensors.from_pt),
    ".pth": Format(None, tensors.from_pt),
}
ENDINGS = {"torch": (".safetensors",), "keras": (".keras", ".weights.h5"), "onnx": (".onnx",), "json": (".json",)}
_REFUSED = {
    ".t7": "is of Lua Torch (char-rnn, torch-rnn), which no maintained library reads: convert it to .safetensors there",
    ".h5": "is of an older Keras: load it with Keras 3 and save it as .keras",
    ".hdf5": "is of an older Keras: load it with Keras 3 and save it as .keras",
}


def export(
    run: str | Path, to: str, out: str | Path | None = None, checkpoint: str = "best", member: int = 1
) -> tuple[Path, str]:
    """Write the net of a run for another program: its weights and vocabulary, nothing else.

    Parameters
    ----------
    run : a run folder or a checkpoint file
    to : a name of ENDINGS
    out : the file, by default NAME and the usual ending, in the run folder or beside the checkpoint file
    checkpoint : "best", "last" or a file, as for :func:`charlstm.load`
    member : which of several nets that speak together, from 1 on

    Returns
    -------
    tuple
        The file, and a line that says what it holds.

    Raises
    ------
    UserError
        If `to` or the ending of `out` is unknown, the format has no such cell, or its library is not installed.
    RunFailed
        If the file cannot be written.
    """
    if to not in ENDINGS:
        raise UserError(f"--to: expected one of {', '.join(ENDINGS)}, got {to!r}")
    folder, usual = Path(run), ENDINGS[to][0]
    file = Path(out) if out else _beside(folder, usual)
    ending = next((each for each in ENDINGS[to] if file.name.endswith(each)), None)
    if ending is None:
        raise UserError(f"--out {file}: expected a name that ends in {' or '.join(ENDINGS[to])} for --to {to}")
    whole = load(run, checkpoint)
    model = whole.alone(member)
    write = FORMATS[ending].write
    assert write is not None
    data = write(Net.of(model))
    if file.exists() and file.resolve() == find(run, checkpoint).resolve():
        raise UserError(f"--out {file}: is the checkpoint itself; choose another name")
    try:
        disk.write(file, data)
    except OSError as error:
        raise RunFailed(f"{file}: cannot be written: {error.strerror or error}") from None
    return file, _said(model, to) + _left_behind(whole)


def _beside(run: Path, ending: str) -> Path:
    """The usual name of an exported file; in a run folder it differs from those of checkpoints."""
    name = run.resolve().name.partition(".")[0]
    return (run if run.is_dir() else run.parent) / f"{name}-net{ending}"


def _said(model: Checkpoint, to: str) -> str:
    rounded = ", rounded to float32" if to == "onnx" and model.theta.dtype == np.float64 else ""
    return (
        f"{model.shape.cell.upper()}, {model.shape.num_layers} x {model.shape.hidden_size}, {len(model.theta):,} "
        f"parameters{rounded}: the net alone, with its vocabulary, after {model.iteration:,} iterations"
    )


def _left_behind(whole: Checkpoint) -> str:
    """What of a run speaks beside the exported net, in words."""
    others, left = len(whole.voices) - 1, []
    if others:
        left.append(f"{others} of {others + 1} members (--member)")
    if whole.mix:
        left.append("the run's n-gram" + (", which sample and score use, too" if whole.mix["weight"] else ""))
    return f"; not in it: {', '.join(left)}" if left else ""


def imported(file: str | Path, out: str | Path | None = None, characters: Sequence[str] | None = None) -> Path:
    """Make a run of a net in a file: a folder with a checkpoint that sample, score and train --from take.

    Parameters
    ----------
    file : its ending says what it is, see FORMATS
    out : the run folder, by default runs/NAME after the name of the file
    characters : the vocabulary in the order of the ids, instead of the file's own

    Raises
    ------
    UserError
        If the file is missing or damaged, or holds something that is no model of charlstm; nothing is written then.
    RunFailed
        If the folder cannot be written.
    """
    path = Path(file)
    net = read(path, characters)
    model, name = _checkpoint(net, path), path.name.partition(".")[0] or "net"
    folder = begin.new_folder(name) if out is None else begin.empty_folder(Path(out))
    texts = {CONFIG: records.toml(model.config), METRICS: b"", SAMPLES: b""}
    try:
        for each, content in (
            *texts.items(),
            ("environment.json", records.environment(records.bits_depend_on("numpy"))),
        ):
            disk.write(folder / each, content)
        store.save(folder, model.to_bytes(), 0, is_best=True, keep=1)
    except OSError as error:
        raise RunFailed(f"{folder}: cannot be written: {error.strerror or error}") from None
    return folder


def characters_in(file: str | Path) -> list[str]:
    """The characters in a JSON file, in the order of their ids.

    Raises
    ------
    UserError
        If it cannot be read, or holds something else.
    """
    try:
        return characters_of(Path(file).read_text("utf-8"), str(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: the vocabulary is not a JSON list of characters") from None


def read(file: Path, characters: Sequence[str] | None = None) -> Net:
    """The net in a file.

    Raises
    ------
    UserError
        As :func:`imported`.
    """
    ending = next((each for each in (*FORMATS, *_REFUSED) if file.name.lower().endswith(each)), None)
    if ending in _REFUSED:
        raise UserError(f"{file}: {_REFUSED[ending]}")
    if ending is None:
        raise UserError(f"{file}: expected a name that ends in {', '.join(FORMATS)}")
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        parts, facts = FORMATS[ending].read(file)
        return joined(parts, facts, characters, str(file))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:  # sizes that Shape refuses, ids that are none
        raise UserError(f"{file}: {error}") from None


def _start_of_random() -> tuple[Any, ...]:
    """The state of a run's random generator with the default seed."""
    state = np.random.RandomState(0).get_state(legacy=True)
    assert isinstance(state, tuple)
    return state


def _checkpoint(net: Net, file: Path) -> Checkpoint:
    """A checkpoint with a net, and the state of a training that has not begun."""
    V, H, L, cell, E = net.shape
    config = from_preset(
        cell=cell, hidden_size=H, num_layers=L, embedding_size=E, dtype=net.theta.dtype.name,
        optimizer="sgd", batch_size=1, iterations=0, lower=net.lower, bytes=net.vocabulary.kind == "bytes",
    )  # fmt: skip
    state = np.zeros((0, len(net.theta)), net.theta.dtype)
    h = np.zeros((L, 1, H), net.theta.dtype)
    corpus = {
        "name": file.name, "sources": [], "digest": "", "num_ids": 0, "is_frozen": True,
        "begin": list(net.edges.begin), "end": list(net.edges.end),
    }  # fmt: skip
    return Checkpoint(
        config, net.vocabulary, net.theta, state, h, np.zeros_like(h), _start_of_random(),
        iteration=0, position=0, seconds=0.0, smooth_loss=float(np.log(V)) * config.loss_chars, loss_sum=0.0,
        loss_count=0, corpus=corpus, files={METRICS: 0, SAMPLES: 0},
    )  # fmt: skip
