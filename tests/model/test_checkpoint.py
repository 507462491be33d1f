"""Checkpoints are complete, and a file that was damaged or changed is refused."""

import hashlib
import re

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import finish, small

from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint, shape_of
from charlstm.model.model import load
from charlstm.runs import disk
from charlstm.runs.begin import resume, start
from charlstm.settings.config import from_preset
from charlstm.text.corpus import Corpus, Vocabulary
from kernels import spec


def test_a_checkpoint_holds_everything(saved):
    now, read = saved.trainer.checkpoint(), saved.load("last")
    for name in ("config", "vocabulary", "iteration", "position", "seconds", "smooth_loss", "loss_sum", "corpus"):
        assert getattr(read, name) == getattr(now, name), name
    for name in ("theta", "state", "h", "c"):
        assert getattr(read, name).tobytes() == getattr(now, name).tobytes()
    assert read.to_bytes() == (saved.folder / "last.safetensors").read_bytes()
    random = np.random.RandomState()
    random.set_state(read.random_state)
    assert random.random_sample() == saved.trainer.random.random_sample()
    assert read.position == 12 % saved.trainer.batches.iterations_per_pass * 7


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_checkpoints_of_the_other_cells(corpus, tmp_path, cell, backend):
    run = start(corpus, small(iterations=12, cell=cell, backend=backend), str(tmp_path / "run"))
    finish(run)
    now, read = run.trainer.checkpoint(), run.load("last")
    assert read.shape.cell == read.config.cell == cell
    for name in ("theta", "state", "h", "c"):
        assert getattr(read, name).tobytes() == getattr(now, name).tobytes()
    assert not read.c.any()
    assert read.h.any()
    assert len(read.sample("ab", length=20, seed=1)) == 22
    with pytest.raises(UserError, match="--cell cannot change when a run is resumed"):
        resume(tmp_path / "run", corpus, {"cell": "lstm"})


def test_it_opens_as_plain_safetensors(saved):
    from safetensors.numpy import load_file

    tensors = load_file(saved.folder / "last.safetensors")
    assert tensors["W_x_l0"].shape == (len(saved.trainer.corpus.vocabulary), 12)
    assert set(tensors) == {"W_x_l0", "W_h_l0", "b_l0", "W_y", "b_y", "optimizer", "h", "c", "random_key"}


REFUSED = r"^x: (damaged|not a checkpoint|a safetensors file|written in format)"


def test_every_flipped_bit_is_refused(saved):
    data = (saved.folder / "last.safetensors").read_bytes()
    random = np.random.RandomState(0)
    header = int.from_bytes(data[:8], "little") + 8
    places = [*range(0, 100), *random.randint(0, header, 1000), *random.randint(header, len(data), 900)]
    assert len(places) == 2000
    for place in places:
        broken = bytearray(data)
        broken[place] ^= 1 << random.randint(8)
        with pytest.raises(UserError, match=REFUSED):
            Checkpoint.from_bytes(bytes(broken), "x")


def test_every_truncation_and_every_tail_of_zeros_is_refused(saved):
    data = (saved.folder / "last.safetensors").read_bytes()
    for length in range(len(data)):
        with pytest.raises(UserError, match="^x: "):
            Checkpoint.from_bytes(data[:length], "x")
        if data[length:].strip(b"\0"):  # zeros in place of zeros change nothing
            with pytest.raises(UserError, match="^x: "):
                Checkpoint.from_bytes(data[:length] + bytes(len(data) - length), "x")
    with pytest.raises(UserError, match="x: damaged"):
        Checkpoint.from_bytes(data + b"\0", "x")


@pytest.mark.parametrize("name", ["format-1-first", "format-1"])
def test_what_older_versions_wrote_is_read(name, tmp_path):
    """The first file is from before `marks`, `machine` and half of the options existed."""
    file = ROOT / "tests" / "data" / f"{name}.safetensors"
    model = load(file)
    assert (model.iteration, model.config.hidden_size, model.vocabulary.characters) == (30, 4, " abc")
    assert (model.config.reset_every, model.config.plans) == (0, None)
    assert model.config.validation_from == "end"
    assert model.sample("a", length=20, temperature=0, backend="numpy") == "abbabababa ababababa "
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.safetensors").write_bytes(file.read_bytes())
    run = resume(tmp_path / "run", Corpus.from_text("abba cab " * 12, "abba"), {"iterations": 33})
    assert finish(run)[-1].iteration == 33
    assert run.load("last").iteration == 33


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    hidden=st.integers(1, 5), layers=st.integers(1, 3), cell=st.sampled_from(["lstm", "gru", "rnn"]),
    embedding=st.integers(0, 4), batch=st.integers(1, 4), dtype=st.sampled_from(["float32", "float64"]),
    optimizer=st.sampled_from(list(spec.OPTIMIZERS)), letters=st.text(min_size=2, max_size=9),
    seed=st.integers(0, 2**32 - 1), order=st.sampled_from(["C", "F", "reversed", "strided"]),
)  # fmt: skip
def test_any_arrays_come_back_bit_for_bit(
    hidden, layers, cell, embedding, batch, dtype, optimizer, letters, seed, order
):
    """For every bit pattern, including NaN; non-contiguous arrays were once stored in the wrong order."""
    characters = "".join(sorted(set(letters + "ab")))
    config = from_preset(
        hidden_size=hidden, num_layers=layers, cell=cell, embedding_size=embedding, batch_size=batch, dtype=dtype,
        optimizer=optimizer, beta2=None,
    )  # fmt: skip
    shape = shape_of(config, len(characters))
    random = np.random.RandomState(seed)

    def any_bits(*size):
        values = np.frombuffer(random.bytes(int(np.prod(size)) * np.dtype(dtype).itemsize), dtype).reshape(size)
        return {
            "C": values,
            "F": np.asfortranarray(values),
            "reversed": values[::-1].copy()[::-1],
            "strided": np.repeat(values, 2, axis=-1)[..., ::2],
        }[order]

    number = spec.num_parameters(shape)
    state = any_bits(spec.slots(optimizer, config.hyper), number)
    h, c = any_bits(layers, batch, hidden), any_bits(layers, batch, hidden)
    written = Checkpoint(
        config, Vocabulary(characters), any_bits(number), state, h, c, random.get_state(), seed, 0, 1.5, 2.5, 3.5, 4,
        {"name": letters, "sources": [letters], "digest": "", "num_ids": 9}, {"a": 1}, {"b": 2.0}, {"c": {"d": letters}},
    )  # fmt: skip
    read = Checkpoint.from_bytes(written.to_bytes(), "x")
    for name in ("theta", "state", "h", "c"):
        assert getattr(read, name).tobytes() == np.ascontiguousarray(getattr(written, name)).tobytes()
    for name in ("config", "vocabulary", "iteration", "corpus", "files", "marks", "machine"):
        assert getattr(read, name) == getattr(written, name)
    assert read.to_bytes() == written.to_bytes()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused_in_one_line(data, has_header):
    """Both raw and behind a header that safetensors accepts."""
    if has_header:
        data = len(data).to_bytes(8, "little") + data
    with pytest.raises(UserError, match="^x: (not a checkpoint|a safetensors file)"):
        Checkpoint.from_bytes(data, "x")


def test_a_newer_format_is_refused_by_its_number(saved):
    data = (saved.folder / "last.safetensors").read_bytes()
    newer = data.replace(rb"\"format_version\": 2", rb"\"format_version\": 3")
    assert newer != data
    with pytest.raises(UserError, match="x: written in format 3; this version of charlstm reads 2"):
        Checkpoint.from_bytes(newer, "x")


def test_writing_fails_whole(saved, monkeypatch):
    path = saved.folder / "last.safetensors"
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        disk.write(path, saved.trainer.checkpoint().to_bytes())
    assert path.read_bytes() == before
    assert not list(saved.folder.glob(".*.tmp"))


def test_an_undamaged_file_of_another_make_is_one_line(saved):
    now = saved.trainer.checkpoint()
    now.state = now.state[:1]
    with pytest.raises(UserError, match="x: undamaged, but not readable by this version of charlstm"):
        Checkpoint.from_bytes(now.to_bytes(), "x")


@pytest.mark.parametrize(
    "changes",
    [
        {"iteration": -1}, {"iteration": "12"}, {"seconds": None}, {"corpus": []}, {"marks": 3}, {"files": "x"},
        {"random_state": ("MT19937", np.zeros(3), 0, 0, 0.0)}, {"h": np.zeros((1, 3, 3))}, {"theta": np.zeros(9999)},
    ],
    ids=str,
)  # fmt: skip
def test_undamaged_nonsense_is_one_line(saved, changes):
    """Some of these were found by a fuzzer (tests/fuzz.py)."""
    now = saved.trainer.checkpoint()
    for name, value in changes.items():
        setattr(now, name, value)
    with pytest.raises(UserError, match="x: undamaged, but not readable by this version of charlstm: "):
        Checkpoint.from_bytes(now.to_bytes(), "x")


def test_tensors_that_safetensors_refuses_are_one_line(saved):
    """Found by a fuzzer: the digest is right, but the library's own header is not."""
    data = saved.trainer.checkpoint().to_bytes().replace(b'"data_offsets":[0,', b'"data_offsets":[1,')
    digest = re.search(rb'sha256\\": \\"([0-9a-f]{64})', data)
    blanked = data[: digest.start(1)] + b"0" * 64 + data[digest.end(1) :]
    right = hashlib.sha256(blanked).hexdigest().encode()
    with pytest.raises(UserError, match="x: undamaged, but not readable by this version of charlstm: "):
        Checkpoint.from_bytes(data[: digest.start(1)] + right + data[digest.end(1) :], "x")


def test_a_loaded_model_is_a_checkpoint_that_samples_and_scores(saved):
    model = load(saved.folder)
    assert isinstance(model, Checkpoint)
    assert repr(model).startswith("<Model of ")
    assert not {"sample", "samples", "stream", "score", "scores"} & set(dir(Checkpoint))
    assert model.score("ab").chars == 2
    assert model.sample("a", length=3, seed=1) == saved.sample("a", length=3, seed=1)
    plain = Checkpoint.from_bytes(model.to_bytes(), "x")
    assert (type(plain), plain.to_bytes()) == (Checkpoint, model.to_bytes())
