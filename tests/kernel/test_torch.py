"""kernels.torch beside torch.nn: results, gradients, packed sequences, and what PyTorch does to modules (make test-peers)."""

import copy
import io

import numpy as np
import pytest

import kernels

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning", "ignore:.*:FutureWarning"),
]
torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-peers")
if "numba" not in kernels.available():
    pytest.skip("needs the numba backend", allow_module_level=True)

from kernels import torch as ours  # noqa: E402

NAMES = ("LSTM", "GRU", "RNN")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
T, B, D, H = 7, 4, 3, 5


def pair(name, dtype=torch.float64, seed=1, **options):
    """PyTorch's module and ours, with the same weights by the same seed."""
    made = []
    for room in (torch.nn, ours):
        torch.manual_seed(seed)
        made.append(getattr(room, name)(D, H, dtype=dtype, **options))
    return made


def states(name, count, dtype, B=B, seed=2):
    random = torch.Generator().manual_seed(seed)
    made = [torch.randn(count, B, H, dtype=dtype, generator=random).requires_grad_() for _ in "hc"]
    return tuple(made) if name == "LSTM" else made[0]


def tensors(value):
    """Every tensor in a result."""
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [value.data]
    return [value] if torch.is_tensor(value) else [each for part in value for each in tensors(part)]


def same(module, other, call, limit):
    """Compare results and all gradients of two modules."""
    found = []
    for each in (module, other):
        leaves, results = call(each)
        random = torch.Generator().manual_seed(5)
        loss = sum((part * torch.randn(part.shape, dtype=part.dtype, generator=random)).sum() for part in results)
        wanted = [*leaves, *each.parameters()]
        found.append((results, torch.autograd.grad(loss, wanted), loss))
    for theirs, mine in zip(found[0][0], found[1][0], strict=True):
        assert theirs.shape == mine.shape
        assert (theirs - mine).abs().max() < limit
    for theirs, mine in zip(found[0][1], found[1][1], strict=True):
        assert theirs.shape == mine.shape
        assert (theirs - mine).abs().max() < 10 * limit * max(1, theirs.abs().max())


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {}, {"num_layers": 3}, {"batch_first": True}, {"bidirectional": True, "num_layers": 2}, {"bias": False},
        {"batch_first": True, "bidirectional": True},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_results_and_gradients(name, options, dtype):
    count = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    x = torch.randn((B, T, D) if options.get("batch_first") else (T, B, D), dtype=dtype)

    def call(module, given):
        leaf, hx = x.clone().requires_grad_(), states(name, count, dtype) if given else None
        return [leaf, *(tensors(hx) if given else [])], tensors(module(leaf, hx))

    for given in (True, False):
        same(*pair(name, dtype, **options), lambda module, given=given: call(module, given), TOLERANCE[dtype])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences(name, is_sorted, options):
    from torch.nn.utils.rnn import pack_padded_sequence

    lengths = [7, 4, 4, 1] if is_sorted else [4, 7, 1, 4]
    x = torch.randn((B, T, D) if options.get("batch_first") else (T, B, D), dtype=torch.float64)
    count = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))

    def call(module, given):
        leaf, hx = x.clone().requires_grad_(), states(name, count, torch.float64) if given else None
        packed = pack_padded_sequence(leaf, lengths, options.get("batch_first", False), is_sorted)
        out, last = module(packed, hx)
        assert isinstance(out, torch.nn.utils.rnn.PackedSequence)
        return [leaf, *(tensors(hx) if given else [])], [out.data, *tensors(last)]

    for given in (True, False):
        same(*pair(name, **options), lambda module, given=given: call(module, given), 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_one_stream_without_an_axis_for_it(name):
    theirs, mine = pair(name)
    x, hx = torch.randn(T, D, dtype=torch.float64), states(name, 1, torch.float64, B=1)
    hx = tuple(each[:, 0].detach() for each in hx) if name == "LSTM" else hx[:, 0].detach()
    same(theirs, mine, lambda module: ([], tensors(module(x, hx))), 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_draws_what_pytorch_draws(name):
    theirs, mine = pair(name, num_layers=3, dropout=0.4)
    x = torch.randn(T, B, D, dtype=torch.float64)
    for module in (theirs, mine):
        torch.manual_seed(3)
        found = module(x)[0]
        if module is theirs:
            wanted = found
    assert (found - wanted).abs().max() < 1e-12
    assert (theirs.eval()(x)[0] - mine.eval()(x)[0]).abs().max() < 1e-12
    assert (mine(x)[0] - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    torch.manual_seed(0)
    module = getattr(ours, name)(2, 3, num_layers=2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    hx = [torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2 if name == "LSTM" else 1)]
    weights = list(module.parameters())

    def call(x, *rest):
        given = tuple(rest[: len(hx)]) if name == "LSTM" else rest[0]
        named = dict(zip((key for key, _ in module.named_parameters()), rest[len(hx) :], strict=True))
        return tuple(tensors(torch.func.functional_call(module, named, (x, given))))

    assert torch.autograd.gradcheck(call, (x, *hx, *weights))
    layer = [torch.randn(dims, dtype=torch.float64, requires_grad=True) for dims in ((7, 2), (3, 3), (3, 3))]
    G = {"LSTM": 4, "GRU": 3, "RNN": 1}[name]
    layer += [
        torch.randn(dims, dtype=torch.float64, requires_grad=True)
        for dims in ((3 * G, 2), (3 * G, 3), (3 * G,), (3 * G,))
    ]
    if name != "LSTM":
        layer[2] = None
    assert torch.autograd.gradcheck(
        lambda *each: ours.Layer.apply(name.lower(), [(1, 3), (2, 2)], *each), layer
    )  # a stream ends after one step


def test_state_dict_copies_and_files():
    theirs, mine = pair("LSTM", num_layers=2)
    assert list(theirs.state_dict()) == list(mine.state_dict())
    mine.load_state_dict({key: each + 1 for key, each in theirs.state_dict().items()}, strict=True)
    assert isinstance(mine, torch.nn.LSTM)
    x = torch.randn(T, B, D, dtype=torch.float64)
    twin = copy.deepcopy(mine)
    assert torch.equal(twin(x)[0], mine(x)[0])
    with torch.no_grad():
        twin.weight_ih_l0.add_(1)
    assert not torch.equal(twin(x)[0], mine(x)[0])
    content = io.BytesIO()
    torch.save(mine, content)
    content.seek(0)
    assert torch.equal(torch.load(content, weights_only=False)(x)[0], mine(x)[0])
    with torch.no_grad():
        theirs.load_state_dict(mine.state_dict(), strict=True)
        assert (theirs(x)[0] - mine(x)[0]).abs().max() < 1e-12


def compiled_graphs(room):
    """Compile a model; compare it with itself, uncompiled; return the functions of each graph."""
    torch.manual_seed(0)
    embedding, lstm, readout = torch.nn.Embedding(9, D), room.LSTM(D, H), torch.nn.Linear(H, 9)
    parameters = [each for module in (embedding, lstm, readout) for each in module.parameters()]
    graphs = []

    def model(ids):
        x = torch.relu(embedding(ids))
        out, _ = lstm(x)
        return readout(torch.tanh(out))

    def backend(graph, inputs):
        graphs.append([node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    torch._dynamo.reset()
    compiled, ids = torch.compile(model, backend=backend), torch.randint(9, (T, B))
    for _ in range(2):
        wanted, got = model(ids), compiled(ids)
        assert torch.equal(wanted, got)
        grads = [torch.autograd.grad(each.square().sum(), parameters) for each in (wanted, got)]
        assert all(map(torch.equal, *grads))
    return graphs


def test_a_compiled_model_is_equal_and_as_compiled_as_with_pytorchs_own():
    """PyTorch 2.13 compiles no function that calls torch.nn.LSTM, and so none that calls ours."""
    assert compiled_graphs(ours) == compiled_graphs(torch.nn)


class InWorkers(torch.utils.data.Dataset):
    """A data set whose items come out of one of our modules."""

    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 6

    def __getitem__(self, k):
        with torch.no_grad():
            return self.module(torch.full((T, D), float(k)))[0]


def test_workers_of_a_data_loader():
    torch.manual_seed(0)
    data = InWorkers(ours.GRU(D, H))
    wanted = torch.stack([data[k] for k in range(len(data))])
    loader = torch.utils.data.DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.equal(torch.cat(list(loader)), wanted)


def test_changing_a_result_in_place_is_noticed():
    module = ours.LSTM(D, H)
    out, _ = module(torch.randn(T, B, D))
    out.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    out, _ = module(torch.randn(T, B, D))
    loss = out.sum()
    with torch.no_grad():
        module.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_second_derivative_is_refused():
    module, x = ours.RNN(D, H), torch.randn(T, B, D, requires_grad=True)
    (grad,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_inputs_are_not_copied(monkeypatch):
    """The kernel reads the memory of the input tensor, and the result is the memory that it wrote."""
    seen = []
    real = kernels.load("numba").lstm_forward

    def watched(x, *rest, **options):
        made = real(x, *rest, **options)
        seen.append((x.ctypes.data, made[0].ctypes.data))
        return made

    monkeypatch.setattr(kernels.load("numba"), "lstm_forward", watched)
    x = torch.randn(T, B, D)
    out, _ = ours.LSTM(D, H)(x)
    assert seen == [(x.data_ptr(), out.data_ptr() - B * H * 4)]


def test_autocast_computes_in_the_dtype_of_the_weights():
    module, x = ours.LSTM(D, H), torch.randn(T, B, D)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = module(x.bfloat16())
    assert out.dtype == torch.float32
    assert torch.equal(out, module(x.bfloat16().float())[0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ours.LSTM(D, H, proj_size=2), "^proj_size: kernels.torch.LSTM has no projection, got 2$"),
        (lambda: ours.RNN(D, H, nonlinearity="relu"), "^nonlinearity: kernels.torch.RNN has 'tanh' alone, got 'relu'$"),
        (lambda: ours.GRU(D, H).bfloat16()(torch.zeros(T, B, D)), r"^weights: kernels.torch takes float32 or float64 on the CPU, got torch.bfloat16 on cpu$"),
        (lambda: ours.GRU(D, H)(torch.zeros(T, B, D, dtype=torch.int64)), "^input: kernels.torch takes float32 or float64"),
        (lambda: ours.GRU(D, H)(torch.zeros(T, B, D, device="meta")), "^input: kernels.torch takes float32 or float64 on the CPU, got torch.float32 on meta$"),
        (lambda: ours.GRU(D, H)(torch.zeros(T, B, D, dtype=torch.float64)), "dtype"),
        (lambda: ours.GRU(D, H)(torch.zeros(T, B, D + 1)), "input.size"),
        (lambda: ours.LSTM(D, H)(torch.zeros(T, B, D), (torch.zeros(1, B, H), torch.zeros(1, B + 1, H))), "Expected hidden"),
        (lambda: ours.LSTM(D, H)(torch.zeros(T)), "input"),
    ],
)  # fmt: skip
def test_what_is_refused(call, said):
    with pytest.raises((ValueError, RuntimeError), match=said):
        call()


def losses(rnn, steps=100):
    """A training script of the usual shape, with a module of either kind."""
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, 16)
            self.lstm = rnn(16, 32, num_layers=2, batch_first=True, dropout=0.1)
            self.readout = nn.Linear(32, 20)

        def forward(self, ids):
            return self.readout(self.lstm(self.embedding(ids))[0])

    text = torch.from_numpy(np.arange(4000) * 7 // 3 % 20)
    windows = text.unfold(0, 25, 5)
    loader = DataLoader(TensorDataset(windows[:, :-1], windows[:, 1:]), batch_size=8, shuffle=True)
    model, found = Model(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    while len(found) < steps:
        for ids, targets in loader:
            loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            found.append(loss.item())
    return np.array(found[:steps])


def test_a_usual_training_script_with_another_import():
    theirs, mine = losses(torch.nn.LSTM), losses(ours.LSTM)
    assert np.abs(theirs - mine).max() < 1e-5
    assert theirs[-1] < theirs[0] - 0.5


# ------------------------------------------------------------------------------------------------ threads, and the judge
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name, monkeypatch):
    """The module uses as many threads as PyTorch may."""
    from kernels.cpu import single

    monkeypatch.setattr(single, "_WORK", 0)
    layer, x = pair(name, bidirectional=True)[1], torch.randn(T, 8, D, dtype=torch.float64)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            layer.zero_grad()
            out = layer(x)[0]
            out.pow(2).sum().backward()
            found.append(
                [out.detach().numpy().tobytes(), *(each.grad.numpy().tobytes() for each in layer.parameters())]
            )
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_the_example_judges_pytorchs_lstm_and_finds_the_planted_mistake(capsys):
    import runpy

    from conftest import ROOT

    runpy.run_path(str(ROOT / "examples" / "judge_a_layer.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    verdicts = [line for line in lines if not line.startswith("  ")]
    assert verdicts == ["torch.nn.LSTM: correct", "the same, dc forgotten: WRONG"]
    assert len(lines) == 2 + 2 * 7
