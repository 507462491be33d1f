"""Weights under PyTorch's names: .safetensors, .json and, through PyTorch itself, the state_dict in a .pt file.

`embedding.weight` loads into nn.Embedding, `rnn.weight_ih_l0` and so on into nn.LSTM, nn.GRU or nn.RNN, `linear.weight`
and `linear.bias` into nn.Linear. A file by others may have other names before the dots.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.travel.net import CONFIG, VOCABULARY, Net, Parts
from kernels.spec import LAYOUTS, LayerWeights

_CELLS = {len(order): cell for cell, order in LAYOUTS["pytorch"].orders.items()}  # by the number of blocks
_RECURRENT = re.compile(r"(.*?)(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(\d+)(_reverse)?")


def tensors(net: Net) -> dict[str, np.ndarray]:
    """The weights of a net by PyTorch's names, in PyTorch's layout."""
    params, found = net.params, {}
    if params.embedding is not None:
        found["embedding.weight"] = params.embedding
    for k, layer in enumerate(net.layers("pytorch")):
        found |= {f"rnn.weight_ih_l{k}": layer.W_x, f"rnn.weight_hh_l{k}": layer.W_h}
        found |= {f"rnn.bias_ih_l{k}": layer.b_x, f"rnn.bias_hh_l{k}": layer.b_h}
    return found | {"linear.weight": np.ascontiguousarray(params.W_y.T), "linear.bias": params.b_y}


def parts_of(tensors: Mapping[str, np.ndarray], name: str) -> Parts:
    """The net in the tensors of a file, by PyTorch's names.

    Raises
    ------
    UserError
        If they are not an optional nn.Embedding, one nn.LSTM, nn.GRU or nn.RNN, and one nn.Linear.
    """
    layers: dict[int, dict[str, np.ndarray]] = {}
    rest, stems = {}, set()
    for key, array in tensors.items():
        if (found := _RECURRENT.fullmatch(key)) is None:
            rest[key] = array
            continue
        if found[4] or found[2] == "weight_hr":
            what = "bidirectional" if found[4] else "an LSTM with a projection"
            raise UserError(f"{name}: {key}: the net is {what}, which charlstm has not")
        stems.add(found[1])
        layers.setdefault(int(found[3]), {})[found[2]] = array
    stack = [layers.get(k, {}) for k in range(len(layers))]
    if len(stems) != 1 or not all("weight_ih" in each and "weight_hh" in each for each in stack):
        raise UserError(
            f"{name}: expected the weights of one nn.LSTM, nn.GRU or nn.RNN, such as 'rnn.weight_ih_l0', "
            f"got {_shown(tensors)}"
        )
    rows, H = _dims(stack[0]["weight_hh"], 2, "weight_hh_l0", name)
    if rows % H or rows // H not in _CELLS:
        raise UserError(f"{name}: weight_hh_l0 is {rows, H}, the size of no cell that charlstm has")
    D = _dims(stack[0]["weight_ih"], 2, "weight_ih_l0", name)[1]
    for k, each in enumerate(stack):
        shapes = {
            "weight_ih": (rows, D if k == 0 else H),
            "weight_hh": (rows, H),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        for key, array in each.items():
            if array.shape != shapes[key]:
                raise UserError(f"{name}: {key}_l{k} is {array.shape}, expected {shapes[key]}")
    found_layers = [
        LayerWeights(each["weight_ih"], each["weight_hh"], each.get("bias_ih"), each.get("bias_hh")) for each in stack
    ]
    embedding, matrix, bias = _embedding_and_readout(rest, D, H, name)
    return Parts("pytorch", _CELLS[rows // H], found_layers, matrix.T, bias, embedding)


def _embedding_and_readout(
    rest: dict[str, np.ndarray], D: int, H: int, name: str
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """The embedding (V, E), or None, and the matrix (V, H) and bias of the readout, among all other tensors."""
    matrices = {key: array for key, array in rest.items() if array.ndim == 2 and key.endswith("weight")}
    biases = {key: array for key, array in rest.items() if array.ndim == 1 and key.endswith("bias")}
    with_bias = [key for key in matrices if f"{key.removesuffix('weight')}bias" in biases]
    readouts = with_bias or [key for key in matrices if "emb" not in key.lower() and "encoder" not in key.lower()]
    others = [key for key in matrices if key not in readouts]
    if len(readouts) != 1 or len(others) > 1 or len(matrices) + len(biases) != len(rest) or len(biases) > 1:
        raise UserError(
            f"{name}: beside its recurrent layers, expected the weights of one nn.Linear and at most one nn.Embedding, "
            f"got {_shown(rest)}"
        )
    [readout], embedding = readouts, matrices[others[0]] if others else None
    V = len(matrices[readout])
    if embedding is not None and embedding.shape != (V, D):
        raise UserError(f"{name}: {others[0]} is {embedding.shape}, expected {V, D}")
    if embedding is None and D != V:
        raise UserError(f"{name}: the first layer reads {D} numbers; without an embedding, expected one-hot ids, {V}")
    if matrices[readout].shape[1] != H:
        raise UserError(f"{name}: {readout} is {matrices[readout].shape}, expected {V, H}")
    return embedding, matrices[readout], biases.get(f"{readout.removesuffix('weight')}bias")


def _dims(array: np.ndarray, count: int, what: str, name: str) -> tuple[int, ...]:
    if array.ndim != count or not array.size:
        raise UserError(f"{name}: {what} is {array.shape}, expected {count} dimensions")
    return array.shape


def _shown(tensors: Mapping[str, Any]) -> str:
    names = [repr(each[:60]) for each in tensors]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "none"


# ----------------------------------------------------------------------------------------------------------- files
def to_safetensors(net: Net) -> bytes:
    """The content of a .safetensors file; its metadata is :attr:`charlstm.travel.net.Net.facts`."""
    from safetensors.numpy import save

    facts = net.facts
    data = save(tensors(net), facts)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = facts  # safetensors writes it in a varying order; so the same net gives the same bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def from_safetensors(file: Path) -> tuple[Parts, dict[str, str]]:
    """The net in a .safetensors file, and its metadata.

    Raises
    ------
    UserError
        If it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as opened:
            facts = opened.metadata() or {}
            if "charlstm" in facts:
                raise UserError(f"{file}: is a checkpoint of charlstm, which sample and score take as it is")
            found = {key: _floats(opened.get_tensor(key), key, str(file)) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, AttributeError) as error:  # the latter two for bfloat16, which NumPy lacks
        raise UserError(f"{file}: cannot be read as safetensors of float32 or float64: {error}") from None
    return parts_of(found, str(file)), facts


def to_json(net: Net) -> bytes:
    """The content of a .json file: the facts, and the weights as nested lists."""
    facts = {key: json.loads(text) for key, text in net.facts.items()}
    lists = {key: _shortest(array) for key, array in tensors(net).items()}
    return json.dumps({**facts, "weights": lists}).encode() + b"\n"


def _shortest(array: np.ndarray) -> Any:
    """Nested lists of Python floats with the fewest digits that give the same numbers in the array's dtype."""
    return array.astype("U32").astype(np.float64).tolist()


def from_json(file: Path) -> tuple[Parts, dict[str, str]]:
    """The net in a .json file, and its facts.

    Raises
    ------
    UserError
        If it holds something else.
    """
    try:
        whole = json.loads(file.read_bytes())
        config = dict(whole.get(CONFIG, {}))
        facts = {key: json.dumps(whole[key]) for key in (VOCABULARY, CONFIG) if key in whole}
        dtype = np.dtype(np.float64 if config.get("dtype") == "float64" else np.float32)
        weights = {str(key): np.array(lists, dtype) for key, lists in whole["weights"].items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise UserError(f"{file}: not a JSON object whose entry 'weights' has arrays of numbers by name") from None
    return parts_of(weights, str(file)), facts


def from_pt(file: Path) -> tuple[Parts, dict[str, str]]:
    """The net in a PyTorch state_dict, read by torch.load(weights_only=True), which executes no code of the file.

    Raises
    ------
    UserError
        If PyTorch is not installed, or the file holds something else.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{file}: reading it needs PyTorch: pip install torch; a .safetensors file needs none"
        ) from None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        found = {str(key): _floats(each.numpy(), str(key), str(file)) for key, each in dict(state).items()}
    except Exception as error:  # torch.load raises what zipfile, its unpickler and its C++ raise
        why = str(error).partition("\n")[0]
        raise UserError(f"{file}: cannot be read as the state_dict of a PyTorch module: {why}") from None
    return parts_of(found, str(file)), {}


def _floats(array: np.ndarray, key: str, name: str) -> np.ndarray:
    if array.dtype.name not in ("float16", "float32", "float64"):
        raise UserError(f"{name}: {key} is {array.dtype}, expected float32 or float64")
    return array if array.dtype == np.float64 else array.astype(np.float32)
