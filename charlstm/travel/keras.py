"""Weights as Keras 3 stores them: model.weights.h5, an HDF5 file, alone or inside a .keras file with a model around it.

The model is that of Keras' lstm_text_generation example, for any number of layers and every position of its input:
one-hot characters (B, T, V), or ids (B, T) for an Embedding, into LSTM, GRU or SimpleRNN layers and a Dense layer
with a softmax. A GRU has ``reset_after=True``, Keras' default.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.travel.net import CONFIG, VOCABULARY, Net, Parts, library
from kernels.spec import LAYOUTS, LayerWeights

_CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}
_GROUPS = {"lstm": "lstm", "gru": "gru", "simple_rnn": "rnn"}  # the name in the file, the cell
_WITHOUT_WEIGHTS = ("dropout", "input_layer", "activation", "softmax")
_INNER, _OURS = "model.weights.h5", "charlstm"
_BLANK_DATE = (1980, 1, 1, 0, 0, 0)  # so that the same net gives the same bytes


# --------------------------------------------------------------------------------------------------------- writing
def to_weights(net: Net) -> bytes:
    """The content of a .weights.h5 file; its group `charlstm` has :attr:`charlstm.travel.net.Net.facts`.

    Raises
    ------
    UserError
        If h5py is not installed, or Keras has no such cell.
    """
    h5py, layers, params, content = library("h5py", "--to keras"), net.layers("keras"), net.params, io.BytesIO()
    [group] = [name for name, cell in _GROUPS.items() if cell == net.shape.cell]
    with h5py.File(content, "w") as file:
        if params.embedding is not None:
            file["layers/embedding/vars/0"] = params.embedding
        for k, layer in enumerate(layers):
            place = f"layers/{group}{f'_{k}' if k else ''}/cell/vars"
            bias = layer.b_x if layer.b_h is None else np.stack([layer.b_x, layer.b_h])
            for number, array in enumerate((layer.W_x, layer.W_h, bias)):
                file[f"{place}/{number}"] = array
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = params.W_y, params.b_y
        for key, text in net.facts.items():
            file[f"{_OURS}/{key}"] = np.frombuffer(text.encode(), np.uint8)
    return content.getvalue()


def to_keras(net: Net) -> bytes:
    """The content of a .keras file: the weights, and the configuration of the model.

    Raises
    ------
    UserError
        As :func:`to_weights`.
    """
    content = io.BytesIO()
    weights = to_weights(net)  # first: it refuses what Keras lacks
    about = json.dumps({"keras_version": "3.0.0"}).encode()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in (("metadata.json", about), ("config.json", _config(net)), (_INNER, weights)):
            file.writestr(zipfile.ZipInfo(name, _BLANK_DATE), data)
    return content.getvalue()


def _config(net: Net) -> bytes:
    """The configuration of a Sequential model."""
    V, H, L, cell, E = net.shape
    dtype = net.theta.dtype.name
    ends: list[int | None] = [None, None]
    layers = [_layer("InputLayer", name="text", dtype="int32" if E else dtype, batch_shape=ends if E else [*ends, V])]
    if E:
        layers.append(_layer("Embedding", ends, name="embedding", dtype=dtype, input_dim=V, output_dim=E))
    for k in range(L):
        D = H if k else E or V
        options = {"units": H, "return_sequences": True}
        layers.append(_layer(_CLASSES[cell], [*ends, D], name=f"layer_{k}", dtype=dtype, **options))
    layers.append(_layer("Dense", [*ends, H], name="readout", dtype=dtype, units=V, activation="softmax"))
    model = {"name": "charlstm", "layers": layers}
    whole = {"module": "keras", "class_name": "Sequential", "config": model, "registered_name": None}
    return json.dumps(whole).encode()


def _layer(kind: str, input_shape: Any = None, **config: Any) -> dict[str, Any]:
    built = {"build_config": {"input_shape": input_shape}} if input_shape else {}
    return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None, **built}


# --------------------------------------------------------------------------------------------------------- reading
def from_keras(file: Path) -> tuple[Parts, dict[str, str]]:
    """The net in a .keras file, and its facts.

    Raises
    ------
    UserError
        If h5py is not installed, or the file holds something else.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            weights, config = opened.read(_INNER), json.loads(opened.read("config.json"))
        for layer in config["config"]["layers"]:
            _see_that_ours_are_equal(layer["class_name"], layer["config"], file)
    except UserError:
        raise
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"{file}: cannot be read as a model saved by Keras 3: {error}") from None
    return _from_hdf5(io.BytesIO(weights), str(file))


def from_weights(file: Path) -> tuple[Parts, dict[str, str]]:
    """The net in a .weights.h5 file, and its facts; such a file does not tell the activations.

    Raises
    ------
    UserError
        As :func:`from_keras`.
    """
    return _from_hdf5(file, str(file))


def _see_that_ours_are_equal(kind: str, config: dict[str, Any], file: Path) -> None:
    """Raise UserError for a layer that differs from those of charlstm."""
    is_cell = kind in _CLASSES.values()
    if not is_cell and kind not in ("Dense", "Embedding", "InputLayer", "Dropout", "Activation", "Softmax"):
        raise UserError(f"{file}: has a layer of the kind {kind}, which charlstm has not")
    wanted = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False, "reset_after": True}
    for name, value in wanted.items() if is_cell else ():
        if config.get(name, value) != value:
            raise UserError(f"{file}: its {kind} has {name}={config[name]!r}; charlstm has {value!r} alone")


def _from_hdf5(content: Any, name: str) -> tuple[Parts, dict[str, str]]:
    h5py = library("h5py", name)
    try:
        with h5py.File(content, "r") as file:
            if "layers" not in file:
                raise UserError(f"{name}: expected weights saved by Keras 3; this HDF5 file has no group 'layers'")
            found = {each: _arrays(file["layers"][each], h5py) for each in file["layers"]}
            ours = file.get(_OURS, {})
            facts = {key: ours[key][()].tobytes().decode() for key in (VOCABULARY, CONFIG) if key in ours}
    except UserError:
        raise
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{name}: cannot be read as HDF5: {error}") from None
    return _parts_of({each: arrays for each, arrays in found.items() if arrays}, name), facts


def _arrays(group: Any, h5py: Any) -> list[np.ndarray]:
    """The arrays below a group, by their place."""
    found: dict[str, np.ndarray] = {}

    def keep(place: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":  # not the state of a random generator
            found[place] = item[()]

    group.visititems(keep)
    return [found[place] for place in sorted(found)]


def _parts_of(layers: dict[str, list[np.ndarray]], name: str) -> Parts:
    """The net in the arrays of each layer."""
    kinds: dict[str, dict[int, list[np.ndarray]]] = {}
    for each, arrays in layers.items():
        found = re.fullmatch(r"(.+?)(?:_(\d+))?", each)
        assert found is not None
        kinds.setdefault(found[1], {})[int(found[2] or 0)] = arrays
    cells = [kind for kind in kinds if kind in _GROUPS]
    others = set(kinds) - set(_GROUPS) - {"dense", "embedding"} - set(_WITHOUT_WEIGHTS)
    if len(cells) != 1 or others or len(kinds.get("dense", {})) != 1:
        raise UserError(
            f"{name}: expected LSTM, GRU or SimpleRNN layers of one kind, one Dense, and at most one Embedding, "
            f"got {', '.join(sorted(layers)) or 'none'}"
        )
    [kind] = cells
    stack = [kinds[kind][k] for k in sorted(kinds[kind])]
    [dense], embeddings = kinds["dense"].values(), list(kinds.get("embedding", {}).values())
    cell, found_layers = _GROUPS[kind], []
    for k, arrays in enumerate(stack):
        H = arrays[1].shape[0] if len(arrays) > 1 and arrays[1].ndim == 2 else 0
        columns = H * len(LAYOUTS["keras"].orders[cell])
        bias = (2, columns) if cell == "gru" else (columns,)
        if [each.shape[-1:] for each in arrays[:2]] != [(columns,)] * 2 or arrays[0].ndim != 2 or len(arrays) > 3:
            raise UserError(f"{name}: {kind} layer {k} has arrays {[each.shape for each in arrays]}, which do not fit")
        if len(arrays) == 3 and arrays[2].shape != bias:
            why = "; a GRU needs reset_after=True" if cell == "gru" else ""
            raise UserError(f"{name}: the bias of {kind} layer {k} is {arrays[2].shape}, expected {bias}{why}")
        b_x, b_h = (None, None) if len(arrays) < 3 else arrays[2] if cell == "gru" else (arrays[2], None)
        found_layers.append(LayerWeights(arrays[0], arrays[1], b_x, b_h))
    if len(embeddings) > 1 or any(len(each) != 1 for each in embeddings) or len(dense) > 2 or dense[0].ndim != 2:
        raise UserError(f"{name}: its Dense or Embedding layers do not fit a model of charlstm")
    return Parts("keras", cell, found_layers, dense[0], dense[1] if len(dense) > 1 else None,
                 embeddings[0][0] if embeddings else None)  # fmt: skip
