"""Weight initialisers, by name. All random numbers come from RandomState, whose stream NumPy promises not to change.

An embedding is drawn first and standard normal for every initialiser, as in PyTorch's nn.Embedding and torch-rnn's
LookupTable.
"""

import numpy as np

from kernels import spec
from kernels.spec import GATE_F, GATE_G, GATE_I, GATE_O, Shape


def weights(name: str, shape: Shape, forget_bias: float, random: np.random.RandomState, dtype: str) -> np.ndarray:
    """A flat parameter vector (N,) from the initialiser `name`; forget gates, if any, get the bias `forget_bias`."""
    theta = spec.aligned_zeros(spec.num_parameters(shape), dtype)
    params = spec.params(theta, shape)
    if params.embedding is not None:
        params.embedding[...] = random.standard_normal(params.embedding.shape)
    _INITIALISERS[name](params, shape, random)
    H, cell = shape.hidden_size, spec.CELLS[shape.cell]
    for layer in params.layers:
        for vector, row in cell.vectors.items():
            getattr(layer, vector)[...] = row.first
        if cell.has_c:
            layer.b[GATE_F * H : (GATE_F + 1) * H] = forget_bias
    return theta


def _uniform(params: spec.Params, shape: Shape, random: np.random.RandomState) -> None:
    """Weights uniform in +-1/sqrt(hidden_size), as in PyTorch; zero biases."""
    bound = shape.hidden_size**-0.5
    for layer in params.layers:
        layer.W_x[...] = random.uniform(-bound, bound, layer.W_x.shape)
        layer.W_h[...] = random.uniform(-bound, bound, layer.W_h.shape)
    params.W_y[...] = random.uniform(-bound, bound, params.W_y.shape)


def _min_char_lstm(params: spec.Params, shape: Shape, random: np.random.RandomState) -> None:
    """Normal weights with standard deviation 0.01, drawn in min-char-lstm.py's order: Wf, Wi, Wcc, Wo, then Wy.

    Each gate matrix is drawn as (H, V + H), input columns before state columns, and acts on column vectors. The script
    has one layer; further layers are drawn in the same way with H in place of V.
    """
    H = shape.hidden_size
    for layer in params.layers:
        D = len(layer.W_x)
        for gate in (GATE_F, GATE_I, GATE_G, GATE_O):
            drawn = random.randn(H, D + H) * 0.01
            layer.W_x[:, gate * H : (gate + 1) * H] = drawn[:, :D].T
            layer.W_h[:, gate * H : (gate + 1) * H] = drawn[:, D:].T
    params.W_y[...] = (random.randn(shape.vocab_size, H) * 0.01).T


def _min_char_rnn(params: spec.Params, shape: Shape, random: np.random.RandomState) -> None:
    """Normal weights with standard deviation 0.01, drawn in min-char-rnn.py's order: Wxh, Whh, then Why; zero biases.

    Each acts on column vectors. The script has one layer; further layers are drawn in the same way.
    """
    for layer in params.layers:
        layer.W_x[...] = (random.randn(*layer.W_x.T.shape) * 0.01).T
        layer.W_h[...] = (random.randn(*layer.W_h.T.shape) * 0.01).T
    params.W_y[...] = (random.randn(*params.W_y.T.shape) * 0.01).T


def _keras(params: spec.Params, shape: Shape, random: np.random.RandomState) -> None:
    """As in Keras: Glorot-uniform input weights and readout, orthonormal rows of the recurrent matrix; zero biases.

    The rows (H, 4H) are the transposed Q of a normal matrix (4H, H), with signs that make R's diagonal positive, so
    that no direction is preferred. Sources: Glorot and Bengio (2010); Saxe, McClelland and Ganguli (2014).
    """
    from threadpoolctl import threadpool_limits

    for layer in params.layers:
        layer.W_x[...] = _glorot(layer.W_x.shape, random)
        with threadpool_limits(1, "blas"):  # with more threads, the last bits would depend on their number
            q, r = np.linalg.qr(random.standard_normal(layer.W_h.shape[::-1]))
        layer.W_h[...] = (q * np.sign(r.diagonal())).T
    params.W_y[...] = _glorot(params.W_y.shape, random)


def _glorot(dims: tuple[int, int], random: np.random.RandomState) -> np.ndarray:
    bound = (6 / sum(dims)) ** 0.5
    return random.uniform(-bound, bound, dims)


_INITIALISERS = {"uniform": _uniform, "keras": _keras, "min-char-lstm": _min_char_lstm, "min-char-rnn": _min_char_rnn}
