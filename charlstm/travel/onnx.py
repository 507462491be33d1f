"""A net as an ONNX graph of opset 17: ids (T, B) and a state in, logits (T, B, V) and the state after them out.

One LSTM, GRU or RNN node a layer; an embedding is a Gather, one-hot input a OneHot. The state, h (and c of an LSTM), is
(L, B, H), so that a server or a browser samples step by step: T = 1, and what came out goes in again. The graph is
float32 alone, because onnxruntime has no LSTM in float64.
"""

from pathlib import Path
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.travel.net import CONFIG, VOCABULARY, Net, Parts, library
from kernels.spec import CELLS, LAYOUTS, LayerWeights

OPSET, _IR_VERSION = 17, 8  # of 2022: runtimes that are older than that are rare, and newer ones read both
_OPS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


# --------------------------------------------------------------------------------------------------------- writing
def to_onnx(net: Net) -> bytes:
    """The content of an .onnx file, checked by onnx.checker; metadata_props are :attr:`charlstm.travel.net.Net.facts`.

    Raises
    ------
    UserError
        If onnx is not installed, or ONNX has no such cell.
    """
    onnx = library("onnx", "--to onnx")
    helper, numpy_helper, kinds = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    V, H, L, cell, _ = net.shape
    layers, params, constants, nodes = net.layers("onnx"), net.params, [], []
    states = ("h", "c") if CELLS[cell].has_c else ("h",)

    def constant(name: str, value: Any) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))

    if params.embedding is not None:
        add("Gather", [constant("embedding", params.embedding), "ids"], ["x_0"])
    else:
        add("OneHot", ["ids", constant("depth", V), constant("off_on", np.array([0.0, 1.0]))], ["x_0"], axis=-1)
    for state in states:
        add(
            "Split",
            [f"{state}_in", constant(f"{state}_each", np.ones(L, np.int64))],
            [f"{state}_in_{k}" for k in range(L)],
            axis=0,
        )
    axis = constant("direction", np.ones(1, np.int64))
    for k, layer in enumerate(layers):
        given = [f"x_{k}", constant(f"W_{k}", layer.W_x[None]), constant(f"R_{k}", layer.W_h[None])]
        given += [constant(f"B_{k}", np.concatenate([layer.b_x, layer.b_h])[None]), ""]
        made = [f"y_{k}", *(f"{state}_out_{k}" for state in states)]
        more = {"linear_before_reset": 1} if cell == "gru" else {}
        add(_OPS[cell], given + [f"{state}_in_{k}" for state in states], made, hidden_size=H, **more)
        add("Squeeze", [f"y_{k}", axis], [f"x_{k + 1}"])
    for state in states:
        add("Concat", [f"{state}_out_{k}" for k in range(L)], [f"{state}_out"], axis=0)
    add("MatMul", [f"x_{L}", constant("W_y", params.W_y)], ["products"])
    add("Add", ["products", constant("b_y", params.b_y)], ["logits"])

    def value(name: str, kind: int, dims: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, kind, dims)

    inputs = [value("ids", kinds.INT64, ["T", "B"])]
    inputs += [value(f"{state}_in", kinds.FLOAT, [L, "B", H]) for state in states]
    outputs = [value("logits", kinds.FLOAT, ["T", "B", V])]
    outputs += [value(f"{state}_out", kinds.FLOAT, [L, "B", H]) for state in states]
    graph = helper.make_graph(nodes, "charlstm", inputs, outputs, constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="charlstm"
    )
    helper.set_model_props(model, net.facts)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


# --------------------------------------------------------------------------------------------------------- reading
def from_onnx(file: Path) -> tuple[Parts, dict[str, str]]:
    """The net in an .onnx file, and its facts.

    Read are LSTM, GRU and RNN nodes of one direction with the default activations, with weights that are constants of
    the graph; of the other nodes, the MatMul or Gemm after them is the readout, and a Gather before them the embedding.

    Raises
    ------
    UserError
        If onnx is not installed, or the file holds something else.
    """
    onnx = library("onnx", str(file))
    try:
        model = onnx.load_model_from_string(file.read_bytes())
        onnx.checker.check_model(model)
    except (ValueError, RuntimeError, onnx.checker.ValidationError, _decode_error()) as error:
        raise UserError(f"{file}: cannot be read as ONNX: {str(error).partition(chr(10))[0] or 'damaged'}") from None
    return _parts_of(model.graph, onnx, str(file)), {
        each.key: each.value for each in model.metadata_props if each.key in (VOCABULARY, CONFIG)
    }


def _decode_error() -> Any:
    """The exception of protobuf, on which onnx depends, for bytes that are no message."""
    from google.protobuf.message import DecodeError

    return DecodeError


def _parts_of(graph: Any, onnx: Any, name: str) -> Parts:
    to_array = onnx.numpy_helper.to_array
    constants = {each.name: to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = to_array(node.attribute[0].t)
    cells = [(place, node) for place, node in enumerate(graph.node) if node.op_type in _OPS.values()]
    kinds = {node.op_type for _, node in cells}
    if len(kinds) != 1:
        found = ", ".join(sorted(kinds)) or "none"
        raise UserError(f"{name}: expected LSTM, GRU or RNN nodes, all of one kind, got {found}")
    cell = next(cell for cell, op in _OPS.items() if op in kinds)
    layers = [_layer(node, cell, constants, onnx, name) for _, node in cells]
    H, first, last = layers[0].W_h.shape[1], cells[0][0], cells[-1][0]
    W_y, b_y = _readout(graph.node[last + 1 :], H, constants, onnx, name)
    gathered = (node.input[0] for node in graph.node[:first] if node.op_type == "Gather")
    gathers = [constants[each] for each in gathered if each in constants and constants[each].ndim == 2]
    if len(gathers) > 1:
        raise UserError(f"{name}: expected at most one embedding before its {_OPS[cell]} nodes, got {len(gathers)}")
    return Parts("onnx", cell, layers, W_y, b_y, gathers[0] if gathers else None)


def _layer(node: Any, cell: str, constants: dict[str, np.ndarray], onnx: Any, name: str) -> LayerWeights:
    given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    wanted: dict[str, Any] = {"direction": b"forward", "linear_before_reset": 1, "layout": 0, "input_forget": 0}
    wanted = {key: value for key, value in wanted.items() if key != "linear_before_reset" or cell == "gru"}
    defaults = {**wanted, "linear_before_reset": 0}
    for key, value in wanted.items():
        if given.get(key, defaults[key]) != value:
            said = value.decode() if isinstance(value, bytes) else value
            raise UserError(f"{name}: {node.op_type} node {node.name!r}: charlstm reads {key}={said} alone")
    usual = {"lstm": ["Sigmoid", "Tanh", "Tanh"], "gru": ["Sigmoid", "Tanh"], "rnn": ["Tanh"]}[cell]
    activations = [each.decode() for each in given.get("activations", [])] or usual
    if activations != usual or "clip" in given:
        raise UserError(
            f"{name}: {node.op_type} node {node.name!r}: charlstm has its default activations alone, unclipped"
        )
    try:
        W, R = (constants[each][0] for each in node.input[1:3])
        B = constants[node.input[3]][0] if len(node.input) > 3 and node.input[3] else None
    except (KeyError, IndexError):
        raise UserError(
            f"{name}: {node.op_type} node {node.name!r}: its weights are no constants of the graph"
        ) from None
    rows, H = len(LAYOUTS["onnx"].orders[cell]) * R.shape[-1], R.shape[-1]
    if W.ndim != 2 or R.shape != (rows, H) or len(W) != rows or (B is not None and B.shape != (2 * rows,)):
        raise UserError(f"{name}: {node.op_type} node {node.name!r}: its weights have dimensions that do not fit")
    return LayerWeights(W, R, None if B is None else B[:rows], None if B is None else B[rows:])


def _readout(nodes: Any, H: int, constants: dict[str, np.ndarray], onnx: Any, name: str) -> tuple[Any, Any]:
    """The matrix (H, V) and the bias (V,), or None, of the one product after the layers."""
    products = [node for node in nodes if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants]
    if len(products) != 1:
        raise UserError(
            f"{name}: expected one MatMul or Gemm with constant weights after its layers, got {len(products)}"
        )
    [node] = products
    W, given = constants[node.input[1]], {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if given.get("transB", 0):
        W = W.T
    if W.ndim != 2 or len(W) != H or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        raise UserError(f"{name}: its readout {node.name!r} does not fit its layers")
    if node.op_type == "Gemm":
        return W, constants.get(node.input[2]) if len(node.input) > 2 else None
    sums = [each for each in nodes if each.op_type == "Add" and node.output[0] in each.input]
    biases = [constants[key] for each in sums for key in each.input if key in constants]
    return W, biases[0] if biases else None
