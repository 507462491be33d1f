"""What each op accepts, for every backend: checked once at the Python boundary, never inside a kernel."""

from typing import Any

import numpy as np

from kernels import spec
from kernels.spec import GRUCache, LSTMCache, RNNCache, Shape, Workspace


def lstm_forward(x: Any, h0: Any, c0: Any, W_x: Any, W_h: Any, b: Any, out: Any) -> dict[str, int]:
    """Check the arguments of :func:`lstm_forward`; return the sizes by letter."""
    given = {"h0": (h0, "B H"), "c0": (c0, "B H"), "W_h": (W_h, "H 4H"), "W_x": (W_x, "D 4H"), "b": (b, "4H")}
    buffers: dict[str, Any] = {}
    if out is not None:
        buffers = {"out.h": (out[0], "T+1 B H"), "out.c": (out[1], "T+1 B H"), "out.gates": (out[2], "T B 4H")}
    return _forward(x, given, buffers)


def lstm_backward(dh: Any, cache: LSTMCache, dh_last: Any, dc_last: Any, out: Any, dz: Any) -> None:
    """Check the arguments of :func:`lstm_backward`."""
    given = {"dh": (dh, "T B H"), "cache.h": (cache.h, "T+1 B H"), "cache.gates": (cache.gates, "T B 4H")}
    given |= {"cache.W_x": (cache.W_x, "D 4H")}
    optional = {"dh_last": (dh_last, "B H"), "dc_last": (dc_last, "B H"), "dz": (dz, "T B 4H")}
    if out is not None:
        optional |= {"out.dx": (out.dx, "T B D"), "out.dh0": (out.dh0, "B H"), "out.dc0": (out.dc0, "B H")}
        optional |= {"out.dW_x": (out.dW_x, "D 4H"), "out.dW_h": (out.dW_h, "H 4H"), "out.db": (out.db, "4H")}
    _backward(given, optional)


def rnn_forward(x: Any, h0: Any, W_x: Any, W_h: Any, b: Any, out: Any) -> dict[str, int]:
    """Check the arguments of :func:`rnn_forward`; return the sizes by letter."""
    given = {"h0": (h0, "B H"), "W_h": (W_h, "H H"), "W_x": (W_x, "D H"), "b": (b, "H")}
    return _forward(x, given, {} if out is None else {"out": (out, "T+1 B H")})


def rnn_backward(dh: Any, cache: RNNCache, dh_last: Any, out: Any, dz: Any) -> None:
    """Check the arguments of :func:`rnn_backward`."""
    given = {"dh": (dh, "T B H"), "cache.h": (cache.h, "T+1 B H"), "cache.W_x": (cache.W_x, "D H")}
    optional = {"dh_last": (dh_last, "B H"), "dz": (dz, "T B H")}
    if out is not None:
        optional |= {"out.dx": (out.dx, "T B D"), "out.dh0": (out.dh0, "B H"), "out.dW_x": (out.dW_x, "D H")}
        optional |= {"out.dW_h": (out.dW_h, "H H"), "out.db": (out.db, "H")}
    _backward(given, optional)


def gru_forward(x: Any, h0: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any, out: Any) -> dict[str, int]:
    """Check the arguments of :func:`gru_forward`; return the sizes by letter."""
    given = {"h0": (h0, "B H"), "W_h": (W_h, "H 3H"), "W_x": (W_x, "D 3H"), "b_x": (b_x, "3H"), "b_h": (b_h, "3H")}
    return _forward(x, given, {} if out is None else {"out.h": (out[0], "T+1 B H"), "out.gates": (out[1], "2 T B 3H")})


def gru_backward(dh: Any, cache: GRUCache, dh_last: Any, out: Any, dz: Any) -> None:
    """Check the arguments of :func:`gru_backward`."""
    given = {"dh": (dh, "T B H"), "cache.h": (cache.h, "T+1 B H"), "cache.gates": (cache.gates, "2 T B 3H")}
    given |= {"cache.W_x": (cache.W_x, "D 3H")}
    optional = {"dh_last": (dh_last, "B H"), "dz": (dz, "2 T B 3H")}
    if out is not None:
        optional |= {"out.dx": (out.dx, "T B D"), "out.dh0": (out.dh0, "B H"), "out.dW_x": (out.dW_x, "D 3H")}
        optional |= {"out.dW_h": (out.dW_h, "H 3H"), "out.db_x": (out.db_x, "3H"), "out.db_h": (out.db_h, "3H")}
    _backward(given, optional)


def _forward(x: Any, given: dict[str, Any], out: dict[str, Any]) -> dict[str, int]:
    """Check a layer's arguments, its input x after what says how wide that is; return the sizes by letter."""
    is_ids = getattr(x, "ndim", 0) == 2
    sizes = spec.check(**given, x=(x, "ids T B" if is_ids else "T B D"), **out)
    if is_ids:
        spec.check_ids("x", x, sizes["D"])
    return sizes


def _backward(given: dict[str, Any], optional: dict[str, Any]) -> None:
    """Check arrays, of the optional ones those that are there."""
    spec.check(**given, **{name: pair for name, pair in optional.items() if pair[0] is not None})


def softmax_cross_entropy(logits: Any, targets: Any, out: Any) -> None:
    """Check the arguments of :func:`softmax_cross_entropy`."""
    spec.check(
        logits=(logits, "T B V"),
        targets=(targets, "ids T B"),
        **({} if out is None else {"out": (out, "T B V")}),
    )
    spec.check_ids("targets", targets, logits.shape[-1])


def optimizer(theta: Any, grad: Any, state: Any, slots: int) -> None:
    """Check the arrays of an optimizer with `slots` arrays of memory."""
    sizes = spec.check(theta=(theta, "N"), grad=(grad, "N"), state=(state, "S N"))
    _expect("state", (slots, sizes["N"]), state.shape)


def model(
    theta: Any, h: Any, c: Any, x: Any, shape: Shape, ws: Workspace | None, dropout: float = 0.0, masks: Any = None
) -> int:
    """Check the arguments of :func:`loss_and_grad`, and most of :func:`score`; return T + 1."""
    sizes = spec.check(theta=(theta, "N"), h=(h, "L B H"), c=(c, "L B H"), x=(x, "ids T B"))
    _check_shape(theta, h, shape, sizes["B"])
    if sizes["T"] < 2:
        raise ValueError(f"x: expected at least 2 rows (an input and its target), got {sizes['T']}")
    spec.check_ids("x", x, shape.vocab_size)
    _check_masks(masks, dropout, (shape.num_layers, sizes["T"] - 1, sizes["B"], shape.hidden_size))
    _check_workspace(ws, shape, sizes["T"] - 1, sizes["B"], theta.dtype, dropout)
    return sizes["T"]


def train_steps(
    theta: Any,
    state: Any,
    h: Any,
    c: Any,
    ids: Any,
    starts: Any,
    reset: Any,
    learning_rate: Any,
    shape: Shape,
    T: int,
    slots: int,
    dropout: float,
    masks: Any,
    threads: int,
    ws: Workspace | None,
    bfloat16: bool,
    out: Any,
) -> None:
    """Check the arguments of :func:`train_steps` but for the ids: each is checked as it is read."""
    sizes = spec.check(
        theta=(theta, "N"),
        state=(state, "S N"),
        h=(h, "L B H"),
        c=(c, "L B H"),
        ids=(ids, "text M"),
        starts=(starts, "int64 K B"),
        reset=(reset, "bool K"),
    )
    if learning_rate.dtype != np.float64:
        raise ValueError(f"learning_rate: expected float64, got {learning_rate.dtype}")
    _expect("learning_rate", (sizes["K"],), learning_rate.shape)
    _check_shape(theta, h, shape, sizes["B"])
    _expect("state", (slots, sizes["N"]), state.shape)
    if T < 1:
        raise ValueError(f"seq_length: expected at least 1, got {T}")
    if bfloat16 and (sizes["B"] != 1 or theta.dtype != np.float32 or shape.cell != "lstm" or shape.embedding_size):
        got = f"{sizes['B']} of {theta.dtype}, {shape.cell}, embedding_size {shape.embedding_size}"
        raise ValueError(f"bfloat16: expected one stream of float32, lstm, without an embedding, got {got}")
    _check_masks(masks, dropout, (sizes["K"], shape.num_layers, T, sizes["B"], shape.hidden_size))
    _check_workspace(ws, shape, T, sizes["B"], theta.dtype, dropout, bfloat16)
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    if out is not None:
        _expect_double("out", (sizes["K"],), out)
    if sizes["K"] and (int(starts.min()) < 0 or int(starts.max()) + T >= sizes["M"]):
        raise ValueError(
            f"starts: expected 0 <= start and start + {T} < {sizes['M']} (the number of ids), "
            f"got {int(starts.min())} to {int(starts.max())}"
        )


def score(theta: Any, h: Any, c: Any, x: Any, shape: Shape, ws: Workspace | None, out: Any) -> None:
    """Check the arguments of :func:`score`."""
    rows = model(theta, h, c, x, shape, ws)
    if out is not None:
        _expect_double("out", (rows - 1, x.shape[1]), out)


def sample(
    theta: Any,
    h: Any,
    c: Any,
    x: Any,
    uniforms: Any,
    shape: Shape,
    temperature: float,
    top_k: int,
    top_p: float,
    log_probs: Any,
) -> None:
    """Check the arguments of :func:`sample`."""
    sizes = spec.check(theta=(theta, "N"), h=(h, "L B H"), c=(c, "L B H"), x=(x, "ids B"))
    _expect_double("uniforms", (len(uniforms), sizes["B"]), uniforms)
    if log_probs is not None:
        _expect_double("log_probs", uniforms.shape, log_probs)
    _check_shape(theta, h, shape, sizes["B"])
    if not temperature >= 0:
        raise ValueError(f"temperature: expected 0 or more, got {temperature}")
    if not top_k >= 0:
        raise ValueError(f"top_k: expected 0 or more, got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected more than 0 and at most 1, got {top_p}")
    spec.check_ids("x", x, shape.vocab_size)
    if uniforms.size and not (uniforms.min() >= 0 and uniforms.max() < 1):
        raise ValueError("uniforms: expected numbers in [0, 1)")


def _check_shape(theta: Any, h: Any, shape: Shape, B: int) -> None:
    """Check parameters and state against the model's sizes."""
    _expect("theta", (spec.num_parameters(shape),), theta.shape)
    _expect("h", (shape.num_layers, B, shape.hidden_size), h.shape)


def _check_masks(masks: Any, dropout: float, expected: tuple[int, ...]) -> None:
    """Check that there are masks exactly where there is dropout, and that they fit."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected at least 0 and less than 1, got {dropout}")
    if (masks is None) != (dropout == 0):
        raise ValueError(f"masks: expected {'None' if dropout == 0 else 'an array'} with dropout {dropout}")
    if masks is not None:
        _expect("masks", expected, masks.shape)
        if masks.dtype != np.uint8 or not masks.flags.c_contiguous:
            raise ValueError(f"masks: expected C-contiguous uint8, got {masks.dtype}, strides {masks.strides}")


def _check_workspace(
    ws: Workspace | None, shape: Shape, T: int, B: int, dtype: Any, dropout: float = 0.0, bfloat16: bool = False
) -> None:
    """Check that a workspace was made for these sizes: kernels take theirs from it."""
    if ws is None:
        return
    for name, (dims, kind) in spec.workspace_layout(shape, T, B, dtype, dropout, bfloat16).items():
        got = getattr(ws, name)
        if got is None:
            raise ValueError(f"workspace.{name}: expected {dims}, got None: make it for bfloat16")
        _expect(f"workspace.{name}", dims, got.shape)
        if got.dtype != kind:
            raise ValueError(f"workspace.{name}: expected {kind}, got {got.dtype}")


def _expect(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> None:
    if expected != got:
        raise ValueError(f"{name}: expected {expected}, got {got}")


def _expect_double(name: str, expected: tuple[int, ...], array: Any) -> None:
    if array.dtype != np.float64:
        raise ValueError(f"{name}: expected float64, got {array.dtype}")
    _expect(name, expected, array.shape)
