"""What TensorBoard reads: its figures are those of metrics.jsonl, its texts those of samples.txt."""

import json
import struct

import pytest
from small_runs import everything, finish, small

from charlstm.cli import _guarded
from charlstm.runs.begin import resume, start
from charlstm.training import diagnostics

OPTIONS = {
    "iterations": 45, "validation": 0.1, "validate_every": 15, "schedule": "constant", "hidden_size": 3,
    "temperature": 1.0,
}  # fmt: skip


def without_tensorboardx(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_a_missing_package_is_one_line_and_nothing_is_written(text_file, tmp_path, monkeypatch, capsys):
    without_tensorboardx(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert _guarded(["train", "book.txt", "--tensorboard", "-n", "1", "--backend", "numpy"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "charlstm: --tensorboard: needs tensorboardX: pip install 'charlstm[tensorboard]'"
    assert not (tmp_path / "runs").exists()


def test_a_run_that_has_events_goes_on_only_where_they_can_be_written(corpus, saved, monkeypatch):
    without_tensorboardx(monkeypatch)
    with pytest.raises(ValueError, match="--tensorboard: needs tensorboardX"):
        resume(saved.folder, corpus, {"tensorboard": True})
    finish(resume(saved.folder, corpus, {"iterations": 13}))  # and the lock is free


def events_of(path):
    """The events of a file, whose checksums must hold."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data, found = path.read_bytes(), []
    while data:
        size, check = struct.unpack("<QI", data[:12])
        assert check == masked_crc32c(data[:8])
        content = data[12 : 12 + size]
        assert struct.unpack("<I", data[12 + size : 16 + size]) == (masked_crc32c(content),)
        found.append(Event.FromString(content))
        data = data[16 + size :]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def test_the_events_are_the_metrics_and_the_samples(corpus, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(diagnostics, "_LEAST", 10)
    monkeypatch.setattr(diagnostics, "_READS", 1)
    folder = tmp_path / "run"
    finish(start(corpus, small(**OPTIONS, tensorboard=True), str(folder)))
    (path,) = folder.glob("events.out.tfevents.*")
    told, texts = {}, []
    for event in events_of(path):
        for value in event.summary.value:
            if value.tag.startswith("sample "):
                assert value.metadata.plugin_data.plugin_name == "text"
                texts.append((event.step, value.tag, value.tensor.string_val[0].decode()))
            else:
                told.setdefault(event.step, {})[value.tag] = value.simple_value
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        wanted = {
            "loss/smoothed": line["smooth_loss"] / 7, "loss/train": line["bits_per_char"] * 0.693147,
            "bits_per_char/train": line["bits_per_char"], "learning_rate": line["learning_rate"],
            "chars_per_second": line["chars_per_second"],
        }  # fmt: skip
        if "val_bits_per_char" in line:
            wanted["bits_per_char/held-out"] = line["val_bits_per_char"]
        wanted |= {f"diagnostics/{name}": line[name] for name in diagnostics.names("lstm") if name in line}
        assert told[line["iteration"]] == pytest.approx(wanted, rel=1e-5)
    assert sorted(told) == [line["iteration"] for line in lines]
    assert "diagnostics/grad_norm" in told[20]
    blocks = (folder / "samples.txt").read_text().split("# iteration ")[1:]
    for (step, tag, text), block in zip(texts, blocks, strict=True):
        head, _, sample = block.partition("\n")
        assert head.startswith(f"{step} ")
        assert tag == "sample at temperature 1/text_summary"
        assert text == "\n".join(f"    {line}" for line in sample[:-2].splitlines())


def test_a_resumed_run_goes_on_in_another_file_and_the_results_are_the_same(corpus, tmp_path):
    pytest.importorskip("tensorboardX")
    finish(start(corpus, small(**OPTIONS), str(tmp_path / "whole")))
    for total in (20, 45):
        chosen = {"iterations": total}
        options = small(**{**OPTIONS, **chosen}, tensorboard=True)
        run = resume(tmp_path / "run", corpus, chosen) if total > 20 else start(corpus, options, str(tmp_path / "run"))
        finish(run)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
    first, second = sorted((tmp_path / "run").glob("events.out.tfevents.*"), key=lambda path: path.suffix)
    assert (first.suffix, second.suffix) == (".0", ".20")
    assert max(event.step for event in events_of(first)) == 20  # its last evaluation, which does not count
    started, *rest = events_of(second)
    assert (started.step, started.session_log.status) == (20, started.session_log.START)
    assert min(event.step for event in rest) == 20
