"""What PyTorch, Keras and onnxruntime compute with an exported net, and nets that they made (make test-peers)."""

import os

import nets
import numpy as np
import pytest
from conftest import made_up_text

from charlstm.cli import _guarded
from charlstm.errors import UserError
from charlstm.travel import files

os.environ.setdefault("KERAS_BACKEND", "torch")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning", "ignore:.*:FutureWarning"),
]
torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-peers")

#: Of logits: float32 is judged at 1e-6 against logits of about 1, float64 at 1e-12.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
EVERY = [(cell, layers, embedding) for cell in nets.CELLS for layers in (1, 2, 3) for embedding in (0, 4)]
T, B = 6, 3


def written(net, folder, ending):
    file = folder / f"net{ending}"
    file.write_bytes(files.FORMATS[ending].write(net))
    return file


def to_ours(net, T=T, B=B):
    x, state = nets.ids(net, T, B), nets.start(net, B)
    return x, state, *nets.logits(net, x, state)


class Usual(torch.nn.Module):
    """What a user of PyTorch would write for such a model."""

    def __init__(self, V, H, L, cell, E):
        super().__init__()
        if E:
            self.embedding = torch.nn.Embedding(V, E)
        kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell]
        self.rnn = kind(E or V, H, L)
        self.linear = torch.nn.Linear(H, V)

    def forward(self, ids, state):
        V = self.linear.out_features
        is_embedded = hasattr(self, "embedding")
        x = self.embedding(ids) if is_embedded else torch.nn.functional.one_hot(ids, V).to(self.linear.weight.dtype)
        out, state = self.rnn(x, state)
        return self.linear(out), state


def in_torch(module, x, state, cell):
    h, c = map(torch.from_numpy, state.copy())
    with torch.no_grad():
        out, last = module(torch.from_numpy(x.astype(np.int64)), (h, c) if cell == "lstm" else h)
    return out.numpy(), [each.numpy() for each in (last if cell == "lstm" else (last,))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cell", "layers", "embedding"), EVERY)
def test_pytorch_loads_every_name_and_computes_the_same(tmp_path, cell, layers, embedding, dtype):
    from safetensors.torch import load_file, save_file

    net = nets.net(cell, layers, embedding, dtype)
    x, state, logits, last = to_ours(net)
    module = Usual(*net.shape).to(getattr(torch, dtype))
    module.load_state_dict(load_file(written(net, tmp_path, ".safetensors")), strict=True)
    out, states = in_torch(module, x, state, cell)
    assert np.abs(out - logits).max() < TOLERANCE[dtype]
    for theirs, ours in zip(states, last, strict=False):
        assert np.abs(theirs - ours).max() < TOLERANCE[dtype]
    # and a net of theirs here, by both kinds of file
    theirs = Usual(*net.shape).to(getattr(torch, dtype))
    wanted, _ = in_torch(theirs, x, state, cell)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    for name in ("theirs.safetensors", "theirs.pt"):
        back = files.read(tmp_path / name, list(nets.CHARACTERS))
        assert (back.shape, back.theta.dtype) == (net.shape, np.dtype(dtype))
        assert np.abs(nets.logits(back, x, state)[0] - wanted).max() < TOLERANCE[dtype]


def test_a_pickled_module_is_refused_and_not_run(tmp_path):
    torch.save(Usual(3, 2, 1, "lstm", 0), tmp_path / "whole.pt")
    with pytest.raises(
        UserError, match=r"whole\.pt: cannot be read as the state_dict of a PyTorch module: Weights only"
    ):
        files.read(tmp_path / "whole.pt", list("abc"))


@pytest.mark.parametrize(("cell", "layers", "embedding"), EVERY)
def test_onnxruntime_computes_the_same_at_once_and_step_by_step(tmp_path, cell, layers, embedding):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    net = nets.net(cell, layers, embedding)
    x, state, logits, last = to_ours(net)
    file = written(net, tmp_path, ".onnx")
    graph = onnx.load(file)
    onnx.checker.check_model(graph, full_check=True)
    assert [each.op_type for each in graph.graph.node].count(cell.upper()) == layers
    assert [each.op_type for each in graph.graph.node].count("Gather") == bool(embedding)
    assert graph.opset_import[0].version == 17
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    states = dict(zip(("h_in", "c_in") if cell == "lstm" else ("h_in",), state, strict=False))
    whole = dict(zip(names, session.run(names, {"ids": x.astype(np.int64), **states}), strict=True))
    assert np.abs(whole["logits"] - logits).max() < 1e-5
    for name, ours in zip(("h_out", "c_out")[: len(states)], last, strict=False):
        assert np.abs(whole[name] - ours).max() < 1e-5
    for t in range(T):  # what comes out goes in again
        step = dict(zip(names, session.run(names, {"ids": x[t : t + 1].astype(np.int64), **states}), strict=True))
        assert np.abs(step["logits"][0] - logits[t]).max() < 1e-5
        states = {name: step[name.replace("in", "out")] for name in states}
    back = files.read(file)
    assert (back.shape, back.vocabulary, back.edges) == (net.shape, net.vocabulary, net.edges)
    assert np.array_equal(back.theta, net.theta)


@pytest.mark.parametrize("change", ["reverse", "clip", "linear_before_reset", "two readouts", "no readout", "inputs"])
def test_graphs_that_are_no_model_of_ours(tmp_path, change):
    onnx = pytest.importorskip("onnx")
    net = nets.net("gru")
    graph = onnx.load_from_string(files.FORMATS[".onnx"].write(net))
    nodes = {each.op_type: each for each in graph.graph.node}
    set_to = {"reverse": ("direction", "reverse"), "clip": ("clip", 3.0)}
    if change in set_to:
        nodes["GRU"].attribute.append(onnx.helper.make_attribute(*set_to[change]))
    elif change == "linear_before_reset":
        kept = [each for each in nodes["GRU"].attribute if each.name != change]
        del nodes["GRU"].attribute[:]
        nodes["GRU"].attribute.extend(kept)
    elif change == "inputs":
        del graph.graph.initializer[[each.name for each in graph.graph.initializer].index("R_0")]
        graph.graph.input.append(onnx.helper.make_tensor_value_info("R_0", 1, [1, 15, 5]))
    elif change == "no readout":
        graph.graph.node.remove(nodes["Add"])
        nodes["MatMul"].op_type, nodes["MatMul"].output[0] = "Sub", "logits"
    else:
        again = onnx.helper.make_node("MatMul", ["products", "W_y_2"], ["more"])
        graph.graph.node.append(again)
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((7, 7), np.float32), "W_y_2"))
    (tmp_path / "net.onnx").write_bytes(graph.SerializeToString())
    said = {
        "reverse": "charlstm reads direction=forward alone",
        "clip": "charlstm has its default activations alone, unclipped",
        "linear_before_reset": "charlstm reads linear_before_reset=1 alone",
        "two readouts": "expected one MatMul or Gemm with constant weights after its layers, got 2",
        "no readout": "expected one MatMul or Gemm with constant weights after its layers, got 0",
        "inputs": "its weights are no constants of the graph",
    }
    with pytest.raises(UserError, match=said[change]):
        files.read(tmp_path / "net.onnx")


def test_bytes_that_are_no_graph(tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "net.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"net\.onnx: cannot be read as ONNX: "):
        files.read(tmp_path / "net.onnx")


# ----------------------------------------------------------------------------------------------------------- Keras
def keras_model(keras, V, H, L, cell, E, dtype="float32", **options):
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[cell]
    first = (
        [keras.layers.Input((None,)), keras.layers.Embedding(V, E, dtype=dtype)]
        if E
        else [keras.layers.Input((None, V), dtype=dtype)]
    )
    layers = [kind(H, return_sequences=True, dtype=dtype, **options) for _ in range(L)]
    return keras.Sequential(
        [*first, *layers, keras.layers.Dropout(0.2), keras.layers.Dense(V, activation="softmax", dtype=dtype)]
    )


def in_keras(model, x, E):
    """The log probabilities (T, B, V) of a model with a softmax."""
    V = model.layers[-1].units
    given = x.T if E else np.eye(V, dtype=model.layers[-1].dtype)[x.T]
    return np.log(np.asarray(model(given).detach())).transpose(1, 0, 2)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cell", "layers", "embedding"), EVERY)
def test_keras_loads_both_files_and_computes_the_same(tmp_path, cell, layers, embedding, dtype):
    keras = pytest.importorskip("keras")
    net, limit = (
        nets.net(cell, layers, embedding, dtype),
        1e-6,
    )  # Keras 3.15 rounds to float32 inside float64 layers, too
    x, zero = nets.ids(net, T, B), np.zeros((2, layers, B, 5), dtype)
    wanted = log_softmax(nets.logits(net, x, zero)[0])
    loaded = keras.saving.load_model(written(net, tmp_path, ".keras"))
    into = keras_model(keras, *net.shape, dtype)
    assert np.abs(in_keras(into, x, embedding) - wanted).max() > 0.1
    into.load_weights(written(net, tmp_path, ".weights.h5"))
    for model in (loaded, into):
        assert np.abs(in_keras(model, x, embedding) - wanted).max() < limit
    # and a net of theirs here, by both kinds of file
    theirs = keras_model(keras, *net.shape, dtype)
    wanted = in_keras(theirs, x, embedding)
    theirs.save(tmp_path / "theirs.keras")
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    for name in ("theirs.keras", "theirs.weights.h5"):
        back = files.read(tmp_path / name, list(nets.CHARACTERS))
        assert (back.shape, back.theta.dtype) == (net.shape, np.dtype(dtype))
        assert np.abs(log_softmax(nets.logits(back, x, zero)[0]) - wanted).max() < limit
    for ending in (".keras", ".weights.h5"):
        again = files.read(tmp_path / f"net{ending}")
        assert np.array_equal(again.theta, net.theta)
        assert (again.vocabulary, again.edges) == (net.vocabulary, net.edges)


def test_the_keras_example_loads_the_weights(tmp_path):
    """The model of Keras' lstm_text_generation: one LSTM whose last output is read."""
    keras = pytest.importorskip("keras")
    net = nets.net("lstm", 1, hidden=128)
    V = net.shape.vocab_size
    model = keras.Sequential(
        [keras.layers.Input((40, V)), keras.layers.LSTM(128), keras.layers.Dense(V, activation="softmax")]
    )
    model.load_weights(written(net, tmp_path, ".weights.h5"))
    x = nets.ids(net, 40, 2)
    wanted = log_softmax(nets.logits(net, x, np.zeros((2, 1, 2, 128), np.float32))[0][-1])
    assert np.abs(np.log(np.asarray(model(np.eye(V, dtype=np.float32)[x.T]).detach())) - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("cell", "options", "said"),
    [
        ("gru", {"reset_after": False}, "its GRU has reset_after=False; charlstm has True alone"),
        ("rnn", {"activation": "relu"}, "its SimpleRNN has activation='relu'; charlstm has 'tanh' alone"),
        ("lstm", {"go_backwards": True}, "its LSTM has go_backwards=True; charlstm has False alone"),
        ("lstm", {"more": "Conv1D"}, "has a layer of the kind Conv1D, which charlstm has not"),
        ("lstm", {"more": "Dense"}, "expected LSTM, GRU or SimpleRNN layers of one kind, one Dense, and at most one"),
    ],
)
def test_keras_models_that_are_none_of_ours(tmp_path, cell, options, said):
    keras = pytest.importorskip("keras")
    more = options.pop("more", None)
    model = keras_model(keras, 7, 5, 1, cell, 0, **options)
    if more:
        model = keras.Sequential(
            [*model.layers, keras.layers.Conv1D(7, 1) if more == "Conv1D" else keras.layers.Dense(7)]
        )
        model.build((None, None, 7))
    model.save(tmp_path / "net.keras")
    with pytest.raises(UserError, match=said):
        files.read(tmp_path / "net.keras", list(nets.CHARACTERS))
    if cell == "gru":
        model.save_weights(tmp_path / "net.weights.h5")
        with pytest.raises(UserError, match="a GRU needs reset_after=True"):
            files.read(tmp_path / "net.weights.h5", list(nets.CHARACTERS))


@pytest.mark.parametrize(
    ("name", "said"),
    [("net.keras", "cannot be read as a model saved by Keras 3"), ("net.weights.h5", "cannot be read as HDF5")],
)
def test_bytes_that_are_no_model(tmp_path, name, said):
    pytest.importorskip("h5py")
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(UserError, match=said):
        files.read(tmp_path / name)


@pytest.mark.parametrize(("to", "ending"), [("keras", ".keras"), ("onnx", ".onnx")])
def test_a_run_goes_and_comes_back(tmp_path, monkeypatch, capsys, to, ending):
    import charlstm

    monkeypatch.chdir(tmp_path)
    charlstm.train(
        texts=[made_up_text()],
        iterations=3,
        hidden_size=4,
        dtype="float64",
        backend="numpy",
        out="runs/book",
        quiet=True,
    )
    assert _guarded(["export", "runs/book", "--to", to]) == 0
    told = capsys.readouterr()
    assert told.out == f"runs/book/book-net{ending}\n"
    assert ("rounded to float32" in told.err) == (to == "onnx")
    assert _guarded(["import", f"runs/book/book-net{ending}"]) == 0
    text = made_up_text()[:50]
    model, back = charlstm.load("runs/book"), charlstm.load("runs/book-net")
    assert back.theta.dtype == (np.float32 if to == "onnx" else np.float64)
    assert back.score(text).bits_per_char == pytest.approx(model.score(text, mix=0).bits_per_char, rel=1e-6)
