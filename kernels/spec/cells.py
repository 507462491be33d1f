"""The cells: dimensions, equations and gate order, for all backends.

Dimensions
----------
T seq_length, B batch_size, V vocab_size, H hidden_size, L num_layers, E embedding_size, D width of a layer's input (V
for ids, E for embeddings, else the H of the layer below), N number of parameters, S number of optimizer-state arrays.

Equations of one LSTM layer (gates in PyTorch's order i, f, g, o; ``y = x @ W + b`` everywhere)
-----------------------------------------------------------------------------------------------
::

    z   = x_t W_x + h_{t-1} W_h + b                      x_t W_x is the row W_x[x_t] if x holds ids
    i, f, o = sigmoid(z_i, z_f, z_o);  g = tanh(z_g)
    c_t = f c_{t-1} + i g
    h_t = o tanh(c_t)
    logits = h_t W_y + b_y;   loss = -sum log softmax(logits)[target]          nats, summed over T and B

Backward, from the last step to the first::

    dlogits = probs - onehot(target)
    dh  = dlogits W_y' + dh_next
    dc  = dc_next + dh o (1 - tanh(c_t)^2)
    dz  = [ dc g i (1-i) | dc c_{t-1} f (1-f) | dc i (1-g^2) | dh tanh(c_t) o (1-o) ]
    dW_x += x_t' dz;  dW_h += h_{t-1}' dz;  db += dz;  dx_t = dz W_x'
    dh_next = dz W_h';  dc_next = dc f

With an embedding, the first layer's x_t is the row embedding[id], and d embedding[id] += dx_t. With dropout, a layer
passes ``h_t / (1 - dropout)`` up where the mask is nonzero, else 0: to the next layer or the readout, but not to its
own next step. The gradient that comes down to h_t is scaled and masked in the same way. With weight drop, all steps of
an iteration read W_h with some elements zero and the others divided by 1 - weight_drop (spec/weight_drop.py).

Source: Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000); truncated
backpropagation through time as in Williams and Peng (1990); dropout only on connections between layers, as in
Zaremba, Sutskever and Vinyals (2014).

The other cells: logits, loss and dh (with its dh_next) as above; RNN and GRU have no cell state
------------------------------------------------------------------------------------------------
RNN::

    h_t = tanh(x_t W_x + h_{t-1} W_h + b)
    dz  = dh (1 - h_t^2);   dW_x += x_t' dz;  dW_h += h_{t-1}' dz;  db += dz;  dx_t = dz W_x';  dh_next = dz W_h'

GRU, gates in PyTorch's order r, z, n; the reset gate applies after the product, so x and h have a bias each::

    a   = x_t W_x + b_x;   s = h_{t-1} W_h + b_h
    r, z = sigmoid(a_r + s_r), sigmoid(a_z + s_z);   n = tanh(a_n + r s_n)
    h_t = (1 - z) n + z h_{t-1}

    da_n = dh (1-z) (1 - n^2);   da_z = dh (h_{t-1} - n) z (1-z);   da_r = da_n s_n r (1-r)
    ds   = [ da_r | da_z | da_n r ]
    dW_x += x_t' da;  dW_h += h_{t-1}' ds;  db_x += da;  db_h += ds;  dx_t = da W_x';  dh_next = ds W_h' + dh z

Layer-normalised LSTM::

    LN(v) = (v - mean v) / sqrt(var v + 1e-5)            over a whole row: 4H numbers of a or s, H of c
    a   = x_t W_x;   s = h_{t-1} W_h
    z   = gain_x LN(a) + gain_h LN(s) + b;   i, f, o = sigmoid(z_i, z_f, z_o);  g = tanh(z_g)
    c_t = f c_{t-1} + i g;   n = gain_c LN(c_t) + b_c;   h_t = o tanh(n)

    dn  = dh o (1 - tanh(n)^2);   dc = dc_next + LN'(dn gain_c, c_t);   dz as the LSTM's, with tanh(n) for tanh(c_t)
    da  = LN'(dz gain_x, a);   ds = LN'(dz gain_h, s)
    LN'(d, v) = (d - mean d - LN(v) mean(d LN(v))) / sqrt(var v + 1e-5)
    dW_x += x_t' da;  dW_h += h_{t-1}' ds;  dx_t = da W_x';  dh_next = ds W_h';  dc_next = dc f
    db += dz;  dgain_x += dz LN(a);  dgain_h += dz LN(s);  dgain_c += dn LN(c_t);  db_c += dn

Source: Elman (1990) for the RNN; Cho et al. (2014) for the GRU, with the reset gate placed as in cuDNN and PyTorch; Ba,
Kiros and Hinton (2016), equations 20 to 22, for the layer-normalised LSTM, without the two biases that b makes
redundant.
"""

from typing import NamedTuple

GATE_I, GATE_F, GATE_G, GATE_O = range(4)
GATE_R, GATE_Z, GATE_N = range(3)

#: Number added to a variance before the square root.
LAYER_NORM_EPSILON = 1e-5


class Vector(NamedTuple):
    """A layer's parameter vector (bias or gain). Its gradient is the sum, over T and B, of some columns of dz."""

    width: int  # in units of H
    plane: int  # index of the plane of dz that has these columns
    begin: int = 0  # first of these columns, in units of H
    is_in_cache: bool = False  # whether the backward pass reads the vector
    first: float = 0.0  # initial value, except for the bias of an LSTM's forget gate


class Cell(NamedTuple):
    """Description of one kind of cell. Layer types, caches, buffers, signatures and checks follow from it.

    W_x and W_h have `gates` blocks of H columns. A forward pass keeps `kept` arrays of shape (T, B, gates H) for the
    backward pass, which writes `planes` arrays of that shape, called dz: plane 0 is the gradient of x W_x, plane
    `state` that of h W_h.
    """

    gates: int
    vectors: dict[str, Vector]
    kept: int = 1
    planes: int = 1
    state: int = 0
    has_c: bool = False
    panels: bool = False  # whether CPU threads may split its hidden units into panels
    on_device: bool = True  # whether the cupy backend supports it


CELLS = {
    "lstm": Cell(4, {"b": Vector(4, 0)}, has_c=True, panels=True),
    "gru": Cell(3, {"b_x": Vector(3, 0), "b_h": Vector(3, 1)}, kept=2, planes=2, state=1),
    "rnn": Cell(1, {"b": Vector(1, 0)}, kept=0),  # the backward pass needs h only
    "lnlstm": Cell(
        4,
        {
            "b": Vector(4, 2), "gain_x": Vector(4, 3, is_in_cache=True, first=1.0),
            "gain_h": Vector(4, 4, is_in_cache=True, first=1.0),
            "gain_c": Vector(1, 5, 1, is_in_cache=True, first=1.0),
            "b_c": Vector(1, 5, 0, is_in_cache=True),
        },
        kept=3, planes=6, state=1, has_c=True, on_device=False,
    ),
}  # fmt: skip

FLOAT_DTYPES = ("float32", "float64")
ID_DTYPES = ("uint8", "uint16", "uint32")


def is_mixed(bfloat16: bool, batch_size: int, cell: str = "lstm", embedding_size: int = 0) -> bool:
    """Whether a bfloat16 call is for a batch: all its products read rounded operands, not only those with W_h."""
    return bfloat16 and (batch_size > 1 or not CELLS[cell].panels or embedding_size > 0)
