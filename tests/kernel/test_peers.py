"""Compare layers, whole models, optimizers and a training run with PyTorch (make test-peers)."""

import math

import numpy as np
import pytest

from benchmarks.rivals import pytorch
from kernels import spec
from kernels.spec import Shape
from kernels.testing import layer_arrays, relative_error

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # raised inside PyTorch on newer Pythons
]
torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-peers")

TOLERANCE = 1e-11


def torch_loss(lstm, readout, h, c, x):
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(x[:-1].astype(np.int64)), lstm.input_size).double()
    if isinstance(lstm, torch.nn.LSTM | LayerNormLSTM):
        out, state = lstm(one_hot, (h, c))
    else:
        out, h_last = lstm(one_hot, h)
        state = h_last, c
    logits = readout(out)
    targets = torch.from_numpy(x[1:].astype(np.int64))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"), state


class LayerNormLSTM(torch.nn.Module):
    """The layer-normalised LSTM with PyTorch's own layer norm and parameters in our layout."""

    def __init__(self, theta, shape):
        super().__init__()
        self.input_size = shape.vocab_size
        self.layers = [
            type(layer)(*(torch.nn.Parameter(torch.from_numpy(array.copy())) for array in layer))
            for layer in spec.params(theta, shape).layers
        ]

    def parameters(self, recurse=True):
        return (parameter for layer in self.layers for parameter in layer)

    def forward(self, x, state):
        norm, last = torch.nn.functional.layer_norm, []
        for layer, h0, c0 in zip(self.layers, *state, strict=True):
            W_x, W_h, b, gain_x, gain_h, gain_c, b_c = layer
            h, c, out = h0, c0, []
            for row in x:
                z = norm(row @ W_x, b.shape, gain_x) + norm(h @ W_h, b.shape, gain_h) + b
                i, f, g, o = z.chunk(4, dim=-1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(norm(c, b_c.shape, gain_c, b_c))
                out.append(h)
            x = torch.stack(out)
            last.append((h, c))
        return x, tuple(map(torch.stack, zip(*last, strict=True)))


def build(theta, shape):
    """Build PyTorch's network and readout with our parameters."""
    if shape.cell != "lnlstm":
        return pytorch.build(theta, shape)
    params, readout = spec.params(theta, shape), torch.nn.Linear(shape.hidden_size, shape.vocab_size).double()
    with torch.no_grad():
        readout.weight.copy_(torch.from_numpy(params.W_y.T.copy()))
        readout.bias.copy_(torch.from_numpy(params.b_y.copy()))
    return LayerNormLSTM(theta, shape), readout


def torch_flat(lstm, readout, shape, of=lambda p: p.grad):
    """Return `of` of each of PyTorch's parameters, as a flat vector in our layout."""
    parts = [of(parameter).reshape(-1) for parameter in lstm.parameters()] if shape.cell == "lnlstm" else []
    for k in range(0 if parts else shape.num_layers):
        parts += [of(getattr(lstm, f"{name}_l{k}")).T.reshape(-1) for name in ("weight_ih", "weight_hh")]
        parts += [of(getattr(lstm, f"bias_ih_l{k}")).reshape(-1)]
        parts += [of(getattr(lstm, f"bias_hh_l{k}")).reshape(-1)] if shape.cell == "gru" else []
    parts += [of(readout.weight).T.reshape(-1), of(readout.bias).reshape(-1)]
    return torch.cat([part.detach() for part in parts]).numpy()


def start(shape, T, B, seed=0):
    random = np.random.RandomState(seed)
    theta = random.randn(spec.num_parameters(shape)) * 0.4
    h, c = random.randn(shape.num_layers, B, shape.hidden_size), random.randn(shape.num_layers, B, shape.hidden_size)
    return theta, h, c, random.randint(0, shape.vocab_size, (T + 1, B)).astype(np.int32)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", list(spec.CELLS))
def test_loss_state_and_every_gradient(ops, cell, layers):
    shape = Shape(7, 5, layers, cell)
    theta, h, c, x = start(shape, 6, 3)
    lstm, readout = build(theta, shape)
    expected, (h_last, c_last) = torch_loss(lstm, readout, torch.from_numpy(h), torch.from_numpy(c), x)
    expected.backward()
    loss, grad, h_got, c_got = ops.loss_and_grad(theta, h, c, x, shape=shape)
    assert loss == pytest.approx(expected.item(), rel=TOLERANCE)
    assert relative_error(h_got, h_last.detach().numpy()) < TOLERANCE
    assert relative_error(c_got, c_last.detach().numpy()) < TOLERANCE
    wanted = spec.named(torch_flat(lstm, readout, shape), shape)
    for name, got in spec.named(grad, shape).items():
        assert relative_error(got, wanted[name]) < TOLERANCE, name


def test_one_layer_with_gradients_of_the_last_state_and_the_input(ops):
    T, B, D, H = 5, 3, 4, 6
    random = np.random.RandomState(2)
    arrays = {"x": (T, B, D), "h0": (B, H), "c0": (B, H), "W_x": (D, 4 * H), "W_h": (H, 4 * H), "b": (4 * H,)}
    ours = {name: random.randn(*dims) for name, dims in arrays.items()}
    theirs = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in ours.items()}
    to_h, to_h_last, to_c_last = random.randn(T, B, H), random.randn(B, H), random.randn(B, H)
    weights = (theirs["W_x"].T, theirs["W_h"].T, theirs["b"], torch.zeros(4 * H, dtype=torch.float64))
    state = (theirs["h0"][None], theirs["c0"][None])
    out, h_last, c_last = torch.lstm(theirs["x"], state, weights, True, 1, 0.0, False, False, False)
    pairs = ((out, to_h), (h_last[0], to_h_last), (c_last[0], to_c_last))
    sum((a * torch.from_numpy(b)).sum() for a, b in pairs).backward()
    h, c, cache = ops.lstm_forward(**ours)
    assert relative_error(h[1:], out.detach().numpy()) < TOLERANCE
    assert relative_error(c[-1], c_last[0].detach().numpy()) < TOLERANCE
    grads = ops.lstm_backward(to_h, cache, to_h_last, to_c_last)
    for name, theirs_of in theirs.items():
        assert relative_error(getattr(grads, f"d{name}"), theirs_of.grad.numpy()) < TOLERANCE, name


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_one_layer_of_the_other_cells(ops, cell):
    T, B, D, H = 5, 3, 4, 6
    random = np.random.RandomState(2)
    ours = {**layer_arrays(random, cell, (B, D, H)), "x": random.randn(T, B, D)}
    theirs = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in ours.items()}
    to_h, to_h_last = random.randn(T, B, H), random.randn(B, H)
    biases = [theirs[name] for name in ("b_x", "b_h", "b") if name in ours]
    if cell == "rnn":
        biases.append(torch.zeros(H, dtype=torch.float64))
    weights = (theirs["W_x"].T, theirs["W_h"].T, *biases)
    run = torch.gru if cell == "gru" else torch.rnn_tanh
    out, h_last = run(theirs["x"], theirs["h0"][None], weights, True, 1, 0.0, False, False, False)
    ((out * torch.from_numpy(to_h)).sum() + (h_last[0] * torch.from_numpy(to_h_last)).sum()).backward()
    h, cache = getattr(ops, f"{cell}_forward")(**ours)
    assert relative_error(h[1:], out.detach().numpy()) < TOLERANCE
    grads = getattr(ops, f"{cell}_backward")(to_h, cache, to_h_last)
    for name, theirs_of in theirs.items():
        assert relative_error(getattr(grads, f"d{name}"), theirs_of.grad.numpy()) < TOLERANCE, name


@pytest.mark.lacking("cupy")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("loss", spec.LOSSES)
def test_losses_of_a_series(ops, loss, cell):
    """PyTorch's own losses on its own layers, with dense inputs and, for ids, its ignore_index."""
    functional, (T, B, D, Y) = torch.nn.functional, (6, 3, 4, 2)
    V = {"cross_entropy": 5, "gaussian": 2 * Y}.get(loss, Y)
    shape, random = Shape(V, 5, 2, cell, input_size=D), np.random.RandomState(7)
    theta, h, c, _ = start(shape, T, B)
    x, targets = random.randn(T, B, D), random.standard_t(2, (T, B, Y))
    if loss == "cross_entropy":
        targets = np.where(random.randint(0, 3, (T, B)) == 0, -100, random.randint(0, V, (T, B))).astype(np.int32)
    flat = torch.from_numpy(theta.copy()).requires_grad_()
    params, below, aim = spec.params(flat, shape), torch.from_numpy(x), torch.from_numpy(targets)
    for k, layer in enumerate(params.layers):
        states, zeros = [torch.from_numpy(a[k : k + 1]) for a in (h, c)], torch.zeros(20, dtype=torch.float64)
        if cell == "lstm":
            below = torch.lstm(
                below, states, (layer[0].T, layer[1].T, layer[2], zeros), True, 1, 0.0, False, False, False
            )[0]
        else:
            weights = (layer[0].T, layer[1].T, *layer[2:])
            below = torch.gru(below, states[0], weights, True, 1, 0.0, False, False, False)[0]
    y = below @ params.W_y + params.b_y
    losses = {
        "cross_entropy": lambda: functional.cross_entropy(y.flatten(0, 1), aim.flatten().long(), reduction="sum"),
        "squared": lambda: functional.mse_loss(y, aim, reduction="sum"),
        "huber": lambda: functional.huber_loss(y, aim, reduction="sum", delta=0.7),
        "gaussian": lambda: functional.gaussian_nll_loss(
            y[..., :Y], aim, torch.exp(2 * y[..., Y:]), full=True, eps=1e-300, reduction="sum"
        ),
    }
    expected = losses[loss]()
    expected.backward()
    options = {"loss": loss, "delta": 0.7, "ignore_index": -100 if loss == "cross_entropy" else None}
    got, grad, *_ = ops.loss_and_grad(theta, h, c, x, shape=shape, targets=targets, **options)
    assert got == pytest.approx(expected.item(), rel=TOLERANCE)
    wanted = spec.named(flat.grad.numpy(), shape)
    for name, each in spec.named(grad, shape).items():
        assert relative_error(each, wanted[name]) < TOLERANCE, name


@pytest.mark.parametrize("layers", [1, 3])
def test_scores_and_the_state_after_them(ops, layers):
    shape = Shape(7, 5, layers)
    theta, h, c, x = start(shape, 9, 3)
    lstm, readout = build(theta, shape)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(x[:-1].astype(np.int64)), 7).double()
    with torch.no_grad():
        out, last = lstm(one_hot, (torch.from_numpy(h.copy()), torch.from_numpy(c.copy())))
        expected = torch.log_softmax(readout(out), -1).gather(2, torch.from_numpy(x[1:, :, None].astype(np.int64)))
    assert relative_error(ops.score(theta, h, c, x, shape=shape), expected[..., 0].numpy()) < TOLERANCE
    for got, wanted in zip((h, c), last, strict=True):
        assert relative_error(got, wanted.numpy()) < TOLERANCE


@pytest.mark.parametrize(("embedding_size", "rate"), [(0, 0.4), (4, 0.0), (4, 0.4)])
def test_dropout_and_embedding(ops, embedding_size, rate):
    """Compare with two one-layer networks, and nn.Dropout's factors between them and before the readout."""
    T, B = 6, 3
    shape = Shape(7, 5, 2, embedding_size=embedding_size)
    theta, h, c, x = start(shape, T, B)
    factors = torch.nn.Dropout(rate)(torch.ones(2, T, B, 5, dtype=torch.float64))
    flat = torch.from_numpy(theta.copy()).requires_grad_()
    params = spec.params(flat, shape)
    ids, targets = (torch.from_numpy(a.astype(np.int64)) for a in (x[:-1], x[1:]))
    below = torch.nn.functional.one_hot(ids, 7).double()
    if embedding_size:
        below = torch.nn.functional.embedding(ids, params.embedding)
    for k, layer in enumerate(params.layers):
        state = tuple(torch.from_numpy(a[k : k + 1]) for a in (h, c))
        weights = (layer.W_x.T, layer.W_h.T, layer.b, torch.zeros(20, dtype=torch.float64))
        below = torch.lstm(below, state, weights, True, 1, 0.0, False, False, False)[0] * factors[k]
    logits = below @ params.W_y + params.b_y
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    expected.backward()
    masks = (factors.numpy() != 0).astype(np.uint8) if rate else None
    loss, grad, _, _ = ops.loss_and_grad(theta, h, c, x, shape=shape, dropout=rate, masks=masks)
    assert loss == pytest.approx(expected.item(), rel=TOLERANCE)
    wanted = spec.named(flat.grad.numpy(), shape)
    for name, got in spec.named(grad, shape).items():
        assert relative_error(got, wanted[name]) < TOLERANCE, name


@pytest.mark.parametrize(
    ("name", "constants", "theirs"),
    [
        ("sgd", {}, lambda p, rate: torch.optim.SGD([p], lr=rate)),
        ("sgd", {"momentum": 0.9}, lambda p, rate: torch.optim.SGD([p], lr=rate, momentum=0.9)),
        ("momentum", {"momentum": 0.8}, lambda p, rate: torch.optim.SGD([p], lr=rate, momentum=0.8)),
        ("adagrad", {"epsilon": 0.0}, lambda p, rate: torch.optim.Adagrad([p], lr=rate, eps=0.0)),  # epsilon differs
        ("rmsprop", {"rho": 0.9, "epsilon": 1e-3}, lambda p, rate: torch.optim.RMSprop([p], lr=rate, alpha=0.9, eps=1e-3)),
        ("adam", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}, lambda p, rate: torch.optim.Adam([p], lr=rate, betas=(0.8, 0.95), eps=1e-3)),
        ("adamw", {"beta1": 0.8, "weight_decay": 0.3}, lambda p, rate: torch.optim.AdamW([p], lr=rate, betas=(0.8, 0.999), weight_decay=0.3)),
    ],
)  # fmt: skip
def test_optimizers(ops, name, constants, theirs):
    random = np.random.RandomState(3)
    theta = random.randn(37)
    peer = torch.from_numpy(theta.copy()).requires_grad_()
    optimizer, state = theirs(peer, 0.1), np.zeros((spec.slots(name, constants), 37))
    for step in range(20):
        gradient = random.randn(37)
        getattr(ops, name)(theta, gradient, state, step, learning_rate=0.1, **constants)
        peer.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    assert relative_error(theta, peer.detach().numpy()) < TOLERANCE


def test_clipping(ops):
    gradient = np.random.RandomState(4).randn(50)
    peer = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
    peer.grad = torch.from_numpy(gradient.copy())
    torch.nn.utils.clip_grad_value_([peer], 0.7)
    torch.nn.utils.clip_grad_norm_([peer], 1.5)
    ops.clip(gradient, grad_clip=0.7, grad_clip_norm=1.5)
    assert relative_error(gradient, peer.grad.numpy()) < 1e-6  # PyTorch adds 1e-6 to the norm


@pytest.mark.parametrize("cell", list(spec.CELLS))
def test_a_training_run(ops, cell):
    """Train fifty iterations of truncated BPTT with Adam, mean loss, clipped norm and carried state."""
    shape, T, B, n = Shape(11, 9, 2, cell), 6, 3, 50
    theta, h, c, _ = start(shape, T, B, seed=5)
    ids = np.random.RandomState(6).randint(0, 11, 900).astype(np.uint8)
    starts = np.ascontiguousarray(np.arange(n)[:, None] % 40 * T + np.arange(B) * 300, np.int64)
    reset = np.arange(n) % 40 == 0
    lstm, readout = build(theta, shape)
    trained = [p for p in (*lstm.parameters(), *readout.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    state, expected = (torch.from_numpy(h.copy()), torch.from_numpy(c.copy())), []
    for at, zero in zip(starts, reset, strict=True):
        x = np.stack([ids[s : s + T + 1] for s in at], axis=1)
        state = tuple(torch.zeros_like(s) if zero else s.detach() for s in state)
        loss, state = torch_loss(lstm, readout, *state, x)
        expected.append(loss.item())
        optimizer.zero_grad()
        (loss / (T * B)).backward()
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in trained))
        for p in trained:
            p.grad *= min(1.0, 0.5 / norm)
        optimizer.step()
    memory = np.zeros((2, len(theta)))
    losses = ops.train_steps(
        theta, memory, h, c, ids, starts, reset, np.full(n, 0.01), shape=shape, seq_length=T, optimizer="adam",
        grad_scale=1 / (T * B), grad_clip_norm=0.5,
    )  # fmt: skip
    assert losses == pytest.approx(expected, rel=1e-9)
    assert relative_error(theta, torch_flat(lstm, readout, shape, of=lambda p: p)) < 1e-9
