"""The cells: dimensions, equations, gate order. Written here once.

Dimensions
----------
T seq_length, B batch_size, V vocab_size, H hidden_size, L num_layers, E embedding_size, D width of a layer's input (V
for ids, E for embeddings, else the H of the layer below), N number of parameters, S arrays of optimizer memory.

Equations of one LSTM layer (gates in PyTorch's order i, f, g, o; ``y = x @ W + b`` everywhere)
-----------------------------------------------------------------------------------------------
::

    z   = x_t W_x + h_{t-1} W_h + b                      x_t W_x is the row W_x[x_t] where x holds ids
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

With an embedding the first layer's x_t is the row embedding[id], of which d embedding[id] += dx_t. With dropout what a
layer passes up, to the next layer and to the readout but not to its own next step, is ``h_t / (1 - dropout)`` where the
mask is not zero, else 0; and so is the gradient that comes down to h_t.

Source: Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000); truncated
backpropagation through time as in Williams and Peng (1990); dropout between layers alone as in Zaremba, Sutskever and
Vinyals (2014).

The other cells: no cell state; logits, loss and dh (with its dh_next) as above
-------------------------------------------------------------------------------
RNN::

    h_t = tanh(x_t W_x + h_{t-1} W_h + b)
    dz  = dh (1 - h_t^2);   dW_x += x_t' dz;  dW_h += h_{t-1}' dz;  db += dz;  dx_t = dz W_x';  dh_next = dz W_h'

GRU, gates in PyTorch's order r, z, n; the reset gate comes after the product, so each side has a bias of its own::

    a   = x_t W_x + b_x;   s = h_{t-1} W_h + b_h
    r, z = sigmoid(a_r + s_r), sigmoid(a_z + s_z);   n = tanh(a_n + r s_n)
    h_t = (1 - z) n + z h_{t-1}

    da_n = dh (1-z) (1 - n^2);   da_z = dh (h_{t-1} - n) z (1-z);   da_r = da_n s_n r (1-r)
    ds   = [ da_r | da_z | da_n r ]
    dW_x += x_t' da;  dW_h += h_{t-1}' ds;  db_x += da;  db_h += ds;  dx_t = da W_x';  dh_next = ds W_h' + dh z

Source: Elman (1990); Cho et al. (2014), with the reset gate where cuDNN and PyTorch have it.
"""

GATE_I, GATE_F, GATE_G, GATE_O = range(4)
GATE_R, GATE_Z, GATE_N = range(3)

#: Blocks of H columns, one a gate, in the weights of each kind of cell.
CELLS = {"lstm": 4, "gru": 3, "rnn": 1}

FLOAT_DTYPES = ("float32", "float64")
ID_DTYPES = ("uint8", "uint16", "uint32")
