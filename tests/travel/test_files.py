"""Export and import without another library: .safetensors and .json, the commands, and what is refused."""

import json

import nets
import numpy as np
import pytest
from conftest import made_up_text
from safetensors.numpy import load_file, save, save_file
from small_runs import finish, small

import charlstm
from charlstm.cli import _guarded
from charlstm.errors import UserError
from charlstm.runs.begin import start
from charlstm.text.corpus import Corpus
from charlstm.text.edges import Edges
from charlstm.text.vocabulary import ByteVocabulary
from charlstm.travel import files, tensors
from charlstm.travel.net import Net


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small(iterations=5, hidden_size=4, backend="numpy", cell="gru", embedding_size=3)
    finish(start(Corpus.from_text(made_up_text()), config, "runs/book"))
    return tmp_path / "runs" / "book"


def same(a, b):
    return (a.shape, a.vocabulary, a.edges, a.lower, a.theta.dtype) == (
        b.shape, b.vocabulary, b.edges, b.lower, b.theta.dtype
    ) and np.array_equal(a.theta, b.theta)  # fmt: skip


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cell", "layers", "embedding"), [("lstm", 1, 0), ("gru", 2, 3), ("rnn", 3, 0)])
def test_every_bit_comes_back(tmp_path, ending, dtype, cell, layers, embedding):
    net = nets.net(cell, layers, embedding, dtype)
    file = tmp_path / f"net{ending}"
    file.write_bytes(files.FORMATS[ending].write(net))
    assert file.read_bytes() == files.FORMATS[ending].write(net)  # the same bytes again
    assert same(files.read(file), net)


@pytest.mark.parametrize("to", ["torch", "json"])
def test_a_run_goes_and_comes_back(run, capsys, to):
    model = charlstm.load(run)
    assert _guarded(["export", "runs/book", "--to", to]) == 0
    told = capsys.readouterr()
    (file,) = told.out.splitlines()
    assert told.err == (
        f"net     GRU, 2 x 4, {len(model.theta):,} parameters: the net alone, with its vocabulary, after 5 iterations\n"
    )
    assert _guarded(["import", file]) == 0
    assert capsys.readouterr().out == "runs/book-net\n"
    back = charlstm.load("runs/book-net")
    assert same(Net.of(back), Net.of(model))
    text = made_up_text()[:50]
    assert back.score(text).bits_per_char == model.score(text).bits_per_char
    assert back.sample(text[:4], length=20, seed=1) == model.sample(text[:4], length=20, seed=1)
    assert _guarded(["verify", "runs/book-net"]) == 0
    assert _guarded(["train", "--from", "runs/book-net", "book.txt", "--quiet"]) == 2  # there is no such text
    capsys.readouterr()
    assert _guarded(["import", file, "--out", "runs/book"]) == 2
    assert "already contains a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mix", "left"), [(0.0, ""), (0.5, "; not in it: the run's n-gram, which sample and score use, too")]
)
def test_an_n_gram_that_stays_behind_is_named(tmp_path, monkeypatch, capsys, mix, left):
    monkeypatch.chdir(tmp_path)
    finish(start(Corpus.from_text(made_up_text()), small(iterations=5, backend="numpy", mix=mix), "runs/book"))
    assert _guarded(["export", "runs/book", "--to", "json"]) == 0
    assert capsys.readouterr().err.endswith(f"after 5 iterations{left}\n")


def test_training_goes_on_from_an_imported_net(run):
    _guarded(["export", "runs/book", "--to", "torch"])
    _guarded(["import", "runs/book/book-net.safetensors", "--out", "runs/second"])
    (run.parent.parent / "book.txt").write_text(made_up_text())
    assert (
        _guarded(["train", "book.txt", "--from", "runs/second", "--iterations", "3", "--backend", "numpy", "--quiet"])
        == 0
    )
    assert charlstm.load("runs/book-2", "last").iteration == 3


def test_the_names_are_those_of_pytorch(tmp_path):
    names = ["embedding.weight", "linear.bias", "linear.weight"]
    names += [f"rnn.{kind}_l{k}" for kind in ("bias_hh", "bias_ih", "weight_hh", "weight_ih") for k in range(2)]
    (tmp_path / "net.safetensors").write_bytes(tensors.to_safetensors(nets.net("lstm", 2, 3)))
    found = load_file(tmp_path / "net.safetensors")
    assert sorted(found) == sorted(names)
    assert found["rnn.weight_ih_l0"].shape == (20, 3)
    assert found["linear.weight"].shape == (len(nets.CHARACTERS), 5)


def foreign(net, **more):
    """A net's weights under other names, as another program may have them; `more` replaces or adds tensors."""
    names = {"embedding": "tok_emb", "rnn": "body.lstm", "linear": "head"}
    found = {
        names[key.partition(".")[0]] + "." + key.partition(".")[2]: each for key, each in tensors.tensors(net).items()
    }
    return {key: np.ascontiguousarray(each) for key, each in {**found, **more}.items() if each is not None}


def test_a_state_dict_of_others_with_its_vocabulary_in_another_order(tmp_path, capsys):
    net = nets.net("lstm", 2, 3)
    order = [3, 0, 6, 1, 5, 2, 4]
    given = foreign(net)
    for name in ("tok_emb.weight", "head.weight", "head.bias"):
        given[name] = np.ascontiguousarray(given[name][order])
    given["body.lstm.bias_hh_l1"] = given["body.lstm.bias_ih_l1"] / 4
    given["body.lstm.bias_ih_l1"] = given["body.lstm.bias_ih_l1"] * 3 / 4
    file, words = tmp_path / "other.safetensors", tmp_path / "vocabulary.json"
    save_file(given, file)
    assert _guarded(["import", str(file)]) == 2
    assert "--vocabulary FILE gives it" in capsys.readouterr().err
    for content in ([nets.CHARACTERS[k] for k in order], {nets.CHARACTERS[k]: n + 1 for n, k in enumerate(order)}):
        words.write_text(json.dumps(content), "utf-8")
        back = files.read(file, files.characters_in(words))
        assert (back.shape, back.vocabulary, back.edges) == (net.shape, net.vocabulary, Edges((0,)))
        assert np.allclose(back.theta, net.theta, atol=1e-7)


def test_a_bytes_model(tmp_path):
    net = nets.net(characters="".join(map(chr, range(256))), hidden=2, edges=Edges((10,), (10, 10)))
    net = Net(net.shape, net.theta, ByteVocabulary(), net.edges, True)
    (tmp_path / "net.json").write_bytes(tensors.to_json(net))
    assert same(files.read(tmp_path / "net.json"), net)


H = np.zeros((20, 5), np.float32)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"body.lstm.weight_hh_l0_reverse": H}, "the net is bidirectional, which charlstm has not"),
        ({"body.lstm.weight_hr_l0": H}, "the net is an LSTM with a projection, which charlstm has not"),
        ({"body.lstm.weight_hh_l1": None}, "expected the weights of one nn.LSTM, nn.GRU or nn.RNN, such as"),
        ({"second.weight_hh_l0": H}, "expected the weights of one nn.LSTM, nn.GRU or nn.RNN, such as"),
        ({"body.lstm.weight_hh_l0": np.zeros((10, 5), np.float32)}, "weight_hh_l0 is (10, 5), the size of no cell"),
        ({"body.lstm.weight_ih_l1": np.zeros((20, 4), np.float32)}, "weight_ih_l1 is (20, 4), expected (20, 5)"),
        ({"norm.weight": H[0]}, "expected the weights of one nn.Linear and at most one nn.Embedding, got"),
        ({"head.weight": None}, "expected the weights of one nn.Linear and at most one nn.Embedding, got"),
        ({"head.weight": np.zeros((7, 4), np.float32)}, "head.weight is (7, 4), expected (7, 5)"),
        ({"tok_emb.weight": None}, "the first layer reads 3 numbers; without an embedding, expected one-hot ids, 7"),
        ({"tok_emb.weight": np.zeros((8, 3), np.float32)}, "tok_emb.weight is (8, 3), expected (7, 3)"),
        ({"head.bias": np.full(7, np.nan, np.float32)}, "a weight is not finite"),
        ({"head.bias": np.zeros(7, np.int64)}, "head.bias is int64, expected float32 or float64"),
    ],
)  # fmt: skip
def test_tensors_that_make_no_model(tmp_path, more, said):
    file = tmp_path / "other.safetensors"
    save_file(foreign(nets.net("lstm", 2, 3), **more), file)
    with pytest.raises(UserError) as refused:
        files.read(file, list(nets.CHARACTERS))
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("net.t7", b"x", "net.t7: is of Lua Torch (char-rnn, torch-rnn), which no maintained library reads"),
        ("net.h5", b"x", "net.h5: is of an older Keras: load it with Keras 3 and save it as .keras"),
        ("net.txt", b"x", "net.txt: expected a name that ends in .safetensors, .keras, .weights.h5"),
        ("none.json", None, "none.json: no such file"),
        ("net.json", b"{", "net.json: not a JSON object whose entry 'weights' has arrays of numbers by name"),
        ("net.json", b'{"weights": {"a": [[1], [2, 3]]}}', "net.json: not a JSON object whose entry 'weights'"),
        ("net.json", b'{"weights": {}}', "net.json: expected the weights of one nn.LSTM"),
        ("net.safetensors", b"12345678", "net.safetensors: cannot be read as safetensors"),
        ("net.safetensors", save({"a": np.zeros(2, np.float32)}, {"charlstm": "{}"}), "is a checkpoint of charlstm"),
    ],
)
def test_files_that_are_none(tmp_path, monkeypatch, capsys, name, content, said):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert _guarded(["import", name]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1", "is not a JSON list of characters"),
        ("3", "is not a JSON list of characters"),
        ('["a", "bc"]', "the vocabulary has 'bc'; each entry must be one character"),
        ('["a", "a"]', "the vocabulary has an entry twice"),
        ('{"a": "x"}', "is not a JSON list of characters"),
    ],
)
def test_vocabularies_that_are_none(tmp_path, content, said):
    (tmp_path / "words.json").write_text(content)
    with pytest.raises(UserError, match=said):
        files.characters_in(tmp_path / "words.json")


def test_a_vocabulary_of_another_size(tmp_path):
    (tmp_path / "net.json").write_bytes(tensors.to_json(nets.net()))
    with pytest.raises(UserError, match="its vocabulary has 2 characters, and its net 7$"):
        files.read(tmp_path / "net.json", ["a", "b"])


@pytest.mark.parametrize("to", list(files.ENDINGS))
def test_a_layer_normalised_lstm_is_refused_by_name(tmp_path, monkeypatch, capsys, to):
    pytest.importorskip("h5py" if to == "keras" else "onnx" if to == "onnx" else "numpy")
    monkeypatch.chdir(tmp_path)
    finish(
        start(
            Corpus.from_text(made_up_text()),
            small(iterations=1, cell="lnlstm", hidden_size=3, backend="numpy"),
            "runs/book",
        )
    )
    assert _guarded(["export", "runs/book", "--to", to]) == 2
    assert capsys.readouterr().err == (
        "charlstm: --cell lnlstm: other libraries have no such layer, so only lstm, gru, rnn can be exported\n"
    )
    assert not list((tmp_path / "runs" / "book").glob("book-net*"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--to", "caffe"], 2, "--to: expected one of torch, keras, onnx, json, got 'caffe'"),
        (
            ["--to", "torch", "--out", "a.bin"],
            2,
            "--out a.bin: expected a name that ends in .safetensors for --to torch",
        ),
        (["--to", "torch", "--out", "runs/book/best.safetensors"], 2, "is the checkpoint itself; choose another name"),
        (["--to", "json", "--out", "none/a.json"], 1, "none/a.json: cannot be written: "),
        ([], 2, "--to"),
    ],
)
def test_requests_that_are_refused(run, capsys, arguments, code, said):
    before = (run / "best.safetensors").read_bytes()
    assert _guarded(["export", "runs/book", *arguments]) == code
    assert said in capsys.readouterr().err
    assert (run / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize(("to", "package"), [("keras", "h5py"), ("onnx", "onnx")])
def test_a_library_that_is_missing_is_named(run, monkeypatch, capsys, to, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert _guarded(["export", "runs/book", "--to", to]) == 2
    assert capsys.readouterr().err == f"charlstm: --to {to}: needs {package}: pip install 'charlstm[export]'\n"


def test_pytorch_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "net.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"net\.pt: reading it needs PyTorch: pip install torch"):
        files.read(tmp_path / "net.pt")
